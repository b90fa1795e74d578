//! A line between two processes that can be cut, stalled and mended: a relay on loopback, which knows nothing of what
//! goes through it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Doing, Result};

/// Bytes that are passed on at once.
const PIECE: usize = 16 * 1024;

/// What the line does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It carries them.
    Open,
    /// It takes them and passes none on, as a line does whose other end has gone.
    Stalled,
    /// It carries none: every connection is reset, also a new one.
    Cut,
    /// The relay ends.
    Ended,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// Both ends of every connection under way.
    under_way: Vec<TcpStream>,
    /// Once so many more bytes have gone through, the line is cut in the midst of them.
    left: Option<u64>,
    /// Connections carried so far.
    carried: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, mode: Mode) {
        let mut state = self.lock();
        state.mode = mode;
        if matches!(mode, Mode::Cut | Mode::Ended) {
            reset(&mut state);
        }
        self.changed.notify_all();
    }

    /// Waits while the line is stalled; how many of `len` bytes may pass, none when it is cut.
    fn pass(&self, len: usize) -> Option<usize> {
        let mut state = self.lock();
        loop {
            match state.mode {
                Mode::Open => break,
                Mode::Stalled => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                Mode::Cut | Mode::Ended => return None,
            }
        }
        let Some(left) = &mut state.left else {
            return Some(len);
        };
        let now = usize::try_from(*left).unwrap_or(len).min(len);
        *left -= now as u64;
        if *left == 0 {
            state.left = None;
            state.mode = Mode::Cut;
        }
        Some(now)
    }
}

/// Resets what is under way: whoever is at either end hears of it at once.
fn reset(state: &mut State) {
    for stream in state.under_way.drain(..) {
        let at_once = Some(Duration::ZERO);
        let _ = rustix::net::sockopt::set_socket_linger(&stream, at_once);
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// A relay to one port of loopback.
#[derive(Debug)]
pub struct Line {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Line {
    /// A line to `to`, open.
    ///
    /// # Errors
    /// When no port is free.
    pub fn to(to: u16) -> Result<Self> {
        let port = crate::ports::claim()?;
        let listener = TcpListener::bind(("127.0.0.1", port)).doing("laying a line")?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                mode: Mode::Open,
                under_way: Vec::new(),
                left: None,
                carried: 0,
            }),
            changed: Condvar::new(),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("line".into())
                .spawn(move || accept(&listener, to, &shared))
                .doing("laying a line")?
        };
        Ok(Self {
            port,
            shared,
            accepting: Some(accepting),
        })
    }

    /// Where it begins.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts it: everything under way is reset, and so is every attempt.
    pub fn cut(&self) {
        self.shared.set(Mode::Cut);
    }

    /// Cuts it in the midst of the bytes, once so many more have gone through.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.lock().left = Some(bytes.max(1));
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.shared.lock().mode == Mode::Cut
    }

    /// Nothing goes through and nobody is told.
    pub fn stall(&self) {
        self.shared.set(Mode::Stalled);
    }

    /// Mends it, however it was.
    pub fn mend(&self) {
        self.shared.set(Mode::Open);
    }

    /// Connections carried so far.
    pub fn carried(&self) -> u64 {
        self.shared.lock().carried
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.set(Mode::Ended);
        // It waits for a connection; this is one.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, to: u16, shared: &Arc<Shared>) {
    for near in listener.incoming() {
        let mode = shared.lock().mode;
        match mode {
            Mode::Ended => return,
            Mode::Cut => {
                if let Ok(near) = near {
                    let _ = rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO));
                }
                continue;
            }
            Mode::Open | Mode::Stalled => {}
        }
        // Who is not there is not there: the near end sees its connection end.
        let (Ok(near), Ok(far)) = (near, TcpStream::connect(("127.0.0.1", to))) else {
            continue;
        };
        let _ = carry(near, far, shared);
    }
}

/// Carries one connection, in two threads that end with it.
fn carry(near: TcpStream, far: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    {
        let mut state = shared.lock();
        state.carried += 1;
        // Those that ended are let go of.
        state.under_way.retain(|s| s.peer_addr().is_ok());
        state.under_way.push(near.try_clone()?);
        state.under_way.push(far.try_clone()?);
    }
    for (from, into) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        let shared = Arc::clone(shared);
        std::thread::Builder::new()
            .name("line".into())
            .spawn(move || copy(from, into, &shared))?;
    }
    Ok(())
}

fn copy(mut from: TcpStream, mut into: TcpStream, shared: &Shared) {
    let mut piece = [0; PIECE];
    loop {
        let len = match from.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(len) => len,
        };
        let Some(now) = shared.pass(len) else { break };
        if into.write_all(&piece[..now]).is_err() {
            break;
        }
        if now < len {
            reset(&mut shared.lock());
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Echoes until it is told nothing more.
    fn echo() -> u16 {
        let port = crate::ports::claim().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut bytes = [0; 64];
                    while let Ok(len @ 1..) = stream.read(&mut bytes) {
                        if stream.write_all(&bytes[..len]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        port
    }

    fn says(stream: &mut TcpStream, word: &[u8]) -> bool {
        let mut heard = vec![0; word.len()];
        stream.write_all(word).is_ok() && stream.read_exact(&mut heard).is_ok() && heard == word
    }

    #[test]
    fn a_line_carries_stalls_breaks_and_is_mended() {
        let line = Line::to(echo()).unwrap();
        let open = || TcpStream::connect(("127.0.0.1", line.port())).unwrap();
        let mut first = open();
        assert!(says(&mut first, b"carried"));

        line.stall();
        first
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        assert!(!says(&mut first, b"later"), "nothing goes through");
        line.mend();
        first.set_read_timeout(None).unwrap();
        let mut heard = [0; 5];
        first.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"later", "what was taken arrives");

        line.cut();
        assert!(!says(&mut first, b"cut"));
        assert!(!says(&mut open(), b"cut"));
        line.mend();
        assert!(says(&mut open(), b"mended"));

        line.cut_after(8);
        let mut last = open();
        last.write_all(b"0123456789").unwrap();
        let mut heard = Vec::new();
        let _ = last.read_to_end(&mut heard);
        assert!(heard.len() <= 8 && line.is_cut(), "{heard:?}");
    }
}
