//! The grammar that every text of this system obeys: statements, the keyring, the annex.
//!
//! A text is UTF-8 in NFC. Its first line is `legation/<kind>/v1`; every other line is `name: value`. Every line ends
//! with one LF, values are never empty and never begin or end with a space. What a person cannot see is not allowed,
//! so that two texts which look alike are alike. This module knows lines, not their meaning.

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The longest statement, in bytes: a person can still read it, and an entry with its signatures stays below the
/// 65,535 bytes that a log leaf may have.
pub const MAX_TEXT: usize = 32 * 1024;

/// The longest attachment in text form (the keyring), in bytes.
pub const MAX_ATTACHMENT: usize = 1024 * 1024;

/// Why a text is not a statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// More bytes than this kind of text may have.
    #[error("the text has {size} bytes; {limit} are allowed")]
    Size {
        /// Bytes found.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("the text is not UTF-8")]
    Utf8,
    /// A character that a person cannot see or that reorders others.
    #[error(
        "line {line}: U+{code:04X} is a control, invisible or unassigned character, which a signed text may not hold"
    )]
    Character {
        /// Line, from 1.
        line: usize,
        /// The code point.
        code: u32,
    },
    /// Not in Unicode normalisation form C.
    #[error("the text is not in Unicode normalisation form C (NFC)")]
    NotNfc,
    /// The first line is not that of the expected kind.
    #[error("the first line is {found:?}; expected {want:?}")]
    Header {
        /// What was found, cut to a readable length.
        found: String,
        /// What is expected.
        want: String,
    },
    /// The first line names a kind that this version does not know.
    #[error("unknown kind of statement: {0:?}")]
    UnknownKind(String),
    /// A line is not `name: value`.
    #[error("line {line} is not of the form 'name: value', ended by LF")]
    Syntax {
        /// Line, from 1.
        line: usize,
    },
    /// A field is missing, unknown, or out of its place.
    #[error("line {line}: expected the field '{want}'")]
    Field {
        /// Line, from 1.
        line: usize,
        /// The field that must stand here.
        want: String,
    },
    /// The value of a field is malformed or not in its one canonical form.
    #[error("line {line}: '{name}' must be {want}")]
    Value {
        /// Line, from 1.
        line: usize,
        /// The field.
        name: String,
        /// What it must look like.
        want: String,
    },
    /// Lines after the last field.
    #[error("line {line}: nothing may follow the last field")]
    Trailing {
        /// Line, from 1.
        line: usize,
    },
    /// The signature lines, or the frame around an entry, are malformed.
    #[error("{0}")]
    Envelope(&'static str),
}

/// Whether a text may hold this character (LF aside, which ends lines).
///
/// Refused: controls, every space but U+0020, format characters (bidi, zero width, tags), variation selectors, fillers
/// that render as nothing, private use, noncharacters, and everything above the basic plane.
pub fn is_allowed(c: char) -> bool {
    match u32::from(c) {
        0x20..=0x7E => true,
        0x00..=0x1F | 0x7F..=0xA0 | 0xAD => false,
        0x034F | 0x0600..=0x0605 | 0x061C | 0x06DD | 0x070F | 0x0890..=0x0891 | 0x08E2 => false,
        0x115F..=0x1160 | 0x1680 | 0x17B4..=0x17B5 | 0x180B..=0x180F => false,
        0x2000..=0x200F | 0x2028..=0x202F | 0x205F..=0x206F | 0x3000 | 0x3164 => false,
        0xE000..=0xF8FF | 0xFDD0..=0xFDEF | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFFF => {
            false
        }
        0x1_0000.. => false,
        _ => true,
    }
}

/// Checks characters and normalisation of a whole text.
pub fn check_characters(text: &str) -> Result<(), ParseError> {
    let mut line = 1;
    for c in text.chars() {
        if c == '\n' {
            line += 1;
        } else if !is_allowed(c) {
            return Err(ParseError::Character {
                line,
                code: u32::from(c),
            });
        }
    }
    let normal = match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => true,
        IsNormalized::No => false,
        IsNormalized::Maybe => text.nfc().eq(text.chars()),
    };
    if normal {
        Ok(())
    } else {
        Err(ParseError::NotNfc)
    }
}

/// The kind that a text's first line names: `order` of `legation/order/v1`.
pub fn kind_of(text: &str) -> Result<&str, ParseError> {
    let first = text.split('\n').next().unwrap_or_default();
    first
        .strip_prefix("legation/")
        .and_then(|rest| rest.strip_suffix("/v1"))
        .filter(|kind| {
            !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
        })
        .ok_or_else(|| ParseError::UnknownKind(shorten(first)))
}

/// Reads a text line by line, in the fixed order of its fields.
#[derive(Debug)]
pub struct Lines<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Lines<'a> {
    /// Checks the whole text and its first line.
    pub fn open(text: &'a str, header: &str, limit: usize) -> Result<Self, ParseError> {
        if text.len() > limit {
            return Err(ParseError::Size {
                size: text.len(),
                limit,
            });
        }
        check_characters(text)?;
        let (first, rest) = text
            .split_once('\n')
            .ok_or(ParseError::Syntax { line: 1 })?;
        if first != header {
            return Err(ParseError::Header {
                found: shorten(first),
                want: header.to_owned(),
            });
        }
        Ok(Self { rest, line: 2 })
    }

    /// The line now at hand, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Takes the value of the next line, which must be the field `name`.
    pub fn one(&mut self, name: &str) -> Result<&'a str, ParseError> {
        match self.next_if(name)? {
            Some(value) => Ok(value),
            None => Err(ParseError::Field {
                line: self.line,
                want: name.to_owned(),
            }),
        }
    }

    /// Takes the value of the next line if it is the field `name`.
    pub fn next_if(&mut self, name: &str) -> Result<Option<&'a str>, ParseError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let syntax = ParseError::Syntax { line: self.line };
        let Some((row, rest)) = self.rest.split_once('\n') else {
            return Err(syntax);
        };
        let Some((found, value)) = row.split_once(": ") else {
            return Err(syntax);
        };
        if value.is_empty() || value.starts_with(' ') || value.ends_with(' ') {
            return Err(syntax);
        }
        if found != name {
            return Ok(None);
        }
        self.rest = rest;
        self.line += 1;
        Ok(Some(value))
    }

    /// Makes sure that nothing is left.
    pub fn end(self) -> Result<(), ParseError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(ParseError::Trailing { line: self.line })
        }
    }
}

/// Foreign text in an error message stays short and printable.
fn shorten(text: &str) -> String {
    text.chars()
        .take(60)
        .map(|c| if is_allowed(c) { c } else { '?' })
        .collect()
}
