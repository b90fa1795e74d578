//! What the registry's configuration did at home must not be done abroad.

use std::os::unix::fs::symlink;

use legation_registry::Error;
use legation_registry::postgres::{Plan, Serve, Target, prepare};
use legation_registry::tree::TreeRestorer;

use crate::cluster::{Cluster, account, psql, restore, restore_with, scratch};
use crate::memory::{MemorySink, MemoryWal};

/// A base with the WAL to its end and a little more.
fn captured(cluster: &Cluster, more: &str) -> (MemorySink, MemoryWal) {
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let (sink, _) = cluster.base();
    cluster.sql(more);
    wal.wait_for(cluster.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();
    (sink, wal)
}

#[test]
fn nothing_captured_reaches_out() {
    let cluster = Cluster::new(&[
        ("timezone", "Europe/Tallinn"),
        ("max_connections", "137"),
        ("max_prepared_transactions", "9"),
    ]);
    cluster.tables();
    let witness = cluster.dir.path().join("archived");
    for setting in [
        format!("archive_command = 'touch {}'", witness.display()),
        "archive_mode = on".into(),
        "shared_preload_libraries = 'no_such_library'".into(),
        "session_preload_libraries = ''".into(),
        "primary_conninfo = 'host=home.invalid'".into(),
        "restore_command = 'touch /tmp/never'".into(),
        "synchronous_standby_names = 'nobody'".into(),
        "listen_addresses = '*'".into(),
        "ssl = on".into(),
        "datestyle = 'German, DMY'".into(),
    ] {
        cluster.sql(&format!("alter system set {setting}"));
    }
    // Written and not reloaded: as a restart would find it. One is made active, to be carried.
    cluster.sql("alter database postgres set work_mem = '5MB'");
    std::fs::write(cluster.data().join("postmaster.opts"), b"home").unwrap();
    let (sink, wal) = captured(
        &cluster,
        "begin; insert into t values (-7, 7, 'prepared'); prepare transaction 'two phases'",
    );
    let captured_conf = String::from_utf8(sink.content("postgresql.auto.conf")).unwrap();
    assert!(captured_conf.contains("no_such_library"));

    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    for (name, value) in [
        ("archive_mode", "off"),
        ("shared_preload_libraries", ""),
        ("primary_conninfo", ""),
        ("synchronous_standby_names", ""),
        ("listen_addresses", ""),
        ("ssl", "off"),
        ("max_logical_replication_workers", "0"),
        ("TimeZone", "Europe/Tallinn"),
        ("max_connections", "137"),
        ("max_prepared_transactions", "256"),
    ] {
        assert_eq!(restored.sql(&format!("show {name}")), value, "{name}");
    }
    // A synchronous standby that is not there would make this hang.
    restored.sql("insert into t values (-1, 0, 'exile')");
    restored.sql("select pg_switch_wal()");
    assert_eq!(
        restored.sql("select gid from pg_prepared_xacts"),
        "two phases"
    );
    restored.sql("commit prepared 'two phases'");
    assert_eq!(restored.sql("select count(*) from t where id = -7"), "1");
    assert!(!witness.exists());
    let aside =
        std::fs::read_to_string(restored.data.join("postgresql.auto.conf.captured")).unwrap();
    assert_eq!(aside, captured_conf);
    assert!(
        std::fs::read_to_string(restored.data.join("pg_hba.conf"))
            .unwrap()
            .contains("Legation")
    );
    assert!(
        !restored.data.join("postmaster.opts").is_file() || {
            std::fs::read_to_string(restored.data.join("postmaster.opts")).unwrap() != "home"
        }
    );
}

#[test]
fn read_only_sessions_begin_read_only() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (sink, wal) = captured(&cluster, "select 1");
    let dir = scratch();
    let data = dir.path().join("data");
    let facts = legation_registry::postgres::Facts::from_meta(&sink.meta).unwrap();
    let plan = Plan::new(facts, wal.first(), wal.end(), Target::EndOfWal).unwrap();
    let mut restorer = TreeRestorer::new(&data).unwrap();
    sink.restore(&mut restorer).unwrap();
    restorer.finish().unwrap();
    let mut serve = Serve::beside(&data, 5998, account());
    serve.read_only = true;
    prepare(&data, &plan, &serve, &mut wal.pieces().into_iter()).unwrap();
    let mut server = legation_registry::postgres::Server::start(
        &data,
        &plan,
        &serve,
        &crate::cluster::binaries(),
    )
    .unwrap();
    server
        .wait_ready(std::time::Duration::from_secs(60), &mut |_| true)
        .unwrap();
    let Err(Error::Server(e)) = server.sql(None, "insert into t values (-1, 0, '')") else {
        panic!()
    };
    assert_eq!(e.code, "25006");
    assert!(
        server
            .probe(
                None,
                "select count(*) = 20000 from t",
                std::time::Duration::from_secs(5)
            )
            .unwrap()
    );
    assert!(
        !server
            .probe(None, "select false", std::time::Duration::from_secs(5))
            .unwrap()
    );
    assert!(
        server
            .probe(
                None,
                "select true from pg_sleep(3)",
                std::time::Duration::from_millis(100)
            )
            .is_err()
    );
    // A second restore into the same place is refused, and the first is not touched.
    assert!(
        TreeRestorer::new(&data)
            .unwrap_err()
            .to_string()
            .contains("is not empty")
    );
}

#[test]
fn what_databases_and_roles_bring_along_is_reset_before_anybody_connects() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    cluster.sql("create database app");
    cluster.sql("create role clerk login");
    let (mut sink, wal) = captured(
        &cluster,
        "alter database app set session_preload_libraries = 'no_such_library'; \
         alter database app set default_transaction_read_only = off; \
         alter database app set work_mem = '5MB'; \
         alter role clerk set local_preload_libraries = 'nor_this'",
    );
    // The registry's own database is the one that nobody can enter.
    sink.meta.insert("database".into(), "app".into());
    let restored = restore_with(&sink, &wal, Target::EndOfWal, true).unwrap();
    let app = restored.server.config().clone();
    assert_eq!(app.database, "app");
    assert!(restored.server.replayed().unwrap().last_commit.is_some());
    let settled = restored.server.settle().unwrap();
    assert_eq!(
        settled.reset,
        [
            "default_transaction_read_only = 'off' of database \"app\" was reset",
            "session_preload_libraries = 'no_such_library' of database \"app\" was reset",
            "local_preload_libraries = 'nor_this' of role \"clerk\" was reset",
        ]
    );
    assert_eq!(settled.doubts, Vec::<String>::new());
    // Stock psql, with none of our options.
    assert_eq!(psql(&app, "show default_transaction_read_only"), "on");
    assert_eq!(psql(&app, "show work_mem"), "5MB");
    assert_eq!(
        restored.server.settle().unwrap().reset,
        Vec::<String>::new()
    );
}

#[test]
fn a_database_that_home_dropped_is_not_needed() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (mut sink, wal) = captured(&cluster, "select 1");
    sink.meta.insert("database".into(), "dropped".into());
    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    assert_eq!(restored.server.config().database, "postgres");
    assert!(restored.server.replayed().is_ok());
}

#[test]
fn another_sort_order_and_missing_libraries_are_doubts() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (sink, wal) = captured(
        &cluster,
        "create extension hstore; create extension citext; \
         update pg_proc set probin = '$libdir/not_here' where probin = '$libdir/hstore'; \
         create table words (w text collate \"C.utf8\" primary key); \
         update pg_collation set collversion = '0.1' where collname in ('C.utf8', 'ucs_basic'); \
         update pg_database set datcollversion = '0.1' where datname = 'template1'",
    );
    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    let doubts = restored.server.settle().unwrap().doubts;
    assert_eq!(doubts.len(), 2, "{doubts:?}");
    assert!(
        doubts[0].contains("reindex (C.utf8 in postgres, database template1)"),
        "{doubts:?}"
    );
    assert!(doubts[1].contains("($libdir/not_here: "), "{doubts:?}");
}

#[test]
fn prepared_transactions_fit_although_home_made_room_after_the_base() {
    let cluster = Cluster::new(&[("max_prepared_transactions", "0")]);
    cluster.tables();
    let (wal, mut options) = cluster.begin();
    let receiver = cluster.receive(&wal, options.clone());
    let (sink, _) = cluster.base();
    cluster.sql("alter system set max_prepared_transactions = 40");
    cluster.stop("fast");
    receiver.join().unwrap().unwrap();
    cluster.start();
    options.start = wal.end();
    let receiver = cluster.receive(&wal, options);
    for n in 0..30 {
        cluster.sql(&format!(
            "begin; insert into t values (-{n} - 1, 0, ''); prepare transaction 'p{n}'"
        ));
    }
    wal.wait_for(cluster.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();
    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    assert_eq!(restored.sql("select count(*) from pg_prepared_xacts"), "30");
}

/// A directory that only looks restored is refused before anything is written into it.
#[test]
fn directories_that_lead_elsewhere_are_refused() {
    let cluster = Cluster::new(&[]);
    cluster.tables();
    let (sink, wal) = captured(&cluster, "select 1");
    let facts = legation_registry::postgres::Facts::from_meta(&sink.meta).unwrap();
    let plan = Plan::new(facts, wal.first(), wal.end(), Target::EndOfWal).unwrap();
    let attempt = |spoil: &dyn Fn(&std::path::Path), plan: &Plan| {
        let dir = scratch();
        let data = dir.path().join("data");
        let mut restorer = TreeRestorer::new(&data).unwrap();
        sink.restore(&mut restorer).unwrap();
        restorer.finish().unwrap();
        spoil(&data);
        let serve = Serve::beside(&data, 5997, account());
        let error = prepare(&data, plan, &serve, &mut wal.pieces().into_iter())
            .unwrap_err()
            .to_string();
        assert!(!data.join("recovery.signal").exists());
        error
    };
    let home = scratch();
    let link = |data: &std::path::Path| symlink(home.path(), data.join("pg_tblspc/16384")).unwrap();
    assert!(attempt(&link, &plan).contains("would leave the restored directory"));
    let wal_link = |data: &std::path::Path| {
        std::fs::remove_dir_all(data.join("pg_wal")).unwrap();
        symlink(home.path(), data.join("pg_wal")).unwrap();
    };
    assert!(attempt(&wal_link, &plan).contains("would leave the restored directory"));
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        0,
        "nothing was written there"
    );
    let mut foreign = plan.clone();
    foreign.facts.locales.insert("xx_XX.UTF-8".into());
    assert!(attempt(&|_| (), &foreign).contains("xx_XX.UTF-8"));
    let mut other = plan.clone();
    other.facts.system_id += 1;
    assert!(attempt(&|_| (), &other).contains("of another cluster"));
    let version = |data: &std::path::Path| std::fs::write(data.join("PG_VERSION"), "14\n").unwrap();
    assert!(attempt(&version, &plan).contains("is not of PostgreSQL 15"));
    let map = |data: &std::path::Path| {
        let line = format!("16384 {}\n", home.path().display());
        std::fs::write(data.join("tablespace_map"), line).unwrap();
    };
    assert!(attempt(&map, &plan).contains("names tablespace 16384"));
    let label = |data: &std::path::Path| std::fs::remove_file(data.join("backup_label")).unwrap();
    assert!(attempt(&label, &plan).contains("backup_label"));
}
