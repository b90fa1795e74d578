//! The scope of an order is no choice: exactly the epochs that its version and target need, in sight of a log that is
//! not stale.

use super::*;

fn set(text: &str) -> EpochSet {
    v(text)
}

/// Registry 1 with three epochs and two versions: v1 in epoch 1, v2 in epochs 1 and 2.
fn grown() -> World {
    let mut world = World::lived();
    world.must(world.write(1, world.commit(1)));
    world.must(world.write(1, world.epoch(1)));
    world
}

/// Orders registry 1, and compares what becomes of it.
#[track_caller]
fn asked(
    world: &mut World,
    epochs: &str,
    change: impl FnOnce(&mut Order),
    expect: Result<(), (Rule, &str)>,
) {
    let mut order = world.order(ORDER, &[1]);
    order.registry[0].epochs = set(epochs);
    change(&mut order);
    order.sentence = v(&order.make_sentence());
    let signed = world.approve(&order, &[1, 2, 4]);
    outcome(world, signed, expect);
}

fn read(world: &mut World) -> impl FnOnce(&mut Order) + use<> {
    let key = OpeningKey::from_seed(&[71; 32]).unwrap();
    let key = world.held.add(key.public().encode().to_vec());
    move |order| {
        order.act = Act::Grant;
        (order.grant, order.target, order.term) = (Mode::Read, None, None);
        order.recipient = Recipient::Key(key);
    }
}

#[test]
fn a_grant_opens_what_its_version_needs_and_nothing_else() {
    for (epochs, should) in [
        ("1-3", "1-2"),
        ("1-1", "1-2"),
        ("2-2", "1-2"),
        ("3-3", "1-2"),
    ] {
        let mut world = grown();
        let grant = read(&mut world);
        let why =
            format!("takes the epochs {should}, no more and no fewer; the order names {epochs}");
        asked(&mut world, epochs, grant, Err((Rule::Scope, &why)));
    }
    let mut world = grown();
    let grant = read(&mut world);
    asked(&mut world, "1-2", grant, Ok(()));
    let pinned = &world.state.order(&v(ORDER)).unwrap().versions;
    assert_eq!(pinned[&registry(1)], VersionNo(2));
    for (epochs, expect) in [
        ("1-2", Err((Rule::Scope, "takes the epochs 1-1, no more"))),
        ("1-1", Ok(())),
    ] {
        let mut world = grown();
        let grant = read(&mut world);
        let first = |order: &mut Order| {
            grant(order);
            order.version = VersionPick::Exactly(VersionNo(1));
        };
        asked(&mut world, epochs, first, expect);
    }
}

#[test]
fn an_activation_goes_to_the_end_of_what_is_logged() {
    for epochs in ["1-1", "1-2", "3-3"] {
        let why = format!("takes the epochs 1-3, no more and no fewer; the order names {epochs}");
        asked(&mut grown(), epochs, |_| (), Err((Rule::Scope, &why)));
    }
    asked(&mut grown(), "1-3", |_| (), Ok(()));
    let first = |order: &mut Order| order.version = VersionPick::Exactly(VersionNo(1));
    asked(&mut grown(), "1-3", first, Ok(()));
    let as_committed = |order: &mut Order| order.target = None;
    asked(&mut grown(), "1-2", as_committed, Ok(()));
    // A version without log is not continued: later epochs hold later versions only.
    let mut world = World::lived();
    world.must(world.write(
        1,
        Commit {
            timeline: None,
            wal: None,
            stream: None,
            ..world.commit(1)
        },
    ));
    world.must(world.write(1, world.epoch(1)));
    asked(
        &mut world,
        "1-3",
        |_| (),
        Err((Rule::Scope, "takes the epochs 1-2, no more")),
    );
    asked(&mut world, "1-2", |_| (), Ok(()));
}

#[test]
fn the_scope_is_that_of_the_log_in_sight_of_which_it_was_written() {
    let mut world = World::lived();
    let early = world.state.head();
    world.must(world.write(1, world.commit(1)));
    world.must(world.write(1, world.epoch(1)));
    let then = |order: &mut Order| order.log_head = early.clone();
    asked(
        &mut world,
        "1-3",
        then,
        Err((Rule::Scope, "takes the epochs 1-2, no more")),
    );
    let unseen = |order: &mut Order| {
        order.log_head = early.clone();
        order.version = VersionPick::Exactly(VersionNo(2));
    };
    asked(
        &mut world,
        "1-2",
        unseen,
        Err((Rule::Scope, "no such version among the first 13 entries")),
    );
    // What came since and opens with the same keys is newer, and is what starts.
    asked(&mut world, "1-2", then, Ok(()));
    let pinned = &world.state.order(&v(ORDER)).unwrap().versions;
    assert_eq!(pinned[&registry(1)], VersionNo(2));
}

#[test]
fn an_order_written_in_sight_of_a_stale_log_is_refused() {
    let mut world = World::lived();
    let head = world.state.head();
    world.must(world.write(1, world.mark(1)));
    let next = world.state.last_received();
    let at = |lag: u64| {
        let (from, head) = (next.plus_millis(lag), head.clone());
        move |order: &mut Order| {
            order.log_head = head;
            (order.not_before, order.expires) = (from, from.plus_millis(3_600_000));
        }
    };
    world.now = next.plus_millis(7_200_000 - 2000);
    let hour = 3_600_000;
    asked(
        &mut world,
        "1-2",
        at(hour + 1),
        Err((Rule::LogHead, "had gone on for more than an hour")),
    );
    asked(&mut world, "1-2", at(hour), Ok(()));
    // A log that stood still is as fresh as ever.
    let mut world = World::lived();
    let from = world.now.plus_millis(30 * 24 * 3_600_000);
    world.now = from;
    let later = |order: &mut Order| {
        (order.not_before, order.expires) = (from, from.plus_millis(hour));
    };
    asked(&mut world, "1-2", later, Ok(()));
}
