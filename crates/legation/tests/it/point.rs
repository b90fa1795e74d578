//! Recovery to a point in time as a person types it: an order up to a point opens the epochs up to there, and the command
//! stops exactly where it should before anything is written. That the position is PostgreSQL's own for the same target is
//! compared in `legation-registry/tests/it/point.rs`; here rows are what the test itself wrote.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use legation_world::fixtures::Registry;
use legation_world::pg::{self, SUPERUSER};
use legation_world::process::{Ran, run};
use legation_world::world::{Order, World};
use legation_world::{args, pg::Cluster};
use rustix::process::Signal;
use serde_json::Value;

use crate::survive::{self, LONG};

const ROWS: &str = "select coalesce(string_agg(n::text, ',' order by n), '') from moments";

fn cluster(world: &World) -> &Cluster {
    &world.clusters[&Registry::Land]
}

fn execute(world: &World, sql: &str) {
    let mut client = cluster(world).connect(SUPERUSER, "land").expect("home");
    client.batch_execute(sql).expect("a statement");
}

fn ask(world: &World, sql: &str) -> String {
    let mut client = cluster(world).connect(SUPERUSER, "land").expect("home");
    client.query_one(sql, &[]).expect("an answer").get(0)
}

/// This moment at the database, as ISO 8601 to the microsecond.
fn moment(world: &World) -> String {
    ask(
        world,
        "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    )
}

fn position(world: &World) -> String {
    ask(world, "select pg_current_wal_insert_lsn()::text")
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Everything that home has written is acknowledged, and an epoch has begun after `epoch`.
fn in_a_later_epoch(world: &World, epoch: u64) -> u64 {
    let mut now = 0;
    until("a later epoch", || {
        execute(world, "insert into noise default values");
        let lag = world.lag().unwrap_or_default();
        now = lag.get(&Registry::Land).map_or(0, |land| land.epoch);
        now > epoch
    });
    let flushed = pg::lsn(&ask(world, "select pg_current_wal_flush_lsn()::text")).expect("an lsn");
    until("an acknowledgement", || {
        let lag = world.lag().unwrap_or_default();
        lag.get(&Registry::Land)
            .is_some_and(|land| land.acknowledged >= flushed)
    });
    now
}

/// Writes an order, once the log's marks reach what it asks for; returns it and what was printed of it.
fn ordered(world: &World, name: &str, asked: &[&str]) -> (Order, Value) {
    let text = world.path("desk").join(format!("{name}.txt"));
    let mut all: Vec<OsString> = args!["order", "new"].into();
    all.extend(asked.iter().map(Into::into));
    all.extend(args!["--out", text, "--config", world.person(), "--json"]);
    let mut told = None;
    until("a mark that reaches it", || {
        let ran = world.legation.run(&all).expect("order new");
        assert!(
            ran.code == 0 || ran.err.contains("cannot be reached"),
            "{}",
            ran.err
        );
        told = (ran.code == 0).then(|| ran.record("order").expect("an order"));
        told.is_some()
    });
    (Order { text }, told.expect("an order"))
}

fn approved(world: &World, order: &Order) {
    let officers = [0, 1, 3].map(|n| &world.officers[n]);
    for officer in officers {
        world
            .approve(order, officer)
            .and_then(Ran::ok)
            .expect("an approval");
    }
    world
        .submit(order, &officers)
        .and_then(Ran::ok)
        .expect("an accepted order");
    world
        .release(order, &officers)
        .and_then(Ran::ok)
        .expect("a release");
}

struct Desk<'a> {
    world: &'a World,
    order: &'a Path,
    made: usize,
}

impl Desk<'_> {
    fn restore(&self, to: &Path, more: &[&str]) -> Ran {
        let mut all: Vec<OsString> = args![
            "restore",
            "land",
            "--to",
            to,
            "--order",
            self.order,
            "--config",
            self.world.person()
        ]
        .into();
        all.extend(more.iter().map(Into::into));
        self.world.legation.run(all).expect("restore")
    }

    /// Restores up to this target, starts what was restored with stock tools, and asks it.
    fn rows(&mut self, target: &[&str]) -> (String, Ran) {
        self.made += 1;
        let parent = self.world.path("restored");
        self.world
            .programs
            .private_dir(&parent)
            .expect("a directory");
        let to = parent.join(self.made.to_string());
        let ran = self.restore(&to, &[target, &["--json"]].concat());
        assert_eq!(ran.code, 0, "{target:?}: {}", ran.err);
        let rows = self.asked(&to, ROWS);
        (rows, ran)
    }

    fn asked(&self, data: &Path, sql: &str) -> String {
        let mut socket = data.as_os_str().to_owned();
        socket.push(".run");
        let programs = &self.world.programs;
        let pg_ctl = |args: &[OsString]| {
            let mut command = programs.command("pg_ctl");
            command.arg("-D").arg(data).args(args);
            run(command, b"", LONG).and_then(Ran::ok).expect("pg_ctl")
        };
        pg_ctl(&args![
            "start",
            "-w",
            "-t",
            "100",
            "-l",
            data.with_extension("log")
        ]);
        let psql = || {
            let mut psql = programs.command("psql");
            psql.args(["-XAtq", "-U", SUPERUSER, "-d", "land", "-c", sql, "-h"])
                .arg(&socket);
            run(psql, b"", LONG).expect("psql")
        };
        // It answers once it has replayed everything.
        let mut ran = psql();
        until("an answer", || {
            let replaying =
                ran.err.contains("not accepting connections") || ran.err.contains("starting up");
            if replaying {
                ran = psql();
            }
            !replaying
        });
        let rows = ran.ok().expect("rows").out;
        pg_ctl(&args!["stop", "-w", "-m", "immediate"]);
        rows.trim().to_owned()
    }

    /// A target that is refused, with nothing written.
    fn refused(&self, target: &[&str], exit: i32, words: &[&str]) {
        let to = self.world.path("refused");
        for more in [&["--dry-run"][..], &[]] {
            let ran = self.restore(&to, &[target, more].concat());
            assert_eq!(ran.code, exit, "{target:?}: {}{}", ran.err, ran.out);
            for word in words {
                assert!(ran.err.contains(word), "{word}: {}", ran.err);
            }
            assert!(!to.exists(), "{target:?}: something was written");
        }
    }
}

/// What was written at home, and when.
struct Told {
    /// After row 1 was committed, after row 2, and so on.
    times: Vec<String>,
    lsns: Vec<String>,
    /// The transactions of rows 2 and of one that was rolled back.
    xids: [String; 2],
}

fn lived(world: &World) -> Told {
    let (mut times, mut lsns) = (Vec::new(), Vec::new());
    let epoch = world.lag().expect("a status")[&Registry::Land].epoch;
    execute(
        world,
        "create table moments (n int); create table noise (n serial)",
    );
    // Past the second in which the base began.
    in_a_later_epoch(world, epoch);
    let xid = "pg_current_xact_id()::text";
    let mut xids: Vec<String> = Vec::new();
    for n in 1..=3 {
        let mut client = cluster(world).connect(SUPERUSER, "land").expect("home");
        let mut row = client.transaction().expect("a transaction");
        row.execute("insert into moments values ($1)", &[&n])
            .expect("a row");
        xids.push(
            row.query_one(&format!("select {xid}"), &[])
                .expect("a number")
                .get(0),
        );
        row.commit().expect("a commit");
        times.push(moment(world));
        lsns.push(position(world));
    }
    execute(world, "select pg_create_restore_point('reform')");
    execute(
        world,
        "begin; insert into moments values (4); prepare transaction 'waits'",
    );
    let mut client = cluster(world).connect(SUPERUSER, "land").expect("home");
    let mut row = client.transaction().expect("a transaction");
    row.execute("insert into moments values (100)", &[])
        .expect("a row");
    let aborted: String = row
        .query_one(&format!("select {xid}"), &[])
        .expect("a number")
        .get(0);
    row.rollback().expect("a rollback");
    execute(world, "insert into moments values (5)");
    times.push(moment(world));
    lsns.push(position(world));
    for _ in 0..2 {
        execute(world, "select pg_create_restore_point('twice')");
    }
    Told {
        times,
        lsns,
        xids: [xids[1].clone(), aborted],
    }
}

#[test]
fn a_restore_stops_where_it_is_told_and_opens_no_more_than_that_takes() {
    let mut world = survive::small(23, &[Registry::Land]);
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    execute(&world, "alter system set max_prepared_transactions = 10");
    let home = world.clusters.get_mut(&Registry::Land).expect("a cluster");
    home.stop_fast().expect("a stop");
    home.start().expect("a start");
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("a first version");
    let told = lived(&world);
    let epoch = world.lag().expect("a status")[&Registry::Land].epoch;
    let later = in_a_later_epoch(&world, epoch);
    execute(&world, "insert into moments values (6)");
    execute(&world, "commit prepared 'waits'");
    world
        .legation
        .ok(args![
            "capture",
            "land",
            "--full",
            "--config",
            world.path("home/agent/agent.toml")
        ])
        .expect("a second version");
    let second = position(&world);
    execute(&world, "insert into moments values (7)");
    in_a_later_epoch(&world, later);

    // Up to a position that lies before the second version: the first one, and not the newest epochs.
    let lsn = ["grant", "land", "--target-lsn", &told.lsns[2]];
    let (order, of) = ordered(&world, "to-three", &lsn);
    let sentence = of["sentence"].as_str().expect("a sentence");
    let says = format!("from version v1 as of position {}.", told.lsns[2]);
    assert!(sentence.ends_with(&says), "{sentence}");
    let epochs = of["registries"][0]["epochs"]
        .as_str()
        .expect("epochs")
        .to_owned();
    let last: u64 = epochs
        .rsplit('-')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("an epoch");
    assert!(last <= epoch, "{epochs}: the point was in epoch {epoch}");
    approved(&world, &order);
    let mut desk = Desk {
        world: &world,
        order: &order.text,
        made: 0,
    };
    let to = world.path("planned");
    let plan = desk.restore(&to, &["--dry-run"]);
    assert_eq!(plan.code, 0, "{}", plan.err);
    for word in [
        "land v1 of ",
        "target     position ",
        "stops at   ",
        "after the commit of transaction ",
        " records, ",
    ] {
        assert!(plan.out.contains(word), "{word}: {}", plan.out);
    }
    assert!(!to.exists());
    // PostgreSQL's meaning: with the first record that starts there, which is the restore point.
    assert_eq!(desk.rows(&[]).0, "1,2,3");
    let (rows, ran) = desk.rows(&["--target-time", &told.times[1]]);
    assert_eq!(rows, "1,2");
    let restored = ran.record("restored").expect("a record");
    assert_eq!(
        restored["decision"]["last"]["xid"].to_string(),
        told.xids[0]
    );
    let next = restored["decision"]["next"]["time"]
        .as_str()
        .expect("a next commit");
    assert!(next > told.times[1].as_str() && next < told.times[2].as_str());
    // What the order opens ends at its point, however much of the epoch is there.
    desk.refused(
        &["--target-time", &told.times[3]],
        8,
        &[
            "the order opens it up to position",
            "legation order new grant land",
        ],
    );

    // Up to the end, from the first version.
    let (order, _) = ordered(
        &world,
        "all",
        &["grant", "land", "--version", "v1", "--target", "end-of-wal"],
    );
    approved(&world, &order);
    desk.order = &order.text;
    assert_eq!(
        desk.rows(&["--target-xid", &told.xids[0], "--target-inclusive", "false"])
            .0,
        "1"
    );
    assert_eq!(desk.rows(&["--target-xid", &told.xids[0]]).0, "1,2");
    assert_eq!(desk.rows(&["--target-name", "reform"]).0, "1,2,3");
    let (rows, ran) = desk.rows(&["--target-time", &told.times[3]]);
    assert_eq!(rows, "1,2,3,5");
    let restored = ran.record("restored").expect("a record");
    assert_eq!(restored["prepared"][0]["gid"], "waits");
    let aborted = desk.restore(&to, &["--target-xid", &told.xids[1], "--dry-run"]);
    assert!(
        aborted.out.contains("after the abort of transaction"),
        "{}{}",
        aborted.out,
        aborted.err
    );
    assert!(
        aborted
            .out
            .contains("1 prepared transaction waits for its end: waits"),
        "{}",
        aborted.out
    );
    let (rows, ran) = desk.rows(&[]);
    assert_eq!(rows, "1,2,3,4,5,6,7");
    let restored = ran.record("restored").expect("a record");
    assert_eq!(restored["prepared"].as_array().map(Vec::len), Some(0));

    let window = [
        "cannot be reached",
        "this version reaches from 0/",
        " to 0/",
        "Z)",
    ];
    for (target, word) in [
        (
            ["--target-time", "2100-01-01T00:00:00Z"],
            "it lies after what is kept",
        ),
        (
            ["--target-time", "2000-01-01 00:00:00+00"],
            "it lies before this version",
        ),
        (["--target-lsn", "FF/0"], "it lies after what is kept"),
        (["--target-lsn", "0/1"], "it lies before this version"),
        (["--target-name", "never"], "has none"),
        (["--target-name", "twice"], "it is there 2 times, at 0/"),
        (["--target-xid", "4000000"], "has none"),
    ] {
        desk.refused(&target, 1, &[&window[..], &[word]].concat());
    }
    // Without a grant the plan goes by the log: which version, and that the rest is decided later.
    for (lsn, version) in [(&told.lsns[0], "land v1 of "), (&second, "land v2 of ")] {
        let plan = world
            .legation
            .ok(args![
                "restore",
                "land",
                "--to",
                to,
                "--target-lsn",
                lsn,
                "--dry-run",
                "--config",
                world.person()
            ])
            .expect("a plan");
        assert!(plan.out.contains(version), "{}", plan.out);
        assert!(
            plan.out.contains("decided when a grant opens the log"),
            "{}",
            plan.out
        );
    }
    started(&world, &told);
    world.stop_embassy().expect("the embassy stops");
}

/// An activation goes to a point by the same path, and names what waits.
fn started(world: &World, told: &Told) {
    let asked = [
        "activate",
        "land",
        "--grant",
        "read-only",
        "--target-lsn",
        &told.lsns[3],
    ];
    let (order, _) = ordered(world, "start", &asked);
    let mut live = world.activate(&order.text).expect("activate");
    approved(world, &order);
    world.deliver(&order).and_then(Ran::ok).expect("keys");
    let all = live
        .wait_serving(world, LONG)
        .expect("a registry that serves");
    let name = Registry::Land.name();
    let mut client =
        pg::session(all[0].port, SUPERUSER, world.password(), name).expect("a session");
    let rows: String = client.query_one(ROWS, &[]).expect("rows").get(0);
    assert_eq!(rows, "1,2,3,5");
    assert_eq!(all[0].report["prepared"][0], "waits");
    assert_eq!(all[0].report["doubt"], Value::Null);
    let target = live
        .records()
        .into_iter()
        .find(|r| r["message_type"] == "target");
    assert_eq!(
        target.expect("a decision")["target"],
        format!("position {}", told.lsns[3])
    );
    drop(client);
    live.signal(Signal::TERM);
    live.wait(LONG).expect("an end");
    let _: PathBuf = world.live_path();
}
