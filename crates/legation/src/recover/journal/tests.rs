use std::collections::BTreeMap;

use legation_core::id::{EpochNo, Term, Timeline, VersionNo};
use legation_core::journal::{StreamSealer, StreamStart};
use legation_core::keys::EpochRoot;
use legation_core::policy::VersionState;
use legation_core::statement::{Branch, Commit, EpochSet, Packs, RootRow, Time, WalRange};

use super::*;
use crate::recover::scope;
use crate::recover::start::Job;

const SEGMENT: u64 = 16 << 20;
const STATE: StateId = StateId([3; 20]);

fn registry() -> RegistryId {
    RegistryId::new(7).unwrap()
}

fn root(epoch: u32) -> EpochRoot {
    EpochRoot::from_bytes([epoch as u8; 32])
}

fn keys(epochs: &[u32]) -> BTreeMap<EpochNo, EpochRoot> {
    epochs
        .iter()
        .map(|epoch| (EpochNo(*epoch), root(*epoch)))
        .collect()
}

/// A stream of its own epoch, whose bytes are its number.
struct Sealed {
    held: Held,
    frames: Vec<Vec<u8>>,
    end: End,
}

fn stream(number: u8, first: u64, lengths: &[usize], previous: Option<&Sealed>) -> Sealed {
    sealed(number, &root(number.into()), first, lengths, previous)
}

fn sealed(
    number: u8,
    root: &EpochRoot,
    first: u64,
    lengths: &[usize],
    previous: Option<&Sealed>,
) -> Sealed {
    let start = StreamStart {
        state: STATE,
        registry: registry(),
        epoch: EpochNo(number.into()),
        term: Term(1),
        stream: StreamId([number; 16]),
        branch: 0,
        system_id: 9,
        timeline: Timeline(1),
        lsn: Lsn(first),
        previous: previous.map(|before| (before.end.stream, before.end.chain)),
    };
    let (mut sealer, opening) = StreamSealer::open(&start, root, &[number; 32], b"").unwrap();
    let mut frames = vec![opening];
    let mut at = first;
    for length in lengths {
        frames.push(
            sealer
                .frame(Lsn(at), Timeline(1), &vec![number; *length])
                .unwrap(),
        );
        at += *length as u64;
    }
    let position = sealer.position();
    let held = Held {
        stream: start.stream,
        term: Term(1),
        epoch: start.epoch,
        system_id: 9,
        timeline: Timeline(1),
        previous: start.previous,
        first: Lsn(first),
        end: Lsn(at),
        chain: position.chain,
        bytes: frames.iter().map(|frame| frame.len() as u64).sum(),
    };
    Sealed {
        held,
        frames,
        end: End {
            stream: start.stream,
            sequence: position.seq,
            chain: position.chain,
        },
    }
}

fn frames(one: &Sealed) -> Frames {
    let parsed: Vec<_> = one
        .frames
        .iter()
        .map(|frame| Ok((FrameHeader::parse(frame).unwrap(), frame.clone())))
        .collect();
    Box::new(parsed.into_iter())
}

/// Everything that `streams` open to, or why not.
fn read(
    streams: &[&Sealed],
    keys: &BTreeMap<EpochNo, EpochRoot>,
    end: Option<End>,
) -> Result<Vec<(u64, usize, u8)>, String> {
    let held = streams.iter().map(|one| one.held).collect();
    let frames_of = |id: StreamId| -> Result<Frames, Failure> {
        let one = streams.iter().find(|one| one.held.stream == id).unwrap();
        Ok(frames(one))
    };
    Wal::new(frames_of, keys, STATE, registry(), held, end)
        .map(|piece| {
            piece
                .map(|piece| (piece.start.0, piece.bytes.len(), piece.bytes[0]))
                .map_err(|why| why.to_string())
        })
        .collect()
}

#[test]
fn linked_streams_open_in_order_up_to_the_fence_and_no_further() {
    let one = stream(1, SEGMENT, &[100, 200], None);
    let mut two = stream(2, SEGMENT + 300, &[50, 60], Some(&one));
    let all = [
        (SEGMENT, 100, 1),
        (SEGMENT + 100, 200, 1),
        (SEGMENT + 300, 50, 2),
        (SEGMENT + 350, 60, 2),
    ];
    assert_eq!(
        read(&[&one, &two], &keys(&[1, 2]), Some(two.end)).unwrap(),
        all
    );
    assert_eq!(read(&[&one, &two], &keys(&[1, 2]), None).unwrap(), all);

    // What came after the fenced position is not given, whoever put it there.
    let fenced = two.end;
    let longer = stream(2, SEGMENT + 300, &[50, 60, 70], Some(&one));
    two.frames.push(longer.frames[3].clone());
    assert_eq!(
        read(&[&one, &two], &keys(&[1, 2]), Some(fenced)).unwrap(),
        all
    );
}

#[test]
fn what_the_fence_does_not_name_is_refused() {
    let one = stream(1, SEGMENT, &[100], None);
    let two = stream(2, SEGMENT + 100, &[50, 60], Some(&one));
    let keys = keys(&[1, 2]);
    let says = |result: Result<_, String>, what: &str| {
        let why = result.unwrap_err();
        assert!(why.contains(what), "{why}");
    };
    let other = End {
        chain: Digest([1; 32]),
        ..two.end
    };
    says(
        read(&[&one, &two], &keys, Some(other)),
        "running hash differs",
    );
    let beyond = End {
        sequence: 9,
        ..two.end
    };
    says(read(&[&one, &two], &keys, Some(beyond)), "ends before");
    says(read(&[&one], &keys, Some(two.end)), "is missing");
    says(
        read(&[&one, &two], &self::keys(&[1]), None),
        "not in the order's scope",
    );

    let elsewhere = stream(1, SEGMENT, &[90, 10], None);
    let swapped = Sealed {
        held: one.held,
        frames: elsewhere.frames,
        end: one.end,
    };
    says(
        read(&[&swapped, &two], &keys, None),
        "continues another end",
    );

    let mut flipped = stream(1, SEGMENT, &[100], None);
    flipped.frames[1][200] ^= 1;
    assert!(read(&[&flipped], &keys, None).is_err());
    let mut cut = stream(1, SEGMENT, &[100, 100], None);
    cut.frames.remove(1);
    assert!(read(&[&cut], &keys, None).is_err());
}

fn version(start: u64, stop: u64) -> VersionState {
    let commit = Commit {
        state: STATE,
        mandate: 1,
        registry: registry(),
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
                start: Lsn(start),
                stop: Lsn(stop),
            }
            .into(),
        ),
        stream: None,
        captured: Time::from_millis(0).unwrap(),
    };
    VersionState {
        id: legation_core::id::Sha256([0; 32]),
        commit,
        index: 1,
        received: Time::from_millis(0).unwrap(),
    }
}

#[test]
fn what_was_added_without_the_key_ends_the_replay_before_it() {
    let one = stream(1, SEGMENT, &[100], None);
    // Somebody with the agent's TLS key, but not its stream key, appends a frame that the chain takes.
    let forged = |timeline: u32| {
        let mut frame = stream(1, SEGMENT, &[100, 70], None).frames[2].clone();
        let whole = frame.len();
        frame[200] ^= 1;
        frame[88..92].copy_from_slice(&timeline.to_le_bytes());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&one.end.chain.0).update(&frame[..whole - 32]);
        frame[whole - 32..].copy_from_slice(hasher.finalize().as_bytes());
        assert_eq!(
            FrameHeader::parse(&frame).unwrap().timeline,
            Timeline(timeline)
        );
        let mut longer = stream(1, SEGMENT, &[100], None);
        longer.frames.push(frame);
        longer
    };
    let longer = forged(1);
    let far = End {
        sequence: 2,
        ..longer.end
    };
    assert_eq!(
        read(&[&longer], &keys(&[1]), Some(far)).unwrap(),
        [(SEGMENT, 100, 1)]
    );
    let held_keys = keys(&[1]);
    let mut wal = Wal::new(
        |_| Ok(frames(&longer)),
        &held_keys,
        STATE,
        registry(),
        vec![longer.held],
        None,
    );
    assert_eq!(wal.by_ref().count(), 1);
    let early = wal.ended_early().unwrap();
    assert_eq!(early.at, Lsn(SEGMENT + 100));
    assert!(early.why.contains("frame 2 of stream"), "{}", early.why);
    assert!(wal.failure().is_none());

    // One of another history is no frame of this stream, so no embassy took it: that is damage.
    let why = read(&[&forged(2)], &keys(&[1]), None).unwrap_err();
    assert!(why.contains("timeline"), "{why}");
}

#[test]
fn a_version_needs_the_streams_from_its_segment_on() {
    let old = stream(1, SEGMENT - 1000, &[1000], None);
    let one = stream(2, SEGMENT, &[1000], Some(&old));
    let two = stream(3, SEGMENT + 1000, &[500], Some(&one));
    let version = version(SEGMENT + 40, SEGMENT + 900);
    let held = [two.held, old.held, one.held];
    assert_eq!(scope::streams(&version.commit, &held), [one.held, two.held]);
    assert_eq!(
        reach(&[one.held, two.held]),
        Some((Lsn(SEGMENT), Lsn(SEGMENT + 1500)))
    );
    let hole = Held {
        first: Lsn(SEGMENT + 1001),
        ..two.held
    };
    assert_eq!(
        reach(&[one.held, hole]),
        Some((Lsn(SEGMENT), Lsn(SEGMENT + 1000)))
    );
    assert_eq!(reach(&[]), None);
}

/// A job of these streams, as an activation makes it.
fn job(streams: &[&Sealed], fence: Option<(End, Lsn)>, keys: BTreeMap<EpochNo, EpochRoot>) -> Job {
    let held: Vec<_> = streams.iter().map(|one| one.held).collect();
    let mut version = version(SEGMENT, SEGMENT + 10);
    version.commit.stream = Some(StreamId([1; 16]));
    let frames_of = |id: StreamId| {
        let one = streams.iter().find(|one| one.held.stream == id).unwrap();
        Ok(frames(one))
    };
    Job::new(
        STATE,
        (registry(), "land".to_owned()),
        version,
        &held,
        &frames_of,
        fence,
        keys,
    )
}

#[test]
fn an_epoch_outside_the_scope_ends_the_replay_and_is_said() {
    let one = stream(1, SEGMENT, &[1000], None);
    let two = stream(2, SEGMENT + 1000, &[500], Some(&one));
    let fence = Some((two.end, two.held.end));
    let whole = job(&[&one, &two], fence, keys(&[1, 2]));
    assert_eq!(
        (whole.streams.len(), whole.end, whole.short),
        (2, Some(two.end), None)
    );
    let partial = job(&[&one, &two], fence, keys(&[1]));
    assert_eq!((partial.streams.len(), partial.end), (1, None));
    assert!(partial.short.unwrap().contains("epoch 2, outside"));
}

#[test]
fn hostile_streams_are_set_aside_and_the_version_stays_whole() {
    let one = stream(1, SEGMENT, &[1000], None);
    let two = stream(2, SEGMENT + 1000, &[500], Some(&one));
    // Its commitment is to no key that anybody released; it claims all of the version's WAL and more.
    let junk = EpochRoot::from_bytes([99; 32]);
    let covering = sealed(7, &junk, 0, &[100_000, 100_000], None);
    // And one that continues the live stream, longer than what truly does.
    let fork = sealed(8, &junk, SEGMENT + 1000, &[100_000], Some(&one));
    let keys = || keys(&[1, 2, 7, 8]);
    let all = [&covering, &fork, &two, &one];

    let fenced = job(&all, Some((two.end, two.held.end)), keys());
    assert_eq!(fenced.streams, [one.held, two.held]);
    assert_eq!((fenced.end, fenced.short), (Some(two.end), None));
    assert_eq!(fenced.aside.len(), 1, "{:?}", fenced.aside);

    // The fence itself names the hostile one: the end is that of the chain, and it is said.
    for hostile in [&covering, &fork] {
        let job = job(&all, Some((hostile.end, hostile.held.end)), keys());
        assert_eq!(job.streams, [one.held, two.held]);
        assert_eq!((job.end, job.until), (None, None));
        let short = job.short.unwrap();
        assert!(short.contains(&two.held.end.to_string()), "{short}");
    }
}
