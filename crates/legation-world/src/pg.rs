//! PostgreSQL clusters of our own: made, started, stopped and killed by number, on loopback only.
//!
//! Must not know what is kept in them.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls};
use rustix::process::Signal;

use crate::error::{Doing, Result, failed};
use crate::process::{Daemon, run};

/// The superuser of every cluster here.
pub const SUPERUSER: &str = "postgres";
/// Whom the agent connects as; may replicate, owns nothing.
pub const AGENT_ROLE: &str = "legation";
/// Whom citizens' transactions run as; owns the tables.
pub const CITIZEN_ROLE: &str = "registrar";

/// Longest wait for a server to answer.
const START: Duration = Duration::from_secs(60);

/// The server's programs, and whom to run them as.
#[derive(Debug, Clone)]
pub struct Programs {
    bin: PathBuf,
    run_as: Option<(u32, u32)>,
}

impl Programs {
    /// PostgreSQL 15; see [`Programs::of`].
    pub fn find() -> Result<Self> {
        Self::of(15)
    }

    /// Finds a major release, and user `postgres` when we are root, as whom the server refuses to run.
    pub fn of(major: u32) -> Result<Self> {
        let bin = crate::servers::bin(major)?;
        let run_as = if rustix::process::geteuid().is_root() {
            Some(account("postgres")?)
        } else {
            None
        };
        Ok(Self { bin, run_as })
    }

    /// One of the programs, to be run as the server's user.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        // Nothing of ours may reach into a test: PGHOST and its like change what programs talk to.
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PG"))
        {
            command.env_remove(name);
        }
        command.current_dir("/").env("LC_ALL", "C.UTF-8");
        command
    }

    /// The directory that the programs are in.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The server's user and group when that is another than ours.
    pub fn run_as(&self) -> Option<(u32, u32)> {
        self.run_as
    }

    /// Makes a directory that only the server's user can enter.
    pub fn private_dir(&self, path: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir_all(path).doing(format_args!("making {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .doing("closing a directory")?;
        self.give(path)
    }

    /// Gives a file to the server's user.
    pub fn give(&self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.run_as {
            std::os::unix::fs::chown(path, Some(uid), Some(gid))
                .doing(format_args!("giving {} away", path.display()))?;
        }
        Ok(())
    }

    /// The server's own words about its version, such as "15.12".
    pub fn version(&self) -> Result<String> {
        let mut command = self.command("postgres");
        command.arg("--version");
        let ran = run(command, b"", Duration::from_secs(10))?.ok()?;
        Ok(ran
            .out
            .split_whitespace()
            .nth(2)
            .unwrap_or_default()
            .to_owned())
    }
}

/// Numbers of a user and its group.
fn account(name: &str) -> Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").doing("reading /etc/passwd")?;
    let ids = passwd.lines().find_map(|l| {
        let f: Vec<_> = l.split(':').collect();
        (f.first() == Some(&name))
            .then(|| Some((f.get(2)?.parse().ok()?, f.get(3)?.parse().ok()?)))?
    });
    ids.doing(format_args!("looking for user {name} in /etc/passwd"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A server that is told to end frees its memory by itself; one that does not is killed.
        if self.server.is_some() && self.stop_fast().is_err() {
            self.free_memory();
        }
    }
}

/// One cluster.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    programs: Programs,
    root: PathBuf,
    port: u16,
    password: String,
    server: Option<Daemon>,
}

impl Cluster {
    /// Makes a cluster under `root` with page checksums and SCRAM; `password` is that of every role in it.
    /// Extra settings are lines of `postgresql.conf`. Not started.
    pub fn create(
        programs: &Programs,
        root: &Path,
        name: &str,
        password: &str,
        extra: &str,
    ) -> Result<Self> {
        programs.private_dir(root)?;
        let (data, secret) = (root.join("data"), root.join("password"));
        fs::write(&secret, password).doing("writing a password")?;
        programs.give(&secret)?;
        let mut initdb = programs.command("initdb");
        initdb
            .arg("-D")
            .arg(&data)
            .arg("--pwfile")
            .arg(&secret)
            .args([
                "-U",
                SUPERUSER,
                "-A",
                "scram-sha-256",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "-k",
                "-N",
                "--no-instructions",
            ]);
        run(initdb, b"", START)?.ok()?;
        fs::remove_file(&secret).doing("removing a password")?;
        let mut cluster = Self {
            name: name.into(),
            programs: programs.clone(),
            root: root.into(),
            port: 0,
            password: password.into(),
            server: None,
        };
        cluster.configure(extra)?;
        Ok(cluster)
    }

    /// A cluster that stands in `root/data` already, such as a restored one; settings are appended.
    pub fn adopt(
        programs: &Programs,
        root: &Path,
        name: &str,
        password: &str,
        extra: &str,
    ) -> Result<Self> {
        let mut cluster = Self {
            name: name.into(),
            programs: programs.clone(),
            root: root.into(),
            port: 0,
            password: password.into(),
            server: None,
        };
        cluster.configure(extra)?;
        Ok(cluster)
    }

    fn configure(&mut self, extra: &str) -> Result<()> {
        self.port = crate::ports::claim()?;
        let path = self.data().join("postgresql.conf");
        let mut conf = fs::read_to_string(&path).doing("reading postgresql.conf")?;
        // Small buffers: four servers share one machine. Shared memory in files of the cluster's own: what is killed
        // leaves nothing in /dev/shm. Nothing here weakens durability.
        conf.push_str(&format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nwal_level = replica\n\
             dynamic_shared_memory_type = mmap\nmax_wal_senders = 10\nmax_replication_slots = 10\nshared_buffers = 64MB\nmax_connections = 30\n\
             cluster_name = '{}'\nlog_line_prefix = '%m [%p] %q%u@%d '\n{extra}\n",
            self.port,
            self.root.display(),
            self.name,
        ));
        fs::write(&path, conf).doing("writing postgresql.conf")?;
        self.programs.give(&path)
    }

    /// Starts the server and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        let mut postgres = self.programs.command("postgres");
        postgres.arg("-D").arg(self.data());
        let log = self.root.join("server.log");
        self.server = Some(Daemon::start(
            &format!("postgres ({})", self.name),
            postgres,
            &log,
        )?);
        let until = Instant::now() + START;
        loop {
            match self.connect(SUPERUSER, "postgres") {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > until => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
            if let Some(server) = &mut self.server
                && server.ended().is_some()
            {
                let said = server.said();
                let tail: Vec<_> = said.lines().rev().take(5).collect();
                return failed(format!("{} did not start: {}", self.name, tail.join(" / ")));
            }
        }
    }

    /// Makes the roles: the agent's with REPLICATION, the citizens' with nothing, and the citizens' database.
    pub fn furnish(&self) -> Result<()> {
        let mut admin = self.connect(SUPERUSER, "postgres")?;
        let password = &self.password;
        admin
            .batch_execute(&format!(
                "create role {AGENT_ROLE} login replication password '{password}'; grant pg_monitor to {AGENT_ROLE};
                 create role {CITIZEN_ROLE} login password '{password}'"
            ))
            .doing("making roles")?;
        admin
            .batch_execute(&format!(
                "create database {} owner {CITIZEN_ROLE}",
                self.name
            ))
            .doing("making a database")?;
        self.connect(SUPERUSER, &self.name)?
            .batch_execute("create extension amcheck; create extension pg_visibility")
            .doing("making extensions (from postgresql-contrib)")
    }

    /// A session over loopback TCP with a password, as a citizen's program would open one.
    pub fn connect(&self, user: &str, database: &str) -> Result<Client> {
        session(self.port, user, &self.password, database)
    }

    /// Stops the server as an administrator does: `fast` breaks sessions off, checkpoints, and ends.
    pub fn stop_fast(&mut self) -> Result<Duration> {
        let began = Instant::now();
        if let Some(mut server) = self.server.take() {
            server.stop(Signal::INT)?;
        }
        Ok(began.elapsed())
    }

    /// SIGKILL to the server and all its processes; returns how many there were.
    pub fn kill(&mut self) -> usize {
        let killed = self.server.take().map_or(0, |mut s| s.kill());
        self.free_memory();
        killed
    }

    /// The kernel keeps a killed server's memory segment until somebody removes it.
    fn free_memory(&self) {
        let lines = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let segment = lines
            .lines()
            .nth(6)
            .and_then(|l| l.split_whitespace().nth(1));
        if let Some(segment) = segment {
            let mut ipcrm = Command::new("ipcrm");
            ipcrm.args(["-m", segment]);
            let _ = run(ipcrm, b"", Duration::from_secs(5));
        }
    }

    /// Numbers of its processes now.
    pub fn pids(&self) -> Vec<u32> {
        self.server.as_ref().map(Daemon::tree).unwrap_or_default()
    }

    /// Lets go of the server without ending it: its process was killed with others.
    pub fn forget(&mut self) {
        self.kill();
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The name, which is also that of the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes of all databases, as the server counts them.
    pub fn size(&self) -> Result<u64> {
        let sum: i64 = self
            .connect(SUPERUSER, "postgres")?
            .query_one(
                "select sum(pg_database_size(oid))::bigint from pg_database",
                &[],
            )
            .and_then(|r| r.try_get(0))
            .doing("asking for sizes")?;
        Ok(sum.unsigned_abs())
    }
}

/// A session on a loopback port with a password.
pub fn session(port: u16, user: &str, password: &str, database: &str) -> Result<Client> {
    Config::new()
        .host("127.0.0.1")
        .port(port)
        .user(user)
        .password(password)
        .dbname(database)
        .application_name("registry-desk")
        .connect_timeout(Duration::from_secs(5))
        .connect(NoTls)
        .doing(format_args!("connecting to {database} on port {port}"))
}

/// `0/5A1C2E80` as a number.
pub fn lsn(text: &str) -> Result<u64> {
    let parse = || {
        let (high, low) = text.split_once('/')?;
        Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
    };
    parse().doing(format_args!("reading the LSN {text:?}"))
}

/// A number as `0/5A1C2E80`.
pub fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}
