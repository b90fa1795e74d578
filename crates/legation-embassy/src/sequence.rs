//! The one place where a statement enters the log.
//!
//! One thread per state takes what has queued up and carries it through the commit order: check by the fold, append
//! and sync the log, sign the checkpoint, put the new fold in force, act on what was accepted, answer. A whole batch
//! shares one sync. The fold that is in force never runs ahead of the log; after a failed write the log is opened
//! anew, and whatever it then holds is what happened. A start does the same.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use legation_core::id::{OrderId, RegistryId, Sha256};
use legation_core::policy::{Admission, Refusal, State};
use legation_core::statement::{
    self, Entry, Fence, Order, Recipient, Signed, Statement, TermStep, Time,
};
use legation_repo::folded::Folded;
use legation_repo::log::DiskLog;
use legation_repo::store::StoreError;
use tokio::sync::oneshot;

use crate::clock::{Clock, Moment};
use crate::error::EmbassyError;
use crate::hosted::{self, Keys, Site};
use crate::http::Refused;
use crate::journal::Journals;
use crate::keep::{self, Keep};

/// Most statements that share one sync: bounds how long the first of them waits.
pub(crate) const MAX_BATCH: usize = 64;
/// Pause between two looks at a full queue.
const QUEUE_PAUSE: Duration = Duration::from_millis(5);
/// Most refused orders that are told of in the log in a while: an attempt is on record, a flood of them is not the log's.
const MAX_TOLD: usize = 64;
/// How long that while is.
const TOLD_EVERY: Duration = Duration::from_secs(3600);
/// How often a failed log is opened anew when nobody asks.
const REOPEN_EVERY: Duration = Duration::from_secs(5);

enum Job {
    Submit { signed: Box<Signed>, reply: Reply },
    Stop,
}

pub(crate) type Reply = oneshot::Sender<Result<u64, Refused>>;

/// The queue into the log of one state.
pub struct Sequencer {
    queue: SyncSender<Job>,
    wait: Duration,
    ready: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sequencer {
    /// Starts the thread. Fences that are owed from before the last stop are logged first.
    pub fn start(
        site: Arc<Site>,
        journals: Arc<Journals>,
        log: DiskLog,
        keys: Arc<Keys>,
    ) -> Result<Self, EmbassyError> {
        let (queue, jobs) = mpsc::sync_channel(site.limits.statements);
        let ready = Arc::new(AtomicBool::new(true));
        let wait = site.limits.queue_wait;
        let refused = Arc::new(AtomicU64::new(0));
        let mut writer = Writer::new(site, journals, log, keys, ready.clone(), refused.clone());
        // Before anything is served: what an accepted order asked for is not delayed by a restart.
        writer.pay_fences();
        let thread = std::thread::Builder::new()
            .name("sequence".into())
            .spawn(move || writer.run(&jobs))
            .map_err(EmbassyError::Runtime)?;
        Ok(Self {
            queue,
            wait,
            ready,
            refused,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// No queue and no thread: whoever holds the [`Writer`] does its work himself.
    #[cfg(feature = "local")]
    pub(crate) fn absent(ready: Arc<AtomicBool>) -> Self {
        Self {
            queue: mpsc::sync_channel(1).0,
            wait: Duration::ZERO,
            ready,
            refused: Arc::default(),
            thread: Mutex::new(None),
        }
    }

    /// Puts a statement through; returns its index in the log, the old one if it was there before.
    pub async fn submit(&self, signed: Signed) -> Result<u64, Refused> {
        let (reply, answer) = oneshot::channel();
        let mut job = Job::Submit {
            signed: Box::new(signed),
            reply,
        };
        let until = Instant::now() + self.wait;
        loop {
            job = match self.queue.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Full(job)) => job,
                Err(TrySendError::Disconnected(_)) => return Err(Refused::failed()),
            };
            if Instant::now() > until {
                return Err(Refused::busy());
            }
            tokio::time::sleep(QUEUE_PAUSE).await;
        }
        answer.await.unwrap_or_else(|_| Err(Refused::failed()))
    }

    /// Whether the log is open.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Statements that the mandate did not allow, since this began.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Stops after what is queued.
    pub fn close(&self) {
        let _ = self.queue.send(Job::Stop);
        let thread = self.thread.lock().ok().and_then(|mut held| held.take());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// Opens a state's log and folds it. A new log begins with the founding mandate.
pub fn recover(
    keep: &Keep,
    founding: Signed,
    origin: &str,
    keys: &Keys,
) -> Result<(DiskLog, State), EmbassyError> {
    let now = hosted::now();
    let mut log = DiskLog::open(
        &keep.dir().log_path(),
        origin,
        keys.log_signer()?,
        seconds(now),
    )?;
    if log.reader().size() > 0 {
        let state = replay(keep, &log, &keys.folded(keep.dir()))?;
        if now < state.last_received() {
            tracing::warn!(
                state = %state.id(), %now, last = %state.last_received(),
                "the clock is behind the log's last entry; entries are stamped with that one's time until it has passed"
            );
        }
        return Ok((log, state));
    }
    let entry = Entry {
        index: 0,
        received: now,
        signed: founding,
    };
    let state = State::found(&entry, keep).map_err(|r| EmbassyError::Mandate(r.to_string()))?;
    log.append(&[entry.encode()], seconds(now))?;
    Ok((log, state))
}

/// Folds a log, from where it was folded to before if that holds. Then the root that comes of it is the signed one; in any
/// doubt the whole log is folded.
fn replay(keep: &Keep, log: &DiskLog, folded: &Folded) -> Result<State, EmbassyError> {
    let reader = log.reader();
    let recalled = folded.recall().filter(|state| {
        state.id() == *keep.dir().state() && state.size() <= reader.size() && !admission_is_off()
    });
    if let Some(mut state) = recalled {
        let from = state.size();
        let mut goes_on = || -> Result<bool, EmbassyError> {
            while state.size() < reader.size() {
                for bytes in reader.entries(state.size()..reader.size())? {
                    let Ok(entry) = Entry::parse(&bytes) else {
                        return Ok(false);
                    };
                    if state.apply(&entry, keep).is_err() {
                        return Ok(false);
                    }
                }
            }
            Ok(state.head().root == reader.checkpoint().root())
        };
        if goes_on()? {
            tracing::info!(state = %state.id(), entries = state.size(), from, "the log is folded from where it was before");
            return Ok(state);
        }
        tracing::warn!(state = %keep.dir().state(), "what was kept of the fold does not hold; the whole log is folded");
    }
    replay_whole(keep, log)
}

/// Folds a whole log. An entry that the mandate does not allow means that somebody else wrote it.
fn replay_whole(keep: &Keep, log: &DiskLog) -> Result<State, EmbassyError> {
    let reader = log.reader();
    let size = reader.size();
    let broken = |index: u64, why: String| EmbassyError::Log {
        state: keep.dir().state().to_string(),
        why: format!("entry {index}: {why}"),
    };
    let mut state: Option<State> = None;
    let mut next = 0;
    while next < size {
        for bytes in reader.entries(next..size)? {
            let entry = Entry::parse(&bytes).map_err(|e| broken(next, e.to_string()))?;
            match &mut state {
                None => {
                    let founded = State::found(&entry, keep);
                    let why = |r: Refusal| lacking(keep, &entry, broken(next, r.to_string()));
                    state = Some(founded.map_err(why)?);
                }
                Some(state) => {
                    if let Err(refusal) = state.apply(&entry, keep)
                        && !admission_is_off()
                    {
                        return Err(lacking(keep, &entry, broken(next, refusal.to_string())));
                    }
                }
            }
            next += 1;
        }
    }
    state.ok_or_else(|| broken(0, "the log is empty".into()))
}

/// Why an entry does not replay: if an attachment that it names is damaged or gone, that, and not `otherwise`.
fn lacking(keep: &Keep, entry: &Entry, otherwise: EmbassyError) -> EmbassyError {
    let named = match entry.signed.statement() {
        Ok(Statement::Mandate(it)) => it.keyring,
        Ok(Statement::Session(it)) => it.key,
        Ok(Statement::Order(it)) => match it.recipient {
            Recipient::Key(key) => key,
            Recipient::Session => return otherwise,
        },
        _ => return otherwise,
    };
    let how = match keep.dir().attachment(&named) {
        Ok(Some(_)) => return otherwise,
        Ok(None) => "missing".to_owned(),
        Err(StoreError::Damaged { why, .. }) => format!("damaged: {why}"),
        Err(error) => return error.into(),
    };
    EmbassyError::Attachment {
        state: keep.dir().state().to_string(),
        what: format!("attachment {named}"),
        entry: entry.index,
        how,
    }
}

/// The log's one writer.
pub(crate) struct Writer {
    site: Arc<Site>,
    journals: Arc<Journals>,
    keys: Arc<Keys>,
    clock: Clock,
    /// `None` after a failed write, until it is opened anew.
    log: Option<DiskLog>,
    /// Refused orders that the log tells of, since when.
    told: (Moment, HashSet<Sha256>),
    ready: Arc<AtomicBool>,
    /// Statements that were refused.
    refused: Arc<AtomicU64>,
    /// Where the fold is kept for the next start, and how many entries it had then.
    folded: Folded,
    kept: u64,
}

/// A batch on its way into the log.
struct Batch {
    state: State,
    entries: Vec<Vec<u8>>,
    last: Time,
}

impl Writer {
    pub(crate) fn new(
        site: Arc<Site>,
        journals: Arc<Journals>,
        log: DiskLog,
        keys: Arc<Keys>,
        ready: Arc<AtomicBool>,
        refused: Arc<AtomicU64>,
    ) -> Self {
        let clock = Clock::start(site.fold().last_received(), site.limits.clock_checked);
        let folded = keys.folded(site.keep.dir());
        let kept = site.fold().size();
        Self {
            site,
            journals,
            keys,
            clock,
            log: Some(log),
            told: (Moment::now(), HashSet::new()),
            ready,
            refused,
            folded,
            kept,
        }
    }

    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let mut batch = Vec::new();
            match jobs.recv_timeout(REOPEN_EVERY) {
                Ok(Job::Submit { signed, reply }) => batch.push((signed, reply)),
                Ok(Job::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.idle();
                    continue;
                }
            }
            let mut stop = false;
            while batch.len() < MAX_BATCH {
                match jobs.try_recv() {
                    Ok(Job::Submit { signed, reply }) => batch.push((signed, reply)),
                    Ok(Job::Stop) => {
                        stop = true;
                        break;
                    }
                    Err(_) => break,
                }
            }
            self.commit(batch);
            if stop {
                return;
            }
        }
    }

    /// Nobody asks for anything: a failed log is opened anew.
    pub(crate) fn idle(&mut self) {
        if self.log.is_none() && self.reopen().is_ok() {
            self.pay_fences();
        }
    }

    /// Check, log, put in force, act, answer.
    pub(crate) fn commit(&mut self, jobs: Vec<(Box<Signed>, Reply)>) {
        if self.log.is_none() && self.reopen().is_err() {
            for (_, reply) in jobs {
                let _ = reply.send(Err(Refused::failed()));
            }
            return;
        }
        let Some(mut batch) = self.batch() else {
            for (_, reply) in jobs {
                let _ = reply.send(Err(Refused::clock()));
            }
            return;
        };
        let mut accepted = Vec::new();
        let mut turned_away = Vec::new();
        for (signed, reply) in jobs {
            let order = signed
                .text()
                .starts_with(Order::HEADER)
                .then(|| signed.id());
            match batch.admit(*signed, &self.site.keep) {
                Ok(index) => accepted.push((index, reply)),
                Err(refusal) => {
                    if let Some(order) = order {
                        self.tell(&mut batch, order, &refusal);
                    }
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    turned_away.push((refusal, reply));
                }
            }
        }
        let written = self.write(batch);
        if written.is_ok() {
            // An order's receipt says that its fences are in the log too, when all went well.
            self.pay_fences();
        }
        for (refusal, reply) in turned_away {
            let _ = reply.send(Err(refused(&refusal)));
        }
        for (index, reply) in accepted {
            let outcome = match &written {
                Ok(()) => Ok(index),
                Err(error) => Err(error.clone()),
            };
            // A client that went away asks again and gets the same receipt.
            let _ = reply.send(outcome);
        }
    }

    /// Puts it on record that somebody tried an order that the mandate does not allow.
    fn tell(&mut self, batch: &mut Batch, order: Sha256, refusal: &Refusal) {
        if self.told.0.elapsed() > TOLD_EVERY {
            self.told = (Moment::now(), HashSet::new());
        }
        if self.told.1.len() >= MAX_TOLD || !self.told.1.insert(order) {
            return;
        }
        let attempt = statement::Refused {
            state: batch.state.id(),
            mandate: batch.state.mandate().sequence,
            embassy: self.site.label.clone(),
            statement: order,
            rule: refusal.rule.number(),
            at: hosted::now(),
        };
        if let Err(error) = self.admit_own(batch, attempt.into()) {
            tracing::error!(error, "cannot put a refused order on record");
        }
    }

    /// Signs a statement of the embassy's own and takes it into the batch.
    fn admit_own(&self, batch: &mut Batch, own: Statement) -> Result<u64, String> {
        let signed = Signed::sign_with(own, &self.site.signing).map_err(|e| e.to_string())?;
        batch
            .admit(signed, &self.site.keep)
            .map_err(|refusal| refusal.to_string())
    }

    /// An empty batch, stamped; `None` while the clock cannot be believed.
    fn batch(&self) -> Option<Batch> {
        let state = (*self.site.fold()).clone();
        let last = self.clock.stamp(state.last_received());
        if last.is_none() {
            tracing::error!(
                now = %hosted::now(), last = %state.last_received(),
                "the clock jumped more than a day ahead: nothing is logged until it agrees again; an operator who finds it right says so by clock_checked in the \
                 configuration, and restarts the embassy"
            );
        }
        Some(Batch {
            state,
            entries: Vec::new(),
            last: last?,
        })
    }

    /// Appends a batch durably, then puts its fold in force.
    fn write(&mut self, batch: Batch) -> Result<(), Refused> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        let Some(log) = &mut self.log else {
            return Err(Refused::failed());
        };
        match log.append(&batch.entries, seconds(hosted::now())) {
            Ok(_) => {
                self.site.publish(batch.state);
                self.keep_fold();
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "the log took no entry; it is opened anew");
                self.log = None;
                self.ready.store(false, Ordering::Relaxed);
                Err(match error {
                    StoreError::Full { .. } => keep::refused(error),
                    _ => Refused::failed(),
                })
            }
        }
    }

    /// Keeps what the log comes to, now and then: the next start is then short. Nothing depends on it.
    fn keep_fold(&mut self) {
        let fold = self.site.fold();
        if fold.size() < self.kept.saturating_add(self.site.limits.fold_every) {
            return;
        }
        self.kept = fold.size();
        if let Err(error) = self.folded.keep(&fold) {
            tracing::warn!(%error, "what the log comes to could not be kept; the next start takes longer");
        }
    }

    /// After a failed write: whatever the log holds now is what happened.
    fn reopen(&mut self) -> Result<(), EmbassyError> {
        let fold = self.site.fold();
        let origin = legation_repo::http::origin(&fold.id(), self.site.label.as_str());
        let dir = self.site.keep.dir().log_path();
        let log = DiskLog::open(
            &dir,
            &origin,
            self.keys.log_signer()?,
            seconds(hosted::now()),
        )?;
        let state = replay(&self.site.keep, &log, &self.folded)?;
        self.site.replace_log(log.reader());
        self.site.publish(state);
        self.log = Some(log);
        self.ready.store(true, Ordering::Relaxed);
        tracing::info!("the log is open again");
        Ok(())
    }

    /// Logs the fences that accepted orders ask for: how far each registry had come when its term ended. The fold in
    /// force refuses the old terms already, so nothing is acknowledged beyond what is written here.
    pub(crate) fn pay_fences(&mut self) {
        let fold = self.site.fold();
        let due: Vec<(OrderId, RegistryId, TermStep)> = fold
            .fences_due()
            .filter(|(order, ..)| {
                fold.order(order)
                    .is_some_and(|o| o.order.embassy == self.site.label)
            })
            .map(|(order, registry, step)| (order.clone(), registry, step.clone()))
            .collect();
        if due.is_empty() {
            return;
        }
        let asked = due
            .iter()
            .map(|(_, registry, step)| (*registry, step.from))
            .collect();
        let Some(ends) = self.journals.ends(asked) else {
            tracing::error!("the journals do not answer; fences are owed");
            return;
        };
        let Some(mut batch) = self.batch() else {
            return;
        };
        for ((order, registry, term), (_, end)) in due.into_iter().zip(ends) {
            let end = end.map(|s| s.position);
            let fence = Fence {
                state: fold.id(),
                mandate: fold.mandate().sequence,
                embassy: self.site.label.clone(),
                order,
                registry,
                term,
                stream: end.map(|p| p.stream),
                sequence: end.map(|p| p.seq),
                chain: end.map(|p| p.chain),
                timeline: end.map(|p| p.timeline),
                lsn: end.map(|p| p.end_lsn),
                at: hosted::now(),
            };
            if let Err(error) = self.admit_own(&mut batch, fence.into()) {
                tracing::error!(%registry, error, "cannot fence a registry");
            }
        }
        if self.write(batch).is_err() {
            tracing::error!("fences are owed until the log is open again");
        }
    }
}

impl Batch {
    /// Takes a statement into the batch if the fold allows it after what is in the batch already.
    fn admit(&mut self, signed: Signed, keep: &Keep) -> Result<u64, Refusal> {
        match self.state.check(&signed, self.last, keep) {
            Ok(Admission::Replay { index }) => return Ok(index),
            Ok(Admission::New) => {}
            Err(refusal) if !admission_is_off() => return Err(refusal),
            Err(_) => {}
        }
        let index = self.state.size();
        let entry = Entry {
            index,
            received: self.last,
            signed,
        };
        let applied = self.state.apply(&entry, keep);
        // `check` and `apply` decide by the same function; a difference would be an entry that no auditor accepts.
        if !admission_is_off() {
            applied?;
        }
        self.entries.push(entry.encode());
        Ok(index)
    }
}

/// Whether the fold's check is off: in test builds only, and there only when the test says so.
pub fn admission_is_off() -> bool {
    cfg!(feature = "no-admission")
        && std::env::var_os("LEGATION_TEST_ADMISSION").is_some_and(|v| v == "off")
}

/// A refusal of the fold on its way to the client.
pub fn refused(refusal: &Refusal) -> Refused {
    Refused::policy(refusal.exit_code(), refusal.to_string())
}

fn seconds(time: Time) -> u64 {
    time.millis() / 1000
}
