//! `legation enrol`: a source becomes a registry of this agent: looked at, compared with the mandate, and appended to
//! `agent.toml`, whose other lines stay as they are.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use legation_core::id::RegistryId;
use legation_core::statement::RegistryRow;
use legation_registry::postgres::{ConnectConfig, Severity, probe};

use crate::agent::version::source_failure;
use crate::agent::writer::Writer;
use crate::charter::Charter;
use crate::config::agent::{Agent, Registry, Source, Tier, USUAL};
use crate::config::units::Span;
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};
use crate::identity::{Identity, Role};
use crate::officers::names::Names;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation enrol postgresql://127.0.0.1/land --name land\n  legation enrol postgresql://legation@127.0.0.1/land --name land --owner \"Ministry of Justice\" --depends-on population --wave 2 --dry-run\n  legation enrol /srv/gazette --name gazette --id r-a81d55"
)]
pub struct Args {
    /// The source: a PostgreSQL URL, a directory, or a file whose ending says its kind
    source: String,
    /// What it is called at home
    #[arg(long)]
    name: String,
    /// Its id in the mandate; without it registries.toml beside the mandate is asked for the name
    #[arg(long, value_name = "ID")]
    id: Option<RegistryId>,
    /// Its full title
    #[arg(long, default_value = "", hide_default_value = true)]
    title: String,
    /// Who answers for it
    #[arg(long, default_value = "", hide_default_value = true)]
    owner: String,
    /// By what law it is kept
    #[arg(long, default_value = "", hide_default_value = true)]
    legal_basis: String,
    /// Its tier; it must be the mandate's, which is taken without it
    #[arg(long)]
    tier: Option<Tier>,
    /// Until when its contents must stay secret, like 2101-01-01
    #[arg(long, value_name = "DATE")]
    secrecy_until: Option<toml::value::Datetime>,
    /// Registries of the state that must run before it, by name or id
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    depends_on: Vec<String>,
    /// The wave that it is enrolled in
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    wave: u32,
    /// The replication slot; legation_NAME without it
    #[arg(long)]
    slot: Option<String>,
    /// Time between two captures: of a database between two bases
    #[arg(long, value_name = "TIME")]
    every: Option<Span>,
    /// Print the block that would be appended, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the verb.
///
/// # Errors
/// Code 2 for what is there already, or does not make a sound configuration; 3 when the source cannot be captured; 8 when
/// the mandate does not give it to this agent, or says otherwise; 11 while another enrolment is under way.
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let path = ctx.config_or(USUAL);
    let before = Agent::load(&path)?;
    let charter = Charter::load_of(&before.mandate, &before.state)?;
    let file = ctx.identity.as_ref().unwrap_or(&before.identity.file);
    let identity = Identity::load(file, Role::Agent)?;
    let writer = Writer::new(std::sync::Arc::new(charter.clone()), &identity)?;
    let id = id(args, &before)?;
    refuse_twice(args, id, &before)?;
    let row = charter.registry(id)?.clone();
    if row.writer.as_str() != writer.name() {
        return Err(Failure::new(
            Code::Refused,
            format!(
                "the mandate lets {} write {id}, not {}",
                row.writer,
                writer.name()
            ),
        )
        .hint("enrol it at that agent"));
    }
    let (block, kind) = block(args, id, &row)?;
    let text = std::fs::read_to_string(&path)
        .map_err(|why| Failure::failed(format!("{}: {why}", path.display())))?;
    let whole = format!("{}\n\n{block}", text.trim_end());
    let draft = Draft::write(&path, &whole)?;
    let after =
        Agent::load(&draft.path).map_err(|failure| failure.during("the configuration with it"))?;
    let registry = after
        .registry
        .iter()
        .find(|one| one.id == id.to_string())
        .ok_or_else(|| Failure::failed("the block did not become a registry"))?;
    registry.agrees(&row)?;
    registry.placed(&row, &charter.mandate)?;
    registry.catalogue(&row, &charter.mandate, &after.registry)?;
    look(registry, ctx)?;
    if args.dry_run {
        ctx.out.fact(
            "block",
            &serde_json::json!({ "registry": args.name, "id": id, "block": block, "file": path }),
            block.trim_end(),
        );
        return Ok(());
    }
    draft.put()?;
    tell(registry, &row, kind, &path, ctx);
    Ok(())
}

fn tell(registry: &Registry, row: &RegistryRow, kind: &str, path: &Path, ctx: &Ctx) {
    let empty = registry.empty_fields();
    let text = format!(
        "{} is {} ({kind}), {} of class {}, kept at embassy {}: appended to {}\n{}next: restart the agent, which goes on exactly where \
         it is; then legation status --config {}, and at a desk legation status --waves",
        registry.name,
        row.id,
        row.tier,
        row.class,
        row.embassy,
        path.display(),
        if empty.is_empty() {
            String::new()
        } else {
            format!("still empty: {}\n", empty.join(", "))
        },
        path.display(),
    );
    ctx.out.fact(
        "enrolled",
        &serde_json::json!({
            "registry": registry.name, "id": row.id, "kind": kind, "tier": row.tier.to_string(), "class": row.class.to_string(),
            "embassy": row.embassy.to_string(), "file": path, "empty": empty, "next": "restart the agent",
        }),
        text,
    );
}

/// The id that was given, or that the ceremony gave to this name.
fn id(args: &Args, config: &Agent) -> Result<RegistryId, Failure> {
    if let Some(id) = args.id {
        return Ok(id);
    }
    let names = config.mandate.with_file_name("registries.toml");
    if !names.exists() {
        return Err(
            Failure::usage(format!("which registry of the mandate is {}?", args.name)).hint(
                format!(
                    "give --id r-…, or put the ceremony's registries.toml at {}",
                    names.display()
                ),
            ),
        );
    }
    Names::load(&names)?.find(&args.name)
}

fn refuse_twice(args: &Args, id: RegistryId, config: &Agent) -> Result<(), Failure> {
    for one in &config.registry {
        let why = if one.name == args.name {
            format!("a registry called {} is enrolled already", args.name)
        } else if one.id == id.to_string() {
            format!("{id} is enrolled already, as {}", one.name)
        } else if one.source.iter().any(|source| place(source) == args.source) {
            format!("{} captures {} already", one.name, args.source)
        } else {
            continue;
        };
        return Err(Failure::usage(why).hint("change its block in agent.toml instead"));
    }
    Ok(())
}

fn place(source: &Source) -> String {
    let value = toml::Value::try_from(source).ok();
    let text = |key: &str| Some(value.as_ref()?.get(key)?.as_str()?.to_owned());
    text("url").or_else(|| text("path")).unwrap_or_default()
}

/// The block of `agent.toml`, and the kind of its source.
fn block(
    args: &Args,
    id: RegistryId,
    row: &RegistryRow,
) -> Result<(String, &'static str), Failure> {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let tier = args
        .tier
        .map_or_else(|| row.tier.to_string(), |tier| format!("{tier:?}"));
    let mut lines = vec![
        "[[registry]]".to_owned(),
        format!("id = {}", quoted(&id.to_string())),
        format!("name = {}", quoted(&args.name)),
        format!("tier = {}", quoted(&tier)),
    ];
    for (key, value) in [
        ("title", &args.title),
        ("owner", &args.owner),
        ("legal_basis", &args.legal_basis),
    ] {
        if !value.is_empty() {
            lines.push(format!("{key} = {}", quoted(value)));
        }
    }
    if let Some(date) = args.secrecy_until {
        lines.push(format!("secrecy_until = {date}"));
    }
    if !args.depends_on.is_empty() {
        let names: Vec<_> = args.depends_on.iter().map(|name| quoted(name)).collect();
        lines.push(format!("depends_on = [{}]", names.join(", ")));
    }
    if args.wave > 0 {
        lines.push(format!("wave = {}", args.wave));
    }
    let kind = kind(&args.source)?;
    lines.extend([
        String::new(),
        "[[registry.source]]".to_owned(),
        format!("kind = {}", quoted(kind)),
    ]);
    let every = if kind == "postgres" {
        let slot = args
            .slot
            .clone()
            .unwrap_or_else(|| format!("legation_{}", args.name.replace('-', "_")));
        lines.push(format!("url = {}", quoted(&args.source)));
        lines.push(format!("slot = {}", quoted(&slot)));
        "base_every"
    } else {
        lines.push(format!("path = {}", quoted(&args.source)));
        "every"
    };
    if let Some(span) = args.every {
        lines.push(format!("{every} = {}", quoted(&span.to_string())));
    }
    Ok((lines.join("\n") + "\n", kind))
}

fn kind(source: &str) -> Result<&'static str, Failure> {
    let path = Path::new(source);
    let ending = path
        .extension()
        .map(|ending| ending.to_string_lossy().to_lowercase());
    match ending.as_deref() {
        _ if source.starts_with("postgresql://") || source.starts_with("postgres://") => {
            Ok("postgres")
        }
        _ if path.is_dir() => Ok("tree"),
        Some("db" | "sqlite" | "sqlite3") => Ok("sqlite"),
        _ => Err(Failure::new(
            Code::SourceIncomplete,
            format!("{source} is neither a PostgreSQL URL nor a directory that is there"),
        )
        .hint("postgresql://user@host/database, or the path of a directory")),
    }
}

/// What stands in the way of capturing it, before anything is written.
fn look(registry: &Registry, ctx: &Ctx) -> Result<(), Failure> {
    match registry.source.first() {
        Some(Source::Postgres(source)) => {
            let connect = ConnectConfig::parse(&source.url).map_err(source_failure)?;
            let found = probe(&connect, &source.slot).map_err(|error| {
                Failure::new(
                    Code::SourceIncomplete,
                    format!("{}: {error}", registry.name),
                )
            })?;
            found.check().map_err(source_failure)?;
            for finding in found
                .findings
                .iter()
                .filter(|one| one.severity == Severity::Warning)
            {
                ctx.out.note(format!(
                    "{}: {}; {}",
                    registry.name, finding.what, finding.fix
                ));
            }
        }
        Some(source) => {
            let path = PathBuf::from(place(source));
            let readable = if path.is_dir() {
                std::fs::read_dir(&path).map(drop)
            } else {
                std::fs::File::open(&path).map(drop)
            };
            readable.map_err(|why| {
                Failure::new(Code::SourceIncomplete, format!("{}: {why}", path.display()))
                    .hint("the agent's user must be able to read it")
            })?;
        }
        None => {}
    }
    Ok(())
}

/// The configuration as it would be, beside the one that is there. While it exists no other enrolment begins.
struct Draft {
    path: PathBuf,
    to: PathBuf,
}

impl Draft {
    fn write(to: &Path, text: &str) -> Result<Draft, Failure> {
        let failed = |why: std::io::Error| Failure::failed(format!("{}: {why}", to.display()));
        let was = std::fs::metadata(to).map_err(failed)?;
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".enrol");
        let path = to.with_file_name(name);
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(was.mode() & 0o777)
            .open(&path);
        let mut file = opened.map_err(|why| match why.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::new(
                Code::Locked,
                format!(
                    "{} is there: another enrolment is under way, or was killed",
                    path.display()
                ),
            )
            .hint("wait for it; if none runs, remove that file"),
            _ => failed(why),
        })?;
        let draft = Draft {
            path,
            to: to.to_owned(),
        };
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        // Whoever could read it before can read it after.
        if (was.uid(), was.gid())
            != (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            )
        {
            std::os::unix::fs::fchown(&file, Some(was.uid()), Some(was.gid())).map_err(failed)?;
        }
        Ok(draft)
    }

    /// Takes the place of the configuration, whole or not at all.
    fn put(self) -> Result<(), Failure> {
        let failed = |why: std::io::Error| Failure::failed(format!("{}: {why}", self.to.display()));
        std::fs::rename(&self.path, &self.to).map_err(failed)?;
        let dir = self
            .to
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        std::fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After it took its place there is nothing here any more.
        let _ = std::fs::remove_file(&self.path);
    }
}
