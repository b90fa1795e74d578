//! Putting the agent together, watching over it, and taking it apart.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use legation_core::id::{EpochNo, Generation, RegistryId};
use legation_registry::postgres::ConnectConfig;
use legation_repo::durable;

use super::Layout;
use super::budget::Budget;
use super::bulk::Bulk;
use super::epoch::Epochs;
use super::gate::Gate;
use super::image::Image;
use super::kept::Kept;
use super::link::{Backoff, Link, Trouble};
use super::live::{Live, epoch_of};
use super::outbox::Outbox;
use super::postgres::Postgres;
use super::prepare::{connect, embassy_label, first_status, gate, lock, preflight};
use super::sqlite::Sqlite;
use super::state::{Memory, State, Version};
use super::status::{Board, now_ms};
use super::streams::Streams;
use super::trend::{Trend, millis};
use super::version::{Versions, source_failure};
use super::vitals::Vitals;
use super::whole::Whole;
use super::writer::Writer;
use crate::charter::Charter;
use crate::config::agent::{Agent as Config, Registry, Source};
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};
use crate::identity::{Identity, Role};
use crate::stop::Stop;

/// Time between two reports.
const REPORT: Duration = Duration::from_millis(500);
/// Time between two looks at the embassy's log. An agent with nothing to send would otherwise not notice for a day
/// that it was cut short or forked.
const LOG_LOOK: Duration = Duration::from_secs(15);
/// Time between two looks for orders among what was logged, or the shortest epoch if that is less: a spent generation
/// is left at the latest when the next epoch after that begins, also if nothing of ours was refused.
const ORDER_LOOK: Duration = Duration::from_secs(60);
/// How long threads may take to come to rest. What they leave behind is what a kill would leave, and as safe.
const REST: Duration = Duration::from_secs(4);

/// Runs the agent until it is told to stop.
///
/// # Errors
/// Code 2 for bad configuration, 3 when a source cannot be captured, 4 when an embassy's log shrank or forked, 6 when
/// every registry is fenced, 8 when the mandate does not know this agent, 11 when another agent has the spool.
pub fn run(config: &Config, ctx: &Ctx) -> Result<(), Failure> {
    let charter = Arc::new(Charter::load_of(&config.mandate, &config.state)?);
    let identity = Identity::load(
        ctx.identity.as_ref().unwrap_or(&config.identity.file),
        Role::Agent,
    )?;
    let writer = Arc::new(Writer::new(charter.clone(), &identity)?);
    let layout = Layout::new(&config.spool.path);
    durable::create_dir(&config.spool.path)?;
    let _lock = lock(&layout, &ctx.stop)?;
    crate::harden::lock_memory();
    crate::harden::open_files();
    preflight(config)?;

    let label = embassy_label(config, &charter)?;
    let stop = ctx.stop.clone();
    let link = connect(config, &charter, &identity, &layout, &label, &stop)?;
    let gate = gate(config)?;
    let budget = Budget::new(config.spool.size.0);
    let board = Board::new(&layout.status(), first_status(config, &label));
    let mut agent = Agent {
        charter,
        writer,
        layout,
        link,
        budget,
        gate,
        board,
        stop,
        watched: Vec::new(),
        threads: Vec::new(),
        trend: Mutex::default(),
    };
    // Served for as long as the agent runs.
    let _metrics = super::metrics::serve(config, &agent.board)?;
    agent.board.publish()?;
    for registry in &config.registry {
        agent.start(config, registry)?;
    }
    let shortest = config
        .registry
        .iter()
        .map(|registry| registry.epoch.0)
        .min();
    agent.look_at_log(shortest.map_or(ORDER_LOOK, |epoch| epoch.min(ORDER_LOOK)))?;
    tracing::info!(registries = config.registry.len(), "the agent runs");
    let outcome = agent.watch();
    agent.rest();
    outcome
}

struct Agent {
    charter: Arc<Charter>,
    writer: Arc<Writer>,
    layout: Layout,
    link: Link,
    budget: Budget,
    gate: Gate,
    board: Board,
    stop: Stop,
    watched: Vec<Watched>,
    threads: Vec<JoinHandle<()>>,
    /// How the spool fills.
    trend: Mutex<Trend>,
}

/// What the reports are made from.
struct Watched {
    state: State,
    id: RegistryId,
    name: String,
    rpo: Duration,
    streams: Arc<Streams>,
    epochs: Arc<Epochs>,
    continuous: bool,
}

impl Agent {
    fn start(&mut self, config: &Config, registry: &Registry) -> Result<(), Failure> {
        let id: RegistryId = registry.id.parse().map_err(Failure::usage)?;
        let row = self.charter.registry(id)?;
        if row.writer.as_str() != self.writer.name() {
            return Err(Failure::new(
                Code::Refused,
                format!(
                    "the mandate lets {} write {id}, not {}",
                    row.writer,
                    self.writer.name()
                ),
            ));
        }
        registry.agrees(row)?;
        registry.placed(row, &self.charter.mandate)?;
        let entry = registry.catalogue(row, &self.charter.mandate, &config.registry)?;
        let class = row.class.clone();
        let dir = self.layout.registry(&registry.id);
        durable::create_dir(&dir)?;
        let state = self.remember(id, &dir.join("state.json"))?;
        let control = Arc::new(Outbox::open(&dir.join("control"), self.budget.clone())?);
        let outbox = Arc::new(Outbox::open(&dir.join("out"), self.budget.clone())?);
        control.abandon_unfinished()?;
        outbox.abandon_unfinished()?;
        // Killed between the two, an epoch may be in the queue and not yet in the memory.
        for item in control.items() {
            let Some(bytes) = control.read(&item)? else {
                continue;
            };
            if let Some(epoch) = epoch_of(&bytes) {
                state.update(|memory| memory.last_epoch = memory.last_epoch.max(epoch.epoch))?;
            }
        }
        let streams = Arc::new(Streams::open(
            &dir.join("wal"),
            self.writer.state(),
            id,
            self.budget.clone(),
        )?);
        let epochs = Arc::new(Epochs::new(
            id,
            self.writer.clone(),
            state.clone(),
            control.clone(),
            registry.epoch.0,
        ));
        // Raised when the agent stops, and when this registry is fenced.
        let stop = self.stop.child();
        let source = registry
            .source
            .first()
            .ok_or_else(|| Failure::usage("a registry without a source"))?;
        self.board.registry(&registry.name, |status| {
            if let Some(version) = state.get().version {
                status.show_version(&version);
            }
        });
        let kept = Kept::open(&dir)?;
        let versions = Versions {
            registry: id,
            name: registry.name.clone(),
            class,
            writer: self.writer.clone(),
            state: state.clone(),
            epochs: epochs.clone(),
            outbox: outbox.clone(),
            budget: self.budget.clone(),
            gate: self.gate.clone(),
            dir: dir.clone(),
            vitals: Vitals::new(&dir, entry, registry.questions()),
            board: self.board.clone(),
            link: self.link.clone(),
            stop: stop.clone(),
        };
        let live = Live {
            registry: id,
            name: registry.name.clone(),
            writer: self.writer.clone(),
            state: state.clone(),
            control: control.clone(),
            epochs: epochs.clone(),
            streams: streams.clone(),
            link: self.link.clone(),
            kept: kept.clone(),
            signed: RefCell::new(None),
            board: self.board.clone(),
            rpo: registry.rpo(),
            stop: stop.clone(),
        };
        let bulk = Bulk {
            registry: id,
            name: registry.name.clone(),
            state: state.clone(),
            control: control.clone(),
            outbox,
            streams: streams.clone(),
            link: self.link.clone(),
            kept,
            dir,
            board: self.board.clone(),
            stop,
        };
        self.watched.push(Watched {
            state,
            id,
            name: registry.name.clone(),
            rpo: registry.rpo(),
            streams: streams.clone(),
            epochs,
            continuous: matches!(source, Source::Postgres(_)),
        });
        self.spawn("live", move || live.run())?;
        self.spawn("bulk", move || bulk.run())?;
        match source {
            Source::Tree(tree) => {
                let driver = tree.clone();
                self.spawn("tree", move || Whole { driver, versions }.run())
            }
            Source::Command(command) => {
                let driver = command.clone();
                self.spawn("command", move || Whole { driver, versions }.run())
            }
            Source::Image(image) => {
                let driver = Image::new(image.clone(), &versions.dir);
                self.spawn("image", move || Whole { driver, versions }.run())
            }
            Source::Sqlite(sqlite) => {
                let probe = registry
                    .start
                    .as_ref()
                    .and_then(|start| start.probe.clone());
                let driver =
                    Sqlite::new(sqlite.clone(), probe, &versions.dir, versions.state.clone());
                self.spawn("sqlite", move || Whole { driver, versions }.run())
            }
            Source::Postgres(source) => {
                let connect = ConnectConfig::parse(&source.url).map_err(source_failure)?;
                let when_full = config.spool.when_full;
                let start = registry.start.as_ref();
                let mut cluster = Postgres::new(
                    source.clone(),
                    connect,
                    start.and_then(|start| start.probe.clone()),
                    when_full,
                    versions,
                    control,
                    streams,
                );
                cluster.questions = registry.questions();
                let cluster = Arc::new(cluster);
                let base = cluster.clone();
                self.spawn("wal", move || cluster.run_wal())?;
                self.spawn("base", move || base.run_base())
            }
        }
    }

    /// What an earlier run remembered; else what the log says of this registry, which is everything that matters.
    fn remember(&self, id: RegistryId, path: &Path) -> Result<State, Failure> {
        if let Some(state) = State::open(path)? {
            return Ok(state);
        }
        let mut backoff = Backoff::default();
        let log = loop {
            match self.link.follow() {
                Ok(log) => break log,
                Err(Trouble::Fatal(failure)) => return Err(failure),
                Err(Trouble::Later(why) | Trouble::Refused(why) | Trouble::Fenced(why)) => {
                    tracing::warn!("waiting for the embassy's log: {why}");
                }
                Err(Trouble::Position(..)) => {}
            }
            if self.stop.wait(backoff.pause()) {
                return Err(super::version::stopped());
            }
        };
        let known = log.registry(id).ok_or_else(|| {
            Failure::new(Code::Refused, format!("the mandate names no registry {id}"))
        })?;
        let version = known.head().map(|head| Version {
            number: head.commit.version,
            commit: head.id,
            list: head.commit.packs.list,
            entry: head.index,
            captured: head.commit.captured.millis(),
            received: head.received.millis(),
            bytes: head.commit.bytes,
            breaks: 0,
            history: None,
        });
        // A memory that was lost continues nothing: a version of before is no base for a stream that starts now.
        let memory = Memory {
            format: 1,
            last_epoch: EpochNo(known.last_epoch().0),
            logged: EpochNo(known.last_epoch().0),
            generation: log.generation().unwrap_or(Generation(1)),
            term: known.term,
            lost: BTreeSet::new(),
            version,
            lineage: None,
            checksums: None,
            healing: None,
            damaged: None,
            foreign: None,
            breaks: 1,
            capturing: 0,
        };
        State::create(path, memory)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Compares the embassy's log with the checkpoint held, now and ever again; what contradicts it ends the agent. An
    /// order in it may have spent the vault generation in use: then the epochs move on.
    fn look_at_log(&mut self, orders_every: Duration) -> Result<(), Failure> {
        let (link, stop) = (self.link.clone(), self.stop.clone());
        let epochs: Vec<Arc<Epochs>> = self.watched.iter().map(|w| w.epochs.clone()).collect();
        self.spawn("log", move || {
            let mut due = Instant::now();
            loop {
                let looked = if Instant::now() >= due {
                    due = Instant::now() + orders_every;
                    link.generation_after_orders()
                } else {
                    link.check_log().map(|_| None)
                };
                match looked {
                    // A line that is down is told by whoever has something to send.
                    Ok(None) | Err(Trouble::Later(_)) => {}
                    Ok(Some(generation)) => {
                        for epochs in &epochs {
                            if let Err(failure) = epochs.moved_to(generation) {
                                tracing::warn!("{failure}");
                            }
                        }
                    }
                    Err(Trouble::Fatal(_)) => return,
                    Err(trouble) => tracing::debug!("looking at the log: {trouble:?}"),
                }
                if stop.wait(LOG_LOOK.min(orders_every)) {
                    return;
                }
            }
        })
    }

    /// Reports until told to stop; then says why.
    fn watch(&self) -> Result<(), Failure> {
        loop {
            self.report();
            if let Err(failure) = self.board.publish() {
                tracing::warn!("the status could not be written: {failure}");
            }
            if let Some(failure) = self.link.fatal() {
                return Err(failure);
            }
            let fenced = self
                .watched
                .iter()
                .filter(|watched| self.link.is_fenced(watched.id))
                .count();
            if fenced > 0 && fenced == self.watched.len() {
                return Err(Failure::new(
                    Code::Fenced,
                    "every registry is fenced: a later term began abroad, nothing more is taken from here",
                )
                .hint("what home wrote since then is not lost: it stays in its databases"));
            }
            if self.stop.wait(REPORT) {
                // The reason may have been given in the same moment.
                return self.link.fatal().map_or(Ok(()), Err);
            }
        }
    }

    fn report(&self) {
        for watched in &self.watched {
            watched.epochs.expire();
            let lag = watched.lag(&self.board);
            let memory = watched.state.get();
            let covered = watched.streams.covered().map(|at| at.elapsed());
            self.board.registry(&watched.name, |status| {
                status.breaks = memory.breaks;
                status.broken = memory
                    .version
                    .is_some_and(|version| version.breaks != memory.breaks);
                status.lag_bytes = watched.streams.lag_bytes().filter(|_| watched.continuous);
                status.covered_at = match covered {
                    Some(ago) => Some(now_ms().saturating_sub(millis(ago))),
                    None => status
                        .version_captured
                        .max(status.unchanged_at)
                        .filter(|_| !watched.continuous),
                };
                status.sealed_lsn = watched
                    .streams
                    .tail()
                    .map(|tail| tail.position.end_lsn.to_string());
                if let Some(epoch) = watched.epochs.number() {
                    status.epoch = epoch.0;
                }
                status.lag_ms = lag.map(millis);
                status.late = status.broken || lag.is_none_or(|lag| lag > watched.rpo);
            });
        }
        self.board.agent(|status| {
            status.at = now_ms();
            status.spool_used = self.budget.used();
            status.spool_full = self.budget.is_full();
            let trend = self.trend.lock();
            let mut trend = trend.unwrap_or_else(PoisonError::into_inner);
            let lasts = trend.lasts(self.budget.used(), status.spool_limit);
            status.spool_lasts_ms = lasts.map(millis);
            status.log_size = self.link.log_size();
        });
    }

    fn rest(self) {
        self.stop.raise();
        for watched in &self.watched {
            watched.streams.wake();
        }
        let until = Instant::now() + REST;
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("a thread of the agent ended by a defect");
            }
        }
        if let Err(failure) = self.board.publish() {
            tracing::warn!("the status could not be written: {failure}");
        }
    }
}

impl Watched {
    /// The age of the oldest thing that the embassy has not answered for; `None` before there is anything abroad.
    fn lag(&self, board: &Board) -> Option<Duration> {
        let status = board.get().registries.remove(&self.name)?;
        if self.continuous {
            // Without a base the log alone starts nothing.
            return status.version.map(|_| self.streams.lag());
        }
        let equal = status.version_captured.max(status.unchanged_at)?;
        status.version?;
        Some(Duration::from_millis(now_ms().saturating_sub(equal)))
    }
}
