//! One statement of every kind: what the specification shows and the tests mutate.

use super::{World, registry, v};
use crate::id::{Digest, EpochNo, Generation, Lsn, Sha256, StreamId, Term, Timeline, VersionNo};
use crate::keys::OpeningKey;
use crate::statement::*;

/// One of every kind, in the order of [`KINDS`].
pub fn samples() -> Vec<Statement> {
    let mut world = World::lived();
    let (_, mandate) = World::unfounded();
    let state = world.state.id();
    let annex = Annex {
        order: v("2026-11-22-7f2c91d0"),
        salt: Bytes32([0x5b; 32]),
        registry: vec![
            TitleRow {
                id: registry(1),
                title: v("Population Register"),
            },
            TitleRow {
                id: registry(2),
                title: v("Kinnistusregister õigusaktidega"),
            },
        ],
        reason: v(
            "The home data centre has not answered since 08:41 UTC and its site is not in our hands.",
        ),
    };
    let mut order = world.order("2026-11-22-7f2c91d0", &[1, 2]);
    order.annex_sha256 = annex.id();
    let grant = world.grant(
        "2026-11-22-00c0ffee",
        &[3],
        &OpeningKey::from_seed(&[71; 32]).expect("a seed"),
    );
    let point = Some(Target::Time(v("2026-11-22T09:00:10Z")));
    let (first, size) = (VersionPick::Exactly(VersionNo(1)), world.state.size());
    let past = Order {
        order: v("2026-11-22-0ddba110"),
        registry: vec![ScopeRow {
            registry: registry(1),
            epochs: world
                .state
                .scope(registry(1), first, point, size)
                .expect("a version"),
        }],
        version: first,
        target: point,
        ..grant.clone()
    };
    let past = past.with_sentence().expect("a sound grant");
    let session = world.session(&order, 81);
    let at = v("2026-11-22T09:41:07.318Z");
    let (a, name): (Name, _) = (v("a"), order.order.clone());
    let gap = Gap {
        state,
        mandate: 1,
        registry: registry(1),
        term: Term(1),
        timeline: Some(Timeline(1)),
        wal: Some(WalRange {
            start: Lsn(0x5A1C_2E80),
            stop: Lsn(0x6F44_00D8),
        }),
        cause: Cause::SpoolFull,
        at,
    };
    let doubt = Doubt {
        state,
        mandate: 1,
        registry: registry(1),
        term: Term(1),
        timeline: None,
        wal: None,
        cause: Cause::StandbyRemoved,
        at,
    };
    let fence = Fence {
        stream: Some(StreamId([7; 16])),
        sequence: Some(3),
        chain: Some(Digest::of(b"chain")),
        timeline: Some(Timeline(1)),
        lsn: Some(Lsn(0x6F44_00D8)),
        at,
        ..world.fence(&order, 1)
    };
    let report = Report {
        state,
        mandate: 1,
        embassy: a.clone(),
        order: name.clone(),
        registry: registry(1),
        version: VersionNo(7),
        timeline: Some(Timeline(2)),
        lsn: Some(Lsn(0x6F44_00D8)),
        rpo_ms: Some(214),
        rto_ms: 2206,
        probes: Probes {
            passed: 4,
            asked: 4,
        },
        verdict: Verdict::Intact,
        at,
    };
    let refused = Refused {
        state,
        mandate: 1,
        embassy: a.clone(),
        statement: Sha256::of(b"a late commit"),
        rule: 21,
        at,
    };
    let ack = Ack {
        state,
        embassy: a,
        registry: registry(1),
        term: Term(1),
        stream: StreamId([7; 16]),
        sequence: 3,
        chain: Digest::of(b"chain"),
        lsn: Lsn(0x6F44_00D8),
        at,
    };
    let share = &mandate.share[3];
    let proof = Proof {
        mandate: mandate.id(),
        officer: share.officer.clone(),
        share: vec![ProvenRow {
            generation: Generation(1),
            a: share.a,
            b: share.b,
        }],
        at,
    };
    let keyring = Keyring::of([vec![0x41; 33], vec![0x42; 34]]);
    vec![
        mandate.into(),
        order.clone().into(),
        grant.into(),
        past.into(),
        Epoch {
            epoch: EpochNo(3),
            ..world.epoch(1)
        }
        .into(),
        world.commit(1).into(),
        world.mark(1).into(),
        gap.into(),
        doubt.into(),
        fence.into(),
        session.into(),
        world.opened(&order, 1).into(),
        Step {
            lsn: Some(Lsn(0x6F44_00D8)),
            ..world.step(&order, 1, StepKind::Replayed)
        }
        .into(),
        report.into(),
        world.sealed(&order).into(),
        refused.into(),
        ack.into(),
        proof.into(),
        annex.into(),
        keyring.into(),
    ]
}
