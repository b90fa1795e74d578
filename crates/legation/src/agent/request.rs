//! Asking a running agent for a capture now: a small file in the registry's directory, which the agent removes.
//!
//! A capture first takes the request that it serves, by renaming it: one that is made while it runs is for the next.

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
        let asked = [path(dir), taken(dir)].map(|path| std::fs::read_to_string(path).ok());
        if asked == [None, None] {
            return None;
        }
        let full = asked.iter().flatten().any(|text| text.trim() == "full");
        Some(Request { full })
    }

    /// Takes what was asked until now, for the capture that begins. What an earlier one took and did not finish counts
    /// with it.
    ///
    /// # Errors
    /// When the request cannot be renamed.
    pub fn take(dir: &Path) -> Result<Option<Request>, Failure> {
        let request = Request::look(dir);
        if request.is_some_and(|request| request.full) && path(dir).exists() {
            // The one that was taken before may have asked for less, and this one for less than that.
            std::fs::write(path(dir), "full\n")?;
        }
        match std::fs::rename(path(dir), taken(dir)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(request),
        }
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

    /// Says that what was taken was done.
    pub fn done(dir: &Path) {
        // Nothing to remove is the usual case.
        let _ = std::fs::remove_file(taken(dir));
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("request")
}

fn taken(dir: &Path) -> PathBuf {
    dir.join("request.taken")
}

#[cfg(test)]
mod tests {
    use super::Request;

    #[test]
    fn what_is_asked_during_a_capture_is_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(Request::take(dir).unwrap(), None);
        Request { full: true }.ask(dir).unwrap();
        assert_eq!(Request::take(dir).unwrap(), Some(Request { full: true }));
        Request { full: false }.ask(dir).unwrap();
        Request::done(dir);
        assert_eq!(Request::take(dir).unwrap(), Some(Request { full: false }));

        // One that failed is still to be done, with what was asked since.
        Request { full: true }.ask(dir).unwrap();
        Request::take(dir).unwrap();
        Request { full: false }.ask(dir).unwrap();
        assert_eq!(Request::take(dir).unwrap(), Some(Request { full: true }));
        Request::done(dir);
        assert_eq!(Request::look(dir), None);
    }
}
