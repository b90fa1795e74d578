//! A durable queue of write-once things for an embassy: objects and signed statements, sent in the order they came in.
//!
//! An item is a file whose name says its place, its kind and its digest. It is there whole or not at all, it is sent
//! as the same bytes however often the agent dies, and it goes only when the embassy has answered for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use legation_core::id::Digest;
use legation_repo::{durable, edge};

use super::budget::Budget;
use crate::exit::{Code, Failure};

/// The largest item: one pack.
const MAX_ITEM: u64 = 16 << 20;

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A sealed epoch root.
    Slip,
    /// Sealed frames.
    Pack,
    /// The packs that a commit references.
    List,
    /// A signed statement; what came before it in the queue is there already.
    Statement,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Slip, Kind::Pack, Kind::List, Kind::Statement];

    fn word(self) -> &'static str {
        match self {
            Kind::Slip => "slip",
            Kind::Pack => "pack",
            Kind::List => "list",
            Kind::Statement => "statement",
        }
    }
}

/// An item's place in the queue and what its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Its place; later items have greater numbers.
    pub place: u64,
    /// What it is.
    pub kind: Kind,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The queue.
#[derive(Debug)]
pub struct Outbox {
    dir: PathBuf,
    budget: Budget,
    items: Mutex<Items>,
}

#[derive(Debug, Default)]
struct Items {
    next: u64,
    waiting: BTreeMap<u64, Item>,
    /// A file that a failed write may have left and that could not be removed yet.
    left: Option<PathBuf>,
}

impl Outbox {
    /// Opens the queue as the last run left it.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn open(dir: &Path, budget: Budget) -> Result<Outbox, Failure> {
        durable::create_dir(dir)?;
        let mut items = Items::default();
        for found in std::fs::read_dir(dir)? {
            let found = found?;
            let name = found.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(durable::TEMPORARY) {
                std::fs::remove_file(found.path())?;
                continue;
            }
            let bytes = found.metadata()?.len();
            let item = parse(&name, bytes).ok_or_else(|| {
                Failure::failed(format!(
                    "{}: not an item of this spool",
                    found.path().display()
                ))
            })?;
            budget.found_queued(bytes);
            items.next = items.next.max(item.place + 1);
            items.waiting.insert(item.place, item);
        }
        Ok(Outbox {
            dir: dir.to_owned(),
            budget,
            items: Mutex::new(items),
        })
    }

    /// Removes the objects after the last statement: parts of something that was never finished, which nobody will
    /// ever name. Returns how many.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn abandon_unfinished(&self) -> Result<usize, Failure> {
        let unfinished: Vec<Item> = {
            let items = self.lock();
            let tail = items.waiting.values().rev();
            tail.take_while(|item| item.kind != Kind::Statement)
                .copied()
                .collect()
        };
        for item in &unfinished {
            self.remove(item)?;
        }
        Ok(unfinished.len())
    }

    /// Adds an item. A caller that can wait has waited for room. Durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written; nothing is then in the queue.
    pub fn push(&self, kind: Kind, bytes: &[u8]) -> Result<Digest, Failure> {
        let digest = Digest::of(bytes);
        let mut items = self.lock();
        let item = Item {
            place: items.next,
            kind,
            digest,
            bytes: bytes.len() as u64,
        };
        let path = self.path(&item);
        let failed = |error| Failure::from(error).during("writing to the spool");
        // What a failed write left must be gone before anything new is queued, or a later run would find and send it.
        if let Some(left) = items.left.take()
            && let Err(error) = gone(&left)
        {
            items.left = Some(left);
            return Err(failed(error));
        }
        // A place is never used twice, whatever became of what had it.
        items.next += 1;
        if let Err(error) = edge::at("agent.outbox", || durable::write_atomic(&path, bytes)) {
            if gone(&path).is_err() {
                items.left = Some(path);
            }
            return Err(failed(error));
        }
        self.budget.found_queued(item.bytes);
        items.waiting.insert(item.place, item);
        Ok(digest)
    }

    /// The first item.
    pub fn front(&self) -> Option<Item> {
        self.lock().waiting.values().next().copied()
    }

    /// Every waiting item, first to last.
    pub fn items(&self) -> Vec<Item> {
        self.lock().waiting.values().copied().collect()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// The bytes of an item, checked against its name; `None` when it was taken out meanwhile: look again.
    ///
    /// # Errors
    /// Code 4 when the spool's copy was changed, or is gone although it still waits.
    pub fn read(&self, item: &Item) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.path(item);
        let bytes = match durable::read_bounded(&path, MAX_ITEM) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Whoever takes an item out holds the lock until the queue says so too.
                if !self.lock().waiting.contains_key(&item.place) {
                    return Ok(None);
                }
                return Err(Failure::new(
                    Code::VerificationFailed,
                    format!("{} is gone before it was sent", path.display()),
                )
                .hint("check the disk and who else writes there; the next capture replaces what it held"));
            }
            Err(error) => return Err(error.into()),
        };
        if Digest::of(&bytes) == item.digest {
            return Ok(Some(bytes));
        }
        Err(Failure::new(
            Code::VerificationFailed,
            format!("{} was changed after it was sealed", path.display()),
        )
        .hint("check the disk; the next capture replaces what it held"))
    }

    /// Takes an item out: the embassy has it, or nobody will ever name it. One that is out already is no error: the
    /// parts of a capture that failed are given up while the first of them may be on their way.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self, item: &Item) -> Result<(), Failure> {
        let mut items = self.lock();
        if items.waiting.get(&item.place) != Some(item) {
            return Ok(());
        }
        let path = self.path(item);
        if let Err(error) = edge::at("agent.sent", || gone(&path)) {
            // A removal may happen and be reported failed: what is not there does not wait.
            if path.symlink_metadata().is_ok() {
                return Err(error.into());
            }
            tracing::warn!("removing {}: {error}; it is gone", path.display());
        }
        items.waiting.remove(&item.place);
        self.budget.give_queued(item.bytes);
        Ok(())
    }

    fn path(&self, item: &Item) -> PathBuf {
        self.dir.join(format!(
            "{:012}-{}-{}",
            item.place,
            item.kind.word(),
            item.digest
        ))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Items> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a file; that it is not there any more is no error.
fn gone(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn parse(name: &str, bytes: u64) -> Option<Item> {
    let mut parts = name.splitn(3, '-');
    let place = parts.next()?.parse().ok()?;
    let word = parts.next()?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
    let digest = parts.next()?.parse().ok()?;
    Some(Item {
        place,
        kind,
        digest,
        bytes,
    })
}

#[cfg(test)]
mod tests;
