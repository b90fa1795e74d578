//! Asking a running agent for a capture now: a small file in the registry's directory, which the agent removes.

use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Everything is read and sealed anew.
    pub full: bool,
}

impl Request {
    /// What was asked and is not done yet.
    pub fn look(dir: &Path) -> Option<Request> {
        let text = std::fs::read_to_string(path(dir)).ok()?;
        Some(Request {
            full: text.trim() == "full",
        })
    }

    /// Asks.
    ///
    /// # Errors
    /// When the agent's directory cannot be written to.
    pub fn ask(self, dir: &Path) -> Result<(), Failure> {
        let text = if self.full { "full\n" } else { "changes\n" };
        let fresh = path(dir).with_extension("new");
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, path(dir))?;
        Ok(())
    }

    /// Says that it was done.
    pub fn done(dir: &Path) {
        // Nothing to remove is the usual case.
        let _ = std::fs::remove_file(path(dir));
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("request")
}
