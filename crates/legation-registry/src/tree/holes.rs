//! Reads a file's data and skips its holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use legation_core::id::Digest;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::{Error, Result};

/// What one read of a larger file asks for.
const READ: usize = 1 << 20;

/// Calls `part` for the data of a file, hole by hole; returns how many bytes there were.
pub(crate) fn for_each_part(
    file: &File,
    stat: &rustix::fs::Stat,
    part: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<u64> {
    let size = stat.st_size as u64;
    // Fewer blocks than bytes: there may be holes. Otherwise the two calls a file are spared.
    let sparse = (stat.st_blocks as u64).saturating_mul(512) < size;
    let io = |e: io::Error| Error::io("read", e);
    let mut buffer = vec![0; READ.min(size as usize)];
    let (mut at, mut read) = (0, 0);
    while at < size {
        let (from, to) = if sparse {
            next_data(file, at, size).map_err(|e| io(e.into()))?
        } else {
            (at, size)
        };
        at = from;
        while at < to {
            let want = buffer.len().min((to - at) as usize);
            let got = match file.read_at(&mut buffer[..want], at) {
                // Shorter than it was: the caller notices by the times.
                Ok(0) => return Ok(read),
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(io(e)),
            };
            part(at, &buffer[..got])?;
            at += got as u64;
            read += got as u64;
        }
    }
    Ok(read)
}

/// The next stretch of data from `at` on; empty at `size` when only a hole is left.
pub(crate) fn next_data(file: &File, at: u64, size: u64) -> rustix::io::Result<(u64, u64)> {
    let from = match seek(file, SeekFrom::Data(at)) {
        Ok(from) => from.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, size)),
        Err(e) => return Err(e),
    };
    match seek(file, SeekFrom::Hole(from)) {
        Ok(to) => Ok((from, to.min(size))),
        // Cut shorter since: nothing is left to read.
        Err(Errno::NXIO) => Ok((size, size)),
        Err(e) => Err(e),
    }
}

/// The bytes of a file and where they lay.
#[derive(Default)]
pub(crate) struct Reading {
    hasher: blake3::Hasher,
    end: u64,
}

impl Reading {
    pub(crate) fn add(&mut self, offset: u64, bytes: &[u8]) {
        if offset != self.end {
            self.hasher.update(b"hole").update(&offset.to_le_bytes());
        }
        self.hasher.update(bytes);
        self.end = offset + bytes.len() as u64;
    }

    /// Of all that was added.
    pub(crate) fn digest(mut self) -> Digest {
        self.hasher.update(&self.end.to_le_bytes());
        Digest(*self.hasher.finalize().as_bytes())
    }
}
