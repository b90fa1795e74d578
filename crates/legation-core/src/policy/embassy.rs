//! The embassy's statements: what it did with an order. It too does only what the log allows.

use super::{Change, OrderState, Refusal, Rule, State, hold};
use crate::attachments::{Attachments, fetch};
use crate::id::{OrderId, RegistryId, StateId};
use crate::keys::SealingKey;
use crate::statement::{
    Act, EpochSet, Fence, Mode, Name, Opened, Refused, Report, Sealed, Session, Signed, Step,
    StepKind, Time,
};

impl State {
    /// State, mandate, signature, and an accepted order for this embassy that is not sealed yet.
    fn check_by_order(
        &self,
        (state, mandate): (StateId, u32),
        embassy: &Name,
        order: &OrderId,
        signed: &Signed,
    ) -> Result<&OrderState, Refusal> {
        self.check_names(state, mandate)?;
        self.check_embassy_signature(embassy, signed)?;
        let Some(known) = self.orders.get(order) else {
            return Err(Refusal::new(
                Rule::Order,
                format!("no order {order} was accepted"),
            ));
        };
        hold!(
            known.order.embassy == *embassy,
            Order,
            "the order {order} is for embassy '{}'",
            known.order.embassy
        );
        hold!(
            known.order.act == Act::Activate,
            Order,
            "the order {order} starts nothing at an embassy"
        );
        hold!(
            known.sealed.is_none(),
            Order,
            "the activation by order {order} was sealed: it takes a new order to open again"
        );
        Ok(known)
    }

    /// That the registry is in the order's scope and no later order has ended its term.
    fn check_in_scope<'a>(
        &self,
        known: &'a OrderState,
        registry: RegistryId,
    ) -> Result<&'a EpochSet, Refusal> {
        let name = &known.order.order;
        let Some(scope) = known.scope(registry) else {
            return Err(Refusal::new(
                Rule::Opened,
                format!("{registry} is not in the scope of order {name}"),
            ));
        };
        if let Some(step) = &known.order.term {
            let now = self.registry_state(registry)?.term;
            hold!(
                step.to == now,
                Fenced,
                "order {name} began term {} of {registry}, which has ended: it is in term {now}",
                step.to
            );
        }
        Ok(scope)
    }

    /// That some registry in the order's scope is still in the term that the order began: else there is nothing left
    /// to open.
    fn check_term_lasts(&self, known: &OrderState) -> Result<(), Refusal> {
        let Some(step) = &known.order.term else {
            return Ok(());
        };
        let lasts = known.order.registry.iter().any(|row| {
            let registry = self.registries.get(&row.registry);
            registry.is_some_and(|registry| registry.term == step.to)
        });
        hold!(
            lasts,
            Fenced,
            "order {} began term {}, which has ended in every registry of its scope: a later order counts",
            known.order.order,
            step.to
        );
        Ok(())
    }

    pub(super) fn check_fence(&self, it: Box<Fence>, signed: &Signed) -> Result<Change, Refusal> {
        let known = self.check_by_order((it.state, it.mandate), &it.embassy, &it.order, signed)?;
        self.check_in_scope(known, it.registry)?;
        let asked = known.order.term.as_ref() == Some(&it.term);
        hold!(
            asked,
            TermStep,
            "the order {} does not ask for a fence from term {} to {}",
            it.order,
            it.term.from,
            it.term.to
        );
        let first = !known.fenced.contains(&it.registry);
        hold!(
            first,
            Once,
            "the fence of {} by order {} is logged already",
            it.registry,
            it.order
        );
        let live = [
            it.sequence.is_some(),
            it.chain.is_some(),
            it.timeline.is_some(),
            it.lsn.is_some(),
        ];
        let whole = live.iter().all(|given| *given == it.stream.is_some());
        hold!(
            whole,
            Fields,
            "a fence gives stream, sequence, chain, timeline and lsn, or none of them"
        );
        Ok(Change::Fence(it))
    }

    pub(super) fn check_session(
        &self,
        it: Box<Session>,
        signed: &Signed,
        received: Time,
        attachments: &dyn Attachments,
    ) -> Result<Change, Refusal> {
        let known = self.check_by_order((it.state, it.mandate), &it.embassy, &it.order, signed)?;
        check_not_expired(known, received)?;
        self.check_term_lasts(known)?;
        let fresh = !self.session_keys.contains(&it.key);
        hold!(
            fresh,
            Session,
            "the session key {} was used before; make a new one",
            it.key
        );
        let there =
            fetch(attachments, &it.key).is_some_and(|bytes| SealingKey::decode(&bytes).is_ok());
        hold!(
            there,
            Session,
            "the session key {} is missing or malformed: send it as an attachment first",
            it.key
        );
        Ok(Change::Session(it))
    }

    pub(super) fn check_opened(
        &self,
        it: Box<Opened>,
        signed: &Signed,
        received: Time,
    ) -> Result<Change, Refusal> {
        let known = self.check_by_order((it.state, it.mandate), &it.embassy, &it.order, signed)?;
        let scope = self.check_in_scope(known, it.registry)?;
        check_not_expired(known, received)?;
        hold!(
            known.session.is_some(),
            Session,
            "no session of order {} is logged: keys are released to a session only",
            it.order
        );
        let fenced = known.order.term.is_none() || known.fenced.contains(&it.registry);
        hold!(
            fenced,
            FenceFirst,
            "the fence of {} by order {} comes first",
            it.registry,
            it.order
        );
        hold!(
            scope.covers(&it.epochs),
            Opened,
            "order {} opens epochs {scope} of {}, not {}",
            it.order,
            it.registry,
            it.epochs
        );
        Ok(Change::Opened(it))
    }

    pub(super) fn check_step(&self, it: Box<Step>, signed: &Signed) -> Result<Change, Refusal> {
        let known = self.check_by_order((it.state, it.mandate), &it.embassy, &it.order, signed)?;
        self.check_is_open(known, it.registry)?;
        let mode = known.order.grant;
        let allowed = match it.step {
            StepKind::ServingReadWrite => mode == Mode::ReadWrite,
            StepKind::ServingReadOnly => mode != Mode::Verify,
            _ => true,
        };
        hold!(allowed, Opened, "order {} grants '{mode}' only", it.order);
        Ok(Change::Step(it))
    }

    pub(super) fn check_report(&self, it: Box<Report>, signed: &Signed) -> Result<Change, Refusal> {
        let known = self.check_by_order((it.state, it.mandate), &it.embassy, &it.order, signed)?;
        self.check_in_scope(known, it.registry)?;
        let pinned = known.versions.get(&it.registry).copied();
        hold!(
            pinned == Some(it.version),
            Opened,
            "order {} opens another version of {} than {}",
            it.order,
            it.registry,
            it.version
        );
        hold!(
            it.probes.passed <= it.probes.asked,
            Fields,
            "more probes passed than were asked"
        );
        Ok(Change::Report(it))
    }

    pub(super) fn check_sealed(&self, it: Box<Sealed>, signed: &Signed) -> Result<Change, Refusal> {
        self.check_by_order((it.state, it.mandate), &it.embassy, &it.order, signed)?;
        Ok(Change::Sealed(it))
    }

    pub(super) fn check_refused(&self, it: &Refused, signed: &Signed) -> Result<Change, Refusal> {
        self.check_names(it.state, it.mandate)?;
        self.check_embassy_signature(&it.embassy, signed)?;
        hold!(
            Rule::of(it.rule).is_some(),
            Fields,
            "there is no rule {}",
            it.rule
        );
        hold!(
            !self.logged.contains_key(&it.statement),
            Fields,
            "the statement {} was accepted, not refused",
            it.statement
        );
        Ok(Change::Nothing)
    }

    fn check_is_open(&self, known: &OrderState, registry: RegistryId) -> Result<(), Refusal> {
        self.check_in_scope(known, registry)?;
        let open = known.opened.contains_key(&registry);
        hold!(
            open,
            Opened,
            "{registry} is not opened under order {}",
            known.order.order
        );
        Ok(())
    }
}

fn check_not_expired(known: &OrderState, received: Time) -> Result<(), Refusal> {
    let (name, until) = (&known.order.order, known.order.expires);
    hold!(
        received < until,
        Validity,
        "the order {name} expired at {until}: nothing more is opened under it"
    );
    Ok(())
}
