//! The drivers against real registries: PostgreSQL clusters of our own, 15 to 18, and real file systems.
//! Sink, WAL sink and restorer are plain ones in memory, so that what is tested is the driver alone.

mod ask;
mod base;
mod busy;
mod cluster;
mod command;
mod damage;
mod image;
mod loops;
mod mariadb;
mod matrix;
mod memory;
mod point;
mod probe;
mod record;
mod sanitise;
mod shapes;
mod shutdown;
mod spaces;
mod sqlite;
mod stream;
mod timeline;
mod tls;
mod tree;
mod versions;
