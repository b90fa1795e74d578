//! Mirrors: a log as a static directory that anyone can carry away, read and check.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use legation_core::attachments::Attachments;
use legation_core::id::Sha256;
use legation_core::log::{
    Checkpoint, Level, LogError, LogVerifier, MAX_CHECKPOINT, TILE_WIDTH, TileHashes, TilePath,
    Tree, TreeHead, check_consistency, check_inclusion, consistency, inclusion, leaf_hash, root_at,
    split_bundle,
};

use super::frontier::Frontier;
use super::reader::MAX_TILE;
use super::{CHECKPOINT, write_tile};
use crate::durable;
use crate::state::MAX_ATTACHMENT;
use crate::store::StoreError;

const ATTACHMENT: &str = "attachment";
const INCOMING: &str = "incoming";

/// Where the static files of a log come from: a log on disk, or one behind the network.
pub trait LogSource {
    /// The bytes at a tlog-tiles path (`checkpoint`, `tile/0/000.p/7`, `tile/entries/000`), or `None`.
    ///
    /// # Errors
    /// `Io`.
    fn fetch(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError>;
}

/// Whose log a mirror is a copy of, and what was seen of that log elsewhere than in the mirror.
#[derive(Debug, Clone)]
pub struct Believed {
    /// The log's name.
    pub origin: String,
    /// The log's key.
    pub key: LogVerifier,
    /// The newest checkpoint that was seen and verified: the log must continue it.
    pub seen: Option<Checkpoint>,
}

/// A static directory of a whole log with its attachments: what an auditor carries away.
///
/// Opening one proves that entries and tiles lead to the root that its checkpoint claims. Whether the log's key signed
/// that is asked of [`Mirror::verify`], once the key is known (it is named by the first entry).
#[derive(Debug)]
pub struct Mirror {
    dir: PathBuf,
    note: Vec<u8>,
    origin: String,
    head: TreeHead,
}

impl Mirror {
    /// Brings the mirror in `dir` up to the newest checkpoint of `source`, fetching only bundles that are new, and
    /// writing the checkpoint last.
    ///
    /// What was copied before is not read again: its hash tiles lead to the checkpoint that was verified then, and what is
    /// read later is checked against the tree. Only if it does not fit is all of it read.
    ///
    /// Nothing in the mirror is replaced before the checkpoint is found to be signed by the log's key, and its tree to
    /// continue both the mirror's and the one `believed` was seen to have. Otherwise it is refused, and kept beside as
    /// `refused-<size>-<root>`, with the one that was seen as `seen-<size>-<root>`.
    ///
    /// # Errors
    /// `Damaged` when it is not signed, when what was fetched does not lead to the checkpoint, or does not continue what
    /// was seen; `Full`; `Io`.
    pub fn update(
        dir: &Path,
        source: &dyn LogSource,
        believed: &Believed,
    ) -> Result<Mirror, StoreError> {
        let failed = |e| StoreError::io(format!("write the mirror {}", dir.display()), e);
        durable::create_dir(dir).map_err(failed)?;
        durable::sweep(dir).map_err(failed)?;
        let note = fetched(source, CHECKPOINT)?;
        let head = Checkpoint::open(&note, &believed.origin, &believed.key)?.head();
        let before = read_claims(dir)?.map(|(_, old)| old);
        let seen = believed.seen.as_ref();
        let pins: Vec<TreeHead> = before.into_iter().chain(seen.map(|c| c.head())).collect();
        let taken = match pins.iter().max_by_key(|pin| pin.size) {
            Some(largest) if head.size < largest.size => Err(LogError::Shorter {
                held: largest.size,
                offered: head.size,
            }
            .into()),
            _ => take(dir, source, &head, before, &pins),
        };
        if taken.is_err() && !pins.is_empty() {
            let beside = |what, head: &TreeHead, note: &[u8]| {
                let name = format!("{what}-{}-{}", head.size, head.root.short());
                durable::write_atomic(&dir.join(name), note).map_err(failed)
            };
            beside("refused", &head, &note)?;
            if let Some(seen) = seen {
                beside("seen", &seen.head(), seen.note().as_bytes())?;
            }
        }
        taken?;
        durable::write_atomic(&dir.join(CHECKPOINT), &note).map_err(failed)?;
        Mirror::claimed(dir)
    }

    /// Opens a mirror: reads it whole, and proves that its entries and tiles are those of its checkpoint's tree.
    ///
    /// # Errors
    /// `NotFound`; `Damaged`; `Io`.
    pub fn open(dir: &Path) -> Result<Mirror, StoreError> {
        let mirror = Mirror::claimed(dir)?;
        let read = |tile: TilePath| read(dir, &tile);
        walk(Edge::default(), &mirror.head, &[], read, |tile, bytes| {
            if tile.level != Level::Entries && read(*tile)? != bytes {
                let why = "its hashes are not those of the entries".to_owned();
                return Err(StoreError::Damaged {
                    what: tile.to_string(),
                    why,
                });
            }
            Ok(())
        })?;
        Ok(mirror)
    }

    fn claimed(dir: &Path) -> Result<Mirror, StoreError> {
        let Some((note, head)) = read_claims(dir)? else {
            return Err(StoreError::NotFound {
                what: format!("log at {}", dir.display()),
            });
        };
        let (origin, _) = Checkpoint::claims(&note)?;
        Ok(Mirror {
            dir: dir.to_owned(),
            note,
            origin,
            head,
        })
    }

    /// The tree that the checkpoint claims, and that the entries lead to.
    pub fn head(&self) -> TreeHead {
        self.head
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.head.size
    }

    /// The origin that the checkpoint claims.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The checkpoint's signed note, as it was fetched.
    pub fn note(&self) -> &[u8] {
        &self.note
    }

    /// One entry.
    ///
    /// # Errors
    /// `OutOfRange`; `Damaged`; `Io`.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, StoreError> {
        if index >= self.size() {
            return Err(LogError::Range {
                what: "entry",
                asked: index,
                size: self.size(),
            }
            .into());
        }
        let first = index - index % TILE_WIDTH;
        let mut entries = self.bundle(first / TILE_WIDTH)?;
        Ok(entries.swap_remove((index - first) as usize))
    }

    /// The entries from this one on, in order, a bundle in memory at a time.
    pub fn entries(&self, from: u64) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> + '_ {
        let bundles = from / TILE_WIDTH..self.size().div_ceil(TILE_WIDTH);
        bundles.flat_map(move |index| {
            let skip = from.saturating_sub(index * TILE_WIDTH) as usize;
            match self.bundle(index) {
                Ok(entries) => entries.into_iter().skip(skip).map(Ok).collect::<Vec<_>>(),
                Err(e) => vec![Err(e)],
            }
        })
    }

    /// Verifies the checkpoint's signatures: with this, everything in the mirror is what the log's key signed.
    ///
    /// # Errors
    /// `Damaged`, naming what is missing.
    pub fn verify(&self, origin: &str, key: &LogVerifier) -> Result<Checkpoint, StoreError> {
        Ok(Checkpoint::open(&self.note, origin, key)?)
    }

    /// The root over the first `size` entries, to compare with a checkpoint seen earlier.
    ///
    /// # Errors
    /// `OutOfRange`; `Damaged`; `Io`.
    pub fn root_at(&self, size: u64) -> Result<Sha256, StoreError> {
        if size > self.size() {
            return Err(LogError::Range {
                what: "tree",
                asked: size,
                size: self.size(),
            }
            .into());
        }
        tree_root(&self.dir, self.size(), size)
    }

    /// Whether the log is a continuation of this earlier head of it, proven from the tiles.
    ///
    /// # Errors
    /// `Damaged`; `Io`.
    pub fn continues(&self, earlier: &TreeHead) -> Result<bool, StoreError> {
        if earlier.size > self.size() {
            return Ok(false);
        }
        let proof = consistency(&self.hashes(), earlier.size, self.size())?;
        let (old, new) = (earlier, &self.head);
        let checked = check_consistency(old.size, &old.root, new.size, &new.root, &proof);
        // Every log continues the empty one.
        Ok(checked.is_ok() && (old.size > 0 || old.root == Tree::new().root()))
    }

    /// Adds an attachment.
    ///
    /// # Errors
    /// `Full`; `Io`.
    pub fn put_attachment(&self, bytes: &[u8]) -> Result<Sha256, StoreError> {
        let failed = |e| StoreError::io("write an attachment of the mirror", e);
        let digest = Sha256::of(bytes);
        let folder = self.dir.join(ATTACHMENT);
        durable::create_dir(&folder).map_err(failed)?;
        durable::write_atomic(&folder.join(digest.to_string()), bytes).map_err(failed)?;
        Ok(digest)
    }

    /// Reads an attachment and checks it. `None` when it is not there.
    ///
    /// # Errors
    /// `Damaged`; `Io`.
    pub fn attachment(&self, digest: &Sha256) -> Result<Option<Vec<u8>>, StoreError> {
        let name = digest.to_string();
        let path = self.dir.join(ATTACHMENT).join(&name);
        match durable::read_bounded(&path, MAX_ATTACHMENT) {
            Ok(bytes) if Sha256::of(&bytes) == *digest => Ok(Some(bytes)),
            Ok(_) => {
                let why = "its bytes are not those of its name".to_owned();
                Err(StoreError::Damaged {
                    what: format!("attachment {name}"),
                    why,
                })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io(format!("read attachment {name}"), e)),
        }
    }

    fn bundle(&self, index: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        let width = (self.size() - index * TILE_WIDTH).min(TILE_WIDTH);
        let tile = TilePath {
            level: Level::Entries,
            index,
            width: width as u16,
        };
        let bytes = read(&self.dir, &tile)?;
        let damaged = |e: LogError| StoreError::Damaged {
            what: tile.to_string(),
            why: e.to_string(),
        };
        let (entries, _) = split_bundle(&bytes, width).map_err(damaged)?;
        self.prove(tile, &entries)?;
        Ok(entries.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// Proves that these are the entries of a bundle: that their hashes, with those of the tiles above, lead to the root.
    fn prove(&self, bundle: TilePath, entries: &[&[u8]]) -> Result<(), StoreError> {
        let leaves: Vec<Sha256> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        let hashes = TileHashes::new(self.size(), |tile: TilePath| {
            if tile.level == Level::Hashes(0) && tile.index == bundle.index {
                return Ok(leaves.iter().flat_map(|leaf| leaf.0).collect());
            }
            read(&self.dir, &tile)
        });
        // The path from the first leaf up passes every other leaf of the bundle.
        let first = bundle.index * TILE_WIDTH;
        let path = inclusion(&hashes, first, self.size())?;
        let leaf = leaves.first().copied().unwrap_or_else(|| leaf_hash(b""));
        check_inclusion(&leaf, first, self.size(), &path, &self.head.root).map_err(|_| {
            StoreError::Damaged {
                what: bundle.to_string(),
                why: "its entries are not those of the tree".to_owned(),
            }
        })
    }

    fn hashes(&self) -> TileHashes<impl Fn(TilePath) -> Result<Vec<u8>, StoreError> + '_> {
        TileHashes::new(self.size(), |tile: TilePath| read(&self.dir, &tile))
    }
}

impl Attachments for Mirror {
    fn get(&self, digest: &Sha256) -> Option<Vec<u8>> {
        self.attachment(digest).ok().flatten()
    }
}

/// Fetches what a mirror lacks of the tree `head`, proves it, and only then gives it its names: a source that lies
/// leaves nothing in the mirror.
fn take(
    dir: &Path,
    source: &dyn LogSource,
    head: &TreeHead,
    before: Option<TreeHead>,
    pins: &[TreeHead],
) -> Result<(), StoreError> {
    let failed = |e| StoreError::io(format!("write the mirror {}", dir.display()), e);
    let incoming = dir.join(INCOMING);
    let stands = before.is_some();
    let attempt = |reuse: bool, edge: Edge| {
        discard(&incoming).map_err(failed)?;
        let mut new = Vec::new();
        let fetch = |tile: TilePath| {
            let standing = Some(dir.join(tile.to_string())).filter(|path| reuse && path.exists());
            match standing {
                Some(_) => read(dir, &tile),
                None => fetched(source, &tile.to_string()),
            }
        };
        let keep = |tile: &TilePath, bytes: &[u8]| {
            if !dir.join(tile.to_string()).exists() {
                write_tile(&incoming, tile, bytes)?;
                new.push(*tile);
            }
            Ok(())
        };
        durable::create_dir(&incoming).map_err(failed)?;
        let forked = walk(edge, head, pins, fetch, keep)?;
        Ok((forked, new))
    };
    // From the right edge of what was proven before. Whatever is wrong on this way is told by the longer one.
    let mut short = None;
    if let Some(edge) = before.and_then(|old| Edge::of(dir, &old, pins).ok().flatten())
        && let Ok((None, new)) = attempt(true, edge)
    {
        short = Some((None, new));
    }
    let whole = |reuse| attempt(reuse, Edge::default());
    let (forked, new) = match short.map_or_else(|| whole(true), Ok) {
        Err(StoreError::Damaged { .. }) if stands => {
            // What is here does not fit what is there: ask for everything, to say which of the two is wrong.
            let (forked, _) = whole(false)?;
            discard(&incoming).map_err(failed)?;
            if let Some(held) = forked {
                return Err(LogError::Forked { held }.into());
            }
            let why = "its own copy does not hold; make a new mirror beside it".to_owned();
            return Err(StoreError::Damaged {
                what: format!("mirror {}", dir.display()),
                why,
            });
        }
        other => other?,
    };
    if let Some(held) = forked {
        discard(&incoming).map_err(failed)?;
        return Err(LogError::Forked { held }.into());
    }
    for tile in new {
        let (from, to) = (incoming.join(tile.to_string()), dir.join(tile.to_string()));
        let folder = to.parent().unwrap_or(dir);
        durable::create_dir(folder).map_err(failed)?;
        fs::rename(from, &to).map_err(failed)?;
        durable::sync_dir(folder).map_err(failed)?;
    }
    discard(&incoming).map_err(failed)
}

/// The right edge of a tree at the end of a full bundle: from there on bundles are gone through.
#[derive(Default)]
struct Edge {
    tree: Tree,
    frontier: Frontier,
}

impl Edge {
    /// The edge of what a mirror holds of the tree `old`; `None` when a head to compare with lies before it. The walk
    /// from there comes by `old` itself, whose root proves the tiles that the edge was read from.
    fn of(dir: &Path, old: &TreeHead, pins: &[TreeHead]) -> Result<Option<Edge>, StoreError> {
        let size = old.size - old.size % TILE_WIDTH;
        if size == 0 || !pins.contains(old) || pins.iter().any(|pin| pin.size < size) {
            return Ok(None);
        }
        let frontier = Frontier::load(size, |tile| read(dir, &tile))?;
        let hashes = TileHashes::new(size, |tile: TilePath| {
            let Level::Hashes(level) = tile.level else {
                return read(dir, &tile);
            };
            match frontier.tile(level, &tile) {
                Some(bytes) => Ok(bytes),
                None => read(dir, &TilePath::full(tile.level, tile.index)),
            }
        });
        let tree = Tree::load(size, &hashes)?;
        Ok(Some(Edge { tree, frontier }))
    }
}

/// Goes through the bundles of a tree from `edge` on, proves that they lead to its root, and hands over every bundle and hash tile that
/// the tree consists of; memory holds the right edge only. Returns the size of a tree of `pins` that it does not
/// continue, if there is one.
fn walk(
    edge: Edge,
    head: &TreeHead,
    pins: &[TreeHead],
    mut fetch: impl FnMut(TilePath) -> Result<Vec<u8>, StoreError>,
    mut keep: impl FnMut(&TilePath, &[u8]) -> Result<(), StoreError>,
) -> Result<Option<u64>, StoreError> {
    let damaged = |what: String, why: &str| StoreError::Damaged {
        what,
        why: why.to_owned(),
    };
    let Edge {
        mut tree,
        mut frontier,
    } = edge;
    let first = tree.size() / TILE_WIDTH;
    let mut forked = None;
    let mut compare = |tree: &Tree| {
        let other = |pin: &&TreeHead| pin.size == tree.size() && pin.root != tree.root();
        if forked.is_none() {
            forked = pins.iter().find(other).map(|pin| pin.size);
        }
    };
    compare(&tree);
    let mut partial = None;
    for index in first..head.size.div_ceil(TILE_WIDTH) {
        let width = (head.size - index * TILE_WIDTH).min(TILE_WIDTH);
        let tile = TilePath {
            level: Level::Entries,
            index,
            width: width as u16,
        };
        let bytes = fetch(tile)?;
        let (entries, end) =
            split_bundle(&bytes, width).map_err(|e| damaged(tile.to_string(), &e.to_string()))?;
        if end != bytes.len() {
            return Err(damaged(tile.to_string(), "bytes after the last entry"));
        }
        for entry in entries {
            let leaf = leaf_hash(entry);
            tree.push(leaf);
            frontier.push(leaf);
            compare(&tree);
        }
        if tile.is_full() {
            keep(&tile, &bytes)?;
            for (tile, bytes) in frontier.take_full() {
                keep(&tile, &bytes)?;
            }
        } else {
            partial = Some((tile, bytes));
        }
    }
    if tree.root() != head.root {
        let why = format!(
            "its {} entries do not lead to its checkpoint's root",
            head.size
        );
        return Err(damaged("the log".to_owned(), &why));
    }
    for (tile, bytes) in partial.into_iter().chain(frontier.tiles()) {
        keep(&tile, &bytes)?;
    }
    Ok(forked)
}

fn discard(incoming: &Path) -> io::Result<()> {
    match fs::remove_dir_all(incoming) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The root of the first `size` entries, from the tiles of the tree of `whole` entries in `dir`.
fn tree_root(dir: &Path, whole: u64, size: u64) -> Result<Sha256, StoreError> {
    let fetch = |tile: TilePath| {
        let Level::Hashes(level) = tile.level else {
            return read(dir, &tile);
        };
        // The tile as wide as the whole tree has it: a mirror need not keep the narrower ones.
        let nodes = whole.checked_shr(8 * u32::from(level)).unwrap_or(0);
        let width = nodes
            .saturating_sub(tile.index * TILE_WIDTH)
            .min(TILE_WIDTH) as u16;
        read(dir, &TilePath { width, ..tile })
    };
    root_at(&TileHashes::new(size, fetch), size)
}

fn read_claims(dir: &Path) -> Result<Option<(Vec<u8>, TreeHead)>, StoreError> {
    match durable::read_bounded(&dir.join(CHECKPOINT), MAX_CHECKPOINT as u64) {
        Ok(note) => {
            let (_, head) = Checkpoint::claims(&note)?;
            Ok(Some((note, head)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io(format!("read {}", dir.display()), e)),
    }
}

fn read(dir: &Path, tile: &TilePath) -> Result<Vec<u8>, StoreError> {
    durable::read_bounded(&dir.join(tile.to_string()), MAX_TILE).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => StoreError::Damaged {
            what: tile.to_string(),
            why: "it is missing".to_owned(),
        },
        _ => StoreError::io(format!("read {tile}"), e),
    })
}

fn fetched(source: &dyn LogSource, path: &str) -> Result<Vec<u8>, StoreError> {
    let missing = || StoreError::NotFound {
        what: format!("log's {path}"),
    };
    source.fetch(path)?.ok_or_else(missing)
}
