//! The reckoning: what survived, found by plain SQL and plain reading of files, compared with what citizens wrote
//! down outside home.
//!
//! Takes from the program under test only what burdens it: how far it says it had acknowledged.

mod files;
mod pages;
mod sql;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

pub use files::{FilesFound, gazette};
pub use pages::{Pages, check_pages};
pub use sql::{Fingerprint, Found, Server, fingerprint, physical, read};

use crate::error::{Doing, Result};
use crate::fixtures::Registry;
use crate::journal::Told;
use crate::pg::lsn_text;

/// What one registry's reckoning came to.
#[derive(Debug, Clone)]
pub struct Account {
    /// Which.
    pub registry: Registry,
    /// WAL position up to which the embassy says it had acknowledged.
    pub acknowledged: u64,
    /// Transactions in the journal whose WAL ends at or before that.
    pub told: usize,
    /// Those of them that are there, whole and with the right figures.
    pub found: usize,
    /// Transactions in the journal altogether.
    pub journal: usize,
    /// Those that are not there.
    pub missing: Vec<Told>,
    /// Commit time of the youngest transaction found, microseconds; none when the journal holds none.
    pub as_of: Option<u64>,
    /// Rows now, over all tables of the registry.
    pub rows: u64,
    /// What is wrong; empty when the registry is intact.
    pub faults: Vec<String>,
    /// Things checked, in words, such as "sums to 0.00".
    pub notes: Vec<String>,
}

impl Account {
    /// Seconds of work lost: from the youngest commit found to the last one that anybody was told of. None when
    /// nothing was found; zero when nothing is missing.
    pub fn rpo(&self) -> Option<f64> {
        let last = self.missing.iter().map(|t| t.micros).max();
        self.as_of
            .map(|found| last.map_or(0.0, |last| last.saturating_sub(found) as f64 / 1e6))
    }
}

/// At most one transaction of a writer is under way when its server dies: it may have been committed untold.
const UNDER_WAY: usize = 1;
/// Faults of one kind that are spelled out before the rest is only counted.
const SPELLED: usize = 5;

/// Compares what is there with what citizens were told.
pub fn account(
    registry: Registry,
    told: &[Told],
    found: &Found,
    acknowledged: u64,
    before: &Fingerprint,
) -> Account {
    let mut faults = Vec::new();
    let mut missing = Vec::new();
    let (mut due, mut kept, mut as_of) = (0, 0, None);
    let mut torn = Vec::new();
    for t in told {
        let is_due = t.lsn.is_some_and(|l| l <= acknowledged);
        due += usize::from(is_due);
        match found.filed.get(&t.tx) {
            Some(f) if f.kind == t.kind && f.rows == t.rows && f.found == t.rows && f.fact == t.fact => {
                kept += usize::from(is_due);
                as_of = as_of.max(Some(t.micros));
            }
            Some(f) => torn.push(format!(
                "transaction {} was told {} with {} rows and figure {}, and is {} with {} of {} rows and figure {}",
                t.tx, t.kind, t.rows, t.fact, f.kind, f.found, f.rows, f.fact
            )),
            None => {
                if is_due {
                    let at = t.lsn.map(lsn_text).unwrap_or_default();
                    torn.push(format!("transaction {} at {at} was acknowledged and is not there", t.tx));
                }
                missing.push(t.clone());
            }
        }
    }
    // One writer commits in its own order, so what survived is a beginning of it, without holes.
    if let (Some(first), Some(last)) = (missing.first(), found.filed.keys().max())
        && first.tx < *last
    {
        torn.push(format!(
            "transaction {} is missing although {last} is there",
            first.tx
        ));
    }
    let known: HashSet<i64> = told.iter().map(|t| t.tx).collect();
    let untold = found.filed.keys().filter(|tx| !known.contains(tx)).count();
    if untold > UNDER_WAY {
        torn.push(format!(
            "{untold} transactions are there that nobody was told of"
        ));
    }
    torn.extend(
        found
            .filed
            .iter()
            .filter(|(_, f)| f.found != f.rows)
            .map(|(tx, f)| format!("transaction {tx} is torn: {} of {} rows", f.found, f.rows)),
    );
    torn.extend(
        found
            .stray
            .iter()
            .map(|tx| format!("rows carry transaction {tx}, which was never filed")),
    );
    shorten(&mut faults, torn);
    faults.extend(found.broken.iter().cloned());
    if &found.fingerprint != before {
        faults.push("rows of before the first writer differ from what was loaded".into());
    }
    Account {
        registry,
        acknowledged,
        told: due,
        found: kept,
        journal: told.len(),
        missing,
        as_of,
        rows: found.rows,
        faults,
        notes: found.notes.clone(),
    }
}

/// The first few, and how many more.
fn shorten(into: &mut Vec<String>, mut from: Vec<String>) {
    let more = from.len().saturating_sub(SPELLED);
    from.truncate(SPELLED);
    into.append(&mut from);
    if more > 0 {
        into.push(format!("and {more} more of the kind"));
    }
}

/// References from one registry to persons of another.
#[derive(Debug, Clone, Default)]
pub struct References {
    /// How many point to a person who is there.
    pub resolved: u64,
    /// Those that do not, to persons younger than the last acknowledgement of their registry: registry, transaction,
    /// personal code.
    pub younger: Vec<(Registry, i64, String)>,
    /// Those that do not, though the person was acknowledged, or never known to any journal.
    pub lost: Vec<(Registry, i64, String)>,
}

/// Resolves the references of other registries against the persons found.
pub fn references(
    found: &BTreeMap<Registry, Found>,
    population: &[Told],
    acknowledged: u64,
) -> References {
    let mut all = References::default();
    let none = HashSet::new();
    let persons = found
        .get(&Registry::Population)
        .map_or(&none, |f| &f.persons);
    // Children that were registered after what the embassy had of the population register.
    let young: HashSet<i64> = population
        .iter()
        .filter(|t| t.kind == "birth" && t.lsn.is_none_or(|l| l > acknowledged))
        .map(|t| t.fact)
        .collect();
    for (registry, f) in found {
        for (tx, code) in &f.references {
            if persons.contains(code) {
                all.resolved += 1;
            } else if code.parse().is_ok_and(|n: i64| young.contains(&n)) {
                all.younger.push((*registry, *tx, code.clone()));
            } else {
                all.lost.push((*registry, *tx, code.clone()));
            }
        }
    }
    all
}

/// Writes what was not yet abroad: transactions as `registry,tx,kind,told,lsn`, and acts of the gazette with their path
/// as the kind. Returns how many of either.
pub fn write_missing(
    path: &Path,
    accounts: &[Account],
    acts: &[(PathBuf, u64)],
) -> Result<(usize, usize)> {
    let mut text = String::from("registry,tx,kind,told_micros,lsn\n");
    let mut lines = 0;
    for a in accounts {
        for t in &a.missing {
            let lsn = t.lsn.map(lsn_text).unwrap_or_default();
            let _ = writeln!(
                text,
                "{},{},{},{},{lsn}",
                a.registry.name(),
                t.tx,
                t.kind,
                t.micros
            );
            lines += 1;
        }
    }
    for (act, told) in acts {
        let _ = writeln!(
            text,
            "{},,{},{told},",
            Registry::Gazette.name(),
            act.display()
        );
    }
    put(path, &text)?;
    Ok((lines, acts.len()))
}

/// Writes the younger references that point nowhere: `registry,tx,person`.
pub fn write_dangling(path: &Path, references: &References) -> Result<()> {
    let mut text = String::from("registry,tx,person\n");
    for (registry, tx, person) in references.younger.iter().chain(&references.lost) {
        let _ = writeln!(text, "{},{tx},{person}", registry.name());
    }
    put(path, &text)
}

fn put(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).doing("making a directory for the reckoning")?;
    }
    fs::write(path, text).doing(format_args!("writing {}", path.display()))
}

#[cfg(test)]
mod tests;
