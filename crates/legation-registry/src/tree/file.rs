//! Reading one file that others may be writing to.
//!
//! A file is whole if its times say that nothing of it changed while it was read, or if a second reading of the same bytes equals the
//! first: then they were so between the two, and it only grew or was touched. One that never holds still is kept as the
//! parent version has it; where there is no such, as it was read. Either is marked.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use legation_core::manifest::{Entry, EntryKind, Incomplete};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::capture::Walk;
use super::holes::{Reading, for_each_part};
use super::parent::Stat;
use super::xattrs;
use crate::error::Context;
use crate::{Error, Result};

/// How often a file that changes under our hands is read again.
const TRIES: u32 = 3;
const CHANGED: &str = "it changed while it was read";

/// What became of one attempt to read a file.
enum Attempt {
    Done,
    Changed,
    Gone,
}

impl Walk<'_> {
    /// Captures a regular file; true if it is in the version now.
    pub(super) fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        seen: &rustix::fs::Stat,
    ) -> Result<bool> {
        let now = Stat::of(seen);
        if let Some(known) = self.parent.same(path, &now) {
            self.had(path, known, now)?;
            return Ok(true);
        }
        for attempt in 1..=TRIES {
            match self.read(dir, name, path, attempt == TRIES) {
                Ok(Attempt::Done) => return Ok(true),
                Ok(Attempt::Gone) => return Ok(false),
                Ok(Attempt::Changed) => std::thread::sleep(Duration::from_millis(10) * attempt),
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Ok(false);
                }
                Err(Error::Io { source, .. }) => {
                    self.unread(path, Some(seen), &source)?;
                    // A later name of the same file tries for itself.
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    fn read(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        last_try: bool,
    ) -> Result<Attempt> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let base = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        // Reading should not touch access times; only the owner and root may ask for that.
        let opened = openat(dir, name, base | OFlags::NOATIME, Mode::empty()).or_else(|e| {
            if e == Errno::PERM {
                openat(dir, name, base, Mode::empty())
            } else {
                Err(e)
            }
        });
        let fd = opened.at(shown)?;
        let before = fstat(&fd).at(shown)?;
        // A file that was written just now may be written again within the same tick of the clock, unseen.
        let quiet = Stat::of(&before).settled(SystemTime::now());
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            return Ok(if last_try {
                Attempt::Gone
            } else {
                Attempt::Changed
            });
        }
        let entry = self.entry(path, EntryKind::File, &before, xattrs::of_fd(fd.as_fd()));
        let file = File::from(fd);
        self.sink.begin(entry.clone())?;
        let (sink, stop) = (&mut *self.sink, self.stop);
        let mut digest = Reading::default();
        let read = for_each_part(&file, &before, &mut |offset, bytes| {
            if stop() {
                return Err(Error::Stopped);
            }
            digest.add(offset, bytes);
            Ok(sink.data(offset, bytes)?)
        });
        let held_still = read.and_then(|read| {
            let after = fstat(&file).at(shown)?;
            let same = Stat::of(&after) == Stat::of(&before);
            let may_be = after.st_size >= before.st_size;
            let whole =
                (same && quiet) || (may_be && self.reads_the_same(&file, &before, digest)?);
            Ok((read, same, whole))
        });
        let (read, same, whole) = match held_still {
            Ok(found) => found,
            Err(error @ Error::Io { .. }) => {
                self.sink.discard()?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        if !whole && !last_try {
            self.sink.discard()?;
            return Ok(Attempt::Changed);
        }
        let known = |known: &&Entry| known.kind == EntryKind::File;
        match self.parent.whole(path).filter(known) {
            Some(known) if !whole => {
                self.sink.discard()?;
                self.stale(known, &io::Error::other(CHANGED))?;
            }
            _ => {
                if whole {
                    self.noted(&entry);
                } else {
                    let mark = Incomplete::Torn(CHANGED.into());
                    self.sink.mark(&mark)?;
                    self.note(path, &mark);
                }
                self.sink.end()?;
                let trusted = same.then(|| Stat::of(&before));
                self.has_read(path, entry.size, read, trusted);
            }
        }
        Ok(Attempt::Done)
    }

    /// Whether the bytes that were read are there still.
    fn reads_the_same(
        &self,
        file: &File,
        before: &rustix::fs::Stat,
        first: Reading,
    ) -> Result<bool> {
        let mut second = Reading::default();
        for_each_part(file, before, &mut |offset, bytes| {
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            second.add(offset, bytes);
            Ok(())
        })?;
        Ok(first.digest() == second.digest())
    }
}
