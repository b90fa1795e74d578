//! `legation ceremony`: founds a state.

use std::path::{Path, PathBuf};

use legation_core::statement::Mandate;

use crate::ctx::Ctx;
use crate::exit::{During, Failure};
use crate::officers::plan::{Quorum, StateFile};
use crate::officers::{SystemEntropy, ceremony, create, now, prove};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation ceremony found state.toml --need 3 --of 5 --abroad 1 --out founding\n  legation ceremony seal founding"
)]
pub struct Args {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, clap::Subcommand)]
enum Step {
    /// Deal the vault, write the mandate and an envelope for each officer
    #[command(
        after_help = "Example:\n  legation ceremony found state.toml --need 3 --of 5 --abroad 1 --out founding"
    )]
    Found(Found),
    /// Check every proof and signature, and write the signed mandate
    #[command(after_help = "Example:\n  legation ceremony seal founding")]
    Seal {
        /// The directory that `ceremony found` wrote
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Found {
    /// Who founds, writes, keeps, and what is protected
    state: PathBuf,
    /// Officers who open a generation together
    #[arg(long, value_name = "N")]
    need: u8,
    /// Officers in all
    #[arg(long, value_name = "N")]
    of: u8,
    /// How many of those who open it are off the territory, at least
    #[arg(long, value_name = "N")]
    abroad: u8,
    /// A directory that does not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// An impossible or doubled rule (2); a missing proof or signature (5); one that does not hold (4, 8, 12).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    match &args.step {
        Step::Found(args) => found(args, ctx),
        Step::Seal { dir } => seal(dir, ctx),
    }
}

fn found(args: &Found, ctx: &Ctx) -> Result<(), Failure> {
    if !crate::harden::lock_memory() {
        ctx.out.note(
            "memory could not be locked; turn swap off on this machine before secrets are in it",
        );
    }
    let file = StateFile::load(&args.state)?;
    let base = args.state.parent().unwrap_or(Path::new("."));
    let quorum = Quorum {
        need: args.need,
        of: args.of,
        abroad: args.abroad,
    };
    let founding = ceremony::found(&file, base, quorum, now()?, &mut SystemEntropy)?;

    std::fs::create_dir_all(args.out.parent().unwrap_or(Path::new(".")))
        .during(args.out.display())?;
    std::fs::create_dir(&args.out).map_err(|why| {
        Failure::failed(format!("{}: {why}", args.out.display()))
            .hint("a founding never overwrites another; choose a new --out")
    })?;
    let shares = args.out.join("shares");
    std::fs::create_dir(&shares).during(shares.display())?;
    let text = founding.mandate.text();
    create(&args.out.join(prove::MANDATE), 0o644, text.as_bytes())?;
    create(
        &args.out.join(prove::KEYRING),
        0o644,
        founding.keyring.text().as_bytes(),
    )?;
    create(
        &args.out.join("registries.toml"),
        0o600,
        founding.names.text()?.as_bytes(),
    )?;
    for (officer, envelope) in &founding.envelopes {
        create(
            &shares.join(format!("{officer}.share.age")),
            0o600,
            envelope,
        )?;
    }

    let names = |abroad: bool| {
        founding
            .mandate
            .officer
            .iter()
            .filter(|row| (row.territory == legation_core::statement::Territory::Abroad) == abroad)
            .map(|row| row.name.as_str())
            .collect::<Vec<_>>()
    };
    let state = legation_core::id::StateId::of_mandate(text.as_bytes());
    ctx.out.fact(
        "founded",
        &serde_json::json!({
            "state": state, "out": args.out, "need": args.need, "of": args.of, "abroad": args.abroad,
            "generations": file.generations, "home": names(false), "abroad_officers": names(true),
        }),
        format!(
            "{} officers, any {} open, at least {} of them abroad; {} generations dealt\n\
             home: {}    abroad: {}\n\
             next: each officer, as NAME, proves his share and signs the mandate:\n  \
             legation officer prove {out}/shares/NAME.share.age --age-identity NAME.age --mandate {mandate} \
             --as NAME --ssh-key KEY --out {out}/NAME.proof\n  \
             ssh-keygen -Y sign -f KEY -n {namespace} {mandate}\n  \
             mv {mandate}.sig {mandate}.NAME.sig\n\
             then, when all have: legation ceremony seal {out}",
            args.of,
            args.need,
            args.abroad,
            file.generations,
            names(false).join(" "),
            names(true).join(" "),
            out = args.out.display(),
            mandate = args.out.join(prove::MANDATE).display(),
            namespace = Mandate::HEADER,
        ),
    );
    Ok(())
}

fn seal(dir: &Path, ctx: &Ctx) -> Result<(), Failure> {
    let founded = prove::seal(dir, now()?)?;
    let path = dir.join(prove::SIGNED);
    create(&path, 0o644, founded.signed.encode().as_bytes())?;
    let count = founded.officers.len();
    ctx.out.fact(
        "sealed",
        &serde_json::json!({ "state": founded.state, "mandate": path, "proven": count, "signed": count }),
        format!(
            "shares proven by their holders   {count} of {count}\n\
             mandate signed                   {count} of {count}\n\
             the state is                     {}",
            founded.state
        ),
    );
    Ok(())
}
