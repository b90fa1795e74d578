//! Epochs of keys: a fresh root per process run and at most per configured time, known to this memory and to its slip.
//!
//! Order: the slip, then the epoch statement, are durable in the spool before the first byte is sealed under the root.
//! A root is wiped when its epoch is over and nothing is being sealed under it any more; after that this machine can
//! open nothing of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use legation_core::id::{Digest, EpochNo, Generation, Lsn, RegistryId};
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
    current: Mutex<Option<Arc<Epoch>>>,
    alive: Mutex<Vec<Weak<Epoch>>>,
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
            current: Mutex::new(None),
            alive: Mutex::default(),
        }
    }

    /// The current epoch; a new one when there is none or its time is over.
    ///
    /// # Errors
    /// When its slip and statement cannot be made durable: nothing may then be sealed.
    pub fn current(&self) -> Result<Arc<Epoch>, Failure> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(epoch) = current.as_ref()
            && epoch.since.elapsed() < self.longest
        {
            return Ok(epoch.clone());
        }
        let epoch = Arc::new(self.open()?);
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|epoch| epoch.strong_count() > 0);
        alive.push(Arc::downgrade(&epoch));
        *current = Some(epoch.clone());
        Ok(epoch)
    }

    /// Wipes the current root when its time is over, even if nothing asks for a new one.
    pub fn expire(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current
            .as_ref()
            .is_some_and(|epoch| epoch.since.elapsed() >= self.longest)
        {
            current.take();
        }
    }

    /// The number of the current epoch.
    pub fn number(&self) -> Option<EpochNo> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|epoch| epoch.number)
    }

    /// Remembers that WAL from `from` on is sealed under this epoch: a base that starts later may need its key.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn wal_begins(&self, from: Lsn, epoch: EpochNo) -> Result<(), Failure> {
        self.state.update(|memory| memory.wal_begins(from, epoch))
    }

    fn open(&self) -> Result<Epoch, Failure> {
        let memory = self.state.get();
        let root = self.fresh_root()?;
        // The number counts as used once its statement is durable; nothing is sealed before that.
        let number = EpochNo(memory.last_epoch.0 + 1);
        edge::hit("agent.epoch")?;
        let (slip, statement) = self.announcement(number, &root, memory.generation)?;
        self.control.push(Kind::Slip, &slip)?;
        edge::hit("agent.slip")?;
        self.control.push(Kind::Statement, &statement)?;
        edge::hit("agent.epoch-statement")?;
        self.state.update(|memory| memory.last_epoch = number)?;
        tracing::info!(registry = %self.registry, epoch = number.0, generation = memory.generation.0, "epoch begins");
        Ok(Epoch {
            number,
            root,
            since: Instant::now(),
            packs: AtomicU32::new(0),
        })
    }

    /// Slip and statement of an epoch for another vault generation, after the log refused the one they were made for.
    /// `known` says whether the root is still in memory: if not, the slip holds a fresh one, so that the numbers go on,
    /// and what an earlier run sealed under the old root can be opened by nobody.
    ///
    /// # Errors
    /// Code 8 when the mandate has no such generation.
    pub fn reseal(&self, number: EpochNo, generation: Generation) -> Result<Resealed, Failure> {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = alive
            .iter()
            .filter_map(Weak::upgrade)
            .find(|epoch| epoch.number == number);
        drop(alive);
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
