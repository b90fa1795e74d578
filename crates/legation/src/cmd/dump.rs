//! `legation dump`: one file of a version to standard output.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use legation_core::manifest::{Entry, EntryKind};
use legation_repo::reader::VersionReader;

use super::ls::kind;
use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::output::{Progress, shown};
use crate::recover::damaged;
use crate::recover::grant::{self, Asked};
use crate::watch::Watch;

/// How much is read and written at once.
const CHUNK: usize = 4 << 20;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)]
#[command(
    after_help = "Example:\n  legation dump gazette v7 acts/1995/29.xml --order grant.txt >29.xml"
)]
pub struct Args {
    /// The registry
    name: String,
    /// The version: latest, or one like v7
    version: String,
    /// The file
    path: OsString,
    /// The grant that opens it
    #[arg(long, value_name = "FILE")]
    order: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// No grant, or one that does not cover it (8); a wrong key (12); damage (4); no such file (2).
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
    let path = args.path.as_bytes();
    for at in 0..reader.root().sources.len() {
        if let Some(entry) = reader.entry(at, path)? {
            let entry = file(&reader, at, entry)?;
            if let Some(mark) = entry.incomplete() {
                if entry.is_name_only() {
                    let why = format!("{} is {mark}", shown(path));
                    return Err(Failure::new(Code::SourceIncomplete, why));
                }
                ctx.out.note(format!("{} is {mark}", shown(path)));
            }
            return write(&reader, &entry, ctx);
        }
    }
    Err(Failure::usage(format!(
        "{} {} has no file {}",
        args.name,
        args.version,
        shown(path)
    ))
    .hint(format!(
        "legation ls {} {} lists what there is",
        args.name, args.version
    )))
}

/// The entry that has the bytes: a hard link is another name of a file, anything else has none.
fn file(reader: &VersionReader, source: usize, entry: Entry) -> Result<Entry, Failure> {
    match &entry.kind {
        EntryKind::File => Ok(entry),
        EntryKind::Hardlink { target } => reader
            .entry(source, target)?
            .filter(|target| target.kind == EntryKind::File)
            .ok_or_else(|| {
                damaged(format!(
                    "{} is another name of {}, which is no file of this version",
                    shown(&entry.path),
                    shown(target)
                ))
            }),
        EntryKind::Symlink { target } => Err(Failure::usage(format!(
            "{} is a link to {}, not a file",
            shown(&entry.path),
            shown(target)
        ))
        .hint("dump what it points to, if that was captured too")),
        _ => Err(Failure::usage(format!(
            "{} is a {}, not a file",
            shown(&entry.path),
            kind(&entry).1
        ))
        .hint("legation restore gives back everything below a path")),
    }
}

fn write(reader: &VersionReader, entry: &Entry, ctx: &Ctx) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    // Standard output is the file: progress lines for programs would be in it, and a bar would be among its text.
    let watch = if ctx.out.json() || out.is_terminal() {
        Watch::new(Progress::silent(), &ctx.stop)
    } else {
        ctx.watch("dump", "bytes")
    };
    watch.total(entry.size);
    let mut offset = 0;
    while offset < entry.size {
        watch.go_on()?;
        let bytes = reader.read(entry, offset, CHUNK)?;
        out.write_all(&bytes)?;
        offset += bytes.len() as u64;
        watch.set(offset);
    }
    watch.finish();
    Ok(out.flush()?)
}
