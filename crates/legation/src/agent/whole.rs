//! Sources that are captured whole, each at its own cadence: one loop for all of them. What differs is the driver.

use std::time::{Duration, Instant};

use legation_core::source::Sink;

use super::index::Index;
use super::link::Backoff;
use super::request::Request;
use super::status::now_ms;
use super::version::{Taken, Versions};
use crate::exit::{Code, Failure};
use crate::stop::Stop;

/// How often requests and the stop flag are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How one kind of source is read.
pub trait Driver: Send + 'static {
    /// The kind, as versions name it.
    fn kind(&self) -> &'static str;

    /// The name of the source within its version.
    fn name(&self) -> &'static str;

    /// The time from the beginning of a capture to the next.
    fn every(&self) -> Duration;

    /// Whether the source is as the parent version has it. Costs little; in doubt it answers no. Of what did not change
    /// no version is made: it would cost packs and an epoch. Never asked when there is no parent.
    ///
    /// # Errors
    /// As [`Driver::take`].
    fn is_unchanged(&self, parent: &Index, stop: &Stop) -> Result<bool, Failure>;

    /// Gives all of the source to the sink; what the parent version holds already need not be read again. What turns out
    /// to be as the parent has it may be said so, and makes no version.
    ///
    /// # Errors
    /// Code 3 when not all could be read; code 130 when `stop` was raised. Nothing of the attempt is then kept.
    fn take(&self, parent: &Index, sink: &mut dyn Sink, stop: &Stop) -> Result<Taken, Failure>;
}

/// A source of a registry that is captured whole.
pub struct Whole<D> {
    /// Reads it.
    pub driver: D,
    /// Takes the versions.
    pub versions: Versions,
}

impl<D: Driver> Whole<D> {
    /// Captures until told to stop.
    pub fn run(self) {
        let stop = &self.versions.stop;
        let mut backoff = Backoff::default();
        let mut due = Instant::now();
        while !stop.is_up() {
            let request = Request::look(&self.versions.dir);
            if self.versions.is_pending() || (Instant::now() < due && request.is_none()) {
                stop.wait(LOOK);
                continue;
            }
            let began = Instant::now();
            self.phase("capturing");
            let taken = Request::take(&self.versions.dir);
            let full = |request: Option<Request>| request.is_some_and(|request| request.full);
            match taken.and_then(|request| self.capture(full(request))) {
                Ok(()) => {
                    backoff.reset();
                    // Whoever asked reads what came of it once the request is gone.
                    self.publish();
                    Request::done(&self.versions.dir);
                    due = began + self.driver.every();
                    self.phase("waiting");
                }
                Err(failure) if failure.code == Code::Interrupted => return,
                Err(failure) => {
                    tracing::error!(registry = %self.versions.registry, "{failure}");
                    self.versions.board.registry(&self.versions.name, |status| {
                        status.trouble = Some(failure.message.clone());
                        status.failures += 1;
                    });
                    self.phase("failing");
                    stop.wait(backoff.pause());
                }
            }
        }
    }

    fn capture(&self, full: bool) -> Result<(), Failure> {
        let stop = &self.versions.stop;
        let parent = if full {
            self.versions.no_parent()
        } else {
            self.versions.parent()
        };
        let began = now_ms();
        if parent.entries().next().is_some() && self.driver.is_unchanged(&parent, stop)? {
            self.is_as_before(&parent, began);
            return Ok(());
        }
        // Not for what did not change: a version that needs too many epochs is made anew with the next that is due.
        let parent = if self.versions.is_outgrown(&parent) {
            self.versions.no_parent()
        } else {
            parent
        };
        let (kind, name) = (self.driver.kind(), self.driver.name());
        let made = self.versions.capture_changed(kind, name, &parent, |sink| {
            self.driver.take(&parent, sink, stop)
        })?;
        if made.is_none() {
            self.is_as_before(&parent, began);
        }
        Ok(())
    }

    fn is_as_before(&self, parent: &Index, began: u64) {
        let incomplete = parent.incomplete();
        self.versions.board.registry(&self.versions.name, |status| {
            status.unchanged_at = Some(began);
            status.incomplete = incomplete;
            status.trouble = None;
        });
    }

    fn publish(&self) {
        if let Err(failure) = self.versions.board.publish() {
            tracing::warn!("the status could not be written: {failure}");
        }
    }

    fn phase(&self, phase: &str) {
        self.versions
            .board
            .registry(&self.versions.name, |status| status.phase = phase.into());
    }
}
