//! Released keys: an epoch root sealed to the recipient of one order (spec/sealing.md §7).

use crate::codec::Put;
use crate::error::FormatError;
use crate::id::{EpochNo, RegistryId, Sha256, StateId};
use crate::keys::{EpochRoot, OpeningKey, SEALED_OVERHEAD, SealingKey};
use crate::slip::epoch_root;
use crate::suite::SUITE;

mod head;
pub use head::{MAX_RELEASE, RELEASE_HEAD, ReleaseHead};

const INFO: &[u8] = b"legation/v1 release";

/// Length of one released key.
pub const RELEASED: usize = 32 + SEALED_OVERHEAD;

/// What a released key is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseContext {
    /// The state.
    pub state: StateId,
    /// The id of the accepted order's statement.
    pub order: Sha256,
    /// The registry in its scope.
    pub registry: RegistryId,
    /// The epoch in its scope.
    pub epoch: EpochNo,
}

/// Seals an epoch root to the session or recipient key that the order names.
///
/// # Errors
/// `Crypto`, if the library refuses.
pub fn seal(
    to: &SealingKey,
    context: &ReleaseContext,
    root: &EpochRoot,
    rng: &[u8; 32],
) -> Result<Vec<u8>, FormatError> {
    to.seal(rng, INFO, &context.aad(), root.expose())
}

/// Opens a released key.
///
/// # Errors
/// `NotOpened` with another key, for another order, registry or epoch, or with changed bytes.
pub fn open(
    key: &OpeningKey,
    context: &ReleaseContext,
    sealed: &[u8],
) -> Result<EpochRoot, FormatError> {
    if sealed.len() != RELEASED {
        return Err(FormatError::malformed(
            "released key",
            "its length is not 1168 bytes",
        ));
    }
    let root = key
        .open(INFO, &context.aad(), sealed)
        .map_err(|_| FormatError::NotOpened {
            what: "released key",
        })?;
    epoch_root("released key", &root)
}

impl ReleaseContext {
    fn aad(&self) -> Vec<u8> {
        let mut aad = Vec::new();
        aad.put_u16(SUITE).put(&self.state.0).put(&self.order.0);
        aad.put_u32(self.registry.number()).put_u32(self.epoch.0);
        aad
    }
}

#[cfg(test)]
mod tests;
