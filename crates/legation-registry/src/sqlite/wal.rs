//! The write-ahead log: which frames are committed, and where the last of each page lies.
//!
//! A frame counts only if its salts are those of the log's header and its checksum continues that of all frames before
//! it: after a crash the same salts and offsets can hold other frames, and behind the last commit lie the remains of
//! transactions that never were.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use super::header::read_full;
use crate::error::Context;
use crate::{Error, Result};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The magic number; its last bit says in which byte order checksums are computed.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;
/// The most frames of one log: 8 bytes are held for each, 4 GiB of log with usual pages.
const MAX_FRAMES: u32 = 1 << 20;

/// A place in a log: all frames up to it are known by their running checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Place {
    /// The salts of the log's header: new ones whenever it starts over.
    pub salts: [u32; 2],
    /// Frames up to here.
    pub frame: u32,
    /// The running checksum after them.
    pub sum: [u32; 2],
    /// Bytes in a page.
    pub page_size: u32,
}

/// The committed frames of a log.
#[derive(Debug, Default)]
pub(super) struct Wal {
    /// Where they end; `None` of a log that was never written to.
    pub end: Option<Place>,
    /// Pages of the database after the last commit.
    pub pages: u32,
    /// Page and frame, ascending by page: the last frame of each.
    pub frames: Vec<(u32, u32)>,
    /// Pages in frames after the place that was asked about, if the log holds that place.
    pub since: Option<BTreeSet<u32>>,
}

/// The largest set of changed pages that is held; with more, everything is compared.
const MAX_SINCE: usize = 1 << 18;

impl Wal {
    /// Reads the log up to frame `upto` if that is given, which must then be the end of a commit, else up to the last
    /// commit. `known` is the place that pages are asked about since.
    pub fn scan(file: &File, path: &Path, upto: Option<u32>, known: Option<&Place>) -> Result<Wal> {
        let shown = || path.display().to_string();
        let mut header = [0; HEADER];
        let got = read_full(file, &mut header, 0).at(shown)?;
        let Some(mut walk) = (got == HEADER).then(|| Walk::begin(&header)).flatten() else {
            return Ok(Wal::default());
        };
        let salts = walk.place.salts;
        let mut wal = Wal {
            end: Some(walk.place),
            ..Wal::default()
        };
        // Frames and changed pages after the last commit seen so far: they count once a commit follows.
        let mut open: Vec<(u32, u32)> = Vec::new();
        let mut since =
            known.filter(|known| known.salts == salts && known.page_size == walk.place.page_size);
        if let Some(known) = since.filter(|known| known.frame == 0) {
            wal.since = (known.sum == walk.place.sum).then(BTreeSet::new);
            since = None;
        }
        let mut overflow = false;
        let mut buffer = vec![0; FRAME_HEADER + walk.place.page_size as usize];
        while upto.is_none_or(|upto| walk.place.frame < upto) {
            if walk.place.frame == MAX_FRAMES {
                return Err(Error::refused(
                    format!("{} holds more than {MAX_FRAMES} frames", path.display()),
                    "something keeps the log from being checkpointed, such as a reader that was left open: end it, then \
                     run PRAGMA wal_checkpoint",
                ));
            }
            let at = frame_at(walk.place.frame, walk.place.page_size);
            if read_full(file, &mut buffer, at).at(shown)? < buffer.len() {
                break;
            }
            let Some((page, pages)) = walk.step(&buffer) else {
                break;
            };
            open.push((page, walk.place.frame));
            if pages > 0 {
                wal.pages = pages;
                wal.end = Some(walk.place);
                if let Some(since) = &mut wal.since {
                    since.extend(open.iter().map(|(page, _)| *page));
                    overflow |= since.len() > MAX_SINCE;
                }
                wal.frames.append(&mut open);
            }
            if overflow {
                wal.since = None;
            }
            // A mark is always the end of a commit.
            if let Some(known) = since.filter(|known| known.frame == walk.place.frame) {
                wal.since = (known.sum == walk.place.sum && pages > 0).then(BTreeSet::new);
                since = None;
            }
        }
        // The last frame of each page, by a stable sort and the last of equals.
        wal.frames.sort_by_key(|(page, _)| *page);
        wal.frames.reverse();
        wal.frames.dedup_by_key(|(page, _)| *page);
        wal.frames.reverse();
        // Frames of a page that a later commit cut off are of no database.
        wal.frames
            .truncate(wal.frames.partition_point(|(page, _)| *page <= wal.pages));
        Ok(wal)
    }
}

/// The salts in the log's header now.
pub(super) fn salts(file: &File, path: &Path) -> Result<Option<[u32; 2]>> {
    let mut header = [0; HEADER];
    let got = read_full(file, &mut header, 0).at(|| path.display().to_string())?;
    Ok(Walk::salts(&header).filter(|_| got == HEADER))
}

/// Where the page of a frame lies.
pub(super) fn page_at(frame: u32, page_size: u32) -> u64 {
    frame_at(frame.saturating_sub(1), page_size) + FRAME_HEADER as u64
}

/// Where the frame after so many begins.
pub(super) fn frame_at(frames: u32, page_size: u32) -> u64 {
    HEADER as u64 + u64::from(frames) * (FRAME_HEADER as u64 + u64::from(page_size))
}

/// The chain of checksums.
struct Walk {
    place: Place,
    big_endian: bool,
}

impl Walk {
    fn begin(header: &[u8; HEADER]) -> Option<Walk> {
        let word = |n: usize| be(header, 4 * n);
        let big_endian = word(0)? == MAGIC | 1;
        let page_size = word(2)?;
        let fits = word(0)? & !1 == MAGIC
            && word(1)? == VERSION
            && page_size.is_power_of_two()
            && (512..=65_536).contains(&page_size);
        let sum = checksum([0, 0], header.get(..24)?, big_endian);
        (fits && sum == [word(6)?, word(7)?]).then_some(Walk {
            place: Place {
                salts: [word(4)?, word(5)?],
                frame: 0,
                sum,
                page_size,
            },
            big_endian,
        })
    }

    /// The salts in the log's header now.
    fn salts(header: &[u8; HEADER]) -> Option<[u32; 2]> {
        Some([be(header, 16)?, be(header, 20)?])
    }

    /// Takes the next frame: its page, and the pages of the database if it ends a commit. `None` if it does not belong.
    fn step(&mut self, frame: &[u8]) -> Option<(u32, u32)> {
        let (head, page) = frame.split_at_checked(FRAME_HEADER)?;
        let number = be(head, 0)?;
        if number == 0 || [be(head, 8)?, be(head, 12)?] != self.place.salts {
            return None;
        }
        let sum = checksum(self.place.sum, head.get(..8)?, self.big_endian);
        let sum = checksum(sum, page, self.big_endian);
        if sum != [be(head, 16)?, be(head, 20)?] {
            return None;
        }
        self.place.sum = sum;
        self.place.frame += 1;
        Some((number, be(head, 4)?))
    }
}

fn be(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// SQLite's running checksum over pairs of words.
pub(super) fn checksum(start: [u32; 2], bytes: &[u8], big_endian: bool) -> [u32; 2] {
    let [mut a, mut b] = start;
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| {
            let word = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
            if big_endian {
                u32::from_be_bytes(word)
            } else {
                u32::from_le_bytes(word)
            }
        };
        a = a.wrapping_add(word(0)).wrapping_add(b);
        b = b.wrapping_add(word(4)).wrapping_add(a);
    }
    [a, b]
}
