//! Keys and what they may do (spec/sealing.md §2–§4): hybrid signing, hybrid sealing, epoch roots.
//!
//! Keys are split by ability: who holds a [`SealingKey`] cannot open. Secrets are zeroized when dropped and show
//! nothing in `Debug`. Randomness is an argument, with one exception: ML-DSA signing is hedged inside the library.

use std::fmt;

use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, ML_DSA_65, ML_DSA_65_SIGNING, ParsedPublicKey, PqdsaKeyPair,
    UnparsedPublicKey,
};
use aws_lc_rs::{aead, hkdf};
use hpke::{Deserializable, Kem as _, OpModeR, OpModeS, Serializable};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::FormatError;
use crate::id::Sha256;
use crate::suite::TAG;

type Kem = hpke::kem::XWing;
type Kdf = hpke::kdf::HkdfSha256;
type Aead = hpke::aead::AesGcm256;

/// Length of a signing seed: Ed25519 32, then ML-DSA-65 32.
pub const SIGNING_SEED: usize = 64;
/// Length of an encoded [`VerifyingKey`]: Ed25519 32, then ML-DSA-65 1952.
pub const VERIFYING_KEY: usize = 32 + 1952;
/// Length of a hybrid signature: Ed25519 64, then ML-DSA-65 3309.
pub const SIGNATURE: usize = 64 + 3309;
/// Length of an encoded [`SealingKey`] (X-Wing public key).
pub const SEALING_KEY: usize = 1216;
/// Length of the encapsulated key in front of every sealed text.
pub const ENCAPSULATED: usize = 1120;
/// What sealing adds to a plaintext.
pub const SEALED_OVERHEAD: usize = ENCAPSULATED + TAG;

/// A source of randomness that the shell passes in: the operating system's in life, a fixed one for vectors.
pub trait Entropy {
    /// 32 uniform bytes, never the same twice.
    ///
    /// # Errors
    /// When the system has none to give; nothing may then be sealed.
    fn draw(&mut self) -> Result<Zeroizing<[u8; 32]>, FormatError>;
}

/// The root of one epoch: opens every pack and stream of one registry's epoch, and nothing else.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct EpochRoot([u8; 32]);

impl EpochRoot {
    /// A fresh root. Both a broken random source and a stolen agent secret are needed to guess it.
    ///
    /// # Errors
    /// `Crypto`, if the library refuses.
    pub fn derive(rng: &[u8; 32], agent_secret: &[u8; 32]) -> Result<Self, FormatError> {
        let mut root = [0; 32];
        hkdf_sha256(
            rng,
            &[agent_secret],
            &[b"legation/v1 epoch root"],
            &mut root,
        )?;
        Ok(Self(root))
    }

    /// A root that came out of a slip or a release.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret itself: for sealing it into a slip or a release only.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EpochRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochRoot(secret)")
    }
}

/// A hybrid signing key of a writer or an embassy: Ed25519 and ML-DSA-65 over the same bytes.
pub struct SigningKey {
    seed: Zeroizing<[u8; SIGNING_SEED]>,
    ed25519: Ed25519KeyPair,
    ml_dsa: PqdsaKeyPair,
    public: VerifyingKey,
}

impl SigningKey {
    /// The key of this seed.
    ///
    /// # Errors
    /// `Crypto`, if the library refuses the seed.
    pub fn from_seed(seed: &[u8; SIGNING_SEED]) -> Result<Self, FormatError> {
        let refuse = |_| FormatError::Crypto("make a signing key");
        let ed25519 = Ed25519KeyPair::from_seed_unchecked(&seed[..32]).map_err(refuse)?;
        let ml_dsa = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, &seed[32..]).map_err(refuse)?;
        let mut encoded = Vec::with_capacity(VERIFYING_KEY);
        encoded.extend_from_slice(ed25519.public_key().as_ref());
        encoded.extend_from_slice(ml_dsa.public_key().as_ref());
        let public = VerifyingKey::decode(&encoded)?;
        Ok(Self {
            seed: Zeroizing::new(*seed),
            ed25519,
            ml_dsa,
            public,
        })
    }

    /// The seed, for writing the identity file.
    #[must_use]
    pub fn seed(&self) -> &[u8; SIGNING_SEED] {
        &self.seed
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs `message` with both algorithms.
    ///
    /// # Errors
    /// `Crypto`, if the library refuses.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, FormatError> {
        let bound = self.public.bind(message);
        let mut signature = vec![0; SIGNATURE];
        let (ed, ml) = signature.split_at_mut(64);
        let refuse = |_| FormatError::Crypto("sign");
        ed.copy_from_slice(self.ed25519.try_sign(&bound).map_err(refuse)?.as_ref());
        self.ml_dsa.sign(&bound, ml).map_err(refuse)?;
        Ok(signature)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, secret)", self.public.id())
    }
}

/// The public half of a [`SigningKey`].
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey(Box<[u8; VERIFYING_KEY]>);

impl VerifyingKey {
    /// Reads `Ed25519 (32) ‖ ML-DSA-65 (1952)`.
    ///
    /// # Errors
    /// `Malformed` for another length or an invalid key.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let why = |why| FormatError::malformed("verifying key", why);
        let bytes: Box<[u8; VERIFYING_KEY]> = Box::<[u8]>::from(bytes)
            .try_into()
            .map_err(|_| why("its length is not 1984 bytes"))?;
        ParsedPublicKey::new(&ED25519, &bytes[..32])
            .map_err(|_| why("its Ed25519 part is no public key"))?;
        ParsedPublicKey::new(&ML_DSA_65, &bytes[32..])
            .map_err(|_| why("its ML-DSA-65 part is no public key"))?;
        Ok(Self(bytes))
    }

    /// The encoding that `decode` reads.
    #[must_use]
    pub fn encode(&self) -> &[u8; VERIFYING_KEY] {
        &self.0
    }

    /// SHA-256 of the encoding: how statements name the key.
    #[must_use]
    pub fn id(&self) -> Sha256 {
        Sha256::of(&*self.0)
    }

    /// Accepts only if both signatures verify.
    ///
    /// # Errors
    /// `BadSignature`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), FormatError> {
        if signature.len() != SIGNATURE {
            return Err(FormatError::BadSignature);
        }
        let bound = self.bind(message);
        let (ed, ml) = signature.split_at(64);
        let bad = |_| FormatError::BadSignature;
        UnparsedPublicKey::new(&ED25519, &self.0[..32])
            .verify(&bound, ed)
            .map_err(bad)?;
        UnparsedPublicKey::new(&ML_DSA_65, &self.0[32..])
            .verify(&bound, ml)
            .map_err(bad)
    }

    /// What is signed: a label and the id of the whole key in front of the message, so that neither half can be
    /// taken out and shown beside another half, or as a signature of another protocol.
    fn bind(&self, message: &[u8]) -> Vec<u8> {
        [
            b"legation/v1 signature\0".as_slice(),
            self.id().as_bytes(),
            message,
        ]
        .concat()
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.id())
    }
}

/// An X-Wing public key: seals, and cannot open.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey(Box<[u8; SEALING_KEY]>);

impl SealingKey {
    /// Reads an X-Wing public key.
    ///
    /// # Errors
    /// `Malformed` for another length or an invalid ML-KEM part.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let why = |why| FormatError::malformed("sealing key", why);
        let bytes: Box<[u8; SEALING_KEY]> = Box::<[u8]>::from(bytes)
            .try_into()
            .map_err(|_| why("its length is not 1216 bytes"))?;
        <Kem as hpke::Kem>::PublicKey::from_bytes(&*bytes)
            .map_err(|_| why("it is no X-Wing public key"))?;
        Ok(Self(bytes))
    }

    /// The encoding that `decode` reads.
    #[must_use]
    pub fn encode(&self) -> &[u8; SEALING_KEY] {
        &self.0
    }

    /// SHA-256 of the encoding: how the mandate and orders name the key.
    #[must_use]
    pub fn id(&self) -> Sha256 {
        Sha256::of(&*self.0)
    }

    /// HPKE base mode, one message: `enc (1120) ‖ ciphertext ‖ tag (16)`.
    ///
    /// `rng` must never serve twice; the encapsulation's 64 random bytes are expanded from it.
    ///
    /// # Errors
    /// `Crypto`, if the library refuses.
    pub fn seal(
        &self,
        rng: &[u8; 32],
        info: &[u8],
        aad: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, FormatError> {
        let refuse = |_| FormatError::Crypto("seal");
        let public = <Kem as hpke::Kem>::PublicKey::from_bytes(&*self.0).map_err(refuse)?;
        let (enc, mut context) = hpke::setup_sender_with_rng::<Aead, Kdf, Kem>(
            &OpModeS::Base,
            &public,
            info,
            &mut Expanded::new(rng),
        )
        .map_err(refuse)?;
        let sealed = context.seal(plain, aad).map_err(refuse)?;
        let mut out = Vec::with_capacity(ENCAPSULATED + sealed.len());
        out.extend_from_slice(&enc.to_bytes());
        out.extend_from_slice(&sealed);
        Ok(out)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id())
    }
}

/// An X-Wing private key: the vault's for one moment, a session's, a recipient's.
pub struct OpeningKey {
    seed: Zeroizing<[u8; 32]>,
    private: <Kem as hpke::Kem>::PrivateKey,
}

impl OpeningKey {
    /// The key of this X-Wing seed.
    ///
    /// # Errors
    /// `Crypto`, if the library refuses the seed.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, FormatError> {
        let private = <Kem as hpke::Kem>::PrivateKey::from_bytes(seed)
            .map_err(|_| FormatError::Crypto("make an opening key"))?;
        Ok(Self {
            seed: Zeroizing::new(*seed),
            private,
        })
    }

    /// The seed, for a recipient's key file.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> SealingKey {
        let mut bytes = Box::new([0; SEALING_KEY]);
        bytes.copy_from_slice(&Kem::sk_to_pk(&self.private).to_bytes());
        SealingKey(bytes)
    }

    /// Opens what [`SealingKey::seal`] sealed with the same `info` and `aad`.
    ///
    /// # Errors
    /// `NotOpened` for another key, other `info` or `aad`, or changed bytes.
    pub fn open(
        &self,
        info: &[u8],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, FormatError> {
        const REFUSED: FormatError = FormatError::NotOpened { what: "sealed key" };
        let Some((enc, ciphertext)) = sealed.split_at_checked(ENCAPSULATED) else {
            return Err(REFUSED);
        };
        let enc = <Kem as hpke::Kem>::EncappedKey::from_bytes(enc).map_err(|_| REFUSED)?;
        let mut context =
            hpke::setup_receiver::<Aead, Kdf, Kem>(&OpModeR::Base, &self.private, &enc, info)
                .map_err(|_| REFUSED)?;
        context
            .open(ciphertext, aad)
            .map(Zeroizing::new)
            .map_err(|_| REFUSED)
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpeningKey(secret)")
    }
}

/// 32 random bytes expanded by BLAKE3 to the 64 that X-Wing's encapsulation draws.
struct Expanded(Zeroizing<blake3::OutputReader>);

impl Expanded {
    fn new(rng: &[u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("legation/v1 encapsulation randomness");
        hasher.update(rng);
        let reader = Zeroizing::new(hasher.finalize_xof());
        hasher.zeroize();
        Self(reader)
    }
}

impl hpke::rand_core::TryRng for Expanded {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(out);
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Expanded {}

/// HKDF-SHA256 (RFC 5869) with the input key material and the info each given in parts.
pub(crate) fn hkdf_sha256(
    salt: &[u8],
    ikm: &[&[u8]],
    info: &[&[u8]],
    out: &mut [u8],
) -> Result<(), FormatError> {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let refuse = |_| FormatError::Crypto("derive a key");
    let ikm = Zeroizing::new(ikm.concat());
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&ikm);
    let okm = prk.expand(info, Len(out.len())).map_err(refuse)?;
    okm.fill(out).map_err(refuse)
}

/// An AES-256-GCM key whose nonces are counters: four zero bytes, then the counter as little-endian u64.
pub(crate) struct FrameKey(aead::LessSafeKey);

impl FrameKey {
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self, FormatError> {
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, key)
            .map_err(|_| FormatError::Crypto("make a frame key"))?;
        Ok(Self(aead::LessSafeKey::new(key)))
    }

    fn nonce(counter: u64) -> aead::Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        aead::Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `body` in place; the tag is returned.
    pub(crate) fn seal(
        &self,
        counter: u64,
        aad: &[u8],
        body: &mut [u8],
    ) -> Result<[u8; TAG], FormatError> {
        let tag = self
            .0
            .seal_in_place_separate_tag(Self::nonce(counter), aead::Aad::from(aad), body)
            .map_err(|_| FormatError::Crypto("seal a frame"))?;
        let mut out = [0; TAG];
        out.copy_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Decrypts `sealed` (ciphertext and tag) in place; the plaintext is its front.
    pub(crate) fn open<'a>(
        &self,
        what: &'static str,
        counter: u64,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], FormatError> {
        self.0
            .open_in_place(Self::nonce(counter), aead::Aad::from(aad), sealed)
            .map_err(|_| FormatError::NotOpened { what })
    }
}

/// Compares without telling where the first difference lies.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests;
