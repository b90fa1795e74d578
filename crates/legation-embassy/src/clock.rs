//! When a statement was received: by the machine's clock, as far as that can be believed.
//!
//! Receive times never go back, so one entry stamped by a clock that jumped ahead would bind every later one: orders
//! would expire, and nothing could be undone. A jump that the monotonic clock does not confirm is not stamped.

use std::time::{Duration, Instant};

use legation_core::statement::Time;

use crate::hosted;

/// How far the clock may be ahead of what this process has measured since it began: time servers correct less.
const MAX_JUMP: Duration = Duration::from_secs(24 * 3600);

/// How long an embassy may have been off.
const LONGEST_REST: Duration = Duration::from_secs(400 * 24 * 3600);

/// The machine's clock, watched by its monotonic one since this process began.
pub struct Clock {
    wall: Time,
    since: Instant,
}

impl Clock {
    /// Begins to watch. What the clock says now is believed, as long as an embassy may have been off since the last
    /// entry of its log: a battery that is empty must not bind every later entry to a year that is far away. Beyond that
    /// it is believed once the operator has looked at it, which is no earlier than `checked`.
    pub fn start(last: Time, checked: Option<Time>) -> Self {
        Self {
            wall: began(hosted::now(), last, checked),
            since: Instant::now(),
        }
    }

    /// The time, unless it has jumped ahead of both the last stamp and what was measured. Never before `last`.
    pub fn stamp(&self, last: Time) -> Option<Time> {
        stamp(hosted::now(), last, self.wall, self.since.elapsed())
    }
}

fn began(now: Time, last: Time, checked: Option<Time>) -> Time {
    let rest = u64::try_from(LONGEST_REST.as_millis()).unwrap_or(u64::MAX);
    let believed = Time::from_millis(last.millis().saturating_add(rest)).unwrap_or(now);
    now.min(believed.max(checked.unwrap_or(believed)))
}

fn stamp(now: Time, last: Time, began: Time, elapsed: Duration) -> Option<Time> {
    let jump = MAX_JUMP.as_millis();
    let measured = u128::from(began.millis()) + elapsed.as_millis();
    let now_ms = u128::from(now.millis());
    let jumped = now_ms > u128::from(last.millis()) + jump && now_ms > measured + jump;
    (!jumped).then(|| now.max(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_that_nothing_confirms_is_not_stamped() {
        const DAY: u64 = 24 * 3600 * 1000;
        let at = |days: u64| Time::from_millis(1_800_000_000_000 + days * DAY).unwrap();
        let elapsed = |days: u64| Duration::from_millis(days * DAY);
        // A quiet month, measured; a month's sleep before the start; a clock set back.
        assert_eq!(stamp(at(30), at(0), at(0), elapsed(30)), Some(at(30)));
        assert_eq!(stamp(at(30), at(0), at(30), elapsed(0)), Some(at(30)));
        assert_eq!(stamp(at(3), at(5), at(4), elapsed(1)), Some(at(5)));
        assert_eq!(stamp(at(1), at(0), at(0), elapsed(0)), Some(at(1)));
        // Two days, of which nobody saw more than a moment.
        assert_eq!(stamp(at(2), at(0), at(0), elapsed(0)), None);
        assert_eq!(stamp(at(40), at(30), at(0), elapsed(30)), None);
        // Ten years, right at a start; and what an operator has looked at.
        assert_eq!(began(at(30), at(0), None), at(30));
        assert_eq!(
            stamp(at(3650), at(0), began(at(3650), at(0), None), elapsed(1)),
            None
        );
        let looked = began(at(3650), at(0), Some(at(3649)));
        assert_eq!(stamp(at(3650), at(0), looked, elapsed(1)), Some(at(3650)));
        assert_eq!(began(at(1), at(0), Some(at(3649))), at(1));
        // It agrees again.
        assert_eq!(stamp(at(31), at(30), at(0), elapsed(31)), Some(at(31)));
    }
}
