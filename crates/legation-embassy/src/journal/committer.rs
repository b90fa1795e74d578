//! The committer: the one thread that writes the journals of a state.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, RwLock};

use legation_core::canary::{self, Bug};
use legation_core::id::{Digest, RegistryId, StreamId, Term};
use legation_core::journal::{FRAME_HEADER, FrameHeader, FrameKind, Opening, Position as Standing};
use legation_core::statement::{Ack, Signed};
use legation_repo::http::wire::Position;
use legation_repo::journal::JournalDir;
use legation_repo::store::StoreError;
use rustix::process::{Resource, getrlimit};
use tokio::sync::oneshot;

use super::{Append, Index, Job, Stream, acknowledged};
use crate::hosted::Site;
use crate::http::Refused;
use crate::keep;

/// Most requests that share one sync: bounds how long the first of them waits.
const MAX_GROUP: usize = 128;
/// Journals held open between two groups, in parts of the limit of open files, of which each takes two; a group adds at
/// most its own. What is left is for connections, objects and the log, of this and other states.
const OPEN_PART: u64 = 16;
/// Bounds of that number: few are enough to serve, and more than this many registries do not write at once.
const OPEN: std::ops::RangeInclusive<usize> = 16..=512;

pub(super) struct Committer {
    site: Arc<Site>,
    index: Arc<RwLock<Index>>,
    open: BTreeMap<(RegistryId, StreamId), Open>,
    /// Journals after a failed write or sync: they go on from what was synced.
    failed: BTreeMap<(RegistryId, StreamId), JournalDir>,
    /// Most journals held open between two groups.
    most: usize,
    /// Counts uses.
    clock: u64,
}

/// A journal with what has been appended to it, durable or not.
struct Open {
    journal: JournalDir,
    stream: Stream,
    /// When it was last used.
    used: u64,
}

struct Waiting {
    key: (RegistryId, StreamId),
    reply: oneshot::Sender<Result<String, Refused>>,
}

/// One frame of a request.
struct Piece<'a> {
    header: FrameHeader,
    bytes: &'a [u8],
}

impl Committer {
    pub(super) fn new(site: Arc<Site>, index: Arc<RwLock<Index>>) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(files / OPEN_PART).unwrap_or(*OPEN.end());
        Self {
            site,
            index,
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
            most: most.clamp(*OPEN.start(), *OPEN.end()),
            clock: 0,
        }
    }

    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut group = vec![first];
            while group.len() < MAX_GROUP {
                let Ok(job) = jobs.try_recv() else { break };
                group.push(job);
            }
            if self.group(group) {
                return;
            }
        }
    }

    /// What has queued up, under one sync. Whether it was told to stop.
    pub(super) fn group(&mut self, group: Vec<Job>) -> bool {
        let mut waiting = Vec::new();
        for job in group {
            match job {
                Job::Append(append) => self.take(append, &mut waiting),
                Job::Ends { registries, reply } => {
                    self.commit(&mut waiting);
                    let _ = reply.send(self.ends(&registries));
                }
                Job::Stop => {
                    self.commit(&mut waiting);
                    return true;
                }
            }
        }
        self.commit(&mut waiting);
        self.tidy();
        false
    }

    /// Checks and appends one request's frames; it waits for the group's sync unless it is refused.
    fn take(&mut self, append: Append, waiting: &mut Vec<Waiting>) {
        let key = (append.registry, append.stream);
        match self.stage(&append) {
            Ok(()) => waiting.push(Waiting {
                key,
                reply: append.reply,
            }),
            Err(refused) => {
                let _ = append.reply.send(Err(refused));
            }
        }
    }

    fn stage(&mut self, append: &Append) -> Result<(), Refused> {
        let Append {
            writer,
            registry,
            stream,
            frames,
            ..
        } = append;
        let pieces = split(frames)?;
        let Some(first) = pieces.first() else {
            return Err(Refused::malformed("there are no frames in the body"));
        };
        let state = *self.site.keep.dir().state();
        let (term, epoch) = (first.header.term, first.header.epoch);
        for Piece { header, .. } in &pieces {
            if (header.state, header.registry, header.stream) != (state, *registry, *stream) {
                return Err(Refused::bytes(
                    "a frame is of another state, registry or stream than the path says",
                ));
            }
            if (header.term, header.epoch) != (term, epoch) {
                return Err(Refused::bytes(
                    "the frames of one stream are all of one term and epoch",
                ));
            }
        }
        // Asked for every request: what was allowed at the opening may be fenced by now.
        self.site
            .fold()
            .may_journal(writer, *registry, term, epoch)
            .map_err(|r| Refused::policy(r.exit_code(), r.to_string()))?;

        let key = (*registry, *stream);
        let new_stream = !self.known(&key)?;
        if new_stream {
            self.begin(key, first)?;
        }
        let site = self.site.clone();
        let open = self.handle(key)?;
        if (open.stream.term, open.stream.epoch) != (term, epoch) {
            return Err(Refused::bytes(
                "the stream was opened under another term or epoch",
            ));
        }
        let next = open.journal.next_seq();
        let again = pieces.iter().take_while(|p| p.header.seq < next).count();
        if again > 0 {
            compare(&site, &open.journal, key, &pieces[..again])?;
        }
        let Some(new) = pieces.get(again) else {
            return Ok(());
        };
        if open.stream.closed {
            return Err(Refused::conflict(
                "a newer stream of this registry was opened; this one takes no new frames",
            ));
        }
        if new.header.seq != next {
            let detail = format!("frame {} was sent, {next} comes next", new.header.seq);
            return Err(Refused::position(standing(open.journal.position()), detail));
        }
        let skip: usize = pieces[..again].iter().map(|p| p.bytes.len()).sum();
        let room = site.keep.journal_room((frames.len() - skip) as u64);
        if let Err(full) = room {
            if open.journal.position().is_none() {
                self.open.remove(&key);
            }
            return Err(full);
        }
        self.write(key, &frames[skip..])?;
        if new_stream {
            self.leave_others(key);
        }
        Ok(())
    }

    /// A stream that is new here: admitted by its opening frame.
    fn begin(&mut self, key: (RegistryId, StreamId), first: &Piece<'_>) -> Result<(), Refused> {
        let (registry, id) = key;
        let bad = |why: String| Refused::bytes(format!("the stream cannot be opened: {why}"));
        if first.header.seq != 0 {
            return Err(Refused::position(
                standing(None),
                "the stream is not known here; send it from frame 0",
            ));
        }
        if first.header.kind != FrameKind::Opening {
            return Err(bad("frame 0 is not an opening".into()));
        }
        let (header, opening) = Opening::parse(first.bytes).map_err(|e| bad(e.to_string()))?;
        let begun = self.begun(key, header.term, opening.previous.map(|(before, _)| before))?;
        if opening.previous.is_none() {
            self.site
                .fold()
                .may_begin_anew(registry, header.term, begun)
                .map_err(|r| Refused::policy(r.exit_code(), r.to_string()))?;
        } else if begun > 0 {
            return Err(Refused::conflict(
                "another stream continues the one that this names; one stream has one that follows",
            ));
        }
        if let Some((previous, chain)) = opening.previous {
            // The end of the stream before must be here first, or WAL between the two would be missing.
            let there = self.standing((registry, previous))?;
            if there.as_ref().is_none_or(|p| p.chain != chain) {
                let detail =
                    format!("the stream before it, {previous}, must be here up to its end first");
                return Err(Refused::position(standing(there), detail));
            }
        }
        let journal = self.opened(key)?;
        let stream = Stream::opened(
            &header,
            &opening,
            Standing {
                stream: id,
                seq: 0,
                chain: Digest([0; 32]),
                end_lsn: header.end_lsn,
                timeline: header.timeline,
            },
        );
        let used = self.clock;
        // An earlier try may have left frames that were never acknowledged; they are compared like any others.
        self.open.insert(
            key,
            Open {
                journal,
                stream,
                used,
            },
        );
        Ok(())
    }

    /// How many other streams of a registry there are in a term with this stream before them.
    fn begun(
        &self,
        (registry, id): (RegistryId, StreamId),
        term: Term,
        previous: Option<StreamId>,
    ) -> Result<usize, Refused> {
        let index = self.index.read().map_err(|_| Refused::failed())?;
        let known: BTreeMap<_, _> = index
            .iter()
            .chain(self.open.iter().map(|(key, open)| (key, &open.stream)))
            .collect();
        let alike = |(key, stream): &(&(RegistryId, StreamId), &Stream)| {
            key.0 == registry
                && key.1 != id
                && stream.term == term
                && stream.previous.map(|(before, _)| before) == previous
        };
        Ok(known.into_iter().filter(alike).count())
    }

    /// The journal of a stream that is not open: after a failure from what was synced, else as it lies there.
    fn opened(&mut self, key: (RegistryId, StreamId)) -> Result<JournalDir, Refused> {
        let opened = match self.failed.get(&key) {
            Some(failed) => failed.reopen(),
            None => {
                let floor = acknowledged(&self.site.fold(), key.0, key.1);
                let dir = self.site.keep.dir();
                dir.open_journal_from(key.0, &key.1, floor)
            }
        };
        let (journal, _) = opened.map_err(keep::refused)?;
        self.failed.remove(&key);
        Ok(journal)
    }

    /// Takes a journal out of use after a failed write or sync.
    fn fail(&mut self, key: (RegistryId, StreamId)) {
        if let Some(open) = self.open.remove(&key) {
            self.failed.insert(key, open.journal);
        }
    }

    /// Appends without a sync. After any failure but a refusal the handle is finished.
    fn write(&mut self, key: (RegistryId, StreamId), frames: &[u8]) -> Result<(), Refused> {
        let Some(open) = self.open.get_mut(&key) else {
            return Err(Refused::failed());
        };
        match open.journal.append(frames) {
            Ok(position) => {
                open.stream.position = position;
                open.stream.bytes += frames.len() as u64;
                self.site.keep.count(frames.len() as u64);
                Ok(())
            }
            Err(StoreError::Refused { why, .. }) => {
                if open.journal.position().is_none() {
                    self.open.remove(&key);
                }
                Err(Refused::bytes(format!("the frames do not hold: {why}")))
            }
            Err(error) => {
                self.fail(key);
                Err(keep::refused(error))
            }
        }
    }

    /// Syncs every journal that somebody waits for, once, then signs and answers.
    fn commit(&mut self, waiting: &mut Vec<Waiting>) {
        let mut outcomes: BTreeMap<(RegistryId, StreamId), Result<String, Refused>> =
            BTreeMap::new();
        for Waiting { key, reply } in waiting.drain(..) {
            let outcome = match outcomes.get(&key) {
                Some(outcome) => outcome.clone(),
                None => {
                    let outcome = self.settle(key);
                    outcomes.insert(key, outcome.clone());
                    outcome
                }
            };
            // A client that went away asks again with the same bytes.
            let _ = reply.send(outcome);
        }
    }

    fn settle(&mut self, key: (RegistryId, StreamId)) -> Result<String, Refused> {
        let Some(open) = self.open.get_mut(&key) else {
            return Err(Refused::failed());
        };
        let synced = match canary::planted(Bug::AckBeforeSync) {
            true => Ok(open.journal.position()),
            false => open.journal.sync(),
        };
        let durable = match synced {
            Ok(durable) => durable,
            Err(error) => {
                self.fail(key);
                return Err(keep::refused(error));
            }
        };
        let Some(position) = durable else {
            return Err(Refused::failed());
        };
        open.stream.position = position;
        let stream = open.stream.clone();
        let ack = Ack {
            state: *self.site.keep.dir().state(),
            embassy: self.site.label.clone(),
            registry: key.0,
            term: stream.term,
            stream: key.1,
            sequence: position.seq,
            chain: position.chain,
            lsn: position.end_lsn,
            at: self.site.now(),
        };
        match self.index.write() {
            Ok(mut index) => {
                index.insert(key, stream);
            }
            Err(_) => return Err(Refused::failed()),
        }
        match Signed::sign_with(ack, &self.site.signing) {
            Ok(signed) => Ok(signed.encode()),
            Err(error) => {
                tracing::error!(%error, "cannot sign an acknowledgement");
                Err(Refused::failed())
            }
        }
    }

    /// The live stream of each registry under the given term or an older one, by what is durable.
    fn ends(&self, registries: &[(RegistryId, Term)]) -> Vec<(RegistryId, Option<Stream>)> {
        let Ok(index) = self.index.read() else {
            return Vec::new();
        };
        let newest = |registry: RegistryId, term: Term| {
            index
                .iter()
                .filter(|((r, _), s)| *r == registry && s.term <= term)
                .map(|(_, s)| s)
                .max_by_key(|s| (!s.closed, s.age()))
                .cloned()
        };
        registries
            .iter()
            .map(|(registry, term)| (*registry, newest(*registry, *term)))
            .collect()
    }

    fn known(&self, key: &(RegistryId, StreamId)) -> Result<bool, Refused> {
        let index = self.index.read().map_err(|_| Refused::failed())?;
        Ok(self.open.contains_key(key) || index.contains_key(key))
    }

    /// Where a stream stands, appended or durable.
    fn standing(&self, key: (RegistryId, StreamId)) -> Result<Option<Standing>, Refused> {
        if let Some(open) = self.open.get(&key) {
            return Ok(open.journal.position());
        }
        let index = self.index.read().map_err(|_| Refused::failed())?;
        Ok(index.get(&key).map(|s| s.position))
    }

    fn handle(&mut self, key: (RegistryId, StreamId)) -> Result<&mut Open, Refused> {
        if !self.open.contains_key(&key) {
            let stream = {
                let index = self.index.read().map_err(|_| Refused::failed())?;
                index.get(&key).cloned().ok_or_else(Refused::failed)?
            };
            let journal = self.opened(key)?;
            let used = self.clock;
            self.open.insert(
                key,
                Open {
                    journal,
                    stream,
                    used,
                },
            );
        }
        self.clock += 1;
        let open = self.open.get_mut(&key).ok_or_else(Refused::failed)?;
        open.used = self.clock;
        Ok(open)
    }

    /// A new stream of a registry ends the others: one writer, one stream.
    fn leave_others(&mut self, newest: (RegistryId, StreamId)) {
        let others = |key: &(RegistryId, StreamId)| key.0 == newest.0 && key.1 != newest.1;
        for (_, open) in self.open.iter_mut().filter(|(key, _)| others(key)) {
            open.stream.closed = true;
        }
        if let Ok(mut index) = self.index.write() {
            for (_, stream) in index.iter_mut().filter(|(key, _)| others(key)) {
                stream.closed = true;
            }
        }
    }

    /// Closes handles after a group: those of streams that are over, and the longest unused beyond the bound. Nobody
    /// waits for them now. Only what is synced is closed.
    fn tidy(&mut self) {
        let synced = |open: &Open| open.journal.position() == open.journal.synced();
        self.open
            .retain(|_, open| !(open.stream.closed && synced(open)));
        let Some(excess) = self.open.len().checked_sub(self.most) else {
            return;
        };
        let mut idle: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| synced(open))
            .map(|(key, open)| (open.used, *key))
            .collect();
        idle.sort_unstable();
        for (_, key) in idle.into_iter().take(excess) {
            self.open.remove(&key);
        }
    }
}

/// Frames that were sent before must be the very bytes that are kept; others are evidence of a second history.
fn compare(
    site: &Site,
    journal: &JournalDir,
    (registry, stream): (RegistryId, StreamId),
    again: &[Piece<'_>],
) -> Result<(), Refused> {
    let Some(first) = again.first() else {
        return Ok(());
    };
    let mut kept = journal.frames(first.header.seq).map_err(keep::refused)?;
    for piece in again {
        let Some(frame) = kept.next() else {
            return Err(Refused::failed());
        };
        let (_, frame) = frame.map_err(keep::refused)?;
        if frame != piece.bytes {
            let seq = piece.header.seq;
            site.keep
                .evidence(&format!("frame-{registry}-{stream}-{seq}"), piece.bytes);
            let detail = format!(
                "frame {seq} was acknowledged with other bytes; both are kept, open a new stream"
            );
            return Err(Refused::conflict(detail));
        }
    }
    Ok(())
}

/// Cuts a body into frames by the sizes in their headers.
fn split(mut bytes: &[u8]) -> Result<Vec<Piece<'_>>, Refused> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let head = bytes
            .get(..FRAME_HEADER)
            .ok_or_else(|| Refused::malformed("the last frame is cut short"))?;
        let header = FrameHeader::parse(head)
            .map_err(|e| Refused::bytes(format!("this is no frame: {e}")))?;
        let size = header.size.bytes();
        if bytes.len() < size {
            return Err(Refused::malformed("the last frame is cut short"));
        }
        let (frame, rest) = bytes.split_at(size);
        pieces.push(Piece {
            header,
            bytes: frame,
        });
        bytes = rest;
    }
    Ok(pieces)
}

fn standing(position: Option<Standing>) -> Position {
    match position {
        Some(p) => Position {
            next: p.seq + 1,
            chain: p.chain,
        },
        None => Position {
            next: 0,
            chain: Digest([0; 32]),
        },
    }
}
