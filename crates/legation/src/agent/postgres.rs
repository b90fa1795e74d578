//! Capturing a PostgreSQL cluster: WAL without end from a physical slot, and a base whenever there is none for the
//! history that the WAL belongs to.
//!
//! The slot comes first, then the stream, then the base, so that nothing lies between them. Capture goes on exactly
//! where the sealed stream ends. Where that is impossible a gap is logged and a new base follows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use legation_core::id::{Lsn, StreamId, Timeline};
use legation_core::source::Sink;
use legation_core::statement::{BaseWal, Cause, WalRange};
use legation_registry::postgres::{
    self as driver, BaseOptions, ConnectConfig, Reread, SlotPosition, SlotState, WalEnd, WalOptions,
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
use crate::config::agent::{Postgres as Config, Probe, WhenFull};
use crate::exit::{Code, Failure};
use crate::recover::start::{PROBE_KEY, PROBE_WITHIN_KEY};

/// How often requests and the stop flag are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// A connection that lasted this long was a good one: the next pause is short again.
const GOOD: Duration = Duration::from_secs(10);

/// How long a finished base waits for the log that makes it consistent, with its place among those that capture.
const SEALED_WITHIN: Duration = Duration::from_secs(600);

/// The stream that is being received, for the base that starts beside it.
#[derive(Debug, Clone, Copy)]
struct Current {
    system_id: u64,
    timeline: Timeline,
    stream: StreamId,
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
            when_full,
            versions,
            control,
            streams,
            history,
            current: Mutex::new(None),
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
        if probe.slot == SlotState::Lost {
            // It can never go on; dropping it lets a new one hold WAL from now on.
            driver::drop_slot(&self.connect, &self.config.slot).map_err(source_failure)?;
        } else {
            probe.check().map_err(source_failure)?;
        }
        let slot = driver::ensure_slot(&self.connect, &self.config.slot).map_err(source_failure)?;
        let gave_up = self.streams.gave_up();
        let foreign = self.versions.state.get().foreign;
        let tail = self
            .streams
            .tail()
            .filter(|tail| Some(tail.position.stream) != foreign);
        let same = tail.filter(|tail| tail.is_of(slot.system_id, slot.timeline));
        let continued = same.filter(|tail| slot.start <= tail.position.end_lsn);
        let start = continued.map_or(slot.start, |tail| tail.position.end_lsn);
        let mut recent = None;
        if continued.is_some() && sealer.as_ref().is_none_or(|sealer| !sealer.has_overlap()) {
            match self.recognise(&slot, start)? {
                Recognised::Not { at } => return self.differs(at),
                Recognised::Yes(bytes) => recent = Some(bytes),
                Recognised::Unknown => {}
            }
        }
        if continued.is_none() {
            // A spool that was moved away: the embassy may hold a stream of before, and takes none beside it without a
            // gap.
            let gone = self.streams.is_empty() && self.versions.state.get().last_epoch.0 > 0;
            if tail.is_some() || gave_up || gone {
                let cause = match same {
                    _ if gave_up || gone => Cause::AgentLost,
                    Some(_) => Cause::SlotLost,
                    None => Cause::Timeline,
                };
                let missing = same.map(|tail| {
                    let range = WalRange {
                        start: tail.position.end_lsn,
                        stop: slot.start,
                    };
                    (slot.timeline, range)
                });
                self.broke(missing, cause, None)?;
            }
            // Whatever an earlier connection sealed, nothing of it is continued.
            *sealer = None;
        }
        let source = Source {
            system_id: slot.system_id,
            timeline: slot.timeline,
            next: start,
            segment: u64::from(probe.wal_segment_size),
        };
        let sealer = match sealer {
            Some(sealer) => sealer,
            None => sealer.insert(Sealer::begin(self.parts(), source, continued.is_some())?),
        };
        if let Some(recent) = recent {
            sealer.recall(&recent);
        }
        self.receive(sealer, source)
    }

    fn receive(&self, sealer: &mut Sealer, source: Source) -> Result<String, Failure> {
        let mut options = WalOptions::new(
            &self.config.slot,
            source.system_id,
            source.timeline,
            source.next,
        );
        options.overlap = sealer.overlap();
        *self.lock() = sealer.stream().map(|stream| Current {
            system_id: source.system_id,
            timeline: source.timeline,
            stream,
        });
        edge::hit("agent.receive")?;
        self.versions.board.registry(&self.versions.name, |status| {
            status.phase = "streaming".into();
            status.trouble = None;
        });
        let received = driver::receive(&self.connect, &options, sealer);
        *self.lock() = None;
        let report = match received {
            Ok(report) => report,
            Err(_) if sealer.is_full() => return self.hold_off(),
            Err(error) => return Err(source_failure(error)),
        };
        match report.end {
            WalEnd::Stopped => Ok("stopped".into()),
            WalEnd::ServerStopped => Ok("the database was shut down".into()),
            WalEnd::Disconnected(why) => Ok(format!("the database is not reached: {why}")),
            WalEnd::NoProgress => Ok("the spool made no progress for ten seconds".into()),
            // The next connection finds another timeline, logs the gap, and a new base follows.
            WalEnd::TimelineChanged { next, switch } => Ok(format!(
                "the database went on to timeline {next} at {switch}"
            )),
            WalEnd::HistoryDiffers { at } => self.differs(at),
        }
    }

    /// Compares what the source has now with what the last run kept of it, when this run has no bytes of its own to
    /// compare yet. Gives the last bytes before `start`.
    fn recognise(&self, slot: &SlotPosition, start: Lsn) -> Result<Recognised, Failure> {
        let history = &self.history;
        let comparable = history.last().filter(|trace| {
            (trace.system_id, trace.timeline) == (slot.system_id, slot.timeline)
                && trace.bytes > 0
                && trace.start() >= slot.start
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
            slot.timeline,
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

    /// The source has another history than the newest stream: that is remembered, and nothing continues it.
    fn differs(&self, at: Lsn) -> Result<String, Failure> {
        let foreign = self.streams.tail().map(|tail| tail.position.stream);
        self.broke(None, Cause::Timeline, foreign)?;
        Ok(format!(
            "the database's history differs from what was captured, from {at} on"
        ))
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
        self.versions.state.update(|memory| {
            memory.breaks += 1;
            memory.foreign = foreign.or(memory.foreign);
        })?;
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
        let of_history = version.breaks == memory.breaks
            && version.history.as_ref().is_some_and(|history| {
                history.system_id == current.system_id && history.timeline == current.timeline
            });
        let age = Duration::from_millis(now_ms().saturating_sub(version.captured));
        !of_history || age >= self.config.base_every.0
    }

    fn base(&self) -> Result<(), Failure> {
        tracing::info!(registry = %self.versions.registry, "a base begins");
        let began = Instant::now();
        let stop = self.versions.stop.clone();
        let options = BaseOptions::new(&self.config.slot);
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
                if (report.facts.system_id, report.facts.timeline)
                    != (current.system_id, current.timeline)
                {
                    return Err(Failure::new(
                        Code::SourceIncomplete,
                        "the cluster changed while its base was taken",
                    ));
                }
                if let Some(probe) = &self.probe {
                    sink.meta(PROBE_KEY, &probe.sql)?;
                    sink.meta(PROBE_WITHIN_KEY, &probe.within.0.as_millis().to_string())?;
                }
                let wal = WalRange {
                    start: report.facts.start,
                    stop: report.facts.stop,
                };
                self.wait_sealed(wal.stop)?;
                let epochs = self.streams.epochs_between(
                    (current.system_id, current.timeline),
                    report.facts.segment_start(wal.start),
                    wal.stop,
                );
                // It lies with the host in clear: without it nobody could say what must be installed before a key is out.
                let wal = BaseWal {
                    range: wal,
                    server: u16::try_from(report.facts.major).ok(),
                };
                Ok(Taken {
                    wal: Some((report.facts.timeline, wal, current.stream)),
                    epochs,
                    stats: Vec::new(),
                    entries: report.entries,
                    bytes: report.bytes,
                })
            },
        )?;
        tracing::info!(registry = %self.versions.registry, version = %number, took = ?began.elapsed(), "the base is sealed");
        Ok(())
    }

    /// Waits until the log up to `stop` is sealed: only then is it known under which epochs.
    fn wait_sealed(&self, stop: Lsn) -> Result<(), Failure> {
        let is_sealed = || {
            let tail = self.streams.tail();
            tail.is_some_and(|tail| tail.position.end_lsn >= stop)
        };
        let began = Instant::now();
        while !is_sealed() {
            if began.elapsed() > SEALED_WITHIN {
                return Err(Failure::new(
                    Code::SourceIncomplete,
                    format!("the log up to {stop} did not come; the base begins again"),
                ));
            }
            let memory = self.versions.state.get();
            if memory.breaks != memory.capturing {
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands in the way of capturing this cluster, before anything begins. A cluster that cannot be reached is no
/// obstacle: it may come up later.
///
/// # Errors
/// Code 3 with every blocking finding and its cure.
pub fn preflight(connect: &ConnectConfig, slot: &str) -> Result<(), Failure> {
    match driver::probe(connect, slot) {
        Ok(probe) if probe.slot == SlotState::Lost => Ok(()),
        Ok(probe) => probe.check().map_err(source_failure),
        Err(error @ legation_registry::Error::Refused { .. }) => Err(source_failure(error)),
        Err(error) => {
            tracing::warn!("{error}");
            Ok(())
        }
    }
}
