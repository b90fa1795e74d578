//! A point in time, before anything is written: the WAL of a version is opened and decoded, and the target becomes the
//! position at which replay ends. What decides is `postgres::point`; here it is given what it decides on.

use legation_core::id::Lsn;
use legation_core::order::CLOCK_MARGIN;
use legation_core::policy::RegistryState;
use legation_core::statement::Target;
use legation_registry::postgres::Facts;
use legation_registry::postgres::point::{
    Decision, Goal, Known, Past, PgTime, Point, Refused, Search, Why,
};
use legation_registry::postgres::record::{Decoder, Event, Outcome, Prepared, Source};

use super::keep::Keep;
use super::scope::Held;
use super::start::{Job, POSTGRES};
use crate::exit::{Code, Failure};
use crate::watch::Watch;

/// So many prepared transactions are named; whoever needs the others asks the server.
const NAMED: usize = 20;

/// The point that an order names, as a restore's: what stands exactly there belongs to it.
pub fn goal(target: Option<Target>) -> Option<Goal> {
    let point = match target? {
        Target::EndOfWal => return None,
        Target::Lsn(lsn) => Point::Lsn(lsn),
        Target::Time(time) => Point::Time(PgTime::of_millis(time.millis())?),
    };
    Some(Goal {
        point,
        inclusive: true,
    })
}

/// Up to when everything that was committed is in these streams, as far as the log tells: up to the registry's newest mark
/// if they hold it. Where the log goes on in an epoch that stays shut, clearly before that was begun, for what is in it was
/// committed by another clock.
pub fn protected(registry: &RegistryState, streams: &[Held]) -> Option<PgTime> {
    let last = streams.last()?;
    let held = |stream| streams.iter().any(|one| one.stream == stream);
    if let Some(mark) = registry.mark.as_ref().filter(|mark| held(mark.mark.stream)) {
        return PgTime::of_millis(mark.at().millis());
    }
    let closed = registry.epoch(last.epoch)?.closed?;
    PgTime::of_millis(closed.at.millis().checked_sub(CLOCK_MARGIN)?)
}

/// A point that no version leads to, as far as the log tells, with what is kept.
pub fn outside(registry: &RegistryState, name: &str, target: Target) -> Failure {
    let with_log = |v: &&legation_core::policy::VersionState| v.commit.wal.is_some();
    let first = registry.versions.iter().find(with_log);
    let Some((first, wal)) = first.and_then(|v| Some((&v.commit, v.commit.wal.as_ref()?))) else {
        return Failure::failed(format!(
            "{name} has no version with a log that leads to {target}"
        ))
        .hint(format!("legation versions {name} lists what there is"));
    };
    let to = registry.mark.as_ref().map_or_else(
        || format!("{} ({})", wal.stop, first.captured),
        |held| format!("{} ({})", held.mark.lsn, held.at()),
    );
    Failure::failed(format!(
        "{target} cannot be reached: {name} reaches from {} ({}) to {to}",
        wal.stop, first.captured
    ))
    .hint("for the state as last acknowledged leave the target out")
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// Where replay ends.
    pub decision: Decision,
    /// What was met on the way, in words.
    pub notes: Vec<String>,
}

/// The facts of the one database of a version.
///
/// # Errors
/// When it has none, or several: then a point in time is not that of one log.
pub fn facts(job: &Job, keep: &Keep) -> Result<Facts, Failure> {
    let reader = job.open(keep)?;
    let mut sources = reader.root().sources.iter();
    let mut databases = sources.by_ref().filter(|source| source.kind == POSTGRES);
    match (databases.next(), databases.next()) {
        (Some(one), None) => Ok(Facts::from_meta(&one.meta)?),
        (None, _) => Err(Failure::usage(format!(
            "{} has no WAL; a point in time means nothing to it",
            job.name
        ))
        .hint("leave the target out, or name a version")),
        _ => Err(Failure::failed(format!(
            "{} has several databases, and one log leads to a point of one",
            job.name
        ))),
    }
}

/// Decides where replay ends. Nothing is written.
///
/// # Errors
/// A target that cannot be reached (1), or that lies past what the order opens (8), each with what can be reached; damage
/// (4); code 130 when it was broken off.
pub fn find(job: &Job, keep: &Keep, goal: &Goal, watch: &Watch) -> Result<Found, Failure> {
    job.readable()?;
    let facts = facts(job, keep)?;
    job.plan(facts.clone(), legation_registry::postgres::Target::EndOfWal)?;
    watch.total(job.wal_bytes());
    let known = Known {
        consistent: facts.stop,
        protected: job.protected,
    };
    let mut search = Search::new(goal, known);
    // What the order opens goes up to its own point; a person may stop earlier.
    let limit = job.limit.as_ref().filter(|limit| *limit != goal);
    let mut bound = limit.map(|limit| Search::new(limit, known));
    let mut bounded = false;
    let mut events = Events::new(job, keep, &facts, watch)?;
    while let Some(event) = events.next()? {
        if let Some(bound) = &mut bound {
            bound.see(&event);
            if bound.stop().is_some_and(|stop| stop < event.end) {
                bounded = true;
                break;
            }
        }
        search.see(&event);
        if search.is_done() {
            break;
        }
    }
    if bounded {
        search.covers(limit.and_then(|limit| match limit.point {
            Point::Time(time) => Some(time),
            _ => None,
        }));
    }
    let notes = events.notes;
    search.finish().map_or_else(
        |why| {
            if let (true, Some(limit), false) =
                (bounded, limit, why.refused == Refused::TooEarly)
            {
                return Err(Failure::new(
                    Code::Refused,
                    format!("{}: {why}; the order opens it up to {limit}", job.name),
                )
                .hint(format!(
                    "write a grant for that point: legation order new grant {} --target-time TIME --out grant.txt",
                    job.name
                )));
            }
            let mut message = format!("{}: {why}", job.name);
            for note in &notes {
                message = format!("{message}; {note}");
            }
            Err(Failure::failed(message).hint(hint(&why.refused, &job.name, why.fix())))
        },
        |decision| Ok(Found { decision, notes: notes.clone() }),
    )
}

fn hint(refused: &Refused, name: &str, fix: &str) -> String {
    match refused {
        Refused::TooEarly => format!(
            "{fix}: legation order new grant {name} --target-time TIME --out grant.txt picks one that lies before it"
        ),
        _ => fix.to_owned(),
    }
}

/// The events of a job's WAL, opened and decoded as they are needed.
struct Events<'a> {
    wal: super::journal::Wal<'a>,
    tee: Tee,
    watch: &'a Watch,
    notes: Vec<String>,
    done: bool,
}

impl<'a> Events<'a> {
    fn new(job: &'a Job, keep: &'a Keep, facts: &Facts, watch: &'a Watch) -> Result<Self, Failure> {
        Ok(Events {
            wal: job.wal(keep, facts.segment_start(facts.start)),
            tee: Tee::new(facts)?,
            watch,
            notes: Vec::new(),
            done: false,
        })
    }

    fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            match self.tee.poll() {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) if self.done => return Ok(None),
                Ok(None) => {}
                Err(why) => {
                    // PostgreSQL would end its replay there too.
                    if !self.done {
                        self.notes
                            .push(format!("replay ends at {}: {why}", self.tee.decoder.end()));
                    }
                    self.done = true;
                    return Ok(None);
                }
            }
            self.watch.go_on()?;
            match self.wal.next() {
                Some(Ok(piece)) => {
                    self.watch.add(piece.bytes.len() as u64);
                    self.tee.push(piece.start, &piece.bytes);
                }
                Some(Err(why)) => {
                    let failure = self.wal.failure();
                    return Err(failure.unwrap_or_else(|| Failure::failed(why)));
                }
                None => {
                    if let Some(early) = self.wal.ended_early() {
                        self.notes
                            .push(format!("replay ends at {}: {}", early.at, early.why));
                    }
                    self.done = true;
                }
            }
        }
    }
}

/// Decodes WAL on its way to somewhere else.
#[derive(Debug)]
struct Tee {
    decoder: Decoder,
    broken: Option<String>,
}

impl Tee {
    fn new(facts: &Facts) -> Result<Self, Failure> {
        let source = Source {
            system_id: facts.system_id,
            major: facts.major,
            segment_size: facts.wal_segment_size,
        };
        let decoder = Decoder::new(source, facts.start).map_err(Failure::failed)?;
        Ok(Tee {
            decoder,
            broken: None,
        })
    }

    fn push(&mut self, start: Lsn, bytes: &[u8]) {
        if let Err(why) = self.decoder.push(start, bytes) {
            self.broken.get_or_insert(why.to_string());
        }
    }

    fn poll(&mut self) -> Result<Option<Event>, String> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        match self.decoder.poll() {
            Ok(Some(record)) => record.event().map(Some).map_err(|why| why.to_string()),
            Ok(None) => Ok(None),
            Err(why) => Err(why.to_string()),
        }
    }
}

/// What is replayed up to a position, noted while the WAL is written: nobody starts the database to ask it.
#[derive(Debug)]
pub struct Survey {
    tee: Option<Tee>,
    past: Past,
    until: Lsn,
}

impl Survey {
    /// Of the WAL of a base with these facts, up to `until`.
    pub fn new(facts: &Facts, until: Lsn) -> Self {
        Survey {
            tee: Tee::new(facts).ok(),
            past: Past::default(),
            until,
        }
    }

    /// Notes the next piece.
    pub fn push(&mut self, start: Lsn, bytes: &[u8]) {
        let Some(tee) = &mut self.tee else { return };
        tee.push(start, bytes);
        loop {
            match tee.poll() {
                Ok(Some(event)) if event.end <= self.until => self.past.add(&event),
                Ok(None) => return,
                // Past the end, or no log any more.
                _ => {
                    self.tee = None;
                    return;
                }
            }
        }
    }

    /// The prepared transactions that wait: those of the log, and those whose files lie in `data_dir`.
    pub fn waiting(&self, data_dir: &std::path::Path) -> Vec<Prepared> {
        let files = std::fs::read_dir(data_dir.join("pg_twophase"));
        let files = files.into_iter().flatten().flatten();
        let parse = |path: std::path::PathBuf| {
            use std::io::Read;
            // Their names are at the front.
            let mut head = Vec::new();
            let file = std::fs::File::open(path).ok()?;
            file.take(4096).read_to_end(&mut head).ok()?;
            Prepared::parse(&head)
        };
        self.past
            .waiting(files.filter_map(|file| parse(file.path())).collect())
    }
}

/// How a transaction ended, in words.
fn ending(of: &legation_registry::postgres::record::Ending) -> String {
    let verb = match of.outcome {
        Outcome::Committed => "commit",
        Outcome::Aborted => "abort",
    };
    format!("the {verb} of transaction {} at {}", of.xid, of.time)
}

/// Where replay ends, and after and before what, in words.
pub fn told(decision: &Decision) -> String {
    let mut text = decision.stop.to_string();
    if let Some((_, last)) = &decision.last {
        text.push_str(&format!(", after {}", ending(last)));
    }
    match &decision.why {
        Why::Before(Some(next)) => text.push_str(&format!(", before {}", ending(next))),
        Why::EndOfKept => text.push_str(", the end of what is kept"),
        _ => {}
    }
    text
}

/// The same for programs.
pub fn json(decision: &Decision) -> serde_json::Value {
    let ending = |of: &legation_registry::postgres::record::Ending| {
        serde_json::json!({
            "xid": of.xid, "time": of.time.to_string(), "committed": of.outcome == Outcome::Committed,
        })
    };
    serde_json::json!({
        "stop": decision.stop,
        "last": decision.last.as_ref().map(|(_, last)| ending(last)),
        "next": match &decision.why { Why::Before(Some(next)) => Some(ending(next)), _ => None },
        "end_of_kept": decision.why == Why::EndOfKept,
        "records": decision.records,
        "commits": decision.commits,
    })
}

/// Names of prepared transactions, in words; empty when there are none.
pub fn waiting(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED)].join(", ");
    match (names.len(), names.len().saturating_sub(NAMED)) {
        (0, _) => String::new(),
        (1, _) => format!("1 prepared transaction waits for its end: {shown}"),
        (n, 0) => format!("{n} prepared transactions wait for their end: {shown}"),
        (n, more) => {
            format!("{n} prepared transactions wait for their end: {shown} and {more} more")
        }
    }
}
