//! Between the thread that holds SQLite's lock and the one that seals: bounded, and whoever fills it may give up at a
//! moment, so that a sink that waits does not hold up the application.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What became of an item.
#[derive(Debug)]
pub(super) enum Pushed<T> {
    /// It is in the queue.
    Done,
    /// There was no room in time; here it is back.
    Late(T),
    /// Nobody takes anything any more.
    Closed,
}

#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    moved: Condvar,
    places: usize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub fn new(places: usize) -> Queue<T> {
        let state = State {
            items: VecDeque::with_capacity(places),
            closed: false,
        };
        Queue {
            state: Mutex::new(state),
            moved: Condvar::new(),
            places,
        }
    }

    /// Waits for room, at the longest until then.
    pub fn push(&self, item: T, until: Option<Instant>) -> Pushed<T> {
        let mut state = self.state();
        while state.items.len() == self.places && !state.closed {
            state = match until {
                None => self
                    .moved
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Pushed::Late(item);
                    }
                    let waited = self.moved.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        if state.closed {
            return Pushed::Closed;
        }
        state.items.push_back(item);
        self.moved.notify_all();
        Pushed::Done
    }

    /// The next item, or `None` when none came for so long.
    pub fn pop(&self, within: Duration) -> Option<T> {
        let until = Instant::now() + within;
        let mut state = self.state();
        loop {
            if let Some(item) = state.items.pop_front() {
                self.moved.notify_all();
                return Some(item);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.moved.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// From now on nothing is taken.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.items.clear();
        self.moved.notify_all();
    }

    /// No half-done change can be behind a poisoned lock: each is one call.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
