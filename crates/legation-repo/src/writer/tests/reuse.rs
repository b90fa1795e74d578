//! What a version or its parent holds already is not sealed again.

use super::*;
use crate::writer::file::REUSED_SPANS;

/// Everything of the version, by path, as a restore gives it.
fn restored(world: &World, name: &VersionName, epochs: &[u32]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut collect = Collect::default();
    let reader = world.open(name, epochs);
    reader.restore(0, b"", &mut collect, &mut |_| {}).unwrap();
    let files = collect.files.into_iter();
    files.map(|(entry, bytes)| (entry.path, bytes)).collect()
}

#[test]
fn what_moved_or_was_copied_is_not_sealed_again() {
    let mut world = World::new();
    let big = noise(10 << 20, 1);
    let small = |i: usize| noise(100 + 37 * i, i as u8);
    world.write(1, 1, |w, _| {
        put(w, "a/big", &big, 1 << 20)?;
        (0..2000).try_for_each(|i| put(w, &format!("a/{i:04}"), &small(i), 1 << 20))
    });
    world.next = 0;
    let mut changed = big.clone();
    changed[5 << 20] ^= 1;
    let (name, second) = world.write(2, 2, |w, _| {
        put(w, "b/big", &big, 1 << 20)?;
        put(w, "b/copy", &big, 4321)?;
        // One byte of one window, and more at the end.
        put(w, "c", &[&changed[..], b"and more"].concat(), 1 << 20)?;
        (0..2000).try_for_each(|i| put(w, &format!("b/{i:04}"), &small(i), 1 << 20))
    });
    // One window of 128 KiB, and the entries under their new names: 2,000 of about 110 bytes.
    assert!(second.sealed < 1 << 20, "{} bytes", second.sealed);
    let files = restored(&world, &name, &[1, 2]);
    assert_eq!(files.len(), 2003);
    assert!(files[&b"b/big"[..]] == big && files[&b"b/copy"[..]] == big);
    assert!(files[&b"c"[..]] == [&changed[..], b"and more"].concat());
    assert!((0..2000).all(|i| files[format!("b/{i:04}").as_bytes()] == small(i)));
    // The third finds what the first sealed and the second only referred to.
    world.next = 0;
    let (name, third) = world.write(3, 3, |w, _| put(w, "d", &big, 1 << 20));
    assert!(third.sealed <= 2 * 65536, "{} bytes", third.sealed);
    assert!(restored(&world, &name, &[1, 3])[&b"d"[..]] == big);
}

#[test]
fn sparse_files_of_known_and_new_runs_come_back() {
    let mut world = World::new();
    let run = |i: u64, seed: u8| (i * 10_000, noise(5000, seed));
    let fill = |w: &mut VersionWriter<'_>, runs: &[(u64, Vec<u8>)]| {
        w.begin(entry("f", EntryKind::File))?;
        runs.iter().try_for_each(|(at, bytes)| w.data(*at, bytes))?;
        w.end()
    };
    for count in [5, 60, 400] {
        let old: Vec<_> = (0..count).map(|i| run(i, i as u8)).collect();
        let new: Vec<_> = (0..count)
            .map(|i| run(i, if i % 3 == 1 { 251 } else { i as u8 }))
            .collect();
        world.next = 0;
        world.write(1, 1, |w, _| fill(w, &old));
        world.next = 0;
        let (name, _) = world.write(2, 2, |w, _| fill(w, &new));
        let mut expected = vec![0; (count as usize - 1) * 10_000 + 5000];
        for (at, bytes) in &new {
            expected[*at as usize..][..5000].copy_from_slice(bytes);
        }
        assert!(restored(&world, &name, &[1, 2])[&b"f"[..]] == expected);
        world = World::new();
    }
}

#[test]
fn what_shifts_costs_what_changed() {
    let mut world = World::new();
    let dump = noise(20 << 20, 1);
    let fill = |w: &mut VersionWriter<'_>, parts: &[&[u8]]| {
        w.begin_shifting(entry("dump", EntryKind::File))?;
        let mut at = 0;
        for part in parts.iter().flat_map(|part| part.chunks(70_001)) {
            w.data(at, part)?;
            at += part.len() as u64;
        }
        w.end()
    };
    world.write(1, 1, |w, _| fill(w, &[&dump]));
    let parts = [
        b"more in front",
        &dump[..9 << 20],
        b"between",
        &dump[10 << 20..],
    ];
    world.next = 0;
    let (name, second) = world.write(2, 2, |w, _| fill(w, &parts));
    assert!(second.sealed < 1 << 20, "{} bytes", second.sealed);
    assert!(restored(&world, &name, &[1, 2])[&b"dump"[..]] == parts.concat());
}

#[test]
fn a_file_of_very_many_epochs_is_sealed_anew_where_its_entry_cannot_name_them() {
    let mut world = World::new();
    let blocks = 300u32;
    let mut image: Vec<Vec<u8>> = (0..blocks).map(|i| noise(1000, i as u8)).collect();
    let mut last = None;
    for version in 1..=blocks {
        // Each version changes one block, under an epoch of its own.
        let changed = &mut image[version as usize - 1];
        changed[..4].copy_from_slice(&version.to_le_bytes());
        world.next = 0;
        last = Some(world.write(version, version, |w, _| {
            w.begin(entry("vm", EntryKind::File))?;
            for (i, block) in image.iter().enumerate() {
                w.data(i as u64 * WINDOW, block)?;
            }
            w.end()
        }));
    }
    let (name, finished) = last.unwrap();
    let kept = &finished.index.sources[0].entries[0];
    let Extents::Tree { spans, .. } = &kept.extents else {
        panic!("{blocks} extents lie in a tree")
    };
    assert!(spans.len() <= REUSED_SPANS + 1, "{}", spans.len());
    assert!(spans.len() > 100, "what can be named is: {}", spans.len());
    let epochs: Vec<u32> = (1..=blocks).collect();
    let reader = world.open(&name, &epochs);
    for (i, block) in image.iter().enumerate() {
        assert!(reader.read(kept, i as u64 * WINDOW, 1000).unwrap() == *block);
    }
}

#[test]
fn a_discarded_entry_leaves_nothing_and_a_marked_one_says_so() {
    let mut world = World::new();
    let big = noise(3 << 20, 1);
    let (name, finished) = world.write(1, 1, |w, _| {
        assert!(w.discard().is_err() && w.mark(&Incomplete::Torn("x".into())).is_err());
        w.begin(entry("f", EntryKind::File))?;
        w.data(0, &big)?;
        w.discard()?;
        w.begin(entry("f", EntryKind::File))?;
        w.data(0, &big)?;
        w.mark(&Incomplete::Torn("it changed".into()))?;
        w.end()
    });
    // Given again it was found: one copy lies in the packs.
    assert!(finished.sealed < 5 << 20, "{} bytes", finished.sealed);
    let reader = world.open(&name, &[1]);
    let kept = reader.entry(0, b"f").unwrap().unwrap();
    assert_eq!(
        kept.incomplete(),
        Some(Incomplete::Torn("it changed".into()))
    );
    assert!(restored(&world, &name, &[1])[&b"f"[..]] == big);
}
