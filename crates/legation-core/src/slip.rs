//! Slips: epoch roots sealed to the vault (spec/sealing.md §6).

use crate::codec::{Put, Reader};
use crate::error::FormatError;
use crate::id::{EpochNo, Generation, RegistryId, StateId};
use crate::keys::{EpochRoot, OpeningKey, SEALED_OVERHEAD, SealingKey};
use crate::pack::registry;
use crate::suite::{self, FORMAT, SUITE};

const MAGIC: &[u8; 8] = b"LGNslip1";
const INFO: &[u8] = b"legation/v1 slip";
const HEADER: usize = 48;
const SEALED: usize = 32 + SEALED_OVERHEAD;

/// Length of a slip object.
pub const SLIP: usize = 4096;

/// What a slip says in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlipHeader {
    /// The state it belongs to.
    pub state: StateId,
    /// The registry whose epoch it opens.
    pub registry: RegistryId,
    /// The epoch that it opens.
    pub epoch: EpochNo,
    /// The vault generation that opens it.
    pub generation: Generation,
}

/// Seals an epoch root to the vault's key of this generation: a slip object.
///
/// # Errors
/// `Crypto`, if the library refuses.
pub fn seal(
    vault: &SealingKey,
    header: &SlipHeader,
    root: &EpochRoot,
    rng: &[u8; 32],
) -> Result<Vec<u8>, FormatError> {
    let clear = header.encode();
    let sealed = vault.seal(rng, INFO, &clear, root.expose())?;
    let mut out = clear;
    out.put(&sealed);
    out.resize(SLIP, 0);
    Ok(out)
}

/// Reads what a slip says in the clear, and checks its shape.
///
/// # Errors
/// `Malformed` or `Unsupported`.
pub fn header(bytes: &[u8]) -> Result<SlipHeader, FormatError> {
    if bytes.len() != SLIP {
        return Err(FormatError::malformed(
            "slip",
            "its length is not 4096 bytes",
        ));
    }
    let mut r = Reader::new("slip", bytes);
    r.magic(MAGIC)?;
    suite::require("slip", r.u16()?, r.u16()?)?;
    r.zeros(4)?;
    let header = SlipHeader {
        state: StateId(r.array()?),
        registry: registry(&mut r)?,
        epoch: EpochNo(r.u32()?),
        generation: Generation(r.u32()?),
    };
    r.bytes(SEALED)?;
    r.finish_padded()?;
    Ok(header)
}

/// Opens a slip. The caller compares [`header`] with what it asked for.
///
/// # Errors
/// `NotOpened` under another generation's key or with changed bytes.
pub fn open(vault: &OpeningKey, bytes: &[u8]) -> Result<EpochRoot, FormatError> {
    header(bytes)?;
    let (clear, rest) = bytes.split_at(HEADER);
    let root = vault
        .open(INFO, clear, &rest[..SEALED])
        .map_err(|_| FormatError::NotOpened { what: "slip" })?;
    epoch_root("slip", &root)
}

/// A root must have exactly 32 bytes.
pub(crate) fn epoch_root(what: &'static str, bytes: &[u8]) -> Result<EpochRoot, FormatError> {
    bytes
        .try_into()
        .map(EpochRoot::from_bytes)
        .map_err(|_| FormatError::malformed(what, "it does not hold a key of 32 bytes"))
}

impl SlipHeader {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SLIP);
        out.put(MAGIC).put_u16(FORMAT).put_u16(SUITE).put_u32(0);
        out.put(&self.state.0).put_u32(self.registry.number());
        out.put_u32(self.epoch.0).put_u32(self.generation.0);
        out
    }
}

#[cfg(test)]
mod tests;
