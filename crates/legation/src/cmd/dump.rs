//! `legation dump`: one file of a version to standard output.

use std::io::Write;
use std::path::PathBuf;

use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::recover::grant::{self, Asked};

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
    path: String,
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
        },
    )?;
    let reader = job.open(&keep)?;
    for at in 0..reader.root().sources.len() {
        let Some(entry) = reader.entry(at, args.path.as_bytes())? else {
            continue;
        };
        let mut out = std::io::stdout().lock();
        let mut offset = 0;
        while offset < entry.size {
            if ctx.stop.is_up() {
                return Err(Failure::new(Code::Interrupted, "interrupted"));
            }
            let bytes = reader.read(&entry, offset, CHUNK)?;
            out.write_all(&bytes)?;
            offset += bytes.len() as u64;
        }
        return Ok(out.flush()?);
    }
    Err(Failure::usage(format!(
        "{} {} has no file {}",
        args.name, args.version, args.path
    ))
    .hint(format!(
        "legation ls {} {} lists what there is",
        args.name, args.version
    )))
}
