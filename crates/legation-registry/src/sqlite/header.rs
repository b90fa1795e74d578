//! The first hundred bytes of a database file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::Context;
use crate::{Error, Result};

/// Length of the header.
const LEN: usize = 100;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes in a page: a power of two from 512 to 65,536.
    pub page_size: u32,
    /// Whether a write-ahead log is in use.
    pub wal: bool,
    /// Grows with every transaction that is committed by a rollback journal.
    pub counter: u32,
}

impl Header {
    /// Reads the header; `None` of a file without a byte, which is an empty database.
    pub fn read(file: &File, path: &Path) -> Result<Option<Header>> {
        let mut bytes = [0; LEN];
        let got = read_full(file, &mut bytes, 0).at(|| path.display().to_string())?;
        if got == 0 {
            return Ok(None);
        }
        Header::parse(&bytes[..got]).map(Some).ok_or_else(|| {
            Error::refused(
                format!("{} is not a SQLite database", path.display()),
                "name the database file itself; one that is encrypted (SQLCipher, SEE) is opened by its application alone: \
                 let that write an export and capture it as a tree",
            )
        })
    }

    fn parse(bytes: &[u8]) -> Option<Header> {
        let at = |from: usize| -> Option<u32> {
            Some(u32::from_be_bytes(
                bytes.get(from..from + 4)?.try_into().ok()?,
            ))
        };
        let counter = at(24)?;
        let size = u32::from_be_bytes([0, 0, *bytes.get(16)?, *bytes.get(17)?]);
        // 65,536 does not fit its two bytes.
        let page_size = if size == 1 { 65_536 } else { size };
        let fits = bytes.len() == LEN
            && bytes.starts_with(MAGIC)
            && page_size.is_power_of_two()
            && page_size >= 512;
        fits.then_some(Header {
            page_size,
            // The version that readers need.
            wal: bytes.get(19) == Some(&2),
            counter,
        })
    }
}

/// Fills as much of `bytes` as the file has from `offset`.
pub(super) fn read_full(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_header_of_a_database_is_one() {
        let mut bytes = vec![0; LEN];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..18].copy_from_slice(&[0x10, 0]);
        bytes[19] = 2;
        bytes[27] = 7;
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(
            header,
            Header {
                page_size: 4096,
                wal: true,
                counter: 7
            }
        );
        for (at, value) in [(0, b'X'), (16, 0), (17, 3)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert_eq!(Header::parse(&other), None, "byte {at}");
        }
        for len in 0..LEN {
            assert_eq!(Header::parse(&bytes[..len]), None, "{len} bytes");
        }
    }
}
