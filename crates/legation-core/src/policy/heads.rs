//! The log's own tree, as far as the fold needs it: to know whether an order was written in sight of this very log.
//!
//! Leaf hashes and receive times of the newest entries are kept, and one hash and one time per full tile of 256 for all
//! older ones, so that ten million entries cost less than two megabytes.

use crate::id::Sha256;
use crate::statement::Time;
use std::collections::VecDeque;

/// Entries in a full tile.
const WIDTH: u64 = 256;

/// For how many of the newest entries any size can be recomputed; older ones only at full tiles. At ten entries a
/// second this is nearly two hours, and at rest it is without end.
pub const RECENT: usize = 65_536;

/// Hashes of the log so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Heads {
    size: u64,
    tiles: Vec<Tile>,
    recent: VecDeque<Leaf>,
}

/// A full tile.
#[derive(Clone, Copy, Debug)]
struct Tile {
    hash: Sha256,
    /// When its first entry was received.
    began: Time,
}

/// One of the newest entries.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    hash: Sha256,
    received: Time,
}

impl Heads {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn push(&mut self, leaf: Sha256, received: Time) {
        self.recent.push_back(Leaf {
            hash: leaf,
            received,
        });
        self.size += 1;
        let from = self.size.saturating_sub(WIDTH);
        if self.size.is_multiple_of(WIDTH)
            && let Some(hash) = self.hash(from, self.size, false)
            && let Some(began) = self.leaf(from).map(|leaf| leaf.received)
        {
            self.tiles.push(Tile { hash, began });
        }
        // Whole tiles leave together: what stays begins at a tile's edge.
        if self.recent.len() >= RECENT + WIDTH as usize {
            self.recent.drain(..WIDTH as usize);
        }
    }

    /// When the entry with this index was received; `None` where [`Self::root_at`] of the same number has none, and for
    /// an entry that has not come yet.
    pub(super) fn received_at(&self, index: u64) -> Option<Time> {
        let tile = || {
            let at = usize::try_from(index / WIDTH).ok()?;
            let tile = self.tiles.get(at)?;
            index.is_multiple_of(WIDTH).then_some(tile.began)
        };
        self.leaf(index).map(|leaf| leaf.received).or_else(tile)
    }

    fn leaf(&self, index: u64) -> Option<&Leaf> {
        let first = self.size - self.recent.len() as u64;
        let at = usize::try_from(index.checked_sub(first)?).ok()?;
        self.recent.get(at)
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
        if tiled && width == WIDTH && low.is_multiple_of(WIDTH) {
            let tile = self.tiles.get(usize::try_from(low / WIDTH).ok()?);
            return tile.map(|tile| tile.hash);
        }
        if width == 1 {
            return self.leaf(low).map(|leaf| leaf.hash);
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
