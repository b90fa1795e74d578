//! Journals: sealed frames of one stream, back to back in segments, appended and synced in groups.
//!
//! Frames are stored exactly as they were sent, so every embassy and the agent's spool hold identical bytes. No key is
//! needed here: headers and the running hash say whether frames belong together, and nothing is written that does not
//! continue the chain. A journal has no removal; only the agent's own [`Spool`] gives up what was shipped.

mod segment;
mod spool;

use std::path::{Path, PathBuf};

use legation_core::id::{RegistryId, StateId, StreamId};
use legation_core::journal::{Chain, FRAME_HEADER, FrameHeader, MAX_FRAME_BYTES, Position};

pub use segment::{Frames, JournalReader};
pub use spool::Spool;

use crate::durable::{self, Appender};
use crate::store::StoreError;
pub(crate) use segment::Watermark;
use segment::{Segment, Stop};

/// Largest segment: one object's size, so that a closed segment can be handled like a pack.
pub const MAX_SEGMENT: u64 = 16 << 20;
const EDGES: (&str, &str) = ("journal.append", "journal.sync");

/// Whose frames a journal holds. Frames of any other stream are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamName {
    /// The state.
    pub state: StateId,
    /// The registry.
    pub registry: RegistryId,
    /// The incarnation of its stream.
    pub stream: StreamId,
}

impl std::fmt::Display for StreamName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "journal {}/{}", self.registry, self.stream)
    }
}

/// What opening a journal found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The last whole frame; `None` for an empty journal.
    pub position: Option<Position>,
    /// Its header.
    pub last: Option<FrameHeader>,
    /// What a crash left unfinished, and was cut off.
    pub torn: Option<Torn>,
}

/// A tail that was never acknowledged and did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub segment: u32,
    /// Where the first frame that does not hold began.
    pub offset: u64,
    /// Bytes that were cut off.
    pub bytes: u64,
    /// Where they were set aside: done when readable frames follow the one that does not hold.
    pub kept: Option<PathBuf>,
}

/// One stream's journal, open for appending by its only writer.
///
/// After any error of [`JournalDir::append`] other than a refusal, or of [`JournalDir::sync`], the handle is finished;
/// [`JournalDir::reopen`] goes on from what was synced. Opening it anew by its name would believe what the kernel still
/// shows of the failed write.
#[derive(Debug)]
pub struct JournalDir {
    dir: PathBuf,
    name: StreamName,
    chain: Chain,
    last: Option<FrameHeader>,
    synced: Option<Position>,
    segment: u32,
    appender: Appender,
    watermark: Watermark,
    finished: bool,
}

impl JournalDir {
    /// Opens or creates the journal of `name` in `dir`: verifies the last segment against the chain, cuts off a torn
    /// tail, and makes what remains durable. Earlier segments were synced before the last one was begun; they are
    /// verified by [`JournalReader`] and the checker.
    ///
    /// # Errors
    /// `Damaged` when bytes that had been synced do not hold: nothing is cut, and the journal takes no more frames.
    pub fn open(dir: &Path, name: &StreamName) -> Result<(JournalDir, Recovered), StoreError> {
        JournalDir::open_from(dir, name, None)
    }

    /// As [`JournalDir::open`], of a journal that is known to hold frame number `floor`: the record of what was synced
    /// may be older than that when the power failed.
    ///
    /// # Errors
    /// As [`JournalDir::open`]; `Damaged` when it ends before that frame.
    pub fn open_from(
        dir: &Path,
        name: &StreamName,
        floor: Option<u64>,
    ) -> Result<(JournalDir, Recovered), StoreError> {
        if dir.join(segment::BASE).exists() {
            let why = "its beginning was removed, which only a spool may do".to_owned();
            return Err(StoreError::Damaged {
                what: name.to_string(),
                why,
            });
        }
        JournalDir::recover(dir, name, floor)
    }

    /// Goes on after an error, from what was synced: the rest was promised to nobody, and is cut off.
    ///
    /// # Errors
    /// As [`JournalDir::open`], and when it cannot be cut; then try again.
    pub fn reopen(&self) -> Result<(JournalDir, Recovered), StoreError> {
        self.appender
            .cut()
            .map_err(|e| StoreError::io(format!("shorten {}", self.name), e))?;
        JournalDir::recover(&self.dir, &self.name, self.synced.map(|p| p.seq))
    }

    fn recover(
        dir: &Path,
        name: &StreamName,
        floor: Option<u64>,
    ) -> Result<(JournalDir, Recovered), StoreError> {
        let failed = |e| StoreError::io(format!("open {name}"), e);
        durable::create_dir(dir).map_err(failed)?;
        durable::sweep(dir).map_err(failed)?;
        let reader = JournalReader::open(dir, name)?;
        let watermark = Watermark::open(dir).map_err(failed)?;
        let number = reader.segments().last().map_or(0, |s| s.number);
        if let Some((segment, _)) = watermark.read()
            && segment > number
        {
            let why = format!("segment {segment:08} had been synced and is not there");
            return Err(StoreError::Damaged {
                what: name.to_string(),
                why,
            });
        }
        let mut frames = reader.last_segment()?;
        while let Some(frame) = frames.next_frame()? {
            drop(frame);
        }
        let (held, stop) = frames.stopped();
        let ends = frames.position().map(|p| p.seq);
        if let Some(floor) = floor.filter(|floor| ends.is_none_or(|end| end < *floor)) {
            let end = ends.map_or("before its first frame".to_owned(), |end| {
                format!("with frame {end}")
            });
            let why = format!("it ends {end}, and frame {floor} was acknowledged");
            return Err(StoreError::Damaged {
                what: name.to_string(),
                why,
            });
        }
        let mut torn = None;
        if let Stop::Bad {
            offset,
            length,
            why,
        } = stop
        {
            let synced = watermark
                .read()
                .filter(|(s, _)| *s == number)
                .map_or(0, |(_, l)| l);
            if offset < synced {
                let what = format!("{name}, segment {number:08}, byte {offset}");
                return Err(StoreError::Damaged { what, why });
            }
            let kept = segment::set_aside(dir, name, number, offset).map_err(failed)?;
            torn = Some(Torn {
                segment: number,
                offset,
                bytes: length - offset,
                kept,
            });
        }
        let appender = Appender::open(&Segment::path(dir, number), held, EDGES)?;
        let (chain, last) = frames.into_chain();
        let position = chain.position();
        let mut journal = JournalDir {
            dir: dir.to_owned(),
            name: *name,
            chain,
            last,
            synced: position,
            segment: number,
            appender,
            watermark,
            finished: false,
        };
        journal.watermark.write(number, held);
        Ok((
            journal,
            Recovered {
                position,
                last,
                torn,
            },
        ))
    }

    /// Appends whole frames, each of which must continue the chain. Nothing is durable before [`JournalDir::sync`].
    ///
    /// # Errors
    /// `Refused` when a frame is malformed, of another stream, or not the next one: then none of them was written.
    pub fn append(&mut self, frames: &[u8]) -> Result<Position, StoreError> {
        if self.finished {
            return Err(StoreError::Finished {
                what: self.name.to_string(),
            });
        }
        let mut chain = self.chain.clone();
        let mut last = self.last;
        let mut cuts = Vec::new();
        for frame in split(frames, &self.name)? {
            let header = chain
                .check(frame)
                .map_err(|e| self.refused(e.to_string()))?;
            if !self.name.is_of(&header) {
                return Err(self.refused("a frame of another stream".to_owned()));
            }
            last = Some(header);
            cuts.push(frame);
        }
        let Some(position) = chain.position().filter(|_| !cuts.is_empty()) else {
            return Err(self.refused("no frames".to_owned()));
        };
        let written = self.write(&cuts);
        self.settle(&written);
        written?;
        (self.chain, self.last) = (chain, last);
        Ok(position)
    }

    /// Makes everything appended so far durable. What is at or before the position that it returns may be acknowledged.
    pub fn sync(&mut self) -> Result<Option<Position>, StoreError> {
        if self.finished {
            return Err(StoreError::Finished {
                what: self.name.to_string(),
            });
        }
        let synced = self.appender.sync();
        self.settle(&synced);
        synced?;
        self.watermark.write(self.segment, self.appender.synced());
        self.synced = self.chain.position();
        Ok(self.synced)
    }

    /// The last frame appended, durable or not.
    pub fn position(&self) -> Option<Position> {
        self.chain.position()
    }

    /// The last frame that survives power loss.
    pub fn synced(&self) -> Option<Position> {
        self.synced
    }

    /// The header of the last frame appended.
    pub fn last(&self) -> Option<&FrameHeader> {
        self.last.as_ref()
    }

    /// The sequence number that the next frame must have.
    pub fn next_seq(&self) -> u64 {
        self.position().map_or(0, |p| p.seq.saturating_add(1))
    }

    /// Whose frames these are.
    pub fn name(&self) -> &StreamName {
        &self.name
    }

    /// Reads frames from number `seq` on, up to the last one appended, checking the chain.
    ///
    /// # Errors
    /// `Damaged`; `Io`.
    pub fn frames(&self, seq: u64) -> Result<Frames, StoreError> {
        let reader = JournalReader::open(&self.dir, &self.name)?;
        Ok(reader.frames(seq)?.until(self.next_seq()))
    }

    /// After an error the handle is finished. What is not synced goes at once where it can: a process that dies now
    /// leaves nothing that the next one would believe.
    fn settle(&mut self, outcome: &Result<(), StoreError>) {
        self.finished = outcome.is_err();
        if self.finished {
            let _ = self.appender.cut();
        }
    }

    fn write(&mut self, frames: &[&[u8]]) -> Result<(), StoreError> {
        // Frames that go to one segment are written by one call: a group costs one write.
        let mut group = Vec::new();
        for frame in frames {
            let length = self.appender.length() + group.len() as u64;
            if length + frame.len() as u64 > MAX_SEGMENT {
                self.appender.append(&group)?;
                group.clear();
                self.roll()?;
            }
            group.extend_from_slice(frame);
        }
        self.appender.append(&group)
    }

    /// Closes the segment and begins the next. A closed segment is durable before the next one has a name.
    fn roll(&mut self) -> Result<(), StoreError> {
        self.appender.sync()?;
        self.watermark.write(self.segment, self.appender.synced());
        let next = self.segment.checked_add(1).filter(|n| *n <= segment::LAST);
        let next =
            next.ok_or_else(|| self.refused("the stream has too many segments".to_owned()))?;
        crate::edge::hit("journal.create")
            .map_err(|e| StoreError::io(format!("extend {}", self.name), e))?;
        self.appender = Appender::open(&Segment::path(&self.dir, next), 0, EDGES)?;
        self.segment = next;
        Ok(())
    }

    fn refused(&self, why: String) -> StoreError {
        StoreError::Refused {
            what: self.name.to_string(),
            why,
        }
    }
}

impl StreamName {
    pub(crate) fn is_of(&self, header: &FrameHeader) -> bool {
        header.state == self.state
            && header.registry == self.registry
            && header.stream == self.stream
    }
}

/// Cuts a run of frames by the sizes in their headers. Every byte must belong to one.
fn split<'a>(mut bytes: &'a [u8], name: &StreamName) -> Result<Vec<&'a [u8]>, StoreError> {
    let refused = |why: String| StoreError::Refused {
        what: name.to_string(),
        why,
    };
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let header = bytes
            .get(..FRAME_HEADER)
            .ok_or_else(|| refused("a cut frame".to_owned()))?;
        let header = FrameHeader::parse(header).map_err(|e| refused(e.to_string()))?;
        let size = segment::frame_size(&header);
        if size > MAX_FRAME_BYTES || bytes.len() < size {
            return Err(refused(format!("frame {} is cut short", header.seq)));
        }
        let (frame, rest) = bytes.split_at(size);
        frames.push(frame);
        bytes = rest;
    }
    Ok(frames)
}

#[cfg(test)]
pub(crate) mod tests;
