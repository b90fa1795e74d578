//! A directory as a source: only what changed is read and sealed.

use std::collections::BTreeMap;
use std::time::Duration;

use legation_core::manifest::{Entry, EntryKind};
use legation_core::source::{Sink, SourceError, SourceResult};
use legation_registry::tree;

use super::index::Index;
use super::version::{Taken, source_failure};
use super::whole::Driver;
use crate::config::agent::Tree as Config;
use crate::exit::{Code, Failure};
use crate::stop::Stop;

/// How many unreadable paths a message names.
const NAMED: usize = 3;

impl Driver for Config {
    fn kind(&self) -> &'static str {
        "tree"
    }

    fn name(&self) -> &'static str {
        "files"
    }

    fn every(&self) -> Duration {
        self.every.0
    }

    /// Walks without keeping anything, up to the first difference.
    fn is_unchanged(&self, parent: &Index, stop: &Stop) -> Result<bool, Failure> {
        let mut watch = Watch::new(parent);
        match walk(self, &parent.known(), &mut watch, stop) {
            Ok(report) => Ok(report.incomplete.is_empty() && watch.saw_no_change()),
            Err(_) if watch.changed => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    fn take(&self, parent: &Index, sink: &mut dyn Sink, stop: &Stop) -> Result<Taken, Failure> {
        let mut count = Count { sink, bytes: 0 };
        let report = walk(self, &parent.known(), &mut count, stop)?;
        if let Some(failure) = incomplete(&report) {
            return Err(failure);
        }
        Ok(Taken {
            wal: None,
            epochs: Default::default(),
            stats: report.stats,
            memo: Vec::new(),
            entries: report.entries,
            bytes: count.bytes,
            found: Default::default(),
        })
    }
}

fn walk(
    config: &Config,
    known: &tree::Known,
    sink: &mut dyn Sink,
    stop: &Stop,
) -> Result<tree::TreeReport, Failure> {
    tree::capture(&config.path, known, sink, &|| stop.is_up()).map_err(source_failure)
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
