//! Officers, what they order rightly and wrongly, and what the embassy opens when they have.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use legation_core::example::v;
use legation_core::id::{EpochNo, OrderId, RegistryId, Sha256, Term};
use legation_core::keys::{EpochRoot, OpeningKey, SigningKey};
use legation_core::release::{self, ReleaseContext, ReleaseHead};
use legation_core::slip;
use legation_core::statement::{
    Act, EpochSet, LogHead, Mode, Name, Opened, Order, Recipient, ScopeRow, SealCause, Sealed,
    Session, Signed, Statement, Target, TermStep, VersionPick, YesNo,
};
use legation_core::vault::{self, VaultShare};
use legation_repo::store::Kind;

use crate::audit::{Checked, found};
use crate::line::{Ask, Body, Who};
use crate::restore::{self, From};
use crate::world::World;

/// How long an order is valid.
const VALID: u64 = 12 * 3_600_000;

/// Officers, of whom 4 and 5 are abroad, who are enough.
const QUORUMS: [&[usize]; 4] = [&[1, 2, 4], &[5, 3, 1], &[4, 5, 2], &[1, 2, 3, 4, 5]];
/// And who are not.
const TOO_FEW: [&[usize]; 3] = [&[1, 4], &[5], &[]];

/// The officers' desk, and the seat beside the embassy.
#[derive(Default)]
pub struct Desk {
    drafted: u32,
    sent: Vec<(OrderId, Vec<u8>)>,
    seat: Option<Seat>,
}

/// An activation under way. Its keys are in memory only.
struct Seat {
    order: OrderId,
    key: OpeningKey,
    /// The embassy's run that it lives beside.
    start: u64,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Session,
    Released,
}

/// How an order is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoilt {
    No,
    TooFew,
    HomeOnly,
    Twice,
    Edited,
    Stale,
    Expired,
    Sentence,
    Wide,
}

impl World {
    /// Somebody at the desk or at the seat does something.
    pub(crate) fn officers(&mut self) -> Checked {
        if self.dice.percent(45) {
            self.draft();
            return Ok(());
        }
        if self.dice.percent(15) && !self.desk.sent.is_empty() {
            let (order, bytes) = self.dice.pick(&self.desk.sent).clone();
            self.trace.say(format_args!("order {order} is sent again"));
            self.submit_order(order, bytes);
            return Ok(());
        }
        if self.dice.percent(20) {
            return self.host_lies();
        }
        for _ in 0..=self.dice.roll(4) {
            self.sit()?;
        }
        Ok(())
    }

    fn submit_order(&mut self, order: OrderId, bytes: Vec<u8>) {
        let id = self.ask_id();
        self.post(Ask {
            id,
            who: Who::Desk(order),
            body: Body::Statement(bytes),
            held: None,
        });
    }

    /// An order is written, approved by some, and sent.
    fn draft(&mut self) {
        let Some(fold) = self.audit.fold.as_ref() else {
            return;
        };
        let versioned: Vec<RegistryId> = fold
            .registries()
            .filter(|(_, known)| known.head().is_some())
            .map(|(id, _)| id)
            .collect();
        if versioned.is_empty() {
            return;
        }
        let mut registries: Vec<RegistryId> = versioned
            .iter()
            .copied()
            .filter(|_| self.dice.percent(60))
            .collect();
        if registries.is_empty() {
            registries.push(*self.dice.pick(&versioned));
        }
        let spoilt = self.dice.weighted(&[
            (50, Spoilt::No),
            (6, Spoilt::TooFew),
            (10, Spoilt::HomeOnly),
            (6, Spoilt::Twice),
            (6, Spoilt::Edited),
            (6, Spoilt::Stale),
            (4, Spoilt::Expired),
            (4, Spoilt::Sentence),
            (6, Spoilt::Wide),
        ]);
        let fence = self.dice.percent(15);
        self.desk.drafted += 1;
        let name = format!("2026-11-22-{:08x}", self.desk.drafted);
        let Some(mut order) = self.order(&name, &registries, fence, spoilt) else {
            return;
        };
        let approvers: &[usize] = match spoilt {
            Spoilt::TooFew => self.dice.pick::<&[usize]>(&TOO_FEW),
            Spoilt::HomeOnly => &[1, 2, 3],
            Spoilt::Twice => &[1, 1, 4, 4],
            _ => self.dice.pick::<&[usize]>(&QUORUMS),
        };
        let Ok(mut signed) = Signed::unsigned(order.text()) else {
            return;
        };
        for n in approvers {
            let officer = &self.founding.officers[n - 1];
            let armoured = officer.sign(Order::HEADER, signed.text().as_bytes());
            let _ = signed.add_officer(officer.name.clone(), &armoured);
        }
        let mut bytes = signed.encode().into_bytes();
        if spoilt == Spoilt::Edited {
            // The signatures of one text under another.
            order.expires = order.expires.plus_millis(60_000);
            let tail = signed.encode().split_off(signed.text().len());
            bytes = format!("{}{tail}", order.text()).into_bytes();
        }
        self.trace.say(format_args!(
            "officers {approvers:?} sign order {name} for {} registries, fence {fence}, spoilt {spoilt:?}",
            registries.len()
        ));
        let id: OrderId = v(&name);
        self.desk.sent.push((id.clone(), bytes.clone()));
        self.submit_order(id, bytes);
    }

    fn order(
        &mut self,
        name: &str,
        registries: &[RegistryId],
        fence: bool,
        spoilt: Spoilt,
    ) -> Option<Order> {
        let fold = self.audit.fold();
        let (size, target) = (fold.size(), Some(Target::EndOfWal));
        let row = |registry: &RegistryId| {
            let mut epochs = fold
                .scope(*registry, VersionPick::Latest, target, size)
                .ok()?;
            if spoilt == Spoilt::Wide {
                epochs = EpochSet::range(EpochNo(1), EpochNo(epochs.last().0 + 1))?;
            }
            Some(ScopeRow {
                registry: *registry,
                epochs,
            })
        };
        let rows: Option<Vec<ScopeRow>> = registries.iter().map(row).collect();
        let term = fold.registry(registries[0])?.term;
        let log_head = match spoilt {
            Spoilt::Stale => {
                let old = 1 + self.dice.roll(size as usize) as u64;
                let fold = self.audit.fold();
                LogHead {
                    size: old,
                    root: fold.root_at(old)?,
                }
            }
            _ => fold.head(),
        };
        // Whatever clock the embassy has, this is what it last said.
        let not_before = self.audit.fold().last_received();
        let valid = if spoilt == Spoilt::Expired { 1 } else { VALID };
        let order = Order {
            act: Act::Activate,
            order: v(name),
            state: self.founding.state,
            mandate: 1,
            log_head,
            embassy: self.label(),
            recipient: Recipient::Session,
            registry: rows?,
            version: VersionPick::Latest,
            target,
            grant: if fence {
                Mode::ReadWrite
            } else {
                *self.dice.pick(&[Mode::Verify, Mode::ReadOnly])
            },
            term: fence.then_some(TermStep {
                from: term,
                to: Term(term.0 + 1),
            }),
            accept_loss: YesNo::No,
            not_before,
            expires: not_before.plus_millis(valid),
            annex_sha256: Sha256::of(b"annex"),
            sentence: legation_core::statement::Line::default(),
        };
        let mut order = order.with_sentence().ok()?;
        if spoilt == Spoilt::Sentence {
            order.sentence = v("Start nothing at all.");
        }
        Some(order)
    }

    fn label(&self) -> Name {
        self.founding.mandate.embassy[0].label.clone()
    }

    /// The embassy's own signature, which whoever holds its machine has.
    fn sign_abroad(&self, statement: impl Into<Statement>) -> Vec<u8> {
        let key: SigningKey = self.founding.embassy().signing;
        let signed = Signed::sign_with(statement, &key).expect("signs");
        signed.encode().into_bytes()
    }

    /// Puts a statement of the embassy's own through. Whether it was logged; `None` when nobody is there to log it.
    fn log_abroad(&mut self, statement: impl Into<Statement>) -> Checked<Option<bool>> {
        let bytes = self.sign_abroad(statement);
        let answer = self.site.with(|embassy| {
            let mut answers = embassy.submit(&[(bytes, 0)]);
            answers.pop().map(|answer| answer.is_ok())
        });
        self.look()?;
        Ok(answer.flatten())
    }

    /// Whoever holds the embassy's machine says what nobody ordered.
    fn host_lies(&mut self) -> Checked {
        let Some((order, _)) = self.desk.sent.last().cloned() else {
            return Ok(());
        };
        let at = self.site.wall(self.now);
        let n = self.dice.roll(self.agents.len());
        let registry = self.agents[n].registry;
        let epochs = EpochSet::range(EpochNo(1), EpochNo(1 + self.dice.roll(6) as u32));
        let (Some(epochs), state, embassy) = (epochs, self.founding.state, self.label()) else {
            return Ok(());
        };
        let logged = match self.dice.roll(2) {
            0 => self.log_abroad(Opened {
                state,
                mandate: 1,
                embassy,
                order: order.clone(),
                registry,
                epochs,
                at,
            })?,
            _ => self.log_abroad(Session {
                state,
                mandate: 1,
                embassy,
                order: order.clone(),
                key: Sha256::of(b"no key"),
                at,
            })?,
        };
        self.trace.say(format_args!(
            "the host tries to open {registry} by order {order}: {logged:?}"
        ));
        Ok(())
    }

    /// The seat beside the embassy goes one step on.
    fn sit(&mut self) -> Checked {
        let start = self.site.starts;
        if self
            .desk
            .seat
            .as_ref()
            .is_some_and(|seat| seat.start != start)
        {
            // Memory, and with it every key, is gone.
            if let Some(seat) = self.desk.seat.take() {
                let cause = SealCause::PowerLoss;
                self.seal(&seat.order, cause)?;
            }
            return Ok(());
        }
        if !self.site.is_up() {
            return Ok(());
        }
        let Some(seat) = self.desk.seat.take() else {
            return self.begin_seat(start);
        };
        match seat.at {
            At::Session => self.release(seat),
            At::Released => self.open(seat),
        }
    }

    fn begin_seat(&mut self, start: u64) -> Checked {
        let fold = self.audit.fold();
        let waiting: Vec<OrderId> = fold
            .orders()
            .filter(|known| known.sealed.is_none())
            .map(|known| known.order.order.clone())
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let order = self.dice.pick(&waiting).clone();
        let key = OpeningKey::from_seed(&self.dice.bytes()).expect("a seed");
        let public = key.public().encode().to_vec();
        let kept = self
            .site
            .with(|embassy| embassy.put_attachment(&public, false).is_ok());
        if kept != Some(true) {
            return Ok(());
        }
        let session = Session {
            state: self.founding.state,
            mandate: 1,
            embassy: self.label(),
            order: order.clone(),
            key: Sha256::of(&public),
            at: self.site.wall(self.now),
        };
        let logged = self.log_abroad(session)?;
        self.trace
            .say(format_args!("a session of order {order}: {logged:?}"));
        if logged == Some(true) && self.site.starts == start {
            self.desk.seat = Some(Seat {
                order,
                key,
                start,
                at: At::Session,
            });
        }
        Ok(())
    }

    /// On the officers' own machine: the log says who approved; those give their shares, and nothing but what is in scope
    /// is opened and sealed to the session.
    fn release(&mut self, mut seat: Seat) -> Checked {
        let Some(ordered) = self.audit.orders.get(&seat.order).cloned() else {
            return found(
                "quorum",
                format!("{} has a session and is no order", seat.order),
            );
        };
        let fold = self.audit.fold();
        let Some(known) = fold.order(&seat.order) else {
            return Ok(());
        };
        let shares: Vec<VaultShare> = self
            .founding
            .officers
            .iter()
            .zip(&self.founding.shares)
            .filter(|(officer, _)| known.approvals.contains(&officer.name))
            .flat_map(|(_, shares)| shares.iter().cloned())
            .collect();
        let to = seat.key.public();
        let head = ReleaseHead {
            state: self.founding.state,
            order: seat.order.clone(),
            statement: ordered.id,
            recipient: to.id(),
        };
        let mut body = head.to_string();
        let mut count = 0;
        for (registry, epochs) in &ordered.scope {
            let states = fold.registry(*registry).map(|r| r.epochs.clone());
            for state in states.unwrap_or_default() {
                if !epochs.contains(state.epoch) {
                    continue;
                }
                let of: Vec<VaultShare> = shares
                    .iter()
                    .filter(|share| share.generation == state.generation)
                    .cloned()
                    .collect();
                let rebuilt = vault::rebuild(state.generation, &of, true);
                let row = &self.founding.mandate.vault[state.generation.0 as usize - 1];
                let Some(vault) = rebuilt.ok().filter(|key| key.public().id() == row.key) else {
                    return found(
                        "quorum",
                        format!(
                            "the shares of those who approved {} do not open the vault",
                            seat.order
                        ),
                    );
                };
                let slip = self
                    .site
                    .process()
                    .and_then(|embassy| embassy.object(Kind::Slip, &state.slip).ok());
                let Some(slip) = slip else { return Ok(()) };
                // What a thief sealed as an epoch opens nothing.
                let Ok(root) = slip::open(&vault, &slip) else {
                    continue;
                };
                let context = ReleaseContext {
                    state: self.founding.state,
                    order: ordered.id,
                    registry: *registry,
                    epoch: state.epoch,
                };
                let sealed = release::seal(&to, &context, &root, &self.dice.bytes());
                let sealed = sealed.expect("seals");
                let line = STANDARD.encode(sealed);
                body.push_str(&format!("{registry} {} {line}\n", state.epoch));
                count += 1;
            }
        }
        self.audit.released += count;
        let from = Sha256::of(b"tls desk");
        let order = seat.order.clone();
        let put = self
            .site
            .with(|embassy| embassy.put_release(&order, &from, body.as_bytes()).is_ok());
        self.trace.say(format_args!(
            "{count} keys are released for order {order}: {put:?}"
        ));
        if put == Some(true) {
            seat.at = At::Released;
        }
        self.desk.seat = Some(seat);
        Ok(())
    }

    /// The seat takes the released keys, says what it opens, and opens it.
    fn open(&mut self, seat: Seat) -> Checked {
        let (order, start) = (seat.order.clone(), seat.start);
        let found_here = self.site.with(|embassy| embassy.releases(&order).ok());
        let Some(releases) = found_here.flatten() else {
            return Ok(());
        };
        let Some(ordered) = self.audit.orders.get(&order).cloned() else {
            return found("quorum", format!("{order} was released and is no order"));
        };
        let mut roots: BTreeMap<RegistryId, BTreeMap<EpochNo, EpochRoot>> = BTreeMap::new();
        for bytes in &releases {
            let Ok((_, clear)) = ReleaseHead::read(bytes) else {
                continue;
            };
            for line in String::from_utf8_lossy(&bytes[clear..]).lines() {
                let mut words = line.split(' ');
                let registry = words.next().and_then(|w| w.parse::<RegistryId>().ok());
                let epoch = words.next().and_then(|w| w.parse().ok()).map(EpochNo);
                let sealed = words.next().and_then(|w| STANDARD.decode(w).ok());
                let (Some(registry), Some(epoch), Some(sealed)) = (registry, epoch, sealed) else {
                    continue;
                };
                let context = ReleaseContext {
                    state: self.founding.state,
                    order: ordered.id,
                    registry,
                    epoch,
                };
                if let Ok(root) = release::open(&seat.key, &context, &sealed) {
                    roots.entry(registry).or_default().insert(epoch, root);
                }
            }
        }
        let mut opened = 0;
        for (registry, epochs) in &ordered.scope {
            let statement = Opened {
                state: self.founding.state,
                mandate: 1,
                embassy: self.label(),
                order: order.clone(),
                registry: *registry,
                epochs: epochs.clone(),
                at: self.site.wall(self.now),
            };
            if self.log_abroad(statement)? != Some(true) || self.site.starts != start {
                continue;
            }
            let held = roots.remove(registry).unwrap_or_default();
            let keys: Vec<EpochNo> = held.keys().copied().collect();
            self.audit.may_open(&order, *registry, &keys)?;
            let Some(list) = self.audit.version_of(&ordered, *registry) else {
                continue;
            };
            let Some(captured) = self.audit.versions.get(&list).cloned() else {
                continue;
            };
            let state = self.site.disk.root().join(self.founding.state.to_string());
            let fold = self.audit.fold();
            let known = fold.registry(*registry);
            let version = known.and_then(|known| {
                known
                    .versions
                    .iter()
                    .find(|version| version.commit.packs.list == list)
            });
            let Some(version) = version else { continue };
            let fixed = fold.order(&order).and_then(|o| o.versions.get(registry));
            if fixed != Some(&version.commit.version) {
                let ours = version.commit.version;
                return found(
                    "quorum",
                    format!("order {order} opens {fixed:?} of {registry}, and {ours} was ordered"),
                );
            }
            let from = From::new(&state, held.clone())?;
            match from.files(self.founding, *registry, version) {
                Ok(files) => restore::same(&captured, &files)?,
                Err(error) => {
                    return found("restore", format!("order {order}, {registry}: {error}"));
                }
            }
            // The log is replayed as far as the order's keys reach.
            restore::replayed(&self.audit, &mut self.site, *registry, epochs, &held)?;
            opened += 1;
        }
        self.counts.activations += u64::from(opened > 0);
        self.trace
            .say(format_args!("order {order} opens {opened} registries"));
        self.seal(&order, SealCause::Person)
    }

    fn seal(&mut self, order: &OrderId, cause: SealCause) -> Checked {
        let sealed = Sealed {
            state: self.founding.state,
            mandate: 1,
            embassy: self.label(),
            order: order.clone(),
            cause,
            at: self.site.wall(self.now),
        };
        let logged = self.log_abroad(sealed)?;
        self.trace
            .say(format_args!("order {order} is sealed: {logged:?}"));
        Ok(())
    }
}
