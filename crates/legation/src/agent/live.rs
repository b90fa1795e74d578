//! The shipper of what sets RPO: slips and epoch statements, then journal frames, then marks.
//!
//! Frames go out only after the log holds the epoch that they are sealed under. What the embassy acknowledged is kept
//! durably; when this process dies, the embassy itself says where the stream stands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use legation_core::id::{Digest, RegistryId};
use legation_core::statement::{self, Signed, Statement};
use legation_repo::{durable, edge};
use serde::Serialize;

use super::epoch::Epochs;
use super::link::{Backoff, Link, Trouble};
use super::outbox::{Kind, Outbox};
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
/// Time between two writings of the last acknowledgement.
const KEEP_EVERY: Duration = Duration::from_millis(500);
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
    /// Where the last acknowledgement is kept.
    pub acked_path: PathBuf,
    /// What is shown.
    pub board: Board,
    /// When to stop.
    pub stop: Stop,
}

#[derive(Serialize)]
struct AckedFile {
    stream: String,
    sequence: u64,
    chain: String,
    timeline: u32,
    lsn: String,
    at: u64,
}

impl Live {
    /// Ships until told to stop.
    pub fn run(self) {
        let mut backoff = Backoff::default();
        let mut marked: Option<Acked> = None;
        let mut mark_at = Instant::now();
        let mut kept: (Option<Acked>, Instant) = (None, Instant::now());
        while !self.stop.is_up() {
            let result = self.step().and_then(|moved| {
                let acked = self.streams.markable();
                if acked != marked && mark_at.elapsed() >= MARK_EVERY {
                    if let Some(acked) = &acked {
                        self.mark(acked)?;
                    }
                    (marked, mark_at) = (acked, Instant::now());
                }
                Ok(moved)
            });
            let acked = self.streams.acked();
            if acked != kept.0 && kept.1.elapsed() >= KEEP_EVERY {
                self.keep(acked);
                kept = (acked, Instant::now());
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
                        return;
                    }
                    self.stop.wait(backoff.pause());
                }
            }
        }
        self.keep(self.streams.acked());
    }

    /// Does one thing; says whether there was one.
    fn step(&self) -> Result<bool, Trouble> {
        if let Some(item) = self.control.front() {
            let bytes = self.control.read(&item)?;
            match item.kind {
                Kind::Statement => self.control_statement(&bytes)?,
                kind => match self.link.put(kind, &item.digest, bytes) {
                    // Its epoch comes next and is refused for the same reason: there it is sealed anew.
                    Err(Trouble::Refused(why)) if kind == Kind::Slip => {
                        tracing::warn!(registry = %self.registry, "a slip was refused: {why}");
                    }
                    done => done?,
                },
            }
            self.control.remove(&item)?;
            return Ok(true);
        }
        match self.streams.next(BATCH)? {
            Next::Nothing => Ok(false),
            Next::Ask(stream) => {
                let next = self.link.stands_at(self.registry, &stream)?;
                self.streams.stands_at(stream, next)?;
                Ok(true)
            }
            Next::Send(batch) => match self.link.append(self.registry, &batch) {
                Ok(ack) => {
                    edge::hit("agent.acked").map_err(Failure::from)?;
                    self.streams.acknowledged(&batch, &ack)?;
                    self.show_acked();
                    Ok(true)
                }
                Err(Trouble::Position(next)) => {
                    if batch.first == next {
                        let why = format!(
                            "the embassy takes nothing of stream {} at frame {next}",
                            batch.stream
                        );
                        return Err(Trouble::Later(why));
                    }
                    self.streams.stands_at(batch.stream, next)?;
                    Ok(true)
                }
                Err(trouble) => Err(trouble),
            },
        }
    }

    /// An epoch or gap statement. An epoch sealed to a generation spent since is announced anew for the next one.
    fn control_statement(&self, bytes: &[u8]) -> Result<(), Trouble> {
        let epoch = epoch_of(bytes);
        let refused = match self.link.submit(bytes) {
            Ok(_) => {
                // Before the statement leaves the queue: its number is never given again.
                if let Some(epoch) = epoch {
                    self.state
                        .update(|memory| memory.last_epoch = memory.last_epoch.max(epoch.epoch))?;
                }
                return Ok(());
            }
            Err(Trouble::Refused(why)) => why,
            Err(trouble) => return Err(trouble),
        };
        let Some(epoch) = epoch else {
            tracing::warn!(registry = %self.registry, "a statement was refused: {refused}");
            return Ok(());
        };
        // The embassy's word is not enough to move on: the log must say it.
        let log = self.link.follow()?;
        let generation = match log.generation() {
            Some(generation) if generation != epoch.generation => generation,
            Some(_) => {
                return Err(Trouble::Fatal(
                    Failure::new(Code::Refused, format!("epoch {} of {} was refused: {refused}", epoch.epoch, self.registry))
                        .hint("this machine was set back, cloned or lost its memory: stop other agents of this identity, then move the spool away"),
                ));
            }
            None => {
                return Err(Trouble::Later(
                    "every vault generation is spent: the officers must deal new ones".into(),
                ));
            }
        };
        let again = self.epochs.reseal(epoch.epoch, generation)?;
        if !again.known {
            // Before the log knows the number: versions that wait and need it are given up, and the receiver logs the
            // hole when it finds one.
            self.state.update(|memory| {
                memory.lost.insert(epoch.epoch);
                memory.breaks += 1;
            })?;
            self.streams.give_up_from(epoch.epoch)?;
        }
        self.link
            .put(Kind::Slip, &Digest::of(&again.slip), again.slip)?;
        self.link.submit(&again.statement)?;
        self.state.update(|memory| {
            memory.generation = memory.generation.max(generation);
            memory.last_epoch = memory.last_epoch.max(epoch.epoch);
        })?;
        tracing::info!(registry = %self.registry, epoch = epoch.epoch.0, generation = generation.0, "moved to the next vault generation");
        Ok(())
    }

    fn mark(&self, acked: &Acked) -> Result<(), Trouble> {
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
            at: now()?,
        };
        match self.link.submit(&self.writer.sign(mark)?) {
            Ok(_) => Ok(()),
            Err(Trouble::Refused(why)) => {
                tracing::warn!(registry = %self.registry, "a mark was refused: {why}");
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

    /// Keeps the last acknowledgement, for people: after a kill the embassy itself says where the stream stands.
    fn keep(&self, acked: Option<Acked>) {
        let Some(acked) = acked else { return };
        let file = AckedFile {
            stream: acked.stream.to_string(),
            sequence: acked.position.seq,
            chain: acked.position.chain.to_string(),
            timeline: acked.position.timeline.0,
            lsn: acked.position.end_lsn.to_string(),
            at: now_ms(),
        };
        let written = serde_json::to_vec_pretty(&file)
            .map_err(std::io::Error::other)
            .and_then(|bytes| {
                edge::at("agent.ack", || {
                    durable::write_atomic(&self.acked_path, &bytes)
                })
            });
        if let Err(error) = written {
            tracing::warn!(%error, "the last acknowledgement could not be kept");
        }
    }

    /// Shows what went wrong; `true` when this registry is over.
    fn failed(&self, trouble: Trouble) -> bool {
        let (text, phase) = match trouble {
            Trouble::Later(why) | Trouble::Refused(why) => (why, None),
            Trouble::Position(_) => return false,
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
