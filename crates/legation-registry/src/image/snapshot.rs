//! A snapshot for the time of one capture. How it is removed is on disk before it is made, so that one that a kill left
//! behind is removed by the next run.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ioctl_ficlone};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::program::Program;
use crate::{Error, Result};

/// A volume manager that is busy is asked again.
const TRIES: u32 = 3;
const BETWEEN: Duration = Duration::from_secs(1);
/// The longest marker.
const MAX_MARKER: u64 = 64 * 1024;

/// Where the bytes of one moment come from.
#[derive(Debug, Clone)]
pub enum Snapshot {
    /// The image itself: it rests, as its owner says.
    None,
    /// A clone that shares the image's blocks, beside it, where the file system can do that.
    Reflink,
    /// What its owner's programs make and remove.
    Hooks {
        /// Makes it; done when it ends.
        create: Program,
        /// Removes it.
        remove: Program,
        /// Where it then is.
        path: PathBuf,
    },
}

/// How a snapshot is removed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    /// A file that is removed.
    file: Option<Vec<u8>>,
    /// A program that is run.
    argv: Vec<Vec<u8>>,
    /// Names of what it gets of the environment.
    env: Vec<Vec<u8>>,
    /// Where.
    directory: Option<Vec<u8>>,
    /// How long it may take.
    timeout_ms: u64,
}

/// A snapshot that is there.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) path: PathBuf,
    marker: Option<PathBuf>,
}

impl Snapshot {
    /// Makes one of `image`, after what an earlier run left behind is gone.
    pub(super) fn take(
        &self,
        image: &Path,
        marker: &Path,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Held> {
        clean(marker, stop)?;
        let held = |path: &Path| Held {
            path: path.to_owned(),
            marker: Some(marker.to_owned()),
        };
        match self {
            Self::None => Ok(Held {
                path: image.to_owned(),
                marker: None,
            }),
            Self::Reflink => {
                let clone = beside(image);
                let to_remove = Marker {
                    file: Some(clone.as_os_str().as_bytes().to_vec()),
                    argv: Vec::new(),
                    env: Vec::new(),
                    directory: None,
                    timeout_ms: 0,
                };
                to_remove.write(marker)?;
                let held = held(&clone);
                match reflink(image, &clone) {
                    Ok(()) => Ok(held),
                    Err(error) => {
                        held.remove();
                        Err(error)
                    }
                }
            }
            Self::Hooks {
                create,
                remove,
                path,
            } => {
                Marker::of(remove).write(marker)?;
                let held = held(path);
                match create.run(stop, &mut |_| Ok(())) {
                    Ok(()) => Ok(held),
                    Err(error) => {
                        // It may be there in part.
                        held.remove();
                        Err(error)
                    }
                }
            }
        }
    }
}

impl Held {
    /// Removes it. What cannot be removed now is tried again before the next is made: the version is whole all the same.
    pub(super) fn remove(self) {
        let Some(marker) = &self.marker else { return };
        for attempt in 1..=TRIES {
            // Also when asked to stop: it would lie there until the next run.
            match clean(marker, &|| false) {
                Ok(()) => return,
                Err(error) => tracing::warn!("{error}"),
            }
            if attempt < TRIES {
                std::thread::sleep(BETWEEN);
            }
        }
        tracing::error!("the snapshot {} is still there", self.path.display());
    }
}

/// Removes the snapshot that the marker tells of, if there is one.
///
/// # Errors
/// When it is still there: another is then not made.
pub fn clean(marker: &Path, stop: &(dyn Fn() -> bool + Sync)) -> Result<()> {
    let shown = || marker.display().to_string();
    let left = match File::open(marker) {
        Ok(file) => {
            let mut text = Vec::new();
            file.take(MAX_MARKER).read_to_end(&mut text).at(shown)?;
            serde_json::from_slice::<Marker>(&text)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(shown(), e)),
    };
    // It is written whole before anything is made: one that does not read stands for nothing.
    if let Ok(left) = left {
        left.remove(stop)?;
    }
    fs::remove_file(marker).at(shown)?;
    sync_parent(marker)
}

impl Marker {
    fn of(program: &Program) -> Self {
        let bytes = |all: &[std::ffi::OsString]| {
            let each = all.iter().map(|one| one.as_bytes().to_vec());
            each.collect()
        };
        let directory = program.directory.as_ref();
        Self {
            file: None,
            argv: bytes(&program.argv),
            env: bytes(&program.env),
            directory: directory.map(|dir| dir.as_os_str().as_bytes().to_vec()),
            timeout_ms: u64::try_from(program.timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn write(&self, marker: &Path) -> Result<()> {
        let shown = || marker.display().to_string();
        let text =
            serde_json::to_vec(self).map_err(|e| Error::malformed("marker", e.to_string()))?;
        let fresh = marker.with_extension("new");
        let mut file = File::create(&fresh).at(shown)?;
        file.write_all(&text).at(shown)?;
        file.sync_all().at(shown)?;
        fs::rename(&fresh, marker).at(shown)?;
        sync_parent(marker)
    }

    fn remove(&self, stop: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        use std::os::unix::ffi::OsStringExt;
        let os = |bytes: &Vec<u8>| std::ffi::OsString::from_vec(bytes.clone());
        if let Some(file) = &self.file {
            let file = PathBuf::from(os(file));
            match fs::remove_file(&file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("removing {}", file.display()), e));
                }
                _ => {}
            }
        }
        if self.argv.is_empty() {
            return Ok(());
        }
        let program = Program {
            argv: self.argv.iter().map(os).collect(),
            directory: self.directory.as_ref().map(|dir| PathBuf::from(os(dir))),
            env: self.env.iter().map(os).collect(),
            timeout: Duration::from_millis(self.timeout_ms),
        };
        program.run(stop, &mut |_| Ok(()))
    }
}

/// Where the clone of an image lies while it is read.
fn beside(image: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(image.file_name().unwrap_or_default());
    name.push(".legation-snapshot");
    image.with_file_name(name)
}

fn reflink(image: &Path, clone: &Path) -> Result<()> {
    let from = rustix::fs::open(image, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .at(|| image.display().to_string())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::open(clone, flags, Mode::RUSR | Mode::WUSR)
        .at(|| clone.display().to_string())?;
    ioctl_ficlone(&to, &from).map_err(|e| match e {
        Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::NOTTY => Error::refused(
            format!("the file system of {} cannot clone files", image.display()),
            "use snapshot hooks; Btrfs, and XFS with reflink, can",
        ),
        e => Error::io(format!("cloning {}", image.display()), e),
    })
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let shown = || parent.display().to_string();
    File::open(parent).at(shown)?.sync_all().at(shown)
}
