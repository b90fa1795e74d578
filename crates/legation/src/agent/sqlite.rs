//! A SQLite database as a source: one image of it for each version, of which only the blocks that changed are sealed.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use legation_core::source::Sink;
use legation_registry::sqlite::{self, Journal, Look, Mark};
use legation_repo::writer::blocks::Compare;

use super::index::Index;
use super::state::State;
use super::version::{Taken, source_failure};
use super::whole::Driver;
use crate::config::agent::{Agent, Probe, Source, Sqlite as Config};
use crate::exit::{Code, Failure};
use crate::recover::start::{PROBE_KEY, PROBE_WITHIN_KEY};
use crate::stop::Stop;

/// The name of the source within its version.
const NAME: &str = "database";

/// A database of a registry.
pub struct Sqlite {
    config: Config,
    probe: Option<Probe>,
    /// The registry's directory in the spool.
    dir: PathBuf,
    state: State,
    seen: Mutex<Seen>,
}

/// What this process found out and need not find out again.
#[derive(Default)]
struct Seen {
    /// A database that was compared in full and is as the version with this memo has it.
    same: Option<(Vec<u8>, Mark)>,
    /// Whether it was said that captures may delay writers.
    said: bool,
}

impl Sqlite {
    pub(super) fn new(config: Config, probe: Option<Probe>, dir: &Path, state: State) -> Sqlite {
        Sqlite {
            config,
            probe,
            dir: dir.to_owned(),
            state,
            seen: Mutex::default(),
        }
    }

    /// How the database stood when it was as the parent version has it.
    fn mark(&self, parent: &Index) -> Option<Mark> {
        let seen = self.seen();
        let same = seen.same.as_ref().filter(|(memo, _)| *memo == parent.memo);
        same.map(|(_, mark)| *mark)
            .or_else(|| Mark::decode(&parent.memo))
    }

    /// Compares all of it with the parent version.
    fn compare(&self, parent: &Index, stop: &Stop) -> Result<bool, Failure> {
        let version = self.state.get().version.map(|version| version.number);
        let source = (sqlite::KIND, NAME);
        let Some(mut compare) =
            version.and_then(|version| Compare::new(&self.dir, version, &parent.written, source))
        else {
            return Ok(false);
        };
        match sqlite::capture(&self.config.path, None, &mut compare, &|| stop.is_up()) {
            Ok(report) => {
                self.seen().same = Some((parent.memo.clone(), report.mark));
                Ok(true)
            }
            Err(_) if compare.differs() => Ok(false),
            Err(error) => Err(source_failure(error)),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver for Sqlite {
    fn kind(&self) -> &'static str {
        sqlite::KIND
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn every(&self) -> Duration {
        self.config.every.0
    }

    fn is_unchanged(&self, parent: &Index, stop: &Stop) -> Result<bool, Failure> {
        let entry = sqlite::entry(&self.config.path).map_err(source_failure)?;
        let as_it_was = parent.entries().any(|known| {
            (&known.path, known.mode, known.uid, known.gid, &known.xattrs)
                == (&entry.path, entry.mode, entry.uid, entry.gid, &entry.xattrs)
        });
        let Some(mark) = self.mark(parent).filter(|_| as_it_was) else {
            return Ok(false);
        };
        match sqlite::look(&self.config.path, &mark).map_err(source_failure)? {
            Look::Same => Ok(true),
            Look::Differs => Ok(false),
            Look::Doubt => self.compare(parent, stop),
        }
    }

    fn take(&self, parent: &Index, sink: &mut dyn Sink, stop: &Stop) -> Result<Taken, Failure> {
        let mark = self.mark(parent);
        let path = &self.config.path;
        let report =
            sqlite::capture(path, mark.as_ref(), sink, &|| stop.is_up()).map_err(source_failure)?;
        if let Some(probe) = &self.probe {
            sink.meta(PROBE_KEY, &probe.sql)?;
            sink.meta(PROBE_WITHIN_KEY, &probe.within.0.as_millis().to_string())?;
        }
        tracing::debug!(
            path = %path.display(), bytes = report.bytes, read = report.read, passes = report.passes, held = ?report.held,
            "an image was taken"
        );
        let mut seen = self.seen();
        if report.journal == Journal::Rollback && !std::mem::replace(&mut seen.said, true) {
            tracing::warn!(
                path = %path.display(), held = ?report.held,
                "the database is in rollback-journal mode: who commits waits while it is read; PRAGMA journal_mode = WAL \
                 ends that"
            );
        }
        Ok(Taken {
            memo: report.mark.encode(),
            entries: 1,
            bytes: report.bytes,
            ..Taken::default()
        })
    }
}

/// Refuses what would take a database's locks away: whoever closes any handle of a file loses all of the process's locks on it.
/// So a database is read by one source of an agent.
///
/// # Errors
/// Code 2, with the two sources.
pub(crate) fn apart(config: &Agent) -> Result<(), Failure> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let sources = || {
        let registries = config.registry.iter();
        registries.flat_map(|one| one.source.iter().map(move |source| (&one.name, source)))
    };
    for (at, (name, source)) in sources().enumerate() {
        let Source::Sqlite(database) = source else {
            continue;
        };
        let path = real(&database.path);
        for (_, (other, source)) in sources().enumerate().filter(|(n, _)| *n != at) {
            let taken = match source {
                Source::Sqlite(second) => real(&second.path) == path,
                Source::Tree(tree) => path.starts_with(real(&tree.path)),
                _ => false,
            };
            if taken {
                return Err(Failure::usage(format!(
                    "registries {name:?} and {other:?} both hold {}: read as a file, it would lose the locks that it is \
                     captured under",
                    database.path.display()
                ))
                .hint("move the database out of the tree, or give one of them an agent of its own"));
            }
        }
    }
    Ok(())
}

/// What captures of a database would run into now.
///
/// # Errors
/// Code 3 with the driver's words.
pub(crate) fn try_opening(config: &Config) -> Result<Journal, Failure> {
    sqlite::facts(&config.path).map_err(|error| {
        let failure = source_failure(error);
        Failure {
            code: Code::SourceIncomplete,
            ..failure
        }
    })
}
