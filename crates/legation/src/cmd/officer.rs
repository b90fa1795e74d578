//! `legation officer`: an officer's card, the proof of his share, and giving it from afar.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::ctx::Ctx;
use crate::exit::Failure;
use crate::identity::{Identity, Role};
use crate::officers::card::OfficerCard;
use crate::officers::{create, give, now, prove, read_text};

/// A public key file is one line.
const MAX_PUBLIC_KEY: u64 = 16 * 1024;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation officer prove shares/officer-1.share.age --age-identity officer-1.age \\\n      --mandate mandate.txt --as officer-1 --ssh-key ~/.ssh/id_ed25519 --out officer-1.proof"
)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Write an officer's card, or make the identity of a desk (--client)
    #[command(
        after_help = "Example:\n  legation officer new officer-1 --territory home --ssh ~/.ssh/id_ed25519.pub \\\n      --age-recipient age1... --out officer-1.card\n  legation officer new desk --client --out desk"
    )]
    New(New),
    /// Open the envelope, compare it with the mandate, and sign that
    #[command(
        after_help = "Example:\n  legation officer prove shares/officer-1.share.age --age-identity officer-1.age \\\n      --mandate mandate.txt --as officer-1 --ssh-key ~/.ssh/id_ed25519 --out officer-1.proof"
    )]
    Prove(Prove),
    /// Seal a share to the one-time key of a release elsewhere
    #[command(
        after_help = "Example:\n  legation officer give officer-4.share.age --age-identity officer-4.age --to release.pub --out officer-4.given"
    )]
    Give(Give),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Territory {
    Home,
    Abroad,
}

#[derive(Debug, clap::Args)]
struct New {
    /// The name in the mandate
    name: String,
    /// Where the officer is
    #[arg(long, value_enum, required_unless_present = "client")]
    territory: Option<Territory>,
    /// The officer's SSH public key
    #[arg(long, value_name = "KEY.pub", required_unless_present = "client")]
    ssh: Option<PathBuf>,
    /// The officer's age recipient, as age-keygen prints it
    #[arg(long, value_name = "AGE1", required_unless_present = "client")]
    age_recipient: Option<String>,
    /// Make the identity of a machine that reads and submits, not an officer's card
    #[arg(long, conflicts_with_all = ["territory", "ssh", "age_recipient"])]
    client: bool,
    /// Where to write it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Prove {
    /// The envelope
    share: PathBuf,
    /// The age identity that opens it
    #[arg(long, value_name = "FILE")]
    age_identity: PathBuf,
    /// The mandate
    #[arg(long, value_name = "FILE")]
    mandate: PathBuf,
    /// The officer's name in the mandate
    #[arg(long = "as", value_name = "NAME")]
    officer: String,
    /// His SSH key; its public half when an agent or card holds it
    #[arg(long, value_name = "KEY")]
    ssh_key: PathBuf,
    /// Where to write the proof
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Give {
    /// The envelope
    share: PathBuf,
    /// The age identity that opens it
    #[arg(long, value_name = "FILE")]
    age_identity: PathBuf,
    /// The one-time key that `order release --begin` wrote
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Where to write what travels
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// Unusable keys (2); a share that is not the mandate's (4); a wrong identity or SSH key (12).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    match &args.what {
        What::New(args) if args.client => client(args, ctx),
        What::New(args) => officer(args, ctx),
        What::Prove(args) => {
            let told = prove::Prove {
                share: &args.share,
                age_identity: &args.age_identity,
                mandate: &args.mandate,
                officer: &args.officer,
                ssh_key: &args.ssh_key,
            };
            let proof = prove::prove(told, now()?)?;
            create(&args.out, 0o644, proof.encode().as_bytes())?;
            ctx.out.fact(
                "proven",
                &serde_json::json!({ "officer": args.officer, "proof": args.out }),
                format!(
                    "share proven by its holder   {}\nproof {}",
                    args.officer,
                    args.out.display()
                ),
            );
            Ok(())
        }
        What::Give(args) => {
            let given = give::give(&args.share, &args.age_identity, &args.to)?;
            create(&args.out, 0o600, given.text.as_bytes())?;
            ctx.out.fact(
                "given",
                &serde_json::json!({ "officer": given.officer, "order": given.order, "given": args.out }),
                format!(
                    "the share of {} is sealed to the release of order {}\nsend {}; only that machine opens it",
                    given.officer,
                    given.order,
                    args.out.display()
                ),
            );
            Ok(())
        }
    }
}

fn client(args: &New, ctx: &Ctx) -> Result<(), Failure> {
    crate::officers::plan::plain_name("client", &args.name)?;
    let identity = Identity::create(Role::Client)?;
    let card = identity.save(&args.out, &identity.card()?)?;
    ctx.out.fact(
        "identity",
        &serde_json::json!({ "role": "client", "identity": args.out, "card": card }),
        format!(
            "identity {}\ncard     {}",
            args.out.display(),
            card.display()
        ),
    );
    Ok(())
}

fn officer(args: &New, ctx: &Ctx) -> Result<(), Failure> {
    // Present unless --client, as the command's definition demands.
    let (Some(territory), Some(ssh), Some(age)) = (args.territory, &args.ssh, &args.age_recipient)
    else {
        return Err(Failure::usage(
            "an officer needs --territory, --ssh and --age-recipient",
        ));
    };
    let ssh = read_text(ssh, MAX_PUBLIC_KEY)?;
    let card = OfficerCard::new(
        &args.name,
        matches!(territory, Territory::Abroad),
        &ssh,
        age,
    )?;
    create(&args.out, 0o644, card.text().as_bytes())?;
    ctx.out.fact(
        "card",
        &serde_json::json!({ "officer": card.name, "abroad": card.abroad, "card": args.out }),
        format!("card {}", args.out.display()),
    );
    Ok(())
}
