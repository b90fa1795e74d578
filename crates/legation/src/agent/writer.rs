//! The agent as a writer: the keys it signs and seals with, and the state it writes for.

use std::sync::Arc;

use legation_core::id::{RegistryId, StateId, Term, Timeline, VersionNo};
use legation_core::keys::{Entropy, SigningKey};
use legation_core::statement::{self, Cause, Signed, Statement, Time, WalRange};
use zeroize::Zeroizing;

use super::status::now_ms;
use crate::charter::Charter;
use crate::exit::{Code, Failure};
use crate::identity::Identity;

/// Signing key, agent secret and charter.
pub struct Writer {
    charter: Arc<Charter>,
    name: String,
    signing: SigningKey,
    secret: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({})", self.name)
    }
}

impl Writer {
    /// The writer that the mandate knows by this identity's key.
    ///
    /// # Errors
    /// Code 8 when the mandate does not know the key.
    pub fn new(charter: Arc<Charter>, identity: &Identity) -> Result<Writer, Failure> {
        let signing = identity.signing_key()?;
        let Some(name) = charter
            .writer_of(&signing.verifying_key().id())
            .map(ToString::to_string)
        else {
            return Err(Failure::new(
                Code::Refused,
                "the mandate names no writer with this agent's key",
            )
            .hint(
                "give the agent's card to the ceremony, or use the identity that was given to it",
            ));
        };
        Ok(Writer {
            charter,
            name,
            signing,
            secret: identity.agent_secret()?,
        })
    }

    /// Its name in the mandate.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The state's founding.
    pub fn charter(&self) -> &Charter {
        &self.charter
    }

    /// The state.
    pub fn state(&self) -> StateId {
        self.charter.state
    }

    /// The sequence of the mandate.
    pub fn mandate(&self) -> u32 {
        self.charter.mandate.sequence
    }

    /// What is mixed into every epoch root.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The signed text of a statement.
    ///
    /// # Errors
    /// When the statement breaks its own grammar, which is a defect.
    pub fn sign(&self, statement: impl Into<Statement>) -> Result<Vec<u8>, Failure> {
        Signed::sign_with(statement, &self.signing)
            .map(|signed| signed.encode().into_bytes())
            .map_err(|error| Failure::failed(format!("signing a statement: {error}")))
    }

    /// The signed text of a gap: what is missing, if that is known, and why.
    ///
    /// # Errors
    /// As [`Writer::sign`].
    pub fn gap(
        &self,
        registry: RegistryId,
        term: Term,
        missing: Option<(Timeline, WalRange)>,
        cause: Cause,
    ) -> Result<Vec<u8>, Failure> {
        let (timeline, wal) = missing.unzip();
        self.sign(statement::Gap {
            state: self.state(),
            mandate: self.mandate(),
            registry,
            term,
            timeline,
            wal,
            cause,
            at: now()?,
        })
    }

    /// The signed text of a doubt about a version.
    ///
    /// # Errors
    /// As [`Writer::sign`].
    pub fn flagged(
        &self,
        registry: RegistryId,
        term: Term,
        version: VersionNo,
        cause: Cause,
    ) -> Result<Vec<u8>, Failure> {
        self.doubted((registry, term), Some(version), None, cause)
    }

    /// The signed text of a doubt: about which range, if that is known, and why.
    ///
    /// # Errors
    /// As [`Writer::sign`].
    pub fn doubt(
        &self,
        registry: RegistryId,
        term: Term,
        range: Option<(Timeline, WalRange)>,
        cause: Cause,
    ) -> Result<Vec<u8>, Failure> {
        self.doubted((registry, term), None, range, cause)
    }

    fn doubted(
        &self,
        (registry, term): (RegistryId, Term),
        version: Option<VersionNo>,
        range: Option<(Timeline, WalRange)>,
        cause: Cause,
    ) -> Result<Vec<u8>, Failure> {
        let (timeline, wal) = range.unzip();
        self.sign(statement::Doubt {
            state: self.state(),
            mandate: self.mandate(),
            registry,
            term,
            timeline,
            wal,
            version,
            cause,
            at: now()?,
        })
    }
}

/// Now, as statements write it.
///
/// # Errors
/// When the clock stands outside what a statement can say.
pub fn now() -> Result<Time, Failure> {
    Time::from_millis(now_ms())
        .ok_or_else(|| Failure::failed("the clock of this machine is out of range"))
}

/// Randomness of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn draw(&mut self) -> Result<Zeroizing<[u8; 32]>, legation_core::error::FormatError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes)
            .map_err(|_| legation_core::error::FormatError::Crypto("draw randomness"))?;
        Ok(bytes)
    }
}
