//! A store in memory: for tests and simulations. Nothing survives the process, and it says so.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

use legation_core::id::Digest;

use crate::store::{Capabilities, Kind, MAX_LIST, MAX_OBJECT, Put, RetainUntil, Store, StoreError};

type Objects = BTreeMap<(Kind, Digest), (Vec<u8>, RetainUntil)>;

/// A [`Store`] in memory, with a capacity.
#[derive(Debug)]
pub struct MemoryStore {
    objects: Mutex<Objects>,
    capacity: u64,
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore::with_capacity(u64::MAX)
    }
}

impl MemoryStore {
    /// An empty store without limit.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// An empty store that is full at `capacity` bytes.
    pub fn with_capacity(capacity: u64) -> MemoryStore {
        MemoryStore {
            objects: Mutex::default(),
            capacity,
        }
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        kind: Kind,
        digest: &Digest,
        read: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.objects().get(&(kind, *digest)) {
            Some((bytes, _)) => read(bytes),
            None => Err(StoreError::NotFound {
                what: format!("{kind} {digest}"),
            }),
        }
    }
}

impl Store for MemoryStore {
    fn put(
        &self,
        kind: Kind,
        digest: &Digest,
        bytes: &[u8],
        retain_until: RetainUntil,
    ) -> Result<Put, StoreError> {
        let what = format!("{kind} {digest}");
        if bytes.len() as u64 > MAX_OBJECT || Digest::of(bytes) != *digest {
            let why = "it is too large, or its bytes are not those of its name".to_owned();
            return Err(StoreError::Refused { what, why });
        }
        let mut objects = self.objects();
        if let Some((_, until)) = objects.get_mut(&(kind, *digest)) {
            *until = retain_until.max(*until);
            return Ok(Put::Existing);
        }
        let used: u64 = objects.values().map(|(bytes, _)| bytes.len() as u64).sum();
        if used.saturating_add(bytes.len() as u64) > self.capacity {
            return Err(StoreError::Full { what });
        }
        objects.insert((kind, *digest), (bytes.to_vec(), retain_until));
        Ok(Put::Created)
    }

    fn get(&self, kind: Kind, digest: &Digest, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.with(kind, digest, |bytes| {
            let size = bytes.len() as u64;
            let part = bytes.get(range.start as usize..range.end as usize);
            part.map(<[u8]>::to_vec)
                .ok_or_else(|| StoreError::OutOfRange {
                    what: format!("{kind} {digest}"),
                    start: range.start,
                    end: range.end,
                    size,
                })
        })
    }

    fn size(&self, kind: Kind, digest: &Digest) -> Result<u64, StoreError> {
        self.with(kind, digest, |bytes| Ok(bytes.len() as u64))
    }

    fn list(
        &self,
        kind: Kind,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, StoreError> {
        let start = match after {
            Some(digest) => Bound::Excluded((kind, *digest)),
            None => Bound::Included((kind, Digest([0; 32]))),
        };
        let end = Bound::Included((kind, Digest([0xff; 32])));
        let objects = self.objects();
        let names = objects.range((start, end)).map(|((_, digest), _)| *digest);
        Ok(names.take(limit.min(MAX_LIST)).collect())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backing: "memory",
            durable: false,
            retention_recorded: true,
            retention_enforced: false,
        }
    }
}

#[cfg(test)]
mod tests;
