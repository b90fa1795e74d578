//! Fixed names, keys and randomness for tests and vectors.

use crate::error::FormatError;
use crate::id::{EpochNo, RegistryId, StateId};
use crate::keys::{Entropy, EpochRoot};

/// Draws that depend on a seed and a counter alone.
pub(crate) struct Fixed(pub u64, pub u64);

impl Entropy for Fixed {
    fn draw(&mut self) -> Result<zeroize::Zeroizing<[u8; 32]>, FormatError> {
        self.1 += 1;
        let mut hasher = blake3::Hasher::new_derive_key("legation/v1 test randomness");
        hasher
            .update(&self.0.to_le_bytes())
            .update(&self.1.to_le_bytes());
        Ok((*hasher.finalize().as_bytes()).into())
    }
}

pub(crate) fn state() -> StateId {
    StateId([7; 20])
}

pub(crate) fn registry() -> RegistryId {
    "r-3f9a1c".parse().unwrap()
}

pub(crate) fn root(n: u8) -> EpochRoot {
    EpochRoot::from_bytes([n; 32])
}

pub(crate) const EPOCH: EpochNo = EpochNo(4);

/// Every way to cut the bytes, and every single-bit flip of one chosen bit a byte, must be refused by `accepts`.
pub(crate) fn refuses_every_change(good: &[u8], accepts: impl Fn(&[u8]) -> bool) {
    assert!(accepts(good), "the unchanged bytes must be accepted");
    for len in 0..good.len() {
        assert!(!accepts(&good[..len]), "accepted when cut to {len}");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert!(!accepts(&longer), "accepted with a byte added");
    let mut bad = good.to_vec();
    for at in 0..good.len() {
        let bit = 1 << (at % 8);
        bad[at] ^= bit;
        assert!(!accepts(&bad), "accepted with byte {at} flipped");
        bad[at] ^= bit;
    }
}
