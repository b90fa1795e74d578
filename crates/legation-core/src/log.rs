//! The transparency log: RFC 6962 hashing, proofs, C2SP tiles, signed notes and checkpoints.
//!
//! Normative text: `spec/log.md`. This module turns bytes into answers and holds no files, no clock and no
//! keys but those handed to it; where tiles are kept and when a checkpoint may be signed is the business of
//! `legation_repo::log`.
//!
//! A reader who trusts only a [`LogVerifier`] checks a log in three steps: [`Checkpoint::open`] tells which tree
//! was signed, [`check_consistency`] (or [`TreeHead::advance`]) that it continues the one seen before, and
//! [`check_inclusion`] that an entry is in it.

mod checkpoint;
mod key;
mod merkle;
mod note;
mod proof;
mod tile;

pub use checkpoint::{Checkpoint, MAX_CHECKPOINT, TreeHead};
pub use key::{LOG_KEY_LEN, LOG_SEED_LEN, LogSigner, LogVerifier};
pub use merkle::{Hashes, MemoryHashes, Tree, empty_root, leaf_hash, node_hash};
pub use note::{MAX_NOTE, MAX_SIGNATURES, Note, NoteSignature, key_id};
pub use proof::{MAX_PROOF, check_consistency, check_inclusion, consistency, inclusion, root_at};
pub use tile::{
    Level, MAX_ENTRY, TILE_WIDTH, TileHashes, TilePath, bundle, encode_entry, split_bundle,
    tiles_of,
};

/// Why a log, a proof or a checkpoint is not believed.
///
/// Every kind is a reason to refuse; [`LogError::Shorter`] and [`LogError::Forked`] are in addition evidence
/// against the log, and both halves should be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Bytes that do not follow the format.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// What was being read, in the words of `spec/log.md`.
        what: &'static str,
        /// Which rule it breaks.
        why: String,
    },
    /// A required signature is absent or does not verify.
    #[error("the checkpoint of {origin} lacks a good {which} signature of the log's key")]
    Signature {
        /// The origin that was expected.
        origin: String,
        /// `Ed25519` or `ML-DSA-44`.
        which: &'static str,
    },
    /// The checkpoint belongs to another log.
    #[error("the checkpoint is of log {found}, not of {expected}")]
    Origin {
        /// The origin that was expected.
        expected: String,
        /// The origin in the checkpoint.
        found: String,
    },
    /// A proof does not lead to the root.
    #[error("the {0} proof does not lead to the signed root")]
    Proof(&'static str),
    /// The log shows a smaller tree than one it already signed.
    #[error("log cut short: size {offered} < {held} that was seen before; keep both checkpoints")]
    Shorter {
        /// The size that the reader holds.
        held: u64,
        /// The size now offered.
        offered: u64,
    },
    /// The log shows another history than one it already signed.
    #[error(
        "log forked: its tree does not continue the one of size {held} that was seen before; keep both checkpoints"
    )]
    Forked {
        /// The size of the tree that is no longer a prefix.
        held: u64,
    },
    /// An index or size outside the tree.
    #[error("{what} {asked} is outside a tree of size {size}")]
    Range {
        /// `entry` or `tree`.
        what: &'static str,
        /// The index or size asked for.
        asked: u64,
        /// The size of the tree.
        size: u64,
    },
    /// A key could not be read or used.
    #[error("unusable log key: {0}")]
    Key(&'static str),
}

impl LogError {
    pub(crate) fn malformed(what: &'static str, why: impl Into<String>) -> LogError {
        LogError::Malformed {
            what,
            why: why.into(),
        }
    }
}

#[cfg(test)]
mod tests;
