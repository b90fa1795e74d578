//! The bound on the spool: how many sealed bytes may wait on the agent's disk.
//!
//! Live WAL may use all of it; what belongs to versions may use half, so that a long base never pushes out the stream
//! that sets RPO.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::stop::Stop;

/// Once full, the spool counts as full until this share of it is free again, in tenths: a source that reconnects at
/// the first free byte would be thrown out again at once.
const ROOMY_TENTHS: u64 = 9;
/// How often a waiting producer looks whether it should stop.
const LOOK: Duration = Duration::from_millis(200);

/// Bytes that wait, and how many may. Clones share the count.
#[derive(Debug, Clone)]
pub struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: u64,
    used: Mutex<Used>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Used {
    /// Journal frames.
    live: u64,
    /// Packs, lists, slips and statements.
    queued: u64,
    full: bool,
}

impl Used {
    fn all(&self) -> u64 {
        self.live.saturating_add(self.queued)
    }
}

impl Budget {
    /// An empty spool of at most `limit` bytes.
    pub fn new(limit: u64) -> Budget {
        Budget {
            inner: Arc::new(Inner {
                limit,
                used: Mutex::default(),
                freed: Condvar::new(),
            }),
        }
    }

    /// Counts frames that are there already, whatever the bound.
    pub fn found_live(&self, bytes: u64) {
        self.lock().live += bytes;
    }

    /// Counts items of a queue, whatever the bound.
    pub fn found_queued(&self, bytes: u64) {
        self.lock().queued += bytes;
    }

    /// Takes room for live WAL; `false` when there is none, and then the spool counts as full until it has drained.
    pub fn take_live(&self, bytes: u64) -> bool {
        let mut used = self.lock();
        if used.all().saturating_add(bytes) > self.inner.limit {
            used.full = true;
            return false;
        }
        used.live += bytes;
        true
    }

    /// Waits for room for a part of a version; `false` when asked to stop. One piece may always pass. It is counted once
    /// it is in its queue.
    pub fn wait_queued(&self, bytes: u64, stop: &Stop) -> bool {
        let mut used = self.lock();
        while used.queued > 0 && self.is_crowded(&used, bytes) {
            if stop.is_up() {
                return false;
            }
            used = self
                .inner
                .freed
                .wait_timeout(used, LOOK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Gives room of frames back.
    pub fn give_live(&self, bytes: u64) {
        self.give(|used| used.live = used.live.saturating_sub(bytes));
    }

    /// Gives room of queued items back.
    pub fn give_queued(&self, bytes: u64) {
        self.give(|used| used.queued = used.queued.saturating_sub(bytes));
    }

    fn is_crowded(&self, used: &Used, bytes: u64) -> bool {
        let limit = self.inner.limit;
        used.queued.saturating_add(bytes) > limit / 2 || used.all().saturating_add(bytes) > limit
    }

    fn give(&self, change: impl FnOnce(&mut Used)) {
        let mut used = self.lock();
        change(&mut used);
        if used.all() <= self.inner.limit / 10 * ROOMY_TENTHS {
            used.full = false;
        }
        drop(used);
        self.inner.freed.notify_all();
    }

    /// Whether live WAL was turned away and the spool has not drained since.
    pub fn is_full(&self) -> bool {
        self.lock().full
    }

    /// Bytes that wait now.
    pub fn used(&self) -> u64 {
        self.lock().all()
    }

    /// Bytes that may wait.
    pub fn limit(&self) -> u64 {
        self.inner.limit
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Used> {
        self.inner
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
