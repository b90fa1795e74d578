//! The vault: per generation two shared secrets, A among all officers and B among those abroad, and the key
//! that only both together make (spec/sealing.md §8).

use std::fmt;

use zeroize::Zeroizing;

use crate::codec::{hex, unhex};
use crate::error::FormatError;
use crate::id::{Generation, Sha256, StateId};
use crate::keys::{Entropy, OpeningKey, hkdf_sha256};
use crate::shamir::{self, Share};

const FIRST_LINE: &str = "legation/share/v1";
/// Two shares of each of 512 generations: far more than a founding deals.
const MAX_SHARES: usize = 1024;
/// The longest name of an officer, in bytes.
const MAX_NAME: usize = 64;

/// How many officers must open, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// Shares needed.
    pub need: u8,
    /// Shares dealt.
    pub of: u8,
}

/// Which of the two secrets a share belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Shared among all officers.
    A,
    /// Shared among off-territory officers.
    B,
}

/// One share of one part of one generation.
#[derive(Clone)]
pub struct VaultShare {
    /// The generation it helps to open.
    pub generation: Generation,
    /// The part it belongs to.
    pub part: Part,
    /// The share.
    pub share: Share,
}

impl VaultShare {
    /// What the mandate says about this share: SHA-256 of label, generation, part, index and bytes.
    #[must_use]
    pub fn digest(&self) -> Sha256 {
        Sha256::of_parts(&[
            b"legation/v1 share",
            &self.generation.0.to_le_bytes(),
            self.part.as_str().as_bytes(),
            &[self.share.index],
            &self.share.bytes,
        ])
    }
}

impl Part {
    /// The letter in share files and digests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

impl fmt::Debug for VaultShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "VaultShare(generation {}, part {:?}, index {}, secret)",
            self.generation, self.part, self.share.index
        )
    }
}

/// A generation as dealt: its key, and the shares by position of the officers.
pub struct Dealt {
    /// The vault key of this generation.
    pub key: OpeningKey,
    /// Share `i` belongs to officer `i` (from 0) of all.
    pub a: Vec<VaultShare>,
    /// Share `i` belongs to officer `i` (from 0) of those abroad; empty when none are required.
    pub b: Vec<VaultShare>,
}

/// Deals one generation. `rng` is asked for 32 bytes per secret and per coefficient row.
///
/// # Errors
/// `Malformed` for impossible thresholds; whatever `rng` refuses.
pub fn deal(
    generation: Generation,
    all: Threshold,
    abroad: Option<Threshold>,
    rng: &mut dyn Entropy,
) -> Result<Dealt, FormatError> {
    let mut part = |part, threshold: Threshold| {
        let secret = rng.draw()?;
        // Room for all rows at once: a vector that grows leaves copies behind that nobody wipes.
        let rows = usize::from(threshold.need).saturating_sub(1);
        let mut coefficients = Zeroizing::new(Vec::with_capacity(32 * rows));
        for _ in 0..rows {
            coefficients.extend_from_slice(&*rng.draw()?);
        }
        let shares = shamir::split(&secret, threshold.need, threshold.of, &coefficients)?
            .into_iter()
            .map(|share| VaultShare {
                generation,
                part,
                share,
            })
            .collect();
        Ok::<(_, Vec<VaultShare>), FormatError>((secret, shares))
    };
    let (a_secret, a) = part(Part::A, all)?;
    let (b_secret, b) = match abroad {
        Some(threshold) => part(Part::B, threshold).map(|(secret, b)| (Some(secret), b))?,
        None => (None, Vec::new()),
    };
    let key = key(generation, &a_secret, b_secret.as_deref())?;
    Ok(Dealt { key, a, b })
}

/// Rebuilds a generation's key from shares of part A and, if the mandate requires any from abroad, part B.
/// Shares of another generation are refused. Whether the key is right is for the caller to compare with the
/// mandate's digest of the vault's public key.
///
/// # Errors
/// `Malformed` for shares that do not belong together.
pub fn rebuild(
    generation: Generation,
    shares: &[VaultShare],
    with_abroad: bool,
) -> Result<OpeningKey, FormatError> {
    if shares.iter().any(|s| s.generation != generation) {
        return Err(FormatError::malformed(
            "vault",
            "a share belongs to another generation",
        ));
    }
    let part = |part| {
        let points: Vec<Share> = shares
            .iter()
            .filter(|s| s.part == part)
            .map(|s| s.share.clone())
            .collect();
        shamir::combine(&points)
    };
    let a = part(Part::A)?;
    let b = if with_abroad {
        Some(part(Part::B)?)
    } else {
        None
    };
    key(generation, &a, b.as_deref())
}

/// spec/sealing.md §8.2
fn key(
    generation: Generation,
    a: &[u8; 32],
    b: Option<&[u8; 32]>,
) -> Result<OpeningKey, FormatError> {
    let ikm: &[&[u8]] = match b {
        Some(b) => &[a, b],
        None => &[a],
    };
    let mut seed = Zeroizing::new([0; 32]);
    let info: [&[u8]; 2] = [b"legation/v1 vault", &generation.0.to_le_bytes()];
    hkdf_sha256(&[], ikm, &info, &mut *seed)?;
    OpeningKey::from_seed(&seed)
}

/// The most characters of a share's line beside the share itself: name, generation, part, number, line end.
const LINE: usize = 32;

/// An officer's share file, the text inside his age envelope.
#[derive(Clone)]
pub struct ShareFile {
    /// The state whose vault the shares open. A release starts from here: the officer's own medium says which founding
    /// mandate counts, whatever log he is shown.
    pub state: StateId,
    /// The officer's name in the mandate.
    pub officer: String,
    /// His shares, by generation, A before B.
    pub shares: Vec<VaultShare>,
}

impl ShareFile {
    /// The text, `legation/share/v1`: state, officer, then the shares.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        let head = format!(
            "{FIRST_LINE}\nstate: {}\nofficer: {}\n",
            self.state, self.officer
        );
        // Room for all of it at once, as for the coefficients.
        let size = |s: &VaultShare| LINE + 2 * s.share.bytes.len();
        let room = head.len() + self.shares.iter().map(size).sum::<usize>();
        let mut text = Zeroizing::new(String::with_capacity(room));
        text.push_str(&head);
        for s in &self.shares {
            let bytes = Zeroizing::new(hex(&s.share.bytes));
            text.push_str("share: ");
            text.push_str(&format!(
                "{} {} {} ",
                s.generation,
                s.part.as_str(),
                s.share.index
            ));
            text.push_str(&bytes);
            text.push('\n');
        }
        debug_assert!(text.len() <= room);
        text
    }

    /// Reads the text back; only the exact form that `encode` writes.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn decode(text: &str) -> Result<Self, FormatError> {
        let bad = |why| FormatError::malformed("share file", why);
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(bad("its first line is not legation/share/v1"));
        }
        let state = lines
            .next()
            .and_then(|line| line.strip_prefix("state: "))
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| bad("its second line does not name a state"))?;
        let officer = lines
            .next()
            .and_then(|line| line.strip_prefix("officer: "))
            .filter(|name| (1..=MAX_NAME).contains(&name.len()))
            .filter(|name| name.bytes().all(|b| b.is_ascii_graphic()))
            .ok_or_else(|| bad("its third line does not name an officer"))?;
        let mut shares = Vec::new();
        for line in lines {
            if shares.len() == MAX_SHARES {
                return Err(FormatError::TooLarge {
                    what: "share file",
                    limit: MAX_SHARES as u64,
                });
            }
            shares.push(share_line(line).ok_or_else(|| bad("a share line cannot be read"))?);
        }
        let file = Self {
            state,
            officer: officer.to_owned(),
            shares,
        };
        // One spelling only: what would be written back must be what was read.
        if *file.encode() != text {
            return Err(bad("it is not spelled as it would be written"));
        }
        Ok(file)
    }
}

impl fmt::Debug for ShareFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ShareFile({}, {} shares, secret)",
            self.officer,
            self.shares.len()
        )
    }
}

/// `share: <generation> <A|B> <index> <hex>`
fn share_line(line: &str) -> Option<VaultShare> {
    let mut words = line.strip_prefix("share: ")?.split(' ');
    let generation = words.next()?.parse().ok()?;
    let part = match words.next()? {
        "A" => Part::A,
        "B" => Part::B,
        _ => return None,
    };
    let index = words.next()?.parse().ok().filter(|i| *i != 0)?;
    let bytes = unhex(words.next()?)?;
    Some(VaultShare {
        generation,
        part,
        share: Share { index, bytes },
    })
}

#[cfg(test)]
mod tests;
