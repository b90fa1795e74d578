//! Bugs that can be planted, so that a test proves that it would have found them.
//!
//! Compiled in by the cargo feature `canary` only, and even there none is planted until a test asks for it on its own
//! thread. Without the feature [`planted`] is a constant `false`, and what depends on it is not in the program.

/// One bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// The fold does not ask for officers abroad.
    OffTerritory,
    /// A frame's salt leaves out what the frame says.
    RepeatedSalt,
    /// The embassy acknowledges frames before they are synced.
    AckBeforeSync,
    /// A renamed file's name is not made durable.
    NameNotSynced,
    /// The fold forgets that an order ended the term.
    NoFence,
}

/// All of them.
pub const BUGS: [Bug; 5] = [
    Bug::OffTerritory,
    Bug::RepeatedSalt,
    Bug::AckBeforeSync,
    Bug::NameNotSynced,
    Bug::NoFence,
];

/// Whether a bug is planted on this thread.
#[cfg(not(feature = "canary"))]
#[inline(always)]
#[must_use]
pub const fn planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "canary")]
pub use planting::{plant, planted};

#[cfg(feature = "canary")]
mod planting {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants one bug on this thread, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether a bug is planted on this thread.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
