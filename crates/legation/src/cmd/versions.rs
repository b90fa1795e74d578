//! `legation versions`: what could be started, and how old it is.

use std::collections::HashMap;
use std::path::PathBuf;

use legation_core::id::{Digest, RegistryId};
use legation_core::list::PackList;
use legation_core::measure::sealed_size_says;
use legation_core::policy::{RegistryState, VersionState};
use legation_core::statement::{Cause, Target, Time, VersionPick};
use legation_repo::http::Client;
use legation_repo::store::Kind;

use crate::ctx::Ctx;
use crate::desk::Desk;
use crate::exit::Failure;
use crate::officers::now;
use crate::recover::journal::reach;
use crate::recover::scope::{self, Held};
use crate::watch::Watch;

/// Versions shown of one registry when it is named: the newest ones.
const MOST: usize = 50;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation versions land --json\n  legation versions land --bare-metal --order grant.txt"
)]
pub struct Args {
    /// The registry; all of them without it, each with its newest version
    name: Option<String>,
    /// Say what a start from bare metal still lacks (exit 7 when something does)
    #[arg(long, requires = "name")]
    bare_metal: bool,
    /// Show the catalogue entry that is sealed with it
    #[arg(
        long,
        requires = "name",
        requires = "order",
        conflicts_with = "bare_metal"
    )]
    catalogue: bool,
    /// The grant that opens what is sealed beside its data
    #[arg(long, value_name = "FILE", requires = "name")]
    order: Option<PathBuf>,
}

/// What the embassy has been asked about. Versions share most of their packs; each pack is asked about once.
struct Asked {
    sizes: HashMap<Digest, Option<u64>>,
    watch: Watch,
}

impl Asked {
    /// Nothing yet, of versions with so many packs.
    fn new(packs: impl Iterator<Item = u64>, ctx: &Ctx) -> Self {
        let watch = ctx.watch("versions", "packs");
        watch.total(packs.sum());
        Self {
            sizes: HashMap::new(),
            watch,
        }
    }

    fn is_there(&mut self, client: &Client, pack: &Digest, size: u64) -> Result<bool, Failure> {
        self.watch.go_on()?;
        self.watch.add(1);
        if let Some(held) = self.sizes.get(pack) {
            return Ok(*held == Some(size));
        }
        let held = client.object_size(Kind::Pack, pack)?;
        self.sizes.insert(*pack, held);
        Ok(held == Some(size))
    }
}

/// What is known of one version.
struct Judged {
    complete: bool,
    /// Whether its writer doubts that all of it is what the source held.
    doubted: bool,
    wal_end: Option<legation_core::id::Lsn>,
    age_ms: u64,
    why_not: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// No embassy (10); a log that does not verify (4).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let desk = Desk::open(ctx)?;
    if let Err(failure) = desk.ledger.clean() {
        ctx.out.note(failure.message);
    }
    let now = now()?;
    if let Some(name) = &args.name {
        let id = desk.names.find(name)?;
        let registry = desk.state().registry(id).ok_or_else(|| {
            Failure::new(
                crate::exit::Code::Refused,
                format!("the mandate names no registry {name}"),
            )
        })?;
        let sealed = (args.order.as_deref())
            .map(|order| super::bare::open(&desk, name, order))
            .transpose()?;
        match &sealed {
            Some(sealed) if args.catalogue => return super::bare::catalogue(name, sealed, ctx),
            sealed if args.bare_metal => {
                return super::bare::metal(&desk, id, registry, sealed.as_ref(), now, ctx);
            }
            _ => {}
        }
        let held = Held::all(&desk.client.streams(id)?);
        let from = registry.versions.len().saturating_sub(MOST);
        let shown = &registry.versions[from..];
        let mut asked = Asked::new(shown.iter().map(|version| version.commit.packs.count), ctx);
        for version in shown {
            let newest = registry.head().is_some_and(|head| head.id == version.id);
            tell(
                &desk, id, registry, version, &held, newest, now, &mut asked, ctx,
            )?;
        }
        if registry.versions.is_empty() {
            nothing(&desk, id, ctx);
        }
        return Ok(());
    }
    let heads = desk.state().registries().filter_map(|(_, one)| one.head());
    let mut asked = Asked::new(heads.map(|head| head.commit.packs.count), ctx);
    for (id, registry) in desk.state().registries() {
        match registry.head() {
            Some(version) => {
                let held = Held::all(&desk.client.streams(id)?);
                tell(
                    &desk, id, registry, version, &held, true, now, &mut asked, ctx,
                )?;
            }
            None => nothing(&desk, id, ctx),
        }
    }
    Ok(())
}

fn nothing(desk: &Desk, id: RegistryId, ctx: &Ctx) {
    let name = desk.names.of(id);
    ctx.out.fact(
        "version",
        &serde_json::json!({ "registry": name, "id": id, "version": null, "would_start": false, "why": "no version yet" }),
        format!("{name:<12} none   would start: no, no version is complete yet"),
    );
}

#[expect(
    clippy::too_many_arguments,
    reason = "one line says all that is known of a version"
)]
fn tell(
    desk: &Desk,
    id: RegistryId,
    registry: &RegistryState,
    version: &VersionState,
    held: &[Held],
    newest: bool,
    now: Time,
    asked: &mut Asked,
    ctx: &Ctx,
) -> Result<(), Failure> {
    let judged = judge(&desk.client, registry, version, held, newest, now, asked)?;
    let name = desk.names.of(id);
    let commit = &version.commit;
    // What an activation of it would list.
    let (pick, state) = (VersionPick::Exactly(commit.version), desk.state());
    let epochs = state
        .scope(id, pick, Some(Target::EndOfWal), state.size())
        .map_or_else(|_| commit.epochs.to_string(), |epochs| epochs.to_string());
    let mut what = vec![
        format!("{:>8} old", age(judged.age_ms)),
        format!(
            "{}, epochs {epochs}",
            match (judged.complete, judged.doubted) {
                (true, false) => "complete, verified",
                (true, true) => "verified, but some files are NOT WHOLE",
                (false, _) => "INCOMPLETE",
            }
        ),
    ];
    if let Some(end) = judged.wal_end {
        what.push(format!("WAL to {end}"));
    }
    let flagged: Vec<_> = registry
        .doubts_about(commit.version)
        .map(|(entry, doubt)| format!("{} (entry {entry})", doubt.cause))
        .collect();
    if !flagged.is_empty() {
        what.push(format!("FLAGGED: {}", flagged.join(", ")));
    }
    let size_says = size_says(registry, version);
    what.extend(size_says.clone());
    let would = judged
        .why_not
        .as_ref()
        .map_or_else(|| "yes".to_owned(), |why| format!("no, {why}"));
    ctx.out.fact(
        "version",
        &serde_json::json!({
            "registry": name, "id": id, "version": commit.version, "captured": commit.captured.to_string(),
            "age_ms": judged.age_ms, "complete": judged.complete, "whole": !judged.doubted, "packs": commit.packs.count, "bytes": commit.bytes,
            "epochs": epochs, "wal_end": judged.wal_end, "would_start": judged.why_not.is_none(), "why": judged.why_not,
            "term": commit.term.0, "entry": version.index, "flagged": flagged, "sealed_size": size_says,
        }),
        format!("{name:<12} {:<4} {}   would start: {would}", commit.version.to_string(), what.join("  ")),
    );
    Ok(())
}

/// What its sealed size says beside those before it. Home may lie about what it measured; this it cannot hide.
fn size_says(registry: &RegistryState, version: &VersionState) -> Option<String> {
    let earlier: Vec<u64> = registry
        .versions
        .iter()
        .take_while(|one| one.commit.version < version.commit.version)
        .map(|one| one.commit.bytes)
        .collect();
    sealed_size_says(version.commit.bytes, &earlier)
}

/// The youngest data of the newest version is what its journal was last acknowledged with; of an older one, what its
/// base had.
fn judge(
    client: &Client,
    registry: &RegistryState,
    version: &VersionState,
    held: &[Held],
    newest: bool,
    now: Time,
    asked: &mut Asked,
) -> Result<Judged, Failure> {
    let commit = &version.commit;
    let complete = complete(client, version, asked)?;
    let streams = scope::streams(commit, held);
    let window = reach(&streams);
    let mark = registry
        .mark
        .as_ref()
        .filter(|_| newest && commit.wal.is_some())
        .map(|mark| mark.mark.at);
    let youngest = mark.unwrap_or(commit.captured).max(commit.captured);
    let why_not = match (&commit.wal, window) {
        _ if !complete => Some("packs are missing at the embassy".to_owned()),
        (None, _) => None,
        (Some(_), None) => Some("no WAL is kept for it".to_owned()),
        (Some(wal), Some((first, end))) if first > wal.start || end < wal.stop => Some(format!(
            "it needs WAL from {} to {}, and {first} to {end} is kept",
            wal.start, wal.stop
        )),
        _ => None,
    };
    let mut doubts = registry.doubts_about(commit.version);
    Ok(Judged {
        complete,
        doubted: doubts.any(|(_, doubt)| doubt.cause == Cause::SourceIncomplete),
        wal_end: window.filter(|_| commit.wal.is_some()).map(|(_, end)| end),
        age_ms: now.millis().saturating_sub(youngest.millis()),
        why_not,
    })
}

/// Whether the embassy has the list, and every pack in it at its size. What they hold it verified when it took them.
fn complete(client: &Client, version: &VersionState, asked: &mut Asked) -> Result<bool, Failure> {
    let bytes = match client.get_object(Kind::List, &version.commit.packs.list) {
        Ok(bytes) => bytes,
        Err(why) if why.is_not_found() => return Ok(false),
        Err(why) => return Err(why.into()),
    };
    let list = PackList::decode(&bytes)?;
    for row in list.rows() {
        if !asked.is_there(client, &row.digest, row.size.bytes() as u64)? {
            return Ok(false);
        }
    }
    Ok(list.rows().len() as u64 == version.commit.packs.count)
}

fn age(millis: u64) -> String {
    match millis {
        0..60_000 => format!("{:.1} s", millis as f64 / 1000.0),
        60_000..3_600_000 => format!("{} min", millis / 60_000),
        3_600_000..172_800_000 => format!("{} h", millis / 3_600_000),
        _ => format!("{} d", millis / 86_400_000),
    }
}
