//! How the errors of the inner rooms are told to a person: each kind has one of the documented exit codes.

use legation_core::error::FormatError;
use legation_core::policy::Refusal;
use legation_core::source::SourceError;
use legation_core::sshsig::SshsigError;
use legation_core::statement::ParseError;
use legation_core::statement::signed::SignError;
use legation_repo::reader::ReadError;
use legation_repo::store::StoreError;

use crate::exit::{Code, Failure};

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Failure {
        let code = match error {
            FormatError::NotOpened { .. } => Code::WrongKey,
            FormatError::Crypto(_) => Code::Failed,
            _ => Code::VerificationFailed,
        };
        Failure::new(code, error)
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Failure {
        Failure::new(Code::Refused, error)
    }
}

impl From<SshsigError> for Failure {
    fn from(error: SshsigError) -> Failure {
        let code = match error {
            SshsigError::Invalid => Code::Refused,
            SshsigError::OtherKey => Code::WrongKey,
            SshsigError::Namespace { .. } => Code::Refused,
            _ => Code::Usage,
        };
        Failure::new(code, error)
    }
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Failure {
        match error {
            SignError::Text(error) => error.into(),
            SignError::Key(error) => error.into(),
            SignError::Armour(error) => error.into(),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::new(Code::from_number(refusal.exit_code()), refusal)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let code = match error {
            StoreError::NotFound { .. } => Code::NoEmbassy,
            StoreError::Conflict { .. }
            | StoreError::Damaged { .. }
            | StoreError::Format { .. } => Code::VerificationFailed,
            StoreError::Locked { .. } => Code::Locked,
            _ => Code::Failed,
        };
        Failure::new(code, error)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        let code = match error {
            ReadError::Source(SourceError::Stopped) => Code::Interrupted,
            ReadError::Damaged { .. } | ReadError::Inconsistent(_) => Code::VerificationFailed,
            ReadError::NoKey { .. } => Code::Refused,
            ReadError::NotFound(_) => Code::Usage,
            ReadError::Source(SourceError::Missing { .. }) => Code::VerificationFailed,
            ReadError::Source(_) => Code::Failed,
        };
        Failure::new(code, error)
    }
}

/// A driver's error as it is met while restoring and starting; what a capture meets is told by the agent.
impl From<legation_registry::Error> for Failure {
    fn from(error: legation_registry::Error) -> Failure {
        use legation_registry::Error;
        match error {
            Error::Refused { what, fix } => Failure::failed(what).hint(fix),
            Error::Stopped | Error::Storage(SourceError::Stopped) => {
                Failure::new(Code::Interrupted, "stopped on request")
            }
            Error::Malformed { .. } => Failure::new(Code::VerificationFailed, error),
            other => Failure::failed(other),
        }
    }
}
