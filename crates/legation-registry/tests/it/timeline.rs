//! A promotion is an event, not an error; and a base of a later timeline carries its ancestry.

use std::ffi::OsStr;

use legation_registry::postgres::{Place, Target, WalEnd, WalOptions, ensure_slot};

use crate::cluster::{Cluster, DIGEST, SLOT, restore, restore_pieces, run_ok, timeline};
use crate::memory::MemoryWal;

#[test]
fn the_stream_ends_where_the_timeline_ends() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options.clone());
    cluster.sql("insert into t values (-1, 1, 'on timeline 1')");
    wal.wait_for(cluster.lsn());
    // A standby takes over under the same address.
    let standby = cluster.dir.path().join("standby");
    let port = cluster.port.to_string();
    let args: [&OsStr; 10] = [
        "-h".as_ref(),
        cluster.dir.path().as_ref(),
        "-p".as_ref(),
        port.as_ref(),
        "-U".as_ref(),
        "postgres".as_ref(),
        "-X".as_ref(),
        "stream".as_ref(),
        "-D".as_ref(),
        standby.as_ref(),
    ];
    run_ok("pg_basebackup", &args);
    wal.halt();
    receiver.join().unwrap().unwrap();
    wal.stop.store(false, std::sync::atomic::Ordering::SeqCst);
    let kept = wal.end();
    cluster.sql("insert into t values (-4, 4, 'after the agent went away')");
    cluster.stop("fast");
    // The standby has followed to the end.
    let segments = format!(
        "cp -a {}/pg_wal/0* {}/pg_wal/",
        cluster.data().display(),
        standby.display()
    );
    let copied = std::process::Command::new("sh")
        .args(["-c", &segments])
        .status();
    assert!(copied.unwrap().success());
    std::fs::rename(cluster.data(), cluster.dir.path().join("old")).unwrap();
    std::fs::rename(&standby, cluster.data()).unwrap();
    std::fs::write(cluster.data().join("standby.signal"), b"").unwrap();
    crate::cluster::give(&cluster.data().join("standby.signal"));
    cluster.start();
    cluster.sql("select pg_promote()");
    assert_eq!(
        cluster
            .sql("select timeline_id from pg_control_recovery(), pg_control_checkpoint()")
            .len(),
        1
    );
    cluster.sql("insert into t values (-2, 2, 'on timeline 2')");
    cluster.sql("checkpoint");

    let slot = ensure_slot(&cluster.config(), SLOT).unwrap();
    assert_eq!(slot.timeline, timeline(2));
    let options = WalOptions {
        start: kept,
        ..options
    };
    let report = cluster
        .receive(&wal, options.clone())
        .join()
        .unwrap()
        .unwrap();
    let WalEnd::TimelineChanged { next, switch } = report.end else {
        panic!("{report:?}")
    };
    assert_eq!((next, switch), (timeline(2), wal.end()));
    assert!(switch > kept, "the rest of timeline 1 came first");
    // Asked again at the very end, the server starts no stream and says the same.
    let options = WalOptions {
        start: switch,
        ..options
    };
    let report = cluster.receive(&wal, options).join().unwrap().unwrap();
    assert_eq!(report.end, WalEnd::TimelineChanged { next, switch });

    // A new base on the new timeline.
    let wal = MemoryWal::starting_at(slot.start);
    let receiver = cluster.receive(
        &wal,
        WalOptions::new(SLOT, slot.system_id, slot.timeline, slot.start),
    );
    let (sink, facts) = cluster.base();
    assert_eq!(facts.timeline, timeline(2));
    assert!(
        sink.content("pg_wal/00000002.history")
            .starts_with(b"1\t0/")
    );
    cluster.sql("insert into t values (-3, 3, 'after the base')");
    wal.wait_for(cluster.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();
    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    assert_eq!(restored.sql(DIGEST), cluster.sql(DIGEST));
    assert_eq!(restored.server.replayed().unwrap().timeline, timeline(3));
}

/// A standby that follows `primary` by its slot, beside it on a port of its own; started.
fn standby(primary: &Cluster) -> Cluster {
    let standby = Cluster::empty();
    let port = primary.port.to_string();
    let data = standby.data();
    let args: [&OsStr; 12] = [
        "-h".as_ref(),
        primary.dir.path().as_ref(),
        "-p".as_ref(),
        port.as_ref(),
        "-U".as_ref(),
        "postgres".as_ref(),
        "-X".as_ref(),
        "stream".as_ref(),
        "-c".as_ref(),
        "fast".as_ref(),
        "-RD".as_ref(),
        data.as_ref(),
    ];
    run_ok("pg_basebackup", &args);
    standby.own_port();
    standby.start();
    standby
}

fn caught_up(standby: &Cluster, primary: &Cluster) {
    let end = primary.sql("select pg_current_wal_flush_lsn()");
    for _ in 0..3000 {
        let there = standby.sql(&format!("select pg_last_wal_replay_lsn() >= '{end}'"));
        if there == "t" {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the standby does not follow");
}

/// Two promotions, one after the other; what was captured before, between and after is one log, and the base of before
/// replays to its end and to positions on each timeline.
#[test]
fn a_base_of_before_is_replayed_over_promotions() {
    let first = Cluster::new(&[("wal_log_hints", "on")]);
    first.tables();
    let second = standby(&first);
    let (wal, options) = first.begin();
    let receiver = first.receive(&wal, options.clone());
    let (sink, facts) = first.base();
    first.sql("insert into t values (-1, 1, 'on timeline 1')");
    wal.wait_for(first.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();
    first.sql("insert into t values (-2, 2, 'not received yet')");
    let on_first = (first.lsn(), first.sql(DIGEST));
    caught_up(&second, &first);
    first.stop("immediate");
    second.sql("select pg_promote()");
    let third = standby(&second);
    second.sql("insert into t values (-3, 3, 'on timeline 2')");
    second.sql("select pg_switch_wal()");
    second.sql("insert into t values (-4, 4, 'in the next segment')");
    let on_second = (second.lsn(), second.sql(DIGEST));

    // The rest of timeline 1, from the server that took over.
    let lineage = legation_registry::postgres::lineage(&second.config()).unwrap();
    let switch = lineage.parents[0].1;
    assert_eq!(lineage.timeline, timeline(2));
    let place = lineage.place(timeline(1), wal.end());
    let next = timeline(2);
    assert_eq!(place, Place::Before { switch, next });
    ensure_slot(&second.config(), SLOT).unwrap();
    wal.stop.store(false, std::sync::atomic::Ordering::SeqCst);
    let options = WalOptions {
        start: wal.end(),
        ..options
    };
    let report = second
        .receive(&wal, options.clone())
        .join()
        .unwrap()
        .unwrap();
    assert_eq!(report.end, WalEnd::TimelineChanged { next, switch });
    assert_eq!(wal.end(), switch);
    let two = MemoryWal::starting_at(switch);
    let options = WalOptions {
        start: switch,
        timeline: next,
        ..options
    };
    let receiver = second.receive(&two, options.clone());
    two.wait_for(second.lsn());
    two.halt();
    receiver.join().unwrap().unwrap();
    caught_up(&third, &second);
    second.stop("fast");
    let last = wait_for_end(&third);
    third.sql("select pg_promote()");
    third.sql("insert into t values (-5, 5, 'on timeline 3')");
    let lineage = legation_registry::postgres::lineage(&third.config()).unwrap();
    assert_eq!(lineage.timeline, timeline(3));
    assert!(lineage.parents[1].1 >= last && lineage.parents[1].0 == next);
    ensure_slot(&third.config(), SLOT).unwrap();
    two.stop.store(false, std::sync::atomic::Ordering::SeqCst);
    let options = WalOptions {
        start: two.end(),
        ..options
    };
    let report = third
        .receive(&two, options.clone())
        .join()
        .unwrap()
        .unwrap();
    let (next, switch) = (timeline(3), two.end());
    assert_eq!(report.end, WalEnd::TimelineChanged { next, switch });
    let three = MemoryWal::starting_at(switch);
    let options = WalOptions {
        start: switch,
        timeline: next,
        ..options
    };
    let receiver = third.receive(&three, options);
    three.wait_for(third.lsn());
    three.halt();
    receiver.join().unwrap().unwrap();

    let all = || {
        [&wal, &two, &three]
            .into_iter()
            .flat_map(MemoryWal::pieces)
            .collect()
    };
    let reach = (wal.first(), three.end());
    let restored = restore_pieces(&sink, reach, all(), Target::EndOfWal, false).unwrap();
    assert_eq!(restored.sql(DIGEST), third.sql(DIGEST));
    assert_eq!(restored.server.replayed().unwrap().timeline, timeline(4));
    let clean = restored.server.amcheck(true).unwrap();
    assert_eq!(clean, legation_registry::postgres::Amcheck::Clean);
    drop(restored);
    for (lsn, expected) in [on_first, on_second] {
        let restored = restore_pieces(&sink, reach, all(), Target::Lsn(lsn), false).unwrap();
        assert_eq!(restored.sql(DIGEST), expected, "at {lsn}");
    }
    assert_eq!(facts.timeline, timeline(1));
}

/// Where a standby without its primary ends.
fn wait_for_end(standby: &Cluster) -> legation_core::id::Lsn {
    standby
        .sql("select pg_last_wal_replay_lsn()")
        .parse()
        .unwrap()
}
