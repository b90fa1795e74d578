//! What agent and embassy both need of the machine: places to write, room, files, memory, a clock.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use legation_repo::durable;
use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::Findings;
use crate::config::units;

/// Files that a role may hold open: connections, journals, packs.
const FILES: u64 = 4096;
/// Entries of a file system that must be left.
const INODES: u64 = 10_000;
/// A clock further off than this is told, and one further off than that is wrong: orders are valid by the minute.
const CLOCK_WARN_MS: u64 = 5_000;
const CLOCK_BAD_MS: u64 = 60_000;
/// File systems that lose what they hold: `TMPFS_MAGIC`, `RAMFS_MAGIC`; and those whose sync is somebody else's word:
/// `NFS_SUPER_MAGIC`, `FUSE_SUPER_MAGIC`, `SMB2_MAGIC_NUMBER` (`linux/magic.h`).
const VOLATILE: [u64; 2] = [0x0102_1994, 0x8584_58f6];
const REMOTE: [u64; 3] = [0x6969, 0x6573_5546, 0xfe53_4d42];

/// Whether a directory can be written to and synced. `None` when not, for then nothing further is worth a look.
pub fn writable(check: &'static str, dir: &Path, found: &mut Findings<'_>) -> Option<()> {
    let shown = dir.display();
    if !dir.is_dir() {
        found.bad(
            check,
            format!("{shown} is not there"),
            format!("mkdir -p -m 700 {shown}"),
        );
        return None;
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&dir.metadata().ok()?.permissions());
    if mode & 0o022 != 0 {
        found.bad(
            check,
            format!("others may write into {shown}"),
            format!("chmod 700 {shown}"),
        );
    }
    let trial: PathBuf = dir.join(".doctor");
    let tried = durable::write_atomic(&trial, b"a few bytes\n")
        .and_then(|()| std::fs::remove_file(&trial))
        .and_then(|()| File::open(dir).and_then(|dir| dir.sync_all()));
    match tried {
        Ok(()) => {
            found.ok(check, format!("{shown} takes files and syncs them"));
            Some(())
        }
        Err(why) => {
            let fix = match why.kind() {
                std::io::ErrorKind::PermissionDenied => format!("chown -R USER: {shown}"),
                std::io::ErrorKind::StorageFull => "make room on its file system".to_owned(),
                _ => "look at the disk: dmesg | tail".to_owned(),
            };
            found.bad(check, format!("writing into {shown}: {why}"), fix);
            None
        }
    }
}

/// Room, entries and kind of a file system; `need` bytes will be wanted, `have` of them are taken already.
pub fn room(check: &'static str, dir: &Path, need: u64, have: u64, found: &mut Findings<'_>) {
    let shown = dir.display();
    let Ok(stat) = statvfs(dir) else {
        return;
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let wanted = need.saturating_sub(have);
    let say = format!("{} free below {shown}", units::about(free));
    if free < wanted {
        found.warn(
            check,
            format!("{say}, {} may still be wanted", units::about(wanted)),
            "give it a larger file system, or lower the size in the configuration",
        );
    } else {
        found.ok(check, say);
    }
    if stat.f_files > 0 && stat.f_favail < INODES {
        found.bad(
            check,
            format!("{} files may still be made below {shown}", stat.f_favail),
            "remove small files there, or make a file system with more inodes",
        );
    }
    if let Ok(about) = rustix::fs::statfs(dir) {
        let kind = u64::from_ne_bytes(i64::to_ne_bytes(about.f_type));
        if VOLATILE.contains(&kind) {
            found.bad(
                check,
                format!(
                    "{shown} lies in memory: what is acknowledged there is gone with the power"
                ),
                "put it on a disk",
            );
        } else if REMOTE.contains(&kind) {
            found.warn(
                check,
                format!("{shown} lies on a file system of another machine, whose word a sync is"),
                "put it on a local disk",
            );
        }
    }
}

/// Open files and memory.
pub fn limits(memory: Option<u64>, found: &mut Findings<'_>) {
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if most < FILES {
        found.warn(
            "limits",
            format!("at most {most} open files"),
            format!("ulimit -Hn {FILES}, or LimitNOFILE={FILES} in the systemd unit"),
        );
    } else {
        found.ok("limits", "enough open files");
    }
    let Some(memory) = memory else { return };
    let there = available();
    match there {
        Some(there) if there < memory => found.warn(
            "limits",
            format!(
                "{} of memory left, and limits.memory is {}",
                units::about(there),
                units::about(memory)
            ),
            "lower limits.memory, or give the machine more",
        ),
        _ => found.ok("limits", "enough memory"),
    }
}

/// Memory that is left, by the kernel and by the bound of the control group.
fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    let of_group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let of_group = of_group.and_then(|text| text.trim().parse().ok());
    Some((kib << 10).min(of_group.unwrap_or(u64::MAX)))
}

/// This machine's clock beside the embassy's.
pub fn clock(theirs_ms: u64, found: &mut Findings<'_>) {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let ours = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let off = ours.abs_diff(theirs_ms);
    let what = format!("this clock and the embassy's are {} s apart", off / 1000);
    let fix = "timedatectl set-ntp true, and look which of the two is right";
    if off > CLOCK_BAD_MS {
        found.bad("clock", what, fix);
    } else if off > CLOCK_WARN_MS {
        found.warn("clock", what, fix);
    } else {
        found.ok("clock", "this clock agrees with the embassy's");
    }
}

/// Whether another process holds this lock; `None` when it cannot be said.
pub fn is_locked(path: &Path) -> Option<bool> {
    let file = File::open(path).ok()?;
    let tried = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
    Some(tried.is_err())
}
