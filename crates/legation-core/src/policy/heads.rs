//! The log's own tree, as far as the fold needs it: to know whether an order was written in sight of this very log.
//!
//! Leaf hashes of the newest entries are kept, and one hash per full tile of 256 for all older ones, so that ten
//! million entries cost about a megabyte.

use crate::id::Sha256;
use std::collections::VecDeque;

/// Entries in a full tile.
const TILE: u64 = 256;

/// For how many of the newest entries any size can be recomputed; older ones only at full tiles. At ten entries a
/// second this is nearly two hours, and at rest it is without end.
pub const RECENT: usize = 65_536;

/// Hashes of the log so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Heads {
    size: u64,
    tiles: Vec<Sha256>,
    recent: VecDeque<Sha256>,
}

impl Heads {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn push(&mut self, leaf: Sha256) {
        self.recent.push_back(leaf);
        self.size += 1;
        if self.size.is_multiple_of(TILE)
            && let Some(tile) = self.hash(self.size - TILE, self.size, false)
        {
            self.tiles.push(tile);
        }
        // Whole tiles leave together: what stays begins at a tile's edge.
        if self.recent.len() >= RECENT + TILE as usize {
            self.recent.drain(..TILE as usize);
        }
    }

    /// The root at `size`; `None` if the log is shorter, or if that size is too long ago and not at a tile's edge.
    pub(super) fn root_at(&self, size: u64) -> Option<Sha256> {
        match size {
            0 => Some(Sha256::of(b"")),
            n if n > self.size => None,
            n => self.hash(0, n, true),
        }
    }

    /// RFC 6962 hash of the leaves from `low` to before `high`.
    fn hash(&self, low: u64, high: u64, tiled: bool) -> Option<Sha256> {
        let width = high.checked_sub(low)?;
        if tiled && width == TILE && low.is_multiple_of(TILE) {
            return self.tiles.get(usize::try_from(low / TILE).ok()?).copied();
        }
        if width == 1 {
            let first = self.size - self.recent.len() as u64;
            return self
                .recent
                .get(usize::try_from(low.checked_sub(first)?).ok()?)
                .copied();
        }
        // The largest power of two below the width.
        let split = low + width.checked_next_power_of_two()? / 2;
        let (left, right) = (
            self.hash(low, split, tiled)?,
            self.hash(split, high, tiled)?,
        );
        Some(Sha256::of_parts(&[&[1], &left.0, &right.0]))
    }
}
