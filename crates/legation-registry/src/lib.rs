//! Registry drivers: how a living registry is captured and how it is started again.
//!
//! Each kind of source has one folder, with capture and restore side by side. A driver speaks to the registry on one
//! side and to the traits of `legation_core::source` on the other. It must not know where bytes are kept, how they
//! are sealed, or who may open them. Everything here blocks: callers give it a thread.

pub mod command;
pub mod error;
pub mod image;
pub mod postgres;
pub mod program;
pub mod sqlite;
pub mod tree;

pub use error::{Error, Result};
