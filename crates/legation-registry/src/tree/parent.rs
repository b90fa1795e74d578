//! What the parent version knows of its files, so that those that did not change are not read again.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use legation_core::manifest::Entry;
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
    pub(super) fn of(stat: &rustix::fs::Stat) -> Self {
        Stat {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }

    pub(super) fn settled(&self, walk_began: SystemTime) -> bool {
        let limit = walk_began
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .saturating_sub(SETTLED);
        let newest = self.ctime.max(self.mtime);
        newest < (limit.as_secs() as i64, limit.subsec_nanos())
    }
}

/// What the parent version knows of its files.
pub trait Parent {
    /// The file's state when it was captured.
    fn stat(&self, path: &[u8]) -> Option<Stat>;
    /// Its entry in the parent version, with extents.
    fn entry(&self, path: &[u8]) -> Option<Entry>;
}

/// No parent: everything is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoParent;

impl Parent for NoParent {
    fn stat(&self, _path: &[u8]) -> Option<Stat> {
        None
    }
    fn entry(&self, _path: &[u8]) -> Option<Entry> {
        None
    }
}

/// A parent in memory.
#[derive(Debug, Clone, Default)]
pub struct Known(pub BTreeMap<Vec<u8>, (Stat, Entry)>);

impl Parent for Known {
    fn stat(&self, path: &[u8]) -> Option<Stat> {
        self.0.get(path).map(|(stat, _)| *stat)
    }
    fn entry(&self, path: &[u8]) -> Option<Entry> {
        self.0.get(path).map(|(_, entry)| entry.clone())
    }
}
