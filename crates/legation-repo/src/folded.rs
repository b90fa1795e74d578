//! What a log was folded to, kept beside it: whoever comes back folds only what is new.
//!
//! It is a convenience and no evidence: a key of the machine's own authenticates it, it counts for the very rules that it
//! was folded under, and whoever goes on from it compares the root that comes of it with a signed one. In any doubt there
//! is nothing kept.

use std::path::{Path, PathBuf};

use legation_core::policy::{State, keep_key};
use zeroize::Zeroizing;

use crate::durable;
use crate::store::StoreError;

/// Largest kept state: some ten million statements of other kinds than marks.
const MAX: u64 = 1 << 30;

/// Where a log's kept state lies, and under which key.
#[derive(Clone)]
pub struct Folded {
    path: PathBuf,
    key: Zeroizing<[u8; 32]>,
}

impl Folded {
    /// Kept at `path`, under a key that comes of this secret.
    pub fn new(path: &Path, secret: &[u8]) -> Folded {
        Folded {
            path: path.to_owned(),
            key: Zeroizing::new(keep_key(secret)),
        }
    }

    /// What was kept; `None` when there is nothing, or nothing that counts here and now.
    pub fn recall(&self) -> Option<State> {
        let bytes = durable::read_bounded(&self.path, MAX).ok()?;
        match State::recall(&bytes, &self.key) {
            Ok(state) => Some(state),
            Err(why) => {
                tracing::debug!("the log is folded from its beginning: {why}");
                None
            }
        }
    }

    /// Keeps a state in the place of the one before.
    ///
    /// # Errors
    /// `Full`; `Io`. What was kept before then stands.
    pub fn keep(&self, state: &State) -> Result<(), StoreError> {
        let bytes = state.keep(&self.key);
        let failed = |e| StoreError::io(format!("write {}", self.path.display()), e);
        durable::write_atomic(&self.path, &bytes).map_err(failed)
    }
}

impl std::fmt::Debug for Folded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Folded({})", self.path.display())
    }
}
