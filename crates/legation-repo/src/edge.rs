//! Named failpoints: the edges where an I/O operation can be refused, or persist and still be reported failed.
//!
//! Code names an edge and runs the operation through it: `edge::at("journal.sync", || file.sync_data())`. Without the
//! cargo feature `faults` (and outside this crate's tests) that is a plain call. With it:
//! - `LEGATION_FAULT="journal.sync:3=kill"` makes the process act at the 3rd passage of that edge; several are
//!   separated by commas. Actions: `kill` (SIGKILL to itself before the operation), `late-kill` (after it), `eio`,
//!   `enospc` (refused: the operation does not happen), `late-eio` (it happens and is reported failed).
//! - `arm` sets one for the current thread, for tests inside a process.
//!
//! A fault fires once. The names are part of the tests' contract and are listed in [`EDGES`].

use std::io;

/// Every edge there is.
pub const EDGES: &[&str] = &[
    "file.write",
    "file.sync",
    "file.rename",
    "dir.sync",
    "object.write",
    "object.sync",
    "object.link",
    "journal.create",
    "journal.append",
    "journal.sync",
    "log.append",
    "log.sync",
    "log.checkpoint",
    "log.settle",
    "agent.state",
    "agent.epoch",
    "agent.slip",
    "agent.epoch-statement",
    "agent.moved",
    "agent.stream",
    "agent.history",
    "agent.receive",
    "agent.pack",
    "agent.index",
    "agent.commit",
    "agent.outbox",
    "agent.acked",
    "agent.ack",
    "agent.committed",
    "agent.sent",
];

/// Runs `operation` at the named edge.
#[cfg(not(any(test, feature = "faults")))]
#[inline(always)]
pub fn at<T>(_name: &'static str, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    operation()
}

/// Runs `operation` at the named edge.
#[cfg(any(test, feature = "faults"))]
pub fn at<T>(name: &'static str, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    debug_assert!(EDGES.contains(&name), "{name} is not in EDGES");
    let fault = armed::passing(name);
    if let Some(fault) = fault {
        tracing::warn!("fault at {name}: {fault:?}");
    }
    match fault {
        Some(Fault::Kill) => armed::die(),
        Some(Fault::Eio) => return Err(io::Error::from(rustix::io::Errno::IO)),
        Some(Fault::Enospc) => return Err(io::Error::from(rustix::io::Errno::NOSPC)),
        _ => {}
    }
    let result = operation();
    match fault {
        Some(Fault::LateKill) => armed::die(),
        Some(Fault::LateEio) => Err(io::Error::from(rustix::io::Errno::IO)),
        _ => result,
    }
}

/// Passes the named edge where there is no operation of its own.
pub fn hit(name: &'static str) -> io::Result<()> {
    at(name, || Ok(()))
}

/// What an armed edge does.
#[cfg(any(test, feature = "faults"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process kills itself before the operation.
    Kill,
    /// The process kills itself after the operation.
    LateKill,
    /// The operation is refused with an I/O error.
    Eio,
    /// The operation is refused because the device is full.
    Enospc,
    /// The operation happens and is reported failed.
    LateEio,
}

#[cfg(any(test, feature = "faults"))]
pub use armed::{arm, disarm};

#[cfg(any(test, feature = "faults"))]
mod armed {
    use std::cell::RefCell;
    use std::sync::{Mutex, OnceLock};

    use super::Fault;

    struct Armed {
        name: String,
        left: u32,
        fault: Fault,
    }

    thread_local! {
        static LOCAL: RefCell<Vec<Armed>> = const { RefCell::new(Vec::new()) };
    }

    /// Arms an edge for the current thread: at its `passage`-th passage from now (1 is the next) `fault` happens.
    pub fn arm(name: &str, passage: u32, fault: Fault) {
        let armed = Armed {
            name: name.to_owned(),
            left: passage,
            fault,
        };
        LOCAL.with(|local| local.borrow_mut().push(armed));
    }

    /// Disarms all edges of the current thread. Returns whether any had not fired.
    pub fn disarm() -> bool {
        LOCAL.with(|local| !std::mem::take(&mut *local.borrow_mut()).is_empty())
    }

    pub(super) fn passing(name: &str) -> Option<Fault> {
        let local = LOCAL.with(|local| step(&mut local.borrow_mut(), name));
        local.or_else(|| {
            static PROCESS: OnceLock<Mutex<Vec<Armed>>> = OnceLock::new();
            let process = PROCESS.get_or_init(|| Mutex::new(from_environment()));
            let mut armed = process.lock().ok()?;
            step(&mut armed, name)
        })
    }

    pub(super) fn die() -> ! {
        let own = rustix::process::getpid();
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        std::process::abort()
    }

    fn step(armed: &mut Vec<Armed>, name: &str) -> Option<Fault> {
        let at = armed.iter().position(|a| a.name == name)?;
        armed[at].left = armed[at].left.saturating_sub(1);
        (armed[at].left == 0).then(|| armed.remove(at).fault)
    }

    /// Reads `LEGATION_FAULT`; a part that makes no sense is said aloud and left out.
    fn from_environment() -> Vec<Armed> {
        let text = std::env::var("LEGATION_FAULT").unwrap_or_default();
        text.split(',')
            .filter(|part| !part.is_empty())
            .filter_map(parse)
            .collect()
    }

    fn parse(part: &str) -> Option<Armed> {
        let parsed = part.split_once('=').and_then(|(edge, action)| {
            let (name, passage) = edge.split_once(':').unwrap_or((edge, "1"));
            let fault = match action {
                "kill" => Fault::Kill,
                "late-kill" => Fault::LateKill,
                "eio" => Fault::Eio,
                "enospc" => Fault::Enospc,
                "late-eio" => Fault::LateEio,
                _ => return None,
            };
            Some(Armed {
                name: name.to_owned(),
                left: passage.parse().ok()?,
                fault,
            })
        });
        if parsed.is_none() {
            tracing::warn!("LEGATION_FAULT: {part:?} is not edge:passage=action, left out");
        }
        parsed
    }
}
