//! The wish to stop: set once by SIGINT or SIGTERM, seen by every thread within a moment.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::exit::Failure;

/// A flag that goes up once. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    up: Mutex<bool>,
    changed: Condvar,
    children: Mutex<Vec<Weak<Inner>>>,
}

impl Inner {
    fn raise(&self) {
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        for child in children.iter().filter_map(Weak::upgrade) {
            child.raise();
        }
    }
}

impl Stop {
    /// A flag that is down and that no signal raises (for tests and for verbs that end by themselves).
    pub fn new() -> Stop {
        Stop::default()
    }

    /// A flag that SIGINT and SIGTERM raise; a second signal ends the process at once.
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
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        drop(guard);
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async move {
                    loop {
                        tokio::select! {
                            _ = interrupt.recv() => {}
                            _ = terminate.recv() => {}
                        }
                        if raised.is_up() {
                            std::process::exit(i32::from(crate::exit::Code::Interrupted as u8));
                        }
                        raised.raise();
                    }
                });
            })?;
        Ok(stop)
    }

    /// Raises the flag and wakes whoever waits.
    pub fn raise(&self) {
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
        *self.inner.up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `time`, or less when stopping is asked for; returns whether it was.
    pub fn wait(&self, time: Duration) -> bool {
        let up = self.inner.up.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.inner.changed.wait_timeout_while(up, time, |up| !*up);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
