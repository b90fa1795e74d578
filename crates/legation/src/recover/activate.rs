//! Activation: `authorised → released → opened → started → probed → serving`, each a statement in the log, and back.
//!
//! Nothing starts by itself: the order is in the log before the session's key exists, and keys come only from the
//! officers. When it ends, for whatever reason, servers are stopped, the volume is wiped, and the log says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use legation_core::id::{EpochNo, OrderId, RegistryId};
use legation_core::keys::{Entropy, EpochRoot, OpeningKey};
use legation_core::policy::OrderState;
use legation_core::statement::{Act, Mode, Order, SealCause, StepKind, Tier, Time};
use legation_registry::postgres::RunAs;

use super::journal::End;
use super::keep::Keep;
use super::seat::Seat;
use super::serve::{LISTEN, Live, Setting, serve};
use super::start::Job;
use super::volume::{Owner, Volume};
use crate::config::embassy::{Activation, Embassy};
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};
use crate::officers::released::{Opened, Released};
use crate::officers::{SystemEntropy, now, orders};

/// How often the log and the release are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often started databases are looked at.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// What PostgreSQL writes beside its data while it replays and serves, at least.
const HEADROOM: u64 = 64 << 20;

/// What `activate` is told.
#[derive(Debug)]
pub struct Told<'a> {
    /// The order.
    pub order: &'a Path,
    /// The embassy's configuration.
    pub config: &'a Embassy,
    /// The first port of started databases.
    pub port: u16,
    /// Print the plan and do nothing.
    pub dry_run: bool,
}

/// Runs an activation from the order to its sealing.
///
/// # Errors
/// Code 8 for an order that is not for this embassy, expired or ended; 4 for damage; 130 when stopped before it served;
/// 1 when a registry could not be started.
pub fn run(told: &Told<'_>, ctx: &Ctx) -> Result<(), Failure> {
    let (order, text) = orders::load(told.order)?;
    let refused = |why: String| Err(Failure::new(Code::Refused, why));
    if order.act != Act::Activate {
        return refused(format!(
            "order {} is a {}; only an activation starts anything",
            order.order, order.act
        ));
    }
    if order.embassy.as_str() != told.config.label {
        return refused(format!(
            "order {} is for embassy {}; this is {}",
            order.order, order.embassy, told.config.label
        ));
    }
    let mut seat = Seat::take(told.config, &order.state.to_string())?;
    if told.dry_run {
        return dry_run(&mut seat, &order, told, ctx);
    }
    let Some(activation) = &told.config.activation else {
        return Err(Failure::usage("embassy.toml has no [activation]")
            .hint("set activation.path, where plaintext may live in memory"));
    };
    let databases = databases(&order, &mut seat)?;
    let run_as = run_as(activation, databases)?;
    ports_free(told.port, databases)?;
    let owner = run_as.as_ref().map(|user| Owner {
        uid: user.uid,
        gid: user.gid,
    });
    if !crate::harden::lock_memory() {
        ctx.out
            .note("the keys' memory could not be locked; the volume's check of swap still holds");
    }
    let volume = Volume::open(&activation.path, owner)?;
    let setting = Setting {
        order: order.clone(),
        volume: volume.path().to_owned(),
        port: told.port,
        run_as,
        live: Mutex::new(Vec::new()),
    };
    let mut session = Session {
        seat: &mut seat,
        order: &order,
        text: &text,
        opened: false,
    };
    let result = session.run(&volume, &setting, told, ctx);
    let opened = session.opened;
    end(&seat, &order.order, volume, setting, opened, &result, ctx)?;
    result
}

struct Session<'a> {
    seat: &'a mut Seat,
    order: &'a Order,
    text: &'a str,
    opened: bool,
}

impl Session<'_> {
    fn run(
        &mut self,
        volume: &Volume,
        setting: &Setting,
        told: &Told<'_>,
        ctx: &Ctx,
    ) -> Result<(), Failure> {
        self.wait_accepted(ctx)?;
        let key = OpeningKey::from_seed(&SystemEntropy.draw()?)?;
        let entry = self
            .seat
            .session(&self.order.order, key.public().encode())?;
        ctx.out.fact(
            "session",
            &serde_json::json!({ "order": self.order.order, "entry": entry, "volume": volume.kind().describe() }),
            format!("order {} accepted; session logged (entry {entry}); waiting for the officers' release", self.order.order),
        );
        let opened = self.wait_released(&key, ctx)?;
        // From here on there are keys to lose: whatever happens, the end is logged.
        self.opened = true;
        let began = Instant::now();
        for row in &self.order.registry {
            self.seat
                .opened(&self.order.order, row.registry, row.epochs.clone())?;
        }
        ctx.out.fact(
            "opened",
            &serde_json::json!({ "order": self.order.order, "keys": opened.roots.len(), "registries": self.order.registry.len() }),
            format!("released: {} data keys for {} registries", opened.roots.len(), self.order.registry.len()),
        );
        let keep = Keep::local(
            &told.config.store.path,
            &self.order.state,
            self.seat.client.clone(),
        )?;
        let jobs = self.jobs(&keep, opened)?;
        fits(volume, &keep, &jobs)?;
        let failed = start_all(self.seat, &keep, jobs, setting, began, ctx);
        ctx.out.fact(
            "activated",
            &serde_json::json!({
                "order": self.order.order, "serving": self.order.registry.len() - failed.len(), "failed": failed,
                "seconds": began.elapsed().as_secs_f64(),
            }),
            format!(
                "{} of {} registries serve after {:.1} s; stop this process (SIGINT or SIGTERM) to seal",
                self.order.registry.len() - failed.len(),
                self.order.registry.len(),
                began.elapsed().as_secs_f64()
            ),
        );
        if failed.len() == self.order.registry.len() || self.order.grant == Mode::Verify {
            return outcome(&failed, ctx);
        }
        while !ctx.stop.wait(LOOK_AFTER) {
            let mut live = setting.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.iter_mut().for_each(|one| one.look(ctx));
        }
        outcome(&failed, ctx)
    }

    /// Until the log has accepted exactly this order, and the embassy has fenced what the order fences.
    fn wait_accepted(&mut self, ctx: &Ctx) -> Result<(), Failure> {
        let mut told = false;
        loop {
            let state = &self.seat.look()?.state;
            if let Some(accepted) = state.order(&self.order.order) {
                check_accepted(accepted, self.text)?;
                if accepted.fences_due().next().is_none() {
                    return Ok(());
                }
            }
            if !told {
                ctx.out.fact(
                    "waiting",
                    &serde_json::json!({ "order": self.order.order, "for": "order" }),
                    format!("waiting until order {} is in the log", self.order.order),
                );
                told = true;
            }
            self.pause(ctx)?;
        }
    }

    /// Until something was released that this session's key opens. What does not open is told of and passed over:
    /// whoever may deliver could deliver anything, and that must not stand in the way of the officers' release.
    fn wait_released(&mut self, key: &OpeningKey, ctx: &Ctx) -> Result<Opened, Failure> {
        // Bounded by what the embassy keeps for one session.
        let mut tried = BTreeSet::new();
        loop {
            for digest in self.seat.client.releases(&self.order.order)? {
                if !tried.insert(digest) {
                    continue;
                }
                let bytes = self.seat.client.get_release(&self.order.order, &digest)?;
                let opened =
                    Released::parse(&bytes).and_then(|released| released.open(key, self.order));
                match opened {
                    Ok(opened) => return Ok(opened),
                    Err(failure) => ctx.out.fact(
                        "passed-over",
                        &serde_json::json!({
                            "order": self.order.order, "release": digest, "message": failure.message,
                        }),
                        format!(
                            "release {digest} is passed over: {}; still waiting for the officers' release",
                            failure.message
                        ),
                    ),
                }
            }
            self.pause(ctx)?;
        }
    }

    fn pause(&self, ctx: &Ctx) -> Result<(), Failure> {
        if now()? >= self.order.expires {
            return Err(Failure::new(
                Code::Refused,
                format!(
                    "order {} expired at {}",
                    self.order.order, self.order.expires
                ),
            ));
        }
        if ctx.stop.wait(LOOK) {
            return Err(Failure::new(
                Code::Interrupted,
                "stopped before anything was opened",
            ));
        }
        Ok(())
    }

    /// What is to be started, the most urgent tier first.
    fn jobs(&mut self, keep: &Keep, opened: Opened) -> Result<Vec<(Job, Option<Time>)>, Failure> {
        let names: BTreeMap<_, _> = self
            .order
            .registry
            .iter()
            .map(|row| (row.registry, called(&opened, row.registry)))
            .collect();
        let mut keys: BTreeMap<RegistryId, BTreeMap<EpochNo, EpochRoot>> = BTreeMap::new();
        for ((registry, epoch), root) in opened.roots {
            keys.entry(registry).or_default().insert(epoch, root);
        }
        let state = &self.seat.look()?.state;
        let accepted = state
            .order(&self.order.order)
            .ok_or_else(|| Failure::failed("the order left the log"))?;
        let mut jobs = Vec::new();
        for row in &self.order.registry {
            let name = names
                .get(&row.registry)
                .cloned()
                .unwrap_or_else(|| row.registry.to_string());
            let registry = state.registry(row.registry);
            let version = accepted
                .versions
                .get(&row.registry)
                .and_then(|version| registry?.version(*version));
            let (Some(registry), Some(version)) = (registry, version) else {
                return Err(Failure::failed(format!(
                    "{name}: no version of it is in the log"
                )));
            };
            let fence = registry
                .fences
                .iter()
                .rev()
                .map(|held| &held.fence)
                .find(|fence| fence.order == self.order.order);
            let end = fence.and_then(|fence| Some((End::of(fence)?, fence.lsn?)));
            let at = fence.map(|fence| fence.at);
            let keys = keys.remove(&row.registry).unwrap_or_default();
            let held = keep.streams(row.registry)?;
            let job = Job::new(
                self.order.state,
                (row.registry, name),
                version.clone(),
                &held,
                end,
                keys,
            );
            jobs.push((registry.row.tier, (job, at)));
        }
        jobs.sort_by_key(|(tier, (job, _))| (rank(*tier), job.registry));
        Ok(jobs.into_iter().map(|(_, job)| job).collect())
    }
}

fn rank(tier: Tier) -> u8 {
    match tier {
        Tier::T0 => 0,
        Tier::T1 => 1,
        Tier::T2 => 2,
        Tier::T3 => 3,
    }
}

fn check_accepted(accepted: &OrderState, text: &str) -> Result<(), Failure> {
    if accepted.id != legation_core::id::Sha256::of(text.as_bytes()) {
        return Err(Failure::new(
            Code::Refused,
            format!(
                "order {} in the log says something else than this file",
                accepted.order.order
            ),
        ));
    }
    match accepted.sealed {
        Some(cause) => Err(Failure::new(
            Code::Refused,
            format!(
                "order {} has ended ({cause}); it starts nothing again",
                accepted.order.order
            ),
        )
        .hint("a new order is needed")),
        None => Ok(()),
    }
}

/// What the officers call a registry: by its name, else by the title in the annex, else by its id.
fn called(opened: &Opened, id: RegistryId) -> String {
    let named = opened.names.of(id);
    let title = opened
        .annex
        .registry
        .iter()
        .find(|row| row.id == id)
        .map(|row| row.title.to_string());
    if named == id.to_string() {
        title.unwrap_or(named)
    } else {
        named
    }
}

/// How many of the order's registries are databases, which need a port and a user.
fn databases(order: &Order, seat: &mut Seat) -> Result<usize, Failure> {
    let state = &seat.look()?.state;
    let is_database = |row: &&legation_core::statement::ScopeRow| {
        let registry = state.registry(row.registry);
        let head = registry.and_then(|registry| registry.head());
        head.is_some_and(|version| version.commit.wal.is_some())
    };
    Ok(order.registry.iter().filter(is_database).count())
}

/// PostgreSQL refuses root, and says so late; this says it before anybody is asked for a share.
fn run_as(activation: &Activation, databases: usize) -> Result<Option<RunAs>, Failure> {
    if let Some(name) = &activation.run_as {
        return Ok(Some(RunAs::named(name)?));
    }
    if databases > 0 && rustix::process::geteuid().is_root() {
        return Err(Failure::usage("PostgreSQL does not run as root").hint(
            "set activation.run_as = \"postgres\" in embassy.toml, or run activate as another user",
        ));
    }
    Ok(None)
}

/// The port of the database at this place.
fn port(first: u16, at: usize) -> Result<u16, Failure> {
    let port = u16::try_from(at).ok().and_then(|at| first.checked_add(at));
    port.ok_or_else(|| Failure::usage(format!("there are not enough ports from {first} on")))
}

/// Refuses ports that somebody holds, before anybody is asked for a share.
fn ports_free(first: u16, databases: usize) -> Result<(), Failure> {
    for at in 0..databases {
        let port = port(first, at)?;
        std::net::TcpListener::bind((LISTEN, port)).map_err(|why| {
            Failure::failed(format!("port {port}: {why}")).hint(
                "another process holds it; choose other ports with --port-base or activation.port",
            )
        })?;
    }
    Ok(())
}

/// Refuses a restore that would not fit, before the first byte of plaintext is written.
fn fits(volume: &Volume, keep: &Keep, jobs: &[(Job, Option<Time>)]) -> Result<(), Failure> {
    let mut need = 0;
    for (job, _) in jobs {
        let reader = job
            .open(keep)
            .map_err(|failure| failure.during(&job.name))?;
        need += reader
            .root()
            .sources
            .iter()
            .map(|source| source.bytes)
            .sum::<u64>();
        need += job.wal_bytes() + HEADROOM;
    }
    volume.fits(need)
}

/// Starts every registry, a few at a time, and returns the names of those that did not start.
fn start_all(
    seat: &Seat,
    keep: &Keep,
    jobs: Vec<(Job, Option<Time>)>,
    setting: &Setting,
    began: Instant,
    ctx: &Ctx,
) -> Vec<String> {
    let workers = std::thread::available_parallelism()
        .map_or(2, std::num::NonZero::get)
        .clamp(2, 4);
    let mut databases = 0;
    let waiting: VecDeque<_> = jobs
        .into_iter()
        .map(|(job, fenced)| {
            let at = databases;
            let is_database = job.version.commit.wal.is_some();
            databases += usize::from(is_database);
            (job, fenced, is_database.then_some(at))
        })
        .collect();
    let waiting = Mutex::new(waiting);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((job, fenced, at)) = next else { return };
                    let started = at
                        .map(|at| port(setting.port, at))
                        .transpose()
                        .and_then(|port| serve(seat, keep, &job, port, fenced, setting, began, ctx));
                    if let Err(failure) = started {
                        ctx.out.record(
                            "failed",
                            &serde_json::json!({ "registry": job.name, "id": job.registry, "message": failure.message }),
                        );
                        ctx.out.note(format!("{}: {}", job.name, failure.message));
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(job.name.clone());
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn outcome(failed: &[String], ctx: &Ctx) -> Result<(), Failure> {
    if failed.is_empty() {
        return Ok(());
    }
    if ctx.stop.is_up() {
        let why = format!("stopped while starting: {}", failed.join(", "));
        return Err(Failure::new(Code::Interrupted, why));
    }
    Err(Failure::failed(format!(
        "not started: {}",
        failed.join(", ")
    )))
}

/// Stops what runs, wipes the volume, and logs that the keys are gone, in that order.
fn end(
    seat: &Seat,
    order: &OrderId,
    volume: Volume,
    setting: Setting,
    opened: bool,
    result: &Result<(), Failure>,
    ctx: &Ctx,
) -> Result<(), Failure> {
    let live = setting
        .live
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let served = !live.is_empty();
    for one in live {
        let Live { name, server, .. } = one;
        if let Some(server) = server
            && let Err(why) = server.stop(legation_registry::postgres::Shutdown::Fast)
        {
            ctx.out.note(format!("{name}: {why}"));
        }
    }
    let wiped = volume.wipe();
    if opened {
        let cause = if result.is_ok() && served {
            SealCause::Signal
        } else {
            SealCause::Failure
        };
        let entry = seat.sealed(order, cause)?;
        ctx.out.fact(
            "sealed",
            &serde_json::json!({ "order": order, "entry": entry, "wiped": wiped.is_ok() }),
            format!("sealed: servers stopped, volume wiped, keys gone (entry {entry})"),
        );
    }
    wiped
}

/// What would be started, from the log alone.
fn dry_run(seat: &mut Seat, order: &Order, told: &Told<'_>, ctx: &Ctx) -> Result<(), Failure> {
    let keep = Keep::local(&told.config.store.path, &order.state, seat.client.clone())?;
    let label = seat.label.clone();
    let state = &seat.look()?.state;
    let accepted = state.order(&order.order);
    ctx.out.line(format!(
        "order {} at embassy {label}: {}",
        order.order,
        if accepted.is_some() {
            "accepted"
        } else {
            "not in the log yet; versions as they would be pinned now"
        }
    ));
    for row in &order.registry {
        let registry = state.registry(row.registry).ok_or_else(|| {
            Failure::new(
                Code::Refused,
                format!("the mandate names no registry {}", row.registry),
            )
        })?;
        let pinned =
            accepted.and_then(|accepted| registry.version(*accepted.versions.get(&row.registry)?));
        let Some(version) = pinned.or_else(|| registry.newest_within(&row.epochs)) else {
            ctx.out.line(format!(
                "{}  no version that these epochs open",
                row.registry
            ));
            continue;
        };
        let held = keep.streams(row.registry)?;
        let streams = super::scope::streams(&version.commit, &held);
        let wal = super::journal::reach(&streams);
        ctx.out.fact(
            "plan",
            &serde_json::json!({
                "registry": row.registry, "version": version.commit.version, "packs": version.commit.packs.count,
                "bytes": version.commit.bytes, "epochs": row.epochs.to_string(), "streams": streams.len(),
                "wal_bytes": streams.iter().map(|one| one.bytes).sum::<u64>(),
                "replay_to": wal.map(|(_, end)| end.to_string()),
            }),
            format!(
                "{}  {}  {} packs, {} MiB, epochs {}{}",
                row.registry,
                version.commit.version,
                version.commit.packs.count,
                version.commit.bytes.div_ceil(1 << 20),
                row.epochs,
                wal.map_or_else(String::new, |(from, to)| format!(", WAL {from} to {to} in {} streams", streams.len()))
            ),
        );
    }
    Ok(())
}

/// Logs a step; the activation goes on when the log is away for a moment, and says so.
pub(super) fn step(
    seat: &Seat,
    order: &OrderId,
    registry: RegistryId,
    step: StepKind,
    lsn: Option<legation_core::id::Lsn>,
) -> Result<(), Failure> {
    seat.step(order, registry, step, lsn)
        .map(drop)
        .map_err(|failure| failure.during(format!("logging the step {step}")))
}
