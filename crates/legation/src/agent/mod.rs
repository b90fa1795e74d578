//! The agent: captures registries at home, seals what it reads, and sends it abroad.
//!
//! One process; for each registry one thread receives, one takes versions, one ships what sets RPO, one ships versions.
//! Between reading and shipping lies the spool: everything is sealed and durable there before anyone is told of it,
//! and it is sent as the same bytes until the embassy has answered for it. The agent can append and seal; what it
//! sealed in closed epochs it cannot read.
//!
//! Fault edges, in the order of a byte's life: `agent.state`, `agent.epoch`, `agent.slip`, `agent.epoch-statement`,
//! `agent.moved` (to another vault generation), `agent.stream`, `agent.history`, `agent.receive`, `agent.pack`,
//! `agent.index`, `agent.commit`, `agent.outbox` (each file of a queue),
//! `agent.acked`, `agent.ack`, `agent.committed`, `agent.sent`; beneath them the journal's and the files' own.

pub mod budget;
pub mod bulk;
pub mod command;
pub mod epoch;
pub mod gate;
pub mod history;
pub mod image;
pub mod index;
pub mod kept;
pub mod link;
pub mod live;
pub mod outbox;
pub mod postgres;
pub mod request;
pub mod sink;
pub(crate) mod sqlite;
pub mod state;
pub mod status;
pub mod streams;
pub mod tree;
pub mod version;
pub mod vitals;
pub mod way;
pub mod whole;
pub mod writer;

mod assemble;
mod metrics;
mod prepare;
mod trend;

pub use assemble::run;
pub(crate) use prepare::programs;

use std::path::{Path, PathBuf};

/// Where things lie below the spool's path.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of a spool.
    pub fn new(root: &Path) -> Layout {
        Layout {
            root: root.to_owned(),
        }
    }

    /// Held by the one agent that writes here.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// What the agent says of itself.
    pub fn status(&self) -> PathBuf {
        self.root.join("status.json")
    }

    /// The pinned checkpoint of an embassy's log.
    pub fn pin(&self, label: &str) -> PathBuf {
        self.root.join(format!("trust/{label}.checkpoint"))
    }

    /// A registry's directory, by its opaque id.
    pub fn registry(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }
}
