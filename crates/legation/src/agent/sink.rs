//! Where live WAL becomes sealed frames: each piece is sealed once, appended to the spool, and synced in groups.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use legation_core::id::{Digest, Lsn, RegistryId, StreamId, Term, Timeline};
use legation_core::journal::{
    MAX_FRAME_BYTES, MAX_FRAME_PLAIN, Position, StreamSealer, StreamStart,
};
use legation_core::source::{SourceError, SourceResult, WalSink};

use super::budget::Budget;
use super::epoch::{Epoch, Epochs, Open};
use super::history::{EVERY, EVERY_IDLE, History, OVERLAP, Trace};
use super::streams::Streams;
use super::writer::Writer;
use crate::exit::Failure;
use crate::identity::random;
use crate::stop::Stop;

/// Which history the WAL belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// PostgreSQL's system identifier.
    pub system_id: u64,
    /// The timeline.
    pub timeline: Timeline,
    /// Where the next byte goes.
    pub next: Lsn,
    /// Bytes of a WAL segment, a power of two.
    pub segment: u64,
}

/// Seals WAL of one registry into its streams.
pub struct Sealer {
    registry: RegistryId,
    term: Term,
    writer: Arc<Writer>,
    epochs: Arc<Epochs>,
    streams: Arc<Streams>,
    budget: Budget,
    stop: Stop,
    source: Source,
    /// Whether the next stream continues what lies in the spool.
    continues: bool,
    /// The stream that was opened last; its keys are kept with the epochs, and go with its epoch.
    stream: Option<StreamId>,
    buffer: Vec<u8>,
    /// The last WAL, to recognise the source by after a broken connection.
    tail: VecDeque<u8>,
    /// The same for the next run, on disk.
    history: History,
    /// What was written there last, and when.
    traced: Option<(Trace, Instant)>,
    synced: Lsn,
    full: bool,
}

/// What a sealer is made from.
pub struct Parts {
    /// The registry.
    pub registry: RegistryId,
    /// The term under which it writes.
    pub term: Term,
    /// Its writer.
    pub writer: Arc<Writer>,
    /// Its epochs.
    pub epochs: Arc<Epochs>,
    /// Its streams.
    pub streams: Arc<Streams>,
    /// What the source is recognised by after a restart.
    pub history: History,
    /// The spool's bound.
    pub budget: Budget,
    /// When to stop.
    pub stop: Stop,
}

impl Sealer {
    /// Goes on at `source.next` with a new stream: a counter of an earlier run is never continued. It names the newest
    /// stream of the spool as its past if it `continues` that without a hole.
    ///
    /// # Errors
    /// When the epoch or the stream's opening cannot be made durable.
    pub fn begin(parts: Parts, source: Source, continues: bool) -> Result<Sealer, Failure> {
        let mut sealer = Sealer {
            registry: parts.registry,
            term: parts.term,
            writer: parts.writer,
            epochs: parts.epochs,
            streams: parts.streams,
            budget: parts.budget,
            stop: parts.stop,
            source,
            continues,
            stream: None,
            buffer: Vec::new(),
            tail: VecDeque::new(),
            history: parts.history,
            traced: None,
            synced: source.next,
            full: false,
        };
        if !continues {
            // What was kept of another history must not be held against this one.
            sealer.trace()?;
        }
        let epoch = sealer.epochs.current()?;
        sealer.open_stream(&epoch, &[])?;
        Ok(sealer)
    }

    /// The stream that is open.
    pub fn stream(&self) -> Option<StreamId> {
        self.stream
    }

    /// The timeline of what it takes.
    pub fn timeline(&self) -> Timeline {
        self.source.timeline
    }

    /// Where the next byte of WAL goes: everything before it is sealed and synced.
    pub fn next(&self) -> Lsn {
        self.synced
    }

    /// The last bytes before [`Sealer::next`], to compare with what the source has there now.
    pub fn overlap(&self) -> Vec<u8> {
        self.tail.iter().copied().collect()
    }

    /// Whether there are bytes to compare.
    pub fn has_overlap(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Takes the last bytes before [`Sealer::next`] as the source gave them again.
    pub fn recall(&mut self, recent: &[u8]) {
        self.tail = recent.iter().copied().collect();
    }

    /// Keeps on disk by what the next run recognises the source: everything before `synced` is in the tail's past.
    fn trace(&mut self) -> Result<(), Failure> {
        let source = &self.source;
        let into = self.synced.0 & (source.segment - 1);
        let bytes = into.min(self.tail.len() as u64);
        let mut hasher = self.history.hasher();
        let from = self.tail.len() - usize::try_from(bytes).unwrap_or(0);
        let (front, back) = self.tail.as_slices();
        hasher.update(front.get(from..).unwrap_or_default());
        hasher.update(&back[from.saturating_sub(front.len())..]);
        let trace = Trace {
            format: 1,
            system_id: source.system_id,
            timeline: source.timeline,
            end: self.synced,
            bytes,
            digest: Digest(*hasher.finalize().as_bytes()),
        };
        self.history.keep(&trace)?;
        self.traced = Some((trace, Instant::now()));
        Ok(())
    }

    /// As [`Sealer::trace`], when it is due: with the first bytes of each segment, because the server may forget the
    /// one before as soon as it knows that they are synced; else now and then.
    fn trace_if_due(&mut self, every: Duration) -> Result<(), Failure> {
        let segment = |lsn: Lsn| lsn.0 & !(self.source.segment - 1);
        let due = self.traced.as_ref().is_none_or(|(last, at)| {
            last.end != self.synced
                && (last.bytes == 0
                    || segment(last.end) != segment(self.synced)
                    || at.elapsed() >= every)
        });
        if due { self.trace() } else { Ok(()) }
    }

    /// Whether the spool had no room for what came.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Makes durable what was sealed and forgets the rest: the source sends it again.
    ///
    /// # Errors
    /// When the spool cannot be synced; this run then seals nothing more.
    pub fn reconnect(&mut self) -> Result<(), Failure> {
        if let Some(position) = self.sync()? {
            self.synced = position.end_lsn;
        }
        let forgotten = usize::try_from(self.source.next.0 - self.synced.0).unwrap_or(usize::MAX);
        self.tail
            .truncate(self.tail.len().saturating_sub(forgotten));
        self.buffer.clear();
        self.source.next = self.synced;
        self.full = false;
        Ok(())
    }

    fn sync(&self) -> Result<Option<Position>, Failure> {
        match self.stream() {
            Some(stream) => self.streams.sync(stream),
            None => Ok(None),
        }
    }

    fn open_stream(&mut self, epoch: &Epoch, first: &[u8]) -> Result<(), Failure> {
        let mut id = [0; 16];
        id.copy_from_slice(&random::<16>()?[..]);
        let tail = self.streams.tail().filter(|_| self.continues);
        let previous = tail.map(|tail| (tail.position.stream, tail.position.chain));
        let at = Lsn(self.source.next.0 - self.buffer.len() as u64);
        let start = StreamStart {
            state: self.writer.state(),
            registry: self.registry,
            epoch: epoch.number,
            term: self.term,
            stream: StreamId(id),
            branch: 0,
            system_id: self.source.system_id,
            timeline: self.source.timeline,
            lsn: at,
            previous,
        };
        let (sealer, opening) = StreamSealer::open(&start, &epoch.root, &*random()?, first)
            .map_err(|error| Failure::failed(format!("opening a stream: {error}")))?;
        self.streams.begin(start.stream, &opening)?;
        tracing::debug!(registry = %self.registry, stream = %start.stream, epoch = epoch.number.0, lsn = %at, "stream begins");
        self.stream = Some(start.stream);
        *self.epochs.stream() = Some(Open {
            epoch: epoch.number,
            sealer,
        });
        self.continues = true;
        Ok(())
    }

    /// Seals the first `length` bytes of the buffer as one frame; returns its size.
    fn seal(&mut self, length: usize) -> Result<u64, Failure> {
        let epoch = self.epochs.current()?;
        let mut open = self.epochs.stream();
        let stale = open.as_ref().is_none_or(|open| {
            open.epoch != epoch.number || Some(open.sealer.position().stream) != self.stream
        });
        if stale {
            drop(open);
            // What was sealed under the old epoch is synced before the new stream names it as its past.
            self.sync()?;
            let first = self.buffer[..length].to_vec();
            self.open_stream(&epoch, &first)?;
            open = self.epochs.stream();
        }
        let at = Lsn(self.source.next.0 - self.buffer.len() as u64);
        let Some(Open { sealer, .. }) = open.as_mut() else {
            return Err(Failure::failed(
                "the epoch ended while its first frame was made",
            ));
        };
        let frame = sealer
            .frame(at, self.source.timeline, &self.buffer[..length])
            .map_err(|error| Failure::failed(format!("sealing WAL: {error}")))?;
        let position = sealer.position();
        drop(open);
        self.buffer.drain(..length);
        let bytes = frame.len() as u64;
        self.streams.append(position.stream, position.seq, frame)?;
        Ok(bytes)
    }

    /// As [`Sealer::seal`], if the spool has room. Nothing is dropped when it has not: the source keeps what was not
    /// reported as flushed, and sends it again.
    fn seal_within_budget(&mut self, length: usize) -> SourceResult<()> {
        // The largest frame that these bytes can become.
        if !self.budget.take_live(MAX_FRAME_BYTES as u64) {
            self.full = true;
            return Err(SourceError::Refused("the spool is full".into()));
        }
        let sealed = self.seal(length);
        let used = *sealed.as_ref().unwrap_or(&0);
        self.budget
            .give_live((MAX_FRAME_BYTES as u64).saturating_sub(used));
        sealed.map(drop).map_err(SourceError::other)
    }
}

impl WalSink for Sealer {
    fn wal(&mut self, timeline: Timeline, start: Lsn, bytes: &[u8]) -> SourceResult<()> {
        if timeline != self.source.timeline || start != self.source.next {
            return Err(SourceError::Refused(format!(
                "WAL at {start} on timeline {timeline} does not continue {} on {}",
                self.source.next, self.source.timeline
            )));
        }
        self.buffer.extend_from_slice(bytes);
        self.source.next = Lsn(start.0 + bytes.len() as u64);
        self.tail.extend(bytes);
        let excess = self.tail.len().saturating_sub(OVERLAP);
        self.tail.drain(..excess);
        self.streams.arrived(self.source.next);
        while self.buffer.len() >= MAX_FRAME_PLAIN {
            self.seal_within_budget(MAX_FRAME_PLAIN)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> SourceResult<Lsn> {
        while !self.buffer.is_empty() {
            self.seal_within_budget(self.buffer.len().min(MAX_FRAME_PLAIN))?;
        }
        let position = self.sync().map_err(SourceError::other)?;
        if let Some(position) = position {
            self.synced = position.end_lsn;
        }
        // Before the position is reported: what the server is told it may forget is then recognised by what follows.
        self.trace_if_due(EVERY).map_err(SourceError::other)?;
        Ok(self.synced)
    }

    fn idle(&mut self) -> SourceResult<()> {
        if self.source.next == self.synced {
            self.trace_if_due(EVERY_IDLE).map_err(SourceError::other)?;
        }
        Ok(())
    }

    fn stop(&self) -> bool {
        self.stop.is_up()
            || self
                .stream()
                .is_none_or(|stream| !self.streams.is_newest(stream))
    }
}
