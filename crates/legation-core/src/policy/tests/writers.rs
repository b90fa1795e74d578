//! Writers: what home may send, and when it is fenced.

use super::*;

#[test]
fn writers_write_what_the_mandate_gives_them() {
    check(
        |w| w.write(2, w.commit(1)),
        Err((Rule::Writer, "does not let 'w-2' write r-3f9a11")),
    );
    check(
        |w| w.tell(w.commit(1)),
        Err((Rule::Signer, "an embassy does not sign")),
    );
    check(
        |w| Signed::sign_with(w.commit(1), &SigningKey::from_seed(&[99; 64]).unwrap()).unwrap(),
        Err((Rule::Signer, "the mandate names no key")),
    );
    check(
        |w| {
            w.write(
                1,
                Commit {
                    mandate: 2,
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::MandateInForce, "mandate 1 is in force")),
    );
    let other = crate::id::RegistryId::new(1).unwrap();
    check(
        |w| {
            w.write(
                1,
                Commit {
                    registry: other,
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::Writer, "no registry r-000001")),
    );
    check(
        |w| {
            w.write(
                1,
                Commit {
                    term: Term(2),
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::Writer, "term 2 has not begun")),
    );
    check(
        |w| w.approve_as_commit(),
        Err((Rule::Signer, "officers do not sign")),
    );
    check(
        |w| {
            let one = w.write(1, w.commit(1)).encode();
            let line = one.lines().last().unwrap().to_owned();
            Signed::parse(format!("{one}{line}\n").as_bytes()).unwrap()
        },
        Err((Rule::Signer, "there are 2 signatures")),
    );
}

impl World {
    fn approve_as_commit(&self) -> Signed {
        let mut signed = Signed::unsigned(self.commit(1).text()).unwrap();
        let armoured = self.officers[0].sign(Commit::HEADER, signed.text().as_bytes());
        signed.add_officer(v("officer-1"), &armoured).unwrap();
        signed
    }
}

#[test]
fn both_halves_of_a_hybrid_signature_count() {
    for half in [0..64, 64..SIGNATURE] {
        check(
            |w| {
                let whole = w.write(1, w.commit(1));
                let mut bytes = whole.signatures()[0].bytes.clone();
                bytes[half].fill(0);
                let line = format!(
                    "signature: {} {}\n",
                    whole.signatures()[0].signer,
                    Base64(bytes)
                );
                Signed::parse(format!("{}\n{line}", whole.text()).as_bytes()).unwrap()
            },
            Err((
                Rule::Signature,
                "both the Ed25519 and the ML-DSA-65 part must",
            )),
        );
    }
    check(
        |w| {
            let whole = w.write(1, w.commit(1));
            let short = Base64(whole.signatures()[0].bytes[..64].to_vec());
            let line = format!("signature: {} {short}\n", whole.signatures()[0].signer);
            Signed::parse(format!("{}\n{line}", whole.text()).as_bytes()).unwrap()
        },
        Err((Rule::Signature, "")),
    );
}

#[test]
fn epochs_come_in_order_and_to_the_generation_in_use() {
    check(|w| w.write(1, w.epoch(1)), Ok(()));
    check(
        |w| {
            w.write(
                1,
                Epoch {
                    epoch: EpochNo(4),
                    ..w.epoch(1)
                },
            )
        },
        Err((Rule::Epoch, "epoch 4 was sent; 2 epochs")),
    );
    check(
        |w| {
            w.write(
                1,
                Epoch {
                    epoch: EpochNo(2),
                    slip: Digest::of(b"another"),
                    ..w.epoch(1)
                },
            )
        },
        Err((Rule::Epoch, "epoch 2 was sent")),
    );
    check(
        |w| {
            w.write(
                1,
                Epoch {
                    suite: 2,
                    ..w.epoch(1)
                },
            )
        },
        Err((Rule::Suite, "suite 2 is not the mandate's")),
    );
    let ahead = |w: &mut World| {
        w.write(
            1,
            Epoch {
                generation: Generation(2),
                ..w.epoch(1)
            },
        )
    };
    check(ahead, Err((Rule::Generation, "generation 1 is in use")));
    let mut world = World::lived();
    let key = OpeningKey::from_seed(&[71; 32]).unwrap();
    for spent in 1..=4 {
        let name = format!("2026-11-22-0000000{spent}");
        let order = world.grant(&name, &[3], &key);
        let order = world.approve(&order, &[1, 2, 4]);
        if spent == 4 {
            // Only an activation may spend the last one.
            assert_eq!(world.state.generations_left(), 1);
            let why = "would spend the last vault generation";
            outcome(&mut world, order, Err((Rule::LastGeneration, why)));
            let order = world.order(&name, &[3]);
            world.must(world.approve(&order, &[1, 2, 4]));
        } else {
            world.must(order);
        }
        let stale = Epoch {
            generation: Generation(spent),
            registry: registry(1),
            ..world.epoch(1)
        };
        let stale = world.write(1, stale);
        let why = if spent == 4 {
            "every vault generation is spent"
        } else {
            "is in use: seal it to that one"
        };
        outcome(&mut world, stale, Err((Rule::Generation, why)));
        if spent < 4 {
            world.must(world.write(2, world.epoch(3)));
            world.must(world.write(2, world.commit(3)));
        }
    }
    // What is sealed to spent generations only may still be read.
    let order = world.grant("2026-11-22-00000005", &[2], &key);
    world.must(world.approve(&order, &[1, 2, 4]));
    assert_eq!(world.state.generation(), None);
}

#[test]
fn a_version_needs_no_more_epochs_than_a_release_carries() {
    let mut world = World::lived();
    while world.state.registry(registry(1)).unwrap().last_epoch() < EpochNo(1025) {
        let epoch = world.epoch(1);
        world.must(world.write(1, epoch));
    }
    let of = |world: &World, last| {
        let mut commit = world.commit(1);
        commit.epochs = EpochSet::range(EpochNo(1), EpochNo(last)).unwrap();
        commit.root.epoch = EpochNo(last);
        world.write(1, commit)
    };
    let many = of(&world, 1025);
    let why = "the keys of 1025 epochs, and no release carries that many: at most 1024";
    outcome(&mut world, many, Err((Rule::Fields, why)));
    let most = of(&world, 1024);
    outcome(&mut world, most, Ok(()));
}

#[test]
fn versions_form_one_chain() {
    check(|w| w.write(1, w.commit(1)), Ok(()));
    check(
        |w| {
            w.write(
                1,
                Commit {
                    parent: None,
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::Parent, "commit's parent is none; the newest")),
    );
    check(
        |w| {
            w.write(
                1,
                Commit {
                    parent: Some(Sha256::of(b"x")),
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::Parent, "commit on top of")),
    );
    check(
        |w| {
            w.write(
                1,
                Commit {
                    version: VersionNo(3),
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::Parent, "the commit says v3")),
    );
    check(
        |w| {
            w.write(
                1,
                Commit {
                    class: v("short"),
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::RetentionClass, "the class 'short'")),
    );
    check(
        |w| {
            w.write(
                1,
                Commit {
                    suite: 7,
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::Suite, "suite 7")),
    );
    let ahead = EpochSet::range(EpochNo(1), EpochNo(3)).unwrap();
    check(
        |w| {
            w.write(
                1,
                Commit {
                    epochs: ahead,
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::EpochsLogged, "needs epochs 1-3; 2 are logged")),
    );
    let first = EpochSet::range(EpochNo(1), EpochNo(1)).unwrap();
    check(
        |w| {
            w.write(
                1,
                Commit {
                    epochs: first,
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::Fields, "the manifest lies in epoch 2")),
    );
    check(
        |w| {
            w.write(
                1,
                Commit {
                    timeline: None,
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::Fields, "both given or both none")),
    );
    check(
        |w| {
            w.write(
                1,
                Commit {
                    packs: Packs {
                        count: 0,
                        list: Digest::of(b""),
                    },
                    ..w.commit(1)
                },
            )
        },
        Err((Rule::Fields, "at least one pack")),
    );
    let mut world = World::lived();
    let (one, two) = (
        world.write(1, world.commit(1)),
        Commit {
            bytes: 1,
            ..world.commit(1)
        },
    );
    world.must(one);
    let stale = world.write(1, two);
    outcome(&mut world, stale, Err((Rule::Parent, "commit on top of")));
}

#[test]
fn marks_only_go_forward() {
    let again = |change: fn(&mut Mark)| {
        move |w: &mut World| {
            let mut mark = w.mark(1);
            change(&mut mark);
            w.write(1, mark)
        }
    };
    check(again(|_| {}), Ok(()));
    check(
        again(|m| m.sequence = 3),
        Err((Rule::Forward, "frame 3 at")),
    );
    check(
        again(|m| m.lsn = Lsn(1)),
        Err((Rule::Forward, "is not after it")),
    );
    check(
        again(|m| m.epoch = EpochNo(9)),
        Err((Rule::EpochsLogged, "epoch 9")),
    );
    let mut world = World::lived();
    let old = world.write(
        1,
        Mark {
            sequence: 77,
            ..world.mark(1)
        },
    );
    let last = world
        .state
        .registry(registry(1))
        .unwrap()
        .mark
        .clone()
        .unwrap();
    world.must(world.write(
        1,
        Mark {
            stream: StreamId([8; 16]),
            sequence: 0,
            ..world.mark(1)
        },
    ));
    outcome(&mut world, old, Err((Rule::Forward, "was left for")));
    // Only the last mark of a registry is remembered by its digest.
    assert_eq!(world.state.logged(&last.id), None);
    assert!(
        world
            .state
            .logged(
                &world
                    .state
                    .registry(registry(1))
                    .unwrap()
                    .mark
                    .as_ref()
                    .unwrap()
                    .id
            )
            .is_some()
    );
}

/// What becomes of a statement: accepted, or a rule and words of the refusal.
type Outcome = Result<(), (Rule, &'static str)>;

/// What the world's clock shows for the next entry to be received at this time.
fn logged_at(received: Time) -> Time {
    Time::from_millis(received.millis() - 1000).unwrap()
}

/// A source that rests says so: the same position as of a later time, and not in a flood.
#[test]
fn a_mark_repeats_its_position_as_of_a_later_time() {
    type Change = fn(&mut Mark, &mut Time);
    let again = |change: Change| {
        move |w: &mut World| {
            let known = w.state.registry(registry(1)).unwrap().mark.clone().unwrap();
            let mut received = known.received.plus_millis(500);
            let mut mark = Mark {
                at: known.mark.at.plus_millis(1),
                ..known.mark
            };
            change(&mut mark, &mut received);
            w.now = logged_at(received);
            w.write(1, mark)
        }
    };
    let cases: [(Change, Outcome); 8] = [
        (|_, _| {}, Ok(())),
        (
            |m, _| m.at = v("2026-11-22T08:00:00Z"),
            Err((Rule::Forward, "is not after it")),
        ),
        (
            |_, received| *received = Time::from_millis(received.millis() - 1).unwrap(),
            Err((Rule::Forward, "less than 500 ms")),
        ),
        (
            |m, _| m.chain = Digest::of(b"other"),
            Err((Rule::Forward, "is not after it")),
        ),
        (
            |m, _| m.lsn = Lsn(m.lsn.0 + 1),
            Err((Rule::Forward, "is not after it")),
        ),
        (
            |m, _| m.timeline = crate::id::Timeline(2),
            Err((Rule::Forward, "is not after it")),
        ),
        (
            |m, _| m.epoch = EpochNo(1),
            Err((Rule::Forward, "is not after it")),
        ),
        (
            |m, _| m.term = Term(2),
            Err((Rule::Writer, "has not begun")),
        ),
    ];
    for (change, expect) in cases {
        check(again(change), expect);
    }
    // What a writer's clock claims beyond the embassy's does not count, and the stream goes on after a rest.
    let mut world = World::lived();
    let signed = again(|mark, _| mark.at = v("2031-01-01T00:00:00Z"))(&mut world);
    world.must(signed);
    let known = world.state.registry(registry(1)).unwrap();
    assert_eq!(known.covered(), Some(world.now));
    world.must(world.write(1, world.mark(1)));
    // After a hole no mark counts further than the hole, until there is a new version.
    let at = world.now.plus_millis(1);
    let gap = Gap {
        state: world.state.id(),
        mandate: 1,
        registry: registry(1),
        term: Term(1),
        timeline: None,
        wal: None,
        cause: Cause::SlotLost,
        at,
    };
    world.must(world.write(1, gap));
    world.now = world.now.plus_millis(60_000);
    world.must(world.write(1, world.mark(1)));
    let covered = |world: &World| world.state.registry(registry(1)).unwrap().covered();
    assert_eq!(covered(&world), Some(at));
    let captured = world.now;
    world.must(world.write(1, world.commit(1)));
    assert_eq!(covered(&world), Some(captured));
}

#[test]
fn what_did_not_change_is_said_of_the_newest_version_only() {
    type Change = fn(&mut Unchanged);
    let once = |change: Change| {
        move |w: &mut World| {
            let mut said = w.unchanged(3);
            change(&mut said);
            w.write(2, said)
        }
    };
    let cases: [(Change, Outcome); 4] = [
        (|_| {}, Ok(())),
        (
            |u| u.version = VersionNo(2),
            Err((Rule::Forward, "is not the newest version")),
        ),
        (|u| u.registry = registry(1), Err((Rule::Writer, "write"))),
        (|u| u.term = Term(2), Err((Rule::Writer, "has not begun"))),
    ];
    for (change, expect) in cases {
        check(once(change), expect);
    }
    let mut world = World::lived();
    let captured = world.state.registry(registry(3)).unwrap().covered();
    let first = world.unchanged(3);
    world.must(world.write(2, first.clone()));
    let first_id = world
        .state
        .registry(registry(3))
        .unwrap()
        .unchanged
        .clone()
        .unwrap()
        .id;
    assert!(world.state.logged(&first_id).is_some());
    world.now = logged_at(world.now.plus_millis(499));
    let soon = world.write(
        2,
        Unchanged {
            at: first.at.plus_millis(1),
            ..first.clone()
        },
    );
    outcome(&mut world, soon, Err((Rule::Forward, "less than 500 ms")));
    world.now = world.now.plus_millis(60_000);
    let back = world.write(
        2,
        Unchanged {
            at: v("2026-11-22T08:00:00Z"),
            ..first
        },
    );
    outcome(&mut world, back, Err((Rule::Forward, "is not after it")));
    let said = world.now;
    world.must(world.write(2, world.unchanged(3)));
    let known = world.state.registry(registry(3)).unwrap();
    assert_eq!(known.covered(), Some(said));
    assert!(known.covered() > captured);
    // As of marks, only the last is remembered by its digest.
    assert_eq!(world.state.logged(&first_id), None);
    // A version that came since needs a new look.
    let stale = world.write(
        2,
        Unchanged {
            at: world.now.plus_millis(1),
            ..world.unchanged(3)
        },
    );
    world.must(world.write(2, world.commit(3)));
    world.now = world.now.plus_millis(1000);
    outcome(
        &mut world,
        stale,
        Err((Rule::Forward, "is not the newest version")),
    );
}

#[test]
fn home_is_fenced_once_an_activation_is_ordered() {
    let mut world = World::lived();
    let (commit, mark, epoch) = (
        world.write(1, world.commit(1)),
        world.write(1, world.mark(1)),
        world.write(1, world.epoch(1)),
    );
    let w1: Name = v("w-1");
    let may = |w: &World, term| {
        w.state
            .may_journal(&w1, registry(1), Term(term), EpochNo(2))
            .map_err(|r| r.exit_code())
    };
    assert_eq!((may(&world, 1), may(&world, 2)), (Ok(()), Err(8)));
    assert_eq!(
        world
            .state
            .may_journal(&v("w-2"), registry(1), Term(1), EpochNo(2))
            .unwrap_err()
            .rule,
        Rule::Writer
    );
    assert_eq!(
        world
            .state
            .may_journal(&w1, registry(1), Term(1), EpochNo(3))
            .unwrap_err()
            .rule,
        Rule::EpochsLogged
    );
    world.must(world.approve(&world.order(ORDER, &[1]), &[1, 2, 4]));
    assert_eq!((may(&world, 1), may(&world, 2)), (Err(6), Err(6)));
    for late in [commit, mark, epoch] {
        outcome(
            &mut world,
            late,
            Err((Rule::Fenced, "nothing is accepted under term 1")),
        );
    }
    // Nor does home become the writer of the new term by naming it.
    let usurper = world.write(
        1,
        Commit {
            term: Term(2),
            ..world.commit(1)
        },
    );
    outcome(
        &mut world,
        usurper,
        Err((Rule::Fenced, "has no place in term 2")),
    );
    assert_eq!(Rule::Fenced.class().exit_code(), 6);
    // Registries that the order does not name go on.
    let next = world.epoch(2);
    assert_eq!(next.generation, Generation(2));
    world.must(world.write(1, next));
    world.must(world.write(1, world.commit(2)));
}
