//! Pack lists: which packs a commit references (spec/format.md §6).

use crate::codec::{Put, Reader};
use crate::error::FormatError;
use crate::id::{Digest, EpochNo, RegistryId, StateId};
use crate::pack::registry;
use crate::size::SizeClass;
use crate::suite::{self, FORMAT, SUITE};

const MAGIC: &[u8; 8] = b"LGNlist1";
const HEADER: usize = 48;
const ROW: usize = 44;

/// The most rows that fit the largest object: about 6 TB of packs in one version.
pub const MAX_ROWS: usize = (16 * 1024 * 1024 - HEADER) / ROW;

/// One pack of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListRow {
    /// Epoch of the pack.
    pub epoch: EpochNo,
    /// The pack's number within its epoch.
    pub seq: u32,
    /// Its size.
    pub size: SizeClass,
    /// Its name.
    pub digest: Digest,
}

/// The packs of one version, sorted by (epoch, seq), none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackList {
    /// The state it belongs to.
    pub state: StateId,
    /// The registry it belongs to.
    pub registry: RegistryId,
    rows: Vec<ListRow>,
}

impl PackList {
    /// Sorts the rows; equal rows collapse.
    ///
    /// # Errors
    /// `Malformed` when two packs claim one (epoch, seq); `TooLarge` above [`MAX_ROWS`].
    pub fn new(
        state: StateId,
        registry: RegistryId,
        mut rows: Vec<ListRow>,
    ) -> Result<Self, FormatError> {
        rows.sort_unstable();
        rows.dedup();
        Self::sorted(state, registry, rows)
    }

    /// The list of no packs.
    #[must_use]
    pub fn empty(state: StateId, registry: RegistryId) -> Self {
        Self {
            state,
            registry,
            rows: Vec::new(),
        }
    }

    fn sorted(
        state: StateId,
        registry: RegistryId,
        rows: Vec<ListRow>,
    ) -> Result<Self, FormatError> {
        if rows.len() > MAX_ROWS {
            return Err(FormatError::TooLarge {
                what: "pack list",
                limit: MAX_ROWS as u64,
            });
        }
        if !rows.is_sorted_by(|a, b| (a.epoch, a.seq) < (b.epoch, b.seq)) {
            return Err(FormatError::malformed(
                "pack list",
                "its packs are not in order, or one number names two packs",
            ));
        }
        if rows.iter().any(|row| row.size < SizeClass::K64) {
            return Err(FormatError::malformed(
                "pack list",
                "it names a pack of a size that packs do not have",
            ));
        }
        Ok(Self {
            state,
            registry,
            rows,
        })
    }

    /// The rows in order.
    #[must_use]
    pub fn rows(&self) -> &[ListRow] {
        &self.rows
    }

    /// The pack of this epoch with this number.
    #[must_use]
    pub fn find(&self, epoch: EpochNo, seq: u32) -> Option<&ListRow> {
        let at = self
            .rows
            .binary_search_by_key(&(epoch, seq), |row| (row.epoch, row.seq))
            .ok()?;
        self.rows.get(at)
    }

    /// The packs of this epoch with numbers from `first` to `last`, both included.
    #[must_use]
    pub fn span(&self, epoch: EpochNo, first: u32, last: u32) -> &[ListRow] {
        let from = self
            .rows
            .partition_point(|row| (row.epoch, row.seq) < (epoch, first));
        let to = self
            .rows
            .partition_point(|row| (row.epoch, row.seq) <= (epoch, last));
        self.rows.get(from..to).unwrap_or_default()
    }

    /// The epochs that the rows need, ascending.
    #[must_use]
    pub fn epochs(&self) -> Vec<EpochNo> {
        let mut epochs: Vec<EpochNo> = self.rows.iter().map(|row| row.epoch).collect();
        epochs.dedup();
        epochs
    }

    /// The sum of the packs' sizes in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.size.bytes() as u64).sum()
    }

    /// BLAKE3 of the encoded rows of every pack but the one that holds the root: what the root binds.
    #[must_use]
    pub fn packs_digest(&self, root: (EpochNo, u32)) -> Digest {
        let mut bytes = Vec::new();
        for row in self.rows.iter().filter(|row| (row.epoch, row.seq) != root) {
            row.encode(&mut bytes);
        }
        Digest::of(&bytes)
    }

    /// The object: padded with zeros to a size of the table.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let len = HEADER + ROW * self.rows.len();
        // `new` bounds the rows, so a class always holds them.
        let size = SizeClass::holding(len).unwrap_or(SizeClass::M16);
        let mut out = Vec::with_capacity(size.bytes());
        out.put(MAGIC).put_u16(FORMAT).put_u16(SUITE).put_u32(0);
        out.put(&self.state.0)
            .put_u32(self.registry.number())
            .put_u64(self.rows.len() as u64);
        for row in &self.rows {
            row.encode(&mut out);
        }
        out.resize(size.bytes(), 0);
        out
    }

    /// The size of a list object, told by its first 48 bytes; more may follow.
    ///
    /// # Errors
    /// `Malformed`, `Unsupported` or `TooLarge`.
    pub fn size_of(head: &[u8]) -> Result<SizeClass, FormatError> {
        let mut all = Reader::new("pack list", head);
        let mut r = Reader::new("pack list", all.bytes(HEADER)?);
        Ok(header(&mut r)?.size)
    }

    /// Reads a list object.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new("pack list", bytes);
        let Header {
            state,
            registry,
            count,
            size,
        } = header(&mut r)?;
        if bytes.len() != size.bytes() {
            return Err(r.malformed("its length is not the smallest size that holds its rows"));
        }
        let rows = (0..count)
            .map(|_| ListRow::decode(&mut r))
            .collect::<Result<_, _>>()?;
        r.finish_padded()?;
        Self::sorted(state, registry, rows)
    }
}

struct Header {
    state: StateId,
    registry: RegistryId,
    count: usize,
    size: SizeClass,
}

fn header(r: &mut Reader<'_>) -> Result<Header, FormatError> {
    r.magic(MAGIC)?;
    suite::require("pack list", r.u16()?, r.u16()?)?;
    r.zeros(4)?;
    let (state, registry, count) = (StateId(r.array()?), registry(r)?, r.u64()?);
    let too_large = FormatError::TooLarge {
        what: "pack list",
        limit: MAX_ROWS as u64,
    };
    if count > MAX_ROWS as u64 {
        return Err(too_large);
    }
    let count = count as usize;
    let size = SizeClass::holding(HEADER + ROW * count).ok_or(too_large)?;
    Ok(Header {
        state,
        registry,
        count,
        size,
    })
}

impl ListRow {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.epoch.0).put_u32(self.seq);
        out.put_u32(self.size.bytes() as u32).put(&self.digest.0);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let (epoch, seq, size) = (EpochNo(r.u32()?), r.u32()?, r.u32()?);
        let size = SizeClass::exact(size.into())
            .ok_or_else(|| r.malformed("it names a pack of a size that packs do not have"))?;
        Ok(Self {
            epoch,
            seq,
            size,
            digest: Digest(r.array()?),
        })
    }
}

#[cfg(test)]
mod tests;
