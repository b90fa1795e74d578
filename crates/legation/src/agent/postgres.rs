//! Capturing a PostgreSQL cluster: WAL without end from a physical slot, and a base whenever there is none for the
//! history that the WAL belongs to.
//!
//! The slot comes first, then the stream, then the base, so that nothing lies between them. Capture goes on exactly
//! where the sealed stream ends. Where that is impossible a gap is logged and a new base follows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use legation_core::id::{Lsn, StreamId, Timeline};
use legation_core::measure::{Answer, MAX_ANSWER, Outcome, plain};
use legation_core::source::Sink;
use legation_core::statement::{BaseWal, Cause, WalRange};
use legation_registry::postgres::ask::{Question, ask};
use legation_registry::postgres::needs::Needs;
use legation_registry::postgres::{
    self as driver, BaseOptions, ConnectConfig, Facts, Lineage, Place, Reread, Severity,
    SlotPosition, SlotState, WalEnd, WalOptions,
};
use legation_repo::edge;

use super::history::{History, OVERLAP};
use super::link::Backoff;
use super::outbox::{Kind, Outbox};
use super::request::Request;
use super::sink::{Parts, Sealer, Source};
use super::status::now_ms;
use super::streams::Streams;
use super::version::{Taken, Versions, source_failure};
use super::vitals::Found;
use super::way::{Way, way};
use crate::config::agent::{Postgres as Config, Probe, WhenFull};
use crate::exit::{Code, Failure};
use crate::recover::start::{PROBE_KEY, PROBE_WITHIN_KEY};

/// How often requests and the stop flag are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// A connection that lasted this long was a good one: the next pause is short again.
const GOOD: Duration = Duration::from_secs(10);

/// How long a finished base waits for the log that makes it consistent, with its place among those that capture.
const SEALED_WITHIN: Duration = Duration::from_secs(600);

/// How long a version waits for the log that its answers were given at. Without it they stand all the same.
const ANSWERS_SEALED_WITHIN: Duration = Duration::from_secs(10);

/// The stream that is being received, for the base that starts beside it.
#[derive(Debug, Clone, Copy)]
struct Current {
    system_id: u64,
    timeline: Timeline,
    stream: StreamId,
    checksums: bool,
}

/// What a comparison with the last run's trace says.
enum Recognised {
    /// It is the same history; the last bytes before the position where capture goes on.
    Yes(Vec<u8>),
    /// It is another one, from about here on.
    Not { at: Lsn },
    /// Nothing that was kept can be compared.
    Unknown,
}

/// A cluster of a registry.
pub struct Postgres {
    /// Slot and cadence.
    pub config: Config,
    /// How to reach it.
    pub connect: ConnectConfig,
    /// The query that must hold before it serves abroad: sealed with each base.
    pub probe: Option<Probe>,
    /// What is asked of it with each base.
    pub questions: Vec<Question>,
    /// What gives way when the spool is full.
    pub when_full: WhenFull,
    /// Takes the bases.
    pub versions: Versions,
    /// Gaps go here.
    pub control: Arc<Outbox>,
    /// Where WAL goes.
    pub streams: Arc<Streams>,
    /// What the source is recognised by after a restart.
    history: History,
    current: Mutex<Option<Current>>,
    /// A position from which the server refused to send, though it was tried: it has removed the log there.
    removed: Mutex<Option<Lsn>>,
}

impl Postgres {
    /// A cluster that is not connected yet.
    pub fn new(
        config: Config,
        connect: ConnectConfig,
        probe: Option<Probe>,
        when_full: WhenFull,
        versions: Versions,
        control: Arc<Outbox>,
        streams: Arc<Streams>,
    ) -> Postgres {
        let history = History::new(&versions.dir, versions.writer.secret());
        Postgres {
            config,
            connect,
            probe,
            questions: Vec::new(),
            when_full,
            versions,
            control,
            streams,
            history,
            current: Mutex::new(None),
            removed: Mutex::new(None),
        }
    }

    /// Receives WAL until told to stop.
    pub fn run_wal(&self) {
        let stop = &self.versions.stop;
        let mut sealer = None;
        let mut backoff = Backoff::default();
        while !stop.is_up() {
            let began = Instant::now();
            let result = self.session(&mut sealer);
            if stop.is_up() {
                break;
            }
            if began.elapsed() > GOOD {
                backoff.reset();
            }
            let trouble = match result {
                Ok(trouble) => trouble,
                Err(failure) => failure.message,
            };
            tracing::warn!(registry = %self.versions.registry, "{trouble}");
            self.versions.board.registry(&self.versions.name, |status| {
                status.trouble = Some(trouble);
                if status.phase != "full" {
                    status.phase = "disconnected".into();
                }
            });
            stop.wait(backoff.pause());
        }
        if self.versions.link.is_fenced(self.versions.registry) {
            self.let_go();
        }
    }

    /// Nothing is taken from here any more: a slot that nobody reads would fill the database's disk.
    fn let_go(&self) {
        let agent = self.versions.link.stop();
        let mut backoff = Backoff::default();
        while self.when_full == WhenFull::ProtectHome && !agent.is_up() {
            match driver::drop_slot(&self.connect, &self.config.slot) {
                Ok(()) => {
                    tracing::warn!(registry = %self.versions.registry, "fenced: the slot was dropped to protect the database's disk");
                    return;
                }
                Err(error) => {
                    tracing::warn!(registry = %self.versions.registry, "fenced, and the slot cannot be dropped: {error}");
                    agent.wait(backoff.pause());
                }
            }
        }
    }

    /// One connection; returns why it ended.
    fn session(&self, sealer: &mut Option<Sealer>) -> Result<String, Failure> {
        if self.versions.budget.is_full() {
            return self.hold_off();
        }
        if let Some(last) = sealer.as_mut()
            && let Err(failure) = last.reconnect()
        {
            // After a failed write nobody knows what the disk holds: it is read again, and a new stream goes on there.
            tracing::warn!(registry = %self.versions.registry, "the spool is opened anew: {failure}");
            self.streams.reopen()?;
            *sealer = None;
        }
        let probe = driver::probe(&self.connect, &self.config.slot).map_err(source_failure)?;
        let is_void = match probe.slot {
            SlotState::Lost => true,
            // Made by somebody who reserved nothing: it never can be started from.
            SlotState::Held {
                restart, active, ..
            } => restart.is_none() && !active,
            SlotState::Absent => false,
        };
        if is_void {
            // It can never go on; dropping it lets a new one hold WAL from now on.
            driver::drop_slot(&self.connect, &self.config.slot).map_err(source_failure)?;
        } else {
            probe.check().map_err(source_failure)?;
        }
        let slot = driver::ensure_slot(&self.connect, &self.config.slot).map_err(source_failure)?;
        let lineage = driver::lineage(&self.connect).map_err(source_failure)?;
        if (lineage.system_id, lineage.timeline) != (slot.system_id, slot.timeline) {
            return Ok("the database is being promoted".into());
        }
        let gave_up = self.streams.gave_up();
        let memory = self.versions.state.get();
        let tail = self
            .streams
            .tail()
            .filter(|tail| Some(tail.position.stream) != memory.foreign);
        let on = match way(tail, memory.lineage.as_ref(), &lineage) {
            Way::Differs(at) => return self.differs(at),
            Way::On(timeline, start) => Some((timeline, start)),
            Way::Anew => None,
        };
        let mut recent = None;
        let mut continued = false;
        if let Some((timeline, start)) = on {
            let same = |sealer: &Sealer| sealer.timeline() == timeline && sealer.has_overlap();
            let held = slot.start <= start;
            // What the slot does not hold may be there all the same, and what is not compared beside the stream is here.
            if !held || slot.created || !sealer.as_ref().is_some_and(same) {
                match self.recognise(&slot, &lineage, start)? {
                    Recognised::Not { at } => return self.differs(Some(at)),
                    Recognised::Yes(bytes) => recent = Some(bytes),
                    Recognised::Unknown => {}
                }
            }
            continued = (held || recent.is_some()) && *self.removed() != Some(start);
        }
        if !continued {
            // A spool that was moved away: the embassy may hold a stream of before, and takes none beside it without a
            // gap.
            let gone = self.streams.is_empty() && memory.last_epoch.0 > 0;
            if tail.is_some() || gave_up || gone {
                let cause = match on {
                    Some(_) if !gave_up && !gone => Cause::SlotLost,
                    _ => Cause::AgentLost,
                };
                let missing = tail.and_then(|tail| {
                    let range = WalRange {
                        start: tail.position.end_lsn,
                        stop: slot.start,
                    };
                    (range.start <= range.stop).then_some((slot.timeline, range))
                });
                self.broke(missing, cause, None)?;
            }
            // Whatever an earlier connection sealed, nothing of it is continued.
            *sealer = None;
        }
        *self.removed() = None;
        let (timeline, next) = match on {
            Some(on) if continued => on,
            _ => (slot.timeline, slot.start),
        };
        let source = Source {
            system_id: slot.system_id,
            timeline,
            next,
            segment: u64::from(probe.wal_segment_size),
        };
        let known = lineage.up_to(timeline);
        if memory.lineage.as_ref() != Some(&known) {
            self.versions
                .state
                .update(|memory| memory.lineage = Some(known))?;
        }
        if sealer
            .as_ref()
            .is_some_and(|sealer| sealer.timeline() != timeline)
        {
            tracing::info!(registry = %self.versions.registry, %timeline, at = %next, "the database was promoted, and is followed");
            *sealer = None;
        }
        let sealer = match sealer {
            Some(sealer) => sealer,
            None => sealer.insert(Sealer::begin(self.parts(), source, continued)?),
        };
        // Of an earlier timeline nothing is compared again: its bytes were, just now.
        let own = tail.is_some_and(|tail| tail.position.timeline == timeline);
        if let Some(recent) = recent.filter(|_| continued && own) {
            sealer.recall(&recent);
        }
        self.receive(sealer, source, &slot, probe.data_checksums)
    }

    fn receive(
        &self,
        sealer: &mut Sealer,
        source: Source,
        slot: &SlotPosition,
        checksums: bool,
    ) -> Result<String, Failure> {
        let mut options = WalOptions::new(
            &self.config.slot,
            source.system_id,
            source.timeline,
            source.next,
        );
        options.overlap = sealer.overlap();
        // While the rest of an earlier timeline comes no base is taken: it would be of the current one.
        let is_current = source.timeline == slot.timeline;
        *self.lock() = sealer
            .stream()
            .filter(|_| is_current)
            .map(|stream| Current {
                system_id: source.system_id,
                timeline: source.timeline,
                stream,
                checksums,
            });
        edge::hit("agent.receive")?;
        let memory = self.versions.state.get();
        self.versions.board.registry(&self.versions.name, |status| {
            status.phase = "streaming".into();
            status.trouble = None;
            status.healing = memory.healing;
            status.damaged = memory.damaged;
        });
        let received = driver::receive(&self.connect, &options, sealer);
        *self.lock() = None;
        let report = match received {
            Ok(report) => report,
            Err(_) if sealer.is_full() => return self.hold_off(),
            Err(error @ legation_registry::Error::Refused { .. }) if source.next < slot.start => {
                // It was there a moment ago, without anything that held it.
                *self.removed() = Some(source.next);
                return Ok(format!("the log from {} on is gone: {error}", source.next));
            }
            Err(error) => return Err(source_failure(error)),
        };
        match report.end {
            WalEnd::Stopped => Ok("stopped".into()),
            WalEnd::ServerStopped => Ok("the database was shut down".into()),
            WalEnd::Disconnected(why) => Ok(format!("the database is not reached: {why}")),
            WalEnd::SlotBusy(why) => Ok(format!(
                "another receiver uses slot {}: {why}; end it, or give this registry a slot of its own",
                self.config.slot
            )),
            WalEnd::NoProgress => Ok("the spool made no progress for ten seconds".into()),
            // The next connection goes on there.
            WalEnd::TimelineChanged { next, switch } => Ok(format!(
                "the database went on to timeline {next} at {switch}"
            )),
            WalEnd::HistoryDiffers { at } => self.differs(Some(at)),
        }
    }

    /// Compares what the source has now with what the last run kept of it, when this run has no bytes of its own to
    /// compare yet. Gives the last bytes before `start`.
    fn recognise(
        &self,
        slot: &SlotPosition,
        lineage: &Lineage,
        start: Lsn,
    ) -> Result<Recognised, Failure> {
        let history = &self.history;
        let comparable = history.last().filter(|trace| {
            let there = match lineage.place(trace.timeline, trace.end.max(start)) {
                Place::Current | Place::Before { .. } => true,
                Place::Beyond { .. } | Place::Stranger => false,
            };
            trace.system_id == slot.system_id && there && trace.bytes > 0
        });
        let Some(trace) = comparable else {
            return Ok(Recognised::Unknown);
        };
        let (mut hasher, mut recent) = (history.hasher(), Vec::new());
        let mut at = trace.start();
        let mut each = |bytes: &[u8]| {
            let before = |end: Lsn| {
                let left = usize::try_from(end.0.saturating_sub(at.0)).unwrap_or(usize::MAX);
                &bytes[..bytes.len().min(left)]
            };
            hasher.update(before(trace.end));
            recent.extend_from_slice(before(start));
            let excess = recent.len().saturating_sub(OVERLAP);
            recent.drain(..excess);
            at = Lsn(at.0 + bytes.len() as u64);
        };
        let stop = &self.versions.stop;
        let came = driver::reread(
            &self.connect,
            slot.system_id,
            trace.timeline,
            trace.start()..trace.end.max(start),
            &|| stop.is_up(),
            &mut each,
        )
        .map_err(source_failure)?;
        Ok(match came {
            Reread::Shorter { end } => Recognised::Not { at: end },
            Reread::Whole if hasher.finalize() != *trace.digest.as_bytes() => {
                Recognised::Not { at: trace.start() }
            }
            Reread::Whole => Recognised::Yes(recent),
            Reread::Gone => Recognised::Unknown,
        })
    }

    /// The source has another history than the newest stream: that is remembered, and nothing continues it. What was
    /// captured beyond the parting is kept abroad and is not at home any more: that is a doubt.
    fn differs(&self, at: Option<Lsn>) -> Result<String, Failure> {
        let tail = self.streams.tail();
        let lost = tail.zip(at).and_then(|(tail, at)| {
            let range = WalRange {
                start: at,
                stop: tail.position.end_lsn,
            };
            (range.start < range.stop).then_some((tail.position.timeline, range))
        });
        let memory = self.versions.state.get();
        let doubt = self.versions.writer.doubt(
            self.versions.registry,
            memory.term,
            lost.clone(),
            Cause::Timeline,
        )?;
        self.control.push(Kind::Statement, &doubt)?;
        self.broke(None, Cause::Timeline, tail.map(|tail| tail.position.stream))?;
        Ok(match (at, lost) {
            (None, _) => "another history answers, which continues nothing captured".into(),
            (Some(at), None) => {
                format!("the database's history differs from what was captured, from {at} on")
            }
            (Some(at), Some((timeline, range))) => format!(
                "the database's history differs from what was captured, from {at} on: what timeline {timeline} held up to {} is abroad only",
                range.stop
            ),
        })
    }

    /// The spool is full: nothing that was sealed is dropped, and the source is let go of until there is room.
    fn hold_off(&self) -> Result<String, Failure> {
        self.versions
            .board
            .registry(&self.versions.name, |status| status.phase = "full".into());
        if self.when_full == WhenFull::ProtectHome {
            driver::drop_slot(&self.connect, &self.config.slot).map_err(source_failure)?;
            return Ok("the spool is full; the slot was dropped to protect the database's disk, a new base will follow".into());
        }
        Ok("the spool is full; the slot keeps the WAL at the database until there is room".into())
    }

    /// Continuity is lost: that is logged, and the next base is a new one. `foreign` is a stream that nothing continues.
    fn broke(
        &self,
        missing: Option<(Timeline, WalRange)>,
        cause: Cause,
        foreign: Option<StreamId>,
    ) -> Result<(), Failure> {
        let cause = if self.was_full() {
            Cause::SpoolFull
        } else {
            cause
        };
        let term = self.versions.state.get().term;
        let gap = self
            .versions
            .writer
            .gap(self.versions.registry, term, missing, cause)?;
        // Logged before it is remembered: a kill between the two finds it again, and rather says it twice than never.
        self.control.push(Kind::Statement, &gap)?;
        let healing = format!("continuity was lost ({cause}); a new base makes it good");
        self.versions.state.update(|memory| {
            memory.breaks += 1;
            memory.foreign = foreign.or(memory.foreign);
            memory.lineage = None;
            memory.healing = Some(healing.clone());
        })?;
        self.versions.board.registry(&self.versions.name, |status| {
            status.healing = Some(healing);
        });
        tracing::warn!(registry = %self.versions.registry, %cause, "continuity was lost; a new base follows");
        Ok(())
    }

    fn was_full(&self) -> bool {
        self.when_full == WhenFull::ProtectHome
            && self
                .versions
                .board
                .get()
                .registries
                .get(&self.versions.name)
                .is_some_and(|status| status.phase == "full")
    }

    fn parts(&self) -> Parts {
        Parts {
            registry: self.versions.registry,
            term: self.versions.state.get().term,
            writer: self.versions.writer.clone(),
            epochs: self.versions.epochs.clone(),
            streams: self.streams.clone(),
            history: self.history.clone(),
            budget: self.versions.budget.clone(),
            stop: self.versions.stop.clone(),
        }
    }

    /// Takes bases when they are due, until told to stop.
    pub fn run_base(&self) {
        let stop = &self.versions.stop;
        let mut backoff = Backoff::default();
        while !stop.is_up() {
            let current = *self.lock();
            let request = Request::look(&self.versions.dir);
            let due = current.filter(|current| {
                !self.versions.is_pending() && (request.is_some() || self.is_due(current))
            });
            if due.is_none() {
                stop.wait(LOOK);
                continue;
            }
            match Request::take(&self.versions.dir).and_then(|_| self.base()) {
                Ok(()) => {
                    backoff.reset();
                    Request::done(&self.versions.dir);
                }
                Err(failure) if failure.code == Code::Interrupted => return,
                Err(failure) => {
                    tracing::error!(registry = %self.versions.registry, "the base failed: {failure}");
                    self.versions.board.registry(&self.versions.name, |status| {
                        status.trouble = Some(format!("the base failed: {failure}"));
                    });
                    stop.wait(backoff.pause());
                }
            }
        }
    }

    fn is_due(&self, current: &Current) -> bool {
        let memory = self.versions.state.get();
        let Some(version) = memory.version else {
            return true;
        };
        // A promotion that was followed is no break: the version before it is replayed over it.
        let of_history = version.breaks == memory.breaks
            && version.history.as_ref().is_some_and(|history| {
                history.system_id == current.system_id
                    && history
                        .checksums
                        .is_none_or(|known| known == current.checksums)
            });
        let age = Duration::from_millis(now_ms().saturating_sub(version.captured));
        !of_history || age >= self.config.base_every.0
    }

    fn base(&self) -> Result<(), Failure> {
        tracing::info!(registry = %self.versions.registry, "a base begins");
        let began = Instant::now();
        let stop = self.versions.stop.clone();
        let options = BaseOptions::new(&self.config.slot);
        let (mut damaged, mut range) = (Vec::new(), None);
        let number = self.versions.capture(
            "postgres",
            "cluster",
            &self.versions.no_parent(),
            |sink: &mut dyn Sink| {
                // Looked at again: a break before this moment is counted already, one after it spoils the base.
                let current = (*self.lock()).ok_or_else(|| {
                    Failure::new(Code::SourceIncomplete, "the log is not received just now")
                })?;
                let report = driver::base::capture(&self.connect, &options, sink, &|| stop.is_up())
                    .map_err(source_failure)?;
                self.versions
                    .state
                    .update(|memory| memory.checksums = Some(report.facts.data_checksums))?;
                if (report.facts.system_id, report.facts.timeline)
                    != (current.system_id, current.timeline)
                {
                    return Err(Failure::new(
                        Code::SourceIncomplete,
                        "the cluster changed while its base was taken",
                    ));
                }
                damaged = report.damaged_relations.clone();
                if let Some(probe) = &self.probe {
                    sink.meta(PROBE_KEY, &probe.sql)?;
                    sink.meta(PROBE_WITHIN_KEY, &probe.within.0.as_millis().to_string())?;
                }
                let wal = WalRange {
                    start: report.facts.start,
                    stop: report.facts.stop,
                };
                self.wait_sealed(report.facts.timeline, wal.stop)?;
                range = Some((report.facts.timeline, wal.clone()));
                let (found, upto) = self.look(&report.facts, sink)?;
                let epochs = self.streams.epochs_between(
                    (current.system_id, current.timeline),
                    report.facts.segment_start(wal.start),
                    upto,
                );
                // It lies with the host in clear: without it nobody could say what must be installed before a key is out.
                let wal = BaseWal {
                    range: wal,
                    server: u16::try_from(report.facts.major).ok(),
                };
                Ok(Taken {
                    wal: Some((report.facts.timeline, wal, current.stream)),
                    epochs,
                    entries: report.entries,
                    bytes: report.bytes,
                    found,
                    ..Taken::default()
                })
            },
        )?;
        tracing::info!(registry = %self.versions.registry, version = %number, took = ?began.elapsed(), "the base is sealed");
        self.tell_damage(&damaged, range)
    }

    /// Pages that are damaged at home: a doubt in the log, which names no relation, and what they are for those at home.
    fn tell_damage(
        &self,
        damaged: &[String],
        range: Option<(Timeline, WalRange)>,
    ) -> Result<(), Failure> {
        let said = damaged.first().map(|first| {
            format!(
                "{} pages of the source fail their checksums and are captured as they are: {first}{}",
                damaged.len(),
                if damaged.len() > 1 { ", …" } else { "" }
            )
        });
        if let Some(said) = &said {
            for one in damaged {
                tracing::error!(registry = %self.versions.registry, "a page fails its checksum at the source: {one}");
            }
            tracing::error!(registry = %self.versions.registry, "{said}");
            let memory = self.versions.state.get();
            let doubt = self.versions.writer.doubt(
                self.versions.registry,
                memory.term,
                range,
                Cause::DamagedPage,
            )?;
            self.control.push(Kind::Statement, &doubt)?;
        }
        self.versions
            .state
            .update(|memory| memory.damaged = said.clone())?;
        self.versions
            .board
            .registry(&self.versions.name, |status| status.damaged = said);
        Ok(())
    }

    /// Asks the cluster what its owner wants to know of it, and what it needs of a machine. Returns with it how far the
    /// log is sealed that answers the same again: a version's keys reach up to there.
    fn look(&self, facts: &Facts, sink: &mut dyn Sink) -> Result<(Found, Lsn), Failure> {
        let stop = &self.versions.stop;
        match Needs::of(&self.connect) {
            Ok(needs) => {
                for (key, value) in needs.to_meta() {
                    sink.meta(&key, &value)?;
                }
            }
            Err(error) => {
                tracing::warn!(registry = %self.versions.registry, "what it needs is not known: {error}");
            }
        }
        let mut found = Found {
            changed: self.written_since(facts),
            ..Found::default()
        };
        match ask(&self.connect, &self.questions, &|| stop.is_up()) {
            Ok(asked) => {
                found.at = asked.at;
                found.rows = asked.rows;
                found.answers = asked.answers;
            }
            Err(legation_registry::Error::Stopped) => return Err(super::version::stopped()),
            Err(error) => {
                let why = plain(&error.to_string(), MAX_ANSWER);
                found.answers = (self.questions.iter())
                    .map(|question| Answer {
                        name: question.name.clone(),
                        outcome: Outcome::Error(why.clone()),
                    })
                    .collect();
            }
        }
        let asked = found.at.map_or(facts.stop, |at| at.after.max(facts.stop));
        let until = Instant::now() + ANSWERS_SEALED_WITHIN;
        loop {
            let sealed = (self.streams.tail()).map_or(facts.stop, |tail| tail.position.end_lsn);
            if sealed >= asked || Instant::now() > until || stop.is_up() {
                return Ok((found, asked.min(sealed).max(facts.stop)));
            }
            self.streams.wait(LOOK);
        }
    }

    /// Log that was written since the version before, if that is of this history.
    fn written_since(&self, facts: &Facts) -> Option<u64> {
        let memory = self.versions.state.get();
        let last = memory.version?.history?;
        let same = (last.system_id, last.timeline) == (facts.system_id, facts.timeline);
        same.then(|| facts.stop.0.saturating_sub(last.stop.0))
    }

    /// Waits until the log up to `stop` is sealed: only then is it known under which epochs.
    fn wait_sealed(&self, timeline: Timeline, stop: Lsn) -> Result<(), Failure> {
        let tail = || self.streams.tail().map(|tail| tail.position);
        let is_sealed = || tail().is_some_and(|at| at.timeline == timeline && at.end_lsn >= stop);
        // A server that was promoted away from there holds pages that no log makes consistent.
        let is_left = || tail().is_some_and(|at| at.timeline > timeline);
        let began = Instant::now();
        while !is_sealed() {
            if began.elapsed() > SEALED_WITHIN {
                return Err(Failure::new(
                    Code::SourceIncomplete,
                    format!("the log up to {stop} did not come; the base begins again"),
                ));
            }
            let memory = self.versions.state.get();
            if is_left() || memory.breaks != memory.capturing {
                return Err(Failure::new(
                    Code::SourceIncomplete,
                    "continuity was lost while the base was taken",
                ));
            }
            if self.versions.stop.is_up() {
                return Err(super::version::stopped());
            }
            self.streams.wait(LOOK);
        }
        Ok(())
    }

    fn removed(&self) -> std::sync::MutexGuard<'_, Option<Lsn>> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands in the way of capturing this cluster, before anything begins. A cluster that ends the connection is no
/// obstacle: it may come up later.
///
/// # Errors
/// Code 3 with every blocking finding and its cure; also when the server does not let the role in.
pub fn preflight(connect: &ConnectConfig, slot: &str) -> Result<(), Failure> {
    match driver::probe(connect, slot) {
        Ok(probe) if probe.slot == SlotState::Lost => Ok(()),
        Ok(probe) => {
            for finding in &probe.findings {
                if finding.severity == Severity::Warning {
                    tracing::warn!("{connect}: {finding}");
                }
            }
            probe.check().map_err(source_failure)
        }
        Err(error @ legation_registry::Error::Refused { .. }) => Err(source_failure(error)),
        // A wrong password or certificate, and a database that is not there.
        Err(legation_registry::Error::Server(error))
            if error.code.starts_with("28") || error.code == "3D000" =>
        {
            Err(Failure::new(Code::SourceIncomplete, format!("{connect}: {error}")).hint(
                "check user, password (~/.pgpass, PGPASSFILE, PGPASSWORD), sslcert and sslkey against pg_hba.conf",
            ))
        }
        Err(error) => {
            tracing::warn!("{error}");
            Ok(())
        }
    }
}
