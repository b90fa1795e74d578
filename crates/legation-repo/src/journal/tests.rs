use std::fs;

use legation_core::id::{EpochNo, Lsn, Term, Timeline};
use legation_core::journal::{MAX_FRAME_PLAIN, StreamSealer, StreamStart};
use legation_core::keys::EpochRoot;

use super::*;
use crate::edge::{self, Fault};

const START: u64 = 0x0100_0000;

fn name() -> StreamName {
    StreamName {
        state: StateId([7; 20]),
        registry: "r-3f9a1c".parse().unwrap(),
        stream: StreamId([9; 16]),
    }
}

/// An agent's stream: frames of noise, so that nothing compresses.
pub(crate) struct Agent {
    sealer: StreamSealer,
    lsn: u64,
}

impl Agent {
    pub(crate) fn open(name: &StreamName) -> (Agent, Vec<u8>) {
        let start = StreamStart {
            state: name.state,
            registry: name.registry,
            epoch: EpochNo(4),
            term: Term(1),
            stream: name.stream,
            branch: 0,
            system_id: 1,
            timeline: Timeline(1),
            lsn: Lsn(START),
            previous: None,
        };
        let root = EpochRoot::from_bytes([3; 32]);
        let (sealer, opening) = StreamSealer::open(&start, &root, &[5; 32], b"").unwrap();
        (Agent { sealer, lsn: START }, opening)
    }

    pub(crate) fn frame(&mut self, length: usize) -> Vec<u8> {
        let (_, wal) = crate::store::conformance::object(self.lsn, length);
        let frame = self.sealer.frame(Lsn(self.lsn), Timeline(1), &wal).unwrap();
        self.lsn += length as u64;
        frame
    }
}

/// A journal with an opening and `count` frames of about `length` bytes, synced; and the bytes of each frame.
fn journal(dir: &Path, count: usize, length: usize) -> (JournalDir, Agent, Vec<Vec<u8>>) {
    let (mut journal, recovered) = JournalDir::open(dir, &name()).unwrap();
    assert_eq!((recovered.position, recovered.torn), (None, None));
    let (mut agent, opening) = Agent::open(&name());
    let mut frames = vec![opening];
    frames.extend((0..count).map(|_| agent.frame(length)));
    for frame in &frames {
        journal.append(frame).unwrap();
    }
    journal.sync().unwrap();
    (journal, agent, frames)
}

fn all(dir: &Path) -> Vec<Vec<u8>> {
    let reader = JournalReader::open(dir, &name()).unwrap();
    reader
        .frames(0)
        .unwrap()
        .map(|frame| frame.unwrap().1)
        .collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let reader = JournalReader::open(dir, &name()).unwrap();
    reader.segments().iter().map(|s| s.path.clone()).collect()
}

#[test]
fn frames_are_kept_as_they_came() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut agent, mut frames) = journal(dir.path(), 5, 3000);
    assert_eq!(journal.next_seq(), 6);
    // A group in one call.
    let group: Vec<Vec<u8>> = (0..3).map(|_| agent.frame(9000)).collect();
    let position = journal.append(&group.concat()).unwrap();
    assert_eq!((position.seq, journal.synced().unwrap().seq), (8, 5));
    assert_eq!(journal.sync().unwrap(), Some(position));
    frames.extend(group);
    assert_eq!(all(dir.path()), frames);
    drop(journal);
    let (mut journal, recovered) = JournalDir::open(dir.path(), &name()).unwrap();
    assert_eq!((recovered.position, recovered.torn), (Some(position), None));
    assert_eq!(recovered.last.unwrap().end_lsn, Lsn(agent.lsn));
    let next = agent.frame(10);
    journal.append(&next).unwrap();
    journal.sync().unwrap();
    frames.push(next);
    assert_eq!(all(dir.path()), frames);
    let some: Vec<u64> = journal
        .frames(7)
        .unwrap()
        .map(|f| f.unwrap().0.seq)
        .collect();
    assert_eq!(some, [7, 8, 9]);
}

#[test]
fn what_does_not_come_next_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut agent, frames) = journal(dir.path(), 2, 3000);
    let (next, later) = (agent.frame(100), agent.frame(100));
    let mut flipped = next.clone();
    flipped[2000] ^= 1;
    let stranger = StreamName {
        stream: StreamId([1; 16]),
        ..name()
    };
    let bad = [
        later.clone(),
        frames[2].clone(),
        flipped,
        next[..next.len() - 1].to_vec(),
        [&next[..], &[0]].concat(),
        Agent::open(&stranger).1,
        [&next[..], &next].concat(),
        vec![],
    ];
    for (number, bytes) in bad.iter().enumerate() {
        let error = journal.append(bytes).unwrap_err();
        assert!(
            matches!(error, StoreError::Refused { .. }),
            "{number}: {error}"
        );
    }
    journal.append(&next).unwrap();
    journal.append(&later).unwrap();
    journal.sync().unwrap();
    assert_eq!(all(dir.path()).len(), 5);
    // A journal begins with its own opening.
    let other = tempfile::tempdir().unwrap();
    let (mut journal, _) = JournalDir::open(other.path(), &name()).unwrap();
    assert!(journal.append(&next).is_err());
    assert!(journal.append(&Agent::open(&stranger).1).is_err());
    journal.append(&frames[0]).unwrap();
}

#[test]
fn a_torn_tail_is_cut_at_every_byte_of_the_last_frame() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut agent, frames) = journal(dir.path(), 2, 3000);
    let synced = journal.synced();
    let path = segments(dir.path()).pop().unwrap();
    let whole = fs::metadata(&path).unwrap().len();
    let last = agent.frame(500);
    journal.append(&last).unwrap();
    drop(journal);
    let full = fs::read(&path).unwrap();
    assert_eq!(full.len() as u64, whole + last.len() as u64);
    for cut in 0..last.len() {
        fs::write(&path, &full[..whole as usize + cut]).unwrap();
        let (mut journal, recovered) = JournalDir::open(dir.path(), &name()).unwrap();
        assert_eq!(recovered.position, synced, "cut at {cut}");
        let torn = recovered
            .torn
            .map(|t| (t.segment, t.offset, t.bytes, t.kept));
        assert_eq!(torn, (cut > 0).then_some((0, whole, cut as u64, None)));
        assert_eq!(fs::metadata(&path).unwrap().len(), whole);
        if cut % 512 == 0 {
            journal.append(&last).unwrap();
            journal.sync().unwrap();
            assert_eq!(all(dir.path()).len(), frames.len() + 1);
            // Back to before: the watermark has moved, so the journal is made anew.
            drop(journal);
            fs::remove_file(dir.path().join("SYNCED")).unwrap();
        }
    }
}

#[test]
fn damage_below_what_was_synced_is_not_cut_away() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _, _) = journal(dir.path(), 3, 3000);
    drop(journal);
    let path = segments(dir.path()).pop().unwrap();
    let good = fs::read(&path).unwrap();
    for at in [200, 5000, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        for bytes in [&bad[..], &good[..at]] {
            fs::write(&path, bytes).unwrap();
            let error = JournalDir::open(dir.path(), &name()).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{at}: {error}");
            assert_eq!(fs::read(&path).unwrap(), bytes, "nothing is cut");
        }
    }
    // Without a watermark (power loss) the same is a torn tail, and what could still be read is set aside.
    fs::remove_file(dir.path().join("SYNCED")).unwrap();
    let mut bad = good.clone();
    bad[5000] ^= 1;
    fs::write(&path, &bad).unwrap();
    let (_, recovered) = JournalDir::open(dir.path(), &name()).unwrap();
    let torn = recovered.torn.unwrap();
    assert_eq!((torn.offset, recovered.position.unwrap().seq), (4096, 0));
    assert_eq!(fs::read(torn.kept.unwrap()).unwrap(), bad[4096..]);
}

#[test]
fn segments_roll_and_are_read_from_any_frame() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _, frames) = journal(dir.path(), 200, MAX_FRAME_PLAIN);
    let paths = segments(dir.path());
    assert_eq!(paths.len(), 4);
    for path in &paths {
        assert!(fs::metadata(path).unwrap().len() <= MAX_SEGMENT);
    }
    assert_eq!(all(dir.path()), frames);
    for seq in [1, 62, 63, 64, 65, 150, 200] {
        let first = journal.frames(seq).unwrap().next().unwrap().unwrap();
        assert_eq!((first.0.seq, &first.1), (seq, &frames[seq as usize]));
    }
    assert!(journal.frames(201).unwrap().next().is_none());
    drop(journal);
    let (_, recovered) = JournalDir::open(dir.path(), &name()).unwrap();
    assert_eq!(recovered.position.unwrap().seq, 200);
    // A closed segment does not heal by itself.
    let mut bytes = fs::read(&paths[1]).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&paths[1], bytes).unwrap();
    let reader = JournalReader::open(dir.path(), &name()).unwrap();
    let items: Vec<_> = reader.frames(0).unwrap().collect();
    assert!(matches!(
        items.last(),
        Some(Err(StoreError::Damaged { .. }))
    ));
    fs::remove_file(&paths[1]).unwrap();
    let error = JournalDir::open(dir.path(), &name()).unwrap_err();
    assert!(
        error.to_string().contains("segment 00000001 is missing"),
        "{error}"
    );
    // Nor is a lost last segment forgotten.
    let other = tempfile::tempdir().unwrap();
    drop(self::journal(other.path(), 70, MAX_FRAME_PLAIN));
    fs::remove_file(segments(other.path()).pop().unwrap()).unwrap();
    let error = JournalDir::open(other.path(), &name()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("had been synced and is not there"),
        "{error}"
    );
}

#[test]
fn what_was_acknowledged_is_no_torn_tail_whatever_the_record_says() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _, frames) = journal(dir.path(), 5, 100);
    drop(journal);
    // Power failed: the record of what was synced is older than that, and the last frame is gone or half gone.
    fs::remove_file(dir.path().join("SYNCED")).unwrap();
    let path = &segments(dir.path())[0];
    let whole = fs::read(path).unwrap();
    for lost in [10, frames[5].len()] {
        fs::write(path, &whole[..whole.len() - lost]).unwrap();
        let error = JournalDir::open_from(dir.path(), &name(), Some(5)).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert_eq!(
            fs::metadata(path).unwrap().len(),
            (whole.len() - lost) as u64
        );
        let _ = fs::remove_file(dir.path().join("SYNCED"));
    }
    let (_, recovered) = JournalDir::open_from(dir.path(), &name(), Some(4)).unwrap();
    assert_eq!(recovered.position.unwrap().seq, 4);
}

/// Every edge fails in every way: what was synced before is there and nothing else, for what a failed write left to be
/// seen may be on no disk; and it goes on.
#[test]
fn an_append_survives_every_edge() {
    for edge_name in [
        "journal.append",
        "journal.sync",
        "journal.create",
        "dir.sync",
    ] {
        for fault in [Fault::Eio, Fault::Enospc, Fault::LateEio] {
            let dir = tempfile::tempdir().unwrap();
            let (mut journal, mut agent, frames) = journal(dir.path(), 62, MAX_FRAME_PLAIN);
            // The second of these begins a new segment.
            let group: Vec<Vec<u8>> = (0..3).map(|_| agent.frame(MAX_FRAME_PLAIN)).collect();
            edge::arm(edge_name, 1, fault);
            let done = journal.append(&group.concat()).and_then(|_| journal.sync());
            assert!(!edge::disarm(), "{edge_name}={fault:?}");
            assert!(done.is_err(), "{edge_name}={fault:?}");
            assert!(matches!(
                journal.append(&group[0]),
                Err(StoreError::Finished { .. })
            ));
            assert!(matches!(journal.sync(), Err(StoreError::Finished { .. })));
            // A closed segment was synced before the next was begun.
            let synced = match edge_name {
                "journal.append" | "journal.sync" => 62,
                _ => 63,
            };
            let (mut journal, recovered) = journal.reopen().unwrap();
            let held = recovered.position.unwrap().seq as usize;
            assert_eq!(held, synced, "{edge_name}={fault:?}");
            assert_eq!(all(dir.path()), [&frames[..], &group[..held - 62]].concat());
            for frame in &group[held - 62..] {
                journal.append(frame).unwrap();
            }
            journal.sync().unwrap();
            assert_eq!(all(dir.path()), [&frames[..], &group].concat());
        }
    }
}

#[test]
fn a_spool_gives_up_what_was_shipped_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    drop(journal(dir.path(), 200, MAX_FRAME_PLAIN));
    let (mut spool, _) = Spool::open(dir.path(), &name()).unwrap();
    let whole = spool.bytes().unwrap();
    let first = |spool: &Spool| spool.frames(0).unwrap().next().unwrap().unwrap().0.seq;
    assert_eq!(spool.remove_shipped(10).unwrap(), 0);
    let freed = spool.remove_shipped(130).unwrap();
    assert!(freed > 30 << 20 && spool.bytes().unwrap() == whole - freed);
    let kept = first(&spool);
    assert!(kept > 62 && kept <= 131);
    let position = spool.position().unwrap();
    drop(spool);
    // No embassy's journal begins in the middle.
    let error = JournalDir::open(dir.path(), &name()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    let (mut spool, recovered) = Spool::open(dir.path(), &name()).unwrap();
    assert_eq!(recovered.position, Some(position));
    assert_eq!(first(&spool), kept);
    // The last segment stays, however much was shipped.
    spool.remove_shipped(u64::MAX).unwrap();
    assert_eq!(spool.position(), Some(position));
    drop(spool);
    let (spool, recovered) = Spool::open(dir.path(), &name()).unwrap();
    assert_eq!(recovered.position, Some(position));
    let wrong = Position { seq: 3, ..position };
    assert!(spool.remove(&wrong).is_err());
    let (spool, _) = Spool::open(dir.path(), &name()).unwrap();
    spool.remove(&position).unwrap();
    assert!(!dir.path().exists());
}

#[test]
fn an_interrupted_removal_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    drop(journal(dir.path(), 200, MAX_FRAME_PLAIN));
    let paths = segments(dir.path());
    let saved: Vec<Vec<u8>> = paths.iter().map(|p| fs::read(p).unwrap()).collect();
    let (mut spool, _) = Spool::open(dir.path(), &name()).unwrap();
    spool.remove_shipped(180).unwrap();
    let kept = spool.frames(0).unwrap().next().unwrap().unwrap().0.seq;
    drop(spool);
    // As if the process had died before the second file went.
    fs::write(&paths[1], &saved[1]).unwrap();
    let (spool, _) = Spool::open(dir.path(), &name()).unwrap();
    assert_eq!(
        spool.frames(0).unwrap().next().unwrap().unwrap().0.seq,
        kept
    );
    assert!(!paths[1].exists());
}
