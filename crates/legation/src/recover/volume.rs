//! The volume that plaintext lives on: memory only, gone with power, wiped at sealing. It refuses memory that could
//! reach a disk by swapping, and a size that does not fit, and says what to do.

use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::io;
use crate::exit::{Code, Failure};

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// What `mount` shows as the source of a volume: how one is known again.
const SOURCE: &str = "legation";

/// Left to the kernel and to PostgreSQL's own processes when a volume takes memory.
const MEMORY_LEFT: u64 = 256 << 20;

/// How many of the paths that could not be removed are named: enough to find the rest.
const NAMED: usize = 8;

/// Whoever may write into a directory, apart from its owner.
const OTHERS_WRITE: u32 = 0o022;
/// Only the owner of an entry may rename or remove it.
const STICKY: u32 = 0o1000;

/// A directory in memory. Dropping it leaves it in place: [`Volume::wipe`] is a step of sealing, with its own record.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
    /// The mount of its own, held open: nobody takes it away while we live.
    mount: Option<File>,
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
        let room = free_memory()?;
        let path = &Place::of(path)?.prepare()?;
        if rustix::process::geteuid().is_root() {
            Self::mount(path, room, owner)
        } else {
            Self::share(path, room, None)
        }
    }

    /// How much a volume at `path` would hold, found out without making anything.
    ///
    /// # Errors
    /// As [`Volume::open`], as far as that can be said before.
    pub fn foresee(path: &Path) -> Result<Room, Failure> {
        let room = free_memory()?;
        let place = Place::of(path)?;
        let there = match std::fs::symlink_metadata(&place.path) {
            Ok(meta) => {
                place.check(&meta)?;
                &place.path
            }
            Err(_) => &place.parent,
        };
        if rustix::process::geteuid().is_root() {
            return Ok(Room(room));
        }
        in_memory(there)?;
        let stat =
            statvfs(there).map_err(|why| Failure::failed(format!("{}: {why}", there.display())))?;
        Ok(Room(room.min(stat.f_bavail.saturating_mul(stat.f_frsize))))
    }

    /// How much it holds.
    pub fn room(&self) -> Room {
        Room(self.room)
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
    /// before anybody gets them. What cannot be removed does not keep the rest.
    ///
    /// # Errors
    /// When plaintext may be left: says what, where, and why.
    pub fn wipe(mut self) -> Result<(), Failure> {
        let mut left = Vec::new();
        clear(&self.path, &mut left);
        let mounted = self.mount.take().is_some();
        if mounted {
            // A lazy unmount would leave the plaintext mounted for whoever holds it; by now nobody may. What could not
            // be removed goes with the mount.
            return match unmount(&self.path, UnmountFlags::empty()) {
                Ok(()) => {
                    // The mount point may belong to a directory that we may not change; it is empty.
                    let _ = std::fs::remove_dir(&self.path);
                    Ok(())
                }
                Err(why) => {
                    left.push(format!("{}: unmounting it: {why}", self.path.display()));
                    Err(self.not_wiped(&left, mounted))
                }
            };
        }
        if left.is_empty()
            && let Err(why) = std::fs::remove_dir(&self.path)
        {
            left.push(format!("{}: {why}", self.path.display()));
        }
        if left.is_empty() {
            return Ok(());
        }
        Err(self.not_wiped(&left, mounted))
    }

    fn not_wiped(&self, left: &[String], mounted: bool) -> Failure {
        let mut named = left[..left.len().min(NAMED)].join("; ");
        if left.len() > NAMED {
            named.push_str(&format!("; and {} more", left.len() - NAMED));
        }
        let path = self.path.display();
        let remove = if mounted {
            format!("`fuser -m {path}` names who holds it; end that, then `umount {path}`")
        } else {
            format!("remove {path} by hand, as root if need be")
        };
        Failure::failed(format!("plaintext may be left: {named}")).hint(remove)
    }

    fn mount(path: &Path, room: u64, owner: Option<Owner>) -> Result<Self, Failure> {
        let Owner { uid, gid } = owner.unwrap_or(Owner { uid: 0, gid: 0 });
        let base = format!("size={room},mode=0700,uid={uid},gid={gid}");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let try_mount = |options: &str| {
            let options = CString::new(options).map_err(|_| Errno::INVAL)?;
            mount(SOURCE, path, c"tmpfs", flags, options.as_c_str())
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
            mount: Some(File::open(path).map_err(|why| io(path, why))?),
            kind,
            room,
        })
    }

    fn share(path: &Path, room: u64, owner: Option<Owner>) -> Result<Self, Failure> {
        in_memory(path)?;
        let stat =
            statvfs(path).map_err(|why| Failure::failed(format!("{}: {why}", path.display())))?;
        let room = room.min(stat.f_bavail.saturating_mul(stat.f_frsize));
        if let Some(owner) = owner {
            chown(path, Some(owner.uid), Some(owner.gid)).map_err(|why| io(path, why))?;
        }
        Ok(Self {
            path: path.to_owned(),
            mount: None,
            kind: Kind::SharedTmpfs,
            room,
        })
    }
}

/// How much fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room(u64);

impl Room {
    /// Refuses what does not fit.
    ///
    /// # Errors
    /// Says how much is needed, how much there is, and what to do.
    pub fn fits(self, need: u64) -> Result<(), Failure> {
        let Self(room) = self;
        if need <= room {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "{} are needed in memory and {} are free",
            mib(need),
            mib(room)
        ))
        .hint("order fewer registries at a time, enlarge the tmpfs, or use a larger machine"))
    }
}

impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&mib(self.0))
    }
}

/// Removes what is in a directory, as far as that can be, and notes what stays.
fn clear(dir: &Path, left: &mut Vec<String>) {
    let mut keep = |path: &Path, why: std::io::Error| {
        if why.kind() != std::io::ErrorKind::NotFound {
            left.push(format!("{}: {why}", path.display()));
        }
    };
    // A captured directory may have come with a mode that forbids its owner to write into it.
    let opened = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700));
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(why) => return keep(dir, opened.err().unwrap_or(why)),
    };
    let mut below = Vec::new();
    for entry in entries {
        match entry {
            // The kind of the entry itself: a link is removed, never followed.
            Ok(entry) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => {
                below.push(entry.path());
            }
            Ok(entry) => {
                let path = entry.path();
                if let Err(why) = std::fs::remove_file(&path) {
                    keep(&path, why);
                }
            }
            Err(why) => keep(dir, why),
        }
    }
    for path in below {
        let before = left.len();
        clear(&path, left);
        // What keeps it is named already.
        if left.len() == before
            && let Err(why) = std::fs::remove_dir(&path)
        {
            left.push(format!("{}: {why}", path.display()));
        }
    }
}

/// Where a volume goes: a directory that nobody but us can have put there, or can replace.
#[derive(Debug)]
struct Place {
    /// Canonical.
    parent: PathBuf,
    path: PathBuf,
    /// Others may put entries into the parent, though not touch ours.
    shared: bool,
}

impl Place {
    fn is_empty(&self) -> bool {
        !std::fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Whether a volume of ours is mounted there, of an activation that runs or was killed. Only root can mount one.
    fn is_left_over(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        rustix::process::geteuid().is_root()
            && mounts.lines().any(|line| is_volume(line, &self.path))
    }

    fn locked(&self) -> Failure {
        let path = self.path.display();
        let what = format!("{path} is in use: another activation runs there, or one was killed");
        Failure::new(Code::Locked, what).hint(format!(
            "stop what still runs there, then `umount {path}` (or empty it), or set another activation.path"
        ))
    }

    /// Looks at the place without changing it, apart from the parent, which is made when it is missing.
    fn of(path: &Path) -> Result<Self, Failure> {
        let no_place = || {
            Failure::usage(format!("{} names no directory", path.display()))
                .hint("set activation.path to a directory of its own, such as /srv/legation-live")
        };
        let name = path.file_name().ok_or_else(no_place)?;
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(no_place()),
        };
        if !parent.exists() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(|why| io(parent, why))?;
        }
        let parent = parent.canonicalize().map_err(|why| io(parent, why))?;
        let meta = std::fs::metadata(&parent).map_err(|why| io(&parent, why))?;
        let others = meta.mode() & OTHERS_WRITE != 0;
        let sticky = meta.mode() & STICKY != 0;
        if others && !sticky {
            return Err(Failure::failed(format!(
                "others may write into {} (mode {:04o}) and could put another directory in the volume's place",
                parent.display(),
                meta.mode() & 0o7777
            ))
            .hint(format!(
                "chmod go-w {}, or set another activation.path",
                parent.display()
            )));
        }
        Ok(Self {
            path: parent.join(name),
            parent,
            shared: others,
        })
    }

    /// The directory, ours, empty and 0700. Something left from a crash is refused rather than covered.
    fn prepare(self) -> Result<PathBuf, Failure> {
        let path = self.path.as_path();
        if self.is_left_over() && self.is_empty() {
            // Whoever still uses it holds it open.
            unmount(path, UnmountFlags::empty()).map_err(|why| match why {
                Errno::BUSY => self.locked(),
                why => Failure::failed(format!("unmounting {}: {why}", path.display())),
            })?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(meta) => {
                self.check(&meta)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
                    .map_err(|why| io(path, why))?;
            }
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => std::fs::DirBuilder::new()
                .mode(0o700)
                .create(path)
                .map_err(|why| io(path, why))?,
            Err(why) => return Err(io(path, why)),
        }
        Ok(self.path)
    }

    fn check(&self, meta: &std::fs::Metadata) -> Result<(), Failure> {
        let path = self.path.display();
        let other = |what: String| {
            Err(Failure::failed(what).hint(format!(
                "remove {path}, or set another activation.path; legation makes the directory itself"
            )))
        };
        if meta.is_symlink() {
            return other(format!("{path} is a link; plaintext does not follow links"));
        }
        if !meta.is_dir() {
            return other(format!("{path} is no directory"));
        }
        if !self.is_empty() {
            return Err(self.locked());
        }
        if self.is_left_over() {
            return Ok(());
        }
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return other(format!(
                "{path} belongs to another user (uid {}), who could read what is put there",
                meta.uid()
            ));
        }
        if self.shared && meta.mode() & 0o777 != 0o700 {
            return other(format!(
                "{path} lies where everybody may write and has mode {:04o}, not 0700",
                meta.mode() & 0o7777
            ));
        }
        Ok(())
    }
}

/// Whether this line of `/proc/self/mountinfo` is of a volume of ours at `path`.
fn is_volume(line: &str, path: &Path) -> bool {
    let mut fields = line.split(' ');
    let at = fields.nth(4).unwrap_or_default();
    let mut kind = fields.skip_while(|field| *field != "-").skip(1);
    // The kernel writes white space and backslashes in a path as octal numbers.
    let shown: String = path
        .to_string_lossy()
        .chars()
        .map(|c| match c {
            ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    at == shown && kind.next() == Some("tmpfs") && kind.next() == Some(SOURCE)
}

fn denied(path: &Path, why: Errno) -> Failure {
    Failure::failed(format!("mounting a tmpfs at {}: {why}", path.display()))
}

/// Refuses a disk, and memory that could reach one.
fn in_memory(path: &Path) -> Result<(), Failure> {
    if !on_tmpfs(path)? {
        return Err(Failure::failed(format!(
            "{} is on a disk, and mounting a tmpfs there takes root",
            path.display()
        ))
        .hint("set activation.path to a directory on a tmpfs, such as /dev/shm/legation-live"));
    }
    no_swap()
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

/// What a volume may take.
fn free_memory() -> Result<u64, Failure> {
    match available_memory()?.saturating_sub(MEMORY_LEFT) {
        0 => Err(Failure::failed(
            "no memory is free for the volume that plaintext lives on",
        )),
        room => Ok(room),
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
