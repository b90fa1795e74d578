//! Acknowledged WAL, opened: the streams of a registry in their order, each frame verified and opened by its epoch's
//! key, up to the position that the fence names and not a byte further.
//!
//! Frames that are gone or changed are damage, and an error. A frame that continues the running hash and yet does not
//! open was added by somebody without the key: the WAL ends before it, and [`Wal::ended_early`] says where.

use std::collections::VecDeque;

use legation_core::id::{Digest, Lsn, RegistryId, StateId, StreamId};
use legation_core::journal::{FrameHeader, FrameKind, Opening, StreamOpener};
use legation_core::source::{SourceError, SourceResult};
use legation_core::statement::Fence;
use legation_registry::postgres::WalPiece;
use legation_repo::reader::KeySource;

use super::damaged;
use super::keep::Frames;
use super::scope::{Held, Opens};
use crate::exit::{Code, Failure};

/// Where a fence says that a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The stream that was live.
    pub stream: StreamId,
    /// Its last frame.
    pub sequence: u64,
    /// The running hash after it.
    pub chain: Digest,
}

impl End {
    /// The end that a fence names; none when the registry had no stream.
    pub fn of(fence: &Fence) -> Option<Self> {
        Some(Self {
            stream: fence.stream?,
            sequence: fence.sequence?,
            chain: fence.chain?,
        })
    }
}

/// The WAL of one registry, in order.
pub struct Wal<'a> {
    frames_of: Box<dyn Fn(StreamId) -> Result<Frames, Failure> + 'a>,
    keys: &'a dyn KeySource,
    state: StateId,
    registry: RegistryId,
    waiting: VecDeque<Held>,
    end: Option<End>,
    open: Option<(StreamId, Frames, Option<StreamOpener>)>,
    /// The stream just left, and its running hash there.
    left: Option<(StreamId, Digest)>,
    frames: u64,
    done: bool,
    failure: Option<Failure>,
    early: Option<Early>,
}

/// WAL that ends before a frame that does not belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Early {
    /// Everything before this was opened.
    pub at: Lsn,
    /// Why nothing more was.
    pub why: String,
}

impl std::fmt::Debug for Wal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal")
            .field("registry", &self.registry)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

impl<'a> Wal<'a> {
    /// The WAL of `streams` (as [`super::scope::streams`] orders them) up to `end`.
    pub fn new(
        frames_of: impl Fn(StreamId) -> Result<Frames, Failure> + 'a,
        keys: &'a dyn KeySource,
        state: StateId,
        registry: RegistryId,
        streams: Vec<Held>,
        end: Option<End>,
    ) -> Self {
        Self {
            frames_of: Box::new(frames_of),
            keys,
            state,
            registry,
            waiting: streams.into(),
            end,
            open: None,
            left: None,
            frames: 0,
            done: false,
            failure: None,
            early: None,
        }
    }

    /// Where it ended before what was asked for, because something there does not belong to it.
    pub fn ended_early(&self) -> Option<&Early> {
        self.early.as_ref()
    }

    /// What kept it from being read, once it has said so.
    pub fn failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    fn piece(&mut self) -> Result<Option<WalPiece>, Failure> {
        loop {
            if self.open.is_none() {
                let Some(held) = self.waiting.pop_front() else {
                    return match self.end {
                        Some(end) => Err(damaged(format!(
                            "stream {} is missing, which the fence says was live",
                            end.stream
                        ))),
                        None => Ok(None),
                    };
                };
                self.open = Some((held.stream, (self.frames_of)(held.stream)?, None));
            }
            let Some((stream, frames, opener)) = &mut self.open else {
                return Ok(None);
            };
            let stream = *stream;
            let Some(frame) = frames.next() else {
                let at = opener.as_ref().map(StreamOpener::position);
                if self.end.is_some_and(|end| end.stream == stream) {
                    return Err(damaged(format!(
                        "stream {stream} ends before the position that the fence names"
                    )));
                }
                self.left = at.map(|at| (stream, at.chain));
                self.open = None;
                continue;
            };
            let (header, bytes) = frame?;
            self.frames += 1;
            let opened = match opener {
                None => {
                    *opener = Some(open_stream(
                        &self.state,
                        self.registry,
                        stream,
                        self.left,
                        &header,
                        &bytes,
                        self.keys,
                    )?);
                    None
                }
                Some(opener) => {
                    let which = format!("frame {} of stream {stream}", header.seq);
                    // By its header and hash first: what does not continue those was changed or lost after it was
                    // acknowledged, for no embassy takes such a frame.
                    opener
                        .follows(&bytes)
                        .map_err(|why| Failure::from(why).during(&which))?;
                    let before = opener.position();
                    match opener.open(&bytes) {
                        Ok(opened) => Some(opened),
                        Err(why) => {
                            self.early = Some(Early {
                                at: before.end_lsn,
                                why: format!("{which} was added without its key: {why}"),
                            });
                            return Ok(None);
                        }
                    }
                }
            };
            if let (Some(end), Some(opener)) = (self.end, &*opener)
                && end.stream == stream
                && header.seq == end.sequence
            {
                if opener.position().chain != end.chain {
                    return Err(damaged(format!(
                        "stream {stream} is not the one that the fence names: its running hash differs"
                    )));
                }
                self.end = None;
                self.waiting.clear();
                self.open = None;
            }
            match opened {
                Some((start, plain)) if header.kind == FrameKind::Data && !plain.is_empty() => {
                    return Ok(Some(WalPiece {
                        timeline: header.timeline,
                        start,
                        bytes: plain.to_vec(),
                    }));
                }
                _ => {}
            }
        }
    }
}

impl Iterator for Wal<'_> {
    type Item = SourceResult<WalPiece>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let piece = self
            .piece()
            .map_err(|failure| {
                let told = SourceError::Refused(failure.message.clone());
                self.failure = Some(failure);
                told
            })
            .transpose();
        self.done = !matches!(piece, Some(Ok(_)));
        piece
    }
}

/// Tries the opening of a stream: whether it is what the embassy says of it, and opens under its epoch's root.
pub fn try_opening(
    keys: &dyn KeySource,
    (state, registry): (StateId, RegistryId),
    held: &Held,
    frames: impl FnOnce() -> Result<Frames, Failure>,
) -> Opens<Failure> {
    let Some(root) = keys.root(held.epoch) else {
        return Opens::Shut;
    };
    let bytes = match frames().map(|mut frames| frames.next()) {
        Err(why) | Ok(Some(Err(why))) => return Opens::Unread(why),
        Ok(None) => {
            return Opens::Unread(damaged(format!("stream {} is not there", held.stream)));
        }
        Ok(Some(Ok((_, bytes)))) => bytes,
    };
    let (header, opening) = match Opening::parse(&bytes) {
        Ok(parsed) => parsed,
        Err(why) => return Opens::No(why.to_string()),
    };
    let names = (header.state, header.registry, header.stream) == (state, registry, held.stream)
        && (header.epoch, header.term) == (held.epoch, held.term)
        && (header.timeline, header.first_lsn) == (held.timeline, held.first)
        && (opening.system_id, opening.previous) == (held.system_id, held.previous);
    if !names {
        return Opens::No("its opening is not what the embassy says".into());
    }
    match StreamOpener::new(&root, &bytes) {
        Ok(_) => Opens::Yes,
        Err(why) => Opens::No(why.to_string()),
    }
}

fn open_stream(
    state: &StateId,
    registry: RegistryId,
    stream: StreamId,
    left: Option<(StreamId, Digest)>,
    header: &FrameHeader,
    bytes: &[u8],
    keys: &dyn KeySource,
) -> Result<StreamOpener, Failure> {
    if (header.state, header.registry, header.stream) != (*state, registry, stream) {
        return Err(damaged(format!(
            "the journal of stream {stream} begins with another stream's frame"
        )));
    }
    let (_, opening) = Opening::parse(bytes)?;
    // A stream that names the one before it must continue what was read of that, or one of them was swapped.
    if let (Some((before, chain)), Some((previous, its_chain))) = (left, opening.previous)
        && previous == before
        && its_chain != chain
    {
        return Err(damaged(format!(
            "stream {stream} continues another end of stream {before} than the one that is kept"
        )));
    }
    let root = keys.root(header.epoch).ok_or_else(|| {
        Failure::new(
            Code::Refused,
            format!(
                "stream {stream} is sealed under epoch {}, which is not in the order's scope",
                header.epoch
            ),
        )
    })?;
    StreamOpener::new(&root, bytes)
        .map_err(|why| Failure::from(why).during(format!("stream {stream}")))
}

/// What streams reach without a hole: from the first byte to the last.
pub fn reach(streams: &[Held]) -> Option<(Lsn, Lsn)> {
    let first = streams.first()?;
    let mut end = first.end;
    for held in &streams[1..] {
        if held.first > end {
            break;
        }
        end = end.max(held.end);
    }
    Some((first.first, end))
}

#[cfg(test)]
mod tests;
