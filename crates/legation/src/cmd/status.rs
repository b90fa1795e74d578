//! `legation status`: what is abroad, how old it is, and what is wrong. Beside an agent it reads the agent's own report;
//! at a person's desk it asks the embassy and replays its log.

use std::path::Path;
use std::time::Duration;

use legation_core::policy::VersionState;
use legation_core::statement::Tier;
use serde::{Deserialize, Serialize};

use crate::agent::Layout;
use crate::agent::status::{self, AgentStatus, RegistryStatus, now_ms};
use crate::config::{self, units};
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};
use crate::identity::{Identity, Role};
use crate::line;
use crate::officers::names::Names;

/// An agent that has not reported for this long is not running.
const SILENT: Duration = Duration::from_secs(10);
/// Time between two looks with `--watch`.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation status\n  legation status --config /etc/legation/agent.toml --json\n  legation status --watch\n  legation status --waves"
)]
pub struct Args {
    /// Look again every second until interrupted
    #[arg(long)]
    watch: bool,
    /// How far each registry has come on its way to being protected, by the log, wave by wave
    #[arg(long, conflicts_with_all = ["watch", "check"])]
    waves: bool,
    /// Exit with 7 when a registry is older abroad than its objective allows
    #[arg(long)]
    check: bool,
}

/// Only an agent's configuration has a spool.
#[derive(Deserialize)]
struct Probe {
    spool: Option<config::agent::Spool>,
}

/// What a registry's log says, at a person's desk.
#[derive(Serialize)]
struct Abroad {
    registry: String,
    name: String,
    tier: String,
    term: u32,
    version: Option<u32>,
    captured: Option<u64>,
    received: Option<u64>,
    age_ms: Option<u64>,
    marked_lsn: Option<String>,
    marked_at: Option<u64>,
    epochs: u32,
    gaps: usize,
    doubts: usize,
    /// Holes that were logged after the newest version: until there is another, nothing after them starts.
    gaps_since_version: usize,
    doubts_since_version: usize,
    fenced: bool,
    rpo_ms: u64,
    late: bool,
}

impl Abroad {
    /// Whether anybody should look at it.
    fn deviates(&self) -> bool {
        self.late || self.fenced || self.gaps_since_version > 0 || self.doubts_since_version > 0
    }
}

/// How old a registry of this tier may be abroad.
fn rpo(tier: Tier) -> Duration {
    match tier {
        Tier::T0 => config::agent::Tier::T0,
        Tier::T1 => config::agent::Tier::T1,
        Tier::T2 => config::agent::Tier::T2,
        Tier::T3 => config::agent::Tier::T3,
    }
    .rpo()
}

/// Whether what is abroad of a registry, if anything, is older than its tier allows.
fn is_late(tier: Tier, version: Option<u32>, age_ms: Option<u64>) -> bool {
    let old = age_ms.is_none_or(|age| Duration::from_millis(age) > rpo(tier));
    version.is_none() || old
}

/// How many of these entries of the log came after a version's.
fn since(entries: &mut dyn Iterator<Item = u64>, head: Option<&VersionState>) -> usize {
    entries
        .filter(|at| head.is_some_and(|head| *at > head.index))
        .count()
}

/// Shows it.
///
/// # Errors
/// Code 10 when the embassy does not answer; with `--check`, code 7 when an objective is missed.
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    if args.waves {
        return super::waves::run(ctx);
    }
    let path = ctx
        .config
        .clone()
        .unwrap_or_else(config::person::usual_place);
    loop {
        let late = match spool_of(&path)? {
            Some(spool) => beside_agent(&spool, ctx)?,
            None => at_desk(ctx)?,
        };
        if !args.watch {
            return match late {
                Some(name) if args.check => Err(Failure::new(
                    Code::ObjectiveMissed,
                    format!("{name} is older abroad than its objective allows"),
                )),
                _ => Ok(()),
            };
        }
        if ctx.stop.wait(LOOK) {
            return Ok(());
        }
    }
}

fn spool_of(path: &Path) -> Result<Option<std::path::PathBuf>, Failure> {
    let probe: Probe = config::load(path).map_err(|failure| match failure.hint {
        Some(_) => failure,
        None => failure.hint(
            "name legation.toml, or beside an agent its agent.toml, with --config or LEGATION_CONFIG",
        ),
    })?;
    Ok(probe.spool.map(|spool| config::beside(path, &spool.path)))
}

/// Prints the agent's report; returns a registry that is late.
fn beside_agent(spool: &Path, ctx: &Ctx) -> Result<Option<String>, Failure> {
    let Some(status) = status::read(&Layout::new(spool).status())? else {
        return Err(
            Failure::failed("the agent has never run here").hint("legation agent --config …")
        );
    };
    let age = Duration::from_millis(now_ms().saturating_sub(status.at));
    if ctx.out.json() {
        ctx.out.record("agent", &status);
        for (name, registry) in &status.registries {
            ctx.out.record("registry", &Named { name, registry });
        }
    } else {
        print(&status, age, ctx);
    }
    if age > SILENT {
        return Ok(status.registries.keys().next().cloned());
    }
    Ok(status
        .registries
        .iter()
        .find(|(_, registry)| registry.late)
        .map(|(name, _)| name.clone()))
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    #[serde(flatten)]
    registry: &'a RegistryStatus,
}

/// Whether anybody should look at it.
fn deviates(registry: &RegistryStatus) -> bool {
    let trouble = [
        &registry.trouble,
        &registry.line_trouble,
        &registry.ship_trouble,
    ];
    registry.late || registry.broken || trouble.iter().any(|trouble| trouble.is_some())
}

fn print(status: &AgentStatus, age: Duration, ctx: &Ctx) {
    if age > SILENT {
        ctx.out.line(format!(
            "the agent last reported {} ago: it does not run",
            units::ago(age)
        ));
    }
    ctx.out.line(format!(
        "{} · embassy {} · log {} entries · spool {} of {}{}",
        status.state,
        status.embassy,
        status.log_size,
        units::about(status.spool_used),
        units::about(status.spool_limit),
        match status.spool_lasts_ms {
            _ if status.spool_full => ", FULL".to_owned(),
            Some(left) => format!(
                ", full in {} if it goes on like this",
                units::ago(Duration::from_millis(left))
            ),
            None => String::new(),
        }
    ));
    ctx.out.line(format!(
        "{:<14} {:<9} {:<13} {:>8} {:>8}  {:<12} {:<12} {:>7}",
        "registry", "source", "doing", "lag", "within", "sealed", "abroad", "version"
    ));
    let mut all: Vec<_> = status.registries.iter().collect();
    // What deviates comes first.
    all.sort_by_key(|(_, registry)| !deviates(registry));
    for (name, registry) in all {
        let lag = registry
            .lag_ms
            .map_or("-".to_owned(), |lag| units::ago(Duration::from_millis(lag)));
        ctx.out.line(format!(
            "{name:<14} {:<9} {:<13} {lag:>8} {:>8}  {:<12} {:<12} {:>7}{}",
            registry.source,
            registry.phase,
            units::ago(Duration::from_millis(registry.rpo_ms)),
            registry.sealed_lsn.as_deref().unwrap_or("-"),
            registry.acked_lsn.as_deref().unwrap_or("-"),
            registry
                .version
                .map_or("-".to_owned(), |version| format!("v{version}")),
            match registry {
                it if it.broken => "  BROKEN: a new base follows",
                it if it.late => "  LATE",
                _ => "",
            }
        ));
        for trouble in [
            &registry.flagged,
            &registry.trouble,
            &registry.healing,
            &registry.damaged,
            &registry.incomplete,
            &registry.line_trouble,
            &registry.ship_trouble,
        ]
        .into_iter()
        .flatten()
        {
            ctx.out.line(format!("  {trouble}"));
        }
    }
}

/// Asks the embassy and replays its log.
fn at_desk(ctx: &Ctx) -> Result<Option<String>, Failure> {
    let person = ctx.person()?;
    let names = Names::of_person(&person)?;
    let (client, _) = line::of_person(&person)?;
    let embassy = client.status()?;
    let log = ctx.cache().join(&person.state).join("log");
    let identity = Identity::load(&person.identity.file, Role::Client)?;
    let ledger = line::ledger(
        &client,
        &log,
        &identity.folded(&log),
        &ctx.watch("log", "entries"),
    )?;
    ctx.out.fact(
        "embassy",
        &embassy,
        format!(
            "{} · embassy {} · log {} entries · {} free",
            embassy.state,
            embassy.label,
            ledger.checkpoint.size(),
            units::about(embassy.free)
        ),
    );
    ledger.clean()?;
    let mut all = Vec::new();
    for (id, registry) in ledger.state.registries() {
        let head = registry.head();
        let captured = head.map(|head| head.commit.captured.millis());
        let mark = registry.mark.as_ref().map(|mark| &mark.mark);
        let covered = registry
            .covered()
            .map(legation_core::statement::Time::millis);
        let age_ms = covered.map(|covered| now_ms().saturating_sub(covered));
        let version = head.map(|head| head.commit.version.0);
        let abroad = Abroad {
            registry: id.to_string(),
            name: names.of(id),
            tier: registry.row.tier.to_string(),
            term: registry.term.0,
            version,
            captured,
            received: head.map(|head| head.received.millis()),
            age_ms,
            marked_lsn: mark.map(|mark| mark.lsn.to_string()),
            marked_at: mark.map(|mark| mark.at.millis()),
            epochs: registry.last_epoch().0,
            gaps: registry.gaps.len(),
            doubts: registry.doubts.len(),
            gaps_since_version: since(&mut registry.gaps.iter().map(|(at, _)| *at), head),
            doubts_since_version: since(&mut registry.doubts.iter().map(|(at, _)| *at), head),
            fenced: !registry.fences.is_empty(),
            rpo_ms: u64::try_from(rpo(registry.row.tier).as_millis()).unwrap_or(u64::MAX),
            late: is_late(registry.row.tier, version, age_ms),
        };
        all.push((abroad, id, registry));
    }
    // What deviates comes first.
    all.sort_by_key(|(abroad, ..)| !abroad.deviates());
    for (abroad, id, registry) in &all {
        let mut words = Vec::new();
        let mut say = |so: bool, what: String| words.extend(so.then_some(what));
        say(abroad.late, "LATE".into());
        let holes = abroad.gaps_since_version;
        say(holes > 0, format!("{holes} gap(s) since its version"));
        let doubts = abroad.doubts_since_version;
        say(doubts > 0, format!("{doubts} doubt(s) since its version"));
        say(abroad.fenced, "fenced".into());
        let text = format!(
            "{:<14} {:<9} {:<3} {:>6}  {:>8} old  within {:<7} {}  {}",
            abroad.name,
            abroad.registry,
            abroad.tier,
            abroad
                .version
                .map_or("-".to_owned(), |version| format!("v{version}")),
            abroad
                .age_ms
                .map_or("-".to_owned(), |age| units::ago(Duration::from_millis(age))),
            units::ago(Duration::from_millis(abroad.rpo_ms)),
            abroad.marked_lsn.as_deref().unwrap_or(""),
            words.join(", ")
        );
        ctx.out.fact("registry", abroad, text.trim_end().to_owned());
        super::waves::doubts(&abroad.name, *id, registry, ctx);
    }
    let late = all.into_iter().find(|(abroad, ..)| abroad.late);
    Ok(late.map(|(abroad, ..)| abroad.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_its_tier_allows_is_late() {
        for (tier, seconds) in [
            (Tier::T0, 10),
            (Tier::T1, 60),
            (Tier::T2, 900),
            (Tier::T3, 86_400),
        ] {
            assert!(!is_late(tier, Some(1), Some(seconds * 1000)));
            assert!(is_late(tier, Some(1), Some(seconds * 1000 + 1)));
            assert!(is_late(tier, None, None) && is_late(tier, Some(1), None));
        }
    }
}
