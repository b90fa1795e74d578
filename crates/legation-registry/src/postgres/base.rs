//! A base backup over the replication protocol, checked against the server's own manifest as it streams.
//! The replication slot must exist before: WAL from the start on is taken by the receiver, not by the backup.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use legation_core::id::{Lsn, Sha256, Timeline};
use legation_core::manifest::{Entry, EntryKind, Extents, Mtime};
use legation_core::source::Sink;
use serde::Deserialize;

use super::conn::{Conn, Message, row, take_cstr, take_u8};
use super::crc32c::Crc32c;
use super::facts::Facts;
use super::lineage::history_file;
use super::probe::{self, Probe, column, replication};
use super::tar::{Member, MemberKind, Members, TarReader};
use super::url::ConnectConfig;
use crate::{Error, Result};

/// A manifest names each file in some 200 bytes: this is enough for a million files.
const MAX_MANIFEST: usize = 256 << 20;
/// The name under which the server's manifest is kept, and where `pg_verifybackup` looks for it.
const MANIFEST: &str = "backup_manifest";
/// The archive of the data directory itself; each tablespace has one of its own before it.
const ARCHIVE: &str = "base.tar";
/// Where tablespaces are kept in a version: as directories, where the source has links.
const TABLESPACES: &str = "pg_tblspc";

/// How to take a base.
#[derive(Debug, Clone)]
pub struct BaseOptions {
    /// The slot that already holds the WAL from the start on.
    pub slot: String,
    /// A name that the server writes into `backup_label`.
    pub label: String,
    /// Checkpoint at once (more load, sooner done) instead of spreading it.
    pub fast: bool,
    /// The most that the server may send, in KiB a second; between 32 and 1,048,576.
    pub max_rate_kib: Option<u32>,
}

impl BaseOptions {
    /// A base at once and at full speed.
    pub fn new(slot: impl Into<String>) -> Self {
        BaseOptions {
            slot: slot.into(),
            label: "legation".into(),
            fast: true,
            max_rate_kib: None,
        }
    }
}

/// What was taken.
#[derive(Debug, Clone)]
pub struct BaseReport {
    /// The facts, as they were given to `Sink::meta`.
    pub facts: Facts,
    /// How many entries.
    pub entries: u64,
    /// How many bytes of files.
    pub bytes: u64,
}

/// Takes a base backup into `sink`. The copy is consistent once WAL up to `facts.stop` is kept too.
///
/// Fails if the preflight finds anything blocking, and if one byte differs from the server's manifest; what the sink
/// was given then must not become a version. `stop` is looked at several times a second.
pub fn capture(
    config: &ConnectConfig,
    options: &BaseOptions,
    sink: &mut dyn Sink,
    stop: &dyn Fn() -> bool,
) -> Result<BaseReport> {
    let probe = probe::probe(config, &options.slot)?;
    probe.check()?;
    let mut conn = replication(config)?;
    conn.start_query(&command(options)?)?;
    let mut backup = Backup {
        sink,
        stop,
        prefix: Vec::new(),
        crc: Crc32c::new(),
        path: Vec::new(),
        size: 0,
        files: HashMap::new(),
        entries: 0,
        bytes: 0,
        owner: (0, 0),
    };
    let (start, timeline) = position(&mut conn, stop, "its start")?;
    tablespaces(&mut conn, stop)?;
    let manifest = stream(&mut conn, &mut backup)?;
    let (end, end_timeline) = position(&mut conn, stop, "its end")?;
    finish(&mut conn, stop)?;
    if end_timeline != timeline {
        return Err(bad(&format!(
            "the server went from timeline {timeline} to {end_timeline} during the backup"
        )));
    }
    check_manifest(&manifest, &backup.files)?;
    backup.whole_file(MANIFEST.as_bytes(), &manifest)?;
    if timeline.0 > 1 {
        backup.history(&mut conn, timeline)?;
    }
    let facts = facts(&probe, config, options, timeline, start, end);
    for (key, value) in facts.to_meta() {
        backup.sink.meta(&key, &value)?;
    }
    Ok(BaseReport {
        facts,
        entries: backup.entries,
        bytes: backup.bytes,
    })
}

fn command(options: &BaseOptions) -> Result<String> {
    if options.label.is_empty()
        || options.label.len() > 200
        || options.label.contains(|c: char| c.is_control())
    {
        return Err(Error::refused(
            "the backup's label is unusable",
            "give it 1 to 200 printable characters",
        ));
    }
    let checkpoint = if options.fast { "fast" } else { "spread" };
    let rate = options.max_rate_kib.map_or(String::new(), |r| {
        format!(", MAX_RATE {}", r.clamp(32, 1 << 20))
    });
    // WAIT 0: the receiver has the WAL, so no archiver needs to be waited for. CRC-32C costs the primary next to
    // nothing, and forgers are kept out later, by the seal.
    Ok(format!(
        "BASE_BACKUP ( LABEL '{}', CHECKPOINT '{checkpoint}', WAIT 0, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', \
         TABLESPACE_MAP{rate} )",
        options.label.replace('\'', "''")
    ))
}

fn facts(
    probe: &Probe,
    config: &ConnectConfig,
    options: &BaseOptions,
    timeline: Timeline,
    start: Lsn,
    stop: Lsn,
) -> Facts {
    Facts {
        system_id: probe.system_id,
        timeline,
        start,
        stop,
        version: probe.version.clone(),
        major: probe.major,
        block_size: probe.block_size,
        wal_segment_size: probe.wal_segment_size,
        data_checksums: probe.data_checksums,
        label: options.label.clone(),
        superuser: probe.superuser.clone(),
        database: config.database.clone(),
        locales: probe.locales.clone(),
        settings: probe.settings.clone(),
    }
}

/// The next message that is not a notice; an error of the server ends the backup.
fn next(conn: &mut Conn, stop: &dyn Fn() -> bool) -> Result<Message> {
    loop {
        let message = conn.next(stop)?;
        match message.tag {
            b'N' | b'S' => {}
            b'E' => return Err(conn.server_error(message.body)),
            _ => return Ok(message),
        }
    }
}

/// A result set of one row: position and timeline.
fn position(conn: &mut Conn, stop: &dyn Fn() -> bool, what: &str) -> Result<(Lsn, Timeline)> {
    let mut found = None;
    loop {
        let message = next(conn, stop)?;
        match message.tag {
            b'T' => {}
            b'D' => {
                let row = row(message.body)?;
                found = column(&row, 0)
                    .and_then(|l| l.parse().ok())
                    .zip(column(&row, 1).and_then(|t| t.parse().ok()));
            }
            b'C' => {
                return found
                    .ok_or_else(|| bad(&format!("the server does not say where {what} is")));
            }
            tag => return Err(unexpected(tag)),
        }
    }
}

/// The list of tablespaces and where they lie at home: nothing that a version needs.
fn tablespaces(conn: &mut Conn, stop: &dyn Fn() -> bool) -> Result<()> {
    loop {
        match next(conn, stop)?.tag {
            b'T' | b'D' => {}
            b'C' => return Ok(()),
            tag => return Err(unexpected(tag)),
        }
    }
}

/// Where the members of an archive go: the data directory, or a directory for the tablespace of this number.
fn place(archive: &str) -> Result<Vec<u8>> {
    if archive == ARCHIVE {
        return Ok(Vec::new());
    }
    let number = archive.strip_suffix(".tar").filter(|number| {
        !number.is_empty() && number.len() <= 10 && number.bytes().all(|b| b.is_ascii_digit())
    });
    number.map_or_else(
        || Err(bad(&format!("the server sends an archive {archive:?}"))),
        |number| Ok(format!("{TABLESPACES}/{number}").into_bytes()),
    )
}

/// The archives and the manifest; returns the manifest.
fn stream(conn: &mut Conn, backup: &mut Backup<'_>) -> Result<Vec<u8>> {
    let mut tar: Option<TarReader> = None;
    let mut manifest: Option<Vec<u8>> = None;
    let mut seen = BTreeSet::new();
    loop {
        let message = next(conn, backup.stop)?;
        let mut body: Bytes = match message.tag {
            b'H' => continue,
            b'd' => message.body,
            b'c' => break,
            tag => return Err(unexpected(tag)),
        };
        match take_u8(&mut body)? {
            b'n' => {
                if let Some(tar) = tar.take() {
                    tar.finish()?;
                }
                let name = take_cstr(&mut body)?;
                backup.prefix = place(&name)?;
                if manifest.is_some() || !seen.insert(name.clone()) {
                    return Err(bad(&format!("the server sends an archive {name:?}")));
                }
                if name != ARCHIVE {
                    backup.tablespace()?;
                }
                tar = Some(TarReader::new());
            }
            b'm' => manifest = Some(Vec::new()),
            b'd' => match (&mut manifest, &mut tar) {
                (Some(text), _) if text.len() + body.len() > MAX_MANIFEST => {
                    return Err(bad("the manifest is too large"));
                }
                (Some(text), _) => text.extend_from_slice(&body),
                (None, Some(tar)) => tar.feed(&body, backup)?,
                (None, None) => return Err(bad("data before an archive")),
            },
            b'p' => {}
            kind => return Err(bad(&format!("data of kind {:?}", char::from(kind)))),
        }
    }
    if !seen.contains(ARCHIVE) {
        return Err(bad("the server sent no archive of the data directory"));
    }
    if let Some(tar) = tar {
        tar.finish()?;
    }
    manifest.ok_or_else(|| bad("the server sent no manifest"))
}

fn finish(conn: &mut Conn, stop: &dyn Fn() -> bool) -> Result<()> {
    loop {
        match next(conn, stop)?.tag {
            b'Z' => return Ok(()),
            b'C' => {}
            tag => return Err(unexpected(tag)),
        }
    }
}

/// Where the members of the archive go on to, with what the manifest check needs kept aside.
struct Backup<'a> {
    sink: &'a mut dyn Sink,
    stop: &'a dyn Fn() -> bool,
    /// Where the members of the current archive go, see [`place`].
    prefix: Vec<u8>,
    crc: Crc32c,
    path: Vec<u8>,
    size: u64,
    /// Size and checksum of every file, by path.
    files: HashMap<Vec<u8>, (u64, u32)>,
    entries: u64,
    bytes: u64,
    /// Whose the data directory is: what comes outside the archive belongs to them too.
    owner: (u32, u32),
}

impl Backup<'_> {
    /// The directory that takes a tablespace's link's place.
    fn tablespace(&mut self) -> Result<()> {
        let path = self.prefix.clone();
        self.sink.begin(Entry {
            path,
            kind: EntryKind::Dir,
            mode: 0o700,
            uid: self.owner.0,
            gid: self.owner.1,
            mtime: Mtime::default(),
            size: 0,
            xattrs: Default::default(),
            extents: Extents::default(),
        })?;
        self.entries += 1;
        Ok(self.sink.end()?)
    }

    /// A file that came outside the archive.
    fn whole_file(&mut self, path: &[u8], bytes: &[u8]) -> Result<()> {
        self.sink.begin(Entry {
            path: path.to_vec(),
            kind: EntryKind::File,
            mode: 0o600,
            uid: self.owner.0,
            gid: self.owner.1,
            mtime: Mtime::default(),
            size: bytes.len() as u64,
            xattrs: Default::default(),
            extents: Extents::default(),
        })?;
        for (i, part) in bytes.chunks(1 << 20).enumerate() {
            self.sink.data((i as u64) << 20, part)?;
        }
        self.sink.end()?;
        self.entries += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// The ancestry of a timeline that did not begin with the cluster.
    fn history(&mut self, conn: &mut Conn, timeline: Timeline) -> Result<()> {
        let text = history_file(conn, timeline, self.stop)?;
        self.whole_file(
            format!("pg_wal/{:08X}.history", timeline.0).as_bytes(),
            text.as_bytes(),
        )
    }
}

impl Members for Backup<'_> {
    fn begin(&mut self, mut member: Member) -> Result<()> {
        if !self.prefix.is_empty() {
            let within = std::mem::replace(&mut member.path, self.prefix.clone());
            member.path.push(b'/');
            member.path.extend_from_slice(&within);
        }
        let kind = match member.kind {
            MemberKind::File => EntryKind::File,
            MemberKind::Dir => EntryKind::Dir,
            MemberKind::Symlink(target) => EntryKind::Symlink { target },
        };
        self.owner = (member.uid, member.gid);
        self.path.clone_from(&member.path);
        self.size = if kind == EntryKind::File {
            member.size
        } else {
            u64::MAX
        };
        self.crc = Crc32c::new();
        self.entries += 1;
        self.sink.begin(Entry {
            path: member.path,
            kind,
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: Mtime {
                secs: member.mtime,
                nanos: 0,
            },
            size: member.size,
            xattrs: Default::default(),
            extents: Extents::default(),
        })?;
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(self.sink.data(offset, bytes)?)
    }

    fn end(&mut self) -> Result<()> {
        if self.size != u64::MAX {
            let path = std::mem::take(&mut self.path);
            if self
                .files
                .insert(path.clone(), (self.size, self.crc.value()))
                .is_some()
            {
                return Err(bad(&format!(
                    "the archive holds {} twice",
                    String::from_utf8_lossy(&path)
                )));
            }
        }
        Ok(self.sink.end()?)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    files: Vec<ManifestFile>,
}

#[derive(Deserialize)]
struct ManifestFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

/// Compares what was received with what the server says that it sent: same files, sizes and checksums.
fn check_manifest(text: &[u8], files: &HashMap<Vec<u8>, (u64, u32)>) -> Result<()> {
    // The manifest's last line holds the SHA-256 of everything before it.
    let tail = b"\"Manifest-Checksum\"";
    let at = text
        .windows(tail.len())
        .rposition(|w| w == tail)
        .ok_or_else(|| bad("the manifest has no checksum"))?;
    let claimed = text[at + tail.len()..]
        .split(|b| *b == b'"')
        .nth(1)
        .unwrap_or_default();
    if claimed != Sha256::of(&text[..at]).to_string().as_bytes() {
        return Err(bad("the manifest fails its own checksum"));
    }
    let manifest: Manifest = serde_json::from_slice(text)
        .map_err(|e| bad(&format!("the manifest cannot be read: {e}")))?;
    for file in &manifest.files {
        let path = match (&file.path, &file.encoded_path) {
            (Some(path), _) => path.as_bytes().to_vec(),
            (None, Some(hex)) => {
                unhex(hex).ok_or_else(|| bad("the manifest holds a broken path"))?
            }
            (None, None) => return Err(bad("the manifest holds a file without a path")),
        };
        let shown = String::from_utf8_lossy(&path);
        let (size, crc) = files
            .get(&path)
            .ok_or_else(|| bad(&format!("{shown} is in the manifest and was not sent")))?;
        if file.algorithm.as_deref() != Some("CRC32C") {
            return Err(bad(&format!("the manifest holds no CRC-32C of {shown}")));
        }
        // PostgreSQL prints the checksum's bytes as they lie in memory: little-endian.
        let wanted = file
            .checksum
            .as_deref()
            .and_then(unhex)
            .and_then(|b| <[u8; 4]>::try_from(b).ok())
            .map(u32::from_le_bytes);
        if *size != file.size || wanted != Some(*crc) {
            return Err(bad(&format!(
                "{shown} differs from the server's manifest: take the base again"
            )));
        }
    }
    if manifest.files.len() != files.len() {
        return Err(bad("files were sent that the manifest does not name"));
    }
    Ok(())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?))
        .collect()
}

fn bad(detail: &str) -> Error {
    Error::malformed("base backup", detail)
}

fn unexpected(tag: u8) -> Error {
    Error::malformed(
        "PostgreSQL protocol",
        format!("message {:?} during a base backup", char::from(tag)),
    )
}

#[cfg(test)]
mod tests;
