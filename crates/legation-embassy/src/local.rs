//! An embassy of one state without network and threads, for simulations: every call returns when all is done.
//!
//! It is the same code from admission on: facts, fold, log, journals, receipts. What a request's path, role and size
//! decide lies before it, in `http`. The clock is the thread's own once [`set_clock`] was called.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use legation_core::id::{Digest, OrderId, RegistryId, Sha256, StreamId};
use legation_core::keys::SigningKey;
use legation_core::log::LOG_SEED_LEN;
use legation_core::policy::State;
use legation_core::statement::{Name, Signed, Time};
use legation_repo::http::wire::{Problem, ReceiptBody, StreamBody};
use legation_repo::log::LogReader;
use legation_repo::store::{Kind, Put};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::admit;
use crate::config::{HostedState, Limits, Reserve};
use crate::error::EmbassyError;
use crate::hosted::{Hosted, Keys, Site, founded};
use crate::http::{Refused, statement};
use crate::journal::Journals;
use crate::sequence::{MAX_BATCH, Sequencer, Writer};

thread_local! {
    static CLOCK: Cell<Option<(Time, Duration)>> = const { Cell::new(None) };
}

/// Sets the clock of every embassy on this thread: wall and monotonic.
pub fn set_clock(wall: Time, monotonic: Duration) {
    CLOCK.set(Some((wall, monotonic)));
}

pub(crate) fn clock() -> Option<(Time, Duration)> {
    CLOCK.get()
}

/// The keys of an embassy.
pub struct LocalKeys {
    /// Signs acknowledgements and facts.
    pub signing: SigningKey,
    /// The seed of the key that signs checkpoints.
    pub log: Zeroizing<[u8; LOG_SEED_LEN]>,
    /// SHA-256 of the TLS public key.
    pub tls: Sha256,
}

/// One state at an embassy.
pub struct LocalEmbassy {
    hosted: Hosted,
    writer: Writer,
}

type Answer<T> = Result<T, Box<Problem>>;

fn problem(refused: Refused) -> Box<Problem> {
    refused.0
}

impl LocalEmbassy {
    /// Opens the state below `store`, recovering it as every start does.
    ///
    /// # Errors
    /// As an embassy's start.
    pub fn open(
        label: &Name,
        keys: LocalKeys,
        store: &Path,
        reserve: Reserve,
        state: HostedState,
    ) -> Result<Self, EmbassyError> {
        let keys = Arc::new(Keys::new(keys.signing, keys.log, keys.tls));
        let (id, founding, _) = founded(&state)?;
        let limits = Limits::default();
        let (site, log) = Site::open(state, (id, founding), store, reserve, label, &keys, limits)?;
        let journals = Arc::new(Journals::open_here(site.clone())?);
        let ready = Arc::new(AtomicBool::new(true));
        let mut writer = Writer::new(
            site.clone(),
            journals.clone(),
            log,
            keys,
            ready.clone(),
            Arc::default(),
        );
        writer.pay_fences();
        let hosted = Hosted {
            site,
            journals,
            sequencer: Sequencer::absent(ready),
        };
        Ok(Self { hosted, writer })
    }

    /// The fold in force.
    pub fn fold(&self) -> Arc<State> {
        self.hosted.site.fold()
    }

    /// The log as it is published.
    pub fn log(&self) -> LogReader {
        self.hosted.site.log()
    }

    /// Keeps an object.
    ///
    /// # Errors
    /// As `PUT object/…`.
    pub fn put_object(&self, kind: Kind, digest: &Digest, bytes: &[u8]) -> Answer<Put> {
        admit::slip(&self.hosted.site, kind, digest, bytes).map_err(problem)?;
        let put = self.hosted.site.keep.put_object(kind, digest, bytes);
        put.map_err(problem)
    }

    /// A whole object, as stored.
    ///
    /// # Errors
    /// As `GET object/…`.
    pub fn object(&self, kind: Kind, digest: &Digest) -> Answer<Vec<u8>> {
        let keep = &self.hosted.site.keep;
        let size = keep.object_size(kind, digest).map_err(problem)?;
        keep.read_object(kind, digest, 0..size).map_err(problem)
    }

    /// Keeps an attachment.
    ///
    /// # Errors
    /// As `PUT attachment/…`.
    pub fn put_attachment(&self, bytes: &[u8], writer: bool) -> Answer<Put> {
        let keep = &self.hosted.site.keep;
        let put = keep.put_attachment(&Sha256::of(bytes), bytes, writer);
        put.map_err(problem)
    }

    /// An attachment.
    ///
    /// # Errors
    /// As `GET attachment/…`.
    pub fn attachment(&self, digest: &Sha256) -> Answer<Option<Vec<u8>>> {
        self.hosted.site.keep.attachment(digest).map_err(problem)
    }

    /// Puts statements through as one batch, as far as they come that far; each with the size of the tree that its
    /// receipt is to continue.
    ///
    /// # Panics
    /// With more statements than a batch has.
    pub fn submit(&mut self, statements: &[(Vec<u8>, u64)]) -> Vec<Answer<ReceiptBody>> {
        assert!(statements.len() <= MAX_BATCH);
        let Hosted { site, journals, .. } = &self.hosted;
        let (mut jobs, mut answers) = (Vec::new(), Vec::new());
        for (bytes, old) in statements {
            let parsed = Signed::parse(bytes).map_err(|e| Refused::malformed(e.to_string()));
            let ready = parsed.and_then(|signed| {
                admit::facts(site, journals, &signed)?;
                Ok(signed)
            });
            answers.push(ready.map(|signed| {
                let (reply, answer) = oneshot::channel();
                jobs.push((Box::new(signed), reply));
                (answer, *old)
            }));
        }
        if !jobs.is_empty() {
            self.writer.commit(jobs);
        }
        let site = &self.hosted.site;
        let answer = |waiting: Result<(oneshot::Receiver<_>, u64), Refused>| {
            let (mut waiting, old) = waiting?;
            let index = waiting
                .try_recv()
                .unwrap_or_else(|_| Err(Refused::failed()))?;
            statement::receipt(site, index, old)
        };
        answers
            .into_iter()
            .map(|waiting| answer(waiting).map_err(problem))
            .collect()
    }

    /// Appends frames of several requests as one group.
    pub fn append(
        &self,
        requests: Vec<(Name, RegistryId, StreamId, Bytes)>,
    ) -> Vec<Answer<String>> {
        let answers = self.hosted.journals.append_here(requests);
        answers.into_iter().map(|a| a.map_err(problem)).collect()
    }

    /// The streams of a registry.
    ///
    /// # Errors
    /// As `GET journal/…`.
    pub fn streams(&self, registry: RegistryId) -> Answer<Vec<StreamBody>> {
        let streams = self.hosted.journals.streams(Some(registry));
        streams.map_err(problem)
    }

    /// Whole frames of a stream.
    ///
    /// # Errors
    /// As `GET journal/…/…`.
    pub fn frames(
        &self,
        registry: RegistryId,
        stream: StreamId,
        from: u64,
        limit: usize,
    ) -> Answer<Vec<u8>> {
        let read = self.hosted.journals.read(registry, stream, from, limit);
        read.map_err(problem)
    }

    /// Keeps a release.
    ///
    /// # Errors
    /// As `PUT release/…`.
    pub fn put_release(&self, order: &OrderId, from: &Sha256, bytes: &[u8]) -> Answer<Put> {
        self.hosted.put_release(order, from, bytes).map_err(problem)
    }

    /// What was released for an order to whom its keys are released now.
    ///
    /// # Errors
    /// As `GET release/…`.
    pub fn releases(&self, order: &OrderId) -> Answer<Vec<Vec<u8>>> {
        let digests = self.hosted.releases(order).map_err(problem)?;
        let keep = &self.hosted.site.keep;
        let read = |digest| keep.release(order, digest).map_err(problem);
        let found: Result<Vec<_>, Box<Problem>> = digests.iter().map(read).collect();
        Ok(found?.into_iter().flatten().collect())
    }

    /// What the sequencer does when nobody asks.
    pub fn idle(&mut self) {
        self.writer.idle();
    }
}
