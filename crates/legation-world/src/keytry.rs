//! A thief's last resort: every 32 bytes in a row of what he took, tried as the key of what lies abroad.
//!
//! Written from the format's text alone (spec/sealing.md): a pack says in the clear what its key must commit to, so a
//! guess can be checked without opening anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::error::{Doing, Result};

/// Larger files hold sealed bulk, not keys; a key file is far below this.
const LARGEST: u64 = 1 << 20;
/// What of a pack or of a stream's opening frame is needed here.
const HEADER: usize = 256;

/// A pack or a journal stream as anybody sees it.
#[derive(Debug, Clone)]
pub struct Lock {
    extract: Hmac,
    commitment: [u8; 32],
    /// Which 32 bytes of what is derived the commitment is, from 1.
    nth: u8,
    info: Vec<u8>,
    /// Registry and epoch, as the header counts them.
    pub of: (u32, u32),
}

impl Lock {
    /// Reads the first bytes of a pack or of a stream; none when it is neither.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        let array = |at: usize| <[u8; 32]>::try_from(header.get(at..at + 32)?).ok();
        let number = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let of = (number(36)?, number(40)?);
        if header.starts_with(b"LGNpack1") {
            // spec/sealing.md, section 5: suite, state, registry, epoch and number of the pack.
            let info = [
                b"legation/v1 pack".as_slice(),
                &header[10..12],
                &header[16..48],
            ]
            .concat();
            return Some(Self {
                extract: Hmac::new(&array(48)?),
                commitment: array(80)?,
                nth: 2,
                info,
                of,
            });
        }
        if header.starts_with(b"LGNjrnl1") {
            // Section 9.1: the whole header of the opening frame, and its names.
            let info = [b"legation/v1 stream".as_slice(), &header[..192]].concat();
            return Some(Self {
                extract: Hmac::new(&array(192)?),
                commitment: array(224)?,
                nth: 3,
                info,
                of,
            });
        }
        None
    }

    /// Whether a guess is the epoch root that this was sealed under.
    pub fn opens(&self, guess: &[u8]) -> bool {
        // HKDF-SHA256 (RFC 5869).
        let key = self.extract.of(&[guess]);
        let expand = Hmac::new(&key);
        let mut block = expand.of(&[&self.info, &[1]]);
        for n in 2..=self.nth {
            block = expand.of(&[&block, &self.info, &[n]]);
        }
        block == self.commitment
    }
}

/// HMAC-SHA256 (RFC 2104) with the key's two blocks hashed once.
#[derive(Debug, Clone)]
struct Hmac(Sha256, Sha256);

impl Hmac {
    fn new(key: &[u8; 32]) -> Self {
        let block = |pad: u8| {
            let mut h = Sha256::new();
            let mut block = [pad; 64];
            block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
            h.update(block);
            h
        };
        Self(block(0x36), block(0x5c))
    }

    fn of(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut inner = self.0.clone();
        parts.iter().for_each(|p| inner.update(p));
        let mut outer = self.1.clone();
        outer.update(inner.finalize());
        outer.finalize().into()
    }
}

/// What trying came to.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    /// Files that guesses were taken from.
    pub files: u64,
    /// Files left out, because they are sealed themselves.
    pub sealed: u64,
    /// Guesses.
    pub guesses: u64,
    /// What they were tried on: a pack or a stream of every epoch of every registry.
    pub locks: usize,
    /// Files that held a key, with the epoch it opened.
    pub opened: Vec<(PathBuf, (u32, u32))>,
}

/// One lock of every epoch of every registry, from the packs and journals below a store.
pub fn locks(store: &Path) -> Result<Vec<Lock>> {
    let mut all = BTreeMap::new();
    gather(store, &mut all)?;
    Ok(all.into_values().collect())
}

fn gather(path: &Path, into: &mut BTreeMap<(u32, u32), Lock>) -> Result<()> {
    let kind = fs::symlink_metadata(path).doing(format_args!("looking at {}", path.display()))?;
    if kind.is_dir() {
        for entry in fs::read_dir(path).doing(format_args!("listing {}", path.display()))? {
            gather(&entry.doing("listing the store")?.path(), into)?;
        }
    } else if kind.is_file() {
        let mut header = [0; HEADER];
        let file = fs::File::open(path).doing(format_args!("opening {}", path.display()))?;
        // Shorter files are neither packs nor streams.
        if file.read_exact_at(&mut header, 0).is_ok()
            && let Some(lock) = Lock::parse(&header)
        {
            into.entry(lock.of).or_insert(lock);
        }
    }
    Ok(())
}

/// Takes guesses from every file below `disk` and tries each on every lock.
pub fn try_all(disk: &Path, locks: &[Lock]) -> Result<Tried> {
    let mut tried = Tried {
        locks: locks.len(),
        ..Tried::default()
    };
    below(disk, locks, &mut tried)?;
    Ok(tried)
}

fn below(path: &Path, locks: &[Lock], tried: &mut Tried) -> Result<()> {
    let kind = fs::symlink_metadata(path).doing(format_args!("looking at {}", path.display()))?;
    if kind.is_dir() {
        for entry in fs::read_dir(path).doing(format_args!("listing {}", path.display()))? {
            below(&entry.doing("listing a directory")?.path(), locks, tried)?;
        }
    } else if kind.is_file() && kind.len() <= LARGEST {
        let bytes = fs::read(path).doing(format_args!("reading {}", path.display()))?;
        // What is sealed lies abroad in the same bytes; the thief gains nothing from a second copy.
        if bytes.starts_with(b"LGN") {
            tried.sealed += 1;
            return Ok(());
        }
        tried.files += 1;
        let guesses: Vec<_> = guesses(&bytes).into_iter().collect();
        tried.guesses += guesses.len() as u64;
        let half = guesses.len() / 2;
        let look = |part: &[[u8; 32]]| -> Option<(u32, u32)> {
            part.iter()
                .find_map(|g| locks.iter().find(|l| l.opens(g)).map(|l| l.of))
        };
        let found = std::thread::scope(|scope| {
            let other = scope.spawn(|| look(&guesses[half..]));
            look(&guesses[..half]).or(other.join().unwrap_or_default())
        });
        tried
            .opened
            .extend(found.map(|of| (path.to_path_buf(), of)));
    }
    Ok(())
}

/// Every 32 bytes in a row, and whatever words of the file mean in base64 or hexadecimal.
fn guesses(bytes: &[u8]) -> BTreeSet<[u8; 32]> {
    let mut all: BTreeSet<[u8; 32]> = BTreeSet::new();
    // 32 random bytes are ASCII once in 2^32 times: text holds keys only as base64 or hexadecimal.
    let mut take = |bytes: &[u8]| {
        let likely = bytes.windows(32).filter(|w| !w.is_ascii());
        all.extend(likely.filter_map(|w| <[u8; 32]>::try_from(w).ok()))
    };
    take(bytes);
    for word in bytes.split(|b| b.is_ascii_whitespace() || *b == b'"') {
        if let Ok(plain) = STANDARD.decode(word) {
            take(&plain);
        }
        if word.len() >= 64 && word.iter().all(u8::is_ascii_hexdigit) {
            let digit = |b: u8| char::from(b).to_digit(16).unwrap_or(0) as u8;
            take(
                &word
                    .chunks_exact(2)
                    .map(|p| digit(p[0]) << 4 | digit(p[1]))
                    .collect::<Vec<_>>(),
            );
        }
    }
    all
}

#[cfg(test)]
mod tests;
