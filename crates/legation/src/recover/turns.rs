//! In which order the registries of an activation start: what others need comes first, and what needs something that
//! did not start is not started.
//!
//! The needs are those that home sealed. A circle among them is home's mistake, or its malice: it is told, and those
//! in it start as if they did not need each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use legation_core::catalogue::start_order;
use legation_core::id::RegistryId;
use legation_core::statement::Time;

use super::keep::Keep;
use super::ready::{self, HEADROOM};
use super::sealed::{self, Sealed};
use super::seat::Seat;
use super::serve::{Setting, serve};
use super::start::Job;
use super::volume::Volume;
use crate::ctx::Ctx;
use crate::exit::Failure;

/// One registry, in its place.
#[derive(Debug)]
pub struct Turn {
    job: Job,
    fenced: Option<Time>,
    /// Those of the same activation that must run before it.
    after: BTreeSet<RegistryId>,
}

/// Opens each version, tells what is sealed beside its data and what this machine lacks for it, and puts them in
/// order. Refuses what would not fit, before the first byte of plaintext is written.
///
/// # Errors
/// Code 4 for damage; when there is not room for all.
pub fn turns(
    volume: &Volume,
    keep: &Keep,
    jobs: Vec<(Job, Option<Time>)>,
    ctx: &Ctx,
) -> Result<Vec<Turn>, Failure> {
    let mut need = 0;
    let mut needs = Vec::new();
    for (job, _) in &jobs {
        let reader = job
            .open(keep)
            .map_err(|failure| failure.during(&job.name))?;
        let sources = &reader.root().sources;
        need += sources.iter().map(|source| source.bytes).sum::<u64>();
        need += job.wal_bytes() + HEADROOM;
        let sealed = Sealed::of(reader.root());
        tell(job, &sealed, ctx);
        let wanted = sealed.catalogue.map(|entry| entry.depends_on);
        needs.push((job.registry, wanted.unwrap_or_default()));
    }
    volume.room().fits(need)?;
    let names: BTreeMap<_, _> = jobs
        .iter()
        .map(|(job, _)| (job.registry, job.name.clone()))
        .collect();
    for (one, wanted) in &needs {
        for other in wanted.iter().filter(|other| !names.contains_key(&other.id)) {
            ctx.out.note(format!(
                "{} needs {}, which this order does not start: see that it runs",
                names[one], other.name
            ));
        }
    }
    let mut needs: Vec<(RegistryId, Vec<RegistryId>)> = needs
        .into_iter()
        .map(|(one, wanted)| (one, wanted.into_iter().map(|other| other.id).collect()))
        .collect();
    let order = loop {
        match start_order(&needs) {
            Ok(order) => break order,
            Err(circle) => {
                let circled: Vec<_> = circle.iter().map(|id| names[id].as_str()).collect();
                ctx.out.note(format!(
                    "{} need each other in a circle; they are started without waiting for each other",
                    circled.join(", ")
                ));
                for (one, wanted) in &mut needs {
                    if circle.contains(one) {
                        wanted.retain(|other| !circle.contains(other));
                    }
                }
            }
        }
    };
    let mut after: BTreeMap<_, _> = needs.into_iter().collect();
    let mut jobs: BTreeMap<_, _> = jobs
        .into_iter()
        .map(|(job, at)| (job.registry, (job, at)))
        .collect();
    Ok(order
        .into_iter()
        .filter_map(|id| {
            let (job, fenced) = jobs.remove(&id)?;
            let wanted = after.remove(&id).unwrap_or_default();
            let after = wanted
                .into_iter()
                .filter(|other| names.contains_key(other))
                .collect();
            Some(Turn { job, fenced, after })
        })
        .collect())
}

fn tell(job: &Job, sealed: &Sealed, ctx: &Ctx) {
    for why in &sealed.malformed {
        ctx.out.note(format!(
            "{}: what is sealed beside its data is malformed: {why}",
            job.name
        ));
    }
    if let Some(entry) = &sealed.catalogue {
        let mut value = sealed::json(entry);
        value["registry"] = serde_json::json!(job.name);
        value["id"] = serde_json::json!(job.registry);
        ctx.out.fact(
            "catalogue",
            &value,
            format!("{:<12} {}", job.name, sealed::words(entry)),
        );
    }
    if let Some(record) = sealed
        .record
        .as_ref()
        .filter(|record| !record.flags.is_empty())
    {
        let flags: Vec<_> = record.flags.iter().map(ToString::to_string).collect();
        ctx.out.note(format!(
            "{}: {} is flagged: {}",
            job.name,
            record.version,
            flags.join(", ")
        ));
    }
    for (what, fix) in sealed.missing_here() {
        ctx.out.note(format!("{}: {what}; {fix}", job.name));
    }
}

/// What has become of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Running,
    Done,
    Failed,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Start this one.
    Start(usize),
    /// This one cannot start: what it needs did not.
    Without(usize, RegistryId),
    /// Something that others need is still under way.
    Wait,
    /// Nothing is left.
    Over,
}

/// Who may start when.
#[derive(Debug)]
struct Schedule {
    all: Vec<(RegistryId, BTreeSet<RegistryId>)>,
    phases: Vec<Phase>,
}

impl Schedule {
    fn new(all: Vec<(RegistryId, BTreeSet<RegistryId>)>) -> Self {
        let phases = vec![Phase::Waiting; all.len()];
        Self { all, phases }
    }

    fn phase(&self, id: RegistryId) -> Phase {
        let at = self.all.iter().position(|(one, _)| *one == id);
        at.map_or(Phase::Done, |at| self.phases[at])
    }

    fn next(&mut self) -> Next {
        for at in 0..self.all.len() {
            if self.phases[at] != Phase::Waiting {
                continue;
            }
            let needs = &self.all[at].1;
            if let Some(lost) = needs.iter().find(|id| self.phase(**id) == Phase::Failed) {
                let lost = *lost;
                self.phases[at] = Phase::Failed;
                return Next::Without(at, lost);
            }
            if needs.iter().all(|id| self.phase(*id) == Phase::Done) {
                self.phases[at] = Phase::Running;
                return Next::Start(at);
            }
        }
        if self.phases.contains(&Phase::Running) {
            Next::Wait
        } else {
            Next::Over
        }
    }

    fn ended(&mut self, at: usize, well: bool) {
        self.phases[at] = if well { Phase::Done } else { Phase::Failed };
    }
}

/// Starts every registry, a few at a time, and returns the names of those that did not start.
pub fn start_all(
    seat: &Seat,
    keep: &Keep,
    turns: Vec<Turn>,
    setting: &Setting,
    began: Instant,
    ctx: &Ctx,
) -> Vec<String> {
    let workers = std::thread::available_parallelism()
        .map_or(2, std::num::NonZero::get)
        .clamp(2, 4);
    let mut databases = 0;
    let ports: Vec<_> = turns
        .iter()
        .map(|turn| {
            let at = databases;
            let is_database = turn.job.version.commit.wal.is_some();
            databases += usize::from(is_database);
            is_database.then_some(at)
        })
        .collect();
    let schedule = Mutex::new(Schedule::new(
        turns
            .iter()
            .map(|turn| (turn.job.registry, turn.after.clone()))
            .collect(),
    ));
    let moved = Condvar::new();
    let failed = Mutex::new(Vec::new());
    let fail = |job: &Job, failure: &Failure| {
        ctx.out.record(
            "failed",
            &serde_json::json!({ "registry": job.name, "id": job.registry, "message": failure.message }),
        );
        ctx.out.note(format!("{}: {}", job.name, failure.message));
        failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(job.name.clone());
    };
    let named = |id: RegistryId| {
        let turn = turns.iter().find(|turn| turn.job.registry == id);
        turn.map_or_else(|| id.to_string(), |turn| turn.job.name.clone())
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.min(turns.len()) {
            scope.spawn(|| {
                let mut board = schedule.lock().unwrap_or_else(PoisonError::into_inner);
                loop {
                    match board.next() {
                        Next::Over => {
                            moved.notify_all();
                            return;
                        }
                        Next::Wait => {
                            board = moved.wait(board).unwrap_or_else(PoisonError::into_inner);
                        }
                        Next::Without(at, lost) => {
                            let why = format!("it needs {}, which did not start", named(lost));
                            fail(&turns[at].job, &Failure::failed(why));
                        }
                        Next::Start(at) => {
                            drop(board);
                            let Turn { job, fenced, .. } = &turns[at];
                            let started = ports[at]
                                .map(|port| ready::port(setting.port, port))
                                .transpose()
                                .and_then(|port| {
                                    serve(seat, keep, job, port, *fenced, setting, began, ctx)
                                });
                            if let Err(failure) = &started {
                                fail(job, failure);
                            }
                            board = schedule.lock().unwrap_or_else(PoisonError::into_inner);
                            board.ended(at, started.is_ok());
                            moved.notify_all();
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> RegistryId {
        RegistryId::new(n).expect("below 2^24")
    }

    #[test]
    fn what_is_needed_has_started_before() {
        let mut schedule = Schedule::new(vec![
            (id(1), BTreeSet::new()),
            (id(2), BTreeSet::from([id(1)])),
            (id(3), BTreeSet::new()),
            (id(4), BTreeSet::from([id(2), id(3)])),
        ]);
        assert_eq!(schedule.next(), Next::Start(0));
        assert_eq!(
            schedule.next(),
            Next::Start(2),
            "what needs nothing does not wait"
        );
        assert_eq!(schedule.next(), Next::Wait);
        schedule.ended(2, true);
        assert_eq!(schedule.next(), Next::Wait);
        schedule.ended(0, true);
        assert_eq!(schedule.next(), Next::Start(1));
        schedule.ended(1, true);
        assert_eq!(schedule.next(), Next::Start(3));
        schedule.ended(3, true);
        assert_eq!(schedule.next(), Next::Over);
    }

    #[test]
    fn what_needs_something_that_failed_does_not_start() {
        let mut schedule = Schedule::new(vec![
            (id(1), BTreeSet::new()),
            (id(2), BTreeSet::from([id(1)])),
            (id(3), BTreeSet::from([id(2)])),
            (id(4), BTreeSet::new()),
        ]);
        assert_eq!(schedule.next(), Next::Start(0));
        schedule.ended(0, false);
        assert_eq!(schedule.next(), Next::Without(1, id(1)));
        assert_eq!(schedule.next(), Next::Without(2, id(2)));
        assert_eq!(schedule.next(), Next::Start(3));
        schedule.ended(3, true);
        assert_eq!(schedule.next(), Next::Over);
    }
}
