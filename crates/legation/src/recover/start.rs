//! One registry: its version restored from sealed packs, its WAL opened, and, for a database, started and asked.
//!
//! Restoring for a person and starting at an embassy are this one path; what differs is who may then connect.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use legation_core::id::{EpochNo, Lsn, RegistryId, StateId, StreamId};
use legation_core::keys::EpochRoot;
use legation_core::manifest::{Entry, SourceRoot};
use legation_core::policy::{RegistryState, VersionState};
use legation_core::source::{Restorer, SourceError, SourceResult};
use legation_core::statement::{RootRow, Target as OrderTarget};
use legation_registry::command::RESTORE_KEY;
use legation_registry::postgres::ask::Question;
use legation_registry::postgres::point::{Goal, PgTime};
use legation_registry::postgres::record::Prepared;
use legation_registry::postgres::{
    self as driver, Binaries, Facts, Plan, Replayed, Serve, Server, Target,
};
use legation_registry::tree::TreeRestorer;
use legation_repo::reader::{Check, DEFAULT_CACHE, KeySource, VersionName, VersionReader};

use super::journal::{End, Wal, reach, try_opening};
use super::keep::{Frames, Keep};
use super::point::{self, Survey};
use super::scope::{self, Held};
use super::{damaged, unreachable};
use crate::exit::Failure;
use crate::watch::Watch;

/// The longest that replay may take before a start counts as failed; an objective is usually far below.
pub const REPLAY_WITHIN: Duration = Duration::from_secs(4 * 3600);
/// The longest that one probe may take, where the version does not say.
const PROBE_WITHIN: Duration = Duration::from_secs(30);
/// What must hold before a database serves; what else is asked is told as a doubt.
const CONSISTENT: &str = "is consistent";
pub(super) const OWN_PROBE: &str = "the registry's own probe";
/// A version cannot ask for more: its probe must not keep the others from serving.
const PROBE_WITHIN_MOST: Duration = Duration::from_secs(600);
/// How many entries that are not whole are named.
const NAMED: usize = 20;
/// The source kind of a database cluster.
pub(super) const POSTGRES: &str = "postgres";
/// A version's fact that names the query which must answer true before it serves.
pub const PROBE_KEY: &str = "probe.sql";
/// A version's fact that says how many milliseconds that query may take.
pub const PROBE_WITHIN_KEY: &str = "probe.within-ms";

/// What is to be restored, and with which keys.
pub struct Job {
    /// The state.
    pub state: StateId,
    /// The registry.
    pub registry: RegistryId,
    /// What to call it.
    pub name: String,
    /// The version.
    pub version: VersionState,
    /// The streams to replay.
    pub streams: Vec<Held>,
    /// Where they end, by the fence.
    pub end: Option<End>,
    /// The position there.
    pub until: Option<Lsn>,
    /// The released keys.
    pub keys: Arc<BTreeMap<EpochNo, EpochRoot>>,
    /// What is acknowledged and is not replayed, in words.
    pub short: Option<String>,
    /// Streams that were set aside, in words.
    pub aside: Vec<String>,
    /// The point that the order opens it up to, if it names one.
    pub limit: Option<Goal>,
    /// Up to when everything that was committed is in the streams, as far as the log tells.
    pub protected: Option<PgTime>,
    /// Every stream of the registry, for a cluster whose segments are larger than most.
    held: Vec<Held>,
    /// What kept a stream of the chain from being read.
    unread: Option<Failure>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("registry", &self.registry)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

impl Job {
    /// Plans a registry: the chain of its streams that opens under these keys, up to the fence if that is in it. What
    /// cannot be read is said when it is restored, so that it keeps no other registry.
    pub fn new(
        state: StateId,
        (registry, name): (RegistryId, String),
        version: VersionState,
        held: &[Held],
        frames_of: &dyn Fn(StreamId) -> Result<Frames, Failure>,
        fence: Option<(End, Lsn)>,
        keys: BTreeMap<EpochNo, EpochRoot>,
    ) -> Self {
        let walked = scope::chain(&version.commit, held, |one| {
            try_opening(&keys, (state, registry), one, || frames_of(one.stream))
        });
        let (chain, unread) = match walked {
            Ok(chain) => (chain, None),
            Err(why) => (scope::Chain::default(), Some(why)),
        };
        let fenced = fence.filter(|(end, _)| {
            let named = |one: &Held| one.stream == end.stream;
            chain.streams.iter().any(named)
        });
        let kept = chain.streams.last().map(|one| one.end);
        let short = match (chain.shut, fence, kept) {
            // The fence ends the replay before whatever follows.
            _ if fenced.is_some() => None,
            // An epoch began after the order was written: what it holds was acknowledged, and this order cannot open it.
            (Some(shut), _, _) => Some(format!(
                "WAL from {} on is kept under epoch {}, outside the order's scope; a new order opens it",
                shut.first, shut.epoch
            )),
            (None, Some((end, lsn)), Some(kept))
                if !(chain.empty.contains(&end.stream) && lsn <= kept) =>
            {
                Some(format!(
                    "the fence names stream {} at {lsn}, which does not continue this version; what does ends at {kept}",
                    end.stream
                ))
            }
            _ => None,
        };
        let (end, until) = fenced.unzip();
        Self {
            state,
            registry,
            name,
            version,
            streams: chain.streams,
            end,
            until,
            keys: Arc::new(keys),
            short,
            aside: chain.aside,
            limit: None,
            protected: None,
            held: held.to_vec(),
            unread,
        }
    }

    /// What could be restored as far as can be told without any key.
    pub fn sketch(
        state: StateId,
        (registry, name): (RegistryId, String),
        version: VersionState,
        held: &[Held],
    ) -> Self {
        Self {
            state,
            registry,
            name,
            streams: scope::streams(&version.commit, held),
            version,
            end: None,
            until: None,
            keys: Arc::default(),
            short: None,
            aside: Vec::new(),
            limit: None,
            protected: None,
            held: held.to_vec(),
            unread: None,
        }
    }

    /// The same, up to where its order goes and no further: what lies after that stays shut, and is not missed.
    #[must_use]
    pub fn towards(mut self, target: Option<OrderTarget>, registry: &RegistryState) -> Self {
        self.protected = point::protected(registry, &self.streams);
        self.limit = point::goal(target);
        if self.limit.is_some() {
            self.short = None;
        }
        self
    }

    /// What kept a stream of the chain from being read, if anything did.
    pub(super) fn readable(&self) -> Result<(), Failure> {
        self.unread.clone().map_or(Ok(()), Err)
    }

    /// The WAL that a base needs whose first segment begins at `from`, opened.
    pub(super) fn wal<'a>(&'a self, keep: &'a Keep, from: Lsn) -> Wal<'a> {
        Wal::new(
            move |stream| keep.frames(self.registry, stream),
            &*self.keys,
            self.state,
            self.registry,
            scope::reaching_back(&self.streams, &self.held, from),
            self.end,
        )
    }

    /// Bytes of WAL that will be written for the replay.
    pub fn wal_bytes(&self) -> u64 {
        let each = |one: &Held| one.end.0.saturating_sub(one.first.0);
        self.streams.iter().map(each).sum()
    }

    /// Sealed bytes that will be read and checked.
    pub fn sealed_bytes(&self) -> u64 {
        self.version.commit.bytes + self.streams.iter().map(|one| one.bytes).sum::<u64>()
    }

    /// Opens the version: list, root, and the check that they are those of the commit.
    ///
    /// # Errors
    /// Code 4 for damage; code 8 when a key is missing.
    pub fn open(&self, keep: &Keep) -> Result<VersionReader, Failure> {
        let commit = &self.version.commit;
        let name = VersionName {
            state: self.state,
            registry: self.registry,
            version: commit.version,
            list: commit.packs.list,
            root: frame_ref(&commit.root),
        };
        let keys: Arc<dyn KeySource> = self.keys.clone();
        let reader = VersionReader::open(keep.objects(), keys, &name, Check::Whole, DEFAULT_CACHE)?;
        if reader.list().rows().len() as u64 != commit.packs.count {
            return Err(damaged(
                "the pack list has another length than the commit says",
            ));
        }
        Ok(reader)
    }

    /// Writes the WAL beside the restored files, opened and in order, and the configuration that replays it. Where
    /// something does not belong to the WAL the plan ends before it.
    fn replayable(
        &self,
        keep: &Keep,
        path: &Path,
        plan: &mut Plan,
        target: Target,
        serve: &Serve,
        watch: &Watch,
    ) -> Result<Readied, Failure> {
        let mut short = None;
        loop {
            let mut wal = self.wal(keep, plan.wal_from);
            let mut survey = Survey::new(&plan.facts, plan.until);
            let mut pieces = wal.by_ref().map(|piece| {
                go_on(watch)?;
                let piece = piece?;
                watch.add(piece.bytes.len() as u64);
                survey.push(piece.start, &piece.bytes);
                Ok(piece)
            });
            let prepared = driver::prepare(path, plan, serve, &mut pieces);
            drop(pieces);
            let error = match prepared {
                Ok(notes) => {
                    return Ok(Readied {
                        short,
                        notes,
                        waiting: survey.waiting(path),
                    });
                }
                Err(error) => error,
            };
            // The driver passes on that the WAL could not be read; why, with its exit code, is said where it was read.
            if let Some(failure) = wal.failure() {
                return Err(failure);
            }
            match wal.ended_early() {
                // Each round ends before the one before it, so there is a last one.
                Some(early) if early.at < plan.until => {
                    let facts = plan.facts.clone();
                    *plan = Plan::new(facts, plan.wal_from, early.at, target)?;
                    short = Some(format!("replay ends at {}: {}", early.at, early.why));
                }
                _ => return Err(error.into()),
            }
        }
    }

    /// Checks that `target` can be reached.
    ///
    /// # Errors
    /// Names the window that can; code 4 for WAL of another cluster.
    pub fn plan(&self, facts: Facts, target: Target) -> Result<Plan, Failure> {
        let streams =
            scope::reaching_back(&self.streams, &self.held, facts.segment_start(facts.start));
        let (first, end) = reach(&streams).ok_or_else(|| {
            let why = self.short.iter().chain(&self.aside).next();
            unreachable(format!(
                "{}: no WAL is kept for this version that opens, and it needs some{}",
                self.name,
                why.map_or_else(String::new, |why| format!(": {why}"))
            ))
        })?;
        if streams.iter().any(|one| one.system_id != facts.system_id) {
            return Err(damaged(format!(
                "{}: the WAL is of another cluster than the base",
                self.name
            )));
        }
        let end = self.until.map_or(end, |until| until.min(end));
        Ok(Plan::new(facts, first, end, target)?)
    }
}

/// Writes what it is given to the directory below it, under watch.
struct Watched<'a> {
    to: TreeRestorer,
    watch: &'a Watch,
    size: u64,
    told: u64,
}

fn go_on(watch: &Watch) -> SourceResult<()> {
    if watch.is_stopped() {
        return Err(SourceError::Stopped);
    }
    Ok(())
}

impl Watched<'_> {
    /// Holes count as done too: what is left is then never more than what there is.
    fn tell(&mut self, done: u64) {
        self.watch.add(done.saturating_sub(self.told));
        self.told = self.told.max(done);
    }
}

impl Restorer for Watched<'_> {
    fn begin(&mut self, entry: &Entry) -> SourceResult<()> {
        go_on(self.watch)?;
        (self.size, self.told) = (entry.size, 0);
        self.to.begin(entry)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        go_on(self.watch)?;
        self.to.data(offset, bytes)?;
        self.tell(offset + bytes.len() as u64);
        Ok(())
    }

    fn end(&mut self) -> SourceResult<()> {
        self.to.end()?;
        self.tell(self.size);
        Ok(())
    }
}

/// What there is to say of a database that was made ready to start.
#[derive(Debug, Default)]
struct Readied {
    short: Option<String>,
    notes: Vec<String>,
    waiting: Vec<Prepared>,
}

/// A restored source.
#[derive(Debug)]
pub struct Source {
    /// Its kind.
    pub kind: String,
    /// Where it lies.
    pub path: PathBuf,
    /// How a database is to be started.
    pub database: Option<(Plan, Serve)>,
    /// The file of a SQLite database.
    pub sqlite: Option<PathBuf>,
    /// The query that must hold before it serves, and how long it may take.
    pub probe: Option<(String, Duration)>,
    /// Its invariants.
    pub questions: Vec<Question>,
    /// What was planned and is not replayed, in words.
    pub short: Option<String>,
    /// What of the database's configuration could not be carried over, in words.
    pub notes: Vec<String>,
    /// Prepared transactions of a database that wait for their end.
    pub waiting: Vec<Prepared>,
    /// Entries restored.
    pub entries: u64,
    /// Bytes of files restored.
    pub bytes: u64,
    /// What could not be given back as it was.
    pub left_out: usize,
    /// What the version itself says is not what the source held.
    pub incomplete: usize,
}

/// Restores every source of a version into `dir`: one source into `dir` itself, several below it by name.
///
/// # Errors
/// Code 4 for damage; code 130 when it was broken off; a target out of reach; the disk's error.
pub fn restore(
    job: &Job,
    keep: &Keep,
    dir: &Path,
    target: Target,
    serve: &dyn Fn(&Path) -> Serve,
    watch: &Watch,
) -> Result<Vec<Source>, Failure> {
    job.readable()?;
    let reader = job.open(keep)?;
    let sources = &reader.root().sources;
    let files = sources.iter().map(|source| source.bytes).sum::<u64>();
    watch.total(files + job.wal_bytes());
    let mut done = Vec::with_capacity(sources.len());
    for (at, source) in sources.iter().enumerate() {
        let path = if sources.len() == 1 {
            dir.to_owned()
        } else {
            dir.join(below(source)?)
        };
        if sources.len() > 1 {
            std::fs::create_dir_all(dir).map_err(|why| super::io(dir, why))?;
        }
        let sqlite = super::sqlite::file(source, &path)?;
        // The plan comes before the bytes: a target that cannot be reached is said before anything is written.
        let plan = match source.kind.as_str() {
            POSTGRES => Some(job.plan(Facts::from_meta(&source.meta)?, target)?),
            _ => None,
        };
        let mut restorer = Watched {
            to: TreeRestorer::new(&path)?,
            watch,
            size: 0,
            told: 0,
        };
        let result = reader.restore(at, b"", &mut restorer, &mut |_| {})?;
        let report = restorer.to.finish()?;
        let mut readied = Readied::default();
        let not_whole = named(&report.incomplete);
        let database = match plan {
            Some(mut plan) => {
                let serve = serve(&path);
                readied = job.replayable(keep, &path, &mut plan, target, &serve, watch)?;
                readied.notes.extend(damaged_at_home(&source.meta));
                Some((plan, serve))
            }
            None => None,
        };
        done.push(Source {
            kind: source.kind.clone(),
            path,
            database,
            sqlite,
            probe: probe(&source.meta),
            questions: super::sealed::questions(&source.meta).0,
            short: readied.short,
            notes: readied
                .notes
                .into_iter()
                .chain(not_whole)
                .chain(read_in(&source.meta))
                .collect(),
            waiting: readied.waiting,
            incomplete: report.incomplete.len(),
            entries: result.entries,
            bytes: result.bytes,
            left_out: report.left_out.len(),
        });
    }
    Ok(done)
}

/// What was damaged already when it was captured, in words.
fn damaged_at_home(meta: &BTreeMap<String, String>) -> Option<String> {
    let mut named = meta
        .iter()
        .filter(|(key, _)| key.starts_with(driver::base::DAMAGED))
        .map(|(_, what)| what);
    let first = named.next()?;
    Some(format!(
        "pages failed their checksums at home and are as they were: {first}{}",
        match named.count() {
            0 => String::new(),
            more => format!(", and {more} more"),
        }
    ))
}

/// The first of what is not whole, and how many more there are.
fn named(incomplete: &[(Vec<u8>, String)]) -> Vec<String> {
    let one = |(path, why): &(Vec<u8>, String)| format!("{} is {why}", crate::output::shown(path));
    let mut named: Vec<String> = incomplete.iter().take(NAMED).map(one).collect();
    if let Some(more @ 1..) = incomplete.len().checked_sub(NAMED) {
        named.push(format!(
            "{more} more are not as they were when they were captured"
        ));
    }
    named
}

/// How a dump is read in again, as its owner has it.
fn read_in(meta: &BTreeMap<String, String>) -> Option<String> {
    let argv: Vec<String> = serde_json::from_str(meta.get(RESTORE_KEY)?).ok()?;
    let quoted = argv.iter().map(|word| format!("{word:?}"));
    let command = quoted.collect::<Vec<_>>().join(" ");
    Some(format!(
        "its owner reads it in again with {command}, given the file"
    ))
}

/// The registry's own probe, as its version says.
fn probe(meta: &BTreeMap<String, String>) -> Option<(String, Duration)> {
    let within = meta
        .get(PROBE_WITHIN_KEY)
        .and_then(|ms| ms.parse().ok())
        .map_or(PROBE_WITHIN, Duration::from_millis);
    Some((meta.get(PROBE_KEY)?.clone(), within.min(PROBE_WITHIN_MOST)))
}

/// What a started database answered.
#[derive(Debug)]
pub struct Answered {
    /// How far it replayed.
    pub replayed: Replayed,
    /// Probes that passed.
    pub passed: u32,
    /// Probes asked.
    pub asked: u32,
    /// The first that did not, in words; else what makes its answers doubtful here.
    pub failed: Option<String>,
    /// Without this it must not serve: the first that must hold and did not.
    pub unfit: Option<String>,
    /// Settings of its databases and roles that were reset, in words.
    pub reset: Vec<String>,
    /// Prepared transactions that wait for their end, by name.
    pub waiting: Vec<String>,
}

/// Starts a restored database and waits until it takes connections.
///
/// # Errors
/// The server's own reason, from its log.
pub fn start(path: &Path, plan: &Plan, serve: &Serve, watch: &Watch) -> Result<Server, Failure> {
    let binaries = Binaries::find(plan.facts.major)?;
    let mut server = Server::start(path, plan, serve, &binaries)?;
    watch.total(plan.until.0.saturating_sub(plan.wal_from.0));
    let mut go_on = |at: Option<Lsn>| {
        if let Some(at) = at {
            watch.set(at.0.saturating_sub(plan.wal_from.0));
        }
        !watch.is_stopped()
    };
    server.wait_ready(REPLAY_WITHIN, &mut go_on)?;
    Ok(server)
}

/// Asks a started database: does it answer, is it out of recovery on a timeline of its own, did it replay everything
/// planned, can its catalog be read; and the registry's own probe. What its databases and roles bring along and would act
/// here is reset first.
///
/// # Errors
/// When it does not say how far it replayed, or cannot be made safe to enter.
pub fn ask(
    server: &Server,
    plan: &Plan,
    own: Option<&(String, Duration)>,
) -> Result<Answered, Failure> {
    let replayed = server.replayed()?;
    let settled = server.settle()?;
    let waiting = server.prepared()?;
    let sql = |sql: &str| server.probe(None, sql, PROBE_WITHIN);
    let mut asked: Vec<(&str, bool)> = vec![
        ("accepts connections", sql("select true").unwrap_or(false)),
        (
            "is out of recovery on a timeline of its own",
            sql("select not pg_is_in_recovery()").unwrap_or(false)
                && replayed.timeline > plan.facts.timeline,
        ),
        // Records end before the kept bytes do; the last whole one is what could be replayed.
        (CONSISTENT, replayed.lsn >= plan.facts.stop),
        (
            "its catalog can be read",
            sql("select count(*) > 0 from pg_class c join pg_attribute a on a.attrelid = c.oid")
                .unwrap_or(false),
        ),
    ];
    if let Some((own, within)) = own {
        // In the database that it was written for, or it fails.
        let database = Some(plan.facts.database.as_str()).filter(|name| !name.is_empty());
        let passed = server.probe(database, own, *within).unwrap_or(false);
        asked.push((OWN_PROBE, passed));
    }
    let first = |of: &dyn Fn(&str) -> bool| {
        let mut asked = asked.iter();
        let found = asked.find(|(what, passed)| !passed && of(what));
        found.map(|(what, _)| format!("not so: {what}"))
    };
    let unfit = first(&|what| [CONSISTENT, OWN_PROBE].contains(&what));
    let failed = first(&|_| true)
        .or_else(|| stopped_short(plan, replayed.lsn))
        .or_else(|| (!settled.doubts.is_empty()).then(|| settled.doubts.join("; ")));
    let passed = asked.iter().filter(|(_, passed)| *passed).count();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Answered {
        replayed,
        passed: count(passed),
        asked: count(asked.len()),
        failed,
        unfit,
        reset: settled.reset,
        waiting,
    })
}

/// Whether replay ended where more should have followed. Records end before the kept bytes do, but by less than a
/// segment: no usual record is longer.
fn stopped_short(plan: &Plan, at: Lsn) -> Option<String> {
    let segment = u64::from(plan.facts.wal_segment_size);
    (at.0.saturating_add(segment) < plan.until.0).then(|| {
        format!(
            "replay ended at {at}, and WAL up to {} was given to it",
            plan.until
        )
    })
}

fn below(source: &SourceRoot) -> Result<&str, Failure> {
    let name = source.name.as_str();
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    if plain {
        Ok(name)
    } else {
        Err(damaged(format!(
            "a source of this version is called {name:?}"
        )))
    }
}

/// The commit's row as the manifest names frames.
pub fn frame_ref(row: &RootRow) -> legation_core::pack::FrameRef {
    legation_core::pack::FrameRef {
        epoch: row.epoch,
        seq: row.seq,
        index: row.index,
        offset: row.offset,
        sealed: row.sealed,
        plain: row.plain,
    }
}
