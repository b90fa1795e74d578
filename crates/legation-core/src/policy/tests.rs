//! The fold, as a table of inputs and what must become of them.

use super::*;
use crate::example::{World, registry, v};
use crate::id::{Digest, EpochNo, Generation, Lsn, StreamId, Term, VersionNo};
use crate::keys::{OpeningKey, SIGNATURE, SigningKey};
use crate::statement::*;

const ORDER: &str = "2026-11-22-7f2c91d0";

/// Logs one statement on top of a lived-in log, and compares the rule and the message.
#[track_caller]
fn check(input: impl FnOnce(&mut World) -> Signed, expect: Result<(), (Rule, &str)>) {
    let mut world = World::lived();
    let signed = input(&mut world);
    outcome(&mut world, signed, expect);
}

#[track_caller]
fn outcome(world: &mut World, signed: Signed, expect: Result<(), (Rule, &str)>) {
    let before = format!("{:?}", world.state);
    match (world.log(signed), expect) {
        (Ok(_), Ok(())) => {}
        (Ok(_), Err((rule, _))) => panic!("accepted, though rule {} forbids it", rule.number()),
        (Err(refusal), Ok(())) => panic!("{refusal}"),
        (Err(refusal), Err((rule, message))) => {
            assert_eq!(refusal.rule, rule, "{refusal}");
            assert!(
                refusal.message.contains(message),
                "{:?} does not say {message:?}",
                refusal.message
            );
            assert_eq!(
                before,
                format!("{:?}", world.state),
                "a refusal changed the state"
            );
        }
    }
}

/// An order with some fields changed, its sentence made again, and approved.
fn order(world: &World, change: impl FnOnce(&mut Order)) -> Signed {
    let mut order = world.order(ORDER, &[1, 2]);
    change(&mut order);
    order.sentence = v(&order.make_sentence());
    world.approve(&order, &[1, 2, 4])
}

#[test]
fn mandates_are_not_amended_and_asides_are_not_logged() {
    let (unfounded, mandate) = World::unfounded();
    let amended = Mandate {
        sequence: 2,
        ..mandate.clone()
    };
    let amendment = unfounded.entry(&amended, &[1, 2, 3, 4, 5]).signed;
    check(
        |_| amendment,
        Err((Rule::Amendment, "which this version does not support")),
    );
    let proof = Proof {
        mandate: Sha256::of(b"m"),
        officer: v("officer-1"),
        share: vec![],
        at: v("2026-11-22T09:00:00Z"),
    };
    check(
        |_| Signed::unsigned(proof.text()).unwrap(),
        Err((Rule::NotLogged, "outside the log")),
    );
    check(
        |w| {
            Signed::parse(
                w.write(1, w.mark(1))
                    .encode()
                    .replace("legation/mark/", "legation/purge/")
                    .as_bytes(),
            )
            .unwrap()
        },
        Err((Rule::Text, "unknown kind of statement: \"purge\"")),
    );
    check(
        |w| {
            Signed::parse(
                w.approve(&w.order(ORDER, &[1]), &[1])
                    .encode()
                    .replace("act: activate", "act: destroy")
                    .as_bytes(),
            )
            .unwrap()
        },
        Err((Rule::Text, "line 2: 'act' must be activate | grant")),
    );
}

#[test]
fn time_and_numbering_never_go_back() {
    let mut world = World::lived();
    let signed = world.write(1, world.mark(1));
    let early: Time = v("2026-11-22T08:59:59Z");
    assert_eq!(
        world
            .state
            .check(&signed, early, &world.held)
            .unwrap_err()
            .rule,
        Rule::Sequence
    );
    let entry = Entry {
        index: world.state.size() + 1,
        received: world.now,
        signed,
    };
    let size = world.state.size();
    assert_eq!(
        world.state.apply(&entry, &world.held).unwrap_err().rule,
        Rule::Sequence
    );
    assert_eq!(
        world.state.size(),
        size + 1,
        "the entry is in the log all the same"
    );
}

#[test]
fn the_fold_keeps_the_logs_own_tree() {
    let mut heads = super::heads::Heads::default();
    let leaves: Vec<Sha256> = (0_u32..70_000)
        .map(|n| crate::statement::entry::leaf_hash(&n.to_le_bytes()))
        .collect();
    let at = |index: u64| Time::from_millis(1_000_000 + 7 * index).unwrap();
    for (index, leaf) in leaves.iter().enumerate() {
        heads.push(*leaf, at(index as u64));
    }
    fn root(leaves: &[Sha256]) -> Sha256 {
        match leaves {
            [] => Sha256::of(b""),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                Sha256::of_parts(&[&[1], &root(left).0, &root(right).0])
            }
        }
    }
    for size in [0, 256, 512, 768, 4096, 65_537, 69_999, 70_000] {
        assert_eq!(
            heads.root_at(size as u64),
            Some(root(&leaves[..size])),
            "{size}"
        );
    }
    assert_eq!(heads.root_at(70_001), None);
    assert_eq!(
        heads.root_at(1000),
        None,
        "too long ago, and at no tile's edge"
    );
    // Wherever a root can be compared it is known when the log went on from there.
    for index in [0, 256, 512, 4096, 65_537, 69_999] {
        assert_eq!(heads.received_at(index), Some(at(index)), "{index}");
    }
    assert_eq!(heads.received_at(1000), None);
    assert_eq!(heads.received_at(70_000), None);
}

mod activation;
mod model;
mod orders;
mod scope;
mod stage;
mod writers;
