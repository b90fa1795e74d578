//! `legation restore`: a version into an empty directory.

use std::path::{Path, PathBuf};

use legation_core::id::Lsn;
use legation_registry::postgres::{RunAs, Serve, Target};

use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::recover::grant::{self, Asked};
use crate::recover::start::{self, Job};

/// The port that a restored database is set up for; whoever starts it may choose another.
const PORT: u16 = 5432;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)]
#[command(
    after_help = "Example:\n  legation restore land v7 --to /srv/pg --order grant.txt --dry-run\n  legation restore land --target-lsn 0/5A1C2E80 --to /srv/pg --order grant.txt"
)]
pub struct Args {
    /// The registry
    name: String,
    /// The version: latest, or one like v7
    #[arg(default_value = "latest")]
    version: String,
    /// A directory that is empty or not there yet
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The grant that opens it
    #[arg(long, value_name = "FILE")]
    order: Option<PathBuf>,
    /// Replay up to this position, not to the end of what is kept
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<Lsn>,
    /// Not supported yet
    #[arg(long, value_name = "TIME", hide = true)]
    target_time: Option<String>,
    /// Not supported yet
    #[arg(long, value_name = "NAME", hide = true)]
    target_name: Option<String>,
    /// Not supported yet
    #[arg(long, value_name = "NAME", hide = true)]
    cut: Option<String>,
    /// Print the plan; open and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Who shall run the database, when this runs as root
    #[arg(long, value_name = "USER", default_value = "postgres")]
    run_as: String,
}

/// Runs the verb.
///
/// # Errors
/// No grant, or one that does not cover it (8); a wrong key (12); damage (4); a directory that is not empty, or a target
/// that cannot be reached (1).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    for (what, given) in [
        ("--target-time", &args.target_time),
        ("--target-name", &args.target_name),
        ("--cut", &args.cut),
    ] {
        if given.is_some() {
            return Err(
                Failure::usage(format!("{what} is not supported by this version"))
                    .hint("use --target-lsn, or a version"),
            );
        }
    }
    empty(&args.to)?;
    let desk = Desk::open(ctx)?;
    let asked = Asked {
        name: &args.name,
        version: &args.version,
        order: args.order.as_deref(),
    };
    let target = args.target_lsn.map_or(Target::EndOfWal, Target::Lsn);
    if args.dry_run {
        return plan(&desk, asked, args, ctx);
    }
    let (job, keep) = grant::open(&desk, asked)?;
    has_wal(args, &job)?;
    // Only a database is run by somebody; the machine of a tree needs no such account.
    let is_database = job.version.commit.wal.is_some();
    let run_as = if is_database && rustix::process::geteuid().is_root() {
        Some(RunAs::named(&args.run_as)?)
    } else {
        None
    };
    let serve = |path: &Path| Serve::beside(path, PORT, run_as.clone());
    let watch = ctx.watch(&job.name, "bytes");
    let restored = start::restore(&job, &keep, &args.to, target, &serve, &watch);
    watch.finish();
    let sources = restored.map_err(|failure| match failure.code {
        Code::Interrupted => failure.hint(format!(
            "what is in {} is not whole; empty it and restore again",
            args.to.display()
        )),
        _ => failure,
    })?;
    for why in job.aside.iter().chain(&job.short) {
        ctx.out.note(format!("{}: {why}", job.name));
    }
    for source in &sources {
        for note in source.short.iter().chain(&source.notes) {
            ctx.out.note(format!("{}: {note}", job.name));
        }
        let until = source.database.as_ref().map(|(plan, _)| plan.until);
        ctx.out.fact(
            "restored",
            &serde_json::json!({
                "registry": job.name, "version": job.version.commit.version, "kind": source.kind, "path": source.path,
                "entries": source.entries, "bytes": source.bytes, "left_out": source.left_out, "incomplete": source.incomplete,
                "until": until,
            }),
            format!(
                "{} {}  {} entries, {} MiB in {}{}{}",
                job.name,
                job.version.commit.version,
                source.entries,
                source.bytes.div_ceil(1 << 20),
                source.path.display(),
                match source.left_out {
                    0 => String::new(),
                    n => format!(", {n} not as they were"),
                },
                until.map_or_else(String::new, |until| format!(
                    "\nready to start, replays to {until}: postgres -D {}",
                    source.path.display()
                ))
            ),
        );
    }
    Ok(())
}

fn plan(desk: &Desk, asked: Asked<'_>, args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let (job, window) = grant::plan(desk, asked)?;
    has_wal(args, &job)?;
    let commit = &job.version.commit;
    let reachable = commit
        .wal
        .as_ref()
        .zip(window)
        .map(|(wal, (_, end))| (wal.stop, end));
    if let (Some(target), Some((from, to))) = (args.target_lsn, reachable)
        && !(from..=to).contains(&target)
    {
        return Err(Failure::failed(format!(
            "{target} cannot be reached: {} reaches from {from} to {to}",
            commit.version
        )));
    }
    let until = args.target_lsn.or(reachable.map(|(_, to)| to));
    let wal_bytes: u64 = job.streams.iter().map(|one| one.bytes).sum();
    ctx.out.fact(
        "plan",
        &serde_json::json!({
            "registry": job.name, "version": commit.version, "packs": commit.packs.count, "bytes": commit.bytes,
            "epochs": commit.epochs.to_string(), "streams": job.streams.len(), "wal_bytes": wal_bytes,
            "reachable": reachable.map(|(from, to)| [from, to]), "until": until, "to": args.to,
        }),
        format!(
            "{} {} of {}\n  packs      {} of {} MiB, epochs {}\n{}  into       {}",
            job.name,
            commit.version,
            commit.captured,
            commit.packs.count,
            commit.bytes.div_ceil(1 << 20),
            commit.epochs,
            reachable.zip(until).map_or_else(String::new, |((from, to), until)| format!(
                "  WAL        {} streams, {} MiB\n  reachable  {from} to {to}\n  replays to {until}\n",
                job.streams.len(),
                wal_bytes.div_ceil(1 << 20)
            )),
            args.to.display()
        ),
    );
    Ok(())
}

/// Refuses a position of what has no WAL to replay: it would be ignored.
fn has_wal(args: &Args, job: &Job) -> Result<(), Failure> {
    match args.target_lsn {
        Some(target) if job.version.commit.wal.is_none() => Err(Failure::usage(format!(
            "{} has no WAL; {target} means nothing to it",
            args.name
        ))
        .hint("leave --target-lsn out, or name a version")),
        _ => Ok(()),
    }
}

/// Refuses a directory with something in it, before anybody is asked for anything.
fn empty(dir: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(Failure::failed(format!("{} is not empty", dir.display()))
            .hint("restore into an empty or new directory")),
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::failed(format!("{}: {why}", dir.display())))
        }
        _ => Ok(()),
    }
}
