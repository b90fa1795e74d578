//! Reading segments: which there are, what is in them, and where they stop to hold.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use legation_core::id::Digest;
use legation_core::journal::{Chain, FRAME_HEADER, FrameHeader, MAX_FRAME_BYTES, Position};
use legation_core::size::SizeClass;

use super::{MAX_SEGMENT, StreamName};
use crate::disk::{self, Change};
use crate::durable;
use crate::store::StoreError;

/// Name of the record that a spool keeps of what it removed.
pub(super) const BASE: &str = "BASE";
/// Highest segment number: eight digits.
pub(super) const LAST: u32 = 99_999_999;
const SYNCED: &str = "SYNCED";
const CHAIN: usize = 32;

/// Bytes of a whole frame.
pub(super) fn frame_size(header: &FrameHeader) -> usize {
    header.size.bytes()
}

/// One segment's file.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) path: PathBuf,
}

impl Segment {
    pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
        dir.join(format!("{number:08}"))
    }

    /// All segments, ascending. Their numbers must be without a gap.
    fn all(dir: &Path, name: &StreamName) -> Result<Vec<Segment>, StoreError> {
        let failed = |e| StoreError::io(format!("read {name}"), e);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let file = entry.map_err(failed)?.file_name();
            let digits = file.to_str().filter(|t| t.len() == 8);
            let digits = digits.filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
            numbers.extend(digits.and_then(|t| t.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        for pair in numbers.windows(2) {
            if pair[0] + 1 != pair[1] {
                let why = format!("segment {:08} is missing", pair[0] + 1);
                return Err(StoreError::Damaged {
                    what: name.to_string(),
                    why,
                });
            }
        }
        let segment = |number| Segment {
            number,
            path: Segment::path(dir, number),
        };
        Ok(numbers.into_iter().map(segment).collect())
    }
}

/// How far the last segment is known to be synced: a lower bound, never above the truth, because it is written after the
/// sync and not synced itself. It tells a torn tail from damage to what was acknowledged.
#[derive(Debug)]
pub(crate) struct Watermark {
    path: PathBuf,
    file: File,
}

impl Watermark {
    pub(super) fn open(dir: &Path) -> io::Result<Watermark> {
        let path = dir.join(SYNCED);
        let file = durable::open_or_create(&path)?;
        Ok(Watermark { path, file })
    }

    /// Reads the one in `dir`, if there is one that holds.
    pub(crate) fn peek(dir: &Path) -> Option<(u32, u64)> {
        let path = dir.join(SYNCED);
        let file = durable::open_read(&path).ok()?;
        Watermark { path, file }.read()
    }

    /// Segment and length; `None` when there is none that holds.
    pub(super) fn read(&self) -> Option<(u32, u64)> {
        let mut record = [0u8; 32];
        self.file.read_exact_at(&mut record, 0).ok()?;
        let (values, check) = record.split_at(16);
        let segment = u64::from_le_bytes(values[..8].try_into().ok()?);
        let length = u64::from_le_bytes(values[8..].try_into().ok()?);
        (Digest::of(values).0[..16] == *check).then_some((u32::try_from(segment).ok()?, length))
    }

    /// Best effort by nature: a watermark that could not be written is only lower than it could be.
    pub(super) fn write(&mut self, segment: u32, length: u64) {
        let mut record = u64::from(segment).to_le_bytes().to_vec();
        record.extend_from_slice(&length.to_le_bytes());
        let check = Digest::of(&record);
        record.extend_from_slice(&check.0[..16]);
        let _ = disk::change(&self.path, Change::Write(0, &record), || {
            self.file.write_all_at(&record, 0)
        });
    }
}

/// What a spool removed: the last frame that is gone, which the first one kept must follow.
pub(super) struct Base {
    pub(super) header: [u8; FRAME_HEADER],
    pub(super) chain: Digest,
}

impl Base {
    pub(super) fn read(dir: &Path) -> io::Result<Option<Base>> {
        let bytes = match durable::read_bounded(&dir.join(BASE), (FRAME_HEADER + CHAIN) as u64) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let cut = || io::Error::new(io::ErrorKind::InvalidData, "BASE is cut short");
        let (header, chain) = bytes.split_first_chunk::<FRAME_HEADER>().ok_or_else(cut)?;
        let chain: [u8; CHAIN] = chain.try_into().map_err(|_| cut())?;
        Ok(Some(Base {
            header: *header,
            chain: Digest(chain),
        }))
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        durable::write_atomic(&dir.join(BASE), &[&self.header[..], &self.chain.0].concat())
    }

    pub(super) fn parse(&self) -> Option<FrameHeader> {
        FrameHeader::parse(&self.header).ok()
    }
}

/// A stream's journal, open for reading by anyone. It sees the segments that were there when it was opened.
#[derive(Debug, Clone)]
pub struct JournalReader {
    dir: PathBuf,
    name: StreamName,
    segments: Vec<Segment>,
}

impl JournalReader {
    /// Opens the journal of `name` in `dir`.
    ///
    /// # Errors
    /// `Damaged` when a segment is missing; `Io`.
    pub fn open(dir: &Path, name: &StreamName) -> Result<JournalReader, StoreError> {
        let segments = Segment::all(dir, name)?;
        Ok(JournalReader {
            dir: dir.to_owned(),
            name: *name,
            segments,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Frames from number `seq` on, in order. The chain is verified from the beginning of the segment that holds it.
    ///
    /// # Errors
    /// `Damaged`; `Io`.
    pub fn frames(&self, seq: u64) -> Result<Frames, StoreError> {
        let mut start = 0;
        for (number, segment) in self.segments.iter().enumerate().skip(1) {
            match first_header(&segment.path).map_err(|e| self.failed(e))? {
                Some(header) if header.seq <= seq => start = number,
                _ => break,
            }
        }
        Ok(self.frames_of(start)?.from(seq))
    }

    pub(super) fn last_segment(&self) -> Result<Frames, StoreError> {
        self.frames_of(self.segments.len().saturating_sub(1))
    }

    fn frames_of(&self, start: usize) -> Result<Frames, StoreError> {
        let chain = match start.checked_sub(1).and_then(|n| self.segments.get(n)) {
            Some(before) => chain_after(&before.path).map_err(|e| self.failed(e))?,
            None => match Base::read(&self.dir).map_err(|e| self.failed(e))? {
                Some(base) => base
                    .parse()
                    .map(|header| Chain::resume(&header, base.chain)),
                None => Some(Chain::new()),
            },
        };
        let Some(chain) = chain else {
            let why = "the frame before it cannot be read".to_owned();
            let number = self.segments.get(start).map_or(0, |s| s.number);
            let what = format!("{}, segment {number:08}", self.name);
            return Err(StoreError::Damaged { what, why });
        };
        Ok(Frames {
            name: self.name,
            segments: self.segments.get(start..).unwrap_or_default().to_vec(),
            at: 0,
            file: None,
            offset: 0,
            chain,
            last: None,
            from: 0,
            until: u64::MAX,
            stop: Stop::End,
            done: false,
        })
    }

    fn failed(&self, e: io::Error) -> StoreError {
        StoreError::io(format!("read {}", self.name), e)
    }
}

/// Why reading stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// At the end of the last segment.
    End,
    /// At bytes that are no next frame.
    Bad {
        offset: u64,
        length: u64,
        why: String,
    },
}

/// Frames in order, each checked against the chain.
///
/// As an iterator it ends at the last whole frame of the last segment, whatever follows (a writer may be in the midst of
/// it); bytes that do not hold anywhere before are an error, and the last item.
#[derive(Debug)]
pub struct Frames {
    name: StreamName,
    segments: Vec<Segment>,
    at: usize,
    file: Option<(File, u64)>,
    offset: u64,
    chain: Chain,
    last: Option<FrameHeader>,
    from: u64,
    until: u64,
    stop: Stop,
    done: bool,
}

impl Frames {
    /// Leaves out frames before number `seq`; they are still verified.
    fn from(mut self, seq: u64) -> Frames {
        self.from = seq;
        self
    }

    /// Ends before frame number `seq`.
    pub(super) fn until(mut self, seq: u64) -> Frames {
        self.until = seq;
        self
    }

    /// The last frame that was verified.
    pub fn position(&self) -> Option<Position> {
        self.chain.position()
    }

    /// The next frame that holds, or `None` where reading stops; [`Frames::stopped`] says why.
    pub(super) fn next_frame(&mut self) -> Result<Option<(FrameHeader, Vec<u8>)>, StoreError> {
        loop {
            let Some(segment) = self.segments.get(self.at).cloned() else {
                return Ok(None);
            };
            let failed = |e| StoreError::io(format!("read {}", segment.path.display()), e);
            if self.file.is_none() {
                let file = durable::open_read(&segment.path).map_err(failed)?;
                let length = file.metadata().map_err(failed)?.len();
                (self.file, self.offset) = (Some((file, length)), 0);
            }
            let Some((file, length)) = &self.file else {
                return Ok(None);
            };
            let (length, last) = (*length, self.at + 1 == self.segments.len());
            if self.offset == length {
                if last {
                    return Ok(None);
                }
                self.at += 1;
                self.file = None;
                continue;
            }
            let why = match read_frame(file, self.offset, length).map_err(failed)? {
                Err(why) => why,
                Ok(frame) => match self.chain.check(&frame) {
                    Ok(header) if self.name.is_of(&header) => {
                        self.offset += frame.len() as u64;
                        self.last = Some(header);
                        return Ok(Some((header, frame)));
                    }
                    Ok(_) => "a frame of another stream".to_owned(),
                    Err(e) => e.to_string(),
                },
            };
            if !last {
                return Err(self.damaged(&why));
            }
            self.stop = Stop::Bad {
                offset: self.offset,
                length,
                why,
            };
            return Ok(None);
        }
    }

    /// Bytes of the last segment that hold, and why reading stopped there.
    pub(super) fn stopped(&self) -> (u64, Stop) {
        (self.offset, self.stop.clone())
    }

    pub(super) fn into_chain(self) -> (Chain, Option<FrameHeader>) {
        (self.chain, self.last)
    }

    /// Where reading is, for messages: segment number and byte.
    fn place(&self) -> (u32, u64) {
        (
            self.segments.get(self.at).map_or(0, |s| s.number),
            self.offset,
        )
    }

    fn damaged(&self, why: &str) -> StoreError {
        let (segment, offset) = self.place();
        let what = format!("{}, segment {segment:08}, byte {offset}", self.name);
        StoreError::Damaged {
            what,
            why: why.to_owned(),
        }
    }
}

impl Iterator for Frames {
    type Item = Result<(FrameHeader, Vec<u8>), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            match self.next_frame() {
                Ok(Some((header, _))) if header.seq >= self.until => self.done = true,
                Ok(Some((header, _))) if header.seq < self.from => {}
                Ok(Some(frame)) => return Some(Ok(frame)),
                Ok(None) => self.done = true,
                Err(e) => {
                    self.done = true;
                    return Some(Err(e));
                }
            }
        }
        None
    }
}

/// Copies the tail of a segment aside when readable frames of this stream follow the one that does not hold: then it
/// may be more than an unfinished write, and people may want to see it. At most one segment's size.
pub(super) fn set_aside(
    dir: &Path,
    name: &StreamName,
    number: u32,
    offset: u64,
) -> io::Result<Option<PathBuf>> {
    let bytes = durable::read_bounded(&Segment::path(dir, number), 2 * MAX_SEGMENT)?;
    let tail = bytes.get(offset as usize..).unwrap_or_default();
    let step = SizeClass::K4.bytes();
    let follows = (1..tail.len().div_ceil(step)).any(|n| {
        let header = tail.get(n * step..n * step + FRAME_HEADER);
        header
            .and_then(|h| FrameHeader::parse(h).ok())
            .is_some_and(|h| name.is_of(&h))
    });
    if !follows {
        return Ok(None);
    }
    let path = dir.join(format!("torn-{number:08}-{offset}"));
    durable::write_atomic(&path, tail)?;
    Ok(Some(path))
}

/// The frame at `offset`, or why there is none.
fn read_frame(file: &File, offset: u64, length: u64) -> io::Result<Result<Vec<u8>, String>> {
    let short = || Ok(Err("the last frame is cut short".to_owned()));
    if length - offset < FRAME_HEADER as u64 {
        return short();
    }
    let mut header = [0u8; FRAME_HEADER];
    file.read_exact_at(&mut header, offset)?;
    let size = match FrameHeader::parse(&header) {
        Ok(header) => frame_size(&header),
        Err(e) => return Ok(Err(e.to_string())),
    };
    if size > MAX_FRAME_BYTES || length - offset < size as u64 {
        return short();
    }
    let mut frame = vec![0; size];
    file.read_exact_at(&mut frame, offset)?;
    Ok(Ok(frame))
}

pub(super) fn first_header(path: &Path) -> io::Result<Option<FrameHeader>> {
    let file = durable::open_read(path)?;
    if file.metadata()?.len() < FRAME_HEADER as u64 {
        return Ok(None);
    }
    let mut header = [0u8; FRAME_HEADER];
    file.read_exact_at(&mut header, 0)?;
    Ok(FrameHeader::parse(&header).ok())
}

/// The last frame of a closed segment, found by its headers alone: raw header and chain value.
pub(super) fn last_frame(path: &Path) -> io::Result<Option<Base>> {
    let file = durable::open_read(path)?;
    let length = file.metadata()?.len();
    let (mut offset, mut header) = (0, [0u8; FRAME_HEADER]);
    while length - offset >= FRAME_HEADER as u64 {
        file.read_exact_at(&mut header, offset)?;
        let Ok(parsed) = FrameHeader::parse(&header) else {
            return Ok(None);
        };
        offset += frame_size(&parsed) as u64;
        if offset > length {
            return Ok(None);
        }
    }
    if offset == 0 || offset != length {
        return Ok(None);
    }
    let mut chain = [0u8; CHAIN];
    file.read_exact_at(&mut chain, length - CHAIN as u64)?;
    Ok(Some(Base {
        header,
        chain: Digest(chain),
    }))
}

fn chain_after(path: &Path) -> io::Result<Option<Chain>> {
    let base = last_frame(path)?;
    Ok(base.and_then(|b| b.parse().map(|header| Chain::resume(&header, b.chain))))
}
