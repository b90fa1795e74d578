//! SSH public keys: one line of text, or the blob inside it.

use super::SshsigError;
use super::wire::Reader;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
};
use base64::Engine as _;
use std::fmt;
use std::str::FromStr;

/// The longest key blob in bytes: RSA with 8,192 bits has about 1,050.
const MAX_KEY: usize = 2048;

/// RSA moduli, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 3072..=8192;

/// What kind of key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SshAlgorithm {
    /// `ssh-ed25519`
    Ed25519,
    /// `ecdsa-sha2-nistp256`
    EcdsaP256,
    /// `ecdsa-sha2-nistp384`
    EcdsaP384,
    /// `ssh-rsa`, signing as `rsa-sha2-256` or `rsa-sha2-512`
    Rsa,
    /// `sk-ssh-ed25519@openssh.com`
    SkEd25519,
    /// `sk-ecdsa-sha2-nistp256@openssh.com`
    SkEcdsaP256,
}

impl SshAlgorithm {
    /// The type's name in key files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::Rsa => "ssh-rsa",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            Self::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }

    fn of(name: &str) -> Result<Self, SshsigError> {
        const ALL: [SshAlgorithm; 6] = [
            SshAlgorithm::Ed25519,
            SshAlgorithm::EcdsaP256,
            SshAlgorithm::EcdsaP384,
            SshAlgorithm::Rsa,
            SshAlgorithm::SkEd25519,
            SshAlgorithm::SkEcdsaP256,
        ];
        if name.contains("-cert-v0") {
            return Err(SshsigError::Key(
                "SSH certificates do not count: name the key itself in the mandate",
            ));
        }
        ALL.into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| SshsigError::UnknownKey(name.chars().take(60).collect()))
    }

    pub(super) const fn is_security_key(self) -> bool {
        matches!(self, Self::SkEd25519 | Self::SkEcdsaP256)
    }

    /// Whether a key of this kind may sign under this algorithm's name: RSA never as SHA-1.
    pub(super) fn signs_as(self, algorithm: &str) -> bool {
        match self {
            Self::Rsa => matches!(algorithm, "rsa-sha2-256" | "rsa-sha2-512"),
            other => algorithm == other.name(),
        }
    }
}

/// A public key that an officer may sign with. Text: `ssh-ed25519 AAAA…`, without a comment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SshPublicKey {
    algorithm: SshAlgorithm,
    blob: Vec<u8>,
    /// The key proper: Ed25519 bytes, the curve point, or the RSA modulus.
    material: Vec<u8>,
    /// RSA exponent, or a security key's application.
    extra: Vec<u8>,
}

impl SshPublicKey {
    /// Reads the blob that key files hold in base64.
    ///
    /// # Errors
    /// [`SshsigError`] if it is malformed or of a kind that never counts.
    pub fn from_blob(blob: &[u8]) -> Result<Self, SshsigError> {
        if blob.len() > MAX_KEY {
            return Err(SshsigError::Malformed("the key is too long"));
        }
        let mut r = Reader::new(blob);
        let algorithm = SshAlgorithm::of(r.text()?)?;
        let (material, extra): (&[u8], &[u8]) = match algorithm {
            SshAlgorithm::Ed25519 => (ed25519(&mut r)?, &[]),
            SshAlgorithm::EcdsaP256 => (point(&mut r, "nistp256", 65)?, &[]),
            SshAlgorithm::EcdsaP384 => (point(&mut r, "nistp384", 97)?, &[]),
            SshAlgorithm::SkEd25519 => (ed25519(&mut r)?, application(&mut r)?),
            SshAlgorithm::SkEcdsaP256 => (point(&mut r, "nistp256", 65)?, application(&mut r)?),
            SshAlgorithm::Rsa => {
                let exponent = r.positive()?;
                let modulus = r.positive()?;
                if !RSA_BITS.contains(&bits(modulus)) {
                    return Err(SshsigError::Key("RSA keys need 3072 to 8192 bits"));
                }
                if exponent.len() > 4 || bits(exponent) < 17 {
                    return Err(SshsigError::Key(
                        "RSA keys need an exponent of 65537 or a little more",
                    ));
                }
                (modulus, exponent)
            }
        };
        r.end()?;
        Ok(Self {
            algorithm,
            blob: blob.to_vec(),
            material: material.to_vec(),
            extra: extra.to_vec(),
        })
    }

    /// Reads a line of a `.pub` file, whose comment is dropped.
    ///
    /// # Errors
    /// [`SshsigError`] if it is malformed or of a kind that never counts.
    pub fn from_pub_file(line: &str) -> Result<Self, SshsigError> {
        let mut words = line.trim().splitn(3, ' ');
        match (words.next(), words.next()) {
            (Some(name), Some(base64)) => format!("{name} {base64}").parse(),
            _ => Err(SshsigError::Malformed(
                "not a line of an SSH public key file",
            )),
        }
    }

    /// What kind of key it is.
    #[must_use]
    pub const fn algorithm(&self) -> SshAlgorithm {
        self.algorithm
    }

    /// The blob that key files hold in base64.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    pub(super) fn application(&self) -> &[u8] {
        &self.extra
    }

    pub(super) fn verify_raw(
        &self,
        algorithm: &str,
        message: &[u8],
        body: &[u8],
    ) -> Result<(), SshsigError> {
        let verified = match self.algorithm {
            SshAlgorithm::Ed25519 | SshAlgorithm::SkEd25519 => {
                UnparsedPublicKey::new(&ED25519, &self.material).verify(message, body)
            }
            SshAlgorithm::EcdsaP256 | SshAlgorithm::SkEcdsaP256 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.material)
                    .verify(message, &fixed(body, 32)?)
            }
            SshAlgorithm::EcdsaP384 => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.material)
                    .verify(message, &fixed(body, 48)?)
            }
            SshAlgorithm::Rsa => {
                let parameters = if algorithm == "rsa-sha2-512" {
                    &RSA_PKCS1_2048_8192_SHA512
                } else {
                    &RSA_PKCS1_2048_8192_SHA256
                };
                PublicKeyComponents {
                    n: &self.material,
                    e: &self.extra,
                }
                .verify(parameters, message, body)
            }
        };
        verified.map_err(|_| SshsigError::Invalid)
    }
}

fn ed25519<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], SshsigError> {
    let key = r.string()?;
    if key.len() == 32 {
        Ok(key)
    } else {
        Err(SshsigError::Malformed("an Ed25519 key has 32 bytes"))
    }
}

fn point<'a>(r: &mut Reader<'a>, curve: &str, len: usize) -> Result<&'a [u8], SshsigError> {
    if r.text()? != curve {
        return Err(SshsigError::Malformed(
            "the key's curve does not fit its type",
        ));
    }
    let point = r.string()?;
    if point.len() == len && point.first() == Some(&4) {
        Ok(point)
    } else {
        Err(SshsigError::Malformed(
            "the key's point is not an uncompressed one of its curve",
        ))
    }
}

fn application<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], SshsigError> {
    r.text().map(str::as_bytes)
}

/// ECDSA's two integers, each padded to the field's length.
fn fixed(body: &[u8], len: usize) -> Result<Vec<u8>, SshsigError> {
    let mut r = Reader::new(body);
    let mut out = Vec::with_capacity(2 * len);
    for _ in 0..2 {
        let integer = r.positive()?;
        let pad = len.checked_sub(integer.len()).ok_or(SshsigError::Invalid)?;
        out.resize(out.len() + pad, 0);
        out.extend_from_slice(integer);
    }
    r.end()?;
    Ok(out)
}

/// Length in bits of a big-endian integer without leading zero bytes.
fn bits(integer: &[u8]) -> usize {
    integer.first().map_or(0, |first| {
        8 * integer.len() - first.leading_zeros() as usize
    })
}

impl fmt::Display for SshPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            self.algorithm.name(),
            base64::engine::general_purpose::STANDARD.encode(&self.blob)
        )
    }
}

impl fmt::Debug for SshPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SshPublicKey({self})")
    }
}

impl FromStr for SshPublicKey {
    type Err = SshsigError;
    fn from_str(text: &str) -> Result<Self, SshsigError> {
        let (name, base64) = text
            .split_once(' ')
            .ok_or(SshsigError::Malformed("no key after its type"))?;
        let algorithm = SshAlgorithm::of(name)?;
        let blob = base64::engine::general_purpose::STANDARD
            .decode(base64)
            .map_err(|_| SshsigError::Malformed("the key is not base64"))?;
        let key = Self::from_blob(&blob)?;
        if key.algorithm == algorithm {
            Ok(key)
        } else {
            Err(SshsigError::Malformed("the key is not of its type"))
        }
    }
}
