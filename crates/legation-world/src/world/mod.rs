//! One generated state from founding to reckoning, in a directory of its own:
//!
//! ```text
//! home/      <registry>/ gazette/ agent/      removed whole at the disaster
//! embassy/   embassy.toml store/ live/        another process, another directory
//! officers/  officer-1/ ...                   keys and envelopes, each officer's own
//! desk/      legation.toml founding/ ...      where people type
//! citizens/  journals/ gazette/               what citizens keep, outside home
//! ```

mod abroad;
mod founding;
mod home;
mod orders;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use abroad::{Live, Started};
pub use founding::Officer;
pub use home::{Disaster, Lag};
pub use orders::Order;

use crate::cli::Legation;
use crate::error::{Doing, Result};
use crate::fixtures::gazette::Tree;
use crate::fixtures::{Plan, Registry};
use crate::line::Line;
use crate::pg::{Cluster, Programs};
use crate::process::{Daemon, Scratch};
use crate::reckon::Fingerprint;
use crate::writers::{Press, Writers};

/// The embassy's label.
pub const EMBASSY: &str = "a";

/// How a world is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the scratch directory goes; on a disk, as in life.
    pub work: PathBuf,
    /// The seed of everything generated.
    pub seed: u64,
    /// 1.0 is some 300,000 rows.
    pub scale: f64,
    /// Which registries there are.
    pub registries: Vec<Registry>,
    /// How long an epoch of keys lasts.
    pub epoch: Duration,
    /// Time between two captures of the gazette.
    pub gazette_every: Duration,
    /// Time between two acts of the gazette.
    pub gazette_pause: Duration,
    /// The binary.
    pub program: PathBuf,
}

impl Options {
    /// Ordinary choices for the binary at `program`.
    pub fn new(program: &Path) -> Self {
        Self {
            work: PathBuf::from("/var/tmp"),
            seed: 1,
            scale: 1.0,
            registries: Registry::FEW.into(),
            epoch: Duration::from_secs(12),
            gazette_every: Duration::from_secs(8),
            gazette_pause: Duration::from_millis(25),
            program: program.into(),
        }
    }
}

/// A state, its home and its embassy.
#[derive(Debug)]
pub struct World {
    /// How it was made.
    pub options: Options,
    /// What is generated.
    pub plan: Plan,
    /// PostgreSQL.
    pub programs: Programs,
    /// The binary, as typed at the desk.
    pub legation: Legation,
    /// The five officers; empty before [`World::ceremony`].
    pub officers: Vec<Officer>,
    /// The state's fingerprint; empty before [`World::ceremony`].
    pub state: String,
    /// The registries that the agent captures: all, unless they are enrolled in waves.
    pub enrolled: Vec<Registry>,
    /// The databases at home.
    pub clusters: BTreeMap<Registry, Cluster>,
    /// Rows loaded, by registry.
    pub loaded: BTreeMap<Registry, u64>,
    /// The fixture's rows as summed at home.
    pub fingerprints: BTreeMap<Registry, Fingerprint>,
    /// The gazette as first written.
    pub gazette: Tree,
    /// The embassy's process.
    pub embassy: Option<Daemon>,
    /// The agents' processes.
    pub agents: Vec<Daemon>,
    /// The line from the agents to the embassy, where it is to be cut; see [`World::lay_line`].
    pub line: Option<Line>,
    /// The citizens.
    pub writers: Option<Writers>,
    /// Variables that the next start of `agent` or `embassy` gets besides, such as the faults of a test.
    pub extra: BTreeMap<&'static str, Vec<(&'static str, String)>>,
    ids: BTreeMap<Registry, String>,
    password: String,
    embassy_port: u16,
    live_port: u16,
    scratch: Scratch,
}

impl World {
    /// An empty world: directories, nothing running.
    pub fn new(options: Options) -> Result<Self> {
        let scratch = Scratch::new(&options.work, "world")?;
        let root = scratch.path();
        for dir in [
            "home",
            "embassy",
            "officers",
            "desk",
            "citizens",
            "reckoning",
        ] {
            let dir = root.join(dir);
            fs::create_dir(&dir).doing(format_args!("making {}", dir.display()))?;
        }
        let mut secret = [0u8; 16];
        if getrandom::fill(&mut secret).is_err() {
            return crate::error::failed("the system gives no randomness");
        }
        Ok(Self {
            plan: Plan::new(options.seed, options.scale),
            programs: Programs::find()?,
            legation: Legation::new(&options.program, &root.join("desk"))?,
            officers: Vec::new(),
            state: String::new(),
            enrolled: options.registries.clone(),
            clusters: BTreeMap::new(),
            loaded: BTreeMap::new(),
            fingerprints: BTreeMap::new(),
            gazette: Tree::default(),
            embassy: None,
            agents: Vec::new(),
            line: None,
            writers: None,
            extra: BTreeMap::new(),
            ids: BTreeMap::new(),
            password: secret.iter().map(|b| format!("{b:02x}")).collect(),
            embassy_port: crate::ports::claim()?,
            live_port: crate::ports::claim()?,
            options,
            scratch,
        })
    }

    /// The variables that the next start of a role gets besides.
    fn extra(&self, role: &str) -> impl Iterator<Item = (&'static str, String)> {
        self.extra
            .get(role)
            .cloned()
            .unwrap_or_default()
            .into_iter()
    }

    /// A path in the world.
    pub fn path(&self, below: &str) -> PathBuf {
        self.scratch.path().join(below)
    }

    /// Leaves the scratch directory in place at the end.
    pub fn keep(&mut self) {
        self.scratch.keep();
    }

    /// The password of every database role.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The loopback port on which the embassy listens.
    pub fn embassy_port(&self) -> u16 {
        self.embassy_port
    }

    /// A registry's opaque id; empty before [`World::ceremony`].
    pub fn id(&self, registry: Registry) -> &str {
        self.ids.get(&registry).map_or("", String::as_str)
    }

    /// Where the embassy keeps this state.
    pub fn store(&self) -> PathBuf {
        self.path("embassy/store")
    }

    /// Where citizens keep their journals.
    pub fn journals(&self) -> PathBuf {
        self.path("citizens/journals")
    }

    /// Where the gazette is edited, and where its editor keeps every edition.
    pub fn press(&self) -> Press {
        Press {
            root: self.path("home/gazette"),
            desk: self.path("home/gazette-desk"),
            shadow: self.path("citizens/gazette"),
            pause: self.options.gazette_pause,
        }
    }
}

/// Writes a file that only we may read.
fn private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let doing = format!("writing {}", path.display());
    let mut file = fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .doing(&doing)?;
    file.write_all(text.as_bytes()).doing(&doing)
}
