//! An officer who is not in the room: the release makes a one-time key, he seals the shares that this one order needs
//! to it, and what travels is opened there and nowhere else.

use std::io::Write;
use std::path::{Path, PathBuf};

use legation_core::id::{Generation, OrderId, Sha256, StateId};
use legation_core::keys::{Entropy, OpeningKey, SealingKey};
use legation_core::vault::ShareFile;
use zeroize::Zeroizing;

use super::text::{Fields, base64};
use super::{SystemEntropy, prove};
use crate::exit::{Code, Failure};

const KEY_HEAD: &str = "legation/release-key/v1";
const GIVEN_HEAD: &str = "legation/given/v1";
const INFO: &[u8] = b"legation/v1 given share";
/// A given share of sixteen generations is below 10 KiB.
const MAX_GIVEN: u64 = 64 * 1024;
/// More generations than a mandate deals.
const MAX_GENERATIONS: usize = 64;

/// The one-time key of a release, as it is sent to officers elsewhere.
#[derive(Debug, Clone)]
pub struct ReleaseKey {
    /// The state.
    pub state: StateId,
    /// The order.
    pub order: OrderId,
    /// Its exact text's digest.
    pub statement: Sha256,
    /// To seal to.
    pub key: SealingKey,
    /// Which generations its scope needs.
    pub generations: Vec<Generation>,
}

impl ReleaseKey {
    /// The text that is sent.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{KEY_HEAD}\nstate: {}\norder: {}\nstatement: {}\nkey: {}\n",
            self.state,
            self.order,
            self.statement,
            base64(self.key.encode())
        );
        for generation in &self.generations {
            text.push_str(&format!("generation: {generation}\n"));
        }
        text
    }

    /// Reads the text.
    ///
    /// # Errors
    /// Code 2 when it is another file or damaged.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = super::read_text(path, MAX_GIVEN)?;
        let parse = || -> Result<Self, Failure> {
            let mut fields = Fields::open(&text, "the one-time key of a release", KEY_HEAD)?;
            let (state, order, statement) = (
                fields.take("state")?,
                fields.take("order")?,
                fields.take("statement")?,
            );
            let key = SealingKey::decode(&fields.bytes("key")?)?;
            let wrong = fields.wrong();
            let generations = fields
                .rest("generation", MAX_GENERATIONS)?
                .into_iter()
                .map(str::parse)
                .collect::<Result<_, _>>();
            Ok(Self {
                state,
                order,
                statement,
                key,
                generations: generations.map_err(|_| wrong)?,
            })
        };
        parse().map_err(|failure| failure.during(path.display()))
    }

    fn aad(&self, officer: &str) -> Vec<u8> {
        [
            self.state.as_bytes().as_slice(),
            self.statement.as_bytes(),
            officer.as_bytes(),
        ]
        .concat()
    }
}

/// Where `order release --begin` keeps the secret half: beside the bundle, `order.bundle.release-key`, so that whoever
/// copies or archives the bundle does not take it along.
pub fn secret_path(bundle: &Path) -> PathBuf {
    let bundle = bundle.canonicalize().unwrap_or_else(|_| bundle.to_owned());
    let mut name = bundle.file_name().unwrap_or_default().to_owned();
    name.push(".release-key");
    bundle.with_file_name(name)
}

/// Overwrites the secret half and removes it, and the other one; nothing to do when there is none.
///
/// # Errors
/// When it is still there.
pub fn forget(bundle: &Path) -> Result<(), Failure> {
    let path = secret_path(bundle);
    let fail = |why: std::io::Error| {
        Failure::failed(format!(
            "the one-time key {} is still there: {why}",
            path.display()
        ))
        .hint(
            "the release is written and complete; remove the key: shares given to it open with it",
        )
    };
    let mut file = match std::fs::OpenOptions::new().write(true).open(&path) {
        Ok(file) => file,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(fail(why)),
    };
    // In place: most file systems then have no other copy. Those that write elsewhere are why machines are offline.
    let length = file.metadata().map_err(fail)?.len().min(MAX_GIVEN);
    let zeros = vec![0; usize::try_from(length).unwrap_or_default()];
    file.write_all(&zeros)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::remove_file(&path))
        .map_err(fail)?;
    // Nobody shall seal another share to a key that is gone; the file itself is public.
    let _ = std::fs::remove_file(public_path(bundle));
    Ok(())
}

/// Where it writes the half that is sent.
pub fn public_path(bundle: &Path) -> PathBuf {
    bundle.join("release.pub")
}

/// A share sealed to a release.
#[derive(Debug)]
pub struct Given {
    /// Whose.
    pub officer: String,
    /// For which order.
    pub order: OrderId,
    /// What travels.
    pub text: String,
}

/// Opens an envelope and seals the shares that the release needs to its one-time key.
///
/// # Errors
/// Code 12 for a wrong age identity; code 8 when the share is of another state than the release.
pub fn give(share: &Path, age_identity: &Path, to: &Path) -> Result<Given, Failure> {
    let key = ReleaseKey::load(to)?;
    let mut file = prove::open_share(share, age_identity)?;
    if file.state != key.state {
        return Err(Failure::new(
            Code::Refused,
            format!(
                "the share is of state {}, but the release is of {}",
                file.state, key.state
            ),
        ));
    }
    // Shares of other generations stay at home: one release must not cost them all.
    file.shares
        .retain(|share| key.generations.contains(&share.generation));
    let sealed = key.key.seal(
        &*SystemEntropy.draw()?,
        INFO,
        &key.aad(&file.officer),
        file.encode().as_bytes(),
    )?;
    let text = format!(
        "{GIVEN_HEAD}\nstate: {}\norder: {}\nofficer: {}\nsealed: {}\n",
        key.state,
        key.order,
        file.officer,
        base64(&sealed)
    );
    Ok(Given {
        officer: file.officer,
        order: key.order,
        text,
    })
}

/// Opens what an officer sent.
///
/// # Errors
/// Code 8 when it was given for another order; code 12 when it is sealed to another key.
pub fn open(path: &Path, secret: &OpeningKey, key: &ReleaseKey) -> Result<ShareFile, Failure> {
    let text = super::read_text(path, MAX_GIVEN)?;
    let open = || -> Result<ShareFile, Failure> {
        let mut fields = Fields::open(&text, "a share given to a release", GIVEN_HEAD)?;
        let (state, order): (StateId, OrderId) = (fields.take("state")?, fields.take("order")?);
        let officer: String = fields.take("officer")?;
        let sealed = fields.bytes("sealed")?;
        fields.end()?;
        if (state, &order) != (key.state, &key.order) {
            return Err(Failure::new(
                Code::Refused,
                format!("it was given for order {order} of {state}"),
            ));
        }
        let plain: Zeroizing<Vec<u8>> = secret.open(INFO, &key.aad(&officer), &sealed)?;
        let text = std::str::from_utf8(&plain)
            .map_err(|why| Failure::new(Code::VerificationFailed, why))?;
        let file = ShareFile::decode(text)?;
        if file.officer != officer {
            return Err(Failure::new(
                Code::VerificationFailed,
                "it holds the share of somebody else",
            ));
        }
        Ok(file)
    };
    open().map_err(|failure| failure.during(path.display()))
}
