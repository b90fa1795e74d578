//! What can go wrong in a generated world, said so that a person knows what was being done.

use std::fmt;

/// A failure, with what was being done when it happened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// PostgreSQL refused something.
    #[error("{doing}: {}", sql_text(source))]
    Sql {
        /// What was being done.
        doing: String,
        /// What the server or the driver answered.
        source: postgres::Error,
    },
    /// A program ended otherwise than it should, or a figure is not what it must be.
    #[error("{0}")]
    Failed(String),
}

/// The driver's own text says only "db error"; the server's message is what helps.
fn sql_text(e: &postgres::Error) -> String {
    match e.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => e.to_string(),
    }
}

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds to an error what was being done.
pub trait Doing<T> {
    /// Names what was being done, in the form "copying the store".
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|source| Error::Io {
            doing: what.to_string(),
            source,
        })
    }
}

impl<T> Doing<T> for std::result::Result<T, postgres::Error> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|source| Error::Sql {
            doing: what.to_string(),
            source,
        })
    }
}

impl<T> Doing<T> for Option<T> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error::Failed(format!("{what}: nothing there")))
    }
}

/// A failure in words.
pub fn failed<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Failed(what.into()))
}
