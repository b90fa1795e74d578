//! `legation verify`: every stored byte, without keys.

use std::path::PathBuf;

use legation_repo::check::{self, Report};
use legation_repo::state::StateDir;

use crate::ctx::Ctx;
use crate::exit::{Code, Failure};

/// More threads read no faster from one disk.
const THREADS: usize = 4;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  legation verify --store /srv/legation")]
pub struct Args {
    /// The directory of a store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// Damage (4), each with its place; no store there (10).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let store =
        "--store takes the directory that [store] path names in embassy.toml, or a copy of it";
    let states = StateDir::states(&args.store)
        .map_err(Failure::from)
        .map_err(|failure| match failure.code {
            Code::NoEmbassy => failure.hint(store),
            _ => failure,
        })?;
    if states.is_empty() {
        return Err(Failure::new(
            Code::NoEmbassy,
            format!("{} holds no state", args.store.display()),
        )
        .hint(store));
    }
    let threads = std::thread::available_parallelism()
        .map_or(1, std::num::NonZero::get)
        .min(THREADS);
    let watch = ctx.watch("verify", "bytes");
    watch.total(states.iter().try_fold(0, |sum, state| {
        Ok::<_, Failure>(sum + check::bytes_of(&args.store, state)?)
    })?);
    let mut before = 0;
    let mut damaged = 0;
    let mut first = None;
    for state in states {
        let report = check::check(&args.store, &state, threads, &|done| {
            watch.set(before + done.bytes);
            !watch.is_stopped()
        })?;
        before += report.bytes;
        damaged += report.findings.len() as u64 + report.more;
        first = first.or_else(|| report.findings.first().map(ToString::to_string));
        tell(&state.to_string(), &report, ctx);
        if report.interrupted {
            break;
        }
    }
    watch.finish();
    match first {
        None => watch.go_on(),
        Some(first) => Err(Failure::new(
            Code::VerificationFailed,
            format!("{damaged} damaged: {first}"),
        )
        .hint("fetch what is damaged from another copy; nothing damaged is ever used")),
    }
}

fn tell(state: &str, report: &Report, ctx: &Ctx) {
    for finding in &report.findings {
        ctx.out.fact(
            "damage",
            &serde_json::json!({
                "kind": finding.kind, "name": finding.name, "why": finding.why,
                "start": finding.range.as_ref().map(|range| range.start), "end": finding.range.as_ref().map(|range| range.end),
            }),
            finding,
        );
    }
    let damaged = report.findings.len() as u64 + report.more;
    let verdict = if report.interrupted {
        format!("interrupted, {damaged} damaged until then")
    } else if damaged == 0 {
        "every byte as it was stored".to_owned()
    } else {
        format!("{damaged} damaged")
    };
    ctx.out.fact(
        "verified",
        &serde_json::json!({
            "state": state, "objects": report.objects, "bytes": report.bytes, "journals": report.journals,
            "frames": report.frames, "entries": report.entries, "attachments": report.attachments,
            "releases": report.releases, "evidence": report.evidence,
            "log_size": report.log.as_ref().map(|head| head.size), "damaged": damaged, "interrupted": report.interrupted,
        }),
        format!(
            "{state}: {} objects, {} journals of {} frames, {} log entries, {} attachments, {} releases, {} pieces of evidence, {} MiB read; {verdict}",
            report.objects,
            report.journals,
            report.frames,
            report.entries,
            report.attachments,
            report.releases,
            report.evidence,
            report.bytes.div_ceil(1 << 20)
        ),
    );
}
