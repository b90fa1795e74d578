//! What a version measured, what it answered, and how that compares with the registry's own history
//! (spec/format.md §7.8).
//!
//! Each version carries its own record and those of the versions before it, so that whoever opens the newest one knows
//! what every earlier one answered. Comparisons are robust: median and median absolute deviation, so that neither one
//! odd version nor an attacker's last few set what is usual.

use std::fmt;
use std::str::FromStr;

use crate::id::{Lsn, VersionNo};
use crate::statement::Cause;

/// Records that a version carries of those before it.
pub const MAX_HISTORY: usize = 64;
/// Their bytes: with the catalogue entry half of what facts may take remains for the source's own.
pub const MAX_HISTORY_BYTES: usize = 6 * 1024;
/// An answer of the version itself. A longer one is a report and no invariant.
pub const MAX_ANSWER: usize = 200;
/// An answer of an earlier version, as the newest one carries it.
pub const MAX_OLD_ANSWER: usize = 40;
/// The name of an invariant.
pub const MAX_NAME: usize = 40;
/// Invariants of a registry: they run one after the other in one snapshot, which holds back VACUUM at home.
pub const MAX_INVARIANTS: usize = 16;

/// Earlier versions that say what is usual.
const WINDOW: usize = 32;
/// Fewer say nothing: with three, one odd version is a third of the evidence.
pub const LEAST: usize = 4;
/// How many deviations from the median are not chance. Of a normal distribution two in a thousand million lie beyond
/// six; sizes of real registries have longer tails, and an alarm that cries wolf is switched off.
const DEVIATIONS: f64 = 6.0;
/// The median absolute deviation of a normal distribution, as a standard deviation.
const NORMAL: f64 = 1.4826;
/// What was rewritten without growing must be this part of the whole to be called a mass change: a quarter is more than
/// a day's work of any registry, and less than what an encryption must touch to be worth it.
const MASS: f64 = 0.25;
/// What remains of entries, bytes or rows when a mass was deleted: three tenths gone.
const REMAINS: f64 = 0.7;
/// How much less the content must compress than usual, in thousandths: the noise of growth stays below a twentieth.
const LESS_COMPRESSIBLE: f64 = 80.0;
/// From here on content does not compress: encrypted, or compressed already.
const INCOMPRESSIBLE: f64 = 950.0;
/// Changes of fewer bytes are nobody's mass.
const LEAST_BYTES: f64 = 256.0 * 1024.0;
/// Deletions of fewer entries or rows are nobody's mass.
const LEAST_COUNT: f64 = 16.0;

/// How an invariant came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The answer was the one expected.
    Holds,
    /// It was another one.
    Broken(String),
    /// It could not be asked.
    Error(String),
    /// Nothing was expected; this was the answer.
    Is(String),
}

impl Outcome {
    /// Whether it speaks against the version.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self, Outcome::Broken(_) | Outcome::Error(_))
    }

    fn cut(&self, most: usize) -> Outcome {
        match self {
            Outcome::Holds => Outcome::Holds,
            Outcome::Broken(answer) => Outcome::Broken(plain(answer, most)),
            Outcome::Error(why) => Outcome::Error(plain(why, most)),
            Outcome::Is(answer) => Outcome::Is(plain(answer, most)),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Holds => f.write_str("holds"),
            Outcome::Broken(answer) => write!(f, "broken {answer}"),
            Outcome::Error(why) => write!(f, "error {why}"),
            Outcome::Is(answer) => write!(f, "is {answer}"),
        }
    }
}

impl FromStr for Outcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "holds" if rest.is_empty() => Ok(Outcome::Holds),
            "broken" => Ok(Outcome::Broken(rest.to_owned())),
            "error" => Ok(Outcome::Error(rest.to_owned())),
            "is" => Ok(Outcome::Is(rest.to_owned())),
            _ => Err(format!("{text:?} is no outcome of an invariant")),
        }
    }
}

/// A named invariant and how it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// How it came out.
    pub outcome: Outcome,
}

/// Where in the log the answers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The end of the log before the snapshot was taken.
    pub before: Lsn,
    /// The end of the log after it was taken.
    pub after: Lsn,
    /// Whether nothing was under way and nothing was written in between: replay up to here answers the same.
    pub exact: bool,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.exact {
            write!(f, "{}", self.before)
        } else {
            write!(f, "{}..{}", self.before, self.after)
        }
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lsn = |text: &str| {
            text.parse::<Lsn>()
                .map_err(|_| format!("{text:?} is no position"))
        };
        match text.split_once("..") {
            Some((before, after)) => Ok(Position {
                before: lsn(before)?,
                after: lsn(after)?,
                exact: false,
            }),
            None => lsn(text).map(|at| Position {
                before: at,
                after: at,
                exact: true,
            }),
        }
    }
}

/// Why a version is not to be trusted blindly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flag {
    /// Much was rewritten, and what is there now does not compress as usual.
    MassEncryption,
    /// Much less is there than usual.
    MassDeletion,
    /// An invariant did not hold, or could not be asked.
    InvariantBroken,
}

impl Flag {
    /// The cause of the doubt that says so in the log.
    #[must_use]
    pub fn cause(self) -> Cause {
        match self {
            Flag::MassEncryption => Cause::MassEncryption,
            Flag::MassDeletion => Cause::MassDeletion,
            Flag::InvariantBroken => Cause::InvariantBroken,
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause().fmt(f)
    }
}

impl FromStr for Flag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [
            Flag::MassEncryption,
            Flag::MassDeletion,
            Flag::InvariantBroken,
        ]
        .into_iter()
        .find(|flag| flag.to_string() == text)
        .ok_or_else(|| format!("{text:?} is no flag"))
    }
}

/// What one version measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Which version.
    pub version: VersionNo,
    /// When its capture began, milliseconds since 1970.
    pub captured: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of the source.
    pub bytes: u64,
    /// Bytes that changed since the version before: files read anew, or log written. `None` when that is not known.
    pub changed: Option<u64>,
    /// What its new content came to when compressed, in thousandths of its size. `None` when there was too little.
    pub ratio: Option<u32>,
    /// Rows of its tables, as far as the database knows.
    pub rows: Option<u64>,
    /// Where in the log its answers hold.
    pub at: Option<Position>,
    /// Why it is not to be trusted blindly.
    pub flags: Vec<Flag>,
    /// What its invariants answered.
    pub answers: Vec<Answer>,
}

impl Record {
    /// The answer to one invariant.
    #[must_use]
    pub fn answer(&self, name: &str) -> Option<&Outcome> {
        self.answers
            .iter()
            .find(|one| one.name == name)
            .map(|one| &one.outcome)
    }

    /// As a line of text, with answers of at most so many bytes.
    #[must_use]
    pub fn line(&self, most: usize) -> String {
        fn or_dash(value: Option<impl fmt::Display>) -> String {
            value.map_or_else(|| "-".to_owned(), |value| value.to_string())
        }
        let flags: Vec<_> = self.flags.iter().map(Flag::to_string).collect();
        let mut line = [
            self.version.to_string(),
            self.captured.to_string(),
            self.entries.to_string(),
            self.bytes.to_string(),
            or_dash(self.changed),
            or_dash(self.ratio),
            or_dash(self.rows),
            or_dash(self.at),
            or_dash(Some(flags.join(",")).filter(|flags| !flags.is_empty())),
        ]
        .join("\t");
        for one in &self.answers {
            line.push_str(&format!(
                "\t{}\t{}",
                plain(&one.name, MAX_NAME),
                one.outcome.cut(most)
            ));
        }
        line
    }
}

impl FromStr for Record {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err("a record with a control character".into());
        }
        let mut fields = line.split('\t');
        let mut next = |what: &str| {
            fields
                .next()
                .ok_or_else(|| format!("a record without {what}"))
        };
        fn number<T: FromStr>(what: &str, text: &str) -> Result<T, String> {
            text.parse()
                .map_err(|_| format!("a record whose {what} is {text:?}"))
        }
        fn maybe<T: FromStr>(what: &str, text: &str) -> Result<Option<T>, String> {
            if text == "-" {
                Ok(None)
            } else {
                number(what, text).map(Some)
            }
        }
        let mut record = Record {
            version: number("version", next("version")?)?,
            captured: number("time", next("time")?)?,
            entries: number("entries", next("entries")?)?,
            bytes: number("bytes", next("bytes")?)?,
            changed: maybe("changed bytes", next("changed bytes")?)?,
            ratio: maybe("ratio", next("ratio")?)?,
            rows: maybe("rows", next("rows")?)?,
            at: maybe("position", next("position")?)?,
            flags: match next("flags")? {
                "-" => Vec::new(),
                flags => flags.split(',').map(str::parse).collect::<Result<_, _>>()?,
            },
            answers: Vec::new(),
        };
        while let Some(name) = fields.next() {
            let outcome = fields
                .next()
                .ok_or_else(|| format!("no outcome of {name:?}"))?
                .parse()?;
            record.answers.push(Answer {
                name: name.to_owned(),
                outcome,
            });
        }
        if record.answers.len() > MAX_INVARIANTS {
            return Err(format!(
                "a record of {} answers; at most {MAX_INVARIANTS}",
                record.answers.len()
            ));
        }
        Ok(record)
    }
}

/// The records of earlier versions, newest first, as text of at most `most` bytes: the oldest are left out.
#[must_use]
pub fn write_history(earlier: &[Record], most: usize) -> String {
    let mut text = String::new();
    for record in earlier.iter().take(MAX_HISTORY) {
        let line = record.line(MAX_OLD_ANSWER);
        if text.len() + line.len() + 1 > most {
            break;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&line);
    }
    text
}

/// Reads them back.
///
/// # Errors
/// What is malformed, in words.
pub fn read_history(text: &str) -> Result<Vec<Record>, String> {
    let lines = || text.lines().filter(|line| !line.is_empty());
    if lines().count() > MAX_HISTORY {
        return Err(format!("more than {MAX_HISTORY} records"));
    }
    lines().map(str::parse).collect()
}

/// What is to be said against a version, seen beside those before it, newest first.
#[must_use]
pub fn judge(now: &Record, earlier: &[Record]) -> Vec<Flag> {
    let earlier = &earlier[..earlier.len().min(WINDOW)];
    let mut flags = Vec::new();
    if is_encrypted(now, earlier) {
        flags.push(Flag::MassEncryption);
    }
    if is_deleted(now, earlier) {
        flags.push(Flag::MassDeletion);
    }
    if now.answers.iter().any(|one| one.outcome.is_bad()) {
        flags.push(Flag::InvariantBroken);
    }
    flags
}

/// Much was rewritten, and compresses less than it ever did. Or it does not compress at all, as it may have been before:
/// then more must have been rewritten than is usual. (Log has images of pages whose number follows checkpoints, not changes:
/// its volume alone is no measure of what is usual.)
fn is_encrypted(now: &Record, earlier: &[Record]) -> bool {
    let (Some(last), Some(ratio)) = (earlier.first(), now.ratio.map(f64::from)) else {
        return false;
    };
    let Some(turned) = turnover(now, last) else {
        return false;
    };
    if turned < LEAST_BYTES.max(MASS * last.bytes as f64) {
        return false;
    }
    let ratios = (earlier.iter())
        .filter_map(|one| one.ratio)
        .map(f64::from)
        .collect();
    let is_new =
        Usual::of(ratios, LEAST).is_some_and(|usual| ratio >= usual.above(LESS_COMPRESSIBLE));
    let turnovers = (earlier.windows(2))
        .filter_map(|pair| turnover(&pair[0], &pair[1]))
        .collect();
    // By half again: where much is rewritten each time, a little more is nothing.
    let is_much = || {
        Usual::of(turnovers, LEAST - 1)
            .is_some_and(|usual| turned >= usual.above(0.5 * usual.median))
    };
    is_new || (ratio >= INCOMPRESSIBLE && is_much())
}

/// What was written anew without making the whole larger.
fn turnover(now: &Record, before: &Record) -> Option<f64> {
    let growth = now.bytes.saturating_sub(before.bytes);
    now.changed
        .map(|changed| changed.saturating_sub(growth) as f64)
}

fn is_deleted(now: &Record, earlier: &[Record]) -> bool {
    let dropped = |value: Option<u64>, of: &dyn Fn(&Record) -> Option<u64>, least: f64| {
        let values = earlier.iter().filter_map(of).map(|n| n as f64).collect();
        match (value, Usual::of(values, LEAST)) {
            (Some(value), Some(usual)) => usual.has_dropped_to(value as f64, least),
            _ => false,
        }
    };
    // A database's files shrink when it tidies up; its rows do not.
    if now.rows.is_some() {
        return dropped(now.rows, &|one| one.rows, LEAST_COUNT);
    }
    dropped(Some(now.entries), &|one| Some(one.entries), LEAST_COUNT)
        || dropped(Some(now.bytes), &|one| Some(one.bytes), LEAST_BYTES)
}

/// How a sealed size compares with those before it, in words; `None` when there is nothing to say. For whoever has no
/// key: home may lie about what it measured, and not about how many bytes it sent.
#[must_use]
pub fn sealed_size_says(size: u64, earlier: &[u64]) -> Option<String> {
    let values: Vec<f64> = earlier
        .iter()
        .rev()
        .take(WINDOW)
        .map(|n| *n as f64)
        .collect();
    let count = values.len();
    let usual = Usual::of(values, LEAST)?;
    let (size, median) = (size as f64, usual.median.max(1.0));
    let grew = size > usual.above((0.5 * median).max(4.0 * LEAST_BYTES));
    if !grew && !usual.has_dropped_to(size, LEAST_BYTES) {
        return None;
    }
    Some(format!(
        "its sealed size is {:.1} times the median of the {count} versions before it",
        size / median
    ))
}

/// What is usual: the middle, and how far from it is still usual.
struct Usual {
    median: f64,
    deviation: f64,
}

impl Usual {
    /// Of at least so many values.
    fn of(values: Vec<f64>, least: usize) -> Option<Usual> {
        if values.len() < least {
            return None;
        }
        let middle = median(values.clone())?;
        let apart = values.iter().map(|value| (value - middle).abs()).collect();
        Some(Usual {
            median: middle,
            deviation: NORMAL * median(apart)?,
        })
    }

    /// What lies above the usual, by at least `least`.
    fn above(&self, least: f64) -> f64 {
        self.median + (DEVIATIONS * self.deviation).max(least)
    }

    fn has_dropped_to(&self, value: f64, least: f64) -> bool {
        value < REMAINS * self.median
            && self.median - value > (DEVIATIONS * self.deviation).max(least)
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() % 2 {
        1 => values.get(half).copied(),
        _ => Some((values.get(half.checked_sub(1)?)? + values.get(half)?) / 2.0),
    }
}

/// One line of at most so many bytes, cut between characters.
#[must_use]
pub fn plain(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests;
