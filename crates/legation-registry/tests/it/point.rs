//! Where a restore stops, compared with where PostgreSQL stops by itself: the same WAL, its own base, its own
//! `recovery_target_*`.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use legation_core::id::Lsn;
use legation_registry::postgres::point::{Goal, Known, PgTime, Point, Refused, decide};
use legation_registry::postgres::record::Source;
use legation_registry::postgres::{Facts, Target};

use crate::cluster::{Cluster, give, psql, restore, run, run_ok, scratch};
use crate::memory::{MemorySink, MemoryWal};
use crate::record::events;

const ROWS: &str = "select coalesce(string_agg(n::text, ',' order by n), '') from j";
const WAITING: &str =
    "select coalesce(string_agg(gid, ',' order by gid), '') from pg_prepared_xacts";

/// One target, for us and for PostgreSQL.
struct Case {
    goal: Goal,
    setting: (&'static str, String),
}

fn case(point: Point, inclusive: bool) -> Case {
    let setting = match &point {
        // Its configuration file knows no names of zones, not even Z.
        Point::Time(time) => ("recovery_target_time", time.to_string().replace('Z', "+00")),
        Point::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
        Point::Name(name) => ("recovery_target_name", name.clone()),
        Point::Xid(xid) => ("recovery_target_xid", xid.to_string()),
    };
    Case {
        goal: Goal { point, inclusive },
        setting,
    }
}

/// What PostgreSQL itself makes of a target: rows and prepared transactions, or why it does not start.
fn oracle(cluster: &Cluster, base: &Path, case: &Case) -> Result<(String, String), String> {
    let dir = scratch();
    let data = dir.path().join("data");
    let args: [&OsStr; 3] = ["-a".as_ref(), base.as_ref(), data.as_ref()];
    let copied = std::process::Command::new("cp")
        .args(args)
        .status()
        .unwrap();
    assert!(copied.success());
    let port = legation_world::ports::claim().unwrap();
    let conf = format!(
        "port = {port}\nlisten_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nmax_prepared_transactions = 10\n\
         restore_command = 'cp {}/pg_wal/%f %p'\nrecovery_target_timeline = 'current'\nrecovery_target_action = 'promote'\n\
         {} = '{}'\nrecovery_target_inclusive = {}\n",
        dir.path().display(),
        cluster.data().display(),
        case.setting.0,
        case.setting.1,
        case.goal.inclusive
    );
    fs::write(data.join("postgresql.auto.conf"), conf).unwrap();
    fs::write(data.join("recovery.signal"), "").unwrap();
    give(&data.join("postgresql.auto.conf"));
    give(&data.join("recovery.signal"));
    let log = dir.path().join("log");
    let started = run(
        "pg_ctl",
        &[
            "start".as_ref(),
            "-w".as_ref(),
            "-D".as_ref(),
            data.as_ref(),
            "-l".as_ref(),
            log.as_ref(),
        ],
    );
    if !started.status.success() {
        return Err(fs::read_to_string(&log).unwrap_or_default());
    }
    let url = format!(
        "postgresql://postgres@:{port}/postgres?host={}",
        dir.path().display()
    );
    let config = legation_registry::postgres::ConnectConfig::parse_with(&url, &|_| None).unwrap();
    // Read-only until it is promoted, and that comes right after.
    for _ in 0..600 {
        if psql(&config, "select pg_is_in_recovery()") == "f" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let found = (psql(&config, ROWS), psql(&config, WAITING));
    run_ok(
        "pg_ctl",
        &[
            "stop".as_ref(),
            "-m".as_ref(),
            "immediate".as_ref(),
            "-D".as_ref(),
            data.as_ref(),
        ],
    );
    Ok(found)
}

/// Inserts a row in a transaction of its own; its number and when it committed.
fn insert(cluster: &Cluster, n: u32) -> (u32, PgTime) {
    let xid = cluster.sql(&format!("insert into j values ({n}) returning xmin"));
    let time = cluster.sql(&format!(
        "select to_char(pg_xact_commit_timestamp('{xid}'::xid) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"Z\"')"
    ));
    (xid.parse().unwrap(), time.parse().unwrap())
}

struct World {
    cluster: Cluster,
    base: tempfile::TempDir,
    sink: MemorySink,
    wal: MemoryWal,
    facts: Facts,
    known: Known,
}

impl World {
    fn events(&self) -> (Vec<legation_registry::postgres::record::Event>, Lsn) {
        let source = Source {
            system_id: self.facts.system_id,
            major: self.facts.major,
            segment_size: self.facts.wal_segment_size,
        };
        events(&self.wal, source, self.facts.start)
    }
}

#[test]
fn every_target_gives_what_postgresql_gives() {
    let cluster = Cluster::new(&[
        ("track_commit_timestamp", "on"),
        ("max_prepared_transactions", "10"),
        ("autovacuum", "off"),
    ]);
    cluster.sql("create table j (n int)");
    insert(&cluster, 1);
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let (sink, facts) = cluster.base();
    let base = scratch();
    let own = base.path().join("base");
    let (socket, port) = (cluster.dir.path(), cluster.port.to_string());
    let args: [&OsStr; 11] = [
        "-D".as_ref(),
        own.as_ref(),
        "-h".as_ref(),
        socket.as_ref(),
        "-p".as_ref(),
        port.as_ref(),
        "-U".as_ref(),
        "postgres".as_ref(),
        "-X".as_ref(),
        "none".as_ref(),
        "--checkpoint=fast".as_ref(),
    ];
    run_ok("pg_basebackup", &args);
    // Until the base's second is over: a time in it cannot be told from what was before the base.
    cluster.sql("select pg_sleep(1.5)");
    let two = insert(&cluster, 2);
    let three = insert(&cluster, 3);
    let after_three = cluster.lsn();
    let aborted = cluster.sql("begin; insert into j values (100) returning xmin; rollback");
    let four = insert(&cluster, 4);
    cluster.sql("begin; insert into j values (5); prepare transaction 'waits'");
    let own_xid: u32 = cluster
        .sql("select transaction from pg_prepared_xacts")
        .parse()
        .unwrap();
    cluster.sql("select pg_create_restore_point('before six')");
    let six = insert(&cluster, 6);
    cluster.sql("commit prepared 'waits'");
    cluster.sql("select pg_create_restore_point('again')");
    insert(&cluster, 7);
    cluster.sql("select pg_create_restore_point('again')");
    let last = insert(&cluster, 8);
    let end = cluster.lsn();
    wal.wait_for(end);
    wal.halt();
    receiver.join().unwrap().unwrap();
    let known = Known {
        consistent: facts.stop,
        protected: None,
    };
    let world = World {
        cluster,
        base,
        sink,
        wal,
        facts,
        known,
    };
    let (events, whole) = world.events();
    assert!(whole >= end);
    let own = world.base.path().join("base");

    let between = PgTime((three.1.0 + four.1.0) / 2);
    for case in [
        case(Point::Time(three.1), true),
        case(Point::Time(three.1), false),
        case(Point::Time(PgTime(three.1.0 - 1)), true),
        case(Point::Time(between), true),
        case(Point::Time(six.1), true),
        case(Point::Lsn(after_three), true),
        case(Point::Lsn(after_three), false),
        case(Point::Name("before six".into()), true),
        case(Point::Xid(two.0), false),
        case(Point::Xid(three.0), true),
        case(
            Point::Xid(aborted.lines().next().unwrap().parse().unwrap()),
            true,
        ),
        case(Point::Xid(own_xid), true),
        case(Point::Xid(own_xid), false),
    ] {
        let what = case.goal.to_string();
        let found = decide(&case.goal, world.known, events.clone()).unwrap();
        let ours = restore(&world.sink, &world.wal, Target::Lsn(found.stop)).unwrap();
        let theirs =
            oracle(&world.cluster, &own, &case).unwrap_or_else(|log| panic!("{what}: {log}"));
        assert_eq!((ours.sql(ROWS), ours.sql(WAITING)), theirs, "{what}");
        assert_eq!(ours.server.replayed().unwrap().lsn, found.stop, "{what}");
        let waiting: Vec<_> = found.prepared.iter().map(|one| one.gid.as_str()).collect();
        assert_eq!(waiting.join(","), theirs.1, "{what}");
    }

    // What PostgreSQL starts and then gives up, we refuse before anything is written.
    let late = PgTime(last.1.0 + 1);
    for (impossible, refused) in [
        (case(Point::Time(late), true), Refused::TooLate),
        (case(Point::Lsn(Lsn(whole.0 + 8)), true), Refused::TooLate),
        (case(Point::Name("never".into()), true), Refused::NotThere),
        (case(Point::Xid(4_000_000), true), Refused::NotThere),
    ] {
        let why = decide(&impossible.goal, world.known, events.clone()).unwrap_err();
        assert_eq!(why.refused, refused, "{why}");
        assert!(
            why.to_string()
                .contains(&format!("from {} (", world.facts.stop)),
            "{why}"
        );
        assert_eq!(why.window.to_time, Some(last.1));
        let log = oracle(&world.cluster, &own, &impossible).unwrap_err();
        assert!(
            log.contains("recovery ended before configured recovery target was reached"),
            "{log}"
        );
    }
    // A name that is there twice: PostgreSQL takes the first.
    let twice = case(Point::Name("again".into()), true);
    let why = decide(&twice.goal, world.known, events.clone()).unwrap_err();
    assert!(
        matches!(why.refused, Refused::Several(ref at, 2) if at.len() == 2),
        "{why}"
    );
    // A time before the base: PostgreSQL gives the base's end and calls it that time.
    let early = case(Point::Time(PgTime(two.1.0 - 3_600_000_000)), true);
    let why = decide(&early.goal, world.known, events.clone()).unwrap_err();
    assert_eq!(why.refused, Refused::TooEarly);
    assert_eq!(oracle(&world.cluster, &own, &early).unwrap().0, "1");
    // In time that is known to be covered the end is the target.
    let known = Known {
        protected: Some(late),
        ..world.known
    };
    let idle = case(Point::Time(late), true);
    assert_eq!(decide(&idle.goal, known, events).unwrap().stop, whole);
}
