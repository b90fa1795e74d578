//! The transparency log on disk: append, sync, checkpoint, publish, in that order; and mirrors of it.
//!
//! Formats: `spec/log.md`; files: `spec/store.md`. It signs trees and keeps entries; what an entry means, and whether it
//! may be in the log, was decided before it came here.
//!
//! Entries go to a *tail*, which is a C2SP entry bundle that grows. Once a checkpoint covers 256 of them they are
//! *settled*: written as the full bundle and hash tiles that never change again, and a new tail begins. So whatever
//! has a public name is whole and signed for, and a crash leaves nothing to repair but the end of the tail.

mod frontier;
pub(crate) mod inspect;
mod mirror;
mod reader;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use legation_core::log::{
    Checkpoint, Level, LogError, LogSigner, MAX_ENTRY, TILE_WIDTH, TilePath, Tree, TreeHead,
    bundle, leaf_hash,
};

pub use mirror::{Believed, LogSource, Mirror};
pub use reader::{LogReader, Replay};

use crate::durable::{self, Appender};
use crate::edge;
use crate::store::StoreError;
use reader::{Published, Tail};

/// Most entries that one append takes, so that a tail stays small.
pub const MAX_BATCH: usize = 256;
const CHECKPOINT: &str = "checkpoint";
const TAIL: &str = "tail";
const EDGES: (&str, &str) = ("log.append", "log.sync");

impl From<LogError> for StoreError {
    fn from(error: LogError) -> StoreError {
        match error {
            LogError::Range { what, asked, size } => StoreError::OutOfRange {
                what: format!("the log, {what} {asked}"),
                start: asked,
                end: asked.saturating_add(1),
                size,
            },
            other => StoreError::Damaged {
                what: "the log".to_owned(),
                why: other.to_string(),
            },
        }
    }
}

/// A log, open for appending by its only writer.
#[derive(Debug)]
pub struct DiskLog {
    dir: PathBuf,
    origin: String,
    signer: LogSigner,
    tree: Tree,
    tail: Appender,
    published: Arc<RwLock<Arc<Published>>>,
    finished: bool,
}

impl DiskLog {
    /// Opens or creates the log `origin` in `dir`, recovering it: entries that no checkpoint covers were never
    /// published and are cut off. A new log begins with a signed checkpoint of size 0. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// `Damaged` when what the last checkpoint covers is not there: a log never signs less than it did.
    pub fn open(
        dir: &Path,
        origin: &str,
        signer: LogSigner,
        now: u64,
    ) -> Result<DiskLog, StoreError> {
        let (tree, tail, published) = recover(dir, origin, &signer, now)?;
        let mut log = DiskLog {
            dir: dir.to_owned(),
            origin: origin.to_owned(),
            signer,
            tree,
            tail,
            published: Arc::new(RwLock::new(Arc::new(published))),
            finished: false,
        };
        log.settle()?;
        Ok(log)
    }

    /// Recovers in place after an error, as [`DiskLog::open`] does. Readers go on, and see what is then published.
    ///
    /// # Errors
    /// As [`DiskLog::open`]; the handle stays finished.
    pub fn reopen(&mut self, now: u64) -> Result<(), StoreError> {
        self.finished = true;
        let (tree, tail, published) = recover(&self.dir, &self.origin, &self.signer, now)?;
        (self.tree, self.tail) = (tree, tail);
        self.publish(published);
        self.settle()?;
        self.finished = false;
        Ok(())
    }

    /// Appends entries as one batch: written, synced, covered by a signed checkpoint that is itself durable, and only then
    /// visible to readers. On an error none, or all, of them are in the log when it is opened anew. Without entries
    /// nothing is signed, and the standing checkpoint is returned.
    ///
    /// # Errors
    /// `Refused` when an entry is longer than 65,535 bytes or there are more than [`MAX_BATCH`]: nothing was
    /// written. After any other the handle is finished until [`DiskLog::reopen`].
    pub fn append(&mut self, entries: &[Vec<u8>], now: u64) -> Result<Checkpoint, StoreError> {
        if self.finished {
            return Err(StoreError::Finished {
                what: "the log".to_owned(),
            });
        }
        if entries.is_empty() {
            return Ok(self.snapshot().checkpoint.clone());
        }
        if entries.len() > MAX_BATCH || entries.iter().any(|e| e.len() > MAX_ENTRY) {
            let why = format!("at most {MAX_BATCH} entries of at most {MAX_ENTRY} bytes");
            return Err(StoreError::Refused {
                what: "a batch of log entries".to_owned(),
                why,
            });
        }
        let appended = self.commit(entries, now);
        self.finished = appended.is_err();
        let checkpoint = appended?;
        // What was promised has happened. Should settling fail, the next opening does it.
        self.finished = self.settle().is_err();
        Ok(checkpoint)
    }

    /// A view for readers; it follows what is published, and may be used from any thread.
    pub fn reader(&self) -> LogReader {
        LogReader::new(&self.dir, Arc::clone(&self.published))
    }

    fn commit(&mut self, entries: &[Vec<u8>], now: u64) -> Result<Checkpoint, StoreError> {
        let before = self.snapshot();
        // Stage: the entries, durable, in the tail.
        self.tail.append(&bundle(entries)?)?;
        self.tail.sync()?;
        // Commit: a checkpoint that covers them, durable.
        let mut tree = self.tree.clone();
        let mut frontier = before.frontier.clone();
        let mut tail = before.tail.clone();
        for entry in entries {
            let leaf = leaf_hash(entry);
            tree.push(leaf);
            frontier.push(leaf);
            tail.push(entry);
        }
        let head = TreeHead {
            size: tree.size(),
            root: tree.root(),
        };
        // The log's clock may be set back; its own history of checkpoints is not.
        let time = now.max(before.checkpoint.time());
        let checkpoint = Checkpoint::sign(&self.origin, head, time, &self.signer)?;
        write_checkpoint(&self.dir, &checkpoint)?;
        // Publish.
        self.tree = tree;
        self.publish(Published {
            checkpoint: checkpoint.clone(),
            tail,
            frontier,
        });
        Ok(checkpoint)
    }

    /// Gives full bundles and tiles their final names and begins a new tail after them.
    fn settle(&mut self) -> Result<(), StoreError> {
        let before = self.snapshot();
        if before.tail.len() < TILE_WIDTH {
            return Ok(());
        }
        let failed = |e| StoreError::io("settle the log", e);
        edge::hit("log.settle").map_err(failed)?;
        let (mut tail, mut frontier) = (before.tail.clone(), before.frontier.clone());
        let previous = tail.path(&self.dir);
        while let Some((index, entries)) = tail.take_full() {
            let path = TilePath::full(Level::Entries, index);
            write_tile(&self.dir, &path, &bundle(&entries)?)?;
        }
        for (path, bytes) in frontier.take_full() {
            write_tile(&self.dir, &path, &bytes)?;
        }
        // The new tail appears whole, and from then on counts; the old one holds nothing that is not elsewhere.
        let rest = bundle(tail.entries())?;
        let path = tail.path(&self.dir);
        durable::write_atomic(&path, &rest).map_err(failed)?;
        self.tail = Appender::open(&path, rest.len() as u64, EDGES)?;
        self.publish(Published {
            checkpoint: before.checkpoint.clone(),
            tail,
            frontier,
        });
        durable::remove(&previous).map_err(failed)
    }

    fn snapshot(&self) -> Arc<Published> {
        Arc::clone(
            &self
                .published
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn publish(&self, published: Published) {
        *self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(published);
    }
}

/// Brings a log's directory to the state that its last checkpoint names.
fn recover(
    dir: &Path,
    origin: &str,
    signer: &LogSigner,
    now: u64,
) -> Result<(Tree, Appender, Published), StoreError> {
    let failed = |e| StoreError::io(format!("open the log in {}", dir.display()), e);
    let tails = dir.join(TAIL);
    durable::create_dir(&tails).map_err(failed)?;
    for swept in [dir, &tails] {
        durable::sweep(swept).map_err(failed)?;
    }
    if !dir.join(CHECKPOINT).exists() {
        begin(dir, origin, signer, now)?;
    }
    let (published, tree, held) = reader::load(dir, origin, signer.verifier())?;
    let path = published.tail.path(dir);
    let tail = Appender::open(&path, held, EDGES)?;
    for entry in fs::read_dir(&tails).map_err(failed)? {
        let old = entry.map_err(failed)?.path();
        if old != path {
            durable::remove(&old).map_err(failed)?;
        }
    }
    Ok((tree, tail, published))
}

/// A new log: the checkpoint of the empty tree. A log that lost its checkpoint is not new.
fn begin(dir: &Path, origin: &str, signer: &LogSigner, now: u64) -> Result<(), StoreError> {
    let failed = |e| StoreError::io(format!("create the log in {}", dir.display()), e);
    let mut entries = false;
    for entry in fs::read_dir(dir.join(TAIL)).map_err(failed)? {
        entries |= entry.map_err(failed)?.metadata().map_err(failed)?.len() > 0;
    }
    if entries || dir.join("tile").exists() {
        let why = "it has entries but no checkpoint".to_owned();
        return Err(StoreError::Damaged {
            what: "the log".to_owned(),
            why,
        });
    }
    let tree = Tree::new();
    let head = TreeHead {
        size: 0,
        root: tree.root(),
    };
    let path = Tail::default().path(dir);
    Appender::open(&path, 0, EDGES)?;
    write_checkpoint(dir, &Checkpoint::sign(origin, head, now.max(1), signer)?)
}

fn write_checkpoint(dir: &Path, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let path = dir.join(CHECKPOINT);
    edge::at("log.checkpoint", || {
        durable::write_atomic(&path, checkpoint.note().as_bytes())
    })
    .map_err(|e| StoreError::io("write the log's checkpoint", e))
}

/// Writes a tile under its name for good. One that is there must be the same.
fn write_tile(dir: &Path, tile: &TilePath, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |e: io::Error| StoreError::io(format!("write {tile}"), e);
    let path = dir.join(tile.to_string());
    let folder = path.parent().unwrap_or(dir);
    durable::create_dir(folder).map_err(failed)?;
    if durable::create_once(&path, dir, bytes, |_| Ok(())).map_err(failed)? {
        return Ok(());
    }
    if durable::read_bounded(&path, reader::MAX_TILE).map_err(failed)? != bytes {
        return Err(StoreError::Conflict {
            what: tile.to_string(),
        });
    }
    // An earlier run may have died before it synced the name.
    durable::sync_dir(folder).map_err(failed)
}

#[cfg(test)]
mod tests;
