//! Which journals a version needs: from the segment in which its base began to the end.

use legation_core::id::{EpochNo, Lsn, StreamId, Term, Timeline};
use legation_core::statement::{Commit, WalRange};
use legation_repo::http::wire::StreamBody;

/// Segments of WAL are of 16 MiB unless a cluster was made otherwise; replay needs them from their start.
const SEGMENT: u64 = 16 << 20;

/// What is held of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub stream: StreamId,
    /// The term it was opened in.
    pub term: Term,
    /// The epoch it is sealed under.
    pub epoch: EpochNo,
    /// The timeline it ends in.
    pub timeline: Timeline,
    /// Its first byte.
    pub first: Lsn,
    /// One past its last byte.
    pub end: Lsn,
    /// Sealed bytes.
    pub bytes: u64,
}

impl Held {
    /// What an embassy says of its journals.
    pub fn all(streams: &[StreamBody]) -> Vec<Self> {
        let held = |body: &StreamBody| Self {
            stream: body.stream,
            term: body.term,
            epoch: body.epoch,
            timeline: body.timeline,
            first: body.first_lsn,
            end: body.end_lsn,
            bytes: body.bytes,
        };
        streams.iter().map(held).collect()
    }
}

/// Where the WAL begins that a version needs: the start of the segment in which its own begins.
pub fn begin(wal: &WalRange) -> Lsn {
    Lsn(wal.start.0 - wal.start.0 % SEGMENT)
}

/// The streams that a version needs to be replayed to the end, in the order of their first byte. None for a version
/// without WAL.
pub fn streams(commit: &Commit, held: &[Held]) -> Vec<Held> {
    let Some(wal) = &commit.wal else {
        return Vec::new();
    };
    let from = begin(wal);
    let mut needed: Vec<_> = held
        .iter()
        .filter(|one| one.end > from && one.end > one.first && one.term == commit.term)
        .copied()
        .collect();
    needed.sort_by_key(|one| (one.first, one.end));
    needed
}
