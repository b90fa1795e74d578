//! Captures while the application lives, and dies.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use legation_core::manifest::Entry;
use legation_core::source::{Sink, SourceResult};
use legation_registry::Error;
use legation_registry::sqlite::{Journal, Look, Mark, capture, look};

use super::{Image, World, sqlite3};

/// Small steps of a generator that a seed starts.
fn step(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Rounds of captures beside a writer that is killed at a random moment and started again.
fn live(seed: u64, mode: &str, rounds: u32) {
    let world = World::new(seed);
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut kept: Option<(Mark, Image)> = None;
    let (mut tracked, mut hot) = (0, 0);
    for _ in 0..rounds {
        let mut writer = world.write(mode, 100_000);
        for _ in 0..2 {
            let told = world.told().len();
            world.wait_told(told + (step(&mut random) % 40) as usize);
            let before = kept.as_ref().map(|(mark, image)| (mark, image));
            match world.checked(before) {
                Ok((report, image)) => {
                    tracked += u32::from(image.same > 0);
                    kept = Some((report.mark, image));
                }
                // A writer may be in its transaction for longer than we wait; nothing else is in order here.
                Err(Error::Refused { what, .. }) => {
                    assert!(what.contains("was locked"), "seed {seed}: {what}");
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        let before = kept.as_ref().map(|(mark, image)| (mark, image));
        let (report, image) = match world.checked(before) {
            Ok(taken) => taken,
            Err(Error::Refused { what, .. }) => {
                assert!(what.contains("hot journal"), "seed {seed}: {what}");
                hot += 1;
                // The application's next opening rolls it back.
                sqlite3(&world.db, "select count(*) from sqlite_schema");
                world.checked(before).unwrap()
            }
            Err(error) => panic!("seed {seed}: {error}"),
        };
        // Nobody writes: all that was told is there, and a second look finds nothing.
        assert!(world.holds(&image.bytes).len() >= world.told().len());
        assert_ne!(look(&world.db, &report.mark).unwrap(), Look::Differs);
        kept = Some((report.mark, image));
    }
    println!("seed {seed} {mode}: {tracked} by the log alone, {hot} hot journals");
}

#[test]
fn every_image_under_a_killed_writer_in_wal_mode_is_of_one_commit() {
    for seed in 1..=2 {
        live(seed, "wal", 3);
    }
}

#[test]
fn every_image_under_a_killed_writer_with_a_rollback_journal_is_of_one_commit() {
    for seed in 11..=12 {
        live(seed, "delete", 3);
    }
}

#[test]
fn every_image_is_of_one_commit_when_journal_mode_and_page_size_change() {
    for seed in 21..=22 {
        live(seed, "mixed", 3);
    }
}

/// An open connection that another process holds until it is told to go.
pub struct Held {
    child: std::process::Child,
}

impl Held {
    /// Runs `sql`, and returns once that is done; the connection stays.
    pub fn new(world: &World, sql: &str) -> Held {
        let code = "import sqlite3,sys\ndb=sqlite3.connect(sys.argv[1],isolation_level=None,timeout=60)\n\
                    for s in sys.argv[2].split(';'): db.execute(s).fetchall()\n\
                    print('done',flush=True)\nsys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", code])
            .arg(&world.db)
            .arg(sql)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        assert_eq!(line, "done\n");
        Held { child }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(stdin) = self.child.stdin.as_mut() {
            let _ = stdin.flush();
        }
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn in_wal_mode_only_what_was_committed_since_is_read() {
    let world = World::new(31);
    world.written("wal", 400);
    sqlite3(
        &world.db,
        "create table big(x); with recursive c(i) as (select 1 union all select i + 1 from c where i < 5000)
         insert into big select randomblob(4000) from c",
    );
    // Somebody keeps it open, so that its log stays.
    let open = Held::new(&world, "select count(*) from entry");
    let (first, image) = world.checked(None).unwrap();
    assert_eq!(
        (first.journal, first.passes, image.again),
        (Journal::Wal, 1, 0)
    );
    assert!(first.bytes > 20_000_000, "{}", first.bytes);
    assert_eq!(look(&world.db, &first.mark).unwrap(), Look::Same);

    // The log was empty: what follows it is compared in full, and from then on its frames tell.
    sqlite3(
        &world.db,
        "update big set x = randomblob(4000) where rowid = 7",
    );
    let (second, image) = world.checked(Some((&first.mark, &image))).unwrap();
    assert_eq!(look(&world.db, &second.mark).unwrap(), Look::Same);
    sqlite3(
        &world.db,
        "update big set x = randomblob(4000) where rowid in (100, 2000, 4000)",
    );
    assert_eq!(look(&world.db, &second.mark).unwrap(), Look::Differs);
    let (third, third_image) = world.checked(Some((&second.mark, &image))).unwrap();
    assert!(third.read > 0 && third.read <= 8 * 4096, "{}", third.read);
    let dump = |bytes: &[u8]| {
        let path = world.dir.path().join("dumped.db");
        std::fs::write(&path, bytes).unwrap();
        let hashes = sqlite3(&path, "select rowid, hex(x) from big");
        std::fs::remove_file(path).unwrap();
        hashes
    };
    let live = sqlite3(&world.db, "select rowid, hex(x) from big");
    assert!(
        dump(&third_image.bytes) == live,
        "the image differs from the database"
    );

    // A passive checkpoint leaves the log as it was, and changes nothing that we have.
    sqlite3(&world.db, "pragma wal_checkpoint(passive)");
    assert_eq!(look(&world.db, &third.mark).unwrap(), Look::Same);
    // A log that was started over is another: all is compared, and nothing differs.
    sqlite3(&world.db, "pragma wal_checkpoint(truncate)");
    assert_eq!(look(&world.db, &third.mark).unwrap(), Look::Doubt);
    let (fourth, image) = world.checked(Some((&third.mark, &third_image))).unwrap();
    assert_eq!((image.same, fourth.read), (0, fourth.bytes));
    assert!(image.bytes == third_image.bytes);
    // Nobody wrote since: what is in the file alone is known by the file.
    assert_eq!(look(&world.db, &fourth.mark).unwrap(), Look::Same);
    drop(open);
}

#[test]
fn frames_that_a_crash_replaced_under_the_same_salts_are_noticed() {
    let world = World::new(32);
    world.written("wal", 50);
    let keep = |world: &World, sql| Held::new(world, sql);
    let first = keep(&world, "create table note(t)");
    let wal = world.dir.path().join("app.db-wal");
    let early = std::fs::read(&wal).unwrap();
    sqlite3(&world.db, "insert into note values ('lost')");
    let (report, image) = world.checked(None).unwrap();
    // The machine loses its power: what was written to the log last is not there, and others write in its place.
    first.kill();
    std::fs::write(&wal, &early).unwrap();
    std::fs::remove_file(world.dir.path().join("app.db-shm")).unwrap();
    let open = keep(&world, "insert into note values ('kept')");
    let now = std::fs::read(&wal).unwrap();
    assert_eq!(
        now[..early.len()],
        early,
        "the log went on under the same salts"
    );
    assert!(now.len() > early.len());

    assert_ne!(look(&world.db, &report.mark).unwrap(), Look::Same);
    let (_, image) = world.checked(Some((&report.mark, &image))).unwrap();
    assert_eq!(image.same, 0, "all was compared");
    let path = world.dir.path().join("image.db");
    std::fs::write(&path, &image.bytes).unwrap();
    assert_eq!(sqlite3(&path, "select t from note"), "kept");
    drop(open);
}

#[test]
fn what_was_written_to_the_log_and_not_committed_is_not_in_the_image() {
    let world = World::new(33);
    world.written("wal", 50);
    let open = Held::new(
        &world,
        "pragma cache_size = 10;begin immediate;create table torn(x);\
         insert into torn with recursive c(i) as (select 1 union all select i+1 from c where i<2000) select randomblob(900) from c",
    );
    let wal = std::fs::metadata(world.dir.path().join("app.db-wal")).unwrap();
    assert!(wal.len() > 500_000, "nothing was spilled: {}", wal.len());
    let (report, image) = world.checked(None).unwrap();
    let path = world.dir.path().join("image.db");
    std::fs::write(&path, &image.bytes).unwrap();
    assert_eq!(
        sqlite3(
            &path,
            "select count(*) from sqlite_schema where name = 'torn'"
        ),
        "0"
    );
    // Killed, it is still nothing.
    open.kill();
    let (_, image) = world.checked(Some((&report.mark, &image))).unwrap();
    std::fs::write(&path, &image.bytes).unwrap();
    assert_eq!(
        sqlite3(
            &path,
            "select count(*) from sqlite_schema where name = 'torn'"
        ),
        "0"
    );
}

#[test]
fn a_database_of_no_bytes_one_renamed_into_place_and_one_that_shrinks() {
    let world = World::new(34);
    std::fs::write(&world.db, b"").unwrap();
    let (empty, image) = world.checked(None).unwrap();
    assert_eq!((empty.bytes, image.bytes.len()), (0, 0));
    assert_eq!(look(&world.db, &empty.mark).unwrap(), Look::Same);

    world.written("delete", 300);
    let (full, image) = world.checked(Some((&empty.mark, &image))).unwrap();
    // Another file under the same name.
    let other = world.dir.path().join("other.db");
    std::fs::copy(&world.db, &other).unwrap();
    std::fs::rename(&other, &world.db).unwrap();
    assert_eq!(look(&world.db, &full.mark).unwrap(), Look::Doubt);
    let (moved, same) = world.checked(Some((&full.mark, &image))).unwrap();
    assert!(same.bytes == image.bytes);

    sqlite3(
        &world.db,
        "create table gone as select randomblob(100000) from entry limit 20; drop table gone",
    );
    let (grown, image) = world.checked(Some((&moved.mark, &same))).unwrap();
    sqlite3(&world.db, "vacuum");
    let (shrunk, _) = world.checked(Some((&grown.mark, &image))).unwrap();
    assert!(
        shrunk.bytes < grown.bytes,
        "{} {}",
        shrunk.bytes,
        grown.bytes
    );
}

#[test]
fn the_database_is_left_as_it_was_and_its_log_too() {
    let world = World::new(35);
    world.written("wal", 60);
    // The last connection ran its checkpoint: no log is there.
    assert!(!world.dir.path().join("app.db-wal").exists());
    let before = std::fs::read(&world.db).unwrap();
    let meta = std::fs::metadata(&world.db).unwrap().modified().unwrap();
    let (_, image) = world.checked(None).unwrap();
    assert!(image.bytes == before && std::fs::read(&world.db).unwrap() == before);
    assert_eq!(
        std::fs::metadata(&world.db).unwrap().modified().unwrap(),
        meta
    );

    // Left by a crash: the log is read, and neither copied into the database nor removed.
    let open = Held::new(&world, "insert into entry values (900000, x'00')");
    open.kill();
    let wal = std::fs::read(world.dir.path().join("app.db-wal")).unwrap();
    let mut image = Image::default();
    world.capture(None, &mut image).unwrap();
    assert!(
        std::fs::read(&world.db).unwrap() == before,
        "a checkpoint was run"
    );
    assert!(std::fs::read(world.dir.path().join("app.db-wal")).unwrap() == wal);
    assert!(image.bytes != before, "the log is not in the image");
    let meta: Vec<_> = image.meta.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(meta, [("sqlite.file", "app.db"), ("sqlite.journal", "wal")]);
    let entry = image.entry.unwrap();
    assert_eq!(entry.path, b"app.db");
}

/// A sink that takes one piece and then waits for a word.
struct Slow {
    image: Image,
    began: Option<mpsc::Sender<()>>,
    go_on: mpsc::Receiver<()>,
}

impl Sink for Slow {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        self.image.begin(entry)
    }
    fn in_place(&mut self) -> SourceResult<Option<u64>> {
        self.image.in_place()
    }
    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        if let Some(began) = self.began.take() {
            began.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
        self.image.data(offset, bytes)
    }
    fn again(&mut self) -> SourceResult<()> {
        self.image.again()
    }
    fn end(&mut self) -> SourceResult<()> {
        self.image.end()
    }
    fn unchanged(&mut self, entry: Entry) -> SourceResult<()> {
        self.image.unchanged(entry)
    }
    fn meta(&mut self, key: &str, value: &str) -> SourceResult<()> {
        self.image.meta(key, value)
    }
}

#[test]
fn a_sink_that_waits_does_not_keep_the_application_from_committing() {
    let world = World::new(36);
    world.written("delete", 50);
    sqlite3(
        &world.db,
        "create table big as with recursive c(i) as (select 1 union all select i + 1 from c where i < 2000)
         select randomblob(4000) as x from c",
    );
    let (began, wait) = mpsc::channel();
    let (go_on, told) = mpsc::channel();
    let mut slow = Slow {
        image: Image::default(),
        began: Some(began),
        go_on: told,
    };
    let report = std::thread::scope(|scope| {
        let capture = scope.spawn(|| capture(&world.db, None, &mut slow, &|| false));
        wait.recv().unwrap();
        // Fails after its patience of 60 s if the lock were held for as long as the sink waits.
        world.written("delete", 20);
        go_on.send(()).unwrap();
        capture.join().unwrap().unwrap()
    });
    assert_eq!((report.passes, slow.image.again), (2, 1));
    assert!(report.held.as_secs() < 20, "{:?}", report.held);
    assert_eq!(world.holds(&slow.image.bytes), world.told());
}
