//! `legation order submit`: logs an approved order and fetches what its release needs; delivers released keys.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use legation_core::id::Digest;
use legation_core::keys::SealingKey;
use legation_core::statement::{Act, Order, Recipient};
use legation_repo::store::Kind;

use crate::config::units::Span;
use crate::ctx::Ctx;
use crate::desk::{self, Desk};
use crate::exit::{Code, Failure};
use crate::officers::release::file;
use crate::officers::released::Released;
use crate::officers::{create, orders, read_bounded};

/// A release of the largest size that embassies take.
const MAX_FILE: u64 = 4 << 20;
/// How often the log is looked at while waiting for the session.
const LOOK: Duration = Duration::from_millis(200);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation order submit order.txt --approval order.txt.officer-1.sig --approval order.txt.officer-2.sig \\\n      --approval order.txt.officer-4.sig\n  legation order submit order.released"
)]
pub struct Args {
    /// An order, or what `order release` wrote
    file: PathBuf,
    /// The officers' signatures
    #[arg(long, value_name = "FILE", num_args = 1..)]
    approval: Vec<PathBuf>,
    /// The annex, if it is not order.annex.txt
    #[arg(long, value_name = "FILE")]
    annex: Option<PathBuf>,
    /// Where to write the bundle; order.bundle without it
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// How long to wait for `legation activate` to ask for keys
    #[arg(long, value_name = "TIME", default_value = "5m")]
    wait: Span,
}

/// Runs the verb.
pub(super) fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let bytes = read_bounded(&args.file, MAX_FILE)?;
    if Released::is(&bytes) {
        return deliver(&bytes, ctx);
    }
    let (order, text) = orders::load(&args.file)?;
    super::same_state(ctx, &order.state.to_string())?;
    let annex = args
        .annex
        .clone()
        .unwrap_or_else(|| orders::annex_path(&args.file));
    orders::load_annex(&annex, &order)?;
    let bundle = args
        .bundle
        .clone()
        .unwrap_or_else(|| orders::bundle_path(&args.file));
    super::fresh(&bundle, "--bundle")?;

    let mut desk = Desk::open(ctx)?;
    if let Recipient::Key(digest) = order.recipient {
        let key = public_key(&args.file, digest)?;
        desk.client.put_attachment(key.encode().to_vec())?;
    }
    let signed = orders::gather(&text, desk.state().mandate(), &args.approval)?;
    let receipt = desk.client.submit(&signed).map_err(|why| {
        let failure = Failure::from(why);
        if args.approval.is_empty() {
            return failure
                .hint("name each officer's signature: --approval order.txt.officer-1.sig");
        }
        failure
    })?;
    ctx.out.fact(
        "accepted",
        &serde_json::json!({
            "order": order.order, "entry": receipt.entry.index, "received": receipt.entry.received.to_string(),
            "checkpoint": receipt.checkpoint.size(), "inclusion": receipt.inclusion.len(), "approvals": args.approval.len(),
        }),
        format!(
            "accepted: log entry {}, inclusion {} hashes, checkpoint {}",
            receipt.entry.index,
            receipt.inclusion.len(),
            receipt.checkpoint.size()
        ),
    );
    desk.refresh()?;
    if order.act == Act::Activate {
        wait_for_session(&mut desk, &order, args.wait.0, ctx)?;
    }
    let slips = write_bundle(&desk, &order, &text, &annex, &bundle, ctx)?;
    ctx.out.fact(
        "bundle",
        &serde_json::json!({ "order": order.order, "bundle": bundle, "slips": slips, "entries": desk.ledger.mirror.size() }),
        format!(
            "{slips} slips in scope and {} log entries in {}\nnext, offline: legation order release {} --share FILE \
             --age-identity FILE ... --out {}",
            desk.ledger.mirror.size(),
            bundle.display(),
            bundle.display(),
            orders::released_path(&args.file).display()
        ),
    );
    Ok(())
}

fn deliver(bytes: &[u8], ctx: &Ctx) -> Result<(), Failure> {
    let released = Released::parse(bytes)?;
    super::same_state(ctx, &released.state.to_string())?;
    let person = ctx.person()?;
    let (client, _) = crate::line::of_person(&person)?;
    client.put_release(&released.order, bytes.to_vec())?;
    ctx.out.fact(
        "delivered",
        &serde_json::json!({ "order": released.order, "keys": released.keys() }),
        format!(
            "{} wrapped keys delivered for order {}",
            released.keys(),
            released.order
        ),
    );
    Ok(())
}

/// The key that a grant releases to, as `order new grant` wrote it.
fn public_key(order: &Path, digest: legation_core::id::Sha256) -> Result<SealingKey, Failure> {
    let path = orders::public_key_path(order);
    let text = crate::officers::read_text(&path, MAX_FILE)?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .map_err(|_| Failure::usage(format!("{} is no public key of a grant", path.display())))?;
    let key = SealingKey::decode(&bytes)?;
    if key.id() != digest {
        return Err(Failure::new(
            Code::WrongKey,
            format!("{} is not the key that the order names", path.display()),
        ));
    }
    Ok(key)
}

/// The embassy's operator runs `legation activate`; its session key appears in the log.
fn wait_for_session(
    desk: &mut Desk,
    order: &Order,
    wait: Duration,
    ctx: &Ctx,
) -> Result<(), Failure> {
    let until = Instant::now() + wait;
    let mut told = false;
    loop {
        let accepted = desk.state().order(&order.order);
        if accepted.is_some_and(|accepted| accepted.session.is_some()) {
            return Ok(());
        }
        if ctx.stop.is_up() {
            return Err(Failure::new(
                Code::Interrupted,
                "interrupted while waiting for the session",
            ));
        }
        if Instant::now() >= until {
            return Err(Failure::failed(
                "the embassy has not asked for keys; the order stays accepted",
            )
            .hint("start `legation activate --order order.txt` there, then submit again"));
        }
        if !told {
            ctx.out
                .note("waiting for `legation activate` at the embassy to ask for keys");
            told = true;
        }
        ctx.stop.wait(LOOK);
        desk.refresh()?;
    }
}

/// Writes what a release needs, beside its final place first, so that a bundle is whole or absent.
fn write_bundle(
    desk: &Desk,
    order: &Order,
    text: &str,
    annex: &Path,
    bundle: &Path,
    ctx: &Ctx,
) -> Result<usize, Failure> {
    let fail =
        |path: &Path, why: std::io::Error| Failure::failed(format!("{}: {why}", path.display()));
    let mut part = bundle.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    if part.exists() {
        std::fs::remove_dir_all(&part).map_err(|why| fail(&part, why))?;
    }
    let slips = part.join(file::SLIPS);
    std::fs::create_dir_all(&slips).map_err(|why| fail(&slips, why))?;
    let log = ctx.watch("log", "entries");
    desk::mirror(&desk.client, &part.join(file::LOG), &log)?;
    log.finish();
    let watch = ctx.watch("slips", "slips");
    watch.total(order.registry.iter().map(|row| row.epochs.count()).sum());
    let mut count = 0;
    for row in &order.registry {
        let epochs = desk
            .state()
            .registry(row.registry)
            .map_or(&[][..], |registry| &registry.epochs);
        for epoch in epochs
            .iter()
            .filter(|epoch| row.epochs.contains(epoch.epoch))
        {
            watch.go_on()?;
            watch.add(1);
            let bytes = desk.client.get_object(Kind::Slip, &epoch.slip)?;
            if Digest::of(&bytes) != epoch.slip {
                return Err(Failure::new(
                    Code::VerificationFailed,
                    format!("slip {} arrived with other bytes", epoch.slip),
                ));
            }
            create(&slips.join(epoch.slip.to_string()), 0o644, &bytes)?;
            count += 1;
        }
    }
    create(&part.join(file::ORDER), 0o644, text.as_bytes())?;
    create(
        &part.join(file::ANNEX),
        0o600,
        &read_bounded(annex, MAX_FILE)?,
    )?;
    create(
        &part.join(file::NAMES),
        0o600,
        desk.names.text()?.as_bytes(),
    )?;
    std::fs::rename(&part, bundle).map_err(|why| fail(bundle, why))?;
    Ok(count)
}
