//! What can go wrong between a registry and its driver. Few kinds; every message says what to do about it.

use std::io;

/// The result of a driver's call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a capture or a start could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused; `what` names the file or the peer.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, and on what.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The database server answered with an error.
    #[error("PostgreSQL: {0}")]
    Server(Box<ServerError>),
    /// Foreign bytes that the format or the protocol does not allow.
    #[error("{what}: {detail}")]
    Malformed {
        /// Whose bytes they were.
        what: &'static str,
        /// What was wrong with them.
        detail: String,
    },
    /// Something must be put right first; `fix` says how.
    #[error("{what}\n  fix: {fix}")]
    Refused {
        /// What is not as it must be.
        what: String,
        /// What a person does about it.
        fix: String,
    },
    /// The side that keeps or gives the bytes failed.
    #[error("{0}")]
    Storage(#[from] legation_core::source::SourceError),
    /// The caller raised its stop flag.
    #[error("stopped on request")]
    Stopped,
}

/// An error or notice as a PostgreSQL server words it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`.
    pub severity: String,
    /// The five characters of SQLSTATE.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// More about it, or empty.
    pub detail: String,
    /// The server's own advice, or empty.
    pub hint: String,
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        for more in [&self.detail, &self.hint] {
            if !more.is_empty() {
                write!(f, "; {more}")?;
            }
        }
        Ok(())
    }
}

impl Error {
    /// An I/O error with what was attempted.
    pub fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error::Io {
            what: what.into(),
            source: source.into(),
        }
    }

    /// A refusal with its cure.
    pub fn refused(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Error::Refused {
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// Foreign bytes that cannot be accepted.
    pub fn malformed(what: &'static str, detail: impl Into<String>) -> Self {
        Error::Malformed {
            what,
            detail: detail.into(),
        }
    }
}

/// Shorthand to say what an I/O call was about.
pub(crate) trait Context<T> {
    fn at(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn at(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::io(what(), e))
    }
}
