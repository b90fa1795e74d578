//! What officers do: found a state, prove their shares, read and approve orders, and release keys, offline.
//!
//! Nothing here needs an embassy; what travels to one is handed over as files.

pub mod card;
pub mod ceremony;
pub mod envelope;
pub mod give;
pub mod names;
pub mod orders;
pub mod plan;
pub mod prove;
pub mod release;
pub mod released;
pub mod ssh;
pub mod text;

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use legation_core::error::FormatError;
use legation_core::keys::Entropy;
use legation_core::statement::Time;

use zeroize::Zeroizing;

use crate::exit::Failure;

/// The operating system's randomness.
#[derive(Debug, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn draw(&mut self) -> Result<Zeroizing<[u8; 32]>, FormatError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(|_| FormatError::Crypto("draw randomness"))?;
        Ok(bytes)
    }
}

/// The clock of this machine.
///
/// # Errors
/// When it is set before 1970 or after the year 9999.
pub fn now() -> Result<Time, Failure> {
    u64::try_from(jiff::Timestamp::now().as_millisecond())
        .ok()
        .and_then(Time::from_millis)
        .ok_or_else(|| Failure::failed("the clock of this machine is not set"))
}

/// Reads a small file whole.
///
/// # Errors
/// When it is missing, or larger than `limit` bytes and therefore another file.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let fail = |why: std::io::Error| Failure::usage(format!("{}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(fail)?;
    let room = file.metadata().map_err(fail)?.len().min(limit) as usize;
    // Room for all of it from the start: a buffer that grows leaves unwiped copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(room + 1));
    file.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(Failure::usage(format!(
            "{} is larger than {limit} bytes; it is another file",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Reads a small text file.
///
/// # Errors
/// As [`read_bounded`], and when it is not UTF-8.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, Failure> {
    let bytes = read_bounded(path, limit)?;
    String::from_utf8(bytes.to_vec())
        .map_err(|_| Failure::usage(format!("{} is not UTF-8 text", path.display())))
}

/// Writes a new file, synced; never over an existing one.
///
/// # Errors
/// When it exists or cannot be written.
pub(crate) fn create(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Failure> {
    let fail = |why: std::io::Error| {
        let failure = Failure::failed(format!("{}: {why}", path.display()));
        if why.kind() == std::io::ErrorKind::AlreadyExists {
            return failure.hint("nothing is overwritten; move it away or choose another --out");
        }
        failure
    };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(fail)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(fail)
}

#[cfg(test)]
mod tests;
