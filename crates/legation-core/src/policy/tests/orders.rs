//! Orders: approvals, validity, words, scope.

use super::*;

#[test]
fn approvals_are_counted_by_officer_and_territory() {
    let by = |officers: &'static [usize]| {
        move |w: &mut World| w.approve(&w.order(ORDER, &[1, 2]), officers)
    };
    check(by(&[1, 2, 4]), Ok(()));
    check(by(&[5, 4, 3]), Ok(()));
    check(by(&[1, 2, 3, 4, 5]), Ok(()));
    check(by(&[]), Err((Rule::Quorum, "0 approvals, 3 needed")));
    check(by(&[1, 2]), Err((Rule::Quorum, "2 approvals, 3 needed")));
    check(by(&[1, 2, 2]), Err((Rule::Quorum, "2 approvals, 3 needed")));
    check(
        by(&[4, 4, 4, 4]),
        Err((Rule::Quorum, "1 approval, 3 needed")),
    );
    check(
        by(&[1, 2, 3]),
        Err((Rule::Abroad, "none is abroad, 1 needed")),
    );
    assert_eq!(
        (
            Rule::Quorum.class().exit_code(),
            Rule::Abroad.class().exit_code()
        ),
        (5, 5)
    );
}

#[test]
fn approvals_are_over_the_exact_text_by_the_mandates_key() {
    check(
        |w| {
            // One word changed after the officers signed.
            let signed = w.approve(&w.order(ORDER, &[1, 2]), &[1, 2, 4]);
            let changed = signed.encode().replacen("end-of-wal", "none", 1);
            let changed = changed.replacen("as last acknowledged", "as of the latest version", 1);
            Signed::parse(changed.as_bytes()).unwrap()
        },
        Err((Rule::Signature, "officer-1: Could not verify signature")),
    );
    check(
        |w| {
            let signed = w.approve(&w.order(ORDER, &[1, 2]), &[1, 2, 3]);
            let renamed = signed
                .encode()
                .replace("signature: officer-3", "signature: officer-4");
            Signed::parse(renamed.as_bytes()).unwrap()
        },
        Err((
            Rule::Signature,
            "officer-4: the signature was made with another key",
        )),
    );
    check(
        |w| {
            let signed = w.approve(&w.order(ORDER, &[1, 2]), &[1, 2, 4]);
            let renamed = signed
                .encode()
                .replace("signature: officer-4", "signature: officer-9");
            Signed::parse(renamed.as_bytes()).unwrap()
        },
        Err((Rule::Signer, "no officer 'officer-9'")),
    );
    check(
        |w| {
            // Made for another kind of statement.
            let order = w.order(ORDER, &[1, 2]);
            let mut signed = w.approve(&order, &[1, 2]);
            let armoured = w.officers[3].sign(Mandate::HEADER, order.text().as_bytes());
            signed.add_officer(v("officer-4"), &armoured).unwrap();
            signed
        },
        Err((
            Rule::Signature,
            "was made for \"legation/mandate/v1\", not for \"legation/order/v1\"",
        )),
    );
    check(
        |w| w.tell(w.order(ORDER, &[1])),
        Err((Rule::Signer, "only officers")),
    );
}

#[test]
fn an_order_is_valid_for_its_time_only() {
    let expired = |o: &mut Order| {
        o.not_before = v("2026-11-21T09:00:00Z");
        o.expires = v("2026-11-22T09:00:00Z");
    };
    check(
        |w| order(w, expired),
        Err((Rule::Validity, "expired at 2026-11-22T09:00:00Z")),
    );
    check(
        |w| order(w, |o| o.not_before = v("2026-11-22T12:00:00Z")),
        Err((Rule::Validity, "not valid before")),
    );
    check(
        |w| order(w, |o| o.expires = o.not_before),
        Err((Rule::Validity, "at most 31 days")),
    );
    check(
        |w| order(w, |o| o.expires = v("2027-11-22T09:00:00Z")),
        Err((Rule::Validity, "at most 31 days")),
    );
    let mut world = World::lived();
    let now = world.now.plus_millis(1000);
    let at_the_end = order(&world, |o| o.expires = now);
    outcome(&mut world, at_the_end, Err((Rule::Validity, "expired")));
    let just_before = order(&world, |o| o.expires = now.plus_millis(1));
    outcome(&mut world, just_before, Ok(()));
}

#[test]
fn an_order_is_accepted_once_and_a_replay_does_nothing() {
    let mut world = World::lived();
    let first = world.approve(&world.order(ORDER, &[1]), &[1, 2, 4]);
    let applied = world.must(first.clone());
    assert_eq!(
        applied.effects,
        [
            Effect::FenceNeeded {
                order: v(ORDER),
                registry: registry(1),
                term: TermStep {
                    from: Term(1),
                    to: Term(2)
                }
            },
            Effect::GenerationSpent(Generation(1)),
        ]
    );
    // The same text again, even with other signatures, is the same statement.
    for again in [
        first,
        world.approve(&world.state.order(&v(ORDER)).unwrap().order, &[3, 5, 4]),
    ] {
        let index = applied_index(&world);
        assert_eq!(
            world.state.check(&again, world.now, &world.held),
            Ok(Admission::Replay { index })
        );
        let before = world.state.registry(registry(1)).cloned();
        let repeated = world.must(again);
        assert_eq!(
            (repeated.replay_of, repeated.effects.len()),
            (Some(index), 0)
        );
        assert_eq!(before, world.state.registry(registry(1)).cloned());
    }
    // Other scope or other words under the same name are another order.
    let rescoped = world.approve(&world.order(ORDER, &[2, 3]), &[1, 2, 4]);
    outcome(&mut world, rescoped, Err((Rule::Once, "accepted already")));
    let reworded = world.approve(
        &Order {
            annex_sha256: Sha256::of(b"other"),
            ..world.order(ORDER, &[3])
        },
        &[1, 2, 4],
    );
    outcome(&mut world, reworded, Err((Rule::Once, "accepted already")));
}

fn applied_index(world: &World) -> u64 {
    world.state.order(&v(ORDER)).unwrap().index
}

#[test]
fn an_order_says_what_it_does() {
    let word = |w: &World, from: &str, to: &str| {
        let text = w.order(ORDER, &[1, 2]).text().replacen(from, to, 1);
        w.approve(&Order::parse(&text).unwrap(), &[1, 2, 4])
    };
    check(
        |w| word(w, "Start 2 registries", "Start 1 registry"),
        Err((Rule::Sentence, "they say: Start 2 registries")),
    );
    check(
        |w| word(w, "grant: read-write", "grant: read-only"),
        Err((Rule::Sentence, "for reading only")),
    );
    check(
        |w| word(w, "acknowledged, and", "acknowledged; and"),
        Err((Rule::Sentence, "the sentence is not what")),
    );
    check(|w| order(w, |o| o.grant = Mode::ReadOnly), Ok(()));
    check(
        |w| {
            order(w, |o| {
                o.grant = Mode::ReadOnly;
                o.term = None;
            })
        },
        Ok(()),
    );
    check(
        |w| order(w, |o| o.term = None),
        Err((Rule::Shape, "begins a new term")),
    );
    check(
        |w| order(w, |o| o.grant = Mode::Read),
        Err((Rule::Shape, "for the act grant")),
    );
    check(
        |w| order(w, |o| o.recipient = Recipient::Key(Sha256::of(b"key"))),
        Err((Rule::Shape, "to its session")),
    );
    check(
        |w| order(w, |o| o.registry.clear()),
        Err((Rule::Shape, "1 to 256 registries, not 0")),
    );
    check(
        |w| order(w, |o| o.registry.reverse()),
        Err((Rule::Shape, "ascending order")),
    );
    check(
        |w| order(w, |o| o.version = VersionPick::Exactly(VersionNo(1))),
        Err((Rule::Shape, "names one registry")),
    );
    check(
        |w| order(w, |o| o.accept_loss = YesNo::Yes),
        Err((Rule::Unsupported, "accept-loss")),
    );
    check(
        |w| order(w, |o| o.act = Act::Erase),
        Err((Rule::Unsupported, "'erase' is not supported")),
    );
}

#[test]
fn an_order_names_this_state_its_mandate_and_its_log() {
    check(
        |w| order(w, |o| o.mandate = 2),
        Err((
            Rule::MandateInForce,
            "names mandate 2; mandate 1 is in force",
        )),
    );
    check(
        |w| order(w, |o| o.state = crate::id::StateId([1; 20])),
        Err((Rule::State, "this is lgn1-")),
    );
    check(
        |w| order(w, |o| o.embassy = v("b")),
        Err((Rule::Scope, "no embassy 'b'")),
    );
    check(
        |w| order(w, |o| o.log_head.size += 1),
        Err((Rule::LogHead, "another log, or one cut short")),
    );
    check(
        |w| order(w, |o| o.log_head.root = Sha256::of(b"fork")),
        Err((Rule::LogHead, "in sight of another log")),
    );
    let mut world = World::lived();
    let early = world.state.head();
    world.must(world.write(1, world.mark(1)));
    let seen_earlier = order(&world, |o| o.log_head = early);
    outcome(&mut world, seen_earlier, Ok(()));
}

#[test]
fn an_orders_scope_exists() {
    let all = |last| EpochSet::range(EpochNo(1), EpochNo(last)).unwrap();
    let other = crate::id::RegistryId::new(0xff_ffff).unwrap();
    check(
        |w| order(w, |o| o.registry[0].epochs = all(3)),
        Err((
            Rule::Scope,
            "takes the epochs 1-2, no more and no fewer; the order names 1-3",
        )),
    );
    check(
        |w| order(w, |o| o.registry[1].registry = other),
        Err((Rule::Scope, "no registry r-ffffff")),
    );
    let second = EpochSet::range(EpochNo(2), EpochNo(2)).unwrap();
    check(
        |w| order(w, |o| o.registry[0].epochs = second),
        Err((
            Rule::Scope,
            "takes the epochs 1-2, no more and no fewer; the order names 2-2",
        )),
    );
    let step = TermStep {
        from: Term(2),
        to: Term(3),
    };
    check(
        |w| order(w, |o| o.term = Some(step)),
        Err((Rule::TermStep, "is in term 1; the order ends term 2")),
    );
    let jump = TermStep {
        from: Term(1),
        to: Term(3),
    };
    check(
        |w| order(w, |o| o.term = Some(jump)),
        Err((Rule::Shape, "followed by the next one")),
    );
}
