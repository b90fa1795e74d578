//! A leaf of the log: a signed statement, with the index and the receive time that the embassy gave it.

use super::field::canonical;
use super::signed::Signed;
use super::text::ParseError;
use super::value::Time;
use crate::id::Sha256;

/// The longest entry in bytes: what the log's entry bundles can hold.
pub const MAX_ENTRY: usize = 65_535;

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position, from 0.
    pub index: u64,
    /// When the embassy received it, by the embassy's clock. Never earlier than the entry before.
    pub received: Time,
    /// What was received.
    pub signed: Signed,
}

impl Entry {
    /// The leaf's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        format!(
            "{HEADER}\nindex: {}\nreceived: {}\n\n{}",
            self.index,
            self.received,
            self.signed.encode()
        )
        .into_bytes()
    }

    /// Reads a leaf.
    ///
    /// # Errors
    /// [`ParseError`] for anything but the one spelling.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MAX_ENTRY {
            return Err(ParseError::Size {
                size: bytes.len(),
                limit: MAX_ENTRY,
            });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ParseError::Utf8)?;
        let (head, signed) = text.split_once("\n\n").ok_or(BAD_HEAD)?;
        let mut rows = head.split('\n');
        if rows.next() != Some(HEADER) {
            return Err(BAD_HEAD);
        }
        let index = rows
            .next()
            .and_then(|row| canonical(row.strip_prefix("index: ")?))
            .ok_or(BAD_HEAD)?;
        let received = rows
            .next()
            .and_then(|row| canonical(row.strip_prefix("received: ")?))
            .ok_or(BAD_HEAD)?;
        if rows.next().is_some() {
            return Err(BAD_HEAD);
        }
        Ok(Self {
            index,
            received,
            signed: Signed::parse(signed.as_bytes())?,
        })
    }

    /// RFC 6962 leaf hash of the entry.
    #[must_use]
    pub fn leaf_hash(&self) -> Sha256 {
        leaf_hash(&self.encode())
    }
}

/// RFC 6962 leaf hash of a leaf's bytes.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Sha256 {
    Sha256::of_parts(&[&[0], leaf])
}

const HEADER: &str = "legation/entry/v1";
const BAD_HEAD: ParseError =
    ParseError::Envelope("not an entry: 'legation/entry/v1', index, received, a blank line");
