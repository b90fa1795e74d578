//! What an agent must remember of one registry between two runs: numbers that may never be used twice, and what the
//! embassy has answered for. One small JSON file, replaced whole.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use legation_core::id::{
    Digest, EpochNo, Generation, Lsn, Sha256, StreamId, Term, Timeline, VersionNo,
};
use legation_registry::postgres::Lineage;
use legation_repo::{durable, edge};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// The file is a few hundred bytes.
const MAX_FILE: u64 = 1 << 20;

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The format of this file, 1.
    pub format: u32,
    /// The number of the newest epoch whose statement is in the spool or the log; 0 before the first.
    pub last_epoch: EpochNo,
    /// The number of the newest epoch that the log holds; 0 before the first.
    #[serde(default = "no_epoch")]
    pub logged: EpochNo,
    /// The vault generation that slips are sealed to.
    pub generation: Generation,
    /// The term under which we write.
    pub term: Term,
    /// Epochs whose roots were lost before their slips could be used: what is sealed under them opens for nobody.
    #[serde(default)]
    pub lost: BTreeSet<EpochNo>,
    /// The newest version that the embassy's log holds.
    pub version: Option<Version>,
    /// The timelines that lead to what is captured: another history under the same numbers is told by them.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// Whether pages carried checksums when the newest capture began.
    #[serde(default)]
    pub checksums: Option<bool>,
    /// What was lost, in words, until a version makes it good.
    #[serde(default)]
    pub healing: Option<String>,
    /// What the newest capture found wrong with the source's own files, in words.
    #[serde(default)]
    pub damaged: Option<String>,
    /// The newest stream when the source turned out to have another history than it: nothing continues it.
    #[serde(default)]
    pub foreign: Option<StreamId>,
    /// How often continuity was lost: a version taken before the newest break is no base for what came after.
    pub breaks: u32,
    /// The count of breaks when the newest capture began.
    pub capturing: u32,
}

fn no_epoch() -> EpochNo {
    EpochNo(0)
}

/// A version that the embassy's log holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its number.
    pub number: VersionNo,
    /// The id of its commit statement.
    pub commit: Sha256,
    /// Its pack list.
    pub list: Digest,
    /// Where its commit stands in the log.
    pub entry: u64,
    /// When its capture began, milliseconds since 1970.
    pub captured: u64,
    /// When the receipt was verified, milliseconds since 1970.
    pub received: u64,
    /// Bytes of all its packs.
    pub bytes: u64,
    /// The count of breaks when its capture began.
    pub breaks: u32,
    /// For PostgreSQL: whose history it belongs to.
    pub history: Option<History>,
}

/// The identity of a PostgreSQL history, as far as one cluster at home can tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// PostgreSQL's system identifier.
    pub system_id: u64,
    /// The timeline.
    pub timeline: Timeline,
    /// Where the base starts.
    pub start: Lsn,
    /// From where on it is consistent.
    pub stop: Lsn,
    /// The stream that holds WAL from its start on.
    pub stream: StreamId,
    /// Whether the cluster's pages carried checksums.
    #[serde(default)]
    pub checksums: Option<bool>,
}

/// The memory and its file. Clones share it.
#[derive(Debug, Clone)]
pub struct State {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    memory: Mutex<Memory>,
}

impl State {
    /// Reads the memory of an earlier run; `None` when there was none.
    ///
    /// # Errors
    /// When the file is there but not readable; it is then never guessed at.
    pub fn open(path: &Path) -> Result<Option<State>, Failure> {
        let bytes = match durable::read_bounded(path, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let memory: Memory = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::failed(format!("{}: {error}", path.display()))
                .hint("move it away: the agent then learns its numbers from the log and captures everything anew")
        })?;
        Ok(Some(State::holding(path, memory)))
    }

    /// Begins a memory; durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(path: &Path, memory: Memory) -> Result<State, Failure> {
        let state = State::holding(path, memory);
        state.update(|_| ())?;
        Ok(state)
    }

    /// A copy of the memory.
    pub fn get(&self) -> Memory {
        self.lock().clone()
    }

    /// Changes the memory; durable when this returns. On an error the change has not happened.
    ///
    /// # Errors
    /// When the file cannot be replaced.
    pub fn update<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> Result<T, Failure> {
        let mut memory = self.lock();
        let mut changed = memory.clone();
        let result = change(&mut changed);
        let bytes = serde_json::to_vec_pretty(&changed).map_err(|error| {
            Failure::failed(format!("cannot write the agent's memory: {error}"))
        })?;
        edge::at("agent.state", || {
            durable::write_atomic(&self.inner.path, &bytes)
        })
        .map_err(|error| Failure::from(error).during("writing the agent's memory"))?;
        *memory = changed;
        Ok(result)
    }

    fn holding(path: &Path, memory: Memory) -> State {
        State {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                memory: Mutex::new(memory),
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.inner
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
