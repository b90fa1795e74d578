//! A container image as a directory: the OCI image layout. A version is made of one only if every blob that its index
//! reaches is there with the size and digest that name it.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context as Hash, SHA256, SHA512};
use legation_core::manifest::{Entry, EntryKind, Incomplete};
use legation_core::source::{Sink, SourceError, SourceResult};
use serde::Deserialize;

use crate::error::Context;
use crate::tree::{self, Parent, TreeReport};
use crate::{Error, Result};

/// The largest JSON document that is read: the specification advises registries to take no larger manifest.
const MAX_JSON: u64 = 4 << 20;
/// The most blobs of one layout.
const MAX_BLOBS: usize = 100_000;
/// How deep an index may name indexes.
const MAX_DEPTH: usize = 8;
/// What a document calls itself.
const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// What points to a blob. Fields that say nothing of where it is are passed over, as the specification asks.
#[derive(Debug, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Layout {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// Whether this directory is one.
#[must_use]
pub fn is_layout(path: &Path) -> bool {
    path.join("oci-layout").is_file()
}

/// Captures the directory as a tree and checks it.
///
/// # Errors
/// `Refused` for a blob that is missing or is not what its name says; else as [`tree::capture`]. No version must then be
/// made of what the sink was given.
pub fn capture(
    path: &Path,
    parent: &Parent<'_>,
    sink: &mut dyn Sink,
    stop: &dyn Fn() -> bool,
) -> Result<TreeReport> {
    let mut checked = Checked {
        sink,
        blob: None,
        wrong: None,
    };
    let taken = tree::capture(path, tree::Options::default(), parent, &mut checked, stop);
    if let Some(why) = checked.wrong {
        return Err(wrong(path, why));
    }
    let report = taken?;
    if let Some((name, mark)) = report.incomplete.first() {
        let name = String::from_utf8_lossy(name).into_owned();
        return Err(wrong(path, format!("{name} is {mark}")));
    }
    check(path, stop)?;
    Ok(report)
}

/// Follows the index to every blob: each is there, with its size. Documents are checked against their digests here;
/// every other blob was when it was read.
fn check(path: &Path, stop: &dyn Fn() -> bool) -> Result<()> {
    let layout: Layout = json(path, &document(&path.join("oci-layout"))?)?;
    if layout.version != "1.0.0" {
        return Err(wrong(
            path,
            format!("its layout is of version {:?}", layout.version),
        ));
    }
    let index: Index = json(path, &document(&path.join("index.json"))?)?;
    let mut seen = BTreeSet::new();
    let mut open: Vec<(Descriptor, usize)> = index.manifests.into_iter().map(|d| (d, 1)).collect();
    while let Some((descriptor, depth)) = open.pop() {
        if stop() {
            return Err(Error::Stopped);
        }
        if !seen.insert(descriptor.digest.clone()) {
            continue;
        }
        if seen.len() > MAX_BLOBS || depth > MAX_DEPTH {
            return Err(wrong(path, "it names more than an image has".into()));
        }
        let blob = blob(path, &descriptor.digest)?;
        let size = match std::fs::symlink_metadata(&blob) {
            Ok(found) if found.is_file() => found.len(),
            _ => {
                return Err(wrong(
                    path,
                    format!("blob {} is missing", descriptor.digest),
                ));
            }
        };
        if size != descriptor.size {
            let (digest, named) = (&descriptor.digest, descriptor.size);
            return Err(wrong(
                path,
                format!("blob {digest} has {size} bytes and not {named}"),
            ));
        }
        let kind = descriptor.media_type.as_str();
        if !INDEXES.contains(&kind) && !MANIFESTS.contains(&kind) {
            continue;
        }
        let text = document(&blob)?;
        let mut hash = Blob::of(&descriptor.digest, 0)
            .ok_or_else(|| wrong(path, format!("{} is no digest", descriptor.digest)))?;
        hash.add(0, &text);
        if !hash.holds(text.len() as u64) {
            return Err(wrong(
                path,
                format!("blob {} is not what its name says", descriptor.digest),
            ));
        }
        if INDEXES.contains(&kind) {
            let inner: Index = json(path, &text)?;
            open.extend(inner.manifests.into_iter().map(|d| (d, depth + 1)));
        } else {
            let manifest: Manifest = json(path, &text)?;
            let blobs = manifest.layers.into_iter().chain([manifest.config]);
            // Only documents lead on.
            open.extend(blobs.map(|mut d| {
                d.media_type.clear();
                (d, depth)
            }));
        }
    }
    Ok(())
}

fn document(path: &Path) -> Result<Vec<u8>> {
    let shown = || path.display().to_string();
    let file = std::fs::File::open(path).at(shown)?;
    let mut text = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut text).at(shown)?;
    if text.len() as u64 > MAX_JSON {
        return Err(Error::malformed(
            "OCI image",
            format!("{} is too long", shown()),
        ));
    }
    Ok(text)
}

fn json<T: for<'a> Deserialize<'a>>(path: &Path, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| wrong(path, format!("a document does not read: {e}")))
}

/// Where the blob of a digest lies.
fn blob(path: &Path, digest: &str) -> Result<PathBuf> {
    match Blob::of(digest, 0) {
        Some(_) => Ok(path.join("blobs").join(digest.replacen(':', "/", 1))),
        None => Err(wrong(
            path,
            format!("{digest:?} is no digest of SHA-256 or SHA-512"),
        )),
    }
}

fn wrong(path: &Path, why: String) -> Error {
    Error::refused(
        format!("{} is no whole container image: {why}", path.display()),
        "copy the image there anew, or wait until whoever writes it is done",
    )
}

/// A blob that is read: its name is its digest.
struct Blob {
    name: String,
    expected: String,
    hash: Hash,
    end: u64,
}

impl Blob {
    /// `sha256:` or `sha512:` and as many hexadecimal digits.
    fn of(digest: &str, end: u64) -> Option<Self> {
        let (algorithm, hex) = digest.split_once(':')?;
        let (hash, length) = match algorithm {
            "sha256" => (Hash::new(&SHA256), 64),
            "sha512" => (Hash::new(&SHA512), 128),
            _ => return None,
        };
        let digits = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (digits && hex.len() == length).then(|| Self {
            name: digest.to_owned(),
            expected: hex.to_owned(),
            hash,
            end,
        })
    }

    fn at(path: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?.strip_prefix("blobs/")?;
        Self::of(&path.replacen('/', ":", 1), 0)
    }

    /// Bytes at an offset; what was skipped are zeros.
    fn add(&mut self, offset: u64, bytes: &[u8]) {
        let zeros = [0; 4096];
        while self.end < offset {
            let next = (offset - self.end).min(zeros.len() as u64) as usize;
            self.hash.update(&zeros[..next]);
            self.end += next as u64;
        }
        self.hash.update(bytes);
        self.end += bytes.len() as u64;
    }

    fn holds(mut self, size: u64) -> bool {
        self.add(size.max(self.end), b"");
        let found: String = self
            .hash
            .finish()
            .as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        found == self.expected
    }
}

/// Passes everything on and checks the blobs that go by.
struct Checked<'a> {
    sink: &'a mut dyn Sink,
    blob: Option<(Blob, u64)>,
    wrong: Option<String>,
}

impl Sink for Checked<'_> {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        let is_file = entry.kind == EntryKind::File;
        let blob = if is_file { Blob::at(&entry.path) } else { None };
        self.blob = blob.map(|blob| (blob, entry.size));
        self.sink.begin(entry)
    }

    fn begin_shifting(&mut self, entry: Entry) -> SourceResult<()> {
        self.sink.begin_shifting(entry)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        if let Some((blob, _)) = &mut self.blob {
            blob.add(offset, bytes);
        }
        self.sink.data(offset, bytes)
    }

    fn mark(&mut self, mark: &Incomplete) -> SourceResult<()> {
        self.sink.mark(mark)
    }

    fn discard(&mut self) -> SourceResult<()> {
        self.blob = None;
        self.sink.discard()
    }

    fn end(&mut self) -> SourceResult<()> {
        if let Some((blob, size)) = self.blob.take() {
            let name = blob.name.clone();
            if !blob.holds(size) {
                let why = format!("blob {name} is not what its name says");
                self.wrong = Some(why.clone());
                return Err(SourceError::Refused(why));
            }
        }
        self.sink.end()
    }

    fn unchanged(&mut self, entry: Entry) -> SourceResult<()> {
        self.sink.unchanged(entry)
    }

    fn meta(&mut self, key: &str, value: &str) -> SourceResult<()> {
        self.sink.meta(key, value)
    }
}
