//! The drivers against real registries: PostgreSQL clusters of our own, 15 to 18, and real file systems.
//! Sink, WAL sink and restorer are plain ones in memory, so that what is tested is the driver alone.

mod base;
mod cluster;
mod matrix;
mod memory;
mod point;
mod probe;
mod record;
mod sanitise;
mod shutdown;
mod spaces;
mod stream;
mod timeline;
mod tree;
mod versions;
