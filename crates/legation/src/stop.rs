//! The wish to stop: set once by SIGINT or SIGTERM, seen by every thread within a moment.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::exit::Failure;

/// A flag that goes up once. Clones share it.
///
/// A second signal ends the process at once, unless something is [held](Stop::hold) that must not stay behind: then it
/// only hastens.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    wish: Mutex<Wish>,
    changed: Condvar,
    children: Mutex<Vec<Weak<Inner>>>,
}

impl Inner {
    fn raise(&self) {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner).up = true;
        self.changed.notify_all();
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        for child in children.iter().filter_map(Weak::upgrade) {
            child.raise();
        }
    }
}

#[derive(Debug, Default)]
struct Wish {
    up: bool,
    hasty: bool,
    held: usize,
}

/// While it lives, no signal ends the process before its time.
#[derive(Debug)]
pub struct Held(Stop);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.wish().held -= 1;
    }
}

impl Stop {
    /// A flag that is down and that no signal raises (for tests and for verbs that end by themselves).
    pub fn new() -> Stop {
        Stop::default()
    }

    /// A flag that SIGINT, SIGTERM, SIGQUIT and a terminal that goes away raise; a second signal ends the process at once, or
    /// hastens it where something is held.
    ///
    /// # Errors
    /// When the system refuses the thread or the handlers.
    pub fn on_signals() -> Result<Stop, Failure> {
        let stop = Stop::new();
        let raised = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let guard = runtime.enter();
        let mut interrupt =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let mut quit = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::quit())?;
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        // Whoever started us with nohup wants us to outlive the terminal.
        let mut hangup = match hangup_ignored() {
            true => None,
            false => Some(tokio::signal::unix::signal(
                tokio::signal::unix::SignalKind::hangup(),
            )?),
        };
        drop(guard);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async move {
                    loop {
                        tokio::select! {
                            _ = interrupt.recv() => {}
                            _ = terminate.recv() => {}
                            _ = quit.recv() => {}
                            _ = gone(hangup.as_mut()) => {}
                        }
                        raised.signalled();
                    }
                });
            })?;
        Ok(stop)
    }

    /// Keeps signals from ending the process while the result lives: something is there that must be taken away first.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.wish().held += 1;
        Held(self.clone())
    }

    /// Raises the flag and wakes whoever waits.
    pub fn raise(&self) {
        self.inner.raise();
    }

    /// One signal.
    fn signalled(&self) {
        let mut wish = self.wish();
        if wish.up && wish.held == 0 {
            // Under the lock: nobody can begin to hold something meanwhile.
            std::process::exit(i32::from(crate::exit::Code::Interrupted as u8));
        }
        wish.hasty = wish.up;
        drop(wish);
        self.inner.raise();
    }

    /// A flag that goes up with this one, or alone before it.
    #[must_use]
    pub fn child(&self) -> Stop {
        let child = Stop::new();
        let mut children = self
            .inner
            .children
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| child.strong_count() > 0);
        children.push(Arc::downgrade(&child.inner));
        drop(children);
        if self.is_up() {
            child.raise();
        }
        child
    }

    /// Whether stopping was asked for.
    pub fn is_up(&self) -> bool {
        self.wish().up
    }

    /// Whether it was asked for a second time: what may be cut short is.
    pub fn is_hasty(&self) -> bool {
        self.wish().hasty
    }

    /// Sleeps for `time`, or less when stopping is asked for; returns whether it was.
    pub fn wait(&self, time: Duration) -> bool {
        let waited = self
            .inner
            .changed
            .wait_timeout_while(self.wish(), time, |wish| !wish.up);
        waited.unwrap_or_else(PoisonError::into_inner).0.up
    }

    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.inner
            .wish
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the terminal to go away; for ever, if that is no concern of ours.
async fn gone(hangup: Option<&mut tokio::signal::unix::Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether SIGHUP, signal 1, was ignored when we were started.
fn hangup_ignored() -> bool {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = text.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_signal_only_hastens_while_something_is_held() {
        let stop = Stop::new();
        let held = stop.hold();
        stop.signalled();
        assert!(stop.is_up() && !stop.is_hasty());
        assert!(stop.wait(Duration::from_secs(600)));
        stop.signalled();
        stop.signalled();
        assert!(stop.is_hasty());
        drop(held);
        assert_eq!(stop.wish().held, 0);
    }
}
