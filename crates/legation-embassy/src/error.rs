//! Why an embassy does not start or stops serving a state.

use legation_repo::http::ClientError;

/// An embassy that cannot start. Each message says what to look at.
#[derive(Debug, thiserror::Error)]
pub enum EmbassyError {
    /// An address cannot be bound. Only its port is told: where an embassy answers stands in no log.
    #[error(
        "cannot listen on port {port}: {source}; stop the other process that listens there, or change `listen`"
    )]
    Listen {
        /// The port.
        port: u16,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The TLS key cannot be used.
    #[error("{0}")]
    Tls(#[source] ClientError),
    /// No threads.
    #[error("cannot start the server's threads: {0}")]
    Runtime(#[source] std::io::Error),
    /// A founding mandate that cannot be read or does not hold.
    #[error("the mandate does not hold: {0}")]
    Mandate(String),
    /// The keys of this embassy are not those of the mandate.
    #[error("this embassy's {what} is not the one that the mandate names for label {label}")]
    WrongKey {
        /// Which key.
        what: &'static str,
        /// The label.
        label: String,
    },
    /// The log on disk holds what the mandate does not allow, or is not this state's.
    #[error(
        "the log of {state} does not replay: {why}; it was changed behind the embassy's back, keep it as evidence"
    )]
    Log {
        /// The state.
        state: String,
        /// What was found.
        why: String,
    },
    /// A file that the log names is not what it was.
    #[error(
        "{what} of {state}, which entry {entry} of its log names, is {how}; put its bytes back under that name from a \
         copy of the log (`legation log mirror` makes one with its attachments), then start again"
    )]
    Attachment {
        /// The state.
        state: String,
        /// Which file.
        what: String,
        /// The entry.
        entry: u64,
        /// Damaged or missing.
        how: String,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] legation_repo::store::StoreError),
}

impl EmbassyError {
    /// The exit code for a process that ends because of this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::WrongKey { .. } => 12,
            Self::Log { .. } | Self::Attachment { .. } => 4,
            Self::Mandate(_) => 8,
            Self::Store(legation_repo::store::StoreError::Locked { .. }) => 11,
            Self::Store(legation_repo::store::StoreError::Format { .. }) => 4,
            _ => 1,
        }
    }

    /// Whether it is about what one state has on disk: the other states can be served all the same. What is wrong in
    /// the settings, or held by another process, is wrong for the whole embassy.
    pub(crate) fn is_of_one_state(&self) -> bool {
        match self {
            Self::Log { .. } | Self::Attachment { .. } => true,
            Self::Store(error) => !matches!(error, legation_repo::store::StoreError::Locked { .. }),
            _ => false,
        }
    }
}
