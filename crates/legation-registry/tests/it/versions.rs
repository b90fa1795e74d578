//! Every release that is captured: a base and the log under writers that never pause, started again; what the writers
//! were told is committed is there, by their own journal.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use legation_registry::postgres::control::ControlFile;
use legation_registry::postgres::{Amcheck, Conn, Target, WalEnd, probe};

use crate::cluster::{Cluster, DIGEST, Load, SLOT, restore, run_ok_of};
use crate::matrix::check;

/// Writers who note what they were told is committed, and nothing else.
struct Clerks {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<BTreeSet<String>>>,
    threads: Vec<JoinHandle<u64>>,
}

impl Clerks {
    fn at(cluster: &Cluster, clerks: u64) -> Self {
        cluster.sql("create table acts (clerk bigint, n bigint, primary key (clerk, n))");
        let stop = Arc::new(AtomicBool::new(false));
        let told: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let thread = |clerk: u64| {
            let (stop, told, config) = (stop.clone(), Arc::clone(&told), cluster.config());
            std::thread::spawn(move || {
                let mut conn = Conn::sql(&config).unwrap();
                let mut n = 0;
                while !stop.load(Ordering::SeqCst) {
                    conn.query(&format!("insert into acts values ({clerk}, {n})"))
                        .unwrap();
                    told.lock().unwrap().insert(format!("{clerk}|{n}"));
                    n += 1;
                }
                n
            })
        };
        let threads = (0..clerks).map(thread).collect();
        Clerks {
            stop,
            told,
            threads,
        }
    }

    /// What was acknowledged so far.
    fn told(&self) -> BTreeSet<String> {
        self.told.lock().unwrap().clone()
    }

    fn finish(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            assert!(thread.join().unwrap() > 0);
        }
        Arc::into_inner(self.told).unwrap().into_inner().unwrap()
    }
}

/// Captures under writers and starts it again: at the end of the log, and where it was in the middle.
fn captured_and_started(major: u32) {
    let cluster = Cluster::of(major, &[], &[("autovacuum", "off")]);
    cluster.tables();
    let found = probe(&cluster.config(), SLOT).unwrap();
    found.check().unwrap();
    assert_eq!(found.major, major);
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let (clerks, load) = (Clerks::at(&cluster, 2), Load::on(&cluster, 2));
    load.work(30);
    let (sink, facts) = cluster.base();
    assert_eq!(facts.major, major);
    load.work(100);
    let (in_the_middle, middle) = (clerks.told(), cluster.lsn());
    assert!(!in_the_middle.is_empty());
    load.work(100);
    load.finish();
    let told = clerks.finish();
    let (digest, end) = (cluster.sql(DIGEST), cluster.lsn());
    wal.wait_for(end);
    wal.halt();
    assert_eq!(receiver.join().unwrap().unwrap().end, WalEnd::Stopped);

    // The file that a start goes by, against the server's own account of it.
    let control = ControlFile::parse(&sink.content("global/pg_control")).unwrap();
    let own = cluster.sql(
        "select system_identifier, pg_control_version, data_page_checksum_version, bytes_per_wal_segment \
         from pg_control_system(), pg_control_init()",
    );
    let version = match major {
        16 => 1300,
        17 => 1700,
        _ => 1800,
    };
    assert_eq!(
        format!(
            "{}|{version}|{}|{}",
            control.system_id,
            u8::from(control.data_checksums),
            control.wal_segment_size
        ),
        own
    );

    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    assert!(
        restored
            .sql("show server_version")
            .starts_with(&major.to_string())
    );
    let acts: BTreeSet<_> = restored
        .sql("select clerk, n from acts")
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(acts, told, "what was acknowledged, and nothing else");
    assert_eq!(restored.sql(DIGEST), digest);
    if major >= 18 {
        assert_eq!(restored.sql("show io_method"), "worker");
    }
    restored.sql("insert into t values (-1, 0, 'exile')");
    // Its own tool, where this release has it here.
    let own = restored.server.amcheck(true).unwrap();
    assert!(
        matches!(own, Amcheck::Clean)
            || matches!(&own, Amcheck::Unavailable(why) if major == 16 && why.contains("not installed")),
        "{own:?}"
    );
    check::inside(restored.server.config(), major);
    assert!(
        !restored
            .server
            .settle()
            .unwrap()
            .doubts
            .iter()
            .any(|doubt| doubt.contains("libraries")),
        "{:?}",
        restored.server.settle()
    );
    drop(restored);

    let restored = restore(&sink, &wal, Target::Lsn(middle)).unwrap();
    let acts: BTreeSet<_> = restored
        .sql("select clerk, n from acts")
        .lines()
        .map(str::to_owned)
        .collect();
    assert!(acts.is_superset(&in_the_middle), "before the position");
    assert!(acts.len() < told.len(), "nothing was written after it");
    check::inside(restored.server.config(), major);
    drop(restored);
    if major >= 17 {
        // The server's own reader of the log agrees that it is whole.
        let (data, from, to) = (cluster.data(), facts.start.to_string(), end.to_string());
        let args =
            ["-q", "-p", data.to_str().unwrap(), "-s", &from, "-e", &to].map(std::ffi::OsStr::new);
        run_ok_of(major, "pg_waldump", &args);
    }
}

#[test]
fn postgresql_16_is_captured_and_started() {
    captured_and_started(16);
}

#[test]
fn postgresql_17_is_captured_and_started() {
    captured_and_started(17);
}

#[test]
fn postgresql_18_is_captured_and_started() {
    captured_and_started(18);
}

/// A login trigger of home (17 and later) must neither keep us out nor act on our own sessions.
#[test]
fn triggers_on_login_do_not_act_on_our_sessions() {
    let cluster = Cluster::of(17, &[], &[]);
    for sql in [
        "create table logins (at timestamptz)",
        "create function on_login() returns event_trigger language plpgsql as \
         $$ begin insert into logins values (now()); end $$",
        "create event trigger on_login on login execute function on_login()",
        "alter event trigger on_login enable always",
    ] {
        cluster.sql(sql);
    }
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let (sink, _) = cluster.base();
    let query = "set event_triggers = off; select count(*) from logins";
    wal.wait_for(cluster.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();
    let restored = restore(&sink, &wal, Target::EndOfWal).unwrap();
    let count = || {
        let rows = restored
            .server
            .sql(None, "select count(*) from logins")
            .unwrap();
        rows[0][0].clone().unwrap().parse::<u64>().unwrap()
    };
    let before = count();
    assert!(before > 0, "the trigger did act at home");
    assert_eq!(count(), before);
    assert_eq!(
        restored.sql(query).parse::<u64>().unwrap(),
        before + 1,
        "it acts on others"
    );
}
