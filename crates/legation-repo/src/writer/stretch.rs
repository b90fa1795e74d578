//! Where the content of a version lies: a stretch of a file that comes again is referred to and not sealed again,
//! whatever its file is called now.

use std::collections::HashMap;

use legation_core::codec::{Put, Reader};
use legation_core::error::FormatError;
use legation_core::id::Digest;
use legation_core::list::PackList;
use legation_core::manifest::Extent;
use legation_core::pack::FrameRef;

/// What is shorter than its own row costs less to seal again than to remember.
pub(super) const LEAST: usize = 64;
/// The most that are remembered: some 200 MiB of memory, for 256 GiB of large files. What is beyond is sealed again.
pub(super) const MOST: usize = 2 << 20;

/// Where a stretch lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The frame that holds it.
    pub frame: FrameRef,
    /// Where it starts in the frame's plaintext.
    pub within: u32,
    /// How many bytes it has.
    pub len: u32,
}

impl Stretch {
    /// It as a part of a file.
    pub(super) fn at(&self, offset: u64) -> Extent {
        Extent {
            offset,
            len: self.len,
            frame: self.frame,
            within: self.within,
        }
    }
}

/// Stretches by the BLAKE3 of their bytes, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stretches(Vec<(Digest, Stretch)>);

impl Stretches {
    /// Where these bytes lie.
    pub(super) fn get(&self, digest: &Digest) -> Option<Stretch> {
        let at = self.0.binary_search_by(|(held, _)| held.cmp(digest)).ok()?;
        self.0.get(at).map(|(_, stretch)| *stretch)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of a version: what was sealed for it, and what its parent had and lies in packs that it still lists.
    pub(super) fn of_version(
        parent: &Self,
        fresh: HashMap<Digest, Stretch>,
        list: &PackList,
    ) -> Self {
        let mut all: Vec<_> = fresh.into_iter().collect();
        let listed = |at: &FrameRef| !list.span(at.epoch, at.seq, at.seq).is_empty();
        let room = MOST.saturating_sub(all.len());
        let kept = parent.0.iter().filter(|(_, at)| listed(&at.frame));
        all.extend(kept.take(room).copied());
        all.sort_unstable_by_key(|row| row.0);
        all.dedup_by(|a, b| a.0 == b.0);
        all.shrink_to_fit();
        Self(all)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.0.len() as u64);
        for (digest, at) in &self.0 {
            out.put(&digest.0);
            at.frame.encode(out);
            out.put_u32(at.within).put_u32(at.len);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let count = r.u64()?;
        if count > MOST as u64 {
            return Err(r.malformed("it has too many stretches"));
        }
        let row = |r: &mut Reader<'_>| {
            let digest = Digest(r.array()?);
            let (frame, within, len) = (FrameRef::decode(r)?, r.u32()?, r.u32()?);
            Ok((digest, Stretch { frame, within, len }))
        };
        let rows = (0..count)
            .map(|_| row(r))
            .collect::<Result<Vec<_>, FormatError>>()?;
        if !rows.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(r.malformed("its stretches are not in order"));
        }
        Ok(Self(rows))
    }
}
