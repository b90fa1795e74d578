//! Recovery to a point in time, decided before anything starts: PostgreSQL's own rules (`recoveryStopsBefore` and
//! `recoveryStopsAfter` of `xlogrecovery.c`) applied to decoded records, which turn a target into a position.
//!
//! In one thing more is asked for than there. A time before the base began is refused even if no commit fell between the
//! base's start and its end: PostgreSQL would give the state at the base's end and call it that time.
//!
//! And in one thing less: where PostgreSQL ends with an error because nothing follows the target, the end of what is kept is
//! the target, if it is known that nothing before the target is missing.

mod time;

use std::collections::BTreeMap;
use std::fmt;

use legation_core::id::Lsn;

use super::record::{Ending, Event, Kind, Outcome, Prepared};
pub use time::{NoTime, PgTime};

/// A checkpoint's time has whole seconds, and commits go on between it and the start of the redo.
const AFTER_CHECKPOINT: i64 = 1;
/// So many positions of a restore point are told.
const TOLD: usize = 8;
/// No server can have more transactions prepared at once (`MAX_BACKENDS`).
const MAX_PREPARED: usize = 0x3_ffff;
/// The header of a page may lie between the end of a record and the start of the next.
const PAGE_HEADER: u64 = 40;

/// What a restore is to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// `recovery_target_time`.
    Time(PgTime),
    /// `recovery_target_lsn`.
    Lsn(Lsn),
    /// `recovery_target_name`.
    Name(String),
    /// `recovery_target_xid`.
    Xid(u32),
}

/// A point, and whether what stands exactly there belongs to it (`recovery_target_inclusive`). A name always does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// The point.
    pub point: Point,
    /// Whether it is included.
    pub inclusive: bool,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = if self.inclusive { "" } else { "before " };
        match &self.point {
            Point::Time(time) => write!(f, "{before}time {time}"),
            Point::Lsn(lsn) => write!(f, "{before}position {lsn}"),
            Point::Name(name) => write!(f, "restore point {name:?}"),
            Point::Xid(xid) => write!(f, "{before}transaction {xid}"),
        }
    }
}

/// What can be reached: positions, and the times that they have by the commits there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The base is consistent from here on.
    pub from: Lsn,
    /// No earlier time can be told apart from this one.
    pub from_time: Option<PgTime>,
    /// The end of the last whole record.
    pub to: Lsn,
    /// No later time is known to be covered.
    pub to_time: Option<PgTime>,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time =
            |time: Option<PgTime>| time.map_or_else(String::new, |time| format!(" ({time})"));
        write!(
            f,
            "{}{} to {}{}",
            self.from,
            time(self.from_time),
            self.to,
            time(self.to_time)
        )
    }
}

/// Why replay ends where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// What ends there is included.
    After,
    /// What would follow is past the target: the end of this transaction, if it is one.
    Before(Option<Ending>),
    /// Nothing that is kept follows, and nothing before the target is missing.
    EndOfKept,
}

/// Where replay ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Records that end at or before this position are replayed.
    pub stop: Lsn,
    /// Why there.
    pub why: Why,
    /// The last end of a transaction that is replayed, and where its record starts.
    pub last: Option<(Lsn, Ending)>,
    /// Transactions that are replayed and committed.
    pub commits: u64,
    /// Records that are replayed.
    pub records: u64,
    /// Transactions that were prepared in the replayed log and wait for their end.
    pub prepared: Vec<Prepared>,
    /// Transactions, prepared before that log, whose end is replayed.
    pub ended: Vec<u32>,
}

/// Why a target cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It lies before the base is consistent.
    TooEarly,
    /// It lies after what is kept.
    TooLate,
    /// Nothing of this name or number is there.
    NotThere,
    /// There is more than one: the first of them, and how many.
    Several(Vec<Lsn>, u64),
}

/// A target that cannot be reached, and what can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// The target.
    pub goal: Goal,
    /// Why not.
    pub refused: Refused,
    /// What can be reached.
    pub window: Window,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be reached: ", self.goal)?;
        match &self.refused {
            Refused::TooEarly => f.write_str("it lies before this version")?,
            Refused::TooLate => f.write_str("it lies after what is kept")?,
            Refused::NotThere => f.write_str("the log of this version has none")?,
            Refused::Several(at, count) => {
                let at: Vec<_> = at.iter().map(Lsn::to_string).collect();
                write!(f, "it is there {count} times, at {}", at.join(", "))?;
                if *count > at.len() as u64 {
                    f.write_str(" and more")?;
                }
            }
        }
        write!(f, "; this version reaches from {}", self.window)
    }
}

impl Unreachable {
    /// What a person does about it.
    #[must_use]
    pub fn fix(&self) -> &'static str {
        match self.refused {
            Refused::TooEarly => "choose an earlier version",
            Refused::TooLate => {
                "choose a later version, or leave the target out for the end of what is kept"
            }
            Refused::NotThere => "look for it in another version, or name a time or a position",
            Refused::Several(..) => "name the position of the one that is meant: --target-lsn",
        }
    }
}

/// What is known of a version beside its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The base is consistent from here on.
    pub consistent: Lsn,
    /// Everything that was committed up to this time is in the log, as far as clocks tell.
    pub protected: Option<PgTime>,
}

/// Turns a target into the position at which replay ends. `events` are those of all records, from where recovery starts
/// to the end of what is kept.
///
/// # Errors
/// A target that cannot be reached, with what can.
pub fn decide(
    goal: &Goal,
    known: Known,
    events: impl IntoIterator<Item = Event>,
) -> Result<Decision, Unreachable> {
    let mut search = Search::new(goal, known);
    for event in events {
        search.see(&event);
        if search.is_done() {
            break;
        }
    }
    search.finish()
}

/// What was replayed before a position.
#[derive(Debug, Default, Clone)]
struct Past {
    end: Option<Lsn>,
    last: Option<(Lsn, Ending)>,
    commits: u64,
    records: u64,
    prepared: BTreeMap<u32, Prepared>,
    ended: Vec<u32>,
}

impl Past {
    fn add(&mut self, event: &Event) {
        self.end = Some(event.end);
        self.records += 1;
        match &event.kind {
            Kind::End(ending) => {
                self.last = Some((event.start, *ending));
                self.commits += u64::from(ending.outcome == Outcome::Committed);
                if ending.prepared
                    && self.prepared.remove(&ending.xid).is_none()
                    && self.ended.len() < MAX_PREPARED
                {
                    self.ended.push(ending.xid);
                }
            }
            Kind::Prepare(prepared) if self.prepared.len() < MAX_PREPARED => {
                self.prepared.insert(prepared.xid, prepared.clone());
            }
            _ => {}
        }
    }

    fn decide(&mut self, stop: Lsn, why: Why) -> Decision {
        Decision {
            stop,
            why,
            last: self.last,
            commits: self.commits,
            records: self.records,
            prepared: std::mem::take(&mut self.prepared).into_values().collect(),
            ended: std::mem::take(&mut self.ended),
        }
    }
}

/// A target, looked for in one record after the other.
#[derive(Debug)]
pub struct Search<'a> {
    goal: &'a Goal,
    known: Known,
    past: Past,
    found: Option<Decision>,
    /// Restore points of the name that is looked for.
    named: (Vec<Lsn>, u64),
    /// When the base began, by its first checkpoint.
    began: Option<PgTime>,
    /// The latest end of a transaction before the base was consistent, and in all.
    before: Option<PgTime>,
    latest: Option<PgTime>,
    end: Lsn,
}

impl<'a> Search<'a> {
    /// Looks for `goal`.
    #[must_use]
    pub fn new(goal: &'a Goal, known: Known) -> Self {
        Search {
            goal,
            known,
            past: Past::default(),
            found: None,
            named: (Vec::new(), 0),
            began: None,
            before: None,
            latest: None,
            end: Lsn(0),
        }
    }

    /// Looks at the next record.
    pub fn see(&mut self, event: &Event) {
        self.mind(event);
        if self.found.is_none() && self.stops_before(event) {
            let ending = match event.kind {
                Kind::End(ending) => Some(ending),
                _ => None,
            };
            let stop = self.past.end.unwrap_or(event.start);
            self.found = Some(self.past.decide(stop, Why::Before(ending)));
        }
        if self.found.is_none() {
            self.past.add(event);
            if self.stops_after(event) {
                self.found = Some(self.past.decide(event.end, Why::After));
            }
        }
    }

    /// Whether nothing that follows can change the answer.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let whole = matches!(self.goal.point, Point::Name(_));
        !whole && self.found.as_ref().is_some_and(|found| self.fits(found))
    }

    /// The answer, when no more records follow.
    ///
    /// # Errors
    /// A target that cannot be reached, with what can.
    pub fn finish(mut self) -> Result<Decision, Unreachable> {
        if self.named.1 > 1 {
            let (at, count) = std::mem::take(&mut self.named);
            return self.refuse(Refused::Several(at, count));
        }
        match self.found.take() {
            Some(found) if self.fits(&found) => Ok(found),
            Some(_) => self.refuse(Refused::TooEarly),
            None => self.at_the_end(),
        }
    }

    /// Nothing follows the target: it is reached if nothing before it can be missing.
    fn at_the_end(mut self) -> Result<Decision, Unreachable> {
        let covered = match &self.goal.point {
            Point::Name(_) | Point::Xid(_) => return self.refuse(Refused::NotThere),
            Point::Time(time) => self.window().to_time.is_some_and(|to| *time <= to),
            Point::Lsn(lsn) => {
                lsn.0 <= self.end.0.saturating_add(PAGE_HEADER) && {
                    // Past the end there is at most the header of the next page.
                    *lsn <= self.end || self.end.0.is_multiple_of(super::record::pages::PAGE)
                }
            }
        };
        if !covered {
            return self.refuse(Refused::TooLate);
        }
        let decision = self.past.decide(self.end, Why::EndOfKept);
        if self.fits(&decision) {
            Ok(decision)
        } else {
            self.refuse(Refused::TooEarly)
        }
    }

    fn fits(&self, found: &Decision) -> bool {
        let of_the_base = match self.goal.point {
            Point::Time(time) => self.began.is_none_or(|began| time >= began),
            _ => true,
        };
        found.stop >= self.known.consistent && of_the_base
    }

    fn refuse(self, refused: Refused) -> Result<Decision, Unreachable> {
        Err(Unreachable {
            goal: self.goal.clone(),
            refused,
            window: self.window(),
        })
    }

    fn window(&self) -> Window {
        Window {
            from: self.known.consistent,
            from_time: self.began.max(self.before),
            to: self.end,
            to_time: self.latest.max(self.known.protected),
        }
    }

    /// What the window is made of.
    fn mind(&mut self, event: &Event) {
        self.end = event.end;
        match &event.kind {
            Kind::End(ending) => {
                self.latest = self.latest.max(Some(ending.time));
                if event.end <= self.known.consistent {
                    self.before = self.before.max(Some(ending.time));
                }
            }
            Kind::Checkpoint { time, .. } if self.began.is_none() => {
                self.began = Some(time.plus_seconds(AFTER_CHECKPOINT));
            }
            Kind::RestorePoint { name, .. } if matches!(&self.goal.point, Point::Name(wanted) if wanted == name) =>
            {
                self.named.1 += 1;
                if self.named.0.len() < TOLD {
                    self.named.0.push(event.start);
                }
            }
            _ => {}
        }
    }

    fn stops_before(&self, event: &Event) -> bool {
        let (goal, before) = (self.goal, !self.goal.inclusive);
        match (&goal.point, &event.kind) {
            (Point::Lsn(lsn), _) => before && event.start >= *lsn,
            (Point::Xid(xid), Kind::End(ending)) => before && ending.xid == *xid,
            // Many transactions may end at the same time: the last of them is included, or none.
            (Point::Time(time), Kind::End(ending)) if before => ending.time >= *time,
            (Point::Time(time), Kind::End(ending)) => ending.time > *time,
            _ => false,
        }
    }

    fn stops_after(&self, event: &Event) -> bool {
        let (goal, after) = (self.goal, self.goal.inclusive);
        match (&goal.point, &event.kind) {
            (Point::Lsn(lsn), _) => after && event.start >= *lsn,
            (Point::Xid(xid), Kind::End(ending)) => after && ending.xid == *xid,
            (Point::Name(wanted), Kind::RestorePoint { name, .. }) => name == wanted,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
