//! Epochs of keys: a fresh root per process run and at most per configured time, known to this memory and to its slip.
//!
//! Order: the slip, then the epoch statement, are durable in the spool before the first byte is sealed under the root.
//! Beside them lie the slip and the statement for the generation after the one in use: if officers meanwhile spend that
//! one, these are sent instead, although the root is long forgotten. A root is wiped when its epoch is over and nothing
//! is being sealed under it any more; after that this machine can open nothing of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use legation_core::id::{Digest, EpochNo, Generation, RegistryId};
use legation_core::journal::StreamSealer;
use legation_core::keys::EpochRoot;
use legation_core::slip::{self, SlipHeader};
use legation_core::statement;
use legation_core::suite::SUITE;
use legation_repo::edge;

use super::outbox::{Kind, Outbox};
use super::state::State;
use super::writer::Writer;
use crate::exit::{Code, Failure};
use crate::identity::random;

/// One epoch, as long as something is sealed under it.
#[derive(Debug)]
pub struct Epoch {
    /// Its number.
    pub number: EpochNo,
    /// The vault generation that its first slip is sealed to.
    pub generation: Generation,
    /// Its root; wiped when the last user lets go.
    pub root: EpochRoot,
    since: Instant,
    packs: AtomicU32,
}

impl Epoch {
    /// The number that the next pack will have.
    pub fn next_pack(&self) -> u32 {
        self.packs.load(Ordering::SeqCst)
    }

    /// Records that packs below `next` are used: a number is never used twice, even by a version that failed.
    pub fn used_packs(&self, next: u32) {
        self.packs.fetch_max(next, Ordering::SeqCst);
    }
}

/// An epoch announced again.
#[derive(Debug)]
pub struct Resealed {
    /// The slip object.
    pub slip: Vec<u8>,
    /// The signed statement.
    pub statement: Vec<u8>,
    /// Whether the slip holds the root that the epoch was sealed under.
    pub known: bool,
}

/// Makes and hands out the epochs of one registry.
#[derive(Debug)]
pub struct Epochs {
    registry: RegistryId,
    writer: Arc<Writer>,
    state: State,
    control: Arc<Outbox>,
    longest: Duration,
    current: Mutex<Current>,
    alive: Mutex<Vec<Weak<Epoch>>>,
    stream: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Current {
    epoch: Option<Arc<Epoch>>,
    /// The highest number whose statement may be in the queue: never given again, whatever the memory's file says.
    handed: EpochNo,
}

/// The stream that is being sealed: its keys live no longer than its epoch.
pub struct Open {
    /// The epoch that it is sealed under.
    pub epoch: EpochNo,
    /// Its sealer.
    pub sealer: StreamSealer,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Open({})", self.sealer.position().stream)
    }
}

impl Epochs {
    /// No epoch yet; the first use makes one.
    pub fn new(
        registry: RegistryId,
        writer: Arc<Writer>,
        state: State,
        control: Arc<Outbox>,
        longest: Duration,
    ) -> Epochs {
        Epochs {
            registry,
            writer,
            state,
            control,
            longest,
            current: Mutex::new(Current {
                epoch: None,
                handed: EpochNo(0),
            }),
            alive: Mutex::default(),
            stream: Mutex::default(),
        }
    }

    /// The current epoch; a new one when there is none or its time is over.
    ///
    /// # Errors
    /// When its slip and statement cannot be made durable: nothing may then be sealed.
    pub fn current(&self) -> Result<Arc<Epoch>, Failure> {
        let mut current = self.lock();
        if let Some(epoch) = current.epoch.as_ref()
            && epoch.since.elapsed() < self.longest
        {
            return Ok(epoch.clone());
        }
        current.epoch = None;
        let epoch = self.open(&mut current.handed)?;
        current.epoch = Some(epoch.clone());
        Ok(epoch)
    }

    /// Wipes the current root when its time is over, even if nothing asks for a new one, and the keys of the stream
    /// that was sealed under an epoch that is over.
    pub fn expire(&self) {
        let mut current = self.lock();
        if current
            .epoch
            .as_ref()
            .is_some_and(|epoch| epoch.since.elapsed() >= self.longest)
        {
            current.epoch = None;
        }
        let number = current.epoch.as_ref().map(|epoch| epoch.number);
        let mut open = self.stream();
        if open.as_ref().is_some_and(|open| Some(open.epoch) != number) {
            *open = None;
        }
    }

    /// The stream that is being sealed, until its epoch is over.
    pub fn stream(&self) -> MutexGuard<'_, Option<Open>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the current epoch.
    pub fn number(&self) -> Option<EpochNo> {
        self.lock().epoch.as_ref().map(|epoch| epoch.number)
    }

    /// The verified log says that this generation is in use. Later epochs are sealed to it; one whose slip was made for
    /// a spent generation ends now, since whoever rebuilt that one's seed could open what is sealed under it.
    ///
    /// # Errors
    /// When it cannot be remembered.
    pub fn moved_to(&self, generation: Generation) -> Result<(), Failure> {
        if self.state.get().generation < generation {
            self.state
                .update(|memory| memory.generation = memory.generation.max(generation))?;
        }
        let mut current = self.lock();
        if current
            .epoch
            .as_ref()
            .is_some_and(|epoch| epoch.generation < generation)
        {
            current.epoch = None;
        }
        Ok(())
    }

    fn open(&self, handed: &mut EpochNo) -> Result<Arc<Epoch>, Failure> {
        let memory = self.state.get();
        let number = EpochNo(memory.last_epoch.max(*handed).0 + 1);
        let generation = memory.generation;
        let epoch = Arc::new(Epoch {
            number,
            generation,
            root: self.fresh_root()?,
            since: Instant::now(),
            packs: AtomicU32::new(0),
        });
        edge::hit("agent.epoch")?;
        let first = self.announcement(number, &epoch.root, generation)?;
        let next = Generation(generation.0 + 1);
        // The last generation has none after it.
        let second = match self.writer.charter().vault(next)? {
            Some(_) => Some(self.announcement(number, &epoch.root, next)?),
            None => None,
        };
        // From the first statement on the shipper may ask for it.
        self.alive().push(Arc::downgrade(&epoch));
        self.control.push(Kind::Slip, &first.0)?;
        edge::hit("agent.slip")?;
        self.control.push(Kind::Statement, &first.1)?;
        // The number is used from here on, also if what follows fails: nothing is then sealed under it.
        *handed = number;
        edge::hit("agent.epoch-statement")?;
        if let Some((slip, statement)) = second {
            self.control.push(Kind::Slip, &slip)?;
            self.control.push(Kind::Statement, &statement)?;
        }
        if let Err(failure) = self
            .state
            .update(|memory| memory.last_epoch = memory.last_epoch.max(number))
        {
            // The queue holds the number until the log does.
            tracing::warn!(registry = %self.registry, "{failure}");
        }
        tracing::info!(registry = %self.registry, epoch = number.0, generation = generation.0, "epoch begins");
        Ok(epoch)
    }

    /// Slip and statement of an epoch for another vault generation, after the log refused the one they were made for.
    /// `known` says whether the root is still in memory: if not, the slip holds a fresh one, so that the numbers go on,
    /// and what an earlier run sealed under the old root can be opened by nobody.
    ///
    /// # Errors
    /// Code 8 when the mandate has no such generation.
    pub fn reseal(&self, number: EpochNo, generation: Generation) -> Result<Resealed, Failure> {
        let epoch = self
            .alive()
            .iter()
            .filter_map(Weak::upgrade)
            .find(|epoch| epoch.number == number);
        let (slip, statement) = match &epoch {
            Some(epoch) => self.announcement(number, &epoch.root, generation)?,
            None => self.announcement(number, &self.fresh_root()?, generation)?,
        };
        Ok(Resealed {
            slip,
            statement,
            known: epoch.is_some(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epochs whose roots somebody still holds.
    fn alive(&self) -> MutexGuard<'_, Vec<Weak<Epoch>>> {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|epoch| epoch.strong_count() > 0);
        alive
    }

    fn fresh_root(&self) -> Result<EpochRoot, Failure> {
        EpochRoot::derive(&*random()?, self.writer.secret())
            .map_err(|error| Failure::failed(format!("making an epoch: {error}")))
    }

    fn announcement(
        &self,
        epoch: EpochNo,
        root: &EpochRoot,
        generation: Generation,
    ) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let Some(vault) = self.writer.charter().vault(generation)? else {
            return Err(Failure::new(
                Code::Refused,
                format!(
                    "every vault generation before {generation} is spent; nothing new can be sealed"
                ),
            )
            .hint("the officers deal new generations; what is abroad already stays safe"));
        };
        let header = SlipHeader {
            state: self.writer.state(),
            registry: self.registry,
            epoch,
            generation,
        };
        let slip = slip::seal(&vault, &header, root, &*random()?)
            .map_err(|error| Failure::failed(format!("sealing a slip: {error}")))?;
        let statement = statement::Epoch {
            state: self.writer.state(),
            mandate: self.writer.mandate(),
            registry: self.registry,
            term: self.state.get().term,
            epoch,
            generation,
            suite: SUITE,
            slip: Digest::of(&slip),
        };
        let statement = self.writer.sign(statement)?;
        Ok((slip, statement))
    }
}
