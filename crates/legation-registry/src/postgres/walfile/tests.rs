use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::facts::Facts;
use super::super::restore::Target;
use super::*;

const SEGMENT: u64 = 1 << 20;

fn plan(start: u64, stop: u64, end: u64) -> Plan {
    let facts = Facts {
        system_id: 1,
        timeline: Timeline(1),
        start: Lsn(start),
        stop: Lsn(stop),
        version: "15".into(),
        major: 15,
        block_size: 8192,
        wal_segment_size: SEGMENT as u32,
        data_checksums: true,
        label: "l".into(),
        superuser: "postgres".into(),
        database: "d".into(),
        locales: BTreeSet::new(),
        settings: BTreeMap::new(),
    };
    let first = facts.segment_start(facts.start);
    Plan::new(facts, first, Lsn(end), Target::EndOfWal).unwrap()
}

fn byte(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1
}

fn piece(from: u64, to: u64) -> WalPiece {
    WalPiece {
        timeline: Timeline(1),
        start: Lsn(from),
        bytes: (from..to).map(byte).collect(),
    }
}

#[test]
fn names_say_where_segments_begin() {
    for (number, size) in [(0x1_05, 16 << 20), (4095, 1 << 20), (4, 1 << 30)] {
        let name = segment_name(Timeline(3), number, size);
        assert_eq!(
            segment_start(&name, size),
            Some(Lsn(number * size)),
            "{name}"
        );
    }
    for name in [
        "",
        "000000010000000100000005x",
        "0000000100000001ä0000005",
        "00000001000000010000000g",
    ] {
        assert_eq!(segment_start(name, 16 << 20), None, "{name}");
    }
}

#[test]
fn names() {
    assert_eq!(
        segment_name(Timeline(1), 0x1_05, 16 << 20),
        "000000010000000100000005"
    );
    assert_eq!(
        segment_name(Timeline(0x1f), 4095, 1 << 20),
        "0000001F0000000000000FFF"
    );
    assert_eq!(
        segment_name(Timeline(1), 4, 1 << 30),
        "000000010000000100000000"
    );
}

proptest! {
    #[test]
    fn pieces_of_any_size_fill_the_segments_and_nothing_else(
        start in 0u64..SEGMENT * 2,
        length in 1u64..SEGMENT * 2,
        cuts in prop::collection::vec((1u64..300_000, 0u64..5000), 1..20),
    ) {
        let (from, end) = (start / SEGMENT * SEGMENT, start + length);
        let plan = plan(start, start, end);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("000000010000000000000000"), b"stale").unwrap();
        let mut writer = WalWriter::new(dir.path().into(), &plan).unwrap();
        let (mut at, mut turn, mut done) = (from, 0, false);
        while at < end {
            let (size, again) = cuts[turn % cuts.len()];
            // Pieces may go back over what is there, and past the end.
            done = writer.accept(&piece(at.saturating_sub(again), at + size)).unwrap();
            at += size;
            turn += 1;
        }
        prop_assert!(done);
        writer.finish().unwrap();
        for number in from / SEGMENT..=(end - 1) / SEGMENT {
            let file = std::fs::read(dir.path().join(segment_name(Timeline(1), number, SEGMENT))).unwrap();
            prop_assert_eq!(file.len() as u64, SEGMENT);
            for (i, found) in file.iter().enumerate() {
                let position = number * SEGMENT + i as u64;
                prop_assert_eq!(*found, if position < end { byte(position) } else { 0 });
            }
        }
        let segments = (end - 1) / SEGMENT - from / SEGMENT + 1;
        prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count() as u64, segments + 1);
    }
}

#[test]
fn gaps_contradictions_and_other_timelines_are_refused() {
    let plan = plan(100, 200, 5000);
    let attempt = |pieces: &[WalPiece]| {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = WalWriter::new(dir.path().into(), &plan)?;
        for piece in pieces {
            writer.accept(piece)?;
        }
        writer.finish().map(drop)
    };
    let says = |pieces: &[WalPiece], text: &str| {
        let error = attempt(pieces).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    attempt(&[piece(0, 3000), piece(2000, 9000)]).unwrap();
    says(&[], "it ends at 0/0");
    says(&[piece(0, 3000)], "it ends at 0/BB8, and 0/1388 is needed");
    says(
        &[piece(0, 3000), piece(3001, 9000)],
        "0/BB8 to 0/BB9 is missing",
    );
    says(&[piece(1, 9000)], "0/0 to 0/1 is missing");
    let mut other = piece(2000, 9000);
    other.bytes[10] ^= 1;
    says(&[piece(0, 3000), other], "two streams disagree");
    let later = WalPiece {
        timeline: Timeline(2),
        ..piece(3000, 9000)
    };
    attempt(&[piece(0, 3000), later.clone()]).unwrap();
    says(
        &[piece(0, 2999), later.clone()],
        "0/BB7 to 0/BB8 is missing",
    );
    let early = WalPiece {
        timeline: Timeline(2),
        ..piece(2999, 9000)
    };
    says(
        &[piece(0, 3000), early],
        "in timeline 2 at 0/BB7, after timeline 1",
    );
    let back = piece(4000, 9000);
    let part = WalPiece {
        timeline: Timeline(2),
        ..piece(3000, 4000)
    };
    says(
        &[piece(0, 3000), part, back],
        "in timeline 1 at 0/FA0, after timeline 2",
    );
    let overflow = WalPiece {
        start: Lsn(u64::MAX - 3),
        ..piece(0, 10)
    };
    says(&[overflow], "overflows");
}

#[test]
fn a_later_timeline_goes_on_in_its_own_files_with_what_came_before_in_that_segment() {
    let (switch, end) = (SEGMENT + 5000, 2 * SEGMENT + 70);
    let plan = plan(100, 200, end);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = WalWriter::new(dir.path().into(), &plan).unwrap();
    writer.accept(&piece(0, switch)).unwrap();
    let later = WalPiece {
        timeline: Timeline(3),
        ..piece(switch, end)
    };
    assert!(writer.accept(&later).unwrap());
    let switches = writer.finish().unwrap();
    let expected = Switch {
        from: Timeline(1),
        at: Lsn(switch),
        to: Timeline(3),
    };
    assert_eq!(switches, [expected]);
    let read = |timeline, number| {
        let name = segment_name(Timeline(timeline), number, SEGMENT);
        std::fs::read(dir.path().join(name)).unwrap()
    };
    for (timeline, number, last) in [
        (1, 0, SEGMENT),
        (1, 1, switch),
        (3, 1, 2 * SEGMENT),
        (3, 2, end),
    ] {
        for (i, found) in read(timeline, number).iter().enumerate() {
            let position = number * SEGMENT + i as u64;
            assert_eq!(*found, if position < last { byte(position) } else { 0 });
        }
    }
    assert!(
        !dir.path()
            .join(segment_name(Timeline(3), 0, SEGMENT))
            .exists()
    );
}
