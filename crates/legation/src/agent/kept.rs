//! What an embassy signed for, kept beside the spool after it was verified: the last acknowledgement of each stream and
//! the receipt of each commit. They prove what was abroad, when the embassy is asked for it and denies it.
//!
//! An acknowledgement is the signed statement of kind `ack` (spec/statements.md), a receipt is the JSON of spec/wire.md,
//! section 4, with the consistency proof left out: both as the embassy gave them.

use std::path::{Path, PathBuf};

use legation_core::id::{StreamId, VersionNo};
use legation_repo::http::Receipt;
use legation_repo::http::wire::ReceiptBody;
use legation_repo::{durable, edge};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::exit::Failure;

/// How many of each are kept for a registry: the newest. At one stream an hour and one base a day six weeks of streams
/// and almost three years of versions, in a few megabytes.
const MAX_KEPT: usize = 1000;

/// The proofs of one registry.
#[derive(Debug, Clone)]
pub struct Kept {
    acks: PathBuf,
    receipts: PathBuf,
}

impl Kept {
    /// Those in the registry's directory of the spool.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn open(dir: &Path) -> Result<Kept, Failure> {
        let kept = Kept {
            acks: dir.join("acks"),
            receipts: dir.join("receipts"),
        };
        durable::create_dir(&kept.acks)?;
        durable::create_dir(&kept.receipts)?;
        Ok(kept)
    }

    /// Keeps an acknowledgement in place of the one before of its stream. Durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn ack(&self, stream: &StreamId, signed: &str) -> Result<(), Failure> {
        let path = self.acks.join(format!("{stream}.ack"));
        let new = !path.exists();
        edge::at("agent.ack", || {
            durable::write_atomic(&path, signed.as_bytes())
        })?;
        if new { prune(&self.acks) } else { Ok(()) }
    }

    /// Keeps the receipt of a commit. Durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn receipt(&self, version: VersionNo, receipt: &Receipt) -> Result<(), Failure> {
        let body = ReceiptBody {
            index: receipt.entry.index,
            entry: STANDARD.encode(receipt.entry.encode()),
            inclusion: receipt.inclusion.clone(),
            checkpoint: receipt.checkpoint.note().to_owned(),
            old: receipt.checkpoint.size(),
            consistency: Vec::new(),
        };
        let bytes = serde_json::to_vec_pretty(&body)
            .map_err(|error| Failure::failed(format!("cannot write a receipt: {error}")))?;
        durable::write_atomic(&self.receipts.join(format!("{version}.receipt")), &bytes)?;
        prune(&self.receipts)
    }
}

/// Removes the oldest beyond the bound.
fn prune(dir: &Path) -> Result<(), Failure> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        found.push((entry.metadata()?.modified()?, entry.path()));
    }
    found.sort();
    let excess = found.len().saturating_sub(MAX_KEPT);
    for (_, path) in found.drain(..excess) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Kept, MAX_KEPT, StreamId};

    #[test]
    fn one_is_kept_for_each_stream_and_the_newest_of_many() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        let stream = StreamId([1; 16]);
        kept.ack(&stream, "first").unwrap();
        kept.ack(&stream, "second").unwrap();
        let acks = dir.path().join("acks");
        let path = acks.join(format!("{stream}.ack"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");

        let old = std::time::SystemTime::UNIX_EPOCH;
        for n in 0..MAX_KEPT {
            std::fs::write(acks.join(format!("{n}.ack")), "other").unwrap();
        }
        let oldest = std::fs::File::options().write(true).open(&path).unwrap();
        oldest.set_modified(old).unwrap();
        kept.ack(&StreamId([2; 16]), "third").unwrap();
        assert_eq!(std::fs::read_dir(&acks).unwrap().count(), MAX_KEPT);
        assert!(!path.exists(), "the oldest goes");
    }
}
