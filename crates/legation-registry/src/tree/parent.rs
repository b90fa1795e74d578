//! What the parent version knows of its files, so that those that did not change are not read again, and what cannot be
//! read is kept as it was.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use legation_core::manifest::{Entry, EntryKind, Incomplete};
use serde::{Deserialize, Serialize};

/// A file touched this shortly before the walk may be touched again within the same clock tick and look unchanged;
/// it is captured, and read again next time.
const SETTLED: Duration = Duration::from_secs(2);

/// What tells that a file is still the one that was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Time of modification: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Time of the last change of anything: seconds and nanoseconds.
    pub ctime: (i64, u32),
}

impl Stat {
    pub(crate) fn of(stat: &rustix::fs::Stat) -> Self {
        Stat {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }

    pub(crate) fn settled(&self, walk_began: SystemTime) -> bool {
        let limit = walk_began
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(SETTLED);
        let newest = self.ctime.max(self.mtime);
        newest < (limit.as_secs() as i64, limit.subsec_nanos())
    }
}

/// The parent version, as it lies in memory; nothing of it is copied.
#[derive(Debug, Default)]
pub struct Parent<'a> {
    entries: &'a [Entry],
    stats: &'a [(Vec<u8>, Stat)],
    /// Where in `stats` a file is, by device and inode; made when the first path is not found.
    inodes: OnceCell<HashMap<(u64, u64), usize>>,
}

impl<'a> Parent<'a> {
    /// Of its entries, ascending by path, and of how its files looked, ascending by path.
    #[must_use]
    pub fn new(entries: &'a [Entry], stats: &'a [(Vec<u8>, Stat)]) -> Self {
        Self {
            entries,
            stats,
            inodes: OnceCell::new(),
        }
    }

    /// The entry of this path.
    #[must_use]
    pub fn entry(&self, path: &[u8]) -> Option<&'a Entry> {
        let by_path = |entry: &Entry| entry.path.as_slice().cmp(path);
        let at = self.entries.binary_search_by(by_path).ok()?;
        self.entries.get(at)
    }

    /// How many entries it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of the file that looks like this, under this path or, when a directory above it was renamed, under
    /// another: equal change times mean that content, owner, mode and attributes are those of the entry.
    pub(super) fn same(&self, path: &[u8], now: &Stat) -> Option<&'a Entry> {
        let by_path = |row: &(Vec<u8>, Stat)| row.0.as_slice().cmp(path);
        let here = match self.stats.binary_search_by(by_path) {
            Ok(at) => self.stats.get(at),
            Err(_) => None,
        };
        let found = here.filter(|row| row.1 == *now).or_else(|| {
            let at = *self.inodes().get(&(now.dev, now.ino))?;
            self.stats.get(at).filter(|row| row.1 == *now)
        })?;
        let entry = self.entry(&found.0)?;
        (entry.kind == EntryKind::File && entry.size == now.size).then_some(entry)
    }

    fn inodes(&self) -> &HashMap<(u64, u64), usize> {
        let rows = || self.stats.iter().enumerate();
        self.inodes
            .get_or_init(|| rows().map(|(at, (_, s))| ((s.dev, s.ino), at)).collect())
    }

    /// What it has under this path, if that was whole when it was captured.
    pub(super) fn whole(&self, path: &[u8]) -> Option<&'a Entry> {
        let whole =
            |entry: &&Entry| matches!(entry.incomplete(), None | Some(Incomplete::Stale(_)));
        self.entry(path).filter(whole)
    }

    /// Everything below a directory, ascending.
    pub(super) fn below(&self, dir: &[u8]) -> &'a [Entry] {
        let first = [dir, b"/"].concat();
        let from = self.entries.partition_point(|e| e.path < first);
        let rest = self.entries.get(from..).unwrap_or_default();
        let count = rest.partition_point(|e| e.path.starts_with(&first));
        rest.get(..count).unwrap_or_default()
    }
}
