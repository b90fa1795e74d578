//! The agent against a real embassy, a real cluster and a real directory: killed, starved, lied to, and told to stop.
//!
//! What it is judged by is read from the embassy's own disk: journals whose positions join without gap or overlap, and
//! a log that replays.

use std::path::Path;
use std::time::{Duration, Instant};

use legation_core::id::{EpochNo, Lsn, RegistryId, StreamId};
use legation_core::journal::{FrameHeader, FrameKind, Opening};
use legation_repo::state::StateDir;
use legation_world::fixtures::Registry;
use legation_world::pg::{self, SUPERUSER};
use legation_world::process::Daemon;
use legation_world::rng::Rng;
use legation_world::world::{Options, World};
use rustix::process::Signal;

#[cfg(feature = "faults")]
use crate::survive;

/// Nothing that is waited for here takes as long as this, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A small state whose agent captures one cluster and one directory.
pub fn world(seed: u64) -> World {
    let mut options = Options::new(Path::new(env!("CARGO_BIN_EXE_legation")));
    options.seed = seed;
    options.scale = 0.01;
    options.registries = vec![Registry::Land, Registry::Gazette];
    options.epoch = Duration::from_secs(3);
    options.gazette_every = Duration::from_secs(1);
    let mut world = World::new(options).unwrap();
    world.ceremony().unwrap();
    world.start_embassy().unwrap();
    world.start_home().unwrap();
    world
}

/// Waits until `done` says so; says what the agent thinks if it never does.
pub fn until(world: &World, what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            let said: Vec<_> = world.agents.iter().map(Daemon::said).collect();
            panic!(
                "waited in vain for: {what}\n{:#?}\n{}",
                world.lag(),
                said.join("\n")
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub fn ask(world: &World, query: &str) -> String {
    let cluster = &world.clusters[&Registry::Land];
    let mut client = cluster.connect(SUPERUSER, "land").unwrap();
    client.query_one(query, &[]).unwrap().get(0)
}

pub fn execute(world: &World, statements: &str) {
    let cluster = &world.clusters[&Registry::Land];
    cluster
        .connect(SUPERUSER, "land")
        .unwrap()
        .batch_execute(statements)
        .unwrap();
}

/// Everything that the cluster has flushed is acknowledged abroad.
pub fn caught_up(world: &World) -> bool {
    let flushed = pg::lsn(&ask(world, "select pg_current_wal_flush_lsn()::text")).unwrap();
    world.lag().is_ok_and(|lag| {
        lag.get(&Registry::Land)
            .is_some_and(|land| land.acknowledged >= flushed)
    })
}

pub fn phase(world: &World) -> String {
    let lag = world.lag().unwrap_or_default();
    lag.get(&Registry::Land)
        .and_then(|land| land.raw["phase"].as_str().map(str::to_owned))
        .unwrap_or_default()
}

pub fn version(world: &World) -> u64 {
    let lag = world.lag().unwrap_or_default();
    lag.get(&Registry::Land)
        .and_then(|land| land.version)
        .unwrap_or(0)
}

/// The streams of the cluster on the embassy's disk, in order, each with its first and last position; every frame is
/// read and checked against the chain on the way.
pub fn streams(world: &World) -> Vec<(StreamId, EpochNo, Lsn, Lsn)> {
    let state = world.state.parse().unwrap();
    let registry: RegistryId = world.id(Registry::Land).parse().unwrap();
    let store = StateDir::open_reader(&world.store(), &state).unwrap();
    let mut found: Vec<(FrameHeader, Opening, Lsn)> = Vec::new();
    for (of, stream) in store.journals().unwrap() {
        if of != registry {
            continue;
        }
        let mut opening = None;
        let mut end = None;
        for frame in store
            .read_journal(registry, &stream)
            .unwrap()
            .frames(0)
            .unwrap()
        {
            let (header, bytes) = frame.unwrap();
            if header.kind == FrameKind::Opening {
                opening = Some(Opening::parse(&bytes).unwrap());
            }
            if let Some(end) = end {
                assert_eq!(header.first_lsn, end, "a hole within stream {stream}");
            }
            end = Some(header.end_lsn);
        }
        let (header, opening) = opening.unwrap();
        found.push((header, opening, end.unwrap()));
    }
    // Each names the one before it.
    let mut ordered: Vec<(StreamId, EpochNo, Lsn, Lsn)> = Vec::new();
    while ordered.len() < found.len() {
        let previous = ordered.last().map(|(stream, ..)| *stream);
        let next: Vec<_> = found
            .iter()
            .filter(|(_, opening, _)| opening.previous.map(|(stream, _)| stream) == previous)
            .collect();
        assert_eq!(
            next.len(),
            1,
            "after {previous:?} come {} streams",
            next.len()
        );
        let (header, _, end) = next[0];
        ordered.push((header.stream, header.epoch, header.first_lsn, *end));
    }
    ordered
}

/// No gap, no overlap, no epoch used by two runs.
fn check_continuity(world: &World) {
    let streams = streams(world);
    for pair in streams.windows(2) {
        assert_eq!(pair[0].3, pair[1].2, "streams do not join: {streams:#?}");
        assert!(
            pair[0].1 < pair[1].1,
            "an epoch was used twice: {streams:#?}"
        );
    }
    check_log(world);
}

/// The log replays, and nothing in it is outside the mandate.
pub fn check_log(world: &World) {
    let copy = world.path("log-copy");
    let desk = world.path("desk/legation.toml");
    for verb in ["mirror", "verify"] {
        let arguments = [
            "--config".as_ref(),
            desk.as_os_str(),
            "log".as_ref(),
            verb.as_ref(),
            copy.as_os_str(),
        ];
        world.legation.ok(arguments).unwrap();
    }
}

fn agent(world: &World, fault: &str, log: &str) -> Daemon {
    let mut command = world.legation.command([
        "agent".as_ref(),
        "--config".as_ref(),
        world.path("home/agent/agent.toml").as_os_str(),
    ]);
    let home = world.path("home");
    command
        .current_dir(&home)
        .env("HOME", &home)
        .env("LEGATION_FAULT", fault);
    Daemon::start("legation agent", command, &world.path(log)).unwrap()
}

#[test]
fn a_killed_agent_goes_on_without_gap_or_duplicate() {
    let seed = std::env::var("LEGATION_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    let mut world = world(seed);
    let mut rng = Rng::new(seed, "agent kills");
    world.start_agent().unwrap();
    world.start_writers(1).unwrap();
    world.wait_protected(PATIENCE).unwrap();
    for round in 0..5 {
        std::thread::sleep(Duration::from_millis(rng.range(200, 2500)));
        for agent in &mut world.agents {
            agent.kill();
        }
        world.agents.clear();
        if rng.chance(50) {
            let mut embassy = world.embassy.take().unwrap();
            embassy.kill();
            world.start_embassy().unwrap();
        }
        eprintln!("seed {seed}, round {round}: killed and started again");
        world.start_agent().unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    world.writers.take().unwrap().stop().unwrap();
    until(&world, "everything acknowledged", || caught_up(&world));
    assert_eq!(
        version(&world),
        1,
        "a new base was taken although nothing was lost"
    );
    check_continuity(&world);

    let began = Instant::now();
    let ended = world.agents[0].stop(Signal::TERM).unwrap();
    assert!(ended.success(), "SIGTERM is no failure: {ended}");
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "stopping took {:?}",
        began.elapsed()
    );
}

#[test]
fn a_log_that_forgets_stops_the_agent_and_is_kept_as_evidence() {
    let mut world = world(8);
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    world.stop_embassy().unwrap();
    let older = world.path("older");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(world.store())
        .arg(&older)
        .status()
        .unwrap();
    assert!(copied.success());
    world.start_embassy().unwrap();
    let before = world.lag().unwrap()[&Registry::Land].acknowledged;
    execute(
        &world,
        "create table later as select generate_series(1, 1000) as n; select pg_switch_wal()",
    );
    until(&world, "the embassy goes on", || {
        world.lag().unwrap()[&Registry::Land].acknowledged > before && caught_up(&world)
    });
    std::thread::sleep(Duration::from_millis(1500));
    world.stop_embassy().unwrap();
    std::fs::rename(world.store(), world.path("newer")).unwrap();
    std::fs::rename(&older, world.store()).unwrap();
    world.start_embassy().unwrap();
    execute(
        &world,
        "create table latest as select generate_series(1, 1000) as n",
    );

    let ended = world.agents[0]
        .wait(PATIENCE)
        .expect("the agent goes on with a log that forgot");
    let said = world.agents[0].said();
    assert_eq!(ended.code(), Some(4), "{said}");
    let trust = world.path("home/agent/spool/trust");
    let kept: Vec<_> = std::fs::read_dir(&trust)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    let has = |part: &str| {
        kept.iter()
            .any(|name| name.to_string_lossy().contains(part))
    };
    assert!(has("held") && has("offered"), "{kept:?}; {said}");
}

#[test]
fn a_full_spool_lets_go_of_the_source_and_loses_nothing_that_it_took() {
    let mut world = world(9);
    let config = world.path("home/agent/agent.toml");
    let text = std::fs::read_to_string(&config)
        .unwrap()
        .replace("2GiB", "64MiB");
    std::fs::write(&config, text).unwrap();
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    world.stop_embassy().unwrap();

    execute(&world, "create table filler (n int, noise text)");
    let mut slowest = Duration::ZERO;
    until(&world, "a full spool", || {
        let began = Instant::now();
        execute(
            &world,
            "insert into filler select n, md5(random()::text) || md5(random()::text) from generate_series(1, 30000) n",
        );
        slowest = slowest.max(began.elapsed());
        phase(&world) == "full"
    });
    assert!(
        slowest < Duration::from_secs(10),
        "an insert took {slowest:?}"
    );
    let slots = ask(
        &world,
        "select count(*)::text from pg_replication_slots where active",
    );
    assert_eq!(slots, "0", "the source is still held");
    let stopped = world
        .clusters
        .get_mut(&Registry::Land)
        .unwrap()
        .stop_fast()
        .unwrap();
    assert!(
        stopped < Duration::from_secs(15),
        "a fast stop took {stopped:?}"
    );
    world
        .clusters
        .get_mut(&Registry::Land)
        .unwrap()
        .start()
        .unwrap();

    world.start_embassy().unwrap();
    until(&world, "a new base", || version(&world) == 2);
    until(&world, "everything acknowledged", || caught_up(&world));
    check_log(&world);
}

#[test]
fn a_cluster_that_cannot_be_captured_is_named_with_its_cure() {
    let mut world = world(10);
    execute(&world, "alter system set wal_level = minimal");
    execute(&world, "alter system set max_wal_senders = 0");
    execute(&world, "alter system set archive_mode = off");
    let cluster = world.clusters.get_mut(&Registry::Land).unwrap();
    cluster.stop_fast().unwrap();
    cluster.start().unwrap();
    let mut refused = agent(&world, "", "refused.log");
    let ended = refused.wait(PATIENCE).expect("it should end");
    assert_eq!(ended.code(), Some(3), "{}", refused.said());
    assert!(refused.said().contains("hint: "), "{}", refused.said());
}

#[test]
fn an_agent_that_the_mandate_does_not_know_is_refused() {
    let world = world(11);
    let key = world.path("home/agent/agent.key");
    std::fs::remove_file(&key).unwrap();
    std::fs::remove_file(key.with_extension("key.card")).unwrap();
    let config = world.path("home/agent/agent.toml");
    world
        .legation
        .ok([
            "agent".as_ref(),
            "--init".as_ref(),
            "--config".as_ref(),
            config.as_os_str(),
        ])
        .unwrap();
    let mut refused = agent(&world, "", "refused.log");
    let ended = refused.wait(PATIENCE).expect("it should end");
    assert_eq!(ended.code(), Some(8), "{}", refused.said());
}

/// Waits until the server knows that everything it has flushed is held abroad or in the spool.
pub fn slot_caught_up(world: &World) {
    until(world, "the slot stands at the end", || {
        ask(
            world,
            "select coalesce(bool_and(restart_lsn = pg_current_wal_flush_lsn()), false)::text from pg_replication_slots",
        ) == "true"
    });
}

#[test]
fn a_database_that_restarts_just_after_a_segment_began_goes_on() {
    let mut world = world(14);
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    let before = ask(&world, "select pg_walfile_name(pg_current_wal_lsn())");
    execute(&world, "select pg_switch_wal()");
    execute(&world, "create table after_the_switch (n int)");
    // Archived, or the server would keep it for that reason.
    until(&world, "the segment is archived", || {
        ask(
            &world,
            "select coalesce(last_archived_wal, '') from pg_stat_archiver",
        ) >= before
    });
    until(&world, "everything acknowledged", || caught_up(&world));
    slot_caught_up(&world);
    let land = world.clusters.get_mut(&Registry::Land).unwrap();
    land.stop_fast().unwrap();
    land.start().unwrap();
    let segment = land.data().join("pg_wal").join(&before);
    assert!(
        !segment.exists(),
        "{before} is still there: nothing is tested"
    );
    execute(&world, "create table the_next_morning (n int)");
    until(&world, "everything acknowledged", || caught_up(&world));
    assert_eq!(
        version(&world),
        1,
        "a new base was taken although nothing was lost"
    );
    assert_eq!(gaps(&world), 0);
    check_continuity(&world);
}

/// Gaps in the log.
pub fn gaps(world: &World) -> usize {
    let desk = world.path("desk/legation.toml");
    let shown = world.legation.ok([
        "--config".as_ref(),
        desk.as_os_str(),
        "--json".as_ref(),
        "log".as_ref(),
        "show".as_ref(),
        "--kind".as_ref(),
        "gap".as_ref(),
    ]);
    shown.unwrap().records().unwrap().len()
}

pub fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(copied.success());
}

/// Sets the cluster back to a copy that is made before `first` is written; while it is down, `meanwhile` happens. Then
/// it writes past the position that was captured: only the bytes tell.
fn set_back(world: &mut World, meanwhile: impl FnOnce(&mut World)) {
    let land = world.clusters.get_mut(&Registry::Land).unwrap();
    let (data, older) = (land.data(), land.data().with_extension("older"));
    land.stop_fast().unwrap();
    copy(&data, &older);
    land.start().unwrap();
    execute(
        world,
        "create table history as select n, 'the first' as which from generate_series(1, 20000) n",
    );
    until(world, "everything acknowledged", || caught_up(world));
    slot_caught_up(world);
    // Nothing is known of a history that was not written down: a kill within that moment is another matter.
    let trace = world
        .path("home/agent/spool")
        .join(world.id(Registry::Land))
        .join("history.json");
    until(world, "the end of the history is written down", || {
        let text = std::fs::read_to_string(&trace).unwrap_or_default();
        text.contains(&ask(world, "select pg_current_wal_flush_lsn()::text"))
    });
    let captured = pg::lsn(&ask(world, "select pg_current_wal_flush_lsn()::text")).unwrap();
    meanwhile(world);
    let land = world.clusters.get_mut(&Registry::Land).unwrap();
    land.stop_fast().unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&older, &data).unwrap();
    land.start().unwrap();
    execute(
        world,
        "create table history as select n, 'the second' as which from generate_series(1, 60000) n",
    );
    let now = pg::lsn(&ask(world, "select pg_current_wal_flush_lsn()::text")).unwrap();
    assert!(now > captured, "the second history is shorter");
}

/// What must follow: one gap, one new base, and a stream of its own that the embassy has to the end.
fn captured_anew(world: &World) {
    until(world, "a new base", || version(world) == 2);
    execute(world, "insert into history values (-1, 'and later')");
    until(world, "everything acknowledged", || caught_up(world));
    let state = world.state.parse().unwrap();
    let store = StateDir::open_reader(&world.store(), &state).unwrap();
    let registry: RegistryId = world.id(Registry::Land).parse().unwrap();
    let mut begun = 0;
    for (of, stream) in store.journals().unwrap() {
        let mut frames = store.read_journal(of, &stream).unwrap().frames(0).unwrap();
        let (_, opening) = frames.next().unwrap().unwrap();
        begun +=
            usize::from(of == registry && Opening::parse(&opening).unwrap().1.previous.is_none());
    }
    assert_eq!(begun, 2, "the second history continues the first");
    // Nothing more follows: the database is captured again, not found different for ever.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!((gaps(world), version(world)), (1, 2));
    check_log(world);
}

#[test]
fn a_database_that_was_set_back_is_captured_anew_with_one_gap() {
    let mut world = world(15);
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    set_back(&mut world, |_| ());
    captured_anew(&world);
}

#[test]
fn a_database_that_was_set_back_while_the_agent_was_dead_is_noticed() {
    let mut world = world(16);
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    set_back(&mut world, |world| {
        world.agents.iter_mut().for_each(|agent| {
            agent.kill();
        });
        world.agents.clear();
    });
    world.start_agent().unwrap();
    captured_anew(&world);
}

/// Killed at every named edge of its own, once in the first capture and once later; needs `--features faults`.
#[cfg(feature = "faults")]
#[test]
fn killed_at_every_named_edge_it_goes_on() {
    let mut world = world(12);
    let edges = legation_repo::edge::EDGES
        .iter()
        .filter(|edge| edge.starts_with("agent.") || edge.starts_with("journal."));
    for (at, edge) in edges.enumerate() {
        for passage in [1, 3] {
            let log = format!("edge-{at}-{passage}.log");
            let mut doomed = agent(&world, &format!("{edge}:{passage}=kill"), &log);
            std::fs::write(
                world.press().root.join(format!("{at}-{passage}")),
                log.as_bytes(),
            )
            .unwrap();
            execute(
                &world,
                &format!(
                    "create table edge_{at}_{passage} as select generate_series(1, 2000) as n"
                ),
            );
            // Some edges are passed only in the first capture; then there is nobody to kill.
            doomed.wait(Duration::from_secs(6));
            doomed.kill();
        }
    }
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    until(&world, "everything acknowledged", || caught_up(&world));
    check_continuity(&world);
}

/// Three officers, one of them abroad, let the desk read the cluster: the vault generation in use is spent.
fn spend_generation(world: &World, name: &str) {
    let order = world.order_grant(name, "land").unwrap();
    let officers = [&world.officers[0], &world.officers[1], &world.officers[3]];
    for officer in officers {
        world.approve(&order, officer).unwrap().ok().unwrap();
    }
    world.submit(&order, &officers).unwrap().ok().unwrap();
}

#[test]
fn a_spent_generation_moves_the_agent_on_to_the_next() {
    let mut world = world(13);
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();

    // While it runs: the roots of its epochs are in memory, and are sealed anew.
    spend_generation(&world, "first");
    execute(
        &world,
        "create table after_first as select generate_series(1, 1000) as n",
    );
    std::thread::sleep(Duration::from_secs(4));
    execute(
        &world,
        "create table later as select generate_series(1, 1000) as n",
    );
    until(&world, "everything acknowledged", || caught_up(&world));
    assert_eq!(version(&world), 1, "nothing was lost");
    check_continuity(&world);
}

/// Sealed without a line, to a generation that is spent before it arrives, by a run whose memory is gone; and the runs
/// that then announce the epochs anew die in the midst of it. Nothing of what was captured is lost.
#[cfg(feature = "faults")]
#[test]
fn an_order_during_an_outage_costs_nothing_that_was_captured() {
    let mut world = survive::alive(14, &[Registry::Land, Registry::Gazette]);
    world.stop_embassy().unwrap();
    let cut = ask(&world, "select pg_current_wal_flush_lsn()::text");
    // Longer than two epochs.
    std::thread::sleep(Duration::from_secs(9));
    let sealed = || {
        let lag = world.lag().unwrap_or_default();
        lag.get(&Registry::Land)
            .and_then(|land| pg::lsn(land.raw["sealed_lsn"].as_str()?).ok())
    };
    let flushed = pg::lsn(&ask(&world, "select pg_current_wal_flush_lsn()::text")).unwrap();
    assert!(flushed > pg::lsn(&cut).unwrap(), "the writers write");
    until(&world, "all sealed at home", || sealed() >= Some(flushed));
    for agent in &mut world.agents {
        agent.kill();
    }
    world.agents.clear();
    world.start_embassy().unwrap();
    spend_generation(&world, "meanwhile");
    for passage in [1, 2] {
        let log = format!("doomed-{passage}.log");
        let mut doomed = agent(&world, &format!("agent.moved:{passage}=kill"), &log);
        let ended = doomed.wait(PATIENCE);
        assert!(ended.is_some(), "it never moved on: {}", doomed.said());
    }
    world.start_agent().unwrap();
    until(&world, "everything captured is acknowledged", || {
        let lag = world.lag().unwrap_or_default();
        lag.get(&Registry::Land)
            .is_some_and(|land| land.acknowledged >= flushed)
    });
    assert_eq!(
        version(&world),
        1,
        "a new base was taken although nothing was lost"
    );
    check_continuity(&world);
    survive::destroy_and_reckon(&mut world);
}

/// Epochs whose announcement was durable and reported failed, and a memory that could not be written: no number is used
/// for two roots, so everything opens.
#[cfg(feature = "faults")]
#[test]
fn an_announcement_that_was_reported_failed_is_not_made_again_with_another_root() {
    let mut world = survive::small(16, &[Registry::Land, Registry::Gazette]);
    world.ceremony().unwrap();
    world.start_embassy().unwrap();
    world.start_home().unwrap();
    world.start_writers(1).unwrap();
    let faults = "agent.epoch-statement:2=eio,agent.epoch-statement:2=eio,agent.state:9=enospc";
    let faulty = agent(&world, faults, "faulty.log");
    world.agents.push(faulty);
    world.wait_protected(PATIENCE).unwrap();
    let said = |world: &World| world.agents[0].said();
    until(&world, "the faults", || {
        said(&world).matches("Input/output").count() >= 2
    });
    // Two more epochs, after which everything is told.
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!(version(&world), 1, "{}", said(&world));
    check_continuity(&world);
    survive::destroy_and_reckon(&mut world);
}

/// A later term takes over one registry: its slot is let go of, nothing of it is captured any more, and the other goes on.
#[test]
fn a_fenced_registry_lets_go_and_the_others_go_on() {
    let mut world = world(15);
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    let order = world.order_activate("takeover", &["land"]).unwrap();
    let officers = [&world.officers[0], &world.officers[1], &world.officers[3]];
    for officer in officers {
        world.approve(&order, officer).unwrap().ok().unwrap();
    }
    // Whoever submits waits for the session of the one that is to start it.
    let _live = world.activate(&order.text).unwrap();
    world.submit(&order, &officers).unwrap().ok().unwrap();
    execute(
        &world,
        "create table too_late as select generate_series(1, 1000) as n",
    );
    until(&world, "the registry is fenced", || {
        phase(&world) == "fenced"
    });
    until(&world, "its slot is dropped", || {
        ask(&world, "select count(*)::text from pg_replication_slots") == "0"
    });
    let gazette = |world: &World| {
        let lag = world.lag().unwrap_or_default();
        lag.get(&Registry::Gazette).and_then(|it| it.version)
    };
    let before = gazette(&world);
    std::fs::write(world.press().root.join("after-the-fence"), b"news").unwrap();
    until(&world, "the other goes on", || gazette(&world) > before);
    assert!(world.agents[0].ended().is_none(), "the agent lives");
    assert_eq!(phase(&world), "fenced");
    check_log(&world);
}
