use proptest::prelude::*;

use super::*;
use crate::testing::{EPOCH, refuses_every_change, registry, root, state};

fn start() -> StreamStart {
    StreamStart {
        state: state(),
        registry: registry(),
        epoch: EPOCH,
        term: Term(1),
        stream: StreamId([5; 16]),
        branch: 0,
        system_id: 0x1234_5678_9abc_def0,
        timeline: Timeline(1),
        lsn: Lsn(0x100_0000),
        previous: None,
    }
}

/// A stream of an opening and these frames.
fn stream(wals: &[&[u8]]) -> (StreamSealer, Vec<Vec<u8>>) {
    let first = wals.first().copied().unwrap_or_default();
    let (mut sealer, opening) = StreamSealer::open(&start(), &root(1), &[3; 32], first).unwrap();
    let mut frames = vec![opening];
    for wal in wals {
        let lsn = sealer.position().end_lsn;
        frames.push(sealer.frame(lsn, Timeline(1), wal).unwrap());
    }
    (sealer, frames)
}

fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

#[test]
fn wal_comes_back_in_order() {
    let wals = [
        b"wal".to_vec(),
        vec![],
        vec![0; MAX_FRAME_PLAIN],
        noise(MAX_FRAME_PLAIN),
        noise(5000),
    ];
    let parts: Vec<&[u8]> = wals.iter().map(Vec::as_slice).collect();
    let (sealer, frames) = stream(&parts);
    let sizes: Vec<_> = frames.iter().map(Vec::len).collect();
    assert_eq!(sizes, [4096, 4096, 4096, 4096, 262_144, 16384]);
    let mut chain = Chain::new();
    let mut opener = StreamOpener::new(&root(1), &frames[0]).unwrap();
    chain.check(&frames[0]).unwrap();
    let mut lsn = start().lsn;
    for (wal, frame) in wals.iter().zip(&frames[1..]) {
        let header = chain.check(frame).unwrap();
        let (at, back) = opener.open(frame).unwrap();
        assert_eq!((at, &*back), (lsn, wal));
        lsn.0 += wal.len() as u64;
        assert_eq!(header.end_lsn, lsn);
        let resumed = Chain::resume(&header, chain.position().unwrap().chain);
        assert_eq!(resumed.position(), chain.position());
    }
    assert_eq!(chain.position(), Some(sealer.position()));
    assert_eq!(opener.position(), sealer.position());
}

#[test]
fn every_changed_byte_breaks_the_chain() {
    let (_, frames) = stream(&[b"wal"]);
    refuses_every_change(&frames[0], |f| Chain::new().check(f).is_ok());
    let mut chain = Chain::new();
    chain.check(&frames[0]).unwrap();
    refuses_every_change(&frames[1], |f| chain.clone().check(f).is_ok());
}

/// Puts the right chain value at the end of a changed frame, as an adversary would.
fn relink(before: &Digest, frame: &mut [u8]) {
    let at = frame.len() - CHAIN;
    let chain = link(before, &frame[..at]);
    frame[at..].copy_from_slice(&chain.0);
}

#[test]
fn every_changed_byte_is_refused_by_the_key_too() {
    let (_, frames) = stream(&[b"wal"]);
    let mut opening = frames[0].clone();
    for at in 0..opening.len() - CHAIN {
        opening[at] ^= 1 << (at % 8);
        relink(&NO_CHAIN, &mut opening);
        assert!(
            StreamOpener::new(&root(1), &opening).is_err(),
            "opening, byte {at}"
        );
        opening[at] = frames[0][at];
    }
    let before = Digest(frames[0][4096 - CHAIN..].try_into().unwrap());
    let mut frame = frames[1].clone();
    for at in 0..frame.len() - CHAIN {
        frame[at] ^= 1 << (at % 8);
        relink(&before, &mut frame);
        let mut opener = StreamOpener::new(&root(1), &frames[0]).unwrap();
        assert!(opener.open(&frame).is_err(), "frame, byte {at}");
        frame[at] = frames[1][at];
    }
    let mut opener = StreamOpener::new(&root(1), &frames[0]).unwrap();
    assert!(opener.open(&frames[1]).is_ok());
}

#[test]
fn what_does_not_come_next_is_refused() {
    let (_, frames) = stream(&[b"one", b"two", b"three"]);
    let mut chain = Chain::new();
    assert!(chain.check(&frames[1]).is_err(), "no opening");
    chain.check(&frames[0]).unwrap();
    assert!(chain.check(&frames[0]).is_err(), "a second opening");
    assert!(chain.check(&frames[2]).is_err(), "one left out");
    chain.check(&frames[1]).unwrap();
    assert!(chain.check(&frames[1]).is_err(), "the same again");
    chain.check(&frames[2]).unwrap();

    let other = StreamStart {
        stream: StreamId([6; 16]),
        ..start()
    };
    let (mut sealer, _) = StreamSealer::open(&other, &root(1), &[3; 32], b"").unwrap();
    sealer.last = FrameHeader {
        seq: 2,
        end_lsn: Lsn(start().lsn.0 + 6),
        ..sealer.last
    };
    let foreign = sealer
        .frame(sealer.last.end_lsn, Timeline(1), b"three")
        .unwrap();
    assert!(matches!(
        chain.check(&foreign),
        Err(FormatError::Misplaced {
            field: "stream",
            ..
        })
    ));
}

#[test]
fn the_sealer_refuses_gaps_and_consumes_nothing() {
    let (mut sealer, _) = stream(&[b"one"]);
    let at = sealer.position();
    assert!(
        sealer
            .frame(Lsn(at.end_lsn.0 + 1), Timeline(1), b"x")
            .is_err()
    );
    for other in [0, 2] {
        assert!(
            sealer.frame(at.end_lsn, Timeline(other), b"x").is_err(),
            "a stream has one timeline"
        );
    }
    assert!(
        sealer
            .frame(at.end_lsn, Timeline(1), &vec![0; MAX_FRAME_PLAIN + 1])
            .is_err()
    );
    assert_eq!(sealer.position(), at);
    assert!(sealer.frame(at.end_lsn, Timeline(1), b"x").is_ok());
}

#[test]
fn a_branch_that_is_not_main_is_a_hard_error() {
    let unsupported = |found| {
        Err(FormatError::Unsupported {
            what: "opening frame",
            field: "branch",
            found,
        })
    };
    let (_, frames) = stream(&[]);
    let mut frame = frames[0].clone();
    frame[FRAME_HEADER..][..2].copy_from_slice(&258_u16.to_le_bytes());
    let body = frame.len() - CHAIN;
    let chain = link(&NO_CHAIN, &frame[..body]);
    frame[body..].copy_from_slice(&chain.0);
    assert_eq!(Opening::parse(&frame).map(drop), unsupported(258));
    assert_eq!(Chain::new().check(&frame).map(drop), unsupported(258));
    let start = StreamStart {
        branch: 1,
        ..start()
    };
    let sealer = StreamSealer::open(&start, &root(1), &[3; 32], &[]);
    assert_eq!(sealer.map(drop), unsupported(1));
}

#[test]
fn another_root_opens_nothing() {
    let (_, frames) = stream(&[]);
    assert_eq!(
        StreamOpener::new(&root(2), &frames[0]).err(),
        Some(FormatError::NotOpened {
            what: "journal stream"
        })
    );
}

#[test]
fn a_cloned_machine_does_not_repeat_a_key() {
    let salts = |wal: &[u8]| {
        let (mut sealer, opening) =
            StreamSealer::open(&start(), &root(1), &[3; 32], b"same").unwrap();
        let frame = sealer.frame(start().lsn, Timeline(1), wal).unwrap();
        (opening, FrameHeader::parse(&frame).unwrap().frame_salt)
    };
    let (one, two) = (salts(b"one"), salts(b"two"));
    assert_eq!(one.0, two.0, "the same stream key");
    assert_ne!(one.1, two.1, "and yet another frame key");
}

#[test]
fn the_stream_before_is_named() {
    let previous = Some((StreamId([1; 16]), Digest([2; 32])));
    let (_, frame) = StreamSealer::open(
        &StreamStart {
            previous,
            ..start()
        },
        &root(1),
        &[3; 32],
        b"",
    )
    .unwrap();
    let (header, opening) = Opening::parse(&frame).unwrap();
    assert_eq!(opening.previous, previous);
    assert_eq!(opening.system_id, start().system_id);
    assert_eq!((header.seq, header.kind), (0, FrameKind::Opening));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_wal_round_trips(wals in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20_000), 0..8)) {
        let parts: Vec<&[u8]> = wals.iter().map(Vec::as_slice).collect();
        let (_, frames) = stream(&parts);
        let mut opener = StreamOpener::new(&root(1), &frames[0]).unwrap();
        for (wal, frame) in wals.iter().zip(&frames[1..]) {
            prop_assert_eq!(&*opener.open(frame).unwrap().1, wal);
        }
    }

    #[test]
    fn parsing_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0u8..4, class in 0u8..8) {
        let _ = FrameHeader::parse(&bytes);
        if bytes.len() > 16 {
            bytes[..8].copy_from_slice(MAGIC);
            bytes[8..16].copy_from_slice(&[1, 0, 1, 0, class, kind, 0, 0]);
        }
        let _ = FrameHeader::parse(&bytes);
        let _ = Opening::parse(&bytes);
        let _ = Chain::new().check(&bytes);
    }
}
