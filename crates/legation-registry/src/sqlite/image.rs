//! What the database holds at one commit: its file, overlaid with the last committed frame of each page.

use std::os::unix::fs::FileExt;

use super::header::{Header, read_full};
use super::session::{Log, Session};
use super::shm;
use super::wal::{Place, Wal, page_at, salts};
use crate::error::Context;
use crate::{Error, Result};

/// How often a log that moves on while it is read is read again.
const TRIES: u32 = 20;

/// The image of one commit, good as long as its session is held.
#[derive(Debug)]
pub(super) struct Image<'a> {
    session: &'a Session,
    /// Its length in bytes.
    pub len: u64,
    /// The committed frames of the log, if there is one.
    pub wal: Option<Wal>,
}

impl<'a> Image<'a> {
    /// `known` is a place in the log since which changed pages are asked for.
    pub fn of(session: &'a Session, known: Option<&Place>) -> Result<Image<'a>> {
        let shown = || session.path.display().to_string();
        let file = session.db.metadata().at(shown)?.len();
        let Some(log) = &session.log else {
            return Ok(Image {
                session,
                len: file,
                wal: None,
            });
        };
        let wal = committed(log, known)?;
        let page_size = session.header.map_or(0, |header| header.page_size);
        let frames = wal.end.map_or(0, |end| end.frame);
        let agrees = wal.end.is_none_or(|end| end.page_size == page_size);
        if frames > 0 && !agrees {
            return Err(Error::malformed(
                "write-ahead log",
                format!("its pages are not those of {}", session.path.display()),
            ));
        }
        let len = if frames > 0 {
            u64::from(wal.pages) * u64::from(page_size)
        } else {
            file
        };
        Ok(Image {
            session,
            len,
            wal: Some(wal),
        })
    }

    /// Bytes of the image from `offset`.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let session = self.session;
        let got =
            read_full(&session.db, bytes, offset).at(|| session.path.display().to_string())?;
        // A page that was taken for the database and never written.
        bytes[got..].fill(0);
        let (Some(log), Some(wal)) = (&session.log, &self.wal) else {
            return Ok(());
        };
        let Some(place) = wal.end.filter(|_| !wal.frames.is_empty()) else {
            return Ok(());
        };
        let (size, end) = (u64::from(place.page_size), offset + bytes.len() as u64);
        let first = u32::try_from(offset / size + 1).unwrap_or(u32::MAX);
        let from = wal.frames.partition_point(|(page, _)| *page < first);
        for (page, frame) in &wal.frames[from..] {
            let start = u64::from(*page - 1) * size;
            if start >= end {
                break;
            }
            let (low, high) = (start.max(offset), (start + size).min(end));
            let part = &mut bytes[(low - offset) as usize..(high - offset) as usize];
            let at = page_at(*frame, place.page_size) + (low - start);
            log.wal
                .read_exact_at(part, at)
                .at(|| log.wal_path.display().to_string())?;
        }
        Ok(())
    }

    /// Whether what was read is of one commit: nobody could commit into what we read, or start the log over, unless
    /// our lock was lost.
    pub fn holds(&self) -> Result<bool> {
        let session = self.session;
        if let (Some(log), Some(wal)) = (&session.log, &self.wal) {
            let Some(end) = wal.end.filter(|_| !wal.frames.is_empty()) else {
                return Ok(true);
            };
            // The log itself too, in case somebody removed the index that our lock lies on.
            if salts(&log.wal, &log.wal_path)? != Some(end.salts) {
                return Ok(false);
            }
            let now = shm::committed(&log.shm);
            return Ok(now.is_some_and(|now| now.salts == end.salts && now.frame >= end.frame));
        }
        let counter = |header: Option<Header>| header.map(|header| header.counter);
        let now = Header::read(&session.db, &session.path)?;
        Ok(counter(now) == counter(session.header))
    }
}

/// The frames that are committed now. Our read transaction keeps those of before in place; what comes after them may
/// be started over between two looks.
fn committed(log: &Log, known: Option<&Place>) -> Result<Wal> {
    for _ in 0..TRIES {
        let Some(index) = shm::committed(&log.shm) else {
            continue;
        };
        let mut wal = Wal::scan(&log.wal, &log.wal_path, Some(index.frame), known)?;
        // What is in the database file is read there: once all of it is, a writer may start the log over.
        wal.frames.retain(|(_, frame)| *frame > index.backfilled);
        if index.frame == 0 {
            return Ok(wal);
        }
        let found = wal.end.map(|end| (end.frame, end.sum, end.salts));
        if found == Some((index.frame, index.sum, index.salts)) {
            return Ok(wal);
        }
    }
    Err(Error::refused(
        format!(
            "{} does not hold the frames that its index says are committed",
            log.wal_path.display()
        ),
        "see with PRAGMA integrity_check whether the database is whole",
    ))
}
