//! What others ask of the state. Nothing here decides; it only tells.

use super::writer::check_epoch_logged;
use super::{OrderState, Refusal, RegistryState, State, hold};
use crate::id::{EpochNo, Generation, OrderId, RegistryId, Sha256, StateId, Term};
use crate::mandate::Role;
use crate::statement::{Keyring, LogHead, Mandate, Name, ScopeRow, TermStep, Time};

impl State {
    /// Which state this is.
    #[must_use]
    pub fn id(&self) -> StateId {
        self.id
    }

    /// The mandate in force.
    #[must_use]
    pub fn mandate(&self) -> &Mandate {
        &self.mandate
    }

    /// Digest of the mandate in force.
    #[must_use]
    pub fn mandate_id(&self) -> Sha256 {
        self.mandate_id
    }

    /// The public keys that the mandate names.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Entries so far; the next one has this index.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.heads.size()
    }

    /// The log's size and root, as a checkpoint states them and orders name them.
    #[must_use]
    pub fn head(&self) -> LogHead {
        let size = self.heads.size();
        // The newest size can always be recomputed.
        LogHead {
            size,
            root: self.heads.root_at(size).unwrap_or(Sha256([0; 32])),
        }
    }

    /// The root at an earlier size; `None` if it lies ahead, or too far back to be recomputed.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Sha256> {
        self.heads.root_at(size)
    }

    /// The latest receive time. The embassy gives no entry an earlier one, whatever its clock says.
    #[must_use]
    pub fn last_received(&self) -> Time {
        self.last_received
    }

    /// The entry that a statement came with. Of marks, and of `unchanged`, only each registry's last is known.
    #[must_use]
    pub fn logged(&self, statement: &Sha256) -> Option<u64> {
        self.logged.get(statement).copied()
    }

    /// Every registry.
    pub fn registries(&self) -> impl Iterator<Item = (RegistryId, &RegistryState)> {
        self.registries.iter().map(|(id, registry)| (*id, registry))
    }

    /// One registry.
    #[must_use]
    pub fn registry(&self, id: RegistryId) -> Option<&RegistryState> {
        self.registries.get(&id)
    }

    /// Every accepted order.
    pub fn orders(&self) -> impl Iterator<Item = &OrderState> {
        self.orders.values()
    }

    /// One accepted order.
    #[must_use]
    pub fn order(&self, order: &OrderId) -> Option<&OrderState> {
        self.orders.get(order)
    }

    /// Fences that accepted orders ask for and that are not logged yet: what an embassy owes after a restart too.
    pub fn fences_due(&self) -> impl Iterator<Item = (&OrderId, RegistryId, &TermStep)> {
        let due = |o: &OrderState, registry| {
            let now = self.registries.get(&registry).map(|r| r.term);
            o.sealed.is_none() && o.order.term.as_ref().map(|step| step.to) == now
        };
        self.orders.values().flat_map(move |o| {
            let step = o.order.term.as_ref();
            o.fences_due()
                .filter(move |registry| due(o, *registry))
                .filter_map(move |registry| Some((&o.order.order, registry, step?)))
        })
    }

    /// The vault generation that new epochs are sealed to: the first one after every spent one. `None` when all are
    /// spent.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.after(self.spent.last().copied()).next()
    }

    /// How many vault generations are left for new epochs: the one in use and those after it.
    #[must_use]
    pub fn generations_left(&self) -> usize {
        self.after(self.spent.last().copied()).count()
    }

    /// How many will be left once an order of this scope was accepted, which spends the generations of its epochs.
    #[must_use]
    pub fn generations_left_after(&self, scope: &[ScopeRow]) -> usize {
        let spent = scope
            .iter()
            .flat_map(|row| self.generations_of(row))
            .chain(self.spent.last().copied())
            .max();
        self.after(spent).count()
    }

    /// The generations that the epochs of one row are sealed to.
    pub(super) fn generations_of<'a>(
        &'a self,
        row: &'a ScopeRow,
    ) -> impl Iterator<Item = Generation> + 'a {
        let known = self.registries.get(&row.registry);
        known
            .into_iter()
            .flat_map(|registry| &registry.epochs)
            .filter(|epoch| row.epochs.contains(epoch.epoch))
            .map(|epoch| epoch.generation)
    }

    fn after(&self, spent: Option<Generation>) -> impl Iterator<Item = Generation> + '_ {
        self.mandate
            .vault
            .iter()
            .map(|row| row.generation)
            .filter(move |generation| spent.is_none_or(|spent| *generation > spent))
    }

    /// The generations whose seed was rebuilt.
    pub fn spent(&self) -> impl Iterator<Item = Generation> + '_ {
        self.spent.iter().copied()
    }

    /// Whose a TLS key is, by the SHA-256 of its SPKI. Nobody else is let in.
    #[must_use]
    pub fn role_of(&self, spki: &Sha256) -> Option<Role> {
        self.mandate.role_of(spki)
    }

    /// Whether `writer` may append to the journal of `registry` in `term`, under a logged epoch.
    ///
    /// # Errors
    /// [`Refusal`], class `Fenced` (exit 6) if the term has ended.
    pub fn may_journal(
        &self,
        writer: &Name,
        registry: RegistryId,
        term: Term,
        epoch: EpochNo,
    ) -> Result<(), Refusal> {
        check_epoch_logged(self.check_may_write(writer, registry, term)?, epoch)
    }

    /// Whether a stream that continues no other may begin in a registry's term, in which `begun` such streams did
    /// already: the first may, and one more for each gap that was logged in that term. How many gaps and how many
    /// streams there are is durable, so that the answer is the same after a restart.
    ///
    /// # Errors
    /// A refusal, naming the rule.
    pub fn may_begin_anew(
        &self,
        registry: RegistryId,
        term: Term,
        begun: usize,
    ) -> Result<(), Refusal> {
        let gaps = self.registry(registry).map_or(0, |known| {
            let of_term = |(_, gap): &&(u64, crate::statement::Gap)| gap.term == term;
            known.gaps.iter().filter(of_term).count()
        });
        hold!(
            begun <= gaps,
            Forward,
            "a stream of {registry} in term {term} names no stream before it, and none of the {gaps} gaps logged is left \
             to explain it: log the gap first"
        );
        Ok(())
    }
}
