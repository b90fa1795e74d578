//! The seams between what captures, what stores, and what restores: registries know no storage and storage knows
//! no registries; both know these traits.

use crate::id::{Digest, Lsn, Timeline};
use crate::manifest::{Entry, Incomplete};
use std::time::Duration;

/// What went wrong on the other side of a seam; says whose error it is and keeps the cause.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The bytes or keys on the sealing side.
    #[error(transparent)]
    Format(#[from] crate::error::FormatError),
    /// The operating system.
    #[error("{doing}: {cause}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The system's error.
        cause: std::io::Error,
    },
    /// An object is not there.
    #[error("{kind} {digest} is not in the store")]
    Missing {
        /// Its kind.
        kind: ObjectKind,
        /// Its name.
        digest: Digest,
    },
    /// The caller broke the contract of a trait, or the other side refused in its own words.
    #[error("{0}")]
    Refused(String),
    /// Somebody asked to stop; nothing is wrong.
    #[error("stopped on request")]
    Stopped,
    /// Any other error of the implementation.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl SourceError {
    /// An I/O error with what was being done.
    #[must_use]
    pub fn io(doing: impl Into<String>, cause: std::io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            cause,
        }
    }

    /// An error of an implementation's own type.
    #[must_use]
    pub fn other(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(cause))
    }
}

/// The result of every method of these traits.
pub type SourceResult<T> = Result<T, SourceError>;

/// The kinds of write-once objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Sealed frames of a version.
    Pack,
    /// The packs that a commit references.
    List,
    /// A sealed epoch root.
    Slip,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Pack, Self::List, Self::Slip];

    /// The word in paths.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::List => "list",
            Self::Slip => "slip",
        }
    }
}

impl std::fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ObjectKind {
    type Err = crate::id::ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|k| k.as_str() == text)
            .ok_or_else(|| crate::id::ParseIdError::new("an object kind: pack, list or slip", text))
    }
}

/// Where a reader finds objects. Implemented by stores and by the client of an embassy.
pub trait ObjectSource: Send + Sync {
    /// Exactly `len` bytes of the object from `offset`. The bytes are not trusted: the reader checks them.
    ///
    /// # Errors
    /// `Missing` if there is no such object; `Refused` if the range lies outside of it.
    fn read(
        &self,
        kind: ObjectKind,
        digest: &Digest,
        offset: u64,
        len: usize,
    ) -> SourceResult<Vec<u8>>;
}

/// The stretches in which a file that changes in place is compared with its parent: the usual page of databases.
pub const BLOCK: u64 = 4096;

/// Takes one version of one source, entry by entry. One file at a time; any order of paths; no path twice.
pub trait Sink {
    /// Starts an entry. Its `extents` must be empty; `size` may still be a guess, the data that follow decide.
    ///
    /// # Errors
    /// `Refused` if an entry is open, or the entry breaks the rules of [`Entry::validate`].
    fn begin(&mut self, entry: Entry) -> SourceResult<()>;

    /// Bytes of the open file. Offsets only grow; what is skipped is a hole and reads as zeros.
    ///
    /// # Errors
    /// `Refused` if no file is open or the offset lies before the last end.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()>;

    /// Ends the open entry. Its size becomes the larger of the size given and the end of its data.
    ///
    /// # Errors
    /// `Refused` if none is open.
    fn end(&mut self) -> SourceResult<()>;

    /// As [`Sink::begin`], for a file whose bytes move between versions, such as a dump: a sink that keeps no stretch
    /// twice then cuts it by its content instead of by offsets.
    ///
    /// # Errors
    /// As [`Sink::begin`].
    fn begin_shifting(&mut self, entry: Entry) -> SourceResult<()> {
        self.begin(entry)
    }

    /// Says of the open entry that it is not what the source held at one moment.
    ///
    /// # Errors
    /// `Refused` if none is open, or the sink takes none that is not whole.
    fn mark(&mut self, mark: &Incomplete) -> SourceResult<()> {
        Err(SourceError::Refused(format!("it is {mark}")))
    }

    /// Forgets the open entry, as if it had not been begun.
    ///
    /// # Errors
    /// `Refused` if none is open, or the sink cannot forget.
    fn discard(&mut self) -> SourceResult<()> {
        Err(SourceError::Refused(
            "an entry cannot be forgotten here".into(),
        ))
    }
    /// Says of the open file, before its data, that its bytes stay where they are between versions, as the pages of a
    /// database do: the sink keeps what tells it which blocks of [`BLOCK`] bytes changed, seals those, and refers to the
    /// others. Data then begin and end at multiples of [`BLOCK`], or at the file's end. Returns the length of the parent
    /// version's file if any part of that may be given by [`Sink::same`]; without it all must come as data.
    ///
    /// # Errors
    /// `Refused` if no file is open, or it has data.
    fn in_place(&mut self) -> SourceResult<Option<u64>> {
        Ok(None)
    }

    /// A stretch of the open file that is as in the parent version: whole blocks of it.
    ///
    /// # Errors
    /// `Refused` if the sink did not offer it.
    fn same(&mut self, offset: u64, len: u64) -> SourceResult<()> {
        let _ = (offset, len);
        Err(SourceError::Refused(
            "no part of a parent was offered".into(),
        ))
    }

    /// Begins the open file over, which changed while it was given: all comes again, and what was given so far is the
    /// parent that it is compared with.
    ///
    /// # Errors
    /// `Refused` if the file is not one in place.
    fn again(&mut self) -> SourceResult<()> {
        Err(SourceError::Refused(
            "a file cannot be begun over here".into(),
        ))
    }

    /// A file whose content equals that of the parent version: `entry` with the extents it had there.
    ///
    /// # Errors
    /// `Refused` if its extents refer to packs that the parent's list does not hold.
    fn unchanged(&mut self, entry: Entry) -> SourceResult<()>;

    /// A fact about the source that its restore needs, such as a start position.
    ///
    /// # Errors
    /// `Refused` when the facts exceed their bound.
    fn meta(&mut self, key: &str, value: &str) -> SourceResult<()>;
}

/// Takes a live write-ahead log in order.
pub trait WalSink {
    /// WAL bytes that start at `start`; each call continues where the last one ended.
    ///
    /// # Errors
    /// When it cannot be kept; the caller stops reading and reports nothing as flushed.
    fn wal(&mut self, timeline: Timeline, start: Lsn, bytes: &[u8]) -> SourceResult<()>;

    /// Returns the position before which everything is sealed and on stable storage where the owner's policy
    /// wants it. Only this position may be reported to PostgreSQL as flushed.
    ///
    /// # Errors
    /// When durability is not reached.
    fn flush(&mut self) -> SourceResult<Lsn>;

    /// Called now and then while nothing comes and everything is flushed: time for what need not hold up the stream.
    ///
    /// # Errors
    /// As [`WalSink::flush`].
    fn idle(&mut self) -> SourceResult<()> {
        Ok(())
    }

    /// The source says that its log ends at `end`. With `rested` it was so that long ago already, and all of it was given
    /// to this sink: what the source had at that time is known to be here, although nothing came.
    fn source_at(&mut self, end: Lsn, rested: Option<Duration>) {
        let _ = (end, rested);
    }

    /// Whether the caller should finish at the next message boundary.
    fn stop(&self) -> bool;
}

/// Gives a version back, entry by entry: parents before children, hard links after all else.
pub trait Restorer {
    /// Starts an entry; `entry.size` is exact.
    ///
    /// # Errors
    /// When it cannot be made.
    fn begin(&mut self, entry: &Entry) -> SourceResult<()>;

    /// Verified bytes of the open file; offsets only grow, what is skipped is a hole.
    ///
    /// # Errors
    /// When they cannot be written.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()>;

    /// Ends the open entry.
    ///
    /// # Errors
    /// When it cannot be finished.
    fn end(&mut self) -> SourceResult<()>;
}
