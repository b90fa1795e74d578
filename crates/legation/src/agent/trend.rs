//! How long the spool lasts if it goes on filling as it does.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Over which time the rate is taken, and how often it is looked at: long enough that one capture is no trend.
const OVER: Duration = Duration::from_secs(600);
const EVERY: Duration = Duration::from_secs(10);
/// Below this there is no trend yet.
const LEAST: Duration = Duration::from_secs(30);

/// What the spool held lately.
#[derive(Debug, Default)]
pub struct Trend {
    seen: VecDeque<(Instant, u64)>,
}

impl Trend {
    /// How long until `used` has grown to `limit`; `None` when it does not grow, or nothing is known yet.
    pub fn lasts(&mut self, used: u64, limit: u64) -> Option<Duration> {
        self.lasts_at(Instant::now(), used, limit)
    }

    fn lasts_at(&mut self, now: Instant, used: u64, limit: u64) -> Option<Duration> {
        let due = |(at, _): &(Instant, u64)| now.duration_since(*at) >= EVERY;
        if self.seen.back().is_none_or(due) {
            self.seen.push_back((now, used));
        }
        while self
            .seen
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > OVER)
        {
            self.seen.pop_front();
        }
        let (since, before) = *self.seen.front()?;
        let over = now.duration_since(since);
        let grown = used.checked_sub(before).filter(|grown| *grown > 0)?;
        if over < LEAST {
            return None;
        }
        let left = limit.saturating_sub(used) as f64 / grown as f64 * over.as_secs_f64();
        Duration::try_from_secs_f64(left).ok()
    }
}

/// Whole milliseconds.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_that_grows_is_full_at_some_time() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut trend = Trend::default();
        assert_eq!(trend.lasts_at(at(0), 100, 1100), None);
        assert_eq!(trend.lasts_at(at(20), 120, 1100), None, "too early to say");
        // One byte a second, 1,000 left.
        assert_eq!(
            trend.lasts_at(at(100), 200, 1200),
            Some(Duration::from_secs(1000))
        );
        assert_eq!(trend.lasts_at(at(120), 100, 1200), None, "it does not grow");
        // What is long ago does not count.
        assert_eq!(trend.lasts_at(at(800), 100, 1200), None);
        assert_eq!(
            trend.lasts_at(at(900), 200, 1200),
            Some(Duration::from_secs(1000))
        );
    }
}
