//! Outboards: the BLAKE3 subtree hashes of an object, one for each 64 KiB, so that damage is located.
//!
//! Layout (`spec/store.md`): magic `LGNtree1`, the object's length as `u64` little-endian, then one 32-byte chaining
//! value for each group of 64 KiB, in order. The groups merge into the object's own BLAKE3, so an outboard
//! that is itself damaged is told from a damaged object, without any key and without trust in either.

use std::ops::Range;

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use legation_core::id::Digest;

/// Bytes that one hash of an outboard covers: how precisely damage is located.
pub const GROUP: u64 = 64 << 10;
const MAGIC: &[u8; 8] = b"LGNtree1";
const HEADER: usize = 16;

/// Whether an object of this length has an outboard: up to one group, its name is all there is to know.
pub fn is_needed(length: u64) -> bool {
    length > GROUP
}

/// Bytes of the outboard of an object of `length` bytes.
pub fn size_for(length: u64) -> u64 {
    HEADER as u64 + 32 * length.div_ceil(GROUP)
}

/// The subtree hashes of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outboard {
    length: u64,
    groups: Vec<ChainingValue>,
}

/// An outboard that does not belong to the object that it is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the outboard is damaged: its hashes do not lead to the object's name")]
pub struct BadOutboard;

impl Outboard {
    /// The outboard of `bytes`, and their digest. `None` where none is needed.
    pub fn of(bytes: &[u8]) -> (Digest, Option<Outboard>) {
        let length = bytes.len() as u64;
        if !is_needed(length) {
            return (Digest::of(bytes), None);
        }
        let groups = bytes
            .chunks(GROUP as usize)
            .enumerate()
            .map(|(number, group)| group_hash(number as u64, group))
            .collect();
        let outboard = Outboard { length, groups };
        (outboard.root(), Some(outboard))
    }

    /// Reads an outboard and proves it against the object's name.
    pub fn parse(bytes: &[u8], digest: &Digest) -> Result<Outboard, BadOutboard> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(BadOutboard)?;
        let (length, hashes) = rest.split_first_chunk::<8>().ok_or(BadOutboard)?;
        let length = u64::from_le_bytes(*length);
        let expected = length.div_ceil(GROUP);
        if magic != MAGIC
            || !is_needed(length)
            || hashes.len() as u64 != expected.saturating_mul(32)
        {
            return Err(BadOutboard);
        }
        let groups = hashes
            .chunks_exact(32)
            .filter_map(|hash| ChainingValue::try_from(hash).ok())
            .collect();
        let outboard = Outboard { length, groups };
        if outboard.root() == *digest {
            Ok(outboard)
        } else {
            Err(BadOutboard)
        }
    }

    /// The outboard as stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.length.to_le_bytes());
        for group in &self.groups {
            bytes.extend_from_slice(group);
        }
        bytes
    }

    /// Length of the object.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The bytes of the object that group `number` covers.
    pub fn range(&self, number: u64) -> Range<u64> {
        let start = number * GROUP;
        start..(start + GROUP).min(self.length)
    }

    /// Whether `bytes` are those of group `number`.
    pub fn matches(&self, number: u64, bytes: &[u8]) -> bool {
        let expected = usize::try_from(number)
            .ok()
            .and_then(|n| self.groups.get(n));
        let range = self.range(number);
        range.end > range.start
            && bytes.len() as u64 == range.end - range.start
            && expected == Some(&group_hash(number, bytes))
    }

    /// The damaged parts of `bytes`, adjacent groups joined. Bytes that are missing at the end are damaged too.
    pub fn damage(&self, bytes: &[u8]) -> Vec<Range<u64>> {
        let mut found = Vec::new();
        for number in 0..self.groups.len() as u64 {
            let range = self.range(number);
            let part = bytes
                .get(range.start as usize..range.end as usize)
                .unwrap_or_default();
            if !self.matches(number, part) {
                join(&mut found, range);
            }
        }
        if bytes.len() as u64 > self.length {
            join(&mut found, self.length..bytes.len() as u64);
        }
        found
    }

    fn root(&self) -> Digest {
        let (left, right) = halves(&self.groups, self.length);
        let root = merge_subtrees_root(&left, &right, Mode::Hash);
        Digest(*root.as_bytes())
    }
}

/// Adds a range, joined to the last one where they touch.
pub(crate) fn join(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

fn group_hash(number: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(number * GROUP);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The chaining values of the two halves of a subtree of more than one group.
fn halves(groups: &[ChainingValue], length: u64) -> (ChainingValue, ChainingValue) {
    let left = left_subtree_len(length);
    let (a, b) = groups.split_at((left / GROUP) as usize);
    (subtree(a, left), subtree(b, length - left))
}

fn subtree(groups: &[ChainingValue], length: u64) -> ChainingValue {
    match groups {
        [one] => *one,
        _ => {
            let (left, right) = halves(groups, length);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests;
