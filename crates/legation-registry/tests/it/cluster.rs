//! PostgreSQL clusters that live as long as a test.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use legation_core::id::{Lsn, Timeline};
use legation_core::source::{SourceResult, WalSink};
use legation_registry::postgres::{
    BaseOptions, Binaries, Conn, ConnectConfig, Facts, Plan, RunAs, Serve, Server, Target,
    WalOptions, WalPiece, WalReport, base, ensure_slot, prepare, receive,
};
use legation_registry::tree::TreeRestorer;
use legation_registry::{Error, Result};
use legation_world::servers;

use crate::memory::{MemorySink, MemoryWal};

pub const SLOT: &str = "legation_test";

/// The account that runs servers when the tests run as root.
pub fn account() -> Option<RunAs> {
    let root = std::fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .unwrap()
        == 0;
    root.then(|| RunAs::named("postgres").unwrap())
}

pub fn binaries() -> Binaries {
    binaries_of(15)
}

/// The programs of a major release.
pub fn binaries_of(major: u32) -> Binaries {
    Binaries::at(servers::bin(major).unwrap(), major).unwrap()
}

/// A scratch directory that the server's account can enter.
pub fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("lgn")
        .tempdir_in("/tmp")
        .unwrap();
    give(dir.path());
    dir
}

pub fn give(path: &Path) {
    if let Some(user) = account() {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}

/// Runs one of PostgreSQL's programs as its account.
pub fn run(program: &str, args: &[&OsStr]) -> Output {
    run_of(15, program, args)
}

/// As [`run`], of another release.
pub fn run_of(major: u32, program: &str, args: &[&OsStr]) -> Output {
    let mut command = Command::new(binaries_of(major).program(program));
    command.args(args).env("LC_ALL", "C").current_dir("/tmp");
    if let Some(user) = account() {
        command.uid(user.uid).gid(user.gid);
    }
    command.output().unwrap()
}

pub fn run_ok(program: &str, args: &[&OsStr]) -> String {
    run_ok_of(15, program, args)
}

pub fn run_ok_of(major: u32, program: &str, args: &[&OsStr]) -> String {
    let output = run_of(major, program, args);
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn free_port() -> u16 {
    legation_world::ports::claim().expect("a port")
}

pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub major: u32,
}

impl Cluster {
    /// A running cluster with checksums and these settings.
    pub fn new(settings: &[(&str, &str)]) -> Self {
        Self::of(15, &[], settings)
    }

    /// As [`Cluster::new`], of another release, with more arguments of `initdb`.
    pub fn of(major: u32, initdb: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut cluster = Cluster::empty();
        cluster.major = major;
        let data = cluster.data();
        let args = [
            "-D",
            data.to_str().unwrap(),
            "-U",
            "postgres",
            "-k",
            "--no-sync",
            "-A",
            "trust",
            "--locale=C",
            "-E",
            "UTF8",
        ];
        let args: Vec<_> = args.iter().chain(initdb).map(OsStr::new).collect();
        run_ok_of(major, "initdb", &args);
        let mut text = format!(
            "\nport = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = off\n\
             max_wal_senders = 6\nmax_replication_slots = 6\nwal_keep_size = 64MB\nshared_buffers = 16MB\n",
            cluster.port,
            cluster.dir.path().display()
        );
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{value}'\n"));
        }
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"))
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
        cluster.start();
        cluster
    }

    /// A place and a port for a copy of another; nothing is there yet.
    pub fn empty() -> Self {
        Cluster {
            dir: scratch(),
            port: free_port(),
            major: 15,
        }
    }

    /// Makes a copy listen where it lies.
    pub fn own_port(&self) {
        use std::io::Write;
        let conf = self.data().join("postgresql.auto.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(conf).unwrap();
        let socket = self.dir.path().display();
        writeln!(
            file,
            "port = {}\nunix_socket_directories = '{socket}'",
            self.port
        )
        .unwrap();
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn start(&self) {
        self.start_with(&self.data());
    }

    /// As [`Cluster::start`], with its configuration in this directory.
    pub fn start_with(&self, configuration: &Path) {
        let log = self.dir.path().join("log");
        let output = run_of(
            self.major,
            "pg_ctl",
            &[
                "start".as_ref(),
                "-w".as_ref(),
                "-D".as_ref(),
                configuration.as_ref(),
                "-l".as_ref(),
                log.as_ref(),
            ],
        );
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(output.status.success(), "{log}");
    }

    pub fn stop(&self, mode: &str) {
        let data = self.data();
        run_ok_of(
            self.major,
            "pg_ctl",
            &[
                "stop".as_ref(),
                "-w".as_ref(),
                "-m".as_ref(),
                mode.as_ref(),
                "-D".as_ref(),
                data.as_ref(),
            ],
        );
    }

    pub fn config(&self) -> ConnectConfig {
        self.config_of("postgres", "postgres")
    }

    pub fn config_of(&self, user: &str, database: &str) -> ConnectConfig {
        let url = format!(
            "postgresql://{user}@:{}/{database}?host={}",
            self.port,
            self.dir.path().display()
        );
        ConnectConfig::parse_with(&url, &|_| None).unwrap()
    }

    pub fn sql(&self, sql: &str) -> String {
        psql(&self.config(), sql)
    }

    /// A table of 20,000 rows, its visibility map set.
    pub fn tables(&self) {
        for sql in [TABLES, "vacuum analyze t", "checkpoint"] {
            self.sql(sql);
        }
    }

    pub fn lsn(&self) -> Lsn {
        self.sql("select pg_current_wal_insert_lsn()")
            .parse()
            .unwrap()
    }

    /// Starts a receiver into `wal`.
    pub fn receive(&self, wal: &MemoryWal, options: WalOptions) -> JoinHandle<Result<WalReport>> {
        let (config, mut sink) = (self.config(), wal.clone());
        std::thread::spawn(move || receive(&config, &options, &mut sink as &mut dyn WalSink))
    }

    /// Makes the slot and the options to begin at it.
    pub fn begin(&self) -> (MemoryWal, WalOptions) {
        let slot = ensure_slot(&self.config(), SLOT).unwrap();
        (
            MemoryWal::starting_at(slot.start),
            WalOptions::new(SLOT, slot.system_id, slot.timeline, slot.start),
        )
    }

    pub fn base(&self) -> (MemorySink, Facts) {
        let mut sink = MemorySink::default();
        let report = base::capture(&self.config(), &BaseOptions::new(SLOT), &mut sink, &|| {
            false
        })
        .unwrap();
        (sink, report.facts)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let data = self.data();
        run_of(
            self.major,
            "pg_ctl",
            &[
                "stop".as_ref(),
                "-m".as_ref(),
                "immediate".as_ref(),
                "-D".as_ref(),
                data.as_ref(),
            ],
        );
    }
}

/// An independent reader: stock psql.
pub fn psql(config: &ConnectConfig, sql: &str) -> String {
    let legation_registry::postgres::Host::Unix(socket) = &config.host else {
        panic!("no socket")
    };
    let port = config.port.to_string();
    let args = [
        "-XAtq",
        "-v",
        "ON_ERROR_STOP=1",
        "-p",
        &port,
        "-U",
        &config.user,
        "-d",
        &config.database,
        "-c",
        sql,
        "-h",
    ];
    let mut args: Vec<&OsStr> = args.map(OsStr::new).to_vec();
    args.push(socket.as_ref());
    run_ok("psql", &args).trim().to_owned()
}

/// A restored cluster that runs.
pub struct Restored {
    pub server: Server,
    pub plan: Plan,
    pub data: PathBuf,
    /// Removed last.
    pub dir: tempfile::TempDir,
}

impl Restored {
    pub fn sql(&self, sql: &str) -> String {
        psql(self.server.config(), sql)
    }
}

/// Restores a base and its WAL and starts them.
pub fn restore(sink: &MemorySink, wal: &MemoryWal, target: Target) -> Result<Restored> {
    restore_with(sink, wal, target, false)
}

/// As [`restore`], for sessions that begin read-only or not.
pub fn restore_with(
    sink: &MemorySink,
    wal: &MemoryWal,
    target: Target,
    read_only: bool,
) -> Result<Restored> {
    restore_pieces(
        sink,
        (wal.first(), wal.end()),
        wal.pieces(),
        target,
        read_only,
    )
}

/// As [`restore_with`], from pieces of WAL that reach from one position to another.
pub fn restore_pieces(
    sink: &MemorySink,
    (first, end): (Lsn, Lsn),
    pieces: Vec<SourceResult<WalPiece>>,
    target: Target,
    read_only: bool,
) -> Result<Restored> {
    let dir = scratch();
    let data = dir.path().join("data");
    let facts = Facts::from_meta(&sink.meta)?;
    let plan = Plan::new(facts, first, end, target)?;
    let mut restorer = TreeRestorer::new(&data)?;
    sink.restore(&mut restorer)?;
    restorer.finish()?;
    let mut serve = Serve::beside(&data, free_port(), account());
    serve.fsync = false;
    serve.read_only = read_only;
    prepare(&data, &plan, &serve, &mut pieces.into_iter())?;
    let mut server = Server::start(&data, &plan, &serve, &binaries_of(plan.facts.major))?;
    server.wait_ready(Duration::from_secs(60), &mut |_| true)?;
    Ok(Restored {
        server,
        plan,
        data,
        dir,
    })
}

/// Writers that never pause, until told to.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Inserts, updates and deletes in `t`, with now and then a vacuum: visibility-map bits are set and cleared.
    pub fn on(cluster: &Cluster, writers: u64) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let thread = |n: u64| {
            let (stop, done, config) = (stop.clone(), done.clone(), cluster.config());
            std::thread::spawn(move || {
                let Ok(mut conn) = Conn::sql(&config) else {
                    return;
                };
                let mut i = 0u64;
                while !stop.load(Ordering::SeqCst) {
                    let key = n * 1_000_000_000 + i;
                    let sql = match i % 50 {
                        49 if n == 0 => "vacuum t".to_owned(),
                        k if k % 7 == 3 => format!(
                            "delete from t where id in (select id from t where id % 97 = {} limit 20)",
                            i % 97
                        ),
                        k if k % 5 == 2 => format!(
                            "update t set v = v + 1 where id between {} and {}",
                            i % 5000,
                            i % 5000 + 9
                        ),
                        _ => format!(
                            "insert into t select {key} * 10 + g, {i}, repeat(md5('{key}'), 8) from generate_series(0, 9) g"
                        ),
                    };
                    // The server may be stopped under us: that is part of some tests.
                    match conn.query(&sql) {
                        Ok(_) => _ = done.fetch_add(1, Ordering::SeqCst),
                        // A deadlock between writers.
                        Err(Error::Server(e)) if e.severity == "ERROR" => {}
                        Err(_) => return,
                    }
                    i += 1;
                }
            })
        };
        let threads = (0..writers).map(thread).collect();
        Load {
            stop,
            done,
            threads,
        }
    }

    /// Waits until this many more statements have been committed.
    pub fn work(&self, more: u64) {
        let until = self.done.load(Ordering::SeqCst) + more;
        for _ in 0..6000 {
            if self.done.load(Ordering::SeqCst) >= until {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the writers make no progress");
    }

    pub fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|t| t.join().unwrap());
    }
}

const TABLES: &str = "create table t (id bigint primary key, v bigint, pad text); create index on t (v); \
                          insert into t select g, g, repeat('x', 100) from generate_series(1, 20000) g";

/// Everything that a table holds, as one value.
pub const DIGEST: &str =
    "select count(*) || ' ' || coalesce(md5(string_agg(t::text, ',' order by id)), '') from t";

pub fn timeline(n: u32) -> Timeline {
    Timeline(n)
}
