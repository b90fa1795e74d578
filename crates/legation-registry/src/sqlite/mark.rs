//! What is remembered of a captured image, so that the next look at the database is cheap and the next capture reads
//! only what changed.

use std::fs::File;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::header::{Header, read_full};
use super::image::Image;
use super::session::{Session, Stat, beside, open};
use super::wal::{Place, Wal, frame_at};
use crate::Result;
use crate::error::Context;

/// The longest mark that is read back.
const MAX_MARK: usize = 4096;

/// How a database stood when an image of it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The database's file.
    pub(super) file: Stat,
    /// The counter in its header.
    counter: Option<u32>,
    /// The end of its write-ahead log, if it has one that was written to.
    pub(super) place: Option<Place>,
    /// Whether it had a write-ahead log.
    wal: bool,
    /// Length of the image.
    pub(super) len: u64,
}

/// What a look at the database found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing was committed since.
    Same,
    /// Something was.
    Differs,
    /// Only comparing all tells.
    Doubt,
}

impl Mark {
    pub(super) fn of(session: &Session, image: &Image<'_>) -> Result<Mark> {
        Ok(Mark {
            file: Stat::of(&session.db, &session.path)?,
            counter: session.header.map(|header| header.counter),
            place: image.wal.as_ref().and_then(|wal| wal.end),
            wal: session.log.is_some(),
            len: image.len,
        })
    }

    /// Whether both are of the same file.
    pub(super) fn is_of_the_file(&self, other: &Mark) -> bool {
        (self.file.dev, self.file.ino) == (other.file.dev, other.file.ino)
    }

    /// As bytes for keeping.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What was kept; `None` if it is no mark.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Mark> {
        (bytes.len() <= MAX_MARK)
            .then(|| serde_json::from_slice(bytes).ok())
            .flatten()
    }
}

/// Looks whether anything was committed since `mark`, without a lock and, as a rule, without reading more than headers.
///
/// # Errors
/// When the database is not there, is none, or cannot be read.
pub fn look(path: &Path, mark: &Mark) -> Result<Look> {
    let (path, db) = open(path)?;
    let (header, now) = (Header::read(&db, &path)?, Stat::of(&db, &path)?);
    let is_wal = header.is_some_and(|header| header.wal);
    if (now.dev, now.ino) != (mark.file.dev, mark.file.ino) || is_wal != mark.wal {
        return Ok(Look::Doubt);
    }
    let untouched = now == mark.file && header.map(|header| header.counter) == mark.counter;
    if !is_wal {
        return Ok(if header.map(|header| header.counter) != mark.counter {
            Look::Differs
        } else if untouched {
            Look::Same
        } else {
            Look::Doubt
        });
    }
    let wal_path = beside(&path, "-wal");
    let wal = match File::open(&wal_path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(crate::Error::io(wal_path.display().to_string(), error)),
    };
    let Some(wal) = wal.filter(|file| file.metadata().is_ok_and(|meta| meta.len() > 0)) else {
        let nothing = mark.place.is_none() && untouched;
        return Ok(if nothing { Look::Same } else { Look::Doubt });
    };
    if let Some(place) = &mark.place
        && ends_at(&wal, &wal_path, place)?
    {
        return Ok(Look::Same);
    }
    let scan = Wal::scan(&wal, &wal_path, None, mark.place.as_ref())?;
    let committed = scan.end.is_some_and(|end| end.frame > 0);
    Ok(match (scan.since, &mark.place) {
        (Some(since), _) if !since.is_empty() => Look::Differs,
        (Some(_), _) => Look::Same,
        // A log that was started over, and written to.
        (None, _) if committed => Look::Differs,
        (None, None) if untouched => Look::Same,
        (None, _) => Look::Doubt,
    })
}

/// Whether the log's last frame is the one of `place`: its checksum is there, and no frame of the same salts follows.
fn ends_at(wal: &File, path: &Path, place: &Place) -> Result<bool> {
    if place.frame == 0 {
        return Ok(false);
    }
    let mut head = [0; 24];
    let shown = || path.display().to_string();
    let word = |head: &[u8; 24], at: usize| {
        u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
    };
    let frame = |head: &[u8; 24]| {
        (
            [word(head, 8), word(head, 12)],
            [word(head, 16), word(head, 20)],
        )
    };
    let got = read_full(wal, &mut head, frame_at(place.frame - 1, place.page_size)).at(shown)?;
    if got < head.len() || frame(&head) != (place.salts, place.sum) {
        return Ok(false);
    }
    let got = read_full(wal, &mut head, frame_at(place.frame, place.page_size)).at(shown)?;
    if got == head.len() && frame(&head).0 == place.salts {
        return Ok(false);
    }
    // The header too: a log that was started over keeps old frames behind the new ones.
    let got = read_full(wal, &mut head, 0).at(shown)?;
    Ok(got == head.len() && [word(&head, 16), word(&head, 20)] == place.salts)
}
