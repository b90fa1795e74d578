//! Volumes and disk images of machines, through a snapshot of one moment; archives of software; and container images
//! in directories, each blob checked against its name.

pub mod oci;
pub mod snapshot;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use legation_core::id::Digest;
use legation_core::manifest::{Entry, EntryKind, Extents, Mtime};
use legation_core::source::Sink;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, fstat, seek};

use crate::error::Context;
use crate::tree::Stat;
use crate::tree::holes::{Reading, next_data};
use crate::{Error, Result};

pub use snapshot::Snapshot;

/// A stretch of an image that is all zeros is a hole of the version, wherever it begins at a multiple of this.
const BLOCK: usize = 64 * 1024;

/// How an image changes between versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// In place: blocks that did not change are found where they were.
    Disk,
    /// What comes first moves what comes later: stretches are found wherever they are.
    Archive,
}

/// What one capture took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReport {
    /// The length of the image.
    pub size: u64,
    /// The digest of what is in it and where.
    pub digest: Digest,
    /// How the image itself looked, if it may be trusted next time.
    pub stat: Option<Stat>,
}

/// How the image at `path` looks, if that tells that it did not change: of a device it does not.
///
/// # Errors
/// When it cannot be looked at.
pub fn look(path: &Path) -> Result<Option<Stat>> {
    let stat = rustix::fs::stat(path).at(|| path.display().to_string())?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let seen = Stat::of(&stat);
    Ok((is_file && seen.settled(SystemTime::now())).then_some(seen))
}

/// What the image is called in its version.
///
/// # Errors
/// `Refused` for a path that ends in no name.
pub fn name(path: &Path) -> Result<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let name = path.file_name().map(|name| name.as_bytes().to_vec());
    name.ok_or_else(|| {
        Error::refused(
            format!("{} names no image", path.display()),
            "name its file",
        )
    })
}

/// Captures the image at `path` through a snapshot, which is removed before this returns. `marker` is a file of ours
/// that says while there is one how it is removed: what a kill left behind goes with the next capture, or with
/// [`snapshot::clean`].
///
/// # Errors
/// `Refused` when there is no snapshot to be had, or what is read changes under the hands; the system's reasons. No
/// version must then be made of what the sink was given.
pub fn capture(
    path: &Path,
    shape: Shape,
    how: &Snapshot,
    marker: &Path,
    sink: &mut dyn Sink,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<ImageReport> {
    let name = name(path)?;
    // Before the snapshot: a change after this moment is one that the next capture takes.
    let stat = look(path)?;
    let held = how.take(path, marker, stop)?;
    let read = read(path, &held.path, name, shape, sink, stop);
    held.remove();
    let (size, digest) = read?;
    Ok(ImageReport { size, digest, stat })
}

/// Reads the snapshot and gives what is not zero to the sink.
fn read(
    path: &Path,
    from: &PathBuf,
    name: Vec<u8>,
    shape: Shape,
    sink: &mut dyn Sink,
    stop: &dyn Fn() -> bool,
) -> Result<(u64, Digest)> {
    let shown = || from.display().to_string();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(from, flags, Mode::empty()).at(shown)?;
    let before = fstat(&fd).at(shown)?;
    let (size, sparse) = match FileType::from_raw_mode(before.st_mode) {
        FileType::RegularFile => (before.st_size as u64, true),
        FileType::BlockDevice => (seek(&fd, SeekFrom::End(0)).at(shown)?, false),
        _ => {
            return Err(Error::refused(
                format!("{} is neither a file nor a block device", shown()),
                "name the volume or the image file",
            ));
        }
    };
    // Owner and times are the image's own; of a snapshot they are whoever's made it.
    let own = rustix::fs::stat(path).at(|| path.display().to_string())?;
    let entry = Entry {
        path: name,
        kind: EntryKind::File,
        mode: own.st_mode & 0o777,
        uid: own.st_uid,
        gid: own.st_gid,
        mtime: Mtime {
            secs: own.st_mtime,
            nanos: own.st_mtime_nsec as u32,
        },
        size,
        xattrs: Default::default(),
        extents: Extents::default(),
    };
    match shape {
        Shape::Disk => {
            sink.begin(entry)?;
            // All of it comes as data: what did not change is found by comparing.
            sink.in_place()?;
        }
        Shape::Archive => sink.begin_shifting(entry)?,
    }
    let file = File::from(fd);
    let mut reading = Reading::default();
    for_each_block(&file, size, sparse, &mut |offset, bytes| {
        if stop() {
            return Err(Error::Stopped);
        }
        if bytes.iter().any(|byte| *byte != 0) {
            reading.add(offset, bytes);
            sink.data(offset, bytes)?;
        }
        Ok(())
    })?;
    if sparse && Stat::of(&fstat(&file).at(shown)?) != Stat::of(&before) {
        return Err(Error::refused(
            format!("{} changed while it was read", shown()),
            "let it rest while it is captured, or give it a snapshot",
        ));
    }
    sink.end()?;
    Ok((size, reading.digest()))
}

/// Calls `block` for every block that is not wholly a hole, each from a multiple of [`BLOCK`] on.
fn for_each_block(
    file: &File,
    size: u64,
    sparse: bool,
    block: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let io = |e: io::Error| Error::io("read", e);
    let mut buffer = vec![0; BLOCK];
    let mut at = 0;
    while at < size {
        if sparse {
            let (from, _) = next_data(file, at, size).map_err(|e| io(e.into()))?;
            // Holes end where the file system's own blocks do, which may be smaller.
            at = at.max(from - from % BLOCK as u64);
            if from >= size {
                break;
            }
        }
        let want = (BLOCK as u64).min(size - at) as usize;
        let mut got = 0;
        while got < want {
            match file.read_at(&mut buffer[got..want], at + got as u64) {
                // Shorter than it was: the caller notices by the times.
                Ok(0) => break,
                Ok(more) => got += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(io(e)),
            }
        }
        buffer[got..want].fill(0);
        block(at, &buffer[..want])?;
        at += want as u64;
    }
    Ok(())
}
