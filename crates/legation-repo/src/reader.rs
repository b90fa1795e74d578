//! Opens one version at random: any block of any file by one or two small reads, nothing else touched. Every byte is
//! checked before it is handed out, and an error says which pack and which of its bytes.
//!
//! Two levels of checking. [`Check::Seal`] relies on the seal: whoever does not hold the epoch's root cannot make a
//! frame that opens. [`Check::Whole`] also checks each pack as a whole against the digest in the signed commit when it
//! is first needed, which holds even against somebody who does.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use legation_core::error::FormatError;
use legation_core::id::{Digest, EpochNo, RegistryId, StateId, VersionNo};
use legation_core::keys::EpochRoot;
use legation_core::list::{ListRow, PackList};
use legation_core::manifest::{Entry, EntryKind, Extent, Extents, Node, Root};
use legation_core::pack::{FrameRef, PACK_HEADER, PackHeader, PackOpener};
use legation_core::size::SizeClass;
use legation_core::source::{ObjectKind, ObjectSource, Restorer, SourceError};
use zeroize::Zeroizing;

use cache::Lru;

mod cache;

/// The usual bound of the cache of opened frames, in bytes.
pub const DEFAULT_CACHE: usize = 32 * 1024 * 1024;
/// How deep a tree of nodes may be: with the least fan-out that still is 2^16 leaves, in practice it is 3.
const MAX_DEPTH: usize = 16;
/// How many bytes of packs that were checked whole stay at hand: four of the largest.
const WHOLE_PACKS: usize = 4 * SizeClass::M16.bytes();
/// How many packs keep their derived key at hand.
const MAX_OPENERS: usize = 1024;
/// The most bytes that one call of [`VersionReader::read`] returns.
pub const MAX_READ: usize = 16 * 1024 * 1024;

/// Why a version could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Stored bytes are not what was sealed.
    #[error("{kind} {digest}, bytes {start}..{end}: {why}")]
    Damaged {
        /// The kind of object.
        kind: ObjectKind,
        /// Its name.
        digest: Digest,
        /// Where the bytes start.
        start: u64,
        /// Where they end.
        end: u64,
        /// What is wrong with them.
        why: Box<FormatError>,
    },
    /// What was opened contradicts the commit or itself.
    #[error("the version is inconsistent: {0}")]
    Inconsistent(String),
    /// A needed epoch is not among the keys.
    #[error("no key of epoch {epoch}: it is not in the scope of the order that released the keys")]
    NoKey {
        /// The epoch.
        epoch: EpochNo,
    },
    /// No such path, source or range.
    #[error("{0}")]
    NotFound(String),
    /// The store or the receiving side.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// How far the bytes of packs are checked before use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Each frame by its seal: one small read for one block.
    Seal,
    /// Each pack by its digest at its first use, then each frame by its seal: for restoring.
    Whole,
}

/// Epoch roots that were released.
pub trait KeySource: Send + Sync {
    /// The root of this epoch, if it was released.
    fn root(&self, epoch: EpochNo) -> Option<EpochRoot>;
}

impl KeySource for BTreeMap<EpochNo, EpochRoot> {
    fn root(&self, epoch: EpochNo) -> Option<EpochRoot> {
        self.get(&epoch).cloned()
    }
}

/// What the signed commit says about the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionName {
    /// The state.
    pub state: StateId,
    /// The registry.
    pub registry: RegistryId,
    /// The version.
    pub version: VersionNo,
    /// The digest of its pack list.
    pub list: Digest,
    /// The frame of its root node.
    pub root: FrameRef,
}

/// What a restore has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Entries restored.
    pub entries: u64,
    /// Bytes of files restored, holes included.
    pub bytes: u64,
}

/// One version, opened. Any number of threads may read from it.
pub struct VersionReader {
    name: VersionName,
    source: Arc<dyn ObjectSource>,
    keys: Arc<dyn KeySource>,
    list: PackList,
    root: Root,
    check: Check,
    frames: Mutex<Lru<(EpochNo, u32, u32), Frame>>,
    openers: Mutex<Lru<(EpochNo, u32), Arc<PackOpener>>>,
    whole: Mutex<Whole>,
}

type Frame = Arc<Zeroizing<Vec<u8>>>;

/// Packs that were checked whole: which, and the bytes of the last few.
struct Whole {
    checked: HashSet<Digest>,
    packs: Lru<Digest, Arc<Vec<u8>>>,
}

impl VersionReader {
    /// Fetches the list and the root and checks them against the commit and each other.
    /// `cache` bounds the memory for opened frames, in bytes.
    ///
    /// # Errors
    /// As every method of this type.
    pub fn open(
        source: Arc<dyn ObjectSource>,
        keys: Arc<dyn KeySource>,
        name: &VersionName,
        check: Check,
        cache: usize,
    ) -> Result<Self, ReadError> {
        let list = fetch_list(&*source, name)?;
        let mut reader = Self {
            name: *name,
            source,
            keys,
            list,
            root: Root {
                registry: name.registry,
                version: name.version,
                sources: Vec::new(),
                packs_digest: Digest([0; 32]),
            },
            check,
            frames: Mutex::new(Lru::new(cache)),
            whole: Mutex::new(Whole {
                checked: HashSet::new(),
                packs: Lru::new(WHOLE_PACKS),
            }),
            openers: Mutex::new(Lru::new(MAX_OPENERS)),
        };
        let alone = name.root.index == 0 && name.root.offset as usize == PACK_HEADER;
        let Node::Root(root) = reader.node(&name.root)? else {
            return Err(inconsistent("the commit's root is another kind of node"));
        };
        if !alone || root.registry != name.registry || root.version != name.version {
            return Err(inconsistent("the root is that of another version"));
        }
        if root.packs_digest != reader.list.packs_digest((name.root.epoch, name.root.seq)) {
            return Err(inconsistent(
                "the root binds other packs than the commit lists",
            ));
        }
        reader.root = root;
        Ok(reader)
    }

    /// The root: sources, their facts and counts.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The packs of the version.
    #[must_use]
    pub fn list(&self) -> &PackList {
        &self.list
    }

    /// The number of the source with this name.
    #[must_use]
    pub fn source_named(&self, name: &str) -> Option<usize> {
        self.root.sources.iter().position(|s| s.name == name)
    }

    /// The entry of this path, or `None`.
    ///
    /// # Errors
    /// `NotFound` for a source that is not there; damage and missing keys as everywhere.
    pub fn entry(&self, source: usize, path: &[u8]) -> Result<Option<Entry>, ReadError> {
        let mut found = None;
        self.walk(source, path, &mut |entry| {
            // The exact path sorts before everything that it is a prefix of.
            if entry.path == path {
                found = Some(entry);
            }
            Ok(false)
        })?;
        Ok(found)
    }

    /// Calls `f` for every entry whose path starts with these bytes, ascending, until it returns `false`.
    ///
    /// # Errors
    /// As every method; what `f` returns.
    pub fn walk(
        &self,
        source: usize,
        prefix: &[u8],
        f: &mut dyn FnMut(Entry) -> Result<bool, ReadError>,
    ) -> Result<(), ReadError> {
        let tree = self.root.sources.get(source);
        let tree =
            tree.ok_or_else(|| ReadError::NotFound(format!("the version has no source {source}")))?;
        if let Some(at) = &tree.tree {
            self.walk_node(
                at,
                &Within {
                    prefix,
                    first: None,
                    end: None,
                },
                MAX_DEPTH,
                f,
            )?;
        }
        Ok(())
    }

    /// Up to `len` bytes of a file from `offset`; fewer only at its end. Holes read as zeros.
    ///
    /// # Errors
    /// `NotFound` for something that is no file; damage and missing keys as everywhere.
    pub fn read(&self, entry: &Entry, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        if entry.kind != EntryKind::File {
            return Err(ReadError::NotFound(format!(
                "{} is no file",
                lossy(&entry.path)
            )));
        }
        let end = entry
            .size
            .min(offset.saturating_add(len.min(MAX_READ) as u64));
        let mut out = vec![0; end.saturating_sub(offset) as usize];
        self.extents(entry, offset, end, &mut |extent| {
            let frame = self.frame(&extent.frame)?;
            // Both ends lie in the extent and in the range that was asked for, so in both buffers.
            let (from, to) = (extent.offset.max(offset), extent.end().min(end));
            let within = extent.within as usize + (from - extent.offset) as usize;
            let bytes = frame.get(within..within + (to - from) as usize);
            let place = out.get_mut((from - offset) as usize..(to - offset) as usize);
            let (Some(bytes), Some(place)) = (bytes, place) else {
                return Err(inconsistent("an extent leaves its frame"));
            };
            place.copy_from_slice(bytes);
            Ok(())
        })?;
        Ok(out)
    }

    /// Gives the entries of one source whose paths start with `prefix` to `to`: all but hard links in order of their
    /// paths, then the hard links.
    ///
    /// # Errors
    /// As every method; what `to` says.
    pub fn restore(
        &self,
        source: usize,
        prefix: &[u8],
        to: &mut dyn Restorer,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Progress, ReadError> {
        let mut done = Progress::default();
        let mut links = Vec::new();
        self.walk(source, prefix, &mut |entry| {
            if matches!(entry.kind, EntryKind::Hardlink { .. }) {
                links.push(entry);
                return Ok(true);
            }
            to.begin(&entry)?;
            self.extents(&entry, 0, entry.size, &mut |extent| {
                let frame = self.frame(&extent.frame)?;
                let (from, len) = (extent.within as usize, extent.len as usize);
                let bytes = frame.get(from..from + len);
                let bytes = bytes.ok_or_else(|| inconsistent("an extent leaves its frame"))?;
                Ok(to.data(extent.offset, bytes)?)
            })?;
            to.end()?;
            done.entries += 1;
            done.bytes += entry.size;
            progress(done);
            Ok(true)
        })?;
        for entry in links {
            to.begin(&entry)?;
            to.end()?;
            done.entries += 1;
            progress(done);
        }
        Ok(done)
    }

    /// The sealed bytes of a part of a pack, from a pack that was checked whole if that was asked for.
    fn sealed(&self, row: &ListRow, start: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        let end = start + len as u64;
        if end > row.size.bytes() as u64 {
            return Err(inconsistent("a frame leaves its pack"));
        }
        if self.check == Check::Whole {
            let part = |pack: &[u8]| pack.get(start as usize..end as usize).map(<[u8]>::to_vec);
            let held = {
                let mut whole = lock(&self.whole);
                (
                    whole.packs.get(&row.digest),
                    whole.checked.contains(&row.digest),
                )
            };
            let found = match held {
                (Some(pack), _) => part(&pack),
                (None, true) => None,
                (None, false) => part(&self.fetch_whole(row)?),
            };
            if let Some(bytes) = found {
                return Ok(bytes);
            }
        }
        Ok(self
            .source
            .read(ObjectKind::Pack, &row.digest, start, len)?)
    }

    /// Reads a pack whole and checks it against its digest.
    fn fetch_whole(&self, row: &ListRow) -> Result<Arc<Vec<u8>>, ReadError> {
        let bytes = self
            .source
            .read(ObjectKind::Pack, &row.digest, 0, row.size.bytes())?;
        let found = Digest::of(&bytes);
        if found != row.digest {
            let (expected, found) = (row.digest.short(), found.short());
            let why = FormatError::Misplaced {
                what: "pack",
                field: "digest",
                expected,
                found,
            };
            return Err(damaged(row, 0, row.size.bytes() as u64, why));
        }
        let bytes = Arc::new(bytes);
        let mut whole = lock(&self.whole);
        whole.checked.insert(row.digest);
        whole.packs.put(row.digest, bytes.clone(), bytes.len());
        Ok(bytes)
    }

    /// The frame's plaintext, from the cache or from the store.
    fn frame(&self, at: &FrameRef) -> Result<Frame, ReadError> {
        let key = (at.epoch, at.seq, at.index);
        if let Some(frame) = lock(&self.frames).get(&key) {
            // A second reference to the same frame must not differ in what it says about it.
            if frame.len() == at.plain as usize {
                return Ok(frame);
            }
            return Err(inconsistent("two references to one frame differ"));
        }
        let row = *self.row(at)?;
        let opener = self.opener(&row)?;
        let (start, len) = (u64::from(at.offset), at.sealed as usize);
        let sealed = self.sealed(&row, start, len)?;
        let plain = opener
            .open(at, &sealed)
            .map_err(|why| damaged(&row, start, start + len as u64, why))?;
        let frame = Arc::new(plain);
        lock(&self.frames).put(key, frame.clone(), frame.len());
        Ok(frame)
    }

    /// The key of a pack, after its header was checked against where the list says it belongs.
    fn opener(&self, row: &ListRow) -> Result<Arc<PackOpener>, ReadError> {
        let key = (row.epoch, row.seq);
        if let Some(opener) = lock(&self.openers).get(&key) {
            return Ok(opener);
        }
        let root = self
            .keys
            .root(row.epoch)
            .ok_or(ReadError::NoKey { epoch: row.epoch })?;
        let bytes = self.sealed(row, 0, PACK_HEADER)?;
        let bad = |why| damaged(row, 0, PACK_HEADER as u64, why);
        let header = PackHeader::parse(&bytes).map_err(bad)?;
        let here = (header.state, header.registry, header.epoch, header.seq);
        if here != (self.name.state, self.name.registry, row.epoch, row.seq) {
            return Err(bad(FormatError::Misplaced {
                what: "pack",
                field: "state, registry, epoch or number",
                expected: format!(
                    "{} {} {}:{}",
                    self.name.state, self.name.registry, row.epoch, row.seq
                ),
                found: format!(
                    "{} {} {}:{}",
                    header.state, header.registry, header.epoch, header.seq
                ),
            }));
        }
        let opener = Arc::new(PackOpener::new(&header, &root).map_err(bad)?);
        lock(&self.openers).put(key, opener.clone(), 1);
        Ok(opener)
    }

    fn row(&self, at: &FrameRef) -> Result<&ListRow, ReadError> {
        self.list.find(at.epoch, at.seq).ok_or_else(|| {
            ReadError::Inconsistent(format!(
                "pack {}:{} is not in the commit's list",
                at.epoch, at.seq
            ))
        })
    }

    fn node(&self, at: &FrameRef) -> Result<Node, ReadError> {
        let frame = self.frame(at)?;
        let row = self.row(at)?;
        let start = u64::from(at.offset);
        Node::decode(&frame).map_err(|why| damaged(row, start, start + u64::from(at.sealed), why))
    }

    /// Returns whether to go on.
    fn walk_node(
        &self,
        at: &FrameRef,
        within: &Within<'_>,
        depth: usize,
        f: &mut dyn FnMut(Entry) -> Result<bool, ReadError>,
    ) -> Result<bool, ReadError> {
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| inconsistent("the tree of nodes is too deep"))?;
        match self.node(at)? {
            Node::Leaf(entries) => {
                within.check(
                    entries.first().map(|e| &*e.path),
                    entries.last().map(|e| &*e.path),
                )?;
                for entry in entries {
                    if entry.path.starts_with(within.prefix) {
                        if !f(entry)? {
                            return Ok(false);
                        }
                    } else if *entry.path > *within.prefix {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Node::Inner(children) => {
                within.check(
                    children.first().map(|c| &*c.0),
                    children.last().map(|c| &*c.0),
                )?;
                for (i, (first, child)) in children.iter().enumerate() {
                    let end = children.get(i + 1).map(|c| &*c.0).or(within.end);
                    // All of this child lies before the prefix.
                    if end.is_some_and(|end| end <= within.prefix) {
                        continue;
                    }
                    if **first > *within.prefix && !first.starts_with(within.prefix) {
                        return Ok(false);
                    }
                    let below = Within {
                        prefix: within.prefix,
                        first: Some(first),
                        end,
                    };
                    if !self.walk_node(child, &below, depth, f)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Err(inconsistent("a node of entries was expected")),
        }
    }

    /// Calls `f` for the extents of a file that touch `from..to`, ascending.
    fn extents(
        &self,
        entry: &Entry,
        from: u64,
        to: u64,
        f: &mut dyn FnMut(&Extent) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        match &entry.extents {
            Extents::Inline(extents) => extents_between(extents, from, to).iter().try_for_each(f),
            Extents::Tree { root, .. } => {
                let mut range = Range {
                    from,
                    to,
                    size: entry.size,
                    first: None,
                    end: u64::MAX,
                };
                self.extent_node(root, &mut range, MAX_DEPTH, f)
            }
        }
    }

    fn extent_node(
        &self,
        at: &FrameRef,
        range: &mut Range,
        depth: usize,
        f: &mut dyn FnMut(&Extent) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| inconsistent("the tree of extents is too deep"))?;
        match self.node(at)? {
            Node::Extents(extents) => {
                let end = extents.last().map_or(0, Extent::end);
                range.check(extents.first().map(|e| e.offset), end)?;
                extents_between(&extents, range.from, range.to)
                    .iter()
                    .try_for_each(f)
            }
            Node::ExtentInner(children) => {
                let end = children.last().map_or(0, |c| c.0);
                range.check(children.first().map(|c| c.0), end)?;
                let after = range.end;
                for (i, (first, child)) in children.iter().enumerate() {
                    let end = children.get(i + 1).map_or(after, |c| c.0);
                    if end <= range.from || *first >= range.to {
                        continue;
                    }
                    (range.first, range.end) = (Some(*first), end);
                    self.extent_node(child, range, depth, f)?;
                }
                Ok(())
            }
            _ => Err(inconsistent("a node of extents was expected")),
        }
    }
}

impl std::fmt::Debug for VersionReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VersionReader")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The bounds that the nodes above set for the paths of one node.
struct Within<'a> {
    prefix: &'a [u8],
    first: Option<&'a [u8]>,
    end: Option<&'a [u8]>,
}

impl Within<'_> {
    fn check(&self, first: Option<&[u8]>, last: Option<&[u8]>) -> Result<(), ReadError> {
        let starts = self.first.is_none_or(|f| Some(f) == first);
        let ends = self
            .end
            .is_none_or(|end| last.is_some_and(|last| last < end));
        if starts && ends {
            Ok(())
        } else {
            Err(inconsistent(
                "a node holds other paths than the one above it says",
            ))
        }
    }
}

/// What is wanted of a file, and the bounds that the nodes above set for one node's extents.
struct Range {
    from: u64,
    to: u64,
    size: u64,
    first: Option<u64>,
    end: u64,
}

impl Range {
    fn check(&self, first: Option<u64>, end: u64) -> Result<(), ReadError> {
        let starts = self.first.is_none_or(|f| Some(f) == first);
        if starts && end <= self.end.min(self.size) {
            return Ok(());
        }
        Err(inconsistent(
            "a node holds other extents than the one above it says",
        ))
    }
}

/// The extents that touch `from..to`.
fn extents_between(extents: &[Extent], from: u64, to: u64) -> &[Extent] {
    let first = extents.partition_point(|e| e.end() <= from);
    let last = extents.partition_point(|e| e.offset < to);
    extents.get(first..last.max(first)).unwrap_or_default()
}

/// The list is checked whole against its digest, which names it; its padding makes it one of seven sizes.
fn fetch_list(source: &dyn ObjectSource, name: &VersionName) -> Result<PackList, ReadError> {
    let bad = |end: usize, why| ReadError::Damaged {
        kind: ObjectKind::List,
        digest: name.list,
        start: 0,
        end: end as u64,
        why: Box::new(why),
    };
    // The count in the header tells the size.
    let head = source.read(ObjectKind::List, &name.list, 0, SizeClass::K4.bytes())?;
    let size = PackList::size_of(&head).map_err(|why| bad(head.len(), why))?;
    let bytes = if size == SizeClass::K4 {
        head
    } else {
        source.read(ObjectKind::List, &name.list, 0, size.bytes())?
    };
    if Digest::of(&bytes) != name.list {
        let why = FormatError::Misplaced {
            what: "pack list",
            field: "digest",
            expected: name.list.short(),
            found: Digest::of(&bytes).short(),
        };
        return Err(bad(bytes.len(), why));
    }
    let list = PackList::decode(&bytes).map_err(|why| bad(bytes.len(), why))?;
    if (list.state, list.registry) != (name.state, name.registry) {
        return Err(inconsistent(
            "the pack list is of another state or registry",
        ));
    }
    Ok(list)
}

fn damaged(row: &ListRow, start: u64, end: u64, why: FormatError) -> ReadError {
    let (kind, digest, why) = (ObjectKind::Pack, row.digest, Box::new(why));
    ReadError::Damaged {
        kind,
        digest,
        start,
        end,
        why,
    }
}

fn inconsistent(why: &str) -> ReadError {
    ReadError::Inconsistent(why.to_owned())
}

fn lossy(path: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(path)
}

/// The caches hold no invariant that a panic elsewhere could break.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
