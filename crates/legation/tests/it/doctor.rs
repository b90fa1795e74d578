//! What is really broken is found, named with what mends it, and found mended after that was done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use legation_world::args;
use legation_world::fixtures::Registry;
use legation_world::pg::{AGENT_ROLE, SUPERUSER};
use legation_world::process;
use legation_world::world::World;
use rustix::process::Signal;
use serde_json::Value;

use crate::survive::{LONG, small};

/// What the doctor says, and how it ended.
fn doctor(world: &World, config: &str) -> (Vec<Value>, i32) {
    let config = world.path(config);
    let mut command = world
        .legation
        .command(args!["doctor", "--config", config, "--json"]);
    // As the role itself runs: its passwords lie in its home.
    command.env("HOME", world.path("home"));
    let ran = process::run(command, &[], LONG).expect("it runs");
    for place in ["127.0.0.1", "localhost", "[::1]"] {
        assert!(!ran.out.contains(place), "an address: {}", ran.out);
        assert!(!ran.err.contains(place), "an address: {}", ran.err);
    }
    let mut findings = ran.records().expect("JSON");
    findings.retain(|record| record["message_type"] == "finding");
    assert!(findings.len() > 3, "{}{}", ran.out, ran.err);
    (findings, ran.code)
}

/// The one finding of this level and check whose words contain `what`.
fn finding<'a>(findings: &'a [Value], level: &str, check: &str, what: &str) -> &'a Value {
    let is = |found: &&Value| {
        found["level"] == level
            && found["check"] == check
            && found["what"]
                .as_str()
                .is_some_and(|said| said.contains(what))
    };
    findings
        .iter()
        .find(is)
        .unwrap_or_else(|| panic!("no {level} {check} {what:?}: {findings:#?}"))
}

fn all_is_well(world: &World, config: &str) {
    let (findings, code) = doctor(world, config);
    let bad: Vec<_> = findings.iter().filter(|f| f["level"] == "bad").collect();
    assert_eq!((code, bad.len()), (0, 0), "{bad:#?}");
}

/// Finds what was broken, does what the finding says, and finds all well.
fn found_and_mended(world: &World, config: &str, (check, what): (&str, &str)) {
    let (findings, code) = doctor(world, config);
    assert_eq!(code, 1);
    let fix = finding(&findings, "bad", check, what)["fix"].clone();
    let fix = fix.as_str().expect("a command");
    let done = Command::new("sh").args(["-c", fix]).status().expect("sh");
    assert!(done.success(), "{fix}");
    all_is_well(world, config);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

#[test]
fn what_is_broken_at_an_agent_is_named_with_what_mends_it() {
    const AGENT: &str = "home/agent/agent.toml";
    let mut world = small(64, &[Registry::Land, Registry::Gazette]);
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    let spool = world.path("home/agent/spool");
    // Before the agent first ran there is no spool.
    if !spool.exists() {
        found_and_mended(&world, AGENT, ("spool", "is not there"));
    }
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("versions");
    let (findings, code) = doctor(&world, AGENT);
    assert_eq!(code, 0, "{findings:#?}");
    for (check, what) in [
        ("config", "well-formed"),
        ("spool", "takes files"),
        ("agent", "it runs"),
        ("slot", "land: legation_land keeps"),
        ("tree", "gazette"),
        ("embassy", "answers"),
        ("clock", "agrees"),
        ("log", "continues"),
    ] {
        finding(&findings, "ok", check, what);
    }

    set_mode(&world.path("home/agent/agent.key"), 0o644);
    found_and_mended(&world, AGENT, ("config", "others may read it"));
    set_mode(&spool, 0o777);
    found_and_mended(&world, AGENT, ("spool", "others may write into"));

    // The role may not replicate any more.
    let ask = |sql: &str| {
        let cluster = &world.clusters[&Registry::Land];
        let mut client = cluster.connect(SUPERUSER, "land").expect("psql");
        client.batch_execute(sql).expect(sql);
    };
    ask(&format!("alter role {AGENT_ROLE} noreplication"));
    let (findings, code) = doctor(&world, AGENT);
    assert_eq!(code, 1);
    finding(&findings, "bad", "postgres", "land");
    ask(&format!("alter role {AGENT_ROLE} replication"));
    all_is_well(&world, AGENT);

    // The directory is gone.
    let (here, away) = (world.press().root, world.path("citizens/away"));
    fs::rename(&here, &away).expect("moved");
    finding(&doctor(&world, AGENT).0, "bad", "tree", "gazette");
    fs::rename(&away, &here).expect("moved back");

    // Nobody receives.
    world.agents[0].stop(Signal::TERM).expect("stopped");
    world.agents.clear();
    let began = Instant::now();
    loop {
        let (findings, code) = doctor(&world, AGENT);
        assert_eq!(code, 0, "at risk, not broken: {findings:#?}");
        finding(&findings, "warn", "agent", "no agent runs");
        if findings
            .iter()
            .any(|f| f["level"] == "warn" && f["check"] == "slot")
        {
            break;
        }
        assert!(
            began.elapsed() < LONG,
            "the server never noticed: {findings:#?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }

    // The embassy is away, and the database.
    world.stop_embassy().expect("stopped");
    finding(&doctor(&world, AGENT).0, "bad", "embassy", "");
    world.start_embassy().expect("an embassy");
    all_is_well(&world, AGENT);
    let cluster = world.clusters.get_mut(&Registry::Land).expect("a cluster");
    cluster.kill();
    finding(&doctor(&world, AGENT).0, "bad", "postgres", "land");
}

#[test]
fn what_is_broken_at_an_embassy_is_named_with_what_mends_it() {
    const EMBASSY: &str = "embassy/embassy.toml";
    let mut world = small(65, &[Registry::Gazette]);
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    // It listens before it has opened its states.
    let began = Instant::now();
    while doctor(&world, EMBASSY).1 != 0 {
        assert!(began.elapsed() < LONG, "{:#?}", doctor(&world, EMBASSY));
        std::thread::sleep(Duration::from_millis(200));
    }
    let (findings, _) = doctor(&world, EMBASSY);
    for (check, what) in [
        ("config", "well-formed"),
        ("store", "takes files"),
        ("embassy", "it runs"),
        ("log", "1 entries"),
        ("entropy", ""),
        ("activation", "PostgreSQL 15 is installed"),
    ] {
        finding(&findings, "ok", check, what);
    }
    set_mode(&world.path("embassy/embassy.key"), 0o640);
    found_and_mended(&world, EMBASSY, ("config", "others may read it"));
    set_mode(&world.store(), 0o777);
    found_and_mended(&world, EMBASSY, ("store", "others may write into"));

    // Something lies where an activation opens its volume.
    let live = world.path("embassy/live");
    fs::create_dir_all(live.join("left")).expect("a directory");
    finding(
        &doctor(&world, EMBASSY).0,
        "warn",
        "activation",
        "1 things lie",
    );
    fs::remove_dir_all(&live).expect("removed");

    // Somebody else has its port.
    let config = fs::read_to_string(world.path(EMBASSY)).expect("a configuration");
    let line = config
        .lines()
        .find(|line| line.starts_with("listen"))
        .expect("listen");
    let port: u16 = line
        .rsplit(':')
        .next()
        .and_then(|rest| {
            rest.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse()
                .ok()
        })
        .expect("a port");
    world.stop_embassy().expect("stopped");
    finding(&doctor(&world, EMBASSY).0, "ok", "port", &port.to_string());
    finding(
        &doctor(&world, EMBASSY).0,
        "warn",
        "embassy",
        "does not run",
    );
    let taken = std::net::TcpListener::bind(("0.0.0.0", port))
        .or_else(|_| std::net::TcpListener::bind(("127.0.0.1", port)))
        .expect("the port");
    finding(&doctor(&world, EMBASSY).0, "bad", "port", &port.to_string());
    drop(taken);

    // The log was changed.
    let checkpoint = world.store().join(&world.state).join("log/checkpoint");
    let good = fs::read(&checkpoint).expect("a checkpoint");
    let mut wrong = good.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    fs::write(&checkpoint, wrong).expect("written");
    let (findings, code) = doctor(&world, EMBASSY);
    assert_eq!(code, 1);
    let found = finding(&findings, "bad", "log", "");
    assert!(
        found["fix"]
            .as_str()
            .expect("a command")
            .contains("legation verify --store")
    );
    fs::write(&checkpoint, good).expect("written");
    all_is_well(&world, EMBASSY);

    // The store is gone.
    let away = world.path("embassy/away");
    fs::rename(world.store(), &away).expect("moved");
    found_and_mended(&world, EMBASSY, ("store", "is not there"));
}
