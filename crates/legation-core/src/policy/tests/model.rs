//! Does any sequence of statements open a key without a quorum? All small ones, and many random ones.
//!
//! The judge below shares nothing with the fold: it reads the accepted entries again and counts by hand.

use super::ORDER;
use crate::example::{World, registry, v};
use crate::id::{EpochNo, OrderId};
use crate::statement::*;
use std::collections::{BTreeMap, BTreeSet};

/// Whether three officers, one of them abroad, are among these.
fn is_quorum(officers: &BTreeSet<usize>) -> bool {
    officers.len() >= 3 && officers.iter().any(|n| *n >= 4)
}

/// Reads the log by hand: everything opened was ordered by a quorum, fenced, and given a session before.
fn judge(world: &World) -> usize {
    let mut orders: BTreeMap<OrderId, Order> = BTreeMap::new();
    let (mut fenced, mut sessions, mut sealed) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut opened = 0;
    let mut seen = BTreeSet::new();
    for entry in &world.entries {
        if !seen.insert(entry.signed.id()) {
            continue; // Repeats are logged here, and must change nothing.
        }
        match entry.signed.statement().unwrap() {
            Statement::Order(order) => {
                let names = entry
                    .signed
                    .signatures()
                    .iter()
                    .map(|s| s.signer.to_string());
                let officers = names
                    .map(|name| name.strip_prefix("officer-").unwrap().parse().unwrap())
                    .collect();
                assert!(is_quorum(&officers), "an order by {officers:?}");
                assert!(order.not_before <= entry.received && entry.received < order.expires);
                orders.entry(order.order.clone()).or_insert(*order);
            }
            Statement::Fence(it) => _ = fenced.insert((it.order.clone(), it.registry)),
            Statement::Session(it) => _ = sessions.insert(it.order.clone()),
            Statement::Sealed(it) => _ = sealed.insert(it.order.clone()),
            Statement::Opened(it) => {
                let order = orders.get(&it.order).expect("opened by an accepted order");
                let row = order
                    .registry
                    .iter()
                    .find(|row| row.registry == it.registry)
                    .expect("in scope");
                assert!(
                    it.epochs.iter().all(|epoch| row.epochs.contains(epoch)),
                    "outside the scope"
                );
                assert!(sessions.contains(&it.order) && !sealed.contains(&it.order));
                assert!(order.term.is_none() || fenced.contains(&(it.order.clone(), it.registry)));
                assert!(entry.received < order.expires);
                opened += 1;
            }
            _ => {}
        }
    }
    opened
}

#[test]
fn every_set_of_approvers_in_every_order_of_events() {
    let mut accepted = 0;
    for subset in 0_usize..32 {
        let approvers: Vec<usize> = (1..=5).filter(|n| subset >> (n - 1) & 1 == 1).collect();
        let quorum = is_quorum(&approvers.iter().copied().collect());
        // With a quorum every order of events matters; without one nothing may follow, whatever comes first.
        let orders: &[[usize; 4]] = if quorum {
            &PERMUTATIONS
        } else {
            &[[0, 1, 2, 3], [3, 2, 1, 0]]
        };
        for events in orders {
            let mut world = World::lived();
            let order = world.order(ORDER, &[1]);
            let session = world.session(&order, 81);
            let statements = [
                world.approve(&order, &approvers),
                world.tell(world.fence(&order, 1)),
                world.tell(session),
                world.tell(world.opened(&order, 1)),
            ];
            for event in events {
                let _ = world.log(statements[*event].clone());
            }
            let opened = judge(&world) > 0;
            let first = events[0] == 0 && events[3] == 3;
            assert_eq!(opened, quorum && first, "{approvers:?} {events:?}");
            accepted += usize::from(opened);
        }
    }
    // 16 subsets of three or more, less the one that is all from home; two orders of events each.
    assert_eq!(accepted, 15 * 2);
}

const PERMUTATIONS: [[usize; 4]; 24] = {
    let mut all = [[0; 4]; 24];
    let (mut n, mut code) = (0, 0);
    while code < 256 {
        let it = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6 & 3];
        if (1 << it[0] | 1 << it[1] | 1 << it[2] | 1 << it[3]) == 15 {
            all[n] = it;
            n += 1;
        }
        code += 1;
    }
    all
};

/// A small generator, so that a failing run is told by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    fn some(&mut self, sides: usize, most: usize) -> Vec<usize> {
        (0..self.roll(most + 1))
            .map(|_| self.roll(sides) + 1)
            .collect()
    }
}

#[test]
fn random_histories_open_nothing_without_a_quorum() {
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut world = World::lived();
        let mut orders = vec![world.order("2026-11-22-00000000", &[1])];
        let mut sent: Vec<Signed> = Vec::new();
        for turn in 0..60_u32 {
            let signed = next(&mut world, &mut dice, &mut orders, &sent, turn);
            sent.push(signed.clone());
            if world.log(signed).is_err() {
                refused += 1;
            }
            world.now = world
                .now
                .plus_millis([0, 0, 60_000, 3_600_000][dice.roll(4)]);
        }
        opened += judge(&world);
        let report = crate::replay::replay(world.leaves(), &world.held);
        assert!(report.is_lawful(), "seed {seed}: {:?}", report.refused);
        assert_eq!(
            format!("{:?}", report.state.unwrap()),
            format!("{:?}", world.state),
            "seed {seed}"
        );
    }
    assert!(
        opened > 20 && refused > 200,
        "the dice hardly try: {opened} opened, {refused} refused"
    );
}

/// Something that somebody might send: much of it wrong, some of it right.
fn next(
    world: &mut World,
    dice: &mut Dice,
    orders: &mut Vec<Order>,
    sent: &[Signed],
    turn: u32,
) -> Signed {
    let accepted: Vec<_> = world
        .state
        .orders()
        .map(|known| known.order.clone())
        .collect();
    let order = match dice.roll(3) {
        0 => orders[dice.roll(orders.len())].clone(),
        _ => accepted.last().unwrap_or(&orders[0]).clone(),
    };
    let scope = order.registry[dice.roll(order.registry.len())]
        .registry
        .number()
        - registry(0).number();
    let n = [scope, scope, scope, 1, 2, 3][dice.roll(6)];
    match dice.roll(12) {
        0 => {
            let numbers: &[u32] = [&[1][..], &[1, 2], &[2], &[3]][dice.roll(4)];
            let mut order = world.order(&format!("2026-11-22-{turn:08x}"), numbers);
            if dice.roll(3) == 0 {
                order.expires = order
                    .not_before
                    .plus_millis(60_000 * (1 + dice.roll(100) as u64));
            }
            let officers = dice.some(5, 6);
            orders.push(order.clone());
            world.approve(
                &order,
                if dice.roll(2) == 0 {
                    &[5, 1, 3]
                } else {
                    &officers
                },
            )
        }
        1 | 2 => {
            let officers = dice.some(5, 6);
            world.approve(&order, &officers)
        }
        3 => {
            let mut order = order;
            order.registry[0].epochs =
                EpochSet::range(EpochNo(1), EpochNo(1 + dice.roll(4) as u32)).unwrap();
            world.approve(&order, &[1, 2, 4])
        }
        4 => world.tell(world.fence(&order, n)),
        5 => {
            let session = world.session(&order, 100 + dice.roll(100) as u8);
            world.tell(session)
        }
        6 | 7 => world.tell(world.opened(&order, n)),
        8 => {
            let last = EpochNo(1 + dice.roll(4) as u32);
            let epochs = EpochSet::range(EpochNo(1), last).unwrap();
            world.tell(Opened {
                epochs,
                ..world.opened(&order, n)
            })
        }
        9 if dice.roll(4) == 0 => world.tell(world.sealed(&order)),
        9 => world.write(1 + usize::from(n == 3), world.epoch(n)),
        10 => world.write(1 + usize::from(n == 3), world.commit(n)),
        _ if sent.is_empty() => world.tell(Opened {
            embassy: v("b"),
            ..world.opened(&order, n)
        }),
        _ => {
            // Signatures of one statement under another's text.
            let (one, two) = (&sent[dice.roll(sent.len())], &sent[dice.roll(sent.len())]);
            let tail = one.encode().split_off(one.text().len());
            Signed::parse(format!("{}{tail}", two.text()).as_bytes()).unwrap()
        }
    }
}

#[test]
fn the_registries_of_the_model_are_those_of_the_mandate() {
    let world = World::new();
    let all: Vec<_> = world.state.registries().map(|(id, _)| id).collect();
    assert_eq!(all, [registry(1), registry(2), registry(3)]);
}
