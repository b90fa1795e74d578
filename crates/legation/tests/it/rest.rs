//! What rests is told from what is dead: by the log alone, at a person's desk.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use legation_world::args;
use legation_world::fixtures::Registry;
use legation_world::pg::SUPERUSER;
use legation_world::process::Ran;
use legation_world::world::World;
use rustix::process::Signal;

use crate::survive::{LONG, small};

/// What the mandate promises for the population register.
const RPO: Duration = Duration::from_secs(10);
/// The exit code of a missed objective.
const LATE: i32 = 7;

fn desk(world: &World, more: &[&str]) -> Ran {
    let mut args = args!["--config", world.path("desk/legation.toml")].to_vec();
    args.extend(more.iter().map(Into::into));
    world.legation.run(args).expect("the desk runs")
}

/// Waits until `status --check` at the desk ends so.
fn until_checked(world: &World, code: i32) {
    let began = Instant::now();
    loop {
        let ran = desk(world, &["status", "--check"]);
        if ran.code == code {
            return;
        }
        assert!(
            began.elapsed() < LONG,
            "waited in vain for {code}: {}\n{}\n{:?}",
            ran.out,
            ran.err,
            world.lag()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn an_idle_database_is_not_late_and_a_dead_agent_is() {
    let mut world = small(61, &[Registry::Population]);
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("a version");
    let cluster = &world.clusters[&Registry::Population];
    let mut client = cluster.connect(SUPERUSER, "population").expect("psql");
    let mut flushed = move || -> String {
        let row = client.query_one("select pg_current_wal_flush_lsn()::text", &[]);
        row.expect("an answer").get(0)
    };
    until_checked(&world, 0);

    // The server writes a little of its own accord until it rests: the window begins anew then.
    let began = Instant::now();
    let (mut at, mut since, mut entries) = (flushed(), Instant::now(), None);
    while since.elapsed() < RPO * 2 {
        let ran = desk(&world, &["status", "--check"]);
        let size = desk(
            &world,
            &[
                "log",
                "mirror",
                world.path("copy").to_str().expect("a path"),
            ],
        );
        let size: u64 = size
            .out
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("entries");
        if flushed() == at {
            assert_eq!(ran.code, 0, "late though it rests: {}{}", ran.out, ran.err);
            entries.get_or_insert(size);
            let said = size - entries.unwrap_or(size);
            let most = since.elapsed().as_secs() / (RPO.as_secs() / 2) + 2;
            assert!(
                said <= most,
                "{said} entries in {:?} of rest",
                since.elapsed()
            );
        } else {
            assert!(began.elapsed() < LONG * 2, "the server never rests");
            (at, since, entries) = (flushed(), Instant::now(), None);
        }
        std::thread::sleep(Duration::from_millis(300));
    }

    world.agents[0].signal(Signal::STOP);
    until_checked(&world, LATE);
    world.agents[0].signal(Signal::CONT);
    until_checked(&world, 0);
    world.agents[0].kill();
    until_checked(&world, LATE);
    // And nothing in the log is outside the mandate.
    let copy = world.path("copy");
    let copy = copy.to_str().expect("a path");
    for verb in ["mirror", "verify"] {
        let ran = desk(&world, &["log", verb, copy]);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    }
}

#[test]
fn a_tree_in_which_nothing_happens_says_so_in_the_log() {
    let mut world = small(62, &[Registry::Gazette]);
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    // An objective of two seconds at home, so that it is told each second or so.
    let config = world.path("home/agent/agent.toml");
    let text = fs::read_to_string(&config).expect("agent.toml");
    fs::write(
        &config,
        text.replace("tier = \"T3\"", "tier = \"T3\"\nrpo = \"2s\""),
    )
    .expect("written");
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("a version");
    let version = || world.lag().expect("a status")[&Registry::Gazette].version;
    let said = |version: Option<u64>| {
        let ran = desk(&world, &["log", "show", "--kind", "unchanged"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let line = format!("version: v{}", version.expect("a version"));
        ran.out.lines().filter(|said| **said == line).count()
    };
    let began = Instant::now();
    // What was written just before the first walk is read once more, and may make a second version.
    while said(version()) < 3 {
        assert!(began.elapsed() < LONG, "{:?}", world.lag());
        std::thread::sleep(Duration::from_millis(200));
    }
    // What counts is when it was last looked at, not when it was captured.
    let ran = desk(&world, &["status", "--json"]);
    let records = ran.records().expect("JSON");
    let registry = records.iter().find(|r| r["message_type"] == "registry");
    let registry = registry.expect("a registry");
    let (age, captured) = (registry["age_ms"].as_u64(), registry["captured"].as_u64());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock");
    let since = now.as_millis() - u128::from(captured.expect("a time"));
    assert!(
        u128::from(age.expect("an age")) + 1000 < since,
        "{registry}"
    );
    let copy = world.path("copy");
    let copy = copy.to_str().expect("a path");
    for verb in ["mirror", "verify"] {
        let ran = desk(&world, &["log", verb, copy]);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    }
}
