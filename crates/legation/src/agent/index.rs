//! What is kept of the newest version beside the agent: the writer's index, and how each file looked when it was read,
//! so that the next capture reads and seals only what changed. It lies on the agent's disk alone, in clear: a captured
//! home can compare guesses with it. A lost or damaged one means a full capture, never a read from abroad.

use std::path::{Path, PathBuf};

use legation_core::codec::Reader;
use legation_core::error::FormatError;
use legation_core::id::{Digest, RegistryId, StateId, VersionNo};
use legation_core::manifest::{Entry, Incomplete};
use legation_registry::tree::{Parent, Stat};
use legation_repo::durable;
use legation_repo::writer::index::Index as Written;
use legation_repo::writer::map;

use crate::exit::Failure;

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"LGNkept2";
/// Some hundreds of bytes for each of ten million files.
const MAX_FILE: u64 = 4 << 30;
/// Bytes of the digest at the end.
const DIGEST: usize = 32;
/// How many entries that are not whole a message names.
const NAMED: usize = 3;
/// The name of the object in errors.
const WHAT: &str = "index";

/// A version as its capture left it.
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    /// Entries, nodes and packs.
    pub written: Written,
    /// How each file looked.
    pub stats: Vec<(Vec<u8>, Stat)>,
    /// What its driver wanted to have of it now.
    pub memo: Vec<u8>,
}

impl Index {
    /// Nothing is known: everything is captured.
    pub fn empty(state: StateId, registry: RegistryId) -> Index {
        Index {
            written: Written::empty(state, registry),
            stats: Vec::new(),
            memo: Vec::new(),
        }
    }

    /// Reads the index of `version`; `None` when there is none, or none that holds.
    pub fn load(dir: &Path, version: VersionNo) -> Option<Index> {
        let bytes = durable::read_bounded(&path(dir, version), MAX_FILE).ok()?;
        match Index::decode(&bytes) {
            Ok(index) => Some(index),
            Err(error) => {
                tracing::warn!(%error, "the index does not hold; everything is captured anew");
                None
            }
        }
    }

    /// Writes the index of `version`. Durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, dir: &Path, version: VersionNo) -> Result<(), Failure> {
        durable::write_atomic(&path(dir, version), &self.encode())
            .map_err(|error| Failure::from(error).during("writing the index"))
    }

    /// Removes every index but that of `version`, and what belongs to others.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn keep_only(dir: &Path, version: VersionNo) -> Result<(), Failure> {
        map::keep_only(dir, version)?;
        let kept = path(dir, version);
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let is_index = entry.file_name().to_string_lossy().starts_with("index-");
            if is_index && entry.path() != kept {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Every entry of every source.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.written
            .sources
            .iter()
            .flat_map(|source| &source.entries)
    }

    /// As what the next walk of a tree compares with.
    pub fn parent(&self) -> Parent<'_> {
        let files = self.written.sources.first();
        Parent::new(files.map_or(&[], |files| &files.entries), &self.stats)
    }

    /// What of it is not what the source held, in words.
    pub fn incomplete(&self) -> Option<String> {
        let marked = |entry: &'_ Entry| Some((entry.path.clone(), entry.incomplete()?));
        let mut marked = self.entries().filter_map(marked);
        let first: Vec<_> = marked.by_ref().take(NAMED).collect();
        told(&first, first.len() as u64 + marked.count() as u64)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let written = self.written.encode();
        put_count(&mut out, written.len());
        out.extend_from_slice(&written);
        put_count(&mut out, self.stats.len());
        for (path, stat) in &self.stats {
            put_count(&mut out, path.len());
            out.extend_from_slice(path);
            for number in [stat.dev, stat.ino, stat.size] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            for (secs, nanos) in [stat.mtime, stat.ctime] {
                out.extend_from_slice(&secs.to_le_bytes());
                out.extend_from_slice(&nanos.to_le_bytes());
            }
        }
        put_count(&mut out, self.memo.len());
        out.extend_from_slice(&self.memo);
        let digest = Digest::of(&out);
        out.extend_from_slice(digest.as_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Index, FormatError> {
        let malformed = |why| FormatError::Malformed { what: WHAT, why };
        let (body, digest) = bytes
            .split_at_checked(bytes.len().saturating_sub(DIGEST))
            .ok_or_else(|| malformed("it is too short"))?;
        if Digest::of(body).as_bytes() != digest {
            return Err(malformed("its digest does not hold"));
        }
        let mut r = Reader::new(WHAT, body);
        let length = |r: &mut Reader<'_>| {
            usize::try_from(r.u64()?).map_err(|_| malformed("a length is too large"))
        };
        r.magic(MAGIC)?;
        let written = length(&mut r)?;
        let written = Written::decode(r.bytes(written)?)?;
        let mut stats = Vec::new();
        for _ in 0..r.u64()? {
            let path = length(&mut r)?;
            let path = r.bytes(path)?.to_vec();
            let stat = Stat {
                dev: r.u64()?,
                ino: r.u64()?,
                size: r.u64()?,
                mtime: (r.i64()?, r.u32()?),
                ctime: (r.i64()?, r.u32()?),
            };
            stats.push((path, stat));
        }
        let memo = length(&mut r)?;
        let memo = r.bytes(memo)?.to_vec();
        r.finish()?;
        Ok(Index {
            written,
            stats,
            memo,
        })
    }
}

/// Says which entries are not whole: the first of `count`.
pub fn told(first: &[(Vec<u8>, Incomplete)], count: u64) -> Option<String> {
    let shown = first.iter().take(NAMED);
    let named: Vec<String> = shown
        .map(|(path, mark)| format!("{} is {mark}", crate::output::shown(path)))
        .collect();
    let more = count.saturating_sub(named.len() as u64);
    let tail = match more {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    (count > 0).then(|| {
        format!(
            "not all could be read as it was: {}{tail}",
            named.join("; ")
        )
    })
}

fn path(dir: &Path, version: VersionNo) -> PathBuf {
    dir.join(format!("index-{version}"))
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u64).to_le_bytes());
}
