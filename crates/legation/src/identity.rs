//! The identity of a process: its secret keys in one file of mode 0600, and the card with the public halves.
//!
//! The file is text, so that it can be carried and inspected; its secrets live in zeroized memory and are printed nowhere.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use legation_core::id::Sha256;
use legation_core::keys::SigningKey;
use legation_core::log::LogSigner;
use legation_repo::folded::Folded;
use legation_repo::http::TlsIdentity;
use zeroize::{Zeroize, Zeroizing};

use crate::exit::{Code, Failure};

#[cfg(test)]
mod tests;

/// First line of an identity file.
const HEAD: &str = "legation/identity/v1";
/// First line of a card.
const CARD_HEAD: &str = "legation/card/v1";
/// An identity is a few hundred bytes; anything larger is another file.
const MAX_FILE: u64 = 64 << 10;

/// What the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Captures registries and signs as a writer.
    Agent,
    /// Keeps and acknowledges; signs facts and the log.
    Embassy,
    /// Reads ciphertext and submits statements.
    Client,
}

impl Role {
    /// The word used in files and in TLS names.
    pub fn word(self) -> &'static str {
        match self {
            Role::Agent => "agent",
            Role::Embassy => "embassy",
            Role::Client => "client",
        }
    }

    fn parse(word: &str) -> Option<Role> {
        [Role::Agent, Role::Embassy, Role::Client]
            .into_iter()
            .find(|role| role.word() == word)
    }
}

/// The secret keys of a process. Secrets are seeds, so that the file needs no format of its own for each algorithm.
pub struct Identity {
    /// What it is the identity of.
    pub role: Role,
    /// Ed25519 and ML-DSA-65 seeds, for agents and embassies.
    pub signing: Option<Zeroizing<[u8; 64]>>,
    /// Ed25519 and ML-DSA-44 seeds of the log, for embassies.
    pub log: Option<Zeroizing<[u8; 64]>>,
    /// Mixed into every epoch root, for agents.
    pub secret: Option<Zeroizing<[u8; 32]>>,
    /// The TLS key, PKCS#8.
    pub tls: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.role.word())
    }
}

/// The public halves, for the ceremony.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// What it is the card of.
    pub role: Role,
    /// The encoded hybrid verifying key.
    pub signing: Option<Vec<u8>>,
    /// The encoded log key: Ed25519, then ML-DSA-44.
    pub log: Option<Vec<u8>>,
    /// SHA-256 of the TLS key's SubjectPublicKeyInfo.
    pub tls_spki: [u8; 32],
}

impl Identity {
    /// Makes new keys.
    ///
    /// # Errors
    /// When the system has no randomness, or the TLS key cannot be made.
    pub fn create(role: Role) -> Result<Identity, Failure> {
        let tls = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| bad_tls(&error))?;
        Ok(Identity {
            role,
            signing: matches!(role, Role::Agent | Role::Embassy)
                .then(random::<64>)
                .transpose()?,
            log: matches!(role, Role::Embassy)
                .then(random::<64>)
                .transpose()?,
            secret: matches!(role, Role::Agent).then(random::<32>).transpose()?,
            tls: Zeroizing::new(tls.serialize_der()),
        })
    }

    /// Reads an identity file, refusing one that others may read.
    ///
    /// # Errors
    /// Code 2 for a missing, exposed or malformed file; code 12 when it is of another role.
    pub fn load(path: &Path, role: Role) -> Result<Identity, Failure> {
        crate::config::check_private(path).map_err(|failure| match failure.hint {
            Some(_) => failure,
            None => failure.hint(match role {
                Role::Agent | Role::Embassy => format!("legation {} --init makes one", role.word()),
                Role::Client => {
                    "legation officer new NAME --client --out FILE makes one".to_owned()
                }
            }),
        })?;
        if std::fs::metadata(path)?.len() > MAX_FILE {
            return Err(Failure::usage(format!(
                "{} is not an identity file",
                path.display()
            )));
        }
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        let identity = Identity::parse(&text).ok_or_else(|| {
            Failure::usage(format!(
                "{} is not an identity file of this version",
                path.display()
            ))
        })?;
        if identity.role != role {
            return Err(Failure::new(
                Code::WrongKey,
                format!(
                    "{} is the identity of a(n) {}, not of a(n) {}",
                    path.display(),
                    identity.role.word(),
                    role.word()
                ),
            ));
        }
        Ok(identity)
    }

    /// Writes the identity (0600, never over an existing file) and its card beside it; returns the card's path.
    ///
    /// # Errors
    /// When either file exists or cannot be written.
    pub fn save(&self, path: &Path, card: &Card) -> Result<PathBuf, Failure> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        create_new(path, 0o600, self.text().as_bytes()).map_err(|error| exists(path, &error))?;
        let card_path = card_path(path);
        create_new(&card_path, 0o644, card.text().as_bytes())
            .map_err(|error| exists(&card_path, &error))?;
        Ok(card_path)
    }

    /// The public halves.
    ///
    /// # Errors
    /// When a stored key is not one.
    pub fn card(&self) -> Result<Card, Failure> {
        let signing = self
            .signing
            .as_ref()
            .map(|_| self.signing_key())
            .transpose()?;
        let log = self.log.as_ref().map(|_| self.log_signer()).transpose()?;
        Ok(Card {
            role: self.role,
            signing: signing.map(|key| key.verifying_key().encode().to_vec()),
            log: log.map(|key| key.verifier().encode()),
            tls_spki: self.tls_spki()?.0,
        })
    }

    /// The key that signs statements.
    ///
    /// # Errors
    /// Code 12 when this identity has none.
    pub fn signing_key(&self) -> Result<SigningKey, Failure> {
        let seed = self
            .signing
            .as_ref()
            .ok_or_else(|| self.lacks("signs statements"))?;
        SigningKey::from_seed(seed)
            .map_err(|error| Failure::failed(format!("the signing key: {error}")))
    }

    /// The key that signs the log.
    ///
    /// # Errors
    /// Code 12 when this identity has none.
    pub fn log_signer(&self) -> Result<LogSigner, Failure> {
        let seed = self.log.as_ref().ok_or_else(|| self.lacks("signs logs"))?;
        LogSigner::from_seed(seed).map_err(|error| Failure::failed(format!("the log key: {error}")))
    }

    /// The seed of the key that signs the log.
    ///
    /// # Errors
    /// Code 12 when this identity has none.
    pub fn log_seed(&self) -> Result<Zeroizing<[u8; 64]>, Failure> {
        self.log.clone().ok_or_else(|| self.lacks("signs logs"))
    }

    /// Where what a copy of a log was folded to is kept, beside it, for this identity alone.
    pub fn folded(&self, log: &Path) -> Folded {
        Folded::new(&log.with_extension("fold"), &self.tls)
    }

    /// The secret that is mixed into every epoch root.
    ///
    /// # Errors
    /// Code 12 when this identity has none.
    pub fn agent_secret(&self) -> Result<Zeroizing<[u8; 32]>, Failure> {
        self.secret
            .clone()
            .ok_or_else(|| self.lacks("seals epochs"))
    }

    /// What this process shows to its peers, who pin the key and nothing else; named `<role>.<state>`.
    ///
    /// # Errors
    /// When the stored key is not one.
    pub fn tls_identity(&self, state: &str) -> Result<TlsIdentity, Failure> {
        TlsIdentity::from_key(&format!("{}.{state}", self.role.word()), self.tls.clone())
            .map_err(|error| bad_tls(&error))
    }

    fn lacks(&self, what: &str) -> Failure {
        Failure::new(
            Code::WrongKey,
            format!(
                "this identity of a(n) {} holds no key that {what}",
                self.role.word()
            ),
        )
    }

    fn tls_key(&self) -> Result<rcgen::KeyPair, Failure> {
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(self.tls.as_slice());
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| bad_tls(&error))
    }

    /// SHA-256 of the TLS key's SubjectPublicKeyInfo, which the mandate pins.
    ///
    /// # Errors
    /// When the stored key is not one.
    pub fn tls_spki(&self) -> Result<Sha256, Failure> {
        let key = self.tls_key()?;
        Ok(Sha256::of(&rcgen::PublicKeyData::subject_public_key_info(
            &key,
        )))
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(1024));
        text.push_str(HEAD);
        text.push_str("\nrole: ");
        text.push_str(self.role.word());
        let fields: [(&str, Option<&[u8]>); 4] = [
            ("signing", self.signing.as_ref().map(|seed| seed.as_slice())),
            ("log", self.log.as_ref().map(|seed| seed.as_slice())),
            ("secret", self.secret.as_ref().map(|seed| seed.as_slice())),
            ("tls", Some(&self.tls)),
        ];
        for (name, value) in fields {
            let mut value = value.map_or_else(|| "none".to_owned(), |bytes| STANDARD.encode(bytes));
            text.push_str(&format!("\n{name}: "));
            text.push_str(&value);
            value.zeroize();
        }
        text.push('\n');
        text
    }

    fn parse(text: &str) -> Option<Identity> {
        let mut lines = text.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let role = Role::parse(field(lines.next()?, "role")?)?;
        let signing = secret_field::<64>(lines.next()?, "signing")?;
        let log = secret_field::<64>(lines.next()?, "log")?;
        let secret = secret_field::<32>(lines.next()?, "secret")?;
        let tls = Zeroizing::new(STANDARD.decode(field(lines.next()?, "tls")?).ok()?);
        lines.next().is_none().then_some(Identity {
            role,
            signing,
            log,
            secret,
            tls,
        })
    }
}

impl Card {
    /// Reads a card.
    ///
    /// # Errors
    /// Code 2 when the file is missing or not a card.
    pub fn load(path: &Path) -> Result<Card, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        Card::parse(&text).ok_or_else(|| {
            Failure::usage(format!("{} is not a card of this version", path.display()))
        })
    }

    /// The card as text.
    pub fn text(&self) -> String {
        let encoded = |key: &Option<Vec<u8>>| {
            key.as_ref()
                .map_or_else(|| "none".to_owned(), |key| STANDARD.encode(key))
        };
        format!(
            "{CARD_HEAD}\nrole: {}\nsigning: {}\nlog: {}\ntls-spki-sha256: {}\n",
            self.role.word(),
            encoded(&self.signing),
            encoded(&self.log),
            Sha256(self.tls_spki)
        )
    }

    /// Parses the text of a card.
    pub fn parse(text: &str) -> Option<Card> {
        let mut lines = text.lines();
        if lines.next()? != CARD_HEAD {
            return None;
        }
        let key = |text: &str| match text {
            "none" => Some(None),
            text => STANDARD.decode(text).ok().map(Some),
        };
        let role = Role::parse(field(lines.next()?, "role")?)?;
        let signing = key(field(lines.next()?, "signing")?)?;
        let log = key(field(lines.next()?, "log")?)?;
        let tls_spki = field(lines.next()?, "tls-spki-sha256")?
            .parse::<Sha256>()
            .ok()?
            .0;
        lines.next().is_none().then_some(Card {
            role,
            signing,
            log,
            tls_spki,
        })
    }
}

/// Where the card of an identity file lies: `agent.key.card`.
pub fn card_path(identity: &Path) -> PathBuf {
    let mut name = identity.as_os_str().to_owned();
    name.push(".card");
    PathBuf::from(name)
}

/// Random bytes from the system.
///
/// # Errors
/// When the system has none to give.
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Failure> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| Failure::failed(format!("no randomness: {error}")))?;
    Ok(bytes)
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.strip_prefix(name)?.strip_prefix(": ")
}

/// `Some(None)` for an absent secret, `None` for a malformed line.
fn secret_field<const N: usize>(line: &str, name: &str) -> Option<Option<Zeroizing<[u8; N]>>> {
    let text = field(line, name)?;
    if text == "none" {
        return Some(None);
    }
    let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    let mut seed = Zeroizing::new([0; N]);
    if bytes.len() != N {
        return None;
    }
    seed.copy_from_slice(&bytes);
    Some(Some(seed))
}

fn create_new(path: &Path, mode: u32, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn exists(path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::failed(format!("{}: {error}", path.display()));
    if error.kind() == std::io::ErrorKind::AlreadyExists {
        return failure.hint("an identity is never overwritten; move the old one away first");
    }
    failure
}

fn bad_tls(error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("the TLS key: {error}"))
}
