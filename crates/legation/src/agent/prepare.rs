//! What must be so before anything is captured: the spool is ours, the sources can be captured, the embassy is known.

use std::fs::File;
use std::time::{Duration, Instant};

use legation_core::id::RegistryId;
use legation_registry::image::Snapshot;
use legation_registry::postgres::ConnectConfig;

use super::Layout;
use super::gate::Gate;
use super::link::Link;
use super::status::{AgentStatus, RegistryStatus, now_ms};
use super::version::source_failure;
use super::{postgres, sqlite};
use crate::charter::Charter;
use crate::config::agent::{Agent as Config, Source};
use crate::config::locators::Locators;
use crate::config::units::Size;
use crate::exit::{Code, Failure};
use crate::identity::Identity;
use crate::stop::Stop;

/// How long to wait for another process to let go of the spool.
const LOCK: Duration = Duration::from_secs(3);
/// What every registry may hold in memory: received WAL, and sealed frames for the shipper.
const STANDING: u64 = 12 << 20;
/// What a capture may hold: an open pack and its sealed copy.
const CAPTURE: u64 = 36 << 20;

/// Takes the spool for this process. One that was killed a moment ago may still be on its way out.
pub(super) fn lock(layout: &Layout, stop: &Stop) -> Result<File, Failure> {
    let file = File::create(layout.lock())?;
    let until = Instant::now() + LOCK;
    loop {
        if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(file);
        }
        if Instant::now() >= until || stop.wait(Duration::from_millis(100)) {
            return Err(Failure::new(
                Code::Locked,
                format!("another agent uses the spool {}", layout.lock().display()),
            )
            .hint("stop it first; two agents must never share a spool"));
        }
    }
}

/// Captures at once: as many as workers, and as many as the memory holds.
pub(super) fn gate(config: &Config) -> Result<Gate, Failure> {
    let standing = STANDING * config.registry.len() as u64;
    let places = config.limits.memory.0.saturating_sub(standing) / CAPTURE;
    if places == 0 {
        return Err(Failure::usage(format!(
            "limits.memory is {}; {} registries need at least {}",
            config.limits.memory,
            config.registry.len(),
            Size(standing + CAPTURE)
        )));
    }
    Ok(Gate::new(places.min(u64::from(config.limits.workers))))
}

pub(super) fn preflight(config: &Config) -> Result<(), Failure> {
    sqlite::apart(config)?;
    for registry in &config.registry {
        if registry.source.len() != 1 {
            return Err(Failure::usage(format!(
                "registry {:?} has {} sources; this version captures one each: make a registry of every source",
                registry.name,
                registry.source.len()
            )));
        }
        if let Some(source) = registry.source.first() {
            programs(source).map_err(|failure| failure.during(&registry.name))?;
        }
        if let Some(Source::Postgres(source)) = registry.source.first() {
            let connect = ConnectConfig::parse(&source.url).map_err(source_failure)?;
            let checked = postgres::preflight(&connect, &source.slot)
                .map_err(|failure| failure.during(&registry.name));
            // What was captured before heals by itself: its trouble is shown, and keeps no other from being captured.
            let dir = Layout::new(&config.spool.path).registry(&registry.id);
            match checked {
                Err(failure) if dir.join("state.json").is_file() => tracing::warn!("{failure}"),
                other => other?,
            }
        }
    }
    Ok(())
}

/// Whether the programs that a source needs are there.
pub(crate) fn programs(source: &Source) -> Result<(), Failure> {
    let needed = match source {
        Source::Command(command) => vec![command.program()],
        Source::Image(image) => match image.how() {
            Snapshot::Hooks { create, remove, .. } => vec![create, remove],
            Snapshot::None | Snapshot::Reflink => Vec::new(),
        },
        Source::Postgres(_) | Source::Tree(_) | Source::Sqlite(_) => Vec::new(),
    };
    let mut found = needed.iter().map(|program| program.find());
    found.try_for_each(|found| found.map_err(source_failure))
}

pub(super) fn embassy_label(config: &Config, charter: &Charter) -> Result<String, Failure> {
    let mut label: Option<String> = None;
    for registry in &config.registry {
        let id: RegistryId = registry.id.parse().map_err(Failure::usage)?;
        let wanted = charter.registry(id)?.embassy.to_string();
        if label.as_ref().is_some_and(|label| *label != wanted) {
            return Err(Failure::usage(
                "registries of one agent go to one embassy in this version",
            ));
        }
        label = Some(wanted);
    }
    label.ok_or_else(|| Failure::usage("the configuration names no [[registry]]"))
}

pub(super) fn connect(
    config: &Config,
    charter: &Charter,
    identity: &Identity,
    layout: &Layout,
    label: &str,
    stop: &Stop,
) -> Result<Link, Failure> {
    let locators = Locators::load(&config.locators)?;
    let client = crate::line::client(charter, identity, &locators, label, &layout.pin(label), 1)?;
    Ok(Link::new(
        client,
        identity,
        &config.spool.path,
        config.limits.upload,
        stop.clone(),
    ))
}

pub(super) fn first_status(config: &Config, label: &str) -> AgentStatus {
    let registries = config.registry.iter().map(|registry| {
        let source = registry.source.first().map_or("none", Source::kind);
        let status = RegistryStatus {
            id: registry.id.clone(),
            source: source.into(),
            phase: "starting".into(),
            rpo_ms: u64::try_from(registry.rpo().as_millis()).unwrap_or(u64::MAX),
            late: true,
            ..RegistryStatus::default()
        };
        (registry.name.clone(), status)
    });
    AgentStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        state: config.state.clone(),
        pid: std::process::id(),
        at: now_ms(),
        since: now_ms(),
        embassy: label.to_owned(),
        spool_limit: config.spool.size.0,
        registries: registries.collect(),
        ..AgentStatus::default()
    }
}
