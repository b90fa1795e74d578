//! Extended attributes, ACLs included, as raw names and values.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use legation_core::manifest::RESERVED;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr, lgetxattr, llistxattr, lsetxattr};
use rustix::io::{Errno, Result};

/// Names and values, sorted by name.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Linux's own bound on the list of names and on one value.
const MAX: usize = 64 << 10;

/// Of an open file or directory.
pub(crate) fn of_fd(fd: BorrowedFd<'_>) -> Result<Xattrs> {
    collect(
        |buffer| flistxattr(fd, buffer),
        |name, buffer| fgetxattr(fd, name, buffer),
    )
}

/// Of a name that must not be opened: a link, a fifo, a socket or a device.
pub(super) fn of_name(dir: BorrowedFd<'_>, name: &CStr) -> Result<Xattrs> {
    let path = path_of(dir, name.to_bytes());
    collect(
        |buffer| llistxattr(&path, buffer),
        |name, buffer| lgetxattr(&path, name, buffer),
    )
}

/// Sets them on an open file or directory; returns the names that were refused.
pub(super) fn set_fd(fd: BorrowedFd<'_>, xattrs: &Xattrs) -> Vec<Vec<u8>> {
    refused(xattrs, |name, value| {
        fsetxattr(fd, name, value, XattrFlags::empty())
    })
}

/// As [`set_fd`], for a name that must not be opened.
pub(super) fn set_name(dir: BorrowedFd<'_>, name: &[u8], xattrs: &Xattrs) -> Vec<Vec<u8>> {
    let path = path_of(dir, name);
    refused(xattrs, |name, value| {
        lsetxattr(&path, name, value, XattrFlags::empty())
    })
}

/// There are no calls that take a directory and a name; the kernel's own link to the directory serves.
fn path_of(dir: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(std::ffi::OsStr::from_bytes(name))
}

fn collect(
    list: impl Fn(&mut [u8]) -> Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> Result<usize>,
) -> Result<Xattrs> {
    let mut found = Xattrs::new();
    let mut names = vec![0; MAX];
    let length = match list(&mut names) {
        Ok(length) => length,
        // A file system without them.
        Err(Errno::OPNOTSUPP) => return Ok(found),
        Err(e) => return Err(e),
    };
    let mut value = Vec::new();
    let own = |name: &&[u8]| !name.is_empty() && !name.starts_with(RESERVED);
    for name in names[..length].split(|b| *b == 0).filter(own) {
        let Ok(c_name) = CString::new(name) else {
            continue;
        };
        value.resize(MAX, 0);
        match get(&c_name, &mut value) {
            Ok(length) => found.insert(name.to_vec(), value[..length].to_vec()),
            // Removed since it was listed, or not ours to read.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => None,
            Err(e) => return Err(e),
        };
    }
    Ok(found)
}

fn refused(xattrs: &Xattrs, set: impl Fn(&CStr, &[u8]) -> Result<()>) -> Vec<Vec<u8>> {
    let cannot = |(name, value): (&Vec<u8>, &Vec<u8>)| {
        let done = CString::new(name.as_slice()).is_ok_and(|c_name| set(&c_name, value).is_ok());
        (!done).then(|| name.clone())
    };
    xattrs.iter().filter_map(cannot).collect()
}
