//! The right edge of the tree in tiles: the hashes of tiles that are not yet full, or not yet settled, level by level.

use legation_core::id::Sha256;
use legation_core::log::{Level, TILE_WIDTH, TilePath, node_hash};

use crate::store::StoreError;

/// Bytes of a hash.
const HASH: usize = 32;

/// Hashes of one tile level, from `first` (a multiple of 256) on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    first: u64,
    hashes: Vec<Sha256>,
}

/// All levels' rows. Everything left of them is in full tiles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Frontier {
    rows: Vec<Row>,
}

impl Frontier {
    /// The frontier of a tree of `size` leaves, a multiple of 256, whose full tiles `fetch` returns.
    pub(super) fn load(
        size: u64,
        fetch: impl Fn(TilePath) -> Result<Vec<u8>, StoreError>,
    ) -> Result<Frontier, StoreError> {
        let mut rows = vec![Row {
            first: size,
            hashes: Vec::new(),
        }];
        let mut nodes = size / TILE_WIDTH;
        while nodes > 0 {
            let level = rows.len() as u8;
            let first = nodes - nodes % TILE_WIDTH;
            let mut hashes = Vec::new();
            for index in first..nodes {
                let path = TilePath::full(Level::Hashes(level - 1), index);
                let bytes = fetch(path)?;
                if bytes.len() != TILE_WIDTH as usize * HASH {
                    let why = format!("{} bytes", bytes.len());
                    return Err(StoreError::Damaged {
                        what: path.to_string(),
                        why,
                    });
                }
                hashes.push(tile_root(bytes.chunks_exact(HASH).map(hash_from).collect()));
            }
            rows.push(Row { first, hashes });
            nodes /= TILE_WIDTH;
        }
        Ok(Frontier { rows })
    }

    /// Appends a leaf by its hash, and what it completes above.
    pub(super) fn push(&mut self, leaf: Sha256) {
        let mut node = leaf;
        for level in 0.. {
            if self.rows.len() == level {
                self.rows.push(Row::default());
            }
            let row = &mut self.rows[level];
            row.hashes.push(node);
            let width = TILE_WIDTH as usize;
            if !row.hashes.len().is_multiple_of(width) {
                return;
            }
            node = tile_root(row.hashes[row.hashes.len() - width..].to_vec());
        }
    }

    /// The bytes of a hash tile, if it is held here and at least one hash wide. Not wider than `tile.width`.
    pub(super) fn tile(&self, level: u8, tile: &TilePath) -> Option<Vec<u8>> {
        let row = self.rows.get(usize::from(level))?;
        let start = tile.index.checked_mul(TILE_WIDTH)?.checked_sub(row.first)?;
        let start = usize::try_from(start).ok()?;
        let hashes = row.hashes.get(start..start + usize::from(tile.width))?;
        Some(hashes.iter().flat_map(|h| h.0).collect())
    }

    /// Takes every full tile, lowest level first.
    pub(super) fn take_full(&mut self) -> Vec<(TilePath, Vec<u8>)> {
        let mut full = Vec::new();
        for (level, row) in self.rows.iter_mut().enumerate() {
            while row.hashes.len() >= TILE_WIDTH as usize {
                let path = TilePath::full(Level::Hashes(level as u8), row.first / TILE_WIDTH);
                let hashes = row.hashes.drain(..TILE_WIDTH as usize);
                full.push((path, hashes.flat_map(|h| h.0).collect()));
                row.first += TILE_WIDTH;
            }
        }
        full
    }

    /// Every tile held, partial ones as wide as they are.
    pub(super) fn tiles(&self) -> Vec<(TilePath, Vec<u8>)> {
        let mut tiles = Vec::new();
        for (level, row) in self.rows.iter().enumerate() {
            for (number, hashes) in row.hashes.chunks(TILE_WIDTH as usize).enumerate() {
                let path = TilePath {
                    level: Level::Hashes(level as u8),
                    index: row.first / TILE_WIDTH + number as u64,
                    width: hashes.len() as u16,
                };
                tiles.push((path, hashes.iter().flat_map(|h| h.0).collect()));
            }
        }
        tiles
    }
}

fn tile_root(mut row: Vec<Sha256>) -> Sha256 {
    while row.len() > 1 {
        row = row
            .chunks_exact(2)
            .map(|pair| node_hash(&pair[0], &pair[1]))
            .collect();
    }
    row.first().copied().unwrap_or(Sha256([0; HASH]))
}

fn hash_from(bytes: &[u8]) -> Sha256 {
    let mut out = [0u8; HASH];
    out.copy_from_slice(bytes);
    Sha256(out)
}
