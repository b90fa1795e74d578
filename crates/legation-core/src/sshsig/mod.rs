//! OpenSSH signatures (SSHSIG), as officers make them with the keys they already carry.
//!
//! `PROTOCOL.sshsig` of OpenSSH gives the format, RFC 4253, RFC 5656 and `PROTOCOL.u2f` the keys. Accepted: Ed25519,
//! ECDSA on P-256 and P-384, RSA from 3,072 bits with SHA-2, and both security-key forms with the touch proven. Never
//! accepted: certificates, SHA-1, DSA, P-521. The caller names the namespace; nothing here knows statements.

mod key;
mod wire;

pub use key::{SshAlgorithm, SshPublicKey};

use crate::id::Sha256;
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64::Engine as _;
use wire::Reader;

/// The longest armoured signature in bytes: an RSA key of 8,192 bits makes about 4,300.
pub const MAX_ARMOUR: usize = 8192;

/// The longest signature blob in bytes.
pub const MAX_BLOB: usize = 4096;

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
const MAGIC: &[u8] = b"SSHSIG";

/// Why an SSH key or signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SshsigError {
    /// Not the armour that `ssh-keygen -Y sign` writes.
    #[error("this is not a signature file of 'ssh-keygen -Y sign'")]
    Armour,
    /// The bytes do not follow the format.
    #[error("the SSH signature or key is malformed: {0}")]
    Malformed(&'static str),
    /// A key that never counts.
    #[error("{0}")]
    Key(&'static str),
    /// A kind of key that is not known.
    #[error(
        "SSH keys of type {0:?} do not count; use ed25519, ecdsa-256, ecdsa-384, rsa from 3072 bits, or a security key"
    )]
    UnknownKey(String),
    /// Signed for something else.
    #[error(
        "the signature was made for {found:?}, not for {want:?}; sign again with 'ssh-keygen -Y sign -n {want}'"
    )]
    Namespace {
        /// What the signature says.
        found: String,
        /// What it must say.
        want: String,
    },
    /// Made with another key than the officer's.
    #[error("the signature was made with another key than the one that the mandate names")]
    OtherKey,
    /// A security key signed without being touched.
    #[error("the security key was not touched while it signed; make a key that requires touch")]
    NotTouched,
    /// The signature is not over this text.
    #[error("Could not verify signature: it is not over this text, or not by this key")]
    Invalid,
}

/// The parts of a signature blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sshsig {
    /// The key it says it was made with.
    pub key: SshPublicKey,
    /// What it was made for.
    pub namespace: String,
    hash: Hash,
    algorithm: String,
    body: Vec<u8>,
    /// Flags and counter of a security key.
    touch: Option<(u8, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn of(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => digest(&SHA256, message).as_ref().to_vec(),
            Self::Sha512 => digest(&SHA512, message).as_ref().to_vec(),
        }
    }
}

/// Takes the armour off a signature file.
///
/// # Errors
/// [`SshsigError::Armour`] unless it is exactly one armoured signature.
pub fn dearmour(text: &str) -> Result<Vec<u8>, SshsigError> {
    let inner = (text.len() <= MAX_ARMOUR)
        .then(|| text.trim().strip_prefix(BEGIN)?.strip_suffix(END))
        .flatten()
        .ok_or(SshsigError::Armour)?;
    let base64: String = inner
        .chars()
        .filter(|c| !matches!(c, '\n' | '\r'))
        .collect();
    base64::engine::general_purpose::STANDARD
        .decode(base64)
        .map_err(|_| SshsigError::Armour)
}

/// Puts a signature blob back into the armour that `ssh-keygen -Y verify` reads.
#[must_use]
pub fn armour(blob: &[u8]) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(blob);
    let mut out = format!("{BEGIN}\n");
    for (i, c) in base64.chars().enumerate() {
        if i > 0 && i % 70 == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out.push_str(&format!("\n{END}\n"));
    out
}

impl Sshsig {
    /// Reads a blob. Everything but the mathematics is checked here.
    ///
    /// # Errors
    /// [`SshsigError`] naming what does not count.
    pub fn parse(blob: &[u8]) -> Result<Self, SshsigError> {
        if blob.len() > MAX_BLOB {
            return Err(SshsigError::Malformed("too long"));
        }
        let mut r = Reader::new(
            blob.strip_prefix(MAGIC)
                .ok_or(SshsigError::Malformed("no SSHSIG magic"))?,
        );
        if r.u32()? != 1 {
            return Err(SshsigError::Malformed("unknown version"));
        }
        let key = SshPublicKey::from_blob(r.string()?)?;
        let namespace = r.text()?.to_owned();
        if namespace.is_empty() {
            return Err(SshsigError::Malformed("empty namespace"));
        }
        if !r.string()?.is_empty() {
            return Err(SshsigError::Malformed("reserved field in use"));
        }
        let hash = match r.text()? {
            "sha256" => Hash::Sha256,
            "sha512" => Hash::Sha512,
            _ => return Err(SshsigError::Malformed("unknown hash")),
        };
        let mut s = Reader::new(r.string()?);
        r.end()?;
        let algorithm = s.text()?.to_owned();
        let body = s.string()?.to_vec();
        let touch = if key.algorithm().is_security_key() {
            Some((s.u8()?, s.u32()?))
        } else {
            None
        };
        s.end()?;
        if !key.algorithm().signs_as(&algorithm) {
            return Err(SshsigError::Malformed(
                "the signature's algorithm does not fit the key, or is SHA-1",
            ));
        }
        Ok(Self {
            key,
            namespace,
            hash,
            algorithm,
            body,
            touch,
        })
    }

    /// Checks the signature over `message`, for `namespace`, by `key`.
    ///
    /// # Errors
    /// [`SshsigError`] saying which of the three does not hold.
    pub fn verify(
        &self,
        key: &SshPublicKey,
        namespace: &str,
        message: &[u8],
    ) -> Result<(), SshsigError> {
        if self.namespace != namespace {
            return Err(SshsigError::Namespace {
                found: self.namespace.clone(),
                want: namespace.to_owned(),
            });
        }
        if self.key != *key {
            return Err(SshsigError::OtherKey);
        }
        let mut signed = MAGIC.to_vec();
        for part in [
            namespace.as_bytes(),
            b"",
            self.hash.name().as_bytes(),
            &self.hash.of(message),
        ] {
            wire::put_string(&mut signed, part);
        }
        if let Some((flags, counter)) = self.touch {
            // User present is required; user verified may be set too. Extension data never belongs here.
            if flags & 1 == 0 {
                return Err(SshsigError::NotTouched);
            }
            if flags & !0b101 != 0 {
                return Err(SshsigError::Malformed("unknown security-key flags"));
            }
            let mut wrapped = Sha256::of(key.application()).0.to_vec();
            wrapped.push(flags);
            wrapped.extend_from_slice(&counter.to_be_bytes());
            wrapped.extend_from_slice(&Sha256::of(&signed).0);
            signed = wrapped;
        }
        key.verify_raw(&self.algorithm, &signed, &self.body)
    }
}

#[cfg(test)]
mod tests;
