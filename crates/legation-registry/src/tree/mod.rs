//! Trees of files: documents with their metadata, links, sparse files and extended attributes.
//!
//! Capture walks in order and reads only what changed; restore writes into an empty directory and cannot be led out
//! of it. Nothing here knows where bytes are kept.

pub mod capture;
mod file;
pub(crate) mod holes;
mod mounts;
mod names;
pub mod parent;
pub mod restore;
pub(crate) mod xattrs;

pub use capture::{INCOMPLETE_KEY, Options, TreeReport, capture};
pub use parent::{Parent, Stat};
pub use restore::{RestoreReport, TreeRestorer};
