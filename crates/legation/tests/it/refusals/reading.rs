//! Reading and restoring: without a grant, with one for something else, with another key, over what is there.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use legation_world::args;
use legation_world::world::{Order, World};

use super::{Checks, desk};

/// A name that is no text, and would clear a terminal.
const ODD: &[u8] = b"odd/\xff\x1b[2J";

/// Entries that are not plain files with plain names.
pub fn oddities(gazette: &Path) {
    fs::create_dir(gazette.join("odd")).expect("making a directory");
    fs::write(gazette.join("odd/file"), "the bytes").expect("writing a file");
    fs::hard_link(gazette.join("odd/file"), gazette.join("odd/name")).expect("a second name");
    std::os::unix::fs::symlink("file", gazette.join("odd/sign")).expect("a link");
    fs::write(gazette.join(OsStr::from_bytes(ODD)), "odd").expect("writing a file");
}

/// What is no file is not given out as an empty one; what others named cannot write to the terminal.
fn odd(world: &World, checks: &mut Checks, grant: &Order) {
    let dump = |path: &OsStr| {
        let order = &grant.text;
        desk(
            world,
            args!["dump", "gazette", "latest", path, "--order", order],
        )
    };
    for (path, bytes) in [
        (OsStr::new("odd/file"), "the bytes"),
        (OsStr::new("odd/name"), "the bytes"),
        (OsStr::from_bytes(ODD), "odd"),
    ] {
        let ran = checks.check(&format!("dump {path:?}"), dump(path), 0, &[]);
        checks.hold(
            &format!("dump {path:?} gives its bytes"),
            ran.is_some_and(|ran| ran.out == bytes),
        );
    }
    for (path, words) in [
        ("odd", &["odd is a directory", "legation restore"][..]),
        ("odd/sign", &["odd/sign is a link to file"][..]),
    ] {
        let ran = checks.check(&format!("dump {path}"), dump(OsStr::new(path)), 2, words);
        checks.hold(
            "nothing is given out",
            ran.is_some_and(|ran| ran.out.is_empty()),
        );
    }
    let list = |more: &[std::ffi::OsString]| {
        let order = &grant.text;
        let mut all = args!["ls", "gazette", "latest", "odd/", "--order", order].to_vec();
        all.extend_from_slice(more);
        desk(world, all)
    };
    let ran = checks.check("ls of odd names", list(&[]), 0, &["odd/\\xff\\u{1b}[2J"]);
    checks.hold(
        "no escape reaches the terminal",
        ran.is_some_and(|ran| !ran.out.contains('\x1b')),
    );
    let hex = ODD.iter().map(|byte| format!("{byte:02x}"));
    let hex = format!("\"path_hex\":\"{}\"", hex.collect::<String>());
    checks.check(
        "ls of odd names for programs",
        list(&args!["--json"]),
        0,
        &[&hex],
    );
}

pub fn refused(world: &World, checks: &mut Checks, grant: &Order) {
    let to = world.path("desk/restored");
    let way = &["officers", "legation order new grant gazette"];
    checks.check(
        "ls without a grant",
        desk(world, args!["ls", "gazette"]),
        8,
        way,
    );
    checks.check(
        "dump without a grant",
        desk(world, args!["dump", "gazette", "latest", "a"]),
        8,
        way,
    );
    checks.check(
        "restore without a grant",
        desk(world, args!["restore", "gazette", "--to", to]),
        8,
        way,
    );
    let order = &grant.text;
    let listed = checks.check(
        "ls with a grant",
        desk(world, args!["ls", "gazette", "--order", order]),
        0,
        &[],
    );
    checks.hold(
        "the grant opens files",
        listed.is_some_and(|ran| ran.out.lines().count() > 1),
    );
    let ran = desk(world, args!["ls", "r-ffffff", "--order", order]);
    checks.check(
        "a grant for another registry",
        ran,
        8,
        &["is not for r-ffffff", "legation order new grant"],
    );
    let ran = desk(world, args!["ls", "gazete", "--order", order]);
    checks.check(
        "a registry that nobody knows",
        ran,
        2,
        &["no registry is called gazete", "gazette"],
    );
    let ran = desk(world, args!["ls", "gazette", "v99", "--order", order]);
    checks.check(
        "a version that the grant does not open",
        ran,
        8,
        &["not v99"],
    );
    let ran = desk(world, args!["ls", "gazette", "newest", "--order", order]);
    checks.check("no version", ran, 2, &["latest or v7"]);
    let activation = world.path("desk/first.txt");
    let ran = desk(world, args!["ls", "gazette", "--order", activation]);
    checks.check(
        "an activation in place of a grant",
        ran,
        8,
        &["reading takes a grant"],
    );
    let ran = desk(
        world,
        args![
            "dump",
            "gazette",
            "latest",
            "no/such/file",
            "--order",
            order
        ],
    );
    checks.check(
        "a file that is not in the version",
        ran,
        2,
        &["no/such/file"],
    );
    let ran = desk(
        world,
        args![
            "restore",
            "gazette",
            "--order",
            order,
            "--to",
            to,
            "--target-time",
            "2026-11-22T09:30Z"
        ],
    );
    checks.check("a time of what has none", ran, 2, &["has no WAL"]);
    for (name, target, words) in [
        (
            "a time without an offset",
            ["--target-time", "2026-11-22T09:30"],
            "offset from UTC",
        ),
        (
            "a cut",
            ["--cut", "before-reform"],
            "--cut is not supported by this version",
        ),
        (
            "an inclusion without a target",
            ["--target-inclusive", "false"],
            "--target-",
        ),
    ] {
        let mut all = args!["restore", "gazette", "--order", order, "--to", to].to_vec();
        all.extend(target.map(Into::into));
        checks.check(name, desk(world, all), 2, &[words]);
    }
    let full = world.path("desk/founding");
    let ran = desk(
        world,
        args!["restore", "gazette", "--order", order, "--to", full],
    );
    checks.check(
        "a directory that is not empty",
        ran,
        1,
        &["is not empty", "empty or new directory"],
    );
    odd(world, checks, grant);
    wrong_keys(world, checks, grant);
    checks.hold("no directory was made", !to.exists());
    let ran = desk(
        world,
        args!["restore", "gazette", "--order", order, "--to", to],
    );
    checks.check("a good restore", ran, 0, &["entries"]);
}

fn wrong_keys(world: &World, checks: &mut Checks, grant: &Order) {
    let to = world.path("desk/restored");
    let read = || {
        desk(
            world,
            args!["restore", "gazette", "--order", grant.text, "--to", to],
        )
    };
    let swap = |name: &str, with: &[u8]| {
        let path = world.path(&format!("desk/{name}"));
        let keep = fs::read(&path).expect("reading a file of the grant");
        fs::write(&path, with).expect("changing a file of the grant");
        (path, keep)
    };
    for (name, file, bytes, exit, words) in [
        ("another key", "grant.key", vec![7u8; 32], 12, "key"),
        (
            "half a key",
            "grant.key",
            vec![7u8; 16],
            12,
            "is no key of a grant",
        ),
        (
            "no release",
            "grant.released",
            b"nothing\n".to_vec(),
            2,
            "fetch it again from the officers",
        ),
    ] {
        let (path, keep) = swap(file, &bytes);
        checks.check(name, read(), exit, &[words]);
        fs::write(&path, keep).expect("putting a file back");
    }
    let mut flipped = fs::read(grant.beside("released")).expect("reading the release");
    let at = flipped.len() - 100;
    flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
    let (path, keep) = swap("grant.released", &flipped);
    let ran = read();
    checks.hold(
        "a changed release opens nothing",
        ran.as_ref().is_ok_and(|ran| [4, 12].contains(&ran.code)),
    );
    fs::write(&path, keep).expect("putting the release back");
}
