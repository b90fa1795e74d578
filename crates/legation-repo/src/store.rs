//! The contract of a store: write-once objects, named by the BLAKE3 of their bytes.
//!
//! A store keeps what it was given and gives it back. It has no delete and no overwrite: what must be destroyed is
//! destroyed elsewhere, under an authority that this crate cannot make. It knows nothing of registries, and
//! never looks into an object.

use std::fmt;
use std::ops::Range;

use legation_core::id::Digest;
use legation_core::source::{ObjectSource, SourceError, SourceResult};

/// Largest object: the largest size of the table in `spec/format.md`.
pub const MAX_OBJECT: u64 = 16 << 20;
/// Most names that one call of [`Store::list`] returns, so that listing is bounded in memory.
pub const MAX_LIST: usize = 10_000;

/// What an object is: each kind has its own name space.
pub use legation_core::source::ObjectKind as Kind;

/// A store as a reader of versions sees it.
#[derive(Debug, Clone)]
pub struct Objects<S>(pub S);

impl<S: Store> ObjectSource for Objects<S> {
    fn read(&self, kind: Kind, digest: &Digest, offset: u64, len: usize) -> SourceResult<Vec<u8>> {
        let end = offset.saturating_add(len as u64);
        self.0
            .get(kind, digest, offset..end)
            .map_err(|error| match error {
                StoreError::NotFound { .. } => SourceError::Missing {
                    kind,
                    digest: *digest,
                },
                other => SourceError::other(other),
            })
    }
}

/// Until when an object must stay, in seconds since 1970 by the embassy's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RetainUntil(pub u64);

impl RetainUntil {
    /// No end.
    pub const FOREVER: RetainUntil = RetainUntil(u64::MAX);
}

impl fmt::Display for RetainUntil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            RetainUntil::FOREVER => f.write_str("forever"),
            RetainUntil(seconds) => write!(f, "{seconds}"),
        }
    }
}

impl std::str::FromStr for RetainUntil {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<RetainUntil, std::num::ParseIntError> {
        match text {
            "forever" => Ok(RetainUntil::FOREVER),
            seconds => seconds.parse().map(RetainUntil),
        }
    }
}

/// What [`Store::put`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object was not there before.
    Created,
    /// The same bytes were there before, and are durable now.
    Existing,
}

/// What the backing of a store guarantees. Probed when it is opened, shown to the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Kind of backing: `dir`, `memory`.
    pub backing: &'static str,
    /// What [`Store::put`] acknowledged survives power loss.
    pub durable: bool,
    /// Retention is recorded beside each object.
    pub retention_recorded: bool,
    /// The backing itself refuses to delete before the time is over, whoever asks.
    pub retention_enforced: bool,
}

/// Why a store did not do what it was asked. The kinds are what a caller decides by; the text is for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No space or quota is left. Nothing half-written was published; make room, then repeat.
    #[error("the store is full: no space left while writing {what}; make room and repeat")]
    Full {
        /// What was being written.
        what: String,
    },
    /// No object of that name.
    #[error("no {what} in this store")]
    NotFound {
        /// The kind and name that were asked for.
        what: String,
    },
    /// Other bytes already stand under that name. They are kept; the bytes that were offered are not.
    #[error(
        "{what} is already there with other bytes: the stored copy is damaged, run `legation verify --store`"
    )]
    Conflict {
        /// The kind and name.
        what: String,
    },
    /// Bytes that are not what their name says.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// The kind and name, and where it is known the byte range.
        what: String,
        /// What differs.
        why: String,
    },
    /// The bytes offered are not the object that was named, or break a rule of the format. Nothing was stored.
    #[error("{what} is refused: {why}")]
    Refused {
        /// The kind and name.
        what: String,
        /// Which rule it breaks.
        why: String,
    },
    /// A range outside the object.
    #[error("bytes {start}..{end} are outside {what}, which has {size}")]
    OutOfRange {
        /// The kind and name.
        what: String,
        /// First byte asked for.
        start: u64,
        /// End of what was asked for.
        end: u64,
        /// Bytes that the object has.
        size: u64,
    },
    /// Another process writes here.
    #[error("{path} is locked: another legation process writes there; stop it first")]
    Locked {
        /// The directory.
        path: String,
    },
    /// The directory is no store, or one of another format, suite or state.
    #[error("{path}: {why}")]
    Format {
        /// The directory.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The handle failed before and what it wrote since is unknown: open it anew, which recovers.
    #[error("{what} failed earlier and is closed; reopen it, which checks and recovers")]
    Finished {
        /// Which handle.
        what: String,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// An I/O error, or [`StoreError::Full`] when it means that.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> StoreError {
        let what = what.into();
        let errno = rustix::io::Errno::from_io_error(&source);
        match errno {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => StoreError::Full { what },
            _ => StoreError::Io { what, source },
        }
    }
}

/// A keeper of write-once objects.
///
/// **Durability.** When `put` returns `Ok`, the object and its name survive the loss of power (as far as
/// [`Capabilities::durable`] says). When it returns an error the object may or may not be there; it is never there in
/// part, and never under a name that is not its digest.
/// **Retries.** Every call may be repeated. `put` of equal bytes succeeds, and makes durable what an earlier,
/// interrupted call may have left behind.
/// **Concurrency.** All calls may be made from many threads at once; of several concurrent `put`s of one name one
/// creates and the others find it existing.
/// **Retention.** A later `put` may lengthen what is recorded; nothing shortens it.
pub trait Store: Send + Sync {
    /// Stores `bytes` under `digest`, which must be their BLAKE3, and keeps them until `retain_until` at least.
    ///
    /// # Errors
    /// `Refused` when the digest is another or the object is larger than [`MAX_OBJECT`]; `Conflict` when other bytes
    /// stand there; `Full`; `Io`.
    fn put(
        &self,
        kind: Kind,
        digest: &Digest,
        bytes: &[u8],
        retain_until: RetainUntil,
    ) -> Result<Put, StoreError>;

    /// Reads exactly `range` of an object. The bytes are as stored: whoever asks for a part checks it by what is inside.
    ///
    /// # Errors
    /// `NotFound`; `OutOfRange`; `Io`.
    fn get(&self, kind: Kind, digest: &Digest, range: Range<u64>) -> Result<Vec<u8>, StoreError>;

    /// Bytes of an object.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn size(&self, kind: Kind, digest: &Digest) -> Result<u64, StoreError>;

    /// Names of a kind in ascending order, beginning after `after`; at most `limit`, itself at most [`MAX_LIST`].
    /// An empty answer is the end.
    ///
    /// # Errors
    /// `Io`.
    fn list(
        &self,
        kind: Kind,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, StoreError>;

    /// What the backing guarantees.
    fn capabilities(&self) -> Capabilities;

    /// Reads a whole object and checks it against its name.
    ///
    /// # Errors
    /// `NotFound`; `Damaged` when the bytes are not those of the name; `Io`.
    fn get_whole(&self, kind: Kind, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let size = self.size(kind, digest)?;
        let what = || format!("{kind} {digest}");
        if size > MAX_OBJECT {
            let why = format!("{size} bytes, more than any object has");
            return Err(StoreError::Damaged { what: what(), why });
        }
        let bytes = self.get(kind, digest, 0..size)?;
        if Digest::of(&bytes) != *digest {
            let why = "its bytes are not those of its name".to_owned();
            return Err(StoreError::Damaged { what: what(), why });
        }
        Ok(bytes)
    }

    /// Whether an object of that name is there; says nothing about its bytes.
    ///
    /// # Errors
    /// `Io`.
    fn contains(&self, kind: Kind, digest: &Digest) -> Result<bool, StoreError> {
        match self.size(kind, digest) {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }
}

impl<S: Store + ?Sized> Store for std::sync::Arc<S> {
    fn put(
        &self,
        k: Kind,
        d: &Digest,
        bytes: &[u8],
        until: RetainUntil,
    ) -> Result<Put, StoreError> {
        (**self).put(k, d, bytes, until)
    }
    fn get(&self, kind: Kind, digest: &Digest, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        (**self).get(kind, digest, range)
    }
    fn size(&self, kind: Kind, digest: &Digest) -> Result<u64, StoreError> {
        (**self).size(kind, digest)
    }
    fn list(&self, k: Kind, after: Option<&Digest>, n: usize) -> Result<Vec<Digest>, StoreError> {
        (**self).list(k, after, n)
    }
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
}

#[cfg(test)]
pub(crate) mod conformance;
