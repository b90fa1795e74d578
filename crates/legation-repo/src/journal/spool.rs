//! The agent's own journal: like an embassy's, but it gives up what every embassy has acknowledged.

use std::fs;
use std::path::Path;

use legation_core::journal::{FrameHeader, Position};

use super::segment::{self, Base};
use super::{Frames, JournalDir, JournalReader, Recovered, StreamName};
use crate::durable;
use crate::store::StoreError;

/// A journal at home, whose shipped segments are removed. An embassy has no such type.
#[derive(Debug)]
pub struct Spool {
    journal: JournalDir,
}

impl Spool {
    /// Opens or creates the spool of `name` in `dir`, recovering it as [`JournalDir::open`] does.
    ///
    /// # Errors
    /// `Damaged`; `Full`; `Io`.
    pub fn open(dir: &Path, name: &StreamName) -> Result<(Spool, Recovered), StoreError> {
        finish_removal(dir, name)?;
        let (journal, recovered) = JournalDir::recover(dir, name, None)?;
        Ok((Spool { journal }, recovered))
    }

    /// As [`JournalDir::reopen`].
    ///
    /// # Errors
    /// As there.
    pub fn reopen(&self) -> Result<(Spool, Recovered), StoreError> {
        let (journal, recovered) = self.journal.reopen()?;
        Ok((Spool { journal }, recovered))
    }

    /// As [`JournalDir::append`].
    pub fn append(&mut self, frames: &[u8]) -> Result<Position, StoreError> {
        self.journal.append(frames)
    }

    /// As [`JournalDir::sync`].
    pub fn sync(&mut self) -> Result<Option<Position>, StoreError> {
        self.journal.sync()
    }

    /// As [`JournalDir::position`].
    pub fn position(&self) -> Option<Position> {
        self.journal.position()
    }

    /// As [`JournalDir::synced`].
    pub fn synced(&self) -> Option<Position> {
        self.journal.synced()
    }

    /// As [`JournalDir::last`].
    pub fn last(&self) -> Option<&FrameHeader> {
        self.journal.last()
    }

    /// As [`JournalDir::next_seq`].
    pub fn next_seq(&self) -> u64 {
        self.journal.next_seq()
    }

    /// As [`JournalDir::frames`]; frames that were removed are not there.
    pub fn frames(&self, seq: u64) -> Result<Frames, StoreError> {
        self.journal.frames(seq)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        let failed = |e| StoreError::io(format!("read {}", self.journal.name), e);
        let reader = JournalReader::open(&self.journal.dir, &self.journal.name)?;
        let mut total = 0;
        for segment in reader.segments() {
            total += fs::symlink_metadata(&segment.path).map_err(failed)?.len();
        }
        Ok(total)
    }

    /// Removes closed segments that hold only frames up to number `shipped`, which every embassy has
    /// acknowledged. Returns the bytes that became free.
    ///
    /// # Errors
    /// `Io`: then nothing is lost, and the next opening completes the removal.
    pub fn remove_shipped(&mut self, shipped: u64) -> Result<u64, StoreError> {
        let dir = &self.journal.dir;
        let failed = |e| StoreError::io(format!("shorten {}", self.journal.name), e);
        let reader = JournalReader::open(dir, &self.journal.name)?;
        let mut free = Vec::new();
        let mut base = None;
        // The last segment is being written and stays.
        for closed in reader
            .segments()
            .split_last()
            .map_or(&[][..], |(_, closed)| closed)
        {
            let Some(last) = segment::last_frame(&closed.path).map_err(failed)? else {
                break;
            };
            if last.parse().is_none_or(|header| header.seq > shipped) {
                break;
            }
            base = Some(last);
            free.push(closed.path.clone());
        }
        let Some(base) = base else { return Ok(0) };
        // What the rest continues is recorded before anything goes.
        base.write(dir).map_err(failed)?;
        let mut freed = 0;
        for path in free {
            freed += fs::symlink_metadata(&path).map_err(failed)?.len();
            durable::remove(&path).map_err(failed)?;
        }
        durable::sync_dir(dir).map_err(failed)?;
        Ok(freed)
    }

    /// Removes the whole spool of a stream that is closed, when everything in it was acknowledged.
    ///
    /// # Errors
    /// `Refused` when `shipped` is not its last frame; `Io`.
    pub fn remove(self, shipped: &Position) -> Result<(), StoreError> {
        if self.position() != Some(*shipped) {
            let why = "not all of it was acknowledged".to_owned();
            return Err(StoreError::Refused {
                what: self.journal.name.to_string(),
                why,
            });
        }
        let dir = &self.journal.dir;
        let failed = |e| StoreError::io(format!("remove {}", self.journal.name), e);
        durable::remove_tree(dir).map_err(failed)?;
        dir.parent()
            .map_or(Ok(()), durable::sync_dir)
            .map_err(failed)
    }
}

/// Removes segments that an interrupted removal had already given up.
fn finish_removal(dir: &Path, name: &StreamName) -> Result<(), StoreError> {
    let failed = |e| StoreError::io(format!("open {name}"), e);
    if !dir.exists() {
        return Ok(());
    }
    let Some(base) = Base::read(dir).map_err(failed)?.and_then(|b| b.parse()) else {
        return Ok(());
    };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok());
        if number.is_none() {
            continue;
        }
        let first = segment::first_header(&entry.path()).map_err(failed)?;
        if first.is_some_and(|header| header.seq <= base.seq) {
            durable::remove(&entry.path()).map_err(failed)?;
        }
    }
    durable::sync_dir(dir).map_err(failed)
}
