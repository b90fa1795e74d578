//! The writer and the reader together, through an object source in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use legation_core::error::FormatError;
use legation_core::manifest::Mtime;
use legation_core::source::{ObjectKind, ObjectSource, Restorer};

use super::nodes::cut;
use super::*;
use crate::reader::{Check, DEFAULT_CACHE, KeySource, ReadError, VersionName, VersionReader};

/// Objects in memory, and what was read of them.
#[derive(Default)]
pub(crate) struct Objects {
    pub objects: Mutex<HashMap<(ObjectKind, Digest), Vec<u8>>>,
    pub reads: Mutex<Vec<(ObjectKind, u64, usize)>>,
}

impl ObjectSource for Objects {
    fn read(
        &self,
        kind: ObjectKind,
        digest: &Digest,
        offset: u64,
        len: usize,
    ) -> SourceResult<Vec<u8>> {
        self.reads.lock().unwrap().push((kind, offset, len));
        let objects = self.objects.lock().unwrap();
        let bytes = objects.get(&(kind, *digest)).ok_or(SourceError::Missing {
            kind,
            digest: *digest,
        })?;
        let from = offset as usize;
        let part = bytes.get(from..from + len);
        part.map(<[u8]>::to_vec)
            .ok_or_else(|| SourceError::Refused("out of range".into()))
    }
}

struct Fixed(u8);

impl Entropy for Fixed {
    fn draw(&mut self) -> Result<zeroize::Zeroizing<[u8; 32]>, FormatError> {
        self.0 = self.0.wrapping_add(1);
        Ok([self.0; 32].into())
    }
}

pub(crate) fn state() -> StateId {
    StateId([7; 20])
}

pub(crate) fn registry() -> RegistryId {
    RegistryId::new(0x3f9a1c).unwrap()
}

pub(crate) fn root_of(epoch: u32) -> EpochRoot {
    EpochRoot::from_bytes([epoch as u8; 32])
}

pub(crate) fn keys(epochs: &[u32]) -> Arc<dyn KeySource> {
    Arc::new(
        epochs
            .iter()
            .map(|e| (EpochNo(*e), root_of(*e)))
            .collect::<BTreeMap<_, _>>(),
    )
}

/// A version to write: one source named `t`.
pub(crate) struct World {
    pub source: Arc<Objects>,
    pub index: Index,
    pub next: u32,
}

impl World {
    pub fn new() -> Self {
        Self {
            source: Arc::default(),
            index: Index::empty(state(), registry()),
            next: 0,
        }
    }

    /// Writes one version in `epoch` and keeps its objects. Numbers of packs start anew with each epoch.
    pub fn write(
        &mut self,
        epoch: u32,
        version: u32,
        fill: impl FnOnce(&mut VersionWriter<'_>, &Index) -> SourceResult<()>,
    ) -> (VersionName, Finished) {
        let place = Place {
            state: state(),
            registry: registry(),
            epoch: EpochNo(epoch),
            next_seq: self.next,
        };
        let mut packs: Vec<(u32, SealedPack)> = Vec::new();
        let mut rng = Fixed((version as u8).wrapping_mul(10));
        let root = root_of(epoch);
        let mut writer = VersionWriter::new(place, &root, &self.index, &mut packs, &mut rng);
        writer.source("tree", "t").unwrap();
        fill(&mut writer, &self.index).unwrap();
        let finished = writer.finish(VersionNo(version)).unwrap();
        let mut objects = self.source.objects.lock().unwrap();
        for (i, (seq, pack)) in packs.into_iter().enumerate() {
            assert_eq!(seq, place.next_seq + i as u32);
            objects.insert((ObjectKind::Pack, pack.digest), pack.bytes);
        }
        let list = finished.list.encode();
        let digest = Digest::of(&list);
        objects.insert((ObjectKind::List, digest), list);
        drop(objects);
        self.index = finished.index.clone();
        self.next = finished.next_seq;
        let name = VersionName {
            state: state(),
            registry: registry(),
            version: VersionNo(version),
            list: digest,
            root: finished.root,
        };
        (name, finished)
    }

    pub fn open(&self, name: &VersionName, epochs: &[u32]) -> VersionReader {
        VersionReader::open(
            self.source.clone(),
            keys(epochs),
            name,
            Check::Seal,
            DEFAULT_CACHE,
        )
        .unwrap()
    }
}

pub(crate) fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Mtime { secs: 1, nanos: 2 },
        size: 0,
        xattrs: BTreeMap::new(),
        extents: Extents::default(),
    }
}

pub(crate) fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32])
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Writes a file in pieces of this size.
pub(crate) fn put(
    w: &mut VersionWriter<'_>,
    path: &str,
    content: &[u8],
    piece: usize,
) -> SourceResult<()> {
    w.begin(entry(path, EntryKind::File))?;
    for (i, part) in content.chunks(piece).enumerate() {
        w.data((i * piece) as u64, part)?;
    }
    w.end()
}

/// Collects what a restore gives.
#[derive(Default)]
pub(crate) struct Collect {
    pub files: Vec<(Entry, Vec<u8>)>,
    pub written: u64,
}

impl Restorer for Collect {
    fn begin(&mut self, entry: &Entry) -> SourceResult<()> {
        self.files
            .push((entry.clone(), vec![0; entry.size as usize]));
        Ok(())
    }
    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        let (_, content) = self.files.last_mut().unwrap();
        content[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
    fn end(&mut self) -> SourceResult<()> {
        Ok(())
    }
}

fn all(reader: &VersionReader) -> Vec<Entry> {
    let mut entries = Vec::new();
    reader
        .walk(0, b"", &mut |e| {
            entries.push(e);
            Ok(true)
        })
        .unwrap();
    entries
}

#[test]
fn files_of_every_size_come_back() {
    let w = WINDOW as usize;
    let sizes = [
        0,
        1,
        2,
        4095,
        8192,
        w - 1,
        w,
        w + 1,
        2 * w,
        3 * w + 17,
        1 << 20,
        (1 << 20) + 1,
    ];
    let mut world = World::new();
    let (name, finished) = world.write(1, 1, |writer, _| {
        for (i, size) in sizes.iter().enumerate() {
            put(
                writer,
                &format!("f{size:08}"),
                &noise(*size, i as u8),
                10_000,
            )?;
        }
        writer.begin(entry("", EntryKind::Dir))?;
        writer.end()?;
        writer.meta("start", "0/5A1C2E80")
    });
    assert_eq!(finished.bytes, sizes.iter().map(|s| *s as u64).sum::<u64>());
    let reader = world.open(&name, &[1]);
    assert_eq!(reader.root().sources[0].meta["start"], "0/5A1C2E80");
    assert_eq!(reader.root().sources[0].entries, 13);
    assert_eq!(reader.source_named("t"), Some(0));
    assert_eq!(all(&reader).len(), 13);
    for (i, size) in sizes.iter().enumerate() {
        let path = format!("f{size:08}");
        let e = reader.entry(0, path.as_bytes()).unwrap().unwrap();
        let content = noise(*size, i as u8);
        assert_eq!(reader.read(&e, 0, *size + 100).unwrap(), content, "{path}");
        for (offset, len) in [
            (0, 1),
            (size / 2, 100),
            (size.saturating_sub(1), 5),
            (w - 1, 2),
            (*size, 1),
        ] {
            let expect = content
                .get(offset..(offset + len).min(*size))
                .unwrap_or_default();
            assert_eq!(
                reader.read(&e, offset as u64, len).unwrap(),
                expect,
                "{path} at {offset}"
            );
        }
    }
    assert_eq!(reader.entry(0, b"f").unwrap(), None);
    assert_eq!(reader.entry(0, b"zzz").unwrap(), None);
    assert!(matches!(
        reader.walk(1, b"", &mut |_| Ok(true)),
        Err(ReadError::NotFound(_))
    ));
    let mut collect = Collect::default();
    let done = reader.restore(0, b"f", &mut collect, &mut |_| {}).unwrap();
    assert_eq!((done.entries, done.bytes), (12, finished.bytes));
    for ((e, content), (i, size)) in collect.files.iter().zip(sizes.iter().enumerate()) {
        assert_eq!((e.size, content), (*size as u64, &noise(*size, i as u8)));
    }
}

#[test]
fn an_empty_version_and_an_empty_source_open() {
    let mut world = World::new();
    let (name, finished) = world.write(1, 1, |_, _| Ok(()));
    assert_eq!(finished.list.rows().len(), 1);
    assert_eq!(finished.sealed, 65536);
    assert!(all(&world.open(&name, &[1])).is_empty());
}

#[test]
fn holes_stay_holes() {
    let mut world = World::new();
    let mut content = vec![0u8; 3 << 20];
    let (name, _) = world.write(1, 1, |writer, _| {
        writer.begin(Entry {
            size: 3 << 20,
            ..entry("sparse", EntryKind::File)
        })?;
        for (offset, len) in [
            (5usize, 10usize),
            (100_000, 50_000),
            (1 << 20, 7),
            ((2 << 20) - 3, 9),
        ] {
            let bytes = noise(len, 9);
            writer.data(offset as u64, &bytes)?;
            content[offset..offset + len].copy_from_slice(&bytes);
        }
        writer.end()?;
        writer.begin(Entry {
            size: 1 << 40,
            ..entry("void", EntryKind::File)
        })?;
        writer.end()
    });
    let reader = world.open(&name, &[1]);
    let sparse = reader.entry(0, b"sparse").unwrap().unwrap();
    assert_eq!(reader.read(&sparse, 0, 4 << 20).unwrap(), content);
    let void = reader.entry(0, b"void").unwrap().unwrap();
    assert_eq!((void.size, &void.extents), (1 << 40, &Extents::default()));
    assert_eq!(reader.read(&void, (1 << 40) - 3, 10).unwrap(), [0; 3]);
    let mut collect = Collect::default();
    reader
        .restore(0, b"sparse", &mut collect, &mut |_| {})
        .unwrap();
    assert_eq!(collect.files[0].1, content);
    assert_eq!(collect.written, 10 + 50_000 + 7 + 9);
}

#[test]
fn small_files_share_frames_and_any_of_them_opens_alone() {
    let mut world = World::new();
    let (name, finished) = world.write(1, 1, |writer, _| {
        for i in (0..5000).rev() {
            put(
                writer,
                &format!("acts/{}/{i:05}.xml", i % 7),
                format!("<act n='{i}'/>").as_bytes(),
                1000,
            )?;
        }
        writer.begin(entry(
            "acts/link",
            EntryKind::Hardlink {
                target: b"acts/0/00000.xml".to_vec(),
            },
        ))?;
        writer.end()
    });
    assert_eq!(finished.list.rows().len(), 2);
    let reader = world.open(&name, &[1]);
    let entries = all(&reader);
    assert_eq!(entries.len(), 5001);
    assert!(entries.is_sorted_by(|a, b| a.path < b.path));
    world.source.reads.lock().unwrap().clear();
    let fresh = world.open(&name, &[1]);
    let e = fresh.entry(0, b"acts/3/04553.xml").unwrap().unwrap();
    assert_eq!(fresh.read(&e, 0, 100).unwrap(), b"<act n='4553'/>");
    let reads = world.source.reads.lock().unwrap().clone();
    assert!(
        reads.len() <= 8,
        "list, headers, nodes and one frame, not {}",
        reads.len()
    );
    assert!(
        reads.iter().all(|(_, _, len)| *len <= 64 * 1024),
        "{reads:?}"
    );

    let mut below = 0;
    reader
        .walk(0, b"acts/3/", &mut |e| {
            assert!(e.path.starts_with(b"acts/3/"));
            below += 1;
            Ok(true)
        })
        .unwrap();
    assert_eq!(below, 714);
    let mut collect = Collect::default();
    reader.restore(0, b"", &mut collect, &mut |_| {}).unwrap();
    assert!(
        matches!(
            collect.files.last().unwrap().0.kind,
            EntryKind::Hardlink { .. }
        ),
        "links come last"
    );
}

#[test]
fn a_file_of_many_extents_has_a_tree_of_its_own() {
    // One byte every 4 KiB: 300 extents take nodes, 70,000 take inner nodes.
    for count in [256u64, 257, 300, 1600, 1601, 70_000] {
        let mut world = World::new();
        let (name, finished) = world.write(1, 1, |writer, _| {
            writer.begin(entry("many", EntryKind::File))?;
            for i in 0..count {
                writer.data(i * 4096, &[(i % 251) as u8 + 1])?;
            }
            writer.end()
        });
        let reader = world.open(&name, &[1]);
        let e = reader.entry(0, b"many").unwrap().unwrap();
        match &e.extents {
            Extents::Inline(extents) => assert_eq!((extents.len(), count), (256, 256)),
            Extents::Tree {
                count: held, spans, ..
            } => {
                assert_eq!(*held, count);
                assert_eq!(spans.len(), 1);
                assert!(spans[0].last < finished.root.seq);
            }
        }
        assert_eq!(e.size, (count - 1) * 4096 + 1);
        for i in [0, 1, 255, count / 2, count - 1] {
            let at = (i * 4096).saturating_sub(1);
            let expect = if i == 0 {
                vec![1, 0]
            } else {
                vec![0, (i % 251) as u8 + 1]
            };
            let len = (e.size - at).min(2) as usize;
            assert_eq!(
                reader.read(&e, at, 2).unwrap(),
                expect[..len],
                "{count} at {i}"
            );
        }
        let mut collect = Collect::default();
        reader.restore(0, b"", &mut collect, &mut |_| {}).unwrap();
        assert_eq!(collect.written, count);
    }
}

#[test]
fn what_does_not_change_is_referred_to_and_not_written() {
    let mut world = World::new();
    let big = noise(40 << 20, 1);
    let (_, first) = world.write(1, 1, |writer, _| {
        put(writer, "big", &big, 1 << 20)?;
        for i in 0..3000 {
            put(writer, &format!("s/{i:05}"), &noise(50, i as u8), 50)?;
        }
        writer.begin(entry("many", EntryKind::File))?;
        for i in 0..1000u64 {
            writer.data(i * 4096, &[1])?;
        }
        writer.end()
    });
    assert!(first.sealed > 40 << 20);
    world.next = 0; // a new epoch counts its packs anew
    let (name, second) = world.write(2, 2, |writer, parent| {
        for e in &parent.source("tree", "t").unwrap().entries {
            if e.path == b"s/01234" {
                put(writer, "s/01234", b"changed", 10)?;
            } else {
                writer.unchanged(e.clone())?;
            }
        }
        put(writer, "s/new", b"new", 10)
    });
    assert!(
        second.sealed <= 2 * 65536,
        "cost follows change: {}",
        second.sealed
    );
    assert_eq!(second.list.epochs(), [EpochNo(1), EpochNo(2)]);
    let reader = world.open(&name, &[1, 2]);
    let read = |path: &[u8], len| {
        reader
            .read(&reader.entry(0, path).unwrap().unwrap(), 0, len)
            .unwrap()
    };
    assert_eq!(read(b"s/01234", 100), b"changed");
    assert_eq!(read(b"s/new", 100), b"new");
    assert_eq!(read(b"s/01235", 100), noise(50, 1235u32 as u8));
    assert_eq!(read(b"big", 1 << 20), big[..1 << 20]);
    assert_eq!(read(b"many", 1), [1]);
    assert_eq!(all(&reader).len(), 3003);

    // Without the older epoch's key only what is new opens.
    let only_new = VersionReader::open(
        world.source.clone(),
        keys(&[2]),
        &name,
        Check::Seal,
        DEFAULT_CACHE,
    );
    let only_new = only_new.unwrap();
    let old = second
        .index
        .source("tree", "t")
        .unwrap()
        .entry(b"big")
        .unwrap();
    assert!(matches!(
        only_new.read(old, 0, 1),
        Err(ReadError::NoKey { epoch: EpochNo(1) })
    ));
}

#[test]
fn an_unchanged_file_of_another_version_is_refused() {
    let mut world = World::new();
    world.write(1, 1, |writer, _| put(writer, "a", &noise(300_000, 1), 5000));
    let known = world.index.source("tree", "t").unwrap().entries[0].clone();
    let index = Index::empty(state(), registry());
    let place = Place {
        state: state(),
        registry: registry(),
        epoch: EpochNo(1),
        next_seq: 9,
    };
    let (mut packs, mut rng) = (Vec::new(), Fixed(0));
    let root = root_of(1);
    let mut writer = VersionWriter::new(place, &root, &index, &mut packs, &mut rng);
    assert!(writer.unchanged(known.clone()).is_err(), "no source");
    writer.source("tree", "t").unwrap();
    assert!(writer.unchanged(known).is_err());
}

#[test]
fn the_contract_of_the_sink_is_enforced() {
    let index = Index::empty(state(), registry());
    let place = Place {
        state: state(),
        registry: registry(),
        epoch: EpochNo(1),
        next_seq: 0,
    };
    let (mut packs, mut rng) = (Vec::new(), Fixed(0));
    let root = root_of(1);
    let mut w = VersionWriter::new(place, &root, &index, &mut packs, &mut rng);
    assert!(w.begin(entry("a", EntryKind::File)).is_err(), "no source");
    w.source("tree", "t").unwrap();
    assert!(w.data(0, b"x").is_err() && w.end().is_err(), "no entry");
    w.begin(entry("a", EntryKind::File)).unwrap();
    assert!(
        w.begin(entry("b", EntryKind::File)).is_err() && w.source("x", "y").is_err(),
        "still open"
    );
    w.data(10, b"xy").unwrap();
    assert!(w.data(11, b"z").is_err(), "backwards");
    assert!(w.data(u64::MAX, b"z").is_err(), "too far");
    w.end().unwrap();
    w.begin(entry("d", EntryKind::Dir)).unwrap();
    assert!(w.data(0, b"z").is_err(), "a directory has no data");
    w.end().unwrap();
    assert!(w.begin(entry("../x", EntryKind::File)).is_err());
    assert!(w.meta("k", &"v".repeat(MAX_META)).is_err());
    put(&mut w, "a", b"again", 9).unwrap();
    let twice = w.finish(VersionNo(1)).unwrap_err().to_string();
    assert!(twice.contains("a was captured twice"), "{twice}");
}

#[test]
fn the_same_input_makes_the_same_packs() {
    let run = || {
        let mut world = World::new();
        let (name, _) = world.write(1, 1, |w, _| put(w, "a", &noise(300_000, 1), 777));
        name
    };
    assert_eq!(run(), run());
}

#[test]
fn the_index_survives_the_disk_and_notices_damage() {
    let mut world = World::new();
    let (_, finished) = world.write(1, 1, |w, _| put(w, "a", &noise(300_000, 1), 777));
    let bytes = finished.index.encode();
    assert_eq!(Index::decode(&bytes).unwrap(), finished.index);
    for at in [0, 10, bytes.len() / 2, bytes.len() - 1] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(Index::decode(&bad).is_err());
    }
    assert!(Index::decode(&bytes[..bytes.len() - 1]).is_err() && Index::decode(&[]).is_err());
}

#[test]
fn nodes_are_cut_by_content_and_every_level_is_shorter() {
    assert_eq!(cut(&[]), Vec::<usize>::new());
    assert_eq!(cut(&[(200_000, false)]), [1]);
    assert_eq!(
        cut(&[(200_000, true), (200_000, true), (1, false)]),
        [1, 1, 1]
    );
    let items: Vec<(usize, bool)> = (0..10_000).map(|i| (4122, i % 3 == 0)).collect();
    let counts = cut(&items);
    assert_eq!(counts.iter().sum::<usize>(), items.len());
    assert!(counts.iter().rev().skip(1).all(|c| (2..=15).contains(c)));
}

/// A sink whose epochs last for two packs each.
struct Hourly {
    packs: Vec<(u32, SealedPack)>,
    epoch: u32,
    used: u32,
}

impl PackSink for Hourly {
    fn pack(&mut self, seq: u32, pack: SealedPack) -> SourceResult<()> {
        self.packs.push((seq, pack));
        self.used += 1;
        if self.used == 2 {
            (self.epoch, self.used) = (self.epoch + 1, 0);
        }
        Ok(())
    }

    fn renews(&self) -> bool {
        true
    }

    fn renew(&mut self, held: Option<EpochNo>) -> SourceResult<Option<Renewed>> {
        let epoch = EpochNo(self.epoch);
        Ok((held != Some(epoch)).then(|| Renewed {
            epoch,
            root: root_of(self.epoch),
            next_seq: self.used,
        }))
    }
}

#[test]
fn a_version_that_outlasts_its_epoch_goes_on_under_the_next() {
    let mut world = World::new();
    let place = Place {
        state: state(),
        registry: registry(),
        epoch: EpochNo(1),
        next_seq: 0,
    };
    let index = Index::empty(state(), registry());
    let mut sink = Hourly {
        packs: Vec::new(),
        epoch: 1,
        used: 0,
    };
    let mut rng = Fixed(3);
    let root = root_of(1);
    let content = noise(100 << 20, 5);
    let mut writer = VersionWriter::new(place, &root, &index, &mut sink, &mut rng);
    writer.source("tree", "t").unwrap();
    put(&mut writer, "large", &content, 1 << 20).unwrap();
    let finished = writer.finish(VersionNo(1)).unwrap();
    let epochs: Vec<u32> = finished.list.epochs().into_iter().map(|e| e.0).collect();
    assert!(epochs.len() >= 4, "{epochs:?}");
    for (seq, pack) in &sink.packs {
        assert!(*seq < 2, "each epoch numbers its packs anew");
        let mut objects = world.source.objects.lock().unwrap();
        objects.insert((ObjectKind::Pack, pack.digest), pack.bytes.clone());
    }
    let list = finished.list.encode();
    let digest = Digest::of(&list);
    let mut objects = world.source.objects.lock().unwrap();
    objects.insert((ObjectKind::List, digest), list);
    drop(objects);
    world.index = finished.index.clone();
    let name = VersionName {
        state: state(),
        registry: registry(),
        version: VersionNo(1),
        list: digest,
        root: finished.root,
    };
    let reader = world.open(&name, &epochs);
    let mut collect = Collect::default();
    reader.restore(0, b"", &mut collect, &mut |_| {}).unwrap();
    assert_eq!(collect.files[0].1.len(), content.len());
    assert!(collect.files[0].1 == content, "the same bytes");
}

mod reuse;
