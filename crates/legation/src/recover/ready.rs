//! Whether an order could start here: everything that can be known without a key is found out before anybody is asked
//! for a share, because an order that failed with its keys released is spent.

use std::collections::BTreeSet;
use std::path::Path;

use legation_core::id::RegistryId;
use legation_core::policy::VersionState;
use legation_core::statement::{EpochSet, Order};
use legation_registry::postgres::probe::SUPPORTED;
use legation_registry::postgres::{Binaries, RunAs};

use super::keep::Keep;
use super::scope::{self, Held};
use super::seat::Seat;
use super::serve::LISTEN;
use super::volume::Volume;
use crate::config::embassy::Activation;
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};

/// What PostgreSQL writes beside its data while it replays and serves, at least.
pub(super) const HEADROOM: u64 = 64 << 20;

/// What a version is of that does not say it: before it was said nothing else was captured.
const UNTOLD: u32 = 15;

/// A registry of the order, as the log has it.
#[derive(Debug)]
pub struct Planned {
    /// The registry.
    pub registry: RegistryId,
    /// The epochs that the order opens.
    pub epochs: EpochSet,
    /// The version that is pinned, or would be now, with the streams that it is replayed from.
    pub version: Option<(VersionState, Vec<Held>)>,
}

impl Planned {
    fn is_database(&self) -> bool {
        let version = self.version.as_ref();
        version.is_some_and(|(version, _)| version.commit.wal.is_some())
    }

    /// The major release of its server, as its commit says.
    fn server(&self) -> Option<u32> {
        let (version, _) = self.version.as_ref()?;
        let wal = version.commit.wal.as_ref()?;
        Some(wal.server.map_or(UNTOLD, u32::from))
    }

    /// The least that it takes in memory, as far as that shows from outside.
    fn least(&self) -> u64 {
        let Some((version, streams)) = &self.version else {
            return 0;
        };
        let wal = streams
            .iter()
            .map(|one| one.end.0.saturating_sub(one.first.0));
        version.commit.bytes + wal.sum::<u64>() + HEADROOM
    }
}

/// How many of them need a port and a user.
pub fn databases(planned: &[Planned]) -> usize {
    planned.iter().filter(|one| one.is_database()).count()
}

/// Which of them are databases.
pub fn which(planned: &[Planned]) -> BTreeSet<RegistryId> {
    let databases = planned.iter().filter(|one| one.is_database());
    databases.map(|one| one.registry).collect()
}

/// What would be started, from the log alone.
///
/// # Errors
/// Code 8 for a registry that the mandate does not name; when the store is not there.
pub fn plan(seat: &mut Seat, keep: &Keep, order: &Order) -> Result<Vec<Planned>, Failure> {
    let state = &seat.look()?.state;
    let accepted = state.order(&order.order);
    let mut all = Vec::new();
    for row in &order.registry {
        let registry = state.registry(row.registry).ok_or_else(|| {
            Failure::new(
                Code::Refused,
                format!("the mandate names no registry {}", row.registry),
            )
        })?;
        let pinned =
            accepted.and_then(|accepted| registry.version(*accepted.versions.get(&row.registry)?));
        let version = match pinned.or_else(|| registry.newest_within(&row.epochs)) {
            Some(version) => {
                let held = keep.streams(row.registry)?;
                Some((version.clone(), scope::streams(&version.commit, &held)))
            }
            None => None,
        };
        all.push(Planned {
            registry: row.registry,
            epochs: row.epochs.clone(),
            version,
        });
    }
    Ok(all)
}

/// Everything that is missing here, in the order in which it would be met.
pub fn missing(planned: &[Planned], activation: &Activation, first_port: u16) -> Vec<Failure> {
    let mut all = Vec::new();
    let mut need = |result: Result<(), Failure>| all.extend(result.err());
    let databases = databases(planned);
    need(run_as(activation, databases).map(drop));
    // Each release once, however many registries are of it.
    let majors: BTreeSet<u32> = planned.iter().filter_map(Planned::server).collect();
    for major in majors {
        need(can_start(major));
    }
    for at in 0..databases {
        need(port(first_port, at).and_then(free));
    }
    need(room(planned, &activation.path));
    all
}

/// Whether a server of this major release is here and this build knows how to start it.
fn can_start(major: u32) -> Result<(), Failure> {
    if !SUPPORTED.contains(&major) {
        return Err(Failure::failed(format!(
            "a version is of PostgreSQL {major}; this build starts {} to {}",
            SUPPORTED.start(),
            SUPPORTED.end()
        ))
        .hint("use a release of Legation that names it"));
    }
    Binaries::find(major).map(drop).map_err(Failure::from)
}

/// Tells what would be started, and what is missing for it.
///
/// # Errors
/// Code 1 when something is missing.
pub fn dry_run(
    order: &Order,
    label: &str,
    accepted: bool,
    planned: &[Planned],
    missing: &[Failure],
    ctx: &Ctx,
) -> Result<(), Failure> {
    ctx.out.fact(
        "order",
        &serde_json::json!({
            "order": order.order, "embassy": label, "accepted": accepted, "expires": order.expires.to_string(),
            "grant": order.grant.to_string(), "target": order.target.map(|target| target.to_string()),
        }),
        format!(
            "order {} at embassy {label}{}: {}",
            order.order,
            match order.target {
                Some(target) if target.is_point() => format!(", up to {target}"),
                _ => String::new(),
            },
            if accepted {
                "accepted"
            } else {
                "not in the log yet; versions as they would be pinned now"
            }
        ),
    );
    for one in planned {
        tell(one, ctx);
    }
    for failure in missing {
        let hint = failure.hint.as_deref();
        ctx.out.fact(
            "missing",
            &serde_json::json!({ "message": failure.message, "hint": hint }),
            format!(
                "missing  {}{}",
                failure.message,
                hint.map_or_else(String::new, |hint| format!(" ({hint})"))
            ),
        );
    }
    match missing.len() {
        0 => Ok(()),
        1 => Err(Failure::failed(
            "it could not start here: one thing is missing",
        )),
        n => Err(Failure::failed(format!(
            "it could not start here: {n} things are missing"
        ))),
    }
}

fn tell(one: &Planned, ctx: &Ctx) {
    let Some((version, streams)) = &one.version else {
        return ctx.out.fact(
            "plan",
            &serde_json::json!({
                "registry": one.registry, "version": null, "epochs": one.epochs.to_string(),
            }),
            format!("{}  no version that these epochs open", one.registry),
        );
    };
    let commit = &version.commit;
    let wal = super::journal::reach(streams);
    ctx.out.fact(
        "plan",
        &serde_json::json!({
            "registry": one.registry, "version": commit.version, "packs": commit.packs.count,
            "bytes": commit.bytes, "epochs": one.epochs.to_string(), "streams": streams.len(),
            "wal_bytes": streams.iter().map(|one| one.bytes).sum::<u64>(),
            "replay_to": wal.map(|(_, end)| end.to_string()), "memory_at_least": one.least(),
        }),
        format!(
            "{}  {}  {} packs, {} MiB, epochs {}{}",
            one.registry,
            commit.version,
            commit.packs.count,
            commit.bytes.div_ceil(1 << 20),
            one.epochs,
            wal.map_or_else(String::new, |(from, to)| format!(
                ", WAL {from} to {to} in {} streams",
                streams.len()
            ))
        ),
    );
}

/// PostgreSQL refuses root, and says so late; this says it early.
///
/// # Errors
/// When nobody, or nobody known, is named to run it.
pub fn run_as(activation: &Activation, databases: usize) -> Result<Option<RunAs>, Failure> {
    let named = activation.run_as.as_deref().map(RunAs::named).transpose()?;
    if databases == 0 {
        return Ok(named);
    }
    if named.is_none() && rustix::process::geteuid().is_root() {
        return Err(Failure::usage("PostgreSQL does not run as root").hint(
            "set activation.run_as = \"postgres\" in embassy.toml, or run activate as another user",
        ));
    }
    RunAs::check(named.as_ref())?;
    Ok(named)
}

/// The port of the database at this place.
///
/// # Errors
/// When there are not so many.
pub fn port(first: u16, at: usize) -> Result<u16, Failure> {
    let port = u16::try_from(at).ok().and_then(|at| first.checked_add(at));
    port.ok_or_else(|| Failure::usage(format!("there are not enough ports from {first} on")))
}

/// Refuses a port that somebody holds.
fn free(port: u16) -> Result<(), Failure> {
    std::net::TcpListener::bind((LISTEN, port))
        .map(drop)
        .map_err(|why| {
            Failure::failed(format!("port {port}: {why}")).hint(
                "another process holds it; choose other ports with --port-base or activation.port",
            )
        })
}

fn room(planned: &[Planned], path: &Path) -> Result<(), Failure> {
    Volume::foresee(path)?.fits(planned.iter().map(Planned::least).sum())
}
