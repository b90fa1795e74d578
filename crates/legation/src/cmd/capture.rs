//! `legation capture`: asks the running agent for a version now, and waits until its receipt is verified.

use std::time::{Duration, Instant};

use crate::agent::Layout;
use crate::agent::request::Request;
use crate::agent::status;
use crate::config::agent::{Agent, USUAL};
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};

/// An agent that is started again is away for less than this.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// How often the agent's report is read.
const LOOK: Duration = Duration::from_millis(200);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  legation capture land --full")]
pub struct Args {
    /// The registry's name
    name: String,
    /// Read and seal everything anew
    #[arg(long)]
    full: bool,
    /// Give up waiting after so many seconds
    #[arg(long, default_value_t = 3600)]
    wait: u64,
}

/// What the agent says of the registry.
struct Made {
    /// Versions made since it began.
    versions: u64,
    /// The newest.
    newest: Option<u32>,
    /// What is wrong.
    trouble: Option<String>,
    /// Captures that failed, of a source that counts them.
    failures: Option<u64>,
    /// What of the newest version is not what the source held.
    incomplete: Option<String>,
    /// Bytes that the capture under way has read.
    read: Option<u64>,
    /// Bytes that the one before it read.
    before: Option<u64>,
}

/// Asks, and waits.
///
/// # Errors
/// Code 2 for an unknown registry, 3 when the capture fails or some files of it are not whole, 7 when it takes longer than `--wait`.
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let config = Agent::load(&ctx.config_or(USUAL))?;
    let registry = config
        .registry
        .iter()
        .find(|registry| registry.name == args.name)
        .ok_or_else(|| Failure::usage(format!("no registry {:?} is configured here", args.name)))?;
    let layout = Layout::new(&config.spool.path);
    let made = |name: &str| -> Result<Option<Made>, Failure> {
        let status = status::read(&layout.status())?;
        Ok(status
            .and_then(|mut status| status.registries.remove(name))
            .map(|registry| Made {
                versions: registry.versions_made,
                newest: registry.version,
                trouble: registry.trouble,
                failures: (registry.source != "postgres").then_some(registry.failures),
                incomplete: registry.incomplete,
                read: registry.capturing,
                before: registry.source_bytes,
            }))
    };
    let Some(Made {
        versions: before,
        failures: failed,
        ..
    }) = made(&args.name)?
    else {
        return Err(
            Failure::failed("the agent has never run here").hint("legation agent --config …")
        );
    };
    let dir = layout.registry(&registry.id);
    Request { full: args.full }.ask(&dir)?;
    let until = Instant::now() + Duration::from_secs(args.wait);
    let progress = ctx.out.progress(&args.name, "bytes", None);
    let mut seen = Instant::now();
    while Instant::now() < until {
        if runs(&layout) {
            seen = Instant::now();
        } else if seen.elapsed() > GONE_AFTER {
            return Err(Failure::failed("no agent runs here")
                .hint("start it: legation agent --config …; what was asked for is done then"));
        }
        if ctx.stop.wait(LOOK) {
            return Err(Failure::new(
                Code::Interrupted,
                "interrupted; the agent goes on with the capture",
            ));
        }
        let pending = Request::look(&dir).is_some();
        let now = made(&args.name)?;
        if let Some(Made {
            read: Some(read),
            before,
            ..
        }) = &now
        {
            // The registry is about as large as it was.
            if let Some(before) = before.filter(|before| before >= read) {
                progress.total(before);
            }
            progress.set(*read);
        }
        let Some(now) = now else { continue };
        match (now.versions, now.newest, now.trouble) {
            (after, Some(version), _) if after > before => {
                ctx.out.fact(
                    "captured",
                    &serde_json::json!({ "registry": args.name, "version": version }),
                    format!(
                        "{} v{version}: committed abroad, receipt verified",
                        args.name
                    ),
                );
                return whole(now.incomplete);
            }
            // Not what went wrong before it was asked for.
            (_, _, Some(trouble))
                if pending && (now.failures.is_none() || now.failures > failed) =>
            {
                return Err(Failure::new(Code::SourceIncomplete, trouble));
            }
            (_, Some(version), None) if !pending && !args.full => {
                ctx.out.fact(
                    "unchanged",
                    &serde_json::json!({ "registry": args.name, "version": version }),
                    format!(
                        "{}: nothing changed since v{version}, or it is on its way",
                        args.name
                    ),
                );
                return whole(now.incomplete);
            }
            _ => {}
        }
    }
    Err(Failure::new(
        Code::ObjectiveMissed,
        format!("{} took longer than {} s", args.name, args.wait),
    ))
}

/// Whether an agent holds the spool.
fn runs(layout: &Layout) -> bool {
    use rustix::fs::{FlockOperation, flock};
    // Given back at once, with the file: one that is just starting tries for a while.
    std::fs::File::open(layout.lock())
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// What is kept is told first; what is not is an error, for a version with a hole must not pass for a good one.
fn whole(incomplete: Option<String>) -> Result<(), Failure> {
    match incomplete {
        None => Ok(()),
        Some(what) => Err(Failure::new(Code::SourceIncomplete, what)
            .hint("all else is kept; let these files rest or give the agent's user leave to read them, and capture again")),
    }
}
