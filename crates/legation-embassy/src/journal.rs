//! Live WAL: frames are checked, appended, synced in groups, and only then acknowledged with a signature.
//!
//! One committer thread per state owns all journals. It takes what has queued up, appends every stream's frames, syncs
//! each touched journal once, and signs one acknowledgement per stream: many clients share one sync. Who may write
//! under which term and epoch is the fold's to say, asked again for every request, so that nothing is taken after a
//! fence. Frames are never opened; headers and the running hash are all that is read.

mod committer;

use std::collections::BTreeMap;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use legation_core::id::{Digest, EpochNo, Lsn, RegistryId, StreamId, Term, Timeline};
use legation_core::journal::{FrameHeader, Opening, Position};
use legation_core::policy::State;
use legation_core::statement::{Mark, Name};
use legation_repo::http::wire::{PreviousBody, StreamBody};
use legation_repo::journal::JournalReader;
use legation_repo::store::StoreError;
use tokio::sync::oneshot;

use crate::error::EmbassyError;
use crate::hosted::Site;
use crate::http::Refused;
use crate::keep;
use committer::Committer;

/// Pause between two looks at a full queue.
const QUEUE_PAUSE: Duration = Duration::from_millis(5);

/// Where a stream stands durably.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The term of its opening frame.
    pub term: Term,
    /// The epoch of its opening frame.
    pub epoch: EpochNo,
    /// The stream that it continues.
    pub previous: Option<(StreamId, Digest)>,
    /// The cluster of its opening frame.
    pub system_id: u64,
    /// The timeline of its opening frame.
    pub first_timeline: Timeline,
    /// Where its first byte of WAL lies.
    pub first_lsn: Lsn,
    /// Its last durable frame.
    pub position: Position,
    /// Durable bytes.
    pub bytes: u64,
    /// A newer stream of the registry was opened; this one takes no new frames.
    pub closed: bool,
}

/// All streams by what is durable of them.
pub type Index = BTreeMap<(RegistryId, StreamId), Stream>;

/// A request to the committer.
enum Job {
    Append(Append),
    /// Answers with where each registry's live stream under this term or an older one ends, after everything before
    /// it in the queue was synced.
    Ends {
        registries: Vec<(RegistryId, Term)>,
        reply: mpsc::SyncSender<Vec<(RegistryId, Option<Stream>)>>,
    },
    Stop,
}

struct Append {
    writer: Name,
    registry: RegistryId,
    stream: StreamId,
    frames: Bytes,
    /// The acknowledgement, as a signed text.
    reply: oneshot::Sender<Result<String, Refused>>,
}

/// The journals of one state.
pub struct Journals {
    site: Arc<Site>,
    index: Arc<RwLock<Index>>,
    queue: SyncSender<Job>,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// The committer itself where it has no thread.
    #[cfg(feature = "local")]
    here: Option<Mutex<Committer>>,
}

impl Journals {
    /// Recovers every stream from disk and starts the committer.
    pub fn open(site: Arc<Site>) -> Result<Self, EmbassyError> {
        let index = Arc::new(RwLock::new(recover(&site)?));
        let (queue, jobs) = mpsc::sync_channel(site.limits.appends);
        let committer = Committer::new(site.clone(), index.clone());
        let committer = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || committer.run(&jobs))
            .map_err(EmbassyError::Runtime)?;
        Ok(Self {
            site,
            index,
            queue,
            committer: Mutex::new(Some(committer)),
            #[cfg(feature = "local")]
            here: None,
        })
    }

    /// As [`Journals::open`], without a thread: whoever asks does the committer's work himself.
    #[cfg(feature = "local")]
    pub fn open_here(site: Arc<Site>) -> Result<Self, EmbassyError> {
        let index = Arc::new(RwLock::new(recover(&site)?));
        let committer = Committer::new(site.clone(), index.clone());
        Ok(Self {
            site,
            index,
            queue: mpsc::sync_channel(1).0,
            committer: Mutex::new(None),
            here: Some(Mutex::new(committer)),
        })
    }

    /// One group of requests, as the committer's thread takes it.
    #[cfg(feature = "local")]
    pub fn append_here(
        &self,
        requests: Vec<(Name, RegistryId, StreamId, Bytes)>,
    ) -> Vec<Result<String, Refused>> {
        let (mut group, mut answers) = (Vec::new(), Vec::new());
        for (writer, registry, stream, frames) in requests {
            let (reply, answer) = oneshot::channel();
            answers.push(answer);
            group.push(Job::Append(Append {
                writer,
                registry,
                stream,
                frames,
                reply,
            }));
        }
        self.group_here(group);
        let taken = |mut answer: oneshot::Receiver<_>| answer.try_recv();
        let answers = answers.into_iter().map(taken);
        answers
            .map(|answer| answer.unwrap_or_else(|_| Err(Refused::failed())))
            .collect()
    }

    #[cfg(feature = "local")]
    fn group_here(&self, group: Vec<Job>) {
        if let Some(mut committer) = self.here.as_ref().and_then(|here| here.lock().ok()) {
            committer.group(group);
        }
    }

    /// Appends whole frames and waits until they are durable. Returns the acknowledgement.
    pub async fn append(
        &self,
        writer: Name,
        registry: RegistryId,
        stream: StreamId,
        frames: Bytes,
    ) -> Result<String, Refused> {
        let (reply, answer) = oneshot::channel();
        let mut job = Job::Append(Append {
            writer,
            registry,
            stream,
            frames,
            reply,
        });
        let until = Instant::now() + self.site.limits.queue_wait;
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

    /// Where each registry's live stream ends, once everything queued so far is durable. The fold must already refuse
    /// the registries' old terms: then nothing is acknowledged beyond these ends.
    pub fn ends(
        &self,
        registries: Vec<(RegistryId, Term)>,
    ) -> Option<Vec<(RegistryId, Option<Stream>)>> {
        let (reply, answer) = mpsc::sync_channel(1);
        let job = Job::Ends { registries, reply };
        #[cfg(feature = "local")]
        if self.here.is_some() {
            self.group_here(vec![job]);
            return answer.recv().ok();
        }
        self.queue.send(job).ok()?;
        answer.recv().ok()
    }

    /// What is durable, of one registry or of all.
    pub fn streams(&self, registry: Option<RegistryId>) -> Result<Vec<StreamBody>, Refused> {
        let index = self.index.read().map_err(|_| Refused::failed())?;
        let mut streams: Vec<_> = index
            .iter()
            .filter(|((r, _), _)| registry.is_none_or(|asked| asked == *r))
            .collect();
        streams.sort_by_key(|((r, _), s)| (*r, s.age()));
        let body = |((registry, id), s): (&(RegistryId, StreamId), &Stream)| StreamBody {
            registry: *registry,
            stream: *id,
            term: s.term,
            epoch: s.epoch,
            next: s.position.seq + 1,
            chain: s.position.chain,
            timeline: s.position.timeline,
            first_timeline: s.first_timeline,
            system_id: s.system_id,
            previous: s
                .previous
                .map(|(stream, chain)| PreviousBody { stream, chain }),
            first_lsn: s.first_lsn,
            end_lsn: s.position.end_lsn,
            bytes: s.bytes,
            closed: s.closed,
        };
        Ok(streams.into_iter().map(body).collect())
    }

    /// Whole durable frames from number `from` on, back to back; at least one unless there is none.
    pub fn read(
        &self,
        registry: RegistryId,
        stream: StreamId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u8>, Refused> {
        let nothing = || Refused::not_found(format!("journal {registry}/{stream}"));
        let end = {
            let index = self.index.read().map_err(|_| Refused::failed())?;
            index
                .get(&(registry, stream))
                .ok_or_else(nothing)?
                .position
                .seq
        };
        let mut run = Vec::new();
        if from > end {
            return Ok(run);
        }
        for frame in self
            .site
            .frames(registry, &stream, from)
            .map_err(keep::refused)?
        {
            let (header, frame) = frame.map_err(keep::refused)?;
            if header.seq > end || (!run.is_empty() && run.len() + frame.len() > limit) {
                break;
            }
            run.extend_from_slice(&frame);
        }
        Ok(run)
    }

    /// Whether this embassy keeps the very frame that a mark names. Reads; blocking.
    pub fn bears_out(&self, mark: &Mark) -> Result<(), Refused> {
        let key = (mark.registry, mark.stream);
        let not_so = |why: &str| {
            Err(Refused::incomplete(format!(
                "frame {} of stream {} {why}: mark what this embassy acknowledged",
                mark.sequence, mark.stream
            )))
        };
        let stream = {
            let index = self.index.read().map_err(|_| Refused::failed())?;
            index.get(&key).cloned()
        };
        let Some(stream) = stream else {
            return not_so("is not kept here");
        };
        if mark.sequence > stream.position.seq {
            return not_so("is not kept here");
        }
        let kept = if mark.sequence == stream.position.seq {
            stream.position
        } else {
            let mut frames = self
                .site
                .frames(mark.registry, &mark.stream, mark.sequence)
                .map_err(keep::refused)?;
            let Some(frame) = frames.next() else {
                return not_so("is not kept here");
            };
            frame.map_err(keep::refused)?;
            frames.position().ok_or_else(Refused::failed)?
        };
        let named = (mark.sequence, mark.chain, mark.timeline, mark.lsn);
        if (kept.seq, kept.chain, kept.timeline, kept.end_lsn) != named
            || (stream.term, stream.epoch) != (mark.term, mark.epoch)
        {
            return not_so("is another one here");
        }
        Ok(())
    }

    /// Stops the committer after what is queued.
    pub fn close(&self) {
        let _ = self.queue.send(Job::Stop);
        let thread = self.committer.lock().ok().and_then(|mut held| held.take());
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Stream {
    /// Orders the streams of a registry by age, as far as their headers tell.
    fn age(&self) -> (Term, EpochNo, Timeline, Lsn) {
        (
            self.term,
            self.epoch,
            self.position.timeline,
            self.position.end_lsn,
        )
    }

    fn opened(header: &FrameHeader, opening: &Opening, position: Position) -> Self {
        Self {
            term: header.term,
            epoch: header.epoch,
            previous: opening.previous,
            system_id: opening.system_id,
            first_timeline: header.timeline,
            first_lsn: header.first_lsn,
            position,
            bytes: 0,
            closed: false,
        }
    }
}

/// Reads every stream's opening and end. A stream that never got a whole frame does not count.
fn recover(site: &Site) -> Result<Index, StoreError> {
    let mut index = Index::new();
    let dir = site.keep.dir();
    let fold = site.fold();
    for (registry, id) in dir.journals()? {
        // Opening cuts off a torn tail and makes the rest durable; the handle is opened again when it is written to.
        let floor = acknowledged(&fold, registry, id);
        let (position, damaged) = match dir.open_journal_from(registry, &id, floor) {
            Ok((_, recovered)) => {
                if let Some(torn) = &recovered.torn {
                    tracing::warn!(%registry, bytes = torn.bytes, "cut an unacknowledged tail off a journal");
                }
                (recovered.position, false)
            }
            // Damage to one stream keeps neither the log nor the other streams from going on.
            Err(StoreError::Damaged { what, why }) => {
                tracing::error!(
                    what,
                    why,
                    "damaged: it takes no more frames, what holds of it is served"
                );
                (site.whole(registry, &id), true)
            }
            Err(error) => return Err(error),
        };
        let Some(position) = position else {
            continue;
        };
        let Some(first) = site.frames(registry, &id, 0)?.next() else {
            continue;
        };
        let (_, first) = first?;
        let (header, opening) = Opening::parse(&first).map_err(|e| StoreError::Damaged {
            what: format!("journal {registry}/{id}"),
            why: e.to_string(),
        })?;
        let mut stream = Stream::opened(&header, &opening, position);
        stream.bytes = bytes_in(site, registry, &id)?;
        site.keep.count(stream.bytes);
        stream.closed = damaged;
        index.insert((registry, id), stream);
    }
    let newest: BTreeMap<_, _> = {
        let mut newest = BTreeMap::new();
        for ((registry, _), s) in &index {
            let epoch = newest.entry(*registry).or_insert((s.term, s.epoch));
            *epoch = (*epoch).max((s.term, s.epoch));
        }
        newest
    };
    let left: Vec<_> = index
        .iter()
        .filter_map(|((r, _), s)| Some((*r, s.previous?.0)))
        .collect();
    for ((registry, id), s) in &mut index {
        let newer = newest
            .get(registry)
            .is_some_and(|newest| (s.term, s.epoch) < *newest);
        s.closed |= newer || left.contains(&(*registry, *id));
    }
    Ok(index)
}

/// The newest frame of a stream that the log says was kept: by the registry's mark, or by a fence.
fn acknowledged(fold: &State, registry: RegistryId, id: StreamId) -> Option<u64> {
    let known = fold.registry(registry)?;
    let mark = known.mark.as_ref().map(|held| &held.mark);
    let marked = mark
        .filter(|mark| mark.stream == id)
        .map(|mark| mark.sequence);
    let fences = known.fences.iter().map(|held| &held.fence);
    let fenced = fences
        .filter(|fence| fence.stream == Some(id))
        .filter_map(|fence| fence.sequence)
        .max();
    marked.max(fenced)
}

fn bytes_in(site: &Site, registry: RegistryId, stream: &StreamId) -> Result<u64, StoreError> {
    let failed = |e| StoreError::io("count a journal", e);
    let mut sum = 0;
    for entry in
        std::fs::read_dir(site.keep.dir().journal_path(registry, stream)).map_err(failed)?
    {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let segment = name
            .to_str()
            .is_some_and(|n| n.len() == 8 && n.bytes().all(|b| b.is_ascii_digit()));
        if segment {
            sum += entry.metadata().map_err(failed)?.len();
        }
    }
    Ok(sum)
}

impl Site {
    /// Where the frames of a stream end that hold from the first on; `None` when there are none.
    fn whole(&self, registry: RegistryId, stream: &StreamId) -> Option<Position> {
        let mut frames = self.frames(registry, stream, 0).ok()?;
        while frames.next().is_some_and(|frame| frame.is_ok()) {}
        frames.position()
    }

    /// The frames of a stream from number `from` on, without the committer.
    fn frames(
        &self,
        registry: RegistryId,
        stream: &StreamId,
        from: u64,
    ) -> Result<legation_repo::journal::Frames, StoreError> {
        let dir = self.keep.dir();
        let name = legation_repo::journal::StreamName {
            state: *dir.state(),
            registry,
            stream: *stream,
        };
        JournalReader::open(&dir.journal_path(registry, stream), &name)?.frames(from)
    }
}
