//! What a program prints, as one file of a version: a dump by the database's own tool. It is never whole in memory and
//! never on disk unsealed.

use std::time::{SystemTime, UNIX_EPOCH};

use legation_core::id::Digest;
use legation_core::manifest::{Entry, EntryKind, Extents, Mtime};
use legation_core::source::Sink;

use crate::program::Program;
use crate::{Error, Result};

/// The fact of a version that says how its owner reads the file in again: a JSON list of program and arguments. Nothing
/// of ours runs it.
pub const RESTORE_KEY: &str = "restore.argv";

/// What is captured.
#[derive(Debug, Clone)]
pub struct Output {
    /// What prints it.
    pub program: Program,
    /// What the file is called.
    pub name: String,
    /// Whether it may be empty: a program that fails in silence prints nothing too.
    pub may_be_empty: bool,
    /// How it is read in again.
    pub restore: Vec<String>,
}

/// What was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputReport {
    /// Its bytes.
    pub bytes: u64,
    /// Their BLAKE3.
    pub digest: Digest,
}

/// Runs the program and gives what it prints to `sink`, as one file that is cut by its content.
///
/// # Errors
/// As [`Program::run`]; `Refused` for empty output. No version must then be made of what the sink was given.
pub fn capture(
    output: &Output,
    sink: &mut dyn Sink,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<OutputReport> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    sink.begin_shifting(Entry {
        path: output.name.clone().into_bytes(),
        kind: EntryKind::File,
        mode: 0o600,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: Mtime {
            secs: i64::try_from(now.as_secs()).unwrap_or_default(),
            nanos: now.subsec_nanos(),
        },
        size: 0,
        xattrs: Default::default(),
        extents: Extents::default(),
    })?;
    let (mut bytes, mut hasher) = (0, blake3::Hasher::new());
    output.program.run(stop, &mut |part| {
        hasher.update(part);
        sink.data(bytes, part)?;
        bytes += part.len() as u64;
        Ok(())
    })?;
    if bytes == 0 && !output.may_be_empty {
        return Err(Error::refused(
            format!("{} ended well and printed nothing", output.program.name()),
            "look at what it should print; may_be_empty = true if nothing is right",
        ));
    }
    sink.end()?;
    if !output.restore.is_empty() {
        let text = serde_json::to_string(&output.restore)
            .map_err(|e| Error::malformed("restore_argv", e.to_string()))?;
        sink.meta(RESTORE_KEY, &text)?;
    }
    Ok(OutputReport {
        bytes,
        digest: Digest(*hasher.finalize().as_bytes()),
    })
}
