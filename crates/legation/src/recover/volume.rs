//! The volume that plaintext lives on: memory only, gone with power, wiped at sealing. It refuses memory that could
//! reach a disk by swapping, and a size that does not fit, and says what to do.

use std::ffi::CString;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::io;
use crate::exit::{Code, Failure};

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Left to the kernel and to PostgreSQL's own processes when a volume takes memory.
const MEMORY_LEFT: u64 = 256 << 20;

/// A directory in memory. Dropping it leaves it in place: [`Volume::wipe`] is a step of sealing, with its own record.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
    mounted: bool,
    kind: Kind,
    room: u64,
}

/// How the volume is kept off disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A tmpfs of its own that the kernel never swaps.
    TmpfsNoSwap,
    /// A tmpfs of its own, on a machine without swap.
    Tmpfs,
    /// A directory on a tmpfs that was there already (started without root), on a machine without swap.
    SharedTmpfs,
}

impl Kind {
    /// For `status` and reports.
    pub fn describe(self) -> &'static str {
        match self {
            Self::TmpfsNoSwap => "tmpfs, never swapped",
            Self::Tmpfs => "tmpfs, no swap on this machine",
            Self::SharedTmpfs => "directory on a shared tmpfs, no swap on this machine",
        }
    }
}

/// Who owns the files, when the program runs as root and PostgreSQL must not.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Volume {
    /// Makes the volume at `path`, as large as memory allows.
    ///
    /// With root it mounts a tmpfs there; without, `path` must lie on a tmpfs (such as `/dev/shm`) already.
    ///
    /// # Errors
    /// When swap could take it, or when something else is at `path`.
    pub fn open(path: &Path, owner: Option<Owner>) -> Result<Self, Failure> {
        let room = available_memory()?.saturating_sub(MEMORY_LEFT);
        if room == 0 {
            return Err(Failure::failed(
                "no memory is free for the volume that plaintext lives on",
            ));
        }
        prepare(path)?;
        if rustix::process::geteuid().is_root() {
            Self::mount(path, room, owner)
        } else {
            Self::share(path, room, None)
        }
    }

    /// Refuses what does not fit.
    ///
    /// # Errors
    /// Says how much is needed, how much there is, and what to do.
    pub fn fits(&self, need: u64) -> Result<(), Failure> {
        if need <= self.room {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "{} are needed in memory and {} are free",
            mib(need),
            mib(self.room)
        ))
        .hint("order fewer registries at a time, enlarge the tmpfs, or use a larger machine"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it is kept off disks.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Removes everything on it; with a mount of its own, unmounts. The pages return to the kernel, which clears them
    /// before anybody gets them.
    ///
    /// # Errors
    /// When something still holds it open.
    pub fn wipe(self) -> Result<(), Failure> {
        for entry in std::fs::read_dir(&self.path).map_err(|why| io(&self.path, why))? {
            let path = entry.map_err(|why| io(&self.path, why))?.path();
            let gone = if path.is_dir() && !path.is_symlink() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            gone.map_err(|why| io(&path, why))?;
        }
        if self.mounted {
            // A lazy unmount would leave the plaintext mounted for whoever holds it; by now nobody may.
            unmount(&self.path, UnmountFlags::empty()).map_err(|why| {
                Failure::failed(format!("unmounting {}: {why}", self.path.display()))
            })?;
        }
        match std::fs::remove_dir(&self.path) {
            Ok(()) => Ok(()),
            // A mount point given by configuration may belong to a directory that we may not change.
            Err(_) if self.mounted => Ok(()),
            Err(why) => Err(io(&self.path, why)),
        }
    }

    fn mount(path: &Path, room: u64, owner: Option<Owner>) -> Result<Self, Failure> {
        let Owner { uid, gid } = owner.unwrap_or(Owner { uid: 0, gid: 0 });
        let base = format!("size={room},mode=0700,uid={uid},gid={gid}");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let try_mount = |options: &str| {
            let options = CString::new(options).map_err(|_| Errno::INVAL)?;
            mount(c"legation", path, c"tmpfs", flags, options.as_c_str())
        };
        let kind = match try_mount(&format!("{base},noswap")) {
            Ok(()) => Kind::TmpfsNoSwap,
            Err(Errno::INVAL) => {
                no_swap()?;
                try_mount(&base).map_err(|why| denied(path, why))?;
                Kind::Tmpfs
            }
            // A container's root may not mount; a tmpfs that is there already will do.
            Err(Errno::PERM) => return Self::share(path, room, owner),
            Err(why) => return Err(denied(path, why)),
        };
        Ok(Self {
            path: path.to_owned(),
            mounted: true,
            kind,
            room,
        })
    }

    fn share(path: &Path, room: u64, owner: Option<Owner>) -> Result<Self, Failure> {
        if !on_tmpfs(path)? {
            return Err(Failure::failed(format!(
                "{} is on a disk, and mounting a tmpfs there takes root",
                path.display()
            ))
            .hint(
                "set activation.path to a directory on a tmpfs, such as /dev/shm/legation-live",
            ));
        }
        no_swap()?;
        let stat =
            statvfs(path).map_err(|why| Failure::failed(format!("{}: {why}", path.display())))?;
        let room = room.min(stat.f_bavail.saturating_mul(stat.f_frsize));
        if let Some(owner) = owner {
            chown(path, Some(owner.uid), Some(owner.gid)).map_err(|why| io(path, why))?;
        }
        Ok(Self {
            path: path.to_owned(),
            mounted: false,
            kind: Kind::SharedTmpfs,
            room,
        })
    }
}

/// The directory, empty and 0700. Something left from a crash is refused rather than covered.
fn prepare(path: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Failure::new(Code::Locked, format!("{} is not empty: another activation runs there, or one was killed", path.display()))
                    .hint(format!("stop what still runs there, then `umount {}` (or empty it), or set another activation.path", path.display())));
            }
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(path, mode).map_err(|why| io(path, why))
        }
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|why| io(path, why)),
        Err(why) => Err(io(path, why)),
    }
}

fn denied(path: &Path, why: Errno) -> Failure {
    Failure::failed(format!("mounting a tmpfs at {}: {why}", path.display()))
}

fn on_tmpfs(path: &Path) -> Result<bool, Failure> {
    let stat = rustix::fs::statfs(path)
        .map_err(|why| Failure::failed(format!("{}: {why}", path.display())))?;
    Ok(stat.f_type as u64 == TMPFS_MAGIC)
}

/// Refuses a machine whose swap could take pages of a tmpfs. Swap in compressed memory (zram) stays memory.
fn no_swap() -> Result<(), Failure> {
    let text =
        std::fs::read_to_string("/proc/swaps").map_err(|why| io(Path::new("/proc/swaps"), why))?;
    match text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .find(|name| !name.starts_with("/dev/zram"))
    {
        None => Ok(()),
        Some(name) => Err(Failure::failed(format!(
            "swap on {name} could take plaintext to a disk, and this kernel's tmpfs has no noswap; run `swapoff {name}` first"
        ))),
    }
}

fn available_memory() -> Result<u64, Failure> {
    let path = Path::new("/proc/meminfo");
    let text = std::fs::read_to_string(path).map_err(|why| io(path, why))?;
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map(|kib| kib << 10)
        .ok_or_else(|| {
            Failure::failed("the kernel does not say how much memory is free (/proc/meminfo)")
        })
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests;
