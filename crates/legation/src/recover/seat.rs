//! The embassy's own seat during an activation: its keys, its connection to the embassy over the loopback, and the
//! statements that it adds to the log. It cannot do more than the fold allows: the embassy checks them as anybody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use legation_core::id::{OrderId, RegistryId, Sha256};
use legation_core::keys::SigningKey;
use legation_core::statement::{
    EpochSet, Opened, Report, SealCause, Sealed, Session, Signed, Statement, Step, StepKind,
};
use legation_repo::http::{Client, ClientOptions};
use tempfile::TempDir;

use crate::charter::Charter;
use crate::config::embassy::Embassy;
use crate::desk;
use crate::exit::{Code, Failure};
use crate::identity::{Identity, Role};
use crate::ledger::Ledger;
use crate::officers::now;
use crate::watch::Watch;

/// The embassy answers from the same machine.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a call is tried: the embassy may be restarting.
const ATTEMPTS: u32 = 5;

/// The seat.
pub struct Seat {
    /// The founding of the state that the order is of.
    pub charter: Charter,
    /// The embassy's label.
    pub label: String,
    /// The connection.
    pub client: Client,
    signing: SigningKey,
    ledger: Option<Ledger>,
    copy: TempDir,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl Seat {
    /// Takes the seat of the embassy that `config` describes, for the state called `state`; with the keys in `identity`,
    /// if that is named, in place of the configured ones.
    ///
    /// # Errors
    /// Code 8 when this embassy does not serve that state; code 12 when its keys are not those of the mandate.
    pub fn take(config: &Embassy, identity: Option<&Path>, state: &str) -> Result<Self, Failure> {
        let charter = config
            .state
            .iter()
            .map(|served| Charter::load(&served.mandate))
            .find(|charter| {
                charter
                    .as_ref()
                    .map_or(true, |charter| charter.state.to_string() == state)
            })
            .ok_or_else(|| {
                Failure::new(
                    Code::Refused,
                    format!("embassy {} does not serve the state {state}", config.label),
                )
            })??;
        let row = charter.embassy(&config.label)?.clone();
        let file = identity.unwrap_or(&config.identity.file);
        let identity = Identity::load(file, Role::Embassy)?;
        let signing = identity.signing_key()?;
        if signing.verifying_key().id() != row.key {
            return Err(Failure::new(
                Code::WrongKey,
                format!(
                    "{} is not the key that the mandate gives to embassy {}",
                    file.display(),
                    row.label
                ),
            ));
        }
        let tls = identity.tls_identity(&charter.state.to_string())?;
        let address = loopback(config)?;
        let mut options = ClientOptions::of_mandate(
            charter.state,
            &charter.mandate,
            &charter.keyring,
            &config.label,
            address.to_string(),
            tls,
        )?;
        options.connect_timeout = CONNECT;
        options.attempts = ATTEMPTS;
        let copy = tempfile::tempdir()?;
        Ok(Self {
            charter,
            label: config.label.clone(),
            client: Client::new(options)?,
            signing,
            ledger: None,
            copy,
        })
    }

    /// The log as it is now, replayed.
    ///
    /// # Errors
    /// Code 10 when the embassy does not answer; code 4 when its log does not verify.
    pub fn look(&mut self) -> Result<&Ledger, Failure> {
        let path = self.copy.path();
        let ledger = match self.ledger.take() {
            Some(mut ledger) => {
                if self.client.checkpoint()?.size() > ledger.mirror.size() {
                    let copy = desk::copy(&self.client, path, ledger.mirror.size())?;
                    ledger.follow(copy)?;
                }
                ledger
            }
            None => desk::mirror(&self.client, path, &Watch::unseen())?,
        };
        Ok(self.ledger.insert(ledger))
    }

    /// Logs that a session's key asks for what an order opens.
    ///
    /// # Errors
    /// When the embassy refuses it.
    pub fn session(&self, order: &OrderId, public: &[u8]) -> Result<u64, Failure> {
        self.client.put_attachment(public.to_vec())?;
        let (state, mandate, embassy) = self.names()?;
        self.log(Session {
            state,
            mandate,
            embassy,
            order: order.clone(),
            key: Sha256::of(public),
            at: now()?,
        })
    }

    /// Logs which epochs were opened.
    ///
    /// # Errors
    /// When the embassy refuses it.
    pub fn opened(
        &self,
        order: &OrderId,
        registry: RegistryId,
        epochs: EpochSet,
    ) -> Result<u64, Failure> {
        let (state, mandate, embassy) = self.names()?;
        self.log(Opened {
            state,
            mandate,
            embassy,
            order: order.clone(),
            registry,
            epochs,
            at: now()?,
        })
    }

    /// Logs a step.
    ///
    /// # Errors
    /// When the embassy refuses it.
    pub fn step(
        &self,
        order: &OrderId,
        registry: RegistryId,
        step: StepKind,
        lsn: Option<legation_core::id::Lsn>,
    ) -> Result<u64, Failure> {
        let (state, mandate, embassy) = self.names()?;
        self.log(Step {
            state,
            mandate,
            embassy,
            order: order.clone(),
            registry,
            step,
            lsn,
            at: now()?,
        })
    }

    /// Logs what was measured; `fill` has the fields that only the caller knows.
    ///
    /// # Errors
    /// When the embassy refuses it.
    pub fn report(&self, order: &OrderId, measured: Measured) -> Result<u64, Failure> {
        let (state, mandate, embassy) = self.names()?;
        let Measured {
            registry,
            version,
            timeline,
            lsn,
            rpo_ms,
            rto_ms,
            probes,
            verdict,
        } = measured;
        let order = order.clone();
        self.log(Report {
            state,
            mandate,
            embassy,
            order,
            registry,
            version,
            timeline,
            lsn,
            rpo_ms,
            rto_ms,
            probes,
            verdict,
            at: now()?,
        })
    }

    /// Logs that the keys are gone.
    ///
    /// # Errors
    /// When the embassy refuses it.
    pub fn sealed(&self, order: &OrderId, cause: SealCause) -> Result<u64, Failure> {
        let (state, mandate, embassy) = self.names()?;
        self.log(Sealed {
            state,
            mandate,
            embassy,
            order: order.clone(),
            cause,
            at: now()?,
        })
    }

    fn names(
        &self,
    ) -> Result<
        (
            legation_core::id::StateId,
            u32,
            legation_core::statement::Name,
        ),
        Failure,
    > {
        let row = self.charter.embassy(&self.label)?;
        Ok((
            self.charter.state,
            self.charter.mandate.sequence,
            row.label.clone(),
        ))
    }

    fn log(&self, statement: impl Into<Statement>) -> Result<u64, Failure> {
        let signed = Signed::sign_with(statement, &self.signing)?;
        Ok(self.client.submit(&signed)?.entry.index)
    }
}

/// What an activation measured of one registry.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The registry.
    pub registry: RegistryId,
    /// The version it was started from.
    pub version: legation_core::id::VersionNo,
    /// The timeline it serves on.
    pub timeline: Option<legation_core::id::Timeline>,
    /// How far it is replayed.
    pub lsn: Option<legation_core::id::Lsn>,
    /// Age of the youngest data at the fence, in milliseconds.
    pub rpo_ms: Option<u64>,
    /// From the release to serving, in milliseconds.
    pub rto_ms: u64,
    /// Probes.
    pub probes: legation_core::statement::Probes,
    /// How it ended.
    pub verdict: legation_core::statement::Verdict,
}

/// Where the embassy on this machine answers: as it listens, by name or number.
fn loopback(config: &Embassy) -> Result<SocketAddr, Failure> {
    let text = config
        .listen
        .first()
        .ok_or_else(|| Failure::usage("listen names no address"))?;
    let mut address = text
        .to_socket_addrs()
        .map_err(|why| {
            Failure::usage(format!("listen: {text:?}: {why}")).hint("write it as \"[::]:7443\"")
        })?
        .next()
        .ok_or_else(|| Failure::usage(format!("listen: {text:?} is no address")))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(listen: &str) -> Result<SocketAddr, Failure> {
        let text = format!(
            "format = 1\nlabel = \"a\"\nlisten = [\"{listen}\"]\nidentity = {{ file = \"k\" }}\n\
             [store]\nkind = \"dir\"\npath = \"s\"\n"
        );
        loopback(&toml::from_str(&text).unwrap())
    }

    #[test]
    fn what_the_embassy_listens_on_is_reached_by_name_and_by_number() {
        assert_eq!(at("127.0.0.1:17444").unwrap().port(), 17444);
        assert!(at("localhost:17444").unwrap().ip().is_loopback());
        assert!(at("0.0.0.0:1").unwrap().ip().is_loopback());
        assert!(at("[::]:1").unwrap().ip().is_loopback());
        assert_eq!(at("7443").unwrap_err().code, Code::Usage);
    }
}
