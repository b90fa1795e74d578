//! How many versions may be captured at once: as many as workers, and as many as the memory holds.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::stop::Stop;

/// How often a waiting capture looks whether it should stop.
const LOOK: Duration = Duration::from_millis(200);

/// Places for captures. Clones share them.
#[derive(Debug, Clone)]
pub struct Gate {
    inner: Arc<(Mutex<u64>, Condvar)>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
}

impl Gate {
    /// A gate with `places` places, at least one.
    pub fn new(places: u64) -> Gate {
        Gate {
            inner: Arc::new((Mutex::new(places.max(1)), Condvar::new())),
        }
    }

    /// Waits for a place; `None` when asked to stop.
    pub fn enter(&self, stop: &Stop) -> Option<Pass> {
        let (places, freed) = &*self.inner;
        let mut free = places.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            if stop.is_up() {
                return None;
            }
            free = freed
                .wait_timeout(free, LOOK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *free -= 1;
        Some(Pass { gate: self.clone() })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let (places, freed) = &*self.gate.inner;
        *places.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        freed.notify_one();
    }
}
