//! Tablespaces without links: a version keeps each as a directory within the data directory, and the log is made to
//! create later ones there too, before anything is replayed. A restored copy never follows a path of home.
//!
//! PostgreSQL 15 and later know tablespaces without a path of their own ("in place"). A record that creates one at a path
//! is turned into one that creates it in place: the path becomes empty, and the record's checksum is made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use legation_core::id::{Lsn, Timeline};

use super::crc32c::Crc32c;
use super::record::{Broken, Decoder, Record, Source};
use super::restore::Plan;
use super::walfile::{segment_name, segment_start};
use crate::error::Context;
use crate::{Error, Result};

/// `XLOG_BLCKSZ` of every usual build.
const PAGE: u64 = 8192;
/// Headers of a page of WAL, and of the first page of a segment (`SizeOfXLogShortPHD`, `SizeOfXLogLongPHD`).
const PAGE_HEADER: u64 = 24;
const FIRST_PAGE_HEADER: u64 = 40;
/// `SizeOfXLogRecord`, and where its CRC and its resource manager lie.
const RECORD_HEADER: usize = 24;
const RECORD_CRC: usize = 20;
const RECORD_RMGR: usize = 17;
/// `RM_TBLSPC_ID`.
const TABLESPACE_RMGR: u8 = 5;
/// `XLOG_TBLSPC_CREATE`.
const CREATE: u8 = 0x00;
/// How much of the log is read at once.
const READ: usize = 1 << 20;
/// `XLR_BLOCK_ID_DATA_SHORT` and `XLR_BLOCK_ID_DATA_LONG`: the main data, the last part of a record, follows.
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
/// `MAXPGPATH` with all headers: no record that creates a tablespace is longer.
const MAX_RECORD: usize = 2048;
/// Where a base says what its links led to.
const MAP: &str = "tablespace_map";
/// A line for each tablespace, each of some dozens of bytes.
const MAX_MAP: u64 = 16 << 20;

/// Checks that each tablespace that a base names is there as a directory, and removes the map from which the server would
/// make links.
pub(super) fn forget_links(data_dir: &Path) -> Result<()> {
    let map = data_dir.join(MAP);
    match fs::symlink_metadata(&map) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(meta) if meta.is_file() && meta.len() <= MAX_MAP => {}
        Ok(_) => return Err(bad("is not one")),
        Err(e) => return Err(Error::io(map.display().to_string(), e)),
    }
    let text = fs::read(&map).at(|| map.display().to_string())?;
    for line in String::from_utf8_lossy(&text).lines() {
        // A line break in a path is escaped, and what follows it is no line of its own.
        let number = line.split(' ').next().unwrap_or_default();
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let dir = data_dir.join("pg_tblspc").join(number);
        let is_dir = fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir());
        if !is_dir {
            return Err(Error::refused(
                format!(
                    "the base names tablespace {number}, and {} is no directory: the server would follow a path of home",
                    dir.display()
                ),
                "restore the version again into an empty directory",
            ));
        }
    }
    fs::remove_file(&map).at(|| format!("remove {}", map.display()))
}

/// Makes the log create its tablespaces in place. Returns how many records were changed; those that are so already are
/// left as they are.
pub(super) fn keep_inside(data_dir: &Path, plan: &Plan) -> Result<usize> {
    if plan.until <= plan.facts.start {
        return Ok(0);
    }
    let wal = Wal::look(data_dir.join("pg_wal"), plan.facts.wal_segment_size.into())?;
    let created = wal.creations(plan)?;
    for at in &created {
        wal.without_path(*at)?;
    }
    Ok(created.len())
}

/// The log of a restored directory.
struct Wal {
    dir: PathBuf,
    segment: u64,
    /// Segments by number, each with the timelines that have it: a switch leaves one in several.
    files: BTreeMap<u64, BTreeSet<Timeline>>,
}

impl Wal {
    fn look(dir: PathBuf, segment: u64) -> Result<Self> {
        let mut files: BTreeMap<u64, BTreeSet<Timeline>> = BTreeMap::new();
        let shown = || dir.display().to_string();
        for entry in fs::read_dir(&dir).at(shown)? {
            let name = entry.at(shown)?.file_name();
            let Some(name) = name.to_str() else { continue };
            let timeline = name.get(..8).and_then(|t| u32::from_str_radix(t, 16).ok());
            if let (Some(timeline), Some(first)) = (timeline, segment_start(name, segment)) {
                let of_number = files.entry(first.0 / segment).or_default();
                of_number.insert(Timeline(timeline));
            }
        }
        Ok(Wal {
            dir,
            segment,
            files,
        })
    }

    /// Where the log creates tablespaces at a path, by the rules by which replay reads it. What ends the log ends this
    /// too: replay goes no further.
    fn creations(&self, plan: &Plan) -> Result<Vec<Lsn>> {
        let source = Source {
            system_id: plan.facts.system_id,
            major: plan.facts.major,
            segment_size: plan.facts.wal_segment_size,
        };
        let unknown = |e: Broken| Error::malformed("kept WAL", e.to_string());
        let mut log = Decoder::new(source, plan.facts.start).map_err(unknown)?;
        let mut created = Vec::new();
        let mut part = vec![0; READ];
        for number in plan.facts.start.0 / self.segment.. {
            let Some((path, mut file)) = self.newest(number)? else {
                return Ok(created);
            };
            let mut at = number * self.segment;
            loop {
                let read = file.read(&mut part).at(|| path.display().to_string())?;
                if read == 0 {
                    break;
                }
                if log.push(Lsn(at), &part[..read]).is_err() {
                    return Ok(created);
                }
                at += read as u64;
                loop {
                    match log.poll() {
                        Ok(Some(record)) if is_creation(&record) => created.push(record.start),
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return Ok(created),
                    }
                }
            }
        }
        Ok(created)
    }

    /// The file from which replay reads a segment: of those that have it, the one of the latest timeline.
    fn newest(&self, number: u64) -> Result<Option<(PathBuf, File)>> {
        let timeline = self.files.get(&number).and_then(BTreeSet::last);
        let Some(timeline) = timeline else {
            return Ok(None);
        };
        self.open(*timeline, number).map(Some)
    }

    /// Empties the path of the record at `at`.
    fn without_path(&self, at: Lsn) -> Result<()> {
        let mut places = Places {
            next: at.0,
            segment: self.segment,
        };
        let mut read = |count: usize| -> Result<(Vec<u64>, Vec<u8>)> {
            let at: Vec<u64> = places.by_ref().take(count).collect();
            let bytes = at
                .iter()
                .map(|place| self.byte(*place))
                .collect::<Result<_>>()?;
            Ok((at, bytes))
        };
        let (mut at, mut record) = read(RECORD_HEADER)?;
        let length = u32::from_le_bytes([record[0], record[1], record[2], record[3]]) as usize;
        if record[RECORD_RMGR] != TABLESPACE_RMGR || !(RECORD_HEADER..=MAX_RECORD).contains(&length)
        {
            return Err(Error::malformed(
                "kept WAL",
                "a record is not what it was found to be",
            ));
        }
        let (rest_at, rest) = read(length - RECORD_HEADER)?;
        at.extend(rest_at);
        record.extend(rest);
        if crc(&record) != record[RECORD_CRC..RECORD_HEADER] {
            return Err(Error::malformed(
                "kept WAL",
                "a record fails its own checksum",
            ));
        }
        let Some(path) = path_of(&record) else {
            return Err(Error::malformed(
                "kept WAL",
                "a record that creates a tablespace has no path",
            ));
        };
        record[path].fill(0);
        let checked = crc(&record);
        record[RECORD_CRC..RECORD_HEADER].copy_from_slice(&checked);
        let own = at.first().and_then(|place| self.timelines(*place).last());
        let own = own.copied().unwrap_or(Timeline(0));
        // Where the log goes on in a later timeline within a segment, the end of the record lies in the files of both.
        let later = |place: u64| self.timelines(place).range(own..);
        for (place, byte) in at.iter().zip(&record) {
            for timeline in later(*place) {
                let (path, file) = self.open(*timeline, place / self.segment)?;
                file.write_all_at(&[*byte], place % self.segment)
                    .at(|| path.display().to_string())?;
            }
        }
        for place in [at.first(), at.last()].into_iter().flatten() {
            for timeline in later(*place) {
                let (path, file) = self.open(*timeline, place / self.segment)?;
                file.sync_all().at(|| path.display().to_string())?;
            }
        }
        Ok(())
    }

    /// The timelines that have the segment of this place.
    fn timelines(&self, place: u64) -> &BTreeSet<Timeline> {
        const NONE: &BTreeSet<Timeline> = &BTreeSet::new();
        self.files.get(&(place / self.segment)).unwrap_or(NONE)
    }

    fn byte(&self, place: u64) -> Result<u8> {
        let mut byte = [0];
        let (path, file) = self
            .newest(place / self.segment)?
            .ok_or_else(|| Error::malformed("kept WAL", "a record is not whole"))?;
        file.read_exact_at(&mut byte, place % self.segment)
            .at(|| path.display().to_string())?;
        Ok(byte[0])
    }

    /// A record has some hundred bytes, and such records are few: each byte is read by itself.
    fn open(&self, timeline: Timeline, number: u64) -> Result<(PathBuf, File)> {
        let path = self.dir.join(segment_name(timeline, number, self.segment));
        let file = OpenOptions::new().read(true).write(true).open(&path);
        file.at(|| path.display().to_string())
            .map(|file| (path, file))
    }
}

/// Whether a record creates a tablespace at a path.
fn is_creation(record: &Record<'_>) -> bool {
    record.manager == TABLESPACE_RMGR
        && record.info & 0xf0 == CREATE
        && record
            .body()
            .is_ok_and(|body| body.main.get(4).is_some_and(|first| *first != 0))
}

/// The places of a record's bytes: one after the other, without the headers of pages.
struct Places {
    next: u64,
    segment: u64,
}

impl Iterator for Places {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.next.is_multiple_of(PAGE) {
            self.next += match self.next % self.segment {
                0 => FIRST_PAGE_HEADER,
                _ => PAGE_HEADER,
            };
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

/// The checksum of a record: of what follows its header, then of the header up to the checksum.
fn crc(record: &[u8]) -> [u8; 4] {
    let mut crc = Crc32c::new();
    crc.update(&record[RECORD_HEADER..]);
    crc.update(&record[..RECORD_CRC]);
    crc.value().to_le_bytes()
}

/// Where the path lies: main data is the number of the tablespace, then the path.
fn path_of(record: &[u8]) -> Option<std::ops::Range<usize>> {
    let body = record.get(RECORD_HEADER..)?;
    // Before the main data's own head there may be the origin of a replicated transaction and the top transaction's number.
    let mut at = 0;
    let length = loop {
        match *body.get(at)? {
            253 => at += 3,
            252 => at += 5,
            DATA_SHORT => break usize::from(*body.get(at + 1)?),
            DATA_LONG => {
                break u32::from_le_bytes(*body.get(at + 1..)?.first_chunk()?) as usize;
            }
            _ => return None,
        }
    };
    let start = record.len().checked_sub(length)? + 4;
    (start < record.len()).then_some(start..record.len())
}

fn bad(what: &str) -> Error {
    Error::malformed("tablespace_map", what)
}
