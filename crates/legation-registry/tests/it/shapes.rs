//! What trees are made of beside plain files, and what moves in them between captures; judged by stat, getfacl, getcap,
//! find and diff.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use legation_core::manifest::{Entry, EntryKind};
use legation_registry::tree::{Options, Parent, Stat, TreeReport, TreeRestorer, capture};
use rustix::fs::{Mode, OFlags};

use crate::loops::{Bound, Mounted, ok, text};
use crate::memory::MemorySink;

fn walk(root: &Path, options: Options, parent: &Parent<'_>) -> (MemorySink, TreeReport) {
    let mut sink = MemorySink::default();
    let report = capture(root, options, parent, &mut sink, &|| false).unwrap();
    assert_eq!(report.incomplete, [], "{}", root.display());
    (sink, report)
}

fn take(root: &Path) -> MemorySink {
    walk(root, Options::default(), &Parent::default()).0
}

fn give_back(sink: &MemorySink, to: &Path) {
    let mut restorer = TreeRestorer::new(to).unwrap().keep_privileges();
    sink.restore(&mut restorer).unwrap();
    assert_eq!(restorer.finish().unwrap().left_out, []);
}

fn shell(script: &str, at: &Path) -> String {
    ok("sh", &["-ec", &format!("cd {} && {script}", text(at))])
}

#[test]
fn access_lists_capabilities_and_attributes_of_every_namespace_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("shared/inner")).unwrap();
    for name in ["plain", "listed", "capable", "trusted", "shared/inside"] {
        fs::write(from.join(name), name).unwrap();
    }
    shell(
        "setfacl -m u:12345:rw-,g:54321:r--,m::r-x listed; \
         setfacl -d -m u:12345:rwx,g::r-x shared; setfacl -m u:7:--x shared; \
         setcap cap_net_bind_service=+ep capable; \
         setfacl -m u:99:r-- shared/inner",
        &from,
    );
    // Made below a default list, so it inherits one.
    fs::write(from.join("shared/heir"), b"x").unwrap();
    fs::create_dir(from.join("shared/heiress")).unwrap();
    for (path, name) in [
        ("trusted", "trusted.legation"),
        ("trusted", "user.legation"),
        ("shared/inner", "trusted.overlay.opaque"),
    ] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(from.join(path), name, b"\0v\xff", flags).unwrap();
    }
    std::os::unix::fs::symlink("plain", from.join("link")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(from.join("link"), "trusted.of.a.link", b"l", flags).unwrap();
    give_back(&take(&from), &to);
    for tool in [
        "getfacl -R -n .",
        "find . -type f | sort | xargs getcap",
        "find . -printf '%p %M %U %G %n %T@ %s %l\\n' | grep -v '^. ' | sort",
    ] {
        let (was, is) = (shell(tool, &from), shell(tool, &to));
        assert!(!was.is_empty());
        assert_eq!(was, is, "{tool}");
    }
    assert!(shell("getfacl -n shared/heir", &to).contains("user:12345:rwx"));
    assert!(shell("getcap capable", &to).contains("cap_net_bind_service=ep"));
    let mut value = [0; 9];
    for (path, name, expected) in [
        ("trusted", "trusted.legation", &b"\0v\xff"[..]),
        ("trusted", "user.legation", b"\0v\xff"),
        ("shared/inner", "trusted.overlay.opaque", b"\0v\xff"),
        ("link", "trusted.of.a.link", b"l"),
    ] {
        let length = rustix::fs::lgetxattr(to.join(path), name, &mut value[..]).unwrap();
        assert_eq!(&value[..length], expected, "{path} {name}");
    }
}

#[test]
fn paths_as_long_as_there_are_and_odd_things_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    // 16 names of 255 bytes: no call takes such a path whole.
    let name = vec![0xe9u8; 254];
    let mut at = rustix::fs::open(&from, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..15 {
        rustix::fs::mkdirat(&at, name.as_slice(), Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, name.as_slice(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let file = rustix::fs::openat(&at, name.as_slice(), flags, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
    fs::write(from.join("set"), b"uid").unwrap();
    fs::set_permissions(from.join("set"), fs::Permissions::from_mode(0o6755)).unwrap();
    ok(
        "touch",
        &[
            "-d",
            "1931-05-04T03:02:01.123456789Z",
            text(&from.join("set")),
        ],
    );
    ok("mkfifo", &["-m", "620", text(&from.join("pipe"))]);
    drop(std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap());
    let sink = take(&from);
    assert!(sink.entries.keys().any(|path| path.len() == 16 * 255 - 1));
    give_back(&sink, &to);
    let tool = "find . -printf '%p|%y|%m|%U|%G|%n|%T@|%s\\n' | grep -v '^.|' | sort | md5sum; stat -c %Y set";
    let (was, is) = (shell(tool, &from), shell(tool, &to));
    assert!(was.ends_with("\n-1220129879"), "{was}");
    // Directories' sizes are their file system's.
    let tool = tool.replace("%s", "%y");
    assert_eq!(shell(&tool, &from), shell(&tool, &to), "{was} {is}");
    // As deep as this the shell cannot look: file by file.
    let mut at = rustix::fs::open(&to, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..15 {
        at = rustix::fs::openat(&at, name.as_slice(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let file = rustix::fs::openat(&at, name.as_slice(), OFlags::RDONLY, Mode::empty()).unwrap();
    let mut bytes = [0; 9];
    let length = rustix::io::read(&file, &mut bytes[..]).unwrap();
    assert_eq!(&bytes[..length], b"deep");
}

/// As the index beside a version has them.
fn kept(sink: &MemorySink) -> Vec<Entry> {
    let mut entries: Vec<Entry> = sink.entries.values().map(|(e, _)| e.clone()).collect();
    entries.extend(sink.kept.iter().cloned());
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

/// Waits until nothing in the tree is so young that it would be read again for that alone.
fn settle(root: &Path) -> (MemorySink, TreeReport) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let (sink, report) = walk(root, Options::default(), &Parent::default());
        let files = |e: &&(Entry, _)| e.0.kind == EntryKind::File;
        if report.stats.len() == sink.entries.values().filter(files).count() {
            return (sink, report);
        }
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn below_a_renamed_directory_nothing_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for i in 0..200 {
        let at = root.join(format!("old/{}", i % 10));
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join(format!("{i}")), vec![i as u8; 5000]).unwrap();
    }
    let (sink, report) = settle(root);
    let (entries, stats): (_, Vec<(Vec<u8>, Stat)>) = (kept(&sink), report.stats);
    fs::rename(root.join("old"), root.join("new")).unwrap();
    fs::rename(root.join("new/3"), root.join("three")).unwrap();
    let (sink, report) = walk(root, Options::default(), &Parent::new(&entries, &stats));
    assert_eq!(
        (report.unchanged, report.bytes),
        (200, 0),
        "nothing was read"
    );
    let names: Vec<_> = sink
        .kept
        .iter()
        .map(|e| String::from_utf8_lossy(&e.path))
        .collect();
    assert!(
        names
            .iter()
            .all(|n| n.starts_with("new/") || n.starts_with("three/")),
        "{names:?}"
    );
    // A file that was itself moved is read: its change time says no more than that it was touched.
    fs::rename(root.join("three/3"), root.join("moved")).unwrap();
    // And one that took another's name and size is read too.
    fs::rename(root.join("three/13"), root.join("three/23")).unwrap();
    let (sink, report) = walk(root, Options::default(), &Parent::new(&entries, &stats));
    assert_eq!((report.unchanged, report.bytes), (197, 10_000));
    assert!(sink.content("moved") == [3; 5000] && sink.content("three/23") == [13; 5000]);
}

#[test]
fn other_names_of_a_file_come_and_go_between_captures() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("b")).unwrap();
    fs::write(root.join("b/original"), b"of many names").unwrap();
    let back = |sink: &MemorySink, of: &[Entry], parent: &MemorySink, name: &str| {
        // What was kept from the parent has its content there.
        let mut all = MemorySink::default();
        for entry in of {
            let held = sink.entries.get(&entry.path);
            let same = |e: &&(Entry, _)| e.0.size == entry.size && e.0.kind == EntryKind::File;
            let parts = match held {
                Some((_, parts)) => parts.clone(),
                None => parent.entries.values().find(same).unwrap().1.clone(),
            };
            all.entries
                .insert(entry.path.clone(), (entry.clone(), parts));
        }
        let to = dir.path().join(name);
        give_back(&all, &to);
        ok("diff", &["-r", text(&root), text(&to)]);
        let links = "find . -type f -printf '%n %i %p\\n' | sort -k3 | awk '{ if (!($2 in n)) n[$2] = NR; print $1, n[$2], $3 }'";
        assert_eq!(shell(links, &root), shell(links, &to), "{name}");
    };
    let (first, report) = settle(&root);
    let (one, stats) = (kept(&first), report.stats);
    back(&first, &one, &first, "one");
    // A name in another directory, which comes first now.
    fs::hard_link(root.join("b/original"), root.join("a")).unwrap();
    let (sink, report) = walk(&root, Options::default(), &Parent::new(&one, &stats));
    let two = kept(&sink);
    assert!(matches!(&two[2].kind, EntryKind::Dir) || two.len() == 4);
    back(&sink, &two, &first, "two");
    // The first name goes; the other stays.
    fs::remove_file(root.join("a")).unwrap();
    fs::hard_link(root.join("b/original"), root.join("b/zz")).unwrap();
    let (sink, _) = walk(&root, Options::default(), &Parent::new(&two, &report.stats));
    back(&sink, &kept(&sink), &first, "three");
    // A name is given to another file.
    fs::remove_file(root.join("b/original")).unwrap();
    fs::write(root.join("b/original"), b"of another kind").unwrap();
    let (sink, _) = walk(&root, Options::default(), &Parent::new(&two, &report.stats));
    assert_eq!(sink.content("b/original"), b"of another kind");
}

#[test]
fn mounts_below_a_tree_are_walked_once_or_left_out_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("again/deeper")).unwrap();
    fs::create_dir(root.join("proc")).unwrap();
    fs::write(root.join("file"), b"here").unwrap();
    let other = Mounted::new(&root, "other", "ext4", 8);
    fs::write(other.at.join("there"), b"there").unwrap();
    // The tree below itself, and the kernel's own files.
    let _again = Bound::new(&root, &root.join("again/deeper"));
    let _proc = Bound::new(Path::new("/proc"), &root.join("proc"));
    let sink = take(&root);
    let paths = |sink: &MemorySink| -> Vec<String> {
        let names = sink
            .entries
            .keys()
            .map(|p| String::from_utf8_lossy(p).into_owned());
        names.filter(|name| !name.ends_with("lost+found")).collect()
    };
    let all = [
        "",
        "again",
        "again/deeper",
        "file",
        "other",
        "other.img",
        "other/there",
        "proc",
    ];
    assert_eq!(paths(&sink), all);
    assert_eq!(sink.content("other/there"), b"there");
    let options = Options {
        one_file_system: true,
    };
    let (sink, _) = walk(&root, options, &Parent::default());
    assert_eq!(
        paths(&sink),
        all.map(|p| p.to_owned())
            .into_iter()
            .filter(|p| p != "other/there")
            .collect::<Vec<_>>()
    );
    assert_eq!(sink.entries[&b"other"[..]].0.kind, EntryKind::Dir);
}

#[test]
fn fifty_thousand_names_in_one_directory_are_walked_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..50_000 {
        fs::write(
            dir.path()
                .join(format!("{:x}", i * 2_654_435_761u64 % 4_294_967_291)),
            b"x",
        )
        .unwrap();
    }
    let began = Instant::now();
    let (sink, report) = walk(dir.path(), Options::default(), &Parent::default());
    println!("{} entries in {:?}", report.entries, began.elapsed());
    assert_eq!(report.entries, 50_001);
    let listed = ok(
        "sh",
        &[
            "-c",
            &format!(
                "ls -f {} | LC_ALL=C sort | grep -v '^\\.' | md5sum",
                text(dir.path())
            ),
        ],
    );
    let mut names = String::new();
    for path in sink.entries.keys().skip(1) {
        names += std::str::from_utf8(path).unwrap();
        names.push('\n');
    }
    let told = dir
        .path()
        .parent()
        .unwrap()
        .join(format!("{}.names", std::process::id()));
    fs::write(&told, names).unwrap();
    assert_eq!(
        ok("sh", &["-c", &format!("md5sum <{}", text(&told))]),
        listed
    );
    fs::remove_file(told).unwrap();
}
