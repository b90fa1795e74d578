//! A model of an agent, around the shipping sealers, writer, spool and verification of answers.
//!
//! It keeps the order that the agent keeps: slip and epoch statement are durable before a byte is sealed under the
//! epoch, frames before the registry hears that they are safe, and only signed answers free anything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use legation_core::id::{
    Digest, EpochNo, Generation, RegistryId, Sha256, StateId, StreamId, Term, Timeline, VersionNo,
};
use legation_core::journal::{
    FRAME_HEADER, FrameHeader, MAIN, Position, StreamSealer, StreamStart,
};
use legation_core::keys::{EpochRoot, SigningKey};
use legation_core::log::Checkpoint;
use legation_core::manifest::{Entry, EntryKind, Extents, Mtime};
use legation_core::pack::SealedPack;
use legation_core::policy::State;
use legation_core::slip::{self, SlipHeader};
use legation_core::source::Sink as _;
use legation_core::statement::{
    Branch, Cause, Commit, Epoch, EpochSet, Gap, Mark, Name, Packs, RootRow, Signed, Statement,
    Time, WalRange,
};
use legation_repo::durable;
use legation_repo::http::Trust;
use legation_repo::http::wire::{Problem, ReceiptBody, StreamBody, kind};
use legation_repo::journal::{Spool, StreamName};
use legation_repo::store::Kind;
use legation_repo::writer::index::Index;
use legation_repo::writer::{Place, VersionWriter};

mod answers;
mod capture;
mod clone;
mod item;
mod stream;

use crate::audit::{Audit, Captured, Checked, found};
use crate::dice::Dice;
use crate::disk::{Disk, Snapshot};
use crate::founding::Founding;
use crate::line::{Answer, Body};
use crate::source::Source;

/// Steps until a request without an answer is sent again.
const PATIENCE: u64 = 14;
/// Most bytes of frames in a request.
const BATCH: usize = 64 << 10;
/// The one timeline of the models.
const MAIN_LINE: Timeline = Timeline(1);

/// An agent and what stands beside it.
pub struct Agent {
    founding: &'static Founding,
    /// Which of home's.
    pub number: usize,
    /// Its registry.
    pub registry: RegistryId,
    name: Name,
    key: SigningKey,
    /// Its machine's disk.
    pub disk: Disk,
    /// Its registry's content.
    pub source: Source,
    dice: Dice,
    run: Option<Run>,
    /// How long an epoch lasts, in milliseconds.
    longest: u64,
    /// Counts its runs.
    pub runs: u64,
    /// A stopped machine as it was once, to be set back to.
    past: Option<(Snapshot, Source)>,
    /// A running machine as it was once: what memory held is told by how it came to be.
    frozen: Option<Frozen>,
}

/// What it remembers across runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    last_epoch: EpochNo,
    generation: Generation,
    term: Term,
    /// The term has ended: it writes no more.
    fenced: bool,
    ordinal: u64,
    /// A stream that names none before it may begin.
    anew: bool,
}

/// One run of its process.
struct Run {
    memory: Memory,
    epoch: Option<Open>,
    stream: Option<Sealing>,
    kept: VecDeque<Kept>,
    outbox: VecDeque<(u64, Item)>,
    next_item: u64,
    trust: Trust,
    index: Index,
    head: Option<(VersionNo, Sha256)>,
    /// The index that is right once the commit on its way is logged.
    coming: Option<(Sha256, VersionNo, Index)>,
    control: Option<(u64, u64)>,
    journal: Option<(u64, u64)>,
    /// Epochs that may have turned out to be others'.
    lost: BTreeSet<EpochNo>,
    /// The slips of its own epochs that are not all sent.
    ours: BTreeSet<Digest>,
    marked: u64,
    acked: Option<Position>,
}

struct Open {
    number: EpochNo,
    generation: Generation,
    root: EpochRoot,
    packs: u32,
    since: u64,
}

struct Sealing {
    id: StreamId,
    sealer: StreamSealer,
    commitment: [u8; 32],
    start: (StreamStart, [u8; 32]),
    sealed: Vec<Vec<u8>>,
}

/// What it takes to make a sealer again, exactly as it was.
struct Frozen {
    snapshot: Snapshot,
    source: Source,
    epoch: (EpochNo, Generation, [u8; 32], u32, u64),
    start: (StreamStart, [u8; 32]),
    sealed: Vec<Vec<u8>>,
    dice: Dice,
}

/// One stream in the spool.
struct Kept {
    ordinal: u64,
    id: StreamId,
    epoch: EpochNo,
    term: Term,
    spool: Spool,
    /// The first frame that is not acknowledged; `None` until the embassy has told.
    next: Option<u64>,
}

/// What waits to be sent, in order.
#[derive(Debug, Clone)]
enum Item {
    Object(Kind, Vec<u8>),
    Statement(Vec<u8>),
}

/// What an agent did, for the trace.
pub type Did = Checked<Option<String>>;

fn nothing() -> Did {
    Ok(None)
}

fn did(what: impl Into<String>) -> Did {
    Ok(Some(what.into()))
}

impl Agent {
    /// A new one, not running.
    #[must_use]
    pub fn new(
        founding: &'static Founding,
        number: usize,
        disk: Disk,
        longest: u64,
        mut dice: Dice,
    ) -> Self {
        let (name, key) = founding.writer(number);
        Self {
            founding,
            number,
            registry: founding.registry(number),
            name,
            key,
            disk,
            source: Source::new(number, &mut dice),
            dice,
            run: None,
            longest,
            runs: 0,
            past: None,
            frozen: None,
        }
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.run.is_some()
    }

    /// Whether its term has ended.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.memory.fenced)
    }

    /// Whether nothing waits to be sent.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.run.as_ref().is_some_and(|run| {
            run.outbox.is_empty()
                && run.kept.iter().all(Kept::is_shipped)
                && (run.memory.fenced || run.stream.is_some())
        })
    }

    /// The process ends: memory is gone. The machine goes on.
    pub fn kill(&mut self) {
        self.run = None;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.root().join(name)
    }

    fn state(&self) -> StateId {
        self.founding.state
    }

    /// Starts the process from what the disk holds.
    ///
    /// # Errors
    /// When what was reported to the registry as safe is not there.
    pub fn start(&mut self) -> Did {
        let _on = self.disk.on();
        self.runs += 1;
        let failures = self.disk.happened().failed;
        match self.recover() {
            Ok(run) => {
                let end = run.kept.back().and_then(Kept::end);
                if !run.memory.anew
                    && self.source.flushed > crate::source::START
                    && end.is_none_or(|end| end.end_lsn < self.source.flushed)
                {
                    return found(
                        "spool",
                        format!(
                            "the registry was told that all before {} is safe, and the spool ends at {:?}",
                            self.source.flushed,
                            end.map(|e| e.end_lsn)
                        ),
                    );
                }
                let (streams, items) = (run.kept.len(), run.outbox.len());
                self.run = Some(run);
                did(format!("starts with {streams} streams and {items} items"))
            }
            Err(_) if self.disk.is_dead() || self.disk.happened().failed > failures => {
                did("cannot start: its disk fails")
            }
            Err(why) => found(
                "spool",
                format!("agent {} cannot start: {why}", self.number),
            ),
        }
    }

    fn recover(&mut self) -> Result<Run, String> {
        let text = |e: std::io::Error| e.to_string();
        for dir in ["spool", "outbox", "trust"] {
            durable::create_dir(&self.path(dir)).map_err(text)?;
        }
        let memory = match durable::read_bounded(&self.path("memory"), 4096) {
            Ok(bytes) => Memory::parse(&bytes).ok_or("its memory cannot be read")?,
            Err(_) => Memory {
                last_epoch: EpochNo(0),
                generation: Generation(1),
                term: Term(1),
                fenced: false,
                ordinal: 0,
                anew: true,
            },
        };
        let mut outbox = VecDeque::new();
        for (number, path) in listed(&self.path("outbox")) {
            match durable::read_bounded(&path, 17 << 20)
                .ok()
                .and_then(|b| Item::parse(&b))
            {
                Some(item) => outbox.push_back((number, item)),
                None => return Err(format!("item {number} of its outbox cannot be read")),
            }
        }
        let slips = outbox
            .iter()
            .filter_map(|(_, item): &(u64, Item)| item.slip());
        let ours = slips.collect();
        // The queue holds a number until the log does, whatever the memory's file says.
        let handed = outbox.iter().filter_map(|(_, item)| item.epoch()).max();
        let last_epoch = memory.last_epoch.max(handed.unwrap_or(EpochNo(0)));
        let mut kept = VecDeque::new();
        for (ordinal, path) in listed(&self.path("spool")) {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let id: StreamId = name[9..].parse().map_err(|_| "a stream without a name")?;
            let name = self.stream(id);
            let (spool, _) = Spool::open(&path, &name).map_err(|e| e.to_string())?;
            let first = spool.frames(0).map_err(|e| e.to_string())?.next();
            match first {
                Some(Ok((header, _))) => kept.push_back(Kept {
                    ordinal,
                    id,
                    epoch: header.epoch,
                    term: header.term,
                    spool,
                    next: None,
                }),
                Some(Err(error)) => return Err(error.to_string()),
                // Begun, and nothing of it was ever promised.
                None => self.disk.remove_tree(&path).map_err(text)?,
            }
        }
        let ordinal = kept.back().map_or(0, |kept: &Kept| kept.ordinal + 1);
        let memory = Memory {
            last_epoch,
            ordinal: memory.ordinal.max(ordinal),
            ..memory
        };
        let trust = Trust::of_mandate(
            self.state(),
            &self.founding.mandate,
            &self.founding.keyring,
            "a",
        );
        let trust = trust
            .and_then(|trust| trust.pinned_in(self.path("trust").join("a")))
            .map_err(|e| e.to_string())?;
        let index = durable::read_bounded(&self.path("index"), 16 << 20)
            .ok()
            .and_then(|bytes| {
                let (head, index) = bytes.split_at_checked(36)?;
                let version = VersionNo(u32::from_le_bytes(head[..4].try_into().ok()?));
                let id = Sha256(head[4..].try_into().ok()?);
                Some(((version, id), Index::decode(index).ok()?))
            });
        let (head, index) = match index {
            Some((head, index)) => (Some(head), index),
            None => (None, Index::empty(self.state(), self.registry)),
        };
        Ok(Run {
            next_item: outbox.back().map_or(0, |(n, _)| n + 1),
            memory,
            epoch: None,
            stream: None,
            kept,
            outbox,
            trust,
            index,
            head,
            coming: None,
            control: None,
            journal: None,
            lost: BTreeSet::new(),
            ours,
            marked: 0,
            acked: None,
        })
    }

    fn stream(&self, stream: StreamId) -> StreamName {
        StreamName {
            state: self.state(),
            registry: self.registry,
            stream,
        }
    }

    /// What the verified log says. Whoever starts or was refused reads it first.
    pub fn learn(&mut self, fold: &State) {
        let Some(run) = &mut self.run else { return };
        let Some(known) = fold.registry(self.registry) else {
            return;
        };
        let memory = &mut run.memory;
        memory.last_epoch = memory.last_epoch.max(known.last_epoch());
        if let Some(generation) = fold.generation() {
            memory.generation = memory.generation.max(generation);
        }
        memory.fenced |= known.term > memory.term;
        let head = known.head().map(|h| (h.commit.version, h.id));
        if head != run.head {
            run.head = head;
            run.index = Index::empty(self.founding.state, self.registry);
        }
        let spent = |open: &Open| open.generation < memory.generation;
        if run.epoch.as_ref().is_some_and(spent) {
            (run.epoch, run.stream) = (None, None);
        }
    }

    /// The registry writes.
    pub fn write(&mut self) -> Did {
        self.source.write(&mut self.dice);
        did(format!("writes up to {}", self.source.end()))
    }

    fn remember(&mut self) -> Result<(), ()> {
        let path = self.path("memory");
        let Some(run) = &self.run else { return Err(()) };
        durable::write_atomic(&path, run.memory.text().as_bytes()).map_err(|_| ())
    }

    fn push(&mut self, item: Item) -> Result<(), ()> {
        let Some(run) = &mut self.run else {
            return Err(());
        };
        let number = run.next_item;
        run.next_item += 1;
        let path = self.disk.root().join(format!("outbox/{number:08}"));
        durable::write_atomic(&path, &item.encode()).map_err(|_| ())?;
        run.outbox.push_back((number, item));
        Ok(())
    }

    /// Takes away what was sent.
    fn pop(&mut self) {
        let root = self.disk.root();
        if let Some((number, _)) = self.run.as_mut().and_then(|run| run.outbox.pop_front()) {
            // What stays is sent again, which changes nothing.
            let _ = self.disk.remove(&root.join(format!("outbox/{number:08}")));
        }
    }

    /// Any failure of the own disk ends the process, as a failing agent's is ended by whoever watches over it.
    fn ended<T>(&mut self, _: ()) -> Checked<Option<T>> {
        self.run = None;
        Ok(None)
    }

    /// Opens an epoch if there is none, or its time is over.
    fn epoch(&mut self, now: u64) -> Result<bool, ()> {
        let Some(run) = &mut self.run else {
            return Err(());
        };
        if run.memory.fenced {
            return Ok(false);
        }
        if run
            .epoch
            .as_ref()
            .is_some_and(|open| now < open.since + self.longest)
        {
            return Ok(true);
        }
        (run.epoch, run.stream) = (None, None);
        let memory = run.memory;
        let number = EpochNo(memory.last_epoch.0 + 1);
        let generation = memory.generation;
        if generation.0 as usize > self.founding.mandate.vault.len() {
            return Ok(false);
        }
        let secret = [7; 32];
        let root = EpochRoot::derive(&self.dice.bytes(), &secret).map_err(|_| ())?;
        for generation in [generation, Generation(generation.0 + 1)] {
            let Some((slip, statement)) = self.announcement(number, &root, generation, memory.term)
            else {
                continue;
            };
            if let Some(run) = &mut self.run {
                run.ours.insert(Digest::of(&slip));
            }
            self.push(Item::Object(Kind::Slip, slip))?;
            self.push(Item::Statement(statement))?;
        }
        let Some(run) = &mut self.run else {
            return Err(());
        };
        run.memory.last_epoch = number;
        self.remember()?;
        if let Some(run) = &mut self.run {
            run.epoch = Some(Open {
                number,
                generation,
                root,
                packs: 0,
                since: now,
            });
        }
        Ok(true)
    }

    fn announcement(
        &mut self,
        epoch: EpochNo,
        root: &EpochRoot,
        generation: Generation,
        term: Term,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let row = self.founding.mandate.vault.get(generation.0 as usize - 1)?;
        let vault = self.founding.keyring.sealing_key(&row.key).ok()?;
        let header = SlipHeader {
            state: self.state(),
            registry: self.registry,
            epoch,
            generation,
        };
        let slip = slip::seal(&vault, &header, root, &self.dice.bytes()).ok()?;
        let statement = Epoch {
            state: self.state(),
            mandate: 1,
            registry: self.registry,
            term,
            epoch,
            generation,
            suite: 1,
            slip: Digest::of(&slip),
        };
        Some((slip, self.sign(statement)))
    }

    fn sign(&self, statement: impl Into<Statement>) -> Vec<u8> {
        let signed = Signed::sign_with(statement, &self.key).expect("signs");
        signed.encode().into_bytes()
    }

    /// The next thing to send, if nothing of its kind is under way. `id` will name the request.
    pub fn send(&mut self, step: u64, id: u64) -> Option<(Body, Option<Checkpoint>)> {
        let (name, registry) = (self.name.clone(), self.registry);
        let most = 1 + self.dice.roll(6);
        let run = self.run.as_mut()?;
        let waits =
            |asked: &Option<(u64, u64)>| asked.is_some_and(|(_, since)| step < since + PATIENCE);
        let held = run.trust.held();
        let control = !waits(&run.control) && !run.outbox.is_empty();
        if control && (run.memory.fenced || self.dice.percent(60)) {
            run.control = Some((id, step));
            let body = match &run.outbox.front()?.1 {
                Item::Object(kind, bytes) => Body::Object(*kind, Digest::of(bytes), bytes.clone()),
                Item::Statement(bytes) => Body::Statement(bytes.clone()),
            };
            return Some((body, held));
        }
        if waits(&run.journal) || run.memory.fenced || !run.lost.is_empty() {
            return None;
        }
        let announced = |epoch: EpochNo| {
            let names = |(_, item): &(u64, Item)| item.epoch().is_some_and(|named| named <= epoch);
            !run.outbox.iter().any(names)
        };
        let kept = run.kept.iter().find(|kept| !kept.is_shipped())?;
        if !announced(kept.epoch) {
            return None;
        }
        let (synced, next) = (kept.spool.synced()?.seq, kept.next?);
        let mut bytes = Vec::new();
        for frame in kept.spool.frames(next).ok()?.take(most) {
            let (header, frame) = frame.ok()?;
            if header.seq > synced || (!bytes.is_empty() && bytes.len() + frame.len() > BATCH) {
                break;
            }
            bytes.extend_from_slice(&frame);
        }
        run.journal = Some((id, step));
        Some((Body::Frames(name, registry, kept.id, bytes), held))
    }

    /// What it has not sent yet.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let run = self.run.as_ref();
        run.map_or((0, 0), |run| {
            let frames = run.kept.iter().filter(|kept| !kept.is_shipped()).count();
            (run.outbox.len(), frames)
        })
    }
}

/// Files or directories whose names begin with a number, ascending; temporary ones are nobody's.
fn listed(dir: &std::path::Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            Some((name.get(..8)?.parse().ok()?, entry.path()))
        })
        .collect();
    all.sort();
    all
}

/// The header of the first of these frames.
#[must_use]
pub fn first_of(frames: &[u8]) -> Option<FrameHeader> {
    FrameHeader::parse(frames.get(..FRAME_HEADER)?).ok()
}
