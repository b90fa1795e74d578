//! From pages to records: the rules of PostgreSQL's `xlogreader.c`, releases 15 to 18.
//!
//! A record begins anywhere on a page, aligned to eight bytes, and goes on over pages and segments. Each page says where
//! it lies, and how much of a record it continues. After a crash in the middle of a record the next page says that this
//! record is given up (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`). A switch leaves the rest of its segment unused.

use legation_core::id::Lsn;

use super::bytes::Reader;
use super::{Broken, HEADER, MAX_KEPT, Record};
use crate::postgres::crc32c::Crc32c;

/// `XLOG_BLCKSZ` of every distribution; a page that says otherwise is refused.
pub(in crate::postgres) const PAGE: u64 = 8192;
const SHORT: usize = 24;
const LONG: usize = 40;
/// The magic of a page by major release, from `xlog_internal.h`.
pub(super) const MAGIC: [(u32, u16); 4] = [(15, 0xd110), (16, 0xd113), (17, 0xd116), (18, 0xd118)];
pub(super) const CONTINUES: u16 = 0x0001;
pub(super) const LONG_HEADER: u16 = 0x0002;
pub(super) const OVERWRITES: u16 = 0x0008;
const FLAGS: u16 = 0x000f;
/// No record is as long as the largest allocation of the server.
const MAX_RECORD: u32 = 0x3fff_ffff;
/// `RM_XLOG_ID` and its `XLOG_SWITCH`.
const XLOG: u8 = 0;
const SWITCH: u8 = 0x40;

/// What the WAL is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The cluster.
    pub system_id: u64,
    /// Its major release.
    pub major: u32,
    /// Bytes of a segment.
    pub segment_size: u32,
}

/// Takes bytes, gives records.
#[derive(Debug)]
pub struct Decoder {
    source: Source,
    magic: u16,
    /// Bytes that were pushed and are not used up, the first of them at `at`.
    waiting: Vec<u8>,
    used: usize,
    at: Lsn,
    doing: Doing,
    timeline: u32,
    /// The record that is being read, or was read last: its first bytes.
    kept: Vec<u8>,
    start: Lsn,
    total: u32,
    got: u32,
    crc: Crc32c,
    /// The last whole record.
    last: Option<(Lsn, Lsn)>,
    broken: Option<Broken>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// Everything before this position is passed over; pages have headers, which are checked.
    Skip(Lsn),
    /// The same, in the rest of a segment that a switch left unused: there are no headers.
    Unused(Lsn),
    /// The next bytes begin a record.
    Begin,
    /// The next bytes go on with it.
    Within,
}

impl Decoder {
    /// A decoder whose first record starts at `first`.
    ///
    /// # Errors
    /// For a release whose WAL this build does not know.
    pub fn new(source: Source, first: Lsn) -> Result<Self, Broken> {
        // Room above for whatever is pushed: no real log comes near.
        if first.0 > u64::MAX / 2 {
            return Err(Broken {
                at: first,
                why: "no log is as long as this".into(),
            });
        }
        let known = MAGIC.iter().find(|(major, _)| *major == source.major);
        let magic = known.map(|(_, magic)| *magic).ok_or_else(|| Broken {
            at: first,
            why: format!(
                "the WAL of PostgreSQL {} is not known to this build",
                source.major
            ),
        })?;
        Ok(Decoder {
            source,
            magic,
            waiting: Vec::new(),
            used: 0,
            at: Lsn(first.0 - first.0 % PAGE),
            doing: Doing::Skip(first),
            timeline: 0,
            kept: Vec::new(),
            start: first,
            total: 0,
            got: 0,
            crc: Crc32c::new(),
            last: None,
            broken: None,
        })
    }

    /// Adds bytes. What lies before those that are needed, or came already, is passed over.
    ///
    /// # Errors
    /// When bytes between are missing.
    pub fn push(&mut self, start: Lsn, bytes: &[u8]) -> Result<(), Broken> {
        self.waiting.drain(..self.used);
        self.used = 0;
        let next = self.at.0.saturating_add(self.waiting.len() as u64);
        let Some(skip) = next.checked_sub(start.0) else {
            return self.fail(Lsn(next), format!("the bytes up to {start} are missing"));
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        if let Some(new) = bytes.get(skip..) {
            self.waiting.extend_from_slice(new);
        }
        Ok(())
    }

    /// The end of the last whole record, where the next one is expected; where the first is expected, before that.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.last.map_or(self.start, |(_, end)| end)
    }

    /// The next whole record; `None` until more bytes are pushed.
    ///
    /// # Errors
    /// Where the log ends because what follows is none, now and whenever it is asked again.
    pub fn poll(&mut self) -> Result<Option<Record<'_>>, Broken> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        if !self.advance()? {
            return Ok(None);
        }
        Ok(self.record())
    }

    fn record(&self) -> Option<Record<'_>> {
        let (start, end) = self.last?;
        let mut header = Reader::new(&self.kept);
        let (length, xid, prev) = (header.u32()?, header.u32()?, header.u64()?);
        let (info, manager) = (header.u8()?, header.u8()?);
        Some(Record {
            start,
            end,
            prev: Lsn(prev),
            xid,
            manager,
            info,
            length,
            major: self.source.major,
            kept: &self.kept,
        })
    }

    fn fail<T>(&mut self, at: Lsn, why: impl Into<String>) -> Result<T, Broken> {
        let broken = Broken {
            at,
            why: why.into(),
        };
        self.broken = Some(broken.clone());
        Err(broken)
    }

    /// Uses up bytes until a record is whole; false when there are too few.
    fn advance(&mut self) -> Result<bool, Broken> {
        loop {
            let there = self.waiting.len() - self.used;
            if let Doing::Unused(until) = self.doing {
                if !self.skip(until, there as u64) {
                    return Ok(false);
                }
                self.doing = Doing::Begin;
                continue;
            }
            if matches!(self.doing, Doing::Skip(until) if self.at >= until) {
                self.doing = Doing::Begin;
            }
            if self.at.0.is_multiple_of(PAGE) {
                match self.page()? {
                    true => continue,
                    false => return Ok(false),
                }
            }
            let left = PAGE - self.at.0 % PAGE;
            match self.doing {
                Doing::Skip(until) => {
                    let page = Lsn(until.0.min(self.at.0.saturating_add(left)));
                    if !self.skip(page, there as u64) {
                        return Ok(false);
                    }
                }
                Doing::Begin => {
                    if !self.begin()? {
                        return Ok(false);
                    }
                }
                Doing::Within => {
                    let wanted = u64::from(self.total - self.got);
                    let take = wanted.min(left).min(there as u64);
                    if take == 0 {
                        return Ok(false);
                    }
                    if self.take(take as usize)? {
                        return Ok(true);
                    }
                }
                Doing::Unused(_) => {}
            }
        }
    }

    /// Passes over bytes up to `until`; whether it got there.
    fn skip(&mut self, until: Lsn, there: u64) -> bool {
        let skip = until.0.saturating_sub(self.at.0).min(there);
        self.used += skip as usize;
        self.at.0 += skip;
        self.at >= until
    }

    /// The header of the page that begins here; false if it is not there yet.
    fn page(&mut self) -> Result<bool, Broken> {
        let at = self.at;
        let first = at.0.is_multiple_of(u64::from(self.source.segment_size));
        let size = if first { LONG } else { SHORT };
        let Some(header) = self.waiting.get(self.used..self.used + size) else {
            return Ok(false);
        };
        let mut from = Reader::new(header);
        let fields = (from.u16(), from.u16(), from.u32(), from.u64(), from.u32());
        let (Some(magic), Some(flags), Some(timeline), Some(address), Some(left)) = fields else {
            return Ok(false);
        };
        let rest = (from.u32(), from.u64(), from.u32(), from.u32());
        if magic != self.magic {
            return self.fail(
                at,
                format!(
                    "the page begins with {magic:#06x}, and with {:#06x} in PostgreSQL {}",
                    self.magic, self.source.major
                ),
            );
        }
        if flags & !FLAGS != 0 || (flags & LONG_HEADER != 0) != first {
            return self.fail(at, format!("the page has the flags {flags:#06x}"));
        }
        if address != at.0 {
            return self.fail(
                at,
                format!("the page says that it lies at {}", Lsn(address)),
            );
        }
        if timeline < self.timeline {
            return self.fail(
                at,
                format!("timeline {timeline} follows timeline {}", self.timeline),
            );
        }
        if let (true, (_, system_id, segment, page)) = (first, rest) {
            let says = (system_id, segment, page);
            let is = (
                Some(self.source.system_id),
                Some(self.source.segment_size),
                Some(PAGE as u32),
            );
            if says != is {
                return self.fail(at, "the segment is of another cluster, or of another shape");
            }
        }
        if !self.goes_on(at, flags, left)? {
            // What it would have gone on with was given up: a record begins after the header.
            self.doing = Doing::Begin;
        }
        self.timeline = timeline;
        self.used += size;
        self.at.0 += size as u64;
        Ok(true)
    }

    /// Whether a page with these flags goes on with what was before it; false if that was given up.
    fn goes_on(&mut self, at: Lsn, flags: u16, left: u32) -> Result<bool, Broken> {
        let continues = flags & CONTINUES != 0;
        match self.doing {
            Doing::Within if flags & OVERWRITES != 0 => Ok(false),
            Doing::Within if !continues || left != self.total - self.got => self.fail(
                at,
                format!(
                    "the page continues {} bytes of a record, and {} are due",
                    if continues { left } else { 0 },
                    self.total - self.got
                ),
            ),
            Doing::Begin if continues => {
                self.fail(at, "the page continues a record where one should begin")
            }
            _ => Ok(true),
        }
    }

    /// The length of the record that begins here; false if it is not there yet.
    fn begin(&mut self) -> Result<bool, Broken> {
        // Records are aligned, so that the length is never cut by the end of a page.
        let length = self.waiting.get(self.used..self.used + 4);
        let Some(total) = length.and_then(|bytes| Reader::new(bytes).u32()) else {
            return Ok(false);
        };
        if !(HEADER as u32..=MAX_RECORD).contains(&total) {
            return self.fail(self.at, format!("a record of {total} bytes"));
        }
        (self.start, self.total, self.got) = (self.at, total, 0);
        self.kept.clear();
        self.crc = Crc32c::new();
        self.doing = Doing::Within;
        Ok(true)
    }

    /// Takes so many bytes of the record; whether it is whole.
    fn take(&mut self, count: usize) -> Result<bool, Broken> {
        let bytes = self.waiting.get(self.used..self.used + count);
        let bytes = bytes.unwrap_or_default();
        let room = MAX_KEPT - self.kept.len();
        self.kept.extend_from_slice(&bytes[..count.min(room)]);
        let of_header = HEADER.saturating_sub(self.got as usize).min(count);
        self.crc.update(&bytes[of_header..]);
        let before = self.got;
        self.got += count as u32;
        self.used += count;
        self.at.0 += count as u64;
        if before < HEADER as u32 && self.got >= HEADER as u32 {
            self.follows()?;
        }
        if self.got < self.total {
            return Ok(false);
        }
        let header = self.kept.get(..HEADER).unwrap_or_default();
        let (says, mut crc) = (
            Reader::new(header.get(20..).unwrap_or_default()).u32(),
            self.crc,
        );
        crc.update(header.get(..20).unwrap_or_default());
        if says != Some(crc.value()) {
            return self.fail(self.start, "a record fails its checksum");
        }
        let (info, manager) = (
            header.get(16).copied().unwrap_or_default(),
            header.get(17).copied().unwrap_or_default(),
        );
        let mut end = self.at.0.next_multiple_of(8);
        self.doing = Doing::Skip(Lsn(end));
        if (manager, info & 0xf0) == (XLOG, SWITCH) {
            end = end.next_multiple_of(u64::from(self.source.segment_size).max(1));
            self.doing = Doing::Unused(Lsn(end));
        }
        self.last = Some((self.start, Lsn(end)));
        Ok(true)
    }

    /// Whether the record's header names the record before it: what is left of older WAL does not.
    fn follows(&mut self) -> Result<(), Broken> {
        let header = self.kept.get(8..16).unwrap_or_default();
        let prev = Reader::new(header).u64().map(Lsn);
        let fits = match self.last {
            Some((start, _)) => prev == Some(start),
            None => prev.is_some_and(|prev| prev < self.start),
        };
        if !fits {
            let prev = prev.unwrap_or_default();
            return self.fail(
                self.start,
                format!("a record names {prev} as the one before it"),
            );
        }
        Ok(())
    }
}
