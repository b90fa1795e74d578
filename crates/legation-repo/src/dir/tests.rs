use std::os::unix::fs::symlink;

use super::*;
use crate::edge::{self, Fault};
use crate::store::conformance::{object, suite};

fn store() -> (tempfile::TempDir, DirStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::create(&dir.path().join("object")).unwrap();
    (dir, store)
}

#[test]
fn conforms() {
    let dirs = Mutex::new(Vec::new());
    suite(|| {
        let (dir, store) = store();
        dirs.lock().unwrap().push(dir);
        store
    });
}

#[test]
fn an_object_is_a_read_only_file_with_its_outboard_and_its_time() {
    let (_dir, store) = store();
    let (digest, bytes) = object(1, 200_000);
    store
        .put(Kind::Pack, &digest, &bytes, RetainUntil(500))
        .unwrap();
    let path = store.path(Kind::Pack, &digest);
    for path in [&path, &beside(&path)] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
    }
    let outboard = fs::read(beside(&path)).unwrap();
    assert!(
        Outboard::parse(&outboard, &digest)
            .unwrap()
            .damage(&bytes)
            .is_empty()
    );
    assert_eq!(outboard.len() as u64, crate::outboard::size_for(200_000));
    if store.capabilities().retention_recorded {
        let until = || store.retain_until(Kind::Pack, &digest).unwrap();
        assert_eq!(until(), Some(RetainUntil(500)));
        // Lengthened, and never shortened.
        store
            .put(Kind::Pack, &digest, &bytes, RetainUntil::FOREVER)
            .unwrap();
        assert_eq!(until(), Some(RetainUntil::FOREVER));
        store
            .put(Kind::Pack, &digest, &bytes, RetainUntil(1))
            .unwrap();
        assert_eq!(until(), Some(RetainUntil::FOREVER));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o400
        );
    }
    let (slip, bytes) = object(2, 4096);
    store
        .put(Kind::Slip, &slip, &bytes, RetainUntil(500))
        .unwrap();
    assert!(!beside(&store.path(Kind::Slip, &slip)).exists());
}

#[test]
fn a_damaged_copy_is_a_conflict_and_is_kept() {
    let (_dir, store) = store();
    let (digest, bytes) = object(1, 4096);
    store
        .put(Kind::Slip, &digest, &bytes, RetainUntil(5))
        .unwrap();
    let path = store.path(Kind::Slip, &digest);
    let mut other = bytes.clone();
    other[17] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &other).unwrap();
    let error = store
        .put(Kind::Slip, &digest, &bytes, RetainUntil(5))
        .unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), other);
    let error = store.get_whole(Kind::Slip, &digest).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn links_are_not_followed() {
    let (dir, store) = store();
    let (digest, bytes) = object(1, 4096);
    let path = store.path(Kind::Slip, &digest);
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, &bytes).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(store.get(Kind::Slip, &digest, 0..1).is_err());
    assert!(
        store
            .put(Kind::Slip, &digest, &bytes, RetainUntil(5))
            .is_err()
    );
}

#[test]
fn a_reader_does_not_write() {
    let (dir, store) = store();
    let (digest, bytes) = object(1, 4096);
    let reader = DirStore::open_reader(&dir.path().join("object")).unwrap();
    assert!(
        reader
            .put(Kind::Slip, &digest, &bytes, RetainUntil(5))
            .is_err()
    );
    store
        .put(Kind::Slip, &digest, &bytes, RetainUntil(5))
        .unwrap();
    assert_eq!(reader.get_whole(Kind::Slip, &digest).unwrap(), bytes);
}

/// Every edge of a put fails, refused and persisted-but-reported-failed, at every passage: afterwards the object is whole
/// or absent, and putting it again succeeds.
#[test]
fn a_put_survives_every_edge() {
    for name in ["object.write", "object.sync", "object.link", "dir.sync"] {
        for fault in [Fault::Eio, Fault::Enospc, Fault::LateEio] {
            for passage in 1..=4 {
                let (dir, store) = store();
                let (digest, bytes) = object(1, 200_000);
                edge::arm(name, passage, fault);
                let put = store.put(Kind::Pack, &digest, &bytes, RetainUntil(5));
                let unused = edge::disarm();
                assert_eq!(put.is_err(), !unused, "{name}:{passage}={fault:?}: {put:?}");
                if fault == Fault::Enospc && !unused {
                    assert!(matches!(put, Err(StoreError::Full { .. })), "{put:?}");
                }
                drop(store);
                let root = dir.path().join("object");
                let store = DirStore::create(&root).unwrap();
                if store.contains(Kind::Pack, &digest).unwrap() {
                    assert_eq!(store.get_whole(Kind::Pack, &digest).unwrap(), bytes);
                }
                assert_eq!(fs::read_dir(root.join(SCRATCH)).unwrap().count(), 0);
                store
                    .put(Kind::Pack, &digest, &bytes, RetainUntil(5))
                    .unwrap();
                assert_eq!(store.get_whole(Kind::Pack, &digest).unwrap(), bytes);
            }
        }
    }
}
