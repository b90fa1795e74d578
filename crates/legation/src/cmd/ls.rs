//! `legation ls`: files of a version.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use legation_core::manifest::{Entry, EntryKind};

use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::output::shown;
use crate::recover::grant::{self, Asked};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)]
#[command(after_help = "Example:\n  legation ls gazette v7 acts/1995/ --order grant.txt")]
pub struct Args {
    /// The registry
    name: String,
    /// The version: latest, or one like v7
    #[arg(default_value = "latest")]
    version: String,
    /// Only what begins with this path
    #[arg(default_value = "")]
    prefix: OsString,
    /// The grant that opens it
    #[arg(long, value_name = "FILE")]
    order: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// No grant, or one that does not cover it (8); a wrong key (12); damage (4).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let desk = Desk::open(ctx)?;
    let (job, keep) = grant::open(
        &desk,
        Asked {
            name: &args.name,
            version: &args.version,
            order: args.order.as_deref(),
            target: None,
        },
    )?;
    let reader = job.open(&keep)?;
    for (at, source) in reader.root().sources.iter().enumerate() {
        reader.walk(at, args.prefix.as_bytes(), &mut |entry| {
            let mut value = serde_json::json!({
                "source": source.name, "path": String::from_utf8_lossy(&entry.path), "kind": kind(&entry).1,
                "mode": format!("{:04o}", entry.mode), "uid": entry.uid, "gid": entry.gid, "size": entry.size,
                "mtime": modified(&entry),
            });
            if std::str::from_utf8(&entry.path).is_err() {
                value["path_hex"] = hex(&entry.path).into();
            }
            let mark = entry.incomplete();
            if let Some(mark) = &mark {
                value["incomplete"] = mark.to_string().into();
            }
            ctx.out.fact(
                "entry",
                &value,
                format!(
                    "{}{:04o} {:>6} {:>6} {:>12} {} {}{}",
                    kind(&entry).0,
                    entry.mode,
                    entry.uid,
                    entry.gid,
                    entry.size,
                    modified(&entry),
                    shown(&entry.path),
                    mark.map_or_else(String::new, |mark| format!("  ({mark})"))
                ),
            );
            Ok(!ctx.stop.is_up())
        })?;
        if ctx.stop.is_up() {
            return Err(Failure::new(Code::Interrupted, "interrupted"));
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn kind(entry: &Entry) -> (char, &'static str) {
    match entry.kind {
        EntryKind::File => ('-', "file"),
        EntryKind::Dir => ('d', "directory"),
        EntryKind::Symlink { .. } => ('l', "link"),
        EntryKind::Hardlink { .. } => ('h', "hard link"),
        EntryKind::Fifo => ('p', "fifo"),
        EntryKind::Socket => ('s', "socket"),
        EntryKind::CharDev { .. } => ('c', "character device"),
        EntryKind::BlockDev { .. } => ('b', "block device"),
    }
}

fn modified(entry: &Entry) -> String {
    jiff::Timestamp::from_second(entry.mtime.secs)
        .map_or_else(|_| "?".to_owned(), |stamp| stamp.to_string())
}
