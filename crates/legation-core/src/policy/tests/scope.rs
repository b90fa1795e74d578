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

const MINUTE: u64 = 60_000;

/// Registry 1 with v1 in epoch 1 and its log in epochs 2, 3 and 4, each left ten minutes after the one before: epoch 2 at
/// 0/2000300, epoch 3 at 0/2000500. Returns when these were left.
fn long() -> (World, Time, Time) {
    let mut world = World::lived();
    let mut left = Vec::new();
    for stream in [8, 9] {
        left.push(
            world
                .state
                .registry(registry(1))
                .unwrap()
                .mark
                .as_ref()
                .unwrap()
                .mark
                .at,
        );
        world.must(world.write(1, world.epoch(1)));
        for _ in 0..2 {
            world.now = world.now.plus_millis(5 * MINUTE);
            let mark = Mark {
                stream: crate::id::StreamId([stream; 16]),
                ..world.mark(1)
            };
            world.must(world.write(1, mark));
        }
    }
    (world, left[0], left[1])
}

/// Orders a grant of registry 1, v1, up to this target.
#[track_caller]
fn past(world: &mut World, epochs: &str, target: Target, expect: Result<(), (Rule, &str)>) {
    let grant = read(world);
    let change = |order: &mut Order| {
        grant(order);
        order.version = VersionPick::Exactly(VersionNo(1));
        order.target = Some(target);
    };
    asked(world, epochs, change, expect);
}

#[test]
fn a_point_in_time_opens_the_epochs_up_to_it_and_no_later_one() {
    let (_, two, three) = long();
    let margin = crate::order::CLOCK_MARGIN;
    let lsn = |at: u64| Target::Lsn(crate::id::Lsn(0x200_0000 + at));
    let before = |time: Time, by: u64| Target::Time(Time::from_millis(time.millis() - by).unwrap());
    for (target, should) in [
        (lsn(0), "1-2"),
        (lsn(0x2ff), "1-2"),
        // What starts there is in the next epoch.
        (lsn(0x300), "1-3"),
        (lsn(0x4ff), "1-3"),
        (lsn(0x500), "1-4"),
        (lsn(0x9999_9999), "1-4"),
        (before(two, margin), "1-2"),
        (before(two, margin - 1), "1-3"),
        (before(three, margin), "1-3"),
        (before(three, margin - 1), "1-4"),
        (before(three, 0), "1-4"),
    ] {
        for epochs in ["1-1", "1-2", "1-3", "1-4"] {
            let (mut world, ..) = long();
            let why = format!("takes the epochs {should}, no more and no fewer");
            let expect = if epochs == should {
                Ok(())
            } else {
                Err((Rule::Scope, why.as_str()))
            };
            past(&mut world, epochs, target, expect);
        }
    }
}

#[test]
fn a_clock_that_is_ahead_closes_no_epoch_early() {
    let mut world = World::lived();
    let ahead = Mark {
        at: world.now.plus_millis(24 * 60 * MINUTE),
        ..world.mark(1)
    };
    world.must(world.write(1, ahead));
    world.must(world.write(1, world.epoch(1)));
    let next = Mark {
        stream: crate::id::StreamId([8; 16]),
        ..world.mark(1)
    };
    world.must(world.write(1, next));
    let soon = Target::Time(world.now.plus_millis(MINUTE));
    past(&mut world, "1-3", soon, Ok(()));
}

#[test]
fn what_is_logged_after_an_order_was_written_does_not_change_what_it_opens() {
    for (of_early, epochs) in [(true, "1-3"), (false, "1-2")] {
        let mut world = World::lived();
        world.must(world.write(1, world.epoch(1)));
        // Epoch 2 goes on, and epoch 3 is logged and not marked: nobody can say that the point is not in it.
        let (early, at) = (world.state.head(), world.now);
        world.now = at.plus_millis(20 * MINUTE);
        let goes_on = Mark {
            epoch: crate::id::EpochNo(2),
            ..world.mark(1)
        };
        world.must(world.write(1, goes_on));
        let next = Mark {
            stream: crate::id::StreamId([8; 16]),
            ..world.mark(1)
        };
        world.must(world.write(1, next));
        world.must(world.write(1, world.epoch(1)));
        let head = if of_early { early } else { world.state.head() };
        let grant = read(&mut world);
        let then = |order: &mut Order| {
            grant(order);
            (order.log_head, order.target) = (head, Some(Target::Time(at)));
            order.version = VersionPick::Exactly(VersionNo(1));
        };
        asked(&mut world, epochs, then, Ok(()));
    }
}

#[test]
fn a_point_in_time_is_of_one_version_that_leads_there() {
    let (mut world, at, _) = long();
    past(
        &mut world,
        "1-4",
        Target::Lsn(crate::id::Lsn(0x1ff_ffff)),
        Err((
            Rule::Scope,
            "is consistent from 0/2000000 on, after 0/1FFFFFF: order an earlier version",
        )),
    );
    let grant = read(&mut world);
    let latest = |order: &mut Order| {
        grant(order);
        order.target = Some(Target::Time(at));
    };
    asked(
        &mut world,
        "1-2",
        latest,
        Err((Rule::Shape, "reached from one version")),
    );
    let files = Commit {
        timeline: None,
        wal: None,
        stream: None,
        ..world.commit(1)
    };
    world.must(world.write(1, files));
    let grant = read(&mut world);
    let tree = |order: &mut Order| {
        grant(order);
        (order.version, order.target) =
            (VersionPick::Exactly(VersionNo(2)), Some(Target::Time(at)));
    };
    asked(
        &mut world,
        "1-4",
        tree,
        Err((Rule::Scope, "has no log that leads to a point in time")),
    );

    // Which version an order is written for.
    let (mut world, at, _) = long();
    let wal = |start, stop| {
        let (start, stop) = (crate::id::Lsn(start), crate::id::Lsn(stop));
        Some(crate::statement::WalRange { start, stop }.into())
    };
    let second = Commit {
        wal: wal(0x200_0400, 0x200_0480),
        ..world.commit(1)
    };
    let logged = world.now;
    world.must(world.write(1, second));
    world.must(world.write(1, world.commit(1)));
    let one = world.state.registry(registry(1)).unwrap();
    let size = world.state.size();
    let found = |target, size| one.version_for(target, size).map(|v| v.commit.version.0);
    let lsn = |at| Target::Lsn(crate::id::Lsn(at));
    assert_eq!(found(lsn(0x1ff_ffff), size), None);
    assert_eq!(found(lsn(0x200_0480), size), Some(3));
    assert_eq!(found(lsn(0x200_0480), size - 1), Some(2));
    assert_eq!(found(lsn(0x200_047f), size - 1), Some(1));
    let clear = logged.plus_millis(crate::order::CLOCK_MARGIN + 5_000);
    assert_eq!(found(Target::Time(clear), size), Some(3));
    assert_eq!(found(Target::Time(logged), size), Some(1));
    assert_eq!(found(Target::Time(at), size), Some(1));
    let begun = one.versions[0].commit.captured;
    assert_eq!(found(Target::Time(begun), size), Some(1));
    assert_eq!(
        found(
            Target::Time(Time::from_millis(begun.millis() - 1).unwrap()),
            size
        ),
        None
    );
}
