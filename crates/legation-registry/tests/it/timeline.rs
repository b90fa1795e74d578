//! A promotion is an event, not an error; and a base of a later timeline carries its ancestry.

use std::ffi::OsStr;

use legation_registry::postgres::{Target, WalEnd, WalOptions, ensure_slot};

use crate::cluster::{Cluster, DIGEST, SLOT, restore, run_ok, timeline};
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
