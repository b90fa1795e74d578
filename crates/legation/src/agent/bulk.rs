//! The shipper of versions: packs, the list, then the commit, each answered for before it leaves the spool.
//!
//! A version counts once its commit's receipt is verified: only then does the agent remember it as the parent of the
//! next, and only then does the index of the one before go.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use legation_core::id::RegistryId;
use legation_core::statement::{Commit, Signed, Statement};
use legation_repo::edge;

use super::index::Index;
use super::kept::Kept;
use super::link::{Backoff, Link, Trouble};
use super::outbox::{Item, Kind, Outbox};
use super::state::{History, State, Version};
use super::status::{Board, now_ms};
use super::streams::{Streams, Wal};
use crate::exit::{Code, Failure};
use crate::stop::Stop;

/// How long to wait for something to send.
const IDLE: Duration = Duration::from_millis(100);

/// One registry's shipper of versions.
pub struct Bulk {
    /// The registry.
    pub registry: RegistryId,
    /// Its name at home.
    pub name: String,
    /// Its memory.
    pub state: State,
    /// Epochs that wait: a commit goes out after them.
    pub control: Arc<Outbox>,
    /// Packs, lists and commits.
    pub outbox: Arc<Outbox>,
    /// Its streams.
    pub streams: Arc<Streams>,
    /// The line.
    pub link: Link,
    /// Where the receipts of its commits are kept.
    pub kept: Kept,
    /// The registry's directory in the spool.
    pub dir: PathBuf,
    /// What is shown.
    pub board: Board,
    /// When to stop.
    pub stop: Stop,
}

impl Bulk {
    /// Ships until told to stop.
    pub fn run(self) {
        let mut backoff = Backoff::default();
        while !self.stop.is_up() {
            match self.step() {
                Ok(true) => {
                    backoff.reset();
                    self.tell(None);
                }
                Ok(false) => {
                    self.stop.wait(IDLE);
                }
                Err(Trouble::Fatal(failure)) => {
                    self.link.condemn(failure);
                    return;
                }
                Err(Trouble::Fenced(why)) => {
                    self.link.fence(self.registry);
                    self.board.registry(&self.name, |status| {
                        status.ship_trouble = Some(why);
                        status.phase = "fenced".into();
                    });
                    self.stop.raise();
                    return;
                }
                Err(Trouble::Later(why) | Trouble::Refused(why)) => {
                    self.tell(Some(why));
                    self.stop.wait(backoff.pause());
                }
                Err(Trouble::Position(..)) => {}
            }
        }
    }

    /// Shows why packs wait, and says it aloud when that begins and when it changes.
    fn tell(&self, trouble: Option<String>) {
        self.board.registry(&self.name, |status| {
            if let Some(why) = &trouble
                && status.ship_trouble.as_ref() != Some(why)
            {
                tracing::warn!(registry = %self.registry, "packs wait in the spool: {why}");
            }
            status.ship_trouble = trouble;
        });
    }

    fn step(&self) -> Result<bool, Trouble> {
        let Some(item) = self.outbox.front() else {
            return Ok(false);
        };
        // A capture that failed takes back its parts at any time, also those that are on their way.
        let Some(bytes) = self.outbox.read(&item)? else {
            return Ok(true);
        };
        if item.kind == Kind::Statement {
            return self.commit(&item, &bytes);
        }
        match self.link.put(item.kind, &item.digest, bytes) {
            Ok(()) => self.outbox.remove(&item)?,
            Err(Trouble::Refused(why)) => self.give_up(&item, &why)?,
            Err(trouble) => return Err(trouble),
        }
        Ok(true)
    }

    fn commit(&self, item: &Item, bytes: &[u8]) -> Result<bool, Trouble> {
        let signed = Signed::parse(bytes).map_err(|error| {
            Failure::new(Code::VerificationFailed, format!("the spool: {error}"))
        })?;
        let commit = match signed.statement() {
            Ok(Statement::Commit(commit)) => commit,
            Ok(Statement::Doubt(_)) => return self.doubt(item, bytes),
            _ => {
                return Err(Trouble::Fatal(Failure::failed(
                    "the spool holds a statement that is neither commit nor doubt",
                )));
            }
        };
        // A version is complete once its log is abroad too, and the log knows the epochs that it needs.
        if !self.control.is_empty() {
            return Ok(false);
        }
        let lost = self.state.get().lost;
        if commit.epochs.iter().any(|epoch| lost.contains(&epoch)) {
            self.give_up(
                item,
                "the key of its epoch was lost before its slip could be used",
            )?;
            return Ok(true);
        }
        match self.wal_of(&commit) {
            Wal::Abroad => {}
            Wal::Coming => return Ok(false),
            Wal::Lost => {
                self.give_up(item, "the log that would make it complete was lost")?;
                return Ok(true);
            }
        }
        match self.link.submit(bytes) {
            Ok(receipt) => {
                edge::hit("agent.committed").map_err(Failure::from)?;
                self.kept.receipt(commit.version, &receipt)?;
                self.remember(&commit, &signed, receipt.entry.index)?;
                self.outbox.remove(item)?;
            }
            Err(Trouble::Refused(why)) => self.give_up(item, &why)?,
            Err(trouble) => return Err(trouble),
        }
        Ok(true)
    }

    /// What speaks against the version that was committed before it.
    fn doubt(&self, item: &Item, bytes: &[u8]) -> Result<bool, Trouble> {
        match self.link.submit(bytes) {
            Ok(_) => {}
            Err(Trouble::Refused(why)) => {
                tracing::error!(registry = %self.registry, "a doubt was refused: {why}");
            }
            Err(trouble) => return Err(trouble),
        }
        self.outbox.remove(item)?;
        Ok(true)
    }

    /// Where the log stands that a version needs. What was acknowledged of another history, or beyond a hole, says
    /// nothing of it, however far it is.
    fn wal_of(&self, commit: &Commit) -> Wal {
        let (Some(wal), Some(timeline), Some(stream)) =
            (&commit.wal, commit.timeline, commit.stream)
        else {
            return Wal::Abroad;
        };
        // Whether continuity was lost since the capture began.
        let memory = self.state.get();
        if memory.breaks != memory.capturing {
            return Wal::Lost;
        }
        self.streams.covers(stream, timeline, wal.stop)
    }

    fn remember(&self, commit: &Commit, signed: &Signed, entry: u64) -> Result<(), Failure> {
        let system_id = self.streams.tail().map_or(0, |tail| tail.system_id);
        let history = match (&commit.wal, commit.timeline, commit.stream) {
            (Some(wal), Some(timeline), Some(stream)) => Some(History {
                system_id,
                timeline,
                start: wal.start,
                stop: wal.stop,
                stream,
            }),
            _ => None,
        };
        let version = Version {
            breaks: self.state.get().capturing,
            number: commit.version,
            commit: signed.id(),
            list: commit.packs.list,
            entry,
            captured: commit.captured.millis(),
            received: now_ms(),
            bytes: commit.bytes,
            history,
        };
        self.state
            .update(|memory| memory.version = Some(version.clone()))?;
        Index::keep_only(&self.dir, commit.version)?;
        tracing::info!(registry = %self.registry, version = %commit.version, entry, "version committed, receipt verified");
        self.board.registry(&self.name, |status| {
            status.show_version(&version);
            status.versions_made += 1;
            let took = version.received.saturating_sub(version.captured);
            status.capture_ms = Some(took);
            status.first_capture_ms.get_or_insert(took);
        });
        Ok(())
    }

    /// The embassy will never take this version: everything up to its commit goes, and the next one is whole.
    fn give_up(&self, refused: &Item, why: &str) -> Result<(), Failure> {
        tracing::error!(registry = %self.registry, "a version was refused: {why}");
        self.board.registry(&self.name, |status| {
            status.trouble = Some(format!("a version was refused: {why}"))
        });
        self.state.update(|memory| memory.breaks += 1)?;
        let mut past = false;
        for item in self.outbox.items() {
            // What follows its commit at once are doubts about it.
            if past && item.kind != Kind::Statement {
                break;
            }
            self.outbox.remove(&item)?;
            past |= item.kind == Kind::Statement && item.place >= refused.place;
        }
        Ok(())
    }
}
