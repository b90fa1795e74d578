//! The sealed streams of one registry in the spool: appended by the receiver, sent by the shipper as the same bytes.
//!
//! The newest stream stays on disk even when all of it was acknowledged: its last header says where to go on after a
//! kill. Older ones go when the embassy has all of them.

mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use legation_core::id::{Digest, EpochNo, Lsn, RegistryId, StateId, StreamId, Term, Timeline};
use legation_core::journal::{MAX_FRAME_BYTES, Opening, Position};
use legation_core::statement::Ack;
use legation_repo::journal::{Spool, StreamName};
use legation_repo::{durable, edge};

use stream::{Begun, Paths, Stream, broken, listed, remember, remembered};

use super::budget::Budget;
use crate::exit::{Code, Failure};

/// Arrivals closer together than this count as one: lag is known to this much.
const GRAIN: Duration = Duration::from_millis(5);

/// How many arrivals are remembered. Beyond that every second one is joined to the one after it, so that what waits is
/// told to be older than it is by at most the time between two of them: a 2,000th of the outage.
const MAX_ARRIVALS: usize = 4096;
/// How many streams back the unbroken line is known: at one an hour more than a year.
const MAX_LINE: usize = 10_000;

/// The streams of one registry. Shared between the receiver and the shipper.
#[derive(Debug)]
pub struct Streams {
    dir: PathBuf,
    state: StateId,
    registry: RegistryId,
    budget: Budget,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// Oldest first; only the last one grows.
    streams: VecDeque<Stream>,
    next_ordinal: u64,
    /// Where streams began, oldest first, those that are gone included.
    begun: Vec<Begun>,
    /// What came from the source and is not acknowledged: the position after it, and when it came.
    arrivals: VecDeque<(Lsn, Instant)>,
    /// The streams that continue each other without a hole, oldest first; the newest stream is the last.
    line: VecDeque<StreamId>,
    acked: Option<Acked>,
    /// Whether the acknowledgement was given to this run.
    acked_now: bool,
    gave_up: bool,
    /// Whether something was acknowledged and not removed yet.
    untidy: bool,
    /// What a stream that could not be begun may have left, until it is removed.
    left: Option<Paths>,
    /// Whether a line of streams was ended by a hole in this run.
    severed: bool,
}

/// What the embassy acknowledged last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    /// The stream.
    pub stream: StreamId,
    /// The epoch that it is sealed under.
    pub epoch: EpochNo,
    /// Where the stream then stood.
    pub position: Position,
}

/// Where the log stands that a version needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wal {
    /// All of it is acknowledged.
    Abroad,
    /// It is on its way.
    Coming,
    /// There is a hole in it: it never comes.
    Lost,
}

/// Where the newest stream ends: capture goes on exactly there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// PostgreSQL's system identifier.
    pub system_id: u64,
    /// The last frame.
    pub position: Position,
}

/// Frames for one request.
#[derive(Debug)]
pub struct Batch {
    /// Of which stream.
    pub stream: StreamId,
    /// Its term.
    pub term: Term,
    /// Its epoch.
    pub epoch: EpochNo,
    /// Whole frames, back to back.
    pub frames: Vec<u8>,
    /// The number of the first.
    pub first: u64,
    /// Where the stream stands after the last.
    pub end: Position,
}

/// What the shipper should do next.
#[derive(Debug)]
pub enum Next {
    /// Everything synced was acknowledged.
    Nothing,
    /// Ask the embassy where this stream stands.
    Ask(StreamId),
    /// Send these.
    Send(Batch),
}

impl Streams {
    /// Opens the streams as the last run left them; torn tails were never reported to anyone and are cut off.
    ///
    /// # Errors
    /// When what was synced does not hold any more.
    pub fn open(
        dir: &Path,
        state: StateId,
        registry: RegistryId,
        budget: Budget,
    ) -> Result<Streams, Failure> {
        durable::create_dir(dir)?;
        let mut inner = Inner {
            begun: remembered(dir),
            ..Inner::default()
        };
        for (ordinal, stream) in listed(dir)? {
            inner.next_ordinal = ordinal + 1;
            let name = StreamName {
                state,
                registry,
                stream,
            };
            let paths = Paths::of(dir, ordinal, stream);
            let opening = durable::read_bounded(&paths.opening, MAX_FRAME_BYTES as u64)?;
            let (mut spool, recovered) = Spool::open(&paths.frames, &name).map_err(broken)?;
            if recovered.position.is_none() {
                // Killed between the opening's two copies: the same bytes go on where they were left.
                spool.append(&opening).map_err(broken)?;
                spool.sync().map_err(broken)?;
            }
            let bytes = spool.bytes().map_err(broken)?;
            budget.found_live(bytes);
            let stream = Stream::new(name, paths, spool, &opening, bytes)?;
            inner.join(&stream);
            inner.streams.push_back(stream);
        }
        Ok(Streams {
            dir: dir.to_owned(),
            state,
            registry,
            budget,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
        })
    }

    /// Where the newest stream ends; `None` when there is none to go on from.
    pub fn tail(&self) -> Option<Tail> {
        let inner = self.lock();
        let last = inner.streams.back()?;
        Some(Tail {
            system_id: last.opening.1.system_id,
            position: last.spool.synced()?,
        })
    }

    /// The epochs that the WAL of one history from `from` to before `to` was sealed under: on `timeline`, and on those
    /// before it that lead there without a hole.
    pub fn epochs_between(
        &self,
        (system_id, timeline): (u64, Timeline),
        from: Lsn,
        to: Lsn,
    ) -> BTreeSet<EpochNo> {
        let inner = self.lock();
        let of_history = |one: &&Begun| one.system_id == system_id && one.timeline <= timeline;
        let mut begun: Vec<_> = inner.begun.iter().filter(of_history).collect();
        // An earlier timeline counts only as far as its streams are continued by those of this one.
        let own = begun.iter().position(|one| one.timeline == timeline);
        let Some(own) = own else {
            return BTreeSet::new();
        };
        let root = begun[..=own].iter().rposition(|one| !one.linked);
        begun.drain(..root.unwrap_or(0));
        let mut epochs = BTreeSet::new();
        for (at, one) in begun.iter().enumerate() {
            let end = begun.get(at + 1).map_or(Lsn(u64::MAX), |next| next.first);
            // Streams without WAL count where they lie between: the way leads through them.
            if one.first < to && (end > from || one.first >= from) {
                epochs.insert(one.epoch);
            }
        }
        epochs
    }

    /// Whether nothing is left of any stream.
    pub fn is_empty(&self) -> bool {
        self.lock().streams.is_empty()
    }

    /// What the embassy acknowledged last.
    pub fn acked(&self) -> Option<Acked> {
        self.lock().acked
    }

    /// Whether all WAL from `stream` on to `stop` is acknowledged: by that stream, or by those that continue it
    /// without a hole.
    pub fn covers(&self, stream: StreamId, timeline: Timeline, stop: Lsn) -> Wal {
        let inner = self.lock();
        // A stream of an earlier run may be abroad and forgotten here; a break since then is in the agent's memory.
        let after = inner.line.iter().position(|known| *known == stream);
        let Some(acked) = inner.acked else {
            return Wal::Coming;
        };
        let at = inner.line.iter().position(|known| *known == acked.stream);
        match (after, at) {
            (None, _) if inner.severed => Wal::Lost,
            (Some(after), Some(at)) if at < after => Wal::Coming,
            // What was acknowledged last is of before the line that now grows.
            (_, None) => Wal::Coming,
            // A promotion may have gone on from there; a base is sealed on its own timeline before it is committed.
            _ if acked.position.timeline < timeline => Wal::Lost,
            _ if acked.position.end_lsn < stop => Wal::Coming,
            _ => Wal::Abroad,
        }
    }

    /// What the embassy acknowledged last in this run: what an earlier run was told is marked already or never.
    pub fn markable(&self) -> Option<Acked> {
        let inner = self.lock();
        inner.acked.filter(|_| inner.acked_now)
    }

    /// Begins a new stream with its opening frame. Durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&self, stream: StreamId, opening: &[u8]) -> Result<(), Failure> {
        let mut inner = self.lock();
        let name = StreamName {
            state: self.state,
            registry: self.registry,
            stream,
        };
        // What a failed beginning left must be gone first, or a later run would take it for a stream.
        if let Some(left) = inner.left.take()
            && let Err(error) = left.remove()
        {
            inner.left = Some(left);
            return Err(error.into());
        }
        // The order of streams is that of their beginnings, also of those that failed.
        let paths = Paths::of(&self.dir, inner.next_ordinal, stream);
        let parsed = Opening::parse(opening)
            .map_err(|error| Failure::failed(format!("opening a stream: {error}")))?;
        // Before the stream: what is sealed in it is never of an epoch that nobody remembers.
        remember(&self.dir, &mut inner.begun, Begun::of(&parsed))?;
        inner.next_ordinal += 1;
        let spool = match create(&paths, &name, opening) {
            Ok(spool) => spool,
            Err(failure) => {
                if paths.remove().is_err() {
                    inner.left = Some(paths);
                }
                return Err(failure);
            }
        };
        let bytes = opening.len() as u64;
        self.budget.found_live(bytes);
        let mut stream = Stream::new(name, paths, spool, opening, bytes)?;
        stream.keep_fresh(0, opening.to_vec());
        inner.join(&stream);
        inner.streams.push_back(stream);
        drop(inner);
        self.changed.notify_all();
        Ok(())
    }

    /// Whether this is the stream that grows.
    pub fn is_newest(&self, stream: StreamId) -> bool {
        self.lock()
            .streams
            .back()
            .is_some_and(|newest| newest.name.stream == stream)
    }

    /// Appends a frame to the newest stream; room was taken from the budget. Not durable before [`Streams::sync`].
    ///
    /// # Errors
    /// When it cannot be written, or the stream was given up.
    pub fn append(&self, id: StreamId, seq: u64, frame: Vec<u8>) -> Result<(), Failure> {
        let mut inner = self.lock();
        let stream = inner.newest(id)?;
        stream.spool.append(&frame).map_err(broken)?;
        stream.bytes += frame.len() as u64;
        stream.keep_fresh(seq, frame);
        Ok(())
    }

    /// Makes what was appended durable and returns where the newest stream then stands.
    ///
    /// # Errors
    /// When it cannot be synced, or the stream was given up; it takes nothing more in this run.
    pub fn sync(&self, id: StreamId) -> Result<Option<Position>, Failure> {
        let mut inner = self.lock();
        let position = inner.newest(id)?.spool.sync().map_err(broken)?;
        drop(inner);
        self.changed.notify_all();
        Ok(position)
    }

    /// Opens the newest stream's files again after a failed write or sync, at what was synced: the rest was neither sent
    /// nor reported to the source, which sends it again. Nothing is appended to that stream any more.
    ///
    /// # Errors
    /// When the disk still fails.
    pub fn reopen(&self) -> Result<(), Failure> {
        let mut inner = self.lock();
        let Some(stream) = inner.streams.back_mut() else {
            return Ok(());
        };
        let (spool, _) = stream.spool.reopen().map_err(broken)?;
        let bytes = spool.bytes().map_err(broken)?;
        self.budget.give_live(stream.bytes.saturating_sub(bytes));
        stream.bytes = bytes;
        stream.spool = spool;
        stream.fresh.clear();
        stream.fresh_bytes = 0;
        Ok(())
    }

    /// Notes that the source has sent everything before `end`.
    pub fn arrived(&self, end: Lsn) {
        let mut inner = self.lock();
        let now = Instant::now();
        match inner.arrivals.back_mut() {
            Some((last, since)) if now.duration_since(*since) < GRAIN => *last = end,
            _ => inner.arrivals.push_back((end, now)),
        }
        if inner.arrivals.len() > MAX_ARRIVALS {
            thin(&mut inner.arrivals);
        }
    }

    /// How long the oldest unacknowledged arrival has waited; zero when there is none.
    pub fn lag(&self) -> Duration {
        let inner = self.lock();
        inner
            .arrivals
            .front()
            .map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    /// What to send next; at most `limit` bytes, at least one frame.
    ///
    /// # Errors
    /// When the spool's copy does not hold any more.
    pub fn next(&self, limit: usize) -> Result<Next, Failure> {
        let mut inner = self.lock();
        for stream in &mut inner.streams {
            let Some(synced) = stream.spool.synced() else {
                continue;
            };
            let Some(next) = stream.next else {
                return Ok(Next::Ask(stream.name.stream));
            };
            if next <= synced.seq {
                return stream.batch(next, synced.seq, limit).map(Next::Send);
            }
        }
        Ok(Next::Nothing)
    }

    /// The embassy says, without a signature, that the next frame it needs of this stream is `next`, and that its chain
    /// then stands at `chain`. That tells what to send, and frees nothing: the last frame that it has is sent once more,
    /// and the signed answer counts.
    ///
    /// # Errors
    /// Code 4 when it has frames that this spool never had, or other ones: the agent's machine was set back.
    pub fn stands_at(
        &self,
        stream: StreamId,
        next: u64,
        chain: Option<Digest>,
    ) -> Result<(), Failure> {
        let mut inner = self.lock();
        let Some(found) = inner.streams.iter_mut().find(|s| s.name.stream == stream) else {
            return Ok(());
        };
        let other = |what: &str| {
            Failure::new(
                Code::VerificationFailed,
                format!("the embassy holds {what} of a stream that this agent has not sealed"),
            )
            .hint("this machine was set back or cloned; stop the other agent, then move the spool away")
        };
        if next > found.spool.next_seq() {
            return Err(other("frames"));
        }
        let last = match next.checked_sub(1) {
            Some(last) => found.chain_at(last)?.map(|held| (last, held)),
            None => None,
        };
        let from = match last {
            // What went from here was signed for.
            None => next,
            Some((_, held)) if chain.is_some_and(|chain| chain != held) => {
                return Err(other("other frames"));
            }
            Some((last, _)) => last,
        };
        found.next = Some(from);
        found.fresh.retain(|(seq, _)| *seq >= from);
        found.fresh_bytes = found.fresh.iter().map(|(_, frame)| frame.len()).sum();
        Ok(())
    }

    /// The embassy acknowledged a batch. What need not stay goes with [`Streams::tidy`].
    ///
    /// # Errors
    /// Code 4 when it acknowledged something else than was sent.
    pub fn acknowledged(&self, batch: &Batch, ack: &Ack) -> Result<(), Failure> {
        let mut inner = self.lock();
        let Some(at) = inner
            .streams
            .iter()
            .position(|s| s.name.stream == batch.stream)
        else {
            return Ok(());
        };
        let found = &mut inner.streams[at];
        let other = ack.sequence == batch.end.seq && ack.chain != batch.end.chain;
        if ack.sequence < batch.end.seq || other {
            return Err(Failure::new(
                Code::VerificationFailed,
                "the embassy acknowledged other frames than were sent",
            ));
        }
        found.next = Some(batch.end.seq + 1);
        inner.acknowledge(Acked {
            stream: batch.stream,
            epoch: batch.epoch,
            position: batch.end,
        });
        inner.acked_now = true;
        inner.untidy = true;
        drop(inner);
        self.changed.notify_all();
        Ok(())
    }

    /// Removes what was acknowledged and need not stay.
    ///
    /// # Errors
    /// When a file cannot be written or removed: nothing is lost, and this is tried again.
    pub fn tidy(&self) -> Result<(), Failure> {
        let mut inner = self.lock();
        if !inner.untidy {
            return Ok(());
        }
        for stream in &mut inner.streams {
            if let Some(shipped) = stream.next.and_then(|next| next.checked_sub(1)) {
                let freed = stream.spool.remove_shipped(shipped).map_err(broken)?;
                stream.bytes = stream.bytes.saturating_sub(freed);
                self.budget.give_live(freed);
            }
        }
        self.remove_finished(&mut inner)?;
        inner.untidy = false;
        Ok(())
    }

    /// Waits until something changed, at most for `time`.
    pub fn wait(&self, time: Duration) {
        let inner = self.lock();
        let _ = self.changed.wait_timeout(inner, time);
    }

    /// Wakes whoever waits.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// Whether something here is sealed under this epoch.
    pub fn has(&self, epoch: EpochNo) -> bool {
        let inner = self.lock();
        inner.streams.iter().any(|s| s.opening.0.epoch == epoch)
    }

    /// Gives up the streams from this epoch on, if there is one of it: nobody can open the first of them, and the others continue it. The
    /// receiver finds its stream gone, and goes on from what is left.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn give_up_from(&self, epoch: EpochNo) -> Result<(), Failure> {
        let mut inner = self.lock();
        if !inner.streams.iter().any(|s| s.opening.0.epoch == epoch) {
            // An earlier call may have come no further.
            return Ok(durable::sync_dir(&self.dir)?);
        }
        while inner
            .streams
            .back()
            .is_some_and(|stream| stream.opening.0.epoch >= epoch)
        {
            if let Some(stream) = inner.streams.back() {
                stream.paths.remove()?;
            }
            if let Some(stream) = inner.streams.pop_back() {
                self.budget.give_live(stream.bytes);
                inner.line.retain(|known| *known != stream.name.stream);
            }
            inner.gave_up = true;
            inner.begun.retain(|begun| begun.epoch < epoch);
        }
        inner.arrivals.clear();
        // Before the epoch is announced again: a stream that came back with the power would be sent under it, and opens
        // for nobody.
        durable::sync_dir(&self.dir)?;
        Ok(())
    }

    /// Whether streams were given up since this was last asked.
    pub fn gave_up(&self) -> bool {
        std::mem::take(&mut self.lock().gave_up)
    }

    /// Removes streams before the newest of which the embassy has everything.
    fn remove_finished(&self, inner: &mut Inner) -> Result<(), Failure> {
        while inner.streams.len() > 1 {
            let done = inner
                .streams
                .front()
                .and_then(|s| Some(s.next? == s.spool.next_seq()))
                .unwrap_or(false);
            if !done {
                break;
            }
            if let Some(stream) = inner.streams.front() {
                stream.paths.remove()?;
            }
            if let Some(stream) = inner.streams.pop_front() {
                self.budget.give_live(stream.bytes);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Joins neighbours: the end of the later one, the time of the earlier one.
fn thin(arrivals: &mut VecDeque<(Lsn, Instant)>) {
    let mut joined = VecDeque::with_capacity(arrivals.len() / 2 + 1);
    while let Some((end, since)) = arrivals.pop_front() {
        let end = arrivals.pop_front().map_or(end, |(later, _)| later);
        joined.push_back((end, since));
    }
    *arrivals = joined;
}

/// Writes a stream's opening, beside its frames and as the first of them.
fn create(paths: &Paths, name: &StreamName, opening: &[u8]) -> Result<Spool, Failure> {
    edge::at("agent.stream", || {
        durable::write_atomic(&paths.opening, opening)
    })?;
    let (mut spool, _) = Spool::open(&paths.frames, name).map_err(broken)?;
    spool.append(opening).map_err(broken)?;
    spool.sync().map_err(broken)?;
    Ok(spool)
}

impl Inner {
    /// Adds a stream to the unbroken line, or begins a new line if it continues nothing.
    fn join(&mut self, stream: &Stream) {
        let last = self.line.back().copied();
        match stream.opening.1.previous {
            Some((previous, _)) if Some(previous) == last => {}
            // The one before it was abroad and removed.
            Some((previous, _)) if last.is_none() => self.line.push_back(previous),
            _ => {
                self.severed |= last.is_some();
                self.line.clear();
            }
        }
        self.line.push_back(stream.name.stream);
        if self.line.len() > MAX_LINE {
            self.line.pop_front();
        }
    }

    fn newest(&mut self, id: StreamId) -> Result<&mut Stream, Failure> {
        self.streams
            .back_mut()
            .filter(|stream| stream.name.stream == id)
            .ok_or_else(|| Failure::failed("the stream was given up"))
    }

    fn acknowledge(&mut self, acked: Acked) {
        while self
            .arrivals
            .front()
            .is_some_and(|(end, _)| *end <= acked.position.end_lsn)
        {
            self.arrivals.pop_front();
        }
        self.acked = Some(acked);
    }
}
