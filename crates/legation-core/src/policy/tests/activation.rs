//! What the embassy does with an order, and grants that open nothing there.

use super::*;

#[test]
fn a_grant_needs_its_recipients_key_and_opens_nothing_at_the_embassy() {
    let key = OpeningKey::from_seed(&[71; 32]).unwrap();
    let mut world = World::lived();
    let order = world.grant(ORDER, &[3], &key);
    let unattached = Order {
        recipient: Recipient::Key(Sha256::of(b"nowhere")),
        ..order.clone()
    };
    let unattached = world.approve(&unattached.with_sentence().unwrap(), &[1, 2, 4]);
    outcome(
        &mut world,
        unattached,
        Err((Rule::Shape, "send it as an attachment first")),
    );
    let applied = world.must(world.approve(&order, &[1, 2, 4]));
    assert_eq!(applied.effects, [Effect::GenerationSpent(Generation(1))]);
    assert_eq!(world.state.generation(), Some(Generation(2)));
    // Home goes on writing under its term.
    world.must(world.write(2, world.commit(3)));
    let session = world.session(&order, 72);
    let session = world.tell(session);
    outcome(
        &mut world,
        session,
        Err((Rule::Order, "starts nothing at an embassy")),
    );
    let opened = world.tell(world.opened(&order, 3));
    outcome(
        &mut world,
        opened,
        Err((Rule::Order, "starts nothing at an embassy")),
    );
}

/// A log in which registry 1 was ordered to start.
fn ordered() -> (World, Order) {
    let mut world = World::lived();
    let order = world.order(ORDER, &[1]);
    world.must(world.approve(&order, &[1, 2, 4]));
    (world, order)
}

#[test]
fn an_activation_goes_through_its_steps() {
    let (mut world, order) = ordered();
    assert_eq!(world.state.fences_due().count(), 1);
    world.must(world.tell(world.fence(&order, 1)));
    assert_eq!(world.state.fences_due().count(), 0);
    let session = world.session(&order, 81);
    let applied = world.must(world.tell(session.clone()));
    assert_eq!(
        applied.effects,
        [Effect::SessionReady {
            order: v(ORDER),
            key: session.key
        }]
    );
    world.must(world.tell(world.opened(&order, 1)));
    for step in [
        StepKind::Restored,
        StepKind::Started,
        StepKind::Probed,
        StepKind::ServingReadWrite,
    ] {
        world.must(world.tell(world.step(&order, 1, step)));
    }
    world.must(world.tell(world.sealed(&order)));
    for late in [
        world.tell(world.opened(&order, 1)),
        world.tell(world.step(&order, 1, StepKind::Probed)),
    ] {
        outcome(&mut world, late, Err((Rule::Order, "was sealed")));
    }
    let late = world.session(&order, 82);
    let late = world.tell(late);
    outcome(&mut world, late, Err((Rule::Order, "it takes a new order")));
}

#[test]
fn nothing_opens_without_session_and_fence_or_outside_the_scope() {
    let (mut world, order) = ordered();
    let opened = world.tell(world.opened(&order, 1));
    outcome(
        &mut world,
        opened.clone(),
        Err((Rule::Session, "no session of order")),
    );
    let session = world.session(&order, 81);
    let unattached = world.tell(Session {
        key: Sha256::of(b"nowhere"),
        ..session.clone()
    });
    outcome(
        &mut world,
        unattached,
        Err((Rule::Session, "as an attachment first")),
    );
    world.must(world.tell(session.clone()));
    outcome(
        &mut world,
        opened.clone(),
        Err((Rule::FenceFirst, "comes first")),
    );
    let reused = world.tell(Session {
        at: v("2026-11-22T10:00:00Z"),
        ..session
    });
    outcome(&mut world, reused, Err((Rule::Session, "was used before")));
    let other = world.tell(world.fence(&order, 2));
    outcome(&mut world, other, Err((Rule::Opened, "not in the scope")));
    let step = TermStep {
        from: Term(2),
        to: Term(3),
    };
    let wrong = world.tell(Fence {
        term: step,
        ..world.fence(&order, 1)
    });
    outcome(
        &mut world,
        wrong,
        Err((Rule::TermStep, "does not ask for a fence")),
    );
    let partial = world.tell(Fence {
        lsn: Some(Lsn(1)),
        ..world.fence(&order, 1)
    });
    outcome(&mut world, partial, Err((Rule::Fields, "or none of them")));
    world.must(world.tell(world.fence(&order, 1)));
    let twice = world.tell(Fence {
        at: v("2026-11-22T10:00:00Z"),
        ..world.fence(&order, 1)
    });
    outcome(&mut world, twice, Err((Rule::Once, "is logged already")));
    let wide = EpochSet::range(EpochNo(1), EpochNo(3)).unwrap();
    let wide = world.tell(Opened {
        epochs: wide,
        ..world.opened(&order, 1)
    });
    outcome(&mut world, wide, Err((Rule::Opened, "opens epochs 1-2")));
    let aside = world.tell(world.opened(&order, 2));
    outcome(&mut world, aside, Err((Rule::Opened, "not in the scope")));
    let early = world.tell(world.step(&order, 1, StepKind::Restored));
    outcome(
        &mut world,
        early,
        Err((Rule::Opened, "is not opened under order")),
    );
    let nobody = world.tell(Opened {
        order: v("2026-11-22-00000000"),
        ..world.opened(&order, 1)
    });
    outcome(
        &mut world,
        nobody,
        Err((Rule::Order, "no order 2026-11-22-00000000 was accepted")),
    );
    let forged = world.write(1, world.opened(&order, 1));
    outcome(
        &mut world,
        forged,
        Err((Rule::Signer, "not signed by the embassy 'a'")),
    );
    outcome(&mut world, opened, Ok(()));
    // After the order's time nothing more is opened, though the embassy may still say what it did.
    world.now = v("2026-11-22T21:00:00Z");
    let late = world.tell(Opened {
        at: world.now,
        ..world.opened(&order, 1)
    });
    outcome(
        &mut world,
        late,
        Err((Rule::Validity, "nothing more is opened under it")),
    );
    world.must(world.tell(world.step(&order, 1, StepKind::Restored)));
}

#[test]
fn a_later_order_ends_the_earlier_ones_term() {
    let (mut world, first) = ordered();
    world.must(world.tell(world.fence(&first, 1)));
    let session = world.session(&first, 81);
    world.must(world.tell(session));
    let second = world.order("2026-11-22-00000002", &[1]);
    assert_eq!(
        second.term,
        Some(TermStep {
            from: Term(2),
            to: Term(3)
        })
    );
    world.must(world.approve(&second, &[1, 2, 5]));
    let late = world.tell(world.opened(&first, 1));
    outcome(
        &mut world,
        late,
        Err((Rule::Fenced, "began term 2 of r-3f9a11, which has ended")),
    );
    // Nor are keys released under it any more, though it may still be sealed.
    let session = world.session(&first, 82);
    let session = world.tell(session);
    outcome(
        &mut world,
        session,
        Err((Rule::Fenced, "which has ended in every registry")),
    );
    world.must(world.tell(world.sealed(&first)));
}

#[test]
fn an_order_of_which_one_registry_is_left_still_has_sessions() {
    let mut world = World::lived();
    let first = world.order(ORDER, &[1, 2]);
    world.must(world.approve(&first, &[1, 2, 4]));
    let second = world.order("2026-11-22-00000002", &[1]);
    world.must(world.approve(&second, &[1, 2, 5]));
    let session = world.session(&first, 81);
    world.must(world.tell(session));
    let third = world.order("2026-11-22-00000003", &[2]);
    world.must(world.approve(&third, &[1, 2, 5]));
    let session = world.session(&first, 82);
    let session = world.tell(session);
    outcome(
        &mut world,
        session,
        Err((Rule::Fenced, "a later order counts")),
    );
}

#[test]
fn modes_bound_what_is_served() {
    let mut world = World::lived();
    let mut order = world.order(ORDER, &[1]);
    (order.grant, order.term) = (Mode::Verify, None);
    let order = order.with_sentence().unwrap();
    world.must(world.approve(&order, &[1, 2, 4]));
    assert_eq!(world.state.registry(registry(1)).unwrap().term, Term(1));
    let session = world.session(&order, 81);
    world.must(world.tell(session));
    world.must(world.tell(world.opened(&order, 1)));
    world.must(world.tell(world.step(&order, 1, StepKind::Started)));
    for step in [StepKind::ServingReadOnly, StepKind::ServingReadWrite] {
        let serving = world.tell(world.step(&order, 1, step));
        outcome(
            &mut world,
            serving,
            Err((Rule::Opened, "grants 'verify' only")),
        );
    }
}
