//! The drivers against real registries: PostgreSQL 15 clusters of our own, and real file systems.
//! Sink, WAL sink and restorer are plain ones in memory, so that what is tested is the driver alone.

mod ask;
mod base;
mod busy;
mod cluster;
mod command;
mod image;
mod loops;
mod mariadb;
mod memory;
mod probe;
mod sanitise;
mod shapes;
mod shutdown;
mod sqlite;
mod stream;
mod timeline;
mod tree;
