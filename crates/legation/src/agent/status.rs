//! What the agent tells the people beside it: one JSON file, replaced whole about every second. No address in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::state::Version;
use crate::exit::Failure;

/// Everything the agent says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The state's fingerprint.
    pub state: String,
    /// The process that wrote this.
    pub pid: u32,
    /// When it was written, milliseconds since 1970.
    pub at: u64,
    /// When the process began.
    pub since: u64,
    /// The embassy's label.
    pub embassy: String,
    /// Bytes that wait in the spool.
    pub spool_used: u64,
    /// Bytes that may wait.
    pub spool_limit: u64,
    /// Whether live WAL was turned away for want of room.
    pub spool_full: bool,
    /// When the spool is full if it fills on as it did in the last minutes, in milliseconds; `None` when it does not grow.
    #[serde(default)]
    pub spool_lasts_ms: Option<u64>,
    /// Its software's version.
    #[serde(default)]
    pub version: String,
    /// Entries of the log as of the last verified checkpoint.
    pub log_size: u64,
    /// Its registries by name.
    pub registries: BTreeMap<String, RegistryStatus>,
}

/// One registry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RegistryStatus {
    /// Its opaque id.
    pub id: String,
    /// `postgres`, `tree` or `sqlite`.
    pub source: String,
    /// What is being done, in a word: `starting`, `base`, `streaming`, `waiting`, `disconnected`, `full`, `fenced`.
    pub phase: String,
    /// The objective, in milliseconds.
    pub rpo_ms: u64,
    /// The age of the oldest thing that the source has told us and the embassy has not acknowledged, milliseconds.
    pub lag_ms: Option<u64>,
    /// Whether the lag is beyond the objective.
    pub late: bool,
    /// Bytes of log that the source is known to have and the embassy has not acknowledged.
    #[serde(default)]
    pub lag_bytes: Option<u64>,
    /// As of when everything that the source had is acknowledged, milliseconds since 1970.
    #[serde(default)]
    pub covered_at: Option<u64>,
    /// How often continuity was lost since this agent's memory began.
    #[serde(default)]
    pub breaks: u32,
    /// Whether continuity was lost since the newest version's capture: until there is another, nothing after that starts.
    #[serde(default)]
    pub broken: bool,
    /// The current epoch.
    pub epoch: u32,
    /// Up to where WAL is sealed and synced in the spool.
    pub sealed_lsn: Option<String>,
    /// Up to where the embassy has acknowledged it.
    pub acked_lsn: Option<String>,
    /// When it last did.
    pub acked_at: Option<u64>,
    /// The first position acknowledged since the process began.
    pub first_acked_lsn: Option<String>,
    /// The newest version in the embassy's log.
    pub version: Option<u32>,
    /// The log entry of its commit.
    pub version_entry: Option<u64>,
    /// When its capture began.
    pub version_captured: Option<u64>,
    /// When its receipt was verified.
    pub version_received: Option<u64>,
    /// When a walk last found the tree as it is in the newest version.
    pub unchanged_at: Option<u64>,
    /// Bytes of its packs.
    pub version_bytes: Option<u64>,
    /// How long its capture took, milliseconds.
    pub capture_ms: Option<u64>,
    /// How long the first capture of this process took until it was received, milliseconds.
    pub first_capture_ms: Option<u64>,
    /// Rows of the tree or files of the cluster in the newest version.
    pub entries: Option<u64>,
    /// What of the newest version is not what the source held, in words.
    pub incomplete: Option<String>,
    /// Bytes of the source in the newest version.
    pub source_bytes: Option<u64>,
    /// Bytes of the source that the capture under way has read; none when there is none.
    pub capturing: Option<u64>,
    /// Versions committed since the process began.
    pub versions_made: u64,
    /// What speaks against the newest version.
    pub flagged: Option<String>,
    /// Captures of a source that is captured whole which failed since the process began.
    pub failures: u64,
    /// What is wrong with the source or its capture.
    pub trouble: Option<String>,
    /// What was lost, until a version makes it good.
    #[serde(default)]
    pub healing: Option<String>,
    /// What the newest base found wrong with the source's own files.
    #[serde(default)]
    pub damaged: Option<String>,
    /// What is wrong with the line.
    pub line_trouble: Option<String>,
    /// Why packs wait in the spool, such as an embassy without room.
    pub ship_trouble: Option<String>,
}

impl RegistryStatus {
    /// Shows a version that the embassy's log holds.
    pub fn show_version(&mut self, version: &Version) {
        self.version = Some(version.number.0);
        self.version_entry = Some(version.entry);
        self.version_captured = Some(version.captured);
        self.version_received = Some(version.received);
        self.version_bytes = Some(version.bytes);
    }
}

/// The status in the making. Clones share it.
#[derive(Debug, Clone)]
pub struct Board {
    path: PathBuf,
    status: Arc<Mutex<AgentStatus>>,
}

impl Board {
    /// A board written to `path`.
    pub fn new(path: &Path, status: AgentStatus) -> Board {
        Board {
            path: path.to_owned(),
            status: Arc::new(Mutex::new(status)),
        }
    }

    /// Changes what is said of a registry.
    pub fn registry(&self, name: &str, change: impl FnOnce(&mut RegistryStatus)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(status.registries.entry(name.to_owned()).or_default());
    }

    /// Changes what is said of the agent.
    pub fn agent(&self, change: impl FnOnce(&mut AgentStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// When a walk last found a registry as it is in its newest version.
    pub fn looked(&self, name: &str) -> Option<u64> {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.registries.get(name)?.unchanged_at
    }

    /// A copy.
    pub fn get(&self) -> AgentStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces the file. It is a report and not a record, so it is not synced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn publish(&self) -> Result<(), Failure> {
        // Held meanwhile: two writers would spoil each other's file.
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let text = serde_json::to_vec_pretty(&*status)
            .map_err(|error| Failure::failed(format!("cannot write the status: {error}")))?;
        let fresh = self.path.with_extension("json.new");
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, &self.path)?;
        Ok(())
    }
}

/// Reads a status file; `None` when the agent never ran here.
///
/// # Errors
/// When the file is not a status.
pub fn read(path: &Path) -> Result<Option<AgentStatus>, Failure> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
