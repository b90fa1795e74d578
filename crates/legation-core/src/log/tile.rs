//! C2SP tlog-tiles: the paths and contents of hash tiles and entry bundles.

use std::fmt;
use std::str::FromStr;

use super::LogError;
use super::merkle::{Hashes, node_hash};
use crate::id::Sha256;

/// Hashes in a full tile, and entries in a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// Longest entry: a bundle counts an entry's length in 16 bits.
pub const MAX_ENTRY: usize = 65_535;
/// Highest tile level that a 64-bit tree can reach.
const MAX_LEVEL: u8 = 7;
/// Bytes of a hash in a tile.
const HASH: usize = 32;

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// An entry bundle: the entries themselves.
    Entries,
    /// Roots of subtrees of `256^level` leaves.
    Hashes(u8),
}

/// The address of a tile: `tile/0/x001/234.p/8`, `tile/entries/000`.
///
/// Only the canonical spelling parses, so a path is safe to join to a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TilePath {
    /// Which kind and height.
    pub level: Level,
    /// Position among the tiles of its level.
    pub index: u64,
    /// Hashes or entries in it: 1 to 256; below 256 the tile is partial.
    pub width: u16,
}

impl TilePath {
    /// A full tile.
    pub fn full(level: Level, index: u64) -> TilePath {
        TilePath {
            level,
            index,
            width: TILE_WIDTH as u16,
        }
    }

    /// Whether all 256 places are taken.
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// Whether a tree of `size` leaves has this tile, at this or a larger width.
    pub fn is_in(&self, size: u64) -> bool {
        let level = match self.level {
            Level::Entries => 0,
            Level::Hashes(level) => level,
        };
        let nodes = nodes_at(level, size);
        self.index
            .checked_mul(TILE_WIDTH)
            .and_then(|first| first.checked_add(u64::from(self.width)))
            .is_some_and(|end| end <= nodes)
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Level::Entries => f.write_str("tile/entries/")?,
            Level::Hashes(level) => write!(f, "tile/{level}/")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups.iter().skip(1).rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", groups[0])?;
        if !self.is_full() {
            write!(f, ".p/{}", self.width)?;
        }
        Ok(())
    }
}

impl FromStr for TilePath {
    type Err = LogError;

    fn from_str(text: &str) -> Result<TilePath, LogError> {
        let bad = || LogError::malformed("tile path", format!("{text:?} is not a tlog-tiles path"));
        let rest = text.strip_prefix("tile/").ok_or_else(bad)?;
        let (level, rest) = rest.split_once('/').ok_or_else(bad)?;
        let level = match level {
            "entries" => Level::Entries,
            digits => Level::Hashes(
                digits
                    .parse()
                    .ok()
                    .filter(|l| *l <= MAX_LEVEL)
                    .ok_or_else(bad)?,
            ),
        };
        let (groups, width) = match rest.split_once(".p/") {
            Some((groups, width)) => (groups, width.parse().map_err(|_| bad())?),
            None => (rest, TILE_WIDTH as u16),
        };
        let mut index = 0u64;
        for group in groups.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            let value: u64 = digits.parse().map_err(|_| bad())?;
            index = index
                .checked_mul(1000)
                .and_then(|i| i.checked_add(value))
                .ok_or_else(bad)?;
        }
        let path = TilePath {
            level,
            index,
            width,
        };
        let partial = rest.contains(".p/");
        // Printing it back decides every question of leading zeros, signs and misplaced `x`.
        if width == 0 || width > 256 || (partial && path.is_full()) || path.to_string() != text {
            return Err(bad());
        }
        Ok(path)
    }
}

/// Number of nodes at tile level `level` in a tree of `size` leaves.
fn nodes_at(level: u8, size: u64) -> u64 {
    size.checked_shr(8 * u32::from(level)).unwrap_or(0)
}

/// Every tile that a tree of `size` leaves consists of, partial ones included, bundles first.
pub fn tiles_of(size: u64) -> impl Iterator<Item = TilePath> {
    std::iter::once(Level::Entries)
        .chain((0..=MAX_LEVEL).map(Level::Hashes))
        .flat_map(move |level| {
            let nodes = match level {
                Level::Entries => size,
                Level::Hashes(level) => nodes_at(level, size),
            };
            (0..nodes.div_ceil(TILE_WIDTH)).map(move |index| {
                let width = (nodes - index * TILE_WIDTH).min(TILE_WIDTH) as u16;
                TilePath {
                    level,
                    index,
                    width,
                }
            })
        })
}

/// Appends one entry to a bundle: its length as a big-endian `u16`, then its bytes.
pub fn encode_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), LogError> {
    let length = u16::try_from(entry.len()).map_err(|_| {
        LogError::malformed(
            "entry",
            format!("{} bytes, at most {MAX_ENTRY} fit", entry.len()),
        )
    })?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// A whole bundle of `entries`.
pub fn bundle<E: AsRef<[u8]>>(entries: &[E]) -> Result<Vec<u8>, LogError> {
    let mut out = Vec::with_capacity(entries.iter().map(|e| e.as_ref().len() + 2).sum());
    for entry in entries {
        encode_entry(&mut out, entry.as_ref())?;
    }
    Ok(out)
}

/// Splits the first `count` entries off a bundle. Returns them and the number of bytes that they take; bytes
/// after them are not looked at.
pub fn split_bundle(bundle: &[u8], count: u64) -> Result<(Vec<&[u8]>, usize), LogError> {
    let mut entries = Vec::new();
    let mut at = 0usize;
    for number in 0..count {
        let short = || LogError::malformed("entry bundle", format!("entry {number} is cut short"));
        let length = bundle.get(at..at + 2).ok_or_else(short)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        entries.push(bundle.get(at + 2..at + 2 + length).ok_or_else(short)?);
        at += 2 + length;
    }
    Ok((entries, at))
}

/// Subtree roots read from tiles.
///
/// `fetch(path)` returns a tile's bytes: the tile of that width, or a wider one. `size` is the tree that is asked
/// about; tiles are requested as wide as that tree has them.
pub struct TileHashes<F> {
    size: u64,
    fetch: F,
}

impl<E: From<LogError>, F: Fn(TilePath) -> Result<Vec<u8>, E>> TileHashes<F> {
    /// A view of the tree of `size` leaves through `fetch`.
    pub fn new(size: u64, fetch: F) -> TileHashes<F> {
        TileHashes { size, fetch }
    }
}

impl<E: From<LogError>, F: Fn(TilePath) -> Result<Vec<u8>, E>> Hashes for TileHashes<F> {
    type Error = E;

    fn node(&self, level: u8, index: u64) -> Result<Sha256, E> {
        let tile_level = level / 8;
        let span = 1u64 << (level % 8);
        let nodes = nodes_at(tile_level, self.size);
        let first = index.saturating_mul(span);
        if first.saturating_add(span) > nodes {
            return Err(LogError::Range {
                what: "tree",
                asked: first,
                size: self.size,
            }
            .into());
        }
        let tile = first / TILE_WIDTH;
        let width = (nodes - tile * TILE_WIDTH).min(TILE_WIDTH) as u16;
        let path = TilePath {
            level: Level::Hashes(tile_level),
            index: tile,
            width,
        };
        let bytes = (self.fetch)(path)?;
        if bytes.len() < usize::from(width) * HASH || !bytes.len().is_multiple_of(HASH) {
            let why = format!("{path} has {} bytes", bytes.len());
            return Err(LogError::malformed("tile", why).into());
        }
        let start = (first % TILE_WIDTH) as usize * HASH;
        let slice = bytes
            .get(start..start + span as usize * HASH)
            .unwrap_or_default();
        let mut row: Vec<Sha256> = slice.chunks_exact(HASH).map(hash_from).collect();
        while row.len() > 1 {
            row = row
                .chunks_exact(2)
                .map(|pair| node_hash(&pair[0], &pair[1]))
                .collect();
        }
        row.first()
            .copied()
            .ok_or_else(|| LogError::malformed("tile", "empty").into())
    }
}

fn hash_from(bytes: &[u8]) -> Sha256 {
    let mut out = [0u8; HASH];
    out.copy_from_slice(bytes);
    Sha256(out)
}
