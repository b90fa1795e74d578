//! What happens to a database at home, and what the agent does about it by itself: slots that go, promotions that are
//! followed, histories that part. Judged by the embassy's log, its journals, and what is started from them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use legation_world::fixtures::Registry;
use legation_world::pg::{self, Programs, SUPERUSER};
use legation_world::process::{Daemon, run};
use legation_world::world::World;
use rustix::process::Signal;

use crate::agent::{
    PATIENCE, agent, ask, caught_up, check_log, copy, execute, gaps, slot_caught_up, streams,
    until, version, world,
};
use crate::survive::{alive, destroy_and_reckon};

/// Statements of a kind in the embassy's log.
fn logged(world: &World, kind: &str) -> Vec<serde_json::Value> {
    let desk = world.path("desk/legation.toml");
    let arguments = ["--json", "log", "show", "--kind", kind];
    let mut all = vec!["--config".as_ref(), desk.as_os_str()];
    all.extend(arguments.iter().map(std::ffi::OsStr::new));
    world.legation.ok(all).unwrap().records().unwrap().to_vec()
}

/// What `status` prints beside the agent.
fn status(world: &World) -> String {
    let config = world.path("home/agent/agent.toml");
    let shown = world
        .legation
        .ok(["status".as_ref(), "--config".as_ref(), config.as_os_str()]);
    shown.unwrap().out
}

fn until_status(world: &World, text: &str) {
    until(world, &format!("status says {text:?}"), || {
        status(world).contains(text)
    });
}

/// Everything is abroad, in the newest version and the log after it, and nothing is wrong any more.
fn whole(world: &World, expected: (usize, u64)) {
    until(world, "a version", || version(world) >= expected.1);
    execute(
        world,
        "create table if not exists proof (n int); insert into proof values (1)",
    );
    until(world, "everything acknowledged", || caught_up(world));
    until(world, "nothing is wrong", || {
        let said = status(world);
        !said.contains("continuity") && !said.contains("timeline")
    });
    let found = (gaps(world), version(world));
    assert_eq!(found, expected, "{}", world.agents[0].said());
    check_log(world);
}

fn kill_agent(world: &mut World) {
    for agent in &mut world.agents {
        agent.kill();
    }
    world.agents.clear();
}

/// Segments of the log that nobody holds any more are removed.
fn push_wal(world: &World, segments: u32) {
    for _ in 0..segments {
        execute(
            world,
            "select pg_logical_emit_message(true, 'push', repeat('x', 100000))",
        );
        execute(world, "select pg_switch_wal()");
    }
    // Archived first, or they stay for that.
    until(world, "the log is archived", || {
        ask(
            world,
            "select (last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 16777217))::text from pg_stat_archiver",
        ) == "true"
    });
    execute(world, "checkpoint; checkpoint");
}

const NO_SLOT: &str = "do $$ begin loop
    perform pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null;
    begin
        perform pg_drop_replication_slot(slot_name) from pg_replication_slots;
        exit;
    exception when object_in_use then null;
    end;
end loop; end $$";

#[test]
fn a_slot_that_goes_is_made_anew_by_itself() {
    let mut world = world(31);
    execute(&world, "alter system set max_slot_wal_keep_size = '64MB'");
    execute(&world, "alter system set max_wal_size = '64MB'");
    // A receiver that is frozen would hold up the checkpoint that takes its slot from it.
    execute(&world, "alter system set tcp_user_timeout = '3s'");
    execute(&world, "select pg_reload_conf()");
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();

    // Dropped by an administrator, who ends the receiver first: what the server still has is captured, and nothing is lost.
    execute(&world, NO_SLOT);
    execute(&world, "create table after_the_drop as select 1 as n");
    until(&world, "everything acknowledged", || caught_up(&world));
    whole(&world, (0, 1));

    // Lost under a receiver that is connected and takes nothing.
    world.agents[0].signal(Signal::STOP);
    push_wal(&world, 8);
    until(&world, "the slot is lost", || {
        execute(&world, "checkpoint");
        ask(
            &world,
            "select coalesce(wal_status, '') from pg_replication_slots",
        ) == "lost"
    });
    // Nothing can be made good while the embassy is away: `status` says so until it is.
    world.stop_embassy().unwrap();
    world.agents[0].signal(Signal::CONT);
    until_status(&world, "continuity was lost (slot-lost)");
    world.start_embassy().unwrap();
    whole(&world, (1, 2));

    // Between two runs: dropped, and the log with it.
    kill_agent(&mut world);
    execute(&world, NO_SLOT);
    push_wal(&world, 8);
    world.start_agent().unwrap();
    whole(&world, (2, 3));
    let gap = logged(&world, "gap").pop().unwrap().to_string();
    assert!(gap.contains("slot-lost"), "{gap}");

    // Made again by somebody who reserved nothing: it holds nothing, and the server has everything all the same.
    kill_agent(&mut world);
    slot_is_free(&world);
    execute(&world, "select pg_drop_replication_slot('legation_land')");
    execute(
        &world,
        "select pg_create_physical_replication_slot('legation_land')",
    );
    world.start_agent().unwrap();
    whole(&world, (2, 3));

    // Taken by another receiver: that is said, and capture goes on when it is free.
    kill_agent(&mut world);
    slot_is_free(&world);
    let land = &world.clusters[&Registry::Land];
    let into = land.data().with_extension("received");
    world.programs.private_dir(&into).unwrap();
    let mut other = world.programs.command("pg_receivewal");
    other
        .arg("-D")
        .arg(&into)
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &land.port().to_string(),
            "-U",
            SUPERUSER,
        ])
        .args(["-S", "legation_land"])
        .env("PGPASSWORD", world.password());
    let mut other = Daemon::start("pg_receivewal", other, &world.path("received.log")).unwrap();
    until(&world, "the other receiver has it", || {
        ask(
            &world,
            "select count(*)::text from pg_replication_slots where active",
        ) == "1"
    });
    world.start_agent().unwrap();
    until_status(&world, "another receiver uses slot legation_land");
    execute(&world, "create table meanwhile as select 1 as n");
    other.stop(Signal::INT).unwrap();
    whole(&world, (2, 3));
}

fn slot_is_free(world: &World) {
    until(world, "the slot is free", || {
        ask(
            world,
            "select count(*)::text from pg_replication_slots where active",
        ) == "0"
    });
}

/// A standby of the land register, on a port of its own.
struct Standby {
    programs: Programs,
    data: PathBuf,
    port: u16,
}

impl Standby {
    fn of(world: &World, name: &str) -> Standby {
        let land = &world.clusters[&Registry::Land];
        let data = land.data().with_file_name(name);
        let standby = Standby {
            programs: world.programs.clone(),
            data,
            port: legation_world::ports::claim().unwrap(),
        };
        let mut copying = standby.programs.command("pg_basebackup");
        copying
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &land.port().to_string(),
                "-U",
                SUPERUSER,
            ])
            .args(["-X", "stream", "-c", "fast", "-R", "-D"])
            .arg(&standby.data)
            .env("PGPASSWORD", world.password());
        run(copying, b"", PATIENCE).unwrap().ok().unwrap();
        standby.start();
        standby
    }

    fn ctl(&self, arguments: &[&str]) {
        let mut command = self.programs.command("pg_ctl");
        let log = self.data.with_extension("log");
        command
            .args(arguments)
            .arg("-D")
            .arg(&self.data)
            .arg("-l")
            .arg(log);
        run(command, b"", PATIENCE).unwrap().ok().unwrap();
    }

    fn start(&self) {
        self.ctl(&["start", "-w", "-o", &format!("-p {}", self.port)]);
    }

    fn ask(&self, world: &World, query: &str) -> String {
        let mut client = pg::session(self.port, SUPERUSER, world.password(), "postgres").unwrap();
        client.query_one(query, &[]).unwrap().get(0)
    }

    /// Waits until it has replayed what the primary has flushed; then it is stopped.
    fn follow_and_stop(&self, world: &World) {
        let end = ask(world, "select pg_current_wal_flush_lsn()::text");
        let query = format!("select (pg_last_wal_replay_lsn() >= '{end}')::text");
        until(world, "the standby follows", || {
            self.ask(world, &query) == "true"
        });
        self.stop();
    }

    /// Where its log ends, by its own control file: it is stopped.
    fn end_of_wal(&self) -> String {
        let mut control = self.programs.command("pg_controldata");
        control.arg("-D").arg(&self.data);
        let said = run(control, b"", PATIENCE).unwrap().ok().unwrap().out;
        let line = said
            .lines()
            .find(|line| line.starts_with("Minimum recovery ending location"));
        line.unwrap().split_whitespace().last().unwrap().to_owned()
    }

    fn stop(&self) {
        self.ctl(&["stop", "-w", "-m", "fast"]);
    }

    /// Takes the place of the cluster at its address; what was there is moved to `aside`.
    fn take_over(&self, world: &mut World, aside: &Path) {
        let land = world.clusters.get_mut(&Registry::Land).unwrap();
        std::fs::rename(land.data(), aside).unwrap();
        std::fs::rename(&self.data, land.data()).unwrap();
        land.start().unwrap();
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let mut command = self.programs.command("pg_ctl");
        command
            .args(["stop", "-m", "immediate", "-D"])
            .arg(&self.data);
        let _ = run(command, b"", PATIENCE);
    }
}

fn promote(world: &World) {
    assert_eq!(ask(world, "select pg_promote()::text"), "true");
}

fn stop_land(world: &mut World) {
    let land = world.clusters.get_mut(&Registry::Land).unwrap();
    land.stop_fast().unwrap();
}

fn aside(world: &World, name: &str) -> PathBuf {
    world.clusters[&Registry::Land].data().with_file_name(name)
}

#[test]
fn a_promotion_is_followed_and_the_version_of_before_starts_with_all_of_it() {
    let mut world = alive(32, &[Registry::Land, Registry::Gazette]);
    let standby = Standby::of(&world, "standby");
    // What the old primary still wrote after the agent last received comes from the one that takes over.
    kill_agent(&mut world);
    std::thread::sleep(Duration::from_secs(1));
    world.writers.take().unwrap().stop().unwrap();
    execute(
        &world,
        "create table unreceived as select generate_series(1, 1000) as n",
    );
    standby.follow_and_stop(&world);
    stop_land(&mut world);
    let old = aside(&world, "old");
    standby.take_over(&mut world, &old);
    world.start_agent().unwrap();
    until_status(&world, "the server is a standby");
    // Once it is promoted the agent makes one.
    assert_eq!(
        ask(&world, "select count(*)::text from pg_replication_slots"),
        "0"
    );
    promote(&world);
    world.start_writers(1_000_000).unwrap();
    until(&world, "everything up to the promotion is abroad", || {
        let linked = streams(&world);
        linked.len() > 1
            && world
                .lag()
                .is_ok_and(|lag| lag[&Registry::Land].raw["phase"] == "streaming")
    });
    std::thread::sleep(Duration::from_secs(2));
    let flushed = pg::lsn(&ask(&world, "select pg_current_wal_flush_lsn()::text")).unwrap();
    until(&world, "the writers' work after it is abroad", || {
        world
            .lag()
            .is_ok_and(|lag| lag[&Registry::Land].acknowledged >= flushed)
    });
    assert!(!status(&world).contains("timeline"), "{}", status(&world));
    assert_eq!(
        (gaps(&world), logged(&world, "doubt").len(), version(&world)),
        (0, 0, 1)
    );
    for pair in streams(&world).windows(2) {
        assert_eq!(pair[0].3, pair[1].2, "streams do not join");
    }
    check_log(&world);
    destroy_and_reckon(&mut world);
}

#[test]
fn two_promotions_to_one_number_are_two_histories() {
    let mut world = world(33);
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    let (one, two) = (Standby::of(&world, "one"), Standby::of(&world, "two"));
    execute(
        &world,
        "create table history as select 1 as n, 'before' as which",
    );
    until(&world, "everything acknowledged", || caught_up(&world));
    // Both have all that the primary ever wrote: it does not go before they do.
    stop_land(&mut world);
    one.stop();
    two.stop();
    let place = aside(&world, "primary");
    one.take_over(&mut world, &place);
    promote(&world);
    execute(
        &world,
        "insert into history select n, 'the first' from generate_series(1, 3000) n",
    );
    whole(&world, (0, 1));
    slot_caught_up(&world);

    // The other one is promoted to the same number, and has gone further than what was captured.
    stop_land(&mut world);
    let place = aside(&world, "first");
    two.take_over(&mut world, &place);
    promote(&world);
    execute(
        &world,
        "insert into history select n, 'the second' from generate_series(1, 30000) n",
    );
    whole(&world, (1, 2));
    let doubts = logged(&world, "doubt");
    assert_eq!(doubts.len(), 1, "{doubts:?}");
    let doubt = doubts[0].to_string();
    assert!(doubt.contains("timeline") && doubt.contains('/'), "{doubt}");
    assert_eq!(ask(&world, "select count(*)::text from history"), "30001");
}

#[test]
fn what_a_rewound_primary_gave_up_is_a_doubt_and_it_is_captured_anew() {
    let mut world = world(34);
    execute(&world, "alter system set wal_log_hints = on");
    // pg_rewind reads back to the last checkpoint before the parting.
    execute(&world, "alter system set wal_keep_size = '1GB'");
    stop_land(&mut world);
    world
        .clusters
        .get_mut(&Registry::Land)
        .unwrap()
        .start()
        .unwrap();
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    let standby = Standby::of(&world, "standby");
    execute(
        &world,
        "create table history as select 1 as n, 'shared' as which",
    );
    standby.follow_and_stop(&world);
    let parted = standby.end_of_wal();
    // Told as committed, captured, and then given up at home.
    execute(
        &world,
        "insert into history select n, 'given up' from generate_series(1, 2000) n",
    );
    until(&world, "everything acknowledged", || caught_up(&world));
    let captured = ask(&world, "select pg_current_wal_flush_lsn()::text");
    stop_land(&mut world);
    // Without the primary the other takes over; then the primary is made to follow it.
    copy(&standby.data, &standby.data.with_extension("kept"));
    standby.start();
    standby.ask(&world, "select pg_promote()::text");
    // pg_rewind goes by what the last checkpoint says.
    let mut client = pg::session(standby.port, SUPERUSER, world.password(), "postgres").unwrap();
    client.batch_execute("checkpoint").unwrap();
    standby.ask(&world, "select (pg_switch_wal() is not null)::text");
    standby.ask(
        &world,
        "select 'x' || pg_logical_emit_message(true, 'more', repeat('y', 200000))::text",
    );
    let data = world.clusters[&Registry::Land].data();
    let source = format!(
        "host=127.0.0.1 port={} user={SUPERUSER} password={} dbname=postgres",
        standby.port,
        world.password()
    );
    let mut rewind: Command = world.programs.command("pg_rewind");
    rewind
        .arg("-D")
        .arg(&data)
        .args(["--source-server", &source, "-R"]);
    let said = run(rewind, b"", PATIENCE).unwrap().ok().unwrap();
    assert!(
        said.err.contains("Done!") || said.out.contains("Done!"),
        "{said:?}"
    );
    // What it copied is the other's, the port included.
    world
        .clusters
        .get_mut(&Registry::Land)
        .unwrap()
        .start()
        .unwrap();
    until_status(&world, "the server is a standby");
    let end = standby.ask(&world, "select pg_current_wal_flush_lsn()::text");
    until(&world, "it follows", || {
        ask(
            &world,
            &format!("select (pg_last_wal_replay_lsn() >= '{end}')::text"),
        ) == "true"
    });
    standby.stop();
    promote(&world);
    execute(&world, "insert into history values (9, 'and later')");
    whole(&world, (1, 2));
    assert_eq!(
        ask(
            &world,
            "select count(*)::text from history where which = 'given up'"
        ),
        "0"
    );
    let doubts = logged(&world, "doubt");
    assert_eq!(doubts.len(), 1, "{doubts:?}");
    // The range holds what was given up, to the end of what was captured.
    let text = doubts[0]["text"].as_str().unwrap().to_owned();
    let range = text
        .lines()
        .find_map(|line| line.strip_prefix("wal: "))
        .unwrap();
    let (from, to) = range.split_once(' ').unwrap();
    let [from, to, parted, captured] =
        [from, to, &parted, &captured].map(|at| pg::lsn(at).unwrap());
    assert!(
        from >= parted && from < captured && captured <= to,
        "{text}"
    );
}

/// Asks the agent for a new base, and waits for it.
fn capture(world: &World) {
    let config = world.path("home/agent/agent.toml");
    let captured = world.legation.ok([
        "--config".as_ref(),
        config.as_os_str(),
        "capture".as_ref(),
        "land".as_ref(),
        "--full".as_ref(),
    ]);
    captured.unwrap();
}

#[test]
fn a_damaged_page_is_a_doubt_until_it_is_gone_and_checksums_may_change() {
    let mut world = world(35);
    execute(
        &world,
        "create table rotten as select n, repeat('z', 400) as pad from generate_series(1, 2000) n",
    );
    execute(&world, "checkpoint");
    let path = ask(&world, "select pg_relation_filepath('rotten')");
    stop_land(&mut world);
    let file = world.clusters[&Registry::Land].data().join(&path);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[3 * 8192 + 4000] ^= 0x10;
    std::fs::write(&file, bytes).unwrap();
    world
        .clusters
        .get_mut(&Registry::Land)
        .unwrap()
        .start()
        .unwrap();
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    until_status(&world, "pages of the source fail their checksums");
    let said = status(&world);
    assert!(said.contains(&format!("rotten ({path}) block 3")), "{said}");
    until(&world, "the doubt is logged", || {
        !logged(&world, "doubt").is_empty()
    });
    let doubts = logged(&world, "doubt");
    let doubt = doubts[0].to_string();
    assert!(
        doubt.contains("damaged-page") && doubt.contains('/'),
        "{doubt}"
    );
    // Names stay at home.
    assert!(
        !doubt.contains("rotten") && !doubt.contains(&path),
        "{doubt}"
    );
    assert_eq!((doubts.len(), gaps(&world), version(&world)), (1, 0, 1));

    // Once it is gone, the next base says nothing of it any more.
    execute(&world, "drop table rotten; checkpoint");
    capture(&world);
    assert!(!status(&world).contains("checksums"), "{}", status(&world));
    assert_eq!((logged(&world, "doubt").len(), version(&world)), (1, 2));

    // Turned off and on again while the server is down: each time everything is captured anew, without a gap.
    for (change, expected) in [("--disable", 3), ("--enable", 4)] {
        stop_land(&mut world);
        let mut pg_checksums = world.programs.command("pg_checksums");
        let data = world.clusters[&Registry::Land].data();
        pg_checksums.arg(change).arg("-N").arg("-D").arg(data);
        run(pg_checksums, b"", PATIENCE).unwrap().ok().unwrap();
        world
            .clusters
            .get_mut(&Registry::Land)
            .unwrap()
            .start()
            .unwrap();
        whole(&world, (0, expected));
    }
}

#[test]
fn a_password_that_does_not_fit_ends_the_first_start_and_later_heals() {
    let mut world = world(36);
    let spoil = "alter role legation password 'another one'";
    let mend = format!("alter role legation password '{}'", world.password());
    execute(&world, spoil);
    let mut refused = agent(&world, "", "refused.log");
    let ended = refused.wait(PATIENCE).expect("it should end");
    let said = refused.said();
    assert_eq!(ended.code(), Some(3), "{said}");
    assert!(
        said.contains("password authentication failed") && said.contains("hint: "),
        "{said}"
    );

    execute(&world, &mend);
    world.start_agent().unwrap();
    world.wait_protected(PATIENCE).unwrap();
    // Of what was captured before it is trouble, also over a restart, and the other registry goes on.
    execute(&world, spoil);
    kill_agent(&mut world);
    world.start_agent().unwrap();
    until_status(&world, "password authentication failed");
    let gazette = |world: &World| {
        let lag = world.lag().unwrap_or_default();
        lag.get(&Registry::Gazette).and_then(|it| it.version)
    };
    let before = gazette(&world);
    std::fs::write(world.press().root.join("meanwhile"), b"news").unwrap();
    until(&world, "the other goes on", || gazette(&world) > before);
    execute(&world, &mend);
    whole(&world, (0, 1));
    assert!(!status(&world).contains("password"), "{}", status(&world));
}
