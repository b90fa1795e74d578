//! `legation restore`: a version into an empty directory.

use std::path::{Path, PathBuf};

use legation_core::id::Lsn;
use legation_core::statement::Target as OrderTarget;
use legation_registry::postgres::point::{Goal, PgTime, Point};
use legation_registry::postgres::{RunAs, Serve, Target};

use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::officers::orders;
use crate::recover::grant::{self, Asked};
use crate::recover::keep::Keep;
use crate::recover::point::{self, Found};
use crate::recover::start::{self, Job};

/// The port that a restored database is set up for; whoever starts it may choose another.
const PORT: u16 = 5432;
/// `MAXFNAMELEN` without its end: no restore point has a longer name.
const MAX_NAME: usize = 63;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)]
#[command(
    after_help = "Example:\n  legation restore land v7 --to /srv/pg --order grant.txt --dry-run\n  legation restore land --target-time 2026-11-22T09:30:00Z --to /srv/pg --order grant.txt"
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
    #[command(flatten)]
    point: PointArgs,
    /// Whether what stands exactly at the target belongs to it, as PostgreSQL's recovery_target_inclusive (true without
    /// it)
    #[arg(long, value_name = "true|false", requires = "point", action = clap::ArgAction::Set)]
    target_inclusive: Option<bool>,
    /// Not supported yet
    #[arg(long, value_name = "NAME", hide = true)]
    cut: Option<String>,
    /// Print the plan and write nothing; with a target and a grant its log is opened, and the plan says where it stops
    #[arg(long)]
    dry_run: bool,
    /// Who shall run the database, when this runs as root
    #[arg(long, value_name = "USER", default_value = "postgres")]
    run_as: String,
}

/// At most one point in time, each with PostgreSQL's meaning.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "point", multiple = false)]
struct PointArgs {
    /// Up to this moment, by the database's clock: 2026-11-22T09:30:00Z, or as PostgreSQL prints it
    #[arg(long, value_name = "TIME")]
    target_time: Option<PgTime>,
    /// Up to this position
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<Lsn>,
    /// Up to this restore point
    #[arg(long, value_name = "NAME")]
    target_name: Option<String>,
    /// Up to the end of this transaction
    #[arg(long, value_name = "XID")]
    target_xid: Option<u64>,
}

impl Args {
    /// The point that is asked for.
    fn goal(&self) -> Result<Option<Goal>, Failure> {
        let told = &self.point;
        let point = if let Some(time) = told.target_time {
            Point::Time(time)
        } else if let Some(lsn) = told.target_lsn {
            Point::Lsn(lsn)
        } else if let Some(name) = &told.target_name {
            if name.is_empty() || name.len() > MAX_NAME {
                return Err(Failure::usage(format!(
                    "--target-name: a restore point's name has 1 to {MAX_NAME} bytes"
                )));
            }
            Point::Name(name.clone())
        } else if let Some(xid) = told.target_xid {
            // As PostgreSQL does: of a number with its epoch the lower half.
            Point::Xid((xid & u64::from(u32::MAX)) as u32)
        } else {
            return Ok(None);
        };
        Ok(Some(Goal {
            point,
            inclusive: self.target_inclusive.unwrap_or(true),
        }))
    }

    /// The point as the log's own clocks and positions know it: a name or a transaction is known by the sealed log only.
    fn as_ordered(&self) -> Option<OrderTarget> {
        let told = &self.point;
        let time = told.target_time.and_then(|time| {
            let (millis, exact) = time.millis()?;
            legation_core::statement::Time::from_millis(millis + u64::from(!exact))
        });
        time.map(OrderTarget::Time)
            .or(told.target_lsn.map(OrderTarget::Lsn))
    }
}

/// Runs the verb.
///
/// # Errors
/// No grant, or one that does not cover it (8); a wrong key (12); damage (4); a directory that is not empty, or a target
/// that cannot be reached (1).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    if args.cut.is_some() {
        return Err(Failure::usage("--cut is not supported by this version")
            .hint("use --target-time, --target-lsn, --target-name or --target-xid, or a version"));
    }
    let asked_for = args.goal()?;
    empty(&args.to)?;
    let desk = Desk::open(ctx)?;
    let asked = Asked {
        name: &args.name,
        version: &args.version,
        order: args.order.as_deref(),
        target: args.as_ordered(),
    };
    let named = args.order.as_deref().map(orders::load).transpose()?;
    let ordered = named.and_then(|(order, _)| point::goal(order.target));
    let is_opened = args.order.is_some() && (asked_for.is_some() || ordered.is_some());
    if args.dry_run && !is_opened {
        return plan(&desk, asked, asked_for.as_ref(), args, ctx);
    }
    let (job, keep) = grant::open(&desk, asked)?;
    let found = match asked_for.as_ref().or(job.limit.as_ref()) {
        Some(goal) => Some((goal, find(&job, &keep, goal, ctx)?)),
        None => None,
    };
    if let (true, Some((goal, found))) = (args.dry_run, &found) {
        let window = crate::recover::journal::reach(&job.streams);
        return tell(&job, window, Some((goal, Some(found))), args, ctx);
    }
    let target = found.as_ref().map_or(Target::EndOfWal, |(_, found)| {
        Target::Lsn(found.decision.stop)
    });
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
    let decision = found.as_ref().map(|(_, found)| &found.decision);
    for source in &sources {
        for note in source.short.iter().chain(&source.notes) {
            ctx.out.note(format!("{}: {note}", job.name));
        }
        let until = source.database.as_ref().map(|(plan, _)| plan.until);
        let waiting: Vec<_> = source.waiting.iter().map(|one| one.gid.clone()).collect();
        ctx.out.fact(
            "restored",
            &serde_json::json!({
                "registry": job.name, "version": job.version.commit.version, "kind": source.kind, "path": source.path,
                "entries": source.entries, "bytes": source.bytes, "left_out": source.left_out, "incomplete": source.incomplete, "until": until,
                "target": found.as_ref().map(|(goal, _)| goal.to_string()), "decision": decision.map(point::json),
                "prepared": source.waiting.iter().map(prepared).collect::<Vec<_>>(),
            }),
            format!(
                "{} {}  {} entries, {} MiB in {}{}{}{}",
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
                    "\nready to start, replays to {}: postgres -D {}",
                    decision.map_or_else(|| until.to_string(), point::told),
                    source.path.display()
                )),
                match waiting.is_empty() {
                    true => String::new(),
                    false => format!("\n{}", point::waiting(&waiting)),
                }
            ),
        );
    }
    Ok(())
}

fn prepared(one: &legation_registry::postgres::record::Prepared) -> serde_json::Value {
    serde_json::json!({ "gid": one.gid, "xid": one.xid, "time": one.time.to_string() })
}

/// Decides where replay ends, before anything is written.
fn find(job: &Job, keep: &Keep, goal: &Goal, ctx: &Ctx) -> Result<Found, Failure> {
    let watch = ctx.watch(&format!("{} log", job.name), "bytes");
    let found = point::find(job, keep, goal, &watch);
    watch.finish();
    let found = found?;
    for note in &found.notes {
        ctx.out.note(format!("{}: {note}", job.name));
    }
    Ok(found)
}

fn plan(
    desk: &Desk,
    asked: Asked<'_>,
    goal: Option<&Goal>,
    args: &Args,
    ctx: &Ctx,
) -> Result<(), Failure> {
    let (job, window) = grant::plan(desk, asked)?;
    if let (Some(goal), None) = (goal, &job.version.commit.wal) {
        return Err(Failure::usage(format!(
            "{} has no WAL; {goal} means nothing to it",
            args.name
        ))
        .hint("leave the target out, or name a version"));
    }
    let commit = &job.version.commit;
    if let (Some(target), Some(wal), Some((_, to))) = (args.point.target_lsn, &commit.wal, window)
        && !(wal.stop..=to).contains(&target)
    {
        return Err(Failure::failed(format!(
            "{target} cannot be reached: {} reaches from {} to {to}",
            commit.version, wal.stop
        )));
    }
    tell(&job, window, goal.map(|goal| (goal, None)), args, ctx)
}

/// Prints a plan: with what was decided, or as far as it shows without keys.
fn tell(
    job: &Job,
    window: Option<(Lsn, Lsn)>,
    goal: Option<(&Goal, Option<&Found>)>,
    args: &Args,
    ctx: &Ctx,
) -> Result<(), Failure> {
    let commit = &job.version.commit;
    let reachable = commit
        .wal
        .as_ref()
        .zip(window)
        .map(|(wal, (_, end))| (wal.stop, end));
    let found = goal.and_then(|(_, found)| Some(&found?.decision));
    let until = match (goal, found) {
        (_, Some(found)) => Some(found.stop),
        (Some(_), None) => None,
        (None, _) => reachable.map(|(_, to)| to),
    };
    let wal_bytes: u64 = job.streams.iter().map(|one| one.bytes).sum();
    let replayed = found.zip(commit.wal.as_ref()).map(|(found, wal)| {
        let bytes = found.stop.0.saturating_sub(wal.start.0);
        format!(
            "  replays    {} to {}: {} records, {} commits, {} MiB\n",
            wal.start,
            found.stop,
            found.records,
            found.commits,
            bytes.div_ceil(1 << 20)
        )
    });
    let mut lines = String::new();
    if let Some((from, to)) = reachable {
        lines.push_str(&format!(
            "  WAL        {} streams, {} MiB\n  reachable  {from} to {to}\n",
            job.streams.len(),
            wal_bytes.div_ceil(1 << 20)
        ));
    }
    if let Some((goal, _)) = goal {
        lines.push_str(&format!("  target     {goal}\n"));
    }
    match (found, until) {
        (Some(found), _) => lines.push_str(&format!("  stops at   {}\n", point::told(found))),
        (None, Some(until)) => lines.push_str(&format!("  replays to {until}\n")),
        (None, None) if goal.is_some() => {
            lines.push_str("  stops at   decided when a grant opens the log: --order grant.txt\n")
        }
        _ => {}
    }
    lines.extend(replayed);
    let waiting: Vec<_> = found
        .iter()
        .flat_map(|found| found.prepared.iter().map(|one| one.gid.clone()))
        .collect();
    if !waiting.is_empty() {
        lines.push_str(&format!("  prepared   {}\n", point::waiting(&waiting)));
    }
    ctx.out.fact(
        "plan",
        &serde_json::json!({
            "registry": job.name, "version": commit.version, "packs": commit.packs.count, "bytes": commit.bytes,
            "epochs": commit.epochs.to_string(), "streams": job.streams.len(), "wal_bytes": wal_bytes,
            "reachable": reachable.map(|(from, to)| [from, to]), "until": until, "to": args.to,
            "target": goal.map(|(goal, _)| goal.to_string()), "decision": found.map(point::json),
            "prepared": found.map(|found| found.prepared.iter().map(prepared).collect::<Vec<_>>()),
        }),
        format!(
            "{} {} of {}\n  packs      {} of {} MiB, epochs {}\n{lines}  into       {}",
            job.name,
            commit.version,
            commit.captured,
            commit.packs.count,
            commit.bytes.div_ceil(1 << 20),
            commit.epochs,
            args.to.display()
        ),
    );
    Ok(())
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
