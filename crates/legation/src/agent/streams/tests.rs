use std::path::Path;

use legation_core::id::{Digest, EpochNo, Lsn, RegistryId, StateId, StreamId, Term, Timeline};
use legation_core::journal::{Position, StreamSealer, StreamStart};
use legation_core::keys::EpochRoot;
use legation_core::statement::{Ack, Time};

use super::{Batch, MAX_ARRIVALS, Next, Streams, Tail, Wal};
use crate::agent::budget::Budget;

const STATE: StateId = StateId([1; 20]);

fn registry() -> RegistryId {
    "r-000005".parse().unwrap()
}

fn open(dir: &Path) -> Streams {
    Streams::open(dir, STATE, registry(), Budget::new(1 << 30)).unwrap()
}

/// Begins stream number `n` where the last one ended and appends `frames` frames of 1000 bytes.
fn fill(streams: &Streams, n: u8, frames: u64) -> Position {
    let tail = streams.tail();
    let lsn = tail.map_or(Lsn(0x0100_0000), |tail| tail.position.end_lsn);
    fill_at(streams, n, frames, lsn, tail)
}

/// Begins stream number `n` at `lsn`, naming the end of `tail` as its past.
fn fill_at(streams: &Streams, n: u8, frames: u64, lsn: Lsn, tail: Option<Tail>) -> Position {
    fill_on(streams, n, frames, lsn, tail, Timeline(1))
}

fn fill_on(
    streams: &Streams,
    n: u8,
    frames: u64,
    lsn: Lsn,
    tail: Option<Tail>,
    timeline: Timeline,
) -> Position {
    let start = StreamStart {
        state: STATE,
        registry: registry(),
        epoch: EpochNo(u32::from(n)),
        term: Term(1),
        stream: StreamId([n; 16]),
        branch: 0,
        system_id: 77,
        timeline,
        lsn,
        previous: tail.map(|tail| (tail.position.stream, tail.position.chain)),
    };
    let root = EpochRoot::from_bytes([n; 32]);
    let (mut sealer, opening) = StreamSealer::open(&start, &root, &[n; 32], &[]).unwrap();
    streams.begin(start.stream, &opening).unwrap();
    for frame in 0..frames {
        let at = Lsn(lsn.0 + frame * 1000);
        let sealed = sealer.frame(at, timeline, &[7; 1000]).unwrap();
        streams
            .append(start.stream, sealer.position().seq, sealed)
            .unwrap();
    }
    streams.sync(start.stream).unwrap().unwrap()
}

fn ack(batch: &Batch) -> Ack {
    Ack {
        state: STATE,
        embassy: "a".parse().unwrap(),
        registry: registry(),
        term: batch.term,
        stream: batch.stream,
        sequence: batch.end.seq,
        chain: batch.end.chain,
        lsn: batch.end.end_lsn,
        at: Time::from_millis(0).unwrap(),
    }
}

/// Ships everything as an embassy that has nothing would take it; returns the batches.
fn ship(streams: &Streams, limit: usize) -> Vec<Batch> {
    let mut sent = Vec::new();
    loop {
        match streams.next(limit).unwrap() {
            Next::Nothing => return sent,
            Next::Ask(stream) => streams.stands_at(stream, 0, None).unwrap(),
            Next::Send(batch) => {
                streams.acknowledged(&batch, &ack(&batch)).unwrap();
                streams.tidy().unwrap();
                sent.push(batch);
            }
        }
    }
}

#[test]
fn everything_is_sent_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    let end = fill(&streams, 1, 10);
    streams.arrived(end.end_lsn);
    assert!(streams.next(1).is_ok());
    let sent = ship(&streams, 9000);
    assert_eq!(sent.last().unwrap().end, end);
    assert!(sent.iter().all(|batch| batch.frames.len() <= 9000));
    assert_eq!(streams.acked().unwrap().position, end);
    assert!(streams.lag().is_zero());
}

#[test]
fn a_restart_goes_on_where_the_newest_stream_ends_and_sends_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    let end = fill(&streams, 1, 5);
    let Next::Ask(stream) = streams.next(1 << 20).unwrap() else {
        panic!("it asks first");
    };
    streams.stands_at(stream, 0, None).unwrap();
    let Next::Send(before) = streams.next(1 << 20).unwrap() else {
        panic!("it sends");
    };
    drop(streams);

    let streams = open(dir.path());
    let tail = streams.tail().unwrap();
    assert_eq!((tail.system_id, tail.position), (77, end));
    let second = fill(&streams, 2, 3);
    let sent = ship(&streams, 1 << 20);
    assert_eq!(sent[0].frames, before.frames);
    assert_eq!(sent.last().unwrap().end, second);
    // The first stream is all abroad and gone; the newest stays as the place to go on from.
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(
        left, 3,
        "one stream is its frames and its opening; beside it the record of epochs"
    );
    assert_eq!(open(dir.path()).tail().unwrap().position, second);
}

#[test]
fn an_embassy_that_has_more_than_was_sealed_is_believed_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    fill(&streams, 1, 2);
    assert!(streams.stands_at(StreamId([1; 16]), 3, None).is_ok());
    let failure = streams.stands_at(StreamId([1; 16]), 4, None).unwrap_err();
    assert_eq!(failure.code as u8, 4);
}

#[test]
fn an_acknowledgement_of_other_frames_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    fill(&streams, 1, 2);
    streams.stands_at(StreamId([1; 16]), 0, None).unwrap();
    let Next::Send(batch) = streams.next(1 << 20).unwrap() else {
        panic!("it sends");
    };
    let mut other = ack(&batch);
    other.chain = legation_core::id::Digest([9; 32]);
    assert!(streams.acknowledged(&batch, &other).is_err());
    assert!(streams.acked().is_none());
}

#[test]
fn torn_frames_are_cut_and_the_stream_goes_on_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    let end = fill(&streams, 1, 4);
    drop(streams);
    let frames = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    let segment = frames.join("00000000");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.extend_from_slice(&[0xaa; 100]);
    std::fs::write(&segment, bytes).unwrap();
    assert_eq!(open(dir.path()).tail().unwrap().position, end);
}

#[test]
fn streams_that_nobody_can_open_are_given_up_with_what_continues_them() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    let kept = fill(&streams, 1, 2);
    fill(&streams, 2, 2);
    fill(&streams, 3, 2);
    streams.give_up_from(EpochNo(2)).unwrap();
    assert!(streams.gave_up() && !streams.gave_up());
    assert_eq!(streams.tail().unwrap().position, kept);
    assert!(
        streams.sync(StreamId([3; 16])).is_err(),
        "its receiver finds it gone"
    );
    assert_eq!(open(dir.path()).tail().unwrap().position, kept);
}

#[cfg(feature = "faults")]
#[test]
fn what_was_given_up_does_not_come_back_with_the_power() {
    use legation_repo::edge::{Fault, arm, disarm};
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    fill(&streams, 1, 2);
    fill(&streams, 2, 2);
    // Nobody may go on before the names are gone for good, however often it is tried.
    for _ in 0..2 {
        arm("dir.sync", 1, Fault::Eio);
        assert!(streams.give_up_from(EpochNo(2)).is_err());
        assert!(!disarm(), "the directory is synced");
    }
    streams.give_up_from(EpochNo(2)).unwrap();
    assert!(!streams.has(EpochNo(2)) && streams.has(EpochNo(1)));
}

#[test]
fn the_epochs_of_wal_are_remembered_when_the_streams_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    // Each of its own epoch: 1 to 4, of 3000 bytes; the third without any.
    let first = 0x0100_0000;
    for (n, frames) in [(1, 3), (2, 3), (3, 0), (4, 3)] {
        fill(&streams, n, frames);
    }
    ship(&streams, usize::MAX);
    let of = |streams: &Streams, from: u64, to: u64| {
        let history = (77, Timeline(1));
        let epochs = streams.epochs_between(history, Lsn(first + from), Lsn(first + to));
        epochs.iter().map(|epoch| epoch.0).collect::<Vec<_>>()
    };
    let again = {
        drop(streams);
        open(dir.path())
    };
    assert_eq!(again.inner.lock().unwrap().streams.len(), 1);
    assert_eq!(of(&again, 0, 3000), [1]);
    assert_eq!(of(&again, 2999, 3001), [1, 2]);
    assert_eq!(of(&again, 3000, 6001), [2, 3, 4]);
    assert_eq!(of(&again, 8000, 50_000), [4]);
    let elsewhere = again.epochs_between((77, Timeline(2)), Lsn(0), Lsn(u64::MAX));
    assert!(elsewhere.is_empty());
    again.give_up_from(EpochNo(4)).unwrap();
    assert_eq!(of(&again, 0, 50_000), [1, 2, 3]);
}

#[test]
fn a_promotion_that_was_followed_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    let base = 0x0100_0000;
    let first = StreamId([1; 16]);
    fill_at(&streams, 1, 3, Lsn(base), None);
    let tail = streams.tail();
    let stop = fill_on(&streams, 2, 2, Lsn(base + 3000), tail, Timeline(2)).end_lsn;
    ship(&streams, usize::MAX);
    // A base of before the promotion is complete, and one of after it needs the segment's beginning from before.
    assert_eq!(
        streams.covers(first, Timeline(1), Lsn(base + 2500)),
        Wal::Abroad
    );
    let of = |streams: &Streams, timeline, from: u64, to: u64| {
        let history = (77, Timeline(timeline));
        let epochs = streams.epochs_between(history, Lsn(base + from), Lsn(base + to));
        epochs.iter().map(|epoch| epoch.0).collect::<Vec<_>>()
    };
    assert_eq!(of(&streams, 2, 0, 4000), [1, 2]);
    assert_eq!(of(&streams, 1, 0, 4000), [1]);
    // What continues nothing needs nothing of before.
    fill_on(&streams, 3, 2, stop, None, Timeline(3));
    assert_eq!(of(&streams, 3, 0, 9000), [3]);
}

#[test]
fn a_spool_goes_on_from_what_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    let synced = fill(&streams, 1, 2);
    let start = StreamId([1; 16]);
    let kept = streams.tail().unwrap().position;
    assert_eq!(kept, synced);
    // The same stream, one frame further: appended, and its sync fails though the bytes can be read.
    let longer = {
        let other = tempfile::tempdir().unwrap();
        let other = open(other.path());
        fill(&other, 1, 3);
        let frames = ship(&other, usize::MAX).remove(0).frames;
        let known = ship(&streams, usize::MAX).remove(0).frames.len();
        frames[known..].to_vec()
    };
    streams
        .append(start, synced.seq + 1, longer.clone())
        .unwrap();
    legation_repo::edge::arm("journal.sync", 1, legation_repo::edge::Fault::LateEio);
    assert!(streams.sync(start).is_err());
    assert!(!legation_repo::edge::disarm());
    streams.reopen().unwrap();
    assert_eq!(streams.tail().unwrap().position, synced);
    assert!(matches!(streams.next(usize::MAX).unwrap(), Next::Nothing));
    drop(streams);
    assert_eq!(open(dir.path()).tail().unwrap().position, synced);
}

#[test]
fn what_is_acknowledged_beyond_a_hole_completes_no_version() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    let first = StreamId([1; 16]);
    let covers = |streams: &Streams, stream, stop| streams.covers(stream, Timeline(1), stop);
    let end = fill(&streams, 1, 4).end_lsn;
    let stop = Lsn(end.0 + 500);
    assert_eq!(
        covers(&streams, first, end),
        Wal::Coming,
        "nothing is abroad"
    );
    ship(&streams, 1 << 20);
    assert_eq!(covers(&streams, first, end), Wal::Abroad);
    assert_eq!(covers(&streams, first, stop), Wal::Coming);

    // A stream that continues it completes it, also for a later run.
    fill(&streams, 2, 4);
    ship(&streams, 1 << 20);
    assert_eq!(covers(&streams, first, stop), Wal::Abroad);
    assert_eq!(streams.covers(first, Timeline(2), stop), Wal::Lost);
    drop(streams);
    let streams = open(dir.path());
    let end = fill(&streams, 3, 1).end_lsn;
    ship(&streams, 1 << 20);
    assert_eq!(covers(&streams, first, stop), Wal::Abroad);

    // One that begins beyond a hole does not, however far it is.
    let third = StreamId([3; 16]);
    let stop = Lsn(end.0 + 500);
    fill_at(&streams, 4, 9, Lsn(end.0 + 10_000), None);
    ship(&streams, 1 << 20);
    assert_eq!(covers(&streams, third, stop), Wal::Lost);
    assert_eq!(
        covers(&streams, StreamId([4; 16]), Lsn(end.0 + 12_000)),
        Wal::Abroad
    );
}

#[cfg(feature = "faults")]
#[test]
fn a_stream_that_could_not_be_begun_is_none() {
    use legation_repo::edge::{Fault, arm, disarm};
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    let end = fill(&streams, 1, 2);
    for edge in ["agent.stream", "journal.append", "journal.sync"] {
        for fault in [Fault::Enospc, Fault::LateEio] {
            arm(edge, 1, fault);
            let start = StreamStart {
                state: STATE,
                registry: registry(),
                epoch: EpochNo(9),
                term: Term(1),
                stream: StreamId([0xff; 16]),
                branch: 0,
                system_id: 77,
                timeline: Timeline(1),
                lsn: end.end_lsn,
                previous: None,
            };
            let root = EpochRoot::from_bytes([9; 32]);
            let (_, opening) = StreamSealer::open(&start, &root, &[9; 32], &[]).unwrap();
            assert!(streams.begin(start.stream, &opening).is_err(), "{edge}");
            assert!(!disarm(), "{edge} is not passed");
        }
    }
    let end = fill(&streams, 2, 2);
    drop(streams);
    let streams = open(dir.path());
    assert_eq!(streams.tail().unwrap().position, end);
    let sent = ship(&streams, 1 << 20);
    let order: Vec<_> = sent.iter().map(|batch| batch.stream).collect();
    assert_eq!(order, [StreamId([1; 16]), StreamId([2; 16])]);
}

#[cfg(feature = "faults")]
#[test]
fn a_full_disk_delays_only_the_freeing_of_what_is_abroad() {
    use legation_repo::edge::{Fault, arm, disarm};
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    fill(&streams, 1, 3);
    let end = fill(&streams, 2, 3);
    ship(&streams, 1 << 20);
    assert_eq!(streams.acked().unwrap().position, end);
    // Larger than a segment, so that there is one to be given up.
    let end = fill(&streams, 3, 6_000);
    while let Next::Ask(stream) = streams.next(1).unwrap() {
        streams.stands_at(stream, 0, None).unwrap();
    }
    arm("file.write", 1, Fault::Enospc);
    let mut refused = 0;
    while let Next::Send(batch) = streams.next(4 << 20).unwrap() {
        streams.acknowledged(&batch, &ack(&batch)).unwrap();
        refused += u32::from(streams.tidy().is_err());
    }
    assert!(!disarm());
    assert_eq!(refused, 1);
    assert_eq!(streams.acked().unwrap().position, end);
    streams.tidy().unwrap();
}

#[test]
fn what_no_signature_covers_frees_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    let end = fill(&streams, 1, 3);
    fill(&streams, 2, 1);
    let first = StreamId([1; 16]);
    let other = Digest([9; 32]);
    let failure = streams.stands_at(first, 4, Some(other)).unwrap_err();
    assert_eq!(failure.code as u8, 4);

    // It says that it has all: the last frame is sent again, and only the answer to that counts.
    streams.stands_at(first, 4, Some(end.chain)).unwrap();
    streams.tidy().unwrap();
    assert!(streams.acked().is_none());
    let Next::Send(batch) = streams.next(1 << 20).unwrap() else {
        panic!("it sends");
    };
    assert_eq!((batch.stream, batch.first, batch.end), (first, 3, end));
    streams.acknowledged(&batch, &ack(&batch)).unwrap();
    assert_eq!(streams.acked().unwrap().position, end);
}

#[test]
fn arrivals_of_a_long_outage_are_few_and_none_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let streams = open(dir.path());
    let end = fill(&streams, 1, 2).end_lsn;
    {
        let mut inner = streams.lock();
        let began = std::time::Instant::now();
        for n in 0..=MAX_ARRIVALS as u64 {
            let since = began + std::time::Duration::from_secs(n);
            inner.arrivals.push_back((Lsn(n + 1), since));
        }
        super::thin(&mut inner.arrivals);
        assert!(inner.arrivals.len() <= MAX_ARRIVALS / 2 + 1);
        assert_eq!(inner.arrivals.front(), Some(&(Lsn(2), began)));
        let last = inner.arrivals.back().map(|(end, _)| *end);
        assert_eq!(last, Some(Lsn(MAX_ARRIVALS as u64 + 1)));
    }
    for _ in 0..3 {
        streams.arrived(end);
    }
    assert!(streams.lock().arrivals.len() <= MAX_ARRIVALS);
}
