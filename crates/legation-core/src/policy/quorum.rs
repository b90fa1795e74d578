//! Officers' statements: approvals, thresholds, and whether an order may be accepted.

use super::state::OrderAccepted;
use super::{Change, Refusal, Rule, State, hold};
use crate::attachments::{Attachments, fetch};
use crate::canary::{self, Bug};
use crate::keys::SealingKey;
use crate::order::MAX_UNSEEN;
use crate::sshsig::Sshsig;
use crate::statement::{
    Act, Mandate, Name, Order, Recipient, Signed, Signer, Territory, Time, VersionPick,
};
use std::collections::{BTreeMap, BTreeSet};

/// Verifies every signature as an officer's and returns the officers, each once, in the mandate's order.
///
/// A signature that is not an officer's, or does not verify, refuses the whole: nothing unverified enters the log.
pub(super) fn officers_who_signed(
    mandate: &Mandate,
    namespace: &str,
    signed: &Signed,
) -> Result<Vec<Name>, Refusal> {
    let mut names = BTreeSet::new();
    for signature in signed.signatures() {
        let Signer::Officer(name) = &signature.signer else {
            return Err(Refusal::new(
                Rule::Signer,
                "only officers sign statements of this kind",
            ));
        };
        let Some(officer) = mandate.officer(name) else {
            return Err(Refusal::new(
                Rule::Signer,
                format!("the mandate names no officer '{name}'"),
            ));
        };
        let verified = Sshsig::parse(&signature.bytes)
            .and_then(|sig| sig.verify(&officer.key, namespace, signed.text().as_bytes()));
        verified.map_err(|error| {
            Refusal::new(Rule::Signature, format!("the signature of {name}: {error}"))
        })?;
        names.insert(name);
    }
    Ok(mandate
        .officer
        .iter()
        .map(|o| &o.name)
        .filter(|name| names.contains(name))
        .cloned()
        .collect())
}

/// Whether every officer has signed the founding mandate.
pub(super) fn check_all_officers(mandate: &Mandate, signed: &Signed) -> Result<(), Refusal> {
    let names = officers_who_signed(mandate, Mandate::HEADER, signed)?;
    let missing: Vec<_> = mandate
        .officer
        .iter()
        .map(|o| o.name.as_str())
        .filter(|n| !names.iter().any(|m| m.as_str() == *n))
        .collect();
    hold!(
        missing.is_empty(),
        Quorum,
        "the founding mandate needs every officer's signature; still missing: {}",
        missing.join(", ")
    );
    Ok(())
}

impl State {
    /// Which officers have approved an order so far, without asking whether they are enough: for the people who
    /// collect approvals.
    ///
    /// # Errors
    /// [`Refusal`] if a signature is nobody's or does not verify.
    pub fn approvals(&self, signed: &Signed) -> Result<Vec<Name>, Refusal> {
        officers_who_signed(&self.mandate, Order::HEADER, signed)
    }

    pub(super) fn check_order(
        &self,
        order: Order,
        signed: &Signed,
        received: Time,
        attachments: &dyn Attachments,
    ) -> Result<Change, Refusal> {
        self.check_names(order.state, order.mandate)?;
        order.check_shape()?;
        let approvals = officers_who_signed(&self.mandate, Order::HEADER, signed)?;
        self.check_quorum(&order, &approvals)?;
        let (from, until) = (order.not_before, order.expires);
        hold!(
            received >= from,
            Validity,
            "the order is not valid before {from}; it was received at {received}"
        );
        hold!(
            received < until,
            Validity,
            "the order expired at {until}; it was received at {received}: write and approve a new one"
        );
        let name = &order.order;
        hold!(
            !self.orders.contains_key(name),
            Once,
            "the order {name} was accepted already; a second one needs a name of its own"
        );
        self.check_log_head(&order)?;
        let versions = self.check_scope(&order)?;
        self.check_generations(&order)?;
        if let Recipient::Key(key) = &order.recipient {
            let there =
                fetch(attachments, key).is_some_and(|bytes| SealingKey::decode(&bytes).is_ok());
            hold!(
                there,
                Shape,
                "the recipient's key {key} is missing or malformed: send it as an attachment first"
            );
        }
        Ok(Change::Order(Box::new(OrderAccepted {
            order,
            approvals,
            versions,
        })))
    }

    fn check_quorum(&self, order: &Order, approvals: &[Name]) -> Result<(), Refusal> {
        let Some(threshold) = self.mandate.threshold(order.act) else {
            return Err(Refusal::new(
                Rule::Unsupported,
                format!("the mandate has no threshold for '{}'", order.act),
            ));
        };
        let (count, need) = (approvals.len(), usize::from(threshold.need));
        let have = if count == 1 {
            "1 approval".to_owned()
        } else {
            format!("{count} approvals")
        };
        hold!(count >= need, Quorum, "{have}, {need} needed");
        let is_abroad = |name: &Name| {
            self.mandate
                .officer(name)
                .is_some_and(|o| o.territory == Territory::Abroad)
        };
        let abroad = approvals.iter().filter(|name| is_abroad(name)).count();
        let need = usize::from(threshold.abroad);
        let have = match abroad {
            0 => "none is abroad".to_owned(),
            1 => "1 is abroad".to_owned(),
            n => format!("{n} are abroad"),
        };
        let counts = !canary::planted(Bug::OffTerritory);
        hold!(abroad >= need || !counts, Abroad, "{have}, {need} needed");
        Ok(())
    }

    /// A grant may not end capture: where no generation is left, nothing new can be sealed.
    fn check_generations(&self, order: &Order) -> Result<(), Refusal> {
        let left = self.generations_left_after(&order.registry);
        let ends = order.act == Act::Grant && left == 0 && self.generations_left() > 0;
        hold!(
            !ends,
            LastGeneration,
            "the release would spend the last vault generation, and nothing new could be sealed from then on: grant what \
             needs spent generations only, activate instead, or found a state with more generations"
        );
        Ok(())
    }

    fn check_log_head(&self, order: &Order) -> Result<(), Refusal> {
        let (head, size) = (&order.log_head, self.heads.size());
        hold!(
            head.size >= 1 && head.size <= size,
            LogHead,
            "the order was written in sight of {} log entries; this log has {size}: it is another log, or one cut short",
            head.size
        );
        let root = self.heads.root_at(head.size);
        hold!(
            root.is_some(),
            LogHead,
            "the log head at {} is too long ago to be compared; write the order again",
            head.size
        );
        hold!(
            root == Some(head.root),
            LogHead,
            "the order was written in sight of another log: at size {} its root was {}",
            head.size,
            head.root
        );
        let from = order.not_before;
        let unseen = self.heads.received_at(head.size);
        let stale = unseen.is_some_and(|next| next.plus_millis(MAX_UNSEEN) < from);
        hold!(
            !stale,
            LogHead,
            "the order was written in sight of {} log entries, and the log had gone on for more than an hour by its \
             not-before, {from}: write it again, by a clock that is right",
            head.size
        );
        Ok(())
    }

    /// Checks that everything in scope exists and is listed exactly, and fixes the version that each registry is opened at.
    fn check_scope(
        &self,
        order: &Order,
    ) -> Result<BTreeMap<crate::id::RegistryId, crate::id::VersionNo>, Refusal> {
        let label = &order.embassy;
        hold!(
            self.mandate.embassy(label).is_some(),
            Scope,
            "the mandate names no embassy '{label}'"
        );
        let mut versions = BTreeMap::new();
        for row in &order.registry {
            let id = row.registry;
            let Some(registry) = self.registries.get(&id) else {
                return Err(Refusal::new(
                    Rule::Scope,
                    format!("the mandate names no registry {id}"),
                ));
            };
            hold!(
                registry.row.embassy == *label,
                Scope,
                "{id} is not kept at embassy '{label}'"
            );
            let size = order.log_head.size;
            let scope = self.scope(id, order.version, order.target, size)?;
            hold!(
                row.epochs == scope,
                Scope,
                "{id}: what is ordered takes the epochs {scope}, no more and no fewer; the order names {}: write it with 'legation order new'",
                row.epochs
            );
            // Newer than in sight of the order it may be, if the same keys open it.
            let found = match order.version {
                VersionPick::Latest => registry.newest_within(&scope),
                VersionPick::Exactly(version) => registry.version(version),
            };
            let Some(found) = found else {
                let why = format!("{id} has no such version: see 'legation versions'");
                return Err(Refusal::new(Rule::Scope, why));
            };
            versions.insert(id, found.commit.version);
            if let Some(step) = &order.term {
                let now = registry.term;
                hold!(
                    step.from == now,
                    TermStep,
                    "{id} is in term {now}; the order ends term {}",
                    step.from
                );
            }
        }
        Ok(versions)
    }
}
