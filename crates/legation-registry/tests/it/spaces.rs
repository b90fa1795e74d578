//! Tablespaces, and databases that come and go while a base is taken: the copy holds what the source held at that
//! position, and touches no path of home.

use std::path::{Path, PathBuf};
use std::process::Command;

use legation_registry::postgres::{BaseOptions, Target, base};

use crate::cluster::{Cluster, DIGEST, Restored, SLOT, give, psql, restore};
use crate::memory::MemorySink;

fn space(cluster: &Cluster, name: &str) -> PathBuf {
    let place = cluster.dir.path().join(name);
    std::fs::create_dir(&place).unwrap();
    give(&place);
    place
}

fn create(cluster: &Cluster, name: &str) -> PathBuf {
    let place = space(cluster, name);
    cluster.sql(&format!(
        "create tablespace {name} location '{}'",
        place.display()
    ));
    place
}

/// Everything below a path: names, sizes, owners, times of change.
fn listing(path: &Path) -> String {
    let output = Command::new("find")
        .arg(path)
        .args(["-printf", "%p %s %U %m %C@\n"])
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn digest(of: &str) -> String {
    format!(
        "select count(*) || ' ' || coalesce(md5(string_agg(x::text, ',' order by x::text)), '') from {of} x"
    )
}

/// Where the copy keeps its tablespaces: none is a link.
fn check_places(restored: &Restored, expected: usize) {
    let dir = restored.data.join("pg_tblspc");
    let entries: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap())
        .collect();
    assert_eq!(entries.len(), expected, "{entries:?}");
    for entry in entries {
        assert!(entry.file_type().unwrap().is_dir(), "{entry:?}");
    }
    let elsewhere = restored
        .sql("select count(*) from pg_tablespace where pg_tablespace_location(oid) like '/%'");
    assert_eq!(elsewhere, "0");
}

#[test]
fn tablespaces_are_restored_within_and_home_is_not_touched() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (old, doomed) = (create(&cluster, "old"), create(&cluster, "doomed"));
    cluster.sql("create table kept tablespace old as select g as n, md5(g::text) as m from generate_series(1, 5000) g");
    cluster.sql("create index on kept (m) tablespace old");
    cluster.sql("create table lost tablespace doomed as select 1 as n");
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let (sink, _) = cluster.base();
    assert!(sink.entries.keys().any(|path| {
        let path = String::from_utf8_lossy(path);
        path.starts_with("pg_tblspc/") && path.contains("/PG_15_")
    }));
    // After the base: one comes, one goes, and both are written to.
    let (new, _) = (create(&cluster, "new"), ());
    cluster
        .sql("create table later tablespace new as select g as n from generate_series(1, 3000) g");
    cluster.sql("alter table t set tablespace new");
    cluster.sql("update kept set m = 'changed' where n % 3 = 0");
    cluster.sql("drop table lost");
    cluster.sql("drop tablespace doomed");
    let queries = [DIGEST.to_owned(), digest("kept"), digest("later")];
    let expected: Vec<_> = queries.iter().map(|query| cluster.sql(query)).collect();
    wal.wait_for(cluster.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();
    cluster.sql("checkpoint");

    let before = [&old, &new, &doomed].map(|path| listing(path));
    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    let got: Vec<_> = queries.iter().map(|query| restored.sql(query)).collect();
    assert_eq!(got, expected);
    check_places(&restored, 2);
    restored
        .sql("insert into later values (-1); insert into kept values (-1, 'exile'); checkpoint");
    assert_eq!([&old, &new, &doomed].map(|path| listing(path)), before);
    // It goes on as any cluster: a restart, and a table in a tablespace of home's name.
    restored.sql("create table more tablespace old as select 1 as n");
    drop(restored);

    // Where home's paths do not exist at all, nothing is missing.
    cluster.stop("fast");
    for path in [&old, &new, &doomed] {
        std::fs::remove_dir_all(path).unwrap();
    }
    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    let got: Vec<_> = queries.iter().map(|query| restored.sql(query)).collect();
    assert_eq!(got, expected);
    for path in [&old, &new, &doomed] {
        assert!(!path.exists(), "{} was made", path.display());
    }
}

/// Takes a base so slowly that much happens meanwhile, and does `meanwhile` until it is done.
fn slow_base(cluster: &Cluster, mut meanwhile: impl FnMut(u32)) -> MemorySink {
    let mut options = BaseOptions::new(SLOT);
    options.max_rate_kib = Some(12 << 10);
    let config = cluster.config();
    let taking = std::thread::spawn(move || {
        let mut sink = MemorySink::default();
        let report = base::capture(&config, &options, &mut sink, &|| false);
        (sink, report)
    });
    let mut round = 0;
    while !taking.is_finished() {
        meanwhile(round);
        round += 1;
    }
    let (sink, report) = taking.join().unwrap();
    report.unwrap();
    assert!(round >= 3, "only {round} rounds while the base was taken");
    sink
}

#[test]
fn databases_and_tablespaces_come_and_go_while_a_base_is_taken() {
    let cluster = Cluster::new(&[("autovacuum", "off"), ("max_wal_size", "4GB")]);
    cluster.tables();
    cluster
        .sql("insert into t select g, g, repeat('y', 400) from generate_series(100000, 160000) g");
    cluster.sql("create database model");
    let of = |name: &str| cluster.config_of("postgres", name);
    psql(
        &of("model"),
        "create table m as select g as n, md5(g::text) as v from generate_series(1, 8000) g",
    );
    for n in 0..3 {
        cluster.sql(&format!("create database early_{n} template model"));
    }
    create(&cluster, "early_space");
    cluster.sql("create table in_early tablespace early_space as select 1 as n");
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let sink = slow_base(&cluster, |round| {
        for strategy in ["wal_log", "file_copy"] {
            let name = format!("{strategy}_{round}");
            cluster.sql(&format!(
                "create database {name} template model strategy {strategy}"
            ));
            psql(
                &of(&name),
                "update m set v = 'changed' where n % 7 = 0; insert into m values (-1, 'mine')",
            );
            if round % 2 == 1 {
                cluster.sql(&format!("drop database {name}"));
            }
        }
        if round == 0 {
            cluster.sql("drop database early_0");
            cluster.sql("drop table in_early");
            cluster.sql("drop tablespace early_space");
        }
        create(&cluster, &format!("space_{round}"));
        cluster.sql(&format!(
            "create database spaced_{round} template model tablespace space_{round} strategy file_copy"
        ));
        if round % 2 == 0 {
            cluster.sql(&format!("drop database spaced_{round}"));
            cluster.sql(&format!("drop tablespace space_{round}"));
        }
    });
    cluster.sql("drop database early_1");
    cluster.sql("create database last template model strategy file_copy");
    let names = "select string_agg(datname, ' ' order by datname) from pg_database";
    let expected = cluster.sql(names);
    let databases: Vec<_> = expected
        .split(' ')
        .filter(|name| !name.starts_with("template") && *name != "postgres")
        .collect();
    let rows = digest("m");
    let wanted: Vec<_> = databases
        .iter()
        .map(|name| psql(&of(name), &rows))
        .collect();
    let (t, spaces) = (
        cluster.sql(DIGEST),
        "select string_agg(spcname, ' ' order by spcname) from pg_tablespace",
    );
    let wanted_spaces = cluster.sql(spaces);
    wal.wait_for(cluster.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();

    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    assert_eq!(restored.sql(names), expected);
    assert_eq!(restored.sql(spaces), wanted_spaces);
    assert_eq!(restored.sql(DIGEST), t);
    for (name, wanted) in databases.iter().zip(&wanted) {
        let config = restored.server.config().with_database(name);
        assert_eq!(psql(&config, &rows), *wanted, "{name}");
    }
    let spaces = wanted_spaces.split(' ').count();
    check_places(&restored, spaces - 2);
    let clean = restored.server.amcheck(true).unwrap();
    assert_eq!(clean, legation_registry::postgres::Amcheck::Clean);
}
