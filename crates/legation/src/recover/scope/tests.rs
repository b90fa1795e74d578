use legation_core::id::{RegistryId, StateId, VersionNo};
use legation_core::statement::{BaseWal, Branch, EpochSet, Packs, RootRow, Time, WalRange};

use super::*;

/// A commit whose base is the WAL from 100 to 150 into the second segment, in timeline 1, beside stream `beside`.
fn commit(beside: Option<u8>) -> Commit {
    Commit {
        state: StateId([3; 20]),
        mandate: 1,
        registry: RegistryId::new(7).unwrap(),
        term: Term(1),
        branch: Branch::Main,
        version: VersionNo(1),
        parent: None,
        class: "permanent".parse().unwrap(),
        suite: 1,
        epochs: EpochSet::range(EpochNo(1), EpochNo(1)).unwrap(),
        packs: Packs {
            count: 1,
            list: Digest::of(b""),
        },
        bytes: 65_536,
        root: RootRow {
            epoch: EpochNo(1),
            seq: 0,
            index: 0,
            offset: 160,
            sealed: 100,
            plain: 84,
        },
        timeline: Some(Timeline(1)),
        wal: Some(
            WalRange {
                start: Lsn(SEGMENT + 100),
                stop: Lsn(SEGMENT + 150),
            }
            .into(),
        ),
        stream: beside.map(id),
        captured: Time::from_millis(0).unwrap(),
    }
}

fn id(number: u8) -> StreamId {
    StreamId([number; 16])
}

fn end_of(number: u8) -> Digest {
    Digest::of(&[number])
}

/// A stream of its own epoch, of these bytes after the second segment's start, after another one.
fn held(number: u8, first: u64, end: u64, previous: Option<u8>) -> Held {
    Held {
        stream: id(number),
        term: Term(1),
        epoch: EpochNo(number.into()),
        system_id: 9,
        timeline: Timeline(1),
        previous: previous.map(|before| (id(before), end_of(before))),
        first: Lsn(SEGMENT + first),
        end: Lsn(SEGMENT + end),
        chain: end_of(number),
        bytes: 1,
    }
}

/// The numbers of the chain's streams when those in `junk` do not open and those in `shut` lack their key.
fn walk(commit: &Commit, held: &[Held], junk: &[u8], shut: &[u8]) -> (Vec<u8>, Chain) {
    let chain = chain(commit, held, |one| match one.stream.0[0] {
        number if junk.contains(&number) => Opens::<Infallible>::No("junk".into()),
        number if shut.contains(&number) => Opens::Shut,
        _ => Opens::Yes,
    })
    .unwrap_or_default();
    let numbers = chain.streams.iter().map(|one| one.stream.0[0]).collect();
    (numbers, chain)
}

fn numbers(commit: &Commit, held: &[Held]) -> Vec<u8> {
    walk(commit, held, &[], &[]).0
}

#[test]
fn the_chain_goes_back_to_the_segment_and_forward_to_the_end() {
    let before = Held {
        first: Lsn(SEGMENT - 50),
        end: Lsn(SEGMENT),
        ..held(1, 0, 0, None)
    };
    let all = [
        held(4, 200, 300, Some(3)),
        held(3, 120, 200, Some(2)),
        held(2, 0, 120, Some(1)),
        before,
    ];
    assert_eq!(numbers(&commit(Some(3)), &all), [2, 3, 4]);
    assert_eq!(numbers(&commit(Some(2)), &all), [2, 3, 4]);
    assert_eq!(numbers(&commit(None), &all), [2, 3, 4]);
    assert!(numbers(&commit(Some(9)), &all).is_empty());
    // A larger segment begins earlier, and a smaller one later.
    let chosen = streams(&commit(Some(3)), &all);
    let from = |at| {
        let all = reaching_back(&chosen, &all, Lsn(at));
        all.iter().map(|one| one.stream.0[0]).collect::<Vec<_>>()
    };
    assert_eq!(from(SEGMENT - 50), [1, 2, 3, 4]);
    assert_eq!(from(SEGMENT), [2, 3, 4]);
    assert_eq!(from(SEGMENT + 120), [3, 4]);
}

#[test]
fn a_promotion_is_gone_over_forwards_and_backwards() {
    let on = |timeline, one: Held| Held {
        timeline: Timeline(timeline),
        ..one
    };
    let all = [
        held(1, 0, 80, None),
        on(2, held(2, 80, 120, Some(1))),
        on(2, held(3, 120, 200, Some(2))),
        on(4, held(4, 200, 300, Some(3))),
    ];
    // From a base before the first promotion, and from one after it in the same segment.
    let after = Commit {
        timeline: Some(Timeline(2)),
        ..commit(Some(2))
    };
    let mut before = commit(Some(1));
    before.wal = Some(BaseWal {
        range: WalRange {
            start: Lsn(SEGMENT + 10),
            stop: Lsn(SEGMENT + 20),
        },
        server: None,
    });
    assert_eq!(numbers(&before, &all), [1, 2, 3, 4]);
    assert_eq!(numbers(&after, &all), [1, 2, 3, 4]);
}

#[test]
fn what_does_not_link_is_no_part_of_it() {
    let one = held(1, 0, 120, None);
    let two = held(2, 120, 200, Some(1));
    // None of these continues stream 1: another history, another end, a hole, or no past at all.
    let foreign = [
        Held {
            timeline: Timeline(0),
            ..held(3, 120, 900, Some(1))
        },
        Held {
            system_id: 8,
            ..held(4, 120, 900, Some(1))
        },
        Held {
            term: Term(2),
            ..held(5, 120, 900, Some(1))
        },
        Held {
            previous: Some((id(1), end_of(77))),
            ..held(6, 120, 900, None)
        },
        held(7, 121, 900, Some(1)),
    ];
    let rootless = held(8, 0, 900, None);
    let mut all = vec![rootless, two, one];
    all.extend(foreign);
    let (numbers, chain) = walk(&commit(Some(1)), &all, &[], &[]);
    assert_eq!(numbers, [1, 2]);
    assert_eq!(chain.aside.len(), foreign.len(), "{:?}", chain.aside);
    // The commit's own timeline counts, whatever a stream of that name says.
    let elsewhere = Held {
        timeline: Timeline(2),
        ..one
    };
    assert!(super::streams(&commit(Some(1)), &[elsewhere, two]).is_empty());
}

#[test]
fn of_several_successors_the_one_that_opens_goes_on() {
    let all = [
        held(1, 0, 120, None),
        held(2, 120, 200, Some(1)),
        held(3, 200, 220, Some(2)),
        held(7, 120, 900, Some(1)),
    ];
    // Without keys the longest is shown.
    assert_eq!(numbers(&commit(Some(1)), &all), [1, 7]);
    let (numbers, chain) = walk(&commit(Some(1)), &all, &[7], &[]);
    assert_eq!(numbers, [1, 2, 3]);
    assert!(chain.aside[0].contains(&id(7).to_string()));
    assert_eq!(chain.shut, None);
}

#[test]
fn a_missing_past_and_a_missing_key_are_said() {
    let all = [held(2, 90, 200, Some(1)), held(3, 200, 300, Some(2))];
    assert_eq!(numbers(&commit(Some(2)), &all), [2, 3]);
    let (numbers, chain) = walk(&commit(Some(2)), &all, &[], &[3]);
    assert_eq!((numbers, chain.shut), (vec![2], Some(all[1])));
    let past = held(1, 0, 90, None);
    let all = [past, all[0], all[1]];
    assert_eq!(self::numbers(&commit(Some(2)), &all), [1, 2, 3]);
    let (numbers, chain) = walk(&commit(Some(2)), &all, &[1], &[]);
    assert_eq!((numbers, chain.aside.len()), (vec![2, 3], 1));
    let (numbers, chain) = walk(&commit(Some(2)), &all, &[], &[2]);
    assert_eq!((numbers, chain.shut), (Vec::new(), Some(all[1])));
}

#[test]
fn an_empty_stream_asks_for_a_key_only_on_the_way_to_wal() {
    let mut all = vec![held(1, 0, 200, None), held(2, 200, 200, Some(1))];
    let (numbers, chain) = walk(&commit(Some(1)), &all, &[], &[2]);
    assert_eq!((numbers, chain.shut), (vec![1], None));
    assert_eq!(chain.empty, [id(2)]);
    all.push(held(3, 200, 300, Some(2)));
    assert_eq!(self::numbers(&commit(Some(1)), &all), [1, 2, 3]);
}
