//! Whether a restored database is whole, and what it answers to the registry's own question.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::session::explain;
use crate::Result;

/// How many steps of SQLite's machine lie between two looks at the clock.
const STEPS: i32 = 100_000;

/// Asks SQLite whether the database is whole: `None` if it is, else the first thing that it found.
///
/// # Errors
/// When it cannot be opened or asked within that time.
pub fn quick_check(path: &Path, within: Duration) -> Result<Option<String>> {
    let conn = open(path, within).map_err(|error| explain(&error, path))?;
    let found: rusqlite::Result<String> =
        conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    match found {
        Ok(found) if found == "ok" => Ok(None),
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Ok(Some(error.to_string()))
            }
            _ => Err(explain(&error, path)),
        },
    }
}

/// Asks a question: true if the first column of the first row of the answer is a number other than 0.
///
/// # Errors
/// When it cannot be asked, or is not answered within that time.
pub fn probe(path: &Path, sql: &str, within: Duration) -> Result<bool> {
    let conn = open(path, within).map_err(|error| explain(&error, path))?;
    let holds: rusqlite::Result<bool> = conn.query_row(sql, [], |row| {
        Ok(match row.get_ref(0)? {
            ValueRef::Integer(number) => number != 0,
            ValueRef::Real(number) => number != 0.0,
            _ => false,
        })
    });
    match holds {
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(false),
        other => other.map_err(|error| explain(&error, path)),
    }
}

/// Opens a database that is ours alone. What it holds is foreign: nothing in its schema may do more than answer, and
/// nothing is changed.
fn open(path: &Path, within: Duration) -> rusqlite::Result<Connection> {
    // Not to read only: a database in WAL mode then leaves no files behind.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.execute_batch("PRAGMA query_only = ON")?;
    let until = Instant::now() + within;
    conn.progress_handler(STEPS, Some(move || Instant::now() >= until))?;
    Ok(conn)
}
