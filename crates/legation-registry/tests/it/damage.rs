//! Pages that are damaged at home: named, kept as they are, and no reason to capture nothing.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use legation_registry::postgres::{BaseOptions, Target, base, probe};

use crate::cluster::{Cluster, DIGEST, Load, SLOT, restore};
use crate::memory::MemorySink;

fn capture(cluster: &Cluster, rate: Option<u32>) -> (MemorySink, base::BaseReport) {
    let mut options = BaseOptions::new(SLOT);
    options.max_rate_kib = rate;
    let mut sink = MemorySink::default();
    let report = base::capture(&cluster.config(), &options, &mut sink, &|| false).unwrap();
    (sink, report)
}

/// Flips a byte of a block on disk while the server is down.
fn rot(cluster: &Cluster, path: &str, block: u64) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(cluster.data().join(path))
        .unwrap();
    let at = block * 8192 + 5000;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

#[test]
fn a_damaged_page_is_named_and_the_rest_goes_on() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    cluster.sql("create table rotten as select g as n, repeat('z', 500) as pad from generate_series(1, 3000) g");
    cluster.sql("create database beside");
    cluster.sql("checkpoint");
    let path = cluster.sql("select pg_relation_filepath('rotten')");
    let elsewhere =
        cluster.sql("select 'base/' || oid || '/1259' from pg_database where datname = 'beside'");
    cluster.stop("fast");
    rot(&cluster, &path, 7);
    rot(&cluster, &path, 9);
    rot(&cluster, &elsewhere, 1);
    cluster.start();
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let (sink, report) = capture(&cluster, None);
    let mut found: Vec<_> = report.damaged.iter().map(ToString::to_string).collect();
    found.sort();
    let mut expected = vec![
        format!("{path} block 7"),
        format!("{path} block 9"),
        format!("{elsewhere} block 1"),
    ];
    expected.sort();
    assert_eq!(found, expected);
    let named = &report.damaged_relations;
    assert!(
        named.contains(&format!("rotten ({path}) block 7")),
        "{named:?}"
    );
    assert!(named.contains(&format!("{elsewhere} block 1")), "{named:?}");
    let facts: Vec<_> = sink
        .meta
        .iter()
        .filter(|(key, _)| key.starts_with(base::DAMAGED))
        .collect();
    assert_eq!(facts.len(), 3, "{facts:?}");
    // The server counted the same.
    let counted =
        cluster.sql("select checksum_failures from pg_stat_database where datname = 'postgres'");
    assert_eq!(counted, "2");

    cluster.sql("insert into t values (-1, 1, 'after it')");
    wal.wait_for(cluster.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();
    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    assert_eq!(restored.sql(DIGEST), cluster.sql(DIGEST));
    // The page is as it was: the copy's own server finds it too, and reads the rest.
    let error = restored
        .server
        .sql(None, "select count(*) from rotten")
        .unwrap_err();
    assert!(
        error.to_string().contains("invalid page in block 7"),
        "{error}"
    );
    let before = "select count(*) from rotten where ctid < '(7,0)'::tid";
    assert_eq!(restored.sql(before), cluster.sql(before));
}

#[test]
fn a_page_that_is_written_while_it_is_read_is_no_damage() {
    let cluster = Cluster::new(&[("autovacuum", "off"), ("shared_buffers", "1MB")]);
    cluster.tables();
    cluster
        .sql("insert into t select g, g, repeat('y', 400) from generate_series(100000, 140000) g");
    cluster.sql("checkpoint");
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let load = Load::on(&cluster, 3);
    load.work(20);
    for _ in 0..3 {
        let (_, report) = capture(&cluster, Some(16 << 10));
        assert_eq!(report.damaged, []);
    }
    load.finish();
    wal.halt();
    receiver.join().unwrap().unwrap();
    assert!(probe(&cluster.config(), SLOT).unwrap().data_checksums);
}

/// As a distribution has it: a directory of configuration beside the data directory, with a file that is included.
fn moved_configuration(cluster: &Cluster) -> PathBuf {
    let etc = cluster.dir.path().join("etc");
    std::fs::create_dir_all(etc.join("conf.d")).unwrap();
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        std::fs::rename(cluster.data().join(name), etc.join(name)).unwrap();
    }
    let mut text = std::fs::read_to_string(etc.join("postgresql.conf")).unwrap();
    text.push_str(&format!(
        "\ndata_directory = '{}'\nhba_file = '{etc}/pg_hba.conf'\nident_file = '{etc}/pg_ident.conf'\ninclude_dir = 'conf.d'\n",
        cluster.data().display(),
        etc = etc.display()
    ));
    std::fs::write(etc.join("postgresql.conf"), text).unwrap();
    std::fs::write(
        etc.join("conf.d/ours.conf"),
        "work_mem = '5MB'\ndatestyle = 'German, DMY'\n",
    )
    .unwrap();
    etc
}

#[test]
fn configuration_outside_the_data_directory_travels_with_the_version() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    cluster.stop("fast");
    let etc = moved_configuration(&cluster);
    cluster.start_with(&etc);
    for role in ["blind", "seeing", "reading"] {
        cluster.sql(&format!("create role {role} login replication"));
    }
    cluster.sql("grant pg_read_all_settings to seeing, reading");
    // Over TCP nothing of this machine's disk is taken for the server's.
    let over_tcp = |role: &str| {
        let url = format!("postgresql://{role}@127.0.0.1:{}/postgres", cluster.port);
        legation_registry::postgres::ConnectConfig::parse_with(&url, &|_| None).unwrap()
    };
    let finding = |role: &str| {
        let probe = probe(&over_tcp(role), SLOT).unwrap();
        probe.check().unwrap();
        probe.finding("configuration").map(ToString::to_string)
    };
    let blind = finding("blind").unwrap();
    assert!(
        blind.contains("GRANT pg_read_all_settings TO \"blind\""),
        "{blind}"
    );
    let seeing = finding("seeing").unwrap();
    assert!(seeing.contains("etc/pg_hba.conf"), "{seeing}");
    // The fix that is named is the one that helps.
    let fix = seeing.split("fix: ").nth(1).unwrap();
    let commands = fix
        .split_once(": ")
        .unwrap()
        .1
        .split("; or,")
        .next()
        .unwrap();
    cluster.sql(&commands.replace("\"seeing\"", "\"reading\""));
    assert_eq!(finding("reading"), None);

    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let mut sink = MemorySink::default();
    let options = BaseOptions::new(SLOT);
    let report = base::capture(&over_tcp("reading"), &options, &mut sink, &|| false).unwrap();
    wal.wait_for(report.facts.stop);
    wal.halt();
    receiver.join().unwrap().unwrap();
    for name in [
        "postgresql.conf",
        "pg_hba.conf",
        "pg_ident.conf",
        "conf.d/ours.conf",
    ] {
        let at = etc.join(name);
        let kept = sink.content(&format!("configuration.captured{}", at.display()));
        assert_eq!(kept, std::fs::read(&at).unwrap(), "{name}");
    }
    // On the socket the files are read from the disk, whatever the role may.
    let local = cluster.config_of("seeing", "postgres");
    assert_eq!(probe(&local, SLOT).unwrap().finding("configuration"), None);

    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    assert_eq!(restored.sql(DIGEST), cluster.sql(DIGEST));
    // What changes the meaning of data applies, and nothing else.
    assert_eq!(restored.sql("show datestyle"), "German, DMY");
    assert_eq!(restored.sql("show work_mem"), "4MB");
    let read =
        restored.sql("select count(*) from pg_file_settings where sourcefile like '%captured%'");
    assert_eq!(read, "0");
}
