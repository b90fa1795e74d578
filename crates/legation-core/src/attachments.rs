//! Attachments: longer texts and keys that statements name by SHA-256 and that lie beside the log.

use crate::id::Sha256;
use std::collections::BTreeMap;

/// Where the fold finds what statements name by digest.
pub trait Attachments {
    /// The bytes with this SHA-256, if they are there. The fold checks the digest itself, so an implementation may
    /// return what it finds under the name. The answer for a digest must not change while a log is folded.
    fn get(&self, digest: &Sha256) -> Option<Vec<u8>>;
}

/// The attachment, if it is there and its digest is right.
pub(crate) fn fetch(attachments: &dyn Attachments, digest: &Sha256) -> Option<Vec<u8>> {
    attachments
        .get(digest)
        .filter(|bytes| Sha256::of(bytes) == *digest)
}

/// Attachments in memory.
#[derive(Clone, Debug, Default)]
pub struct Held(BTreeMap<Sha256, Vec<u8>>);

impl Held {
    /// Holds nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes and returns the digest to name them by.
    pub fn add(&mut self, bytes: impl Into<Vec<u8>>) -> Sha256 {
        let bytes = bytes.into();
        let digest = Sha256::of(&bytes);
        self.0.insert(digest, bytes);
        digest
    }
}

impl Attachments for Held {
    fn get(&self, digest: &Sha256) -> Option<Vec<u8>> {
        self.0.get(digest).cloned()
    }
}
