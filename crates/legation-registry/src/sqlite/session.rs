//! One read transaction, held by SQLite's own connection, and the files that are read under it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, ffi};
use rustix::fs::{OFlags, fstat};

use super::header::Header;
use crate::error::Context;
use crate::{Error, Result};

/// How long a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a file that is replaced while it is opened is opened again.
const TRIES: u32 = 3;

/// How a database commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// By a write-ahead log: readers hold up nobody.
    Wal,
    /// By a rollback journal: who reads holds up who commits.
    Rollback,
}

impl Journal {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Journal::Wal => "wal",
            Journal::Rollback => "rollback",
        }
    }
}

/// Opens the database as a capture would, and says how it commits.
///
/// # Errors
/// Whatever a capture would say.
pub fn facts(path: &Path) -> Result<Journal> {
    Session::begin(path).map(|session| session.journal())
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    pub mtime: (i64, u32),
}

impl Stat {
    pub fn of(file: &File, path: &Path) -> Result<Stat> {
        let stat = fstat(file).at(|| path.display().to_string())?;
        Ok(Stat {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        })
    }
}

/// A read transaction: until it is dropped, what was committed at its begin can be read.
#[derive(Debug)]
pub(super) struct Session {
    /// First, so that it is closed first: whoever closes any handle of a file loses all of the process's locks on it.
    _conn: Connection,
    /// The database's file.
    pub db: File,
    /// Its header; `None` of an empty file.
    pub header: Option<Header>,
    /// The write-ahead log and its index.
    pub log: Option<Log>,
    /// Where the database lies, links resolved.
    pub path: PathBuf,
    /// When the transaction began.
    pub began: Instant,
}

/// The files of the write-ahead log.
#[derive(Debug)]
pub(super) struct Log {
    pub wal: File,
    pub wal_path: PathBuf,
    pub shm: File,
}

impl Session {
    pub fn begin(path: &Path) -> Result<Session> {
        for _ in 0..TRIES {
            if let Some(session) = Session::attempt(path)? {
                return Ok(session);
            }
        }
        Err(Error::refused(
            format!("{} was replaced each time it was opened", path.display()),
            "let the application write into the database instead of renaming new files over it",
        ))
    }

    /// `None` if the file was replaced meanwhile.
    fn attempt(path: &Path) -> Result<Option<Session>> {
        let (path, db) = open(path)?;
        let shown = || path.display().to_string();
        let header = Header::read(&db, &path)?;
        if header.is_some_and(|header| header.wal) {
            may_make_log(&db, &path)?;
        }
        let conn = connect(&path).map_err(|error| explain(&error, &path))?;
        let began = Instant::now();
        conn.execute_batch("BEGIN")
            .and_then(|()| conn.query_row("PRAGMA schema_version", [], |_| Ok(())))
            .map_err(|error| explain(&error, &path))?;
        // Under the lock: the journal mode cannot change any more.
        let header = Header::read(&db, &path)?;
        let now = match std::fs::metadata(&path) {
            Ok(now) => now,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(shown(), error)),
        };
        let held = Stat::of(&db, &path)?;
        if (held.dev, held.ino) != (dev_of(&now), ino_of(&now)) {
            return Ok(None);
        }
        let log = if header.is_some_and(|header| header.wal) {
            let (wal_path, shm_path) = (beside(&path, "-wal"), beside(&path, "-shm"));
            let open = |path: &Path| File::open(path).at(|| path.display().to_string());
            Some(Log {
                wal: open(&wal_path)?,
                shm: open(&shm_path)?,
                wal_path,
            })
        } else {
            None
        };
        Ok(Some(Session {
            _conn: conn,
            db,
            header,
            log,
            path,
            began,
        }))
    }

    pub fn journal(&self) -> Journal {
        if self.log.is_some() {
            Journal::Wal
        } else {
            Journal::Rollback
        }
    }
}

/// Opens the database's file, links resolved.
pub(super) fn open(path: &Path) -> Result<(PathBuf, File)> {
    let shown = || path.display().to_string();
    let real = std::fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::refused(
            format!("there is no database at {}", path.display()),
            "put the right path into the source, or let the application make its database first",
        ),
        io::ErrorKind::PermissionDenied => not_readable(path),
        _ => Error::io(shown(), error),
    })?;
    if !std::fs::metadata(&real).at(shown)?.is_file() {
        return Err(Error::refused(
            format!("{} is not a file", path.display()),
            "name the database file itself",
        ));
    }
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(&real)
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => not_readable(path),
            _ => Error::io(shown(), error),
        })?;
    Ok((real, file))
}

/// The name of a file beside the database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn dev_of(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::dev(meta)
}

fn ino_of(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

/// SQLite makes a missing log and index when a database is opened. Made by somebody else, the application may be shut
/// out of them: then it is not opened at all.
fn may_make_log(db: &File, path: &Path) -> Result<()> {
    let complete = ["-wal", "-shm"]
        .iter()
        .all(|suffix| beside(path, suffix).exists());
    let owner = fstat(db).at(|| path.display().to_string())?.st_uid;
    let user = rustix::process::geteuid();
    if complete || user.is_root() || user.as_raw() == owner {
        return Ok(());
    }
    Err(Error::refused(
        format!(
            "{} has no -wal and -shm file now, and this user is not its owner: files that it made could shut the \
             application out",
            path.display()
        ),
        "run the agent as the user who owns the database",
    ))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // To read only: it never writes into the database, rolls nothing back, and checkpoints nothing.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(PATIENCE)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(conn)
}

fn not_readable(path: &Path) -> Error {
    Error::refused(
        format!("{} may not be read by this user", path.display()),
        "run the agent as the user who owns the database",
    )
}

/// What SQLite's error means for whoever runs the agent.
pub(super) fn explain(error: &rusqlite::Error, path: &Path) -> Error {
    let at = path.display();
    let code = match error {
        rusqlite::Error::SqliteFailure(code, _) => code.extended_code,
        _ => 0,
    };
    let (what, fix) = match (code, code & 0xff) {
        (ffi::SQLITE_READONLY_ROLLBACK, _) => (
            format!("{at}: a writer died in the middle of a transaction and left a hot journal"),
            "start the application, or open the database once with sqlite3 as its owner: SQLite then rolls the \
             transaction back; the agent does not do that behind the application's back",
        ),
        (_, ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED) => (
            format!(
                "{at} was locked by another process for longer than {} s",
                PATIENCE.as_secs()
            ),
            "end long write transactions; PRAGMA locking_mode = EXCLUSIVE lets nobody else read, and must be NORMAL; \
             on a file system without locks (some network ones) no database can be captured",
        ),
        (_, ffi::SQLITE_NOTADB) => (
            format!("{at} is not a SQLite database, or is encrypted"),
            "name the database file itself; one that is encrypted is opened by its application alone",
        ),
        (_, ffi::SQLITE_CORRUPT) => (
            format!("{at} is damaged: {error}"),
            "let its application repair it; earlier versions are not touched",
        ),
        (_, ffi::SQLITE_READONLY | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM) => (
            format!("{at} cannot be opened: {error}"),
            "a database in WAL mode needs its -wal and -shm files beside it, on a medium that can be written; run the \
             agent as the user who owns the database",
        ),
        (_, ffi::SQLITE_IOERR) => (
            format!("{at}: {error} ({code})"),
            "the file system must give SQLite its locks and shared memory; put the database on a local one",
        ),
        _ => (
            format!("{at}: {error}"),
            "see whether sqlite3 opens the database",
        ),
    };
    Error::refused(what, fix)
}
