//! Activation: `authorised → released → opened → started → probed → serving`, each a statement in the log, and back.
//!
//! Nothing starts by itself: the order is in the log before the session's key exists, and keys come only from the
//! officers. When it ends, for whatever reason, servers are stopped, the volume is wiped, and the log says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use legation_core::id::{EpochNo, OrderId, RegistryId};
use legation_core::keys::{Entropy, EpochRoot, OpeningKey};
use legation_core::policy::OrderState;
use legation_core::statement::{Act, Mode, Order, SealCause, StepKind, Tier, Time};

use super::journal::End;
use super::keep::Keep;
use super::ready::{self, Planned};
use super::seat::Seat;
use super::serve::{Live, Setting};
use super::start::Job;
use super::turns::{start_all, turns};
use super::volume::{Owner, Volume};
use super::wanted;
use crate::config::embassy::Embassy;
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};
use crate::officers::released::{Opened, Released};
use crate::officers::{SystemEntropy, now, orders};

/// How often the log and the release are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How often started databases are looked at.
const LOOK_AFTER: Duration = Duration::from_secs(1);

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
    /// What a desk wrote of what the registries need.
    pub needs: Option<&'a Path>,
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
    let mut seat = Seat::take(
        told.config,
        ctx.identity.as_deref(),
        &order.state.to_string(),
    )?;
    let keep = Keep::local(&told.config.store.path, &order.state, seat.client.clone())?;
    let planned = ready::plan(&mut seat, &keep, &order)?;
    if told.dry_run {
        return dry_run(&mut seat, &order, &planned, told, ctx);
    }
    let Some(activation) = &told.config.activation else {
        return Err(no_activation());
    };
    Failure::all(ready::missing(&planned, activation, told.port))?;
    let run_as = ready::run_as(activation, ready::databases(&planned))?;
    let owner = run_as.as_ref().map(|user| Owner {
        uid: user.uid,
        gid: user.gid,
    });
    if !crate::harden::lock_memory() {
        ctx.out
            .note("the keys' memory could not be locked; the volume's check of swap still holds");
    }
    // From here on something must not stay behind, however often we are told to stop.
    let held = ctx.stop.hold();
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
    let result = session.run(&volume, &keep, &setting, ctx);
    let opened = session.opened;
    let ended = end(&seat, &order.order, volume, setting, opened, &result, ctx);
    drop(held);
    ended.and(result)
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
        keep: &Keep,
        setting: &Setting,
        ctx: &Ctx,
    ) -> Result<(), Failure> {
        self.wait_accepted(ctx)?;
        let key = OpeningKey::from_seed(&*SystemEntropy.draw()?)?;
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
        let jobs = self.jobs(keep, opened)?;
        for (job, _) in &jobs {
            job.aside
                .iter()
                .for_each(|why| ctx.out.note(format!("{}: {why}", job.name)));
        }
        let turns = turns(volume, keep, jobs, ctx)?;
        let failed = start_all(self.seat, keep, turns, setting, began, ctx);
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
        // Decided now: a signal that ends the serving of the others says nothing about those that did not start.
        let outcome = outcome(&failed, ctx);
        if failed.len() == self.order.registry.len() || self.order.grant == Mode::Verify {
            return outcome;
        }
        while !ctx.stop.wait(LOOK_AFTER) {
            let mut live = setting.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.iter_mut().for_each(|one| one.look(ctx));
        }
        outcome
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
                &|stream| keep.frames(row.registry, stream),
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

/// Stops what runs, wipes the volume, and logs that the keys are gone, in that order. Says that the volume is wiped only
/// if it is; the log has a failure for a cause otherwise.
fn end(
    seat: &Seat,
    order: &OrderId,
    volume: Volume,
    setting: Setting,
    opened: bool,
    result: &Result<(), Failure>,
    ctx: &Ctx,
) -> Result<(), Failure> {
    // What ended it, before another signal hastens what follows.
    let told = ctx.stop.is_up();
    let live = setting
        .live
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for Live { name, server } in live {
            scope.spawn(move || {
                if let Some(server) = server
                    && let Err(why) = server.stop_unless(&|| ctx.stop.is_hasty())
                {
                    ctx.out.note(format!("{name}: {why}"));
                }
            });
        }
    });
    let wiped = volume.wipe();
    if opened {
        let cause = cause(told, result.is_ok(), wiped.is_ok());
        let volume = if wiped.is_ok() {
            "volume wiped"
        } else {
            "the volume is NOT wiped"
        };
        match seat.sealed(order, cause) {
            Ok(entry) => ctx.out.fact(
                "sealed",
                &serde_json::json!({
                    "order": order, "entry": entry, "cause": cause.to_string(), "wiped": wiped.is_ok(),
                    "left": wiped.as_ref().err().map(|failure| &failure.message),
                }),
                format!("sealed: servers stopped, {volume}, keys gone (entry {entry})"),
            ),
            Err(failure) => {
                let failure = failure.during(format!("keys gone, {volume}; logging that"));
                if wiped.is_ok() {
                    return Err(failure);
                }
                ctx.out.note(&failure.message);
            }
        }
    }
    if let (Err(_), Err(why)) = (&wiped, result) {
        ctx.out.note(&why.message);
    }
    wiped
}

/// Why it was sealed. An order to verify ends when it has been carried out, as the officers asked.
fn cause(told: bool, fine: bool, wiped: bool) -> SealCause {
    match (wiped, told, fine) {
        (false, _, _) => SealCause::Failure,
        (true, true, _) => SealCause::Signal,
        (true, false, true) => SealCause::Person,
        (true, false, false) => SealCause::Failure,
    }
}

fn no_activation() -> Failure {
    Failure::usage("embassy.toml has no [activation]")
        .hint("set activation.path, where plaintext may live in memory")
}

fn dry_run(
    seat: &mut Seat,
    order: &Order,
    planned: &[Planned],
    told: &Told<'_>,
    ctx: &Ctx,
) -> Result<(), Failure> {
    let label = seat.label.clone();
    let accepted = seat.look()?.state.order(&order.order).is_some();
    let mut missing = match &told.config.activation {
        Some(activation) => ready::missing(planned, activation, told.port),
        None => vec![no_activation()],
    };
    if let Some(path) = told.needs {
        missing.extend(wanted::missing(path, order, &ready::which(planned))?);
    }
    ready::dry_run(order, &label, accepted, planned, &missing, ctx)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_why_it_was_sealed() {
        // Told to end, whether or not all had started.
        assert_eq!(cause(true, true, true), SealCause::Signal);
        assert_eq!(cause(true, false, true), SealCause::Signal);
        // An order to verify, carried out.
        assert_eq!(cause(false, true, true), SealCause::Person);
        assert_eq!(cause(false, false, true), SealCause::Failure);
        // Plaintext may be left.
        for (told, fine) in [(true, true), (true, false), (false, true), (false, false)] {
            assert_eq!(cause(told, fine, false), SealCause::Failure);
        }
    }
}
