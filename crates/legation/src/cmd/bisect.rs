//! `legation bisect`: which version was the last good one. Every version carries what it and those before it answered,
//! so one read of the newest tells; then the last good and the first bad are started and asked again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use legation_core::id::VersionNo;
use legation_core::measure::{MAX_OLD_ANSWER, Outcome, Position, Record, plain};
use legation_registry::postgres::ask::{Question, ask};
use legation_registry::postgres::{RunAs, Serve, Server, Target};

use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::recover::grant::{self, Asked};
use crate::recover::keep::Keep;
use crate::recover::sealed::Sealed;
use crate::recover::start::{self, Job};

/// Servers are reached by their socket; the number is part of its name.
const PORT: u16 = 5432;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation bisect treasury --invariant balance --order grant.txt --sealed-only\n  legation bisect treasury --invariant balance --order grant.txt --order older.txt --scratch /srv/scratch"
)]
pub struct Args {
    /// The registry
    name: String,
    /// By this invariant; without it a version is good that nothing was flagged in
    #[arg(long, value_name = "NAME")]
    invariant: Option<String>,
    /// The answer that makes a version good, where the invariant itself expects none
    #[arg(long, value_name = "ANSWER", requires = "invariant")]
    expect: Option<String>,
    /// The grant that opens the newest version, and others that open what is to be proven
    #[arg(long, value_name = "FILE")]
    order: Vec<PathBuf>,
    /// Believe the answers that were sealed; start nothing
    #[arg(long)]
    sealed_only: bool,
    /// Where versions are started to be asked again; emptied afterwards
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Say what would be done; open and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Who shall run the database, when this runs as root
    #[arg(long, value_name = "USER", default_value = "postgres")]
    run_as: String,
}

/// A version that a grant opens.
struct Held {
    job: Job,
    keep: Keep,
    sealed: Sealed,
}

/// Runs the verb.
///
/// # Errors
/// Code 1 when no version that is known is good; 2 for an invariant that there is not; 4 when a started version answers
/// otherwise than was sealed; 8 without a grant, or when what is to be proven is opened by none; 12 for a wrong key.
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let desk = Desk::open(ctx)?;
    if args.dry_run {
        return plan(args, &desk, ctx);
    }
    if args.order.is_empty() {
        grant::open(&desk, asked(args, None))?;
    }
    let proves = args.invariant.is_some() && !args.sealed_only;
    if proves && args.scratch.is_none() {
        return Err(Failure::usage("where are versions to be started?")
            .hint("give --scratch DIR, on a disk that may hold them in clear; or --sealed-only"));
    }
    let mut held = Vec::new();
    for order in &args.order {
        let (job, keep) = grant::open(&desk, asked(args, Some(order)))?;
        let sealed = Sealed::of(job.open(&keep)?.root());
        for why in &sealed.malformed {
            ctx.out
                .note(format!("{}: {why}", job.version.commit.version));
        }
        held.push(Held { job, keep, sealed });
    }
    held.sort_by_key(|one| std::cmp::Reverse(one.job.version.commit.version));
    let records = records(&held);
    let question = question(args, &held)?;
    let judged: Vec<(&Record, Option<bool>)> = records
        .values()
        .map(|record| (record, judge(record, question.as_ref())))
        .collect();
    for (record, good) in &judged {
        tell(record, *good, question.as_ref(), ctx);
    }
    let Some((good, bad)) = turn(&judged) else {
        return none_good(args, &judged);
    };
    let Some(bad) = bad else {
        ctx.out.fact(
            "bisected",
            &serde_json::json!({ "registry": args.name, "good": good.version, "bad": null, "proven": false }),
            format!("{} is good, and none after it is bad", good.version),
        );
        return Ok(());
    };
    let proof = match (&question, proves) {
        (Some(question), true) => prove(args, &held, question, good, bad, ctx),
        _ => Ok(()),
    };
    let proven = proves && proof.is_ok();
    ctx.out.fact(
        "bisected",
        &serde_json::json!({
            "registry": args.name, "good": good.version, "good_captured": good.captured, "good_at": good.at.map(|at| at.to_string()),
            "bad": bad.version, "bad_captured": bad.captured, "bad_at": bad.at.map(|at| at.to_string()), "proven": proven,
        }),
        format!(
            "the last good version is {}, captured {}; the first bad one is {}, captured {}; {}",
            good.version,
            when(good.captured),
            bad.version,
            when(bad.captured),
            if proven { "both were started and asked again" } else { "by the answers that were sealed" }
        ),
    );
    proof
}

fn asked<'a>(args: &'a Args, order: Option<&'a Path>) -> Asked<'a> {
    Asked {
        name: &args.name,
        version: "latest",
        order,
    }
}

/// Every record that is known, by version: that of the version itself before what a later one carries of it.
fn records(held: &[Held]) -> BTreeMap<VersionNo, Record> {
    let mut all = BTreeMap::new();
    for one in held {
        for record in &one.sealed.history {
            all.entry(record.version).or_insert_with(|| record.clone());
        }
    }
    for record in held.iter().filter_map(|one| one.sealed.record.as_ref()) {
        all.insert(record.version, record.clone());
    }
    all
}

/// The invariant that decides, with the answer that is good.
fn question(args: &Args, held: &[Held]) -> Result<Option<Question>, Failure> {
    let Some(name) = &args.invariant else {
        return Ok(None);
    };
    let known = || held.iter().flat_map(|one| &one.sealed.questions);
    let mut question = known()
        .find(|one| one.name == *name)
        .cloned()
        .ok_or_else(|| {
            let mut names: Vec<_> = known().map(|one| one.name.as_str()).collect();
            names.dedup();
            Failure::usage(format!("{} has no invariant {name:?}", args.name)).hint(
                if names.is_empty() {
                    "it was sealed without any: [registry.start] invariant in agent.toml".to_owned()
                } else {
                    format!("known are: {}", names.join(", "))
                },
            )
        })?;
    if let (Some(own), Some(_)) = (&question.expect, &args.expect) {
        return Err(Failure::usage(format!(
            "{name:?} expects {own:?} by itself; --expect is for those that expect nothing"
        )));
    }
    question.expect = args.expect.clone().or(question.expect);
    if question.expect.is_none() {
        return Err(
            Failure::usage(format!("{name:?} expects no answer: which one is good?")).hint(
                "give it with --expect; the answers are listed by --sealed-only --expect ANY",
            ),
        );
    }
    Ok(Some(question))
}

/// Whether a version was good; `None` when its record does not say.
fn judge(record: &Record, question: Option<&Question>) -> Option<bool> {
    let Some(question) = question else {
        return Some(record.flags.is_empty());
    };
    let expect = question.expect.as_deref().unwrap_or_default();
    Some(match record.answer(&question.name)? {
        Outcome::Holds => true,
        Outcome::Broken(_) | Outcome::Error(_) => false,
        Outcome::Is(answer) => answer == expect || *answer == plain(expect, MAX_OLD_ANSWER),
    })
}

/// The newest good version, and the first bad one after it.
fn turn<'a>(judged: &[(&'a Record, Option<bool>)]) -> Option<(&'a Record, Option<&'a Record>)> {
    let good = judged.iter().rposition(|(_, good)| *good == Some(true))?;
    let bad = judged[good..].iter().find(|(_, good)| *good == Some(false));
    Some((judged[good].0, bad.map(|(record, _)| *record)))
}

fn none_good(args: &Args, judged: &[(&Record, Option<bool>)]) -> Result<(), Failure> {
    let oldest = judged.first().map(|(record, _)| record.version.to_string());
    let failure = Failure::failed(match &oldest {
        Some(oldest) => format!(
            "none of the {} versions that are known is good; the oldest is {oldest}",
            judged.len()
        ),
        None => format!("nothing is sealed of what {} measured", args.name),
    });
    Err(match oldest {
        Some(oldest) => failure.hint(format!(
            "older answers lie in older versions: legation order new grant {} --version {oldest} --grant read --out older.txt",
            args.name
        )),
        None => failure.hint("versions from before there were records say nothing"),
    })
}

fn tell(record: &Record, good: Option<bool>, question: Option<&Question>, ctx: &Ctx) {
    let flags: Vec<_> = record.flags.iter().map(ToString::to_string).collect();
    let answer = question
        .and_then(|one| record.answer(&one.name))
        .map(ToString::to_string);
    let word = match good {
        Some(true) => "good",
        Some(false) => "BAD",
        None => "unknown",
    };
    ctx.out.fact(
        "judged",
        &serde_json::json!({
            "version": record.version, "captured": record.captured, "good": good, "answer": answer, "flags": flags,
            "entries": record.entries, "bytes": record.bytes, "changed": record.changed, "ratio": record.ratio,
            "rows": record.rows, "at": record.at.map(|at| at.to_string()),
        }),
        format!(
            "{:<6} {}  {word:<8}{}{}",
            record.version.to_string(),
            when(record.captured),
            answer.unwrap_or_default(),
            if flags.is_empty() { String::new() } else { format!("  flagged: {}", flags.join(", ")) }
        ),
    );
}

fn when(ms: u64) -> String {
    legation_core::statement::Time::from_millis(ms)
        .map_or_else(|| "?".to_owned(), |time| time.to_string())
}

/// Starts the last good and the first bad version and asks them again.
fn prove(
    args: &Args,
    held: &[Held],
    question: &Question,
    good: &Record,
    bad: &Record,
    ctx: &Ctx,
) -> Result<(), Failure> {
    let scratch = args.scratch.as_deref().unwrap_or(Path::new("."));
    let run_as = if rustix::process::geteuid().is_root() {
        Some(RunAs::named(&args.run_as)?)
    } else {
        None
    };
    for (record, wanted) in [(good, true), (bad, false)] {
        let version = record.version;
        let (one, target) = opens(held, record).ok_or_else(|| {
            Failure::new(Code::Refused, format!("{version} is not proven: no grant given opens the log up to where it answered"))
                .hint(format!(
                    "legation order new grant {} --version {version} --target end-of-wal --grant read --out {version}.txt; give it as one more \
                     --order, or be content with --sealed-only",
                    args.name
                ))
        })?;
        let outcome = again(one, target, question, scratch, run_as.clone(), ctx)?;
        let holds = outcome == Outcome::Holds;
        ctx.out.fact(
            "asked-again",
            &serde_json::json!({
                "version": version, "at": target.to_string(), "from": one.job.version.commit.version, "answer": outcome.to_string(),
                "as_sealed": holds == wanted,
            }),
            format!("{version} started from {} at {target}: {outcome}", one.job.version.commit.version),
        );
        if holds != wanted {
            let exact = record.at.is_some_and(|at| at.exact);
            return Err(Failure::new(
                Code::VerificationFailed,
                format!(
                    "{version} answers otherwise than was sealed{}",
                    if exact {
                        ""
                    } else {
                        "; the sealed answer was given while others wrote, and lies a little apart"
                    }
                ),
            )
            .hint("home sealed that answer; believe what was started"));
        }
    }
    Ok(())
}

/// A held version from which the log reaches the place where the record's answers were given: the nearest.
fn opens<'a>(held: &'a [Held], record: &Record) -> Option<(&'a Held, legation_core::id::Lsn)> {
    let Position { after: at, .. } = record.at?;
    held.iter().find_map(|one| {
        let facts = one.sealed.facts.clone()?;
        let reached = one.job.version.commit.version <= record.version
            && one.job.plan(facts, Target::Lsn(at)).is_ok();
        reached.then_some((one, at))
    })
}

/// Restores a version up to a position, starts it shut off, and asks.
fn again(
    one: &Held,
    at: legation_core::id::Lsn,
    question: &Question,
    scratch: &Path,
    run_as: Option<RunAs>,
    ctx: &Ctx,
) -> Result<Outcome, Failure> {
    std::fs::create_dir_all(scratch)
        .map_err(|why| Failure::failed(format!("{}: {why}", scratch.display())))?;
    let dir = tempfile::Builder::new()
        .prefix("bisect-")
        .tempdir_in(scratch)
        .map_err(|why| Failure::failed(format!("{}: {why}", scratch.display())))?;
    if let Some(user) = &run_as {
        std::os::unix::fs::chown(dir.path(), Some(user.uid), Some(user.gid))?;
    }
    let serve = |path: &Path| {
        let mut serve = Serve::beside(path, PORT, run_as.clone());
        serve.read_only = true;
        serve.fsync = false;
        serve
    };
    let watch = ctx.watch(&one.job.name, "bytes");
    let sources = start::restore(
        &one.job,
        &one.keep,
        &dir.path().join("data"),
        Target::Lsn(at),
        &serve,
        &watch,
    )?;
    watch.finish();
    let database = sources
        .iter()
        .find_map(|source| Some((source, source.database.as_ref()?)));
    let (source, (plan, serve)) =
        database.ok_or_else(|| Failure::failed("there is no database in it to ask"))?;
    let watch = ctx.watch(&format!("{} replay", one.job.name), "bytes");
    let server = start::start(&source.path, plan, serve, &watch)?;
    watch.finish();
    let answered = answer(&server, question, ctx);
    let stopped = server.stop_unless(&|| ctx.stop.is_hasty());
    let outcome = answered?;
    stopped?;
    Ok(outcome)
}

fn answer(server: &Server, question: &Question, ctx: &Ctx) -> Result<Outcome, Failure> {
    server.settle()?;
    let asked = ask(server.config(), std::slice::from_ref(question), &|| {
        ctx.stop.is_up()
    })?;
    let first = asked.answers.into_iter().next();
    first
        .map(|one| one.outcome)
        .ok_or_else(|| Failure::failed("it did not answer"))
}

/// What would be done.
fn plan(args: &Args, desk: &Desk, ctx: &Ctx) -> Result<(), Failure> {
    let (job, window) = grant::plan(desk, asked(args, None))?;
    let commit = &job.version.commit;
    let registry = desk.state().registry(job.registry);
    let flagged: Vec<_> = registry.into_iter().flat_map(|one| &one.doubts).filter_map(|(entry, doubt)| {
        doubt.version.map(|version| serde_json::json!({ "version": version, "cause": doubt.cause.to_string(), "entry": entry }))
    }).collect();
    let said: Vec<_> = flagged
        .iter()
        .map(|one| {
            format!(
                "{} {}",
                one["version"].as_str().unwrap_or("?"),
                one["cause"].as_str().unwrap_or("?")
            )
        })
        .collect();
    ctx.out.fact(
        "plan",
        &serde_json::json!({
            "registry": job.name, "reads": commit.version, "flagged": flagged, "reachable": window.map(|(from, to)| [from, to]),
            "starts": args.invariant.is_some() && !args.sealed_only, "scratch": args.scratch,
        }),
        format!(
            "{}: reads what {} and those before it answered, under a grant of {}{}{}",
            job.name,
            commit.version,
            commit.version,
            if said.is_empty() { String::new() } else { format!("\n  the log has flagged: {}", said.join(", ")) },
            if args.invariant.is_some() && !args.sealed_only {
                "\n  then starts the last good and the first bad version and asks them again; a grant of the last good one, with --target end-of-wal, opens both"
            } else {
                ""
            }
        ),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_turn_is_after_the_newest_good_version() {
        let records: Vec<Record> = (1..=6)
            .map(|n| Record {
                version: VersionNo(n),
                ..Record::default()
            })
            .collect();
        // What each was, the last good one, the first bad one after it.
        let cases: [(&str, Option<(u32, Option<u32>)>); 7] = [
            ("gggbbb", Some((3, Some(4)))),
            ("gbgbbb", Some((3, Some(4)))),
            ("gggggg", Some((6, None))),
            ("bbbbbb", None),
            ("gg??bb", Some((2, Some(5)))),
            ("bbbbbg", Some((6, None))),
            ("??????", None),
        ];
        for (what, expect) in cases {
            let judged: Vec<_> = records
                .iter()
                .zip(what.chars())
                .map(|(record, word)| (record, (word != '?').then_some(word == 'g')))
                .collect();
            let found =
                turn(&judged).map(|(good, bad)| (good.version.0, bad.map(|bad| bad.version.0)));
            assert_eq!(found, expect, "{what}");
        }
    }

    #[test]
    fn an_answer_of_long_ago_is_compared_as_it_was_cut() {
        let long = "x".repeat(60);
        let question = Question {
            name: "sum".into(),
            sql: String::new(),
            expect: Some(long.clone()),
            within: std::time::Duration::ZERO,
        };
        let record = |outcome| Record {
            answers: vec![legation_core::measure::Answer {
                name: "sum".into(),
                outcome,
            }],
            ..Record::default()
        };
        assert_eq!(
            judge(&record(Outcome::Is(long.clone())), Some(&question)),
            Some(true)
        );
        assert_eq!(
            judge(&record(Outcome::Is(long[..40].into())), Some(&question)),
            Some(true)
        );
        assert_eq!(
            judge(&record(Outcome::Is("y".into())), Some(&question)),
            Some(false)
        );
        assert_eq!(judge(&Record::default(), Some(&question)), None);
        assert_eq!(judge(&Record::default(), None), Some(true));
    }
}
