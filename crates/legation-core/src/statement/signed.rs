//! A text together with the signatures over it.
//!
//! The text, a blank line, then one line `signature: <signer> <base64>` each. An officer's signature is the raw SSHSIG
//! blob that `ssh-keygen -Y sign` made, without its armour; writers and embassies sign with Ed25519 and ML-DSA-65.
//! Whether a signature is *valid* and its signer *entitled* is for [`crate::policy`].

use super::Statement;
use super::text::{MAX_TEXT, ParseError, check_characters, kind_of};
use super::value::{Base64, Name};
use crate::error::FormatError;
use crate::id::Sha256;
use crate::keys::SigningKey;
use crate::sshsig::{self, SshsigError};
use std::fmt;
use std::str::FromStr;

/// The most signatures on one statement: more officers than any quorum has.
pub const MAX_SIGNATURES: usize = 32;

/// The longest signature in bytes: hybrid ones have 3,373, SSHSIG with an 8,192-bit RSA key about 2,200.
pub const MAX_SIGNATURE: usize = 4096;

/// The longest signed statement in bytes. With the head of an entry it stays within a leaf's 65,535.
pub const MAX_SIGNED: usize = 65_000;

/// Who a signature says it is from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signer {
    /// An officer, by the name that the mandate gives him.
    Officer(Name),
    /// A writer or an embassy, by the digest of its key.
    Key(Sha256),
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Officer(name) => name.fmt(f),
            Self::Key(key) => key.fmt(f),
        }
    }
}

impl FromStr for Signer {
    type Err = super::NotAValue;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(key) => Ok(Self::Key(key)),
            Err(_) => text.parse().map(Self::Officer),
        }
    }
}

/// One signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Who it says it is from.
    pub signer: Signer,
    /// SSHSIG blob, or Ed25519 ‖ ML-DSA-65.
    pub bytes: Vec<u8>,
}

/// A statement's exact text and the signatures over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    text: String,
    signatures: Vec<Signature>,
}

/// Why a statement could not be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The text is not a statement.
    #[error(transparent)]
    Text(#[from] ParseError),
    /// The signing key failed.
    #[error(transparent)]
    Key(#[from] FormatError),
    /// The armoured signature is malformed.
    #[error(transparent)]
    Armour(#[from] SshsigError),
}

impl Signed {
    /// A text that nobody has signed yet.
    ///
    /// # Errors
    /// [`ParseError`] if the text obeys no kind's grammar.
    pub fn unsigned(text: impl Into<String>) -> Result<Self, ParseError> {
        let text = text.into();
        Statement::parse(&text)?;
        Ok(Self {
            text,
            signatures: Vec::new(),
        })
    }

    /// Signs as a writer or an embassy.
    ///
    /// # Errors
    /// [`SignError`] if the statement is too long, or if the key fails.
    pub fn sign_with(statement: impl Into<Statement>, key: &SigningKey) -> Result<Self, SignError> {
        let mut signed = Self::unsigned(statement.into().text())?;
        let bytes = key.sign(signed.text.as_bytes())?;
        signed.signatures.push(Signature {
            signer: Signer::Key(key.verifying_key().id()),
            bytes,
        });
        Ok(signed)
    }

    /// Adds an officer's signature, as the file that `ssh-keygen -Y sign` wrote.
    ///
    /// # Errors
    /// [`SshsigError`] if the armour is malformed or the signature is of a kind that never counts.
    pub fn add_officer(&mut self, officer: Name, armoured: &str) -> Result<(), SshsigError> {
        let bytes = sshsig::dearmour(armoured)?;
        sshsig::Sshsig::parse(&bytes)?;
        self.signatures.push(Signature {
            signer: Signer::Officer(officer),
            bytes,
        });
        Ok(())
    }

    /// The exact text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, in the order they were given.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// SHA-256 of the text: what the statement is called. Signatures are not part of it.
    #[must_use]
    pub fn id(&self) -> Sha256 {
        Sha256::of(self.text.as_bytes())
    }

    /// Reads what the text says.
    ///
    /// # Errors
    /// [`ParseError`] if it obeys no kind's grammar.
    pub fn statement(&self) -> Result<Statement, ParseError> {
        Statement::parse(&self.text)
    }

    /// The bytes that travel and are logged.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = self.text.clone();
        out.push('\n');
        for signature in &self.signatures {
            out.push_str(&format!(
                "signature: {} {}\n",
                signature.signer,
                Base64(signature.bytes.clone())
            ));
        }
        out
    }

    /// Reads text and signatures. Kinds are not looked at, so that a log with newer kinds can still be read.
    ///
    /// # Errors
    /// [`ParseError`] for anything but the one spelling.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MAX_SIGNED {
            return Err(ParseError::Size {
                size: bytes.len(),
                limit: MAX_SIGNED,
            });
        }
        let all = std::str::from_utf8(bytes).map_err(|_| ParseError::Utf8)?;
        let blank = all.find("\n\n").ok_or(ParseError::Envelope(
            "no blank line between the text and its signatures",
        ))?;
        let (text, rest) = all.split_at(blank + 1);
        if text.len() > MAX_TEXT {
            return Err(ParseError::Size {
                size: text.len(),
                limit: MAX_TEXT,
            });
        }
        check_characters(text)?;
        kind_of(text)?;
        let mut signatures = Vec::new();
        let mut rest = rest.strip_prefix('\n').unwrap_or_default();
        while !rest.is_empty() {
            let (row, next) = rest.split_once('\n').ok_or(BAD_SIGNATURE_LINE)?;
            let (signer, base64) = row
                .strip_prefix("signature: ")
                .and_then(|row| row.split_once(' '))
                .ok_or(BAD_SIGNATURE_LINE)?;
            let signer: Signer = signer.parse().map_err(|_| BAD_SIGNATURE_LINE)?;
            let bytes = super::field::canonical::<Base64>(base64)
                .ok_or(BAD_SIGNATURE_LINE)?
                .0;
            if signatures.len() == MAX_SIGNATURES || bytes.is_empty() || bytes.len() > MAX_SIGNATURE
            {
                return Err(ParseError::Envelope(
                    "more or longer signatures than a statement may have",
                ));
            }
            signatures.push(Signature { signer, bytes });
            rest = next;
        }
        Ok(Self {
            text: text.to_owned(),
            signatures,
        })
    }
}

const BAD_SIGNATURE_LINE: ParseError =
    ParseError::Envelope("a signature line is not 'signature: <signer> <base64>'");
