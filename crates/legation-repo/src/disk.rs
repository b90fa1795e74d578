//! Changes to files, each told before and after it is made: so that a test can stand where the disk is.
//!
//! Whatever this crate does to a file or a directory goes through [`change`], which names it: what a power failure
//! leaves follows from these names and nothing else. Without the cargo feature `faults` (and outside this crate's
//! tests) that is a plain call. With it, a [`Watch`] of the current thread can refuse a change, let it happen and
//! report it failed, and keep a record of what is durable.

use std::io;
use std::path::Path;

/// One change to what a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// A new, empty file.
    Create,
    /// Bytes from this offset on.
    Write(u64, &'a [u8]),
    /// The file's new length.
    Cut(u64),
    /// The file's bytes and length become durable.
    Sync,
    /// The file gets this name instead, in the place of what had it.
    Rename(&'a Path),
    /// The file gets this name as well.
    Link(&'a Path),
    /// The name goes.
    Remove,
    /// A new, empty directory.
    MakeDir,
    /// A directory with all that is in it goes.
    RemoveTree,
    /// The names in the directory become durable.
    SyncDir,
}

/// Makes a change.
#[cfg(not(any(test, feature = "faults")))]
#[inline(always)]
pub(crate) fn change<T>(
    _path: &Path,
    _change: Change<'_>,
    operation: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    operation()
}

/// Total and free bytes, where a watch says how large the disk is.
#[cfg(not(any(test, feature = "faults")))]
#[inline(always)]
pub fn room() -> Option<(u64, u64)> {
    None
}

#[cfg(any(test, feature = "faults"))]
pub(crate) use watched::change;
#[cfg(any(test, feature = "faults"))]
pub use watched::{Verdict, Watch, Watching, room, watch};

#[cfg(any(test, feature = "faults"))]
mod watched {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::{Change, Path, io};

    /// What becomes of a change.
    #[derive(Debug)]
    pub enum Verdict {
        /// It happens.
        Make,
        /// It does not happen.
        Refuse(io::Error),
        /// It happens and is reported failed.
        MakeAndFail(io::Error),
    }

    /// Stands where the disk is.
    pub trait Watch {
        /// Asked before a change.
        fn before(&mut self, path: &Path, change: &Change<'_>) -> Verdict;
        /// Told after it was made.
        fn made(&mut self, path: &Path, change: &Change<'_>);
        /// Total and free bytes; `None` leaves it to the file system.
        fn room(&self) -> Option<(u64, u64)>;
    }

    thread_local! {
        static WATCH: RefCell<Option<Rc<RefCell<dyn Watch>>>> = const { RefCell::new(None) };
    }

    /// The current thread's watch, until this is dropped; then the one before it.
    pub struct Watching(Option<Rc<RefCell<dyn Watch>>>);

    impl Drop for Watching {
        fn drop(&mut self) {
            WATCH.with(|held| *held.borrow_mut() = self.0.take());
        }
    }

    /// Puts a watch over all changes that the current thread makes.
    #[must_use]
    pub fn watch(by: Rc<RefCell<dyn Watch>>) -> Watching {
        WATCH.with(|held| Watching(held.borrow_mut().replace(by)))
    }

    fn watching() -> Option<Rc<RefCell<dyn Watch>>> {
        WATCH.with(|held| held.borrow().clone())
    }

    /// Total and free bytes, where a watch says how large the disk is.
    pub fn room() -> Option<(u64, u64)> {
        watching()?.borrow().room()
    }

    /// Makes a change.
    pub(crate) fn change<T>(
        path: &Path,
        change: Change<'_>,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(watch) = watching() else {
            return operation();
        };
        let verdict = watch.borrow_mut().before(path, &change);
        let late = match verdict {
            Verdict::Refuse(error) => return Err(error),
            Verdict::MakeAndFail(error) => Some(error),
            Verdict::Make => None,
        };
        let made = operation();
        if made.is_ok() {
            watch.borrow_mut().made(path, &change);
        }
        match late {
            Some(error) => Err(error),
            None => made,
        }
    }
}
