//! A store in memory: the least that can stand on the other side of a driver.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use legation_core::id::{Lsn, Timeline};
use legation_core::manifest::{Entry, EntryKind, Incomplete};
use legation_core::source::{Restorer, Sink, SourceResult, WalSink};
use legation_registry::postgres::WalPiece;

/// The data of a file: each stretch with its offset.
pub type Parts = Vec<(u64, Vec<u8>)>;

/// A version in memory.
#[derive(Default)]
pub struct MemorySink {
    pub entries: BTreeMap<Vec<u8>, (Entry, Parts)>,
    pub unchanged: Vec<Vec<u8>>,
    /// The same with all that was said of them.
    pub kept: Vec<Entry>,
    pub meta: BTreeMap<String, String>,
    open: Option<(Entry, Parts, u64)>,
}

impl Sink for MemorySink {
    fn begin(&mut self, entry: Entry) -> SourceResult<()> {
        assert!(self.open.is_none(), "an entry is open");
        assert!(!self.entries.contains_key(&entry.path), "a path came twice");
        self.open = Some((entry, Vec::new(), 0));
        Ok(())
    }
    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        let (entry, parts, end) = self.open.as_mut().expect("no entry is open");
        assert_eq!(entry.kind, EntryKind::File);
        assert!(offset >= *end, "offsets must grow");
        *end = offset + bytes.len() as u64;
        parts.push((offset, bytes.to_vec()));
        Ok(())
    }
    fn end(&mut self) -> SourceResult<()> {
        let (mut entry, parts, end) = self.open.take().expect("no entry is open");
        entry.size = entry.size.max(end);
        self.entries.insert(entry.path.clone(), (entry, parts));
        Ok(())
    }
    fn mark(&mut self, mark: &Incomplete) -> SourceResult<()> {
        let (entry, ..) = self.open.as_mut().expect("no entry is open");
        entry.mark(mark);
        Ok(())
    }
    fn discard(&mut self) -> SourceResult<()> {
        self.open.take().expect("no entry is open");
        Ok(())
    }
    fn unchanged(&mut self, entry: Entry) -> SourceResult<()> {
        assert!(self.open.is_none());
        self.unchanged.push(entry.path.clone());
        self.kept.push(entry);
        Ok(())
    }
    fn meta(&mut self, key: &str, value: &str) -> SourceResult<()> {
        self.meta.insert(key.into(), value.into());
        Ok(())
    }
}

impl MemorySink {
    /// Gives everything to a restorer: parents first, hard links last.
    pub fn restore(&self, to: &mut dyn Restorer) -> SourceResult<()> {
        let is_link = |e: &Entry| matches!(e.kind, EntryKind::Hardlink { .. });
        for links in [false, true] {
            for (entry, parts) in self.entries.values().filter(|(e, _)| is_link(e) == links) {
                to.begin(entry)?;
                for (offset, bytes) in parts {
                    to.data(*offset, bytes)?;
                }
                to.end()?;
            }
        }
        Ok(())
    }

    pub fn content(&self, path: &str) -> Vec<u8> {
        let (entry, parts) = &self.entries[path.as_bytes()];
        let mut bytes = vec![0; entry.size as usize];
        for (offset, part) in parts {
            bytes[*offset as usize..][..part.len()].copy_from_slice(part);
        }
        bytes
    }
}

/// WAL in memory, shared between the test and the thread that receives.
#[derive(Clone, Default)]
pub struct MemoryWal {
    pub kept: Arc<Mutex<Kept>>,
    pub stop: Arc<AtomicBool>,
    /// `flush` sleeps this long, in milliseconds.
    pub flush_ms: Arc<AtomicU64>,
    /// `flush` keeps nothing: it goes on returning what it returned before.
    pub withhold: Arc<AtomicBool>,
    /// What the source said of its end: where, and as of when nothing lay beyond.
    pub rested: Arc<Mutex<Vec<(Lsn, Instant)>>>,
}

#[derive(Default)]
pub struct Kept {
    pub first: Lsn,
    pub timeline: u32,
    /// Flushed bytes from `first` on.
    pub bytes: Vec<u8>,
    /// Received after them, lost if the receiver dies.
    pub pending: Vec<u8>,
    pub flushes: u64,
}

impl Kept {
    pub fn end(&self) -> Lsn {
        Lsn(self.first.0 + self.bytes.len() as u64)
    }
}

impl MemoryWal {
    pub fn starting_at(first: Lsn) -> Self {
        let wal = Self::default();
        wal.kept.lock().unwrap().first = first;
        wal
    }

    pub fn end(&self) -> Lsn {
        self.kept.lock().unwrap().end()
    }

    pub fn first(&self) -> Lsn {
        self.kept.lock().unwrap().first
    }

    pub fn halt(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Waits until everything before `lsn` is kept.
    pub fn wait_for(&self, lsn: Lsn) {
        for _ in 0..3000 {
            if self.end() >= lsn {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{lsn} was not received: {}", self.end());
    }

    /// As a receiver that died would leave it: what was not flushed is gone.
    pub fn forget_pending(&self) {
        self.kept.lock().unwrap().pending.clear();
    }

    /// Pieces of an awkward size, in order.
    pub fn pieces(&self) -> Vec<SourceResult<WalPiece>> {
        let kept = self.kept.lock().unwrap();
        let size = 1_000_003;
        let piece = |(i, bytes): (usize, &[u8])| {
            let start = Lsn(kept.first.0 + (i * size) as u64);
            Ok(WalPiece {
                timeline: Timeline(kept.timeline),
                start,
                bytes: bytes.to_vec(),
            })
        };
        kept.bytes.chunks(size).enumerate().map(piece).collect()
    }
}

impl WalSink for MemoryWal {
    fn wal(&mut self, timeline: Timeline, start: Lsn, bytes: &[u8]) -> SourceResult<()> {
        let mut kept = self.kept.lock().unwrap();
        let next = Lsn(kept.end().0 + kept.pending.len() as u64);
        assert_eq!(start, next, "gap or duplicate");
        kept.timeline = timeline.0;
        kept.pending.extend_from_slice(bytes);
        Ok(())
    }
    fn flush(&mut self) -> SourceResult<Lsn> {
        std::thread::sleep(Duration::from_millis(self.flush_ms.load(Ordering::SeqCst)));
        let mut kept = self.kept.lock().unwrap();
        if !self.withhold.load(Ordering::SeqCst) {
            let pending = std::mem::take(&mut kept.pending);
            kept.bytes.extend_from_slice(&pending);
            kept.flushes += 1;
        }
        Ok(kept.end())
    }
    fn source_at(&mut self, end: Lsn, rested: Option<Duration>) {
        if let Some(ago) = rested {
            let since = Instant::now() - ago;
            self.rested.lock().unwrap().push((end, since));
        }
    }
    fn stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
