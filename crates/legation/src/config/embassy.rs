//! `embassy.toml`: an unattended embassy. It holds no key that opens data.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::IdentityAt;
use super::units::{Rate, Share, Size, Span};
use crate::exit::Failure;

/// The usual place of the file.
pub const USUAL: &str = "/etc/legation/embassy.toml";

/// The embassy's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embassy {
    /// The format of this file, 1.
    pub format: u32,
    /// All that anybody else ever sees of this site.
    pub label: String,
    /// Addresses to listen on.
    pub listen: Vec<String>,
    /// The embassy's keys.
    pub identity: IdentityAt,
    /// Where metrics would be served; not served yet.
    #[serde(default)]
    pub metrics_listen: Option<String>,
    /// Where a witness would listen; refused for now.
    #[serde(default)]
    pub witness_listen: Option<String>,
    /// When the operator last found the machine's clock right, such as `"2026-11-22T09:00:00Z"`: up to here it is believed
    /// though nothing was logged for more than 400 days.
    #[serde(default)]
    pub clock_checked: Option<String>,
    /// Where objects lie.
    pub store: Store,
    /// How often everything is read and checked.
    #[serde(default)]
    pub scrub: Scrub,
    /// Where registries are started.
    #[serde(default)]
    pub activation: Option<Activation>,
    /// The states served here.
    #[serde(default)]
    pub state: Vec<State>,
    /// Other embassies; refused for now.
    #[serde(default)]
    pub peer: Vec<Peer>,
}

/// The store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// The kind; `dir` for now.
    pub kind: StoreKind,
    /// The directory.
    pub path: PathBuf,
    /// Kept free for log and journal.
    #[serde(default = "Store::usual_reserve")]
    pub reserve: Share,
}

impl Store {
    fn usual_reserve() -> Share {
        Share::Percent(5)
    }
}

/// Kinds of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Local files.
    Dir,
    /// S3-compatible; refused for now.
    S3,
}

/// Reading everything again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scrub {
    /// Time between two rounds.
    pub every: Span,
    /// Read no faster than this.
    pub rate: Rate,
}

impl Default for Scrub {
    fn default() -> Scrub {
        Scrub {
            every: Span(std::time::Duration::from_secs(30 * 86_400)),
            rate: Rate(50 << 20),
        }
    }
}

/// Starting registries.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Where the in-memory volume is mounted.
    pub path: PathBuf,
    /// What starts the services; `process` for now.
    #[serde(default = "Activation::usual_launcher")]
    pub launcher: String,
    /// The user that services run as when we are root; PostgreSQL refuses root.
    #[serde(default)]
    pub run_as: Option<String>,
    /// The first port that activated databases listen on.
    #[serde(default)]
    pub port: Option<u16>,
}

impl Activation {
    fn usual_launcher() -> String {
        "process".into()
    }
}

/// One state served here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The signed founding mandate; its keyring lies beside it.
    pub mandate: PathBuf,
    /// How much this state may store.
    pub quota: Size,
}

/// Another embassy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its label; its keys come from the mandate.
    pub label: String,
    /// Whether statements are passed on.
    #[serde(default)]
    pub relay: bool,
}

impl Embassy {
    /// Reads the file; paths in it are relative to it.
    ///
    /// # Errors
    /// Code 2 when it is missing, malformed, or asks for something that this version does not do.
    pub fn load(path: &Path) -> Result<Embassy, Failure> {
        let mut embassy: Embassy = super::load(path)?;
        super::check_format(embassy.format, path)?;
        embassy.identity.file = super::beside(path, &embassy.identity.file);
        embassy.store.path = super::beside(path, &embassy.store.path);
        for state in &mut embassy.state {
            state.mandate = super::beside(path, &state.mandate);
        }
        if let Some(activation) = &mut embassy.activation {
            activation.path = super::beside(path, &activation.path);
        }
        embassy.check(path)?;
        Ok(embassy)
    }

    fn check(&self, path: &Path) -> Result<(), Failure> {
        let later = |what: &str| {
            Err(Failure::usage(format!(
                "{}: {what} is not supported by this version",
                path.display()
            )))
        };
        if self.store.kind != StoreKind::Dir {
            return later("store kind \"s3\"");
        }
        if self.witness_listen.is_some() {
            return later("witness_listen");
        }
        if !self.peer.is_empty() {
            return later("[[peer]]");
        }
        match &self.activation {
            Some(activation) if activation.launcher != "process" => {
                later("a launcher other than \"process\"")
            }
            _ if self.listen.is_empty() => Err(Failure::usage(format!(
                "{}: listen names no address",
                path.display()
            ))),
            _ => Ok(()),
        }
    }
}
