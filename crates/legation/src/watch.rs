//! How anything long is watched and broken off: it says how far it is, and ends at its next step when asked to stop.

use crate::exit::{Code, Failure};
use crate::output::Progress;
use crate::stop::Stop;

/// One long step under watch.
#[derive(Debug, Clone)]
pub struct Watch {
    progress: Progress,
    stop: Stop,
}

impl Watch {
    /// Shows `progress`, and ends when `stop` is up.
    pub fn new(progress: Progress, stop: &Stop) -> Watch {
        Watch {
            progress,
            stop: stop.clone(),
        }
    }

    /// Nobody looks, and nothing breaks it off: for roles and for tests.
    pub fn unseen() -> Watch {
        Watch {
            progress: Progress::silent(),
            stop: Stop::new(),
        }
    }

    /// Says how much there is to do.
    pub fn total(&self, total: u64) {
        self.progress.total(total);
    }

    /// Says how much is done.
    pub fn set(&self, done: u64) {
        self.progress.set(done);
    }

    /// Says that more is done.
    pub fn add(&self, steps: u64) {
        self.progress.add(steps);
    }

    /// Whether it shall end.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_up()
    }

    /// Goes on, unless it shall end.
    ///
    /// # Errors
    /// Code 130 when stopping was asked for.
    pub fn go_on(&self) -> Result<(), Failure> {
        if self.is_stopped() {
            return Err(Failure::new(Code::Interrupted, "interrupted"));
        }
        Ok(())
    }

    /// Takes what is shown away.
    pub fn finish(&self) {
        self.progress.finish();
    }
}
