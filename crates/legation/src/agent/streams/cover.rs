//! As of when everything that the source had is acknowledged, also while nothing comes.
//!
//! Bytes that came tell when they came. That nothing came is no proof that there was nothing: the source must say so.

use std::time::{Duration, Instant};

use legation_core::id::Lsn;

/// A source that says nothing for this long is not known to rest: it is asked every second.
const SILENT: Duration = Duration::from_secs(5);

/// What is known of one registry's source.
#[derive(Debug)]
pub struct Cover {
    /// When this run began to know anything.
    began: Instant,
    /// All that the source had then is acknowledged.
    until: Option<Instant>,
    /// Where the source last said that its log ends.
    end: Option<Lsn>,
}

impl Default for Cover {
    fn default() -> Cover {
        Cover {
            began: Instant::now(),
            until: None,
            end: None,
        }
    }
}

impl Cover {
    /// What came until `since` is acknowledged.
    pub fn acknowledged(&mut self, since: Instant) {
        self.until = self.until.max(Some(since));
    }

    /// The source says where its log ends; if nothing waits here and all of that is acknowledged, and it was so
    /// `rested` ago already, then what it had at that time is covered.
    pub fn heard(&mut self, end: Lsn, rested: Option<Duration>, acked: Option<Lsn>) {
        self.end = Some(end);
        let at = rested.and_then(|ago| Instant::now().checked_sub(ago));
        if acked.is_some_and(|acked| acked >= end) && at.is_some() {
            self.until = self.until.max(at);
        }
    }

    /// As of when all is covered; `None` when this run does not know yet.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Where the source last said that its log ends.
    pub fn end(&self) -> Option<Lsn> {
        self.end
    }

    /// How long nobody has known whether there is something to keep: zero while the source answers.
    pub fn silence(&self) -> Duration {
        let since = self.until.unwrap_or(self.began).elapsed();
        if since < SILENT {
            Duration::ZERO
        } else {
            since
        }
    }
}
