//! Taking one version: what a driver reads is sealed into packs, listed, and committed on top of the newest version.
//!
//! Order in the spool: packs as they fill, the index, the list, the commit. A kill before the commit is durable leaves
//! packs that nobody will name, and they are removed at the next start.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use legation_core::id::{EpochNo, RegistryId, StreamId, Timeline, VersionNo};
use legation_core::manifest::{Entry, Incomplete};
use legation_core::pack::SealedPack;
use legation_core::source::{Sink, SourceError, SourceResult};
use legation_core::statement::{self, BaseWal, Branch, Cause, EpochSet, Name, Packs, RootRow};
use legation_core::suite::SUITE;
use legation_registry::tree::Stat;
use legation_repo::edge;
use legation_repo::writer::{PackSink, Place, Renewed, VersionWriter};

use super::budget::Budget;
use super::epoch::{Epoch, Epochs};
use super::gate::Gate;
use super::index::Index;
use super::link::Link;
use super::outbox::{Kind, Outbox};
use super::state::State;
use super::status::Board;
use super::vitals::{Found, Measured, Vitals};
use super::writer::{SystemEntropy, Writer, now};
use crate::exit::{Code, Failure};
use crate::stop::Stop;

/// When the next version would need more epochs than this, everything is captured anew under one: a commit may name
/// 1,024, and each must be opened at a start.
const MAX_EPOCHS: usize = 512;
/// As [`MAX_EPOCHS`], for the ranges that they form: a commit may name 256.
const MAX_EPOCH_RANGES: usize = 128;

/// How often a capture says how far it is.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Takes the versions of one registry, one at a time.
pub struct Versions {
    /// The registry.
    pub registry: RegistryId,
    /// Its name at home.
    pub name: String,
    /// Its retention class in the mandate.
    pub class: Name,
    /// Its writer.
    pub writer: Arc<Writer>,
    /// Its memory.
    pub state: State,
    /// Its epochs.
    pub epochs: Arc<Epochs>,
    /// Where packs, lists and commits go.
    pub outbox: Arc<Outbox>,
    /// The spool's bound.
    pub budget: Budget,
    /// How many capture at once.
    pub gate: Gate,
    /// The registry's directory in the spool.
    pub dir: PathBuf,
    /// What is sealed beside the data.
    pub vitals: Vitals,
    /// What is shown.
    pub board: Board,
    /// The line: it knows whether the registry is fenced.
    pub link: Link,
    /// When to stop: also once the registry is fenced.
    pub stop: Stop,
}

/// What a driver says of what it took.
#[derive(Debug, Default)]
pub struct Taken {
    /// The log that makes it consistent: timeline, range, and the stream that holds it.
    pub wal: Option<(Timeline, BaseWal, StreamId)>,
    /// The epochs that this log was sealed under.
    pub epochs: BTreeSet<EpochNo>,
    /// How the files looked, for the next capture.
    pub stats: Vec<(Vec<u8>, Stat)>,
    /// What the driver wants to have of this version at the next capture, in its own words.
    pub memo: Vec<u8>,
    /// Entries.
    pub entries: u64,
    /// Bytes of the source.
    pub bytes: u64,
    /// What of it is not what the source held, in words.
    pub incomplete: Option<String>,
    /// It is as the parent version has it: no version is made.
    pub unchanged: bool,
    /// What was found beside the data.
    pub found: Found,
}

impl Versions {
    /// The newest version's index, or an empty one when it is not on this disk.
    pub fn parent(&self) -> Index {
        let newest = self.state.get().version;
        newest
            .and_then(|version| Index::load(&self.dir, version.number))
            .unwrap_or_else(|| self.no_parent())
    }

    /// The index of nothing: everything is captured.
    pub fn no_parent(&self) -> Index {
        Index::empty(self.writer.state(), self.registry)
    }

    /// Whether a version on top of this one would need too many epochs: every epoch that still holds a pack of it, and
    /// the new one.
    pub fn is_outgrown(&self, parent: &Index) -> bool {
        outgrown(parent.written.list.epochs())
    }

    /// Whether an earlier version is still on its way.
    pub fn is_pending(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Takes a version: `take` gives everything to the sink. Returns its number. When it returns, the version is durable in the spool.
    ///
    /// # Errors
    /// What the driver or the spool says; nothing of the attempt is then kept.
    pub fn capture(
        &self,
        kind: &str,
        source: &str,
        parent: &Index,
        take: impl FnOnce(&mut dyn Sink) -> Result<Taken, Failure>,
    ) -> Result<VersionNo, Failure> {
        let made = self.capture_changed(kind, source, parent, take)?;
        made.ok_or_else(|| Failure::failed("a source that never is unchanged said so"))
    }

    /// As [`Versions::capture`], of a source that only tells while it is read that it did not change: then there is none.
    ///
    /// # Errors
    /// As [`Versions::capture`].
    pub fn capture_changed(
        &self,
        kind: &str,
        source: &str,
        parent: &Index,
        take: impl FnOnce(&mut dyn Sink) -> Result<Taken, Failure>,
    ) -> Result<Option<VersionNo>, Failure> {
        let _pass = self.gate.enter(&self.stop).ok_or_else(stopped)?;
        let result = self.attempt(kind, source, parent, take);
        self.board
            .registry(&self.name, |status| status.capturing = None);
        if !matches!(result, Ok(Some(_))) {
            self.outbox.abandon_unfinished()?;
        }
        result
    }

    fn attempt(
        &self,
        kind: &str,
        source: &str,
        parent: &Index,
        take: impl FnOnce(&mut dyn Sink) -> Result<Taken, Failure>,
    ) -> Result<Option<VersionNo>, Failure> {
        let memory = self.state.update(|memory| {
            memory.capturing = memory.breaks;
            memory.clone()
        })?;
        let captured = now()?;
        let epoch = self.epochs.current()?;
        let number = VersionNo(
            memory
                .version
                .as_ref()
                .map_or(0, |version| version.number.0)
                + 1,
        );
        let place = Place {
            state: self.writer.state(),
            registry: self.registry,
            epoch: epoch.number,
            next_seq: epoch.next_pack(),
        };
        let root = epoch.root.clone();
        let began = epoch.number;
        let mut packs = Spooled {
            outbox: self.outbox.clone(),
            budget: self.budget.clone(),
            epochs: self.epochs.clone(),
            epoch: Some(epoch),
            stop: self.stop.clone(),
        };
        let mut entropy = SystemEntropy;
        let before = memory.version.as_ref().map(|version| version.number);
        let mut writer =
            VersionWriter::new(place, &root, &parent.written, &mut packs, &mut entropy)
                .with_maps(&self.dir, before);
        // A base is whole by itself.
        if kind == "postgres" {
            writer = writer.without_reuse();
        }
        drop(root);
        writer.source(kind, source)?;
        let mut counted = Counted {
            to: &mut writer,
            versions: self,
            done: 0,
            told: Instant::now(),
            facts: 0,
        };
        let mut taken = take(&mut counted)?;
        let facts = counted.facts;
        if taken.unchanged {
            return Ok(None);
        }
        let committed = memory.version.as_ref().map(|version| version.number);
        let earlier = self.vitals.earlier(committed);
        let content = writer.content()?;
        let measured = Measured {
            entries: taken.entries,
            bytes: taken.bytes,
            // Of a cluster all is written each time; and without a parent nothing can be said to have changed.
            read: (taken.wal.is_none() && parent.entries().next().is_some())
                .then_some(content.plain),
            content,
        };
        let record = self.vitals.record(
            (number, captured.millis()),
            measured,
            &mut taken.found,
            &earlier,
        );
        for (key, value) in self.vitals.facts(&record, &earlier, facts) {
            writer.meta(&key, &value)?;
        }
        let finished = writer.finish(number)?;
        let list = finished.list;
        let index = Index {
            written: finished.index,
            stats: taken.stats,
            memo: taken.memo,
        };
        index.save(&self.dir, number)?;
        let doubts = record.flags.clone();
        self.vitals.keep(record, earlier)?;
        edge::hit("agent.index")?;
        let encoded = list.encode();
        if !self.budget.wait_queued(encoded.len() as u64, &self.stop) {
            return Err(stopped());
        }
        let digest = self.outbox.push(Kind::List, &encoded)?;
        let (timeline, wal, stream) = match taken.wal {
            Some((timeline, wal, stream)) => (Some(timeline), Some(wal), Some(stream)),
            None => (None, None, None),
        };
        let root = finished.root;
        // The log that continues it was sealed beside it, also under epochs that no pack was sealed under. What was sealed
        // after the last of these is found by its number.
        let beside = wal
            .is_some()
            .then(|| (began.0..=root.epoch.0).map(EpochNo))
            .into_iter()
            .flatten();
        let commit = statement::Commit {
            state: self.writer.state(),
            mandate: self.writer.mandate(),
            registry: self.registry,
            term: memory.term,
            branch: Branch::Main,
            version: number,
            parent: memory.version.map(|version| version.commit),
            class: self.class.clone(),
            suite: SUITE,
            epochs: EpochSet::of(list.epochs().into_iter().chain(taken.epochs).chain(beside))
                .ok_or_else(|| Failure::failed("a version cannot need so many separate epochs"))?,
            packs: Packs {
                count: list.rows().len() as u64,
                list: digest,
            },
            bytes: list.bytes(),
            root: RootRow {
                epoch: root.epoch,
                seq: root.seq,
                index: root.index,
                offset: root.offset,
                sealed: root.sealed,
                plain: root.plain,
            },
            timeline,
            wal,
            stream,
            captured,
        };
        let signed = self.writer.sign(commit)?;
        self.outbox.push(Kind::Statement, &signed)?;
        edge::hit("agent.commit")?;
        // After the commit, which they are about: a kill in between leaves them in the sealed record alone.
        let incomplete = taken.incomplete.as_ref().map(|_| Cause::SourceIncomplete);
        for cause in doubts.iter().map(|flag| flag.cause()).chain(incomplete) {
            let doubt = self
                .writer
                .flagged(self.registry, memory.term, number, cause)?;
            self.outbox.push(Kind::Statement, &doubt)?;
            tracing::warn!(registry = %self.registry, version = %number, "the version is flagged: {cause}");
        }
        self.board.registry(&self.name, |status| {
            status.incomplete = taken.incomplete;
            status.entries = Some(taken.entries);
            status.source_bytes = Some(taken.bytes);
            status.trouble = None;
            status.flagged = (!doubts.is_empty()).then(|| {
                let flags: Vec<_> = doubts.iter().map(ToString::to_string).collect();
                format!(
                    "{number} is flagged: {}; look before trusting it: legation bisect",
                    flags.join(", ")
                )
            });
        });
        Ok(Some(number))
    }
}

/// Whether these epochs and one later, apart from them, are too many.
fn outgrown(epochs: impl IntoIterator<Item = EpochNo>) -> bool {
    let mut last = None;
    let (mut count, mut ranges) = (1, 1);
    // In order, as a list has them.
    for epoch in epochs {
        count += 1;
        ranges += usize::from(last.is_none_or(|last: u32| last.checked_add(1) != Some(epoch.0)));
        last = Some(epoch.0);
    }
    count > MAX_EPOCHS || ranges > MAX_EPOCH_RANGES
}

/// Packs go to the spool as they fill. No root is held while a pack waits for room, which may take days.
struct Spooled {
    outbox: Arc<Outbox>,
    budget: Budget,
    epochs: Arc<Epochs>,
    /// The epoch of the pack that is being filled.
    epoch: Option<Arc<Epoch>>,
    stop: Stop,
}

impl PackSink for Spooled {
    fn pack(&mut self, seq: u32, pack: SealedPack) -> SourceResult<()> {
        // The number is used from here on, whatever becomes of the pack.
        if let Some(epoch) = self.epoch.take() {
            epoch.used_packs(seq + 1);
        }
        if !self.budget.wait_queued(pack.bytes.len() as u64, &self.stop) {
            return Err(SourceError::Stopped);
        }
        edge::hit("agent.pack").map_err(|error| SourceError::io("writing to the spool", error))?;
        self.outbox
            .push(Kind::Pack, &pack.bytes)
            .map(drop)
            .map_err(SourceError::other)
    }

    fn renews(&self) -> bool {
        true
    }

    fn renew(&mut self, held: Option<EpochNo>) -> SourceResult<Option<Renewed>> {
        let current = self.epochs.current().map_err(SourceError::other)?;
        if held == Some(current.number) {
            return Ok(None);
        }
        let renewed = Renewed {
            epoch: current.number,
            root: current.root.clone(),
            next_seq: current.next_pack(),
        };
        // While one is held, its open pack is still to come.
        if held.is_none() {
            self.epoch = Some(current);
        }
        Ok(Some(renewed))
    }
}

/// What a driver's error means for the agent.
pub fn source_failure(error: legation_registry::Error) -> Failure {
    use legation_registry::Error;
    match error {
        Error::Refused { what, fix } => Failure::new(Code::SourceIncomplete, what).hint(fix),
        Error::Stopped | Error::Storage(SourceError::Stopped) => stopped(),
        Error::Storage(error) => Failure::failed(error),
        other => Failure::new(Code::SourceIncomplete, other),
    }
}

/// Stopped on request.
pub fn stopped() -> Failure {
    Failure::new(Code::Interrupted, "stopped on request")
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Failure {
        match error {
            SourceError::Stopped => stopped(),
            other => Failure::failed(format!("sealing a version: {other}")),
        }
    }
}

/// Counts what goes through, for those who watch.
struct Counted<'a> {
    to: &'a mut dyn Sink,
    versions: &'a Versions,
    done: u64,
    told: Instant,
    /// What the facts take so far.
    facts: usize,
}

impl Counted<'_> {
    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.told.elapsed() >= TELL_EVERY {
            let done = self.done;
            self.versions
                .board
                .registry(&self.versions.name, |status| status.capturing = Some(done));
            self.told = Instant::now();
        }
    }
}

impl Sink for Counted<'_> {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        self.to.begin(entry)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        self.to.data(offset, bytes)?;
        self.add(bytes.len() as u64);
        Ok(())
    }

    fn end(&mut self) -> SourceResult<()> {
        self.to.end()
    }

    fn begin_shifting(&mut self, entry: Entry) -> SourceResult<()> {
        self.to.begin_shifting(entry)
    }

    fn mark(&mut self, mark: &Incomplete) -> SourceResult<()> {
        self.to.mark(mark)
    }

    fn discard(&mut self) -> SourceResult<()> {
        self.to.discard()
    }

    fn in_place(&mut self) -> SourceResult<Option<u64>> {
        self.to.in_place()
    }

    fn same(&mut self, offset: u64, len: u64) -> SourceResult<()> {
        self.to.same(offset, len)?;
        self.add(len);
        Ok(())
    }

    fn again(&mut self) -> SourceResult<()> {
        self.to.again()
    }

    fn unchanged(&mut self, entry: Entry) -> SourceResult<()> {
        let size = entry.size;
        self.to.unchanged(entry)?;
        self.add(size);
        Ok(())
    }

    fn meta(&mut self, key: &str, value: &str) -> SourceResult<()> {
        self.facts += key.len() + value.len() + 4;
        self.to.meta(key, value)
    }
}

#[cfg(test)]
mod tests {
    use super::{EpochNo, MAX_EPOCH_RANGES, MAX_EPOCHS, outgrown};

    #[test]
    fn a_version_of_too_many_epochs_is_outgrown() {
        let run = |count: usize| (1..=count as u32).map(EpochNo);
        assert!(!outgrown([]) && !outgrown(run(MAX_EPOCHS - 1)));
        assert!(outgrown(run(MAX_EPOCHS)));
        let apart = |count: usize| (1..=count as u32).map(|n| EpochNo(2 * n));
        assert!(!outgrown(apart(MAX_EPOCH_RANGES - 1)));
        assert!(outgrown(apart(MAX_EPOCH_RANGES)));
    }
}
