//! The directory of one state: its objects, journals, log, attachments and releases, under one lock.
//!
//! `FORMAT` says what the directory is and whose; a directory of another format, suite or state is refused before
//! anything in it is read. One process at a time writes; any number read. Layout: `spec/store.md`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use legation_core::attachments::Attachments;
use legation_core::id::{OrderId, RegistryId, Sha256, StateId, StreamId};

use crate::dir::DirStore;
use crate::durable::{self, no_follow};
use crate::journal::{JournalDir, JournalReader, Recovered, StreamName};
use crate::store::{Put, StoreError};

/// Largest attachment: a keyring of some hundred writers is well below.
pub const MAX_ATTACHMENT: u64 = 4 << 20;
/// Largest release: the epoch keys of one order, each sealed.
pub const MAX_RELEASE: u64 = legation_core::release::MAX_RELEASE as u64;
const FORMAT: &str = "FORMAT";
const LOCK: &str = "LOCK";
const MAX_FORMAT: u64 = 4096;

/// Where a release is kept. Several of one order stand side by side, so that nobody's bytes can take another's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReleaseName {
    /// The order that it answers.
    pub order: OrderId,
    /// SHA-256 of the public key that it is addressed to.
    pub recipient: Sha256,
    /// SHA-256 of the TLS public key that delivered it.
    pub from: Sha256,
    /// SHA-256 of its bytes.
    pub digest: Sha256,
}

impl ReleaseName {
    /// The file, from the directory of the state.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("release").join(self.below())
    }

    fn below(&self) -> String {
        format!(
            "{}/{}/{}/{}",
            self.order, self.recipient, self.from, self.digest
        )
    }
}

/// One state's directory in a store's path.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    state: StateId,
    objects: DirStore,
    /// Held while writing; the operating system gives it up when the process ends, however it ends.
    lock: Option<File>,
}

impl StateDir {
    /// Opens the directory of `state` below `path` for writing, creating it if it is absent, and locks it.
    ///
    /// # Errors
    /// `Locked` when another process writes there; `Format` when it is something else; `Full`; `Io`.
    pub fn create(path: &Path, state: &StateId) -> Result<StateDir, StoreError> {
        let root = path.join(state.to_string());
        let failed = |e| StoreError::io(format!("open {}", root.display()), e);
        durable::create_dir(&root).map_err(failed)?;
        let lock = lock(&root)?;
        durable::sweep(&root).map_err(failed)?;
        match read_format(&root, state) {
            Err(StoreError::NotFound { .. }) => {
                // A directory with content but no FORMAT is not ours to claim.
                if root.join("object").exists() || root.join("log").exists() {
                    let why = "it has content but no FORMAT file".to_owned();
                    return Err(StoreError::Format {
                        path: root.display().to_string(),
                        why,
                    });
                }
                durable::write_atomic(&root.join(FORMAT), format_text(state).as_bytes())
                    .map_err(failed)?;
            }
            other => other?,
        }
        for name in ["object", "journal", "log", "attachment", "release"] {
            durable::create_dir(&root.join(name)).map_err(failed)?;
        }
        for name in ["attachment", "release"] {
            durable::sweep(&root.join(name)).map_err(failed)?;
        }
        let objects = DirStore::create(&root.join("object"))?;
        Ok(StateDir {
            root,
            state: *state,
            objects,
            lock: Some(lock),
        })
    }

    /// Opens the directory of `state` below `path` for reading.
    ///
    /// # Errors
    /// `NotFound`; `Format`; `Io`.
    pub fn open_reader(path: &Path, state: &StateId) -> Result<StateDir, StoreError> {
        let root = path.join(state.to_string());
        read_format(&root, state)?;
        let objects = DirStore::open_reader(&root.join("object"))?;
        Ok(StateDir {
            root,
            state: *state,
            objects,
            lock: None,
        })
    }

    /// The states that have a directory below `path`, in ascending order.
    pub fn states(path: &Path) -> Result<Vec<StateId>, StoreError> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => StoreError::NotFound {
                what: format!("store at {}", path.display()),
            },
            _ => StoreError::io(format!("list {}", path.display()), e),
        };
        names(path).map_err(failed)
    }

    /// Whose directory this is.
    pub fn state(&self) -> &StateId {
        &self.state
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this process is its one writer.
    pub fn is_writer(&self) -> bool {
        self.lock.is_some()
    }

    /// Packs, lists and slips.
    pub fn objects(&self) -> &DirStore {
        &self.objects
    }

    /// The directory of the log, for `legation_repo::log`.
    pub fn log_path(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The directory of one stream's journal.
    pub fn journal_path(&self, registry: RegistryId, stream: &StreamId) -> PathBuf {
        self.root
            .join("journal")
            .join(registry.to_string())
            .join(stream.to_string())
    }

    /// The full name of a stream of this state.
    pub fn stream(&self, registry: RegistryId, stream: &StreamId) -> StreamName {
        StreamName {
            state: self.state,
            registry,
            stream: *stream,
        }
    }

    /// Reads one stream's journal; needs no lock.
    ///
    /// # Errors
    /// As [`JournalReader::open`].
    pub fn read_journal(
        &self,
        registry: RegistryId,
        stream: &StreamId,
    ) -> Result<JournalReader, StoreError> {
        JournalReader::open(
            &self.journal_path(registry, stream),
            &self.stream(registry, stream),
        )
    }

    /// Opens one stream's journal for appending, recovering it.
    ///
    /// # Errors
    /// As [`JournalDir::open`].
    pub fn open_journal(
        &self,
        registry: RegistryId,
        stream: &StreamId,
    ) -> Result<(JournalDir, Recovered), StoreError> {
        self.open_journal_from(registry, stream, None)
    }

    /// As [`StateDir::open_journal`], of a journal that is known to hold frame number `floor`.
    ///
    /// # Errors
    /// As [`JournalDir::open_from`].
    pub fn open_journal_from(
        &self,
        registry: RegistryId,
        stream: &StreamId,
        floor: Option<u64>,
    ) -> Result<(JournalDir, Recovered), StoreError> {
        self.writer_only()?;
        JournalDir::open_from(
            &self.journal_path(registry, stream),
            &self.stream(registry, stream),
            floor,
        )
    }

    /// Every stream that has a journal, in ascending order.
    pub fn journals(&self) -> Result<Vec<(RegistryId, StreamId)>, StoreError> {
        let failed = |e| StoreError::io("list journals", e);
        let root = self.root.join("journal");
        let mut found = Vec::new();
        for registry in names::<RegistryId>(&root).map_err(failed)? {
            let streams = names::<StreamId>(&root.join(registry.to_string())).map_err(failed)?;
            found.extend(streams.into_iter().map(|stream| (registry, stream)));
        }
        Ok(found)
    }

    /// Keeps an attachment, durable on return. Its name is the SHA-256 of its bytes; a damaged copy is replaced.
    ///
    /// # Errors
    /// `Refused` when it is too large; `Full`; `Io`.
    pub fn put_attachment(&self, bytes: &[u8]) -> Result<Sha256, StoreError> {
        let digest = Sha256::of(bytes);
        self.put_file("attachment", &digest.to_string(), bytes, MAX_ATTACHMENT)?;
        Ok(digest)
    }

    /// Reads an attachment and checks it. `None` when it is not there.
    ///
    /// # Errors
    /// `Damaged`; `Io`.
    pub fn attachment(&self, digest: &Sha256) -> Result<Option<Vec<u8>>, StoreError> {
        let name = digest.to_string();
        let found = self.get_file("attachment", &name, MAX_ATTACHMENT)?;
        match found {
            Some(bytes) if Sha256::of(&bytes) != *digest => {
                let why = "its bytes are not those of its name".to_owned();
                Err(StoreError::Damaged {
                    what: format!("attachment {name}"),
                    why,
                })
            }
            other => Ok(other),
        }
    }

    /// The bytes that an attachment takes.
    ///
    /// # Errors
    /// `Io`.
    pub fn attachment_size(&self, digest: &Sha256) -> Result<u64, StoreError> {
        let path = self.root.join("attachment").join(digest.to_string());
        let found = fs::symlink_metadata(path);
        let failed = |e| StoreError::io(format!("look at attachment {digest}"), e);
        Ok(found.map_err(failed)?.len())
    }

    /// Every attachment's name, in ascending order.
    pub fn attachments(&self) -> Result<Vec<Sha256>, StoreError> {
        names(&self.root.join("attachment")).map_err(|e| StoreError::io("list attachments", e))
    }

    /// Keeps a release, durable on return. Its last name is the SHA-256 of its bytes.
    ///
    /// # Errors
    /// `Refused` when it is too large; `Full`; `Io`.
    pub fn put_release(
        &self,
        order: &OrderId,
        recipient: &Sha256,
        from: &Sha256,
        bytes: &[u8],
    ) -> Result<Put, StoreError> {
        self.writer_only()?;
        let name = ReleaseName {
            order: order.clone(),
            recipient: *recipient,
            from: *from,
            digest: Sha256::of(bytes),
        };
        let path = self.root.join(name.path());
        if let Some(dir) = path.parent() {
            durable::create_dir(dir)
                .map_err(|e| StoreError::io(format!("write release {}", name.digest), e))?;
        }
        self.put_file("release", &name.below(), bytes, MAX_RELEASE)
    }

    /// Every release of an order that is addressed to `recipient`, in ascending order of who delivered it.
    ///
    /// # Errors
    /// `Io`.
    pub fn releases_to(
        &self,
        order: &OrderId,
        recipient: &Sha256,
    ) -> Result<Vec<ReleaseName>, StoreError> {
        let failed = |e| StoreError::io("list releases", e);
        let root = self.root.join("release").join(order.as_str());
        let root = root.join(recipient.to_string());
        let mut found = Vec::new();
        for from in names_if_any::<Sha256>(&root).map_err(failed)? {
            let digests = names_if_any(&root.join(from.to_string())).map_err(failed)?;
            found.extend(digests.into_iter().map(|digest| ReleaseName {
                order: order.clone(),
                recipient: *recipient,
                from,
                digest,
            }));
        }
        Ok(found)
    }

    /// Every release of an order, whomever it is addressed to.
    ///
    /// # Errors
    /// `Io`.
    pub fn releases_of(&self, order: &OrderId) -> Result<Vec<ReleaseName>, StoreError> {
        let root = self.root.join("release").join(order.as_str());
        let recipients = names_if_any::<Sha256>(&root);
        let recipients = recipients.map_err(|e| StoreError::io("list releases", e))?;
        let each = recipients.iter().map(|to| self.releases_to(order, to));
        Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// The orders that something was released for, in ascending order.
    ///
    /// # Errors
    /// `Io`.
    pub fn released(&self) -> Result<Vec<OrderId>, StoreError> {
        names_if_any(&self.root.join("release")).map_err(|e| StoreError::io("list releases", e))
    }

    /// Reads a release and checks it. `None` when it is not there.
    ///
    /// # Errors
    /// `Damaged`; `Io`.
    pub fn release(&self, name: &ReleaseName) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.get_file("release", &name.below(), MAX_RELEASE)?;
        match found {
            Some(bytes) if Sha256::of(&bytes) != name.digest => Err(StoreError::Damaged {
                what: format!("release {} of order {}", name.digest, name.order),
                why: "its bytes are not those of its name".to_owned(),
            }),
            other => Ok(other),
        }
    }

    fn put_file(
        &self,
        folder: &str,
        name: &str,
        bytes: &[u8],
        limit: u64,
    ) -> Result<Put, StoreError> {
        self.writer_only()?;
        let what = format!("{folder} {name}");
        if bytes.len() as u64 > limit {
            let why = format!("{} bytes, at most {limit} are kept", bytes.len());
            return Err(StoreError::Refused { what, why });
        }
        let failed = |e| StoreError::io(format!("write {folder} {name}"), e);
        let dir = self.root.join(folder);
        let path = dir.join(name);
        // Temporary files lie in the folder itself, which is swept at the next opening.
        if durable::create_once(&path, &dir, bytes, |_| Ok(())).map_err(failed)? {
            return Ok(Put::Created);
        }
        // The name is the digest of the bytes, so other bytes under it are damaged: the right ones take their place.
        let standing = match self.get_file(folder, name, limit) {
            Ok(found) => found.as_deref() == Some(bytes),
            Err(StoreError::Damaged { .. }) => false,
            Err(other) => return Err(other),
        };
        if !standing {
            durable::replace(&path, &dir, bytes).map_err(failed)?;
            return Ok(Put::Created);
        }
        let standing = durable::open_read(&path).and_then(|file| durable::sync_file(&path, &file));
        standing
            .and_then(|()| path.parent().map_or(Ok(()), durable::sync_dir))
            .map_err(failed)?;
        Ok(Put::Existing)
    }

    fn get_file(
        &self,
        folder: &str,
        name: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        match durable::read_bounded(&self.root.join(folder).join(name), limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(StoreError::Damaged {
                what: format!("{folder} {name}"),
                why: "it is longer than any".to_owned(),
            }),
            Err(e) => Err(StoreError::io(format!("read {folder} {name}"), e)),
        }
    }

    fn writer_only(&self) -> Result<(), StoreError> {
        if self.is_writer() {
            return Ok(());
        }
        let why = "this directory was opened for reading".to_owned();
        Err(StoreError::Refused {
            what: self.root.display().to_string(),
            why,
        })
    }
}

impl Attachments for StateDir {
    /// An attachment that is damaged is as good as absent: the fold refuses what needs it, and the checker says why.
    fn get(&self, digest: &Sha256) -> Option<Vec<u8>> {
        self.attachment(digest).ok().flatten()
    }
}

/// What `FORMAT` holds, exactly.
fn format_text(state: &StateId) -> String {
    format!("legation/store/v1\nformat: 1\nsuite: 1\nstate: {state}\n")
}

/// Checks `FORMAT`: only the one text that this program writes is known.
fn read_format(root: &Path, state: &StateId) -> Result<(), StoreError> {
    let bytes =
        durable::read_bounded(&root.join(FORMAT), MAX_FORMAT).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => StoreError::NotFound {
                what: format!("store of {state} at {}", root.display()),
            },
            _ => StoreError::io(format!("read {}/{FORMAT}", root.display()), e),
        })?;
    if bytes == format_text(state).as_bytes() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&bytes);
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let why = match (field("format: "), field("suite: "), field("state: ")) {
        (Some(format), _, _) if format != "1" => {
            format!("format {format:?} is not known to this version")
        }
        (_, Some(suite), _) if suite != "1" => {
            format!("suite {suite:?} is not known to this version")
        }
        (_, _, Some(other)) if other != state.to_string() => {
            format!("it belongs to the state {other:?}, not to {state}")
        }
        _ => "its FORMAT file is not one".to_owned(),
    };
    Err(StoreError::Format {
        path: root.display().to_string(),
        why,
    })
}

fn lock(root: &Path) -> Result<File, StoreError> {
    let failed = |e| StoreError::io(format!("lock {}", root.display()), e);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(no_follow())
        .open(root.join(LOCK))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
            path: root.display().to_string(),
        }),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}

/// The names in a directory that parse as `T`, ascending; others (temporaries) are nobody's.
fn names<T: std::str::FromStr + Ord>(dir: &Path) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        found.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<T>().ok()),
        );
    }
    found.sort();
    Ok(found)
}

/// As [`names`], none where there is no directory.
fn names_if_any<T: std::str::FromStr + Ord>(dir: &Path) -> io::Result<Vec<T>> {
    match names(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
