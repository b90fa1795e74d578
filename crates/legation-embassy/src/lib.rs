//! The embassy: admission, sequencing, journals and the HTTP interface. It never opens a pack.
//!
//! It is a thin shell around two things that live elsewhere: the fold of `legation_core::policy`, which alone says
//! what the mandate allows, and the log of `legation_repo`, which alone says what happened. Everything in memory is
//! rebuilt from disk at every start, so that no stop needs to be a clean one.
//!
//! `server` listens and knows peers by key; `http` turns requests into calls; `admit` gathers the facts outside the
//! log that a statement depends on; `sequence` is the one place where a statement enters the log; `journal` is
//! the one place where frames of live WAL are appended and acknowledged; `keep` holds the bytes.

mod admit;
mod clock;
mod config;
mod error;
mod hosted;
mod http;
mod journal;
mod keep;
#[cfg(feature = "local")]
#[doc(hidden)]
pub mod local;
mod sequence;
mod server;

pub use config::{EmbassyConfig, EmbassyIdentity, HostedState, Limits, Reserve};
pub use error::EmbassyError;
pub use server::{EmbassyHandle, EmbassyServer};
