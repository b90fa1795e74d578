//! SQLite databases, live: one consistent image of the file for each version, taken beside the application's writers.
//!
//! SQLite itself takes the locks, by a connection that only reads, and decides what is committed; the bytes are read
//! here, the database file overlaid with the committed frames of its write-ahead log, each frame verified by its salts
//! and the running checksum. Nothing is written to the database or its log, no checkpoint is run, and a transaction
//! that a crash left open is left to the application. Nothing here knows where bytes are kept.

mod capture;
pub mod check;
mod header;
mod image;
mod mark;
mod queue;
mod session;
mod shm;
mod wal;

pub use capture::{KIND, Report, capture, entry};
pub use mark::{Look, Mark, look};
pub use session::{Journal, facts};
