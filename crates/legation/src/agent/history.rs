//! How the agent knows the source's history again after it died: a keyed digest of the last WAL before a synced
//! position, on disk. A database that was set back to an older copy reuses system identifier, timeline and positions;
//! only its bytes tell.
//!
//! The digest's key comes from the agent's secret: without it the file does not even confirm a guess at the bytes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use legation_core::id::{Digest, Lsn, Timeline};
use legation_repo::{durable, edge};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::exit::Failure;

/// How much WAL is compared at most: no two histories share the bytes of so many records.
pub const OVERLAP: usize = 64 << 10;
/// Time between two writings while WAL comes: what was received after the last one is not compared after a kill.
pub const EVERY: Duration = Duration::from_secs(1);
/// The same when nothing comes: a writing then delays nobody.
pub const EVERY_IDLE: Duration = Duration::from_millis(200);
/// The file is some two hundred bytes.
const MAX_FILE: u64 = 4 << 10;
/// What the key is for.
const KEY: &str = "legation/v1/agent/history";

/// The last WAL before a position, as far as it lies in that position's segment: a slot holds whole segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// The format of this file, 1.
    pub format: u32,
    /// PostgreSQL's system identifier.
    pub system_id: u64,
    /// The timeline.
    pub timeline: Timeline,
    /// Everything before it was sealed and synced.
    pub end: Lsn,
    /// How many bytes before it the digest is of; 0 when there is nothing to compare.
    pub bytes: u64,
    /// Their keyed digest.
    pub digest: Digest,
}

impl Trace {
    /// Where the bytes begin.
    pub fn start(&self) -> Lsn {
        Lsn(self.end.0.saturating_sub(self.bytes))
    }
}

/// Where a registry's trace is kept, and the key of its digests.
#[derive(Clone)]
pub struct History {
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "History({})", self.path.display())
    }
}

impl History {
    /// In the registry's directory, under a key of the agent's secret.
    pub fn new(dir: &Path, secret: &[u8; 32]) -> History {
        History {
            path: dir.join("history.json"),
            key: Zeroizing::new(blake3::derive_key(KEY, secret)),
        }
    }

    /// A digest in the making.
    pub fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.key)
    }

    /// Replaces what is kept; durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, trace: &Trace) -> Result<(), Failure> {
        let bytes = serde_json::to_vec_pretty(trace)
            .map_err(|error| Failure::failed(format!("writing the history's trace: {error}")))?;
        edge::at("agent.history", || {
            durable::write_atomic(&self.path, &bytes)
        })?;
        Ok(())
    }

    /// What was kept last; `None` when there is nothing, or nothing readable: then nothing is compared.
    pub fn last(&self) -> Option<Trace> {
        let bytes = durable::read_bounded(&self.path, MAX_FILE).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!("{}: {error}", self.path.display()))
            .ok()
    }
}
