//! How far a registry has come, by the log alone.

use super::*;
use crate::policy::Stage;

const DAY: u64 = 86_400_000;

/// What registry `n` is said to be after so many milliseconds: its stage, and what it lacks.
fn said(world: &World, n: u32, later: u64) -> (Stage, String) {
    let now = world.now.plus_millis(later);
    let standing = world.state.standing(registry(n), now).unwrap();
    (standing.stage, standing.lacks.unwrap_or_default())
}

#[track_caller]
fn check(world: &World, n: u32, later: u64, stage: Stage, lacks: &str) {
    let (at, why) = said(world, n, later);
    assert_eq!(at, stage, "{why}");
    assert!(
        why.contains(lacks) && why.is_empty() == lacks.is_empty(),
        "{why:?}"
    );
}

/// A start of registry 1 to verify it, and what it came to.
fn started(world: &mut World, name: &str, verdict: Verdict, rto_ms: u64) -> u64 {
    let mut order = world.order(name, &[1]);
    (order.grant, order.term) = (Mode::Verify, None);
    order.sentence = v(&order.make_sentence());
    world.must(world.approve(&order, &[1, 2, 4]));
    let session = world.session(&order, world.state.size() as u8);
    world.must(world.tell(session));
    world.must(world.tell(world.opened(&order, 1)));
    let report = Report {
        state: world.state.id(),
        mandate: 1,
        embassy: v("a"),
        order: order.order.clone(),
        registry: registry(1),
        version: world
            .state
            .registry(registry(1))
            .unwrap()
            .head()
            .unwrap()
            .commit
            .version,
        timeline: None,
        lsn: None,
        rpo_ms: None,
        rto_ms,
        probes: Probes {
            passed: 4,
            asked: 4,
        },
        verdict,
        at: world.now,
    };
    world.must(world.tell(report));
    world.must(world.tell(world.sealed(&order)));
    // What home sends goes on meanwhile.
    world.must(world.write(1, world.epoch(1)));
    world.must(world.write(
        1,
        Mark {
            stream: StreamId([world.state.size() as u8; 16]),
            ..world.mark(1)
        },
    ));
    world.state.size()
}

#[test]
fn each_stage_takes_its_evidence() {
    let mut world = World::new();
    check(&world, 1, 0, Stage::Enrolled, "sent nothing yet");
    world.must(world.write(1, world.epoch(1)));
    check(&world, 1, 0, Stage::Seeding, "no version");
    world.must(world.write(1, world.commit(1)));
    check(&world, 1, 0, Stage::Shadow, "ever started abroad");
    // T0 may lose ten seconds, and five are allowed for the way.
    for (late, stage, lacks) in [
        (14_000, Stage::Shadow, "ever started"),
        (16_000, Stage::Seeding, "10.0 s may be lost"),
        (0, Stage::Shadow, "ever started"),
    ] {
        let mark = world.mark(1);
        world.now = world.now.plus_millis(late);
        world.must(world.write(1, mark));
        check(&world, 1, 0, stage, lacks);
    }
    // Silence is quiet for two days, of a database that takes a base each day.
    check(&world, 1, 2 * DAY, Stage::Shadow, "ever started");
    check(
        &world,
        1,
        2 * DAY + 6_000,
        Stage::Seeding,
        "nothing of it came for 2 d",
    );

    started(&mut world, ORDER, Verdict::Intact, 3_600_001);
    check(
        &world,
        1,
        0,
        Stage::Verified,
        "took 60 min, and may take 60 min",
    );
    started(
        &mut world,
        "2026-11-22-00000002",
        Verdict::Intact,
        3_600_000,
    );
    check(&world, 1, 0, Stage::Protected, "");

    let now = world.now;
    let standing = world.state.standing(registry(1), now).unwrap();
    let stages: Vec<_> = standing.evidence.iter().map(|one| one.stage).collect();
    assert!(stages.is_sorted() && stages.contains(&Stage::Protected));
    for one in &standing.evidence {
        let entry = &world.entries[usize::try_from(one.entry).unwrap()];
        let kind = entry.signed.statement().unwrap().kind().name;
        let kinds: &[&str] = match one.stage {
            Stage::Enrolled => &["mandate"],
            Stage::Seeding => &["epoch"],
            Stage::Shadow => &["commit", "mark"],
            Stage::Verified | Stage::Protected => &["report"],
        };
        assert!(kinds.contains(&kind), "{one:?} is a {kind}");
    }
}

#[test]
fn evidence_goes_stale() {
    let lived = || {
        let mut world = World::lived();
        started(&mut world, ORDER, Verdict::Intact, 1);
        world
    };
    // By age: the marks would come on meanwhile.
    for (days, stage, lacks) in [
        (89, Stage::Protected, ""),
        (91, Stage::Verified, "91 d ago"),
        (181, Stage::Shadow, "181 d old"),
    ] {
        let mut world = lived();
        world.now = world.now.plus_millis(days * DAY);
        let stream = world.state.registry(registry(1)).unwrap().mark.as_ref();
        let mark = Mark {
            stream: stream.unwrap().mark.stream,
            ..world.mark(1)
        };
        world.must(world.write(1, mark));
        check(&world, 1, 0, stage, lacks);
    }
    let gap = |world: &World| Gap {
        state: world.state.id(),
        mandate: 1,
        registry: registry(1),
        term: Term(1),
        timeline: None,
        wal: None,
        cause: Cause::SlotLost,
        at: world.now,
    };
    let mut world = lived();
    world.must(world.write(1, gap(&world)));
    check(&world, 1, 0, Stage::Shadow, "slot-lost");
    started(&mut world, "2026-11-22-00000002", Verdict::Intact, 1);
    check(&world, 1, 0, Stage::Protected, "");
    started(&mut world, "2026-11-22-00000003", Verdict::Doubtful, 1);
    check(&world, 1, 0, Stage::Shadow, "was doubtful");

    let mut world = lived();
    world.must(world.write(1, doubt(&world, Cause::MassDeletion, Some(VersionNo(1)))));
    check(&world, 1, 0, Stage::Shadow, "mass-deletion");
}

fn doubt(world: &World, cause: Cause, version: Option<VersionNo>) -> Doubt {
    Doubt {
        state: world.state.id(),
        mandate: 1,
        registry: registry(1),
        term: Term(1),
        timeline: None,
        wal: None,
        version,
        cause,
        at: world.now,
    }
}

#[test]
fn a_quiet_tree_stays_and_a_silent_one_does_not() {
    let mut world = World::new();
    world.must(world.write(2, world.epoch(3)));
    let whole = Commit {
        timeline: None,
        wal: None,
        stream: None,
        ..world.commit(3)
    };
    world.must(world.write(2, whole));
    check(&world, 3, 6 * DAY, Stage::Shadow, "ever started");
    check(&world, 3, 8 * DAY, Stage::Seeding, "capture NAME --full");
}

#[test]
fn what_is_fenced_is_not_blamed_for_silence() {
    let mut world = World::lived();
    world.must(world.approve(&world.order(ORDER, &[1]), &[1, 2, 4]));
    check(&world, 1, 30 * DAY, Stage::Shadow, "ever started");
}

#[test]
fn a_doubt_about_a_version_names_one_that_is_there() {
    let cases: [(Cause, Option<u32>, Result<(), &str>); 5] = [
        (Cause::MassEncryption, Some(1), Ok(())),
        (Cause::StandbyRemoved, None, Ok(())),
        (Cause::MassEncryption, None, Err("exactly when its cause")),
        (
            Cause::StandbyRemoved,
            Some(1),
            Err("exactly when its cause"),
        ),
        (Cause::InvariantBroken, Some(99), Err("not logged")),
    ];
    for (cause, version, expect) in cases {
        super::check(
            |world| world.write(1, doubt(world, cause, version.map(VersionNo))),
            expect.map_err(|what| (Rule::Fields, what)),
        );
    }
    super::check(
        |world| {
            world.write(
                1,
                Gap {
                    state: world.state.id(),
                    mandate: 1,
                    registry: registry(1),
                    term: Term(1),
                    timeline: None,
                    wal: None,
                    cause: Cause::MassEncryption,
                    at: world.now,
                },
            )
        },
        Err((Rule::Fields, "makes a doubt, not a gap")),
    );
    let mut world = World::lived();
    world.must(world.write(1, doubt(&world, Cause::MassDeletion, Some(VersionNo(1)))));
    let known = world.state.registry(registry(1)).unwrap();
    assert_eq!(known.doubts_about(VersionNo(1)).count(), 1);
    assert_eq!(known.doubts_about(VersionNo(2)).count(), 0);
}
