//! WAL that was received before, once more: to tell whether the server still has the history that is kept.

use std::ops::Range;
use std::time::Instant;

use legation_core::id::{Lsn, Timeline};

use super::{NO_PROGRESS, lost};
use crate::postgres::conn::{Message, take_u8, take_u64};
use crate::postgres::probe::{identify_on, replication};
use crate::postgres::url::ConnectConfig;
use crate::{Error, Result};

/// What came of asking for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reread {
    /// All of it was given.
    Whole,
    /// The server's WAL ends before it does: it was set back.
    Shorter {
        /// Where the server's ends.
        end: Lsn,
    },
    /// It is another cluster, its history does not hold that range, or it has removed it: nothing can be said.
    Gone,
}

/// Reads `range` and gives it to `each`, in order. No slot takes part: what one holds is read without moving it. The
/// range must be held, and end at most a little after what was received.
///
/// # Errors
/// When the server cannot be reached, is silent for [`NO_PROGRESS`], or `stop` became true.
pub fn reread(
    config: &ConnectConfig,
    system_id: u64,
    timeline: Timeline,
    range: Range<Lsn>,
    stop: &dyn Fn() -> bool,
    each: &mut dyn FnMut(&[u8]),
) -> Result<Reread> {
    let mut conn = replication(config)?;
    let system = identify_on(&mut conn)?;
    if system.id != system_id || system.timeline < timeline {
        return Ok(Reread::Gone);
    }
    let is_current = system.timeline == timeline;
    if is_current && system.flushed < range.end {
        return Ok(Reread::Shorter {
            end: system.flushed,
        });
    }
    conn.start_query(&format!(
        "START_REPLICATION PHYSICAL {} TIMELINE {timeline}",
        range.start
    ))?;
    let mut at = range.start;
    let mut progress = Instant::now();
    while at < range.end {
        let silent = || progress.elapsed() > NO_PROGRESS;
        let message = match conn.next(&|| stop() || silent()) {
            Err(Error::Stopped) if !stop() => {
                return Err(bad("the server does not send what it has"));
            }
            other => other?,
        };
        match message.tag {
            b'd' => {
                if let Some(bytes) = data(message, at)? {
                    let wanted = usize::try_from(range.end.0 - at.0).unwrap_or(usize::MAX);
                    each(&bytes[..bytes.len().min(wanted)]);
                    at = Lsn(at.0 + bytes.len() as u64);
                    progress = Instant::now();
                }
            }
            b'E' => {
                let error = conn.server_error(message.body);
                return match &error {
                    // Of an earlier timeline it also says that its history does not hold the range.
                    Error::Server(e) if !is_current || lost(e, "").is_some() => Ok(Reread::Gone),
                    _ => Err(error),
                };
            }
            b'c' | b'C' | b'D' | b'Z' => return Ok(Reread::Gone),
            _ => {}
        }
    }
    Ok(Reread::Whole)
}

/// The WAL of a message that must continue at `at`; `None` for a keepalive.
fn data(message: Message, at: Lsn) -> Result<Option<bytes::Bytes>> {
    let mut body = message.body;
    if take_u8(&mut body)? != b'w' {
        return Ok(None);
    }
    let start = Lsn(take_u64(&mut body)?);
    let (_end, _time) = (take_u64(&mut body)?, take_u64(&mut body)?);
    if start != at {
        return Err(bad(&format!("the server went from {at} to {start}")));
    }
    Ok(Some(body))
}

fn bad(detail: &str) -> Error {
    Error::malformed("replication stream", detail)
}
