//! Trees on a real file system, there and back, compared by independent readers: diff, stat, getfattr-like calls.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use legation_core::manifest::{Entry, EntryKind, Extents, Mtime};
use legation_core::source::{Restorer, Sink};
use legation_registry::Error;
use legation_registry::tree::{Options, Parent, RestoreReport, TreeReport, TreeRestorer, capture};

use crate::memory::MemorySink;

fn take(root: &Path) -> (MemorySink, TreeReport) {
    let mut sink = MemorySink::default();
    let report = walk(root, &Parent::default(), &mut sink);
    (sink, report)
}

fn walk(root: &Path, parent: &Parent<'_>, sink: &mut dyn Sink) -> TreeReport {
    capture(root, Options::default(), parent, sink, &|| false).unwrap()
}

/// As a version's index keeps them.
fn entries_of(sink: &MemorySink) -> Vec<Entry> {
    sink.entries
        .values()
        .map(|(entry, _)| entry.clone())
        .collect()
}

fn give_back(sink: &MemorySink, to: &Path) -> RestoreReport {
    let mut restorer = TreeRestorer::new(to).unwrap().keep_privileges();
    sink.restore(&mut restorer).unwrap();
    restorer.finish().unwrap()
}

/// One line for each name: everything that stat and the attribute tools tell, by stock tools.
fn listing(root: &Path) -> String {
    let run = |script: &str| {
        let output = Command::new("sh")
            .arg("-c")
            .arg(script)
            .current_dir(root)
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let names = run(
        "find . -printf '%p|%y|%m|%U|%G|%n|%T@|%l|' \\( -type d -printf '-\\n' -o -printf '%s\\n' \\) | sort",
    );
    let groups = run(
        "find . -type f -links +1 -printf '%i %p\\n' | sort -k2 | awk '{ if (!($1 in n)) n[$1] = NR; print n[$1], $2 }'",
    );
    let attributes = run(
        "find . -print0 | python3 -c 'import os,sys\nfor n in sorted(sys.stdin.buffer.read().split(b\"\\0\")):\n  n and print(n, sorted((a, os.getxattr(n, a, follow_symlinks=False)) for a in os.listxattr(n, follow_symlinks=False)))'",
    );
    format!("{names}\n{groups}\n{attributes}")
}

fn assert_same(a: &Path, b: &Path) {
    let diff = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(a)
        .arg(b)
        .output()
        .unwrap();
    // diff reports fifos and sockets as "is a fifo while"; equal kinds are silent only for what it can compare.
    let text = String::from_utf8_lossy(&diff.stdout).into_owned();
    let odd: Vec<_> = text
        .lines()
        .filter(|l| !l.contains(" is a fifo while ") && !l.contains(" is a socket while "))
        .collect();
    assert!(
        odd.is_empty(),
        "{odd:?} {}",
        String::from_utf8_lossy(&diff.stderr)
    );
    assert_eq!(listing(a), listing(b));
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn a_tree_of_everything_comes_back_equal() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("a/b/c")).unwrap();
    fs::create_dir(from.join("empty")).unwrap();
    for size in [
        0,
        1,
        4095,
        4096,
        4097,
        131_071,
        131_072,
        131_073,
        1 << 20,
        (1 << 20) + 1,
        (4 << 20) + 5,
    ] {
        fs::write(from.join(format!("a/{size}")), bytes(size)).unwrap();
    }
    // Names that are no text, hide things, or look like options and paths.
    for name in [
        &b"\xff\xfe\x80"[..],
        b"new\nline",
        b" ",
        b"-rf",
        b".hidden",
        b"...",
        b"back\\slash",
        b"quote'\"$(x)",
        &[b'n'; 255],
    ] {
        fs::write(from.join(OsStr::from_bytes(name)), name).unwrap();
    }
    symlink("a/1", from.join("link")).unwrap();
    symlink("/etc/passwd", from.join("absolute")).unwrap();
    symlink("nowhere/at/all", from.join("dangling")).unwrap();
    symlink("..", from.join("a/up")).unwrap();
    symlink(
        OsString::from_vec(vec![0xff, b'/', 0xfe]),
        from.join("odd target"),
    )
    .unwrap();
    fs::hard_link(from.join("a/4096"), from.join("a/b/again")).unwrap();
    fs::hard_link(from.join("a/4096"), from.join("zz")).unwrap();
    fs::hard_link(from.join("link"), from.join("link again")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        from.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    drop(std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap());
    // Sparse: a hole at the start, between and at the end.
    let mut sparse = fs::File::create(from.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    for at in [1 << 20, 40 << 20] {
        sparse.seek(SeekFrom::Start(at)).unwrap();
        sparse.write_all(&bytes(10_000)).unwrap();
    }
    fs::File::create(from.join("only a hole"))
        .unwrap()
        .set_len(9 << 20)
        .unwrap();
    for (path, mode) in [
        ("a/1", 0o4751),
        ("a/0", 0o000),
        ("a/b", 0o555),
        ("empty", 0o1777),
        ("zz", 0o640),
    ] {
        fs::set_permissions(from.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(
            from.join(path),
            name,
            value,
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    };
    set("a/4097", "user.legation", b"\0binary\xff");
    set("a/4097", "user.empty", b"");
    set("empty", "user.on a directory", &bytes(1000));
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(from.join("a/4095"), Some(12345), Some(54321)).unwrap();
        std::os::unix::fs::lchown(from.join("dangling"), Some(777), Some(888)).unwrap();
        std::os::unix::fs::lchown(from.join("a/b"), Some(5), Some(6)).unwrap();
    }
    let old = |path: &str, secs: i64, nanos: i64| {
        let time = rustix::fs::Timespec {
            tv_sec: secs,
            tv_nsec: nanos,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(
            rustix::fs::CWD,
            from.join(path),
            &times,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
    };
    old("a/4096", 1, 999_999_999);
    old("dangling", 86_400, 123_456_789);
    old("empty", 1_000_000_000, 1);
    old("a/131072", -1_000_000, 5);

    let (sink, report) = take(&from);
    assert!(report.incomplete.is_empty(), "{:?}", report.incomplete);
    assert_eq!(report.entries as usize, sink.entries.len());
    assert!(report.bytes < 10 << 20, "holes were read: {}", report.bytes);
    let left_out = give_back(&sink, &to).left_out;
    assert!(left_out.is_empty(), "{left_out:?}");
    assert_same(&from, &to);
    for name in ["sparse", "only a hole"] {
        assert!(
            fs::metadata(to.join(name)).unwrap().blocks() * 512 < 1 << 20,
            "{name} is no longer sparse"
        );
    }
    // The version itself is the same again.
    let (again, _) = take(&to);
    let strip = |s: &MemorySink| {
        s.entries
            .values()
            .map(|(e, _)| e.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(strip(&sink), strip(&again));
}

#[test]
fn what_lets_a_program_act_as_another_is_left_out_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("shared")).unwrap();
    for (name, mode) in [
        ("su", 0o4755),
        ("sg", 0o2711),
        ("plain", 0o1755),
        ("shared", 0o2775),
    ] {
        if name != "shared" {
            fs::write(from.join(name), name).unwrap();
        }
        fs::set_permissions(from.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let (mut sink, _) = take(&from);
    let plain = &mut sink.entries.get_mut(&b"plain"[..]).unwrap().0;
    plain
        .xattrs
        .insert(b"security.capability".to_vec(), vec![0; 20]);
    let to = dir.path().join("to");
    let mut restorer = TreeRestorer::new(&to).unwrap();
    sink.restore(&mut restorer).unwrap();
    let left_out = restorer.finish().unwrap().left_out;
    let paths: Vec<_> = left_out.iter().map(|(path, _)| path.as_slice()).collect();
    assert_eq!(paths, [&b"plain"[..], b"sg", b"su"], "{left_out:?}");
    let mode = |name: &str| fs::metadata(to.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        ["su", "sg", "plain", "shared"].map(mode),
        [0o755, 0o711, 0o1755, 0o2775]
    );
}

#[test]
fn nobody_else_enters_a_tree_while_it_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("open"), b"to all who get here").unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o750)).unwrap();
    let (sink, _) = take(&from);
    let (new, empty) = (dir.path().join("new"), dir.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)).unwrap();
    for to in [new, empty] {
        let mut restorer = TreeRestorer::new(&to).unwrap();
        sink.restore(&mut restorer).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o700);
        restorer.finish().unwrap();
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o750);
    }
}

/// Only who is not root needs the right to write for an attribute.
#[test]
fn attributes_of_read_only_files_come_back_without_root() {
    let dir = tempfile::tempdir().unwrap();
    let (from, place) = (dir.path().join("from"), dir.path().join("place"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&place).unwrap();
    fs::write(from.join("sealed"), b"x").unwrap();
    rustix::fs::setxattr(
        from.join("sealed"),
        "user.legation",
        b"v",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    fs::set_permissions(from.join("sealed"), fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (sink, _) = take(&from);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&place, Some(65534), Some(65534)).unwrap();
    }
    let to = place.join("to");
    let restored = to.clone();
    let left_out = std::thread::spawn(move || {
        // This thread alone.
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::fs::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        let mut restorer = TreeRestorer::new(&restored).unwrap();
        sink.restore(&mut restorer).unwrap();
        restorer.finish().unwrap().left_out
    })
    .join()
    .unwrap();
    assert!(left_out.is_empty(), "{left_out:?}");
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(to.join("sealed"), "user.legation", &mut value).unwrap();
    assert_eq!(&value[..length], b"v");
}

#[test]
fn paths_come_in_order_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("from/b/c")).unwrap();
    fs::create_dir_all(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/secret"), b"x").unwrap();
    let from = dir.path().join("from");
    for name in ["b/c/1", "b-", "a", "b/0"] {
        fs::write(from.join(name), b"").unwrap();
    }
    symlink("../outside", from.join("way out")).unwrap();
    let (sink, _) = take(&from);
    assert!(
        matches!(&sink.entries[&b"way out"[..]].0.kind, EntryKind::Symlink { target } if target == b"../outside")
    );
    assert!(sink.entries.keys().all(|p| !p.ends_with(b"secret")));
    assert_eq!(sink.entries[&b""[..]].0.kind, EntryKind::Dir);
    // The top itself must not be a link.
    let error = capture(
        &from.join("way out"),
        Options::default(),
        &Parent::default(),
        &mut MemorySink::default(),
        &|| false,
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("name the directory itself"),
        "{error}"
    );
}

#[test]
fn unchanged_files_are_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path();
    for name in ["same", "touched", "rewritten", "replaced", "mode"] {
        fs::write(from.join(name), b"content").unwrap();
    }
    // Too young to be trusted: the clock's tick could hide a change.
    let (_, report) = take(from);
    assert!(report.stats.is_empty());
    std::thread::sleep(Duration::from_millis(2500));
    let (sink, report) = take(from);
    assert_eq!(report.stats.len(), 5);
    let entries = entries_of(&sink);
    let known = Parent::new(&entries, &report.stats);
    let later = std::time::SystemTime::now() - Duration::from_secs(100);
    fs::File::options()
        .write(true)
        .open(from.join("touched"))
        .unwrap()
        .set_modified(later)
        .unwrap();
    fs::write(from.join("rewritten"), b"CONTENT").unwrap();
    let modified = fs::metadata(from.join("replaced"))
        .unwrap()
        .modified()
        .unwrap();
    fs::write(from.join("new"), b"Content").unwrap();
    fs::File::options()
        .write(true)
        .open(from.join("new"))
        .unwrap()
        .set_modified(modified)
        .unwrap();
    fs::rename(from.join("new"), from.join("replaced")).unwrap();
    fs::set_permissions(from.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut sink = MemorySink::default();
    let report = walk(from, &known, &mut sink);
    assert_eq!(sink.unchanged, [b"same".to_vec()]);
    assert_eq!((report.unchanged, report.entries, report.bytes), (1, 6, 28));
    assert_eq!(sink.content("replaced"), b"Content");
    assert_eq!(sink.content("rewritten"), b"CONTENT");
    assert_eq!(
        report
            .stats
            .iter()
            .map(|(p, _)| p.as_slice())
            .collect::<Vec<_>>(),
        [b"same"]
    );
}

#[test]
fn a_hostile_version_stays_in_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), b"untouched").unwrap();
    let entry = |path: &[u8], kind| Entry {
        path: path.to_vec(),
        kind,
        mode: 0o777,
        uid: 0,
        gid: 0,
        mtime: Mtime::default(),
        size: 0,
        xattrs: Default::default(),
        extents: Extents::default(),
    };
    let escape = EntryKind::Symlink {
        target: outside.as_os_str().as_bytes().to_vec(),
    };
    let attempts: Vec<Vec<Entry>> = vec![
        vec![entry(b"../outside/victim", EntryKind::File)],
        vec![entry(b"/tmp/legation-escape", EntryKind::File)],
        vec![entry(b"a/../../outside/new", EntryKind::File)],
        vec![entry(b"..", EntryKind::Dir)],
        vec![
            entry(b"d", escape.clone()),
            entry(b"d/victim", EntryKind::File),
        ],
        vec![entry(b"d", escape.clone()), entry(b"d", EntryKind::Dir)],
        vec![
            entry(b"d", escape.clone()),
            entry(b"d/new", EntryKind::Fifo),
        ],
        vec![entry(b"d", escape.clone()), entry(b"d", EntryKind::File)],
        vec![entry(
            b"h",
            EntryKind::Hardlink {
                target: b"../outside/victim".to_vec(),
            },
        )],
        vec![
            entry(b"d", escape),
            entry(
                b"h",
                EntryKind::Hardlink {
                    target: b"d/victim".to_vec(),
                },
            ),
        ],
        vec![entry(b"", EntryKind::File)],
        vec![entry(b"nul\0name", EntryKind::File)],
    ];
    for (i, attempt) in attempts.iter().enumerate() {
        let target = dir.path().join(format!("target{i}"));
        let mut restorer = TreeRestorer::new(&target).unwrap();
        let results: Vec<_> = attempt
            .iter()
            .map(|e| restorer.begin(e).and_then(|()| restorer.end()))
            .collect();
        assert!(results.last().unwrap().is_err(), "{attempt:?}");
        drop(restorer);
    }
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched");
    assert_eq!(fs::metadata(outside.join("victim")).unwrap().nlink(), 1);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_ne!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o777);
    assert!(!Path::new("/tmp/legation-escape").exists());
}

#[test]
fn the_restorers_contract() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("there"), b"").unwrap();
    let Err(Error::Refused { what, .. }) = TreeRestorer::new(dir.path()) else {
        panic!()
    };
    assert!(what.contains("\"there\""), "{what}");
    let mut restorer = TreeRestorer::new(&dir.path().join("new")).unwrap();
    assert!(restorer.data(0, b"x").is_err() && restorer.end().is_err());
    let mut file = Entry {
        path: b"f".to_vec(),
        kind: EntryKind::File,
        mode: 0o600,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: Mtime::default(),
        size: 10,
        xattrs: Default::default(),
        extents: Extents::default(),
    };
    file.xattrs.insert(b"nonsense".to_vec(), b"x".to_vec());
    restorer.begin(&file).unwrap();
    assert!(restorer.begin(&file).is_err(), "one at a time");
    assert!(restorer.data(9, b"xx").is_err(), "past its end");
    restorer.data(5, b"five").unwrap();
    restorer.end().unwrap();
    let device = Entry {
        path: b"null".to_vec(),
        kind: EntryKind::CharDev { rdev: 259 },
        size: 0,
        ..file.clone()
    };
    restorer.begin(&device).unwrap();
    restorer.end().unwrap();
    let report = restorer.finish().unwrap();
    assert_eq!(
        fs::read(dir.path().join("new/f")).unwrap(),
        b"\0\0\0\0\0five\0"
    );
    assert_eq!(
        report
            .left_out
            .iter()
            .map(|(p, _)| p.as_slice())
            .collect::<Vec<_>>(),
        [&b"f"[..], b"null"]
    );
    assert!(!dir.path().join("new/null").exists());
}
