//! The line to an embassy: what is sent, what its answers are worth, and what stops the agent.
//!
//! The client checks every answer against the mandate's keys and against the checkpoint pinned on this disk. What does
//! not verify is evidence: it is written down and the agent stops. Addresses are known to the client alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use legation_core::id::{Digest, Generation, RegistryId, StreamId};
use legation_core::log::{Level, TILE_WIDTH, TilePath, split_bundle};
use legation_core::statement::{Ack, Entry, Order, Signed};
use legation_repo::folded::Folded;
use legation_repo::http::{Client, ClientError, Receipt};
use legation_repo::log::LogSource as _;

use super::outbox;
use super::streams::Batch;
use crate::config::units::Rate;
use crate::exit::{Code, Failure};
use crate::identity::Identity;
use crate::stop::Stop;
use crate::watch::Watch;

/// First and longest pause before trying a dead line again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// What became of an exchange that did not succeed.
#[derive(Debug)]
pub enum Trouble {
    /// The line or the embassy is not able now: the same bytes are sent again later.
    Later(String),
    /// The embassy stands elsewhere in the stream: it needs this frame next, after this chain value.
    Position(u64, Digest),
    /// Nothing more is taken from this writer for this registry.
    Fenced(String),
    /// The embassy refuses these bytes for good.
    Refused(String),
    /// An answer that does not verify, or a spool that does not hold: everything stops.
    Fatal(Failure),
}

/// A disk that is full or fails for a moment is no reason to stop: what is sealed stays, and the step is tried again.
impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        match failure.code {
            Code::Failed => Trouble::Later(failure.message),
            _ => Trouble::Fatal(failure),
        }
    }
}

/// The line to one embassy. Clones share it.
#[derive(Clone)]
pub struct Link {
    client: Client,
    root: Arc<PathBuf>,
    folded: Folded,
    fatal: Arc<Mutex<Option<Failure>>>,
    fenced: Arc<Mutex<BTreeSet<RegistryId>>>,
    upload: Option<Rate>,
    stop: Stop,
    /// One thread at a time brings the copy of the log up to date.
    following: Arc<Mutex<()>>,
    /// Entries of the log that were looked through for orders.
    seen: Arc<AtomicU64>,
}

impl Link {
    /// A line whose copies of the log lie below `root`, and that raises `stop` when an answer does not verify.
    pub fn new(
        client: Client,
        identity: &Identity,
        root: &Path,
        upload: Option<Rate>,
        stop: Stop,
    ) -> Link {
        // What was logged up to the pinned checkpoint, an earlier run heard of.
        let seen = client.trust().held().map_or(0, |held| held.size());
        Link {
            client,
            root: Arc::new(root.to_owned()),
            folded: identity.folded(&root.join("log")),
            fatal: Arc::default(),
            fenced: Arc::default(),
            upload,
            stop,
            following: Arc::default(),
            seen: Arc::new(AtomicU64::new(seen)),
        }
    }

    /// The wish that the whole agent stops.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Why the agent must stop, if it must.
    pub fn fatal(&self) -> Option<Failure> {
        self.fatal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops the agent for this reason; the first one counts.
    pub fn condemn(&self, failure: Failure) {
        tracing::error!("{failure}");
        self.fatal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(failure);
        self.stop.raise();
    }

    /// Notes that a later term took this registry over.
    pub fn fence(&self, registry: RegistryId) {
        self.fenced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(registry);
    }

    /// Whether a later term took this registry over.
    pub fn is_fenced(&self, registry: RegistryId) -> bool {
        self.fenced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&registry)
    }

    /// Puts an object.
    ///
    /// # Errors
    /// What became of it.
    pub fn put(&self, kind: outbox::Kind, digest: &Digest, bytes: Vec<u8>) -> Result<(), Trouble> {
        let kind = match kind {
            outbox::Kind::Slip => legation_repo::store::Kind::Slip,
            outbox::Kind::Pack => legation_repo::store::Kind::Pack,
            outbox::Kind::List => legation_repo::store::Kind::List,
            outbox::Kind::Statement => {
                return Err(Trouble::Refused("a statement is no object".into()));
            }
        };
        let length = bytes.len() as u64;
        let began = Instant::now();
        self.client
            .put_object(kind, digest, bytes)
            .map_err(|error| self.judge(error))?;
        self.slow_down(length, began);
        Ok(())
    }

    /// Waits until `bytes` sent since `began` are no faster than the configured rate. Live WAL is never held up.
    fn slow_down(&self, bytes: u64, began: Instant) {
        let Some(rate) = self.upload.filter(|rate| rate.0 > 0) else {
            return;
        };
        let due = Duration::from_secs_f64(bytes as f64 / rate.0 as f64);
        self.stop.wait(due.saturating_sub(began.elapsed()));
    }

    /// Submits a statement; its receipt is verified when this returns.
    ///
    /// # Errors
    /// What became of it.
    pub fn submit(&self, bytes: &[u8]) -> Result<Receipt, Trouble> {
        let signed = Signed::parse(bytes).map_err(|error| Trouble::Refused(error.to_string()))?;
        self.client
            .submit(&signed)
            .map_err(|error| self.judge(error))
    }

    /// Appends frames; the acknowledgement's signature is verified when this returns.
    ///
    /// # Errors
    /// What became of them.
    pub fn append(&self, registry: RegistryId, batch: &Batch) -> Result<(Ack, Signed), Trouble> {
        self.client
            .append_journal_signed(registry, &batch.stream, batch.frames.clone())
            .map_err(|error| self.judge(error))
    }

    /// The number of the frame that the embassy says it needs next of a stream, and the chain value before it. No
    /// signature covers that.
    ///
    /// # Errors
    /// What became of the question.
    pub fn stands_at(
        &self,
        registry: RegistryId,
        stream: &StreamId,
    ) -> Result<(u64, Option<Digest>), Trouble> {
        let streams = self
            .client
            .streams(registry)
            .map_err(|error| self.judge(error))?;
        let found = streams.iter().find(|found| found.stream == *stream);
        Ok(found.map_or((0, None), |found| (found.next, Some(found.chain))))
    }

    /// Compares the pinned checkpoint with what the embassy shows now; returns the log's size.
    ///
    /// # Errors
    /// `Fatal` when the log shrank or forked.
    pub fn check_log(&self) -> Result<u64, Trouble> {
        self.client
            .checkpoint()
            .map(|head| head.size())
            .map_err(|error| self.judge(error))
    }

    /// Entries of the log as of the newest checkpoint that was verified.
    pub fn log_size(&self) -> u64 {
        self.client.trust().held().map_or(0, |held| held.size())
    }

    /// Fetches and replays the whole log: what it has come to, by the same function that the embassy uses.
    ///
    /// # Errors
    /// `Fatal` when it does not verify.
    pub fn follow(&self) -> Result<legation_core::policy::State, Trouble> {
        let _one = self
            .following
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.check_log()?;
        match crate::line::ledger(
            &self.client,
            &self.root.join("log"),
            &self.folded,
            &Watch::unseen(),
        ) {
            Ok(ledger) => Ok(ledger.state),
            Err(failure) if failure.code == Code::VerificationFailed => {
                self.condemn(failure.clone());
                Err(Trouble::Fatal(failure))
            }
            Err(failure) => Err(Trouble::Later(format!("reading the log: {failure}"))),
        }
    }

    /// The vault generation in use, if the log tells of an order that was not looked at before: that may have spent the
    /// one before it. Only new entries are read, and they are believed only after the whole log was.
    ///
    /// # Errors
    /// As [`Link::follow`].
    pub fn generation_after_orders(&self) -> Result<Option<Generation>, Trouble> {
        let size = self.check_log()?;
        let seen = self.seen.load(Ordering::SeqCst);
        let mut ordered = false;
        for index in seen / TILE_WIDTH..size.div_ceil(TILE_WIDTH) {
            let first = index * TILE_WIDTH;
            let width = TILE_WIDTH.min(size - first);
            let tile = TilePath {
                level: Level::Entries,
                index,
                width: u16::try_from(width).unwrap_or(u16::MAX),
            };
            let later = |error: &dyn std::fmt::Display| {
                Trouble::Later(format!("looking through the log: {error}"))
            };
            let bundle = self
                .client
                .log_files()
                .fetch(&tile.to_string())
                .map_err(|error| later(&error))?
                .ok_or_else(|| later(&format!("{tile} is not there")))?;
            let (entries, _) = split_bundle(&bundle, width).map_err(|error| later(&error))?;
            let new = entries
                .iter()
                .skip(usize::try_from(seen.saturating_sub(first)).unwrap_or(usize::MAX));
            ordered |= new
                .filter_map(|entry| Entry::parse(entry).ok())
                .any(|entry| entry.signed.text().starts_with(Order::HEADER));
            if self.stop.is_up() {
                return Ok(None);
            }
        }
        let generation = if ordered {
            self.follow()?.generation()
        } else {
            None
        };
        self.seen.store(size, Ordering::SeqCst);
        Ok(generation)
    }

    fn judge(&self, error: ClientError) -> Trouble {
        let failure = match &error {
            ClientError::SplitView { view, .. } => Failure::new(Code::VerificationFailed, &error)
                .hint(format!(
                    "both halves are kept in {} ({}); take them to the officers and to an auditor",
                    self.root.join("trust").display(),
                    view.why
                )),
            ClientError::Unverified { .. } | ClientError::Trust(_) => {
                Failure::new(Code::VerificationFailed, &error)
            }
            _ => return lighter(&error),
        };
        self.condemn(failure.clone());
        Trouble::Fatal(failure)
    }
}

/// What an error means that proves nothing against the embassy.
fn lighter(error: &ClientError) -> Trouble {
    if let Some(position) = error.position() {
        return Trouble::Position(position.next, position.chain);
    }
    if error.is_fenced() {
        return Trouble::Fenced(error.to_string());
    }
    if error.is_transient()
        || matches!(
            error,
            ClientError::WrongKey { .. } | ClientError::Protocol { .. } | ClientError::Local(_)
        )
    {
        return Trouble::Later(error.to_string());
    }
    Trouble::Refused(error.to_string())
}

/// Growing pauses with jitter, so that many agents do not come back in one moment.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { next: PAUSES.0 }
    }
}

impl Backoff {
    /// Starts again with short pauses.
    pub fn reset(&mut self) {
        self.next = PAUSES.0;
    }

    /// The next pause: between half and the whole of a doubling bound.
    pub fn pause(&mut self) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(PAUSES.1);
        let mut random = [0; 1];
        // Without randomness all pauses are whole ones, which is no harm.
        let _ = getrandom::fill(&mut random);
        bound - bound / 2 * u32::from(random[0]) / 256
    }
}
