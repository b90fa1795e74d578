//! The shipper of what sets RPO: slips and epoch statements, then journal frames, then marks.
//!
//! Frames go out only after the log holds the epoch that they are sealed under. What the embassy acknowledged is kept
//! durably; when this process dies, the embassy itself says where the stream stands.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use legation_core::id::{Digest, EpochNo, Generation, RegistryId, StreamId};
use legation_core::slip;
use legation_core::statement::{self, Signed, Statement, Time};
use legation_repo::edge;

use super::epoch::Epochs;
use super::kept::Kept;
use super::link::{Backoff, Link, Trouble};
use super::outbox::{Item, Kind, Outbox};
use super::state::State;
use super::status::{Board, now_ms};
use super::streams::{Acked, Next, Streams};
use super::writer::{Writer, now};
use crate::exit::{Code, Failure};
use crate::stop::Stop;

/// Bytes of one request: long enough to fill a line, short enough that an acknowledgement is never far away.
const BATCH: usize = 2 << 20;
/// Time between two marks when something moved.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// Shortest and longest time between two statements that tell of nothing new. Half of the objective lies between, so that
/// a registry at rest is seen to be within it.
const BEAT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(900));
/// Time between two writings of the last acknowledgement.
const KEEP_EVERY: Duration = Duration::from_millis(500);
/// Time between two tries to free what is abroad, when the disk refuses.
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// How long to wait for something to send.
const IDLE: Duration = Duration::from_millis(100);

/// One registry's live shipper.
pub struct Live {
    /// The registry.
    pub registry: RegistryId,
    /// Its name at home.
    pub name: String,
    /// Its writer.
    pub writer: Arc<Writer>,
    /// Its memory.
    pub state: State,
    /// Slips, epochs and gaps.
    pub control: Arc<Outbox>,
    /// Its epochs.
    pub epochs: Arc<Epochs>,
    /// Its streams.
    pub streams: Arc<Streams>,
    /// The line.
    pub link: Link,
    /// Where the last acknowledgement of each stream is kept.
    pub kept: Kept,
    /// The last acknowledgement, until it is kept.
    pub signed: RefCell<Option<(StreamId, Signed)>>,
    /// What is shown.
    pub board: Board,
    /// How old the registry may be abroad.
    pub rpo: Duration,
    /// When to stop: raised here once the registry is fenced, so that nothing more is captured either.
    pub stop: Stop,
}

/// What the log was told of how far this registry is covered.
struct Said {
    beat: Duration,
    /// The newest mark: where, and as of when.
    marked: Option<(Acked, Instant)>,
    /// The newest walk that found nothing changed.
    looked: u64,
    /// When the log was last told anything.
    at: Instant,
}

impl Said {
    fn new(beat: Duration) -> Said {
        Said {
            beat,
            marked: None,
            looked: 0,
            at: Instant::now(),
        }
    }
}

/// The time that lies so far back, as statements write it.
fn ago(past: Duration) -> Result<Time, Failure> {
    let past = u64::try_from(past.as_millis()).unwrap_or(u64::MAX);
    let at = now()?.millis().saturating_sub(past);
    Time::from_millis(at).ok_or_else(|| Failure::failed("a time out of range"))
}

/// An epoch's announcement for one generation, as it waits in the queue.
struct Announcement {
    /// `None` when it is abroad already.
    slip: Option<Vec<u8>>,
    statement: Vec<u8>,
}

impl Live {
    /// Ships until told to stop.
    pub fn run(self) {
        let mut backoff = Backoff::default();
        let mut said = Said::new((self.rpo / 2).clamp(BEAT.0, BEAT.1));
        let mut kept = Instant::now();
        let mut untidy: Option<Instant> = None;
        while !self.stop.is_up() {
            let result = self.step().and_then(|moved| {
                self.mark_if_due(&mut said)?;
                self.say_unchanged_if_due(&mut said)?;
                // A disk without room for that is tried again; what waits is sent meanwhile.
                if untidy.is_none_or(|since| since.elapsed() >= TIDY_EVERY) {
                    untidy = Some(Instant::now());
                    self.streams.tidy()?;
                    untidy = None;
                }
                Ok(moved)
            });
            if kept.elapsed() >= KEEP_EVERY {
                self.keep();
                kept = Instant::now();
            }
            match result {
                Ok(moved) => {
                    backoff.reset();
                    self.board
                        .registry(&self.name, |status| status.line_trouble = None);
                    if !moved {
                        self.streams.wait(IDLE);
                    }
                }
                Err(trouble) => {
                    if self.failed(trouble) {
                        self.keep();
                        return;
                    }
                    self.stop.wait(backoff.pause());
                }
            }
        }
        self.keep();
    }

    /// Does one thing; says whether there was one.
    fn step(&self) -> Result<bool, Trouble> {
        if let Some(item) = self.control.front() {
            self.control_item(&item)?;
            return Ok(true);
        }
        match self.streams.next(BATCH)? {
            Next::Nothing => Ok(false),
            Next::Ask(stream) => {
                let (next, chain) = self.link.stands_at(self.registry, &stream)?;
                self.streams.stands_at(stream, next, chain)?;
                Ok(true)
            }
            Next::Send(batch) => match self.link.append(self.registry, &batch) {
                Ok((ack, signed)) => {
                    edge::hit("agent.acked").map_err(Failure::from)?;
                    let before = self.signed.borrow().as_ref().map(|(stream, _)| *stream);
                    if before.is_some_and(|before| before != batch.stream) {
                        self.keep();
                    }
                    self.signed.replace(Some((batch.stream, signed)));
                    self.streams.acknowledged(&batch, &ack)?;
                    self.show_acked();
                    Ok(true)
                }
                Err(Trouble::Position(next, chain)) => {
                    if batch.first == next {
                        let why = format!(
                            "the embassy takes nothing of stream {} at frame {next}",
                            batch.stream
                        );
                        return Err(Trouble::Later(why));
                    }
                    self.streams.stands_at(batch.stream, next, Some(chain))?;
                    Ok(true)
                }
                Err(trouble) => Err(trouble),
            },
        }
    }

    /// A slip, an epoch or a gap statement. Of an epoch there may be several announcements, for one generation each: the
    /// first that the log takes counts, and the others are dropped.
    fn control_item(&self, item: &Item) -> Result<(), Trouble> {
        let Some(bytes) = self.control.read(item)? else {
            return Ok(());
        };
        let Some((epoch, generation)) = announced(item.kind, &bytes) else {
            match self.link.submit(&bytes) {
                Ok(_) => {}
                Err(Trouble::Refused(why)) => {
                    tracing::warn!(registry = %self.registry, "a statement was refused: {why}");
                }
                Err(trouble) => return Err(trouble),
            }
            return Ok(self.control.remove(item)?);
        };
        if epoch <= self.state.get().logged {
            return Ok(self.control.remove(item)?);
        }
        let sent = match item.kind {
            Kind::Statement => self.link.submit(&bytes).map(drop),
            kind => self.link.put(kind, &item.digest, bytes),
        };
        match sent {
            Ok(()) if item.kind == Kind::Statement => self.logged(epoch, generation),
            Ok(()) => Ok(self.control.remove(item)?),
            Err(Trouble::Refused(why)) => self.announce_anew(item.kind, epoch, generation, &why),
            Err(trouble) => Err(trouble),
        }
    }

    /// The log holds the epoch. What the queue still has of it goes as its turn comes.
    fn logged(&self, epoch: EpochNo, generation: Generation) -> Result<(), Trouble> {
        self.state.update(|memory| {
            memory.logged = memory.logged.max(epoch);
            memory.last_epoch = memory.last_epoch.max(epoch);
        })?;
        Ok(self.epochs.moved_to(generation)?)
    }

    /// An announcement was refused. If its generation was spent since, the epoch is announced for the one in use, by
    /// what was sealed for that when the epoch began. However often this is cut short, it comes to the same end:
    /// everything that is ever submitted is in the queue first, and what the log holds decides.
    fn announce_anew(
        &self,
        kind: Kind,
        epoch: EpochNo,
        spent: Generation,
        refused: &str,
    ) -> Result<(), Trouble> {
        // The embassy's word is not enough to move on: the log must say it.
        let log = self.link.follow()?;
        let cloned = || {
            Trouble::Fatal(
                Failure::new(Code::Refused, format!("epoch {epoch} of {} was refused: {refused}", self.registry))
                    .hint("this machine was set back, cloned or lost its memory: stop other agents of this identity, then move the spool away"),
            )
        };
        let known = log.registry(self.registry);
        if let Some(logged) = known.and_then(|known| known.epoch(epoch)) {
            // Ours, if the queue has what the log names: the answer was lost.
            return match self.announcement(epoch, |queued| queued.slip == logged.slip)? {
                Some(_) => self.logged(epoch, logged.generation),
                None => Err(cloned()),
            };
        }
        let Some(generation) = log.generation() else {
            return Err(Trouble::Later(
                "every vault generation is spent: the officers must deal new ones".into(),
            ));
        };
        if generation == spent {
            return match kind {
                Kind::Statement => Err(cloned()),
                _ => Err(Trouble::Later(format!(
                    "the slip of epoch {epoch} was refused: {refused}"
                ))),
            };
        }
        self.epochs.moved_to(generation)?;
        let (slip, statement) =
            match self.announcement(epoch, |queued| queued.generation == generation)? {
                Some(Announcement {
                    slip: Some(slip),
                    statement,
                }) => (slip, statement),
                _ => self.reseal(epoch, generation)?,
            };
        self.link.put(Kind::Slip, &Digest::of(&slip), slip)?;
        edge::hit("agent.moved").map_err(Failure::from)?;
        self.link.submit(&statement)?;
        edge::hit("agent.moved").map_err(Failure::from)?;
        self.logged(epoch, generation)?;
        tracing::info!(registry = %self.registry, epoch = epoch.0, generation = generation.0, "moved to the next vault generation");
        Ok(())
    }

    /// The statement of an announcement of this epoch that waits in the queue, with its slip if that waits too.
    fn announcement(
        &self,
        epoch: EpochNo,
        wanted: impl Fn(&statement::Epoch) -> bool,
    ) -> Result<Option<Announcement>, Failure> {
        let items = self.control.items();
        for item in items.iter().filter(|item| item.kind == Kind::Statement) {
            let Some(statement) = self.control.read(item)? else {
                continue;
            };
            let Some(found) = epoch_of(&statement).filter(|it| it.epoch == epoch && wanted(it))
            else {
                continue;
            };
            let slip = items
                .iter()
                .find(|item| (item.kind, item.digest) == (Kind::Slip, found.slip));
            let slip = match slip {
                Some(slip) => self.control.read(slip)?,
                None => None,
            };
            return Ok(Some(Announcement { slip, statement }));
        }
        Ok(None)
    }

    /// An epoch for a generation that nothing was sealed to when it began. If its root is gone, the numbers go on with
    /// another, and what was sealed under the old one opens for nobody.
    fn reseal(
        &self,
        epoch: EpochNo,
        generation: Generation,
    ) -> Result<(Vec<u8>, Vec<u8>), Trouble> {
        let again = self.epochs.reseal(epoch, generation)?;
        if !again.known {
            // Before the log knows the number: versions that wait and need it are given up, and the receiver logs the
            // hole when it finds one.
            let gave_up = self.streams.has(epoch);
            self.state.update(|memory| {
                memory.lost.insert(epoch);
                memory.breaks += u32::from(gave_up);
            })?;
            self.streams.give_up_from(epoch)?;
        }
        self.control.push(Kind::Slip, &again.slip)?;
        self.control.push(Kind::Statement, &again.statement)?;
        Ok((again.slip, again.statement))
    }

    /// Marks how far the stream has come, and as of when: each second while it grows; while it rests at the beat, and only
    /// if the source said that it rests.
    fn mark_if_due(&self, said: &mut Said) -> Result<(), Trouble> {
        let (Some(acked), Some(until)) = (self.streams.markable(), self.streams.covered()) else {
            return Ok(());
        };
        let moved = said.marked.is_none_or(|(before, _)| before != acked);
        let later = said.marked.is_none_or(|(_, before)| before < until);
        let every = if moved { MARK_EVERY } else { said.beat };
        if !(moved || later) || said.at.elapsed() < every {
            return Ok(());
        }
        self.mark(&acked, ago(until.elapsed())?)?;
        (said.marked, said.at) = (Some((acked, until)), Instant::now());
        Ok(())
    }

    /// Tells the log that a walk found the source as it is in the newest version.
    fn say_unchanged_if_due(&self, said: &mut Said) -> Result<(), Trouble> {
        if said.at.elapsed() < said.beat {
            return Ok(());
        }
        let looked = self.board.looked(&self.name).filter(|at| *at > said.looked);
        let memory = self.state.get();
        let (Some(looked), Some(version)) = (looked, memory.version) else {
            return Ok(());
        };
        // A walk that began before the newest version was captured compared with an older one.
        let Some(at) = Time::from_millis(looked).filter(|_| looked > version.captured) else {
            return Ok(());
        };
        self.tell(statement::Unchanged {
            state: self.writer.state(),
            mandate: self.writer.mandate(),
            registry: self.registry,
            term: memory.term,
            version: version.number,
            at,
        })?;
        (said.looked, said.at) = (looked, Instant::now());
        Ok(())
    }

    fn mark(&self, acked: &Acked, at: Time) -> Result<(), Trouble> {
        let mark = statement::Mark {
            state: self.writer.state(),
            mandate: self.writer.mandate(),
            registry: self.registry,
            term: self.state.get().term,
            epoch: acked.epoch,
            stream: acked.stream,
            sequence: acked.position.seq,
            chain: acked.position.chain,
            timeline: acked.position.timeline,
            lsn: acked.position.end_lsn,
            at,
        };
        self.tell(mark)
    }

    /// Submits what is said again, newer, before long: a refusal is no reason to hold anything up.
    fn tell(&self, statement: impl Into<Statement>) -> Result<(), Trouble> {
        match self.link.submit(&self.writer.sign(statement)?) {
            Ok(_) => Ok(()),
            Err(Trouble::Refused(why)) => {
                tracing::warn!(registry = %self.registry, "what is covered could not be logged: {why}");
                Ok(())
            }
            Err(trouble) => Err(trouble),
        }
    }

    fn show_acked(&self) {
        let Some(acked) = self.streams.acked() else {
            return;
        };
        self.board.registry(&self.name, |status| {
            let lsn = acked.position.end_lsn.to_string();
            status.first_acked_lsn.get_or_insert_with(|| lsn.clone());
            status.acked_lsn = Some(lsn);
            status.acked_at = Some(now_ms());
        });
    }

    /// Keeps the last acknowledgement. It is a proof and no memory: after a kill the embassy gives another one.
    fn keep(&self) {
        let Some((stream, signed)) = self.signed.take() else {
            return;
        };
        if let Err(error) = self.kept.ack(&stream, &signed.encode()) {
            tracing::warn!("the last acknowledgement could not be kept: {error}");
        }
    }

    /// Shows what went wrong; `true` when this registry is over.
    fn failed(&self, trouble: Trouble) -> bool {
        let (text, phase) = match trouble {
            Trouble::Later(why) | Trouble::Refused(why) => (why, None),
            Trouble::Position(..) => return false,
            Trouble::Fenced(why) => (why, Some("fenced")),
            Trouble::Fatal(failure) => {
                self.link.condemn(failure.clone());
                (failure.message, Some("failed"))
            }
        };
        self.board.registry(&self.name, |status| {
            if status.line_trouble.is_none() {
                tracing::warn!(registry = %self.registry, "{text}");
            }
            status.line_trouble = Some(text);
            if let Some(phase) = phase {
                status.phase = phase.into();
            }
        });
        if phase == Some("fenced") {
            self.link.fence(self.registry);
            self.stop.raise();
        }
        phase.is_some()
    }
}

/// The epoch that a signed text announces, if it announces one.
pub fn epoch_of(bytes: &[u8]) -> Option<Box<statement::Epoch>> {
    match Signed::parse(bytes).ok()?.statement().ok()? {
        Statement::Epoch(epoch) => Some(epoch),
        _ => None,
    }
}

/// The epoch and the generation that a slip or a signed text announces, if it announces one.
fn announced(kind: Kind, bytes: &[u8]) -> Option<(EpochNo, Generation)> {
    match kind {
        Kind::Slip => {
            let header = slip::header(bytes).ok()?;
            Some((header.epoch, header.generation))
        }
        _ => epoch_of(bytes).map(|epoch| (epoch.epoch, epoch.generation)),
    }
}
