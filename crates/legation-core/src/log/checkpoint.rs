//! Checkpoints: which tree a log has signed, by both of its algorithms.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::LogError;
use super::key::{ED_SIGNATURE, LogSigner, LogVerifier, ML_DSA_SIGNATURE};
use super::note::{MAX_NOTE, Note, NoteSignature};
use super::proof::check_consistency;
use crate::id::Sha256;

/// Longest checkpoint that is read, in bytes.
pub const MAX_CHECKPOINT: usize = MAX_NOTE;
/// Longest origin: the ML-DSA-44 message counts its length in 8 bits.
const MAX_ORIGIN: usize = 255;
/// First bytes of the ML-DSA-44 message, C2SP tlog-cosignature.
const SUBTREE_LABEL: &[u8; 12] = b"subtree/v1\n\0";
/// A timestamp must fit 63 bits.
const MAX_TIME: u64 = (1 << 63) - 1;

/// The size and root of a tree: what a reader pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeHead {
    /// Number of leaves.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Sha256,
}

impl TreeHead {
    /// Checks that `next` continues this tree, given a consistency proof between the two sizes.
    ///
    /// A smaller tree is [`LogError::Shorter`], one of the same size with another root or with a proof that fails
    /// is [`LogError::Forked`].
    pub fn advance(&self, next: &TreeHead, proof: &[Sha256]) -> Result<(), LogError> {
        match check_consistency(self.size, &self.root, next.size, &next.root, proof) {
            Err(LogError::Proof(_)) => Err(LogError::Forked { held: self.size }),
            other => other,
        }
    }
}

/// A tree that a log has signed, at a time that it names.
///
/// A value of this type has been verified or was made by the holder of the key: [`Checkpoint::open`] is the only
/// way from bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    head: TreeHead,
    time: u64,
    note: String,
}

impl Checkpoint {
    /// Signs `head` as the log `origin`, at `time` in seconds since 1970.
    ///
    /// The caller has made the tree durable, and never signs two that are inconsistent.
    pub fn sign(
        origin: &str,
        head: TreeHead,
        time: u64,
        signer: &LogSigner,
    ) -> Result<Checkpoint, LogError> {
        if !Note::is_key_name(origin) || origin.len() > MAX_ORIGIN {
            return Err(LogError::malformed(
                "origin",
                "1 to 255 bytes, no spaces and no plus",
            ));
        }
        if time == 0 || time > MAX_TIME {
            return Err(LogError::malformed(
                "checkpoint time",
                "outside 1 to 2^63 - 1",
            ));
        }
        let text = note_text(origin, &head);
        let plain = signer.sign_ed25519(text.as_bytes())?;
        let mut cosigned = time.to_be_bytes().to_vec();
        cosigned.extend(signer.sign_ml_dsa(&subtree_message(origin, time, origin, &head))?);
        let line = |id, bytes| NoteSignature {
            name: origin.to_owned(),
            id,
            bytes,
        };
        let note = Note {
            text,
            signatures: vec![
                line(signer.verifier().ed25519_id(origin), plain),
                line(signer.verifier().ml_dsa_id(origin), cosigned),
            ],
        };
        Ok(Checkpoint {
            origin: origin.to_owned(),
            head,
            time,
            note: note.to_string(),
        })
    }

    /// Reads a checkpoint of the log `origin` and verifies both signatures of its key. Signatures of keys that are
    /// not asked about (witnesses) are ignored.
    pub fn open(note: &[u8], origin: &str, key: &LogVerifier) -> Result<Checkpoint, LogError> {
        let parsed = Note::parse(note)?;
        let (found, head) = parse_text(&parsed.text)?;
        if found != origin {
            return Err(LogError::Origin {
                expected: origin.to_owned(),
                found,
            });
        }
        let missing = |which| LogError::Signature {
            origin: origin.to_owned(),
            which,
        };
        one(parsed.by_key(origin, key.ed25519_id(origin)))
            .filter(|s| s.bytes.len() == ED_SIGNATURE)
            .filter(|s| key.check_ed25519(parsed.text.as_bytes(), &s.bytes))
            .ok_or_else(|| missing("Ed25519"))?;
        let time = one(parsed.by_key(origin, key.ml_dsa_id(origin)))
            .and_then(|s| s.bytes.split_first_chunk::<8>())
            .filter(|(_, signature)| signature.len() == ML_DSA_SIGNATURE)
            .map(|(time, signature)| (u64::from_be_bytes(*time), signature))
            .filter(|(time, _)| (1..=MAX_TIME).contains(time))
            .filter(|(time, signature)| {
                key.check_ml_dsa(&subtree_message(origin, *time, origin, &head), signature)
            })
            .map(|(time, _)| time)
            .ok_or_else(|| missing("ML-DSA-44"))?;
        Ok(Checkpoint {
            origin: found,
            head,
            time,
            note: parsed.to_string(),
        })
    }

    /// What an unverified checkpoint claims: its origin and tree. For messages and for evidence, never for trust.
    pub fn claims(note: &[u8]) -> Result<(String, TreeHead), LogError> {
        parse_text(&Note::parse(note)?.text)
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The tree that was signed.
    pub fn head(&self) -> TreeHead {
        self.head
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.head.size
    }

    /// Root of the tree.
    pub fn root(&self) -> Sha256 {
        self.head.root
    }

    /// When the log says that it signed, in seconds since 1970.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// The signed note, as served and stored.
    pub fn note(&self) -> &str {
        &self.note
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.note)
    }
}

/// The only element, or none: two signatures by one key are nobody's need and a way to hide a bad one.
fn one<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

fn note_text(origin: &str, head: &TreeHead) -> String {
    format!(
        "{origin}\n{}\n{}\n",
        head.size,
        STANDARD.encode(head.root.0)
    )
}

/// Exactly three lines: extension lines are not covered by the ML-DSA-44 signature, so none are accepted.
fn parse_text(text: &str) -> Result<(String, TreeHead), LogError> {
    let bad = |why: &str| LogError::malformed("checkpoint", why);
    let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    let (Some(origin), Some(size), Some(root), None) =
        (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err(bad("not exactly origin, size and root"));
    };
    if !Note::is_key_name(origin) || origin.len() > MAX_ORIGIN {
        return Err(bad("the origin is not a key name of at most 255 bytes"));
    }
    let number: u64 = size.parse().map_err(|_| bad("the size is not a number"))?;
    if number.to_string() != size || number > MAX_TIME {
        return Err(bad("the size is not in plain decimal below 2^63"));
    }
    let root: [u8; 32] = STANDARD
        .decode(root)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| bad("the root is not 32 bytes in base64"))?;
    let head = TreeHead {
        size: number,
        root: Sha256(root),
    };
    if note_text(origin, &head) != text {
        return Err(bad("not in canonical form"));
    }
    Ok((origin.to_owned(), head))
}

/// The `cosigned_message` of C2SP tlog-cosignature for a whole tree.
fn subtree_message(cosigner: &str, time: u64, origin: &str, head: &TreeHead) -> Vec<u8> {
    let mut message = SUBTREE_LABEL.to_vec();
    // Both names were checked to be at most 255 bytes long.
    message.push(cosigner.len() as u8);
    message.extend_from_slice(cosigner.as_bytes());
    message.extend_from_slice(&time.to_be_bytes());
    message.push(origin.len() as u8);
    message.extend_from_slice(origin.as_bytes());
    message.extend_from_slice(&0u64.to_be_bytes());
    message.extend_from_slice(&head.size.to_be_bytes());
    message.extend_from_slice(&head.root.0);
    message
}
