//! `global/pg_control`: the few fields that a start abroad needs, checked by the file's own CRC before use.
//! Offsets are those of `ControlFileData` in `src/include/catalog/pg_control.h` on 64-bit little-endian builds.

use legation_core::id::{Lsn, Timeline};

use super::crc32c::Crc32c;
use crate::{Error, Result};

/// Each `PG_CONTROL_VERSION` with where its CRC lies: that of PostgreSQL 13 to 16, of 17, and of 18, which has the
/// signedness of `char` before the last field. What is read here lies at the same place in all.
const VERSIONS: [(u32, usize); 3] = [(1300, 288), (1700, 288), (1800, 292)];

/// What a data directory says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster's identity.
    pub system_id: u64,
    /// Its state: 1 shut down, 6 in production, as in `DBState`.
    pub state: u32,
    /// Where redo of the latest checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: Timeline,
    /// 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// Limits under which the WAL was written; a replay must allow at least as much.
    pub max_connections: u32,
    /// See `max_connections`.
    pub max_worker_processes: u32,
    /// See `max_connections`.
    pub max_wal_senders: u32,
    /// See `max_connections`.
    pub max_prepared_transactions: u32,
    /// See `max_connections`.
    pub max_locks_per_transaction: u32,
    /// Whether commit times are kept.
    pub track_commit_timestamp: bool,
    /// Bytes of a page.
    pub block_size: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u32,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
}

impl ControlFile {
    /// Reads and checks the file's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let u32_at = |at: usize| -> Result<u32> {
            let field = bytes
                .get(at..)
                .and_then(|b| b.first_chunk::<4>())
                .ok_or_else(|| bad("is too short"))?;
            Ok(u32::from_le_bytes(*field))
        };
        let u64_at = |at: usize| -> Result<u64> {
            Ok(u64::from(u32_at(at)?) | u64::from(u32_at(at + 4)?) << 32)
        };
        let version = u32_at(8)?;
        let known = VERSIONS.iter().find(|(known, _)| *known == version);
        let (_, crc) = known.ok_or_else(|| {
            bad(&format!(
                "is of version {version}; this build reads 1300, 1700 and 1800 (PostgreSQL 15 to 18)"
            ))
        })?;
        let body = bytes.get(..*crc).ok_or_else(|| bad("is too short"))?;
        if Crc32c::of(body) != u32_at(*crc)? {
            return Err(bad("fails its own checksum: the data directory is damaged"));
        }
        Ok(ControlFile {
            system_id: u64_at(0)?,
            state: u32_at(16)?,
            redo: Lsn(u64_at(40)?),
            timeline: Timeline(u32_at(48)?),
            wal_level: u32_at(172)?,
            max_connections: u32_at(180)?,
            max_worker_processes: u32_at(184)?,
            max_wal_senders: u32_at(188)?,
            max_prepared_transactions: u32_at(192)?,
            max_locks_per_transaction: u32_at(196)?,
            track_commit_timestamp: u32_at(200)? & 0xff != 0,
            block_size: u32_at(216)?,
            wal_segment_size: u32_at(228)?,
            data_checksums: u32_at(252)? != 0,
        })
    }
}

fn bad(what: &str) -> Error {
    Error::malformed("pg_control", what)
}
