//! Reading a log: what is published, from memory where it is the end, from full tiles where it is not.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use legation_core::id::Sha256;
use legation_core::log::{
    Checkpoint, Level, LogVerifier, MAX_CHECKPOINT, TILE_WIDTH, TileHashes, TilePath, Tree, bundle,
    consistency, inclusion, leaf_hash, root_at, split_bundle,
};

use super::frontier::Frontier;
use super::mirror::LogSource;
use super::{CHECKPOINT, MAX_BATCH, TAIL};
use crate::durable;
use crate::store::StoreError;

/// Longest tile: a full bundle of the longest entries.
pub(super) const MAX_TILE: u64 = TILE_WIDTH * 65_537;
/// Longest tail: what is not yet full, and one batch.
pub(super) const MAX_TAIL: u64 = (TILE_WIDTH + MAX_BATCH as u64) * 65_537;

/// The entries after the last settled bundle.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail {
    /// Index of the first one: a multiple of 256.
    base: u64,
    entries: Vec<Arc<[u8]>>,
}

impl Tail {
    /// The file that holds this tail. Of several the highest counts.
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(TAIL)
            .join(format!("{:012}", self.base / TILE_WIDTH))
    }

    /// An empty tail after `base` entries.
    pub(super) fn at(base: u64) -> Tail {
        Tail {
            base,
            entries: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn entries(&self) -> &[Arc<[u8]>] {
        &self.entries
    }

    pub(super) fn push(&mut self, entry: &[u8]) {
        self.entries.push(Arc::from(entry));
    }

    /// Takes the first 256 entries, with the number of their bundle.
    pub(super) fn take_full(&mut self) -> Option<(u64, Vec<Arc<[u8]>>)> {
        if self.len() < TILE_WIDTH {
            return None;
        }
        let full = self.entries.drain(..TILE_WIDTH as usize).collect();
        let index = self.base / TILE_WIDTH;
        self.base += TILE_WIDTH;
        Some((index, full))
    }

    /// Entries of bundle `index` that are here: the first `width`.
    fn bundle(&self, index: u64, width: usize) -> Option<&[Arc<[u8]>]> {
        let start = index.checked_mul(TILE_WIDTH)?.checked_sub(self.base)?;
        let start = usize::try_from(start).ok()?;
        self.entries.get(start..start + width)
    }
}

/// One published state of a log.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) checkpoint: Checkpoint,
    pub(super) tail: Tail,
    pub(super) frontier: Frontier,
}

/// Reads what the checkpoint in `dir` covers, and proves that tail and tiles lead to its root. Returns also the tree, and
/// how many bytes of the tail count.
pub(super) fn load(
    dir: &Path,
    origin: &str,
    key: &LogVerifier,
) -> Result<(Published, Tree, u64), StoreError> {
    let failed = |e| StoreError::io(format!("read the log in {}", dir.display()), e);
    let damaged = |why: String| StoreError::Damaged {
        what: "the log".to_owned(),
        why,
    };
    // The tail is read after the checkpoint: what the checkpoint covers is then in it, or already settled.
    let note = match durable::read_bounded(&dir.join(CHECKPOINT), MAX_CHECKPOINT as u64) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::NotFound {
                what: format!("log at {}", dir.display()),
            });
        }
        other => other.map_err(failed)?,
    };
    let checkpoint = Checkpoint::open(&note, origin, key)?;
    let size = checkpoint.size();
    let number = last_tail(&dir.join(TAIL)).map_err(failed)?.unwrap_or(0);
    let mut tail = Tail {
        base: number.saturating_mul(TILE_WIDTH),
        entries: Vec::new(),
    };
    let count = size.checked_sub(tail.base).ok_or_else(|| {
        damaged(format!(
            "its tail begins at {} but its checkpoint has size {size}",
            tail.base
        ))
    })?;
    let bytes = match durable::read_bounded(&tail.path(dir), MAX_TAIL) {
        // Nothing there: whether that is enough, the count says.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(failed)?,
    };
    let (entries, held) = split_bundle(&bytes, count).map_err(|e| {
        damaged(format!(
            "its checkpoint has size {size}, but in its tail {e}"
        ))
    })?;
    let mut frontier = Frontier::load(tail.base, |path| read_tile(dir, &path))?;
    for entry in entries {
        tail.push(entry);
        frontier.push(leaf_hash(entry));
    }
    let published = Published {
        checkpoint,
        tail,
        frontier,
    };
    let hashes = TileHashes::new(size, |path| published.hash_tile(dir, path));
    let tree = Tree::load(size, &hashes)?;
    if tree.root() != published.checkpoint.root() {
        return Err(damaged(format!(
            "its {size} entries do not lead to its checkpoint's root"
        )));
    }
    Ok((published, tree, held as u64))
}

impl Published {
    fn hash_tile(&self, dir: &Path, tile: TilePath) -> Result<Vec<u8>, StoreError> {
        let Level::Hashes(level) = tile.level else {
            let why = "not a tile of hashes".to_owned();
            return Err(StoreError::Refused {
                what: tile.to_string(),
                why,
            });
        };
        match self.frontier.tile(level, &tile) {
            Some(bytes) => Ok(bytes),
            None => read_tile(dir, &TilePath::full(tile.level, tile.index)),
        }
    }

    /// The first `width` entries of a bundle, checked against the hash tile over them.
    fn bundle(&self, dir: &Path, index: u64, width: u16) -> Result<Vec<Vec<u8>>, StoreError> {
        if let Some(entries) = self.tail.bundle(index, usize::from(width)) {
            return Ok(entries.iter().map(|e| e.to_vec()).collect());
        }
        let path = TilePath::full(Level::Entries, index);
        let damaged = |why: String| StoreError::Damaged {
            what: path.to_string(),
            why,
        };
        let bytes = read_tile(dir, &path)?;
        let (entries, end) =
            split_bundle(&bytes, TILE_WIDTH).map_err(|e| damaged(e.to_string()))?;
        if end != bytes.len() {
            return Err(damaged("bytes after the last entry".to_owned()));
        }
        let hashes = self.hash_tile(dir, TilePath::full(Level::Hashes(0), index))?;
        for (number, (entry, hash)) in entries.iter().zip(hashes.chunks(32)).enumerate() {
            if leaf_hash(entry).0 != hash {
                let entry = index * TILE_WIDTH + number as u64;
                return Err(damaged(format!("entry {entry} is not the one in the tree")));
            }
        }
        Ok(entries
            .into_iter()
            .take(usize::from(width))
            .map(<[u8]>::to_vec)
            .collect())
    }
}

/// What a log has published. Cheap to clone; every call sees the newest state.
#[derive(Debug, Clone)]
pub struct LogReader {
    dir: PathBuf,
    published: Arc<RwLock<Arc<Published>>>,
}

impl LogReader {
    pub(super) fn new(dir: &Path, published: Arc<RwLock<Arc<Published>>>) -> LogReader {
        LogReader {
            dir: dir.to_owned(),
            published,
        }
    }

    /// Opens another process's log for reading, as it is now: entries up to its checkpoint, which is verified. To see
    /// what came later, open it again.
    ///
    /// # Errors
    /// `NotFound`; `Damaged`; `Io`.
    pub fn open(dir: &Path, origin: &str, key: &LogVerifier) -> Result<LogReader, StoreError> {
        // The writer may settle between our reads; then a second look finds everything in its new place.
        let loaded = load(dir, origin, key).or_else(|_| load(dir, origin, key));
        let (published, _, _) = loaded?;
        Ok(LogReader::new(
            dir,
            Arc::new(RwLock::new(Arc::new(published))),
        ))
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        self.now().checkpoint.clone()
    }

    /// Number of entries published.
    pub fn size(&self) -> u64 {
        self.now().checkpoint.size()
    }

    /// One entry.
    ///
    /// # Errors
    /// `OutOfRange`; `Damaged`; `Io`.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, StoreError> {
        let mut entries = self.entries(index..index.saturating_add(1))?;
        entries
            .pop()
            .ok_or_else(|| outside(index, index.saturating_add(1), self.size()))
    }

    /// Entries in order, at most 256 at a time: fewer than asked for are a reason to ask again.
    ///
    /// # Errors
    /// `OutOfRange`; `Damaged`; `Io`.
    pub fn entries(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, StoreError> {
        let now = self.now();
        let size = now.checkpoint.size();
        if range.start > range.end || range.end > size {
            return Err(outside(range.start, range.end, size));
        }
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let index = range.start / TILE_WIDTH;
        let first = index * TILE_WIDTH;
        let end = range.end.min(first + TILE_WIDTH);
        let mut entries = now.bundle(&self.dir, index, (end - first) as u16)?;
        entries.drain(..(range.start - first) as usize);
        Ok(entries)
    }

    /// All entries from the first, for replay. The last item is an error unless they lead to the checkpoint's root.
    pub fn replay(&self) -> Replay {
        let now = self.now();
        let reader = LogReader::new(&self.dir, Arc::new(RwLock::new(Arc::clone(&now))));
        Replay {
            reader,
            now,
            tree: Tree::new(),
            batch: Vec::new().into_iter(),
            done: false,
        }
    }

    /// The proof that entry `index` is in the tree of `size` entries.
    ///
    /// # Errors
    /// `OutOfRange`; `Damaged`; `Io`.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Sha256>, StoreError> {
        self.with_tree(size, |hashes| inclusion(hashes, index, size))
    }

    /// The proof that the tree of `old` entries is a prefix of that of `new`.
    ///
    /// # Errors
    /// `OutOfRange`; `Damaged`; `Io`.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Sha256>, StoreError> {
        self.with_tree(new, |hashes| consistency(hashes, old, new))
    }

    /// The root over the first `size` entries.
    ///
    /// # Errors
    /// `OutOfRange`; `Damaged`; `Io`.
    pub fn root_at(&self, size: u64) -> Result<Sha256, StoreError> {
        self.with_tree(size, |hashes| root_at(hashes, size))
    }

    fn with_tree<T>(
        &self,
        size: u64,
        ask: impl FnOnce(
            &TileHashes<&dyn Fn(TilePath) -> Result<Vec<u8>, StoreError>>,
        ) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let now = self.now();
        if size > now.checkpoint.size() {
            return Err(outside(size, size, now.checkpoint.size()));
        }
        let fetch = |path| now.hash_tile(&self.dir, path);
        ask(&TileHashes::new(size, &fetch))
    }

    fn now(&self) -> Arc<Published> {
        Arc::clone(
            &self
                .published
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl LogSource for LogReader {
    fn fetch(&self, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let now = self.now();
        if path == CHECKPOINT {
            return Ok(Some(now.checkpoint.note().as_bytes().to_vec()));
        }
        let Ok(tile) = path.parse::<TilePath>() else {
            return Ok(None);
        };
        if !tile.is_in(now.checkpoint.size()) {
            return Ok(None);
        }
        if tile.level == Level::Entries {
            let entries = now.bundle(&self.dir, tile.index, tile.width)?;
            return Ok(Some(bundle(&entries)?));
        }
        let mut bytes = now.hash_tile(&self.dir, tile)?;
        bytes.truncate(usize::from(tile.width) * 32);
        Ok(Some(bytes))
    }
}

/// Entries from the first to the last published, proven at the end against the checkpoint.
#[derive(Debug)]
pub struct Replay {
    reader: LogReader,
    now: Arc<Published>,
    tree: Tree,
    batch: std::vec::IntoIter<Vec<u8>>,
    done: bool,
}

impl Replay {
    /// The checkpoint that the entries are proven against.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.now.checkpoint
    }
}

impl Iterator for Replay {
    type Item = Result<Vec<u8>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.batch.len() == 0 {
            let (at, size) = (self.tree.size(), self.now.checkpoint.size());
            if at == size {
                self.done = true;
                if self.tree.root() == self.now.checkpoint.root() {
                    return None;
                }
                let why = format!("its {size} entries do not lead to its checkpoint's root");
                return Some(Err(StoreError::Damaged {
                    what: "the log".to_owned(),
                    why,
                }));
            }
            match self.reader.entries(at..size) {
                Ok(batch) => self.batch = batch.into_iter(),
                Err(e) => {
                    self.done = true;
                    return Some(Err(e));
                }
            }
        }
        let entry = self.batch.next()?;
        self.tree.push(leaf_hash(&entry));
        Some(Ok(entry))
    }
}

fn outside(start: u64, end: u64, size: u64) -> StoreError {
    StoreError::OutOfRange {
        what: "the log".to_owned(),
        start,
        end,
        size,
    }
}

fn read_tile(dir: &Path, tile: &TilePath) -> Result<Vec<u8>, StoreError> {
    durable::read_bounded(&dir.join(tile.to_string()), MAX_TILE).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => StoreError::Damaged {
            what: tile.to_string(),
            why: "it is missing".to_owned(),
        },
        _ => StoreError::io(format!("read {tile}"), e),
    })
}

/// The highest tail's number.
pub(super) fn last_tail(tails: &Path) -> io::Result<Option<u64>> {
    let mut last = None;
    for entry in fs::read_dir(tails)? {
        let number = entry?
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u64>().ok());
        last = last.max(number);
    }
    Ok(last)
}
