//! Home: databases, a gazette, an agent; and how it ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::Value;

use super::{World, private};
use crate::args;
use crate::error::{Doing, Result, failed};
use crate::fixtures::{self, Registry, gazette};
use crate::line::Line;
use crate::pg::{self, AGENT_ROLE, Cluster, SUPERUSER};
use crate::process::{Daemon, kill_trees, remove_tree};
use crate::reckon;
use crate::writers::Writers;

/// What the agent says of one registry: a claim, used only to burden whoever makes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lag {
    /// WAL up to here is acknowledged abroad.
    pub acknowledged: u64,
    /// The newest version whose receipt was verified.
    pub version: Option<u64>,
    /// The log entry of its commit.
    pub entry: Option<u64>,
    /// Epoch of keys now in use.
    pub epoch: u64,
    /// Seconds that what is at home is ahead of what is abroad.
    pub seconds: f64,
    /// Seconds that the first capture took.
    pub first_capture: Option<f64>,
    /// All that it says.
    pub raw: Value,
}

/// How home ended.
#[derive(Debug, Clone)]
pub struct Disaster {
    /// When the first SIGKILL was sent, microseconds since 1970.
    pub micros: u64,
    /// Processes killed.
    pub killed: usize,
    /// Files that were removed with home.
    pub files: u64,
}

impl World {
    /// Makes and loads the databases and the gazette, side by side.
    pub fn start_home(&mut self) -> Result<()> {
        self.write_agent_config()?;
        let world: &Self = self;
        let databases = world
            .options
            .registries
            .iter()
            .copied()
            .filter(|r| r.is_database());
        let made: Vec<Result<_>> = std::thread::scope(|scope| {
            let threads: Vec<_> = databases
                .map(|r| (r, scope.spawn(move || world.start_database(r))))
                .collect();
            threads
                .into_iter()
                .map(|(r, t)| {
                    t.join()
                        .unwrap_or_else(|_| failed(format!("making {} broke", r.name())))
                })
                .collect()
        });
        for made in made {
            let (registry, cluster, rows, fingerprint) = made?;
            self.clusters.insert(registry, cluster);
            self.loaded.insert(registry, rows);
            self.fingerprints.insert(registry, fingerprint);
        }
        if self.options.registries.contains(&Registry::Gazette) {
            let press = self.press();
            self.gazette = gazette::write(&press.root, &self.plan)?;
            gazette::write(&press.shadow.join("base"), &self.plan)?;
            self.loaded.insert(Registry::Gazette, self.gazette.files);
        }
        self.write_agent_config()
    }

    fn start_database(
        &self,
        registry: Registry,
    ) -> Result<(Registry, Cluster, u64, reckon::Fingerprint)> {
        let root = self.path("home").join(registry.name());
        // Settings that reach out, as real ones do: they must not act abroad.
        let outside = self.path("citizens/reached-out");
        let reach = format!(
            "archive_mode = on\narchive_command = 'touch {0}/%f'\narchive_timeout = 0\nautovacuum_naptime = 5s",
            outside.display()
        );
        fs::create_dir_all(&outside).doing("making a directory")?;
        self.programs.give(&outside)?;
        let mut cluster = Cluster::create(
            &self.programs,
            &root,
            registry.name(),
            &self.password,
            &reach,
        )?;
        cluster.start()?;
        cluster.furnish()?;
        let rows = fixtures::load(registry, &cluster, &self.plan)?;
        let fingerprint =
            reckon::fingerprint(&mut cluster.connect(SUPERUSER, registry.name())?, registry)?;
        Ok((registry, cluster, rows, fingerprint))
    }

    /// `agent.toml`, with what is known by now.
    pub(super) fn write_agent_config(&self) -> Result<()> {
        let dir = self.path("home/agent");
        fs::create_dir_all(&dir).doing("making the agent's directory")?;
        let mut t = format!(
            "format = 1\nstate = \"{}\"\nmandate = \"mandate.signed\"\nidentity = {{ file = \"agent.key\" }}\n\
             locators = \"locators.toml\"\n\n[spool]\npath = \"spool\"\nsize = \"2GiB\"\nwhen_full = \"protect-home\"\n",
            self.state
        );
        let mut passwords = String::new();
        for r in &self.enrolled {
            let shape = r.shape();
            let tier = shape.tier;
            let _ = write!(
                t,
                "\n[[registry]]\nid = \"{}\"\nname = \"{}\"\ntitle = \"{}\"\nowner = \"{}\"\n\
                 legal_basis = \"{} Act\"\ntier = \"{tier}\"\nsecrecy_until = 2101-01-01\n\
                 epoch = \"{}s\"\n",
                self.id(*r),
                r.name(),
                shape.title,
                shape.owner,
                shape.title,
                self.options.epoch.as_secs()
            );
            if !r.is_database() {
                let _ = write!(
                    t,
                    "\n[[registry.source]]\nkind = \"tree\"\npath = \"{}\"\nevery = \"{}ms\"\n",
                    self.press().root.display(),
                    self.options.gazette_every.as_millis()
                );
                continue;
            }
            let port = self.clusters.get(r).map_or(0, Cluster::port);
            let _ = write!(
                t,
                "\n[[registry.source]]\nkind = \"postgres\"\nurl = \"postgresql://{AGENT_ROLE}@127.0.0.1:{port}/{0}\"\n\
                 slot = \"legation_{0}\"\nbase_every = \"24h\"\n\
                 \n[registry.start]\nprobe = {{ sql = \"{1}\", within = \"30s\" }}\n",
                r.name(),
                r.probe()
            );
            let _ = writeln!(
                passwords,
                "127.0.0.1:{port}:*:{AGENT_ROLE}:{}",
                self.password
            );
        }
        private(&dir.join("agent.toml"), &t)?;
        let port = self.line.as_ref().map_or(self.embassy_port, Line::port);
        private(&dir.join("locators.toml"), &self.locators(port))?;
        private(&self.path("home/.pgpass"), &passwords)?;
        // The charter is copied to whoever needs it; before the ceremony there is none.
        for file in ["mandate.signed", "mandate.keys"] {
            let from = self.path("desk/founding").join(file);
            if from.exists() {
                fs::copy(from, dir.join(file)).doing("handing the mandate to the agent")?;
            }
        }
        Ok(())
    }

    /// Lets the agents reach the embassy over a line that can be cut. Before they are started.
    pub fn lay_line(&mut self) -> Result<()> {
        self.line = Some(Line::to(self.embassy_port)?);
        self.write_agent_config()
    }

    /// Starts the agent beside the registries.
    pub fn start_agent(&mut self) -> Result<()> {
        let mut command = self.legation.command(args![
            "agent",
            "--config",
            self.path("home/agent/agent.toml")
        ]);
        let home = self.path("home");
        command
            .current_dir(&home)
            .env("HOME", &home)
            .envs(self.extra("agent"));
        let log = self.path("home/agent/agent.log");
        self.agents
            .push(Daemon::start("legation agent", command, &log)?);
        Ok(())
    }

    /// Enrols more registries: the agent is told of them and started again.
    pub fn enrol(&mut self, more: &[Registry]) -> Result<()> {
        self.enrolled.extend(more);
        self.write_agent_config()?;
        for mut agent in std::mem::take(&mut self.agents) {
            agent.stop(Signal::TERM)?;
        }
        self.start_agent()
    }

    /// Lets citizens work.
    pub fn start_writers(&mut self, first: i64) -> Result<()> {
        let clusters: Vec<_> = self.clusters.values().collect();
        let press = self.press();
        let press = self
            .options
            .registries
            .contains(&Registry::Gazette)
            .then_some(&press);
        self.writers = Some(Writers::start(
            &clusters,
            press,
            &self.journals(),
            &self.plan,
            first,
        )?);
        Ok(())
    }

    /// What the agent says now, by registry.
    pub fn lag(&self) -> Result<BTreeMap<Registry, Lag>> {
        let config = self.path("home/agent/agent.toml");
        let ran = self
            .legation
            .ok(args!["status", "--config", config, "--json"])?;
        let mut all = BTreeMap::new();
        for record in ran.records()? {
            let Some(registry) = record["registry"]
                .as_str()
                .or(record["name"].as_str())
                .and_then(Registry::named)
            else {
                continue;
            };
            all.insert(registry, claim(record)?);
        }
        Ok(all)
    }

    /// Waits until every registry has a version abroad whose receipt was verified.
    pub fn wait_protected(&mut self, most: Duration) -> Result<BTreeMap<Registry, Lag>> {
        let until = Instant::now() + most;
        loop {
            if let Some(agent) = self
                .agents
                .iter_mut()
                .find_map(|a| a.ended().map(|_| a.said()))
            {
                let tail: Vec<_> = agent.lines().rev().take(5).collect();
                return failed(format!("the agent ended: {}", tail.join(" / ")));
            }
            // Before its first report the agent has nothing to say.
            let lag = self.lag().unwrap_or_default();
            if lag.len() == self.enrolled.len() && lag.values().all(|l| l.version.is_some()) {
                return Ok(lag);
            }
            if Instant::now() > until {
                let lacking: Vec<_> = self
                    .enrolled
                    .iter()
                    .filter(|r| lag.get(r).is_none_or(|l| l.version.is_none()))
                    .map(|r| r.name())
                    .collect();
                return failed(format!(
                    "no version abroad after {} s: {}",
                    most.as_secs(),
                    lacking.join(", ")
                ));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// SIGKILL to every process of home, and home removed. Before the removal `thief` may look at the disk.
    pub fn disaster(&mut self, thief: impl FnOnce(&Self) -> Result<()>) -> Result<Disaster> {
        let mut roots: Vec<u32> = self.agents.iter().map(Daemon::pid).collect();
        roots.extend(
            self.clusters
                .values()
                .filter_map(|c| c.pids().first().copied()),
        );
        let (killed, moment) = kill_trees(&roots);
        let micros = moment
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(0));
        for agent in &mut self.agents {
            agent.kill();
        }
        self.agents.clear();
        self.clusters.values_mut().for_each(Cluster::forget);
        thief(self)?;
        let home = self.path("home");
        let files = count_files(&home)?;
        remove_tree(&home)?;
        self.clusters.clear();
        if let Some(writers) = self.writers.take() {
            writers.stop()?;
        }
        Ok(Disaster {
            micros,
            killed,
            files,
        })
    }
}

/// One record of `status --json`.
fn claim(record: Value) -> Result<Lag> {
    let acknowledged = match record["acked_lsn"].as_str() {
        Some(text) => pg::lsn(text)?,
        None => 0,
    };
    Ok(Lag {
        acknowledged,
        version: record["version"].as_u64(),
        entry: record["version_entry"].as_u64(),
        epoch: record["epoch"].as_u64().unwrap_or(0),
        seconds: record["lag_ms"].as_f64().unwrap_or(0.0) / 1000.0,
        first_capture: record["first_capture_ms"].as_f64().map(|ms| ms / 1000.0),
        raw: record,
    })
}

fn count_files(dir: &std::path::Path) -> Result<u64> {
    let mut files = 0;
    for entry in fs::read_dir(dir).doing("listing home")? {
        let entry = entry.doing("listing home")?;
        files += if entry.file_type().is_ok_and(|t| t.is_dir()) {
            count_files(&entry.path())?
        } else {
            1
        };
    }
    Ok(files)
}
