//! The founding of a state as every process is given it: the signed mandate and the keyring beside it, verified.

use std::path::{Path, PathBuf};

use legation_core::attachments::Held;
use legation_core::id::{Generation, RegistryId, Sha256, StateId};
use legation_core::keys::{SealingKey, VerifyingKey};
use legation_core::log::LogVerifier;
use legation_core::policy::State;
use legation_core::statement::{
    EmbassyRow, Entry, Keyring, Mandate, Name, RegistryRow, Signed, Time,
};
use legation_repo::durable;

use crate::exit::{Code, Failure};

/// Larger files are no mandate and no keyring of this version.
const MAX_FILE: u64 = 4 << 20;

/// A state's founding, verified.
#[derive(Debug, Clone)]
pub struct Charter {
    /// The fingerprint of the founding mandate.
    pub state: StateId,
    /// What it says.
    pub mandate: Mandate,
    /// The public keys that it names.
    pub keyring: Keyring,
    /// The bytes of `mandate.signed`.
    pub signed: Vec<u8>,
    /// The bytes of `mandate.keys`.
    pub keys: Vec<u8>,
}

impl Charter {
    /// Reads `mandate.signed` and the keyring beside it (`mandate.keys`), and checks that every officer signed.
    ///
    /// # Errors
    /// Code 2 when a file is missing; code 8 when the mandate does not hold.
    pub fn load(path: &Path) -> Result<Charter, Failure> {
        let signed = read(path)?;
        let keys = read(&keyring_path(path))?;
        Charter::parse(signed, keys).map_err(|failure| failure.during(path.display()))
    }

    /// As [`Charter::load`], and refuses another state than `expected`.
    ///
    /// # Errors
    /// As there, and code 8 for another state.
    pub fn load_of(path: &Path, expected: &str) -> Result<Charter, Failure> {
        let charter = Charter::load(path)?;
        if charter.state.to_string() == expected {
            return Ok(charter);
        }
        Err(Failure::new(
            Code::Refused,
            format!(
                "{} founds the state {}, not {expected}",
                path.display(),
                charter.state
            ),
        )
        .hint("compare the configuration's `state` with what the ceremony printed"))
    }

    /// Verifies both texts.
    ///
    /// # Errors
    /// Code 8 when the mandate does not hold.
    pub fn parse(signed: Vec<u8>, keys: Vec<u8>) -> Result<Charter, Failure> {
        let refused = |error: &dyn std::fmt::Display| Failure::new(Code::Refused, error);
        let text = Signed::parse(&signed).map_err(|error| refused(&error))?;
        let mut attachments = Held::new();
        attachments.add(keys.clone());
        // When the embassy took it decides nothing about whether it founds a state.
        let received = Time::from_millis(0).ok_or_else(|| refused(&"time begins in 1970"))?;
        let entry = Entry {
            index: 0,
            received,
            signed: text,
        };
        let fold = State::found(&entry, &attachments).map_err(|error| refused(&error))?;
        Ok(Charter {
            state: fold.id(),
            mandate: fold.mandate().clone(),
            keyring: fold.keyring().clone(),
            signed,
            keys,
        })
    }

    /// The embassy with this label.
    ///
    /// # Errors
    /// Code 8 when the mandate names none such.
    pub fn embassy(&self, label: &str) -> Result<&EmbassyRow, Failure> {
        let found = self
            .mandate
            .embassy
            .iter()
            .find(|row| row.label.as_str() == label);
        found.ok_or_else(|| {
            Failure::new(
                Code::Refused,
                format!("the mandate names no embassy {label}"),
            )
        })
    }

    /// A registry by its opaque id.
    ///
    /// # Errors
    /// Code 8 when the mandate names none such.
    pub fn registry(&self, id: RegistryId) -> Result<&RegistryRow, Failure> {
        self.mandate.registry(id).ok_or_else(|| {
            Failure::new(Code::Refused, format!("the mandate names no registry {id}"))
        })
    }

    /// The name under which the holder of this signing key writes.
    pub fn writer_of(&self, key: &Sha256) -> Option<&Name> {
        self.mandate
            .writer
            .iter()
            .find(|row| row.key == *key)
            .map(|row| &row.name)
    }

    /// The key that an embassy signs acknowledgements with.
    ///
    /// # Errors
    /// Code 8 when the keyring lacks it.
    pub fn embassy_key(&self, row: &EmbassyRow) -> Result<VerifyingKey, Failure> {
        self.keyring
            .verifying_key(&row.key)
            .map_err(|error| Failure::new(Code::Refused, error))
    }

    /// The key that an embassy signs its log with.
    ///
    /// # Errors
    /// Code 8 when the keyring lacks it.
    pub fn log_key(&self, row: &EmbassyRow) -> Result<LogVerifier, Failure> {
        let refused = |error: &dyn std::fmt::Display| Failure::new(Code::Refused, error);
        let bytes = self
            .keyring
            .log_key(&row.log_key)
            .map_err(|error| refused(&error))?;
        LogVerifier::decode(bytes).map_err(|error| refused(&error))
    }

    /// The vault's key of a generation; `None` when there is none such.
    ///
    /// # Errors
    /// Code 8 when the keyring lacks it.
    pub fn vault(&self, generation: Generation) -> Result<Option<SealingKey>, Failure> {
        let row = self
            .mandate
            .vault
            .iter()
            .find(|row| row.generation == generation);
        row.map(|row| self.keyring.sealing_key(&row.key))
            .transpose()
            .map_err(|error| Failure::new(Code::Refused, error))
    }
}

/// The keyring's place beside a signed mandate: `mandate.keys`.
pub fn keyring_path(mandate: &Path) -> PathBuf {
    mandate.with_extension("keys")
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    durable::read_bounded(path, MAX_FILE)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())).hint(
            "the ceremony seals mandate.signed and mandate.keys; both are public, and lie beside each other wherever a configuration names them",
        ))
}
