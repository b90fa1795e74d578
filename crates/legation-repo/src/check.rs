//! The checker: every stored byte of a state, without any key that opens data, and never stopping at the first damage.
//!
//! What it proves, from the bytes alone: that each object is the one of its name, whole, of a size of the table and of
//! this state; that each outboard belongs to its object; that each list's packs are there; that each journal is one
//! chain; that the log's entries lead to the root that its key signed, and that what the log says was kept (lists, slips,
//! attachments, the last mark of each stream) is there. Memory is bounded: a part of an object, a segment's frame, a
//! bundle, and the names of packs.

mod journals;
mod log;
mod objects;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use legation_core::id::{Digest, StateId};
use legation_core::log::TreeHead;
use legation_core::release::ReleaseHead;

use crate::durable;
use crate::state::StateDir;
use crate::store::StoreError;

/// Most findings that are kept; more are counted.
pub const MAX_FINDINGS: usize = 10_000;
/// Largest piece of evidence: a frame is smaller than a request that brings it.
const MAX_EVIDENCE: u64 = 4 << 20;
/// Most threads that read objects.
const MAX_THREADS: usize = 16;

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing: `pack`, `journal`, `tile`.
    pub kind: &'static str,
    /// Its full name.
    pub name: String,
    /// The bytes that are damaged, where that is known.
    pub range: Option<Range<u64>>,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        if let Some(range) = &self.range {
            write!(
                f,
                ", bytes {}..{}",
                grouped(range.start),
                grouped(range.end)
            )?;
        }
        write!(f, ": {}", self.why)
    }
}

/// What was checked and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects read.
    pub objects: u64,
    /// Bytes read, of everything.
    pub bytes: u64,
    /// Journals read.
    pub journals: u64,
    /// Journal frames read.
    pub frames: u64,
    /// Log entries read.
    pub entries: u64,
    /// Attachments read.
    pub attachments: u64,
    /// Releases read.
    pub releases: u64,
    /// Pieces of evidence read.
    pub evidence: u64,
    /// The tree that the log's entries lead to and its key signed; `None` when it is not so.
    pub log: Option<TreeHead>,
    /// Damage, in the order of names within a kind. At most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more: u64,
    /// The check was broken off: not everything was read.
    pub interrupted: bool,
}

impl Report {
    /// Whether everything was read and nothing was found.
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty() && self.more == 0 && !self.interrupted
    }
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Things read: objects, frames, entries, attachments.
    pub things: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// Checks the directory of `state` below `path`, with `threads` (1 to 16) reading objects. A running embassy may go on
/// writing meanwhile. `go_on` is called often, from any thread; after it said no, the report tells what was found until
/// then, and that it was not all.
///
/// # Errors
/// `NotFound` or `Format` when there is no such store. Damage is no error: it is in the report.
pub fn check(
    path: &Path,
    state: &StateId,
    threads: usize,
    go_on: &(dyn Fn(Progress) -> bool + Sync),
) -> Result<Report, StoreError> {
    let dir = StateDir::open_reader(path, state)?;
    let run = Run::new(go_on);
    // The log first: what it says was kept must be in the journals and among the objects, which only grow.
    let said = log::check(&dir, &run);
    objects::check(&dir, &said, threads.clamp(1, MAX_THREADS), &run);
    journals::check(&dir, &said, &run);
    attachments(&dir, &said, &run);
    releases(&dir, &run);
    evidence(&dir, &run);
    Ok(run.into_report(said.head))
}

/// How many bytes a check of this state will read, about: what its files hold now.
///
/// # Errors
/// `NotFound` or `Format` when there is no such store; `Io`.
pub fn bytes_of(path: &Path, state: &StateId) -> Result<u64, StoreError> {
    let root = StateDir::open_reader(path, state)?.root().to_owned();
    let failed = |at: &Path, why| StoreError::io(format!("read {}", at.display()), why);
    let (mut folders, mut bytes) = (vec![root], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|why| failed(&folder, why))? {
            let entry = entry.map_err(|why| failed(&folder, why))?;
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) => bytes += meta.len(),
                // A running embassy removes its temporary files.
                Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
                Err(why) => return Err(failed(&entry.path(), why)),
            }
        }
    }
    Ok(bytes)
}

/// What the log says was kept.
#[derive(Debug, Default)]
struct Said {
    /// The proven tree.
    head: Option<TreeHead>,
    /// Lists and slips, and the entries that name them.
    objects: std::collections::BTreeMap<(crate::store::Kind, Digest), u64>,
    /// The furthest mark of each stream.
    marks: std::collections::BTreeMap<journals::Stream, journals::Marked>,
    /// Attachments, and the entries that name them.
    attachments: std::collections::BTreeMap<legation_core::id::Sha256, u64>,
}

/// A check under way: counters and findings, shared by its threads.
struct Run<'a> {
    go_on: &'a (dyn Fn(Progress) -> bool + Sync),
    things: AtomicU64,
    bytes: AtomicU64,
    stopped: AtomicBool,
    report: Mutex<Report>,
}

impl<'a> Run<'a> {
    fn new(go_on: &'a (dyn Fn(Progress) -> bool + Sync)) -> Run<'a> {
        Run {
            go_on,
            stopped: AtomicBool::new(false),
            things: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            report: Mutex::default(),
        }
    }

    /// One more thing of `bytes` was read; `count` says which.
    fn read(&self, bytes: u64, count: impl FnOnce(&mut Report)) {
        let things = self.things.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.update(count);
        if !(self.go_on)(Progress { things, bytes }) {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn found(&self, finding: Finding) {
        self.update(|report| match report.findings.len() < MAX_FINDINGS {
            true => report.findings.push(finding),
            false => report.more += 1,
        });
    }

    fn update(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn into_report(self, head: Option<TreeHead>) -> Report {
        let mut report = self
            .report
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        report.bytes = self.bytes.into_inner();
        report.log = head;
        report.interrupted = self.stopped.into_inner();
        report
            .findings
            .sort_by(|a, b| (a.kind, &a.name, start(a)).cmp(&(b.kind, &b.name, start(b))));
        report
    }
}

fn start(finding: &Finding) -> u64 {
    finding.range.as_ref().map_or(0, |range| range.start)
}

fn attachments(dir: &StateDir, said: &Said, run: &Run<'_>) {
    const KIND: &str = "attachment";
    let found = |name: String, why: String| {
        run.found(Finding {
            kind: KIND,
            name,
            range: None,
            why,
        });
    };
    let names = match dir.attachments() {
        Ok(names) => names,
        Err(e) => return found("names".to_owned(), e.to_string()),
    };
    for name in names {
        if run.is_stopped() {
            return;
        }
        match dir.attachment(&name) {
            Ok(bytes) => {
                run.read(bytes.map_or(0, |b| b.len() as u64), |report| {
                    report.attachments += 1
                });
            }
            Err(StoreError::Damaged { why, .. }) => found(name.to_string(), why),
            Err(e) => found(name.to_string(), e.to_string()),
        }
    }
    for (name, entry) in &said.attachments {
        if matches!(dir.attachment(name), Ok(None)) {
            found(
                name.to_string(),
                format!("log entry {entry} names it and it is not there"),
            );
        }
    }
}

/// Each release has the bytes of its name, and says in the clear whose it is.
fn releases(dir: &StateDir, run: &Run<'_>) {
    let found = |name: String, why: String| {
        run.found(Finding {
            kind: "release",
            name,
            range: None,
            why,
        });
    };
    let orders = dir.released().and_then(|orders| {
        let each = orders.iter().map(|order| dir.releases_of(order));
        each.collect::<Result<Vec<_>, _>>()
    });
    let names = match orders {
        Ok(names) => names.concat(),
        Err(e) => return found("names".to_owned(), e.to_string()),
    };
    for name in names {
        if run.is_stopped() {
            return;
        }
        let told = format!("{} of order {}", name.digest, name.order);
        match dir.release(&name) {
            Ok(None) => {}
            Ok(Some(bytes)) => {
                run.read(bytes.len() as u64, |report| report.releases += 1);
                let its = ReleaseHead::read(&bytes).is_ok_and(|(head, _)| {
                    (head.state, &head.order, head.recipient)
                        == (*dir.state(), &name.order, name.recipient)
                });
                if !its {
                    found(
                        told,
                        "it is not for the order and key of its name".to_owned(),
                    );
                }
            }
            Err(StoreError::Damaged { why, .. }) => found(told, why),
            Err(e) => found(told, e.to_string()),
        }
    }
}

/// Each piece of evidence has the bytes of its name, which ends in their digest.
fn evidence(dir: &StateDir, run: &Run<'_>) {
    let found = |name: &str, why: String| {
        run.found(Finding {
            kind: "evidence",
            name: name.to_owned(),
            range: None,
            why,
        });
    };
    let entries = match std::fs::read_dir(dir.root().join("evidence")) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
        Err(e) => return found("names", e.to_string()),
    };
    for entry in entries {
        if run.is_stopped() {
            return;
        }
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => return found("names", e.to_string()),
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(durable::TEMPORARY) {
            continue;
        }
        match durable::read_bounded(&entry.path(), MAX_EVIDENCE) {
            Ok(bytes) => {
                run.read(bytes.len() as u64, |report| report.evidence += 1);
                if !name.ends_with(&format!("-{}", Digest::of(&bytes))) {
                    found(&name, "its bytes are not those of its name".to_owned());
                }
            }
            Err(e) => found(&name, e.to_string()),
        }
    }
}

/// A number with commas between thousands, as people read it.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests;
