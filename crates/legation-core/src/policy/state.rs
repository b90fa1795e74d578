//! What the fold remembers of registries and orders, and how an allowed statement changes it.

use super::{Change, Effect, State};
use crate::id::{
    Digest, EpochNo, Generation, Lsn, OrderId, RegistryId, Sha256, StreamId, Term, Timeline,
    VersionNo,
};
use crate::statement::{
    Commit, Doubt, EpochSet, Fence, Gap, Mark, Name, Order, Recipient, RegistryRow, Report,
    SealCause, Session, Step, Time,
};
use std::collections::{BTreeMap, BTreeSet};

/// A registry, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryState {
    /// Its row in the mandate.
    pub row: RegistryRow,
    /// The term that counts now.
    pub term: Term,
    /// Who may write in this term; nobody after an activation, until a successor is declared.
    pub writer: Option<Name>,
    /// Its epochs; epoch 1 comes first.
    pub epochs: Vec<EpochState>,
    /// Its versions; version 1 comes first.
    pub versions: Vec<VersionState>,
    /// Its newest mark.
    pub mark: Option<MarkState>,
    /// Its fences, oldest first.
    pub fences: Vec<FenceState>,
    /// Holes, with the index of the entry that told of them.
    pub gaps: Vec<(u64, Gap)>,
    /// Ranges without zero loss, with the index of the entry that told of them.
    pub doubts: Vec<(u64, Doubt)>,
    /// Streams that have been marked.
    pub(super) streams: BTreeSet<StreamId>,
}

/// An epoch of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochState {
    /// Its number.
    pub epoch: EpochNo,
    /// In which term it was opened.
    pub term: Term,
    /// To which generation its slip is sealed.
    pub generation: Generation,
    /// The slip object.
    pub slip: Digest,
    /// Its entry.
    pub index: u64,
    /// When the embassy received it.
    pub received: Time,
    /// How far its log went, once a later epoch was marked.
    pub closed: Option<Closed>,
}

/// How far the log of an epoch is known to have gone when a later epoch was marked. What comes after changes nothing of
/// it, so that an order is judged as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The later epoch's entry.
    pub index: u64,
    /// The timeline of the last mark.
    pub timeline: Timeline,
    /// Its position.
    pub lsn: Lsn,
    /// Its time, by the agent's clock.
    pub at: Time,
}

/// A version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionState {
    /// Digest of the commit: the next one's parent.
    pub id: Sha256,
    /// What the commit says.
    pub commit: Commit,
    /// Its entry.
    pub index: u64,
    /// When the embassy received it.
    pub received: Time,
}

/// A registry's newest mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkState {
    /// Digest of the mark.
    pub id: Sha256,
    /// What it says.
    pub mark: Mark,
    /// Its entry.
    pub index: u64,
    /// When the embassy received it.
    pub received: Time,
}

/// A fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceState {
    /// What it says.
    pub fence: Fence,
    /// Its entry.
    pub index: u64,
    /// When it was logged.
    pub received: Time,
}

/// An accepted order, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderState {
    /// What it says.
    pub order: Order,
    /// Digest of the order.
    pub id: Sha256,
    /// Its entry.
    pub index: u64,
    /// When the embassy received it.
    pub received: Time,
    /// The officers who approved it.
    pub approvals: Vec<Name>,
    /// The version that each registry is opened at, fixed when the order was accepted.
    pub versions: BTreeMap<RegistryId, VersionNo>,
    /// The session that keys are released to now, of an activation.
    pub session: Option<Session>,
    /// Registries that a fence was logged for.
    pub fenced: BTreeSet<RegistryId>,
    /// What was opened.
    pub opened: BTreeMap<RegistryId, Vec<EpochSet>>,
    /// Steps, oldest first.
    pub steps: Vec<Step>,
    /// Reports, oldest first.
    pub reports: Vec<Report>,
    /// Why it ended, once it has.
    pub sealed: Option<SealCause>,
}

impl OrderState {
    /// Whose key the order's keys are released to now: the recipient's that it names, or its newest session's.
    #[must_use]
    pub fn recipient(&self) -> Option<Sha256> {
        match self.order.recipient {
            Recipient::Key(key) => Some(key),
            Recipient::Session => self.session.as_ref().map(|session| session.key),
        }
    }

    /// The epochs of a registry that the order lets open.
    #[must_use]
    pub fn scope(&self, registry: RegistryId) -> Option<&EpochSet> {
        self.order
            .registry
            .iter()
            .find(|row| row.registry == registry)
            .map(|row| &row.epochs)
    }

    /// Registries whose fence has yet to be logged.
    pub fn fences_due(&self) -> impl Iterator<Item = RegistryId> + '_ {
        let all = if self.order.term.is_some() {
            self.order.registry.as_slice()
        } else {
            &[]
        };
        all.iter()
            .map(|row| row.registry)
            .filter(|registry| !self.fenced.contains(registry))
    }
}

/// An order that passed every check.
pub(crate) struct OrderAccepted {
    pub(super) order: Order,
    pub(super) approvals: Vec<Name>,
    pub(super) versions: BTreeMap<RegistryId, VersionNo>,
}

impl RegistryState {
    pub(super) fn new(row: RegistryRow) -> Self {
        Self {
            term: Term(1),
            writer: Some(row.writer.clone()),
            row,
            epochs: Vec::new(),
            versions: Vec::new(),
            mark: None,
            fences: Vec::new(),
            gaps: Vec::new(),
            doubts: Vec::new(),
            streams: BTreeSet::new(),
        }
    }

    /// The newest version.
    #[must_use]
    pub fn head(&self) -> Option<&VersionState> {
        self.versions.last()
    }

    /// A version by its number.
    #[must_use]
    pub fn version(&self, version: VersionNo) -> Option<&VersionState> {
        // Versions are numbered from 1 without a gap.
        self.versions
            .get(usize::try_from(version.0.checked_sub(1)?).ok()?)
    }

    /// The number of the newest epoch; zero if there is none.
    #[must_use]
    pub fn last_epoch(&self) -> EpochNo {
        self.epochs.last().map_or(EpochNo(0), |epoch| epoch.epoch)
    }

    /// An epoch by its number.
    #[must_use]
    pub fn epoch(&self, epoch: EpochNo) -> Option<&EpochState> {
        self.epochs
            .get(usize::try_from(epoch.0.checked_sub(1)?).ok()?)
    }

    /// A mark in `later` says that the log left the epoch that was marked last.
    fn close(&mut self, later: EpochNo, index: u64) {
        let Some(last) = self.mark.as_ref().map(|held| &held.mark) else {
            return;
        };
        let (epoch, timeline, lsn, at) = (last.epoch, last.timeline, last.lsn, last.at);
        let at_hand = epoch.0.checked_sub(1).and_then(|n| usize::try_from(n).ok());
        let left = at_hand.and_then(|n| self.epochs.get_mut(n));
        if let Some(left) = left.filter(|left| later > epoch && left.closed.is_none()) {
            left.closed = Some(Closed {
                index,
                timeline,
                lsn,
                at,
            });
        }
    }

    /// The newest version that these epochs open.
    #[must_use]
    pub fn newest_within(&self, epochs: &EpochSet) -> Option<&VersionState> {
        self.versions
            .iter()
            .rev()
            .find(|v| epochs.covers(&v.commit.epochs))
    }
}

impl State {
    /// Carries out what the checks allowed. It cannot fail: whatever could be wrong was found before.
    pub(super) fn perform(
        &mut self,
        change: Change,
        id: Sha256,
        index: u64,
        received: Time,
    ) -> Vec<Effect> {
        if let Change::Mark(mark) = &change {
            let before = self
                .registries
                .get(&mark.registry)
                .and_then(|r| r.mark.as_ref());
            if let Some(before) = before.map(|m| m.id) {
                self.logged.remove(&before);
            }
        }
        self.logged.insert(id, index);
        match change {
            Change::Order(accepted) => return self.perform_order(*accepted, id, index, received),
            Change::Epoch(it) => self.with(it.registry, |r| {
                let (epoch, term, generation, slip) = (it.epoch, it.term, it.generation, it.slip);
                r.epochs.push(EpochState {
                    epoch,
                    term,
                    generation,
                    slip,
                    index,
                    received,
                    closed: None,
                });
            }),
            Change::Commit(it) => {
                let (registry, version) = (it.registry, it.version);
                self.with(registry, |r| {
                    r.versions.push(VersionState {
                        id,
                        commit: *it,
                        index,
                        received,
                    })
                });
                return vec![Effect::VersionKept { registry, version }];
            }
            Change::Mark(it) => self.with(it.registry, |r| {
                r.close(it.epoch, index);
                r.streams.insert(it.stream);
                r.mark = Some(MarkState {
                    id,
                    mark: *it,
                    index,
                    received,
                });
            }),
            Change::Gap(it) => self.with(it.registry, |r| r.gaps.push((index, *it))),
            Change::Doubt(it) => self.with(it.registry, |r| r.doubts.push((index, *it))),
            Change::Fence(it) => {
                self.within(&it.order, |o| _ = o.fenced.insert(it.registry));
                self.with(it.registry, |r| {
                    r.fences.push(FenceState {
                        fence: *it,
                        index,
                        received,
                    })
                });
            }
            Change::Session(it) => {
                self.session_keys.insert(it.key);
                let effect = Effect::SessionReady {
                    order: it.order.clone(),
                    key: it.key,
                };
                self.within(&it.order.clone(), |o| o.session = Some(*it));
                return vec![effect];
            }
            Change::Opened(it) => {
                self.within(&it.order, |o| {
                    o.opened
                        .entry(it.registry)
                        .or_default()
                        .push(it.epochs.clone())
                });
            }
            Change::Step(it) => self.within(&it.order.clone(), |o| o.steps.push(*it)),
            Change::Report(it) => self.within(&it.order.clone(), |o| o.reports.push(*it)),
            Change::Sealed(it) => self.within(&it.order, |o| {
                o.sealed = Some(it.cause);
                o.session = None;
            }),
            Change::Nothing => {}
        }
        Vec::new()
    }

    fn perform_order(
        &mut self,
        accepted: OrderAccepted,
        id: Sha256,
        index: u64,
        received: Time,
    ) -> Vec<Effect> {
        let OrderAccepted {
            order,
            approvals,
            versions,
        } = accepted;
        let mut effects = Vec::new();
        if let Some(step) = &order.term {
            for row in &order.registry {
                self.with(row.registry, |r| {
                    r.term = step.to;
                    r.writer = None;
                });
                effects.push(Effect::FenceNeeded {
                    order: order.order.clone(),
                    registry: row.registry,
                    term: step.clone(),
                });
            }
        }
        // Whoever met to release these epochs held the seed of their generations: nothing new is sealed to them.
        let met: BTreeSet<Generation> = order
            .registry
            .iter()
            .flat_map(|row| self.generations_of(row))
            .collect();
        for generation in met {
            if self.spent.insert(generation) {
                effects.push(Effect::GenerationSpent(generation));
            }
        }
        let state = OrderState {
            id,
            index,
            received,
            approvals,
            versions,
            session: None,
            fenced: BTreeSet::new(),
            opened: BTreeMap::new(),
            steps: Vec::new(),
            reports: Vec::new(),
            sealed: None,
            order,
        };
        self.orders.insert(state.order.order.clone(), state);
        effects
    }

    fn with(&mut self, registry: RegistryId, change: impl FnOnce(&mut RegistryState)) {
        if let Some(state) = self.registries.get_mut(&registry) {
            change(state);
        }
    }

    fn within(&mut self, order: &OrderId, change: impl FnOnce(&mut OrderState)) {
        if let Some(state) = self.orders.get_mut(order) {
            change(state);
        }
    }
}
