//! `agent.toml`: one agent, beside the registries it captures.

use std::path::{Path, PathBuf};
use std::time::Duration;

use legation_core::statement::RegistryRow;
use serde::{Deserialize, Serialize};

use super::IdentityAt;
use super::sources::{Command, Image};
use super::units::{Rate, Size, Span};
use crate::exit::Failure;

/// The usual place of the file.
pub const USUAL: &str = "/etc/legation/agent.toml";
/// Below this a single pack crowds out the stream.
const SMALLEST_SPOOL: Size = Size(64 << 20);
/// An epoch never lasts longer than this, whatever the file says: a stolen root opens at most this much.
const LONGEST_EPOCH: Duration = Duration::from_secs(3600);

/// The agent's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// The format of this file, 1.
    pub format: u32,
    /// The state's fingerprint; the mandate must have it.
    pub state: String,
    /// The signed founding mandate; its keyring lies beside it.
    pub mandate: PathBuf,
    /// The agent's keys: they may append; they cannot read.
    pub identity: IdentityAt,
    /// Where embassies answer.
    pub locators: PathBuf,
    /// Where metrics are served, in the clear; nowhere when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<String>,
    /// Whether that may be an address that other machines reach.
    #[serde(default)]
    pub metrics_beyond_loopback: bool,
    /// Bounds on what the agent uses.
    #[serde(default)]
    pub limits: Limits,
    /// Where sealed bytes wait until an embassy has them.
    pub spool: Spool,
    /// What is captured.
    #[serde(default)]
    pub registry: Vec<Registry>,
}

/// Bounds on what the agent uses.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory for buffers; so many captures run at once as fit.
    pub memory: Size,
    /// Captures that run at once.
    pub workers: u32,
    /// Upload no faster than this; unbounded when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<Rate>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory: Size(256 << 20),
            workers: 2,
            upload: None,
        }
    }
}

/// The spool.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spool {
    /// Its directory; the agent's state lies there too.
    pub path: PathBuf,
    /// How large it may grow.
    pub size: Size,
    /// What gives way when it is full.
    #[serde(default)]
    pub when_full: WhenFull,
}

/// What gives way when the spool is full. In neither case are captured bytes dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// Let go of the source, so that its disk does not fill with what it keeps for us: a new base follows.
    #[default]
    ProtectHome,
    /// Keep the source's slot, so that nothing is missing when the line is back: its disk may fill.
    ProtectRpo,
}

/// One registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// The opaque id that the mandate gives it.
    pub id: String,
    /// Its name; seen at home only.
    pub name: String,
    /// Its full title. Like `owner`, `legal_basis`, `secrecy_until` and `rto` it travels with each version.
    #[serde(default)]
    pub title: String,
    /// Who answers for it.
    #[serde(default)]
    pub owner: String,
    /// By what law it is kept.
    #[serde(default)]
    pub legal_basis: String,
    /// Its tier, which must be the mandate's; fills in `rpo` and `rto` where they are absent.
    #[serde(default)]
    pub tier: Tier,
    /// How much may be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Span>,
    /// How long it may be away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<Span>,
    /// Its retention class, which must be the mandate's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<String>,
    /// Until when its contents must stay secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrecy_until: Option<toml::value::Datetime>,
    /// The wave that it is enrolled in; 0 when none.
    #[serde(default)]
    pub wave: u32,
    /// Registries of the state that must run before it, by their name here or their id.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// Which embassies it may go to: compared with where the mandate puts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embassies: Option<Placement>,
    /// Whether commits wait for embassies.
    #[serde(default)]
    pub durability: Durability,
    /// How long one epoch of keys lasts, at most an hour.
    #[serde(default = "Registry::usual_epoch")]
    pub epoch: Span,
    /// What it is made of.
    #[serde(default)]
    pub source: Vec<Source>,
    /// How it is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

/// Which embassies a registry may go to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Classes of embassies.
    #[serde(default)]
    pub class: Vec<String>,
    /// How many jurisdictions at least.
    #[serde(default)]
    pub jurisdictions: u32,
}

/// Service level classes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    /// Identity, population, treasury: 10 s, 1 h.
    T0,
    /// Land, business, pensions, tax: 1 min, 4 h.
    #[default]
    T1,
    /// Cadastre, e-file, health: 15 min, 24 h.
    T2,
    /// Legislation, census: 24 h, 72 h.
    T3,
}

impl Tier {
    /// Default RPO.
    pub fn rpo(self) -> Duration {
        Duration::from_secs(match self {
            Tier::T0 => 10,
            Tier::T1 => 60,
            Tier::T2 => 900,
            Tier::T3 => 86_400,
        })
    }

    /// Default RTO.
    pub fn rto(self) -> Duration {
        Duration::from_secs(match self {
            Tier::T0 => 3600,
            Tier::T1 => 4 * 3600,
            Tier::T2 => 24 * 3600,
            Tier::T3 => 72 * 3600,
        })
    }
}

/// Whether commits at home wait for embassies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// They do not.
    #[default]
    Async,
    /// They do; refused for now.
    Sync,
}

/// Something that is captured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A PostgreSQL cluster.
    Postgres(Postgres),
    /// A directory of files.
    Tree(Tree),
    /// What a program prints.
    Command(Command),
    /// A volume, an image of a machine, or a container image.
    Image(Image),
    /// A SQLite database.
    Sqlite(Sqlite),
}

/// A PostgreSQL cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// How to connect; the password comes from `.pgpass`.
    pub url: String,
    /// The physical replication slot that keeps WAL for us.
    pub slot: String,
    /// Time between two bases.
    #[serde(default = "Postgres::usual_base")]
    pub base_every: Span,
}

/// A directory of files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// The directory.
    pub path: PathBuf,
    /// Time between two captures.
    #[serde(default = "Tree::usual_every")]
    pub every: Span,
    /// Keep directories empty on which other file systems are mounted.
    #[serde(default)]
    pub one_file_system: bool,
}

/// A SQLite database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sqlite {
    /// The database's file.
    pub path: PathBuf,
    /// Time between two captures.
    #[serde(default = "Sqlite::usual_every")]
    pub every: Span,
}

/// How a registry is started abroad.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// What must be installed where it starts.
    #[serde(default)]
    pub software: Vec<Software>,
    /// Services in the order of their start. Beside the database a person starts them, and is told to.
    #[serde(default)]
    pub services: Vec<String>,
    /// Where it is written how a person starts it: a path, or `registry:path`.
    #[serde(default)]
    pub runbook: String,
    /// A query that must hold before it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Queries whose answers are sealed with each version.
    #[serde(default)]
    pub invariant: Vec<Invariant>,
}

/// A query that must answer true.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The query.
    pub sql: String,
    /// How long it may take.
    #[serde(default = "Probe::usual_within")]
    pub within: Span,
}

/// A named query.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invariant {
    /// What it says.
    pub name: String,
    /// The query: one row, whose first column counts.
    pub sql: String,
    /// The answer as text, if another would be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// How long it may take.
    #[serde(default = "Probe::usual_within")]
    pub within: Span,
}

/// Something that must be installed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Software {
    /// What it is called.
    pub name: String,
    /// Which release; any without it.
    #[serde(default)]
    pub version: String,
}

impl Registry {
    fn usual_epoch() -> Span {
        Span(LONGEST_EPOCH)
    }

    /// How much may be lost: as configured, else the tier's.
    pub fn rpo(&self) -> Duration {
        self.rpo.map_or(self.tier.rpo(), |span| span.0)
    }

    /// How long it may be away: as configured, else the tier's.
    pub fn rto(&self) -> Duration {
        self.rto.map_or(self.tier.rto(), |span| span.0)
    }

    /// What is asked for and would not be done: a rule that is accepted and ignored is worse than one that is refused.
    fn unsupported(&self) -> Option<&'static str> {
        let asked = [("durability \"sync\"", self.durability == Durability::Sync)];
        asked
            .into_iter()
            .find_map(|(what, asked)| asked.then_some(what))
    }

    /// Checks what the mandate says too, and decides: how long it is kept, and what it is promised.
    ///
    /// # Errors
    /// Code 2 when the file says otherwise.
    pub fn agrees(&self, row: &RegistryRow) -> Result<(), Failure> {
        let differs = |what: &str, here: &str, there: &str| {
            Err(Failure::usage(format!(
                "registry {:?}: {what} is {here:?} in the configuration and {there:?} in the mandate",
                self.name
            ))
            .hint("the mandate decides; give the same here"))
        };
        let (tier, promised) = (format!("{:?}", self.tier), row.tier.to_string());
        if tier != promised {
            return differs("tier", &tier, &promised);
        }
        match &self.retention {
            Some(class) if class != row.class.as_str() => {
                differs("retention", class, row.class.as_str())
            }
            _ => Ok(()),
        }
    }
}

impl Source {
    /// The kind, as the file and versions name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::Postgres(_) => "postgres",
            Source::Tree(_) => "tree",
            Source::Command(_) => "command",
            Source::Image(_) => "image",
            Source::Sqlite(_) => "sqlite",
        }
    }
}

impl Postgres {
    fn usual_base() -> Span {
        Span(Duration::from_secs(24 * 3600))
    }
}

impl Tree {
    /// A directory by its path alone.
    pub fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            every: Self::usual_every(),
            one_file_system: false,
        }
    }

    fn usual_every() -> Span {
        Span(Duration::from_secs(300))
    }
}

impl Sqlite {
    fn usual_every() -> Span {
        Span(Duration::from_secs(10))
    }
}

impl Probe {
    fn usual_within() -> Span {
        Span(Duration::from_secs(30))
    }
}

impl Agent {
    /// Reads the file; paths in it are relative to it.
    ///
    /// # Errors
    /// Code 2 when it is missing, malformed, or asks for something that this version does not do.
    pub fn load(path: &Path) -> Result<Agent, Failure> {
        let mut agent: Agent = super::load(path)?;
        super::check_format(agent.format, path)?;
        agent.mandate = super::beside(path, &agent.mandate);
        agent.identity.file = super::beside(path, &agent.identity.file);
        agent.locators = super::beside(path, &agent.locators);
        agent.spool.path = super::beside(path, &agent.spool.path);
        agent
            .check()
            .map_err(|failure| failure.during(path.display()))?;
        Ok(agent)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.spool.size < SMALLEST_SPOOL {
            return Err(Failure::usage(format!(
                "spool.size is {}; it is at least {SMALLEST_SPOOL}",
                self.spool.size
            )));
        }
        for (at, registry) in self.registry.iter().enumerate() {
            let wrong = |what: String| {
                Err(Failure::usage(format!(
                    "registry {:?}: {what}",
                    registry.name
                )))
            };
            let others = &self.registry[..at];
            if others
                .iter()
                .any(|other| other.name == registry.name || other.id == registry.id)
            {
                return wrong("its name or id occurs twice".into());
            }
            if let Some(what) = registry.unsupported() {
                return wrong(format!("{what} is not supported by this version"));
            }
            if let Err(what) = registry.check_description() {
                return wrong(what);
            }
            if registry.epoch.0 > LONGEST_EPOCH || registry.epoch.0 < Duration::from_secs(1) {
                return wrong(format!(
                    "epoch is {}; it lasts from 1s to 1h",
                    registry.epoch
                ));
            }
            let clusters = registry
                .source
                .iter()
                .filter(|source| matches!(source, Source::Postgres(_)))
                .count();
            if clusters > 1 {
                return wrong(
                    "it has more than one PostgreSQL source; give each a registry of its own"
                        .into(),
                );
            }
            for source in &registry.source {
                let found = match source {
                    Source::Command(command) => command.check(),
                    Source::Image(image) => image.check(),
                    Source::Postgres(_) | Source::Tree(_) | Source::Sqlite(_) => Ok(()),
                };
                if let Err(what) = found {
                    return wrong(what.to_owned());
                }
            }
            if registry.source.is_empty() {
                return wrong("it has no [[registry.source]]".into());
            }
        }
        super::catalogue::check_circle(&self.registry)
    }
}
