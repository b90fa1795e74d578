//! One world: it makes one step after the other, and after each the checkers look.

use std::fmt;
use std::ops::AddAssign;

use bytes::Bytes;
use legation_core::canary::{Bug, plant};
use legation_core::id::Sha256;
use legation_core::log::Checkpoint;
use legation_core::statement::{Signed, Statement, Time};
use tempfile::TempDir;

use crate::agent::{Agent, Did};
use crate::audit::{Audit, Checked, Violation, found};
use crate::dice::Dice;
use crate::disk::{Disk, Faults};
use crate::founding::{Founding, founding};
use crate::insider::Insider;
use crate::line::{Answer, Ask, Body, Lane, Who};
use crate::officers::Desk;
use crate::profile::Profile;
use crate::restore::{self, Compared};
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

/// What happened in one or more runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs.
    pub runs: u64,
    /// Steps.
    pub steps: u64,
    /// Power failures and killed processes at the embassy.
    pub embassy_crashes: u64,
    /// The same at home.
    pub agent_crashes: u64,
    /// Changes of files that failed.
    pub faults: u64,
    /// Writes that a power failure took back or tore.
    pub undone: u64,
    /// Requests that reached the embassy.
    pub requests: u64,
    /// Requests that were refused.
    pub refusals: u64,
    /// Entries in the logs.
    pub entries: u64,
    /// Orders that were accepted.
    pub orders: u64,
    /// Orders that were refused.
    pub orders_refused: u64,
    /// Activations that opened something.
    pub activations: u64,
    /// What a thief sent.
    pub thefts: u64,
    /// Machines that were set back.
    pub set_back: u64,
    /// Bytes that the host changed, and histories that it rolled back.
    pub tampered: u64,
    /// Things sealed, each under a key and nonce of its own.
    pub sealed: u64,
    /// Receipts that were checked.
    pub receipts: u64,
    /// What was compared at the end.
    pub compared: Compared,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.runs += more.runs;
        self.steps += more.steps;
        self.embassy_crashes += more.embassy_crashes;
        self.agent_crashes += more.agent_crashes;
        self.faults += more.faults;
        self.undone += more.undone;
        self.requests += more.requests;
        self.refusals += more.refusals;
        self.entries += more.entries;
        self.orders += more.orders;
        self.orders_refused += more.orders_refused;
        self.activations += more.activations;
        self.thefts += more.thefts;
        self.set_back += more.set_back;
        self.tampered += more.tampered;
        self.sealed += more.sealed;
        self.receipts += more.receipts;
        self.compared.versions += more.compared.versions;
        self.compared.bytes += more.compared.bytes;
        self.compared.streams += more.compared.streams;
        self.compared.wal += more.compared.wal;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compared {
            versions,
            streams,
            wal,
            ..
        } = self.compared;
        writeln!(f, "{} runs of {} steps", self.runs, self.steps)?;
        writeln!(
            f,
            "  {} crashes abroad, {} at home; {} changes of files failed, {} writes undone or torn by power failures",
            self.embassy_crashes, self.agent_crashes, self.faults, self.undone
        )?;
        writeln!(
            f,
            "  {} requests, {} refused; {} entries logged; {} acts of a thief; {} machines set back; {} tamperings",
            self.requests, self.refusals, self.entries, self.thefts, self.set_back, self.tampered
        )?;
        writeln!(
            f,
            "  {} orders accepted, {} refused; {} activations opened something",
            self.orders, self.orders_refused, self.activations
        )?;
        write!(
            f,
            "  {} receipts hold; {versions} versions and {streams} streams with {wal} bytes of log came back as they were; \
             {} things sealed, none under a key and nonce used before",
            self.receipts, self.sealed
        )
    }
}

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
        if self.profile.scrub > 0 && self.trace.step % self.profile.scrub == 0 {
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

    /// Something goes wrong, or not.
    fn misfortune(&mut self) -> Checked {
        let profile = self.profile;
        if self.dice.permille(profile.embassy_outages) {
            self.embassy_fails();
        }
        if self.dice.permille(profile.agent_outages) {
            let n = self.dice.roll(self.agents.len());
            self.agent_fails(n);
        }
        if self.dice.permille(profile.set_back) {
            let n = self.dice.roll(self.agents.len());
            self.set_back(n)?;
        }
        if self.dice.permille(profile.clock) {
            self.clock_jumps();
        }
        if self.dice.permille(profile.full) {
            let disk = &self.site.disk;
            disk.set_capacity(disk.used() + self.dice.roll(CRUMBS as usize) as u64);
            self.trace.say(format_args!("the embassy's disk fills"));
        } else if self.dice.percent(4) {
            self.site.disk.set_capacity(u64::MAX);
        }
        if self.dice.permille(10) {
            self.asks.cut();
            self.answers.cut();
            self.trace.say(format_args!("the line is cut"));
        }
        Ok(())
    }

    fn embassy_fails(&mut self) {
        self.counts.embassy_crashes += 1;
        match self.dice.roll(4) {
            0 => {
                self.site.kill();
                self.trace.say(format_args!("the embassy is killed"));
            }
            1 => {
                self.site.lose_power();
                self.trace.say(format_args!("the embassy loses power"));
            }
            _ => {
                let changes = self.dice.between(0, FUSE);
                self.site.disk.cut_after(changes);
                self.trace.say(format_args!(
                    "the embassy will lose power in {changes} changes"
                ));
            }
        }
    }

    fn agent_fails(&mut self, n: usize) {
        self.counts.agent_crashes += 1;
        let agent = &mut self.agents[n];
        match self.dice.roll(4) {
            0 => {
                agent.kill();
                self.trace.say(format_args!("agent {n} is killed"));
            }
            1 => {
                agent.kill();
                agent.disk.power_cycle();
                self.trace.say(format_args!("agent {n} loses power"));
            }
            _ => {
                let changes = self.dice.between(0, FUSE);
                agent.disk.cut_after(changes);
                self.trace.say(format_args!(
                    "agent {n} will lose power in {changes} changes"
                ));
            }
        }
    }

    fn set_back(&mut self, n: usize) -> Checked {
        let agent = &mut self.agents[n];
        let did = match self.dice.roll(4) {
            0 => {
                agent.kill();
                agent.keep_past()
            }
            1 => agent.freeze(),
            _ => {
                let did = agent.set_back(&mut self.audit);
                if matches!(did, Ok(Some(_))) {
                    self.counts.set_back += 1;
                }
                did
            }
        };
        self.say(n, did)
    }

    fn clock_jumps(&mut self) {
        const DAY: i64 = 24 * 3_600_000;
        let jump = *self.dice.pick(&[1, 40, 400, 3_000, -1, -40, -400, -3_000]);
        self.site.off = match self.dice.roll(3) {
            0 => 0,
            _ => jump * DAY,
        };
        self.clock();
        let days = self.site.off / DAY;
        self.trace
            .say(format_args!("the embassy's clock is {days} days off"));
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

    pub(crate) fn ask_id(&mut self) -> u64 {
        self.next_ask += 1;
        self.next_ask
    }

    /// An agent asks where its streams stand.
    fn wonder(&mut self, n: usize) -> Checked {
        if !self.agents[n].wonders() || !(self.calm || self.dice.percent(70)) {
            return Ok(());
        }
        let (registry, time) = (self.agents[n].registry, self.time());
        let standing = self.site.process().and_then(|e| e.streams(registry).ok());
        match standing {
            Some(streams) => self.tell(n, |agent, _| agent.told(&streams, time)),
            None => Ok(()),
        }
    }

    fn send(&mut self, n: usize) {
        let id = self.ask_id();
        let step = self.trace.step;
        let run = self.agents[n].runs;
        let Some((body, held)) = self.agents[n].send(step, id) else {
            return;
        };
        let what = describe(&body);
        let who = Who::Agent(n, run);
        self.thief.overhears(&body);
        let arrives = self.post(Ask {
            id,
            who,
            body,
            held,
        });
        let lost = if arrives { "" } else { ", which is lost" };
        self.trace.say(format_args!("agent {n} sends {what}{lost}"));
    }

    /// Puts a request on the line.
    pub(crate) fn post(&mut self, ask: Ask) -> bool {
        let mut weather = self.profile.weather;
        if self.calm {
            (weather.lost, weather.twice, weather.slowest) = (0, 0, 1);
        }
        self.asks
            .send(self.trace.step, ask, &weather, &mut self.dice)
    }

    /// Requests reach the embassy, some of them at once.
    fn deliver(&mut self) -> Checked {
        let most = 1 + self.dice.roll(GROUP);
        let asks = self.asks.arrive(self.trace.step, most, &mut self.dice);
        if asks.is_empty() || !self.site.is_up() {
            return Ok(());
        }
        self.counts.requests += asks.len() as u64;
        let terms: Vec<_> = self
            .agents
            .iter()
            .map(|a| self.audit.term(a.registry))
            .collect();
        let Some(answers) = self.site.with(|embassy| process(embassy, &asks)) else {
            self.trace.say(format_args!(
                "{} requests reach the embassy, and its power goes",
                asks.len()
            ));
            return Ok(());
        };
        self.look()?;
        for (ask, answer) in asks.into_iter().zip(answers) {
            self.trace.say(format_args!(
                "the embassy answers {} with {}",
                describe(&ask.body),
                describe_answer(&answer)
            ));
            self.promise(&ask, &answer, &terms)?;
            let mut weather = self.profile.weather;
            if self.calm {
                (weather.lost, weather.twice, weather.slowest) = (0, 0, 1);
            }
            self.answers
                .send(self.trace.step, (ask, answer), &weather, &mut self.dice);
        }
        Ok(())
    }

    /// What leaves the embassy is a promise, whether or not it arrives.
    fn promise(
        &mut self,
        ask: &Ask,
        answer: &Answer,
        terms: &[legation_core::id::Term],
    ) -> Checked {
        match answer {
            Answer::Receipt(receipt) if !self.betrayed => {
                let Body::Statement(bytes) = &ask.body else {
                    return Ok(());
                };
                let id = Signed::parse(bytes).map_or(Sha256([0; 32]), |signed| signed.id());
                self.audit.receipt(id, receipt.index)
            }
            Answer::Ack(ack) => {
                let signed = Signed::parse(ack.as_bytes());
                let Ok(Ok(Statement::Ack(ack))) = signed.map(|signed| signed.statement()) else {
                    return found("ack", "it is no acknowledgement");
                };
                let n = self.agents.iter().position(|a| a.registry == ack.registry);
                let term = n.and_then(|n| terms.get(n)).copied();
                if matches!(ask.who, Who::Agent(..)) {
                    self.audit.ours.insert((ack.registry, ack.stream));
                }
                self.audit.ack(&ack, term.unwrap_or(ack.term))
            }
            Answer::Refused(_) => {
                self.counts.refusals += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Answers reach whoever asked.
    fn answer(&mut self) -> Checked {
        let arrived = self.answers.arrive(self.trace.step, 3, &mut self.dice);
        for (ask, answer) in arrived {
            let Who::Agent(n, run) = ask.who else {
                if let (Who::Desk(order), Answer::Refused(problem)) = (&ask.who, &answer) {
                    self.counts.orders_refused += 1;
                    self.trace
                        .say(format_args!("order {order} is refused: {}", problem.title));
                }
                continue;
            };
            if self.agents[n].runs != run || !self.agents[n].is_up() {
                continue;
            }
            self.hear(n, &ask, answer)?;
        }
        Ok(())
    }

    fn hear(&mut self, n: usize, ask: &Ask, answer: Answer) -> Checked {
        let time = self.time();
        let process = self.site.process();
        let mut prove = |old, new| process?.log().consistency(old, new).ok();
        let refused = matches!(answer, Answer::Refused(_));
        let held: Option<&Checkpoint> = ask.held.as_ref();
        let did = self.agents[n].hear(ask.id, &ask.body, held, answer, time, &mut prove);
        self.say(n, did)?;
        // Whoever was refused reads the log before he goes on.
        if refused && self.site.is_up() && self.audit.size() > 0 && !self.betrayed {
            self.agents[n].learn(self.audit.fold());
            let did = self.agents[n].settle_epochs(self.audit.fold(), time);
            self.say(n, did)?;
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

/// Puts requests through: frames as one group, statements as one batch, objects one by one.
fn process(embassy: &mut legation_embassy::local::LocalEmbassy, asks: &[Ask]) -> Vec<Answer> {
    let refused = |problem| Answer::Refused(Box::new(problem));
    let mut answers: Vec<Option<Answer>> = vec![None; asks.len()];
    let (mut frames, mut statements) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (n, ask) in asks.iter().enumerate() {
        match &ask.body {
            Body::Object(kind, digest, bytes) => {
                let put = embassy.put_object(*kind, digest, bytes);
                answers[n] = Some(put.map_or_else(refused, |_| Answer::Kept));
            }
            Body::Frames(writer, registry, stream, bytes) => {
                frames.0.push(n);
                let bytes = Bytes::copy_from_slice(bytes);
                frames.1.push((writer.clone(), *registry, *stream, bytes));
            }
            Body::Statement(bytes) => {
                statements.0.push(n);
                let old = ask.held.as_ref().map_or(0, Checkpoint::size);
                statements.1.push((bytes.clone(), old));
            }
        }
    }
    for (n, ack) in frames.0.into_iter().zip(embassy.append(frames.1)) {
        answers[n] = Some(ack.map_or_else(refused, Answer::Ack));
    }
    let receipts = embassy.submit(&statements.1);
    for (n, receipt) in statements.0.into_iter().zip(receipts) {
        answers[n] =
            Some(receipt.map_or_else(refused, |receipt| Answer::Receipt(Box::new(receipt))));
    }
    answers.into_iter().flatten().collect()
}

fn describe(body: &Body) -> String {
    match body {
        Body::Object(kind, _, bytes) => format!("a {kind} of {} bytes", bytes.len()),
        Body::Statement(bytes) => match Signed::parse(bytes).map(|signed| signed.statement()) {
            Ok(Ok(statement)) => kind_of(&statement),
            _ => "something that is no statement".to_owned(),
        },
        Body::Frames(_, registry, _, bytes) => {
            format!("{} bytes of frames of {registry}", bytes.len())
        }
    }
}

fn describe_answer(answer: &Answer) -> String {
    match answer {
        Answer::Kept => "kept".to_owned(),
        Answer::Receipt(receipt) => format!("a receipt of entry {}", receipt.index),
        Answer::Ack(_) => "an ack".to_owned(),
        Answer::Refused(problem) if problem.status == 409 => problem.detail.clone(),
        Answer::Refused(problem) => format!("{} {}", problem.status, problem.title),
    }
}

/// `legation/commit/v1` is a commit.
fn kind_of(statement: &Statement) -> String {
    let header = statement.kind().header;
    let name = header.split('/').nth(1).unwrap_or(header);
    format!("a statement: {name}")
}
