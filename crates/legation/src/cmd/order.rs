//! `legation order`: writes, shows, approves, logs and releases orders.

mod new;
mod submit;

use std::path::{Path, PathBuf};

use legation_core::id::StateId;
use legation_core::statement::{Annex, Order, Time};

use crate::charter::Charter;
use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::officers::names::Names;
use crate::officers::release::{Brought, Bundle};
use crate::officers::{create, now, orders, prove};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation order show order.txt --annex order.annex.txt\n  legation order approve order.txt --annex order.annex.txt --as officer-1 --ssh-key ~/.ssh/id_ed25519"
)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Write an order and its annex
    New(new::Args),
    /// Show what an order says, in one sentence
    #[command(after_help = "Example:\n  legation order show order.txt --annex order.annex.txt")]
    Show(Show),
    /// Open the annex and sign, with stock ssh-keygen
    #[command(
        after_help = "Example:\n  legation order approve order.txt --annex order.annex.txt --as officer-1 --ssh-key ~/.ssh/id_ed25519"
    )]
    Approve(Approve),
    /// Open the shares and release the keys in scope, offline
    #[command(
        after_help = "Example:\n  legation order release order.bundle --share officer-1.share.age --age-identity officer-1.age \\\n      --share officer-2.share.age --age-identity officer-2.age --given officer-4.given --out order.released\n  legation order release order.bundle --begin"
    )]
    Release(Release),
    /// Log an approved order, or deliver released keys
    Submit(submit::Args),
    /// The orders that the embassy accepted
    #[command(after_help = "Example:\n  legation order list")]
    List,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The order
    order: PathBuf,
    /// Its annex, with the names and the reason
    #[arg(long, value_name = "FILE")]
    annex: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Approve {
    /// The order
    order: PathBuf,
    /// Its annex; nobody signs without it
    #[arg(long, value_name = "FILE")]
    annex: PathBuf,
    /// Your name in the mandate
    #[arg(long = "as", value_name = "NAME")]
    officer: String,
    /// Your SSH key; its public half when an agent or card holds it
    #[arg(long, value_name = "KEY")]
    ssh_key: PathBuf,
    /// The mandate, to check your key and the state against
    #[arg(long, value_name = "FILE")]
    mandate: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Release {
    /// The directory that `order submit` wrote
    bundle: PathBuf,
    /// An officer's envelope; once for each, with its --age-identity
    #[arg(long, value_name = "FILE")]
    share: Vec<PathBuf>,
    /// The age identity that opens the envelope given at the same place
    #[arg(long, value_name = "FILE")]
    age_identity: Vec<PathBuf>,
    /// A share that `officer give` sealed to this release
    #[arg(long, value_name = "FILE")]
    given: Vec<PathBuf>,
    /// Only make the one-time key that officers elsewhere give their shares to
    #[arg(long, conflicts_with_all = ["share", "age_identity", "given", "out"])]
    begin: bool,
    /// Where to write the released keys
    #[arg(long, value_name = "FILE", required_unless_present = "begin")]
    out: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// An order that does not hold (8); a quorum that is not met (5); a wrong share or key (12); no embassy (10).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    match &args.what {
        What::New(args) => new::run(args, ctx),
        What::Show(args) => show(args, ctx),
        What::Approve(args) => approve(args, ctx),
        What::Release(args) => release(args, ctx),
        What::Submit(args) => submit::run(args, ctx),
        What::List => list(ctx),
    }
}

fn show(args: &Show, ctx: &Ctx) -> Result<(), Failure> {
    let (order, _) = orders::load(&args.order)?;
    same_state(ctx, &order.state.to_string())?;
    let annex = args
        .annex
        .as_deref()
        .map(|path| orders::load_annex(path, &order))
        .transpose()?;
    let names = names(ctx)?;
    if let Some(annex) = &annex {
        orders::agree(annex, &names)?;
    }
    box_of(&order, annex.as_ref(), &names, now()?, ctx);
    Ok(())
}

/// What an officer reads before he signs.
fn box_of(order: &Order, annex: Option<&Annex>, names: &Names, now: Time, ctx: &Ctx) {
    let title = |id| {
        let rows = annex.map(|annex| annex.registry.as_slice());
        let row = rows.unwrap_or_default().iter().find(|row| row.id == id);
        row.map(|row| row.title.to_string())
    };
    ctx.out.fact(
        "order",
        &serde_json::json!({
            "order": order.order, "act": order.act.to_string(), "state": order.state, "sentence": order.sentence.as_str(),
            "not_before": order.not_before.to_string(), "expires": order.expires.to_string(), "sha256": order.id(),
            "embassy": order.embassy.as_str(), "grant": order.grant.to_string(),
            "registries": order.registry.iter().map(|row| serde_json::json!({
                "id": row.registry, "epochs": row.epochs.to_string(), "title": title(row.registry),
            })).collect::<Vec<_>>(),
            "reason": annex.map(|annex| annex.reason.to_string()),
        }),
        orders::show(order, annex, names, now),
    );
}

fn approve(args: &Approve, ctx: &Ctx) -> Result<(), Failure> {
    let mandate = match &args.mandate {
        Some(path) => {
            let (mandate, text) = prove::load_mandate(path)?;
            Some((StateId::of_mandate(text.as_bytes()), mandate))
        }
        None => match ctx.person_if_any()? {
            Some(person) => {
                let charter = Charter::load_of(&person.mandate, &person.state)?;
                Some((charter.state, charter.mandate))
            }
            None => None,
        },
    };
    let told = orders::Approve {
        order: &args.order,
        annex: &args.annex,
        officer: &args.officer,
        ssh_key: &args.ssh_key,
        mandate: mandate.as_ref().map(|(state, mandate)| (*state, mandate)),
    };
    let (order, _) = orders::load(&args.order)?;
    same_state(ctx, &order.state.to_string())?;
    if mandate.is_none() {
        ctx.out.note(format!(
            "no mandate is at hand: neither the state {} nor that {} is an officer with this key was checked; --mandate FILE does",
            order.state, args.officer
        ));
    }
    let (names, now) = (names(ctx)?, now()?);
    let (order, path) = orders::approve(told, &names, now, &|order, annex| {
        box_of(order, Some(annex), &names, now, ctx);
    })?;
    ctx.out.fact(
        "approved",
        &serde_json::json!({
            "order": order.order, "officer": args.officer, "signature": path, "checked": mandate.is_some(),
        }),
        format!(
            "{} approved order {}\nsignature {}",
            args.officer,
            order.order,
            path.display()
        ),
    );
    Ok(())
}

fn release(args: &Release, ctx: &Ctx) -> Result<(), Failure> {
    let bundle = Bundle::open(&args.bundle, now()?, &ctx.watch("log", "entries"))?;
    same_state(ctx, &bundle.state().to_string())?;
    let Some(out) = args.out.as_ref().filter(|_| !args.begin) else {
        let path = bundle.begin()?;
        ctx.out.fact(
            "release-key",
            &serde_json::json!({ "order": bundle.order().order, "key": path }),
            format!(
                "one-time key for order {}: {}\nits secret half stays on this machine, beside the bundle, until the release is written\nsend it to the officers elsewhere: \
                 legation officer give SHARE --age-identity KEY --to {} --out SHARE.given",
                bundle.order().order,
                path.display(),
                path.file_name().unwrap_or_default().display()
            ),
        );
        return Ok(());
    };
    if args.share.len() != args.age_identity.len() {
        return Err(Failure::usage(format!(
            "{} --share and {} --age-identity: each envelope needs the identity that opens it, in the same order",
            args.share.len(),
            args.age_identity.len()
        )));
    }
    if !crate::harden::lock_memory() {
        ctx.out.note(
            "memory could not be locked; turn swap off on this machine before secrets are in it",
        );
    }
    let envelopes = args.share.iter().zip(&args.age_identity);
    let brought: Vec<_> = envelopes
        .map(|(share, identity)| Brought::Envelope(share.clone(), identity.clone()))
        .chain(args.given.iter().map(|path| Brought::Given(path.clone())))
        .collect();
    let outcome = bundle.release(&brought)?;
    create(out, 0o600, outcome.released.text().as_bytes())?;
    ctx.out.fact(
        "released",
        &serde_json::json!({
            "order": bundle.order().order, "shares": outcome.shares, "abroad": outcome.abroad, "keys": outcome.keys,
            "of": outcome.of, "released": out,
        }),
        format!(
            "{} shares met offline, {} from abroad; {} data keys of {} released; the rest stay shut\nreleased {}",
            outcome.shares,
            outcome.abroad,
            outcome.keys,
            outcome.of,
            out.display()
        ),
    );
    bundle.forget_key()
}

fn list(ctx: &Ctx) -> Result<(), Failure> {
    let desk = Desk::open(ctx)?;
    let now = now()?;
    let mut any = false;
    for order in desk.state().orders() {
        any = true;
        let stand = match (&order.sealed, &order.session) {
            (Some(cause), _) => format!("ended ({cause})"),
            (None, _) if now >= order.order.expires => "expired".to_owned(),
            (None, _) if !order.reports.is_empty() => "serving".to_owned(),
            (None, _) if !order.opened.is_empty() => "opened".to_owned(),
            (None, Some(_)) => "waiting for keys".to_owned(),
            (None, None) => "accepted".to_owned(),
        };
        ctx.out.fact(
            "order",
            &serde_json::json!({
                "order": order.order.order, "act": order.order.act.to_string(), "entry": order.index, "stand": stand,
                "received": order.received.to_string(), "approvals": order.approvals.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "sentence": order.order.sentence.as_str(),
            }),
            format!("{}  entry {:<6} {:<18} {}", order.order.order, order.index, stand, order.order.sentence),
        );
    }
    if !any {
        ctx.out.line("the log has no orders");
    }
    Ok(())
}

/// What registries are called here, if anybody told us; an order can be read without.
fn names(ctx: &Ctx) -> Result<Names, Failure> {
    match ctx.person_if_any()? {
        Some(person) => Names::of_person(&person),
        None => Ok(Names::default()),
    }
}

/// Refuses an order of another state than the one this machine is set up for.
fn same_state(ctx: &Ctx, state: &str) -> Result<(), Failure> {
    let known = match &ctx.state {
        Some(known) => Some(known.clone()),
        None => ctx.person_if_any()?.map(|person| person.state),
    };
    match known {
        Some(known) if known != state => Err(Failure::new(
            Code::Refused,
            format!("the order is of state {state}; this machine is set up for {known}"),
        )),
        _ => Ok(()),
    }
}

/// A directory or file that must not exist yet; `option` is how another one is chosen.
fn fresh(path: &Path, option: &str) -> Result<(), Failure> {
    if path.exists() {
        return Err(Failure::failed(format!("{} exists", path.display()))
            .hint(format!("move it away or choose another {option}")));
    }
    Ok(())
}
