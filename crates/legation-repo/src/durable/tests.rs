use super::*;
use crate::edge::{self, Fault};

#[test]
fn a_replaced_file_is_the_old_or_the_new_one() {
    for name in ["file.write", "file.sync", "file.rename", "dir.sync"] {
        for fault in [Fault::Eio, Fault::LateEio] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            write_atomic(&path, b"old").unwrap();
            edge::arm(name, 1, fault);
            assert!(write_atomic(&path, b"new").is_err());
            assert!(!edge::disarm());
            let found = fs::read(&path).unwrap();
            assert!(found == b"old" || found == b"new", "{name}={fault:?}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
            write_atomic(&path, b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
        }
    }
}

#[test]
fn an_appender_is_finished_after_an_error() {
    const EDGES: (&str, &str) = ("journal.append", "journal.sync");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    for edge in [EDGES.0, EDGES.1] {
        let mut appender = Appender::open(&path, 0, EDGES).unwrap();
        appender.append(b"one").unwrap();
        appender.sync().unwrap();
        edge::arm(edge, 1, Fault::Enospc);
        let failed = appender.append(b"two").and_then(|()| appender.sync());
        assert!(matches!(failed, Err(StoreError::Full { .. })), "{failed:?}");
        assert_eq!(appender.synced(), 3);
        assert!(matches!(
            appender.append(b"x"),
            Err(StoreError::Finished { .. })
        ));
        assert!(matches!(appender.sync(), Err(StoreError::Finished { .. })));
        let appender = Appender::open(&path, 3, EDGES).unwrap();
        assert_eq!(appender.read(0..3).unwrap(), b"one");
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }
    assert!(matches!(
        Appender::open(&path, 4, EDGES),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn directories_are_made_with_their_parents() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    create_dir(&deep).unwrap();
    create_dir(&deep).unwrap();
    assert_eq!(
        fs::metadata(&deep).unwrap().permissions().mode() & 0o777,
        0o700
    );
    fs::write(dir.path().join("file"), b"").unwrap();
    assert!(create_dir(&dir.path().join("file")).is_err());
}

#[test]
fn reading_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, [0; 10]).unwrap();
    assert_eq!(read_bounded(&path, 10).unwrap().len(), 10);
    assert!(read_bounded(&path, 9).is_err());
}

/// What a thread makes and syncs, by name; one directory is made and reported failed.
#[derive(Default)]
struct Seen {
    synced: Vec<PathBuf>,
    fail: Option<PathBuf>,
}

impl disk::Watch for Seen {
    fn before(&mut self, path: &Path, change: &Change<'_>) -> disk::Verdict {
        if *change == Change::MakeDir && self.fail.as_deref() == Some(path) {
            self.fail = None;
            return disk::Verdict::MakeAndFail(io::ErrorKind::Other.into());
        }
        disk::Verdict::Make
    }

    fn made(&mut self, path: &Path, change: &Change<'_>) {
        if *change == Change::SyncDir {
            self.synced.push(path.to_owned());
        }
    }

    fn room(&self) -> Option<(u64, u64)> {
        None
    }
}

/// Found by the simulation: the journal of a registry was lost with its acknowledged frames, because the directory above
/// it had been made by a call that then failed, and no later call made that name durable.
#[test]
fn a_directory_is_durable_even_if_an_earlier_call_made_the_one_above_and_failed() {
    let dir = tempfile::tempdir().unwrap();
    let above = dir.path().join("registry");
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Seen {
        fail: Some(above.clone()),
        ..Seen::default()
    }));
    let _watching = disk::watch(seen.clone());
    assert!(create_dir(&above.join("stream")).is_err());
    assert!(above.is_dir() && seen.borrow().synced.is_empty());
    create_dir(&above.join("stream")).unwrap();
    let synced = |path: &Path| seen.borrow().synced.iter().any(|p| p == path);
    assert!(synced(&above) && synced(dir.path()));
    // The same when it was the lower one that an earlier run made and did not sync.
    seen.borrow_mut().synced.clear();
    create_dir(&above.join("stream")).unwrap();
    assert!(synced(&above) && synced(dir.path()));
}
