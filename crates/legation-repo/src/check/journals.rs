//! Journals: each is one chain of whole frames, and holds what the log says was kept.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use legation_core::id::{Digest, RegistryId, StreamId};
use legation_core::journal::{Chain, FRAME_HEADER, FrameHeader, MAX_FRAME_BYTES};
use legation_core::size::SizeClass;

use super::{Finding, Run, Said};
use crate::durable;
use crate::journal::{JournalReader, StreamName, Watermark};
use crate::state::StateDir;
use crate::store::StoreError;

/// A stream within its state.
pub(super) type Stream = (RegistryId, StreamId);
const KIND: &str = "journal";
const CHAIN: usize = 32;

/// What a mark says: up to this frame, with this running hash, the journal was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) entry: u64,
    pub(super) sequence: u64,
    pub(super) chain: Digest,
}

pub(super) fn check(dir: &StateDir, said: &Said, run: &Run<'_>) {
    let streams = match dir.journals() {
        Ok(streams) => streams,
        Err(e) => return found(run, "names".to_owned(), None, e.to_string()),
    };
    for (registry, stream) in &streams {
        if run.is_stopped() {
            return;
        }
        let mark = said.marks.get(&(*registry, *stream)).copied();
        let name = format!("{registry}/{stream}");
        match dir.read_journal(*registry, stream) {
            Ok(reader) => {
                let mut walk = Walk {
                    run,
                    name,
                    stream: dir.stream(*registry, stream),
                    mark,
                    last: None,
                };
                walk.journal(&reader);
                run.update(|report| report.journals += 1);
            }
            Err(StoreError::Damaged { why, .. }) => found(run, name, None, why),
            Err(e) => found(run, name, None, e.to_string()),
        }
    }
    for ((registry, stream), mark) in &said.marks {
        if !streams.contains(&(*registry, *stream)) {
            let why = format!("log entry {} marks it and it is not there", mark.entry);
            found(run, format!("{registry}/{stream}"), None, why);
        }
    }
}

fn found(run: &Run<'_>, name: String, range: Option<std::ops::Range<u64>>, why: String) {
    run.found(Finding {
        kind: KIND,
        name,
        range,
        why,
    });
}

/// One journal being read.
struct Walk<'a> {
    run: &'a Run<'a>,
    name: String,
    stream: StreamName,
    mark: Option<Marked>,
    last: Option<u64>,
}

impl Walk<'_> {
    fn journal(&mut self, reader: &JournalReader) {
        let synced = reader.watermark();
        let mut chain = Chain::new();
        let count = reader.segments().len();
        for (at, segment) in reader.segments().iter().enumerate() {
            // What lies beyond what is known to be synced may be in the midst of being written.
            let open = (at + 1 == count).then_some(match synced {
                Some((number, length)) if number == segment.number => length,
                _ => u64::MAX,
            });
            let name = format!("{}, segment {:08}", self.name, segment.number);
            let read = durable::open_read(&segment.path)
                .and_then(|file| self.segment(&file, &name, &mut chain, open));
            if let Err(e) = read {
                found(self.run, name, None, e.to_string());
            }
        }
        if let Some((number, _)) = synced
            && reader
                .segments()
                .last()
                .is_none_or(|last| last.number < number)
        {
            let why = format!("segment {number:08} had been synced and is not there");
            found(self.run, self.name.clone(), None, why);
        }
        if let Some(mark) = self.mark
            && !self.run.is_stopped()
            && self.last.is_none_or(|last| last < mark.sequence)
        {
            let held = self
                .last
                .map_or("nothing".to_owned(), |last| format!("frame {last}"));
            let (entry, sequence) = (mark.entry, mark.sequence);
            let why =
                format!("log entry {entry} says frame {sequence} was kept, it ends with {held}");
            found(self.run, self.name.clone(), None, why);
        }
    }

    /// Reads a segment frame by frame. After one that does not hold it goes on at the next whose header can be read,
    /// taking the chain value stored before that as given: so each damaged place is named, and no other.
    fn segment(
        &mut self,
        file: &File,
        name: &str,
        chain: &mut Chain,
        open: Option<u64>,
    ) -> io::Result<()> {
        let length = file.metadata()?.len();
        let mut at = 0;
        while at < length && !self.run.is_stopped() {
            let why = match frame(file, at, length)? {
                Err(why) => why,
                Ok(bytes) => match chain.check(&bytes) {
                    Ok(header) if self.is_mine(&header) => {
                        self.good(&header, chain, bytes.len());
                        at += bytes.len() as u64;
                        continue;
                    }
                    Ok(_) => "a frame of another stream".to_owned(),
                    Err(e) => e.to_string(),
                },
            };
            let next = self.resume(file, at, length, chain)?;
            if open.is_some_and(|synced| at >= synced) {
                return Ok(());
            }
            found(self.run, name.to_owned(), Some(at..next), why);
            at = next;
        }
        Ok(())
    }

    fn good(&mut self, header: &FrameHeader, chain: &Chain, bytes: usize) {
        self.run.read(bytes as u64, |report| report.frames += 1);
        self.last = Some(header.seq);
        let kept = chain.position().map(|p| p.chain);
        if let Some(mark) = self.mark
            && mark.sequence == header.seq
            && Some(mark.chain) != kept
        {
            let why = format!(
                "log entry {} marks frame {} with another running hash",
                mark.entry, mark.sequence
            );
            found(self.run, self.name.clone(), None, why);
        }
    }

    /// Finds where to go on after the frame at `bad`, and sets the chain before it. Returns the end of what is damaged.
    fn resume(&self, file: &File, bad: u64, length: u64, chain: &mut Chain) -> io::Result<u64> {
        let step = SizeClass::K4.bytes() as u64;
        // The frame's own size if it can be read, else the next place where a header of this stream is.
        let own = self
            .header(file, bad, length)?
            .map(|header| bad + header.size.bytes() as u64);
        let mut at = own.filter(|end| *end < length).unwrap_or(bad + step);
        while at < length {
            if let Some(header) = self.header(file, at, length)? {
                let mut stored = [0u8; CHAIN];
                file.read_exact_at(&mut stored, at - CHAIN as u64)?;
                let before = FrameHeader {
                    seq: header.seq.saturating_sub(1),
                    end_lsn: header.first_lsn,
                    ..header
                };
                *chain = Chain::resume(&before, Digest(stored));
                return Ok(at);
            }
            at += step;
        }
        // The rest of this segment is lost to us; the next one is joined by its own first frame.
        Ok(length)
    }

    fn header(&self, file: &File, at: u64, length: u64) -> io::Result<Option<FrameHeader>> {
        if length - at < FRAME_HEADER as u64 {
            return Ok(None);
        }
        let mut header = [0u8; FRAME_HEADER];
        file.read_exact_at(&mut header, at)?;
        let header = FrameHeader::parse(&header).ok();
        Ok(header.filter(|header| self.is_mine(header)))
    }

    fn is_mine(&self, header: &FrameHeader) -> bool {
        self.stream.is_of(header)
    }
}

fn frame(file: &File, at: u64, length: u64) -> io::Result<Result<Vec<u8>, String>> {
    let cut = || Ok(Err("the frame is cut short".to_owned()));
    let mut header = [0u8; FRAME_HEADER];
    if length - at < FRAME_HEADER as u64 {
        return cut();
    }
    file.read_exact_at(&mut header, at)?;
    let size = match FrameHeader::parse(&header) {
        Ok(header) => header.size.bytes(),
        Err(e) => return Ok(Err(e.to_string())),
    };
    if size > MAX_FRAME_BYTES || length - at < size as u64 {
        return cut();
    }
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, at)?;
    Ok(Ok(bytes))
}

impl JournalReader {
    /// How far the journal is known to be synced: segment and length.
    fn watermark(&self) -> Option<(u32, u64)> {
        Watermark::peek(self.dir())
    }
}
