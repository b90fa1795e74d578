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

    /// Seals some of the registry's log, syncs it if the dice say so, and tells the registry what is safe.
    ///
    /// # Errors
    /// When a key and nonce were used twice.
    pub fn pump(&mut self, now: u64, audit: &mut Audit) -> Did {
        let _on = self.disk.on();
        let syncs = self.dice.percent(60);
        match self.pump_some(now, audit, 1 + self.dice.clone().roll(4), syncs) {
            Ok(checked) => checked,
            Err(()) => self.ended(()),
        }
    }

    fn pump_some(
        &mut self,
        now: u64,
        audit: &mut Audit,
        frames: usize,
        syncs: bool,
    ) -> Result<Did, ()> {
        if !self.epoch(now)? {
            return Ok(nothing());
        }
        if self.run.as_ref().is_some_and(|run| run.stream.is_none()) {
            match self.begin(audit)? {
                Ok(true) => {}
                Ok(false) => return Ok(nothing()),
                Err(violation) => return Ok(Err(violation)),
            }
        }
        let mut sealed = 0;
        for _ in 0..frames {
            let most = 1 + self.dice.roll(30_000);
            let Some(run) = &mut self.run else {
                return Err(());
            };
            let (Some(open), Some(kept)) = (&mut run.stream, run.kept.back_mut()) else {
                return Ok(nothing());
            };
            let at = open.sealer.position().end_lsn;
            let wal = self.source.wal(at, most).to_vec();
            if wal.is_empty() {
                break;
            }
            let frame = open.sealer.frame(at, MAIN_LINE, &wal).map_err(|_| ())?;
            if let Err(violation) = audit.sealed_frame(&open.commitment, &frame, &wal) {
                return Ok(Err(violation));
            }
            open.sealed.push(wal);
            sealed += 1;
            kept.spool.append(&frame).map_err(|_| ())?;
        }
        if syncs {
            let Some(kept) = self.run.as_mut().and_then(|run| run.kept.back_mut()) else {
                return Err(());
            };
            if let Some(position) = kept.spool.sync().map_err(|_| ())? {
                self.source.flushed = position.end_lsn;
            }
        }
        let flushed = self.source.flushed;
        Ok(did(format!("seals {sealed} frames, safe up to {flushed}")))
    }

    /// Begins a stream under the current epoch.
    fn begin(&mut self, audit: &mut Audit) -> Result<Checked<bool>, ()> {
        let (id, rng) = (StreamId(self.dice.bytes()), self.dice.bytes::<32>());
        let state = self.state();
        let Some(run) = &mut self.run else {
            return Err(());
        };
        let Some(open) = &run.epoch else {
            return Ok(Ok(false));
        };
        // What a stream continues is whole and durable first, or it could never be sent.
        if let Some(kept) = run.kept.back_mut() {
            kept.spool.sync().map_err(|_| ())?;
        }
        let last = run.kept.back().and_then(Kept::end);
        if last.is_none() && !run.memory.anew {
            return Ok(Ok(false));
        }
        let lsn = last.map_or(self.source.flushed, |end| end.end_lsn);
        let start = StreamStart {
            state,
            registry: self.registry,
            epoch: open.number,
            term: run.memory.term,
            stream: id,
            branch: MAIN,
            system_id: self.source.system_id,
            timeline: MAIN_LINE,
            lsn,
            previous: last.map(|end| (end.stream, end.chain)),
        };
        let (sealer, frame) = StreamSealer::open(&start, &open.root, &rng, b"").map_err(|_| ())?;
        let commitment = match audit.opened_stream(&frame) {
            Ok(commitment) => commitment,
            Err(violation) => return Ok(Err(violation)),
        };
        let (epoch, term, ordinal) = (open.number, run.memory.term, run.memory.ordinal);
        run.memory.ordinal += 1;
        run.memory.anew = false;
        let name = self.stream(id);
        let path = self.path(&format!("spool/{ordinal:08}-{id}"));
        let (mut spool, _) = Spool::open(&path, &name).map_err(|_| ())?;
        spool.append(&frame).map_err(|_| ())?;
        spool.sync().map_err(|_| ())?;
        self.source.flushed = lsn;
        self.remember()?;
        if let Some(run) = &mut self.run {
            run.kept.push_back(Kept {
                ordinal,
                id,
                epoch,
                term,
                spool,
                next: Some(0),
            });
            run.stream = Some(Sealing {
                id,
                sealer,
                commitment,
                start: (start, rng),
                sealed: Vec::new(),
            });
        }
        Ok(Ok(true))
    }

    /// Captures a version of the registry's files, as they are now.
    ///
    /// # Errors
    /// When a key and nonce were used twice.
    pub fn capture(&mut self, now: u64, time: Time, audit: &mut Audit) -> Did {
        let _on = self.disk.on();
        match self.capture_one(now, time, audit) {
            Ok(checked) => checked,
            Err(()) => self.ended(()),
        }
    }

    fn capture_one(&mut self, now: u64, time: Time, audit: &mut Audit) -> Result<Did, ()> {
        let Some(run) = &self.run else { return Err(()) };
        // One version at a time.
        let on_its_way = |(_, item): &(u64, Item)| item.is_commit();
        if run.coming.is_some() || run.outbox.iter().any(on_its_way) || !self.epoch(now)? {
            return Ok(nothing());
        }
        // The log up to here is sealed first: the version starts there.
        while self
            .run
            .as_ref()
            .and_then(|run| run.stream.as_ref())
            .is_none_or(|open| open.sealer.position().end_lsn < self.source.end())
        {
            let before = self.source.flushed;
            match self.pump_some(now, audit, 64, true)? {
                Ok(Some(_)) if self.source.flushed > before => {}
                Ok(Some(_)) if self.source.flushed == self.source.end() => break,
                Ok(_) => return Ok(nothing()),
                Err(violation) => return Ok(Err(violation)),
            }
        }
        let whole = self.dice.percent(25);
        let mut rng = self.dice.fork();
        let Some(run) = &mut self.run else {
            return Err(());
        };
        let (Some(open), Some(stream)) = (&mut run.epoch, &run.stream) else {
            return Ok(nothing());
        };
        let place = Place {
            state: self.founding.state,
            registry: self.registry,
            epoch: open.number,
            next_seq: open.packs,
        };
        let version = VersionNo(run.head.map_or(1, |(version, _)| version.0 + 1));
        let mut packs: Vec<(u32, SealedPack)> = Vec::new();
        let parent = run.index.clone();
        let mut writer = VersionWriter::new(place, &open.root, &parent, &mut packs, &mut rng);
        let written = (|| {
            writer.source("tree", "t")?;
            for (name, content) in &self.source.files {
                let known = parent
                    .source("tree", "t")
                    .and_then(|s| s.entry(name.as_bytes()));
                let same = known.filter(|known| {
                    !whole && known.mtime == mtime(content) && known.size == content.len() as u64
                });
                if let Some(known) = same {
                    writer.unchanged(known.clone())?;
                    continue;
                }
                writer.begin(Entry {
                    path: name.clone().into_bytes(),
                    kind: EntryKind::File,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    mtime: mtime(content),
                    size: 0,
                    xattrs: BTreeMap::new(),
                    extents: Extents::default(),
                })?;
                writer.data(0, content)?;
                writer.end()?;
            }
            writer.finish(version)
        })();
        let Ok(finished) = written else {
            return Ok(found("agent", "a version cannot be written"));
        };
        open.packs = finished.next_seq;
        let end = stream.sealer.position();
        let list = finished.list.encode();
        let mut epochs = finished.list.epochs();
        epochs.push(stream.start.0.epoch);
        let commit = Commit {
            state: self.founding.state,
            mandate: 1,
            registry: self.registry,
            term: run.memory.term,
            branch: Branch::Main,
            version,
            parent: run.head.map(|(_, id)| id),
            class: self.founding.mandate.retention[0].class.clone(),
            suite: 1,
            epochs: EpochSet::of(epochs).ok_or(())?,
            packs: Packs {
                count: finished.list.rows().len() as u64,
                list: Digest::of(&list),
            },
            bytes: finished.list.bytes(),
            root: RootRow {
                epoch: finished.root.epoch,
                seq: finished.root.seq,
                index: finished.root.index,
                offset: finished.root.offset,
                sealed: finished.root.sealed,
                plain: finished.root.plain,
            },
            timeline: Some(MAIN_LINE),
            wal: Some(WalRange {
                start: end.end_lsn,
                stop: end.end_lsn,
            }),
            stream: Some(stream.id),
            captured: time,
        };
        let statement = self.sign(commit);
        let id = Signed::parse(&statement).map_err(|_| ())?.id();
        let captured = Captured {
            registry: self.registry,
            files: self.source.files.clone(),
        };
        audit.versions.insert(Digest::of(&list), captured);
        let count = packs.len();
        for (_, pack) in packs {
            if let Err(violation) = audit.sealed_pack(&pack.bytes) {
                return Ok(Err(violation));
            }
            self.push(Item::Object(Kind::Pack, pack.bytes))?;
        }
        self.push(Item::Object(Kind::List, list))?;
        self.push(Item::Statement(statement))?;
        if let Some(run) = &mut self.run {
            run.coming = Some((id, version, finished.index));
        }
        Ok(did(format!("captures {version} in {count} packs")))
    }

    /// Marks how far the stream has come.
    pub fn mark(&mut self, time: Time) -> Did {
        let _on = self.disk.on();
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let Some(acked) = run.acked.filter(|acked| acked.seq > run.marked) else {
            return nothing();
        };
        let Some(kept) = run.kept.iter().find(|kept| kept.id == acked.stream) else {
            return nothing();
        };
        let mark = Mark {
            state: self.founding.state,
            mandate: 1,
            registry: self.registry,
            term: kept.term,
            epoch: kept.epoch,
            stream: acked.stream,
            sequence: acked.seq,
            chain: acked.chain,
            timeline: acked.timeline,
            lsn: acked.end_lsn,
            at: time,
        };
        run.marked = acked.seq;
        let statement = self.sign(mark);
        match self.push(Item::Statement(statement)) {
            Ok(()) => did(format!("marks frame {}", acked.seq)),
            Err(()) => self.ended(()),
        }
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

    /// An answer came. `prove` fetches a proof between two sizes of the log.
    ///
    /// # Errors
    /// When an answer that should be right cannot be verified.
    pub fn hear(
        &mut self,
        id: u64,
        body: &Body,
        held: Option<&Checkpoint>,
        answer: Answer,
        time: Time,
        prove: &mut dyn FnMut(u64, u64) -> Option<Vec<Sha256>>,
    ) -> Did {
        let _on = self.disk.on();
        let heard = match (body, answer) {
            (Body::Object(..), Answer::Kept) => {
                self.sent(id);
                nothing()
            }
            (Body::Statement(bytes), Answer::Receipt(receipt)) => {
                self.receipt(id, bytes, held, &receipt, prove)
            }
            (Body::Frames(_, _, stream, bytes), Answer::Ack(ack)) => {
                self.acked(id, *stream, bytes, &ack, time)
            }
            (body, Answer::Refused(problem)) => self.refused(id, body, &problem, time),
            _ => nothing(),
        };
        if self.disk.is_dead() {
            self.run = None;
        }
        heard
    }

    /// The front of the outbox was taken, unless the answer is an old one.
    fn sent(&mut self, id: u64) -> bool {
        let Some(run) = &mut self.run else {
            return false;
        };
        let is_this = run.control.is_some_and(|(asked, _)| asked == id);
        if is_this {
            run.control = None;
            self.pop();
        }
        is_this
    }

    fn receipt(
        &mut self,
        id: u64,
        bytes: &[u8],
        held: Option<&Checkpoint>,
        body: &ReceiptBody,
        prove: &mut dyn FnMut(u64, u64) -> Option<Vec<Sha256>>,
    ) -> Did {
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let Ok(signed) = Signed::parse(bytes) else {
            return nothing();
        };
        let unproven = |what: String| legation_repo::http::ClientError::Local(what);
        let verified = run.trust.receipt(&signed, held, body, |old, new| {
            prove(old, new).ok_or_else(|| unproven(format!("no proof from {old} to {new}")))
        });
        match verified {
            Ok(_) => {}
            // Its own disk, or nobody to ask for the proof.
            Err(legation_repo::http::ClientError::Local(_)) => return nothing(),
            Err(error) => return found("trust", error.to_string()),
        }
        if !self.sent(id) {
            return nothing();
        }
        let Some(run) = &mut self.run else {
            return nothing();
        };
        match signed.statement() {
            Ok(Statement::Commit(commit)) => {
                run.head = Some((commit.version, signed.id()));
                if let Some((_, version, index)) =
                    run.coming.take().filter(|(id, ..)| *id == signed.id())
                {
                    let mut bytes = version.0.to_le_bytes().to_vec();
                    bytes.extend_from_slice(&signed.id().0);
                    bytes.extend_from_slice(&index.encode());
                    run.index = index;
                    // A lost index costs a full capture.
                    let _ = durable::write_atomic(&self.path("index"), &bytes);
                } else {
                    run.index = Index::empty(self.founding.state, self.registry);
                }
                did(format!("has a receipt of version {}", commit.version))
            }
            Ok(Statement::Gap(_)) => {
                run.memory.anew = true;
                match self.remember() {
                    Ok(()) => did("has a receipt of a gap"),
                    Err(()) => self.ended(()),
                }
            }
            Ok(Statement::Epoch(epoch)) => {
                self.announced(epoch.epoch);
                did(format!("has a receipt of epoch {}", epoch.epoch))
            }
            _ => nothing(),
        }
    }

    /// An epoch is logged: its other announcement, for the case that the first is refused, is not needed.
    fn announced(&mut self, epoch: EpochNo) {
        let of_epoch = |item: &Item| match item {
            Item::Object(Kind::Slip, bytes) => {
                slip::header(bytes).is_ok_and(|header| header.epoch == epoch)
            }
            item => item.epoch() == Some(epoch),
        };
        let Some(run) = &mut self.run else { return };
        let waiting = run.outbox.iter();
        let gone: Vec<u64> = waiting
            .filter(|(_, item)| of_epoch(item))
            .map(|(number, _)| *number)
            .collect();
        run.outbox.retain(|(number, _)| !gone.contains(number));
        for number in gone {
            let path = self.path(&format!("outbox/{number:08}"));
            let _ = self.disk.remove(&path);
        }
    }

    fn acked(&mut self, id: u64, stream: StreamId, sent: &[u8], ack: &str, time: Time) -> Did {
        let (state, registry, root) = (self.state(), self.registry, self.disk.root());
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let verified = run
            .trust
            .acknowledgement(state, registry, &stream, ack.as_bytes());
        let (ack, _) = match verified {
            Ok(verified) => verified,
            Err(error) => return found("trust", error.to_string()),
        };
        if run.journal.is_some_and(|(asked, _)| asked == id) {
            run.journal = None;
        }
        let Some(kept) = run.kept.iter_mut().find(|kept| kept.id == stream) else {
            return nothing();
        };
        let ahead = kept.spool.synced().is_none_or(|own| own.seq < ack.sequence);
        let same = !ahead && kept.chain_at(ack.sequence) == Some(ack.chain);
        if !same {
            // Somebody else went on with this stream: another self, or a thief.
            return self.anew(time, "the embassy has other frames");
        }
        let _ = sent;
        kept.next = kept.next.max(Some(ack.sequence + 1));
        run.acked = Some(Position {
            stream,
            seq: ack.sequence,
            chain: ack.chain,
            end_lsn: ack.lsn,
            timeline: MAIN_LINE,
        });
        // Older streams go when all of them is abroad; the newest says where to go on.
        while run.kept.len() > 1 && run.kept[0].is_shipped() {
            if let Some(gone) = run.kept.pop_front() {
                let path = root.join(format!("spool/{:08}-{}", gone.ordinal, gone.id));
                drop(gone);
                let _ = self.disk.remove_tree(&path);
            }
        }
        did(format!("has an ack of frame {}", ack.sequence))
    }

    fn refused(&mut self, id: u64, body: &Body, problem: &Problem, time: Time) -> Did {
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let (of_control, of_journal) = (
            run.control.is_some_and(|(asked, _)| asked == id),
            run.journal.is_some_and(|(asked, _)| asked == id),
        );
        if !of_control && !of_journal {
            return nothing();
        }
        let retry = [kind::FULL, kind::BUSY, kind::FAILED].contains(&problem.kind.as_str());
        if retry {
            // It is asked again when patience ends.
            return did(format!("is told: {}", problem.title));
        }
        if of_control {
            run.control = None;
        } else {
            run.journal = None;
        }
        if problem.kind == kind::FENCED {
            run.memory.fenced = true;
            while self.run.as_ref().is_some_and(|run| !run.outbox.is_empty()) {
                self.pop();
            }
            return match self.remember() {
                Ok(()) => did("is fenced"),
                Err(()) => self.ended(()),
            };
        }
        match body {
            Body::Object(..) => {
                self.pop();
                did(format!("keeps an object to itself: {}", problem.title))
            }
            Body::Statement(bytes) => {
                if problem.kind == kind::INCOMPLETE {
                    return found(
                        "receipt",
                        format!("what was kept is gone: {}", problem.detail),
                    );
                }
                // The last announcement of an epoch stays in the queue until the log has said whose the epoch is.
                let epoch = run.outbox.front().and_then(|(_, item)| item.epoch());
                let of = |epoch| move |(_, item): &(u64, Item)| item.epoch() == Some(epoch);
                let last = epoch.filter(|epoch| !run.outbox.iter().skip(1).any(of(*epoch)));
                if let Some(epoch) = last {
                    run.lost.insert(epoch);
                    return did(format!("may have lost epoch {epoch}"));
                }
                self.pop();
                self.not_logged(bytes, problem, time)
            }
            Body::Frames(_, _, stream, _) => {
                if !run.kept.iter().any(|kept| kept.id == *stream) {
                    return nothing();
                }
                if problem.position.is_none() {
                    return self.anew(time, &problem.detail);
                }
                // Where do the streams stand?
                for kept in &mut run.kept {
                    kept.next = None;
                }
                did("does not know where its streams stand")
            }
        }
    }

    /// Whether it has to ask where its streams stand.
    #[must_use]
    pub fn wonders(&self) -> bool {
        let run = self.run.as_ref();
        run.is_some_and(|run| run.kept.iter().any(|kept| kept.next.is_none()))
    }

    /// Where the embassy's streams of the registry stand.
    ///
    /// # Errors
    /// None of its own.
    pub fn told(&mut self, streams: &[StreamBody], time: Time) -> Did {
        let _on = self.disk.on();
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let mut other = false;
        for kept in &mut run.kept {
            let standing = streams.iter().find(|s| s.stream == kept.id);
            let next = standing.map_or(0, |standing| standing.next);
            let own = kept.spool.synced().map_or(0, |end| end.seq + 1);
            other |= next > own;
            let same = |standing: &StreamBody| kept.chain_at(next - 1) == Some(standing.chain);
            other |= next > 0 && next <= own && !standing.is_some_and(same);
            kept.next = Some(next);
        }
        if other {
            return self.anew(time, "the embassy has other frames");
        }
        did("is told where its streams stand")
    }

    /// A statement was refused for good.
    fn not_logged(&mut self, bytes: &[u8], problem: &Problem, time: Time) -> Did {
        let Ok(Ok(statement)) = Signed::parse(bytes).map(|signed| signed.statement()) else {
            return nothing();
        };
        let Some(run) = &mut self.run else {
            return nothing();
        };
        match statement {
            Statement::Commit(commit) => {
                run.coming = None;
                did(format!(
                    "gives version {} up: {}",
                    commit.version,
                    short(problem)
                ))
            }
            Statement::Gap(_) => self.anew(time, "the gap was refused"),
            _ => did(format!("lets a statement go: {}", short(problem))),
        }
    }

    /// Whether epochs that were announced are those that the log has; gives up what was sealed under others.
    ///
    /// # Errors
    /// None of its own.
    pub fn settle_epochs(&mut self, fold: &State, time: Time) -> Did {
        let _on = self.disk.on();
        let (registry, root) = (self.registry, self.disk.root());
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let lost = run.lost.clone();
        let Some(known) = fold.registry(registry) else {
            return nothing();
        };
        let theirs = |epoch: &EpochNo| {
            let slip = known.epoch(*epoch).map(|state| state.slip);
            slip.is_none_or(|slip| !run.ours.contains(&slip))
        };
        let (lost, ours): (Vec<EpochNo>, Vec<EpochNo>) = lost.into_iter().partition(theirs);
        for epoch in ours {
            self.announced(epoch);
        }
        let Some(run) = &mut self.run else {
            return nothing();
        };
        if lost.is_empty() {
            run.lost.clear();
            return nothing();
        }
        let is_lost = |epoch: &EpochNo| lost.contains(epoch);
        if run.epoch.as_ref().is_some_and(|open| is_lost(&open.number)) {
            (run.epoch, run.stream) = (None, None);
        }
        // A version under such an epoch could be opened by nobody.
        let of_lost = |item: &Item| item.is_commit() && item.epochs().iter().any(is_lost);
        let gone: Vec<u64> = run
            .outbox
            .iter()
            .filter(|(_, item)| of_lost(item))
            .map(|(number, _)| *number)
            .collect();
        run.outbox.retain(|(number, _)| !gone.contains(number));
        if !gone.is_empty() {
            run.coming = None;
        }
        for number in gone {
            let _ = self.disk.remove(&root.join(format!("outbox/{number:08}")));
        }
        let streams = self
            .run
            .as_ref()
            .is_some_and(|run| run.kept.iter().any(|k| is_lost(&k.epoch)));
        let did_so = match streams {
            true => self.anew(time, "an epoch is another's")?,
            false => Some("gives an epoch up".to_owned()),
        };
        // Only now the announcements go.
        for epoch in &lost {
            self.announced(*epoch);
        }
        if let Some(run) = &mut self.run {
            run.lost.clear();
            run.control = None;
            if !run.outbox.iter().any(|(_, item)| item.epoch().is_some()) {
                // A number that never came into the log is the next one again, with another root.
                run.memory.last_epoch = known.last_epoch();
            }
        }
        Ok(did_so)
    }

    /// The line of streams is broken: a gap is told of, and then a stream begins that continues none.
    fn anew(&mut self, time: Time, why: &str) -> Did {
        let (registry, root) = (self.registry, self.disk.root());
        let Some(run) = &mut self.run else {
            return nothing();
        };
        let from = run
            .acked
            .map_or(crate::source::START, |acked| acked.end_lsn);
        let gap = Gap {
            state: self.founding.state,
            mandate: 1,
            registry,
            term: run.memory.term,
            timeline: Some(MAIN_LINE),
            wal: Some(WalRange {
                start: from.min(self.source.end()),
                stop: self.source.end(),
            }),
            cause: Cause::AgentLost,
            at: time,
        };
        (run.stream, run.journal, run.acked) = (None, None, None);
        run.memory.anew = false;
        let paths: Vec<PathBuf> = run
            .kept
            .drain(..)
            .map(|kept| root.join(format!("spool/{:08}-{}", kept.ordinal, kept.id)))
            .collect();
        for path in paths {
            if self.disk.remove_tree(&path).is_err() {
                return self.ended(());
            }
        }
        if durable::sync_dir(&root.join("spool")).is_err() {
            return self.ended(());
        }
        // What is missing is told; the registry goes on from here.
        self.source.flushed = crate::source::START;
        let statement = self.sign(gap);
        match self
            .push(Item::Statement(statement))
            .and_then(|()| self.remember())
        {
            Ok(()) => did(format!("begins anew: {why}")),
            Err(()) => self.ended(()),
        }
    }

    /// Keeps a copy of the stopped machine.
    pub fn keep_past(&mut self) -> Did {
        if self.run.is_some() {
            return nothing();
        }
        self.past = Some((self.disk.snapshot(), self.source.clone()));
        did("is copied while stopped")
    }

    /// Keeps a copy of the running machine, memory and all.
    pub fn freeze(&mut self) -> Did {
        let Some(run) = &self.run else {
            return nothing();
        };
        let (Some(open), Some(stream)) = (&run.epoch, &run.stream) else {
            return nothing();
        };
        self.frozen = Some(Frozen {
            snapshot: self.disk.snapshot(),
            source: self.source.clone(),
            epoch: (
                open.number,
                open.generation,
                *open.root.expose(),
                open.packs,
                open.since,
            ),
            start: stream.start,
            sealed: stream.sealed.clone(),
            dice: self.dice.clone(),
        });
        did("is copied while running")
    }

    /// The machine is set back to a copy of it: stopped, or running with the memory that it had. What its registry then
    /// writes is something else.
    ///
    /// # Errors
    /// When its sealer cannot be made again.
    pub fn set_back(&mut self, audit: &mut Audit) -> Did {
        if self.dice.percent(50)
            && let Some((snapshot, source)) = self.past.clone()
        {
            self.run = None;
            self.disk.restore(&snapshot);
            self.source = source;
            self.source.system_id += 100;
            return did("is set back to a stopped copy");
        }
        let Some(frozen) = &self.frozen else {
            return nothing();
        };
        self.run = None;
        self.disk.restore(&frozen.snapshot);
        self.source = frozen.source.clone();
        let (epoch, (start, rng), sealed) = (frozen.epoch, frozen.start, frozen.sealed.clone());
        // Chance itself is set back, for its clones draw the same; only what the registry writes differs.
        let mut fresh = self.dice.fork();
        self.dice = frozen.dice.clone();
        self.source.write(&mut fresh);
        let _on = self.disk.on();
        let Ok(mut run) = self.recover() else {
            return nothing();
        };
        let root = EpochRoot::from_bytes(epoch.2);
        let remade = StreamSealer::open(&start, &root, &rng, b"");
        let Ok((mut sealer, opening)) = remade else {
            return found("agent", "a sealer cannot be made again");
        };
        let commitment = audit.opened_stream(&opening)?;
        // The machine was copied between two frames: the spool ends where the sealer stands, or what was not synced.
        let have = run
            .kept
            .back()
            .filter(|kept| kept.id == start.stream)
            .and_then(Kept::end);
        for wal in &sealed {
            if have.is_none_or(|end| sealer.position().seq >= end.seq) {
                break;
            }
            let at = sealer.position().end_lsn;
            if sealer.frame(at, MAIN_LINE, wal).is_err() {
                return found("agent", "a frame cannot be sealed again");
            }
        }
        let known = sealer.position().seq as usize;
        run.epoch = Some(Open {
            number: epoch.0,
            generation: epoch.1,
            root,
            packs: epoch.3,
            since: epoch.4,
        });
        if have.is_some_and(|end| end.chain == sealer.position().chain) {
            run.stream = Some(Sealing {
                id: start.stream,
                sealer,
                commitment,
                start: (start, rng),
                sealed: sealed[..known.min(sealed.len())].to_vec(),
            });
        }
        self.runs += 1;
        self.run = Some(run);
        did("is set back to a running copy")
    }

    /// How large the log was when it last believed the embassy.
    #[must_use]
    pub fn believed(&self) -> u64 {
        let held = self.run.as_ref().and_then(|run| run.trust.held());
        held.map_or(0, |held| held.size())
    }

    /// Something that it may always say.
    #[must_use]
    pub fn remark(&self, time: Time) -> Vec<u8> {
        self.sign(Gap {
            state: self.state(),
            mandate: 1,
            registry: self.registry,
            term: Term(1),
            timeline: None,
            wal: None,
            cause: Cause::AgentLost,
            at: time,
        })
    }

    /// Whether it believes this answer.
    #[must_use]
    pub fn believes(&self, statement: &[u8], body: &ReceiptBody) -> bool {
        let _on = self.disk.on();
        let (Some(run), Ok(signed)) = (&self.run, Signed::parse(statement)) else {
            return false;
        };
        let held = run.trust.held();
        let unproven = |_, _| Err(legation_repo::http::ClientError::Local(String::new()));
        let verified = run.trust.receipt(&signed, held.as_ref(), body, unproven);
        verified.is_ok()
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

fn short(problem: &Problem) -> &str {
    &problem.title
}

/// A file's time of change, in this model a digest of its content: equal times mean equal bytes.
fn mtime(content: &[u8]) -> Mtime {
    let digest = Digest::of(content).0;
    let secs = i64::from(u32::from_le_bytes([
        digest[0], digest[1], digest[2], digest[3],
    ]));
    Mtime { secs, nanos: 0 }
}

impl Kept {
    fn end(&self) -> Option<Position> {
        self.spool.position()
    }

    fn is_shipped(&self) -> bool {
        let end = self.spool.synced();
        end.is_none_or(|end| self.next.is_some_and(|next| next > end.seq))
    }

    fn chain_at(&self, seq: u64) -> Option<Digest> {
        let (header, frame) = self.spool.frames(seq).ok()?.next()?.ok()?;
        let chain = Digest(*frame.last_chunk()?);
        (header.seq == seq).then_some(chain)
    }
}

impl Item {
    fn encode(&self) -> Vec<u8> {
        let (tag, bytes) = match self {
            Item::Object(Kind::Pack, bytes) => (0, bytes),
            Item::Object(Kind::List, bytes) => (1, bytes),
            Item::Object(Kind::Slip, bytes) => (2, bytes),
            Item::Statement(bytes) => (3, bytes),
        };
        let mut out = vec![tag];
        out.extend_from_slice(bytes);
        out
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let rest = rest.to_vec();
        Some(match tag {
            0 => Item::Object(Kind::Pack, rest),
            1 => Item::Object(Kind::List, rest),
            2 => Item::Object(Kind::Slip, rest),
            3 => Item::Statement(rest),
            _ => return None,
        })
    }

    fn statement(&self) -> Option<Statement> {
        match self {
            Item::Object(..) => None,
            Item::Statement(bytes) => Signed::parse(bytes).ok()?.statement().ok(),
        }
    }

    fn epoch(&self) -> Option<EpochNo> {
        match self.statement()? {
            Statement::Epoch(epoch) => Some(epoch.epoch),
            _ => None,
        }
    }

    fn slip(&self) -> Option<Digest> {
        match self.statement()? {
            Statement::Epoch(epoch) => Some(epoch.slip),
            _ => None,
        }
    }

    fn is_commit(&self) -> bool {
        matches!(self.statement(), Some(Statement::Commit(_)))
    }

    fn epochs(&self) -> Vec<EpochNo> {
        match self.statement() {
            Some(Statement::Commit(commit)) => commit.epochs.iter().collect(),
            _ => Vec::new(),
        }
    }
}

impl Memory {
    fn text(&self) -> String {
        format!(
            "{} {} {} {} {} {}\n",
            self.last_epoch, self.generation, self.term, self.fenced, self.ordinal, self.anew
        )
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.strip_suffix('\n')?.split(' ');
        Some(Self {
            last_epoch: EpochNo(words.next()?.parse().ok()?),
            generation: Generation(words.next()?.parse().ok()?),
            term: Term(words.next()?.parse().ok()?),
            fenced: words.next()?.parse().ok()?,
            ordinal: words.next()?.parse().ok()?,
            anew: words.next()?.parse().ok()?,
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
