//! Journals: continued exactly, acknowledged after they are durable, again when sent again, never twice with other bytes.

use legation_core::id::{Digest, EpochNo, Lsn, StreamId, Term, Timeline};
use legation_core::journal::{Chain, Position};
use legation_core::statement::{Cause, Gap, Mark, Signed};
use legation_embassy::Reserve;
use legation_repo::http::ClientError;
use legation_repo::http::wire::{MAX_JOURNAL, kind};

use crate::world::{Founded, LAND, TAX, World, now, random, with_epoch};

fn refused<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> (String, Option<u64>) {
    let error = outcome.unwrap_err();
    let problem = error.problem().unwrap_or_else(|| panic!("{error:?}"));
    (
        problem.kind.clone(),
        problem.position.as_ref().map(|p| p.next),
    )
}

#[test]
fn frames_are_acknowledged_and_read_back() {
    let world = with_epoch();
    let (state, agent) = (world.one.state, world.land());
    let (stream, frames) = world.one.land.stream(state, LAND, 5, None);
    let ack = agent
        .append_journal(LAND, &stream, frames[..3].concat())
        .unwrap();
    assert_eq!((ack.sequence, ack.term.0), (2, 1));
    // The line broke before the answer: the same bytes again, and what follows them.
    let ack = agent
        .append_journal(LAND, &stream, frames[..3].concat())
        .unwrap();
    assert_eq!(ack.sequence, 2);
    let ack = agent
        .append_journal(LAND, &stream, frames[1..].concat())
        .unwrap();
    assert_eq!(ack.sequence, 5);

    let streams = agent.streams(LAND).unwrap();
    assert_eq!(streams.len(), 1);
    assert_eq!(
        (streams[0].next, streams[0].chain, streams[0].end_lsn),
        (6, ack.chain, ack.lsn)
    );
    assert_eq!(streams[0].bytes, frames.concat().len() as u64);
    let desk = world.desk();
    assert_eq!(
        desk.read_journal(LAND, &stream, 0, MAX_JOURNAL).unwrap(),
        frames.concat()
    );
    assert_eq!(desk.read_journal(LAND, &stream, 4, 1).unwrap(), frames[4]);
    assert!(desk.read_journal(LAND, &stream, 6, 1).unwrap().is_empty());
    assert_eq!(
        refused(agent.read_journal(LAND, &stream, 0, 1)).0,
        kind::ROLE
    );
    assert_eq!(
        refused(desk.append_journal(LAND, &stream, frames[0].clone())).0,
        kind::ROLE
    );
}

#[test]
fn only_the_next_frame_is_taken() {
    let world = with_epoch();
    let (state, agent) = (world.one.state, world.land());
    let (stream, frames) = world.one.land.stream(state, LAND, 5, None);
    // Not from the beginning; a hole; a cut frame; nothing.
    assert_eq!(
        refused(agent.append_journal(LAND, &stream, frames[1].clone())),
        (kind::POSITION.into(), Some(0))
    );
    agent
        .append_journal(LAND, &stream, frames[0].clone())
        .unwrap();
    assert_eq!(
        refused(agent.append_journal(LAND, &stream, frames[2].clone())),
        (kind::POSITION.into(), Some(1))
    );
    let cut = frames[1][..frames[1].len() - 1].to_vec();
    assert_eq!(
        refused(agent.append_journal(LAND, &stream, cut)).0,
        kind::MALFORMED
    );
    assert_eq!(
        refused(agent.append_journal(LAND, &stream, Vec::new())).0,
        kind::MALFORMED
    );
    // A flipped byte breaks the running hash.
    let mut flipped = frames[1].clone();
    flipped[200] ^= 1;
    assert_eq!(
        refused(agent.append_journal(LAND, &stream, flipped)).0,
        kind::BYTES
    );
    let other = StreamId(random());
    assert_eq!(
        refused(agent.append_journal(LAND, &other, frames[1].clone())).0,
        kind::BYTES
    );
    assert_eq!(
        agent
            .append_journal(LAND, &stream, frames[1..].concat())
            .unwrap()
            .sequence,
        5
    );
}

#[test]
fn a_second_history_is_refused_and_kept() {
    let world = with_epoch();
    let (state, agent) = (world.one.state, world.land());
    let (stream, frames) = world.one.land.stream(state, LAND, 3, None);
    agent
        .append_journal(LAND, &stream, frames.concat())
        .unwrap();
    let mut other = frames[2].clone();
    other[300] ^= 1;
    assert_eq!(
        refused(agent.append_journal(LAND, &stream, other.clone())).0,
        kind::CONFLICT
    );
    let evidence = world.store().join(state.to_string()).join("evidence");
    let kept: Vec<_> = std::fs::read_dir(evidence)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::read(&kept[0]).unwrap(), other);
    assert_eq!(
        world.desk().read_journal(LAND, &stream, 2, 1).unwrap(),
        frames[2]
    );
}

#[test]
fn a_new_stream_continues_the_old_one_and_ends_it() {
    let world = with_epoch();
    let (state, agent) = (world.one.state, world.land());
    let (old, frames) = world.one.land.stream(state, LAND, 3, None);
    let ack = agent
        .append_journal(LAND, &old, frames[..3].concat())
        .unwrap();
    let (early, opening) = world
        .one
        .land
        .stream(state, LAND, 0, Some((old, Digest([9; 32]))));
    assert_eq!(
        refused(agent.append_journal(LAND, &early, opening.concat())),
        (kind::POSITION.into(), Some(3))
    );
    let (new, opening) = world
        .one
        .land
        .stream(state, LAND, 1, Some((old, ack.chain)));
    agent.append_journal(LAND, &new, opening.concat()).unwrap();
    assert_eq!(
        refused(agent.append_journal(LAND, &old, frames[3].clone())).0,
        kind::CONFLICT
    );
    // What was acknowledged stays acknowledged.
    assert_eq!(
        agent
            .append_journal(LAND, &old, frames[2].clone())
            .unwrap()
            .sequence,
        2
    );
    let closed: Vec<_> = agent
        .streams(LAND)
        .unwrap()
        .iter()
        .map(|s| (s.stream == new, s.closed))
        .collect();
    assert!(closed.contains(&(true, false)) && closed.contains(&(false, true)));
}

#[test]
fn the_mandate_says_who_writes() {
    let mut world = with_epoch();
    let state = world.one.state;
    let (stream, frames) = world.one.land.stream(state, LAND, 1, None);
    let thief = world.client(&world.one, &world.one.tax.tls);
    assert_eq!(
        refused(thief.append_journal(LAND, &stream, frames.concat())).0,
        kind::MANDATE
    );
    // An epoch that is not in the log.
    let Founded { vault, tax, .. } = &mut world.one;
    drop(tax.epoch(state, vault, TAX, legation_core::id::EpochNo(1)));
    let (stream, frames) = world.one.tax.stream(state, TAX, 1, None);
    let agent = world.client(&world.one, &world.one.tax.tls);
    assert_eq!(
        refused(agent.append_journal(TAX, &stream, frames.concat())).0,
        kind::MANDATE
    );
    // The path's registry is not the frame's.
    assert_eq!(
        refused(agent.append_journal(LAND, &stream, frames.concat())).0,
        kind::BYTES
    );
}

#[test]
fn many_streams_are_committed_together() {
    let mut world = with_epoch();
    let state = world.one.state;
    let agent = world.client(&world.one, &world.one.tax.tls);
    let Founded { vault, tax, .. } = &mut world.one;
    tax.open_epoch(state, vault, &agent, TAX);
    std::thread::scope(|s| {
        for (writer, registry) in [(&world.one.land, LAND), (&world.one.tax, TAX)] {
            let client = world.client(&world.one, &writer.tls);
            s.spawn(move || {
                let (stream, frames) = writer.stream(state, registry, 60, None);
                for (number, frame) in frames.iter().enumerate() {
                    let ack = client
                        .append_journal(registry, &stream, frame.clone())
                        .unwrap();
                    assert_eq!(ack.sequence, number as u64);
                }
            });
        }
    });
    assert_eq!(world.desk().all_streams().unwrap().len(), 2);
}

fn gap(world: &World) -> Signed {
    let gap = Gap {
        state: world.one.state,
        mandate: 1,
        registry: LAND,
        term: Term(1),
        timeline: None,
        wal: None,
        cause: Cause::SlotLost,
        at: now(),
    };
    Signed::sign_with(gap, &world.one.land.key).unwrap()
}

fn end_of(frames: &[Vec<u8>]) -> Position {
    let mut chain = Chain::new();
    for frame in frames {
        chain.check(frame).unwrap();
    }
    chain.position().unwrap()
}

#[test]
fn a_stream_without_a_past_needs_a_gap_and_a_past_has_one_future() {
    let mut world = with_epoch();
    let state = world.one.state;
    let stream = |world: &World, previous| world.one.land.stream(state, LAND, 1, previous);
    let send = |world: &World, (id, frames): &(StreamId, Vec<Vec<u8>>)| {
        world.land().append_journal(LAND, id, frames.concat())
    };
    let first = stream(&world, None);
    send(&world, &first).unwrap();
    let anew = stream(&world, None);
    for _ in 0..2 {
        assert_eq!(refused(send(&world, &anew)).0, kind::MANDATE);
        world.restart();
    }
    // What was live is live: a refused opening ends nothing.
    let (id, frames) = &first;
    assert!(
        world
            .land()
            .append_journal(LAND, id, frames[1].clone())
            .is_ok()
    );
    assert!(!world.land().streams(LAND).unwrap()[0].closed);

    // The gap is logged first, as an agent does it; it explains one stream and no more.
    world.land().submit(&gap(&world)).unwrap();
    send(&world, &anew).unwrap();
    let another = stream(&world, None);
    for _ in 0..2 {
        assert_eq!(refused(send(&world, &another)).0, kind::MANDATE);
        world.restart();
    }

    // One stream goes on with another; a second one that names the same past is a fork.
    let past = Some((anew.0, end_of(&anew.1).chain));
    let next = stream(&world, past);
    send(&world, &next).unwrap();
    let fork = stream(&world, past);
    for _ in 0..2 {
        assert_eq!(refused(send(&world, &fork)).0, kind::CONFLICT);
        world.restart();
    }
    let said = world.land().streams(LAND).unwrap();
    let of = |id| said.iter().find(|s| s.stream == id).unwrap();
    assert_eq!(of(next.0).previous.map(|p| (p.stream, p.chain)), past);
    assert_eq!(of(anew.0).previous, None);
    assert_eq!(
        (of(next.0).system_id, of(next.0).first_timeline),
        (7_000_000_000, Timeline(1))
    );
}

#[test]
fn journals_leave_the_last_of_the_disk_to_the_log() {
    let mut world = with_epoch();
    let (stream, frames) = world.one.land.stream(world.one.state, LAND, 3, None);
    let send = |world: &World, to: usize| {
        let frames = frames[..to].concat();
        world.land().append_journal(LAND, &stream, frames)
    };
    world.reserve = Reserve::Bytes(u64::MAX);
    world.restart();
    assert!(send(&world, 1).unwrap_err().is_full());
    assert!(world.land().streams(LAND).unwrap().is_empty());
    // The log goes on.
    world.land().submit(&gap(&world)).unwrap();
    world.reserve = Reserve::Bytes(0);
    world.restart();
    send(&world, 1).unwrap();

    // What journals take counts in the state's quota, after a restart too.
    world.quota = Some(1 << 30);
    world.restart();
    let used = (1 << 30) - world.desk().status().unwrap().free;
    assert!(used >= frames[0].len() as u64);
    world.quota = Some(used + frames[1].len() as u64);
    world.restart();
    send(&world, 2).unwrap();
    assert_eq!(world.desk().status().unwrap().free, 0);
    world.restart();
    assert_eq!(world.desk().status().unwrap().free, 0);
    assert!(send(&world, 4).unwrap_err().is_full());
    // What is kept is acknowledged all the same.
    assert_eq!(send(&world, 2).unwrap().sequence, 1);
}

#[test]
fn a_mark_names_what_is_kept_here() {
    let world = with_epoch();
    let (stream, frames) = world.one.land.stream(world.one.state, LAND, 4, None);
    let agent = world.land();
    agent
        .append_journal(LAND, &stream, frames[..4].concat())
        .unwrap();
    let mark = |at: Position| Mark {
        state: world.one.state,
        mandate: 1,
        registry: LAND,
        term: Term(1),
        epoch: EpochNo(1),
        stream: at.stream,
        sequence: at.seq,
        chain: at.chain,
        timeline: at.timeline,
        lsn: at.end_lsn,
        at: now(),
    };
    let submit = |mark: Mark| agent.submit(&Signed::sign_with(mark, &world.one.land.key).unwrap());
    let (middle, last) = (end_of(&frames[..3]), end_of(&frames[..4]));
    let wrong = [
        Position {
            stream: StreamId(random()),
            ..last
        },
        end_of(&frames),
        Position { seq: 2, ..last },
        Position {
            chain: middle.chain,
            ..last
        },
        Position {
            timeline: Timeline(2),
            ..last
        },
        Position {
            end_lsn: Lsn(last.end_lsn.0 + 1),
            ..last
        },
    ];
    let size = agent.checkpoint().unwrap().size();
    for position in wrong {
        assert_eq!(refused(submit(mark(position))).0, kind::INCOMPLETE);
    }
    assert_eq!(agent.checkpoint().unwrap().size(), size);
    submit(mark(middle)).unwrap();
    submit(mark(last)).unwrap();
}

#[test]
fn acknowledged_frames_that_are_gone_are_damage_and_the_rest_goes_on() {
    let mut world = with_epoch();
    let (stream, frames) = world.one.land.stream(world.one.state, LAND, 3, None);
    let agent = world.land();
    agent
        .append_journal(LAND, &stream, frames.concat())
        .unwrap();
    let last = end_of(&frames);
    let mark = Mark {
        state: world.one.state,
        mandate: 1,
        registry: LAND,
        term: Term(1),
        epoch: EpochNo(1),
        stream,
        sequence: last.seq,
        chain: last.chain,
        timeline: last.timeline,
        lsn: last.end_lsn,
        at: now(),
    };
    agent
        .submit(&Signed::sign_with(mark, &world.one.land.key).unwrap())
        .unwrap();
    world.stop();
    // The power failed and the disk had lied: half of the last frame, and no record of what was synced.
    let dir = world
        .store()
        .join(format!("{}/journal/{LAND}/{stream}", world.one.state));
    let segment = dir.join("00000000");
    let torn = std::fs::read(&segment).unwrap();
    let torn = &torn[..torn.len() - 100];
    std::fs::write(&segment, torn).unwrap();
    std::fs::remove_file(dir.join("SYNCED")).unwrap();
    world.start();

    let said = world.land().streams(LAND).unwrap();
    assert_eq!((said[0].next, said[0].closed), (3, true));
    let agent = world.land();
    assert!(
        agent
            .append_journal(LAND, &stream, frames[3].clone())
            .is_err()
    );
    assert!(
        agent
            .append_journal(LAND, &stream, frames[0].clone())
            .is_err()
    );
    assert_eq!(std::fs::read(&segment).unwrap(), torn, "nothing was cut");
    assert_eq!(
        world
            .desk()
            .read_journal(LAND, &stream, 0, MAX_JOURNAL)
            .unwrap(),
        frames[..3].concat()
    );
    agent.submit(&gap(&world)).unwrap();
    let (next, frames) = world.one.land.stream(world.one.state, LAND, 1, None);
    agent.append_journal(LAND, &next, frames.concat()).unwrap();
}
