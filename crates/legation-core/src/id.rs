//! Names of things: typed, so that an epoch can never stand where a term belongs.
//! Each has one text form (`Display`), which `FromStr` reads back and serde uses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{hex, unhex};

/// A text that is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {expected}")]
pub struct ParseIdError {
    /// What was expected, with an example.
    pub expected: &'static str,
    /// What was found, cut to 80 characters.
    pub found: String,
}

impl ParseIdError {
    /// An error that keeps a readable part of what was found.
    #[must_use]
    pub fn new(expected: &'static str, found: &str) -> Self {
        Self {
            expected,
            found: found.chars().take(80).collect(),
        }
    }
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
            /// The first eight characters: enough for people to tell things apart, never to decide by.
            #[must_use]
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                unhex(text).map(Self).ok_or_else(|| ParseIdError::new($expected, text))
            }
        }
        text_serde!($name);
    };
}

hex_id! {
    /// BLAKE3-256 of an object's bytes: its name.
    Digest, 32, "a BLAKE3 digest: 64 lower-case hexadecimal characters"
}
hex_id! {
    /// SHA-256: of statements, attachments, keys, log entries.
    Sha256, 32, "a SHA-256 digest: 64 lower-case hexadecimal characters"
}
hex_id! {
    /// One incarnation of a stream of WAL: random, never used twice.
    StreamId, 16, "a stream id: 32 lower-case hexadecimal characters"
}

impl Digest {
    /// BLAKE3 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl Sha256 {
    /// SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_parts(&[bytes])
    }

    /// SHA-256 of the parts one after the other.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for part in parts {
            context.update(part);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Self(out)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The number after this one; `None` after the last.
            #[must_use]
            pub fn next(self) -> Option<Self> {
                self.0.checked_add(1).map(Self)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0)
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($prefix)
                    .and_then(canonical_number)
                    .map(Self)
                    .ok_or_else(|| ParseIdError::new($expected, text))
            }
        }
        text_serde!($name);
    };
}

number_id! {
    /// An epoch of keys of one registry, from 1.
    EpochNo, "", "an epoch number, like 4"
}
number_id! {
    /// A term of writing (fencing), from 1.
    Term, "", "a term, like 2"
}
number_id! {
    /// A version of one registry, from 1; text `v7`.
    VersionNo, "v", "a version, like v7"
}
number_id! {
    /// A generation of the vault, from 1.
    Generation, "", "a vault generation, like 3"
}
number_id! {
    /// A PostgreSQL timeline, from 1.
    Timeline, "", "a timeline, like 2"
}

/// Decimal digits without sign or leading zero.
fn canonical_number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

/// A state: the first 20 bytes of SHA-256 of its founding mandate's text.
///
/// Text: `lgn1-` and eight groups of four characters, five bits each, most significant first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId(pub [u8; 20]);

const STATE_ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";

impl StateId {
    /// The state that this founding mandate founds.
    #[must_use]
    pub fn of_mandate(text: &[u8]) -> Self {
        let digest = Sha256::of(text);
        let mut id = [0; 20];
        id.copy_from_slice(&digest.0[..20]);
        Self(id)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lgn1")?;
        for i in 0..32 {
            if i % 4 == 0 {
                f.write_str("-")?;
            }
            let value = (0..5).fold(0, |v, j| {
                let bit = 5 * i + j;
                v << 1 | usize::from(self.0[bit / 8] >> (7 - bit % 8) & 1)
            });
            write!(f, "{}", char::from(STATE_ALPHABET[value]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateId({self})")
    }
}

impl FromStr for StateId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let err = || ParseIdError::new("a state: lgn1- and eight groups of four characters", text);
        let body = text.strip_prefix("lgn1-").ok_or_else(err)?.as_bytes();
        if body.len() != 39 {
            return Err(err());
        }
        let mut id = [0u8; 20];
        let mut bit = 0;
        for (i, c) in body.iter().enumerate() {
            if i % 5 == 4 {
                if *c != b'-' {
                    return Err(err());
                }
                continue;
            }
            let value = STATE_ALPHABET.iter().position(|a| a == c).ok_or_else(err)?;
            for j in 0..5 {
                if value >> (4 - j) & 1 == 1 {
                    id[bit / 8] |= 1 << (7 - bit % 8);
                }
                bit += 1;
            }
        }
        Ok(Self(id))
    }
}
text_serde!(StateId);

/// A registry's opaque number, below 2^24; text `r-3f9a1c`. What it is called is known at home and to officers only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryId(u32);

impl RegistryId {
    /// The registry with this number; `None` from 2^24 on.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number < 1 << 24 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for RegistryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r-{:06x}", self.0)
    }
}

impl fmt::Debug for RegistryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryId({self})")
    }
}

impl FromStr for RegistryId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        text.strip_prefix("r-")
            .and_then(unhex::<3>)
            .map(|b| Self(u32::from_be_bytes([0, b[0], b[1], b[2]])))
            .ok_or_else(|| ParseIdError::new("a registry id, like r-3f9a1c", text))
    }
}
text_serde!(RegistryId);

/// A position in a PostgreSQL write-ahead log, in bytes; text `0/5A1C2E80`.
///
/// `FromStr` also takes the zero-padded and lower-case spellings that servers print; a signed text must be
/// compared with `to_string`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

impl FromStr for Lsn {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let half = |s: &str| {
            let ok = (1..=8).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_hexdigit());
            if ok {
                u32::from_str_radix(s, 16).ok()
            } else {
                None
            }
        };
        text.split_once('/')
            .and_then(|(hi, lo)| Some(Self(u64::from(half(hi)?) << 32 | u64::from(half(lo)?))))
            .ok_or_else(|| ParseIdError::new("a log position, like 0/5A1C2E80", text))
    }
}
text_serde!(Lsn);

/// The name of an order: the day it was written and eight random hexadecimal characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(String);

impl OrderId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrderId({self})")
    }
}

impl FromStr for OrderId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bytes = text.as_bytes();
        let digit = |b: u8| b.is_ascii_digit();
        let in_range = |from: usize, low: u32, high: u32| {
            text.get(from..from + 2)
                .and_then(|t| t.parse::<u32>().ok())
                .is_some_and(|n| (low..=high).contains(&n))
        };
        let ok = bytes.len() == 19
            && [0, 1, 2, 3, 5, 6, 8, 9].iter().all(|i| digit(bytes[*i]))
            && [4, 7, 10].iter().all(|i| bytes[*i] == b'-')
            && in_range(5, 1, 12)
            && in_range(8, 1, 31)
            && text.get(11..).and_then(unhex::<4>).is_some();
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseIdError::new(
                "an order id, like 2026-11-22-7f2c91d0",
                text,
            ))
        }
    }
}
text_serde!(OrderId);

#[cfg(test)]
mod tests;
