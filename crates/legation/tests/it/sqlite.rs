//! A SQLite database all the way: captured under a writer, killed with it, restored, and asked before it serves.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use legation_world::args;
use legation_world::fixtures::Registry;
use legation_world::process::Ran;
use legation_world::world::World;

use crate::survive::{self, LONG};

/// The application, which another build of SQLite runs.
const WRITER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../legation-registry/tests/it/sqlite/writer.py"
);
/// The database before its writer begins: larger than all that the agent may hold.
const ROWS: u32 = 50_000;
const LARGE: u64 = 200_000_000;
/// What the agent holds at most, however large the database is.
const MEMORY_KIB: u64 = 160 << 10;

fn sqlite3(db: &Path, sql: &str) -> String {
    let run = Command::new("sqlite3")
        .args(["-batch", "-cmd", ".timeout 60000"])
        .arg(db)
        .arg(sql)
        .output()
        .expect("sqlite3");
    let why = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{sql}: {why}");
    String::from_utf8(run.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// Starts the writer and waits until it is about to commit.
fn writer(db: &Path, told: &Path) -> Child {
    let mut child = Command::new("python3")
        .args([WRITER.as_ref(), "write".as_ref(), db, told])
        .args(["7", "calm", "1000000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("its output"));
    out.read_line(&mut line).expect("a word");
    assert_eq!(line, "ready\n");
    child
}

/// What the application finds in a database, after everything in it agreed.
fn held(db: &Path) -> String {
    let run = Command::new("python3")
        .args([WRITER.as_ref(), "check".as_ref(), db])
        .output()
        .expect("python3");
    let why = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{}: {why}", db.display());
    String::from_utf8(run.stdout).expect("text")
}

/// Waits until the agent's account of the database says so.
fn until(world: &World, what: &str, done: impl Fn(&serde_json::Value) -> bool) {
    let end = Instant::now() + LONG;
    loop {
        let lag = world.lag().unwrap_or_default();
        if lag
            .get(&Registry::Gazette)
            .is_some_and(|lag| done(&lag.raw))
        {
            return;
        }
        let said = || {
            world
                .agents
                .iter()
                .map(|agent| agent.said())
                .collect::<String>()
        };
        assert!(
            Instant::now() < end,
            "waited in vain for {what}: {lag:?}\n{}",
            said()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Has the world's agent capture the database instead of the gazette.
fn configure(world: &World, db: &Path, probe: &str) -> PathBuf {
    let config = world.path("home/agent/agent.toml");
    let text = fs::read_to_string(&config).expect("agent.toml");
    let root = world.press().root.display().to_string();
    let tree = format!("kind = \"tree\"\npath = \"{root}\"\nevery = \"2000ms\"\n");
    assert!(text.contains(&tree), "{text}");
    let sqlite = format!(
        "kind = \"sqlite\"\npath = \"{}\"\nevery = \"500ms\"\n\n[registry.start]\nprobe = {{ sql = \"{probe}\" }}\n",
        db.display()
    );
    fs::write(&config, text.replace(&tree, &sqlite)).expect("agent.toml");
    config
}

fn stored(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => stored(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

#[test]
fn a_database_under_a_writer_comes_back_as_it_was_told() {
    let mut world = survive::founded(71, &[Registry::Gazette]);
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    let (db, told) = (world.path("home/app.db"), world.path("told"));
    fs::write(&told, "").expect("a journal");
    sqlite3(
        &db,
        &format!(
            "create table big(x); with recursive c(i) as (select 1 union all select i + 1 from c where i < {ROWS})
             insert into big select randomblob(4050) from c"
        ),
    );
    assert!(fs::metadata(&db).expect("a database").len() > LARGE);
    let config = configure(&world, &db, "select count(*) > 10000 from big");
    // In rollback-journal mode it says what that costs.
    let check = || {
        world
            .legation
            .run(args!["config", "check", "--config", config])
    };
    let checked = check().and_then(Ran::ok).expect("config check");
    assert!(
        checked.out.contains("rollback-journal mode"),
        "{}",
        checked.out
    );
    let mut child = writer(&db, &told);
    let checked = check().and_then(Ran::ok).expect("config check");
    assert!(
        !checked.out.contains("rollback-journal mode"),
        "{}",
        checked.out
    );

    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("a first version");
    let (first, before) = (stored(&world.store()), told_lines(&told));
    until(&world, "versions", |raw| raw["version"].as_u64() >= Some(4));
    child.kill().expect("SIGKILL");
    child.wait().expect("the writer's end");
    let died = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    let died = u64::try_from(died.as_millis()).expect("a time");
    until(&world, "the last commit", |raw| {
        let at = |key: &str| raw[key].as_u64().unwrap_or(0);
        at("version_captured").max(at("unchanged_at")) > died
    });
    let lag = world.lag().expect("a status");
    let raw = &lag[&Registry::Gazette].raw;
    assert_eq!(raw["source"], "sqlite");
    let versions = raw["version"].as_u64().expect("a version");
    let (grown, pid) = (stored(&world.store()) - first, world.agents[0].pid());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.and_then(|kib| kib.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let most = most.expect("the agent's memory");
    println!(
        "{versions} versions; {first} bytes for the first, {grown} for all others; {} commits meanwhile; {most} KiB",
        told_lines(&told) - before
    );
    assert!(
        grown / (versions - 1) < 3 << 20,
        "cost did not follow change"
    );
    assert!(most < MEMORY_KIB, "{most} KiB");

    // By a person, under a grant.
    let grant = released(&world, "grant");
    let to = world.path("desk/restored");
    let ran = world.legation.run(args![
        "restore",
        "gazette",
        "--order",
        grant,
        "--to",
        to,
        "--config",
        world.person()
    ]);
    ran.and_then(Ran::ok).expect("restore");
    compare(&to.join("app.db"), &db, &told);

    // By an activation: nothing is started, and it is asked.
    let order = world.order_activate("order", &[]).expect("an order");
    let officers = [0, 1, 3].map(|n| &world.officers[n]);
    for officer in officers {
        world
            .approve(&order, officer)
            .and_then(Ran::ok)
            .expect("an approval");
    }
    let mut live = world.activate(&order.text).expect("activate");
    world
        .submit(&order, &officers)
        .and_then(Ran::ok)
        .expect("submit");
    world
        .release(&order, &officers)
        .and_then(Ran::ok)
        .expect("release");
    world.deliver(&order).and_then(Ran::ok).expect("deliver");
    let started = live
        .wait_serving(&world, LONG)
        .expect("a database that serves");
    assert_eq!(
        started[0].report["probes"], "3 of 3",
        "{:?}",
        started[0].report
    );
    let path = started[0].path.join("app.db");
    compare(&path, &db, &told);
    live.seal().expect("sealed");
    assert!(!path.exists(), "plaintext was left");
}

fn told_lines(told: &Path) -> usize {
    fs::read_to_string(told).expect("a journal").lines().count()
}

/// Equal to the database at home, row by row, and to what its writer was told.
fn compare(restored: &Path, home: &Path, told: &Path) {
    let rows = held(restored);
    let told = fs::read_to_string(told).expect("a journal");
    // The last commit may have been told of by nobody.
    let rest = rows.strip_prefix(&told).expect("all that was told");
    assert!(!told.is_empty() && rest.lines().count() <= 1, "{rest}");
    let sum = |db: &Path| sqlite3(db, ".sha3sum");
    assert_eq!(sum(restored), sum(home));
}

fn released(world: &World, name: &str) -> PathBuf {
    let officers = [0, 1, 3].map(|n| &world.officers[n]);
    let grant = world.order_grant(name, "gazette").expect("a grant");
    for officer in officers {
        world
            .approve(&grant, officer)
            .and_then(Ran::ok)
            .expect("an approval");
    }
    world
        .submit(&grant, &officers)
        .and_then(Ran::ok)
        .expect("submit");
    world
        .release(&grant, &officers)
        .and_then(Ran::ok)
        .expect("release");
    grant.text
}
