//! The types of single values: names, times, lists of epochs. Each has one spelling.

use super::field::field;
use crate::id::{
    Digest, EpochNo, Generation, Lsn, OrderId, RegistryId, Sha256, StateId, StreamId, Term,
    Timeline, VersionNo,
};
use std::fmt;
use std::str::FromStr;

/// A text that is not the value it should be; the field says what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed value")]
pub struct NotAValue;

field! {
    Digest => "a BLAKE3 digest: 64 lower-case hexadecimal characters",
    Sha256 => "a SHA-256 digest: 64 lower-case hexadecimal characters",
    StreamId => "a stream id: 32 lower-case hexadecimal characters",
    StateId => "a state: lgn1- and eight groups of four characters",
    RegistryId => "a registry, like r-3f9a1c",
    OrderId => "an order, like 2026-11-22-7f2c91d0",
    EpochNo => "an epoch number",
    Term => "a term number",
    VersionNo => "a version, like v7",
    Generation => "a generation number",
    Timeline => "a timeline number",
    Lsn => "a position, like 0/5A1C2E80",
    u16 => "a number",
    u32 => "a number",
    u64 => "a number",
    Name => "a name: a lower-case letter, then at most 31 lower-case letters, digits and hyphens",
    Line => "one line of visible text",
    Time => "a time like 2026-11-22T09:00:00Z, with three decimals unless they are zero",
    EpochSet => "ranges of epochs in order, like 1-4 or 1-2,4-4",
    Keep => "forever, or days, like 90d",
    crate::sshsig::SshPublicKey => "an SSH public key without comment",
    Base64 => "base64 with padding",
    Bytes32 => "32 bytes: 64 lower-case hexadecimal characters",
}

/// A short name in a statement: an officer, a writer, a label, a class, a jurisdiction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// The longest [`Name`], in characters: shorter than a key's digest, so that the two are never confused.
pub const MAX_NAME: usize = 32;

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NotAValue;
    fn from_str(text: &str) -> Result<Self, NotAValue> {
        let starts = text.starts_with(|c: char| c.is_ascii_lowercase());
        let rest = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if starts && rest && text.len() <= MAX_NAME && text != "none" {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAValue)
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// One line of visible text for people: a sentence, a reason, a title. The default is empty, which no text may hold:
/// it stands for a sentence yet to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(String);

impl Line {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Line {
    type Err = super::text::ParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        super::text::check_characters(text)?;
        let edges =
            text.is_empty() || text.starts_with(' ') || text.ends_with(' ') || text.contains('\n');
        if edges {
            Err(Self::Err::Syntax { line: 1 })
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A moment in UTC, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

/// 9999-12-30T22:00:00Z: the last moment that the text form can say; the calendar ends there, so that every moment
/// has a date in every time zone.
const MAX_TIME: u64 = 253_402_207_200_000;

impl Time {
    /// From milliseconds since 1970; `None` after the last moment, at the end of 9999.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Option<Self> {
        if millis <= MAX_TIME {
            Some(Self(millis))
        } else {
            None
        }
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// This time without its milliseconds: what orders are written in.
    #[must_use]
    pub const fn whole_seconds(self) -> Self {
        Self(self.0 - self.0 % 1000)
    }

    /// Later by so many milliseconds, at most the end of the year 9999.
    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis).min(MAX_TIME))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamp = jiff::Timestamp::from_millisecond(self.0.try_into().map_err(|_| fmt::Error)?)
            .map_err(|_| fmt::Error)?;
        if self.0.is_multiple_of(1000) {
            write!(f, "{stamp:.0}")
        } else {
            write!(f, "{stamp:.3}")
        }
    }
}

impl FromStr for Time {
    type Err = NotAValue;
    fn from_str(text: &str) -> Result<Self, NotAValue> {
        let stamp: jiff::Timestamp = text.parse().map_err(|_| NotAValue)?;
        let millis = u64::try_from(stamp.as_millisecond()).map_err(|_| NotAValue)?;
        Self::from_millis(millis)
            .filter(|time| time.to_string() == text)
            .ok_or(NotAValue)
    }
}

/// A set of epochs of one registry, as the fewest ranges in order: `1-2,4-4`. Never empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochSet(Vec<(u32, u32)>);

/// The most ranges in one [`EpochSet`], so that a statement holds it: a version that would need more is captured anew,
/// in one epoch.
pub const MAX_RANGES: usize = 256;

impl EpochSet {
    /// The set of these epochs; `None` if there are none, if one is zero, or if they make too many ranges.
    pub fn of(epochs: impl IntoIterator<Item = EpochNo>) -> Option<Self> {
        let sorted: std::collections::BTreeSet<u32> = epochs.into_iter().map(|e| e.0).collect();
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for epoch in sorted {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(epoch) => *last = epoch,
                _ => ranges.push((epoch, epoch)),
            }
        }
        Self::checked(ranges)
    }

    /// The epochs from `first` to `last`.
    #[must_use]
    pub fn range(first: EpochNo, last: EpochNo) -> Option<Self> {
        Self::checked(vec![(first.0, last.0)])
    }

    fn checked(ranges: Vec<(u32, u32)>) -> Option<Self> {
        let sound = ranges
            .iter()
            .all(|(first, last)| *first >= 1 && first <= last);
        let apart = ranges
            .windows(2)
            .all(|w| matches!(w, [(_, last), (first, _)] if last.saturating_add(1) < *first));
        (!ranges.is_empty() && ranges.len() <= MAX_RANGES && sound && apart).then_some(Self(ranges))
    }

    /// Whether the set holds this epoch.
    #[must_use]
    pub fn contains(&self, epoch: EpochNo) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&epoch.0))
    }

    /// Whether every epoch of `other` is in this set.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|(a, b)| self.0.iter().any(|(first, last)| first <= a && b <= last))
    }

    /// The last epoch.
    #[must_use]
    pub fn last(&self) -> EpochNo {
        EpochNo(self.0.last().map_or(0, |(_, last)| *last))
    }

    /// How many epochs there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0
            .iter()
            .map(|(first, last)| u64::from(last - first) + 1)
            .sum()
    }

    /// The epochs, in order. A foreign set may name four thousand million of them: check [`Self::last`] first.
    pub fn iter(&self) -> impl Iterator<Item = EpochNo> + '_ {
        self.0
            .iter()
            .flat_map(|(first, last)| (*first..=*last).map(EpochNo))
    }
}

impl fmt::Display for EpochSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            write!(f, "{}{first}-{last}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for EpochSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochSet({self})")
    }
}

impl FromStr for EpochSet {
    type Err = NotAValue;
    fn from_str(text: &str) -> Result<Self, NotAValue> {
        let mut ranges = Vec::new();
        for part in text.split(',').take(MAX_RANGES + 1) {
            let (first, last) = part.split_once('-').ok_or(NotAValue)?;
            ranges.push((
                first.parse().map_err(|_| NotAValue)?,
                last.parse().map_err(|_| NotAValue)?,
            ));
        }
        Self::checked(ranges).ok_or(NotAValue)
    }
}

/// How long a retention class keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Without end.
    Forever,
    /// At least so many days after the embassy received it. This version removes nothing: it keeps longer.
    Days(u32),
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::Days(days) => write!(f, "{days}d"),
        }
    }
}

impl FromStr for Keep {
    type Err = NotAValue;
    fn from_str(text: &str) -> Result<Self, NotAValue> {
        match text.strip_suffix('d') {
            Some(days) => days
                .parse()
                .ok()
                .filter(|days| *days > 0)
                .map(Self::Days)
                .ok_or(NotAValue),
            None if text == "forever" => Ok(Self::Forever),
            None => Err(NotAValue),
        }
    }
}

/// Bytes in base64, as they stand in the keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl fmt::Display for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine as _;
        f.write_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}

impl FromStr for Base64 {
    type Err = NotAValue;
    fn from_str(text: &str) -> Result<Self, NotAValue> {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(Self)
            .map_err(|_| NotAValue)
    }
}

/// Thirty-two bytes in hex that are no digest: the annex's salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes32(pub [u8; 32]);

impl fmt::Display for Bytes32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Sha256(self.0).fmt(f)
    }
}

impl FromStr for Bytes32 {
    type Err = NotAValue;
    fn from_str(text: &str) -> Result<Self, NotAValue> {
        text.parse::<Sha256>()
            .map(|bytes| Self(bytes.0))
            .map_err(|_| NotAValue)
    }
}

/// The version that an order opens: `latest` or `v7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionPick {
    /// The newest that the scope can open when the order is accepted.
    Latest,
    /// This one; the order then names exactly one registry.
    Exactly(VersionNo),
}

impl fmt::Display for VersionPick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Exactly(version) => version.fmt(f),
        }
    }
}

impl FromStr for VersionPick {
    type Err = NotAValue;
    fn from_str(text: &str) -> Result<Self, NotAValue> {
        if text == "latest" {
            Ok(Self::Latest)
        } else {
            text.parse().map(Self::Exactly).map_err(|_| NotAValue)
        }
    }
}

/// Up to where a registry's log is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the last position that the embassy acknowledged.
    EndOfWal,
    /// To this position.
    Lsn(Lsn),
    /// To this moment, by the clock of the database.
    Time(Time),
}

impl Target {
    /// Whether it is a point in the past, and not the end.
    #[must_use]
    pub fn is_point(self) -> bool {
        self != Self::EndOfWal
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndOfWal => f.write_str("end-of-wal"),
            Self::Lsn(lsn) => write!(f, "lsn {lsn}"),
            Self::Time(time) => write!(f, "time {time}"),
        }
    }
}

impl FromStr for Target {
    type Err = NotAValue;
    fn from_str(text: &str) -> Result<Self, NotAValue> {
        match text.split_once(' ') {
            None if text == "end-of-wal" => Ok(Self::EndOfWal),
            Some(("lsn", lsn)) => lsn.parse().map(Self::Lsn).map_err(|_| NotAValue),
            Some(("time", time)) => time.parse().map(Self::Time),
            _ => Err(NotAValue),
        }
    }
}

/// To whom an order's keys are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// To the session key of the activation that the order starts.
    Session,
    /// To the holder of the X-Wing key with this SHA-256, which is an attachment.
    Key(Sha256),
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session => f.write_str("session"),
            Self::Key(key) => key.fmt(f),
        }
    }
}

impl FromStr for Recipient {
    type Err = NotAValue;
    fn from_str(text: &str) -> Result<Self, NotAValue> {
        if text == "session" {
            Ok(Self::Session)
        } else {
            text.parse().map(Self::Key).map_err(|_| NotAValue)
        }
    }
}

/// Which state a mandate is of: `this` when it founds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The state that this very text founds.
    This,
    /// A state that exists.
    State(StateId),
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::This => f.write_str("this"),
            Self::State(state) => state.fmt(f),
        }
    }
}

impl FromStr for Of {
    type Err = NotAValue;
    fn from_str(text: &str) -> Result<Self, NotAValue> {
        if text == "this" {
            Ok(Self::This)
        } else {
            text.parse().map(Self::State).map_err(|_| NotAValue)
        }
    }
}

field! {
    VersionPick => "latest, or a version like v7",
    Target => "end-of-wal, or a point like 'lsn 0/5A1C2E80' or 'time 2026-11-22T09:30:00Z'",
    Recipient => "session, or the SHA-256 of a public key",
    Of => "this, or a state",
}
