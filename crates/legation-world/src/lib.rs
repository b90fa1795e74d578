//! Generated worlds for demonstrations and tests: a state with its registries, citizens who write to them and keep
//! their own journal, disasters, and a reckoning that trusts none of the programs it reckons with.
//!
//! Drives the `legation` binary as a person would, as a process. Must not use any of its code: what is checked with
//! the checked program's own parts proves nothing.

pub mod auditor;
pub mod cli;
pub mod error;
pub mod exposition;
pub mod fixtures;
pub mod journal;
pub mod keytry;
pub mod line;
pub mod pg;
pub mod ports;
pub mod process;
pub mod reckon;
pub mod rng;
pub mod search;
pub mod servers;
pub mod story;
pub mod svg;
pub mod words;
pub mod world;
pub mod writers;

pub use error::{Error, Result};
