//! One running stream: a thread that owns the socket, the caller's thread that feeds the sink, and what they share.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use legation_core::id::Lsn;
use legation_core::source::WalSink;

use super::{WalEnd, WalOptions, WalReport, lost, successor};
use crate::postgres::conn::{Conn, Stream, TICK, take_u8, take_u64};
use crate::{Error, Result};

/// Received and not yet given to the sink: more is left in the socket, where TCP slows the server down.
const MAX_PENDING: usize = 8 << 20;
/// The most that the sink is given in one call: what the server itself puts into one message.
const FED_AT_ONCE: usize = 128 << 10;
/// The server is told our position at least this often: far below its `wal_sender_timeout` of a minute.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// While nothing comes the server is asked this often whether there is nothing: an objective of ten seconds can then be
/// shown to hold.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Seconds from 1970 to 2000, where PostgreSQL's clock begins.
const POSTGRES_EPOCH: u64 = 946_684_800;

/// Runs a stream that was started at `options.from()` until it ends.
pub(super) fn run(
    mut conn: Conn,
    options: &WalOptions,
    sink: &mut dyn WalSink,
) -> Result<WalReport> {
    let shared = Shared::new(options, conn.writer()?);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let end = read(&mut conn, options, &shared);
            shared.lock().end.get_or_insert(end);
            shared.changed.notify_all();
        });
        let result = feed(options, sink, &shared);
        shared.goodbye();
        result
    })
}

/// What both threads see.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    writer: Mutex<Stream>,
}

struct State {
    /// Received and not yet fed: the bytes that end at `received`. Copied together, because a view of the
    /// connection's buffer would keep the whole of it alive for each small message.
    pending: Vec<u8>,
    received: Lsn,
    flushed: Lsn,
    /// When `flushed` last moved, or everything received was flushed.
    progress: Instant,
    /// Where the server last said that its log ends, and since when nothing came, until the sink is told.
    said: Option<(Lsn, Option<Instant>)>,
    end: Option<WalEnd>,
    /// An end that a new attempt would meet again.
    failure: Option<Error>,
    /// The feeding side is done: the reader must return.
    done: bool,
}

impl Shared {
    fn new(options: &WalOptions, writer: Stream) -> Self {
        let state = State {
            pending: Vec::new(),
            received: options.start,
            flushed: options.start,
            progress: Instant::now(),
            said: None,
            end: None,
            failure: None,
            done: false,
        };
        Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            writer: Mutex::new(writer),
        }
    }

    /// A panic in the other thread leaves the state usable: every field is written in one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(bytes)
    }

    fn advance(&self, flushed: Lsn) {
        let mut state = self.lock();
        state.flushed = flushed;
        state.progress = Instant::now();
    }

    /// A standby status update. Written, flushed and applied are one to us: a synchronous commit at any level means
    /// durable, and `remote_apply` must not wait for a replay that never comes.
    fn status(&self, answer: bool) -> std::io::Result<()> {
        let flushed = self.lock().flushed.0.to_be_bytes();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let micros = now
            .saturating_sub(Duration::from_secs(POSTGRES_EPOCH))
            .as_micros() as u64;
        let mut out = Vec::with_capacity(39);
        out.push(b'd');
        out.extend_from_slice(&38u32.to_be_bytes());
        out.push(b'r');
        for _ in 0..3 {
            out.extend_from_slice(&flushed);
        }
        out.extend_from_slice(&micros.to_be_bytes());
        out.push(u8::from(answer));
        self.send(&out)
    }

    /// A status that cannot be sent is no end: what the server said before it closed may still wait to be read, and
    /// tells why it closed.
    fn report(&self) {
        self.tell(false);
    }

    /// As [`Shared::report`], and asks for an answer.
    fn ask(&self) {
        self.tell(true);
    }

    fn tell(&self, answer: bool) {
        if let Err(e) = self.status(answer) {
            tracing::debug!("a status was not sent: {e}");
        }
    }

    fn copy_done(&self) -> std::io::Result<()> {
        self.send(&[b'c', 0, 0, 0, 4])
    }

    /// Ends the connection from the feeding side; the reader then returns.
    fn goodbye(&self) {
        self.lock().done = true;
        self.changed.notify_all();
        let _ = self.copy_done();
        self.disconnect();
    }

    fn disconnect(&self) {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shutdown();
    }
}

/// The feeding side: on the caller's thread.
fn feed(options: &WalOptions, sink: &mut dyn WalSink, shared: &Shared) -> Result<WalReport> {
    let mut fed = options.start;
    let mut batch = Vec::new();
    loop {
        let stop = sink.stop();
        let (end, said) = {
            let mut state = shared.lock();
            if state.pending.is_empty() && state.end.is_none() && !stop {
                state = shared
                    .changed
                    .wait_timeout(state, TICK)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            std::mem::swap(&mut state.pending, &mut batch);
            (state.end.clone(), state.said.take())
        };
        shared.changed.notify_all();
        if batch.is_empty() {
            sink.idle()?;
        }
        for part in batch.chunks(FED_AT_ONCE) {
            sink.wal(options.timeline, fed, part)?;
            fed = Lsn(fed.0 + part.len() as u64);
        }
        batch.clear();
        let mut flushed = shared.lock().flushed;
        if flushed < fed {
            // A sink that remembers more than this stream must not make us report what we did not give it.
            let now = sink.flush()?.min(fed);
            if now > flushed {
                flushed = now;
                shared.advance(flushed);
                shared.report();
            }
        }
        if let Some((end, since)) = said {
            // What came before it was said is flushed by now, or the time does not count.
            let since = since.filter(|_| end <= flushed);
            sink.source_at(end, since.map(|since| since.elapsed()));
        }
        // An end that was seen together with the batch means that nothing came after it.
        let end = if stop { Some(WalEnd::Stopped) } else { end };
        if let Some(end) = end {
            if let Some(e) = shared.lock().failure.take() {
                return Err(e);
            }
            return Ok(WalReport {
                received: fed,
                flushed,
                end,
            });
        }
    }
}

/// The reading side: owns the socket's reads until something ends them.
fn read(conn: &mut Conn, options: &WalOptions, shared: &Shared) -> WalEnd {
    let end = match read_stream(conn, options, shared) {
        Ok(end) => end,
        Err(Error::Io { source, .. }) => WalEnd::Disconnected(source.to_string()),
        Err(Error::Server(e)) => {
            shared.lock().failure = lost(&e, &options.slot);
            WalEnd::Disconnected(e.to_string())
        }
        Err(e) => WalEnd::Disconnected(e.to_string()),
    };
    // The sink may hang for long yet: the server must not wait for it.
    shared.disconnect();
    end
}

fn read_stream(conn: &mut Conn, options: &WalOptions, shared: &Shared) -> Result<WalEnd> {
    let mut position = options.from();
    let mut last_status = Instant::now();
    let mut rest = Rest::default();
    let mut copy_ended = false;
    let mut next = None;
    loop {
        {
            let mut state = shared.lock();
            if state.done {
                return Ok(WalEnd::Stopped);
            }
            if state.flushed >= state.received {
                state.progress = Instant::now();
            } else if state.progress.elapsed() > options.no_progress {
                return Ok(WalEnd::NoProgress);
            }
        }
        if rest.is_due() && !copy_ended {
            shared.ask();
            last_status = Instant::now();
        }
        if last_status.elapsed() > STATUS_EVERY && !copy_ended {
            shared.report();
            last_status = Instant::now();
        }
        let Some(message) = conn.tick()? else {
            continue;
        };
        match message.tag {
            b'd' => {
                let mut body = message.body;
                match take_u8(&mut body)? {
                    b'w' => {
                        let start = Lsn(take_u64(&mut body)?);
                        let (end, _time) = (Lsn(take_u64(&mut body)?), take_u64(&mut body)?);
                        if start != position {
                            return Err(bad(&format!(
                                "the server went from {position} to {start}"
                            )));
                        }
                        position = Lsn(start
                            .0
                            .checked_add(body.len() as u64)
                            .ok_or_else(|| bad("a position overflows"))?);
                        if let Some(at) = differs(options, start, &mut body) {
                            return Ok(WalEnd::HistoryDiffers { at });
                        }
                        if let Some(end) = enqueue(options, shared, &body) {
                            return Ok(end);
                        }
                        shared.lock().said = Some((end.max(position), None));
                    }
                    b'k' => {
                        let (end, _time) = (Lsn(take_u64(&mut body)?), take_u64(&mut body)?);
                        shared.lock().said = Some((end, rest.answered(end, position)));
                        if take_u8(&mut body)? == 1 {
                            shared.report();
                            last_status = Instant::now();
                        }
                    }
                    other => {
                        return Err(bad(&format!("replication message {:?}", char::from(other))));
                    }
                }
            }
            b'c' => {
                copy_ended = true;
                let _ = shared.copy_done();
            }
            b'D' => next = successor(message.body)?,
            b'E' => return Err(conn.server_error(message.body)),
            b'C' => {
                if let Some((next, switch)) = next {
                    return Ok(WalEnd::TimelineChanged { next, switch });
                }
                if !copy_ended {
                    return Ok(WalEnd::ServerStopped);
                }
            }
            b'Z' => return Ok(WalEnd::Disconnected("the server ended the stream".into())),
            b'T' | b'N' | b'S' => {}
            other => return Err(bad(&format!("message {:?} in a stream", char::from(other)))),
        }
    }
}

/// Whether nothing comes because there is nothing: the server's own word, twice.
///
/// A keepalive says up to where the server has sent. It looks for more only after it has answered, so what was written
/// just before may follow the answer; but not the next one. When two answers name the position at which we stand, then
/// all that was written when the first of them was asked for is here.
#[derive(Debug, Default)]
struct Rest {
    /// When the last question was asked, until it is answered.
    asked: Option<Instant>,
    /// The last question that was answered: when, and with which position.
    before: Option<(Instant, Lsn)>,
    /// When to ask again.
    due: Option<Instant>,
}

impl Rest {
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.asked.is_none() && self.due.is_none_or(|due| now >= due);
        if due {
            self.asked = Some(now);
        }
        due
    }

    /// Takes an answer; returns since when nothing is known to have been written beyond `position`.
    fn answered(&mut self, end: Lsn, position: Lsn) -> Option<Instant> {
        let asked = self.asked.take()?;
        self.due = Some(asked + ASK_EVERY);
        let before = self.before.replace((asked, end));
        before
            .filter(|(_, said)| *said == end && end == position)
            .map(|(since, _)| since)
    }
}

/// Compares what of `body` lies before the start with the kept bytes, and removes it. Returns where they differ.
fn differs(options: &WalOptions, start: Lsn, body: &mut Bytes) -> Option<Lsn> {
    let at = (start.0 - options.from().0) as usize;
    let kept = options.overlap.get(at..).unwrap_or_default();
    let again = body.split_to(kept.len().min(body.len()));
    let wrong = again.iter().zip(kept).position(|(a, b)| a != b)?;
    Some(Lsn(start.0 + wrong as u64))
}

/// Hands bytes to the feeding side, waiting while too many wait there; returns an end when the wait was given up.
fn enqueue(options: &WalOptions, shared: &Shared, bytes: &[u8]) -> Option<WalEnd> {
    let mut state = shared.lock();
    while state.pending.len() >= MAX_PENDING {
        if state.done {
            return Some(WalEnd::Stopped);
        }
        if state.progress.elapsed() > options.no_progress {
            return Some(WalEnd::NoProgress);
        }
        state = shared
            .changed
            .wait_timeout(state, TICK)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
    state.pending.extend_from_slice(bytes);
    state.received = Lsn(state.received.0 + bytes.len() as u64);
    drop(state);
    shared.changed.notify_all();
    None
}

fn bad(detail: &str) -> Error {
    Error::malformed("replication stream", detail)
}
