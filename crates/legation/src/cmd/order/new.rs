//! `legation order new`: an order written from what the log says now, with the epochs that the fold will ask for.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::ValueEnum;
use legation_core::id::{Lsn, OrderId, RegistryId, Term, VersionNo};
use legation_core::keys::{Entropy, OpeningKey};
use legation_core::statement::{
    Act, Annex, Bytes32, Line, Mode, Order, Recipient, ScopeRow, Target, TermStep, Time, TitleRow,
    VersionPick, YesNo,
};
use legation_registry::postgres::point::PgTime;

use crate::config::units::Span;
use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::{Code, Failure};
use crate::officers::{SystemEntropy, create, now, orders, text};

/// So few generations left are worth a word: the next two releases would be the last.
const FEW_GENERATIONS: usize = 2;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)]
#[command(
    after_help = "Example:\n  legation order new activate --all --grant read-write --at a --reason \"Home does not answer\" --valid 12h --out order.txt\n  legation order new grant land --grant read --version latest --valid 24h --out grant.txt\n  legation order new grant land --grant read --target-time 2026-11-22T09:30:00Z --out grant.txt"
)]
pub struct Args {
    /// What is ordered
    act: ActArg,
    /// Registries, by name or id
    names: Vec<String>,
    /// Registries, by name or id
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    registry: Vec<String>,
    /// All registries of these tiers
    #[arg(long, value_delimiter = ',', value_name = "TIER,...")]
    tier: Vec<String>,
    /// All registries
    #[arg(long)]
    all: bool,
    /// What may be done: for activate verify, read-only or read-write (read-only without it); for grant read
    #[arg(long, value_name = "MODE")]
    grant: Option<String>,
    /// At which embassy
    #[arg(long, value_name = "LABEL")]
    at: Option<String>,
    /// Which version: latest, or one like v7
    #[arg(long, value_name = "VERSION", default_value = "latest")]
    version: String,
    /// Up to where the log is replayed: end-of-wal, or none for the version alone (none without it for a grant of one
    /// version, else end-of-wal)
    #[arg(long, value_enum, value_name = "TARGET")]
    target: Option<TargetArg>,
    /// Up to this moment of the database, to the millisecond: opens the version before it and the log up to it
    #[arg(long, value_name = "TIME", conflicts_with_all = ["target", "target_lsn"])]
    target_time: Option<PgTime>,
    /// Up to this position: opens the version before it and the log up to it
    #[arg(long, value_name = "LSN", conflicts_with = "target")]
    target_lsn: Option<Lsn>,
    /// Why; in the annex, which the host cannot read
    #[arg(long, value_name = "TEXT", default_value = "Reading a kept version.")]
    reason: String,
    /// For how long it is valid from now
    #[arg(long, value_name = "TIME", default_value = "12h")]
    valid: Span,
    /// Where to write the order; its annex and key go beside it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ActArg {
    /// Start registries at the embassy
    Activate,
    /// Let the holder of a key read versions
    Grant,
}

impl Args {
    /// What may be done: as told, if the act allows it.
    fn mode(&self) -> Result<Mode, Failure> {
        let (usual, allowed) = match self.act {
            ActArg::Activate => (
                Mode::ReadOnly,
                &[Mode::Verify, Mode::ReadOnly, Mode::ReadWrite][..],
            ),
            ActArg::Grant => (Mode::Read, &[Mode::Read][..]),
        };
        let Some(text) = &self.grant else {
            return Ok(usual);
        };
        let mode = text.parse().ok().filter(|mode| allowed.contains(mode));
        mode.ok_or_else(|| {
            let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
            Failure::usage(format!("--grant {text}: {}", allowed.join(", ")))
                .hint("an activation starts registries; a grant lets one person read")
        })
    }
}

impl Args {
    /// The point in time that is ordered.
    fn point(&self) -> Result<Option<Target>, Failure> {
        let Some(time) = self.target_time else {
            return Ok(self.target_lsn.map(Target::Lsn));
        };
        let millis = time.millis().and_then(|(millis, exact)| {
            let whole = millis + u64::from(!exact);
            Some((Time::from_millis(whole)?, exact))
        });
        match millis {
            Some((time, true)) => Ok(Some(Target::Time(time))),
            Some((whole, false)) => Err(Failure::usage(format!(
                "--target-time {time}: an order says milliseconds"
            ))
            .hint(format!(
                "order {whole}, and give the exact time when you restore"
            ))),
            None => Err(Failure::usage(format!(
                "--target-time {time}: no time of an order"
            ))),
        }
    }
}

/// The version from which an order leads to a point: the one that is named, else the one that the log says.
fn leading_to(
    point: Target,
    pick: VersionPick,
    registries: &[RegistryId],
    desk: &Desk,
) -> Result<VersionPick, Failure> {
    let [id] = registries else {
        return Err(Failure::usage(
            "a point in time is one registry's: its log leads there, and another's to another",
        )
        .hint("write one order for each"));
    };
    let (name, state) = (desk.names.of(*id), desk.state());
    let Some(registry) = state.registry(*id) else {
        return Ok(pick);
    };
    let outside = || crate::recover::point::outside(registry, &name, point);
    let late = registry.mark.as_ref().is_some_and(|held| match point {
        Target::Lsn(lsn) => lsn > held.mark.lsn,
        Target::Time(time) => time > held.at(),
        Target::EndOfWal => false,
    });
    if late {
        return Err(outside());
    }
    match pick {
        VersionPick::Latest => registry
            .version_for(point, state.size())
            .map(|version| VersionPick::Exactly(version.commit.version))
            .ok_or_else(outside),
        VersionPick::Exactly(_) => Ok(pick),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TargetArg {
    /// As last acknowledged
    EndOfWal,
    /// The version alone
    None,
}

/// Runs the verb.
pub(super) fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    for path in [args.out.clone(), orders::annex_path(&args.out)] {
        super::fresh(&path, "--out")?;
    }
    let grant = args.mode()?;
    let desk = Desk::open(ctx)?;
    desk.ledger.clean()?;
    let version: VersionPick = args.version.parse().map_err(|_| {
        Failure::usage(format!(
            "--version {}: latest, or one like v7",
            args.version
        ))
    })?;
    let registries = chosen(args, &desk)?;
    let to_the_end = match args.target {
        Some(target) => target == TargetArg::EndOfWal,
        None => args.act == ActArg::Activate || version == VersionPick::Latest,
    };
    let (version, target) = match args.point()? {
        Some(point) => (leading_to(point, version, &registries, &desk)?, Some(point)),
        None => (version, to_the_end.then_some(Target::EndOfWal)),
    };
    let registry = registries
        .iter()
        .map(|id| scoped(&desk, *id, version, target))
        .collect::<Result<Vec<_>, _>>()?;
    let state = desk.state();
    let label = match &args.at {
        Some(label) => label
            .parse()
            .map_err(|_| Failure::usage(format!("--at {label}: no label of an embassy")))?,
        None => desk.ledger.label.clone(),
    };
    if state.mandate().embassy(&label).is_none() {
        return Err(Failure::new(
            Code::Refused,
            format!("the mandate names no embassy {label}"),
        ));
    }
    let now = now()?;
    // The embassy gives no entry an earlier time than the last, whatever its clock says now: nor will it to this one.
    let from = now.max(state.last_received()).whole_seconds();
    let now = now.whole_seconds();
    if from > now {
        ctx.out.note(format!(
            "the log's last entry was received at {from}, ahead of this machine's clock: the order is valid from then"
        ));
    }
    let id = order_id(now)?;
    let titles: Vec<_> = registries
        .iter()
        .map(|id| {
            Ok(TitleRow {
                id: *id,
                title: line("title", &desk.names.title(*id))?,
            })
        })
        .collect::<Result<_, Failure>>()?;
    let annex = Annex {
        order: id.clone(),
        salt: Bytes32(*SystemEntropy.draw()?),
        registry: titles,
        reason: line("--reason", &args.reason)?,
    };
    let key = match args.act {
        ActArg::Grant => Some(OpeningKey::from_seed(&*SystemEntropy.draw()?)?),
        ActArg::Activate => None,
    };
    let step = (args.act == ActArg::Activate && grant == Mode::ReadWrite)
        .then(|| next_term(&desk, &registries))
        .transpose()?;
    let mut order = Order {
        act: if args.act == ActArg::Activate {
            Act::Activate
        } else {
            Act::Grant
        },
        order: id,
        state: state.id(),
        mandate: state.mandate().sequence,
        log_head: state.head(),
        embassy: label,
        recipient: key
            .as_ref()
            .map_or(Recipient::Session, |key| Recipient::Key(key.public().id())),
        registry,
        version,
        target,
        grant,
        term: step,
        accept_loss: YesNo::No,
        not_before: from,
        expires: from
            .plus_millis(u64::try_from(args.valid.0.as_millis()).unwrap_or(u64::MAX))
            .whole_seconds(),
        annex_sha256: annex.id(),
        sentence: line("sentence", "-")?,
    };
    order.sentence = line("sentence", &order.make_sentence())?;
    order.check_shape()?;
    let left = state.generations_left_after(&order.registry);
    may_spend(&order, state.generations_left(), left)?;
    write(args, &order, &annex, key.as_ref())?;
    if left <= FEW_GENERATIONS {
        ctx.out.note(format!(
            "after this order {left} of the vault's {} generations {} left; without one nothing new can be sealed",
            state.mandate().vault.len(),
            if left == 1 { "is" } else { "are" }
        ));
    }
    ctx.out.fact(
        "order",
        &serde_json::json!({
            "order": order.order, "file": args.out, "annex": orders::annex_path(&args.out), "sha256": order.id(),
            "sentence": order.sentence.as_str(), "expires": order.expires.to_string(), "generations_left": left,
            "registries": order.registry.iter().map(|row| serde_json::json!({
                "id": row.registry, "name": desk.names.of(row.registry), "epochs": row.epochs.to_string(),
            })).collect::<Vec<_>>(),
        }),
        format!("{}\nwritten to {}", orders::show(&order, Some(&annex), &desk.names, now), args.out.display()),
    );
    Ok(())
}

fn write(
    args: &Args,
    order: &Order,
    annex: &Annex,
    key: Option<&OpeningKey>,
) -> Result<(), Failure> {
    if let Some(key) = key {
        create(&orders::key_path(&args.out), 0o600, key.seed())?;
        let public = format!("{}\n", text::base64(key.public().encode()));
        create(
            &orders::public_key_path(&args.out),
            0o644,
            public.as_bytes(),
        )?;
    }
    create(
        &orders::annex_path(&args.out),
        0o600,
        annex.text().as_bytes(),
    )?;
    create(&args.out, 0o644, order.text().as_bytes())
}

/// The registries meant, in the order that a text has them.
fn chosen(args: &Args, desk: &Desk) -> Result<Vec<RegistryId>, Failure> {
    let mut all = BTreeSet::new();
    for name in args.names.iter().chain(&args.registry) {
        all.insert(desk.names.find(name)?);
    }
    for row in &desk.state().mandate().registry {
        if args.all || args.tier.contains(&row.tier.to_string()) {
            all.insert(row.id);
        }
    }
    if let Some(tier) = args
        .tier
        .iter()
        .find(|tier| tier.parse::<legation_core::statement::Tier>().is_err())
    {
        return Err(Failure::usage(format!("--tier {tier}: T0, T1, T2 or T3")));
    }
    if all.is_empty() {
        return Err(Failure::usage("no registry is named")
            .hint("use --registry NAME,..., --tier T0,T1 or --all"));
    }
    Ok(all.into_iter().collect())
}

/// The last generation is not for reading: the log would refuse the grant.
fn may_spend(order: &Order, now: usize, then: usize) -> Result<(), Failure> {
    if order.act == Act::Grant && then == 0 && now > 0 {
        return Err(Failure::new(
            Code::Refused,
            "this grant would spend the last vault generation, and nothing new could be sealed from then on",
        )
        .hint("grant a version whose epochs are all sealed to spent generations, activate, or found a state with more generations"));
    }
    Ok(())
}

/// One registry with the epochs that its version and target need, by the function that judges the order.
fn scoped(
    desk: &Desk,
    id: RegistryId,
    pick: VersionPick,
    target: Option<Target>,
) -> Result<ScopeRow, Failure> {
    let name = desk.names.of(id);
    let state = desk.state();
    let registry = state.registry(id).ok_or_else(|| {
        Failure::new(
            Code::Refused,
            format!("the mandate names no registry {name}"),
        )
    })?;
    if registry.version_at(pick, state.size()).is_none() {
        return Err(match pick {
            VersionPick::Latest => Failure::failed(format!(
                "{name} has no version abroad yet; it cannot be started"
            )),
            VersionPick::Exactly(VersionNo(number)) => {
                Failure::failed(format!("{name} has no version v{number}"))
                    .hint(format!("legation versions {name} lists what there is"))
            }
        });
    }
    Ok(ScopeRow {
        registry: id,
        epochs: state.scope(id, pick, target, state.size())?,
    })
}

/// One step for all: an order for writing raises one term.
fn next_term(desk: &Desk, registries: &[RegistryId]) -> Result<TermStep, Failure> {
    let terms: BTreeSet<Term> = registries
        .iter()
        .filter_map(|id| desk.state().registry(*id))
        .map(|registry| registry.term)
        .collect();
    let mut terms = terms.into_iter();
    match (terms.next(), terms.next()) {
        (Some(from), None) => {
            let to = from
                .next()
                .ok_or_else(|| Failure::failed("the last term is reached"))?;
            Ok(TermStep { from, to })
        }
        (_, Some(_)) => Err(Failure::usage(
            "these registries are in different terms; write one order for each term",
        )),
        _ => Err(Failure::usage("no registry is named")),
    }
}

fn order_id(now: legation_core::statement::Time) -> Result<OrderId, Failure> {
    let day = now.to_string();
    let [a, b, c, d, ..] = *SystemEntropy.draw()?;
    let text = format!(
        "{}-{a:02x}{b:02x}{c:02x}{d:02x}",
        day.get(..10).unwrap_or_default()
    );
    text.parse().map_err(Failure::failed)
}

fn line(what: &str, text: &str) -> Result<Line, Failure> {
    text.parse()
        .map_err(|why| Failure::usage(format!("{what}: {why}")))
}
