//! Getting registries back: what could be restored, the WAL it needs, the volume it lives on, and starting it.
//!
//! Everything here reads from the embassy's store and log, and opens only what a release of the officers opened.

pub mod activate;
pub mod grant;
pub mod journal;
pub mod keep;
pub mod ready;
pub mod scope;
pub mod sealed;
pub mod seat;
pub mod serve;
pub mod sqlite;
pub mod start;
pub mod turns;
pub mod volume;
pub mod wanted;

use std::path::Path;

use crate::exit::{Code, Failure};

/// A path's own I/O error.
pub(crate) fn io(path: &Path, why: std::io::Error) -> Failure {
    Failure::failed(format!("{}: {why}", path.display()))
}

/// Bytes that are not what they were sealed or signed as.
pub(crate) fn damaged(message: impl std::fmt::Display) -> Failure {
    Failure::new(Code::VerificationFailed, message)
}

/// A target that what is held does not reach.
pub(crate) fn unreachable(message: impl std::fmt::Display) -> Failure {
    Failure::failed(message)
}
