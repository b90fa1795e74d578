//! The index of the write-ahead log, as far as it says what is committed: the file `-shm`, which SQLite keeps for the
//! processes of one machine, in that machine's byte order.

use std::fs::File;

use super::header::read_full;
use super::wal::checksum;

/// Length of one copy of its header; two copies stand at its start.
const LEN: usize = 48;
/// Where it says how many frames were copied into the database file.
const BACKFILLED: usize = 2 * LEN;
const VERSION: u32 = 3_007_000;
/// How often the two copies are read until they are equal: a writer changes one after the other.
const TRIES: u32 = 100;

/// What is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Committed {
    /// The last committed frame; 0 if all is in the database file.
    pub frame: u32,
    /// The running checksum after it.
    pub sum: [u32; 2],
    /// The salts of the log.
    pub salts: [u32; 2],
    /// Frames up to here are in the database file too.
    pub backfilled: u32,
}

/// Reads what is committed now; `None` if the index does not hold.
pub(super) fn committed(file: &File) -> Option<Committed> {
    let mut before = None;
    for _ in 0..TRIES {
        let mut bytes = [0; BACKFILLED + 4];
        if read_full(file, &mut bytes, 0).ok()? < bytes.len() {
            return None;
        }
        let (header, rest) = bytes.split_at(LEN);
        if rest.starts_with(header) {
            // The number of copied frames is of this log only if the log was not started over around its reading.
            let found = parse(header, &bytes[BACKFILLED..]);
            match before.take() {
                Some(before) if Some(before) == found => return found,
                _ => before = found,
            }
        }
        std::thread::yield_now();
    }
    None
}

fn parse(bytes: &[u8], backfilled: &[u8]) -> Option<Committed> {
    let word = |n: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(
            bytes.get(4 * n..4 * n + 4)?.try_into().ok()?,
        ))
    };
    // The salts are kept as the log has them.
    let salt = |n: usize| -> Option<u32> { Some(u32::from_be(word(n)?)) };
    let sum = checksum([0, 0], bytes.get(..40)?, cfg!(target_endian = "big"));
    let is_init = *bytes.get(12)? == 1;
    let frame = word(4)?;
    (is_init && word(0)? == VERSION && sum == [word(10)?, word(11)?]).then_some(Committed {
        frame,
        sum: [word(6)?, word(7)?],
        salts: [salt(8)?, salt(9)?],
        backfilled: u32::from_ne_bytes(backfilled.try_into().ok()?).min(frame),
    })
}
