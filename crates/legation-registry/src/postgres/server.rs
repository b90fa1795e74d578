//! Starts a prepared data directory, waits until it answers, asks it how far it replayed, and stops it again.
//! The server is a child of this process and never outlives its [`Server`].

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use legation_core::id::{Lsn, Timeline};
use rustix::process::{Pid, Signal, kill_process};

use super::conn::{Conn, Row};
use super::probe::column;
use super::restore::{Plan, Serve, TcpAuth};
use super::url::{ConnectConfig, Host};
use super::walfile::segment_start;
use crate::error::Context;
use crate::{Error, Result};

/// How often the server's state is looked at while it starts: from here, doubling to [`MAX_WAIT`].
const MIN_WAIT: Duration = Duration::from_millis(5);
const MAX_WAIT: Duration = Duration::from_millis(100);
/// How long a fast stop may take before it becomes an immediate one, and that before it becomes a kill. Who stops a copy
/// abroad may be in a hurry, and an immediate stop loses no commit: it costs a replay at the next start.
const FAST_STOP: Duration = Duration::from_secs(5);
const IMMEDIATE_STOP: Duration = Duration::from_secs(10);
/// How long a server may take to read its configuration again: it does so between two connections.
const RELOAD: Duration = Duration::from_secs(30);
/// For our own sessions: what a database or a role loads at home may be missing here, and every session would fail.
const OPTIONS: &str = "-c session_preload_libraries= -c local_preload_libraries=";
/// The same for triggers that act on every login, which 17 and later know.
const NO_TRIGGERS: (u32, &str) = (17, " -c event_triggers=off");
/// How much of the log's end is searched for the reason of a failed start.
const LOG_TAIL: u64 = 64 << 10;

/// Who runs the server. PostgreSQL refuses to run as root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// The account's name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
}

impl RunAs {
    /// Looks an account up in `/etc/passwd`.
    pub fn named(name: &str) -> Result<Self> {
        let text = fs::read_to_string("/etc/passwd").at(|| "/etc/passwd".into())?;
        let account = text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let is = fields.next()? == name;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            is.then(|| RunAs {
                name: name.into(),
                uid,
                gid,
            })
        });
        account.ok_or_else(|| {
            Error::refused(
                format!("there is no account {name:?} here"),
                "name an existing one, such as postgres",
            )
        })
    }

    /// Whether starting can work: root must name somebody else, others can only be themselves.
    ///
    /// # Errors
    /// Says who cannot run it, and what to name.
    pub fn check(run_as: Option<&RunAs>) -> Result<()> {
        let me = rustix::process::geteuid().as_raw();
        match run_as {
            None if me == 0 => Err(Error::refused(
                "PostgreSQL does not run as root",
                "name the account that shall run it (run_as = \"postgres\")",
            )),
            Some(user) if user.uid == 0 => Err(Error::refused(
                "PostgreSQL does not run as root",
                "name another account",
            )),
            Some(user) if me != 0 && user.uid != me => Err(Error::refused(
                format!("only root can start a server as {}", user.name),
                "run as root, or as that account",
            )),
            _ => Ok(()),
        }
    }
}

/// Where one release's programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// Looks for the programs of a major release where distributions put them, then in `PATH`.
    pub fn find(major: u32) -> Result<Self> {
        let fixed = [
            format!("/usr/lib/postgresql/{major}/bin"),
            format!("/usr/pgsql-{major}/bin"),
            format!("/opt/homebrew/opt/postgresql@{major}/bin"),
            "/usr/local/pgsql/bin".to_owned(),
        ];
        let path = std::env::var_os("PATH").unwrap_or_default();
        fixed
            .into_iter()
            .map(PathBuf::from)
            .chain(std::env::split_paths(&path))
            .filter(|dir| dir.join("postgres").is_file())
            .map(|dir| fs::canonicalize(dir.join("postgres")).ok().and_then(|p| p.parent().map(Path::to_path_buf)).unwrap_or(dir))
            .map(|dir| Binaries { dir })
            .find(|found| found.major() == Some(major))
            .ok_or_else(|| {
                Error::refused(
                    format!("PostgreSQL {major} is not installed here, and the version needs exactly that release"),
                    format!("install it, for example: apt install postgresql-{major}"),
                )
            })
    }

    /// The programs in a directory of one's own choice, which must be of that major release.
    ///
    /// # Errors
    /// When they are not.
    pub fn at(dir: PathBuf, major: u32) -> Result<Self> {
        let found = Binaries { dir };
        if found.major() == Some(major) {
            return Ok(found);
        }
        Err(Error::refused(
            format!(
                "{} holds no server of PostgreSQL {major}",
                found.dir.display()
            ),
            format!("install it, for example: apt install postgresql-{major}"),
        ))
    }

    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether a program is there.
    pub fn has(&self, name: &str) -> bool {
        self.program(name).is_file()
    }

    /// Whether the server would start with these settings. Nothing is started: it is asked to print one of them, with no
    /// configuration file and a data directory that it does not look into.
    pub(super) fn accepts(&self, settings: &[(&'static str, String)]) -> bool {
        let Some((name, _)) = settings.first() else {
            return true;
        };
        let mut command = Command::new(self.program("postgres"));
        command.args(["-C", name, "-D", "/", "-c", "config_file=/dev/null"]);
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC");
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    }

    fn major(&self) -> Option<u32> {
        let output = Command::new(self.program("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text
            .split_whitespace()
            .find(|w| w.starts_with(|c: char| c.is_ascii_digit()))?;
        version
            .split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    }
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Sessions end, a checkpoint is written.
    Fast,
    /// At once, as if the power failed.
    Immediate,
}

/// How far a started server replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The timeline that it now writes.
    pub timeline: Timeline,
    /// The end of the last record that was replayed.
    pub lsn: Lsn,
    /// The commit time of the last transaction that was replayed, in UTC, like `2026-11-22T09:41:07.104000Z`; none if there was none.
    pub last_commit: Option<String>,
}

/// The verdict of `pg_amcheck`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amcheck {
    /// Nothing found.
    Clean,
    /// What it printed.
    Damaged(String),
    /// It cannot be run here, and why.
    Unavailable(String),
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    data_dir: PathBuf,
    log: PathBuf,
    binaries: Binaries,
    config: ConnectConfig,
    run_as: Option<RunAs>,
    read_only: bool,
    wal_segment_size: u32,
}

impl Server {
    /// Starts a directory that [`super::prepare`] made ready. Returns at once; see [`Server::wait_ready`].
    pub fn start(data_dir: &Path, plan: &Plan, serve: &Serve, binaries: &Binaries) -> Result<Self> {
        RunAs::check(serve.run_as.as_ref())?;
        if data_dir.join("recovery.signal").is_file() {
            let changed = super::spaces::keep_inside(data_dir, plan)?;
            if changed > 0 {
                tracing::info!(
                    changed,
                    "the log creates its tablespaces within the data directory"
                );
            }
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&serve.log)
            .at(|| serve.log.display().to_string())?;
        let errors = log.try_clone().at(|| serve.log.display().to_string())?;
        let mut command = Command::new(binaries.program("postgres"));
        command
            .arg("-D")
            .arg(data_dir)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir(data_dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C is for us; we stop the server in order.
            .process_group(0);
        as_user(&mut command, serve.run_as.as_ref());
        let child = command
            .spawn()
            .at(|| format!("start {}", binaries.program("postgres").display()))?;
        let user = Some(&plan.facts.superuser)
            .filter(|u| !u.is_empty())
            .map_or("postgres", String::as_str);
        let config = ConnectConfig {
            host: Host::Unix(serve.socket_dir.clone()),
            port: serve.port,
            user: user.into(),
            database: plan.facts.database.clone(),
            password: None,
            application_name: "legation".into(),
            connect_timeout: Duration::from_secs(10),
            options: if plan.facts.major >= NO_TRIGGERS.0 {
                format!("{OPTIONS}{}", NO_TRIGGERS.1)
            } else {
                OPTIONS.into()
            },
            tls: Default::default(),
        };
        Ok(Server {
            child,
            data_dir: data_dir.into(),
            log: serve.log.clone(),
            binaries: binaries.clone(),
            config,
            run_as: serve.run_as.clone(),
            read_only: serve.read_only,
            wal_segment_size: plan.facts.wal_segment_size,
        })
    }

    /// Waits until replay is done and the server takes connections, as long as `go_on` says so. It is told which segment
    /// of WAL is being replayed, by where that begins.
    pub fn wait_ready(
        &mut self,
        within: Duration,
        go_on: &mut dyn FnMut(Option<Lsn>) -> bool,
    ) -> Result<()> {
        let until = Instant::now() + within;
        let mut pause = MIN_WAIT;
        loop {
            if let Some(status) = self.child.try_wait().at(|| "wait for postgres".into())? {
                return Err(Error::refused(
                    format!("the server did not start ({status}): {}", self.reason()),
                    format!("read {}", self.log.display()),
                ));
            }
            if self.is_ready() {
                return self.find_database();
            }
            if !go_on(self.replaying()) {
                return Err(Error::Stopped);
            }
            if Instant::now() > until {
                return Err(Error::refused(
                    format!(
                        "the server is not ready after {} s: {}",
                        within.as_secs(),
                        self.reason()
                    ),
                    format!(
                        "read {}; allow more time if it is still replaying",
                        self.log.display()
                    ),
                ));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(MAX_WAIT);
        }
    }

    /// The database that the source named may have been dropped since: then one that every cluster begins with.
    fn find_database(&mut self) -> Result<()> {
        let mut missing = None;
        let named = self.config.clone();
        for database in [named.database.as_str(), "postgres", "template1"] {
            let config = named.with_database(database);
            match Conn::sql(&config) {
                Ok(_) => {
                    self.config = config;
                    return Ok(());
                }
                // There is none of that name, or it takes no connections.
                Err(Error::Server(e)) if matches!(e.code.as_str(), "3D000" | "55000") => {
                    missing = Some(Error::Server(e));
                }
                Err(e) => return Err(e),
            }
        }
        missing.map_or(Ok(()), Err)
    }

    /// Whether sessions begin read-only.
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The segment that the startup process says it is replaying, in its title.
    fn replaying(&self) -> Option<Lsn> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().find_map(|child| {
            let title = fs::read(format!("/proc/{child}/cmdline")).ok()?;
            let title = String::from_utf8_lossy(&title);
            let (_, segment) = title.split_once("startup recovering ")?;
            segment_start(segment.get(..24)?, u64::from(self.wal_segment_size))
        })
    }

    /// Why it no longer runs; `None` while it does.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn ended(&mut self) -> Result<Option<String>> {
        let status = self.child.try_wait().at(|| "wait for postgres".into())?;
        Ok(status.map(|status| format!("{status}: {}", self.reason())))
    }

    /// The eighth line of `postmaster.pid` is the server's own word on its state.
    fn is_ready(&self) -> bool {
        let text = fs::read_to_string(self.data_dir.join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        let ours = lines.next().and_then(|pid| pid.trim().parse().ok()) == Some(self.child.id());
        ours && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    /// The last serious lines of the log.
    fn reason(&self) -> String {
        let mut text = Vec::new();
        let read = fs::File::open(&self.log).and_then(|mut log| {
            let length = log.metadata()?.len();
            log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
            log.read_to_end(&mut text)
        });
        if let Err(e) = read {
            return format!("its log cannot be read: {e}");
        }
        let text = String::from_utf8_lossy(&text);
        let serious = |line: &&str| {
            [" FATAL: ", " PANIC: ", " ERROR: "]
                .iter()
                .any(|s| line.contains(s))
        };
        let last = text
            .lines()
            .rev()
            .find(serious)
            .or_else(|| text.lines().last())
            .unwrap_or("its log is empty");
        last.split_once("] ")
            .map_or(last, |(_, message)| message)
            .trim()
            .to_owned()
    }

    /// How to connect as the registry's own superuser, over the Unix socket.
    pub fn config(&self) -> &ConnectConfig {
        &self.config
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its log is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Runs SQL in the source's database, or in another.
    pub fn sql(&self, database: Option<&str>, sql: &str) -> Result<Vec<Row>> {
        let config = database.map_or_else(|| self.config.clone(), |d| self.config.with_database(d));
        Conn::sql(&config)?.query(sql)
    }

    /// Runs a probe: true if its first column of the first row is `t`, false otherwise, an error if it fails or takes
    /// longer than `within`.
    pub fn probe(&self, database: Option<&str>, sql: &str, within: Duration) -> Result<bool> {
        let config = database.map_or_else(|| self.config.clone(), |d| self.config.with_database(d));
        let mut conn = Conn::sql(&config)?;
        conn.query(&format!(
            "set statement_timeout = {}",
            within.as_millis().max(1)
        ))?;
        Ok(conn.scalar(sql)?.as_deref() == Some("t"))
    }

    /// Lets clients in over TCP, which [`TcpAuth::Reject`] kept out since the start; returns once that counts.
    ///
    /// # Errors
    /// When the server does not take it.
    pub fn admit(&self, auth: TcpAuth) -> Result<()> {
        let loaded = || self.sql(Some("postgres"), "select pg_conf_load_time()");
        let before = loaded()?;
        super::restore::admit(&self.data_dir, auth, self.run_as.as_ref())?;
        self.sql(Some("postgres"), "select pg_reload_conf()")?;
        let until = Instant::now() + RELOAD;
        // Every session is a child of the postmaster, and knows of when that has read its configuration.
        while loaded()? == before {
            if Instant::now() > until {
                return Err(Error::refused(
                    format!(
                        "the server did not read pg_hba.conf again within {} s",
                        RELOAD.as_secs()
                    ),
                    format!("read {}", self.log.display()),
                ));
            }
            std::thread::sleep(MIN_WAIT);
        }
        Ok(())
    }

    /// How far it replayed, by its own account; ask before anything is written.
    pub fn replayed(&self) -> Result<Replayed> {
        let rows = self.sql(
            None,
            "select pg_walfile_name(pg_current_wal_lsn() + 1), pg_last_wal_replay_lsn(), \
             to_char(pg_last_xact_replay_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )?;
        let row = rows.first().ok_or_else(|| {
            Error::malformed("the started server", "it does not say how far it replayed")
        })?;
        let timeline = column(row, 0)
            .and_then(|name| name.get(..8))
            .and_then(|t| u32::from_str_radix(t, 16).ok());
        let lsn = column(row, 1).and_then(|lsn| lsn.parse().ok());
        let (Some(timeline), Some(lsn)) = (timeline, lsn) else {
            return Err(Error::malformed(
                "the started server",
                format!("its replay position is {row:?}"),
            ));
        };
        Ok(Replayed {
            timeline: Timeline(timeline),
            lsn,
            last_commit: column(row, 2).map(str::to_owned),
        })
    }

    /// The names of prepared transactions that wait for their end, in order.
    ///
    /// # Errors
    /// When the server does not say.
    pub fn prepared(&self) -> Result<Vec<String>> {
        let rows = self.sql(
            None,
            "select gid from pg_catalog.pg_prepared_xacts order by gid",
        )?;
        let names = rows.iter().filter_map(|row| column(row, 0));
        Ok(names.map(str::to_owned).collect())
    }

    /// Runs `pg_amcheck` over every database. It needs its extension in each: with `install` it is added where it is
    /// missing, which writes to the copy, so only where the copy is thrown away.
    pub fn amcheck(&self, install: bool) -> Result<Amcheck> {
        if !self.binaries.has("pg_amcheck") {
            return Ok(Amcheck::Unavailable("pg_amcheck is not installed".into()));
        }
        let Host::Unix(socket) = &self.config.host else {
            return Ok(Amcheck::Unavailable("no Unix socket".into()));
        };
        let mut command = Command::new(self.binaries.program("pg_amcheck"));
        command
            .arg("--all")
            .arg("--heapallindexed")
            .arg("-h")
            .arg(socket);
        command.args(["-p", &self.config.port.to_string(), "-U", &self.config.user]);
        if install {
            command.arg("--install-missing");
        }
        command.env_clear().env("LC_ALL", "C").stdin(Stdio::null());
        as_user(&mut command, self.run_as.as_ref());
        let output = command.output().at(|| "run pg_amcheck".into())?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if output.status.success() && text.contains("not installed") {
            return Ok(Amcheck::Unavailable(
                "the extension amcheck is not installed in every database".into(),
            ));
        }
        Ok(match output.status.code() {
            Some(0) => Amcheck::Clean,
            Some(2) => Amcheck::Damaged(text),
            _ => Amcheck::Unavailable(text),
        })
    }

    /// Stops it and waits until it is gone.
    pub fn stop(mut self, how: Shutdown) -> Result<()> {
        self.end(how, &|| false)
    }

    /// Stops it fast, and at once as soon as `hasty` says so; waits until it is gone.
    ///
    /// # Errors
    /// When the system cannot say whether it is gone.
    pub fn stop_unless(mut self, hasty: &dyn Fn() -> bool) -> Result<()> {
        self.end(Shutdown::Fast, hasty)
    }

    fn end(&mut self, how: Shutdown, hasty: &dyn Fn() -> bool) -> Result<()> {
        if how == Shutdown::Fast && self.signal_and_wait(Signal::INT, FAST_STOP, hasty)? {
            return Ok(());
        }
        if self.signal_and_wait(Signal::QUIT, IMMEDIATE_STOP, &|| false)? {
            return Ok(());
        }
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .at(|| "kill postgres".into())?;
        Ok(())
    }

    /// Whether it was gone within that time, or before `give_up` said so.
    fn signal_and_wait(
        &mut self,
        signal: Signal,
        within: Duration,
        give_up: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let gone = |child: &mut Child| {
            child
                .try_wait()
                .at(|| "wait for postgres".into())
                .map(|s| s.is_some())
        };
        if gone(&mut self.child)? {
            return Ok(true);
        }
        let pid = Pid::from_child(&self.child);
        let _ = kill_process(pid, signal);
        let until = Instant::now() + within;
        let mut pause = MIN_WAIT;
        while Instant::now() < until && !give_up() {
            if gone(&mut self.child)? {
                return Ok(true);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(MAX_WAIT);
        }
        Ok(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(e) = self.end(Shutdown::Immediate, &|| false) {
            tracing::error!(
                pid = self.child.id(),
                "the server could not be stopped: {e}"
            );
        }
    }
}

fn as_user(command: &mut Command, run_as: Option<&RunAs>) {
    if let Some(user) = run_as
        && rustix::process::geteuid().is_root()
    {
        command.uid(user.uid).gid(user.gid);
    }
}
