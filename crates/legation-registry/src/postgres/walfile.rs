//! WAL segments on disk: written from a byte stream, cut exactly where the plan ends. Every byte after the cut is
//! zero, so that replay finds the end of the log there and nowhere else.
//!
//! Where the stream goes on in a later timeline, a segment of that one begins with a copy of what came before the switch,
//! as PostgreSQL itself writes it; the history file that leads replay there is ours to write.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use legation_core::id::{Lsn, Timeline};

use super::restore::{Plan, WalPiece};
use crate::error::Context;
use crate::{Error, Result};

/// Where the log goes on in another timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Switch {
    /// The timeline that is left.
    pub(crate) from: Timeline,
    /// Where.
    pub(crate) at: Lsn,
    /// The one that follows.
    pub(crate) to: Timeline,
}

/// Writes `pg_wal`.
pub(crate) struct WalWriter {
    dir: PathBuf,
    /// Whose files are written: the base's timeline, or the later one that was gone on to.
    timeline: Timeline,
    /// The timeline of the last bytes; before the base's own it may be an earlier one.
    at: Option<Timeline>,
    switches: Vec<Switch>,
    segment_size: u64,
    until: Lsn,
    /// Everything from the plan's first byte up to here is written.
    next: Lsn,
    from: Lsn,
    open: Option<(u64, File)>,
}

impl WalWriter {
    pub(crate) fn new(dir: PathBuf, plan: &Plan) -> Result<Self> {
        let shown = || dir.display().to_string();
        std::fs::create_dir_all(dir.join("archive_status")).at(shown)?;
        // A base holds no segments; one that lies here all the same would end where nobody cut it.
        for entry in std::fs::read_dir(&dir).at(shown)? {
            let entry = entry.at(shown)?;
            let is_file = entry.file_type().at(shown)?.is_file();
            if is_file && !entry.file_name().as_encoded_bytes().ends_with(b".history") {
                std::fs::remove_file(entry.path()).at(shown)?;
            }
        }
        Ok(WalWriter {
            dir,
            timeline: plan.facts.timeline,
            at: None,
            switches: Vec::new(),
            segment_size: plan.facts.wal_segment_size.into(),
            until: plan.until,
            next: plan.wal_from,
            from: plan.wal_from,
            open: None,
        })
    }

    /// Takes the next piece; true when nothing more is needed.
    pub(crate) fn accept(&mut self, piece: &WalPiece) -> Result<bool> {
        let end = Lsn(piece
            .start
            .0
            .checked_add(piece.bytes.len() as u64)
            .ok_or_else(|| bad("a position overflows"))?);
        let first = piece.start.max(self.from);
        let last = end.min(self.until);
        if first >= last {
            return Ok(self.next >= self.until);
        }
        if first > self.next {
            return Err(bad(&format!("{} to {first} is missing", self.next)));
        }
        self.go_on_in(piece.timeline, first)?;
        let bytes =
            &piece.bytes[(first.0 - piece.start.0) as usize..(last.0 - piece.start.0) as usize];
        let again = (self.next.0.min(last.0) - first.0) as usize;
        self.compare(first, &bytes[..again])?;
        self.write(self.next, &bytes[again..])?;
        Ok(self.next >= self.until)
    }

    /// Before bytes of `timeline` are written at `first`. A timeline is left exactly where the next one begins.
    fn go_on_in(&mut self, timeline: Timeline, first: Lsn) -> Result<()> {
        let before = self.at.replace(timeline);
        if before == Some(timeline) || (before.is_none() && timeline <= self.timeline) {
            return Ok(());
        }
        let from = before.unwrap_or(self.timeline);
        if timeline < from || first != self.next {
            return Err(bad(&format!(
                "it goes on in timeline {timeline} at {first}, after timeline {from} up to {}",
                self.next
            )));
        }
        // What led to the base's own timeline lies in files of that one, and the base has its history.
        if timeline <= self.timeline {
            return Ok(());
        }
        self.close()?;
        let within = first.0 % self.segment_size;
        if within > 0 {
            let number = first.0 / self.segment_size;
            let name = |timeline| {
                let name = segment_name(timeline, number, self.segment_size);
                self.dir.join(name)
            };
            let to = name(timeline);
            std::fs::copy(name(self.timeline), &to).at(|| to.display().to_string())?;
        }
        self.switches.push(Switch {
            from: self.timeline,
            at: first,
            to: timeline,
        });
        self.timeline = timeline;
        Ok(())
    }

    /// Checks that everything planned has come, and makes it durable. Tells where it went on in other timelines.
    pub(crate) fn finish(mut self) -> Result<Vec<Switch>> {
        if self.next < self.until {
            return Err(bad(&format!(
                "it ends at {}, and {} is needed",
                self.next, self.until
            )));
        }
        self.close()?;
        File::open(&self.dir)
            .and_then(|d| d.sync_all())
            .at(|| self.dir.display().to_string())?;
        Ok(self.switches)
    }

    fn write(&mut self, mut at: Lsn, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let within = at.0 % self.segment_size;
            let take = bytes.len().min((self.segment_size - within) as usize);
            let (path, file) = self.segment(at)?;
            file.write_all_at(&bytes[..take], within)
                .at(|| path.display().to_string())?;
            at = Lsn(at.0 + take as u64);
            bytes = &bytes[take..];
        }
        self.next = self.next.max(at);
        Ok(())
    }

    /// Two streams may both hold some bytes; they must agree.
    fn compare(&mut self, mut at: Lsn, mut bytes: &[u8]) -> Result<()> {
        let mut kept = Vec::new();
        while !bytes.is_empty() {
            let within = at.0 % self.segment_size;
            let take = bytes.len().min((self.segment_size - within) as usize);
            kept.resize(take, 0);
            let (path, file) = self.segment(at)?;
            file.read_exact_at(&mut kept, within)
                .at(|| path.display().to_string())?;
            if kept != bytes[..take] {
                return Err(bad(&format!(
                    "two streams disagree about the bytes from {at} on"
                )));
            }
            at = Lsn(at.0 + take as u64);
            bytes = &bytes[take..];
        }
        Ok(())
    }

    /// The segment that holds `at`, made in full size if it is new.
    fn segment(&mut self, at: Lsn) -> Result<(PathBuf, &File)> {
        let number = at.0 / self.segment_size;
        let path = self
            .dir
            .join(segment_name(self.timeline, number, self.segment_size));
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.close()?;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .at(|| path.display().to_string())?;
            file.set_len(self.segment_size)
                .at(|| path.display().to_string())?;
            self.open = Some((number, file));
        }
        match &self.open {
            Some((_, file)) => Ok((path, file)),
            None => Err(bad("no segment is open")),
        }
    }

    fn close(&mut self) -> Result<()> {
        match self.open.take() {
            None => Ok(()),
            Some((_, file)) => file.sync_all().at(|| self.dir.display().to_string()),
        }
    }
}

/// A segment's file name: timeline, then the segment's number in two parts.
pub(crate) fn segment_name(timeline: Timeline, number: u64, segment_size: u64) -> String {
    let per_id = (1u64 << 32) / segment_size;
    format!(
        "{:08X}{:08X}{:08X}",
        timeline.0,
        number / per_id,
        number % per_id
    )
}

/// Where the segment of this name begins; `None` for what is no such name.
pub(crate) fn segment_start(name: &str, segment_size: u64) -> Option<Lsn> {
    let part = |range| u64::from_str_radix(name.get(range)?, 16).ok();
    let (high, low) = (part(8..16)?, part(16..24)?);
    let start = (high << 32).checked_add(low.checked_mul(segment_size)?)?;
    (name.len() == 24).then_some(Lsn(start))
}

fn bad(what: &str) -> Error {
    Error::malformed("kept WAL", what)
}

#[cfg(test)]
mod tests;
