//! The log's own tree, as far as the fold needs it: to know whether an order was written in sight of this very log.
//!
//! Leaf hashes and receive times of the newest entries are kept, and one hash and one time per full tile of 256 for all
//! older ones, so that ten million entries cost less than two megabytes.

use crate::codec::{Put, Reader};
use crate::error::FormatError;
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

    /// As bytes, for a state that is kept.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let Self {
            size,
            tiles,
            recent,
        } = self;
        out.put_u64(*size).put_u64(tiles.len() as u64);
        for Tile { hash, began } in tiles {
            out.put(&hash.0).put_u64(began.millis());
        }
        out.put_u64(recent.len() as u64);
        for Leaf { hash, received } in recent {
            out.put(&hash.0).put_u64(received.millis());
        }
    }

    /// Reads what [`Heads::put`] wrote.
    pub(super) fn take(from: &mut Reader<'_>) -> Result<Self, FormatError> {
        let pair = |from: &mut Reader<'_>| {
            let (hash, at) = (Sha256(from.array()?), from.u64()?);
            let at =
                Time::from_millis(at).ok_or_else(|| from.malformed("a time that cannot be"))?;
            Ok((hash, at))
        };
        let mut heads = Self {
            size: from.u64()?,
            ..Self::default()
        };
        for _ in 0..from.u64()? {
            let (hash, began) = pair(from)?;
            heads.tiles.push(Tile { hash, began });
        }
        for _ in 0..from.u64()? {
            let (hash, received) = pair(from)?;
            heads.recent.push_back(Leaf { hash, received });
        }
        if heads.tiles.len() as u64 != heads.size / WIDTH || heads.recent.len() as u64 > heads.size
        {
            return Err(from.malformed("its hashes are not of its size"));
        }
        Ok(heads)
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
