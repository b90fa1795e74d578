//! What can go wrong between a client and an embassy, and what the person at the client should do.

use super::wire::{Position, Problem, kind};

/// Exit code of a command that found no embassy where one should be.
const EXIT_NOWHERE: u8 = 10;
/// Exit code of a command that met something it could not verify.
const EXIT_UNVERIFIED: u8 = 4;
/// Exit code of a command whose key, or whose peer's key, is not the right one.
const EXIT_WRONG_KEY: u8 = 12;

/// A failed exchange with an embassy. Messages name embassies by label, never by address.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Our own TLS key or settings are unusable.
    #[error("{0}")]
    Identity(String),
    /// No answer after all retries. What was sent may or may not have been done: send the same bytes again.
    #[error(
        "embassy {label} does not answer ({why}); nothing was lost, try again when the link is back"
    )]
    Unreachable {
        /// The embassy's label.
        label: String,
        /// What the connection met.
        why: String,
    },
    /// The handshake ended over a key: ours is not known there, or theirs is not the one that the mandate names.
    #[error(
        "embassy {label} and we do not know each other's key: compare both cards with the mandate in force"
    )]
    WrongKey {
        /// The embassy's label.
        label: String,
    },
    /// The embassy refused, and says why.
    #[error("embassy {label}: {}", .problem.detail)]
    Refused {
        /// The embassy's label.
        label: String,
        /// Its answer.
        problem: Box<Problem>,
    },
    /// The embassy showed two histories of one log. Both halves are here: keep them, they are the evidence.
    #[error("embassy {label} shows a history that contradicts the one it signed before: {}; both are kept", .view.why)]
    SplitView {
        /// The embassy's label.
        label: String,
        /// The two halves.
        view: Box<SplitView>,
    },
    /// An answer that its signatures or proofs do not bear out.
    #[error("embassy {label} gave an answer that does not verify: {why}; nothing of it is used")]
    Unverified {
        /// The embassy's label.
        label: String,
        /// What does not hold.
        why: String,
    },
    /// An answer outside the protocol.
    #[error("embassy {label} gave an answer that this version does not understand: {why}")]
    Protocol {
        /// The embassy's label.
        label: String,
        /// What was not understood.
        why: String,
    },
    /// The file that pins the last checkpoint seen is not one of this log.
    #[error("{0}")]
    Trust(String),
    /// This machine could not read or write a file of its own; it says nothing of the embassy.
    #[error("{0}")]
    Local(String),
}

/// Two signed checkpoints of one log that cannot both be true, or between which no proof was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitView {
    /// The checkpoint held from before, a signed note.
    pub held: String,
    /// The checkpoint that was offered now, a signed note.
    pub offered: String,
    /// In what they differ.
    pub why: String,
}

impl ClientError {
    /// The exit code for a command that ends because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => EXIT_NOWHERE,
            Self::WrongKey { .. } => EXIT_WRONG_KEY,
            Self::Refused { problem, .. } => problem.exit,
            Self::SplitView { .. } | Self::Unverified { .. } => EXIT_UNVERIFIED,
            Self::Identity(_) | Self::Protocol { .. } | Self::Trust(_) | Self::Local(_) => 1,
        }
    }

    /// The embassy's own words, when it refused.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// Nothing there under that name.
    pub fn is_not_found(&self) -> bool {
        self.problem().is_some_and(|p| p.kind == kind::NOT_FOUND)
    }

    /// The term has passed; nothing more is taken from this writer.
    pub fn is_fenced(&self) -> bool {
        self.problem().is_some_and(|p| p.kind == kind::FENCED)
    }

    /// No room at the embassy.
    pub fn is_full(&self) -> bool {
        self.problem().is_some_and(|p| p.kind == kind::FULL)
    }

    /// Worth trying again later with the same bytes.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { problem, .. } => {
                [kind::BUSY, kind::FAILED, kind::FULL].contains(&problem.kind.as_str())
            }
            _ => false,
        }
    }

    /// Where the stream stands, when frames did not continue it.
    pub fn position(&self) -> Option<&Position> {
        self.problem().and_then(|p| p.position.as_ref())
    }
}
