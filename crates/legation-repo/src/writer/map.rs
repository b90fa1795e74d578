//! What the agent keeps at home of a file that changes in place: each stretch with its place in the packs and keyed
//! digests of its blocks. Read and written from front to back, so that memory does not grow with the file. It holds no
//! plaintext and no key that opens anything; a lost or damaged one means that the file is captured anew.
//!
//! `LGNblks1 ‖ key (32)`, then for each extent its 40 bytes and 16 bytes for each of its blocks, then the digest of the
//! entry that it belongs to (32) and the BLAKE3 of all before (32).

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use legation_core::codec::Reader;
use legation_core::id::{Digest, VersionNo};
use legation_core::manifest::Extent;
use legation_core::source::BLOCK;

use super::WINDOW;
use crate::durable;

/// What the names of these files begin with.
pub const PREFIX: &str = "blocks-";
const MAGIC: &[u8; 8] = b"LGNblks1";
const HEADER: u64 = 8 + 32;
const FOOTER: u64 = 32 + 32;
/// What is kept of a block: the key is nobody's but the agent's, so nobody can look for two blocks of one digest.
pub(super) const DIGEST: usize = 16;

/// The keyed digest of a block.
pub(super) type BlockDigest = [u8; DIGEST];

pub(super) fn digest(key: &[u8; 32], block: &[u8]) -> BlockDigest {
    let mut out = [0; DIGEST];
    out.copy_from_slice(&blake3::keyed_hash(key, block).as_bytes()[..DIGEST]);
    out
}

/// Where the map of a version's file lies.
pub(super) fn path(dir: &Path, version: VersionNo, source: (&str, &str), file: &[u8]) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    for part in [source.0.as_bytes(), source.1.as_bytes(), file] {
        hasher
            .update(&(part.len() as u64).to_le_bytes())
            .update(part);
    }
    let name = hasher.finalize().to_hex();
    dir.join(format!("{PREFIX}{version}-{}", &name[..16]))
}

/// Removes the maps of all versions but this one, and what was left half-written.
///
/// # Errors
/// When the directory cannot be read.
pub fn keep_only(dir: &Path, version: VersionNo) -> io::Result<()> {
    let kept = format!("{PREFIX}{version}-");
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && !name.starts_with(&kept) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes a map. Removed again unless it is published.
#[derive(Debug)]
pub(super) struct MapWriter {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    temporary: Option<PathBuf>,
    pub key: [u8; 32],
}

impl MapWriter {
    pub fn create(dir: &Path, key: [u8; 32]) -> io::Result<MapWriter> {
        let temporary = dir.join(format!("{PREFIX}{}", durable::temporary_name()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(durable::no_follow())
            .open(&temporary)?;
        let mut map = MapWriter {
            file: BufWriter::with_capacity(64 * 1024, file),
            hasher: blake3::Hasher::new(),
            temporary: Some(temporary),
            key,
        };
        map.put_bytes(MAGIC)?;
        map.put_bytes(&key)?;
        Ok(map)
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }

    pub fn put(&mut self, extent: &Extent, digests: &[BlockDigest]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(Extent::LEN + DIGEST * digests.len());
        extent.encode(&mut bytes);
        bytes.extend_from_slice(digests.as_flattened());
        self.put_bytes(&bytes)
    }

    /// Ends the map: of the entry with this digest.
    pub fn end(&mut self, entry: &Digest) -> io::Result<()> {
        self.put_bytes(&entry.0)?;
        let whole = self.hasher.finalize();
        self.file.write_all(whole.as_bytes())?;
        self.file.flush()
    }

    /// Gives the ended map its name. Durable when this returns.
    pub fn publish(mut self, path: &Path) -> io::Result<()> {
        self.file.get_ref().sync_all()?;
        let parent = path
            .parent()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, path)?;
        }
        self.temporary = None;
        durable::sync_dir(parent)
    }

    pub fn at(&self) -> Option<&Path> {
        self.temporary.as_deref()
    }
}

impl Drop for MapWriter {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            // Best effort: what stays is removed with the maps of earlier versions.
            let _ = fs::remove_file(path);
        }
    }
}

/// Reads a map from front to back.
#[derive(Debug)]
pub(super) struct MapReader {
    file: BufReader<File>,
    /// Bytes of records that are still to come.
    left: u64,
    current: Option<(Extent, Vec<BlockDigest>)>,
    pub key: [u8; 32],
}

impl MapReader {
    /// Opens the map of the entry with this digest, after all of it was checked; `None` if it is not there or does not
    /// hold. `each` hears of every extent.
    pub fn open(path: &Path, entry: &Digest, each: &mut dyn FnMut(&Extent)) -> Option<MapReader> {
        let mut map = MapReader::begin(path, entry)?;
        let mut end = 0;
        while let Some((extent, _)) = map.next_record()? {
            let fits = extent.offset >= end
                && extent.offset.is_multiple_of(BLOCK)
                && u64::from(extent.len) <= WINDOW
                && extent.frame.validate().is_ok()
                && u64::from(extent.within) + u64::from(extent.len) <= extent.frame.plain.into();
            if !fits {
                return None;
            }
            end = extent.end();
            each(&extent);
        }
        MapReader::begin(path, entry)
    }

    /// Checks the digest over the whole file and goes to its first record.
    fn begin(path: &Path, entry: &Digest) -> Option<MapReader> {
        let file = durable::open_read(path).ok()?;
        let len = file.metadata().ok()?.len();
        let body = len.checked_sub(32).filter(|_| len >= HEADER + FOOTER)?;
        let mut file = BufReader::with_capacity(64 * 1024, file);
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut (&mut file).take(body), &mut hasher).ok()?;
        let mut whole = [0; 32];
        file.read_exact(&mut whole).ok()?;
        file.seek(SeekFrom::Start(body - 32)).ok()?;
        let mut of = [0; 32];
        file.read_exact(&mut of).ok()?;
        if *hasher.finalize().as_bytes() != whole || of != entry.0 {
            return None;
        }
        file.seek(SeekFrom::Start(0)).ok()?;
        let (mut magic, mut key) = ([0; 8], [0; 32]);
        file.read_exact(&mut magic).ok()?;
        file.read_exact(&mut key).ok()?;
        (magic == *MAGIC).then_some(MapReader {
            file,
            left: len - HEADER - FOOTER,
            current: None,
            key,
        })
    }

    /// The next record; `Some(None)` at the end; `None` if the bytes are none.
    #[expect(clippy::option_option, reason = "an end is no error")]
    fn next_record(&mut self) -> Option<Option<(Extent, Vec<BlockDigest>)>> {
        if self.left == 0 {
            return Some(None);
        }
        let mut head = [0; Extent::LEN];
        self.file.read_exact(&mut head).ok()?;
        let extent = Extent::decode(&mut Reader::new("map of blocks", &head)).ok()?;
        if u64::from(extent.len) > WINDOW || extent.len == 0 {
            return None;
        }
        let mut digests = vec![[0; DIGEST]; u64::from(extent.len).div_ceil(BLOCK) as usize];
        self.file.read_exact(digests.as_flattened_mut()).ok()?;
        let read = (Extent::LEN + DIGEST * digests.len()) as u64;
        self.left = self.left.checked_sub(read)?;
        Some(Some((extent, digests)))
    }

    /// The part of the first extent that ends after `offset`, cut to `offset..end`: what lies before is not asked for
    /// again. `Ok(None)` if there is none.
    pub fn part(&mut self, offset: u64, end: u64) -> io::Result<Option<(Extent, &[BlockDigest])>> {
        while self.current.as_ref().is_none_or(|(e, _)| e.end() <= offset) {
            let next = self.next_record();
            match next.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))? {
                Some(record) => self.current = Some(record),
                None => return Ok(None),
            }
        }
        let Some((extent, digests)) = &self.current else {
            return Ok(None);
        };
        let (from, to) = (extent.offset.max(offset), extent.end().min(end));
        if from >= to {
            return Ok(None);
        }
        let skipped = from - extent.offset;
        let part = Extent {
            offset: from,
            len: (to - from) as u32,
            frame: extent.frame,
            within: extent.within + skipped as u32,
        };
        let first = (skipped / BLOCK) as usize;
        let count = (to - from).div_ceil(BLOCK) as usize;
        Ok(digests.get(first..first + count).map(|some| (part, some)))
    }
}
