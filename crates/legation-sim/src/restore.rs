//! The deep checkers: everything that was promised is opened with the vault's keys and compared with what home had.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use legation_core::id::{EpochNo, RegistryId, StreamId};
use legation_core::journal::StreamOpener;
use legation_core::keys::EpochRoot;
use legation_core::manifest::Entry;
use legation_core::policy::VersionState;
use legation_core::slip;
use legation_core::source::{Restorer, SourceResult};
use legation_core::statement::EpochSet;
use legation_embassy::local::LocalEmbassy;
use legation_repo::check;
use legation_repo::dir::DirStore;
use legation_repo::http::wire::MAX_JOURNAL;
use legation_repo::reader::{Check, ReadError, VersionName, VersionReader};
use legation_repo::store::{Kind, Objects, Store as _};

use crate::audit::{Audit, Captured, Checked, found};
use crate::founding::Founding;
use crate::site::Site;

/// Memory for opened frames.
const CACHE: usize = 4 << 20;

/// What was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Versions restored.
    pub versions: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Streams opened.
    pub streams: u64,
    /// Bytes of log opened.
    pub wal: u64,
}

/// A version's files, put together in memory.
#[derive(Default)]
struct Files {
    files: BTreeMap<String, Vec<u8>>,
    open: Option<(String, Vec<u8>)>,
}

impl Restorer for Files {
    fn begin(&mut self, entry: &Entry) -> SourceResult<()> {
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        self.open = Some((name, vec![0; entry.size as usize]));
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> SourceResult<()> {
        if let Some((_, content)) = &mut self.open {
            let at = offset as usize;
            content[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> SourceResult<()> {
        self.files.extend(self.open.take());
        Ok(())
    }
}

/// What a version is restored from: a store in a directory, and keys.
pub struct From {
    objects: Arc<Objects<DirStore>>,
    roots: BTreeMap<EpochNo, EpochRoot>,
}

impl From {
    /// The store of a state's directory, and these keys.
    ///
    /// # Errors
    /// When there is no store.
    pub fn new(state: &Path, roots: BTreeMap<EpochNo, EpochRoot>) -> Checked<Self> {
        match DirStore::open_reader(&state.join("object")) {
            Ok(store) => Ok(Self {
                objects: Arc::new(Objects(store)),
                roots,
            }),
            Err(error) => found("restore", error.to_string()),
        }
    }

    /// The files of a version.
    ///
    /// # Errors
    /// As the reader.
    pub fn files(
        &self,
        founding: &Founding,
        registry: RegistryId,
        version: &VersionState,
    ) -> Result<BTreeMap<String, Vec<u8>>, ReadError> {
        let commit = &version.commit;
        let name = VersionName {
            state: founding.state,
            registry,
            version: commit.version,
            list: commit.packs.list,
            root: legation_core::pack::FrameRef {
                epoch: commit.root.epoch,
                seq: commit.root.seq,
                index: commit.root.index,
                offset: commit.root.offset,
                sealed: commit.root.sealed,
                plain: commit.root.plain,
            },
        };
        let keys = Arc::new(self.roots.clone());
        let reader = VersionReader::open(self.objects.clone(), keys, &name, Check::Whole, CACHE)?;
        let mut files = Files::default();
        reader.restore(0, b"", &mut files, &mut |_| {})?;
        Ok(files.files)
    }
}

/// Compares a restored version with what was captured.
///
/// # Errors
/// When they differ.
pub fn same(captured: &Captured, files: &BTreeMap<String, Vec<u8>>) -> Checked {
    if captured.files == *files {
        return Ok(());
    }
    let bad = captured
        .files
        .iter()
        .find(|(name, content)| files.get(*name) != Some(content));
    let name = bad.map_or("a file that was not captured", |(name, _)| name.as_str());
    found(
        "restore",
        format!("{name} of {} came back with other bytes", captured.registry),
    )
}

/// The roots of a registry's logged epochs, as far as their slips open.
///
/// # Errors
/// When a slip that the log names is not there whole.
pub fn roots(
    founding: &Founding,
    audit: &Audit,
    state: &Path,
    registry: RegistryId,
) -> Checked<BTreeMap<EpochNo, EpochRoot>> {
    let store = match DirStore::open_reader(&state.join("object")) {
        Ok(store) => store,
        Err(error) => return found("restore", error.to_string()),
    };
    let known = audit.fold().registry(registry);
    let mut roots = BTreeMap::new();
    for epoch in known.map_or(&[][..], |known| &known.epochs) {
        let bytes = match store.get_whole(Kind::Slip, &epoch.slip) {
            Ok(bytes) => bytes,
            Err(error) => {
                return found(
                    "restore",
                    format!("the slip of epoch {}: {error}", epoch.epoch),
                );
            }
        };
        // What a thief sealed need not open.
        if let Ok(root) = slip::open(&founding.vault(epoch.generation), &bytes) {
            roots.insert(epoch.epoch, root);
        }
    }
    Ok(roots)
}

/// Opens everything that was promised, and compares it.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn everything(founding: &Founding, audit: &Audit, site: &mut Site) -> Checked<Compared> {
    let mut compared = Compared::default();
    let state = site.disk.root().join(founding.state.to_string());
    audit.all_receipts()?;
    if let Some(process) = site.process() {
        audit.acks_stand(process)?;
    }
    for (registry, known) in audit.fold().registries() {
        let roots = roots(founding, audit, &state, registry)?;
        let from = From::new(&state, roots.clone())?;
        for version in &known.versions {
            // What a thief committed restores to nothing that anybody wrote.
            let Some(captured) = audit.versions.get(&version.commit.packs.list) else {
                continue;
            };
            match from.files(founding, registry, version) {
                Ok(files) => same(captured, &files)?,
                Err(error) => {
                    let number = version.commit.version;
                    return found("restore", format!("{number} of {registry}: {error}"));
                }
            }
            compared.versions += 1;
            compared.bytes += version.commit.bytes;
        }
        let acks = audit.acks.iter().filter(|((r, _), _)| *r == registry);
        for ((_, stream), (last, chain)) in acks {
            let read = site.with(|embassy| all_frames(embassy, registry, *stream));
            if audit.ours.contains(&(registry, *stream)) {
                compared.wal += wal(audit, &roots, read.as_deref().unwrap_or_default(), *last)?;
            }
            let kept = read.as_ref().and_then(|frames| frames.get(*last as usize));
            let end = kept.and_then(|frame| frame.last_chunk::<32>());
            if end != Some(&chain.0) {
                return found(
                    "ack",
                    format!("frame {last} of a stream of {registry} is another"),
                );
            }
            compared.streams += 1;
        }
    }
    scrub(founding, site)?;
    Ok(compared)
}

/// Every stored byte is as it was, as far as that shows without keys.
///
/// # Errors
/// The first finding.
pub fn scrub(founding: &Founding, site: &Site) -> Checked {
    let report = check::check(&site.disk.root(), &founding.state, 1, &|_| true);
    match report {
        Ok(report) if report.is_whole() => Ok(()),
        Ok(report) => {
            let first = report.findings.first().map(ToString::to_string);
            found("check", first.unwrap_or_default())
        }
        Err(error) => found("check", error.to_string()),
    }
}

/// What an activation replays: every acknowledged stream of home's whose epoch the order covers opens with the keys that
/// were released for it, and is what the registry wrote.
///
/// # Errors
/// When one does not.
pub fn replayed(
    audit: &Audit,
    site: &mut Site,
    registry: RegistryId,
    scope: &EpochSet,
    keys: &BTreeMap<EpochNo, EpochRoot>,
) -> Checked<u64> {
    let mut bytes = 0;
    let acks = audit.acks.iter().filter(|((r, _), _)| *r == registry);
    for ((_, stream), (last, _)) in acks {
        if !audit.ours.contains(&(registry, *stream)) {
            continue;
        }
        let read = site.with(|embassy| all_frames(embassy, registry, *stream));
        let frames = read.unwrap_or_default();
        let header = frames
            .first()
            .and_then(|first| crate::agent::first_of(first));
        if header.is_some_and(|header| scope.contains(header.epoch)) {
            bytes += wal(audit, keys, &frames, *last)?;
        }
    }
    Ok(bytes)
}

fn all_frames(embassy: &LocalEmbassy, registry: RegistryId, stream: StreamId) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Ok(run) = embassy.frames(registry, stream, frames.len() as u64, MAX_JOURNAL) {
        if run.is_empty() {
            break;
        }
        frames.extend(split(&run));
    }
    frames
}

/// Opens a stream up to its frame number `last`, and compares what home sealed in it. Frames that a thief appended are
/// not home's to compare, but none of them lies before an honest one.
fn wal(
    audit: &Audit,
    roots: &BTreeMap<EpochNo, EpochRoot>,
    frames: &[Vec<u8>],
    last: u64,
) -> Checked<u64> {
    let chain = |frame: &[u8]| {
        frame
            .last_chunk()
            .map(|chain| legation_core::id::Digest(*chain))
    };
    let expected = |frame: &[u8]| chain(frame).and_then(|chain| audit.frames.get(&chain));
    let Some(first) = frames.first().filter(|first| expected(first).is_some()) else {
        return Ok(0);
    };
    let epoch = crate::agent::first_of(first).map_or(EpochNo(0), |header| header.epoch);
    let Some(root) = roots.get(&epoch) else {
        return found(
            "restore",
            format!("epoch {epoch} of an acknowledged stream does not open"),
        );
    };
    let mut opener = match StreamOpener::new(root, first) {
        Ok(opener) => opener,
        Err(error) => return found("restore", format!("an acknowledged stream: {error}")),
    };
    let mut bytes = 0;
    for frame in frames.iter().skip(1).take(last as usize) {
        let Some(expected) = expected(frame) else {
            break;
        };
        match opener.open(frame) {
            Ok((_, plain)) if *plain == *expected => bytes += plain.len() as u64,
            Ok(_) => return found("restore", "a frame came back with other bytes"),
            Err(error) => return found("restore", format!("an acknowledged frame: {error}")),
        }
    }
    Ok(bytes)
}

/// Cuts a run of whole frames.
#[must_use]
pub fn split(mut run: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(header) = crate::agent::first_of(run) {
        let Some((frame, rest)) = run.split_at_checked(header.size.bytes()) else {
            break;
        };
        frames.push(frame.to_vec());
        run = rest;
    }
    frames
}
