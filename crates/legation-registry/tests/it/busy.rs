//! Files that do not hold still or cannot be read: each is kept as well as it can be and named, and stops nothing else.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use legation_core::manifest::{Entry, Incomplete};
use legation_core::source::{Sink, SourceResult};
use legation_registry::tree::{
    INCOMPLETE_KEY, Options, Parent, Stat, TreeReport, TreeRestorer, capture,
};

use crate::memory::MemorySink;

fn walk(root: &Path, parent: &Parent<'_>, sink: &mut dyn Sink) -> TreeReport {
    capture(root, Options::default(), parent, sink, &|| false).unwrap()
}

/// Something happens to a file each time that its first bytes were read.
struct Meddler<F: FnMut()> {
    to: MemorySink,
    of: Vec<u8>,
    open: bool,
    act: F,
}

fn meddler<F: FnMut()>(of: &str, act: F) -> Meddler<F> {
    let (to, of) = (MemorySink::default(), of.into());
    Meddler {
        to,
        of,
        open: false,
        act,
    }
}

impl<F: FnMut()> Sink for Meddler<F> {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        self.open = entry.path == self.of;
        self.to.begin(entry)
    }
    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        if std::mem::take(&mut self.open) {
            (self.act)();
        }
        self.to.data(offset, bytes)
    }
    fn end(&mut self) -> SourceResult<()> {
        self.to.end()
    }
    fn mark(&mut self, mark: &Incomplete) -> SourceResult<()> {
        self.to.mark(mark)
    }
    fn discard(&mut self) -> SourceResult<()> {
        self.to.discard()
    }
    fn unchanged(&mut self, entry: Entry) -> SourceResult<()> {
        self.to.unchanged(entry)
    }
    fn meta(&mut self, key: &str, value: &str) -> SourceResult<()> {
        self.to.meta(key, value)
    }
}

fn bytes(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + i / 251) as u8 ^ seed).collect()
}

/// A tree with one file to meddle with and one that is left alone.
fn tree(size: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let busy = dir.path().join("busy");
    fs::write(&busy, bytes(size, 0)).unwrap();
    fs::write(dir.path().join("quiet"), b"quiet").unwrap();
    (dir, busy)
}

fn writable(path: &Path) -> fs::File {
    fs::File::options().write(true).open(path).unwrap()
}

#[test]
fn a_file_that_never_holds_still_is_marked_and_stops_nothing() {
    for size in [1000, 6 << 20] {
        let (dir, busy) = tree(size);
        let round = Cell::new(0);
        let write = || {
            round.set(round.get() + 1);
            // Of what was read already.
            writable(&busy).write_all_at(&[round.get()], 0).unwrap();
        };
        let mut sink = meddler("busy", write);
        let report = walk(dir.path(), &Parent::default(), &mut sink);
        assert_eq!(report.incomplete_count, 1);
        let [(path, Incomplete::Torn(why))] = report.incomplete.as_slice() else {
            panic!("{:?}", report.incomplete)
        };
        assert_eq!(
            (path.as_slice(), why.as_str()),
            (&b"busy"[..], "it changed while it was read")
        );
        assert_eq!(sink.to.meta[INCOMPLETE_KEY], "1");
        assert_eq!(
            sink.to.entries[&b"busy"[..]].0.incomplete(),
            Some(report.incomplete[0].1.clone())
        );
        assert_eq!(sink.to.content("busy").len(), size);
        assert_eq!(sink.to.content("quiet"), b"quiet");
        assert!(
            report.stats.iter().all(|(path, _)| path != b"busy"),
            "it is read again"
        );
        assert!(round.get() >= 3, "it was tried again");

        // What an earlier version has of it is better than a mixture.
        let entries = [sink.to.entries[&b"quiet"[..]].0.clone()];
        let mut before = entries.to_vec();
        before[0].path = b"busy".to_vec();
        let parent = Parent::new(&before, &[]);
        let mut sink = meddler("busy", write);
        let report = walk(dir.path(), &parent, &mut sink);
        assert!(
            matches!(&report.incomplete[..], [(_, Incomplete::Stale(_))]),
            "{report:?}"
        );
        let [kept] = sink.to.kept.as_slice() else {
            panic!()
        };
        assert_eq!((kept.size, kept.incomplete().is_some()), (5, true));
        // And a mixture is no better than the next.
        before[0].mark(&Incomplete::Torn("it changed".into()));
        let parent = Parent::new(&before, &[]);
        let mut sink = meddler("busy", write);
        let report = walk(dir.path(), &parent, &mut sink);
        assert!(
            matches!(&report.incomplete[..], [(_, Incomplete::Torn(_))]),
            "{report:?}"
        );
        assert!(sink.to.kept.is_empty());
    }
}

#[test]
fn a_file_that_only_grows_or_is_touched_is_whole_up_to_where_it_was() {
    for size in [1000, 6 << 20] {
        let (dir, busy) = tree(size);
        let mut end = size as u64;
        let mut sink = meddler("busy", || {
            writable(&busy)
                .write_all_at(b"one more line\n", end)
                .unwrap();
            end += 14;
        });
        let report = walk(dir.path(), &Parent::default(), &mut sink);
        assert_eq!(report.incomplete_count, 0, "{:?}", report.incomplete);
        assert!(sink.to.content("busy") == bytes(size, 0));
        assert!(!sink.to.meta.contains_key(INCOMPLETE_KEY));
        let mut sink = meddler("busy", || {
            writable(&busy)
                .set_modified(std::time::SystemTime::now())
                .unwrap();
        });
        let report = walk(dir.path(), &Parent::default(), &mut sink);
        assert_eq!(report.incomplete_count, 0, "{:?}", report.incomplete);
    }
}

#[test]
fn a_file_that_changes_once_is_read_again() {
    for size in [1000, 6 << 20] {
        let (dir, busy) = tree(size);
        let mut once = Some(bytes(size, 7));
        let mut sink = meddler("busy", || {
            if let Some(new) = once.take() {
                fs::write(&busy, new).unwrap();
            }
        });
        let report = walk(dir.path(), &Parent::default(), &mut sink);
        assert_eq!(report.incomplete_count, 0, "{:?}", report.incomplete);
        assert!(sink.to.content("busy") == bytes(size, 7));
    }
}

#[test]
fn what_is_cut_off_while_it_is_read_is_never_filled_with_zeros_in_silence() {
    let (dir, busy) = tree(6 << 20);
    let mut size = 6 << 20;
    let mut sink = meddler("busy", || {
        size -= 1 << 20;
        writable(&busy).set_len(size).unwrap();
    });
    let report = walk(dir.path(), &Parent::default(), &mut sink);
    assert!(
        matches!(&report.incomplete[..], [(_, Incomplete::Torn(_))]),
        "{report:?}"
    );
}

#[test]
fn a_file_that_a_program_keeps_writing_is_marked_or_whole_and_never_wrong() {
    let (dir, busy) = tree(1 << 20);
    fs::write(&busy, vec![0; 1 << 20]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (busy, stop) = (busy.clone(), stop.clone());
        move || {
            let (file, mut round) = (writable(&busy), 0u8);
            while !stop.load(Ordering::SeqCst) {
                round = round.wrapping_add(1);
                // All of it is of one round, or it is torn.
                file.write_all_at(&vec![round; 1 << 20], 0).unwrap();
            }
        }
    });
    let (mut seen, mut marked) = (BTreeSet::new(), 0);
    for _ in 0..300 {
        let mut sink = MemorySink::default();
        let report = walk(dir.path(), &Parent::default(), &mut sink);
        let content = sink.content("busy");
        seen.insert(content[0]);
        marked += report.incomplete_count;
        let mixed = content.iter().any(|byte| *byte != content[0]);
        assert!(
            report.incomplete_count == 1 || !mixed,
            "a mixture passes for whole"
        );
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    println!(
        "{} states seen, {marked} of 300 captures marked",
        seen.len()
    );
    assert!(seen.len() > 10, "the writer never ran");
    let mut sink = MemorySink::default();
    assert_eq!(
        walk(dir.path(), &Parent::default(), &mut sink).incomplete_count,
        0
    );
}

/// As a user who may not read everything; in a thread of its own, which alone changes who it is.
fn as_nobody<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(|| {
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::fs::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        work()
    })
    .join()
    .unwrap()
}

#[test]
fn what_cannot_be_read_is_kept_as_it_was_or_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(root.join("shut/deep")).unwrap();
    for name in ["closed", "open", "shut/a", "shut/deep/b"] {
        fs::write(root.join(name), name).unwrap();
    }
    fs::hard_link(root.join("shut/a"), root.join("shut/z")).unwrap();
    let mut first = MemorySink::default();
    let report = walk(&root, &Parent::default(), &mut first);
    let stats: Vec<(Vec<u8>, Stat)> = report.stats;
    let entries: Vec<Entry> = first.entries.values().map(|(e, _)| e.clone()).collect();
    let shut = |mode: u32| {
        fs::set_permissions(
            root.join("closed"),
            fs::Permissions::from_mode(mode & 0o666),
        )
        .unwrap();
        fs::set_permissions(root.join("shut"), fs::Permissions::from_mode(mode)).unwrap();
    };
    shut(0o000);

    // Nothing is known of it: names, and that they are no files.
    let place = root.clone();
    let (sink, report) = as_nobody(move || {
        let mut sink = MemorySink::default();
        let report = walk(&place, &Parent::default(), &mut sink);
        (sink, report)
    });
    let marked: Vec<_> = report
        .incomplete
        .iter()
        .map(|(path, mark)| (path.as_slice(), mark))
        .collect();
    let [
        (b"closed", Incomplete::Missing(why)),
        (b"shut", Incomplete::Missing(_)),
    ] = marked.as_slice()
    else {
        panic!("{marked:?}")
    };
    assert!(why.contains("ermission denied"), "{why}");
    assert_eq!(sink.content("open"), b"open");
    let to = dir.path().join("to");
    let mut restorer = TreeRestorer::new(&to).unwrap();
    sink.restore(&mut restorer).unwrap();
    let restored = restorer.finish().unwrap();
    assert!(!to.join("closed").exists() && to.join("shut").is_dir());
    assert_eq!(restored.left_out, []);
    let named: Vec<_> = restored
        .incomplete
        .iter()
        .map(|(path, _)| path.as_slice())
        .collect();
    assert_eq!(named, [&b"closed"[..], b"shut"]);
    fs::remove_dir_all(&to).unwrap();

    // With an earlier version all of it stays, and says that it is old.
    let place = root.clone();
    let (sink, report) = as_nobody(move || {
        let mut sink = MemorySink::default();
        let report = walk(&place, &Parent::new(&entries, &stats), &mut sink);
        (sink, report)
    });
    assert_eq!(report.incomplete_count, 6);
    assert!(
        report
            .incomplete
            .iter()
            .all(|(_, mark)| matches!(mark, Incomplete::Stale(_)))
    );
    let mut kept: Vec<&[u8]> = sink
        .kept
        .iter()
        .map(|entry| entry.path.as_slice())
        .collect();
    kept.sort_unstable();
    let stale: [&[u8]; 6] = [
        b"closed",
        b"shut",
        b"shut/a",
        b"shut/deep",
        b"shut/deep/b",
        b"shut/z",
    ];
    assert_eq!(kept, stale);
    let link = sink
        .kept
        .iter()
        .find(|entry| entry.path == b"shut/z")
        .unwrap();
    assert_eq!(
        link.kind,
        legation_core::manifest::EntryKind::File,
        "its first name may go"
    );
    shut(0o755);
}
