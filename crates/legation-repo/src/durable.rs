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

use legation_core::canary::{self, Bug};
use rustix::fs::OFlags;

use crate::disk::{self, Change};
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
    edge::at("dir.sync", || {
        disk::change(path, Change::SyncDir, || dir.sync_all())
    })
}

/// Makes a directory and those above it, each durable in its parent. One that exists is made durable too, and so is the
/// one above it: an earlier run, or an earlier call that failed, may have made it and gone no further.
pub fn create_dir(path: &Path) -> io::Result<()> {
    let above = |path: &Path| {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        parent.map(Path::to_owned)
    };
    let parent = above(path);
    let make = || {
        disk::change(path, Change::MakeDir, || {
            DirBuilder::new().mode(DIR_MODE).create(path)
        })
    };
    match make() {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create_dir(parent.as_deref().ok_or(e)?)?;
            match make() {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Err(e) => return Err(e),
    }
    let Some(parent) = parent else { return Ok(()) };
    sync_dir(&parent)?;
    match above(&parent).map(|grandparent| sync_dir(&grandparent)) {
        // A directory that this user may not read is nobody's work of ours.
        Some(Err(e)) if e.kind() != io::ErrorKind::PermissionDenied => Err(e),
        _ => Ok(()),
    }
}

/// Replaces `path` by a file of `bytes`, for its owner only: after a crash either the old or the new one is there, whole.
///
/// On an error either may be there.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = parent_of(path)?;
    let temporary = dir.join(temporary_name());
    let written = write_synced(&temporary, bytes, 0o600)
        .and_then(|()| rename(&temporary, path))
        .and_then(|()| match canary::planted(Bug::NameNotSynced) {
            true => Ok(()),
            false => sync_dir(dir),
        });
    if written.is_err() {
        // Best effort: what stays is swept at the next open.
        let _ = remove(&temporary);
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
        edge::at("object.write", || {
            disk::change(&temporary, Change::Write(0, bytes), || {
                file.write_all(bytes)
            })
        })?;
        prepare(&file)?;
        file.set_permissions(fs::Permissions::from_mode(0o400))?;
        edge::at("object.sync", || sync_file(&temporary, &file))?;
        let link = || {
            disk::change(&temporary, Change::Link(path), || {
                fs::hard_link(&temporary, path)
            })
        };
        match edge::at("object.link", link) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        }
    })();
    let _ = remove(&temporary);
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
        .and_then(|()| rename(&temporary, path))
        .and_then(|()| sync_dir(parent_of(path)?));
    if written.is_err() {
        // Best effort: what stays is swept at the next open.
        let _ = remove(&temporary);
    }
    written
}

/// Removes what crashes left behind in `dir`. Only for the one process that holds the lock over it.
pub(crate) fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn parent_of(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Removes a file's name.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    disk::change(path, Change::Remove, || fs::remove_file(path))
}

/// Removes a directory with all that is in it.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    disk::change(path, Change::RemoveTree, || fs::remove_dir_all(path))
}

/// Makes the bytes of the file at `path` durable.
pub(crate) fn sync_file(path: &Path, file: &File) -> io::Result<()> {
    disk::change(path, Change::Sync, || file.sync_all())
}

/// Opens a file for reading and writing, with what is in it; creates it if it is absent.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(no_follow())
        .mode(0o600);
    match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            options.create(true);
            disk::change(path, Change::Create, || options.open(path))
        }
        opened => opened,
    }
}

fn cut(path: &Path, file: &File, length: u64) -> io::Result<()> {
    disk::change(path, Change::Cut(length), || file.set_len(length))
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    edge::at("file.rename", || {
        disk::change(from, Change::Rename(to), || fs::rename(from, to))
    })
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    disk::change(path, Change::Create, || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .custom_flags(no_follow())
            .open(path)
    })
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = create(path, mode)?;
    edge::at("file.write", || {
        disk::change(path, Change::Write(0, bytes), || file.write_all(bytes))
    })?;
    edge::at("file.sync", || sync_file(path, &file))
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
        let file = open_or_create(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if found < length {
            let why = format!("{found} bytes, fewer than the {length} that were acknowledged");
            return Err(StoreError::Damaged {
                what: path.display().to_string(),
                why,
            });
        }
        if found > length {
            cut(path, &file, length).map_err(failed)?;
        }
        sync_file(path, &file).map_err(failed)?;
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
        let write = || {
            disk::change(&self.path, Change::Write(at, bytes), || {
                file.write_all_at(bytes, at)
            })
        };
        let written = edge::at(self.edges.0, write);
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
        let synced = edge::at(self.edges.1, || {
            disk::change(&self.path, Change::Sync, || file.sync_data())
        });
        self.check("sync", synced)?;
        self.synced = self.length;
        Ok(())
    }

    /// Cuts off what is not known to be synced, and makes the cut durable. For a handle that is finished: after a failed
    /// sync the kernel may show bytes, and call them clean, that no disk holds.
    pub(crate) fn cut(&self) -> io::Result<()> {
        cut(&self.path, &self.file, self.synced)?;
        sync_file(&self.path, &self.file)
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
