//! Where a walk turns back: file systems that hold no files of anybody, and directories that lead back into themselves.

use std::os::fd::OwnedFd;

use rustix::fs::{Stat, fstatfs};

/// What the kernel shows of itself as files, by the numbers of `linux/magic.h`: proc, sysfs, devpts, cgroup, cgroup2,
/// debugfs, tracefs, securityfs, bpf, pstore, configfs, efivarfs, binfmt_misc, mqueue.
const OF_THE_KERNEL: [u32; 14] = [
    0x9fa0,
    0x6265_6572,
    0x1cd1,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6165_676c,
    0x6265_6570,
    0xde5e_81e4,
    0x4249_4e4d,
    0x1980_0202,
];

/// The directories above the one that is walked.
#[derive(Debug, Default)]
pub(super) struct Above(Vec<(u64, u64)>);

impl Above {
    /// Whether what lies in this directory is to be walked; if so it is above what follows, until [`Above::leave`].
    pub(super) fn enter(&mut self, dir: &OwnedFd, stat: &Stat, one_file_system: bool) -> bool {
        let this = (stat.st_dev, stat.st_ino);
        let crosses = self.0.last().is_some_and(|(dev, _)| *dev != stat.st_dev);
        let stays = one_file_system && crosses;
        // A bind mount of a directory below itself would never end.
        if stays || self.0.contains(&this) || (crosses && is_of_the_kernel(dir)) {
            return false;
        }
        self.0.push(this);
        true
    }

    pub(super) fn leave(&mut self) {
        self.0.pop();
    }
}

fn is_of_the_kernel(dir: &OwnedFd) -> bool {
    fstatfs(dir).is_ok_and(|fs| OF_THE_KERNEL.contains(&(fs.f_type as u32)))
}
