//! The log's key: Ed25519 and ML-DSA-44, both required.

use std::fmt;

use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair as _, ML_DSA_44, ML_DSA_44_SIGNING, PqdsaKeyPair,
    UnparsedPublicKey,
};

use super::LogError;
use super::note::key_id;
use crate::id::Sha256;

/// Bytes of a log key's seed: Ed25519 (32), then ML-DSA-44 (32).
pub const LOG_SEED_LEN: usize = 64;
/// Bytes of an encoded public log key: Ed25519 (32), then ML-DSA-44 (1312).
pub const LOG_KEY_LEN: usize = 32 + ML_DSA_KEY;

const ED_KEY: usize = 32;
const ML_DSA_KEY: usize = 1312;
pub(super) const ED_SIGNATURE: usize = 64;
pub(super) const ML_DSA_SIGNATURE: usize = 2420;
/// C2SP signed-note signature type of plain Ed25519 over the note text.
const TYPE_ED25519: u8 = 0x01;
/// C2SP tlog-cosignature type of ML-DSA-44 over a `subtree/v1` message.
const TYPE_ML_DSA_44: u8 = 0x06;

/// The private half of a log's key. Whoever holds it can sign a tree; it decides nothing about what is in it.
pub struct LogSigner {
    ed: Ed25519KeyPair,
    ml: PqdsaKeyPair,
    verifier: LogVerifier,
}

impl LogSigner {
    /// The key pair of a seed. The caller wipes the seed; the expanded keys are wiped when dropped.
    pub fn from_seed(seed: &[u8; LOG_SEED_LEN]) -> Result<LogSigner, LogError> {
        let ed = Ed25519KeyPair::from_seed_unchecked(&seed[..32])
            .map_err(|_| LogError::Key("the Ed25519 seed is refused"))?;
        let ml = PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, &seed[32..])
            .map_err(|_| LogError::Key("the ML-DSA-44 seed is refused"))?;
        let mut encoded = ed.public_key().as_ref().to_vec();
        encoded.extend_from_slice(ml.public_key().as_ref());
        let verifier = LogVerifier::decode(&encoded)?;
        Ok(LogSigner { ed, ml, verifier })
    }

    /// The public half.
    pub fn verifier(&self) -> &LogVerifier {
        &self.verifier
    }

    pub(super) fn sign_ed25519(&self, message: &[u8]) -> Result<Vec<u8>, LogError> {
        let signature = self
            .ed
            .try_sign(message)
            .map_err(|_| LogError::Key("signing failed"))?;
        Ok(signature.as_ref().to_vec())
    }

    pub(super) fn sign_ml_dsa(&self, message: &[u8]) -> Result<Vec<u8>, LogError> {
        let mut signature = vec![0; ML_DSA_SIGNATURE];
        self.ml
            .sign(message, &mut signature)
            .map_err(|_| LogError::Key("signing failed"))?;
        Ok(signature)
    }
}

impl fmt::Debug for LogSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogSigner({})", self.verifier.digest())
    }
}

/// The public half of a log's key.
#[derive(Clone, PartialEq, Eq)]
pub struct LogVerifier {
    ed: [u8; ED_KEY],
    ml: Box<[u8; ML_DSA_KEY]>,
}

impl LogVerifier {
    /// Reads [`LogVerifier::encode`]'s bytes. Only the length is checked here; a key that is no key verifies nothing.
    pub fn decode(bytes: &[u8]) -> Result<LogVerifier, LogError> {
        const LENGTH: LogError = LogError::Key("a log key is 32 + 1312 bytes");
        let (ed, ml) = bytes.split_first_chunk::<ED_KEY>().ok_or(LENGTH)?;
        let ml: [u8; ML_DSA_KEY] = ml.try_into().map_err(|_| LENGTH)?;
        Ok(LogVerifier {
            ed: *ed,
            ml: Box::new(ml),
        })
    }

    /// Ed25519 key, then ML-DSA-44 key: the form in a keyring.
    pub fn encode(&self) -> Vec<u8> {
        [&self.ed[..], &self.ml[..]].concat()
    }

    /// SHA-256 of the encoding: the form in a mandate.
    pub fn digest(&self) -> Sha256 {
        Sha256::of_parts(&[&self.ed, &self.ml[..]])
    }

    pub(super) fn ed25519_id(&self, name: &str) -> [u8; 4] {
        key_id(name, TYPE_ED25519, &self.ed)
    }

    pub(super) fn ml_dsa_id(&self, name: &str) -> [u8; 4] {
        key_id(name, TYPE_ML_DSA_44, &self.ml[..])
    }

    pub(super) fn check_ed25519(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.ed)
            .verify(message, signature)
            .is_ok()
    }

    pub(super) fn check_ml_dsa(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ML_DSA_44, &self.ml[..])
            .verify(message, signature)
            .is_ok()
    }

    /// The keys as C2SP verifier keys (`name+id+base64`), Ed25519 then ML-DSA-44: for other people's tools.
    pub fn vkeys(&self, name: &str) -> [String; 2] {
        [
            vkey(name, self.ed25519_id(name), TYPE_ED25519, &self.ed),
            vkey(name, self.ml_dsa_id(name), TYPE_ML_DSA_44, &self.ml[..]),
        ]
    }
}

impl fmt::Debug for LogVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogVerifier({})", self.digest())
    }
}

fn vkey(name: &str, id: [u8; 4], kind: u8, key: &[u8]) -> String {
    use base64::Engine as _;
    let mut material = vec![kind];
    material.extend_from_slice(key);
    let encoded = base64::engine::general_purpose::STANDARD.encode(material);
    format!("{name}+{:08x}+{encoded}", u32::from_be_bytes(id))
}
