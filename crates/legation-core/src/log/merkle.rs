//! RFC 6962 section 2.1: hashes of leaves and nodes, and a tree that grows in logarithmic memory.

use super::LogError;
use crate::id::Sha256;

/// The root of the tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Sha256 {
    Sha256::of_parts(&[])
}

/// The hash of a leaf: `SHA-256(0x00 ‖ entry)`.
pub fn leaf_hash(entry: &[u8]) -> Sha256 {
    Sha256::of_parts(&[&[0], entry])
}

/// The hash of an inner node: `SHA-256(0x01 ‖ left ‖ right)`.
pub fn node_hash(left: &Sha256, right: &Sha256) -> Sha256 {
    Sha256::of_parts(&[&[1], &left.0, &right.0])
}

/// Where the hashes of complete subtrees come from when a proof is made.
///
/// `node(level, index)` is `MTH(D[index * 2^level .. (index + 1) * 2^level])`. It is asked only for subtrees that
/// are complete within the tree size that the caller named. Implementations need not verify what they return:
/// a wrong hash yields a proof that [`super::check_inclusion`] refuses.
pub trait Hashes {
    /// How a lookup fails.
    type Error: From<LogError>;

    /// The root of one complete subtree.
    fn node(&self, level: u8, index: u64) -> Result<Sha256, Self::Error>;
}

/// A growing tree: its size and the roots of its complete subtrees, left to right (at most 64 hashes).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    peaks: Vec<Sha256>,
}

impl Tree {
    /// The empty tree.
    pub fn new() -> Tree {
        Tree::default()
    }

    /// The tree of `size` leaves whose subtrees are in `hashes`.
    pub fn load<H: Hashes>(size: u64, hashes: &H) -> Result<Tree, H::Error> {
        let mut peaks = Vec::new();
        let mut start = 0u64;
        for level in (0..64u8).rev() {
            if size & (1 << level) != 0 {
                peaks.push(hashes.node(level, start >> level)?);
                start += 1 << level;
            }
        }
        Ok(Tree { size, peaks })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Sha256) {
        let mut node = leaf;
        // Each trailing one bit of the size is a complete subtree that the new leaf completes further.
        for _ in 0..self.size.trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            node = node_hash(&left, &node);
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The root over all leaves so far.
    pub fn root(&self) -> Sha256 {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return empty_root();
        };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// All leaf hashes of a log in memory: for small logs, mirrors being verified, and tests.
#[derive(Debug, Clone, Default)]
pub struct MemoryHashes {
    /// `levels[l][n]` is the root of the n-th complete subtree of `2^l` leaves.
    levels: Vec<Vec<Sha256>>,
}

impl MemoryHashes {
    /// No leaves.
    pub fn new() -> MemoryHashes {
        MemoryHashes::default()
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |l| l.len() as u64)
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Sha256) {
        let mut node = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(node);
            let row = &self.levels[level];
            if !row.len().is_multiple_of(2) {
                break;
            }
            node = node_hash(&row[row.len() - 2], &row[row.len() - 1]);
        }
    }

    /// The root over the first `size` leaves.
    pub fn root_at(&self, size: u64) -> Result<Sha256, LogError> {
        if size > self.size() {
            return Err(LogError::Range {
                what: "tree",
                asked: size,
                size: self.size(),
            });
        }
        super::root_at(self, size)
    }
}

impl Hashes for MemoryHashes {
    type Error = LogError;

    fn node(&self, level: u8, index: u64) -> Result<Sha256, LogError> {
        let row = self.levels.get(usize::from(level));
        let at = usize::try_from(index).ok();
        row.zip(at)
            .and_then(|(row, at)| row.get(at))
            .copied()
            .ok_or(LogError::Range {
                what: "entry",
                asked: index.checked_shl(u32::from(level)).unwrap_or(u64::MAX),
                size: self.size(),
            })
    }
}
