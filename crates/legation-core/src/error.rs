//! What can be wrong with bytes, keys and sizes. Few kinds; each message says what to do.

/// Why an object, frame, key or share was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes do not follow the format: truncated, trailing, non-zero reserved bytes, bad order.
    #[error(
        "{what} is malformed: {why}; the bytes were changed or cut, fetch them from another copy"
    )]
    Malformed {
        /// The object that was read.
        what: &'static str,
        /// The rule that it broke.
        why: &'static str,
    },
    /// A format, suite or kind that this program does not know. Never guessed at.
    #[error("{what} has {field} {found}, which this program does not know; use a newer legation")]
    Unsupported {
        /// The object that was read.
        what: &'static str,
        /// The field that names the unknown thing.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// Authenticated decryption failed: another key, another place, or changed bytes.
    #[error(
        "{what} does not open: it was sealed under another key or for another place, or its bytes were changed"
    )]
    NotOpened {
        /// The object that was opened.
        what: &'static str,
    },
    /// A well-formed object that belongs somewhere else.
    #[error("{what} is of another {field}: expected {expected}, found {found}")]
    Misplaced {
        /// The object that was read.
        what: &'static str,
        /// The field that differs.
        field: &'static str,
        /// What the reader asked for.
        expected: String,
        /// What the object says.
        found: String,
    },
    /// Something exceeds a bound of the format.
    #[error("{what} exceeds its bound of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The bound, in bytes or pieces.
        limit: u64,
    },
    /// A signature that does not verify.
    #[error("the signature does not verify: both the Ed25519 and the ML-DSA-65 part must")]
    BadSignature,
    /// A cryptographic library refused an operation that cannot fail on valid input.
    #[error("the cryptographic library refused to {0}")]
    Crypto(&'static str),
}

impl FormatError {
    pub(crate) fn malformed(what: &'static str, why: &'static str) -> Self {
        Self::Malformed { what, why }
    }

    pub(crate) fn misplaced(
        what: &'static str,
        field: &'static str,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Self {
        Self::Misplaced {
            what,
            field,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}
