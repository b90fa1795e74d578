//! The fold: what a state and its embassy may do next is a pure function of the log, and this is the function.
//!
//! `State = fold(apply, entries)`. The embassy asks [`State::check`] before it logs anything and applies what it has
//! logged; agents, officers and auditors apply the same entries and come to the same state, or to the entry that the
//! mandate did not allow ([`crate::replay`]). Every authorisation is decided here and nowhere else. Nothing here
//! knows files, clocks or networks: time is the receive time that the embassy gave an entry.
//!
//! The numbered rules are those of `spec/statements.md`.

mod embassy;
mod heads;
mod query;
mod quorum;
mod refusal;
mod scope;
mod state;
mod writer;

pub(crate) use refusal::hold;
pub use refusal::{Class, Refusal, Rule};
pub use state::{
    Closed, EpochState, FenceState, MarkState, OrderState, RegistryState, VersionState,
};

use crate::attachments::{Attachments, fetch};
use crate::id::{Generation, OrderId, RegistryId, Sha256, StateId, VersionNo};
use crate::keys::VerifyingKey;
use crate::statement::{
    Entry, Keyring, Mandate, Name, Session, Signed, Signer, Statement, TermStep, Time,
};
use heads::Heads;
use std::collections::{BTreeMap, BTreeSet};

/// What a log has come to: the whole authority over what may happen next.
#[derive(Clone, Debug)]
pub struct State {
    id: StateId,
    mandate: Mandate,
    mandate_id: Sha256,
    keyring: Keyring,
    keys: BTreeMap<Sha256, VerifyingKey>,
    registries: BTreeMap<RegistryId, RegistryState>,
    orders: BTreeMap<OrderId, OrderState>,
    spent: BTreeSet<Generation>,
    session_keys: BTreeSet<Sha256>,
    /// Statements by id. Of marks only each registry's last is here: they come every second, and an older one is
    /// refused as going back.
    logged: BTreeMap<Sha256, u64>,
    heads: Heads,
    last_received: Time,
}

/// What [`State::check`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The statement may be logged.
    New,
    /// The very statement is in the log already: nothing is to be done, and its receipt is the old one.
    Replay {
        /// The entry's index.
        index: u64,
    },
}

/// What applying an entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The statement.
    pub id: Sha256,
    /// The entry that it first came with, if this one repeats it. The state is as before then.
    pub replay_of: Option<u64>,
    /// What the embassy does now, in this order.
    pub effects: Vec<Effect>,
}

/// What an accepted statement asks of the embassy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Take nothing more for this registry under the old term, and log a `fence` that says how far it had come.
    FenceNeeded {
        /// By which order.
        order: OrderId,
        /// Of which registry.
        registry: RegistryId,
        /// The term that ends and the one that begins.
        term: TermStep,
    },
    /// No epoch will be sealed to this generation any more.
    GenerationSpent(Generation),
    /// A complete version is kept.
    VersionKept {
        /// Of which registry.
        registry: RegistryId,
        /// Which.
        version: VersionNo,
    },
    /// Keys may now be released to this session.
    SessionReady {
        /// For which order.
        order: OrderId,
        /// SHA-256 of its key.
        key: Sha256,
    },
}

/// A statement that was found to be allowed, and what it changes. Only the checks make one.
pub(crate) enum Change {
    Order(Box<state::OrderAccepted>),
    Epoch(Box<crate::statement::Epoch>),
    Commit(Box<crate::statement::Commit>),
    Mark(Box<crate::statement::Mark>),
    Gap(Box<crate::statement::Gap>),
    Doubt(Box<crate::statement::Doubt>),
    Fence(Box<crate::statement::Fence>),
    Session(Box<Session>),
    Opened(Box<crate::statement::Opened>),
    Step(Box<crate::statement::Step>),
    Report(Box<crate::statement::Report>),
    Sealed(Box<crate::statement::Sealed>),
    Nothing,
}

enum Decision {
    Replay(u64),
    New(Change),
}

impl State {
    /// Founds a state with the first entry of its log.
    ///
    /// # Errors
    /// [`Refusal`] unless it is a whole founding mandate, signed by every officer it names, whose keyring is attached.
    pub fn found(entry: &Entry, attachments: &dyn Attachments) -> Result<Self, Refusal> {
        hold!(
            entry.index == 0,
            Sequence,
            "a log begins with entry 0, not {}",
            entry.index
        );
        let Statement::Mandate(mandate) = read(&entry.signed)? else {
            return Err(Refusal::new(
                Rule::Founding,
                "a log begins with the founding mandate",
            ));
        };
        let keyring = fetch(attachments, &mandate.keyring)
            .and_then(|bytes| Keyring::parse(&String::from_utf8(bytes).ok()?).ok())
            .ok_or_else(|| {
                let digest = mandate.keyring;
                Refusal::new(Rule::Founding, format!("the keyring {digest} is missing or malformed: send it as an attachment first"))
            })?;
        mandate.check_founding(&keyring)?;
        quorum::check_all_officers(&mandate, &entry.signed)?;
        let mut keys = BTreeMap::new();
        for id in mandate
            .writer
            .iter()
            .map(|w| w.key)
            .chain(mandate.embassy.iter().map(|e| e.key))
        {
            let key = keyring
                .verifying_key(&id)
                .map_err(|error| Refusal::new(Rule::Founding, error.to_string()))?;
            keys.insert(id, key);
        }
        let mut state = Self {
            id: StateId::of_mandate(entry.signed.text().as_bytes()),
            mandate_id: entry.signed.id(),
            registries: mandate
                .registry
                .iter()
                .map(|row| (row.id, RegistryState::new(row.clone())))
                .collect(),
            mandate: *mandate,
            keyring,
            keys,
            orders: BTreeMap::new(),
            spent: BTreeSet::new(),
            session_keys: BTreeSet::new(),
            logged: BTreeMap::from([(entry.signed.id(), 0)]),
            heads: Heads::default(),
            last_received: entry.received,
        };
        state.heads.push(entry.leaf_hash(), entry.received);
        Ok(state)
    }

    /// Whether a statement received at `received` may be logged next. It changes nothing.
    ///
    /// # Errors
    /// [`Refusal`], naming the rule and what to do.
    pub fn check(
        &self,
        signed: &Signed,
        received: Time,
        attachments: &dyn Attachments,
    ) -> Result<Admission, Refusal> {
        Ok(match self.decide(signed, received, attachments)? {
            Decision::Replay(index) => Admission::Replay { index },
            Decision::New(_) => Admission::New,
        })
    }

    /// Takes the next entry of the log.
    ///
    /// The entry counts as part of the log in any case; if it is refused nothing else changes, and the fold goes on.
    ///
    /// # Errors
    /// [`Refusal`] if the mandate does not allow it: whoever logged it did what the mandate did not allow.
    pub fn apply(
        &mut self,
        entry: &Entry,
        attachments: &dyn Attachments,
    ) -> Result<Applied, Refusal> {
        let decision = self.decide_entry(entry, attachments);
        self.last_received = self.last_received.max(entry.received);
        self.heads.push(entry.leaf_hash(), self.last_received);
        let id = entry.signed.id();
        match decision? {
            Decision::Replay(index) => Ok(Applied {
                id,
                replay_of: Some(index),
                effects: Vec::new(),
            }),
            Decision::New(change) => {
                let effects = self.perform(change, id, entry.index, entry.received);
                Ok(Applied {
                    id,
                    replay_of: None,
                    effects,
                })
            }
        }
    }

    /// Counts a leaf that is no entry, so that an auditor can go on after it.
    pub fn skip(&mut self, leaf: &[u8]) {
        let hash = crate::statement::entry::leaf_hash(leaf);
        self.heads.push(hash, self.last_received);
    }

    fn decide_entry(
        &self,
        entry: &Entry,
        attachments: &dyn Attachments,
    ) -> Result<Decision, Refusal> {
        let next = self.heads.size();
        hold!(
            entry.index == next,
            Sequence,
            "the entry is numbered {}; {next} comes next",
            entry.index
        );
        self.decide(&entry.signed, entry.received, attachments)
    }

    fn decide(
        &self,
        signed: &Signed,
        received: Time,
        attachments: &dyn Attachments,
    ) -> Result<Decision, Refusal> {
        if let Some(index) = self.logged.get(&signed.id()) {
            return Ok(Decision::Replay(*index));
        }
        let last = self.last_received;
        hold!(
            received >= last,
            Sequence,
            "received at {received}, before the entry already logged at {last}: the embassy's clock went back"
        );
        let change = match read(signed)? {
            Statement::Mandate(_) => {
                let why = "a mandate is replaced by an amendment only, which this version does not support";
                return Err(Refusal::new(Rule::Amendment, why));
            }
            Statement::Order(it) => self.check_order(*it, signed, received, attachments)?,
            Statement::Epoch(it) => self.check_epoch(it, signed)?,
            Statement::Commit(it) => self.check_commit(it, signed)?,
            Statement::Mark(it) => self.check_mark(it, signed)?,
            Statement::Gap(it) => self.check_gap(it, signed)?,
            Statement::Doubt(it) => self.check_doubt(it, signed)?,
            Statement::Fence(it) => self.check_fence(it, signed)?,
            Statement::Session(it) => self.check_session(it, signed, received, attachments)?,
            Statement::Opened(it) => self.check_opened(it, signed, received)?,
            Statement::Step(it) => self.check_step(it, signed)?,
            Statement::Report(it) => self.check_report(it, signed)?,
            Statement::Sealed(it) => self.check_sealed(it, signed)?,
            Statement::Refused(it) => self.check_refused(&it, signed)?,
            Statement::Ack(_)
            | Statement::Proof(_)
            | Statement::Annex(_)
            | Statement::Keyring(_) => {
                return Err(Refusal::new(
                    Rule::NotLogged,
                    "statements of this kind are kept outside the log",
                ));
            }
        };
        Ok(Decision::New(change))
    }

    /// Whether the statement names this state and the mandate in force.
    fn check_names(&self, state: StateId, mandate: u32) -> Result<(), Refusal> {
        hold!(
            state == self.id,
            State,
            "the statement is of the state {state}; this is {}",
            self.id
        );
        let now = self.mandate.sequence;
        hold!(
            mandate == now,
            MandateInForce,
            "the statement names mandate {mandate}; mandate {now} is in force"
        );
        Ok(())
    }

    /// The one hybrid signature that writers' and embassies' statements have. Returns whose key it is.
    fn check_key_signature(&self, signed: &Signed) -> Result<Sha256, Refusal> {
        let [signature] = signed.signatures() else {
            let n = signed.signatures().len();
            return Err(Refusal::new(
                Rule::Signer,
                format!("writers and embassies sign once; there are {n} signatures"),
            ));
        };
        let Signer::Key(id) = signature.signer else {
            return Err(Refusal::new(
                Rule::Signer,
                "officers do not sign statements of this kind",
            ));
        };
        let Some(key) = self.keys.get(&id) else {
            return Err(Refusal::new(
                Rule::Signer,
                format!("the mandate names no key {id}"),
            ));
        };
        let verified = key.verify(signed.text().as_bytes(), &signature.bytes);
        verified.map_err(|error| Refusal::new(Rule::Signature, error.to_string()))?;
        Ok(id)
    }

    /// Checks that the statement is signed by the embassy with this label.
    fn check_embassy_signature(&self, label: &Name, signed: &Signed) -> Result<(), Refusal> {
        let key = self.check_key_signature(signed)?;
        let row = self.mandate.embassy(label);
        hold!(
            row.is_some_and(|row| row.key == key),
            Signer,
            "the statement is not signed by the embassy '{label}'"
        );
        Ok(())
    }

    fn registry_state(&self, registry: RegistryId) -> Result<&RegistryState, Refusal> {
        let why = || {
            Refusal::new(
                Rule::Writer,
                format!("the mandate names no registry {registry}"),
            )
        };
        self.registries.get(&registry).ok_or_else(why)
    }
}

/// Reads what a signed text says.
fn read(signed: &Signed) -> Result<Statement, Refusal> {
    signed
        .statement()
        .map_err(|error| Refusal::new(Rule::Text, error.to_string()))
}

#[cfg(test)]
mod tests;
