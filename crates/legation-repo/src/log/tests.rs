use legation_core::log::{
    LOG_SEED_LEN, LogVerifier, check_consistency, check_inclusion, empty_root, tiles_of,
};

use super::*;
use crate::edge::{self, Fault};

const ORIGIN: &str = "lgn1-test/a";

fn signer() -> LogSigner {
    LogSigner::from_seed(&[7; LOG_SEED_LEN]).unwrap()
}

fn key() -> LogVerifier {
    signer().verifier().clone()
}

fn open(dir: &Path) -> DiskLog {
    DiskLog::open(dir, ORIGIN, signer(), 100).unwrap()
}

fn entries(range: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    range.map(|n| format!("entry {n}").into_bytes()).collect()
}

/// Grows a log to `size` in batches of changing length.
fn grow(log: &mut DiskLog, size: u64) {
    let mut step = 1;
    while log.reader().size() < size {
        let start = log.reader().size();
        let end = (start + step).min(size);
        log.append(&entries(start..end), 200).unwrap();
        step = step * 7 % 256 + 1;
    }
}

/// Whether everything that a log of `size` entries promises is kept.
fn check_whole(reader: &LogReader, size: u64) {
    let checkpoint = reader.checkpoint();
    assert_eq!(checkpoint.size(), size);
    let replayed: Vec<Vec<u8>> = reader.replay().collect::<Result<_, _>>().unwrap();
    assert_eq!(replayed, entries(0..size));
    assert_eq!(reader.root_at(size).unwrap(), checkpoint.root());
    for index in [0, 1, size / 2, size.saturating_sub(1)] {
        if index < size {
            let entry = reader.entry(index).unwrap();
            let proof = reader.inclusion(index, size).unwrap();
            check_inclusion(&leaf_hash(&entry), index, size, &proof, &checkpoint.root()).unwrap();
        }
    }
    for old in [0, 1, 255, 256, 257, size] {
        if old <= size {
            let root = reader.root_at(old).unwrap();
            let proof = reader.consistency(old, size).unwrap();
            check_consistency(old, &root, size, &checkpoint.root(), &proof).unwrap();
        }
    }
    for tile in tiles_of(size) {
        let bytes = reader.fetch(&tile.to_string()).unwrap().unwrap();
        if tile.level != Level::Entries {
            assert_eq!(bytes.len(), usize::from(tile.width) * 32, "{tile}");
        }
    }
}

#[test]
fn a_log_grows_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    assert_eq!(log.reader().checkpoint().root(), empty_root());
    for size in [0, 1, 255, 256, 257, 511, 512, 1000] {
        grow(&mut log, size);
        check_whole(&log.reader(), size);
        drop(log);
        log = open(dir.path());
        check_whole(&log.reader(), size);
        let elsewhere = LogReader::open(dir.path(), ORIGIN, &key()).unwrap();
        check_whole(&elsewhere, size);
    }
    assert!(matches!(
        log.reader().entry(1000),
        Err(StoreError::OutOfRange { .. })
    ));
    assert!(log.reader().fetch("tile/0/003.p/233").unwrap().is_none());
    assert!(log.reader().fetch("tile/0/../x").unwrap().is_none());
    assert_eq!(
        log.reader()
            .fetch("tile/entries/003.p/5")
            .unwrap()
            .unwrap()
            .len(),
        5 * 11
    );
}

#[test]
fn a_batch_may_fill_several_tiles_at_once_and_levels_stack() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for start in (0..66_000).step_by(250) {
        log.append(&entries(start..start + 250), 1).unwrap();
    }
    assert!(dir.path().join("tile/1/000").exists());
    assert_eq!(fs::read_dir(dir.path().join(TAIL)).unwrap().count(), 1);
    drop(log);
    let log = open(dir.path());
    check_whole(&log.reader(), 66_000);
}

#[test]
fn readers_see_what_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let reader = log.reader();
    std::thread::scope(|scope| {
        let watching = scope.spawn(move || {
            let mut seen = 0;
            while seen < 600 {
                let size = reader.size();
                assert!(size >= seen);
                if size > 0 {
                    assert_eq!(reader.entry(size - 1).unwrap(), entries(size - 1..size)[0]);
                    reader.inclusion(size / 3, size).unwrap();
                }
                seen = size;
            }
        });
        grow(&mut log, 600);
        watching.join().unwrap();
    });
}

#[test]
fn a_batch_that_cannot_be_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for bad in [vec![vec![0; MAX_ENTRY + 1]], vec![vec![]; MAX_BATCH + 1]] {
        let error = log.append(&bad, 1).unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    }
    log.append(&[], 1).unwrap();
    log.append(&[vec![1; MAX_ENTRY]], 1).unwrap();
    assert_eq!(open(dir.path()).reader().size(), 1);
}

#[test]
fn time_does_not_run_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    assert_eq!(log.append(&entries(0..1), 500).unwrap().time(), 500);
    assert_eq!(log.append(&entries(1..2), 400).unwrap().time(), 500);
    drop(log);
    assert_eq!(
        open(dir.path()).append(&entries(2..3), 1).unwrap().time(),
        500
    );
}

/// Every edge of an append fails in every way, before and at a bundle's boundary: the log is found whole, with or
/// without the batch, never with less than was acknowledged; and goes on.
#[test]
fn an_append_survives_every_edge() {
    let names = [
        "log.append",
        "log.sync",
        "log.checkpoint",
        "log.settle",
        "file.write",
        "file.sync",
    ];
    let names = names
        .into_iter()
        .chain(["file.rename", "dir.sync", "object.write", "object.link"]);
    for name in names {
        for fault in [Fault::Eio, Fault::Enospc, Fault::LateEio] {
            for (before, after) in [(3, 6), (250, 260), (510, 512)] {
                for passage in 1..=3 {
                    let at = format!("{name}:{passage}={fault:?} at {before}");
                    let dir = tempfile::tempdir().unwrap();
                    let mut log = open(dir.path());
                    grow(&mut log, before);
                    edge::arm(name, passage, fault);
                    let appended = log.append(&entries(before..after), 300);
                    let fired = !edge::disarm();
                    if let Ok(checkpoint) = &appended {
                        assert_eq!(checkpoint.size(), after, "{at}");
                    } else {
                        assert!(fired, "{at}");
                        assert_eq!(log.reader().size(), before, "{at}");
                        let next = log.append(&entries(before..after), 300).unwrap_err();
                        assert!(matches!(next, StoreError::Finished { .. }), "{at}");
                    }
                    // In place, and as a new process.
                    if passage % 2 == 0 {
                        log.reopen(300).unwrap();
                    } else {
                        drop(log);
                        log = open(dir.path());
                    }
                    let size = log.reader().size();
                    assert!(
                        size == after || (size == before && appended.is_err()),
                        "{at}"
                    );
                    check_whole(&log.reader(), size);
                    grow(&mut log, after + 5);
                    check_whole(&log.reader(), after + 5);
                }
            }
        }
    }
}

#[test]
fn an_unfinished_tail_is_cut_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    grow(&mut log, 3);
    let tail = log.snapshot().tail.path(dir.path());
    let whole = fs::read(&tail).unwrap();
    drop(log);
    let more = bundle(&entries(3..5)).unwrap();
    for cut in 0..more.len() {
        fs::write(&tail, [&whole[..], &more[..cut]].concat()).unwrap();
        let log = open(dir.path());
        check_whole(&log.reader(), 3);
        assert_eq!(fs::read(&tail).unwrap(), whole);
    }
}

#[test]
fn a_log_that_lost_what_it_signed_for_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    grow(&mut log, 300);
    let tail = log.snapshot().tail.path(dir.path());
    drop(log);
    let refused = |why: &str| {
        let error = DiskLog::open(dir.path(), ORIGIN, signer(), 1).unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{why}: {error}"
        );
    };
    let damage = |path: &Path, why: &str| {
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        for (bytes, how) in [(&good[..middle], "cut"), (&bad[..], "flipped")] {
            fs::remove_file(path).unwrap();
            fs::write(path, bytes).unwrap();
            refused(&format!("{why} {how}"));
        }
        fs::remove_file(path).unwrap();
        refused(&format!("{why} gone"));
        fs::write(path, good).unwrap();
        check_whole(&open(dir.path()).reader(), 300);
    };
    damage(&tail, "tail");
    damage(&dir.path().join("tile/0/000"), "tile");
    damage(&dir.path().join(CHECKPOINT), "checkpoint");
    // A bundle is proven when it is read.
    let path = dir.path().join("tile/entries/000");
    let mut bytes = fs::read(&path).unwrap();
    bytes[5] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let log = open(dir.path());
    assert!(matches!(
        log.reader().entry(7),
        Err(StoreError::Damaged { .. })
    ));
    assert!(log.reader().replay().any(|entry| entry.is_err()));
    // Another key's log is not taken over.
    let other = LogSigner::from_seed(&[8; LOG_SEED_LEN]).unwrap();
    assert!(DiskLog::open(dir.path(), ORIGIN, other, 1).is_err());
}

/// The log's name and key, nothing seen.
fn believed() -> Believed {
    Believed {
        origin: ORIGIN.to_owned(),
        key: key(),
        seen: None,
    }
}

#[test]
fn a_mirror_follows_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let (home, away) = (dir.path().join("log"), dir.path().join("mirror"));
    let mut log = open(&home);
    for size in [0, 1, 200, 256, 600] {
        grow(&mut log, size);
        Mirror::update(&away, &log.reader(), &believed()).unwrap();
        let mirror = Mirror::open(&away).unwrap();
        assert_eq!((mirror.size(), mirror.origin()), (size, ORIGIN));
        let checkpoint = mirror.verify(ORIGIN, &key()).unwrap();
        assert_eq!(checkpoint, log.reader().checkpoint());
        let found: Vec<Vec<u8>> = mirror.entries(0).collect::<Result<_, _>>().unwrap();
        assert_eq!(found, entries(0..size));
        if size > 0 {
            assert_eq!(mirror.entry(size - 1).unwrap(), found[size as usize - 1]);
            assert_eq!(
                mirror.root_at(size / 2).unwrap(),
                log.reader().root_at(size / 2).unwrap()
            );
        }
        assert!(mirror.entry(size).is_err());
        for tile in tiles_of(size) {
            let served = log.reader().fetch(&tile.to_string()).unwrap().unwrap();
            assert_eq!(fs::read(away.join(tile.to_string())).unwrap(), served);
        }
        assert!(!away.join("incoming").exists());
    }
    let mirror = Mirror::open(&away).unwrap();
    let digest = mirror.put_attachment(b"keyring").unwrap();
    assert_eq!(mirror.attachment(&digest).unwrap().unwrap(), b"keyring");
    let other = LogSigner::from_seed(&[8; LOG_SEED_LEN]).unwrap();
    assert!(mirror.verify(ORIGIN, other.verifier()).is_err());
    assert!(mirror.verify("lgn1-test/b", &key()).is_err());
}

#[test]
fn a_mirror_refuses_a_shorter_or_forked_log_and_keeps_both() {
    let dir = tempfile::tempdir().unwrap();
    let away = dir.path().join("mirror");
    let mut log = open(&dir.path().join("log"));
    grow(&mut log, 400);
    Mirror::update(&away, &log.reader(), &believed()).unwrap();
    let refused = |source: &LogReader, expect: &str| {
        let error = Mirror::update(&away, source, &believed()).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
        assert_eq!(Mirror::open(&away).unwrap().size(), 400);
        let head = source.checkpoint().head();
        let kept = away.join(format!("refused-{}-{}", head.size, head.root.short()));
        assert_eq!(
            fs::read_to_string(kept).unwrap(),
            source.checkpoint().note()
        );
    };
    let mut short = open(&dir.path().join("short"));
    grow(&mut short, 390);
    refused(&short.reader(), "size 390 < 400");
    for (name, size) in [("fork", 500), ("same", 400)] {
        let mut fork = open(&dir.path().join(name));
        fork.append(&[b"another first entry".to_vec()], 1).unwrap();
        grow(&mut fork, size);
        refused(&fork.reader(), "forked");
    }
    // A fork in the bundle that is still open here.
    let mut late = open(&dir.path().join("late"));
    grow(&mut late, 399);
    late.append(&[b"another entry 399".to_vec()], 1).unwrap();
    refused(&late.reader(), "forked");
    // The true log is still welcome.
    grow(&mut log, 700);
    Mirror::update(&away, &log.reader(), &believed()).unwrap();
    assert_eq!(Mirror::open(&away).unwrap().size(), 700);
}

#[test]
fn a_new_mirror_of_a_log_that_was_seen_refuses_another_tree_and_keeps_both() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(&dir.path().join("log"));
    grow(&mut log, 300);
    let seen = log.reader().checkpoint();
    let believed = Believed {
        seen: Some(seen.clone()),
        ..believed()
    };
    let mut short = open(&dir.path().join("short"));
    grow(&mut short, 299);
    let mut fork = open(&dir.path().join("fork"));
    fork.append(&[b"another first entry".to_vec()], 1).unwrap();
    grow(&mut fork, 400);
    for (name, source) in [("short", &short), ("fork", &fork)] {
        // Empty, and one that follows the wrong tree already.
        let away = dir.path().join(format!("mirror-{name}"));
        let refused = |size: Option<u64>| {
            let error = Mirror::update(&away, &source.reader(), &believed).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert_eq!(Mirror::open(&away).ok().map(|m| m.size()), size);
            let of = |what, c: &Checkpoint| {
                fs::read_to_string(away.join(format!("{what}-{}-{}", c.size(), c.root().short())))
            };
            assert_eq!(of("seen", &seen).unwrap(), seen.note());
            let offered = source.reader().checkpoint();
            assert_eq!(of("refused", &offered).unwrap(), offered.note());
        };
        refused(None);
        Mirror::update(&away, &source.reader(), &super::tests::believed()).unwrap();
        let size = source.reader().size();
        refused(Some(size));
    }
    // One that another key signed replaces nothing.
    let away = dir.path().join("mirror");
    Mirror::update(&away, &log.reader(), &believed).unwrap();
    grow(&mut log, 310);
    let other = LogSigner::from_seed(&[8; LOG_SEED_LEN]).unwrap();
    let stranger = Believed {
        key: other.verifier().clone(),
        ..believed.clone()
    };
    Mirror::update(&away, &log.reader(), &stranger).unwrap_err();
    assert_eq!(Mirror::open(&away).unwrap().size(), 300);
    Mirror::update(&away, &log.reader(), &believed).unwrap();
    assert_eq!(Mirror::open(&away).unwrap().size(), 310);
}

/// Bringing a mirror up to date costs what is new, and what it held is proven when it is read.
#[test]
fn what_a_mirror_held_is_not_read_again_and_proven_when_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let away = dir.path().join("mirror");
    let mut log = open(&dir.path().join("log"));
    grow(&mut log, 700);
    Mirror::update(&away, &log.reader(), &believed()).unwrap();
    let early = log.reader().checkpoint().head();
    // A bundle that nobody asks for may be damaged, or gone, and the mirror follows its log.
    let bundle = |index| away.join(TilePath::full(Level::Entries, index).to_string());
    let good = fs::read(bundle(0)).unwrap();
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    fs::write(bundle(0), &bad).unwrap();
    fs::remove_file(bundle(1)).unwrap();
    for size in [701, 768, 1300] {
        grow(&mut log, size);
        let mirror = Mirror::update(&away, &log.reader(), &believed()).unwrap();
        assert_eq!(mirror.size(), size);
        let late: Vec<Vec<u8>> = mirror.entries(512).collect::<Result<_, _>>().unwrap();
        assert_eq!(late, entries(512..size));
        for entry in [0, 255] {
            let error = mirror.entry(entry).unwrap_err().to_string();
            assert!(error.contains("tile/entries/000"), "{error}");
        }
        assert!(mirror.entry(256).is_err());
        assert!(mirror.continues(&early).unwrap());
        let mut other = early;
        other.root = legation_core::id::Sha256([3; 32]);
        assert!(!mirror.continues(&other).unwrap());
    }
    // Opening one reads all of it, and so does an update that does not fit.
    assert!(Mirror::open(&away).is_err());
    let tile = away.join(TilePath::full(Level::Hashes(0), 2).to_string());
    fs::write(&tile, [5; 256 * 32]).unwrap();
    grow(&mut log, 1301);
    let error = Mirror::update(&away, &log.reader(), &believed()).unwrap_err();
    assert!(error.to_string().contains("make a new mirror"), "{error}");
}

#[test]
fn a_damaged_mirror_is_told_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let away = dir.path().join("mirror");
    let mut log = open(&dir.path().join("log"));
    grow(&mut log, 300);
    Mirror::update(&away, &log.reader(), &believed()).unwrap();
    for tile in tiles_of(300) {
        let path = away.join(tile.to_string());
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let last = bad.len() - 1;
        bad[last] ^= 1;
        for bytes in [&bad[..], &good[..last]] {
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            let error = Mirror::open(&away).unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. }),
                "{tile}: {error}"
            );
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, good).unwrap();
    }
    Mirror::open(&away).unwrap();
}
