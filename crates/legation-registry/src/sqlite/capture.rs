//! Taking an image: read under SQLite's lock by one thread, sealed by another, so that sealing does not hold the lock.
//!
//! The lock is held for a bounded time. When that is over before the end is reached, the rest is read under new locks,
//! and the file is gone through once more: then only blocks that differ are sealed, until one pass is of one commit.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use legation_core::manifest::{Entry, EntryKind, Extents, Mtime};
use legation_core::source::{BLOCK, Sink};

use super::image::Image;
use super::mark::Mark;
use super::queue::{Pushed, Queue};
use super::session::{Journal, Session, open};
use crate::error::Context;
use crate::tree::xattrs;
use crate::{Error, Result};

/// The kind of these sources in versions.
pub const KIND: &str = "sqlite";
/// What is read at once: whole pages of every size, and a window of the writer.
const CHUNK: u64 = 128 * 1024;
/// Chunks that wait to be sealed: 2 MiB.
const WAITING: usize = 16;
/// How long the lock is held in each pass. With a write-ahead log it holds up nobody, but the log grows meanwhile.
const HOLD_WAL: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(60),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
/// With a rollback journal, whoever commits waits for as long: below what applications usually wait, until nothing
/// else helps.
const HOLD_ROLLBACK: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(10),
];
/// How often the stop flag is looked at while nothing comes.
const LOOK: Duration = Duration::from_millis(100);

/// What a capture took.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// How the database stood.
    pub mark: Mark,
    /// How it commits.
    pub journal: Journal,
    /// Bytes of the image.
    pub bytes: u64,
    /// Bytes that were read; the rest was known not to have changed.
    pub read: u64,
    /// Passes that were needed.
    pub passes: u32,
    /// The longest that the lock was held.
    pub held: Duration,
}

/// From the thread that reads to the one that seals.
#[derive(Debug)]
enum Piece {
    Same { offset: u64, len: u64 },
    Data { offset: u64, bytes: Vec<u8> },
    Again,
    Done(Box<Result<Report>>),
}

/// Gives one consistent image of the database to `sink`, as a file of the database's name. `mark` is what was kept of the parent
/// version's image, if that is what the sink knows.
///
/// # Errors
/// `Refused` with the fix for all that keeps a database from being captured; the sink's error; `Stopped`.
pub fn capture(
    path: &Path,
    mark: Option<&Mark>,
    sink: &mut dyn Sink,
    stop: &dyn Fn() -> bool,
) -> Result<Report> {
    sink.begin(entry(path)?)?;
    let base = sink.in_place()?;
    let mark = mark.filter(|mark| base == Some(mark.len)).copied();
    let queue = Queue::new(WAITING);
    let report = std::thread::scope(|scope| {
        let reader = std::thread::Builder::new()
            .name("sqlite".into())
            .spawn_scoped(scope, || {
                let result = Reader::new(path, mark, &queue).run();
                queue.push(Piece::Done(Box::new(result)), None);
            });
        let result = reader
            .at(|| "starting a thread".into())
            .and_then(|_| take(&queue, sink, stop));
        queue.close();
        result
    })?;
    sink.end()?;
    sink.meta("sqlite.file", &name(path)?)?;
    sink.meta("sqlite.journal", report.journal.as_str())?;
    Ok(report)
}

/// Hands on what is read until all is.
fn take(queue: &Queue<Piece>, sink: &mut dyn Sink, stop: &dyn Fn() -> bool) -> Result<Report> {
    loop {
        if stop() {
            return Err(Error::Stopped);
        }
        match queue.pop(LOOK) {
            None => {}
            Some(Piece::Same { offset, len }) => sink.same(offset, len)?,
            Some(Piece::Data { offset, bytes }) => sink.data(offset, &bytes)?,
            Some(Piece::Again) => sink.again()?,
            Some(Piece::Done(result)) => return *result,
        }
    }
}

fn name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| {
        Error::refused(
            format!("{} does not end in a name in UTF-8", path.display()),
            "give the database a plain name",
        )
    })
}

/// The file as a version has it. Its length comes with its data.
///
/// # Errors
/// When there is no database, or it cannot be read.
pub fn entry(path: &Path) -> Result<Entry> {
    let (real, file) = open(path)?;
    let shown = || path.display().to_string();
    let meta = file.metadata().at(shown)?;
    let mut mtime = (meta.mtime(), meta.mtime_nsec());
    // What was committed may still be in the log alone.
    if let Ok(log) = std::fs::metadata(super::session::beside(&real, "-wal")) {
        mtime = mtime.max((log.mtime(), log.mtime_nsec()));
    }
    Ok(Entry {
        path: name(path)?.into_bytes(),
        kind: EntryKind::File,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: Mtime {
            secs: mtime.0,
            nanos: u32::try_from(mtime.1).unwrap_or(0),
        },
        size: 0,
        xattrs: xattrs::of_fd(std::os::fd::AsFd::as_fd(&file)).at(shown)?,
        extents: Extents::default(),
    })
}

/// Reads the image under the lock.
struct Reader<'a> {
    path: &'a Path,
    mark: Option<Mark>,
    queue: &'a Queue<Piece>,
    read: u64,
    held: Duration,
}

/// How a stretch of a pass ended.
enum Ended {
    /// At the end of the image.
    Whole(Report),
    /// The lock had to be let go of; what follows this offset is read under another.
    At(u64),
    /// At the end of the image, but what was read is of no one commit.
    Torn,
}

/// What became of a piece.
enum Given {
    InTime,
    /// The lock was held for as long as it may be; the piece, if there was no room for it.
    Late(Option<Piece>),
}

impl<'a> Reader<'a> {
    fn new(path: &'a Path, mark: Option<Mark>, queue: &'a Queue<Piece>) -> Reader<'a> {
        Reader {
            path,
            mark,
            queue,
            read: 0,
            held: Duration::ZERO,
        }
    }

    fn run(mut self) -> Result<Report> {
        for pass in 0..HOLD_WAL.len() {
            if pass > 0 {
                // What has been sealed is what this pass is compared with.
                self.mark = None;
                self.give(Piece::Again)?;
            }
            let (mut from, mut torn) = (0, false);
            loop {
                match self.stretch(from, pass)? {
                    Ended::Whole(report) if !torn => return Ok(report),
                    Ended::Whole(_) | Ended::Torn => break,
                    Ended::At(next) => (from, torn) = (next, true),
                }
            }
        }
        Err(Error::refused(
            format!(
                "{} changed faster than it could be read {} times",
                self.path.display(),
                HOLD_WAL.len()
            ),
            "see whether its disk or the spool is too slow; in WAL mode (PRAGMA journal_mode = WAL) it may be read longer",
        ))
    }

    /// Reads from `from` on under one lock.
    fn stretch(&mut self, from: u64, pass: usize) -> Result<Ended> {
        let session = Session::begin(self.path)?;
        let hold = match session.journal() {
            Journal::Wal => HOLD_WAL[pass],
            Journal::Rollback => HOLD_ROLLBACK[pass],
        };
        let until = session.began + hold;
        let place = self.mark.and_then(|mark| mark.place);
        let image = Image::of(&session, place.as_ref())?;
        let now = Mark::of(&session, &image)?;
        let changed = self.mark.filter(|mark| mark.is_of_the_file(&now));
        let changed = changed.zip(image.wal.as_ref()).and_then(|(mark, wal)| {
            Some(Changed {
                pages: wal.since.as_ref()?,
                page_size: u64::from(wal.end?.page_size),
                base: mark.len,
            })
        });
        let (len, mut at, mut same) = (image.len, from, None);
        while at < len {
            let end = (at - at % CHUNK + CHUNK).min(len);
            for (start, stop, differs) in parts(changed.as_ref(), at, end) {
                if !differs {
                    same = Some(same.map_or((start, stop), |(first, _)| (first, stop)));
                    continue;
                }
                if let Some(piece) = same_piece(&mut same)
                    && let Given::Late(piece) = self.try_give(piece, until)?
                {
                    self.late(piece, session)?;
                    return Ok(Ended::At(start));
                }
                let mut bytes = vec![0; (stop - start) as usize];
                image.read(start, &mut bytes)?;
                self.read += stop - start;
                let offset = start;
                if let Given::Late(piece) = self.try_give(Piece::Data { offset, bytes }, until)?
                    && (stop < len || piece.is_some())
                {
                    self.late(piece, session)?;
                    return Ok(if stop < len {
                        Ended::At(stop)
                    } else {
                        Ended::Torn
                    });
                }
            }
            at = end;
        }
        let whole = image.holds()?;
        let journal = session.journal();
        drop(image);
        self.let_go(session);
        if let Some(piece) = same_piece(&mut same) {
            self.give(piece)?;
        }
        if !whole {
            return Ok(Ended::Torn);
        }
        Ok(Ended::Whole(Report {
            mark: now,
            journal,
            bytes: len,
            read: self.read,
            passes: pass as u32 + 1,
            held: self.held,
        }))
    }

    /// Lets go of the lock before it waits for room.
    fn late(&mut self, piece: Option<Piece>, session: Session) -> Result<()> {
        self.let_go(session);
        piece.map_or(Ok(()), |piece| self.give(piece))
    }

    fn let_go(&mut self, session: Session) {
        let began = session.began;
        drop(session);
        self.held = self.held.max(began.elapsed());
    }

    fn give(&self, piece: Piece) -> Result<()> {
        match self.queue.push(piece, None) {
            Pushed::Done => Ok(()),
            Pushed::Late(_) | Pushed::Closed => Err(Error::Stopped),
        }
    }

    fn try_give(&self, piece: Piece, until: Instant) -> Result<Given> {
        match self.queue.push(piece, Some(until)) {
            Pushed::Done if Instant::now() < until => Ok(Given::InTime),
            Pushed::Done => Ok(Given::Late(None)),
            Pushed::Late(piece) => Ok(Given::Late(Some(piece))),
            Pushed::Closed => Err(Error::Stopped),
        }
    }
}

/// What may differ from the image that the mark is of.
struct Changed<'a> {
    pages: &'a BTreeSet<u32>,
    page_size: u64,
    /// Length of that image.
    base: u64,
}

/// Cuts a range into parts, each with whether it may differ.
fn parts(changed: Option<&Changed<'_>>, at: u64, end: u64) -> Vec<(u64, u64, bool)> {
    let Some(changed) = changed else {
        return vec![(at, end, true)];
    };
    let unit = changed.page_size.max(BLOCK);
    let mut parts: Vec<(u64, u64, bool)> = Vec::new();
    let mut start = at;
    while start < end {
        let stop = (start - start % unit + unit).min(end);
        let (first, last) = (start / changed.page_size, (stop - 1) / changed.page_size);
        let whole = start.is_multiple_of(unit) && stop.is_multiple_of(unit) && stop <= changed.base;
        let touched = changed.pages.range(first as u32 + 1..=last as u32 + 1);
        let differs = !whole || touched.take(1).count() > 0;
        match parts.last_mut() {
            Some(part) if part.2 == differs => part.1 = stop,
            _ => parts.push((start, stop, differs)),
        }
        start = stop;
    }
    parts
}

fn same_piece(same: &mut Option<(u64, u64)>) -> Option<Piece> {
    same.take().map(|(offset, end)| Piece::Same {
        offset,
        len: end - offset,
    })
}
