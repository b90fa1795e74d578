//! The names in a directory, in one piece of memory: a directory of a million entries costs about 20 bytes and its name
//! for each.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::Dir;

/// Names, sorted by their bytes.
pub(super) struct Names {
    /// Each with the NUL at its end.
    bytes: Vec<u8>,
    /// Where each starts.
    starts: Vec<usize>,
}

impl Names {
    /// All but `.` and `..`.
    pub(super) fn of(dir: &OwnedFd) -> rustix::io::Result<Self> {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                starts.push(bytes.len());
                bytes.extend_from_slice(name.to_bytes_with_nul());
            }
        }
        let name = |at: usize| CStr::from_bytes_until_nul(bytes.get(at..).unwrap_or_default());
        starts.sort_unstable_by(|a, b| name(*a).ok().cmp(&name(*b).ok()));
        Ok(Self { bytes, starts })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &CStr> {
        let name = |at: &usize| CStr::from_bytes_until_nul(self.bytes.get(*at..)?).ok();
        self.starts.iter().filter_map(name)
    }
}
