//! The named suite of algorithms and the format number (spec/format.md §2). Unknown ones are hard errors.

use crate::error::FormatError;

/// The one format that this program reads and writes.
pub const FORMAT: u16 = 1;

/// Suite 1: BLAKE3, zstd, AES-256-GCM, HKDF-SHA256, HPKE X-Wing/HKDF-SHA256/AES-256-GCM,
/// Ed25519 + ML-DSA-65 for writers and embassies, Ed25519 + ML-DSA-44 for the log.
pub const SUITE: u16 = 1;

/// Length of an AES-GCM tag in bytes.
pub const TAG: usize = 16;

/// Refuses any format or suite but the ones above.
///
/// # Errors
/// `Unsupported`, naming the field.
pub fn require(what: &'static str, format: u16, suite: u16) -> Result<(), FormatError> {
    if format != FORMAT {
        return Err(FormatError::Unsupported {
            what,
            field: "format",
            found: format.into(),
        });
    }
    if suite != SUITE {
        return Err(FormatError::Unsupported {
            what,
            field: "suite",
            found: suite.into(),
        });
    }
    Ok(())
}
