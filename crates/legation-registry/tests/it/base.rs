//! Base and WAL together, taken under a load that never pauses, give back exactly the rows that the source had.

use legation_core::id::Lsn;
use legation_registry::Error;
use legation_registry::postgres::control::ControlFile;
use legation_registry::postgres::{Amcheck, Facts, Plan, Shutdown, Target, WalEnd};
use legation_registry::tree::TreeRestorer;
use std::ffi::OsStr;

use crate::cluster::{Cluster, DIGEST, Load, Restored, give, restore, run_ok, scratch, timeline};

/// What `pg_amcheck` does not see: a visibility map that claims too much gives silently wrong answers.
fn check_inside(restored: &Restored) {
    assert_eq!(restored.server.amcheck(true).unwrap(), Amcheck::Clean);
    restored.sql("create extension pg_visibility");
    assert_eq!(
        restored.sql("select count(*) from pg_check_visible('t')"),
        "0"
    );
    assert_eq!(
        restored.sql("select count(*) from pg_check_frozen('t')"),
        "0"
    );
    let count =
        |settings: &str| restored.sql(&format!("{settings}; select count(*) from t where id > 0"));
    let index_only = count("set enable_seqscan = off; set enable_bitmapscan = off");
    let sequential = count(
        "set enable_indexscan = off; set enable_indexonlyscan = off; set enable_bitmapscan = off",
    );
    assert_eq!(index_only, sequential);
    let plan = restored.sql(
        "set enable_seqscan = off; set enable_bitmapscan = off; explain select count(*) from t where id > 0",
    );
    assert!(plan.contains("Index Only Scan"), "{plan}");
}

#[test]
fn rows_equal_the_source_at_the_end_and_at_a_position() {
    let cluster = Cluster::new(&[("autovacuum", "off")]);
    cluster.tables();
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let load = Load::on(&cluster, 3);
    load.work(50);
    let (sink, facts) = cluster.base();
    load.work(300);
    load.finish();
    // A quiet moment in the middle, to compare with.
    let middle = cluster.lsn();
    let at_middle = cluster.sql(DIGEST);
    let load = Load::on(&cluster, 2);
    load.work(200);
    load.finish();
    cluster.sql("delete from t where id % 2 = 0");
    let (at_end, end) = (cluster.sql(DIGEST), cluster.lsn());
    wal.wait_for(end);
    wal.halt();
    let report = receiver.join().unwrap().unwrap();
    assert_eq!(report.end, WalEnd::Stopped);
    assert!(facts.stop < middle && middle < end);

    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    assert_eq!(restored.sql(DIGEST), at_end);
    let replayed = restored.server.replayed().unwrap();
    assert_eq!(replayed.timeline, timeline(2));
    assert!(
        replayed.lsn <= restored.plan.until && replayed.lsn >= end,
        "{replayed:?}"
    );
    assert!(replayed.last_commit.is_some());
    check_inside(&restored);
    restored.sql("insert into t values (-1, 0, 'exile')");
    restored.server.stop(Shutdown::Fast).unwrap();

    let restored = restore(&sink, &wal, Target::Lsn(middle)).unwrap();
    assert_eq!(restored.sql(DIGEST), at_middle);
    assert_eq!(restored.server.replayed().unwrap().lsn, middle);
    check_inside(&restored);

    // The earliest point that the base can reach works too; one byte before is refused by name.
    drop(restored);
    restore(&sink, &wal, Target::Lsn(facts.stop)).unwrap();
    let Err(Error::Refused { what, .. }) = restore(&sink, &wal, Target::Lsn(Lsn(facts.stop.0 - 1)))
    else {
        panic!()
    };
    assert!(
        what.contains(&format!("reaches from {} to", facts.stop)),
        "{what}"
    );
    let Err(Error::Refused { what, .. }) = restore(&sink, &wal, Target::Lsn(Lsn(wal.end().0 + 1)))
    else {
        panic!()
    };
    assert!(what.contains(&format!("to {}", wal.end())), "{what}");
}

#[test]
fn the_base_satisfies_postgresqls_own_tools() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let (sink, facts) = cluster.base();
    wal.wait_for(facts.stop);
    wal.halt();
    receiver.join().unwrap().unwrap();
    assert_eq!(facts, Facts::from_meta(&sink.meta).unwrap());
    assert_eq!(facts.superuser, "postgres");
    assert_eq!(facts.settings["TimeZone"], cluster.sql("show timezone"));

    let dir = scratch();
    let data = dir.path().join("data");
    let mut restorer = TreeRestorer::new(&data).unwrap();
    sink.restore(&mut restorer).unwrap();
    restorer.finish().unwrap();
    give(&data);
    let args: [&OsStr; 2] = ["--no-parse-wal".as_ref(), data.as_ref()];
    run_ok("pg_verifybackup", &args);

    let control = ControlFile::parse(&sink.content("global/pg_control")).unwrap();
    let shown = run_ok("pg_controldata", &["-D".as_ref(), data.as_ref()]);
    let line = |name: &str| {
        let line = shown
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap_or_else(|| panic!("{name}"));
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    assert_eq!(
        control.system_id.to_string(),
        line("Database system identifier")
    );
    assert_eq!(
        control.redo.to_string(),
        line("Latest checkpoint's REDO location")
    );
    assert_eq!(
        control.timeline.to_string(),
        line("Latest checkpoint's TimeLineID")
    );
    assert_eq!(control.wal_level, 1);
    assert_eq!(
        control.max_connections.to_string(),
        line("max_connections setting")
    );
    assert_eq!(
        control.max_worker_processes.to_string(),
        line("max_worker_processes setting")
    );
    assert_eq!(
        control.max_wal_senders.to_string(),
        line("max_wal_senders setting")
    );
    assert_eq!(
        control.max_prepared_transactions.to_string(),
        line("max_prepared_xacts setting")
    );
    assert_eq!(
        control.max_locks_per_transaction.to_string(),
        line("max_locks_per_xact setting")
    );
    assert_eq!(control.block_size.to_string(), line("Database block size"));
    assert_eq!(
        control.wal_segment_size.to_string(),
        line("Bytes per WAL segment")
    );
    assert!(control.data_checksums);
    let mut damaged = sink.content("global/pg_control");
    damaged[100] ^= 1;
    assert!(ControlFile::parse(&damaged).is_err());
}

#[test]
fn a_stopped_capture_stops() {
    let cluster = Cluster::new(&[]);
    cluster.begin();
    let mut sink = crate::memory::MemorySink::default();
    let options = legation_registry::postgres::BaseOptions::new(crate::cluster::SLOT);
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 20
    };
    let result =
        legation_registry::postgres::base::capture(&cluster.config(), &options, &mut sink, &stop);
    assert!(matches!(result, Err(Error::Stopped)));
    assert!(
        sink.meta.is_empty(),
        "facts come last, so nobody can take this for a version"
    );
}

#[test]
fn a_gap_in_the_wal_is_named_before_anything_starts() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let (sink, facts) = cluster.base();
    cluster.sql("insert into t values (-5, 5, 'five')");
    let end = cluster.lsn();
    wal.wait_for(end);
    wal.halt();
    receiver.join().unwrap().unwrap();
    let refused = Plan::new(
        facts.clone(),
        Lsn(facts.segment_start(facts.start).0 + 1),
        end,
        Target::EndOfWal,
    );
    assert!(refused.unwrap_err().to_string().contains("needs WAL from"));
    let refused = Plan::new(
        facts.clone(),
        facts.segment_start(facts.start),
        Lsn(facts.stop.0 - 1),
        Target::EndOfWal,
    );
    assert!(refused.unwrap_err().to_string().contains("needs WAL from"));

    let plan = Plan::new(facts, wal.first(), end, Target::EndOfWal).unwrap();
    let dir = scratch();
    let data = dir.path().join("data");
    let mut restorer = TreeRestorer::new(&data).unwrap();
    sink.restore(&mut restorer).unwrap();
    restorer.finish().unwrap();
    let serve = legation_registry::postgres::Serve::beside(&data, 5999, crate::cluster::account());
    let mut pieces = wal.pieces();
    let stop = plan.facts.stop;
    pieces.retain(|p| {
        p.as_ref()
            .is_ok_and(|p| !(p.start..Lsn(p.start.0 + p.bytes.len() as u64)).contains(&stop))
    });
    // Something must follow, or it is an end and not a gap.
    pieces.push(Ok(legation_registry::postgres::WalPiece {
        timeline: timeline(1),
        start: end,
        bytes: vec![0; 10],
    }));
    let error = legation_registry::postgres::prepare(&data, &plan, &serve, &mut pieces.into_iter())
        .unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");
}
