//! Writing files so that what was acknowledged survives the loss of power, and nothing is ever seen half-written.
//!
//! The rules, in one place: a file is synced before its name is given, the directory is synced after; a name is
//! replaced only by renaming a whole, synced file over it; after a failed write or sync the handle is finished,
//! because what the kernel then holds is unknown, and only reopening tells.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use crate::edge;
use crate::store::StoreError;

/// Prefix of files that are not yet what they will be. Left behind only by a crash; swept at the next open.
pub const TEMPORARY: &str = ".tmp-";
/// Directories that this crate makes are for their owner only.
const DIR_MODE: u32 = 0o700;

/// A name for a temporary file that no other thread or process uses.
pub(crate) fn temporary_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{TEMPORARY}{}-{number}", std::process::id())
}

/// Flags that refuse to follow a symbolic link in the last part of a path.
pub(crate) fn no_follow() -> i32 {
    (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits() as i32
}

/// Opens a file for reading, refusing a symbolic link.
pub fn open_read(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(no_follow())
        .open(path)
}

/// Reads a whole file of at most `limit` bytes. A longer one is an error, so that nobody's file fills memory.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_read(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let why = format!("{} is longer than {limit} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(bytes)
}

/// Makes the names in a directory durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    let flags = (OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC).bits() as i32;
    let dir = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    edge::at("dir.sync", || dir.sync_all())
}

/// Makes a directory and those above it, each durable in its parent. One that exists is made durable too: an earlier
/// run may have died between making and syncing it.
pub fn create_dir(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    match DirBuilder::new().mode(DIR_MODE).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create_dir(parent.ok_or(e)?)?;
            match DirBuilder::new().mode(DIR_MODE).create(path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Err(e) => return Err(e),
    }
    parent.map_or(Ok(()), sync_dir)
}

/// Replaces `path` by a file of `bytes`, for its owner only: after a crash either the old or the new one is there, whole.
///
/// On an error either may be there.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = parent_of(path)?;
    let temporary = dir.join(temporary_name());
    let written = write_synced(&temporary, bytes, 0o600)
        .and_then(|_| edge::at("file.rename", || fs::rename(&temporary, path)))
        .and_then(|()| sync_dir(dir));
    if written.is_err() {
        // Best effort: what stays is swept at the next open.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Gives a whole, synced file of `bytes` the name `path`, unless that name is taken. `prepare` sees the open file
/// before it is synced, to set what belongs to it. Returns whether it was created; an existing file is left alone.
pub(crate) fn create_once(
    path: &Path,
    scratch: &Path,
    bytes: &[u8],
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<bool> {
    let temporary = scratch.join(temporary_name());
    let created = (|| {
        let mut file = create(&temporary, 0o600)?;
        edge::at("object.write", || file.write_all(bytes))?;
        prepare(&file)?;
        file.set_permissions(fs::Permissions::from_mode(0o400))?;
        edge::at("object.sync", || file.sync_all())?;
        match edge::at("object.link", || fs::hard_link(&temporary, path)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        }
    })();
    let _ = fs::remove_file(&temporary);
    if created? {
        sync_dir(parent_of(path)?)?;
        return Ok(true);
    }
    Ok(false)
}

/// Replaces a damaged read-only file by one of `bytes`, whole and synced. `scratch` is on the same file system.
pub(crate) fn replace(path: &Path, scratch: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = scratch.join(temporary_name());
    let written = write_synced(&temporary, bytes, 0o400)
        .and_then(|()| edge::at("file.rename", || fs::rename(&temporary, path)))
        .and_then(|()| sync_dir(parent_of(path)?));
    if written.is_err() {
        // Best effort: what stays is swept at the next open.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Removes what crashes left behind in `dir`. Only for the one process that holds the lock over it.
pub(crate) fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn parent_of(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(no_follow())
        .open(path)
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = create(path, mode)?;
    edge::at("file.write", || file.write_all(bytes))?;
    edge::at("file.sync", || file.sync_all())
}

/// A file that only grows at its end, synced in groups.
///
/// `append` promises nothing until `sync` returns. After an error of either the handle is finished: every further
/// call says so, and only opening the file anew, by whoever knows how to recover it, goes on.
#[derive(Debug)]
pub struct Appender {
    file: File,
    path: PathBuf,
    length: u64,
    synced: u64,
    finished: bool,
    edges: (&'static str, &'static str),
}

impl Appender {
    /// Opens `path` for appending at `length`, creating it if it is absent and cutting off anything beyond. The name
    /// and the cut are durable on return. `edges` are the failpoints of append and sync.
    pub fn open(
        path: &Path,
        length: u64,
        edges: (&'static str, &'static str),
    ) -> Result<Appender, StoreError> {
        let failed = |e| StoreError::io(format!("open {}", path.display()), e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(no_follow())
            .open(path)
            .map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if found < length {
            let why = format!("{found} bytes, fewer than the {length} that were acknowledged");
            return Err(StoreError::Damaged {
                what: path.display().to_string(),
                why,
            });
        }
        if found > length {
            file.set_len(length).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        sync_dir(parent_of(path).map_err(failed)?).map_err(failed)?;
        let path = path.to_owned();
        Ok(Appender {
            file,
            path,
            length,
            synced: length,
            finished: false,
            edges,
        })
    }

    /// Bytes appended so far, synced or not.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that survive power loss.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Writes `bytes` at the end.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.usable()?;
        let (file, at) = (&self.file, self.length);
        let written = edge::at(self.edges.0, || file.write_all_at(bytes, at));
        self.check("append to", written)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.usable()?;
        if self.synced == self.length {
            return Ok(());
        }
        let file = &self.file;
        let synced = edge::at(self.edges.1, || file.sync_data());
        self.check("sync", synced)?;
        self.synced = self.length;
        Ok(())
    }

    /// Cuts off what is not known to be synced, and makes the cut durable. For a handle that is finished: after a failed
    /// sync the kernel may show bytes, and call them clean, that no disk holds.
    pub(crate) fn cut(&self) -> io::Result<()> {
        self.file.set_len(self.synced)?;
        self.file.sync_all()
    }

    /// Reads back exactly `range.end - range.start` bytes.
    pub fn read(&self, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    fn usable(&self) -> Result<(), StoreError> {
        if self.finished {
            return Err(StoreError::Finished {
                what: self.path.display().to_string(),
            });
        }
        Ok(())
    }

    fn check(&mut self, verb: &str, result: io::Result<()>) -> Result<(), StoreError> {
        result.map_err(|e| {
            self.finished = true;
            StoreError::io(format!("{verb} {}", self.path.display()), e)
        })
    }
}

#[cfg(test)]
mod tests;
