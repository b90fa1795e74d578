//! Moments as PostgreSQL keeps them: microseconds since the year 2000, UTC.

use std::fmt;
use std::str::FromStr;

/// Seconds from 1970 to 2000.
const YEAR_2000: i64 = 946_684_800;
const MICROS: i64 = 1_000_000;

/// A moment, to the microsecond: PostgreSQL's `TimestampTz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

impl PgTime {
    /// From seconds since 1970.
    #[must_use]
    pub fn of_unix(seconds: i64) -> Option<Self> {
        let seconds = seconds.checked_sub(YEAR_2000)?;
        seconds.checked_mul(MICROS).map(PgTime)
    }

    /// From milliseconds since 1970.
    #[must_use]
    pub fn of_millis(millis: u64) -> Option<Self> {
        let millis = i64::try_from(millis).ok()?.checked_sub(YEAR_2000 * 1000)?;
        millis.checked_mul(1000).map(PgTime)
    }

    /// Milliseconds since 1970, and whether that is exact; `None` before 1970.
    #[must_use]
    pub fn millis(self) -> Option<(u64, bool)> {
        let micros = self.0.checked_add(YEAR_2000 * MICROS)?;
        let millis = u64::try_from(micros.div_euclid(1000)).ok()?;
        Some((millis, micros.rem_euclid(1000) == 0))
    }

    /// Later, or with a negative number earlier, by so many seconds.
    #[must_use]
    pub fn plus_seconds(self, seconds: i64) -> Self {
        PgTime(self.0.saturating_add(seconds.saturating_mul(MICROS)))
    }
}

impl fmt::Display for PgTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unix = self.0.checked_add(YEAR_2000 * MICROS);
        match unix.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok()) {
            Some(stamp) => write!(f, "{stamp:.6}"),
            None => write!(f, "{} microseconds from the year 2000", self.0),
        }
    }
}

/// A text that names no moment; it says what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoTime(String);

impl FromStr for PgTime {
    type Err = NoTime;

    /// ISO 8601 with an offset or `Z`, or as PostgreSQL prints it: `2026-11-22 09:30:00.104+00`. To the microsecond, as
    /// PostgreSQL counts; without an offset it would be another moment on another machine.
    fn from_str(text: &str) -> Result<Self, NoTime> {
        let iso = ["UTC", "GMT"]
            .iter()
            .find_map(|zone| text.strip_suffix(zone))
            .map(|time| format!("{}Z", time.trim_end()));
        let stamp: jiff::Timestamp = iso.as_deref().unwrap_or(text).parse().map_err(|_| {
            NoTime(format!(
                "{text:?} is no moment: write it with its offset from UTC, like 2026-11-22T09:30:00Z or \
                 \"2026-11-22 11:30:00+02\""
            ))
        })?;
        if stamp.as_nanosecond() % 1000 != 0 {
            return Err(NoTime(format!(
                "{text:?} is finer than a microsecond, and PostgreSQL counts no finer"
            )));
        }
        let micros = stamp.as_microsecond();
        Ok(PgTime(micros.saturating_sub(YEAR_2000 * MICROS)))
    }
}
