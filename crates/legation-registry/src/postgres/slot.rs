//! The physical slot: the server's promise to keep WAL until we have it.

use legation_core::id::{Lsn, Timeline};

use super::conn::Conn;
use super::probe::{check_slot_name, column, identify_on, replication};
use super::url::ConnectConfig;
use crate::{Error, Result};

/// Where a slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPosition {
    /// The start of the oldest WAL segment that the slot holds: where a first stream begins.
    pub start: Lsn,
    /// The timeline.
    pub timeline: Timeline,
    /// The cluster.
    pub system_id: u64,
    /// Whether the slot was made just now.
    pub created: bool,
}

/// Makes the slot if there is none, so that the server keeps WAL from now on, and says where it stands.
pub fn ensure_slot(config: &ConnectConfig, slot: &str) -> Result<SlotPosition> {
    check_slot_name(slot)?;
    let mut conn = replication(config)?;
    let system = identify_on(&mut conn)?;
    let created = match conn.query(&format!(
        "CREATE_REPLICATION_SLOT {slot} PHYSICAL RESERVE_WAL"
    )) {
        Ok(_) => true,
        Err(Error::Server(e)) if e.code == "42710" => false,
        Err(Error::Server(e)) if e.code == "53400" => {
            return Err(Error::refused(
                format!("no free replication slot: {}", e.message),
                "raise max_replication_slots and restart, or drop a slot that nobody uses (pg_drop_replication_slot)",
            ));
        }
        Err(e) => return Err(e),
    };
    let start = held_from(&mut conn, slot)?;
    Ok(SlotPosition {
        start,
        timeline: system.timeline,
        system_id: system.id,
        created,
    })
}

/// Drops the slot; one that is not there is no error.
pub fn drop_slot(config: &ConnectConfig, slot: &str) -> Result<()> {
    check_slot_name(slot)?;
    match replication(config)?.query(&format!("DROP_REPLICATION_SLOT {slot}")) {
        Err(Error::Server(e)) if e.code == "42704" => Ok(()),
        other => other.map(drop),
    }
}

/// The start of the oldest WAL segment that the slot holds.
pub(super) fn held_from(conn: &mut Conn, slot: &str) -> Result<Lsn> {
    let rows = conn.query(&format!("READ_REPLICATION_SLOT {slot}"))?;
    let restart = rows
        .first()
        .and_then(|row| column(row, 1))
        .and_then(|lsn| lsn.parse::<Lsn>().ok());
    let Some(restart) = restart else {
        return Err(Error::refused(
            format!("slot {slot} holds no WAL: it is lost, or it never reserved any"),
            format!(
                "SELECT pg_drop_replication_slot('{slot}'); capture then begins with a new base"
            ),
        ));
    };
    let segment = wal_segment_size(conn)?;
    Ok(Lsn(restart.0 & !(segment - 1)))
}

/// SHOW prints the size with a unit.
fn wal_segment_size(conn: &mut Conn) -> Result<u64> {
    let text = conn.scalar("SHOW wal_segment_size")?.unwrap_or_default();
    let parse = |suffix, unit: u64| {
        text.strip_suffix(suffix)
            .and_then(|n| n.parse::<u64>().ok())
            .map(|n| n * unit)
    };
    parse("MB", 1 << 20)
        .or_else(|| parse("GB", 1 << 30))
        .filter(|n| n.is_power_of_two())
        .ok_or_else(|| {
            Error::malformed(
                "PostgreSQL protocol",
                format!("a WAL segment size of {text:?}"),
            )
        })
}
