//! The stream of WAL: no gap, no duplicate, whatever ends the receiver; and the history is the one it was.

use std::ffi::OsStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use legation_core::id::Lsn;
use legation_registry::postgres::{Conn, WalEnd, WalOptions, drop_slot, ensure_slot};

use crate::cluster::{Cluster, Load, SLOT, run_ok};
use crate::memory::MemoryWal;

/// The server's own segments, up to what was kept.
fn assert_equals_the_servers_files(cluster: &Cluster, wal: &MemoryWal) {
    let kept = wal.kept.lock().unwrap();
    let segment = 16u64 << 20;
    let mut compared = 0;
    for (i, part) in kept.bytes.chunks(segment as usize).enumerate() {
        let number = kept.first.0 / segment + i as u64;
        let name = format!(
            "{:08X}{:08X}{:08X}",
            kept.timeline,
            number >> 8,
            number & 0xff
        );
        // Old ones are recycled; those that are there must be equal.
        if let Ok(file) = std::fs::read(cluster.data().join("pg_wal").join(name)) {
            assert!(file[..part.len()] == *part, "segment {number} differs");
            compared += part.len();
        }
    }
    assert!(compared > 1 << 20, "only {compared} bytes were compared");
}

#[test]
fn a_killed_receiver_goes_on_at_the_exact_position() {
    let cluster = Cluster::new(&[("wal_keep_size", "1GB")]);
    cluster.tables();
    let (wal, mut options) = cluster.begin();
    let load = Load::on(&cluster, 2);
    let mut ends = Vec::new();
    for round in 0..12 {
        let receiver = cluster.receive(&wal, options.clone());
        load.work(15 + round * 3);
        if round % 2 == 0 {
            // From the server's side, at a moment nobody chose.
            let kill = "select count(pg_terminate_backend(pid)) from pg_stat_replication";
            while !receiver.is_finished() && cluster.sql(kill) == "0" {
                std::thread::sleep(Duration::from_millis(5));
            }
        } else {
            wal.halt();
        }
        let report = receiver.join().unwrap().unwrap();
        wal.stop.store(false, Ordering::SeqCst);
        wal.forget_pending();
        assert_eq!(
            report.flushed,
            wal.end(),
            "what was reported is what is kept"
        );
        if matches!(&report.end, WalEnd::SlotBusy(why) if why.contains("is active")) {
            // The server has not noticed yet that the last one is gone.
            std::thread::sleep(Duration::from_millis(300));
        }
        ends.push(report.end);
        options.start = wal.end();
        // The last page again: it must be what it was.
        let kept = wal.kept.lock().unwrap();
        options.overlap = kept.bytes[kept.bytes.len().saturating_sub(8192 + 77)..].to_vec();
    }
    assert!(ends.contains(&WalEnd::Stopped), "{ends:?}");
    let killed = |e: &WalEnd| matches!(e, WalEnd::Disconnected(why) if why.contains("57P01"));
    assert!(ends.iter().any(killed), "{ends:?}");
    std::thread::sleep(Duration::from_secs(1));
    let receiver = cluster.receive(&wal, options);
    load.finish();
    wal.wait_for(cluster.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();
    assert_equals_the_servers_files(&cluster, &wal);
}

/// Whether the server still has the segment that holds `lsn`.
fn has_segment(cluster: &Cluster, lsn: Lsn) -> bool {
    let number = lsn.0 / (16 << 20);
    let name = format!("00000001{:08X}{:08X}", number >> 8, number & 0xff);
    cluster.data().join("pg_wal").join(name).exists()
}

#[test]
fn the_overlap_never_reaches_behind_what_the_slot_holds() {
    let cluster = Cluster::new(&[("wal_keep_size", "0")]);
    cluster.tables();
    let (wal, mut options) = cluster.begin();
    let receiver = cluster.receive(&wal, options.clone());
    cluster.sql("select pg_switch_wal()");
    cluster.sql("insert into t values (-1, 1, 'just after the switch')");
    wal.wait_for(cluster.lsn());
    // Taken into account by the server: from here on it needs nothing before this segment.
    for _ in 0..500 {
        if cluster.sql("select restart_lsn from pg_replication_slots") == wal.end().to_string() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.stop("fast");
    receiver.join().unwrap().unwrap();
    cluster.start();
    let end = wal.end();
    let into = end.0 % (16 << 20);
    assert!(
        (1..32 << 10).contains(&into),
        "{end} is not near a segment's start"
    );
    let before = Lsn(end.0 - into - 1);
    assert!(
        !has_segment(&cluster, before),
        "the segment before is still there: nothing is tested"
    );
    options.start = end;
    options.overlap = {
        let kept = wal.kept.lock().unwrap();
        kept.bytes[kept.bytes.len() - (64 << 10)..].to_vec()
    };
    let receiver = cluster.receive(&wal, options.clone());
    cluster.sql("insert into t values (-2, 1, 'the next morning')");
    wal.wait_for(cluster.lsn());
    wal.halt();
    assert_eq!(receiver.join().unwrap().unwrap().end, WalEnd::Stopped);
    wal.stop.store(false, Ordering::SeqCst);

    // What the slot does hold is compared.
    let last = options.overlap.len() - 1;
    options.overlap[last] ^= 1;
    let report = cluster.receive(&wal, options).join().unwrap().unwrap();
    assert_eq!(report.end, WalEnd::HistoryDiffers { at: Lsn(end.0 - 1) });
}

#[test]
fn flushing_is_grouped_and_reported_to_the_server() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (wal, options) = cluster.begin();
    wal.flush_ms.store(20, Ordering::SeqCst);
    let receiver = cluster.receive(&wal, options);
    let load = Load::on(&cluster, 4);
    load.work(400);
    let before = (
        wal.kept.lock().unwrap().flushes,
        load.done.load(Ordering::SeqCst),
    );
    load.work(400);
    let after = (
        wal.kept.lock().unwrap().flushes,
        load.done.load(Ordering::SeqCst),
    );
    load.finish();
    assert!(
        after.0 - before.0 < (after.1 - before.1) / 2,
        "{before:?} {after:?}: a flush for each commit"
    );
    wal.wait_for(cluster.lsn());
    std::thread::sleep(Duration::from_millis(300));
    let seen = cluster.sql("select write_lsn || ' ' || flush_lsn || ' ' || replay_lsn || ' ' || application_name from pg_stat_replication");
    let end = wal.end();
    assert_eq!(seen, format!("{end} {end} {end} legation"));
    assert_eq!(
        cluster
            .sql("select restart_lsn = flush_lsn from pg_replication_slots, pg_stat_replication"),
        "t"
    );
    let began = Instant::now();
    wal.halt();
    assert_eq!(receiver.join().unwrap().unwrap().end, WalEnd::Stopped);
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "a stop takes {:?}",
        began.elapsed()
    );
}

#[test]
fn a_synchronous_commit_returns_once_it_is_flushed() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    cluster.sql("alter system set synchronous_standby_names = 'legation'");
    cluster.sql("select pg_reload_conf()");
    for _ in 0..200 {
        if cluster.sql("select sync_state from pg_stat_replication") == "sync" {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut conn = Conn::sql(&cluster.config()).unwrap();
    // Applied is reported as flushed, so this level returns too.
    conn.query("set synchronous_commit = remote_apply").unwrap();
    for i in 0..20 {
        let row = format!("<row {i} of twenty>");
        conn.query(&format!("insert into t values (-10 - {i}, 0, '{row}')"))
            .unwrap();
        let kept = wal.kept.lock().unwrap();
        let tail = &kept.bytes[kept.bytes.len().saturating_sub(1 << 20)..];
        let here = tail.windows(row.len()).any(|w| w == row.as_bytes());
        assert!(here, "the commit of {row} returned before its WAL was kept");
    }
    wal.halt();
    receiver.join().unwrap().unwrap();
    cluster.sql("alter system reset synchronous_standby_names");
    cluster.sql("select pg_reload_conf()");
}

#[test]
fn another_cluster_and_a_rolled_back_one_are_told_apart() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (wal, options) = cluster.begin();
    cluster.stop("fast");
    let snapshot = cluster.dir.path().join("snapshot");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let output = std::process::Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(to)
            .output()
            .unwrap();
        assert!(output.status.success());
    };
    copy(&cluster.data(), &snapshot);
    cluster.start();
    let receiver = cluster.receive(&wal, options.clone());
    cluster.sql("insert into t select g, g, 'first history' from generate_series(30000, 31000) g");
    wal.wait_for(cluster.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();
    wal.stop.store(false, Ordering::SeqCst);
    let end = wal.end();

    // The machine is set back to the snapshot.
    cluster.stop("immediate");
    std::fs::remove_dir_all(cluster.data()).unwrap();
    copy(&snapshot, &cluster.data());
    cluster.start();
    let mut again = WalOptions {
        start: end,
        ..options.clone()
    };
    let report = cluster
        .receive(&wal, again.clone())
        .join()
        .unwrap()
        .unwrap();
    assert!(
        matches!(report.end, WalEnd::HistoryDiffers { .. }),
        "shorter than what is kept: {report:?}"
    );

    // It lives on, past the position that is kept: only the bytes tell.
    cluster.sql("insert into t select g, g, 'second history' from generate_series(30000, 33000) g");
    assert!(cluster.lsn() > end);
    again.overlap = {
        let kept = wal.kept.lock().unwrap();
        kept.bytes[kept.bytes.len() - 20_000..].to_vec()
    };
    let report = cluster
        .receive(&wal, again.clone())
        .join()
        .unwrap()
        .unwrap();
    let WalEnd::HistoryDiffers { at } = report.end else {
        panic!("{report:?}")
    };
    assert!(at < end && at.0 >= end.0 - 20_000);
    assert_eq!(wal.end(), end, "nothing of the second history was taken");

    again.system_id ^= 1;
    let error = cluster.receive(&wal, again).join().unwrap().unwrap_err();
    assert!(
        error.to_string().contains("another cluster answers"),
        "{error}"
    );
}

#[test]
fn a_slot_is_made_once_and_a_missing_one_is_named() {
    let cluster = Cluster::new(&[]);
    let first = ensure_slot(&cluster.config(), SLOT).unwrap();
    let second = ensure_slot(&cluster.config(), SLOT).unwrap();
    assert!(first.created && !second.created);
    assert_eq!(
        (first.start, first.system_id),
        (second.start, second.system_id)
    );
    assert_eq!(first.start.0 % (16 << 20), 0);
    drop_slot(&cluster.config(), SLOT).unwrap();
    drop_slot(&cluster.config(), SLOT).unwrap();
    let options = WalOptions::new(SLOT, first.system_id, first.timeline, first.start);
    let error = cluster
        .receive(&MemoryWal::starting_at(first.start), options)
        .join()
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("--full"), "{error}");
    assert!(ensure_slot(&cluster.config(), "Robert'; drop").is_err());
}

#[test]
fn the_stream_equals_that_of_pg_receivewal() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (wal, options) = cluster.begin();
    cluster.sql("select pg_create_physical_replication_slot('theirs', true)");
    let receiver = cluster.receive(&wal, options);
    let load = Load::on(&cluster, 2);
    load.work(200);
    load.finish();
    cluster.sql("select pg_switch_wal()");
    cluster.sql("insert into t values (-1, 1, 'after the switch')");
    let end = cluster.lsn();
    wal.wait_for(end);
    wal.halt();
    receiver.join().unwrap().unwrap();
    let theirs = cluster.dir.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    crate::cluster::give(&theirs);
    let (port, until) = (cluster.port.to_string(), end.to_string());
    let args: [&OsStr; 12] = [
        "-h".as_ref(),
        cluster.dir.path().as_ref(),
        "-p".as_ref(),
        port.as_ref(),
        "-U".as_ref(),
        "postgres".as_ref(),
        "-S".as_ref(),
        "theirs".as_ref(),
        "--endpos".as_ref(),
        until.as_ref(),
        "-D".as_ref(),
        theirs.as_ref(),
    ];
    run_ok("pg_receivewal", &args);
    let kept = wal.kept.lock().unwrap();
    let mut compared = 0;
    for entry in std::fs::read_dir(&theirs).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let number = u64::from_str_radix(&name[8..16], 16).unwrap() << 8
            | u64::from_str_radix(&name[16..24], 16).unwrap();
        let Some(at) = (number * (16 << 20)).checked_sub(kept.first.0) else {
            continue;
        };
        let file = std::fs::read(&path).unwrap();
        let ours = &kept.bytes[at as usize..];
        let length = ours
            .len()
            .min(file.len())
            .min((end.0 - kept.first.0 - at) as usize);
        assert!(file[..length] == ours[..length]);
        compared += length;
    }
    assert!(compared > 1 << 20, "only {compared} bytes were compared");
}
