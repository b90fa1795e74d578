//! Looking through a log's files without stopping at damage, for the checker.
//!
//! Two trees are grown side by side: one of the entries as they are stored, one of the hashes in the lowest tiles. Where
//! the two differ, the signed root says which of them is damaged.

use std::io;
use std::path::Path;

use legation_core::id::Sha256;
use legation_core::log::{Level, TILE_WIDTH, TilePath, Tree, TreeHead, leaf_hash, split_bundle};

use super::frontier::Frontier;
use super::reader::{MAX_TAIL, MAX_TILE, Tail, last_tail};
use crate::durable;

/// Bytes of a hash in a tile.
const HASH: usize = 32;

/// What is seen on the way.
pub(crate) enum Seen<'a> {
    /// An entry, in order; entries that cannot be read are left out.
    Entry(u64, &'a [u8]),
    /// So many bytes were read.
    Bytes(u64),
    /// A file, and what is wrong with it.
    Bad(String, String),
}

/// Goes through all that the log in `dir` holds up to `head` (or, without it, through the full bundles). Returns whether
/// its entries, all of them, lead to `head`.
pub(crate) fn inspect(dir: &Path, head: Option<TreeHead>, mut see: impl FnMut(Seen<'_>)) -> bool {
    let mut walk = Walk {
        dir,
        see: &mut see,
        entries: Side::default(),
        tiles: Side::default(),
        suspects: Vec::new(),
        unreadable: false,
    };
    let base = match last_tail(&dir.join(super::TAIL)) {
        Ok(number) => number.unwrap_or(0).saturating_mul(TILE_WIDTH),
        Err(e) => {
            walk.bad("tail", e.to_string());
            0
        }
    };
    let size = head.map_or(base, |head| head.size);
    for index in 0..base.min(size).div_ceil(TILE_WIDTH) {
        walk.bundle(index);
    }
    if let Some(count) = size.checked_sub(base).filter(|count| *count > 0) {
        walk.tail(base, count);
    }
    walk.judge(head)
}

/// A tree grown from one of the two sources.
#[derive(Default)]
struct Side {
    tree: Tree,
    frontier: Frontier,
}

impl Side {
    fn push(&mut self, leaf: Sha256) {
        self.tree.push(leaf);
        self.frontier.push(leaf);
    }
}

struct Walk<'a, S> {
    dir: &'a Path,
    see: &'a mut S,
    entries: Side,
    tiles: Side,
    /// Bundles that do not fit their tile, and the first entry in which they differ.
    suspects: Vec<(u64, u64)>,
    unreadable: bool,
}

impl<S: FnMut(Seen<'_>)> Walk<'_, S> {
    fn bad(&mut self, name: impl ToString, why: impl ToString) {
        (self.see)(Seen::Bad(name.to_string(), why.to_string()));
    }

    fn read(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, String> {
        match durable::read_bounded(&self.dir.join(name), limit) {
            Ok(bytes) => {
                (self.see)(Seen::Bytes(bytes.len() as u64));
                Ok(bytes)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err("it is missing".to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }

    fn bundle(&mut self, index: u64) {
        let (name, tile) = (
            TilePath::full(Level::Entries, index).to_string(),
            TilePath::full(Level::Hashes(0), index).to_string(),
        );
        let stored = self
            .read(&name, MAX_TILE)
            .and_then(|bytes| leaves(&bytes).map(|l| (bytes, l)));
        let hashes = self.read(&tile, MAX_TILE).and_then(|bytes| hashes(&bytes));
        if let Ok((bytes, _)) = &stored
            && let Ok((entries, _)) = split_bundle(bytes, TILE_WIDTH)
        {
            for (number, entry) in entries.into_iter().enumerate() {
                (self.see)(Seen::Entry(index * TILE_WIDTH + number as u64, entry));
            }
        }
        if let Err(why) = &stored {
            self.bad(&name, why);
            self.unreadable = true;
        }
        if let Err(why) = &hashes {
            self.bad(&tile, why);
        }
        // What one side lacks, the other lends, so that both stay in step.
        let (of_entries, of_tiles) = match (stored, hashes) {
            (Ok((_, leaves)), Ok(hashes)) => (leaves, hashes),
            (Ok((_, leaves)), Err(_)) => (leaves.clone(), leaves),
            (Err(_), Ok(hashes)) => (hashes.clone(), hashes),
            (Err(_), Err(_)) => {
                let nothing = vec![Sha256([0; HASH]); TILE_WIDTH as usize];
                (nothing.clone(), nothing)
            }
        };
        let differing = of_entries.iter().zip(&of_tiles).position(|(a, b)| a != b);
        self.suspects
            .extend(differing.map(|n| (index, index * TILE_WIDTH + n as u64)));
        of_entries
            .into_iter()
            .for_each(|leaf| self.entries.push(leaf));
        of_tiles.into_iter().for_each(|leaf| self.tiles.push(leaf));
        self.higher_tiles();
    }

    /// Tiles above the lowest must be those of one of the two sides.
    fn higher_tiles(&mut self) {
        let expected = self.entries.frontier.take_full();
        let other = self.tiles.frontier.take_full();
        for ((tile, expected), (_, other)) in expected.into_iter().zip(other) {
            if tile.level == Level::Hashes(0) {
                continue;
            }
            match self.read(&tile.to_string(), MAX_TILE) {
                Ok(found) if found == expected || found == other => {}
                Ok(_) => self.bad(tile, "its hashes are not those of the tiles below"),
                Err(why) => self.bad(tile, why),
            }
        }
    }

    fn tail(&mut self, base: u64, count: u64) {
        let path = Tail::at(base).path(self.dir);
        let name = path
            .strip_prefix(self.dir)
            .unwrap_or(&path)
            .display()
            .to_string();
        let bytes = self.read(&name, MAX_TAIL);
        let entries = match &bytes {
            Ok(bytes) => split_bundle(bytes, count)
                .map(|(e, _)| e)
                .map_err(|e| e.to_string()),
            Err(why) => Err(why.clone()),
        };
        match entries {
            Ok(entries) => {
                for (number, entry) in entries.into_iter().enumerate() {
                    (self.see)(Seen::Entry(base + number as u64, entry));
                    let leaf = leaf_hash(entry);
                    self.entries.push(leaf);
                    self.tiles.push(leaf);
                }
            }
            Err(why) => {
                self.unreadable = true;
                let size = base + count;
                self.bad(name, format!("the checkpoint has size {size}, but {why}"));
            }
        }
    }

    /// The root decides between entries and tiles.
    fn judge(&mut self, head: Option<TreeHead>) -> bool {
        let leads = |side: &Side| head.is_some_and(|head| side.tree.root() == head.root);
        let (entries, tiles) = (leads(&self.entries), leads(&self.tiles));
        for (index, entry) in std::mem::take(&mut self.suspects) {
            let bundle = TilePath::full(Level::Entries, index);
            let tile = TilePath::full(Level::Hashes(0), index);
            match (entries, tiles) {
                (true, _) => self.bad(tile, format!("its hash of entry {entry} is damaged")),
                (_, true) => self.bad(bundle, format!("entry {entry} is damaged")),
                _ => self.bad(bundle, format!("entry {entry} is not the one of {tile}")),
            }
        }
        if let Some(head) = head
            && !entries
            && !tiles
        {
            let why = format!("the {} entries do not lead to its root", head.size);
            self.bad("checkpoint", why);
        }
        entries && !self.unreadable
    }
}

fn leaves(bundle: &[u8]) -> Result<Vec<Sha256>, String> {
    let (entries, end) = split_bundle(bundle, TILE_WIDTH).map_err(|e| e.to_string())?;
    if end != bundle.len() {
        return Err("bytes after its last entry".to_owned());
    }
    Ok(entries.into_iter().map(leaf_hash).collect())
}

fn hashes(tile: &[u8]) -> Result<Vec<Sha256>, String> {
    if tile.len() != TILE_WIDTH as usize * HASH {
        return Err(format!("it has {} bytes instead of 8192", tile.len()));
    }
    let hash = |bytes: &[u8]| bytes.try_into().map(Sha256).map_err(|_| String::new());
    tile.chunks_exact(HASH).map(hash).collect()
}
