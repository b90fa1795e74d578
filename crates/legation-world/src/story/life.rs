//! Scenes 3 and 4: home lives, and dies.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use super::show::{bytes, clock, seconds, table, thousands};
use super::{Tale, aside};
use crate::args;
use crate::auditor;
use crate::cli::stock;
use crate::error::{Doing, Result, failed};
use crate::fixtures::Registry;
use crate::journal::{self, now_micros};
use crate::pg::lsn_text;
use crate::world::Lag;

/// Longest wait for the first captures.
const FIRST: Duration = Duration::from_secs(120);
/// How often the agent is asked while home lives.
const ASK: Duration = Duration::from_millis(500);

impl Tale {
    pub(super) fn home_lives(&mut self) -> Result<()> {
        let (wave, rest) = self.waves();
        self.world.enrolled = wave;
        let began = Instant::now();
        self.world.start_home()?;
        let made = began.elapsed();
        self.world.start_writers(1)?;
        let writers = self.world.writers.as_ref().map_or(0, |w| w.alive());
        self.t.say("");
        self.t.say(format!(
            "3  HOME LIVES  ({writers} writers, {}, never pausing; the world made in {})",
            seconds(self.options.live.as_secs_f64()),
            seconds(made.as_secs_f64())
        ));
        let mut protected = BTreeMap::new();
        let began = Instant::now();
        self.world.start_agent()?;
        self.seed(1, &mut protected, began)?;
        if !rest.is_empty() {
            let began = Instant::now();
            self.world.enrol(&rest)?;
            self.seed(2, &mut protected, began)?;
        }
        let first = self.world.lag()?;
        self.live_on()?;
        self.say_life(&protected, &first)?;
        self.receipt()
    }

    /// The registries that are enrolled first, and those that follow.
    fn waves(&self) -> (Vec<Registry>, Vec<Registry>) {
        let all = self.world.options.registries.iter().copied();
        all.partition(|r| r.shape().wave == 1)
    }

    /// Waits until every registry that is enrolled has a version abroad, and says what became of the wave.
    fn seed(
        &mut self,
        wave: u32,
        protected: &mut BTreeMap<Registry, Duration>,
        began: Instant,
    ) -> Result<()> {
        while protected.len() < self.world.enrolled.len() {
            if began.elapsed() > FIRST {
                return self.world.wait_protected(Duration::ZERO).map(|_| ());
            }
            for (registry, lag) in self.world.lag().unwrap_or_default() {
                if lag.version.is_some() {
                    protected.entry(registry).or_insert_with(|| began.elapsed());
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let names = |r: &Registry| (r.shape().wave == wave).then(|| r.name());
        let names: Vec<_> = self.world.enrolled.iter().filter_map(names).collect();
        self.t.say(format!(
            "   wave {wave} of {}: {} abroad after {}",
            names.len(),
            names.join(", "),
            seconds(began.elapsed().as_secs_f64())
        ));
        Ok(())
    }

    /// Lets citizens work for the time given, minding that nobody falls silent.
    fn live_on(&mut self) -> Result<()> {
        let until = Instant::now() + self.options.live;
        let mut before: BTreeMap<Registry, u64> = BTreeMap::new();
        // The moment is not chosen by us: a part of a second is left to chance.
        let mut odd = [0u8; 1];
        let _ = getrandom::fill(&mut odd);
        let until = until + Duration::from_millis(u64::from(odd[0]));
        while Instant::now() < until {
            std::thread::sleep(ASK.min(until.saturating_duration_since(Instant::now())));
            self.lag = self.world.lag()?;
            let Some(writers) = &self.world.writers else {
                return failed("nobody writes");
            };
            for &registry in &self.world.options.registries {
                let now = writers.done(registry);
                if before.insert(registry, now) == Some(now) && now == 0 {
                    return failed(format!("the writer of {} does not write", registry.name()));
                }
            }
        }
        Ok(())
    }

    fn say_life(
        &mut self,
        protected: &BTreeMap<Registry, Duration>,
        first: &BTreeMap<Registry, Lag>,
    ) -> Result<()> {
        let mut rows = Vec::new();
        for &registry in &self.world.options.registries {
            let Some(lag) = self.lag.get(&registry).cloned() else {
                return failed(format!("the agent says nothing of {}", registry.name()));
            };
            let (source, size) = match self.world.clusters.get(&registry) {
                Some(cluster) => ("PostgreSQL", cluster.size()?),
                None => ("tree", self.world.gazette.bytes),
            };
            let behind = self.behind(registry, &lag)?;
            let (objective, kept) = registry.shape().kept_within;
            self.t.claim(
                behind <= objective as f64,
                format!("{} is kept within {kept}", registry.name()),
            );
            rows.push(vec![
                registry.name().into(),
                source.into(),
                thousands(self.world.loaded.get(&registry).copied().unwrap_or(0)),
                bytes(size),
                protected
                    .get(&registry)
                    .map(|d| seconds(d.as_secs_f64()))
                    .unwrap_or_default(),
                self.world
                    .writers
                    .as_ref()
                    .map(|w| thousands(w.done(registry)))
                    .unwrap_or_default(),
                kept.into(),
                seconds(behind),
            ]);
        }
        let head = [
            "registry",
            "source",
            "rows/files>",
            "size>",
            "first abroad>",
            "written>",
            "kept within>",
            "lag now>",
        ];
        for line in table(&head, &rows) {
            self.t.say(line);
        }
        for registry in self.databases() {
            let (Some(a), Some(b)) = (first.get(&registry), self.lag.get(&registry)) else {
                continue;
            };
            self.t.claim(
                b.acknowledged > a.acknowledged,
                format!("{}: what is acknowledged abroad moves on", registry.name()),
            );
            if registry == Registry::Population {
                let bases = match b.version.unwrap_or(0) - a.version.unwrap_or(0) {
                    0 => "no new base between".into(),
                    n => format!("{n} new versions between"),
                };
                self.t.say(format!(
                    "   population: acknowledged abroad {} -> {}, streamed, {bases}; epoch of keys {}",
                    lsn_text(a.acknowledged),
                    lsn_text(b.acknowledged),
                    b.epoch
                ));
            }
        }
        Ok(())
    }

    /// Seconds from the youngest transaction that is abroad, by the writers' own journal, to now.
    fn behind(&self, registry: Registry, lag: &Lag) -> Result<f64> {
        if !registry.is_database() {
            return Ok(lag.seconds);
        }
        let told = journal::read(&self.world.journals(), registry.name())?;
        let now = now_micros();
        let youngest = told
            .iter()
            .filter(|t| t.lsn.is_some_and(|l| l <= lag.acknowledged))
            .map(|t| t.micros)
            .max();
        Ok(youngest.map_or(f64::INFINITY, |t| now.saturating_sub(t) as f64 / 1e6))
    }

    /// The registries that citizens transact in.
    fn databases(&self) -> Vec<Registry> {
        let all = self.world.options.registries.iter().copied();
        all.filter(|r| r.is_database()).collect()
    }

    /// The newest commit, looked up in a copy of the log.
    fn receipt(&mut self) -> Result<()> {
        let mirror = self.world.path("desk/log-life");
        let ran = self.world.mirror_log(&mirror)?.ok()?;
        let log = auditor::read(&mirror)?;
        let commits = log.statements("commit").len();
        let epochs = log.statements("epoch").len();
        self.t.claim(
            commits >= self.world.options.registries.len(),
            "every registry has a commit in the log",
        );
        self.t.say(format!(
            "   log copied in {}: {} entries hash to the signed root; {commits} commits, {epochs} epochs of keys",
            seconds(ran.took.as_secs_f64()),
            log.size
        ));
        // Kept for later: what an embassy would show that was set back to here.
        let old = aside(&self.world, "set-back")?;
        let old = old.join("store").join(&self.world.state);
        fs::create_dir_all(&old).doing("making a directory")?;
        for entry in
            fs::read_dir(self.world.store().join(&self.world.state)).doing("listing the store")?
        {
            let path = entry.doing("listing the store")?.path();
            // Objects never change, so links will do; log and journals grow in place.
            let how = if path.ends_with("object") {
                "-al"
            } else {
                "-a"
            };
            stock("cp", args![how, path, old], b"")?.ok()?;
        }
        Ok(())
    }

    pub(super) fn disaster_strikes(&mut self) -> Result<()> {
        if let Ok(lag) = self.world.lag() {
            self.lag = lag;
        }
        let thief = aside(&self.world, "thief")?;
        let disaster = self.world.disaster(|world| {
            // Links, not copies: the thief had all the time in the world, the story has not.
            stock(
                "cp",
                args!["-al", world.path("home"), thief.join("disk")],
                b"",
            )?
            .ok()?;
            Ok(())
        })?;
        let mut youngest = 0;
        for registry in self.databases() {
            let told = journal::read(&self.world.journals(), registry.name())?;
            let before = told
                .iter()
                .map(|t| t.micros)
                .filter(|&m| m <= disaster.micros);
            youngest = youngest.max(before.max().unwrap_or(0));
        }
        self.t.say("");
        self.t.say(format!(
            "4  DISASTER  {}  SIGKILL to {} processes; home removed: databases, agent, keys, spool ({} files)",
            clock(disaster.micros, 3),
            disaster.killed,
            thousands(disaster.files)
        ));
        self.t
            .claim(!self.world.path("home").exists(), "home is gone");
        self.t.say(format!(
            "   youngest commit a writer was told of: {} earlier",
            seconds(disaster.micros.saturating_sub(youngest) as f64 / 1e6)
        ));
        self.disaster = Some(disaster);
        Ok(())
    }
}
