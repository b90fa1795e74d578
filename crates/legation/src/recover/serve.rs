//! One registry of an activation, from sealed packs to answering: restored, started, replayed, asked, and told.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use legation_core::id::{Lsn, Timeline};
use legation_core::statement::{Mode, Order, Probes, StepKind, Time, Verdict};
use legation_registry::postgres::{RunAs, Serve, Server, Target, TcpAuth};

use super::activate::step;
use super::keep::Keep;
use super::seat::{Measured, Seat};
use super::sqlite;
use super::start::{self, Job, Source};
use crate::ctx::Ctx;
use crate::exit::Failure;

/// Started databases answer on this machine only; whoever lets others in does so in front of them.
pub(super) const LISTEN: &str = "127.0.0.1";

/// What all registries of one activation share.
#[derive(Debug)]
pub struct Setting {
    /// The order.
    pub order: Order,
    /// Where plaintext lives.
    pub volume: PathBuf,
    /// The first port.
    pub port: u16,
    /// Who runs databases, when we are root.
    pub run_as: Option<RunAs>,
    /// What serves by now.
    pub live: Mutex<Vec<Live>>,
}

/// A registry that serves.
#[derive(Debug)]
pub struct Live {
    /// What it is called.
    pub name: String,
    /// Its server, if it is a database.
    pub server: Option<Server>,
}

impl Live {
    /// Says once when a database ended by itself: it is not started again without a person who looks why.
    pub fn look(&mut self, ctx: &Ctx) {
        let Some(Ok(Some(why))) = self.server.as_mut().map(Server::ended) else {
            return;
        };
        self.server = None;
        ctx.out.record(
            "ended",
            &serde_json::json!({ "registry": self.name, "message": why }),
        );
        ctx.out
            .note(format!("{} does not serve any more: {why}", self.name));
    }
}

/// What came of starting the sources of one registry.
struct Came {
    server: Option<Server>,
    timeline: Option<Timeline>,
    lsn: Option<Lsn>,
    last_commit: Option<String>,
    passed: u32,
    asked: u32,
    doubt: Option<String>,
    port: Option<u16>,
}

/// Starts one registry and says so, in the log and to the operator.
///
/// # Errors
/// What kept it from serving; the failure is logged as its report.
#[expect(
    clippy::too_many_arguments,
    reason = "what one registry's start takes is what it takes"
)]
pub fn serve(
    seat: &Seat,
    keep: &Keep,
    job: &Job,
    port: Option<u16>,
    fenced: Option<Time>,
    setting: &Setting,
    began: Instant,
    ctx: &Ctx,
) -> Result<(), Failure> {
    let result = attempt(seat, keep, job, port, setting, ctx);
    let rto_ms = millis(began.elapsed().as_millis());
    let (came, sources) = match result {
        Ok(came) => came,
        Err(failure) => {
            let measured = Measured {
                registry: job.registry,
                version: job.version.commit.version,
                timeline: None,
                lsn: None,
                rpo_ms: None,
                rto_ms,
                probes: Probes {
                    passed: 0,
                    asked: 0,
                },
                verdict: Verdict::Failed,
            };
            if let Err(why) = seat.report(&setting.order.order, measured) {
                ctx.out.note(format!(
                    "{}: the failure could not be logged: {}",
                    job.name, why.message
                ));
            }
            return Err(failure);
        }
    };
    let as_of = came
        .last_commit
        .as_deref()
        .and_then(timestamp)
        .or(Some(job.version.commit.captured));
    let rpo_ms = fenced
        .zip(as_of)
        .map(|(fenced, as_of)| fenced.millis().saturating_sub(as_of.millis()));
    let doubt = came.doubt.clone().or_else(|| job.short.clone());
    let verdict = if doubt.is_none() {
        Verdict::Intact
    } else {
        Verdict::Doubtful
    };
    let measured = Measured {
        registry: job.registry,
        version: job.version.commit.version,
        timeline: came.timeline,
        lsn: came.lsn,
        rpo_ms,
        rto_ms,
        probes: Probes {
            passed: came.passed,
            asked: came.asked,
        },
        verdict,
    };
    seat.report(&setting.order.order, measured)?;
    tell(
        job,
        &came,
        &sources,
        as_of,
        rpo_ms,
        rto_ms,
        doubt.as_deref(),
        ctx,
    );
    let live = Live {
        name: job.name.clone(),
        server: came.server,
    };
    setting
        .live
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(live);
    Ok(())
}

fn attempt(
    seat: &Seat,
    keep: &Keep,
    job: &Job,
    port: Option<u16>,
    setting: &Setting,
    ctx: &Ctx,
) -> Result<(Came, Vec<Source>), Failure> {
    let order = &setting.order.order;
    let dir = setting.volume.join(file_name(&job.name));
    let grant = setting.order.grant;
    let serve_at = |data: &Path| {
        let mut serve = Serve::beside(data, port.unwrap_or_default(), setting.run_as.clone());
        // Nobody writes, or reads, before it has been found fit to serve.
        serve.tcp_auth = TcpAuth::Reject;
        serve.read_only = grant != Mode::ReadWrite;
        if grant != Mode::Verify {
            LISTEN.clone_into(&mut serve.listen);
        }
        serve
    };
    let watch = ctx.watch(&job.name, "bytes");
    let sources = start::restore(job, keep, &dir, Target::EndOfWal, &serve_at, &watch)?;
    watch.finish();
    step(seat, order, job.registry, StepKind::Restored, None)?;

    let mut came = Came {
        server: None,
        timeline: None,
        lsn: None,
        last_commit: None,
        // A tree is asked one thing: whether everything in it could be given back as it was.
        passed: 0,
        asked: 0,
        doubt: None,
        port: None,
    };
    for source in &sources {
        let Some((plan, serve)) = &source.database else {
            came.asked += 1;
            came.passed += u32::from(source.left_out == 0);
            if source.left_out > 0 {
                came.doubt = Some(format!(
                    "{} entries could not be given back as they were",
                    source.left_out
                ));
            }
            if let Some(path) = &source.sqlite {
                let answered = sqlite::ask(path, source)?;
                if let Some(why) = answered.unfit {
                    return Err(Failure::failed(format!("it must not serve: {why}"))
                        .hint("order an older version"));
                }
                came.passed += answered.passed;
                came.asked += answered.asked;
            }
            continue;
        };
        let watch = ctx.watch(&format!("{} replay", job.name), "bytes");
        let server = start::start(&source.path, plan, serve, &watch)?;
        watch.finish();
        step(seat, order, job.registry, StepKind::Started, None)?;
        let answered = start::ask(&server, plan, source.probe.as_ref())?;
        for note in source.notes.iter().chain(&answered.reset) {
            ctx.out.note(format!("{}: {note}", job.name));
        }
        step(
            seat,
            order,
            job.registry,
            StepKind::Replayed,
            Some(answered.replayed.lsn),
        )?;
        if let Some(why) = answered.unfit {
            let log = server.log().display().to_string();
            server.stop_unless(&|| ctx.stop.is_hasty())?;
            return Err(Failure::failed(format!("it must not serve: {why}"))
                .hint(format!("read {log}, or order an older version")));
        }
        came.passed += answered.passed;
        came.asked += answered.asked;
        came.doubt = came.doubt.or(answered.failed).or(source.short.clone());
        (came.timeline, came.lsn) = (
            Some(answered.replayed.timeline),
            Some(answered.replayed.lsn),
        );
        came.last_commit = answered.replayed.last_commit;
        (came.server, came.port) = (Some(server), Some(serve.port));
    }
    step(seat, order, job.registry, StepKind::Probed, came.lsn)?;
    let serving = match grant {
        Mode::ReadWrite => Some(StepKind::ServingReadWrite),
        Mode::Verify => None,
        _ => Some(StepKind::ServingReadOnly),
    };
    if let Some(serving) = serving {
        if let Some(server) = &came.server {
            server.admit(TcpAuth::Scram)?;
        }
        step(seat, order, job.registry, serving, came.lsn)?;
    }
    Ok((came, sources))
}

#[expect(
    clippy::too_many_arguments,
    reason = "one line says everything that was measured"
)]
fn tell(
    job: &Job,
    came: &Came,
    sources: &[Source],
    as_of: Option<Time>,
    rpo_ms: Option<u64>,
    rto_ms: u64,
    doubt: Option<&str>,
    ctx: &Ctx,
) {
    let path = sources.first().map(|source| source.path.as_path());
    let version = job.version.commit.version;
    let bytes = job.sealed_bytes();
    let mut what = vec![format!("{} MiB checked", bytes.div_ceil(1 << 20))];
    if let Some(lsn) = came.lsn {
        what.push(format!("replayed to {lsn}"));
    }
    if let Some(timeline) = came.timeline {
        what.push(format!("timeline {timeline}"));
    }
    what.push(format!("{} of {} probes", came.passed, came.asked));
    match (came.port, path) {
        (Some(port), _) => what.push(format!("port {port}")),
        (None, Some(path)) => what.push(format!("at {}", path.display())),
        _ => {}
    }
    if let Some(doubt) = doubt {
        what.push(doubt.to_owned());
    }
    ctx.out.fact(
        "serving",
        &serde_json::json!({
            "registry": job.name, "id": job.registry, "version": version, "bytes": bytes,
            "entries": sources.iter().map(|source| source.entries).sum::<u64>(),
            "restored_bytes": sources.iter().map(|source| source.bytes).sum::<u64>(),
            "lsn": came.lsn, "timeline": came.timeline.map(|timeline| timeline.0),
            "probes": format!("{} of {}", came.passed, came.asked), "host": came.port.map(|_| LISTEN), "port": came.port,
            "path": path, "as_of": as_of.map(|time| time.to_string()), "rpo_ms": rpo_ms, "rto_ms": rto_ms, "doubt": doubt,
        }),
        format!(
            "{:<12} {:<4} {}   serving {:.1} s",
            job.name,
            version.to_string(),
            what.join(", "),
            rto_ms as f64 / 1000.0
        ),
    );
}

/// A name that is safe below the volume, whatever the officers called it.
fn file_name(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// PostgreSQL's `2026-11-22 09:41:07.104+00`.
fn timestamp(text: &str) -> Option<Time> {
    let stamp: jiff::Timestamp = text.parse().ok()?;
    Time::from_millis(u64::try_from(stamp.as_millisecond()).ok()?)
}

fn millis(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
