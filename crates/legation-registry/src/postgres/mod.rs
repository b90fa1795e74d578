//! PostgreSQL: captured by the replication protocol, started again from a base and its write-ahead log.
//!
//! `url` and `conn` reach a server, `probe` looks before anything begins, `base` and `wal` capture; `restore` makes a
//! data directory safe to start abroad and `server` starts it. Nothing here knows where bytes are kept.

pub mod base;
pub mod conn;
pub mod control;
mod crc32c;
pub mod facts;
pub mod lineage;
mod locale;
pub mod point;
pub mod probe;
pub mod record;
pub mod restore;
pub mod server;
mod settle;
pub mod slot;
mod spaces;
mod tar;
pub mod url;
pub mod wal;
mod walfile;

pub use base::{BaseOptions, BaseReport};
pub use conn::Conn;
pub use facts::Facts;
pub use lineage::{Lineage, Place, lineage};
pub use probe::{Finding, Probe, Severity, SlotState, probe};
pub use restore::{Plan, Serve, Target, TcpAuth, WalPiece, Window, prepare};
pub use server::{Amcheck, Binaries, Replayed, RunAs, Server, Shutdown};
pub use settle::Settled;
pub use slot::{SlotPosition, drop_slot, ensure_slot};
pub use url::{ConnectConfig, Host};
pub use wal::{Reread, WalEnd, WalOptions, WalReport, receive, reread};
