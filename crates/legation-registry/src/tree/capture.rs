//! The walk: sorted, never through a link, one pass. Files that the parent version knows under the same size, times
//! and inode are not read again.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime};

use legation_core::manifest::{Entry, EntryKind, Extents, MAX_PATH, Mtime};
use legation_core::source::Sink;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::holes::for_each_part;
use super::parent::{Parent, Stat};
use super::xattrs;
use crate::error::Context;
use crate::{Error, Result};

/// Files up to this size are read whole before the sink hears of them, so that a torn read is repeated unseen.
const BUFFERED: u64 = 4 << 20;
/// How often a file that changes under our hands is read again.
const TRIES: u32 = 3;
/// Each level keeps a directory open; deeper trees are reported, not followed.
const MAX_DEPTH: usize = 512;

/// Something that could not be captured as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// Its path in the tree.
    pub path: Vec<u8>,
    /// Why.
    pub why: String,
}

/// What one walk captured.
#[derive(Debug, Clone, Default)]
pub struct TreeReport {
    /// Entries given to the sink.
    pub entries: u64,
    /// Files among them that the parent version had already.
    pub unchanged: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The state of each captured file that may be trusted next time: keep it beside the version's entries.
    pub stats: Vec<(Vec<u8>, Stat)>,
    /// What is missing or torn; a version with any is not complete, and whoever takes it must say so.
    pub incomplete: Vec<Incomplete>,
}

/// Walks `root` and gives every entry to `sink`, the top directory first under the empty path.
///
/// Fails only if the top cannot be read, the sink fails or `stop` becomes true; all else ends in
/// [`TreeReport::incomplete`]. Links are never followed; fifos, sockets and devices are never opened.
pub fn capture(
    root: &Path,
    parent: &dyn Parent,
    sink: &mut dyn Sink,
    stop: &dyn Fn() -> bool,
) -> Result<TreeReport> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let top = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| match e {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::refused(
            format!(
                "{} is not a directory: {}",
                root.display(),
                io::Error::from(e)
            ),
            "name the directory itself, not a link to it",
        ),
        e => Error::io(root.display().to_string(), e),
    })?;
    let stat = fstat(&top).at(|| root.display().to_string())?;
    let mut walk = Walk {
        parent,
        sink,
        stop,
        began: SystemTime::now(),
        links: HashMap::new(),
        report: TreeReport::default(),
    };
    let entry = walk.entry(
        Vec::new(),
        EntryKind::Dir,
        &stat,
        xattrs::of_fd(top.as_fd()).at(|| root.display().to_string())?,
    );
    walk.emit(entry)?;
    walk.directory(&top, &mut Vec::new(), 0)?;
    Ok(walk.report)
}

struct Walk<'a> {
    parent: &'a dyn Parent,
    sink: &'a mut dyn Sink,
    stop: &'a dyn Fn() -> bool,
    began: SystemTime,
    /// The first path of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    report: TreeReport,
}

/// What became of one attempt to read a file.
enum Attempt {
    Done,
    Changed,
    Gone,
}

impl Walk<'_> {
    fn directory(&mut self, dir: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<()> {
        let names = match names(dir) {
            Ok(names) => names,
            Err(e) => {
                self.incomplete(
                    path,
                    format!("the directory cannot be read: {}", io::Error::from(e)),
                );
                return Ok(());
            }
        };
        for name in names {
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            if path.len() > MAX_PATH {
                self.incomplete(path, format!("its path is longer than {MAX_PATH} bytes"));
            } else {
                self.name(dir.as_fd(), &name, path, depth)?;
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn name(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed since the directory was listed: it is as if we had come a moment later.
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return self.give_up(path, e),
        };
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if file_type != FileType::Directory && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(target) = self.links.get(&key).cloned() {
                let entry = self.entry(
                    path.clone(),
                    EntryKind::Hardlink { target },
                    &stat,
                    BTreeMap::new(),
                );
                return self.emit(entry);
            }
        }
        let captured = match file_type {
            FileType::RegularFile => self.file(dir, name, path, &stat)?,
            FileType::Directory => return self.subdirectory(dir, name, path, depth),
            FileType::Symlink => match readlinkat(dir, name, Vec::new()) {
                Ok(target) => self.special(
                    dir,
                    name,
                    path,
                    &stat,
                    EntryKind::Symlink {
                        target: target.into_bytes(),
                    },
                )?,
                Err(Errno::NOENT) => false,
                Err(e) => return self.give_up(path, e),
            },
            FileType::Fifo => self.special(dir, name, path, &stat, EntryKind::Fifo)?,
            FileType::Socket => self.special(dir, name, path, &stat, EntryKind::Socket)?,
            FileType::CharacterDevice => self.special(
                dir,
                name,
                path,
                &stat,
                EntryKind::CharDev { rdev: stat.st_rdev },
            )?,
            FileType::BlockDevice => self.special(
                dir,
                name,
                path,
                &stat,
                EntryKind::BlockDev { rdev: stat.st_rdev },
            )?,
            _ => {
                self.incomplete(path, "its kind is not known".into());
                false
            }
        };
        // Only a name that is in the version can be the target of later ones.
        if captured && stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        Ok(())
    }

    fn subdirectory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = openat(dir, name, flags, Mode::empty()).and_then(|fd| {
            let stat = fstat(&fd)?;
            let attributes = xattrs::of_fd(fd.as_fd())?;
            Ok((fd, stat, attributes))
        });
        let (fd, stat, attributes) = match opened {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return self.give_up(path, e),
        };
        let entry = self.entry(path.clone(), EntryKind::Dir, &stat, attributes);
        self.emit(entry)?;
        if depth >= MAX_DEPTH {
            self.incomplete(path, format!("it lies deeper than {MAX_DEPTH} directories"));
            return Ok(());
        }
        self.directory(&fd, path, depth + 1)
    }

    /// Links, fifos, sockets and devices: what is in them is not ours to read.
    fn special(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        stat: &rustix::fs::Stat,
        kind: EntryKind,
    ) -> Result<bool> {
        let attributes = match xattrs::of_name(dir, name) {
            Ok(attributes) => attributes,
            Err(e) => {
                self.incomplete(
                    path,
                    format!(
                        "its extended attributes cannot be read: {}",
                        io::Error::from(e)
                    ),
                );
                BTreeMap::new()
            }
        };
        let entry = self.entry(path.to_vec(), kind, stat, attributes);
        self.emit(entry)?;
        Ok(true)
    }

    /// Captures a regular file; true if it is in the version now.
    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        seen: &rustix::fs::Stat,
    ) -> Result<bool> {
        let now = Stat::of(seen);
        if self.parent.stat(path) == Some(now)
            && let Some(known) = self.parent.entry(path)
            && known.kind == EntryKind::File
            && known.size == now.size
        {
            // Equal change times mean that owner, mode and attributes are those of the parent's entry too.
            self.sink.unchanged(known)?;
            self.report.entries += 1;
            self.report.unchanged += 1;
            self.report.stats.push((path.to_vec(), now));
            return Ok(true);
        }
        for attempt in 1..=TRIES {
            match self.read(dir, name, path, attempt == TRIES) {
                Ok(Attempt::Done) => return Ok(true),
                Ok(Attempt::Gone) => return Ok(false),
                Ok(Attempt::Changed) => std::thread::sleep(Duration::from_millis(10) * attempt),
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Ok(false);
                }
                Err(Error::Io { source, .. }) => {
                    self.incomplete(path, source.to_string());
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    fn read(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        last_try: bool,
    ) -> Result<Attempt> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let base = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        // Reading should not touch access times; only the owner and root may ask for that.
        let opened = openat(dir, name, base | OFlags::NOATIME, Mode::empty()).or_else(|e| {
            if e == Errno::PERM {
                openat(dir, name, base, Mode::empty())
            } else {
                Err(e)
            }
        });
        let fd = opened.at(shown)?;
        let before = fstat(&fd).at(shown)?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            return Ok(if last_try {
                Attempt::Gone
            } else {
                Attempt::Changed
            });
        }
        let attributes = xattrs::of_fd(fd.as_fd()).at(shown)?;
        let size = before.st_size as u64;
        let entry = self.entry(path.to_vec(), EntryKind::File, &before, attributes);
        let file = File::from(fd);
        if size <= BUFFERED {
            let mut parts = Vec::new();
            let read = for_each_part(&file, &before, &mut |offset, bytes| {
                parts.push((offset, bytes.to_vec()));
                Ok(())
            })?;
            let changed = Stat::of(&fstat(&file).at(shown)?) != Stat::of(&before);
            if changed && !last_try {
                return Ok(Attempt::Changed);
            }
            self.sink.begin(entry)?;
            for (offset, bytes) in &parts {
                self.sink.data(*offset, bytes)?;
            }
            self.finish_file(path, &before, read, changed)?;
        } else {
            self.sink.begin(entry)?;
            let (sink, stop) = (&mut *self.sink, self.stop);
            let read = for_each_part(&file, &before, &mut |offset, bytes| {
                if stop() {
                    return Err(Error::Stopped);
                }
                Ok(sink.data(offset, bytes)?)
            });
            let read = match read {
                // The entry is begun and must be ended: what could be read stays, and is named as torn.
                Err(Error::Io { source, .. }) => {
                    self.sink.end()?;
                    self.report.entries += 1;
                    self.incomplete(path, source.to_string());
                    return Ok(Attempt::Done);
                }
                other => other?,
            };
            let changed = Stat::of(&fstat(&file).at(shown)?) != Stat::of(&before);
            self.finish_file(path, &before, read, changed)?;
        }
        Ok(Attempt::Done)
    }

    fn finish_file(
        &mut self,
        path: &[u8],
        before: &rustix::fs::Stat,
        read: u64,
        changed: bool,
    ) -> Result<()> {
        self.sink.end()?;
        self.report.entries += 1;
        self.report.bytes += read;
        let stat = Stat::of(before);
        if changed {
            self.incomplete(path, "it changed while it was read".into());
        } else if stat.settled(self.began) {
            self.report.stats.push((path.to_vec(), stat));
        }
        Ok(())
    }

    fn entry(
        &self,
        path: Vec<u8>,
        kind: EntryKind,
        stat: &rustix::fs::Stat,
        xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Entry {
        let size = if kind == EntryKind::File {
            stat.st_size as u64
        } else {
            0
        };
        Entry {
            path,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Mtime {
                secs: stat.st_mtime,
                nanos: stat.st_mtime_nsec as u32,
            },
            size,
            xattrs,
            extents: Extents::default(),
        }
    }

    fn emit(&mut self, entry: Entry) -> Result<()> {
        self.sink.begin(entry)?;
        self.sink.end()?;
        self.report.entries += 1;
        Ok(())
    }

    fn give_up(&mut self, path: &[u8], e: Errno) -> Result<()> {
        self.incomplete(path, io::Error::from(e).to_string());
        Ok(())
    }

    fn incomplete(&mut self, path: &[u8], why: String) {
        self.report.incomplete.push(Incomplete {
            path: path.to_vec(),
            why,
        });
    }
}

/// The names in a directory, sorted by their bytes.
fn names(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
