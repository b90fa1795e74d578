//! C2SP signed notes: text, an empty line, and signature lines by named keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::LogError;
use crate::id::Sha256;

/// Longest note that is read: the text of a checkpoint and sixteen post-quantum signatures fit.
pub const MAX_NOTE: usize = 128 * 1024;
/// Most signature lines that are read; the format asks for at least 16.
pub const MAX_SIGNATURES: usize = 64;

/// The key id of a signed note: the first four bytes of `SHA-256(name ‖ LF ‖ type ‖ key)`.
pub fn key_id(name: &str, kind: u8, key: &[u8]) -> [u8; 4] {
    let hash = Sha256::of_parts(&[name.as_bytes(), b"\n", &[kind], key]);
    [hash.0[0], hash.0[1], hash.0[2], hash.0[3]]
}

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// The key's name; for a log, its origin.
    pub name: String,
    /// The key's id within its name, see [`key_id`].
    pub id: [u8; 4],
    /// What the algorithm produced; for cosignatures a big-endian time comes first.
    pub bytes: Vec<u8>,
}

/// A text with signatures, none of them verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The signed text, with its final newline.
    pub text: String,
    /// The signature lines in their order.
    pub signatures: Vec<NoteSignature>,
}

impl Note {
    /// Reads a note. Anything but the exact format is refused.
    pub fn parse(bytes: &[u8]) -> Result<Note, LogError> {
        let bad = |why: &str| LogError::malformed("signed note", why);
        if bytes.len() > MAX_NOTE {
            return Err(bad("longer than 128 KiB"));
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| bad("not UTF-8"))?;
        if whole.chars().any(|c| c < ' ' && c != '\n') {
            return Err(bad("a control character"));
        }
        let cut = whole
            .rfind("\n\n")
            .ok_or_else(|| bad("no empty line before signatures"))?;
        let (text, lines) = (&whole[..=cut], &whole[cut + 2..]);
        let lines = lines
            .strip_suffix('\n')
            .ok_or_else(|| bad("no final newline"))?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            if signatures.len() == MAX_SIGNATURES {
                return Err(bad("more than 64 signatures"));
            }
            signatures.push(signature_line(line).ok_or_else(|| bad("a broken signature line"))?);
        }
        Ok(Note {
            text: text.to_owned(),
            signatures,
        })
    }

    /// Whether `name` can be the name of a key: not empty, no spaces, no plus, no control characters.
    pub fn is_key_name(name: &str) -> bool {
        !name.is_empty()
            && !name
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || c == '+')
    }

    /// The signatures of the key with this name and id; keys that share only one of the two are others' keys.
    pub fn by_key<'a>(
        &'a self,
        name: &'a str,
        id: [u8; 4],
    ) -> impl Iterator<Item = &'a NoteSignature> {
        self.signatures
            .iter()
            .filter(move |s| s.name == name && s.id == id)
    }
}

/// The note as it is stored and sent.
impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.text)?;
        for signature in &self.signatures {
            let mut blob = signature.id.to_vec();
            blob.extend_from_slice(&signature.bytes);
            writeln!(f, "\u{2014} {} {}", signature.name, STANDARD.encode(blob))?;
        }
        Ok(())
    }
}

fn signature_line(line: &str) -> Option<NoteSignature> {
    let (name, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let blob = STANDARD.decode(encoded).ok()?;
    let (id, bytes) = blob.split_first_chunk::<4>()?;
    if !Note::is_key_name(name) || bytes.is_empty() {
        return None;
    }
    Some(NoteSignature {
        name: name.to_owned(),
        id: *id,
        bytes: bytes.to_vec(),
    })
}
