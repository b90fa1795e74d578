//! Which journals a version needs, and so which epochs: the chain of streams around the one that its commit names.
//!
//! Anybody with the agent's TLS key can add a stream, so nothing here is decided by where a stream says it begins. A
//! stream belongs to a version only if the links lead there: back from the commit's stream along what each names as its
//! past, forward along those that name it. What does not link or does not open is set aside and said, and never keeps
//! the rest from being restored.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use legation_core::id::{Digest, EpochNo, Lsn, StreamId, Term, Timeline};
use legation_core::statement::Commit;
use legation_repo::http::wire::StreamBody;

/// Segments of WAL are of 16 MiB unless a cluster was made otherwise; replay needs them from their start. What a
/// version says of its cluster is sealed: a plan without keys goes by this.
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
    /// The cluster it is of.
    pub system_id: u64,
    /// The timeline it was opened in.
    pub timeline: Timeline,
    /// The stream that it continues, and the running hash where that ended.
    pub previous: Option<(StreamId, Digest)>,
    /// Its first byte.
    pub first: Lsn,
    /// One past its last byte.
    pub end: Lsn,
    /// The running hash of its last frame.
    pub chain: Digest,
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
            system_id: body.system_id,
            timeline: body.first_timeline,
            previous: body.previous.map(|before| (before.stream, before.chain)),
            first: body.first_lsn,
            end: body.end_lsn,
            chain: body.chain,
            bytes: body.bytes,
        };
        streams.iter().map(held).collect()
    }

    /// Whether this stream goes on exactly where `before` ends, in the same history: a promotion there goes on in a later
    /// timeline, and never in an earlier one.
    fn continues(&self, before: &Self) -> bool {
        self.previous == Some((before.stream, before.chain))
            && self.first == before.end
            && (self.system_id, self.term) == (before.system_id, before.term)
            && self.timeline >= before.timeline
    }
}

/// What trying a stream's opening gave.
#[derive(Debug)]
pub enum Opens<E> {
    /// It opens.
    Yes,
    /// It does not, for this reason.
    No(String),
    /// The key of its epoch is not at hand.
    Shut,
    /// It could not be read.
    Unread(E),
}

/// The streams of one version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// In order, each continuing the one before.
    pub streams: Vec<Held>,
    /// The next one, whose key is not at hand and in which, or after which, there is WAL.
    pub shut: Option<Held>,
    /// Streams that continue the chain, have no WAL, and need not be opened.
    pub empty: Vec<StreamId>,
    /// What was set aside, in words.
    pub aside: Vec<String>,
}

/// Walks the chain of a version's streams, from the segment in which its base began to the end. `opens` tries an
/// opening; of several streams that continue the same one, that with the most WAL after it is tried first.
///
/// # Errors
/// What kept a stream from being read, if nothing else goes on in its place.
pub fn chain<E>(
    commit: &Commit,
    held: &[Held],
    mut opens: impl FnMut(&Held) -> Opens<E>,
) -> Result<Chain, E> {
    let mut chain = Chain::default();
    let Some(wal) = &commit.wal else {
        return Ok(chain);
    };
    let reach = reaches(held);
    let Some(start) = pick(starts(commit, held), &reach, &mut opens, &mut chain)? else {
        return Ok(chain);
    };
    chain.streams = back(held, start, Lsn(wal.start.0 - wal.start.0 % SEGMENT));
    // What lies before the commit's own stream serves only if all of it between opens.
    let mut from = chain.streams.len() - 1;
    while from > 0 {
        match opens(&chain.streams[from - 1]) {
            Opens::Yes => from -= 1,
            Opens::Unread(why) => return Err(why),
            Opens::No(why) => {
                chain.aside.push(aside(
                    &chain.streams[from - 1],
                    &format!("does not open: {why}"),
                ));
                break;
            }
            Opens::Shut => {
                let before = &chain.streams[from - 1];
                chain.aside.push(aside(
                    before,
                    &format!(
                        "is sealed under epoch {}, whose key is not at hand",
                        before.epoch
                    ),
                ));
                break;
            }
        }
    }
    chain.streams.drain(..from);
    let mut at = start;
    let mut seen: BTreeSet<_> = chain.streams.iter().map(|one| one.stream).collect();
    loop {
        let next = held
            .iter()
            .filter(|one| one.previous.is_some_and(|(before, _)| before == at.stream));
        let mut linked = Vec::new();
        for one in next.filter(|one| !seen.contains(&one.stream)) {
            if one.continues(&at) {
                linked.push(*one);
            } else {
                chain.aside.push(aside(
                    one,
                    &format!("does not continue stream {}, which it names", at.stream),
                ));
            }
        }
        let Some(next) = pick(linked, &reach, &mut opens, &mut chain)? else {
            return Ok(chain);
        };
        seen.insert(next.stream);
        chain.streams.push(next);
        at = next;
    }
}

/// The first of these that opens.
fn pick<E>(
    mut candidates: Vec<Held>,
    reach: &BTreeMap<StreamId, Lsn>,
    opens: &mut impl FnMut(&Held) -> Opens<E>,
    chain: &mut Chain,
) -> Result<Option<Held>, E> {
    let to = |one: &Held| reach.get(&one.stream).copied().unwrap_or(one.end);
    candidates.sort_by_key(|one| (std::cmp::Reverse(to(one)), one.stream));
    let mut unread = None;
    let mut shut = Vec::new();
    for one in candidates {
        match opens(&one) {
            Opens::Yes => return Ok(Some(one)),
            Opens::No(why) => chain
                .aside
                .push(aside(&one, &format!("does not open: {why}"))),
            Opens::Shut => shut.push(one),
            Opens::Unread(why) => unread = unread.or(Some(why)),
        }
    }
    if let Some(why) = unread {
        return Err(why);
    }
    chain.shut = shut.iter().find(|one| to(one) > one.first).copied();
    chain.empty = shut.iter().map(|one| one.stream).collect();
    Ok(None)
}

fn aside(one: &Held, why: &str) -> String {
    format!(
        "stream {} (WAL {} to {}) is set aside: it {why}",
        one.stream, one.first, one.end
    )
}

/// Where a version's walk may start: its commit's stream; of a commit that names none, those that hold its first byte.
fn starts(commit: &Commit, held: &[Held]) -> Vec<Held> {
    let Some(wal) = &commit.wal else {
        return Vec::new();
    };
    let of_history =
        |one: &&Held| one.term == commit.term && commit.timeline.is_none_or(|t| t == one.timeline);
    let named = |one: &&Held| match commit.stream {
        Some(stream) => one.stream == stream,
        None => one.first <= wal.start && wal.start < one.end,
    };
    held.iter()
        .filter(of_history)
        .filter(named)
        .copied()
        .collect()
}

/// From the stream that holds `from`, or the earliest that the links lead to, up to `start`.
fn back(held: &[Held], start: Held, from: Lsn) -> Vec<Held> {
    let mut streams = vec![start];
    let mut seen = BTreeSet::from([start.stream]);
    let mut at = start;
    while at.first > from {
        let before = held
            .iter()
            .find(|one| at.continues(one) && !seen.contains(&one.stream));
        let Some(before) = before else { break };
        seen.insert(before.stream);
        streams.push(*before);
        at = *before;
    }
    streams.reverse();
    streams
}

/// How far the WAL goes that begins with each stream, by its longest continuation.
fn reaches(held: &[Held]) -> BTreeMap<StreamId, Lsn> {
    let by_id: BTreeMap<_, _> = held.iter().map(|one| (one.stream, one)).collect();
    let mut reach: BTreeMap<_, _> = held.iter().map(|one| (one.stream, one.end)).collect();
    let mut links: Vec<_> = held
        .iter()
        .filter_map(|one| {
            let before = by_id.get(&one.previous?.0)?;
            one.continues(before)
                .then_some((one.end, one.stream, before.stream))
        })
        .collect();
    // The last bytes first: one round then carries them to the front, but for streams without any.
    links.sort_unstable_by(|a, b| b.cmp(a));
    loop {
        let mut changed = false;
        for (_, after, before) in &links {
            let to = reach.get(after).copied();
            if let (Some(to), Some(known)) = (to, reach.get_mut(before))
                && to > *known
            {
                *known = to;
                changed = true;
            }
        }
        if !changed {
            return reach;
        }
    }
}

/// Streams that begin with the one that holds `from`, and go on with `streams`: what a cluster with larger segments
/// than most needs beside them, and without what one with smaller segments does not need.
pub fn reaching_back(streams: &[Held], held: &[Held], from: Lsn) -> Vec<Held> {
    let Some((first, rest)) = streams.split_first() else {
        return Vec::new();
    };
    let mut all = back(held, *first, from);
    all.extend_from_slice(rest);
    let needless = all.iter().take_while(|one| one.end <= from).count();
    all.drain(..needless.min(all.len() - 1));
    all
}

/// The streams that a version needs to be replayed to the end, as far as can be told without keys. None for a version
/// without WAL.
pub fn streams(commit: &Commit, held: &[Held]) -> Vec<Held> {
    match chain(commit, held, |_| Opens::<Infallible>::Yes) {
        Ok(chain) => chain.streams,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests;
