//! The walk: sorted, never through a link, one pass. Files that the parent version knows under the same size, times
//! and inode are not read again. What cannot be read is kept as the parent version has it, and marked; it stops nothing.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

use legation_core::manifest::{
    Entry, EntryKind, Extents, Incomplete, MAX_PATH, MAX_XATTR_NAMES, MAX_XATTRS, Mtime,
};
use legation_core::source::Sink;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::mounts::Above;
use super::names::Names;
use super::parent::{Parent, Stat};
use super::xattrs::{self, Xattrs};
use crate::error::Context;
use crate::{Error, Result};

/// Each level keeps a directory open; what lies deeper is named as missing.
const MAX_DEPTH: usize = 512;
/// How many entries that are not whole are named; all are marked and counted.
const MAX_NAMED: usize = 100;
/// The fact of a version that says how many of its entries are not whole.
pub const INCOMPLETE_KEY: &str = "incomplete";

/// How a tree is walked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Directories on which other file systems are mounted are kept empty.
    pub one_file_system: bool,
}

/// What one walk captured.
#[derive(Debug, Clone, Default)]
pub struct TreeReport {
    /// Entries given to the sink.
    pub entries: u64,
    /// Files among them that the parent version had already.
    pub unchanged: u64,
    /// The sum of the files' sizes.
    pub size: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The state of each captured file that may be trusted next time, ascending by path: keep it beside the entries.
    pub stats: Vec<(Vec<u8>, Stat)>,
    /// The first entries that are not what the tree held, or could not even be named.
    pub incomplete: Vec<(Vec<u8>, Incomplete)>,
    /// How many there are.
    pub incomplete_count: u64,
}

/// Walks `root` and gives every entry to `sink`, the top directory first under the empty path.
///
/// Fails only if the top cannot be read, the sink fails or `stop` becomes true; all else is marked in its entry
/// ([`Entry::incomplete`]), counted in the report, and in the version's fact [`INCOMPLETE_KEY`]. Links are never
/// followed; fifos, sockets and devices are never opened.
pub fn capture(
    root: &Path,
    options: Options,
    parent: &Parent<'_>,
    sink: &mut dyn Sink,
    stop: &dyn Fn() -> bool,
) -> Result<TreeReport> {
    let shown = || root.display().to_string();
    let top = rustix::fs::open(root, DIRECTORY, Mode::empty()).map_err(|e| match e {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::refused(
            format!("{} is not a directory: {}", shown(), io::Error::from(e)),
            "name the directory itself, not a link to it",
        ),
        e => Error::io(shown(), e),
    })?;
    let stat = fstat(&top).at(shown)?;
    let names = Names::of(&top).at(shown)?;
    let mut walk = Walk {
        options,
        parent,
        sink,
        stop,
        began: SystemTime::now(),
        links: HashMap::new(),
        above: Above::default(),
        report: TreeReport::default(),
    };
    walk.above.enter(&top, &stat, options.one_file_system);
    let attributes = xattrs::of_fd(top.as_fd());
    let entry = walk.entry(&[], EntryKind::Dir, &stat, attributes);
    walk.emit(entry)?;
    walk.inside(&top, &names, &mut Vec::new(), 0)?;
    let mut report = walk.report;
    if report.incomplete_count > 0 {
        sink.meta(INCOMPLETE_KEY, &report.incomplete_count.to_string())?;
    }
    report.stats.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(report)
}

pub(super) struct Walk<'a> {
    options: Options,
    pub(super) parent: &'a Parent<'a>,
    pub(super) sink: &'a mut dyn Sink,
    pub(super) stop: &'a dyn Fn() -> bool,
    began: SystemTime,
    /// The first path of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    above: Above,
    report: TreeReport,
}

impl Walk<'_> {
    fn inside(
        &mut self,
        dir: &OwnedFd,
        names: &Names,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> Result<()> {
        for name in names.iter() {
            if (self.stop)() {
                return Err(Error::Stopped);
            }
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            if path.len() > MAX_PATH {
                let why = format!("its path is longer than {MAX_PATH} bytes");
                self.note(path, &Incomplete::Missing(why));
            } else {
                self.name(dir.as_fd(), name, path, depth)?;
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
            Err(e) => return self.unread(path, None, &io::Error::from(e)),
        };
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let several = file_type != FileType::Directory && stat.st_nlink > 1;
        let key = (stat.st_dev, stat.st_ino);
        if several && let Some(target) = self.links.get(&key).cloned() {
            let kind = EntryKind::Hardlink { target };
            let entry = self.entry(path, kind, &stat, Ok(Xattrs::new()));
            return self.emit(entry);
        }
        let rdev = stat.st_rdev;
        let captured = match file_type {
            FileType::RegularFile => self.file(dir, name, path, &stat)?,
            FileType::Directory => return self.subdirectory(dir, name, path, depth, &stat),
            FileType::Symlink => match readlinkat(dir, name, Vec::new()) {
                Ok(target) => {
                    let target = target.into_bytes();
                    self.special(dir, name, path, &stat, EntryKind::Symlink { target })?
                }
                Err(Errno::NOENT) => false,
                Err(e) => return self.unread(path, Some(&stat), &io::Error::from(e)),
            },
            FileType::Fifo => self.special(dir, name, path, &stat, EntryKind::Fifo)?,
            FileType::Socket => self.special(dir, name, path, &stat, EntryKind::Socket)?,
            FileType::CharacterDevice => {
                self.special(dir, name, path, &stat, EntryKind::CharDev { rdev })?
            }
            FileType::BlockDevice => {
                self.special(dir, name, path, &stat, EntryKind::BlockDev { rdev })?
            }
            _ => {
                let why = io::Error::other("its kind is not known");
                return self.unread(path, None, &why);
            }
        };
        // Only a name that is in the version can be the target of later ones.
        if captured && several {
            self.links.insert(key, path.clone());
        }
        Ok(())
    }

    fn subdirectory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &mut Vec<u8>,
        depth: usize,
        seen: &rustix::fs::Stat,
    ) -> Result<()> {
        if depth >= MAX_DEPTH {
            let why = format!("it lies deeper than {MAX_DEPTH} directories");
            return self.unread(path, Some(seen), &io::Error::other(why));
        }
        let opened = openat(dir, name, DIRECTORY, Mode::empty()).and_then(|fd| {
            let stat = fstat(&fd)?;
            Ok((fd, stat))
        });
        let (fd, stat) = match opened {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return self.unread(path, Some(seen), &io::Error::from(e)),
        };
        let one_file_system = self.options.one_file_system;
        let enters = self.above.enter(&fd, &stat, one_file_system);
        let names = match enters.then(|| Names::of(&fd)).transpose() {
            Ok(names) => names,
            Err(e) => {
                self.above.leave();
                return self.unread(path, Some(&stat), &io::Error::from(e));
            }
        };
        let entry = self.entry(path, EntryKind::Dir, &stat, xattrs::of_fd(fd.as_fd()));
        self.emit(entry)?;
        if let Some(names) = names {
            self.inside(&fd, &names, path, depth + 1)?;
            self.above.leave();
        }
        Ok(())
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
        let entry = self.entry(path, kind, stat, xattrs::of_name(dir, name));
        self.emit(entry)?;
        Ok(true)
    }

    /// What cannot be read is kept as the parent version has it, with all below it; else its name is kept.
    pub(super) fn unread(
        &mut self,
        path: &[u8],
        seen: Option<&rustix::fs::Stat>,
        why: &io::Error,
    ) -> Result<()> {
        let is_dir =
            seen.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        let same_kind = |known: &&Entry| match seen {
            Some(_) => is_dir == (known.kind == EntryKind::Dir),
            None => true,
        };
        if let Some(known) = self.parent.entry(path).filter(same_kind) {
            let is_dir = known.kind == EntryKind::Dir;
            self.stale(known, why)?;
            let below = if is_dir { self.parent.below(path) } else { &[] };
            return below.iter().try_for_each(|known| self.stale(known, why));
        }
        let kind = if is_dir {
            EntryKind::Dir
        } else {
            EntryKind::File
        };
        let mut entry = match seen {
            Some(stat) => self.entry(path, kind, stat, Ok(Xattrs::new())),
            None => Entry {
                path: path.to_vec(),
                kind,
                mode: 0,
                uid: 0,
                gid: 0,
                mtime: Mtime::default(),
                size: 0,
                xattrs: Xattrs::new(),
                extents: Extents::default(),
            },
        };
        entry.size = 0;
        entry.mark(&Incomplete::Missing(why.to_string()));
        self.emit(entry)
    }

    /// An entry as the parent version has it. What was not whole there is not better now.
    pub(super) fn stale(&mut self, known: &Entry, why: &io::Error) -> Result<()> {
        let mut entry = known.clone();
        if let EntryKind::Hardlink { target } = &known.kind {
            // Its other name may be gone, or another file by now.
            let Some(file) = self.parent.entry(target) else {
                return Ok(());
            };
            entry.kind = file.kind.clone();
            (entry.size, entry.extents) = (file.size, file.extents.clone());
            entry.xattrs.clone_from(&file.xattrs);
        }
        if matches!(entry.incomplete(), None | Some(Incomplete::Stale(_))) {
            entry.mark(&Incomplete::Stale(why.to_string()));
        }
        self.noted(&entry);
        self.report.entries += 1;
        self.report.size += entry.size;
        Ok(self.sink.unchanged(entry)?)
    }

    /// The entry of what was just looked at. Attributes that cannot be read, or are more than an entry holds, are left
    /// out, and it says so.
    pub(super) fn entry(
        &self,
        path: &[u8],
        kind: EntryKind,
        stat: &rustix::fs::Stat,
        attributes: rustix::io::Result<Xattrs>,
    ) -> Entry {
        let size = if kind == EntryKind::File {
            stat.st_size as u64
        } else {
            0
        };
        let mut entry = Entry {
            path: path.to_vec(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Mtime {
                secs: stat.st_mtime,
                nanos: stat.st_mtime_nsec as u32,
            },
            size,
            xattrs: BTreeMap::new(),
            extents: Extents::default(),
        };
        let without = |why: String| Incomplete::Torn(format!("without its attributes: {why}"));
        match attributes {
            Ok(held) => {
                let bytes: usize = held
                    .iter()
                    .map(|(name, value)| name.len() + value.len())
                    .sum();
                if bytes > MAX_XATTRS || held.len() > MAX_XATTR_NAMES {
                    entry.mark(&without(format!("they have {bytes} bytes")));
                } else {
                    entry.xattrs = held;
                }
            }
            Err(e) => entry.mark(&without(io::Error::from(e).to_string())),
        }
        entry
    }

    fn emit(&mut self, entry: Entry) -> Result<()> {
        self.noted(&entry);
        self.sink.begin(entry)?;
        self.sink.end()?;
        self.report.entries += 1;
        Ok(())
    }

    /// Counts a file that the parent version has.
    pub(super) fn had(&mut self, path: &[u8], known: &Entry, stat: Stat) -> Result<()> {
        let mut entry = known.clone();
        entry.path = path.to_vec();
        self.noted(&entry);
        self.report.entries += 1;
        self.report.unchanged += 1;
        self.report.size += entry.size;
        self.sink.unchanged(entry)?;
        self.report.stats.push((path.to_vec(), stat));
        Ok(())
    }

    /// Counts a file that was read and ended; `stat` if it may be trusted next time.
    pub(super) fn has_read(&mut self, path: &[u8], size: u64, read: u64, stat: Option<Stat>) {
        self.report.entries += 1;
        self.report.size += size;
        self.report.bytes += read;
        if let Some(stat) = stat.filter(|stat| stat.settled(self.began)) {
            self.report.stats.push((path.to_vec(), stat));
        }
    }

    pub(super) fn noted(&mut self, entry: &Entry) {
        if let Some(mark) = entry.incomplete() {
            self.note(&entry.path, &mark);
        }
    }

    pub(super) fn note(&mut self, path: &[u8], mark: &Incomplete) {
        self.report.incomplete_count += 1;
        if self.report.incomplete.len() < MAX_NAMED {
            self.report.incomplete.push((path.to_vec(), mark.clone()));
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);
