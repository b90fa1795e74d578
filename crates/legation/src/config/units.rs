//! Sizes, durations and rates as people write them: `256MiB`, `24h`, `200Mbit/s`, `5%`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Units of size and their bytes, largest first within each family.
const SIZES: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];
/// Units of time and their milliseconds, largest first.
const TIMES: [(&str, u64); 6] = [
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("ms", 1),
    ("m", 60_000),
    ("s", 1_000),
];
/// Units of rate in bits and their bits per second.
const BITS: [(&str, u64); 4] = [
    ("Gbit", 1_000_000_000),
    ("Mbit", 1_000_000),
    ("kbit", 1_000),
    ("bit", 1),
];

/// A text that is not of the wanted unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {wanted}")]
pub struct BadUnit {
    found: String,
    wanted: &'static str,
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A length of time, to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

/// A part of a whole, or an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Hundredths of the whole, at most 100.
    Percent(u64),
    /// A fixed amount.
    Size(Size),
}

impl Share {
    /// The amount, when the whole is `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Share::Percent(percent) => total / 100 * percent,
            Share::Size(size) => size.0,
        }
    }
}

impl FromStr for Size {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Size, BadUnit> {
        scaled(text, &SIZES).map(Size).ok_or_else(|| BadUnit {
            found: text.to_owned(),
            wanted: "a size such as \"256MiB\" or \"20TiB\"",
        })
    }
}

impl FromStr for Span {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Span, BadUnit> {
        scaled(text, &TIMES)
            .map(|millis| Span(Duration::from_millis(millis)))
            .ok_or_else(|| BadUnit {
                found: text.to_owned(),
                wanted: "a duration such as \"10s\", \"5m\", \"24h\" or \"30d\"",
            })
    }
}

impl FromStr for Rate {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Rate, BadUnit> {
        let wrong = || BadUnit {
            found: text.to_owned(),
            wanted: "a rate such as \"200Mbit/s\" or \"50MiB/s\"",
        };
        let amount = text.trim().strip_suffix("/s").ok_or_else(wrong)?;
        scaled(amount, &BITS)
            .map(|bits| bits / 8)
            .or_else(|| scaled(amount, &SIZES))
            .map(Rate)
            .ok_or_else(wrong)
    }
}

impl FromStr for Share {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Share, BadUnit> {
        let wrong = || BadUnit {
            found: text.to_owned(),
            wanted: "a share such as \"5%\" or a size such as \"10GiB\"",
        };
        match text.trim().strip_suffix('%') {
            Some(number) => match number.trim().parse() {
                Ok(percent) if percent <= 100 => Ok(Share::Percent(percent)),
                _ => Err(wrong()),
            },
            None => text.parse().map(Share::Size).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&exact(self.0, &SIZES, "B"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        f.write_str(&exact(millis, &TIMES, "s"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Size(self.0))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Percent(percent) => write!(f, "{percent}%"),
            Share::Size(size) => size.fmt(f),
        }
    }
}

/// Bytes rounded for a person to read: three digits and a unit.
pub fn about(bytes: u64) -> String {
    for (unit, scale) in &SIZES[..4] {
        if bytes >= *scale {
            let value = bytes as f64 / *scale as f64;
            return if value < 10.0 {
                format!("{value:.1} {unit}")
            } else {
                format!("{value:.0} {unit}")
            };
        }
    }
    format!("{bytes} B")
}

/// A duration rounded for a person to read.
pub fn ago(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// A whole or decimal number and one of the units; `None` for anything else, for a missing unit and for overflow.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    match number.split_once('.') {
        None => number.parse::<u64>().ok()?.checked_mul(*scale),
        Some((whole, part)) => {
            let digits = u32::try_from(part.len())
                .ok()
                .filter(|digits| (1..=6).contains(digits))?;
            let whole = whole.parse::<u64>().ok()?.checked_mul(*scale)?;
            let part = part.parse::<u64>().ok()?.checked_mul(*scale)? / 10u64.pow(digits);
            whole.checked_add(part)
        }
    }
}

/// The number in the largest unit that divides it, so that printing and parsing give the same value.
fn exact(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    if value == 0 {
        return format!("0{zero}");
    }
    let mut best: Option<(&str, u64)> = None;
    for (unit, scale) in units {
        if value.is_multiple_of(*scale) && best.is_none_or(|(_, chosen)| *scale > chosen) {
            best = Some((unit, *scale));
        }
    }
    match best {
        Some((unit, scale)) => format!("{}{unit}", value / scale),
        None => format!("{value}{zero}"),
    }
}

macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Size Span Rate Share);
