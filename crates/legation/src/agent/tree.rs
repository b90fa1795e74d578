//! A directory as a source: only what changed is read and sealed.

use std::time::Duration;

use legation_core::manifest::{Entry, EntryKind, Incomplete};
use legation_core::source::{Sink, SourceError, SourceResult};
use legation_registry::tree;

use super::index::{Index, told};
use super::version::{Taken, source_failure};
use super::whole::Driver;
use crate::config::agent::Tree as Config;
use crate::exit::Failure;
use crate::stop::Stop;

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
        is_as_in(self, parent, stop)
    }

    fn take(&self, parent: &Index, sink: &mut dyn Sink, stop: &Stop) -> Result<Taken, Failure> {
        let report = walk(self, &parent.parent(), sink, stop)?;
        Ok(Taken {
            incomplete: told(&report.incomplete, report.incomplete_count),
            stats: report.stats,
            entries: report.entries,
            bytes: report.size,
            ..Taken::default()
        })
    }
}

/// Whether a tree is as the parent version has it.
pub(super) fn is_as_in(tree: &Config, parent: &Index, stop: &Stop) -> Result<bool, Failure> {
    let known = parent.parent();
    let mut watch = Watch {
        parent: &known,
        entries: 0,
        changed: false,
    };
    match walk(tree, &known, &mut watch, stop) {
        Ok(_) => Ok(watch.saw_no_change()),
        Err(_) if watch.changed => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn walk(
    config: &Config,
    parent: &tree::Parent<'_>,
    sink: &mut dyn Sink,
    stop: &Stop,
) -> Result<tree::TreeReport, Failure> {
    let options = tree::Options {
        one_file_system: config.one_file_system,
    };
    tree::capture(&config.path, options, parent, sink, &|| stop.is_up()).map_err(source_failure)
}

/// Keeps nothing, and ends the walk at the first entry that differs from the parent version.
struct Watch<'a> {
    parent: &'a tree::Parent<'a>,
    entries: usize,
    changed: bool,
}

impl Watch<'_> {
    fn saw_no_change(&self) -> bool {
        !self.changed && self.entries == self.parent.len()
    }

    fn note(&mut self, entry: &Entry, read_again: bool) -> SourceResult<()> {
        self.entries += 1;
        let same = self.parent.entry(&entry.path).is_some_and(|known| {
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
        let read_again = entry.kind == EntryKind::File && !entry.is_name_only();
        self.note(&entry, read_again)
    }

    fn data(&mut self, _offset: u64, _bytes: &[u8]) -> SourceResult<()> {
        Ok(())
    }

    fn end(&mut self) -> SourceResult<()> {
        Ok(())
    }

    fn mark(&mut self, _mark: &Incomplete) -> SourceResult<()> {
        Ok(())
    }

    fn discard(&mut self) -> SourceResult<()> {
        Ok(())
    }

    fn unchanged(&mut self, entry: Entry) -> SourceResult<()> {
        self.note(&entry, false)
    }

    fn meta(&mut self, _key: &str, _value: &str) -> SourceResult<()> {
        Ok(())
    }
}
