//! The keyring: the public keys that a mandate names by digest, too long to stand in it.

use crate::id::Sha256;
use crate::keys::{SealingKey, VerifyingKey};
use crate::statement::{Base64, KeyRow, Keyring};

/// Length of a log key: Ed25519 (32) and ML-DSA-44 (1,312).
pub const LOG_KEY: usize = 32 + 1312;

/// Why a keyring does not fit its mandate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// A key has another digest than its row says, or rows are out of order.
    #[error(
        "the keyring is damaged: key {0} has another digest, or keys are out of order; take it from the ceremony again"
    )]
    Damaged(Sha256),
    /// A key that the mandate names is missing.
    #[error("the keyring lacks the {what} {id}; take it from the ceremony again")]
    Missing {
        /// What for.
        what: &'static str,
        /// Its digest.
        id: Sha256,
    },
    /// A key that is not of the kind that it is used for.
    #[error("the key {id} is not a {what}")]
    Kind {
        /// What it should be.
        what: &'static str,
        /// Its digest.
        id: Sha256,
    },
    /// A key that the mandate does not name.
    #[error("the keyring holds the key {0}, which the mandate does not name; leave it out")]
    Unnamed(Sha256),
}

impl Keyring {
    /// The keyring of these public keys, in the order of their digests, each once.
    #[must_use]
    pub fn of(keys: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let sorted: std::collections::BTreeMap<Sha256, Vec<u8>> = keys
            .into_iter()
            .map(|bytes| (Sha256::of(&bytes), bytes))
            .collect();
        Self {
            key: sorted
                .into_iter()
                .map(|(id, bytes)| KeyRow {
                    id,
                    bytes: Base64(bytes),
                })
                .collect(),
        }
    }

    /// Checks digests and order.
    ///
    /// # Errors
    /// [`KeyringError::Damaged`].
    pub fn check(&self) -> Result<(), KeyringError> {
        let mut last = None;
        for row in &self.key {
            if Sha256::of(&row.bytes.0) != row.id || last.is_some_and(|last| last >= row.id) {
                return Err(KeyringError::Damaged(row.id));
            }
            last = Some(row.id);
        }
        Ok(())
    }

    fn bytes(&self, what: &'static str, id: &Sha256) -> Result<&[u8], KeyringError> {
        let found = self.key.iter().find(|row| row.id == *id);
        found
            .map(|row| row.bytes.0.as_slice())
            .ok_or(KeyringError::Missing { what, id: *id })
    }

    /// A writer's or embassy's signing key.
    ///
    /// # Errors
    /// [`KeyringError`] if it is not there or not such a key.
    pub fn verifying_key(&self, id: &Sha256) -> Result<VerifyingKey, KeyringError> {
        const WHAT: &str = "signing key (Ed25519 + ML-DSA-65)";
        VerifyingKey::decode(self.bytes(WHAT, id)?).map_err(|_| KeyringError::Kind {
            what: WHAT,
            id: *id,
        })
    }

    /// A vault generation's public key.
    ///
    /// # Errors
    /// [`KeyringError`] if it is not there or not such a key.
    pub fn sealing_key(&self, id: &Sha256) -> Result<SealingKey, KeyringError> {
        const WHAT: &str = "vault key (X-Wing)";
        SealingKey::decode(self.bytes(WHAT, id)?).map_err(|_| KeyringError::Kind {
            what: WHAT,
            id: *id,
        })
    }

    /// An embassy's log key: Ed25519 (32 bytes), then ML-DSA-44 (1,312 bytes).
    ///
    /// # Errors
    /// [`KeyringError`] if it is not there or not of that length.
    pub fn log_key(&self, id: &Sha256) -> Result<&[u8], KeyringError> {
        const WHAT: &str = "log key (Ed25519 + ML-DSA-44)";
        let bytes = self.bytes(WHAT, id)?;
        if bytes.len() == LOG_KEY {
            Ok(bytes)
        } else {
            Err(KeyringError::Kind {
                what: WHAT,
                id: *id,
            })
        }
    }
}
