//! What is served: the states of this embassy, each with everything of its own.
//!
//! A [`Site`] is what the threads of one state share: its bytes, the fold's newest state, the log's readers and the
//! embassy's key. Nothing in it is authority; it is all rebuilt from the log and the journals at every start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use legation_core::id::{OrderId, Sha256, StateId};
use legation_core::keys::SigningKey;
use legation_core::log::{Checkpoint, LogSigner};
use legation_core::mandate::Role;
use legation_core::policy::{OrderState, State};
use legation_core::release::ReleaseHead;
use legation_core::statement::{Mandate, Name, Signed, Statement, Time};
use legation_repo::http::origin;
use legation_repo::http::wire::StatusBody;
use legation_repo::log::{DiskLog, LogReader};
use legation_repo::state::StateDir;
use legation_repo::store::Put;
use tokio::sync::Semaphore;

use crate::clock;
use crate::config::{EmbassyConfig, EmbassyIdentity, HostedState, Limits};
use crate::error::EmbassyError;
use crate::http::Refused;
use crate::journal::Journals;
use crate::keep::Keep;
use crate::sequence::{self, Sequencer};

/// All states, and what their clients share: memory and bounds.
pub struct Embassy {
    /// Bounds.
    pub limits: Limits,
    /// Memory for bodies, in KiB.
    pub memory: Arc<Semaphore>,
    /// The part of it that each key may take.
    shares: Mutex<BTreeMap<Sha256, Arc<Semaphore>>>,
    states: BTreeMap<StateId, Arc<Hosted>>,
    /// States whose store could not be opened, with the mandates that say who is told so.
    closed: BTreeMap<StateId, Mandate>,
    label: Name,
    since: Time,
}

/// One state.
pub struct Hosted {
    /// What its threads share.
    pub site: Arc<Site>,
    /// Its journals.
    pub journals: Arc<Journals>,
    /// Where its statements enter the log.
    pub sequencer: Sequencer,
}

/// What the threads of one state share.
pub struct Site {
    /// Its bytes.
    pub keep: Keep,
    /// This embassy's label.
    pub label: Name,
    /// This embassy's key.
    pub signing: Arc<SigningKey>,
    /// Bounds.
    pub limits: Limits,
    fold: RwLock<Arc<State>>,
    log: RwLock<LogReader>,
}

impl Embassy {
    /// Opens every state, recovering it.
    pub fn open(config: EmbassyConfig) -> Result<Self, EmbassyError> {
        let EmbassyConfig {
            label,
            identity,
            store,
            reserve,
            states,
            limits,
            ..
        } = config;
        let label: Name = label.parse().map_err(|_| {
            EmbassyError::Mandate(format!("{label:?} is not a label of an embassy"))
        })?;
        let identity = Arc::new(Keys::of(identity)?);
        let (mut opened, mut closed) = (BTreeMap::new(), BTreeMap::new());
        let mut first = None;
        for state in states {
            let (id, founding, mandate) = founded(&state)?;
            let founding = (id, founding);
            match Hosted::open(state, founding, &store, reserve, &label, &identity, limits) {
                Ok(hosted) => {
                    opened.insert(id, Arc::new(hosted));
                }
                Err(error) if error.is_of_one_state() => {
                    tracing::error!(state = %id, %error, "this state cannot be opened; the others are served");
                    closed.insert(id, mandate);
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let (Some(error), true) = (first, opened.is_empty()) {
            return Err(error);
        }
        Ok(Self {
            limits,
            memory: Arc::new(Semaphore::new(limits.body_memory / 1024)),
            shares: Mutex::default(),
            states: opened,
            closed,
            label,
            since: now(),
        })
    }

    /// The states that are served.
    pub fn states(&self) -> Vec<StateId> {
        self.states.keys().copied().collect()
    }

    /// The part of the memory for bodies that one key may take. Only keys of mandates come here, so they are few.
    pub fn memory_of(&self, key: Sha256) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = || Arc::new(Semaphore::new(self.limits.body_memory_of_key() / 1024));
        shares.entry(key).or_insert_with(share).clone()
    }

    /// A state that is served.
    pub fn hosted(&self, state: &StateId) -> Option<Arc<Hosted>> {
        self.states.get(state).cloned()
    }

    /// Whether a state should be served and cannot be, as those may learn whom its mandate names.
    pub fn is_closed(&self, state: &StateId, spki: &Sha256) -> bool {
        let mandate = self.closed.get(state);
        mandate.is_some_and(|mandate| mandate.role_of(spki).is_some())
    }

    /// The states that should be served, in ascending order.
    pub fn configured(&self) -> Vec<StateId> {
        let mut all: Vec<StateId> = self
            .states
            .keys()
            .chain(self.closed.keys())
            .copied()
            .collect();
        all.sort();
        all
    }

    /// Whether a state knows this TLS key now.
    pub fn knows(&self, state: &StateId, spki: &Sha256) -> bool {
        let hosted = self.states.get(state);
        hosted.is_some_and(|hosted| hosted.role_of(spki).is_some()) || self.is_closed(state, spki)
    }

    /// Whether every state takes statements.
    pub fn ready(&self) -> bool {
        self.closed.is_empty() && self.states.values().all(|hosted| hosted.sequencer.ready())
    }

    /// Stops the threads of every state after what is queued.
    pub fn close(&self) {
        for hosted in self.states.values() {
            hosted.sequencer.close();
            hosted.journals.close();
        }
    }
}

impl Hosted {
    fn open(
        hosted: HostedState,
        (state, founding): (StateId, Signed),
        store: &std::path::Path,
        reserve: crate::config::Reserve,
        label: &Name,
        keys: &Arc<Keys>,
        limits: Limits,
    ) -> Result<Self, EmbassyError> {
        let (site, log) = Site::open(
            hosted,
            (state, founding),
            store,
            reserve,
            label,
            keys,
            limits,
        )?;
        let journals = Arc::new(Journals::open(site.clone())?);
        let sequencer = Sequencer::start(site.clone(), journals.clone(), log, keys.clone())?;
        Ok(Self {
            site,
            journals,
            sequencer,
        })
    }

    /// What the mandate in force says that a TLS key is.
    pub fn role_of(&self, spki: &Sha256) -> Option<Role> {
        self.site.fold().role_of(spki)
    }

    /// What this embassy says of itself to those whom the mandate knows.
    pub fn status(&self, embassy: &Embassy) -> Result<StatusBody, Refused> {
        let fold = self.site.fold();
        Ok(StatusBody {
            label: embassy.label.to_string(),
            state: fold.id(),
            mandate: fold.mandate().sequence,
            log_size: fold.size(),
            now: now().to_string(),
            since: embassy.since.to_string(),
            store: self.site.keep.guarantees(),
            free: self.site.keep.free(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// Keeps what was released for an accepted order, delivered by the key `from`. Only what says in the clear that it
    /// is for this order, and for the key that the order's keys are released to now, is kept; the rest is sealed.
    pub fn put_release(
        &self,
        order: &OrderId,
        from: &Sha256,
        bytes: &[u8],
    ) -> Result<Put, Refused> {
        let fold = self.site.fold();
        let accepted = fold.order(order).ok_or_else(|| {
            Refused::policy(
                8,
                format!("no order {order} was accepted here; submit it first"),
            )
        })?;
        let (head, _) = ReleaseHead::read(bytes)
            .map_err(|e| Refused::bytes(format!("this is no release: {e}")))?;
        if (head.state, &head.order, head.statement) != (fold.id(), order, accepted.id) {
            return Err(Refused::bytes(format!(
                "this release was made for order {}, with another text than the accepted order {order}",
                head.order
            )));
        }
        let recipient = accepted.recipient().ok_or_else(|| {
            Refused::policy(
                8,
                format!("no session of order {order} asks for keys now; start `legation activate`"),
            )
        })?;
        if head.recipient != recipient {
            return Err(Refused::policy(
                8,
                format!(
                    "this release is sealed to another key than order {order} releases to now; if `legation \
                     activate` was started again, submit the order again and release from the new bundle"
                ),
            ));
        }
        self.site.keep.put_release(order, &recipient, from, bytes)
    }

    /// The digests of what was released for an order to whom its keys are released now.
    pub fn releases(&self, order: &OrderId) -> Result<Vec<Sha256>, Refused> {
        let fold = self.site.fold();
        let recipient = fold.order(order).and_then(OrderState::recipient);
        let found = match recipient {
            Some(recipient) => self.site.keep.releases(order, &recipient)?,
            None => Vec::new(),
        };
        Ok(found)
    }
}

/// Which state a configured mandate founds.
pub(crate) fn founded(hosted: &HostedState) -> Result<(StateId, Signed, Mandate), EmbassyError> {
    let bad = |why: String| EmbassyError::Mandate(why);
    let founding = Signed::parse(&hosted.mandate).map_err(|e| bad(e.to_string()))?;
    let state = StateId::of_mandate(founding.text().as_bytes());
    match founding.statement() {
        Ok(Statement::Mandate(mandate)) => Ok((state, founding, *mandate)),
        Ok(_) => Err(bad("the file holds another statement".to_owned())),
        Err(error) => Err(bad(error.to_string())),
    }
}

impl Site {
    /// Opens a state's directory, recovers its log and folds it.
    pub(crate) fn open(
        hosted: HostedState,
        (state, founding): (StateId, Signed),
        store: &std::path::Path,
        reserve: crate::config::Reserve,
        label: &Name,
        keys: &Arc<Keys>,
        limits: Limits,
    ) -> Result<(Arc<Self>, DiskLog), EmbassyError> {
        let dir = StateDir::create(store, &state)?;
        // Before anything is counted: it takes room as well. A damaged copy is replaced.
        dir.put_attachment(&hosted.keyring)?;
        let keep = Keep::new(dir, reserve, hosted.quota)?;
        let (log, fold) =
            sequence::recover(&keep, founding, &origin(&state, label.as_str()), keys)?;
        keys.check(&fold, label)?;
        let site = Arc::new(Site {
            keep,
            label: label.clone(),
            signing: keys.signing.clone(),
            limits,
            fold: RwLock::new(Arc::new(fold)),
            log: RwLock::new(log.reader()),
        });
        Ok((site, log))
    }

    /// The fold as of the last logged batch.
    pub fn fold(&self) -> Arc<State> {
        // Both values here are replaced whole, so a panicked holder leaves them sound.
        self.fold
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The log as of the last checkpoint.
    pub fn log(&self) -> LogReader {
        self.log
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts a new fold in force. Only what is in the log already may be in it.
    pub fn publish(&self, fold: State) {
        *self.fold.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fold);
    }

    /// Puts the reader of a log that was opened anew in place.
    pub fn replace_log(&self, log: LogReader) {
        *self.log.write().unwrap_or_else(PoisonError::into_inner) = log;
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        self.log().checkpoint()
    }

    /// The embassy's clock.
    pub fn now(&self) -> Time {
        now()
    }
}

/// The embassy's keys, shared by its states.
pub struct Keys {
    /// Signs acknowledgements and facts.
    pub signing: Arc<SigningKey>,
    log: zeroize::Zeroizing<[u8; legation_core::log::LOG_SEED_LEN]>,
    tls: Sha256,
}

impl Keys {
    fn of(identity: EmbassyIdentity) -> Result<Self, EmbassyError> {
        let tls = identity.tls.spki_sha256();
        Ok(Self::new(identity.signing, identity.log, tls))
    }

    pub(crate) fn new(
        signing: SigningKey,
        log: zeroize::Zeroizing<[u8; legation_core::log::LOG_SEED_LEN]>,
        tls: Sha256,
    ) -> Self {
        let signing = Arc::new(signing);
        Self { signing, log, tls }
    }

    /// The log's signer; every opening of a log takes its own.
    pub fn log_signer(&self) -> Result<LogSigner, EmbassyError> {
        LogSigner::from_seed(&self.log).map_err(|e| EmbassyError::Mandate(e.to_string()))
    }

    /// Whether the mandate names these keys for this label. Serving under others would only fail later, abroad.
    fn check(&self, fold: &State, label: &Name) -> Result<(), EmbassyError> {
        let row = fold
            .mandate()
            .embassy(label)
            .ok_or_else(|| EmbassyError::Mandate(format!("it names no embassy {label}")))?;
        let wrong = |what| {
            Err(EmbassyError::WrongKey {
                what,
                label: label.to_string(),
            })
        };
        if row.key != self.signing.verifying_key().id() {
            return wrong("signing key");
        }
        if row.log_key != self.log_signer()?.verifier().digest() {
            return wrong("log key");
        }
        if row.tls != self.tls {
            return wrong("TLS key");
        }
        Ok(())
    }
}

/// The embassy's clock, in milliseconds since 1970.
pub fn now() -> Time {
    clock::now()
}
