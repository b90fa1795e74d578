//! `legation log`: shows, copies and verifies the log.

use std::path::{Path, PathBuf};

use legation_core::statement::Entry;

use crate::ctx::Ctx;
use crate::desk::{self, Desk};
use crate::exit::{Code, Failure};
use crate::ledger::Ledger;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  legation log mirror log/\n  legation log verify log/")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Replay a copy of a log offline, and name every statement that the mandate did not allow
    #[command(
        after_help = "Example:\n  legation log verify log/\n  legation log verify log/ --founded lgn1-..."
    )]
    Verify {
        /// The copy, as `log mirror` writes it
        dir: PathBuf,
        /// The state's fingerprint, if you know it: what a copy of another state is refused by
        #[arg(long, value_name = "STATE")]
        founded: Option<String>,
    },
    /// Copy the embassy's log with all that its statements name
    #[command(after_help = "Example:\n  legation log mirror log/")]
    Mirror {
        /// Where to; an older copy there is brought up to date
        dir: PathBuf,
    },
    /// Print entries
    #[command(after_help = "Example:\n  legation log show 214\n  legation log show --kind order")]
    Show {
        /// The entry; all of them without it
        entry: Option<u64>,
        /// Only statements of this kind
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// A copy, instead of asking the embassy
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
}

/// Runs the verb.
///
/// # Errors
/// A log that does not verify (4); statements outside the mandate (8); no embassy or log there (10).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    match &args.what {
        What::Verify { dir, founded } => {
            verify(dir, founded.as_deref().or(ctx.state.as_deref()), ctx)
        }
        What::Mirror { dir } => mirror(dir, ctx),
        What::Show { entry, kind, from } => show(*entry, kind.as_deref(), from.as_deref(), ctx),
    }
}

fn verify(dir: &Path, founded: Option<&str>, ctx: &Ctx) -> Result<(), Failure> {
    let ledger = Ledger::open(dir, &ctx.watch("log", "entries"))?;
    let state = ledger.state.id();
    if let Some(founded) = founded.filter(|founded| *founded != state.to_string()) {
        return Err(Failure::new(
            Code::Refused,
            format!("this is a log of state {state}, not of {founded}"),
        ));
    }
    let head = ledger.checkpoint.head();
    for (index, refusal) in &ledger.bad {
        ctx.out.fact(
            "bad",
            &serde_json::json!({ "entry": index, "rule": refusal.rule.number(), "message": refusal.message }),
            format!("entry {index}: {refusal}"),
        );
    }
    let verdict = if ledger.bad.is_empty() {
        format!(
            "{} statements replayed, none outside the mandate",
            ledger.replayed
        )
    } else {
        format!(
            "{} statements replayed, {} outside the mandate",
            ledger.mirror.size(),
            ledger.bad.len()
        )
    };
    ctx.out.fact(
        "verified",
        &serde_json::json!({
            "state": state, "embassy": ledger.label.as_str(), "entries": ledger.mirror.size(), "root": head.root,
            "replayed": ledger.replayed, "bad": ledger.bad.len(), "witnessed": ledger.state.mandate().witness.is_some(),
        }),
        format!(
            "state {state}, embassy {}, {} entries, checkpoint signed by Ed25519 and ML-DSA-44{}\n{verdict}",
            ledger.label,
            ledger.mirror.size(),
            if ledger.state.mandate().witness.is_some() { "" } else { "; unwitnessed" }
        ),
    );
    ledger.clean()
}

fn mirror(dir: &Path, ctx: &Ctx) -> Result<(), Failure> {
    let person = ctx.person()?;
    let (client, charter) = crate::line::of_person(&person)?;
    let ledger = desk::mirror(&client, dir, &ctx.watch("log", "entries"))?;
    if ledger.state.id() != charter.state {
        return Err(Failure::new(
            Code::Refused,
            format!("the embassy keeps a log of state {}", ledger.state.id()),
        ));
    }
    ctx.out.fact(
        "mirror",
        &serde_json::json!({ "dir": dir, "entries": ledger.mirror.size(), "state": charter.state }),
        format!(
            "{} entries in {}; check them offline: legation log verify {}",
            ledger.mirror.size(),
            dir.display(),
            dir.display()
        ),
    );
    Ok(())
}

fn show(
    entry: Option<u64>,
    kind: Option<&str>,
    from: Option<&Path>,
    ctx: &Ctx,
) -> Result<(), Failure> {
    let ledger = match from {
        Some(dir) => Ledger::open(dir, &ctx.watch("log", "entries"))?,
        None => Desk::open(ctx)?.ledger,
    };
    let size = ledger.mirror.size();
    let range = match entry {
        Some(entry) if entry >= size => {
            return Err(Failure::usage(format!(
                "the log has {size} entries; there is no entry {entry}"
            )));
        }
        Some(entry) => entry..entry + 1,
        None => 0..size,
    };
    for index in range {
        if ctx.stop.is_up() {
            return Err(Failure::new(Code::Interrupted, "interrupted"));
        }
        let leaf = ledger.mirror.entry(index)?;
        let Ok(entry) = Entry::parse(&leaf) else {
            ctx.out.fact(
                "entry",
                &serde_json::json!({ "index": index, "error": "this is no entry of a log" }),
                format!("entry {index}: this is no entry of a log"),
            );
            continue;
        };
        let first = entry.signed.text().lines().next().unwrap_or_default();
        if kind.is_some_and(|kind| first != format!("legation/{kind}/v1")) {
            continue;
        }
        let signers: Vec<_> = entry
            .signed
            .signatures()
            .iter()
            .map(|signature| signature.signer.to_string())
            .collect();
        ctx.out.fact(
            "entry",
            &serde_json::json!({
                "index": index, "received": entry.received.to_string(), "text": entry.signed.text(), "signed_by": signers,
            }),
            format!(
                "entry {index}, received {}\n{}signed by {}\n",
                entry.received,
                entry.signed.text(),
                signers.join(", ")
            ),
        );
    }
    Ok(())
}
