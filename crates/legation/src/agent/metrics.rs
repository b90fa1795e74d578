//! What whoever watches home may measure of the agent. Registries have their names here, because home knows them; no
//! address and no secret is among it.

use std::sync::Arc;

use legation_embassy::exposition::{Exposition, Kind, Listener, Watched, seconds};

use super::status::{AgentStatus, Board, RegistryStatus, now_ms};
use crate::config::agent::Agent as Config;
use crate::exit::{Code, Failure};

/// A report older than this means that the agent is stuck.
const SILENT_MS: u64 = 10_000;

/// Serves the board, if the configuration says where.
pub(super) fn serve(config: &Config, board: &Board) -> Result<Option<Listener>, Failure> {
    let listen = config.metrics_listen.as_deref();
    let Some(address) = crate::config::metrics_address(listen, config.metrics_beyond_loopback)?
    else {
        return Ok(None);
    };
    let listener = Listener::start(address, Arc::new(board.clone())).map_err(|why| {
        let port = address.port();
        Failure::new(Code::Failed, format!("metrics_listen: port {port}: {why}"))
            .hint("another process has it; choose another port")
    })?;
    tracing::info!(port = listener.local_addr().port(), "metrics are served");
    Ok(Some(listener))
}

impl Watched for Board {
    fn metrics(&self) -> String {
        render(&self.get())
    }

    fn ready(&self) -> Result<(), String> {
        let status = self.get();
        if now_ms().saturating_sub(status.at) > SILENT_MS {
            return Err("the agent has not reported for ten seconds".into());
        }
        match status.registries.values().filter(|it| it.late).count() {
            0 => Ok(()),
            late => Err(format!("{late} registries are beyond their objective")),
        }
    }
}

fn render(status: &AgentStatus) -> String {
    let mut out = Exposition::default();
    let state = status.state.as_str();
    let info = [
        ("state", state),
        ("embassy", status.embassy.as_str()),
        ("version", status.version.as_str()),
    ];
    out.gauge(
        "legation_agent_info",
        "The agent's state, embassy and version.",
        &info,
        1.0,
    );
    let own = [("state", state)];
    let mut one = |name, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            out.gauge(name, help, &own, value);
        }
    };
    one(
        "legation_agent_start_timestamp_seconds",
        "When this process began.",
        Some(seconds(status.since)),
    );
    one(
        "legation_agent_report_timestamp_seconds",
        "When the agent last looked at itself: twice a second.",
        Some(seconds(status.at)),
    );
    one(
        "legation_spool_used_bytes",
        "Bytes that wait in the spool.",
        Some(status.spool_used as f64),
    );
    one(
        "legation_spool_limit_bytes",
        "Bytes that may wait in the spool.",
        Some(status.spool_limit as f64),
    );
    one(
        "legation_spool_full",
        "Whether live log was turned away for want of room: 1, or 0.",
        Some(flag(status.spool_full)),
    );
    one(
        "legation_spool_lasts_seconds",
        "How long the spool lasts if it goes on filling as it does; absent when it does not grow.",
        status.spool_lasts_ms.map(seconds),
    );
    one(
        "legation_log_entries",
        "Entries of the embassy's log as of the newest verified checkpoint.",
        Some(status.log_size as f64),
    );
    each(&mut out, status);
    out.finish()
}

type Value = fn(&RegistryStatus) -> Option<f64>;

/// Name, kind, help and value of everything that is measured of a registry.
const EACH: [(&str, Kind, &str, Value); 14] = [
    (
        "legation_source_lag_seconds",
        Kind::Gauge,
        "Age of the oldest thing that the source has told and the embassy has not acknowledged; of the last answer, when the source does not answer.",
        |it| it.lag_ms.map(seconds),
    ),
    (
        "legation_source_lag_bytes",
        Kind::Gauge,
        "Bytes of log that the source is known to have and the embassy has not acknowledged.",
        |it| it.lag_bytes.map(|bytes| bytes as f64),
    ),
    (
        "legation_source_covered_timestamp_seconds",
        Kind::Gauge,
        "As of when everything that the source had is acknowledged.",
        |it| it.covered_at.map(seconds),
    ),
    (
        "legation_last_durable_ack_timestamp_seconds",
        Kind::Gauge,
        "When the embassy last acknowledged log on its disk.",
        |it| it.acked_at.map(seconds),
    ),
    (
        "legation_last_durable_commit_timestamp_seconds",
        Kind::Gauge,
        "When the receipt of the newest version was verified.",
        |it| it.version_received.map(seconds),
    ),
    (
        "legation_registry_objective_seconds",
        Kind::Gauge,
        "How old the registry may be abroad.",
        |it| Some(seconds(it.rpo_ms)),
    ),
    (
        "legation_registry_late",
        Kind::Gauge,
        "Whether it is beyond its objective: 1, or 0.",
        |it| Some(flag(it.late)),
    ),
    (
        "legation_registry_epoch",
        Kind::Gauge,
        "The epoch of keys in use.",
        |it| Some(f64::from(it.epoch)),
    ),
    (
        "legation_registry_version",
        Kind::Gauge,
        "The newest version in the embassy's log.",
        |it| it.version.map(f64::from),
    ),
    (
        "legation_registry_version_bytes",
        Kind::Gauge,
        "Bytes of the newest version's packs.",
        |it| it.version_bytes.map(|bytes| bytes as f64),
    ),
    (
        "legation_registry_versions_total",
        Kind::Counter,
        "Versions committed since the process began.",
        |it| Some(it.versions_made as f64),
    ),
    (
        "legation_registry_breaks_total",
        Kind::Counter,
        "How often continuity was lost since the agent's memory began.",
        |it| Some(f64::from(it.breaks)),
    ),
    (
        "legation_registry_broken",
        Kind::Gauge,
        "Whether continuity was lost since the newest version: 1, or 0.",
        |it| Some(flag(it.broken)),
    ),
    (
        "legation_registry_trouble",
        Kind::Gauge,
        "Whether source, line or embassy gives trouble: 1, or 0.",
        |it| {
            let trouble = [&it.trouble, &it.line_trouble, &it.ship_trouble];
            Some(flag(trouble.iter().any(|it| it.is_some())))
        },
    ),
];

fn each(out: &mut Exposition, status: &AgentStatus) {
    for (name, kind, help, value) in EACH {
        out.family(name, kind, help);
        for (registry, it) in &status.registries {
            if let Some(value) = value(it) {
                let source = it.source.as_str();
                out.sample(&[("registry", registry), ("source", source)], value);
            }
        }
    }
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}
