//! An agent's checks.

use std::path::Path;
use std::time::Duration;

use legation_registry::postgres::{self as driver, ConnectConfig, Severity, SlotState};

use super::{Findings, machine};
use crate::agent::Layout;
use crate::agent::sqlite;
use crate::agent::status::{self, now_ms};
use crate::charter::Charter;
use crate::config::agent::{Agent as Config, Postgres, Source};
use crate::config::locators::Locators;
use crate::config::units;
use crate::ctx::Ctx;
use crate::identity::{Identity, Role};

/// An agent that has not reported for this long is stuck.
const SILENT: Duration = Duration::from_secs(10);

pub fn look(path: &Path, ctx: &Ctx, found: &mut Findings<'_>) {
    let check = format!("legation config check --config {}", path.display());
    let Some(config) = found.keep("config", Config::load(path), &check) else {
        return;
    };
    let mut wrong = Vec::new();
    crate::cmd::config::agent(&config, ctx, &mut wrong);
    if wrong.is_empty() {
        found.ok("config", "well-formed, and what it names holds");
    }
    for failure in wrong {
        found.keep("config", Err::<(), _>(failure), &check);
    }
    spool(&config, path, found);
    machine::limits(Some(config.limits.memory.0), found);
    for registry in &config.registry {
        for source in &registry.source {
            match source {
                Source::Postgres(source) => cluster(&registry.name, source, found),
                Source::Sqlite(database) => match sqlite::try_opening(database) {
                    Ok(_) => found.ok(
                        "sqlite",
                        format!("{}: its database can be captured", registry.name),
                    ),
                    Err(failure) => {
                        let failure = failure.during(&registry.name);
                        found.keep("sqlite", Err::<(), _>(failure), &check);
                    }
                },
                // Looked at with the configuration: their programs, their snapshots.
                Source::Command(_) | Source::Image(_) => {}
                Source::Tree(tree) => match std::fs::read_dir(&tree.path) {
                    Ok(_) => found.ok(
                        "tree",
                        format!("{}: its directory can be read", registry.name),
                    ),
                    Err(why) => found.bad(
                        "tree",
                        format!("{}: {}: {why}", registry.name, tree.path.display()),
                        format!("setfacl -R -m u:USER:rX {}", tree.path.display()),
                    ),
                },
            }
        }
    }
    embassy(&config, ctx, found);
}

fn spool(config: &Config, path: &Path, found: &mut Findings<'_>) {
    let dir = &config.spool.path;
    let start = format!("legation agent --config {}", path.display());
    if machine::writable("spool", dir, found).is_none() {
        return;
    }
    let layout = Layout::new(dir);
    let status = found
        .keep("spool", status::read(&layout.status()), &start)
        .flatten();
    let used = status.as_ref().map_or(0, |status| status.spool_used);
    machine::room("spool", dir, config.spool.size.0, used, found);
    if let Some(status) = &status {
        if status.spool_full {
            found.bad(
                "spool",
                "it is full: nothing more is taken from the sources",
                "bring the line back (see embassy), or raise spool.size",
            );
        } else if let Some(left) = status.spool_lasts_ms {
            let left = Duration::from_millis(left);
            if left < Duration::from_secs(86_400) {
                found.warn(
                    "spool",
                    format!("full in {} if it goes on like this", units::ago(left)),
                    "bring the line back (see embassy), or raise spool.size",
                );
            }
        }
    }
    let age = status.map(|status| Duration::from_millis(now_ms().saturating_sub(status.at)));
    match (machine::is_locked(&layout.lock()), age) {
        (Some(true), Some(age)) if age > SILENT => found.bad(
            "agent",
            format!("it runs and has not reported for {}", units::ago(age)),
            "systemctl restart legation-agent, and keep its log",
        ),
        (Some(true), _) => found.ok("agent", "it runs"),
        _ => found.warn("agent", "no agent runs on this spool", start),
    }
}

/// A database, by the driver's own preflight.
fn cluster(name: &str, source: &Postgres, found: &mut Findings<'_>) {
    let connect = match ConnectConfig::parse(&source.url) {
        Ok(connect) => connect,
        Err(why) => {
            let fix = "write url as postgresql://USER@HOST:PORT/DATABASE, without a password";
            return found.bad(
                "postgres",
                format!("{name}: {}", hidden(&why.to_string(), source)),
                fix,
            );
        }
    };
    let probe = match driver::probe(&connect, &source.slot) {
        Ok(probe) => probe,
        Err(why) => {
            let why = hidden(&why.to_string(), source);
            let mut parts = why.splitn(2, "fix: ");
            let what = parts.next().unwrap_or_default().trim().to_owned();
            let fix = parts.next().map_or_else(
                || "start the database; let the role connect for replication in pg_hba.conf, its password in .pgpass".to_owned(),
                str::to_owned,
            );
            return found.bad("postgres", format!("{name}: {what}"), fix);
        }
    };
    for finding in &probe.findings {
        let what = format!("{name}: {}", finding.what);
        match finding.severity {
            Severity::Note => found.ok("postgres", what),
            Severity::Warning => found.warn("postgres", what, finding.fix.clone()),
            Severity::Blocking => found.bad("postgres", what, finding.fix.clone()),
        }
    }
    let slot = &source.slot;
    match &probe.slot {
        SlotState::Absent => found.ok("slot", format!("{name}: {slot} is made when the agent starts")),
        SlotState::Lost => found.bad(
            "slot",
            format!("{name}: {slot} is lost: the server removed log that it needed"),
            format!("psql -c \"select pg_drop_replication_slot('{slot}')\"; the agent makes it anew, logs a gap and takes a new base"),
        ),
        SlotState::Held { restart, active, room } => {
            let kept = restart.map_or(0, |from| probe.flushed.0.saturating_sub(from.0));
            let kept = units::about(kept);
            let room = room.map(units::about);
            let bound = room.map_or_else(
                || "without bound".to_owned(),
                |room| format!("{room} more before it is lost"),
            );
            let what = format!("{name}: {slot} keeps {kept} of log, {bound}");
            if *active {
                found.ok("slot", what);
            } else {
                found.warn(
                    "slot",
                    format!("{what}; nobody receives from it"),
                    "start the agent, or drop the slot if it is not used any more",
                );
            }
        }
    }
}

/// No address in what is said: it may stand in an error of the driver.
fn hidden(text: &str, source: &Postgres) -> String {
    let host = source.url.split_once("://").map_or("", |(_, rest)| rest);
    let host = host.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    if host.is_empty() {
        return text.to_owned();
    }
    text.replace(host, "the server")
}

/// Reaching the embassy, with the keys that the mandate pins.
fn embassy(config: &Config, ctx: &Ctx, found: &mut Findings<'_>) {
    // What is missing here was told among the configuration's.
    let Ok(charter) = Charter::load_of(&config.mandate, &config.state) else {
        return;
    };
    let file = ctx.identity.as_ref().unwrap_or(&config.identity.file);
    let (Ok(identity), Ok(locators)) = (
        Identity::load(file, Role::Agent),
        Locators::load(&config.locators),
    ) else {
        return;
    };
    let layout = Layout::new(&config.spool.path);
    for row in &charter.mandate.embassy {
        let label = row.label.as_str();
        let pin = layout.pin(label);
        let client = crate::line::client(&charter, &identity, &locators, label, &pin, 1);
        let line = "look at the line, the firewall and the address in the file of locators";
        let Some(client) = found.keep("embassy", client, line) else {
            continue;
        };
        let status = client.status().map_err(crate::exit::Failure::from);
        let Some(status) = found.keep("embassy", status, line) else {
            continue;
        };
        found.ok(
            "embassy",
            format!("{label} answers, with the keys of the mandate"),
        );
        if let Ok(theirs) = status.now.parse::<legation_core::statement::Time>() {
            machine::clock(theirs.millis(), found);
        }
        if status.software != env!("CARGO_PKG_VERSION") {
            found.warn(
                "embassy",
                format!(
                    "{label} runs version {}, this is {}",
                    status.software,
                    env!("CARGO_PKG_VERSION")
                ),
                "bring both to one version",
            );
        }
        if status.free < config.spool.size.0 / 10 {
            found.warn(
                "embassy",
                format!(
                    "{label} has {} left for this state",
                    units::about(status.free)
                ),
                "ask its operator for more room",
            );
        }
        match client.checkpoint() {
            Ok(_) => found.ok(
                "log",
                format!("the log at {label} continues the one that was seen"),
            ),
            Err(why) => {
                found.keep("log", Err::<(), _>(crate::exit::Failure::from(why)), line);
            }
        }
    }
}
