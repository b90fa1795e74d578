//! What keeps a database from being captured is said, with what to do about it.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use legation_registry::Error;
use legation_registry::sqlite::check::{probe, quick_check};
use legation_registry::sqlite::facts;
use std::time::Duration;

use super::{Image, World, sqlite3};

fn refused(world: &World, word: &str) {
    let mut image = Image::default();
    match world.capture(None, &mut image) {
        Err(Error::Refused { what, fix }) => {
            assert!(what.contains(word), "{what}");
            assert!(!fix.is_empty());
        }
        other => panic!("{word}: {other:?}"),
    }
    assert!(facts(&world.db).is_err());
}

#[test]
fn what_is_no_database_is_refused() {
    let world = World::new(1);
    refused(&world, "there is no database");
    std::fs::create_dir(&world.db).unwrap();
    refused(&world, "is not a file");
    std::fs::remove_dir(&world.db).unwrap();
    // As SQLCipher writes it: a salt, then what looks random.
    let noise: Vec<u8> = (0..8192u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    std::fs::write(&world.db, &noise).unwrap();
    refused(&world, "is not a SQLite database");
    std::fs::write(&world.db, b"SQLite format 3\0").unwrap();
    refused(&world, "is not a SQLite database");
    // Through a link it is the database itself.
    std::fs::remove_file(&world.db).unwrap();
    let real = world.dir.path().join("real.db");
    sqlite3(&real, "create table t(x)");
    symlink(&real, &world.db).unwrap();
    let mut image = Image::default();
    world.capture(None, &mut image).unwrap();
    assert_eq!(image.entry.unwrap().path, b"app.db");
}

#[test]
fn exclusive_locking_is_refused_in_both_modes() {
    for mode in ["wal", "delete"] {
        let world = World::new(2);
        world.written(mode, 20);
        let code = "import sqlite3,sys\ndb=sqlite3.connect(sys.argv[1],isolation_level=None)\n\
                    db.execute('pragma locking_mode=exclusive').fetchall()\n\
                    db.execute('insert into entry values (900000, 0)')\nprint('done',flush=True)\nsys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", code])
            .arg(&world.db)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        refused(&world, "was locked");
        drop(child.stdin.take());
        child.wait().unwrap();
        world.capture(None, &mut Image::default()).unwrap();
    }
}

#[test]
fn a_log_that_was_deleted_under_the_application_is_refused() {
    let world = World::new(5);
    world.written("wal", 20);
    let open = super::life::Held::new(&world, "insert into entry values (900000, 0)");
    std::fs::remove_file(world.dir.path().join("app.db-wal")).unwrap();
    refused(&world, "does not hold the frames");
    drop(open);
}

#[test]
fn a_hot_journal_is_left_to_the_application() {
    let world = World::new(3);
    world.written("delete", 100);
    let code = "import sqlite3,sys,os\ndb=sqlite3.connect(sys.argv[1],isolation_level=None)\n\
                db.execute('pragma cache_size=5')\ndb.execute('begin immediate')\n\
                db.execute('update entry set body = randomblob(2000)')\nprint('done',flush=True)\nsys.stdin.read()";
    let mut child = Command::new("python3")
        .args(["-c", code])
        .arg(&world.db)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = child.stdout.as_mut().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    // Its changes are in the file already, and what they replaced in the journal.
    child.kill().unwrap();
    child.wait().unwrap();
    let journal = world.dir.path().join("app.db-journal");
    let (torn, hot) = (
        std::fs::read(&world.db).unwrap(),
        std::fs::read(&journal).unwrap(),
    );
    refused(&world, "hot journal");
    assert!(std::fs::read(&world.db).unwrap() == torn && std::fs::read(&journal).unwrap() == hot);
    sqlite3(&world.db, "select count(*) from entry");
    assert!(!journal.exists());
    let (_, image) = world.checked(None).unwrap();
    assert_eq!(world.holds(&image.bytes), world.told());
}

#[test]
fn a_restored_database_is_checked_and_asked() {
    let world = World::new(4);
    world.written("wal", 100);
    let within = Duration::from_secs(30);
    let n = world.told().len();
    let ask = |sql: String| probe(&world.db, &sql, within);
    assert_eq!(quick_check(&world.db, within).unwrap(), None);
    assert!(ask(format!("select count(*) = {n} from entry")).unwrap());
    assert!(!ask(format!("select count(*) > {n} from entry")).unwrap());
    assert!(!ask(format!("select 1 from entry where n = {n} + 1")).unwrap());
    assert!(probe(&world.db, "delete from entry", within).is_err());
    assert!(probe(&world.db, "select load_extension('x')", within).is_err());
    // A question without an end ends with its time.
    let endless =
        "with recursive c(i) as (select 1 union all select i + 1 from c) select max(i) from c";
    assert!(probe(&world.db, endless, Duration::from_millis(200)).is_err());
    assert_eq!(
        sqlite3(&world.db, "select count(*) from entry"),
        n.to_string()
    );
    for suffix in ["-wal", "-shm", "-journal"] {
        let name = format!("app.db{suffix}");
        assert!(!world.dir.path().join(&name).exists(), "{name} was left");
    }

    let mut bytes = std::fs::read(&world.db).unwrap();
    let page = bytes.len() / 4096 / 2 * 4096;
    bytes[page..page + 64].fill(0x5a);
    std::fs::write(&world.db, &bytes).unwrap();
    let found = quick_check(&world.db, within).unwrap();
    assert!(found.is_some(), "a torn page was not found");
}
