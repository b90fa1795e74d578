//! One world: it makes one step after the other, and after each the checkers look.

use bytes::Bytes;
use legation_core::canary::{Bug, plant};
use legation_core::id::Sha256;
use legation_core::log::Checkpoint;
use legation_core::statement::{Signed, Statement, Time};
use tempfile::TempDir;

use crate::agent::{Agent, Did};
mod misfortune;
mod traffic;

use crate::audit::{Audit, Checked, Violation, found};
use crate::counts::Counts;
use crate::dice::Dice;
use crate::disk::{Disk, Faults};
use crate::founding::{Founding, founding};
use crate::insider::Insider;
use crate::line::{Answer, Ask, Body, Lane, Who};
use crate::officers::Desk;
use crate::profile::Profile;
use crate::restore;
use crate::site::{FUSE, Site};
use crate::thief::Thief;
use crate::trace::Trace;

/// When every world begins, in milliseconds since 1970: an hour after the mandate was signed.
const BEGINNING: u64 = 1_795_338_000_000;
/// Most requests that an embassy takes at once here.
const GROUP: usize = 6;
/// Room that a full disk still has.
const CRUMBS: u64 = 200_000;
/// Steps that the world is given to finish what is under way, once nothing goes wrong any more.
const CALM: u64 = 2_000;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The hash over all its events.
    pub hash: String,
    /// What a checker found.
    pub violation: Option<Violation>,
    /// What happened.
    pub counts: Counts,
    /// The last events.
    pub last: Vec<String>,
}

/// Runs a world from its seed. With a bug planted the checkers should find something; without one, never.
#[must_use]
pub fn run(seed: u64, profile: &Profile, bug: Option<Bug>, echo: bool) -> Outcome {
    plant(bug);
    let mut world = World::new(seed, *profile, echo);
    let violation = world.live().err();
    plant(None);
    if let Some(violation) = &violation {
        world.trace.say(format_args!("{violation}"));
    }
    world.count();
    Outcome {
        seed,
        hash: world.trace.hash(),
        violation,
        counts: world.counts,
        last: world.trace.last(),
    }
}

/// Everything there is.
pub struct World {
    pub(crate) founding: &'static Founding,
    pub(crate) profile: Profile,
    pub(crate) dice: Dice,
    /// The true time, in milliseconds.
    pub(crate) now: u64,
    pub(crate) site: Site,
    pub(crate) agents: Vec<Agent>,
    pub(crate) asks: Lane<Ask>,
    answers: Lane<(Ask, Answer)>,
    pub(crate) audit: Audit,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
    pub(crate) desk: Desk,
    pub(crate) thief: Thief,
    pub(crate) insider: Insider,
    next_ask: u64,
    /// Nothing goes wrong any more.
    pub(crate) calm: bool,
    /// Whether the host was seen to lie: then nobody believes it any more.
    pub(crate) betrayed: bool,
    _dir: TempDir,
}

/// What may happen in a step.
#[derive(Debug, Clone, Copy)]
enum Act {
    Source,
    Pump,
    Capture,
    Mark,
    Send,
    Deliver,
    Answer,
    Idle,
}

impl World {
    fn new(seed: u64, profile: Profile, echo: bool) -> Self {
        let founding = founding();
        let mut dice = Dice::new(seed);
        // A file system in memory, where there is one: nothing here needs to survive.
        let memory = std::path::Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => TempDir::with_prefix_in("legation-sim-", memory),
            false => TempDir::with_prefix("legation-sim-"),
        };
        let dir = dir.expect("a directory");
        let disk = |name: &str, dice: &mut Dice| Disk::new(&dir.path().join(name), dice.fork());
        let site = Site::new(founding, disk("embassy", &mut dice));
        let agents = (0..profile.registries).map(|n| {
            let disk = disk(&format!("home-{n}"), &mut dice);
            Agent::new(founding, n, disk, profile.epoch, dice.fork())
        });
        let agents = agents.collect();
        Self {
            founding,
            profile,
            now: BEGINNING,
            site,
            agents,
            asks: Lane::new(),
            answers: Lane::new(),
            audit: Audit::new(founding),
            trace: Trace::new(echo),
            counts: Counts {
                runs: 1,
                ..Counts::default()
            },
            desk: Desk::default(),
            thief: Thief::default(),
            insider: Insider::default(),
            next_ask: 0,
            calm: false,
            betrayed: false,
            dice,
            _dir: dir,
        }
    }

    /// The time at home.
    pub(crate) fn time(&self) -> Time {
        Time::from_millis(self.now).unwrap_or_default()
    }

    fn live(&mut self) -> Checked {
        self.clock();
        self.start_embassy()?;
        self.site.disk.set_faults(self.profile.embassy);
        for n in 0..self.agents.len() {
            self.agents[n].disk.set_faults(self.profile.agent);
            self.start_agent(n)?;
        }
        for _ in 0..self.profile.steps {
            self.step()?;
        }
        self.settle()?;
        self.counts.compared = restore::everything(self.founding, &self.audit, &mut self.site)?;
        self.compare_folds()?;
        if self.profile.insider {
            self.tamper()?;
        }
        Ok(())
    }

    fn count(&mut self) {
        let happened = self.agents.iter().map(|agent| agent.disk.happened());
        for happened in happened.chain([self.site.disk.happened()]) {
            self.counts.faults += happened.failed + happened.full;
            self.counts.undone += happened.undone;
        }
        self.counts.steps = self.trace.step;
        self.counts.entries = self.audit.size();
        self.counts.sealed = self.audit.sealed() as u64;
        self.counts.receipts = self.audit.receipts() as u64;
        self.counts.orders = self.audit.orders.len() as u64;
    }

    /// The clocks go on.
    fn clock(&mut self) {
        self.site.at(self.now, self.now - BEGINNING);
    }

    /// Everybody does what he can.
    fn calm_step(&mut self) -> Checked {
        self.trace.step += 1;
        self.now += 100;
        self.clock();
        if !self.site.is_up() {
            self.start_embassy()?;
        }
        for n in 0..self.agents.len() {
            if !self.agents[n].is_up() {
                self.start_agent(n)?;
            }
            let now = self.now;
            self.tell(n, |agent, audit| agent.pump(now, audit))?;
            self.wonder(n)?;
            self.send(n);
        }
        self.deliver()?;
        self.answer()
    }

    fn step(&mut self) -> Checked {
        self.trace.step += 1;
        let (shortest, longest) = self.profile.pace;
        self.now += self.dice.between(shortest, longest);
        self.clock();
        self.misfortune()?;
        if !self.site.is_up() && self.dice.percent(30) {
            self.start_embassy()?;
        }
        for n in 0..self.agents.len() {
            if !self.agents[n].is_up() && self.dice.percent(30) {
                self.start_agent(n)?;
            }
        }
        if self.dice.permille(self.profile.officers) {
            self.officers()?;
        }
        if self.dice.permille(self.profile.thief) {
            self.steal();
        }
        if self.profile.insider && self.trace.step == self.profile.steps / 2 {
            self.copy_log();
        }
        if self.profile.scrub > 0 && self.trace.step.is_multiple_of(self.profile.scrub) {
            restore::scrub(self.founding, &self.site)?;
            self.trace.say(format_args!("the whole store is checked"));
        }
        let act = self.dice.weighted(&[
            (10, Act::Source),
            (18, Act::Pump),
            (5, Act::Capture),
            (3, Act::Mark),
            (34, Act::Send),
            (30, Act::Deliver),
            (30, Act::Answer),
            (2, Act::Idle),
        ]);
        let n = self.dice.roll(self.agents.len());
        let (now, time) = (self.now, self.time());
        match act {
            Act::Source => self.tell(n, |agent, _| agent.write())?,
            Act::Pump => self.tell(n, |agent, audit| agent.pump(now, audit))?,
            Act::Capture => self.tell(n, |agent, audit| agent.capture(now, time, audit))?,
            Act::Mark => self.tell(n, |agent, _| agent.mark(time))?,
            Act::Send => {
                self.wonder(n)?;
                self.send(n);
            }
            Act::Deliver => self.deliver()?,
            Act::Answer => self.answer()?,
            Act::Idle => {
                self.site.with(|embassy| embassy.idle());
                self.look()?;
            }
        }
        Ok(())
    }

    pub(crate) fn start_embassy(&mut self) -> Checked {
        let up = self.site.start()?;
        self.trace.say(format_args!(
            "the embassy starts: {}",
            if up { "up" } else { "down" }
        ));
        self.look()?;
        match self.site.process() {
            Some(process) => self.audit.acks_stand(process),
            None => Ok(()),
        }
    }

    fn start_agent(&mut self, n: usize) -> Checked {
        let did = self.agents[n].start();
        self.say(n, did)?;
        if self.agents[n].disk.is_dead() {
            self.agents[n].kill();
            self.agents[n].disk.power_cycle();
            return Ok(());
        }
        // The log is read first, if there is anybody to read it from.
        if self.site.is_up() && self.audit.size() > 0 && self.dice.percent(80) {
            self.agents[n].learn(self.audit.fold());
        }
        Ok(())
    }

    /// An auditor reads what is published.
    pub(crate) fn look(&mut self) -> Checked {
        match self.site.process() {
            Some(process) if !self.betrayed => self.audit.look(process),
            _ => Ok(()),
        }
    }

    /// An agent does something.
    fn tell(&mut self, n: usize, act: impl FnOnce(&mut Agent, &mut Audit) -> Did) -> Checked {
        if !self.agents[n].is_up() {
            return Ok(());
        }
        let did = act(&mut self.agents[n], &mut self.audit);
        self.say(n, did)
    }

    fn say(&mut self, n: usize, did: Did) -> Checked {
        if let Some(what) = did? {
            self.trace.say(format_args!("agent {n} {what}"));
        }
        if self.agents[n].disk.is_dead() {
            self.agents[n].kill();
            self.agents[n].disk.power_cycle();
            self.trace.say(format_args!("agent {n} has lost power"));
        }
        Ok(())
    }

    /// Nothing goes wrong any more: what is under way comes to its end, and everything is as promised.
    fn settle(&mut self) -> Checked {
        self.calm = true;
        self.site.disk.mend();
        self.site.disk.set_faults(Faults::default());
        self.site.disk.set_capacity(u64::MAX);
        for agent in &self.agents {
            agent.disk.mend();
            agent.disk.set_faults(Faults::default());
        }
        self.site.kill();
        // Its operator sets right a clock that is not believed; a smaller error is lived with.
        if self.site.off > misfortune::BELIEVED {
            self.site.off = 0;
            self.clock();
        }
        if self.dice.percent(50) {
            self.site.disk.power_cycle();
        }
        let limit = self.trace.step + CALM;
        while self.trace.step < limit {
            self.calm_step()?;
            if self.agents.iter().all(|a| a.is_idle() || a.is_fenced()) {
                break;
            }
        }
        for n in 0..self.agents.len() {
            let agent = &self.agents[n];
            if !agent.is_idle() && !agent.is_fenced() {
                let (items, streams) = agent.waiting();
                return found(
                    "progress",
                    format!(
                        "agent {n} still has {items} items and {streams} streams to send, and nothing stands in its way"
                    ),
                );
            }
        }
        self.site.lose_power();
        self.start_embassy()
    }

    fn compare_folds(&self) -> Checked {
        let Some(process) = self.site.process() else {
            return found("restart", "the embassy is down");
        };
        let (ours, theirs) = (self.audit.fold(), process.fold());
        if format!("{ours:?}") != format!("{theirs:?}") {
            return found("replay", "the embassy's fold is not that of its log");
        }
        Ok(())
    }
}
