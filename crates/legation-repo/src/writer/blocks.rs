//! Files that change in place: their blocks are compared with the parent version's by digests kept at home, what
//! differs is sealed, and the rest is referred to where it lies.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use legation_core::id::{Digest, EpochNo, VersionNo};
use legation_core::manifest::{
    Entry, EntryKind, Extent, Extents, Incomplete, MAX_INLINE_EXTENTS, Node, PackSpan,
};
use legation_core::pack::FrameRef;
use legation_core::source::{BLOCK, Sink, SourceError, SourceResult};
use zeroize::Zeroizing;

use super::file::{CHILDREN_PER_NODE, OpenFile};
use super::index::Index;
use super::map::{self, BlockDigest, MapReader, MapWriter};
use super::{VersionWriter, WINDOW, refused};

/// Nodes of extents end at multiples of this in the file, so that a change moves no other boundary.
const GROUP: u64 = 4 << 20;
/// A window of more extents than this is sealed anew when all of it is at hand: reading it would take as many reads.
const MAX_PIECES: usize = 24;
/// A file that lies in more epochs is gathered: what lies in the least of them is sealed anew, down to half as many.
const MOST_EPOCHS: usize = 8;
/// As [`MOST_EPOCHS`], for packs: so many, and so many more for each 16 MiB of the file.
const MOST_PACKS: usize = 64;
const PACKS_PER_16_MIB: usize = 4;
/// Epochs that one capture may run through before it stays in the last.
const MOST_NEW_EPOCHS: usize = 7;

/// Where maps are kept, and of which version the parent's is.
#[derive(Debug)]
pub(super) struct Maps {
    dir: PathBuf,
    parent: Option<VersionNo>,
    /// Maps of this version: the source, the file, and the map.
    ended: Vec<(usize, Vec<u8>, MapWriter)>,
    /// Packs whose content is sealed anew.
    renewed: BTreeSet<(EpochNo, u32)>,
    /// Nodes of extents of this version.
    nodes: BTreeMap<Digest, FrameRef>,
    /// Those of a pass that was begun over.
    before: BTreeMap<Digest, FrameRef>,
}

/// What is held of the open file.
#[derive(Debug)]
pub(super) struct InPlace {
    parent: Option<MapReader>,
    out: MapWriter,
    /// The window that is being filled.
    window: Option<u64>,
    /// Stretches of it that are as in the parent.
    same: Vec<(u64, u64)>,
    /// Whether stretches may be given as the same.
    offers: bool,
    spans: BTreeMap<EpochNo, (u32, u32)>,
    first_epoch: EpochNo,
}

/// A part of a window.
struct Piece {
    offset: u64,
    len: u64,
    /// Where it lies; else where its bytes are in the new frame.
    at: Result<(FrameRef, u32), u32>,
    digests: Vec<BlockDigest>,
}

impl Piece {
    fn continues(&self, other: &Piece) -> bool {
        let len = self.len as u32;
        self.offset + self.len == other.offset
            && match (&self.at, &other.at) {
                (Ok((frame, within)), Ok((next, from))) => frame == next && within + len == *from,
                (Err(within), Err(from)) => within + len == *from,
                _ => false,
            }
    }
}

fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    match pieces.last_mut() {
        Some(last) if last.continues(&piece) => {
            last.len += piece.len;
            last.digests.extend(piece.digests);
        }
        _ => pieces.push(piece),
    }
}

impl VersionWriter<'_> {
    /// Lets files be written in place: what is kept of them lies in `dir`, that of the parent under `parent`. Without
    /// this they are written as any file.
    #[must_use]
    pub fn with_maps(mut self, dir: &Path, parent: Option<VersionNo>) -> Self {
        self.maps = Some(Maps {
            dir: dir.to_owned(),
            parent,
            ended: Vec::new(),
            renewed: BTreeSet::new(),
            nodes: BTreeMap::new(),
            before: BTreeMap::new(),
        });
        self
    }

    pub(super) fn begin_in_place(&mut self) -> SourceResult<Option<u64>> {
        let Some(file) = self.file.as_ref() else {
            return Err(refused("no file is open"));
        };
        let fresh = file.end == 0 && file.in_place.is_none();
        if file.entry.kind != EntryKind::File || !fresh {
            return Err(refused("only a file without data can be in place"));
        }
        let path = file.entry.path.clone();
        let Some((kind, name)) = self
            .sources
            .last()
            .map(|source| (source.kind.clone(), source.name.clone()))
        else {
            return Err(refused("no source was begun"));
        };
        let Some(maps) = &mut self.maps else {
            return Ok(None);
        };
        let mut live: BTreeMap<(EpochNo, u32), u64> = BTreeMap::new();
        let opened = maps.parent.and_then(|version| {
            let source = (kind.as_str(), name.as_str());
            open_map(
                &maps.dir,
                version,
                self.parent,
                source,
                &path,
                &mut |extent| {
                    let pack = (extent.frame.epoch, extent.frame.seq);
                    *live.entry(pack).or_default() += u64::from(extent.len);
                },
            )
        });
        let (parent, len) = opened.unzip();
        let key = match &parent {
            Some(parent) => parent.key,
            None => *self.rng.draw()?,
        };
        if parent.is_some() {
            for at in self.parent.nodes.values() {
                *live.entry((at.epoch, at.seq)).or_default() += u64::from(at.plain);
            }
            maps.renewed.extend(to_gather(&live, self.place.epoch));
        }
        let out = MapWriter::create(&maps.dir, key).map_err(keeping)?;
        let offers = parent.is_some() && maps.renewed.is_empty();
        let in_place = InPlace {
            parent,
            out,
            window: None,
            same: Vec::new(),
            offers,
            spans: BTreeMap::new(),
            first_epoch: self.place.epoch,
        };
        if let Some(file) = &mut self.file {
            file.in_place = Some(Box::new(in_place));
        }
        Ok(len.filter(|_| offers))
    }

    /// Data of a file in place.
    pub(super) fn place_data(
        &mut self,
        file: &mut OpenFile,
        mut offset: u64,
        mut bytes: &[u8],
    ) -> SourceResult<()> {
        let end = offset.checked_add(bytes.len() as u64);
        let Some(end) = end.filter(|end| *end <= i64::MAX as u64 && offset >= file.end) else {
            return Err(refused("data that are not in order"));
        };
        while !bytes.is_empty() {
            let boundary = (offset / WINDOW + 1) * WINDOW;
            let (now, later) = bytes.split_at(bytes.len().min((boundary - offset) as usize));
            self.enter(file, offset / WINDOW)?;
            file.put(offset, now);
            offset += now.len() as u64;
            bytes = later;
        }
        file.end = end;
        Ok(())
    }

    pub(super) fn place_same(
        &mut self,
        file: &mut OpenFile,
        mut offset: u64,
        len: u64,
    ) -> SourceResult<()> {
        let end = offset.checked_add(len).filter(|_| offset >= file.end);
        let offers = file.in_place.as_ref().is_some_and(|place| place.offers);
        let Some(end) =
            end.filter(|end| offers && offset.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK))
        else {
            return Err(refused(
                "a stretch that was not offered, or is not of whole blocks",
            ));
        };
        while offset < end {
            let boundary = ((offset / WINDOW + 1) * WINDOW).min(end);
            self.enter(file, offset / WINDOW)?;
            if let Some(place) = &mut file.in_place {
                place.same.push((offset, boundary));
            }
            offset = boundary;
        }
        file.end = end;
        Ok(())
    }

    /// Goes to a window of the file; the one before is written.
    fn enter(&mut self, file: &mut OpenFile, window: u64) -> SourceResult<()> {
        if file.in_place.as_ref().and_then(|place| place.window) != Some(window) {
            self.flush_in_place(file)?;
            if let Some(place) = &mut file.in_place {
                place.window = Some(window);
            }
        }
        Ok(())
    }

    /// Writes what is new in the open window.
    fn flush_in_place(&mut self, file: &mut OpenFile) -> SourceResult<()> {
        let Some(mut place) = file.in_place.take() else {
            return Ok(());
        };
        let result = match place.window.take() {
            Some(window) => self
                .flush_window_in_place(file, &mut place)
                .and_then(|()| self.cut_groups(file, &mut place, window * WINDOW / GROUP)),
            None => Ok(()),
        };
        self.pinned = place.spans.range(place.first_epoch..).count() >= MOST_NEW_EPOCHS;
        file.in_place = Some(place);
        result
    }

    fn flush_window_in_place(
        &mut self,
        file: &mut OpenFile,
        place: &mut InPlace,
    ) -> SourceResult<()> {
        let renewed = self.maps.as_ref().map(|maps| &maps.renewed);
        let is_renewed = |frame: &FrameRef| {
            renewed.is_some_and(|packs| packs.contains(&(frame.epoch, frame.seq)))
        };
        let mut parts: Vec<(u64, u64, Option<u32>)> = Vec::new();
        parts.extend(file.runs.iter().map(|run| {
            let end = run.offset + u64::from(run.len);
            (run.offset, end, Some(run.within))
        }));
        parts.extend(place.same.drain(..).map(|(from, to)| (from, to, None)));
        parts.sort_unstable_by_key(|(from, ..)| *from);
        let all_at_hand = parts.iter().all(|(_, _, within)| within.is_some());
        let key = place.out.key;
        let window = &file.window;
        let mut compare = |compared: bool| -> SourceResult<(Vec<Piece>, Zeroizing<Vec<u8>>)> {
            let (mut pieces, mut fresh) = (Vec::new(), Zeroizing::new(Vec::new()));
            for &(from, to, within) in &parts {
                let Some(within) = within else {
                    let parent = place.parent.as_mut();
                    let parent = parent.ok_or_else(|| refused("there is no parent to refer to"))?;
                    let mut at = from;
                    while let Some((extent, digests)) = parent.part(at, to).map_err(keeping)? {
                        push(
                            &mut pieces,
                            Piece {
                                offset: extent.offset,
                                len: extent.len.into(),
                                at: Ok((extent.frame, extent.within)),
                                digests: digests.to_vec(),
                            },
                        );
                        at = extent.end();
                    }
                    continue;
                };
                if !from.is_multiple_of(BLOCK) {
                    return Err(refused("data in place begin within a block"));
                }
                let mut at = from;
                while at < to {
                    let len = BLOCK.min(to - at);
                    let start = within as usize + (at - from) as usize;
                    let block = &window[start..start + len as usize];
                    let digest = map::digest(&key, block);
                    let known = match &mut place.parent {
                        Some(parent) if compared => parent.part(at, at + len).map_err(keeping)?,
                        _ => None,
                    };
                    let known = known.filter(|(extent, digests)| {
                        (extent.offset, u64::from(extent.len)) == (at, len)
                            && *digests == [digest]
                            && !is_renewed(&extent.frame)
                    });
                    let piece = match known {
                        Some((extent, _)) => Ok((extent.frame, extent.within)),
                        None => {
                            let within = fresh.len() as u32;
                            fresh.extend_from_slice(block);
                            Err(within)
                        }
                    };
                    push(
                        &mut pieces,
                        Piece {
                            offset: at,
                            len,
                            at: piece,
                            digests: vec![digest],
                        },
                    );
                    at += len;
                }
            }
            Ok((pieces, fresh))
        };
        let (mut pieces, mut fresh) = compare(true)?;
        // Not for one that is as it was: sealing it again would cost without a change.
        if all_at_hand && pieces.len() > MAX_PIECES && !fresh.is_empty() {
            (pieces, fresh) = compare(false)?;
        }
        let frame = if fresh.is_empty() {
            None
        } else {
            let frame = self.frame(&fresh)?;
            self.content.add(&frame);
            Some(frame)
        };
        for piece in pieces {
            let (frame, within) = match (piece.at, frame) {
                (Ok((frame, within)), _) => {
                    self.refer_to(&frame)?;
                    (frame, within)
                }
                (Err(within), Some(frame)) => (frame, within),
                (Err(_), None) => return Err(refused("a new block has no frame")),
            };
            let extent = Extent {
                offset: piece.offset,
                len: piece.len as u32,
                frame,
                within,
            };
            place.touch(&frame);
            place.out.put(&extent, &piece.digests).map_err(keeping)?;
            file.extents.push(extent);
        }
        file.runs.clear();
        file.window.clear();
        Ok(())
    }

    /// Writes the groups of extents before `group` as nodes, once there are too many for the entry.
    fn cut_groups(
        &mut self,
        file: &mut OpenFile,
        place: &mut InPlace,
        group: u64,
    ) -> SourceResult<()> {
        if file.in_nodes == 0 && file.extents.len() <= MAX_INLINE_EXTENTS {
            return Ok(());
        }
        while let Some(first) = file.extents.first().map(|extent| extent.offset)
            && first / GROUP < group
        {
            let count = file
                .extents
                .partition_point(|extent| extent.offset / GROUP == first / GROUP);
            let rest = file.extents.split_off(count);
            let extents = std::mem::replace(&mut file.extents, rest);
            file.in_nodes += extents.len() as u64;
            let at = self.place_node(&Node::Extents(extents))?;
            place.touch(&at);
            file.nodes.push((first, at));
        }
        Ok(())
    }

    /// Writes a node of extents, or finds it in the parent version or in the pass before.
    fn place_node(&mut self, node: &Node) -> SourceResult<FrameRef> {
        let plain = Zeroizing::new(node.encode()?);
        let digest = Digest::of(&plain);
        let Some(maps) = &self.maps else {
            return Err(refused("files in place are not kept here"));
        };
        let known = maps.nodes.get(&digest).or_else(|| maps.before.get(&digest));
        let known = known.or_else(|| self.parent.nodes.get(&digest)).copied();
        let at = match known.filter(|at| !self.is_renewed(at)) {
            Some(at) => {
                self.refer_to(&at)?;
                at
            }
            None => self.frame(&plain)?,
        };
        if let Some(maps) = &mut self.maps {
            maps.nodes.insert(digest, at);
        }
        Ok(at)
    }

    pub(super) fn is_renewed(&self, at: &FrameRef) -> bool {
        let maps = self.maps.as_ref();
        maps.is_some_and(|maps| maps.renewed.contains(&(at.epoch, at.seq)))
    }

    /// Takes the pack of a frame into the list, unless it is this version's own.
    fn refer_to(&mut self, frame: &FrameRef) -> SourceResult<()> {
        let open = (self.place.epoch, self.place.next_seq);
        let pack = (frame.epoch, frame.seq);
        if pack == open || self.rows.contains_key(&pack) {
            return Ok(());
        }
        self.refer(frame.epoch, frame.seq, frame.seq)
    }

    /// Ends a file in place.
    pub(super) fn end_in_place(&mut self, mut file: OpenFile) -> SourceResult<()> {
        self.flush_in_place(&mut file)?;
        let Some(mut place) = file.in_place.take() else {
            return Err(refused("the file is not in place"));
        };
        file.entry.size = file.entry.size.max(file.end);
        let count = file.in_nodes + file.extents.len() as u64;
        file.entry.extents = if count <= MAX_INLINE_EXTENTS as u64 {
            Extents::Inline(std::mem::take(&mut file.extents))
        } else {
            self.cut_groups(&mut file, &mut place, u64::MAX)?;
            let mut level = std::mem::take(&mut file.nodes);
            while level.len() > 1 {
                let mut above = Vec::new();
                for children in level.chunks(CHILDREN_PER_NODE) {
                    let at = self.place_node(&Node::ExtentInner(children.to_vec()))?;
                    place.touch(&at);
                    above.push((children[0].0, at));
                }
                level = above;
            }
            let (_, root) = level
                .pop()
                .ok_or_else(|| refused("a file of many extents has none"))?;
            let spans = place.spans.iter();
            let spans = spans.map(|(epoch, (first, last))| PackSpan {
                epoch: *epoch,
                first: *first,
                last: *last,
            });
            Extents::Tree {
                root,
                count,
                spans: spans.collect(),
            }
        };
        self.pinned = false;
        file.entry.validate()?;
        place.out.end(&digest_of(&file.entry)).map_err(keeping)?;
        let source = self.sources.len().saturating_sub(1);
        if let Some(maps) = &mut self.maps {
            let path = file.entry.path.clone();
            maps.ended.push((source, path, place.out));
        }
        self.keep(file.entry)
    }

    /// Begins the open file over.
    pub(super) fn begin_over(&mut self) -> SourceResult<()> {
        let Some(mut file) = self.file.take() else {
            return Err(refused("no file is open"));
        };
        let result = self.over(&mut file);
        self.file = Some(file);
        result
    }

    fn over(&mut self, file: &mut OpenFile) -> SourceResult<()> {
        self.flush_in_place(file)?;
        let (Some(place), Some(maps)) = (&mut file.in_place, &mut self.maps) else {
            return Err(refused("only a file in place can be begun over"));
        };
        let (key, nobody) = (place.out.key, Digest([0; 32]));
        place.out.end(&nobody).map_err(keeping)?;
        place.parent = place
            .out
            .at()
            .and_then(|path| MapReader::open(path, &nobody, &mut |_| {}));
        place.out = MapWriter::create(&maps.dir, key).map_err(keeping)?;
        place.offers = false;
        place.spans.clear();
        let nodes = std::mem::take(&mut maps.nodes);
        maps.before.extend(nodes);
        file.extents.clear();
        file.nodes.clear();
        (file.in_nodes, file.end) = (0, 0);
        // The rows of the packs so far are then known.
        self.seal_pack()
    }

    /// Gives the maps of this version their names, and their nodes to the index.
    pub(super) fn publish_maps(
        &mut self,
        version: VersionNo,
        index: &mut Index,
    ) -> SourceResult<()> {
        let Some(maps) = &mut self.maps else {
            return Ok(());
        };
        index.nodes.append(&mut maps.nodes);
        for (source, file, map) in maps.ended.drain(..) {
            let Some(source) = index.sources.get(source) else {
                return Err(refused("a file in place is of no source"));
            };
            let source = (source.kind.as_str(), source.name.as_str());
            map.publish(&map::path(&maps.dir, version, source, &file))
                .map_err(keeping)?;
        }
        Ok(())
    }
}

impl InPlace {
    /// Notes that the file lies in this frame's pack.
    fn touch(&mut self, at: &FrameRef) {
        let span = self.spans.entry(at.epoch).or_insert((at.seq, at.seq));
        *span = (span.0.min(at.seq), span.1.max(at.seq));
    }
}

/// The map of the parent's file and the length of that, if both are there and belong together.
fn open_map(
    dir: &Path,
    version: VersionNo,
    parent: &Index,
    source: (&str, &str),
    path: &[u8],
    each: &mut dyn FnMut(&Extent),
) -> Option<(MapReader, u64)> {
    let entry = parent.source(source.0, source.1)?.entry(path)?;
    let at = map::path(dir, version, source, path);
    let map = MapReader::open(&at, &digest_of(entry), each)?;
    Some((map, entry.size))
}

fn digest_of(entry: &Entry) -> Digest {
    let mut bytes = Vec::new();
    entry.encode(&mut bytes);
    Digest::of(&bytes)
}

fn keeping(error: io::Error) -> SourceError {
    SourceError::io("keeping what is known of a file's blocks", error)
}

/// Which packs are to be sealed anew, so that a file that changes a little all the time does not end up scattered over ever more packs and epochs.
/// What is gathered is what holds the least: each block is then sealed anew seldom.
fn to_gather(live: &BTreeMap<(EpochNo, u32), u64>, now: EpochNo) -> BTreeSet<(EpochNo, u32)> {
    let mut epochs: BTreeMap<EpochNo, u64> = BTreeMap::new();
    for ((epoch, _), bytes) in live {
        *epochs.entry(*epoch).or_default() += bytes;
    }
    let mut gathered = BTreeSet::new();
    if epochs.len() > MOST_EPOCHS {
        let mut least: Vec<(u64, EpochNo)> = epochs.iter().map(|(e, bytes)| (*bytes, *e)).collect();
        least.retain(|(_, epoch)| *epoch != now);
        least.sort_unstable();
        let count = epochs.len() - MOST_EPOCHS / 2;
        let least: BTreeSet<EpochNo> = least.iter().take(count).map(|(_, epoch)| *epoch).collect();
        gathered.extend(live.keys().filter(|(epoch, _)| least.contains(epoch)));
    }
    let most = MOST_PACKS + PACKS_PER_16_MIB * (live.values().sum::<u64>() >> 24) as usize;
    if live.len() > most {
        let mut least: Vec<(u64, (EpochNo, u32))> = live.iter().map(|(p, b)| (*b, *p)).collect();
        least.sort_unstable();
        let count = live.len() - most / 2;
        gathered.extend(least.iter().take(count).map(|(_, pack)| *pack));
    }
    gathered
}

/// Compares a file in place with the parent version's, and ends the capture at the first difference.
#[derive(Debug)]
pub struct Compare {
    map: Option<MapReader>,
    reopen: (PathBuf, Digest),
    known: Entry,
    end: u64,
    differs: bool,
}

impl Compare {
    /// Against the only entry of this source; `None` if its map is not there.
    #[must_use]
    pub fn new(
        dir: &Path,
        version: VersionNo,
        parent: &Index,
        source: (&str, &str),
    ) -> Option<Self> {
        let known = parent.source(source.0, source.1)?.entries.first()?.clone();
        let path = map::path(dir, version, source, &known.path);
        let digest = digest_of(&known);
        let map = MapReader::open(&path, &digest, &mut |_| {})?;
        Some(Compare {
            map: Some(map),
            reopen: (path, digest),
            known,
            end: 0,
            differs: false,
        })
    }

    /// Whether a difference was found.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.differs
    }

    fn found(&mut self, differs: bool) -> SourceResult<()> {
        self.differs |= differs;
        if self.differs {
            Err(SourceError::Stopped)
        } else {
            Ok(())
        }
    }
}

impl Sink for Compare {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        let known = &self.known;
        let same = (&known.path, &known.kind, known.mode) == (&entry.path, &entry.kind, entry.mode)
            && (known.uid, known.gid, &known.xattrs) == (entry.uid, entry.gid, &entry.xattrs);
        self.found(!same)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        let mut differs = offset != self.end || !offset.is_multiple_of(BLOCK);
        for (block, at) in bytes
            .chunks(BLOCK as usize)
            .zip((offset..).step_by(BLOCK as usize))
        {
            let end = at + block.len() as u64;
            let known = match &mut self.map {
                Some(map) => {
                    let key = map.key;
                    map.part(at, end)
                        .map_err(keeping)?
                        .is_some_and(|(extent, digests)| {
                            (extent.offset, extent.end()) == (at, end)
                                && digests == [map::digest(&key, block)]
                        })
                }
                None => false,
            };
            differs |= !known;
            if differs {
                break;
            }
        }
        self.end = offset + bytes.len() as u64;
        self.found(differs)
    }

    fn end(&mut self) -> SourceResult<()> {
        self.found(self.end != self.known.size)
    }

    fn mark(&mut self, _mark: &Incomplete) -> SourceResult<()> {
        self.found(true)
    }

    fn discard(&mut self) -> SourceResult<()> {
        self.found(true)
    }

    fn again(&mut self) -> SourceResult<()> {
        let (path, digest) = &self.reopen;
        self.map = MapReader::open(path, digest, &mut |_| {});
        self.end = 0;
        Ok(())
    }

    fn unchanged(&mut self, _entry: Entry) -> SourceResult<()> {
        self.found(true)
    }

    fn meta(&mut self, _key: &str, _value: &str) -> SourceResult<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
