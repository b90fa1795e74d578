//! The wire: what an embassy and its clients say to each other (`spec/wire.md`), and the client's side of it.
//!
//! This module must not know what the bytes mean that it carries: it moves sealed objects, signed texts and frames,
//! and believes nothing that it cannot check against the mandate's keys.

mod client;
mod error;
mod receipt;
mod remote;
pub mod tls;
mod trust;
pub mod wire;

pub use client::{Client, ClientOptions};
pub use error::{ClientError, SplitView};
pub use receipt::{LogFiles, Receipt};
pub use remote::RemoteStore;
pub use tls::{TlsIdentity, spki_sha256};
pub use trust::{Trust, origin};
pub use wire::Problem;
