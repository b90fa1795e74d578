//! Capturing a directory: walked at its own cadence, only what changed is read and sealed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use legation_core::manifest::{Entry, EntryKind};
use legation_core::source::{Sink, SourceError, SourceResult};
use legation_registry::tree;

use super::index::Index;
use super::link::Backoff;
use super::request::Request;
use super::status::now_ms;
use super::version::{Taken, Versions, source_failure};
use crate::config::agent::Tree as Config;
use crate::exit::{Code, Failure};

/// How often requests and the stop flag are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How many unreadable paths a message names.
const NAMED: usize = 3;

/// A directory of a registry.
pub struct Tree {
    /// Where and how often.
    pub config: Config,
    /// Takes the versions.
    pub versions: Versions,
}

impl Tree {
    /// Captures until told to stop.
    pub fn run(self) {
        let stop = &self.versions.stop;
        let mut backoff = Backoff::default();
        let mut due = Instant::now();
        while !stop.is_up() {
            let request = Request::look(&self.versions.dir);
            if self.versions.is_pending() || (Instant::now() < due && request.is_none()) {
                stop.wait(LOOK);
                continue;
            }
            let began = Instant::now();
            self.phase("capturing");
            let taken = Request::take(&self.versions.dir);
            let full = |request: Option<Request>| request.is_some_and(|request| request.full);
            match taken.and_then(|request| self.capture(full(request))) {
                Ok(()) => {
                    backoff.reset();
                    Request::done(&self.versions.dir);
                    due = began + self.config.every.0;
                    self.phase("waiting");
                }
                Err(failure) if failure.code == Code::Interrupted => return,
                Err(failure) => {
                    tracing::error!(registry = %self.versions.registry, "{failure}");
                    self.versions.board.registry(&self.versions.name, |status| {
                        status.trouble = Some(failure.message.clone());
                    });
                    self.phase("failing");
                    stop.wait(backoff.pause());
                }
            }
        }
    }

    fn capture(&self, full: bool) -> Result<(), Failure> {
        let parent = if full {
            self.versions.no_parent()
        } else {
            self.versions.parent()
        };
        let known = parent.known();
        let began = now_ms();
        if parent.entries().next().is_some() && self.is_unchanged(&parent, &known)? {
            self.versions.board.registry(&self.versions.name, |status| {
                status.unchanged_at = Some(began);
                status.trouble = None;
            });
            return Ok(());
        }
        // Not for what did not change: a version that needs too many epochs is made anew with the next that is due.
        let anew = self.versions.is_outgrown(&parent);
        let parent = if anew {
            self.versions.no_parent()
        } else {
            parent
        };
        let known = if anew { parent.known() } else { known };
        self.versions
            .capture("tree", "files", &parent, |sink: &mut dyn Sink| {
                let mut count = Count { sink, bytes: 0 };
                let report = self.walk(&known, &mut count)?;
                if let Some(failure) = incomplete(&report) {
                    return Err(failure);
                }
                Ok(Taken {
                    wal: None,
                    epochs: Default::default(),
                    stats: report.stats,
                    entries: report.entries,
                    bytes: count.bytes,
                })
            })?;
        Ok(())
    }

    /// Walks without keeping anything, up to the first difference: a version of what did not change is not made, and
    /// costs neither packs nor an epoch.
    fn is_unchanged(&self, parent: &Index, known: &tree::Known) -> Result<bool, Failure> {
        let mut watch = Watch::new(parent);
        match self.walk(known, &mut watch) {
            Ok(report) => Ok(report.incomplete.is_empty() && watch.saw_no_change()),
            Err(_) if watch.changed => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    fn walk(&self, known: &tree::Known, sink: &mut dyn Sink) -> Result<tree::TreeReport, Failure> {
        let stop = &self.versions.stop;
        tree::capture(&self.config.path, known, sink, &|| stop.is_up()).map_err(source_failure)
    }

    fn phase(&self, phase: &str) {
        self.versions
            .board
            .registry(&self.versions.name, |status| status.phase = phase.into());
    }
}

/// Passes everything on and counts the bytes of the files.
struct Count<'a> {
    sink: &'a mut dyn Sink,
    bytes: u64,
}

impl Sink for Count<'_> {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        self.bytes += entry.size;
        self.sink.begin(entry)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        self.sink.data(offset, bytes)
    }

    fn end(&mut self) -> SourceResult<()> {
        self.sink.end()
    }

    fn unchanged(&mut self, entry: Entry) -> SourceResult<()> {
        self.bytes += entry.size;
        self.sink.unchanged(entry)
    }

    fn meta(&mut self, key: &str, value: &str) -> SourceResult<()> {
        self.sink.meta(key, value)
    }
}

/// Keeps nothing, and ends the walk at the first entry that differs from the parent version.
struct Watch<'a> {
    parent: BTreeMap<&'a [u8], &'a Entry>,
    entries: usize,
    changed: bool,
}

impl<'a> Watch<'a> {
    fn new(parent: &'a Index) -> Watch<'a> {
        Watch {
            parent: parent
                .entries()
                .map(|entry| (entry.path.as_slice(), entry))
                .collect(),
            entries: 0,
            changed: false,
        }
    }

    fn saw_no_change(&self) -> bool {
        !self.changed && self.entries == self.parent.len()
    }

    fn note(&mut self, entry: &Entry, read_again: bool) -> SourceResult<()> {
        self.entries += 1;
        let same = self.parent.get(entry.path.as_slice()).is_some_and(|known| {
            (
                &known.kind,
                known.mode,
                known.uid,
                known.gid,
                known.mtime,
                known.size,
                &known.xattrs,
            ) == (
                &entry.kind,
                entry.mode,
                entry.uid,
                entry.gid,
                entry.mtime,
                entry.size,
                &entry.xattrs,
            )
        });
        // A file that is read again may hold other bytes under the same size and times.
        self.changed = read_again || !same;
        if self.changed {
            Err(SourceError::Stopped)
        } else {
            Ok(())
        }
    }
}

impl Sink for Watch<'_> {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        let read_again = entry.kind == EntryKind::File;
        self.note(&entry, read_again)
    }

    fn data(&mut self, _offset: u64, _bytes: &[u8]) -> SourceResult<()> {
        Ok(())
    }

    fn end(&mut self) -> SourceResult<()> {
        Ok(())
    }

    fn unchanged(&mut self, entry: Entry) -> SourceResult<()> {
        self.note(&entry, false)
    }

    fn meta(&mut self, _key: &str, _value: &str) -> SourceResult<()> {
        Ok(())
    }
}

/// A version with a hole is no version: it says what is missing instead.
fn incomplete(report: &tree::TreeReport) -> Option<Failure> {
    let first: Vec<String> = report
        .incomplete
        .iter()
        .take(NAMED)
        .map(|hole| format!("{}: {}", String::from_utf8_lossy(&hole.path), hole.why))
        .collect();
    if first.is_empty() {
        return None;
    }
    let more = report.incomplete.len() - first.len();
    let tail = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Some(
        Failure::new(
            Code::SourceIncomplete,
            format!("not all could be read: {}{tail}", first.join("; ")),
        )
        .hint("give the agent's user leave to read them"),
    )
}
