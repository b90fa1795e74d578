//! Files in place, written and read back: what a version seals follows what changed, whatever the history.

use std::collections::BTreeSet;
use std::path::Path;

use legation_core::error::FormatError;
use legation_core::id::EpochNo;
use legation_core::keys::Entropy;
use legation_core::pack::SealedPack;
use legation_core::source::ObjectKind;

use super::*;
use crate::reader::VersionName;
use crate::writer::tests::{Collect, World, entry, noise, registry, root_of, state};
use crate::writer::{Finished, Place};

const B: usize = BLOCK as usize;

struct Counted(u64);

impl Entropy for Counted {
    fn draw(&mut self) -> Result<Zeroizing<[u8; 32]>, FormatError> {
        self.0 += 1;
        Ok((*blake3::hash(&self.0.to_le_bytes()).as_bytes()).into())
    }
}

/// Writes one version with the file `db` in place.
fn write(
    world: &mut World,
    dir: &Path,
    epoch: u32,
    version: u32,
    fill: impl FnOnce(&mut VersionWriter<'_>, Option<u64>) -> SourceResult<()>,
) -> (VersionName, Finished) {
    let place = Place {
        state: state(),
        registry: registry(),
        epoch: EpochNo(epoch),
        next_seq: world.next,
    };
    let mut packs: Vec<(u32, SealedPack)> = Vec::new();
    let mut rng = Counted(u64::from(version) << 32);
    let root = root_of(epoch);
    let parent = version.checked_sub(1).map(VersionNo);
    let mut writer =
        VersionWriter::new(place, &root, &world.index, &mut packs, &mut rng).with_maps(dir, parent);
    writer.source("sqlite", "database").unwrap();
    writer.begin(entry("db", EntryKind::File)).unwrap();
    let offered = writer.in_place().unwrap();
    fill(&mut writer, offered).unwrap();
    writer.end().unwrap();
    let finished = writer.finish(VersionNo(version)).unwrap();
    map::keep_only(dir, VersionNo(version)).unwrap();
    let mut objects = world.source.objects.lock().unwrap();
    for (_, pack) in packs {
        objects.insert((ObjectKind::Pack, pack.digest), pack.bytes);
    }
    let list = finished.list.encode();
    let digest = Digest::of(&list);
    objects.insert((ObjectKind::List, digest), list);
    drop(objects);
    // As the agent keeps it.
    world.index = Index::decode(&finished.index.encode()).unwrap();
    world.next = finished.next_seq;
    let name = VersionName {
        state: state(),
        registry: registry(),
        version: VersionNo(version),
        list: digest,
        root: finished.root,
    };
    (name, finished)
}

fn all(writer: &mut VersionWriter<'_>, content: &[u8]) -> SourceResult<()> {
    let pieces = content.chunks(48 * B).enumerate();
    pieces
        .into_iter()
        .try_for_each(|(i, part)| writer.data((i * 48 * B) as u64, part))
}

fn check(world: &World, name: &VersionName, epochs: &[u32], content: &[u8]) {
    let reader = world.open(name, epochs);
    let mut collect = Collect::default();
    reader.restore(0, b"", &mut collect, &mut |_| {}).unwrap();
    assert_eq!(collect.files.len(), 1);
    assert!(collect.files[0].1 == content, "{:?}", name.version);
    let found = reader.entry(0, b"db").unwrap().unwrap();
    for offset in (0..content.len()).step_by(1 << 20) {
        let end = content.len().min(offset + 5000);
        let read = reader.read(&found, offset as u64, 5000).unwrap();
        assert!(read == content[offset..end]);
    }
}

#[test]
fn a_version_seals_the_blocks_that_changed_and_refers_to_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let mut content = noise(40 << 20, 1);
    let (first, finished) = write(&mut world, dir.path(), 1, 1, |writer, offered| {
        assert_eq!(offered, None);
        all(writer, &content)
    });
    assert!(finished.sealed > 40 << 20);
    check(&world, &first, &[1], &content);

    let before = content.clone();
    for block in [0, 700, 1999, 5000, 5001, 10_239] {
        content[block * B..(block + 1) * B].copy_from_slice(&noise(B, block as u8));
    }
    // All of it comes, and what is as it was is known by its digest.
    let (second, finished) = write(&mut world, dir.path(), 1, 2, |writer, offered| {
        assert_eq!(offered, Some(40 << 20));
        all(writer, &content)
    });
    assert!(finished.sealed <= 384 << 10, "{}", finished.sealed);
    check(&world, &second, &[1], &content);

    // Only what changed comes.
    content[900 * B..901 * B].fill(0);
    let (third, finished) = write(&mut world, dir.path(), 2, 3, |writer, _| {
        writer.same(0, 900 * BLOCK)?;
        writer.data(900 * BLOCK, &[0; B])?;
        writer.same(901 * BLOCK, (10_240 - 901) * BLOCK)
    });
    assert_eq!(
        finished.sealed,
        2 * 65_536,
        "one block, its nodes, and the root"
    );
    assert_eq!(finished.bytes, 40 << 20);
    check(&world, &third, &[1, 2], &content);
    check(&world, &first, &[1], &before);

    // A whole file that did not change is still given as such.
    let kept = world.index.sources[0].entries[0].clone();
    let place = Place {
        state: state(),
        registry: registry(),
        epoch: EpochNo(2),
        next_seq: world.next,
    };
    let (mut packs, mut rng) = (Vec::new(), Counted(99));
    let root = root_of(2);
    let mut writer = VersionWriter::new(place, &root, &world.index, &mut packs, &mut rng);
    writer.source("sqlite", "database").unwrap();
    writer.unchanged(kept).unwrap();
    writer.finish(VersionNo(4)).unwrap();
}

#[test]
fn any_history_restores_and_stays_gathered() {
    for seed in 1..=3u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new();
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = move |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) as usize % below
        };
        let mut content = noise(6 << 20, seed as u8);
        let (mut kept, mut sealed, mut whole) = (Vec::new(), 0, 0);
        let epochs: Vec<u32> = (1..=30).collect();
        for version in 1..=120u32 {
            let epoch = version.div_ceil(4);
            if version % 4 == 1 {
                world.next = 0;
            }
            let parent = content.clone();
            let mut changed = BTreeSet::new();
            for _ in 0..draw(6) {
                let block = draw(content.len() / B);
                content[block * B..(block + 1) * B].copy_from_slice(&noise(B, draw(256) as u8));
                changed.insert(block);
            }
            match draw(12) {
                0 => content.extend_from_slice(&noise(draw(40) * B, version as u8)),
                1 => content.truncate(content.len() - draw(40) * B),
                _ => {}
            }
            let known = content.len().min(parent.len()) / B;
            let again = draw(6) == 0;
            let in_full = draw(3) == 0;
            let (name, finished) =
                write(&mut world, dir.path(), epoch, version, |writer, offered| {
                    if again {
                        // Torn: what was read first is of before, and another length.
                        all(writer, &parent[..known * B])?;
                        writer.again()?;
                        return all(writer, &content);
                    }
                    if in_full || offered.is_none() {
                        return all(writer, &content);
                    }
                    assert_eq!(offered, Some(parent.len() as u64));
                    let mut at = 0;
                    for block in changed
                        .iter()
                        .filter(|block| **block < known)
                        .chain([&known])
                    {
                        if *block > at {
                            writer.same((at * B) as u64, ((block - at) * B) as u64)?;
                        }
                        if *block < known {
                            writer
                                .data((block * B) as u64, &content[block * B..(block + 1) * B])?;
                            at = block + 1;
                        }
                    }
                    writer.data((known * B) as u64, &content[known * B..])
                });
            let spread = finished.list.epochs().len();
            assert!(
                spread <= MOST_EPOCHS + 2,
                "seed {seed} v{version}: {spread} epochs"
            );
            // In an entry or in a tree, what a version lies in is bounded.
            let rows = finished.list.rows().len();
            assert!(
                rows <= MOST_PACKS + 12,
                "seed {seed} v{version}: {rows} packs"
            );
            whole += finished.bytes;
            sealed += if version > 1 { finished.sealed } else { 0 };
            check(&world, &name, &epochs, &content);
            kept.push((name, blake3::hash(&content)));
        }
        // The smallest packs are most of it; gathering costs, but far less than sealing all each time.
        println!("seed {seed}: {sealed} of {whole}");
        assert!(sealed < whole / 15, "seed {seed}: {sealed} of {whole}");
        for (name, hash) in kept.iter().step_by(7) {
            let reader = world.open(name, &epochs);
            let mut collect = Collect::default();
            reader.restore(0, b"", &mut collect, &mut |_| {}).unwrap();
            assert_eq!(blake3::hash(&collect.files[0].1), *hash);
        }
    }
}

#[test]
fn without_a_map_that_holds_everything_is_sealed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let content = noise(3 << 20, 5);
    write(&mut world, dir.path(), 1, 1, |writer, _| {
        all(writer, &content)
    });
    let map = std::fs::read_dir(dir.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = std::fs::read(&map).unwrap();
    for at in [0, 20, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&map, &bytes).unwrap();
        let index = world.index.clone();
        let compare = Compare::new(dir.path(), VersionNo(1), &index, ("sqlite", "database"));
        assert!(compare.is_none(), "byte {at}");
    }
    for cut in [0, 39, 40, 103, whole.len() - 1] {
        std::fs::write(&map, &whole[..cut]).unwrap();
        let index = world.index.clone();
        assert!(Compare::new(dir.path(), VersionNo(1), &index, ("sqlite", "database")).is_none());
    }
    let (name, finished) = write(&mut world, dir.path(), 1, 2, |writer, offered| {
        assert_eq!(offered, None);
        assert!(writer.same(0, BLOCK).is_err());
        all(writer, &content)
    });
    assert!(finished.sealed > 3 << 20);
    check(&world, &name, &[1], &content);
    // A writer that keeps no maps takes it as any file.
    let mut plain = World::new();
    plain.write(1, 1, |writer, _| {
        writer.begin(entry("db", EntryKind::File))?;
        assert_eq!(writer.in_place()?, None);
        assert!(writer.again().is_err());
        writer.data(0, &content)?;
        writer.end()
    });
}

#[test]
fn a_comparison_ends_at_the_first_difference() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let content = noise(2 << 20, 6);
    write(&mut world, dir.path(), 1, 1, |writer, _| {
        all(writer, &content)
    });
    let give = |content: &[u8], again: bool| {
        let mut compare = Compare::new(
            dir.path(),
            VersionNo(1),
            &world.index,
            ("sqlite", "database"),
        )
        .unwrap();
        let mut run = || {
            compare.begin(entry("db", EntryKind::File))?;
            if again {
                compare.data(0, &content[..B])?;
                compare.again()?;
            }
            for (i, part) in content.chunks(B).enumerate() {
                compare.data((i * B) as u64, part)?;
            }
            compare.end()
        };
        let ended = run();
        assert_eq!(ended.is_err(), compare.differs());
        compare.differs()
    };
    assert!(!give(&content, false) && !give(&content, true));
    assert!(give(&content[..content.len() - B], false));
    let mut longer = content.clone();
    longer.extend_from_slice(&[0; B]);
    assert!(give(&longer, false));
    for at in [0, 1 << 20, content.len() - 1] {
        let mut other = content.clone();
        other[at] ^= 1;
        assert!(give(&other, false), "byte {at}");
    }
}
