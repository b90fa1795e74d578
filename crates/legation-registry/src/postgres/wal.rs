//! The receiver of live WAL: from a physical slot, at an exact position, without gap or duplicate.
//!
//! Two threads: one owns the socket, so that keepalives are answered while bytes are being made durable; the caller's
//! own thread feeds the [`WalSink`]. What arrives during one `flush` goes into the next: group commit for nothing.
//! The position reported to the server as flushed is what the sink's last `flush` returned, never more.

use std::time::Duration;

use bytes::Bytes;
use legation_core::id::{Lsn, Timeline};
use legation_core::source::WalSink;

use super::conn::{Conn, row};
use super::probe::{check_slot_name, column, identify_on, replication};
use super::slot::held_from;
use super::url::ConnectConfig;
use crate::error::ServerError;
use crate::{Error, Result};

mod reread;
mod stream;

pub use reread::{Reread, reread};

/// When nothing becomes durable for this long, the connection is dropped: a live receiver that withholds its flush
/// keeps `pg_ctl stop -m fast` from finishing, a dead one does not.
pub const NO_PROGRESS: Duration = Duration::from_secs(10);

/// What to receive.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// The physical slot.
    pub slot: String,
    /// The cluster that it must be.
    pub system_id: u64,
    /// The timeline on which `start` lies.
    pub timeline: Timeline,
    /// Where to go on: the end of what is already kept, or [`SlotPosition::start`].
    pub start: Lsn,
    /// Kept bytes that end at `start`; they are read again first and must be equal, as far back as the slot holds WAL. A
    /// cluster that was set back to an older snapshot reuses timeline and positions: only its bytes tell. Empty for no
    /// such check.
    pub overlap: Vec<u8>,
    /// See [`NO_PROGRESS`].
    pub no_progress: Duration,
}

impl WalOptions {
    /// To go on at `start`.
    pub fn new(slot: impl Into<String>, system_id: u64, timeline: Timeline, start: Lsn) -> Self {
        WalOptions {
            slot: slot.into(),
            system_id,
            timeline,
            start,
            overlap: Vec::new(),
            no_progress: NO_PROGRESS,
        }
    }

    /// The first byte that is asked for: where the overlap begins.
    fn from(&self) -> Lsn {
        Lsn(self.start.0.saturating_sub(self.overlap.len() as u64))
    }
}

/// Why receiving ended. After the last two another attempt ends the same way; the others pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalEnd {
    /// [`WalSink::stop`] said so.
    Stopped,
    /// The server was shut down in order; it has sent everything.
    ServerStopped,
    /// The connection broke, or the server ended it, in these words.
    Disconnected(String),
    /// Another receiver uses the slot, or the server has not noticed yet that our last one is gone; in its words.
    SlotBusy(String),
    /// Nothing became durable for [`WalOptions::no_progress`], so the connection was dropped.
    NoProgress,
    /// This timeline ends at `switch`; the cluster goes on in `next`. A new base is needed.
    TimelineChanged {
        /// The timeline that follows.
        next: Timeline,
        /// Where it branches off.
        switch: Lsn,
    },
    /// The bytes before `start` are not those that were kept: this is another history under the same names.
    HistoryDiffers {
        /// The first position that differs.
        at: Lsn,
    },
}

/// How far receiving came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalReport {
    /// Everything before it was given to the sink.
    pub received: Lsn,
    /// Everything before it is durable, and was reported as such.
    pub flushed: Lsn,
    /// Why it ended.
    pub end: WalEnd,
}

/// Receives until something in [`WalEnd`] happens.
///
/// Errors are those that a new attempt would meet again (another cluster behind the address, a lost slot) and those of
/// the sink; after the latter nothing more was reported as flushed.
pub fn receive(
    config: &ConnectConfig,
    options: &WalOptions,
    sink: &mut dyn WalSink,
) -> Result<WalReport> {
    let (conn, options) = match start(config, options, &|| sink.stop()) {
        Ok(started) => started,
        Err(Started::Ended(end)) => {
            return Ok(WalReport {
                received: options.start,
                flushed: options.start,
                end,
            });
        }
        Err(Started::Failed(e)) => return Err(e),
    };
    stream::run(conn, &options, sink)
}

enum Started {
    Ended(WalEnd),
    Failed(Error),
}

impl From<Error> for Started {
    fn from(e: Error) -> Self {
        Started::Failed(e)
    }
}

fn start(
    config: &ConnectConfig,
    options: &WalOptions,
    stop: &dyn Fn() -> bool,
) -> Result<(Conn, WalOptions), Started> {
    check_slot_name(&options.slot)?;
    if options.overlap.len() as u64 > options.start.0 {
        return Err(Error::refused(
            "the overlap reaches before the first position",
            "pass fewer kept bytes",
        )
        .into());
    }
    let mut conn = replication(config)?;
    let system = identify_on(&mut conn)?;
    if system.id != options.system_id {
        return Err(Error::refused(
            format!("another cluster answers at {config}: its system identifier is {}, not {}", system.id, options.system_id),
            "point the source at the right server; if the registry was rebuilt on purpose, capture it with --full",
        )
        .into());
    }
    if system.timeline == options.timeline && system.flushed < options.start {
        // Set back to an older state: what was kept past this point is another history.
        return Err(Started::Ended(WalEnd::HistoryDiffers {
            at: system.flushed,
        }));
    }
    let mut options = options.clone();
    if !options.overlap.is_empty() {
        // The server keeps the segment in which the slot stands and what follows, nothing before it: after a restart
        // the segment before is recycled, and to ask for it would look like a lost slot.
        let held = held_from(&mut conn, &options.slot)?;
        let reach = usize::try_from(options.start.0.saturating_sub(held.0)).unwrap_or(usize::MAX);
        let excess = options.overlap.len().saturating_sub(reach);
        options.overlap.drain(..excess);
    }
    let from = options.from();
    conn.start_query(&format!(
        "START_REPLICATION SLOT {} PHYSICAL {from} TIMELINE {}",
        options.slot, options.timeline
    ))?;
    let mut next = None;
    loop {
        let message = match conn.next(stop) {
            Err(Error::Stopped) => return Err(Started::Ended(WalEnd::Stopped)),
            other => other?,
        };
        match message.tag {
            b'W' => return Ok((conn, options)),
            b'E' => return Err(refusal(conn.server_error(message.body), &options)),
            // A timeline that ended exactly here: the server answers with its successor and starts no copy.
            b'D' => next = successor(message.body)?,
            b'Z' => {
                let end = next.map_or(
                    WalEnd::Disconnected("no stream was started".into()),
                    |(next, switch)| WalEnd::TimelineChanged { next, switch },
                );
                return Err(Started::Ended(end));
            }
            _ => {}
        }
    }
}

/// Gives the server's refusals to start a stream the cure that they need.
fn refusal(error: Error, options: &WalOptions) -> Started {
    let Error::Server(e) = &error else {
        return error.into();
    };
    let slot = &options.slot;
    if e.code == "55006" {
        return Started::Ended(WalEnd::SlotBusy(e.message.clone()));
    }
    Started::Failed(lost(e, slot).unwrap_or(error))
}

/// What the server says when a stream cannot go on, ever, with its cure.
fn lost(e: &ServerError, slot: &str) -> Option<Error> {
    let words = [
        "has already been removed",
        "can no longer be used",
        "cannot read from",
        "lost",
    ];
    let refused = match e.code.as_str() {
        "42704" => Error::refused(
            format!("slot {slot} is gone: {}", e.message),
            "WAL since the last capture may be gone with it; capture with --full to begin again with a new base",
        ),
        _ if words.iter().any(|w| e.message.contains(w)) => Error::refused(
            format!("slot {slot} is lost: {}", e.message),
            format!(
                "SELECT pg_drop_replication_slot('{slot}') and capture with --full; raise max_slot_wal_keep_size to prevent it"
            ),
        ),
        _ => return None,
    };
    Some(refused)
}

/// The row that ends a timeline: its successor and where it branches off.
fn successor(body: Bytes) -> Result<Option<(Timeline, Lsn)>> {
    let row = row(body)?;
    let timeline = column(&row, 0).and_then(|t| t.parse().ok());
    Ok(timeline.zip(column(&row, 1).and_then(|lsn| lsn.parse().ok())))
}
