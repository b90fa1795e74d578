//! The file that is open: its windows become frames, and its extents the entry's or a tree of their own.

use legation_core::id::Digest;
use legation_core::manifest::{Entry, EntryKind, Extent, Extents, MAX_SPANS, Node, PackSpan};
use legation_core::pack::FrameRef;
use legation_core::source::SourceResult;
use zeroize::Zeroizing;

use super::blocks::InPlace;
use super::cutter::Cutter;
use super::stretch::{self, Stretch};
use super::{VersionWriter, WINDOW, Waiting, refused};

/// How many extents go into one node: 40 bytes each, below [`NODE_TARGET`].
const EXTENTS_PER_NODE: usize = 1600;
/// A file may lie in so many epochs by stretches that earlier versions have: enough are left for those in which it is
/// written. Beyond that a stretch is sealed anew.
pub(super) const REUSED_SPANS: usize = MAX_SPANS / 2;
/// How many children an inner node of extents has: 32 bytes each, below [`NODE_TARGET`].
pub(super) const CHILDREN_PER_NODE: usize = 2000;

/// The file between `begin` and `end`.
pub(super) struct OpenFile {
    pub(super) entry: Entry,
    /// Ends windows by their content, not by offsets.
    pub(super) cutter: Option<Cutter>,
    /// The end of its data so far.
    pub(super) end: u64,
    /// The window of the file that is being filled: its runs of data, one after the other.
    pub(super) window: Zeroizing<Vec<u8>>,
    pub(super) runs: Vec<Run>,
    /// Extents of frames that are placed, since the last extent node.
    pub(super) extents: Vec<Extent>,
    /// Full extent nodes: first offset and place.
    pub(super) nodes: Vec<(u64, FrameRef)>,
    /// How many extents lie in `nodes`.
    pub(super) in_nodes: u64,
    /// The packs that hold this file's frames and nodes, by epoch.
    pub(super) spans: Vec<PackSpan>,
    /// What is held of a file that changes in place.
    pub(super) in_place: Option<Box<InPlace>>,
}

pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) within: u32,
}

impl VersionWriter<'_> {
    pub(super) fn take_data(
        &mut self,
        file: &mut OpenFile,
        offset: u64,
        bytes: &[u8],
    ) -> SourceResult<()> {
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
            let after_hole = file.runs.last().is_some_and(|run| run.end() != offset);
            let (take, ends, begins) = match &mut file.cutter {
                Some(cutter) => {
                    if after_hole {
                        cutter.restart();
                    }
                    let (take, ends) = cutter.next(bytes);
                    (take, ends, after_hole)
                }
                None => {
                    let first = file.runs.first();
                    let begins = first.is_some_and(|run| run.offset / WINDOW != offset / WINDOW);
                    let take = bytes.len().min((boundary - offset) as usize);
                    (take, false, begins)
                }
            };
            if begins {
                self.flush_window(file)?;
            }
            let (now, later) = bytes.split_at(take);
            file.put(offset, now);
            if ends {
                self.flush_window(file)?;
            }
            (offset, bytes) = (offset + take as u64, later);
        }
        file.end = end;
        Ok(())
    }

    /// Writes what is new in the open window as a frame of its own.
    pub(super) fn flush_window(&mut self, file: &mut OpenFile) -> SourceResult<()> {
        if file.runs.is_empty() {
            return Ok(());
        }
        let window = std::mem::take(&mut file.window);
        let mut left = Zeroizing::new(Vec::with_capacity(window.len()));
        let mut found = Vec::with_capacity(file.runs.len());
        for run in std::mem::take(&mut file.runs) {
            let bytes = run.of(&window);
            let (digest, known) = self.find(bytes, file)?;
            let within = left.len() as u32;
            if known.is_none() {
                left.extend_from_slice(bytes);
            }
            found.push((run, digest, known, within));
        }
        let frame = match left.is_empty() {
            true => None,
            false => Some(self.frame(&left)?),
        };
        if let Some(frame) = &frame {
            self.content.add(frame);
        }
        for (run, digest, known, within) in found {
            let new = frame.map(|frame| Stretch {
                frame,
                within,
                len: run.len,
            });
            let Some(stretch) = known.or(new) else {
                return Err(refused("a stretch was neither found nor written"));
            };
            if known.is_none() {
                self.remember(digest, stretch);
            }
            file.touch(&stretch.frame);
            file.extents.push(stretch.at(run.offset));
        }
        while file.extents.len() >= EXTENTS_PER_NODE {
            self.extent_node(file, EXTENTS_PER_NODE)?;
        }
        Ok(())
    }

    /// Looks for these bytes in this version and the one before; says under which digest to remember them.
    fn find(
        &mut self,
        bytes: &[u8],
        file: &OpenFile,
    ) -> SourceResult<(Option<Digest>, Option<Stretch>)> {
        if bytes.len() < stretch::LEAST || !self.reuses {
            return Ok((None, None));
        }
        let digest = Digest::of(bytes);
        let fits = |at: &Stretch| at.len as usize == bytes.len() && file.may_touch(&at.frame);
        if let Some(at) = self.fresh.get(&digest).filter(|at| fits(at)) {
            return Ok((Some(digest), Some(*at)));
        }
        let known = self.parent.stretches.get(&digest);
        match known.filter(|at| fits(at) && !self.is_renewed(&at.frame)) {
            Some(at) => {
                self.refer(at.frame.epoch, at.frame.seq, at.frame.seq)?;
                Ok((Some(digest), Some(at)))
            }
            None => Ok((Some(digest), None)),
        }
    }

    pub(super) fn remember(&mut self, digest: Option<Digest>, stretch: Stretch) {
        if let Some(digest) = digest
            && self.fresh.len() < stretch::MOST
        {
            self.fresh.insert(digest, stretch);
        }
    }

    /// Writes the first `count` extents as a node.
    pub(super) fn extent_node(&mut self, file: &mut OpenFile, count: usize) -> SourceResult<()> {
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
    pub(super) fn extent_tree(&mut self, file: &mut OpenFile) -> SourceResult<Extents> {
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
    pub(super) fn end_shared(&mut self, mut file: OpenFile) -> SourceResult<()> {
        if self.shared.len() + file.window.len() > WINDOW as usize {
            self.flush_shared()?;
        }
        let source = self.sources.len().saturating_sub(1);
        let entry = self.sources.last().map_or(0, |s| s.entries.len());
        for run in std::mem::take(&mut file.runs) {
            let bytes = run.of(&file.window);
            let (digest, known) = self.find(bytes, &file)?;
            if let Some(stretch) = known {
                file.extents.push(stretch.at(run.offset));
                continue;
            }
            let (offset, len) = (run.offset, run.len);
            let within = self.shared.len() as u32;
            self.shared.extend_from_slice(bytes);
            self.waiting.push(Waiting {
                source,
                entry,
                offset,
                len,
                within,
                digest,
            });
        }
        file.entry.extents = Extents::Inline(file.extents);
        self.keep(file.entry)
    }
}

impl OpenFile {
    /// Nothing of it was given yet.
    pub(super) fn new(entry: Entry, cutter: Option<Cutter>) -> Self {
        Self {
            entry,
            cutter,
            end: 0,
            window: Zeroizing::new(Vec::new()),
            runs: Vec::new(),
            extents: Vec::new(),
            nodes: Vec::new(),
            in_nodes: 0,
            spans: Vec::new(),
            in_place: None,
        }
    }

    /// Appends data to the open window, joining the run before if it continues it.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) {
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
    pub(super) fn touch(&mut self, at: &FrameRef) {
        match self.spans.binary_search_by(|s| s.epoch.cmp(&at.epoch)) {
            Ok(held) => {
                let span = &mut self.spans[held];
                span.first = span.first.min(at.seq);
                span.last = span.last.max(at.seq);
            }
            Err(place) => {
                let (first, last) = (at.seq, at.seq);
                let epoch = at.epoch;
                self.spans.insert(place, PackSpan { epoch, first, last });
            }
        }
    }

    /// Whether its entry could name this frame's epoch beside those in which it is written.
    fn may_touch(&self, at: &FrameRef) -> bool {
        let held = self.spans.binary_search_by(|s| s.epoch.cmp(&at.epoch));
        held.is_ok() || self.spans.len() < REUSED_SPANS
    }
}

impl Run {
    fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// Its bytes in the window.
    fn of<'a>(&self, window: &'a [u8]) -> &'a [u8] {
        let from = self.within as usize;
        window
            .get(from..from + self.len as usize)
            .unwrap_or_default()
    }
}
