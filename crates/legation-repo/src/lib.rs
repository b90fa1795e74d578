//! Stores of write-once objects, the log and the journal on disk, and the reader, writer and checker of versions.
//!
//! Everything here is about bytes that must still be there, and still be right, after the power came back. It knows no
//! registries, no orders and no network; it opens nothing that is sealed except where a caller hands it a key.

pub mod check;
pub mod dir;
pub mod disk;
pub mod durable;
pub mod edge;
pub mod http;
pub mod journal;
pub mod log;
pub mod memory;
pub mod outboard;
pub mod reader;
pub mod state;
pub mod store;
pub mod writer;
