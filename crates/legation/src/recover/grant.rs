//! A grant in a person's hand: the order, what the officers released for it, and the key that opens that.

use std::collections::BTreeMap;
use std::path::Path;

use legation_core::id::{EpochNo, Lsn, RegistryId, VersionNo};
use legation_core::keys::{EpochRoot, OpeningKey};
use legation_core::policy::VersionState;
use legation_core::statement::{Act, Order, Target};

use super::keep::Keep;
use super::start::Job;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::officers::released::Released;
use crate::officers::{now, orders, read_bounded};

/// An X-Wing seed.
const SEED: u64 = 32;
/// A release is at most this long.
const MAX_RELEASE: u64 = 4 << 20;

/// What a person asks for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The registry, by name or id.
    pub name: &'a str,
    /// `latest` or `v7`.
    pub version: &'a str,
    /// The grant.
    pub order: Option<&'a Path>,
    /// The point in time, as an order would name it.
    pub target: Option<Target>,
}

impl Asked<'_> {
    /// How a grant for it is asked for.
    fn grant(&self) -> String {
        let which = match self.target {
            Some(Target::Lsn(lsn)) => format!("--target-lsn {lsn}"),
            Some(Target::Time(time)) => format!("--target-time {time}"),
            _ => format!("--version {}", self.version),
        };
        format!(
            "legation order new grant {} --grant read {which} --out grant.txt",
            self.name
        )
    }
}

/// Checks the grant against the log and opens what was released for it.
///
/// # Errors
/// Code 2 without a grant; code 8 when it does not cover what is asked for, has expired, or is not in the log; code 12
/// when the key beside it is not the one that keys were released to.
pub fn open(desk: &Desk, asked: Asked<'_>) -> Result<(Job, Keep), Failure> {
    let (order, keys) = keys(desk, asked)?;
    let id = desk.names.find(asked.name)?;
    let refused = |why: String| Failure::new(Code::Refused, why);
    let accepted = desk
        .state()
        .order(&order.order)
        .ok_or_else(|| refused(format!("order {} is not in the log", order.order)))?;
    let pinned = accepted.versions.get(&id).copied().ok_or_else(|| {
        refused(format!("order {} is not for {}", order.order, asked.name)).hint(
            "write a grant for it: legation order new grant NAME --grant read --out grant.txt",
        )
    })?;
    let version = match asked.version {
        "latest" => pinned,
        text => text
            .parse::<VersionNo>()
            .map_err(|_| Failure::usage(format!("{text:?} is no version; use latest or v7")))?,
    };
    if version != pinned {
        return Err(refused(format!(
            "order {} opens {pinned} of {}, not {version}",
            order.order, asked.name
        )));
    }
    let registry = desk
        .state()
        .registry(id)
        .ok_or_else(|| refused(format!("the mandate names no {}", asked.name)))?;
    let version = registry
        .version(version)
        .ok_or_else(|| Failure::failed("the version left the log"))?;
    let keep = Keep::Remote(desk.client.clone());
    let held = keep.streams(id)?;
    let keys = keys
        .into_iter()
        .filter(|((registry, _), _)| *registry == id)
        .map(|((_, epoch), root)| (epoch, root))
        .collect();
    let job = Job::new(
        desk.state().id(),
        (id, desk.names.of(id)),
        version.clone(),
        &held,
        &|stream| keep.frames(id, stream),
        None,
        keys,
    );
    Ok((job.towards(order.target, registry), keep))
}

/// What could be restored without any key: for showing a plan.
///
/// # Errors
/// When there is no such registry or version.
pub fn plan(desk: &Desk, asked: Asked<'_>) -> Result<(Job, Option<(Lsn, Lsn)>), Failure> {
    let id = desk.names.find(asked.name)?;
    let registry = desk.state().registry(id).ok_or_else(|| {
        Failure::new(
            Code::Refused,
            format!("the mandate names no registry {}", asked.name),
        )
    })?;
    let version = match (asked.version, asked.target) {
        ("latest", Some(target)) => {
            let size = desk.state().size();
            let found = registry.version_for(target, size);
            return found.map_or_else(
                || Err(super::point::outside(registry, asked.name, target)),
                |version| sketch(desk, id, version),
            );
        }
        ("latest", None) => registry.head(),
        (text, _) => {
            let number = text
                .parse()
                .map_err(|_| Failure::usage(format!("{text:?} is no version; use latest or v7")))?;
            registry.version(number)
        }
    };
    let version = version.ok_or_else(|| {
        Failure::failed(format!("{} has no version {}", asked.name, asked.version)).hint(format!(
            "legation versions {} lists what there is",
            asked.name
        ))
    })?;
    sketch(desk, id, version)
}

fn sketch(
    desk: &Desk,
    id: RegistryId,
    version: &VersionState,
) -> Result<(Job, Option<(Lsn, Lsn)>), Failure> {
    let held = Keep::Remote(desk.client.clone()).streams(id)?;
    let job = Job::sketch(
        desk.state().id(),
        (id, desk.names.of(id)),
        version.clone(),
        &held,
    );
    let window = super::journal::reach(&job.streams);
    Ok((job, window))
}

type Keys = BTreeMap<(RegistryId, EpochNo), EpochRoot>;

fn keys(desk: &Desk, asked: Asked<'_>) -> Result<(Order, Keys), Failure> {
    let path = asked.order.ok_or_else(|| {
        Failure::new(
            Code::Refused,
            "opening data takes a grant of the officers: --order grant.txt",
        )
        .hint(asked.grant())
    })?;
    let (order, _) = orders::load(path)?;
    let refused = |why: String| Err(Failure::new(Code::Refused, why));
    if order.state != desk.state().id() {
        return refused(format!(
            "the order is of state {}, this desk of {}",
            order.state,
            desk.state().id()
        ));
    }
    if order.act != Act::Grant {
        return refused(format!(
            "order {} is for {}; reading takes a grant",
            order.order, order.act
        ));
    }
    match desk.state().order(&order.order) {
        None => {
            return refused(format!("the log has not accepted order {}", order.order)).map_err(
                |failure| {
                    failure.hint("log it first: legation order submit grant.txt --approval FILE...")
                },
            );
        }
        Some(accepted) if accepted.id != order.id() => {
            return refused(format!(
                "order {} in the log says something else than {}",
                order.order,
                path.display()
            ));
        }
        Some(_) => {}
    }
    if now()? >= order.expires {
        return refused(format!(
            "order {} expired at {}",
            order.order, order.expires
        ));
    }
    let released = orders::released_path(path);
    let bytes = read_bounded(&released, MAX_RELEASE).map_err(|failure| {
        failure.hint("the officers release its keys: legation order release grant.bundle ... --out grant.released")
    })?;
    let released = Released::parse(&bytes).map_err(|failure| {
        failure
            .during(released.display())
            .hint("fetch it again from the officers who released it")
    })?;
    let seed = read_bounded(&orders::key_path(path), SEED)?;
    let seed: &[u8; 32] = seed.as_slice().try_into().map_err(|_| {
        Failure::new(
            Code::WrongKey,
            format!("{} is no key of a grant", orders::key_path(path).display()),
        )
    })?;
    let opened = released.open(&OpeningKey::from_seed(seed)?, &order)?;
    Ok((order, opened.roots))
}
