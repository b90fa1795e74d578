//! Makes a restored data directory safe to start, and gives it its WAL. What the registry's own configuration asked
//! for at home (archiving, standbys, libraries, addresses) must not act abroad: it is set aside, and a small
//! configuration of our own takes its place. Plan first; then exactly the plan is carried out.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use legation_core::id::{Lsn, Timeline};
use legation_core::source::SourceResult;

use super::control::ControlFile;
use super::facts::Facts;
use super::server::{Binaries, RunAs};
use super::spaces;
use super::walfile::{Switch, WalWriter};
use crate::error::Context;
use crate::{Error, Result};

/// Captured settings that may take effect abroad; any other stays aside. The list is of what changes meaning only.
const CARRIED: [&str; 11] = [
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "default_text_search_config",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "search_path",
    "bytea_output",
    "standard_conforming_strings",
    "default_transaction_isolation",
];
/// Files of the captured configuration: kept beside ours under this suffix, and never read.
const CONFIGURATION: [&str; 4] = [
    "postgresql.conf",
    "postgresql.auto.conf",
    "pg_hba.conf",
    "pg_ident.conf",
];
const ASIDE: &str = ".captured";
/// Signs of the life at home, without meaning abroad.
const REMOVED: [&str; 6] = [
    "postmaster.pid",
    "postmaster.opts",
    "standby.signal",
    "recovery.signal",
    "recovery.conf",
    "current_logfiles",
];
/// Prepared transactions are replayed into memory of a fixed size: home may have raised it after the base, and the replay
/// would end where it does not fit. A slot takes some hundred bytes.
const LEAST_PREPARED: u32 = 256;
/// The same for the locks that they hold.
const LEAST_LOCKS: u32 = 128;
/// `sun_path` holds 108 bytes with its end; the socket's own name takes up to 16.
const MAX_SOCKET_DIR: usize = 108 - 1 - 16;

/// Where to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// After everything that is kept.
    EndOfWal,
    /// After every record that ends at or before this position.
    Lsn(Lsn),
}

/// What one base and the WAL after it can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The base is consistent from here on.
    pub from: Lsn,
    /// The end of the kept WAL.
    pub to: Lsn,
}

/// How a version will be made to run, before anything is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the version says of its source.
    pub facts: Facts,
    /// What can be reached.
    pub window: Window,
    /// The first WAL byte that is needed: the start of a segment.
    pub wal_from: Lsn,
    /// Replay ends here: WAL from this byte on is not given to the server.
    pub until: Lsn,
}

impl Plan {
    /// Checks that `target` can be reached from the base with the WAL kept from `first` up to `end`.
    pub fn new(facts: Facts, first: Lsn, end: Lsn, target: Target) -> Result<Self> {
        let window = Window {
            from: facts.stop,
            to: end,
        };
        let wal_from = facts.segment_start(facts.start);
        if first > wal_from || end < facts.stop {
            return Err(Error::refused(
                format!(
                    "this base needs WAL from {wal_from} to {}, and {first} to {end} is kept",
                    facts.stop
                ),
                "choose an earlier version, or wait until the embassy has the rest",
            ));
        }
        let until = match target {
            Target::EndOfWal => end,
            Target::Lsn(lsn) if (window.from..=window.to).contains(&lsn) => lsn,
            Target::Lsn(lsn) => {
                return Err(Error::refused(
                    format!(
                        "{lsn} cannot be reached: this version reaches from {} to {}",
                        window.from, window.to
                    ),
                    if lsn < window.from {
                        "choose an earlier version"
                    } else {
                        "choose a later version, or the end of the WAL"
                    },
                ));
            }
        };
        Ok(Plan {
            facts,
            window,
            wal_from,
            until,
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PostgreSQL {} (timeline {}), base from {} to {}, replayed to {}; reachable {} to {}",
            self.facts.major,
            self.facts.timeline,
            self.facts.start,
            self.facts.stop,
            self.until,
            self.window.from,
            self.window.to
        )
    }
}

/// How logins over TCP are checked. On the Unix socket everybody who can enter its directory (0700) is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpAuth {
    /// By the passwords that the registry had at home.
    Scram,
    /// Not at all: for demonstrations on a loopback address.
    Trust,
    /// Nobody is let in until [`Server::admit`](super::Server::admit).
    Reject,
}

/// How the restored server is to run.
#[derive(Debug, Clone)]
pub struct Serve {
    /// Where its Unix socket lies; made with mode 0700 if absent.
    pub socket_dir: PathBuf,
    /// Its port.
    pub port: u16,
    /// `listen_addresses`; empty for the Unix socket only.
    pub listen: String,
    /// See [`TcpAuth`].
    pub tcp_auth: TcpAuth,
    /// Sessions begin read-only. A session may change that for itself: a guard against mistakes, not against intent.
    pub read_only: bool,
    /// Off only where the copy is thrown away.
    pub fsync: bool,
    /// `shared_buffers` in MiB.
    pub shared_buffers_mib: u32,
    /// Who runs it: needed when we are root.
    pub run_as: Option<RunAs>,
    /// Where its log goes; outside the data directory.
    pub log: PathBuf,
}

impl Serve {
    /// A server for `data_dir` on a Unix socket beside it only.
    pub fn beside(data_dir: &Path, port: u16, run_as: Option<RunAs>) -> Self {
        let near = |suffix: &str| {
            let mut path = data_dir.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        };
        Serve {
            socket_dir: near(".run"),
            port,
            listen: String::new(),
            tcp_auth: TcpAuth::Scram,
            read_only: false,
            fsync: true,
            shared_buffers_mib: 128,
            run_as,
            log: near(".log"),
        }
    }
}

/// Some WAL, in order.
#[derive(Debug, Clone)]
pub struct WalPiece {
    /// Its timeline.
    pub timeline: Timeline,
    /// The position of its first byte.
    pub start: Lsn,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Turns `data_dir`, into which the version was restored, into one that [`super::Server::start`] can start: checks
/// that it is what the plan says, refuses links that leave it, sets the captured configuration aside, writes the WAL
/// up to `plan.until`, and leaves it to archive recovery. `wal` must give ascending pieces; what overlaps must be equal.
/// Returns what could not be carried over, in words.
pub fn prepare(
    data_dir: &Path,
    plan: &Plan,
    serve: &Serve,
    wal: &mut dyn Iterator<Item = SourceResult<WalPiece>>,
) -> Result<Vec<String>> {
    RunAs::check(serve.run_as.as_ref())?;
    super::locale::check(&plan.facts)?;
    let control = check_directory(data_dir, &plan.facts)?;
    for name in REMOVED {
        remove(&data_dir.join(name))?;
    }
    for name in CONFIGURATION {
        let (from, to) = (data_dir.join(name), data_dir.join(format!("{name}{ASIDE}")));
        match fs::rename(&from, &to) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => other.at(|| format!("set {} aside", from.display()))?,
        }
    }
    let mut writer = WalWriter::new(data_dir.join("pg_wal"), plan)?;
    for piece in wal {
        if writer.accept(&piece?)? {
            break;
        }
    }
    let switches = writer.finish()?;
    history(&data_dir.join("pg_wal"), &plan.facts, &switches)?;
    let (carried, notes) = carried(&plan.facts);
    write_new(
        &data_dir.join("postgresql.conf"),
        configuration(
            data_dir,
            &carried,
            serve,
            &control,
            (plan.facts.major, switches.last()),
        )?
        .as_bytes(),
    )?;
    write_new(
        &data_dir.join("postgresql.auto.conf"),
        b"# Set aside: see postgresql.auto.conf.captured\n",
    )?;
    write_new(&data_dir.join("pg_hba.conf"), access(serve).as_bytes())?;
    write_new(&data_dir.join("pg_ident.conf"), b"")?;
    write_new(&data_dir.join("recovery.signal"), b"")?;
    socket_dir(serve)?;
    own(data_dir, serve.run_as.as_ref(), true)?;
    Ok(notes)
}

/// Writes the file that leads replay over the switches: the base's own ancestry, and what followed.
fn history(pg_wal: &Path, facts: &Facts, switches: &[Switch]) -> Result<()> {
    let Some(last) = switches.last() else {
        return Ok(());
    };
    let name = |timeline: Timeline| pg_wal.join(format!("{:08X}.history", timeline.0));
    let mut text = match facts.timeline.0 {
        1 => String::new(),
        _ => {
            let of_base = name(facts.timeline);
            fs::read_to_string(&of_base).at(|| of_base.display().to_string())?
        }
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for switch in switches {
        text.push_str(&format!("{}\t{}\tas captured\n", switch.from, switch.at));
    }
    let path = name(last.to);
    remove(&path)?;
    write_new(&path, text.as_bytes())
}

fn check_directory(data_dir: &Path, facts: &Facts) -> Result<ControlFile> {
    let read = |name: &str| {
        let path = data_dir.join(name);
        fs::read(&path).at(|| path.display().to_string())
    };
    let version = read("PG_VERSION")?;
    if version.trim_ascii() != facts.major.to_string().as_bytes() {
        return Err(mismatch(&format!(
            "{} is not of PostgreSQL {}",
            data_dir.display(),
            facts.major
        )));
    }
    let control = ControlFile::parse(&read("global/pg_control")?)?;
    if control.system_id != facts.system_id || control.wal_segment_size != facts.wal_segment_size {
        return Err(mismatch(&format!(
            "{} is of another cluster than the version says",
            data_dir.display()
        )));
    }
    if !data_dir.join("backup_label").is_file() {
        return Err(mismatch(&format!(
            "{} has no backup_label",
            data_dir.display()
        )));
    }
    spaces::forget_links(data_dir)?;
    // Links are looked at before anything is written: a link is how a restore would reach out of its directory.
    own(data_dir, None, false)?;
    Ok(control)
}

fn mismatch(what: &str) -> Error {
    Error::refused(what, "restore the version again into an empty directory")
}

/// Walks the directory, refuses what is neither file nor directory, and with `set` gives everything to the server's
/// user with the modes that PostgreSQL wants.
fn own(dir: &Path, run_as: Option<&RunAs>, set: bool) -> Result<()> {
    let mut waiting = vec![dir.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).at(|| path.display().to_string())?;
        let kind = meta.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap_or_default();
            return Err(Error::refused(
                format!(
                    "{} is a link to {}: it would leave the restored directory",
                    path.display(),
                    target.display()
                ),
                "no version of this product holds such a link: restore the version again into an empty directory",
            ));
        }
        if !kind.is_dir() && !kind.is_file() {
            return Err(Error::refused(
                format!("{} is neither file nor directory", path.display()),
                "remove it at home",
            ));
        }
        if set {
            if let Some(user) = run_as {
                chown(&path, Some(user.uid), Some(user.gid))
                    .at(|| format!("give {} to {}", path.display(), user.name))?;
            }
            let mode = if kind.is_dir() { 0o700 } else { 0o600 };
            if meta.mode() & 0o7777 != mode {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                    .at(|| path.display().to_string())?;
            }
        }
        if kind.is_dir() {
            for entry in fs::read_dir(&path).at(|| path.display().to_string())? {
                waiting.push(entry.at(|| path.display().to_string())?.path());
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.at(|| format!("remove {}", path.display())),
    }
}

/// Creates a file that is not there yet.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .at(|| path.display().to_string())?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .at(|| path.display().to_string())
}

fn socket_dir(serve: &Serve) -> Result<()> {
    let dir = &serve.socket_dir;
    if dir.as_os_str().len() > MAX_SOCKET_DIR {
        return Err(Error::refused(
            format!("{} is too long to hold a Unix socket", dir.display()),
            format!("choose a directory of at most {MAX_SOCKET_DIR} bytes"),
        ));
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(dir).at(|| dir.display().to_string())?;
            // Whoever can enter is trusted, so nobody else may.
            if !meta.is_dir() || meta.mode() & 0o077 != 0 {
                return Err(Error::refused(
                    format!(
                        "{} is open to others: whoever enters it is trusted by the server",
                        dir.display()
                    ),
                    format!("chmod 700 {}", dir.display()),
                ));
            }
        }
        other => other.at(|| dir.display().to_string())?,
    }
    if let Some(user) = &serve.run_as {
        chown(dir, Some(user.uid), Some(user.gid)).at(|| dir.display().to_string())?;
    }
    Ok(())
}

fn access(serve: &Serve) -> String {
    let mut text = String::from(
        "# Written by Legation. The captured file is pg_hba.conf.captured and is not read.\n\
         local all all trust\n\
         local replication all trust\n",
    );
    if !serve.listen.is_empty() {
        text.push_str(&over_tcp(serve.tcp_auth));
    }
    text
}

fn over_tcp(auth: TcpAuth) -> String {
    let method = match auth {
        TcpAuth::Scram => "scram-sha-256",
        TcpAuth::Trust => "trust",
        TcpAuth::Reject => "reject",
    };
    format!("host all all all {method}\n")
}

/// Replaces how logins over TCP are checked in the file of a running server, which reads it when it is told to.
pub(super) fn admit(data_dir: &Path, auth: TcpAuth, run_as: Option<&RunAs>) -> Result<()> {
    let path = data_dir.join("pg_hba.conf");
    let text = fs::read_to_string(&path).at(|| path.display().to_string())?;
    let mut lines: Vec<_> = text.lines().filter(|l| !l.starts_with("host ")).collect();
    let host = over_tcp(auth);
    lines.push(&host);
    let new = data_dir.join("pg_hba.conf.new");
    remove(&new)?;
    write_new(&new, lines.join("\n").as_bytes())?;
    if let Some(user) = run_as {
        chown(&new, Some(user.uid), Some(user.gid)).at(|| new.display().to_string())?;
    }
    fs::rename(&new, &path).at(|| path.display().to_string())
}

/// The captured settings that take effect here, and what became of the others. A time zone or a locale that is unknown
/// here would keep the server from starting: the server's own program is asked, without starting anything.
fn carried(facts: &Facts) -> (Vec<(&'static str, String)>, Vec<String>) {
    let captured: BTreeMap<_, _> = facts
        .settings
        .iter()
        .map(|(k, v)| (k.to_lowercase(), v))
        .collect();
    let mut settings: Vec<(&'static str, String)> = CARRIED
        .into_iter()
        .filter_map(|name| Some((name, (*captured.get(&name.to_lowercase())?).clone())))
        .filter(|(_, value)| !value.contains(|c: char| c.is_control()))
        .collect();
    // Where the program is missing nothing can be started either.
    let Ok(binaries) = Binaries::find(facts.major) else {
        return (settings, Vec::new());
    };
    let mut notes = Vec::new();
    if !binaries.accepts(&settings) {
        settings.retain(|one| {
            let known = binaries.accepts(std::slice::from_ref(one));
            if !known {
                let (name, value) = one;
                notes.push(format!(
                    "{name} was {value:?} at home, which is unknown here: the default is used"
                ));
            }
            known
        });
    }
    (settings, notes)
}

/// Our own `postgresql.conf`. Everything not named keeps PostgreSQL's default, which reaches nowhere; what could reach
/// out is named all the same, so that a reader sees it.
fn configuration(
    data_dir: &Path,
    carried: &[(&'static str, String)],
    serve: &Serve,
    control: &ControlFile,
    (major, last): (u32, Option<&Switch>),
) -> Result<String> {
    let on = |b: bool| if b { "on" } else { "off" }.to_owned();
    let path = |p: &Path| {
        p.to_str().map(str::to_owned).ok_or_else(|| {
            Error::refused(
                format!("{} is no UTF-8", p.display()),
                "choose another path",
            )
        })
    };
    let mut settings: Vec<(&str, String)> = vec![
        ("listen_addresses", serve.listen.clone()),
        ("port", serve.port.to_string()),
        ("unix_socket_directories", path(&serve.socket_dir)?),
        ("unix_socket_permissions", "0700".into()),
        ("hba_file", path(&data_dir.join("pg_hba.conf"))?),
        ("ident_file", path(&data_dir.join("pg_ident.conf"))?),
        ("ssl", "off".into()),
        // Nothing may reach out or load what came from home.
        ("archive_mode", "off".into()),
        ("archive_command", String::new()),
        ("archive_cleanup_command", String::new()),
        ("recovery_end_command", String::new()),
        ("primary_conninfo", String::new()),
        ("primary_slot_name", String::new()),
        ("synchronous_standby_names", String::new()),
        ("shared_preload_libraries", String::new()),
        ("session_preload_libraries", String::new()),
        ("local_preload_libraries", String::new()),
        ("max_logical_replication_workers", "0".into()),
        ("jit", "off".into()),
        // Recovery: only the WAL in pg_wal, to its end, on the timeline of the base or the one that it was seen to go on in.
        ("restore_command", "false".into()),
        (
            "recovery_target_timeline",
            last.map_or_else(|| "current".into(), |switch| switch.to.to_string()),
        ),
        ("recovery_init_sync_method", "syncfs".into()),
        ("hot_standby", "off".into()),
        // Tablespaces are directories in the data directory here, which recovery takes for damage otherwise.
        ("allow_in_place_tablespaces", "on".into()),
        // At least as much as at home, or prepared transactions and locks in the WAL do not fit.
        (
            "max_connections",
            control.max_connections.max(20).to_string(),
        ),
        (
            "max_worker_processes",
            control.max_worker_processes.to_string(),
        ),
        (
            "max_wal_senders",
            control.max_wal_senders.max(4).to_string(),
        ),
        (
            "max_prepared_transactions",
            control
                .max_prepared_transactions
                .max(LEAST_PREPARED)
                .to_string(),
        ),
        (
            "max_locks_per_transaction",
            control
                .max_locks_per_transaction
                .max(LEAST_LOCKS)
                .to_string(),
        ),
        ("track_commit_timestamp", on(control.track_commit_timestamp)),
        ("wal_level", "replica".into()),
        // In files of the data directory: what queries share stays on the volume and goes with it, whatever is killed.
        ("dynamic_shared_memory_type", "mmap".into()),
        (
            "shared_buffers",
            format!("{}MB", serve.shared_buffers_mib.max(1)),
        ),
        ("fsync", on(serve.fsync)),
        ("full_page_writes", on(serve.fsync)),
        ("default_transaction_read_only", on(serve.read_only)),
        ("log_destination", "stderr".into()),
        ("logging_collector", "off".into()),
        ("log_line_prefix", "%m [%p] ".into()),
        ("lc_messages", "C".into()),
    ];
    if major >= 18 {
        // Not io_uring: its requests could not be served by a file system that fetches what is read.
        settings.push(("io_method", "worker".into()));
    }
    settings.extend(carried.iter().cloned());
    let mut text = String::from(
        "# Written by Legation. The captured file is postgresql.conf.captured and is not read.\n",
    );
    for (name, value) in settings {
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        text.push_str(&format!("{name} = '{value}'\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
