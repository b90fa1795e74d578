//! What citizens were told: one line for every transaction whose COMMIT returned, kept outside home.
//!
//! A line is `tx,kind,rows,fact,micros,lsn`. `micros` is wall time at the moment COMMIT returned; `lsn` is
//! the server's insert position asked for right after, in the same session: WAL up to it holds the commit. An empty
//! `lsn` means that the server died before it could be asked.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Doing, Result};
use crate::pg;

/// One transaction that the server acknowledged to a citizen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The citizen's number for it, rising within a registry.
    pub tx: i64,
    /// What it was, such as `birth`.
    pub kind: String,
    /// Rows that carry its number.
    pub rows: i64,
    /// A figure recomputed from those rows: a code, or cents moved.
    pub fact: i64,
    /// When COMMIT returned, microseconds since 1970.
    pub micros: u64,
    /// WAL up to here holds it.
    pub lsn: Option<u64>,
}

/// Where one registry's citizens write down what they were told.
#[derive(Debug)]
pub struct Journal(File);

impl Journal {
    /// Opens `<dir>/<registry>.csv` to append to.
    pub fn open(dir: &Path, registry: &str) -> Result<Self> {
        fs::create_dir_all(dir).doing("making a directory for journals")?;
        let path = dir.join(format!("{registry}.csv"));
        let file = File::options().create(true).append(true).open(&path);
        Ok(Self(
            file.doing(format_args!("opening {}", path.display()))?,
        ))
    }

    /// Writes one line at once, so that it survives the writer.
    pub fn write(&mut self, told: &Told) -> Result<()> {
        let lsn = told.lsn.map(pg::lsn_text).unwrap_or_default();
        let line = format!(
            "{},{},{},{},{},{lsn}\n",
            told.tx, told.kind, told.rows, told.fact, told.micros
        );
        self.0.write_all(line.as_bytes()).doing("writing a journal")
    }
}

/// Reads a registry's journal.
pub fn read(dir: &Path, registry: &str) -> Result<Vec<Told>> {
    let path = dir.join(format!("{registry}.csv"));
    let text = fs::read_to_string(&path).doing(format_args!("reading {}", path.display()))?;
    text.lines()
        .map(|line| parse(line).doing(format_args!("reading {line:?} in {}", path.display())))
        .collect()
}

fn parse(line: &str) -> Option<Told> {
    let f: Vec<_> = line.split(',').collect();
    let [tx, kind, rows, fact, micros, lsn] = f.as_slice() else {
        return None;
    };
    Some(Told {
        tx: tx.parse().ok()?,
        kind: (*kind).into(),
        rows: rows.parse().ok()?,
        fact: fact.parse().ok()?,
        micros: micros.parse().ok()?,
        lsn: if lsn.is_empty() {
            None
        } else {
            Some(pg::lsn(lsn).ok()?)
        },
    })
}

/// Wall time, microseconds since 1970.
pub fn now_micros() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
        .unwrap_or(0)
}
