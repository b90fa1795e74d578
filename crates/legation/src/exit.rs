//! How a run ends: the documented exit codes, and a failure that tells the person what to do.

use std::fmt;

use serde::Serialize;

/// The exit codes of the manual. Scripts rely on them; a new meaning takes a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// Something went wrong that no other code names.
    Failed = 1,
    /// The command line or a configuration file is wrong.
    Usage = 2,
    /// A source could not be read whole.
    SourceIncomplete = 3,
    /// Bytes, a signature, a proof or a log did not verify.
    VerificationFailed = 4,
    /// Too few approvals or shares, or none from abroad.
    Quorum = 5,
    /// A later term exists: this writer may not continue.
    Fenced = 6,
    /// It worked, but later or older than the objective allows.
    ObjectiveMissed = 7,
    /// The mandate does not allow it.
    Refused = 8,
    /// No embassy answers there, or no store lies there.
    NoEmbassy = 10,
    /// Another process holds it.
    Locked = 11,
    /// The key given is not the one that is needed.
    WrongKey = 12,
    /// A person or the system asked the program to stop.
    Interrupted = 130,
}

impl Code {
    /// The code whose number this is, as carried by an embassy's error answers; unknown numbers are plain failures.
    pub fn from_number(number: u8) -> Code {
        match number {
            2 => Code::Usage,
            3 => Code::SourceIncomplete,
            4 => Code::VerificationFailed,
            5 => Code::Quorum,
            6 => Code::Fenced,
            7 => Code::ObjectiveMissed,
            8 => Code::Refused,
            10 => Code::NoEmbassy,
            11 => Code::Locked,
            12 => Code::WrongKey,
            130 => Code::Interrupted,
            _ => Code::Failed,
        }
    }

    /// A word for machines, in `--json` errors.
    pub fn word(self) -> &'static str {
        match self {
            Code::Failed => "failed",
            Code::Usage => "usage",
            Code::SourceIncomplete => "source-incomplete",
            Code::VerificationFailed => "verification-failed",
            Code::Quorum => "quorum-not-met",
            Code::Fenced => "fenced",
            Code::ObjectiveMissed => "objective-missed",
            Code::Refused => "refused-by-mandate",
            Code::NoEmbassy => "no-embassy",
            Code::Locked => "locked",
            Code::WrongKey => "wrong-key",
            Code::Interrupted => "interrupted",
        }
    }
}

/// Why a verb did not do what was asked: an exit code, what happened, and what to do about it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The exit code of the process.
    pub code: Code,
    /// What happened, in one sentence without a trailing stop.
    pub message: String,
    /// What to do next, where we know it.
    pub hint: Option<String>,
}

/// The form of a failure under `--json`.
#[derive(Serialize)]
struct Wire<'a> {
    message_type: &'static str,
    code: u8,
    kind: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl Failure {
    /// A failure with the given code.
    pub fn new(code: Code, message: impl fmt::Display) -> Failure {
        Failure {
            code,
            message: message.to_string(),
            hint: None,
        }
    }

    /// A failure that no special code names.
    pub fn failed(message: impl fmt::Display) -> Failure {
        Failure::new(Code::Failed, message)
    }

    /// Wrong arguments or configuration.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure::new(Code::Usage, message)
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Failure {
        self.hint = Some(hint.to_string());
        self
    }

    /// Says what was being done, before the message.
    #[must_use]
    pub fn during(mut self, what: impl fmt::Display) -> Failure {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Fails with all of them, if there are any: the code of the first, and what each says.
    ///
    /// # Errors
    /// When there is one.
    pub fn all(failures: Vec<Failure>) -> Result<(), Failure> {
        let mut failures = failures.into_iter();
        let Some(mut first) = failures.next() else {
            return Ok(());
        };
        for other in failures {
            first.message = format!("{}; also: {}", first.message, other.message);
            first.hint = match (first.hint, other.hint) {
                (Some(first), Some(other)) if first != other => Some(format!("{first}; {other}")),
                (first, other) => first.or(other),
            };
        }
        Err(first)
    }

    /// One line of JSON for standard error.
    pub fn to_json(&self) -> String {
        let wire = Wire {
            message_type: "error",
            code: self.code as u8,
            kind: self.code.word(),
            message: &self.message,
            hint: self.hint.as_deref(),
        };
        serde_json::to_string(&wire)
            .unwrap_or_else(|_| r#"{"message_type":"error","code":1}"#.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::failed(error)
    }
}

/// Names what was being done when an error arose.
pub trait During<T> {
    /// Turns any error into a plain failure that starts with `what`.
    ///
    /// # Errors
    /// The error, told as a [`Failure`].
    fn during(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> During<T> for Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| error.into().during(what))
    }
}
