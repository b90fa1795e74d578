//! A store in a local directory: one read-only file an object, made durable before it is acknowledged.
//!
//! `pack/6e/6e1f….` beside `pack/6e/6e1f….tree`, its outboard. An object is written under a temporary name, synced,
//! given its name by a hard link (which never replaces), and the directory is synced. See `spec/store.md`.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use legation_core::id::Digest;

use crate::durable::{self, no_follow};
use crate::outboard::Outboard;
use crate::store::{Capabilities, Kind, MAX_LIST, MAX_OBJECT, Put, RetainUntil, Store, StoreError};

/// Extended attribute that records until when an object must stay, in decimal seconds or `forever`.
pub const RETAIN_XATTR: &str = "user.legation.retain-until";
/// Suffix of an object's outboard.
pub const OUTBOARD_SUFFIX: &str = ".tree";
const SCRATCH: &str = "tmp";

/// A [`Store`] in a directory.
#[derive(Debug)]
pub struct DirStore {
    root: PathBuf,
    writable: bool,
    xattr: bool,
    /// Fan-out directories whose own name this process has made durable.
    made: Mutex<HashSet<PathBuf>>,
}

impl DirStore {
    /// Opens or creates a store for writing. The caller holds the lock that makes this process the only writer.
    pub fn create(root: &Path) -> Result<DirStore, StoreError> {
        let failed = |e| StoreError::io(format!("open store {}", root.display()), e);
        let scratch = root.join(SCRATCH);
        for dir in Kind::ALL
            .map(|k| root.join(k.as_str()))
            .iter()
            .chain([&scratch])
        {
            durable::create_dir(dir).map_err(failed)?;
        }
        durable::sweep(&scratch).map_err(failed)?;
        let xattr = probe_xattr(&scratch).map_err(failed)?;
        Ok(DirStore {
            root: root.to_owned(),
            writable: true,
            xattr,
            made: Mutex::default(),
        })
    }

    /// Opens an existing store for reading; [`Store::put`] is refused. Needs no lock.
    pub fn open_reader(root: &Path) -> Result<DirStore, StoreError> {
        if !root.is_dir() {
            return Err(StoreError::NotFound {
                what: format!("store at {}", root.display()),
            });
        }
        Ok(DirStore {
            root: root.to_owned(),
            writable: false,
            xattr: false,
            made: Mutex::default(),
        })
    }

    /// The file of an object, whether or not it exists.
    pub fn path(&self, kind: Kind, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join(kind.as_str()).join(&name[..2]).join(name)
    }

    /// Until when an object must stay; `None` where that is not recorded.
    pub fn retain_until(
        &self,
        kind: Kind,
        digest: &Digest,
    ) -> Result<Option<RetainUntil>, StoreError> {
        recorded(&self.path(kind, digest))
            .map_err(|e| failed("read the retention of", kind, digest, e))
    }

    /// Directories of a kind that hold objects, in ascending order.
    fn fans(&self, kind: Kind) -> io::Result<Vec<PathBuf>> {
        let mut fans = Vec::new();
        for entry in fs::read_dir(self.root.join(kind.as_str()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name().len() == 2 {
                fans.push(entry.path());
            }
        }
        fans.sort();
        Ok(fans)
    }

    fn make_fan(&self, path: &Path) -> io::Result<()> {
        let Some(fan) = path.parent() else {
            return Ok(());
        };
        // Held while making: another thread must not use a directory that may still vanish.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.contains(fan) {
            durable::create_dir(fan)?;
            made.insert(fan.to_owned());
        }
        Ok(())
    }

    fn create_file(
        &self,
        path: &Path,
        bytes: &[u8],
        retain: Option<RetainUntil>,
    ) -> io::Result<bool> {
        durable::create_once(path, &self.root.join(SCRATCH), bytes, |file| match retain {
            Some(until) if self.xattr => record(file, until),
            _ => Ok(()),
        })
    }

    /// The name was taken: make sure by what, and that it stays.
    fn confirm(&self, path: &Path, bytes: &[u8], retain: Option<RetainUntil>) -> io::Result<bool> {
        let file = durable::open_read(path)?;
        if file.metadata()?.len() != bytes.len() as u64 {
            return Ok(false);
        }
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, 0)?;
        if found != bytes {
            return Ok(false);
        }
        if let (Some(until), true) = (retain, self.xattr)
            && recorded(path)?.is_none_or(|standing| standing < until)
        {
            // Setting an attribute needs the owner's write bit for a moment; the bytes stay what they are.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            let set = record(&file, until);
            file.set_permissions(fs::Permissions::from_mode(0o400))?;
            set?;
        }
        durable::sync_file(path, &file)?;
        path.parent().map_or(Ok(()), durable::sync_dir)?;
        Ok(true)
    }
}

impl Store for DirStore {
    fn put(
        &self,
        kind: Kind,
        digest: &Digest,
        bytes: &[u8],
        retain_until: RetainUntil,
    ) -> Result<Put, StoreError> {
        let what = || format!("{kind} {digest}");
        let refused = |why: String| StoreError::Refused { what: what(), why };
        if !self.writable {
            return Err(refused("this store was opened for reading".to_owned()));
        }
        if bytes.len() as u64 > MAX_OBJECT {
            return Err(refused(format!(
                "{} bytes, more than any object has",
                bytes.len()
            )));
        }
        let (found, outboard) = Outboard::of(bytes);
        if found != *digest {
            return Err(refused(format!("its bytes are those of {found}")));
        }
        let failed = |e| failed("write", kind, digest, e);
        let path = self.path(kind, digest);
        self.make_fan(&path).map_err(failed)?;
        // The outboard first: an object that is there has its outboard.
        if let Some(outboard) = outboard {
            let beside = beside(&path);
            let encoded = outboard.encode();
            if !self.create_file(&beside, &encoded, None).map_err(failed)?
                && !self.confirm(&beside, &encoded, None).map_err(failed)?
            {
                return Err(StoreError::Conflict {
                    what: format!("outboard of {}", what()),
                });
            }
        }
        let retain = Some(retain_until);
        if self.create_file(&path, bytes, retain).map_err(failed)? {
            return Ok(Put::Created);
        }
        if self.confirm(&path, bytes, retain).map_err(failed)? {
            return Ok(Put::Existing);
        }
        Err(StoreError::Conflict { what: what() })
    }

    fn get(&self, kind: Kind, digest: &Digest, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let failed = |e| failed("read", kind, digest, e);
        let file = durable::open_read(&self.path(kind, digest)).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        if range.start > range.end || range.end > size || range.end - range.start > MAX_OBJECT {
            let what = format!("{kind} {digest}");
            return Err(StoreError::OutOfRange {
                what,
                start: range.start,
                end: range.end,
                size,
            });
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)
            .map_err(failed)?;
        Ok(bytes)
    }

    fn size(&self, kind: Kind, digest: &Digest) -> Result<u64, StoreError> {
        let failed = |e| failed("look at", kind, digest, e);
        let found = fs::symlink_metadata(self.path(kind, digest)).map_err(failed)?;
        if !found.is_file() {
            let why = "it is not a regular file".to_owned();
            return Err(StoreError::Damaged {
                what: format!("{kind} {digest}"),
                why,
            });
        }
        Ok(found.len())
    }

    fn list(
        &self,
        kind: Kind,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, StoreError> {
        let failed = |e| StoreError::io(format!("list {kind}s"), e);
        let limit = limit.min(MAX_LIST);
        let first = after
            .map(|d| d.to_string()[..2].to_owned())
            .unwrap_or_default();
        let mut found = Vec::new();
        for fan in self.fans(kind).map_err(failed)? {
            if found.len() >= limit {
                break;
            }
            if fan.file_name().is_some_and(|name| *name < *first.as_str()) {
                continue;
            }
            let mut names = Vec::new();
            for entry in fs::read_dir(&fan).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                let digest = name.to_str().and_then(|n| n.parse::<Digest>().ok());
                names.extend(digest.filter(|d| after.is_none_or(|a| d > a)));
            }
            names.sort();
            found.extend(names);
        }
        found.truncate(limit);
        Ok(found)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backing: "dir",
            durable: true,
            retention_recorded: self.xattr,
            retention_enforced: false,
        }
    }
}

/// The outboard's file, beside an object's.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(OUTBOARD_SUFFIX);
    PathBuf::from(name)
}

fn failed(verb: &str, kind: Kind, digest: &Digest, e: io::Error) -> StoreError {
    if e.kind() == io::ErrorKind::NotFound {
        return StoreError::NotFound {
            what: format!("{kind} {digest}"),
        };
    }
    StoreError::io(format!("{verb} {kind} {digest}"), e)
}

fn record(file: &File, until: RetainUntil) -> io::Result<()> {
    let value = until.to_string();
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::fsetxattr(
        file,
        RETAIN_XATTR,
        value.as_bytes(),
        flags,
    )?)
}

fn recorded(path: &Path) -> io::Result<Option<RetainUntil>> {
    let file = durable::open_read(path)?;
    let mut value = [0u8; 32];
    match rustix::fs::fgetxattr(&file, RETAIN_XATTR, &mut value[..]) {
        Ok(length) => {
            let text = value
                .get(..length)
                .and_then(|v| std::str::from_utf8(v).ok());
            Ok(text.and_then(|t| t.parse().ok()))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether this file system keeps extended attributes, by trying.
fn probe_xattr(scratch: &Path) -> io::Result<bool> {
    let path = scratch.join(format!(
        "{}probe-{}",
        durable::TEMPORARY,
        std::process::id()
    ));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(no_follow())
        .open(&path)?;
    let kept = record(&file, RetainUntil::FOREVER).is_ok()
        && recorded(&path).is_ok_and(|found| found == Some(RetainUntil::FOREVER));
    fs::remove_file(&path)?;
    Ok(kept)
}

#[cfg(test)]
mod tests;
