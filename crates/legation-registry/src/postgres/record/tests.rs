//! Against a log that the tests write themselves, page by page; `tests/it/record.rs` compares with `pg_waldump`.

use legation_core::id::Lsn;
use proptest::prelude::*;

use super::pages::{CONTINUES, LONG_HEADER, MAGIC, OVERWRITES, PAGE};
use super::*;
use crate::postgres::crc32c::Crc32c;
use crate::postgres::point::PgTime;

const SEGMENT: u64 = 1 << 20;
const SYSTEM: u64 = 0x1234_5678_9abc_def0;

/// A record: where it starts and ends, and its bytes.
type Seen = (Lsn, Lsn, Vec<u8>);

/// A log, written.
#[derive(Debug)]
struct Log {
    major: u32,
    first: u64,
    bytes: Vec<u8>,
    prev: u64,
}

impl Log {
    fn new(major: u32) -> Self {
        let first = 5 * SEGMENT;
        Log {
            major,
            first,
            bytes: Vec::new(),
            prev: first - 64,
        }
    }

    fn at(&self) -> u64 {
        self.first + self.bytes.len() as u64
    }

    fn source(&self) -> Source {
        Source {
            system_id: SYSTEM,
            major: self.major,
            segment_size: SEGMENT as u32,
        }
    }

    fn header(&mut self, flags: u16, left: u32) {
        let at = self.at();
        assert!(at.is_multiple_of(PAGE));
        let long = at.is_multiple_of(SEGMENT);
        let magic = MAGIC.iter().find(|(m, _)| *m == self.major).unwrap().1;
        let flags = flags | if long { LONG_HEADER } else { 0 };
        self.bytes.extend(magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(1u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(left.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    /// Writes a record with main data only; returns where it starts.
    fn record(&mut self, manager: u8, info: u8, xid: u32, main: &[u8]) -> Lsn {
        let bytes = self.made(manager, info, xid, main);
        let start = self.put(&bytes, bytes.len());
        self.prev = start.0;
        start
    }

    fn made(&self, manager: u8, info: u8, xid: u32, main: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        match main.len() {
            0 => {}
            n if n < 256 => body.extend([255, n as u8]),
            n => {
                body.push(254);
                body.extend((n as u32).to_le_bytes());
            }
        }
        body.extend(main);
        let mut head = Vec::new();
        head.extend((24 + body.len() as u32).to_le_bytes());
        head.extend(xid.to_le_bytes());
        head.extend(self.prev.to_le_bytes());
        head.extend([info, manager, 0, 0]);
        let mut crc = Crc32c::new();
        crc.update(&body);
        crc.update(&head);
        head.extend(crc.value().to_le_bytes());
        head.extend(body);
        head
    }

    /// Writes the first `count` of a record's bytes over as many pages as it takes.
    fn put(&mut self, bytes: &[u8], count: usize) -> Lsn {
        if self.at().is_multiple_of(PAGE) {
            self.header(0, 0);
        }
        let start = Lsn(self.at());
        let mut done = 0;
        while done < count {
            if self.at().is_multiple_of(PAGE) {
                self.header(CONTINUES, (bytes.len() - done) as u32);
            }
            let take = (count - done).min((PAGE - self.at() % PAGE) as usize);
            self.bytes.extend(&bytes[done..done + take]);
            done += take;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        start
    }

    fn decoder(&self) -> Decoder {
        Decoder::new(self.source(), Lsn(self.first + 40)).unwrap()
    }

    /// Everything that comes out of these bytes, pushed in pieces of this size, and how it ended.
    fn read(&self, bytes: &[u8], piece: usize) -> (Vec<Seen>, Option<Broken>) {
        let mut decoder = self.decoder();
        let mut all = Vec::new();
        let mut at = self.first;
        for piece in bytes.chunks(piece.max(1)) {
            if let Err(broken) = decoder.push(Lsn(at), piece) {
                return (all, Some(broken));
            }
            at += piece.len() as u64;
            loop {
                match decoder.poll() {
                    Ok(Some(record)) => {
                        let _ = record.event();
                        all.push((record.start, record.end, record.kept.to_vec()));
                    }
                    Ok(None) => break,
                    Err(broken) => return (all, Some(broken)),
                }
            }
        }
        (all, None)
    }
}

fn commit(time: i64) -> Vec<u8> {
    time.to_le_bytes().to_vec()
}

#[test]
fn records_cross_pages_and_segments() {
    for (major, _) in MAGIC {
        let mut log = Log::new(major);
        let mut starts = Vec::new();
        for n in 0..300u32 {
            let main = vec![n as u8; (n as usize * 37) % 20_000];
            starts.push((log.record(10, 0, n, &main), main));
        }
        assert!(log.bytes.len() as u64 > SEGMENT);
        let (all, broken) = log.read(&log.bytes.clone(), 4099);
        assert_eq!(broken, None);
        assert_eq!(all.len(), starts.len());
        for ((start, end, bytes), (wanted, main)) in all.iter().zip(&starts) {
            assert_eq!(start, wanted);
            assert!(bytes.ends_with(main) && end > start);
        }
    }
}

#[test]
fn what_is_read_is_what_ends_and_prepares_transactions() {
    let mut log = Log::new(15);
    log.record(1, 0, 700, &commit(5));
    log.record(1, 0x20, 701, &commit(6));
    // COMMIT PREPARED with everything that may stand before the transaction's own number.
    let mut main = commit(7);
    main.extend(0b1_0001_1111u32.to_le_bytes());
    main.extend([0; 8]);
    for (count, size) in [(3u32, 4), (2, 12), (1, 12), (2, 16)] {
        main.extend(count.to_le_bytes());
        main.resize(main.len() + count as usize * size, 0xaa);
    }
    main.extend(702u32.to_le_bytes());
    log.record(1, 0x30 | 0x80, 0, &main);
    let mut prepare = vec![0; 72];
    prepare[..4].copy_from_slice(&0x57f9_4534u32.to_le_bytes());
    prepare[8..12].copy_from_slice(&703u32.to_le_bytes());
    prepare[54..56].copy_from_slice(&4u16.to_le_bytes());
    prepare.extend(b"abc\0");
    log.record(1, 0x10, 703, &prepare);
    let mut point = commit(9);
    point.extend(b"before-reform\0");
    point.resize(72, 0);
    log.record(0, 0x70, 0, &point);

    let mut decoder = log.decoder();
    decoder.push(Lsn(log.first), &log.bytes).unwrap();
    let mut kinds = Vec::new();
    while let Some(record) = decoder.poll().unwrap() {
        kinds.push(record.event().unwrap().kind);
    }
    let end = |xid, outcome, prepared, time| {
        Kind::End(Ending {
            xid,
            outcome,
            prepared,
            time: PgTime(time),
        })
    };
    assert_eq!(
        kinds,
        [
            end(700, Outcome::Committed, false, 5),
            end(701, Outcome::Aborted, false, 6),
            end(702, Outcome::Committed, true, 7),
            Kind::Prepare(Prepared {
                xid: 703,
                gid: "abc".into(),
                database: 0,
                time: PgTime(0)
            }),
            Kind::RestorePoint {
                name: "before-reform".into(),
                time: PgTime(9)
            },
        ]
    );
}

#[test]
fn a_record_that_was_given_up_after_a_crash_is_passed_over() {
    let mut log = Log::new(15);
    log.record(10, 0, 1, &[1; 100]);
    let torn = log.made(10, 0, 2, &[2; 20_000]);
    let room = (PAGE - log.at() % PAGE) as usize;
    log.put(&torn, room + 300);
    // The crash: the page after the last whole one is written anew, and says so.
    let page = log.bytes.len() / PAGE as usize * PAGE as usize;
    log.bytes.truncate(page);
    log.header(OVERWRITES, 0);
    let goes_on = log.record(0, 0xd0, 0, &[0; 16]);
    log.record(10, 0, 3, &[3; 100]);
    let (all, broken) = log.read(&log.bytes.clone(), 977);
    assert_eq!(broken, None);
    assert_eq!(all.len(), 3);
    assert_eq!(all[1].0, goes_on);
}

#[test]
fn a_switch_leaves_the_rest_of_its_segment_unused() {
    let mut log = Log::new(15);
    log.record(10, 0, 1, &[1; 100]);
    log.record(0, 0x40, 0, &[]);
    let rest = SEGMENT - log.at() % SEGMENT;
    log.bytes.resize(log.bytes.len() + rest as usize, 0);
    let after = log.record(10, 0, 2, &[2; 100]);
    let (all, broken) = log.read(&log.bytes.clone(), 65_536);
    assert_eq!(broken, None);
    assert_eq!(all[1].1.0, log.first + SEGMENT);
    assert_eq!(all[2].0, after);
}

#[test]
fn of_a_huge_record_the_beginning_is_kept_and_all_is_checked() {
    let mut log = Log::new(15);
    let huge = log.record(21, 0, 1, &vec![7; MAX_KEPT + 100_000]);
    log.record(10, 0, 2, &[2; 10]);
    let (all, broken) = log.read(&log.bytes.clone(), 1 << 20);
    assert_eq!((all.len(), broken), (2, None));
    assert_eq!((all[0].0, all[0].2.len()), (huge, MAX_KEPT));
    let mut bytes = log.bytes.clone();
    let late = bytes.len() - 1000;
    bytes[late] ^= 1;
    let (all, broken) = log.read(&bytes, 1 << 20);
    assert_eq!(all.len(), 0);
    assert!(broken.unwrap().why.contains("checksum"));
}

#[test]
fn what_is_no_log_is_named() {
    let mut log = Log::new(15);
    log.record(10, 0, 1, &[1; 30_000]);
    let whole = log.bytes.clone();
    let damaged = |at: usize, with: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= with;
        log.read(&bytes, 5000).1.map(|broken| broken.why)
    };
    let said = |at, word: &str| {
        let why = damaged(at, 1).unwrap_or_default();
        assert!(why.contains(word), "{why}");
    };
    said(0, "the page begins with");
    said(8, "says that it lies at");
    said(24, "another cluster");
    said(54, "as the one before it");
    said(100, "checksum");
    said(PAGE as usize + 16, "bytes of a record");
    let other = Source {
        major: 14,
        ..log.source()
    };
    assert!(Decoder::new(other, Lsn(0)).is_err());
    let mut decoder = log.decoder();
    assert!(decoder.push(Lsn(log.first + 8), &whole[8..]).is_err());
    // Pieces that overlap are one log.
    let mut decoder = log.decoder();
    decoder.push(Lsn(log.first), &whole[..9000]).unwrap();
    assert!(decoder.poll().unwrap().is_none());
    decoder.push(Lsn(log.first + 5000), &whole[5000..]).unwrap();
    decoder.push(Lsn(log.first), &whole[..100]).unwrap();
    assert!(decoder.poll().unwrap().is_some());
    assert_eq!(decoder.end(), Lsn(log.at()));
}

/// A log of records of every kind that is read, of all lengths.
fn any_log() -> impl Strategy<Value = Log> {
    let record = (
        prop::sample::select(vec![0u8, 1, 10]),
        any::<u8>(),
        any::<u32>(),
        prop::collection::vec(any::<u8>(), 0..300),
        0usize..12_000,
    );
    (
        prop::sample::select(vec![15u32, 16, 17, 18]),
        prop::collection::vec(record, 1..12),
    )
        .prop_map(|(major, records)| {
            let mut log = Log::new(major);
            for (manager, info, xid, mut main, more) in records {
                // A switch is another matter.
                let info = if manager == 0 && info & 0xf0 == 0x40 {
                    0x70
                } else {
                    info
                };
                main.resize(main.len() + more, 0x11);
                log.record(manager, info, xid, &main);
            }
            log
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn however_it_is_cut_it_is_the_same_log(log in any_log(), piece in 1usize..9000, cut in any::<prop::sample::Index>()) {
        let whole = log.read(&log.bytes.clone(), log.bytes.len());
        prop_assert_eq!(&whole.1, &None);
        prop_assert_eq!(&log.read(&log.bytes.clone(), piece), &whole);
        // Cut anywhere, what is whole before the cut comes out, and nothing else.
        let cut = cut.index(log.bytes.len());
        let (all, broken) = log.read(&log.bytes[..cut], piece);
        prop_assert_eq!(broken, None);
        prop_assert!(whole.0.starts_with(&all));
        let reach = log.first + cut as u64;
        let whole = whole.0.iter().filter(|(start, _, bytes)| last_byte(*start, bytes.len()) <= reach);
        prop_assert_eq!(all.len(), whole.count());
    }

    #[test]
    fn a_changed_byte_gives_no_record_that_was_not_written(log in any_log(), at in any::<prop::sample::Index>(), with in 1u8..) {
        let whole = log.read(&log.bytes.clone(), 8000).0;
        let mut bytes = log.bytes.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        let (all, _) = log.read(&bytes, 8000);
        prop_assert!(whole.starts_with(&all), "{} of {}", all.len(), whole.len());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..20_000), major in 15u32..19, from in any::<u64>()) {
        let source = Source { system_id: 1, major, segment_size: 1 << 20 };
        if let Ok(mut decoder) = Decoder::new(source, Lsn(from)) {
            let start = Lsn(from - from % PAGE);
            if decoder.push(start, &bytes).is_ok() {
                while let Ok(Some(record)) = decoder.poll() {
                    let _ = record.event();
                }
            }
        }
        let _ = Prepared::parse(&bytes);
    }
}

/// One past the last byte of a record, before it is aligned.
fn last_byte(start: Lsn, length: usize) -> u64 {
    let (mut at, mut left) = (start.0, length as u64);
    loop {
        let take = left.min(PAGE - at % PAGE);
        (at, left) = (at + take, left - take);
        if left == 0 {
            return at;
        }
        at += if at.is_multiple_of(SEGMENT) { 40 } else { 24 };
    }
}
