//! Turns what a source says into sealed packs: cuts frames, fills packs, builds the manifest's tree, ends with the
//! root. It holds at most one open pack, one window of a file and the entries of the version; it knows no source and
//! no store.

use std::collections::BTreeMap;

use legation_core::id::{EpochNo, RegistryId, StateId, VersionNo};
use legation_core::keys::{Entropy, EpochRoot};
use legation_core::list::{ListRow, PackList};
use legation_core::manifest::{
    Entry, EntryKind, Extent, Extents, MAX_INLINE_EXTENTS, MAX_META, MAX_NAME, MAX_SOURCES,
    MAX_SPANS, Node, PackSpan, Root, SourceRoot,
};
use legation_core::pack::{FrameRef, PackBuilder, SealedPack};
use legation_core::source::{Sink, SourceError, SourceResult};
use zeroize::Zeroizing;

use index::Index;

pub mod blocks;
pub mod index;
pub mod map;
mod tree;

/// What a frame of a file holds: large enough to compress well, small enough to fetch for one page.
pub const WINDOW: u64 = 128 * 1024;
/// How many extents go into one node: 40 bytes each, below [`NODE_TARGET`].
const EXTENTS_PER_NODE: usize = 1600;
/// How many children an inner node of extents has: 32 bytes each, below [`NODE_TARGET`].
const CHILDREN_PER_NODE: usize = 2000;

/// Where finished packs go. Packs come in order of their numbers, each once.
pub trait PackSink {
    /// Takes a pack. When it returns, the pack is safe enough for the caller's purpose: the writer forgets it.
    ///
    /// # Errors
    /// When it cannot be kept; the version is then abandoned.
    fn pack(&mut self, seq: u32, pack: SealedPack) -> SourceResult<()>;

    /// Whether epochs change while a version is written. Then the writer keeps a root no longer than the pack that it
    /// fills, and asks [`PackSink::renew`].
    fn renews(&self) -> bool {
        false
    }

    /// Asked before each frame: the epoch to go on under; `None` if that is still the one whose root is `held`. If it is
    /// not, the pack that is open under it is sealed and handed on, and this is asked again with nothing held.
    ///
    /// # Errors
    /// When there is no epoch to seal under; the version is then abandoned.
    fn renew(&mut self, held: Option<EpochNo>) -> SourceResult<Option<Renewed>> {
        let _ = held;
        Ok(None)
    }
}

/// The epoch that a version goes on under.
pub struct Renewed {
    /// Its number: above those before.
    pub epoch: EpochNo,
    /// Its root.
    pub root: EpochRoot,
    /// The first number of a pack that it has not used.
    pub next_seq: u32,
}

/// Keeps the packs in memory: for tests and small versions.
impl PackSink for Vec<(u32, SealedPack)> {
    fn pack(&mut self, seq: u32, pack: SealedPack) -> SourceResult<()> {
        self.push((seq, pack));
        Ok(())
    }
}

/// Where a version is written: its packs continue the epoch's numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The state.
    pub state: StateId,
    /// The registry.
    pub registry: RegistryId,
    /// The epoch whose root seals.
    pub epoch: EpochNo,
    /// The first number of a pack that this epoch has not used.
    pub next_seq: u32,
}

/// A finished version: what its commit names, and what the agent keeps for the next one.
#[derive(Debug)]
pub struct Finished {
    /// The frame of the root node.
    pub root: FrameRef,
    /// All packs, own and referenced: the list object of the commit.
    pub list: PackList,
    /// What the agent keeps at home to find what does not change.
    pub index: Index,
    /// The sum of the files' sizes.
    pub bytes: u64,
    /// The sum of the sizes of the packs that were written.
    pub sealed: u64,
    /// The next unused number of a pack.
    pub next_seq: u32,
}

/// Writes one version. Feed each source between [`VersionWriter::source`] and the next, then [`VersionWriter::finish`].
pub struct VersionWriter<'a> {
    place: Place,
    /// Wiped with each sealed pack if the sink renews.
    root: Option<EpochRoot>,
    /// Whether the open file lies in as many epochs as its entry can name: it is ended under the newest.
    pinned: bool,
    packs: &'a mut dyn PackSink,
    rng: &'a mut dyn Entropy,
    /// The version before this one, empty if there is none.
    parent: &'a Index,
    open_pack: PackBuilder,
    /// Packs of this run and packs of the parent that this version refers to.
    rows: BTreeMap<(EpochNo, u32), ListRow>,
    sealed: u64,
    sources: Vec<Source>,
    file: Option<OpenFile>,
    /// Small files and tails, waiting to share a frame.
    shared: Zeroizing<Vec<u8>>,
    waiting: Vec<Waiting>,
    content: Content,
    /// What is kept of files that change in place.
    maps: Option<blocks::Maps>,
}

/// What was written of files, without the tree that lists them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Content {
    /// Its bytes.
    pub plain: u64,
    /// What they came to in their frames, compressed where that helped.
    pub packed: u64,
}

struct Source {
    kind: String,
    name: String,
    meta: BTreeMap<String, String>,
    entries: Vec<Entry>,
}

/// A stretch of the shared buffer that still needs a frame.
struct Waiting {
    source: usize,
    entry: usize,
    offset: u64,
    len: u32,
    within: u32,
}

/// The file between `begin` and `end`.
struct OpenFile {
    entry: Entry,
    /// The end of its data so far.
    end: u64,
    /// The window of the file that is being filled: its runs of data, one after the other.
    window: Zeroizing<Vec<u8>>,
    runs: Vec<Run>,
    /// Extents of frames that are placed, since the last extent node.
    extents: Vec<Extent>,
    /// Full extent nodes: first offset and place.
    nodes: Vec<(u64, FrameRef)>,
    /// How many extents lie in `nodes`.
    in_nodes: u64,
    /// The packs that hold this file's frames and nodes, by epoch.
    spans: Vec<PackSpan>,
    /// What is held of a file that changes in place.
    in_place: Option<Box<blocks::InPlace>>,
}

struct Run {
    offset: u64,
    len: u32,
    within: u32,
}

impl Content {
    fn add(&mut self, frame: &FrameRef) {
        self.plain += u64::from(frame.plain);
        self.packed += u64::from(frame.sealed);
    }
}

impl<'a> VersionWriter<'a> {
    /// A writer at `place`, sealing under `root`. `parent` is the version that `unchanged` refers to.
    #[must_use]
    pub fn new(
        place: Place,
        root: &EpochRoot,
        parent: &'a Index,
        packs: &'a mut dyn PackSink,
        rng: &'a mut dyn Entropy,
    ) -> Self {
        let open_pack = PackBuilder::new(place.state, place.registry, place.epoch, place.next_seq);
        Self {
            place,
            root: Some(root.clone()),
            pinned: false,
            packs,
            rng,
            parent,
            open_pack,
            rows: BTreeMap::new(),
            sealed: 0,
            sources: Vec::new(),
            file: None,
            shared: Zeroizing::new(Vec::new()),
            waiting: Vec::new(),
            content: Content::default(),
            maps: None,
        }
    }

    /// What was written of files so far. Whatever waits to share a frame is written first.
    ///
    /// # Errors
    /// What the pack sink says.
    pub fn content(&mut self) -> SourceResult<Content> {
        self.flush_shared()?;
        Ok(self.content)
    }

    /// Starts the next source of the version.
    ///
    /// # Errors
    /// `Refused` while an entry is open, for a name that is too long, or for too many sources.
    pub fn source(&mut self, kind: &str, name: &str) -> SourceResult<()> {
        if self.file.is_some() {
            return Err(refused("the last entry of the source before is still open"));
        }
        if self.sources.len() == MAX_SOURCES || kind.len() > MAX_NAME || name.len() > MAX_NAME {
            return Err(refused("too many sources, or the name of one is too long"));
        }
        self.sources.push(Source {
            kind: kind.to_owned(),
            name: name.to_owned(),
            meta: BTreeMap::new(),
            entries: Vec::new(),
        });
        Ok(())
    }

    /// Writes the manifest and the root, and seals the last packs.
    ///
    /// # Errors
    /// `Refused` while an entry is open or when a path came twice; what the pack sink says.
    pub fn finish(mut self, version: VersionNo) -> SourceResult<Finished> {
        if self.file.is_some() {
            return Err(refused("the last entry is still open"));
        }
        self.flush_shared()?;
        let mut index = Index::empty(self.place.state, self.place.registry);
        let mut roots = Vec::new();
        let mut total = 0;
        for mut source in std::mem::take(&mut self.sources) {
            source.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            if let Some(pair) = source.entries.windows(2).find(|p| p[0].path == p[1].path) {
                let path = String::from_utf8_lossy(&pair[0].path).into_owned();
                return Err(SourceError::Refused(format!(
                    "{path} was captured twice in one version"
                )));
            }
            let bytes = source.entries.iter().map(|e| e.size).sum();
            total += bytes;
            roots.push(SourceRoot {
                tree: self.tree(&source.entries, &mut index.nodes)?,
                kind: source.kind.clone(),
                name: source.name.clone(),
                meta: source.meta,
                entries: source.entries.len() as u64,
                bytes,
            });
            index.sources.push(index::Source {
                kind: source.kind,
                name: source.name,
                entries: source.entries,
            });
        }
        self.publish_maps(version, &mut index)?;
        self.seal_pack()?;
        self.renew()?;

        // The root lies alone in the last pack and binds all others.
        let rows: Vec<ListRow> = self.rows.values().copied().collect();
        let others = PackList::new(self.place.state, self.place.registry, rows)?;
        let here = (self.place.epoch, self.place.next_seq);
        let node = Node::Root(Root {
            registry: self.place.registry,
            version,
            sources: roots,
            packs_digest: others.packs_digest(here),
        });
        let root = self.place_frame(&node.encode()?)?;
        self.seal_pack()?;
        index.list = PackList::new(
            self.place.state,
            self.place.registry,
            self.rows.into_values().collect(),
        )?;
        Ok(Finished {
            root,
            list: index.list.clone(),
            index,
            bytes: total,
            sealed: self.sealed,
            next_seq: self.place.next_seq,
        })
    }

    /// Puts a frame into the open pack; if that is full or its epoch is over, into the next.
    fn frame(&mut self, plain: &[u8]) -> SourceResult<FrameRef> {
        self.renew()?;
        if let Some(at) = self.open_pack.push(plain)? {
            return Ok(at);
        }
        self.seal_pack()?;
        self.renew()?;
        self.place_frame(plain)
    }

    /// Puts a frame into a pack of the epoch that is held.
    fn place_frame(&mut self, plain: &[u8]) -> SourceResult<FrameRef> {
        if let Some(at) = self.open_pack.push(plain)? {
            return Ok(at);
        }
        self.seal_pack()?;
        self.open_pack
            .push(plain)?
            .ok_or_else(|| refused("a frame does not fit an empty pack"))
    }

    /// Goes on under the epoch that is current now.
    fn renew(&mut self) -> SourceResult<()> {
        if !self.packs.renews() {
            return Ok(());
        }
        if self.root.is_some() {
            if self.pinned || self.packs.renew(Some(self.place.epoch))?.is_none() {
                return Ok(());
            }
            // Handing the pack on may take long; what is current then is asked afterwards.
            self.seal_pack()?;
            self.root = None;
        }
        let Some(next) = self.packs.renew(None)? else {
            return Err(refused("no epoch is open"));
        };
        self.place.epoch = next.epoch;
        self.place.next_seq = next.next_seq;
        self.root = Some(next.root);
        let place = &self.place;
        self.open_pack = PackBuilder::new(place.state, place.registry, place.epoch, place.next_seq);
        Ok(())
    }

    /// Seals the open pack, unless it is empty, and hands it on.
    fn seal_pack(&mut self) -> SourceResult<()> {
        if self.open_pack.is_empty() {
            return Ok(());
        }
        let seq = self.place.next_seq;
        let next = seq
            .checked_add(1)
            .ok_or_else(|| refused("the epoch has used up its pack numbers; open a new one"))?;
        let fresh = PackBuilder::new(
            self.place.state,
            self.place.registry,
            self.place.epoch,
            next,
        );
        let full = std::mem::replace(&mut self.open_pack, fresh);
        self.place.next_seq = next;
        let root = self
            .root
            .as_ref()
            .ok_or_else(|| refused("no epoch is open"))?;
        let pack = full.seal(root, &*self.rng.draw()?)?;
        if self.packs.renews() {
            self.root = None;
        }
        let row = ListRow {
            epoch: self.place.epoch,
            seq,
            size: pack.size,
            digest: pack.digest,
        };
        self.sealed += pack.size.bytes() as u64;
        self.packs.pack(seq, pack)?;
        self.rows.insert((row.epoch, seq), row);
        Ok(())
    }

    /// Writes what waits in the shared buffer as one frame and places it in its entries.
    fn flush_shared(&mut self) -> SourceResult<()> {
        if self.shared.is_empty() {
            return Ok(());
        }
        let plain = std::mem::take(&mut self.shared);
        let frame = self.frame(&plain)?;
        self.content.add(&frame);
        for w in self.waiting.drain(..) {
            let entry = self
                .sources
                .get_mut(w.source)
                .and_then(|s| s.entries.get_mut(w.entry));
            if let Some(Entry {
                extents: Extents::Inline(extents),
                ..
            }) = entry
            {
                extents.push(Extent {
                    offset: w.offset,
                    len: w.len,
                    frame,
                    within: w.within,
                });
            }
        }
        Ok(())
    }

    /// Takes the finished entry.
    fn keep(&mut self, entry: Entry) -> SourceResult<()> {
        let source = self
            .sources
            .last_mut()
            .ok_or_else(|| refused("no source was begun"))?;
        source.entries.push(entry);
        Ok(())
    }

    /// Takes packs of the parent version into this one's list.
    fn refer(&mut self, epoch: EpochNo, first: u32, last: u32) -> SourceResult<()> {
        let mut ends = (false, false);
        for row in self.parent.list.span(epoch, first, last) {
            ends = (ends.0 || row.seq == first, ends.1 || row.seq == last);
            self.rows.insert((epoch, row.seq), *row);
        }
        if ends != (true, true) {
            return Err(refused(
                "an unchanged file lies in packs that the parent version does not have",
            ));
        }
        Ok(())
    }
}

impl Sink for VersionWriter<'_> {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        if self.file.is_some() || self.sources.is_empty() {
            return Err(refused("an entry is still open, or no source was begun"));
        }
        if entry.extents != Extents::default() {
            return Err(refused("a new entry comes with extents"));
        }
        entry.validate()?;
        self.file = Some(OpenFile {
            entry,
            end: 0,
            window: Zeroizing::new(Vec::new()),
            runs: Vec::new(),
            extents: Vec::new(),
            nodes: Vec::new(),
            in_nodes: 0,
            spans: Vec::new(),
            in_place: None,
        });
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        let mut file = self
            .file
            .take()
            .ok_or_else(|| refused("data came outside of an entry"))?;
        let result = if file.in_place.is_some() {
            self.place_data(&mut file, offset, bytes)
        } else {
            let result = self.take_data(&mut file, offset, bytes);
            self.pinned = file.spans.len() >= MAX_SPANS;
            result
        };
        self.file = Some(file);
        result
    }

    fn end(&mut self) -> SourceResult<()> {
        let mut file = self
            .file
            .take()
            .ok_or_else(|| refused("no entry is open"))?;
        if file.in_place.is_some() {
            return self.end_in_place(file);
        }
        if file.entry.kind == EntryKind::File {
            file.entry.size = file.entry.size.max(file.end);
        }
        let placed = file.in_nodes + file.extents.len() as u64;
        self.pinned = file.spans.len() >= MAX_SPANS;
        let fits_entry = placed + file.runs.len() as u64 <= MAX_INLINE_EXTENTS as u64;
        if fits_entry && (file.window.len() as u64) < WINDOW {
            return self.end_shared(file);
        }
        self.flush_window(&mut file)?;
        file.entry.extents = if fits_entry {
            Extents::Inline(std::mem::take(&mut file.extents))
        } else {
            self.extent_tree(&mut file)?
        };
        self.pinned = false;
        file.entry.validate()?;
        self.keep(file.entry)
    }

    fn in_place(&mut self) -> SourceResult<Option<u64>> {
        self.begin_in_place()
    }

    fn same(&mut self, offset: u64, len: u64) -> SourceResult<()> {
        let mut file = self.file.take().ok_or_else(|| refused("no file is open"))?;
        let result = self.place_same(&mut file, offset, len);
        self.file = Some(file);
        result
    }

    fn again(&mut self) -> SourceResult<()> {
        self.begin_over()
    }

    fn unchanged(&mut self, entry: Entry) -> SourceResult<()> {
        if self.file.is_some() || self.sources.is_empty() {
            return Err(refused("an entry is still open, or no source was begun"));
        }
        entry.validate()?;
        match &entry.extents {
            Extents::Inline(extents) => {
                for extent in extents {
                    self.refer(extent.frame.epoch, extent.frame.seq, extent.frame.seq)?;
                }
            }
            Extents::Tree { root, spans, .. } => {
                self.refer(root.epoch, root.seq, root.seq)?;
                for span in spans {
                    self.refer(span.epoch, span.first, span.last)?;
                }
            }
        }
        self.keep(entry)
    }

    fn meta(&mut self, key: &str, value: &str) -> SourceResult<()> {
        let source = self
            .sources
            .last_mut()
            .ok_or_else(|| refused("no source was begun"))?;
        source.meta.insert(key.to_owned(), value.to_owned());
        let held: usize = source.meta.iter().map(|(k, v)| k.len() + v.len() + 4).sum();
        if key.is_empty() || key.len() > MAX_NAME || held > MAX_META {
            source.meta.remove(key);
            return Err(SourceError::Refused(format!(
                "the facts about a source exceed their bound of {MAX_META} bytes"
            )));
        }
        Ok(())
    }
}

impl VersionWriter<'_> {
    fn take_data(&mut self, file: &mut OpenFile, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        let end = offset
            .checked_add(bytes.len() as u64)
            .filter(|end| *end <= i64::MAX as u64);
        let Some(end) = end.filter(|_| file.entry.kind == EntryKind::File && offset >= file.end)
        else {
            return Err(refused(
                "data for something that is no file, or not in order",
            ));
        };
        let (mut offset, mut bytes) = (offset, bytes);
        while !bytes.is_empty() {
            let boundary = (offset / WINDOW + 1) * WINDOW;
            let take = bytes.len().min((boundary - offset) as usize);
            let (now, later) = bytes.split_at(take);
            if file
                .runs
                .first()
                .is_some_and(|run| run.offset / WINDOW != offset / WINDOW)
            {
                self.flush_window(file)?;
            }
            file.put(offset, now);
            (offset, bytes) = (offset + take as u64, later);
        }
        file.end = end;
        Ok(())
    }

    /// Writes the open window as a frame of its own.
    fn flush_window(&mut self, file: &mut OpenFile) -> SourceResult<()> {
        if file.runs.is_empty() {
            return Ok(());
        }
        let frame = self.frame(&file.window)?;
        self.content.add(&frame);
        file.touch(&frame);
        for run in file.runs.drain(..) {
            file.extents.push(Extent {
                offset: run.offset,
                len: run.len,
                frame,
                within: run.within,
            });
        }
        file.window.clear();
        while file.extents.len() >= EXTENTS_PER_NODE {
            self.extent_node(file, EXTENTS_PER_NODE)?;
        }
        Ok(())
    }

    /// Writes the first `count` extents as a node.
    fn extent_node(&mut self, file: &mut OpenFile, count: usize) -> SourceResult<()> {
        let rest = file.extents.split_off(count.min(file.extents.len()));
        let extents = std::mem::replace(&mut file.extents, rest);
        let Some(first) = extents.first().map(|e| e.offset) else {
            return Ok(());
        };
        file.in_nodes += extents.len() as u64;
        let at = self.frame(&Node::Extents(extents).encode()?)?;
        file.touch(&at);
        file.nodes.push((first, at));
        Ok(())
    }

    /// Ends a file of many extents: the rest into a node, then inner nodes up to one root.
    fn extent_tree(&mut self, file: &mut OpenFile) -> SourceResult<Extents> {
        self.extent_node(file, EXTENTS_PER_NODE)?;
        let mut level = std::mem::take(&mut file.nodes);
        while level.len() > 1 {
            let mut above = Vec::new();
            for group in level.chunks(CHILDREN_PER_NODE) {
                let at = self.frame(&Node::ExtentInner(group.to_vec()).encode()?)?;
                file.touch(&at);
                above.push((group[0].0, at));
            }
            level = above;
        }
        match level.pop() {
            Some((_, root)) => Ok(Extents::Tree {
                root,
                count: file.in_nodes,
                spans: std::mem::take(&mut file.spans),
            }),
            _ => Err(refused("a file of many extents has none")),
        }
    }

    /// Ends a file whose last window is not full: the window shares a frame with others.
    fn end_shared(&mut self, mut file: OpenFile) -> SourceResult<()> {
        if self.shared.len() + file.window.len() > WINDOW as usize {
            self.flush_shared()?;
        }
        let base = self.shared.len() as u32;
        self.shared.extend_from_slice(&file.window);
        let source = self.sources.len().saturating_sub(1);
        let entry = self.sources.last().map_or(0, |s| s.entries.len());
        for run in file.runs.drain(..) {
            let (offset, len, within) = (run.offset, run.len, base + run.within);
            self.waiting.push(Waiting {
                source,
                entry,
                offset,
                len,
                within,
            });
        }
        file.entry.extents = Extents::Inline(file.extents);
        self.keep(file.entry)
    }
}

impl OpenFile {
    /// Appends data to the open window, joining the run before if it continues it.
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let (within, len) = (self.window.len() as u32, bytes.len() as u32);
        self.window.extend_from_slice(bytes);
        match self.runs.last_mut() {
            Some(run) if run.offset + u64::from(run.len) == offset => run.len += len,
            _ => self.runs.push(Run {
                offset,
                len,
                within,
            }),
        }
    }

    /// Notes that the file lies in this frame's pack.
    fn touch(&mut self, at: &FrameRef) {
        match self.spans.last_mut() {
            Some(span) if span.epoch == at.epoch => {
                span.first = span.first.min(at.seq);
                span.last = span.last.max(at.seq);
            }
            _ => self.spans.push(PackSpan {
                epoch: at.epoch,
                first: at.seq,
                last: at.seq,
            }),
        }
    }
}

fn refused(why: &str) -> SourceError {
    SourceError::Refused(format!("the version cannot be written: {why}"))
}

#[cfg(test)]
pub(crate) mod tests;
