//! The decoder against `pg_waldump`, over real WAL with as much of PostgreSQL in it as fits.

use std::ffi::OsStr;

use legation_core::id::Lsn;
use legation_registry::postgres::point::PgTime;
use legation_registry::postgres::record::{Decoder, Event, Kind, MAX_KEPT, Outcome, Source};

use crate::cluster::{Cluster, run};
use crate::memory::MemoryWal;

/// Every event from `first` on, and the end of the last whole record.
pub fn events(wal: &MemoryWal, source: Source, first: Lsn) -> (Vec<Event>, Lsn) {
    let mut all = Vec::new();
    let end = each(wal, source, first, |record| {
        all.push(record.event().unwrap());
    });
    (all, end)
}

fn each(
    wal: &MemoryWal,
    source: Source,
    first: Lsn,
    mut see: impl FnMut(&legation_registry::postgres::record::Record<'_>),
) -> Lsn {
    let mut decoder = Decoder::new(source, first).unwrap();
    for piece in wal.pieces() {
        let piece = piece.unwrap();
        decoder.push(piece.start, &piece.bytes).unwrap();
        while let Some(record) = decoder.poll().unwrap() {
            see(&record);
        }
    }
    decoder.end()
}

/// What `pg_waldump` says of a record, and we of the same.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    lsn: Lsn,
    prev: Lsn,
    xid: u32,
    length: u32,
    blocks: Vec<String>,
    means: Option<String>,
}

/// The word after `name` in a line.
fn word<'a>(line: &'a str, name: &str) -> &'a str {
    let at = line.find(name).unwrap_or_else(|| panic!("{name}: {line}")) + name.len();
    let rest = line[at..].trim_start();
    rest.split([',', ' ', '/']).next().unwrap()
}

fn told(line: &str) -> Line {
    let lsn = |name: &str| {
        let at = line.find(name).unwrap() + name.len();
        line[at..]
            .split(',')
            .next()
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    let lengths = line.split("len (rec/tot):").nth(1).unwrap();
    let length = lengths
        .split('/')
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let refs = line.split("blkref #").skip(1);
    let block = |text: &str| {
        let text = text.split_once(": ").unwrap().1;
        let text = text.split(';').next().unwrap().trim_end_matches([',', ' ']);
        text.trim_end_matches(" FPW").to_owned()
    };
    let desc = line.split(", desc: ").nth(1).unwrap_or_default();
    let (verb, rest) = desc.split_once(' ').unwrap_or((desc, ""));
    let of_manager = line["rmgr: ".len()..].split(' ').next().unwrap();
    let time = |text: &str| {
        let at = text.find(" UTC").unwrap_or_else(|| panic!("{line}"));
        format!("{}Z", &text[..at]).parse::<PgTime>().unwrap()
    };
    let xid = word(line, "tx:").parse().unwrap();
    let means = match (of_manager, verb) {
        ("Transaction", "COMMIT" | "ABORT") => Some(format!("{verb} {xid} {}", time(rest))),
        ("Transaction", "COMMIT_PREPARED" | "ABORT_PREPARED") => {
            let (own, rest) = rest.split_once(": ").unwrap();
            Some(format!("{verb} {own} {}", time(rest)))
        }
        ("Transaction", "PREPARE") => {
            let (gid, rest) = rest.strip_prefix("gid ").unwrap().split_once(": ").unwrap();
            Some(format!("{verb} {xid} {gid} {}", time(rest)))
        }
        ("XLOG", "RESTORE_POINT") => Some(format!("{verb} {}", rest.trim())),
        _ => None,
    };
    Line {
        lsn: lsn("lsn: "),
        prev: lsn("prev "),
        xid,
        length: length.trim().parse().unwrap(),
        blocks: refs.map(block).collect(),
        means,
    }
}

const FORKS: [&str; 4] = ["", " fork fsm", " fork vm", " fork init"];

fn ours(record: &legation_registry::postgres::record::Record<'_>) -> Line {
    let means = match record.event().unwrap().kind {
        Kind::End(ending) => {
            let verb = match ending.outcome {
                Outcome::Committed => "COMMIT",
                Outcome::Aborted => "ABORT",
            };
            let prepared = if ending.prepared { "_PREPARED" } else { "" };
            Some(format!("{verb}{prepared} {} {}", ending.xid, ending.time))
        }
        Kind::Prepare(one) => Some(format!("PREPARE {} {} {}", one.xid, one.gid, one.time)),
        Kind::RestorePoint { name, .. } => Some(format!("RESTORE_POINT {name}")),
        _ => None,
    };
    let blocks = record.body().unwrap().blocks;
    let block = |one: &legation_registry::postgres::record::BlockRef| {
        format!(
            "rel {}/{}/{}{} blk {}",
            one.file.tablespace,
            one.file.database,
            one.file.relation,
            FORKS[usize::from(one.fork)],
            one.block
        )
    };
    Line {
        lsn: record.start,
        prev: record.prev,
        xid: record.xid,
        length: record.length,
        blocks: blocks.iter().map(block).collect(),
        means,
    }
}

#[test]
fn records_are_those_that_pg_waldump_prints() {
    let cluster = Cluster::new(&[
        ("max_prepared_transactions", "10"),
        ("wal_compression", "on"),
        ("wal_keep_size", "256MB"),
        ("autovacuum", "off"),
    ]);
    let (wal, options) = cluster.begin();
    let source = Source {
        system_id: options.system_id,
        major: 15,
        segment_size: 16 << 20,
    };
    let receiver = cluster.receive(&wal, options);
    cluster.sql("checkpoint");
    let first: Lsn = cluster
        .sql("select redo_lsn from pg_control_checkpoint()")
        .parse()
        .unwrap();
    let began = cluster
        .sql("select extract(epoch from checkpoint_time)::bigint from pg_control_checkpoint()");
    cluster.tables();
    let huge = format!(
        "select pg_logical_emit_message(true, 'test', repeat('long ', {}))",
        MAX_KEPT / 5 + 1000
    );
    for sql in [
        "create unlogged table u (id int primary key)",
        "create table doomed as select g from generate_series(1, 1000) g",
        "begin; insert into t values (-1, 0, 'x'); rollback",
        "begin; insert into t values (-2, 0, 'x'); savepoint a; insert into t values (-3, 0, 'x'); savepoint b; \
         delete from t where id < 500; release b; rollback to a; commit",
        "begin; drop table doomed; create table born (g int); savepoint c; insert into t values (-4, 0, 'x'); release c; \
         prepare transaction 'of many parts'",
        "begin; insert into t values (-5, 0, 'x'); prepare transaction 'in vain'",
        "commit prepared 'of many parts'",
        "rollback prepared 'in vain'",
        "select pg_create_restore_point('a point')",
        "update t set v = v + 1",
        "vacuum (freeze, analyze) t",
        "create index on t using gin (string_to_array(pad, 'x'))",
        "create sequence s",
        "select nextval('s')",
        "create database other",
        "drop database other",
        "truncate t",
        "select pg_switch_wal()",
        &huge,
        "select pg_create_restore_point('the end')",
    ] {
        cluster.sql(sql);
    }
    let end = cluster.lsn();
    wal.wait_for(end);
    wal.halt();
    receiver.join().unwrap().unwrap();

    let (from, to) = (first.to_string(), end.to_string());
    let path = cluster.data().join("pg_wal");
    let args: [&OsStr; 6] = [
        "-p".as_ref(),
        path.as_ref(),
        "-s".as_ref(),
        from.as_ref(),
        "-e".as_ref(),
        to.as_ref(),
    ];
    let dump = run("pg_waldump", &args);
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    let wanted: Vec<_> = dump.lines().map(told).collect();
    let mut found = Vec::new();
    let mut checkpoint = None;
    let last = each(&wal, source, first, |record| {
        if record.start < end {
            found.push(ours(record));
        }
        if let (Kind::Checkpoint { time, .. }, None) = (record.event().unwrap().kind, checkpoint) {
            checkpoint = Some(time);
        }
    });
    assert!(last >= end, "{last} {end}");
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found, wanted);
    }
    assert_eq!(checkpoint, PgTime::of_unix(began.parse().unwrap()));
    let means = |verb: &str| {
        let of = |one: &&Line| {
            one.means
                .as_ref()
                .is_some_and(|means| means.starts_with(verb))
        };
        found.iter().filter(of).count()
    };
    for (verb, least) in [
        ("COMMIT ", 10),
        ("ABORT ", 1),
        ("COMMIT_PREPARED ", 1),
        ("ABORT_PREPARED ", 1),
        ("PREPARE ", 2),
        ("RESTORE_POINT ", 2),
    ] {
        assert!(means(verb) >= least, "{verb}: {}", means(verb));
    }
    assert!(found.iter().any(|one| one.length as usize > MAX_KEPT));
    assert!(
        found
            .iter()
            .any(|one| one.blocks.iter().any(|b| b.contains("fork vm")))
    );
}
