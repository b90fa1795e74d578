//! Turns what a source says into sealed packs: cuts frames, fills packs, builds the manifest's tree, ends with the
//! root. It holds at most one open pack, one window of a file, and the entries and stretches of the version; it knows no
//! source and no store. A stretch of a file that this version or its parent holds already, wherever, is not sealed again.

use std::collections::{BTreeMap, HashMap};

use legation_core::id::{Digest, EpochNo, RegistryId, StateId, VersionNo};
use legation_core::keys::{Entropy, EpochRoot};
use legation_core::list::{ListRow, PackList};
use legation_core::manifest::{
    Entry, EntryKind, Extents, Incomplete, MAX_INLINE_EXTENTS, MAX_META, MAX_NAME, MAX_SOURCES,
    MAX_SPANS, Node, Root, SourceRoot,
};
use legation_core::pack::{FrameRef, PackBuilder, SealedPack};
use legation_core::source::{Sink, SourceError, SourceResult};
use zeroize::Zeroizing;

use cutter::Cutter;
use file::OpenFile;
use index::Index;
use stretch::{Stretch, Stretches};

pub mod blocks;
mod cutter;
mod file;
pub mod index;
pub mod map;
mod nodes;
pub mod stretch;

/// What a frame of a file holds: large enough to compress well, small enough to fetch for one page.
pub const WINDOW: u64 = 128 * 1024;

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
    /// Whether content is looked for, and remembered for the next version.
    reuses: bool,
    /// What was sealed for this version, by its content.
    fresh: HashMap<Digest, Stretch>,
    /// Small files and tails, waiting to share a frame.
    shared: Zeroizing<Vec<u8>>,
    waiting: Vec<Waiting>,
    /// What is kept of files that change in place.
    maps: Option<blocks::Maps>,
    content: Content,
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
    digest: Option<Digest>,
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
            reuses: true,
            fresh: HashMap::new(),
            shared: Zeroizing::new(Vec::new()),
            waiting: Vec::new(),
            maps: None,
            content: Content::default(),
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

    /// Neither looks for content that is there already nor remembers any: for a source whose versions are whole each by
    /// itself, which would pay for it with memory and gain nothing.
    #[must_use]
    pub fn without_reuse(mut self) -> Self {
        self.reuses = false;
        self
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
        index.stretches = Stretches::of_version(&self.parent.stretches, self.fresh, &index.list);
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
        for w in std::mem::take(&mut self.waiting) {
            let stretch = Stretch {
                frame,
                within: w.within,
                len: w.len,
            };
            self.remember(w.digest, stretch);
            let entry = self
                .sources
                .get_mut(w.source)
                .and_then(|s| s.entries.get_mut(w.entry));
            if let Some(Entry {
                extents: Extents::Inline(extents),
                ..
            }) = entry
            {
                // Between those that were found elsewhere.
                let at = extents.partition_point(|extent| extent.offset < w.offset);
                extents.insert(at, stretch.at(w.offset));
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

    fn open(&mut self, entry: Entry, cutter: Option<Cutter>) -> SourceResult<()> {
        if self.file.is_some() || self.sources.is_empty() {
            return Err(refused("an entry is still open, or no source was begun"));
        }
        if entry.extents != Extents::default() {
            return Err(refused("a new entry comes with extents"));
        }
        entry.validate()?;
        self.file = Some(OpenFile::new(entry, cutter));
        Ok(())
    }
}

impl Sink for VersionWriter<'_> {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        self.open(entry, None)
    }

    fn begin_shifting(&mut self, entry: Entry) -> SourceResult<()> {
        self.open(entry, Some(Cutter::default()))
    }

    fn mark(&mut self, mark: &Incomplete) -> SourceResult<()> {
        let file = self.file.as_mut();
        let file = file.ok_or_else(|| refused("no entry is open"))?;
        file.entry.mark(mark);
        Ok(())
    }

    fn discard(&mut self) -> SourceResult<()> {
        // What of it was sealed stays in packs of this version: given again, it is found there.
        self.pinned = false;
        let file = self.file.take();
        file.map(drop).ok_or_else(|| refused("no entry is open"))
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

fn refused(why: &str) -> SourceError {
    SourceError::Refused(format!("the version cannot be written: {why}"))
}

#[cfg(test)]
pub(crate) mod tests;
