//! One stream of the spool: where it lies, and how its frames are gathered for the line.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use legation_core::id::{Digest, EpochNo, Lsn, StreamId, Timeline};
use legation_core::journal::{FrameHeader, Opening, Position};
use legation_repo::durable;
use legation_repo::journal::{Spool, StreamName};
use serde::{Deserialize, Serialize};

use super::Batch;
use crate::exit::{Code, Failure};

/// Sealed frames kept in memory for the shipper; beyond this it reads them from disk.
const MAX_FRESH: usize = 4 << 20;

/// Name of the record of which epochs WAL was sealed under.
const EPOCHS: &str = "epochs";
/// Streams that are remembered after they are gone: far more than begin while one base is taken.
const MAX_BEGUN: usize = 1024;
/// Longest such record: a line of JSON for each.
const MAX_EPOCHS: u64 = 256 << 10;

/// Where a stream began, and its epoch: remembered when the stream itself was acknowledged and is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) system_id: u64,
    pub(super) timeline: Timeline,
    pub(super) first: Lsn,
    pub(super) epoch: EpochNo,
    /// Whether it continues the one before it.
    #[serde(default = "linked")]
    pub(super) linked: bool,
}

/// Where a record does not say: too many epochs are better than one too few.
fn linked() -> bool {
    true
}

impl Begun {
    pub(super) fn of((header, opening): &(FrameHeader, Opening)) -> Begun {
        Begun {
            system_id: opening.system_id,
            timeline: header.timeline,
            first: header.first_lsn,
            epoch: header.epoch,
            linked: opening.previous.is_some(),
        }
    }
}

/// What is remembered of the streams in `dir`, oldest first. A record that does not hold is as good as none: commits
/// then name fewer epochs than they could.
pub(super) fn remembered(dir: &Path) -> Vec<Begun> {
    let path = dir.join(EPOCHS);
    let read = match durable::read_bounded(&path, MAX_EPOCHS) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(std::io::Error::other),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    read.unwrap_or_else(|error| {
        tracing::warn!(%error, "{} is not readable and begins anew", path.display());
        Vec::new()
    })
}

/// Remembers one more.
pub(super) fn remember(dir: &Path, begun: &mut Vec<Begun>, one: Begun) -> Result<(), Failure> {
    begun.push(one);
    begun.drain(..begun.len().saturating_sub(MAX_BEGUN));
    let bytes = serde_json::to_vec(begun).map_err(Failure::failed)?;
    Ok(durable::write_atomic(&dir.join(EPOCHS), &bytes)?)
}

/// One stream: its frames on disk, and what the shipper needs to know of it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) name: StreamName,
    pub(super) paths: Paths,
    pub(super) spool: Spool,
    pub(super) opening: (FrameHeader, Opening),
    /// The next frame that the embassy needs; `None` until it has told.
    pub(super) next: Option<u64>,
    /// Synced frames that the shipper has not taken yet, without a gap up to the newest.
    pub(super) fresh: VecDeque<(u64, Vec<u8>)>,
    pub(super) fresh_bytes: usize,
    pub(super) bytes: u64,
}

impl Stream {
    pub(super) fn new(
        name: StreamName,
        paths: Paths,
        spool: Spool,
        opening: &[u8],
        bytes: u64,
    ) -> Result<Stream, Failure> {
        let opening = Opening::parse(opening)
            .map_err(|error| Failure::failed(format!("{}: {error}", paths.opening.display())))?;
        Ok(Stream {
            name,
            paths,
            spool,
            opening,
            next: None,
            fresh: VecDeque::new(),
            fresh_bytes: 0,
            bytes,
        })
    }

    pub(super) fn keep_fresh(&mut self, seq: u64, frame: Vec<u8>) {
        let follows = self.fresh.back().map(|(last, _)| last + 1);
        if self.fresh_bytes + frame.len() > MAX_FRESH || follows.is_some_and(|next| next != seq) {
            // The shipper is behind and reads from disk until it has caught up.
            self.fresh.clear();
            self.fresh_bytes = 0;
            return;
        }
        self.fresh_bytes += frame.len();
        self.fresh.push_back((seq, frame));
    }

    /// The chain value after a frame; `None` when the frame is not here any more.
    pub(super) fn chain_at(&self, seq: u64) -> Result<Option<Digest>, Failure> {
        let Some(frame) = self.spool.frames(seq).map_err(broken)?.next() else {
            return Ok(None);
        };
        let (header, frame) = frame.map_err(broken)?;
        Ok(end_of(&frame)
            .filter(|_| header.seq == seq)
            .map(|end| end.chain))
    }

    pub(super) fn batch(&mut self, next: u64, synced: u64, limit: usize) -> Result<Batch, Failure> {
        let mut frames = Vec::new();
        let mut last = 0..0;
        let mut add = |frames: &mut Vec<u8>, frame: &[u8]| {
            last = frames.len()..frames.len() + frame.len();
            frames.extend_from_slice(frame);
        };
        let fits =
            |frames: &[u8], frame: &[u8]| frames.is_empty() || frames.len() + frame.len() <= limit;
        if self.fresh.front().is_some_and(|(seq, _)| *seq <= next) {
            while let Some((seq, frame)) = self.fresh.front() {
                if *seq > synced || !fits(&frames, frame) {
                    break;
                }
                if *seq >= next {
                    add(&mut frames, frame);
                }
                self.fresh_bytes -= frame.len();
                self.fresh.pop_front();
            }
        } else {
            for frame in self.spool.frames(next).map_err(broken)? {
                let (header, frame) = frame.map_err(broken)?;
                if header.seq > synced || !fits(&frames, &frame) {
                    break;
                }
                add(&mut frames, &frame);
            }
        }
        let end = frames.get(last).and_then(end_of).ok_or_else(|| {
            Failure::new(
                Code::VerificationFailed,
                format!("frame {next} of a stream is gone from the spool"),
            )
        })?;
        Ok(Batch {
            stream: self.name.stream,
            term: self.opening.0.term,
            epoch: self.opening.0.epoch,
            frames,
            first: next,
            end,
        })
    }
}

/// Where a stream stands after this frame.
fn end_of(frame: &[u8]) -> Option<Position> {
    let header = FrameHeader::parse(frame).ok()?;
    Some(Position {
        stream: header.stream,
        seq: header.seq,
        chain: Digest(*frame.last_chunk()?),
        end_lsn: header.end_lsn,
        timeline: header.timeline,
    })
}

/// Where a stream lies: its frames, and its opening once more, since the spool gives up segments that were shipped.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) frames: PathBuf,
    pub(super) opening: PathBuf,
}

impl Paths {
    pub(super) fn of(dir: &Path, ordinal: u64, stream: StreamId) -> Paths {
        Paths {
            frames: dir.join(format!("{ordinal:08}-{stream}")),
            opening: dir.join(format!("{ordinal:08}-{stream}.opening")),
        }
    }
}

impl Paths {
    /// Removes both; what is not there is no error. The opening goes first: frames alone are no stream.
    pub(super) fn remove(&self) -> std::io::Result<()> {
        let gone = |removed: std::io::Result<()>| match removed {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        gone(std::fs::remove_file(&self.opening))?;
        gone(std::fs::remove_dir_all(&self.frames))
    }
}

/// The streams in a directory, oldest first. An opening alone is enough; frames alone are what a removal left.
pub(super) fn listed(dir: &Path) -> Result<Vec<(u64, StreamId)>, Failure> {
    let mut found = Vec::new();
    let mut left = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(durable::TEMPORARY) {
            std::fs::remove_file(entry.path())?;
            continue;
        }
        if name == EPOCHS {
            continue;
        }
        let (stem, is_opening) = match name.strip_suffix(".opening") {
            Some(stem) => (stem, true),
            None => (name.as_str(), false),
        };
        let parsed = stem
            .split_once('-')
            .and_then(|(ordinal, stream)| Some((ordinal.parse().ok()?, stream.parse().ok()?)));
        match parsed {
            Some(stream) if is_opening => found.push(stream),
            Some(stream) => left.push((stream, entry.path())),
            None => {
                return Err(Failure::failed(format!(
                    "{}: not a stream of this spool",
                    entry.path().display()
                )));
            }
        }
    }
    for (_, path) in left.iter().filter(|(stream, _)| !found.contains(stream)) {
        std::fs::remove_dir_all(path)?;
    }
    found.sort_unstable();
    Ok(found)
}

pub(super) fn broken(error: legation_repo::store::StoreError) -> Failure {
    use legation_repo::store::StoreError;
    let code = match error {
        StoreError::Damaged { .. } => Code::VerificationFailed,
        StoreError::Locked { .. } => Code::Locked,
        _ => Code::Failed,
    };
    Failure::new(code, format!("the spool: {error}"))
}
