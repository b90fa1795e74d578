//! Writes a tree into an empty directory. Every name is opened relative to a directory that was itself opened without
//! following links, so nothing in a version, however hostile, can lead a write out of the target.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use legation_core::manifest::{Entry, EntryKind, Mtime, RESERVED};
use legation_core::source::{Restorer, SourceError, SourceResult};
use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    futimens, linkat, mkdirat, mknodat, openat, symlinkat, syncfs, utimensat,
};
use rustix::io::Errno;

use super::xattrs;
use crate::error::Context;
use crate::{Error, Result};

/// What could not be given back as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Entries made.
    pub entries: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Path and reason, for what was left out or could not be made equal: owners without root, attributes that the
    /// file system refuses, devices.
    pub left_out: Vec<(Vec<u8>, String)>,
    /// Path and reason, for what the version itself says is not what the source held.
    pub incomplete: Vec<(Vec<u8>, String)>,
}

/// A [`Restorer`] into a directory; call [`TreeRestorer::finish`] at the end.
#[derive(Debug)]
pub struct TreeRestorer {
    target: PathBuf,
    top: OwnedFd,
    /// The directory that was used last, with its path.
    parent: Option<(Vec<u8>, OwnedFd)>,
    open: Option<OpenFile>,
    /// Directories get their attributes last: writing into them changes their times, and may need more rights than
    /// they will have.
    directories: Vec<Entry>,
    as_root: bool,
    keep_privileges: bool,
    report: RestoreReport,
}

#[derive(Debug)]
struct OpenFile {
    entry: Entry,
    file: Option<File>,
}

impl TreeRestorer {
    /// Begins in `target`, which must be empty; it is made if it is absent.
    pub fn new(target: &Path) -> Result<Self> {
        let shown = || target.display().to_string();
        match std::fs::DirBuilder::new().mode(0o700).create(target) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.at(shown)?,
        }
        let top = rustix::fs::open(target, DIRECTORY, Mode::empty()).at(shown)?;
        for entry in Dir::read_from(&top).at(shown)? {
            let entry = entry.at(shown)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Err(Error::refused(
                    format!(
                        "{} is not empty: it holds {:?}",
                        target.display(),
                        entry.file_name()
                    ),
                    "name a directory that is empty or not there yet",
                ));
            }
        }
        // Until it gets its own mode at the end: what lies in it may have been closed to others by this directory alone.
        fchmod(&top, Mode::RWXU).at(shown)?;
        Ok(TreeRestorer {
            target: target.into(),
            top,
            parent: None,
            open: None,
            directories: Vec::new(),
            as_root: rustix::process::geteuid().is_root(),
            keep_privileges: false,
            report: RestoreReport::default(),
        })
    }

    /// Gives files back with what lets a program run as somebody else: setuid and setgid bits, and capabilities. They
    /// are left out otherwise: whoever wrote the version would choose what runs as root here.
    #[must_use]
    pub fn keep_privileges(mut self) -> Self {
        self.keep_privileges = true;
        self
    }

    /// Gives the directories their attributes, the deepest first, and makes everything durable.
    pub fn finish(mut self) -> Result<RestoreReport> {
        if let Some(open) = &self.open {
            return Err(Error::malformed(
                "restore",
                format!("{} was not ended", display(&open.entry.path)),
            ));
        }
        self.parent = None;
        for entry in std::mem::take(&mut self.directories).into_iter().rev() {
            self.settle_directory(&entry)
                .map_err(|e| Error::io(self.shown(&entry.path), e))?;
        }
        syncfs(&self.top).at(|| self.target.display().to_string())?;
        Ok(self.report)
    }

    fn settle_directory(&mut self, entry: &Entry) -> rustix::io::Result<()> {
        let fd = if entry.path.is_empty() {
            rustix::fs::open(&self.target, DIRECTORY, Mode::empty())?
        } else {
            let (parent, name) = split(&entry.path);
            let dir = self.directory(parent)?;
            openat(dir, name, DIRECTORY, Mode::empty())?
        };
        self.parent = None;
        self.attributes(&fd, entry)
    }

    /// Owner, mode, attributes and times of something open, in the order in which one does not undo another.
    fn attributes(&mut self, fd: &OwnedFd, entry: &Entry) -> rustix::io::Result<()> {
        if self.as_root {
            fchown(fd, uid(entry.uid), gid(entry.gid))?;
        }
        // While the file is still writable: without root an attribute of a user needs that.
        let (mode, attributes) = self.privileges(entry);
        let refused = xattrs::set_fd(fd.as_fd(), &attributes);
        self.refused(&entry.path, refused);
        fchmod(fd, mode)?;
        futimens(fd, &times(entry.mtime))
    }

    /// The mode and the attributes that an entry gets.
    fn privileges<'a>(&mut self, entry: &'a Entry) -> (Mode, Cow<'a, xattrs::Xattrs>) {
        let mut mode = entry.mode & 0o7777;
        let mut attributes = Cow::Borrowed(&entry.xattrs);
        if entry.incomplete().is_some() {
            attributes
                .to_mut()
                .retain(|name, _| !name.starts_with(RESERVED));
        }
        // On a directory the bits say what group new files get, and grant nothing.
        if self.keep_privileges || entry.kind == EntryKind::Dir {
            return (Mode::from_raw_mode(mode), attributes);
        }
        let mut leave_out = |what: &str| {
            let why = format!("{what} was left out: it would let others act as its owner");
            self.report.left_out.push((entry.path.clone(), why));
        };
        if mode & SET_ID != 0 {
            mode &= !SET_ID;
            leave_out("the setuid or setgid bit");
        }
        if attributes.contains_key(CAPABILITY) {
            attributes.to_mut().remove(CAPABILITY);
            leave_out("the attribute security.capability");
        }
        (Mode::from_raw_mode(mode), attributes)
    }

    fn refused(&mut self, path: &[u8], names: Vec<Vec<u8>>) {
        for name in names {
            self.report.left_out.push((
                path.to_vec(),
                format!("attribute {} was refused", display(&name)),
            ));
        }
    }

    /// Opens the directory at `path` from the top down, following no link; remembers the last one.
    fn directory(&mut self, path: &[u8]) -> rustix::io::Result<&OwnedFd> {
        if path.is_empty() {
            return Ok(&self.top);
        }
        if self.parent.as_ref().is_none_or(|(last, _)| last != path) {
            let mut dir: Option<OwnedFd> = None;
            for part in path.split(|b| *b == b'/') {
                let from = dir.as_ref().unwrap_or(&self.top);
                dir = Some(openat(from, checked(part)?, DIRECTORY, Mode::empty())?);
            }
            self.parent = dir.map(|dir| (path.to_vec(), dir));
        }
        match &self.parent {
            Some((_, dir)) => Ok(dir),
            None => Ok(&self.top),
        }
    }

    fn make(&mut self, entry: &Entry) -> rustix::io::Result<Option<File>> {
        if entry.path.is_empty() {
            if entry.kind != EntryKind::Dir {
                return Err(Errno::INVAL);
            }
            self.directories.push(entry.clone());
            return Ok(None);
        }
        let (parent, name) = split(&entry.path);
        let name = checked(name)?;
        if entry.is_name_only() {
            // An empty file would pass for what is not there.
            return Ok(None);
        }
        let private = Mode::RUSR | Mode::WUSR;
        match &entry.kind {
            EntryKind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = File::from(openat(self.directory(parent)?, name, flags, private)?);
                rustix::fs::ftruncate(&file, entry.size)?;
                return Ok(Some(file));
            }
            EntryKind::Dir => {
                mkdirat(self.directory(parent)?, name, Mode::RWXU)?;
                self.directories.push(entry.clone());
                return Ok(None);
            }
            EntryKind::Symlink { target } => {
                symlinkat(target.as_slice(), self.directory(parent)?, name)?
            }
            EntryKind::Hardlink { target } => {
                let (from, original) = split(target);
                let original = checked(original)?;
                let from = self
                    .directory(from)?
                    .try_clone()
                    .map_err(|_| Errno::MFILE)?;
                linkat(
                    &from,
                    original,
                    self.directory(parent)?,
                    name,
                    AtFlags::empty(),
                )?;
                // Another name of the same inode: its attributes are set already.
                return Ok(None);
            }
            EntryKind::Fifo => mknodat(self.directory(parent)?, name, FileType::Fifo, private, 0)?,
            EntryKind::Socket => {
                mknodat(self.directory(parent)?, name, FileType::Socket, private, 0)?
            }
            EntryKind::CharDev { .. } | EntryKind::BlockDev { .. } => {
                // A device node is a door to this host, whatever it was at home.
                self.report
                    .left_out
                    .push((entry.path.clone(), "devices are not restored".into()));
                return Ok(None);
            }
        }
        self.attributes_of_name(parent, name, entry)?;
        Ok(None)
    }

    /// As `attributes`, for what must not be opened.
    fn attributes_of_name(
        &mut self,
        parent: &[u8],
        name: &[u8],
        entry: &Entry,
    ) -> rustix::io::Result<()> {
        let as_root = self.as_root;
        let (mode, attributes) = self.privileges(entry);
        let dir = self.directory(parent)?;
        if as_root {
            chownat(
                dir,
                name,
                uid(entry.uid),
                gid(entry.gid),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        if !matches!(entry.kind, EntryKind::Symlink { .. }) {
            // Just made by us, and never a link.
            rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
        }
        let refused = xattrs::set_name(dir.as_fd(), name, &attributes);
        utimensat(dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        self.refused(&entry.path, refused);
        Ok(())
    }

    fn shown(&self, path: &[u8]) -> String {
        format!("{}/{}", self.target.display(), display(path))
    }
}

impl Restorer for TreeRestorer {
    fn begin(&mut self, entry: &Entry) -> SourceResult<()> {
        if let Some(open) = &self.open {
            return Err(SourceError::Refused(format!(
                "{} is still open",
                display(&open.entry.path)
            )));
        }
        let file = self
            .make(entry)
            .map_err(|e| SourceError::io(self.shown(&entry.path), e.into()))?;
        self.report.entries += 1;
        if let Some(mark) = entry.incomplete() {
            let why = mark.to_string();
            self.report.incomplete.push((entry.path.clone(), why));
        }
        self.open = Some(OpenFile {
            entry: entry.clone(),
            file,
        });
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        let Some(OpenFile {
            entry,
            file: Some(file),
        }) = &self.open
        else {
            return Err(SourceError::Refused("data without an open file".into()));
        };
        if offset
            .checked_add(bytes.len() as u64)
            .is_none_or(|end| end > entry.size)
        {
            return Err(SourceError::Refused(format!(
                "data past the end of {}",
                display(&entry.path)
            )));
        }
        file.write_all_at(bytes, offset)
            .map_err(|e| SourceError::io(self.shown(&entry.path), e))?;
        self.report.bytes += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> SourceResult<()> {
        let Some(OpenFile { entry, file }) = self.open.take() else {
            return Err(SourceError::Refused("no entry is open".into()));
        };
        let Some(file) = file else { return Ok(()) };
        self.attributes(&file.into(), &entry)
            .map_err(|e| SourceError::io(self.shown(&entry.path), e.into()))
    }
}

/// Setuid and setgid.
const SET_ID: u32 = 0o6000;
/// Capabilities of a program.
const CAPABILITY: &[u8] = b"security.capability";

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Parent path and last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// A name that stays in its directory.
fn checked(name: &[u8]) -> rustix::io::Result<&[u8]> {
    let bad = matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0);
    if bad { Err(Errno::INVAL) } else { Ok(name) }
}

fn uid(id: u32) -> Option<Uid> {
    Some(Uid::from_raw(id))
}

fn gid(id: u32) -> Option<Gid> {
    Some(Gid::from_raw(id))
}

fn times(mtime: Mtime) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.secs,
        tv_nsec: mtime.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
