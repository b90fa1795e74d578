//! The server's shutdown never waits for us.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use legation_registry::postgres::{Target, WalEnd};

use crate::cluster::{Cluster, DIGEST, Load, restore};

#[test]
fn a_fast_stop_under_load_is_fast_and_loses_nothing() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options.clone());
    let (sink, _) = cluster.base();
    let load = Load::on(&cluster, 4);
    load.work(150);
    let began = Instant::now();
    cluster.stop("fast");
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "the stop took {:?}",
        began.elapsed()
    );
    let report = receiver.join().unwrap().unwrap();
    assert_eq!(report.end, WalEnd::ServerStopped);
    assert_eq!(report.received, report.flushed);
    load.finish();

    // Everything up to the shutdown checkpoint is here.
    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    cluster.start();
    assert_eq!(restored.sql(DIGEST), cluster.sql(DIGEST));

    // And the stream goes on where it ended.
    let options = legation_registry::postgres::WalOptions {
        start: wal.end(),
        ..options
    };
    let receiver = cluster.receive(&wal, options);
    cluster.sql("insert into t values (-1, 1, 'the next morning')");
    wal.wait_for(cluster.lsn());
    cluster.stop("immediate");
    assert!(matches!(
        receiver.join().unwrap().unwrap().end,
        WalEnd::Disconnected(_)
    ));
    cluster.start();
}

#[test]
fn a_sink_that_makes_no_progress_does_not_hold_the_stop_up() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (wal, mut options) = cluster.begin();
    options.no_progress = Duration::from_secs(3);
    wal.withhold.store(true, Ordering::SeqCst);
    let receiver = cluster.receive(&wal, options.clone());
    let load = Load::on(&cluster, 2);
    load.work(20);
    let began = Instant::now();
    cluster.stop("fast");
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "the stop took {:?}",
        began.elapsed()
    );
    load.finish();
    let report = receiver.join().unwrap().unwrap();
    assert_eq!(report.end, WalEnd::NoProgress);
    assert_eq!(report.flushed, options.start, "nothing was claimed");
    cluster.start();
}

#[test]
fn a_sink_that_hangs_does_not_hold_the_stop_up_either() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (wal, mut options) = cluster.begin();
    options.no_progress = Duration::from_secs(2);
    wal.flush_ms.store(12_000, Ordering::SeqCst);
    let receiver = cluster.receive(&wal, options);
    cluster
        .sql("insert into t select g, g, repeat('y', 1000) from generate_series(30000, 60000) g");
    let began = Instant::now();
    cluster.stop("fast");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the stop took {:?}",
        began.elapsed()
    );
    let report = receiver.join().unwrap().unwrap();
    assert_eq!(report.end, WalEnd::NoProgress);
    cluster.start();
}
