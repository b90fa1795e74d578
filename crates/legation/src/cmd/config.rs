//! `legation config`: checks and shows configuration.

use std::path::Path;
use std::sync::Arc;

use legation_core::id::{RegistryId, StateId};
use legation_registry::sqlite::Journal;
use serde::Serialize;

use crate::agent::sqlite;
use crate::agent::writer::Writer;
use crate::charter::Charter;
use crate::config::locators::Locators;
use crate::config::{agent, embassy, person};
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};
use crate::identity::{Identity, Role};
use crate::officers::names::Names;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  legation config check --config /etc/legation/agent.toml")]
pub struct Args {
    /// What to do with it.
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Say all that its role would refuse at its start, and which catalogue fields are still empty
    #[command(after_help = "Example:\n  legation config check --config /etc/legation/embassy.toml")]
    Check {
        /// Whose configuration it is
        #[arg(long = "of", value_enum, default_value_t = Of::Guess)]
        of: Of,
    },
    /// Print it with every default filled in
    #[command(after_help = "Example:\n  legation config show --config /etc/legation/agent.toml")]
    Show {
        /// Whose configuration it is
        #[arg(long = "of", value_enum, default_value_t = Of::Guess)]
        of: Of,
    },
}

/// Whose configuration a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Of {
    /// By the file's name: `agent.toml`, `embassy.toml`, else a person's
    Guess,
    /// An agent's
    Agent,
    /// An embassy's
    Embassy,
    /// A person's
    Person,
}

enum Config {
    Agent(agent::Agent),
    Embassy(embassy::Embassy),
    Person(person::Person),
}

/// Checks or shows.
///
/// # Errors
/// Code 2 with file, line and suggestion when the file is wrong.
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let (Verb::Check { of } | Verb::Show { of }) = &args.verb;
    let path = ctx.config.clone().unwrap_or_else(|| match of {
        Of::Agent => agent::USUAL.into(),
        Of::Embassy => embassy::USUAL.into(),
        Of::Guess | Of::Person => person::usual_place(),
    });
    let config = read(&path, *of)?;
    match args.verb {
        Verb::Check { .. } => check(&config, &path, ctx),
        Verb::Show { .. } => match &config {
            Config::Agent(config) => show(config, ctx),
            Config::Embassy(config) => show(config, ctx),
            Config::Person(config) => show(config, ctx),
        },
    }
}

fn read(path: &Path, of: Of) -> Result<Config, Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match of {
        Of::Agent => agent::Agent::load(path).map(Config::Agent),
        Of::Embassy => embassy::Embassy::load(path).map(Config::Embassy),
        Of::Person => person::Person::load(path).map(Config::Person),
        Of::Guess if name.contains("agent") => agent::Agent::load(path).map(Config::Agent),
        Of::Guess if name.contains("embassy") => embassy::Embassy::load(path).map(Config::Embassy),
        Of::Guess => person::Person::load(path).map(Config::Person),
    }
}

/// Whatever the role would refuse at its start is told now, all of it.
fn check(config: &Config, path: &Path, ctx: &Ctx) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    match config {
        Config::Agent(config) => agent(config, ctx, &mut wrong),
        Config::Embassy(config) => embassy(config, ctx, &mut wrong),
        Config::Person(config) => person(config, ctx, &mut wrong),
    }
    Failure::all(wrong).map_err(|failure| failure.during(path.display()))?;
    ctx.out.fact(
        "checked",
        &serde_json::json!({ "file": path }),
        format!("{}: well-formed, and what it names holds", path.display()),
    );
    Ok(())
}

/// Keeps what went wrong, and goes on.
fn keep<T>(result: Result<T, Failure>, wrong: &mut Vec<Failure>) -> Option<T> {
    result.map_err(|failure| wrong.push(failure)).ok()
}

/// What an agent would refuse, and what is still empty.
pub fn agent(config: &agent::Agent, ctx: &Ctx, wrong: &mut Vec<Failure>) {
    for registry in &config.registry {
        let empty = registry.empty_fields();
        if !empty.is_empty() {
            ctx.out.fact(
                "empty",
                &serde_json::json!({ "registry": registry.name, "fields": empty }),
                format!("{}: still empty: {}", registry.name, empty.join(", ")),
            );
        }
    }
    databases(config, ctx, wrong);
    let charter = charter(&config.mandate, &config.state, wrong);
    let file = ctx.identity.as_ref().unwrap_or(&config.identity.file);
    let identity = keep(Identity::load(file, Role::Agent), wrong);
    if let (Some(charter), Some(identity)) = (&charter, &identity) {
        keep(Writer::new(Arc::new(charter.clone()), identity), wrong);
    }
    for registry in &config.registry {
        for source in &registry.source {
            let programs = crate::agent::programs(source);
            keep(
                programs.map_err(|failure| failure.during(&registry.name)),
                wrong,
            );
        }
        let id = registry.id.parse::<RegistryId>().map_err(|why| {
            Failure::usage(format!(
                "registry {:?}: id {:?}: {why}",
                registry.name, registry.id
            ))
            .hint("the ceremony wrote the ids of the registries into registries.toml")
        });
        let id = keep(id, wrong);
        if let (Some(charter), Some(id)) = (&charter, id)
            && let Some(row) = keep(charter.registry(id), wrong)
        {
            let mandate = &charter.mandate;
            keep(registry.agrees(row), wrong);
            keep(registry.placed(row, mandate), wrong);
            keep(registry.catalogue(row, mandate, &config.registry), wrong);
        }
    }
    let listen = config.metrics_listen.as_deref();
    keep(
        crate::config::metrics_address(listen, config.metrics_beyond_loopback),
        wrong,
    );
    locators(&config.locators, charter.as_ref(), wrong);
}

/// Opens every SQLite database as a capture would.
fn databases(config: &agent::Agent, ctx: &Ctx, wrong: &mut Vec<Failure>) {
    keep(sqlite::apart(config), wrong);
    for registry in &config.registry {
        for source in &registry.source {
            let agent::Source::Sqlite(database) = source else {
                continue;
            };
            let opened =
                sqlite::try_opening(database).map_err(|failure| failure.during(&registry.name));
            if keep(opened, wrong) == Some(Journal::Rollback) {
                ctx.out.fact(
                    "rollback-journal",
                    &serde_json::json!({ "registry": registry.name, "path": database.path }),
                    format!(
                        "{}: in rollback-journal mode, who commits waits while the database is read; PRAGMA journal_mode = \
                         WAL ends that",
                        registry.name
                    ),
                );
            }
        }
    }
}

/// What an embassy would refuse.
pub fn embassy(config: &embassy::Embassy, ctx: &Ctx, wrong: &mut Vec<Failure>) {
    let file = ctx.identity.as_ref().unwrap_or(&config.identity.file);
    let identity = keep(Identity::load(file, Role::Embassy), wrong);
    let key = identity.and_then(|identity| keep(identity.signing_key(), wrong));
    if config.state.is_empty() {
        wrong.push(super::embassy::no_state());
    }
    for state in &config.state {
        let Some(charter) = keep(Charter::load(&state.mandate), wrong) else {
            continue;
        };
        let row = keep(charter.embassy(&config.label), wrong);
        if let (Some(row), Some(key)) = (row, &key)
            && row.key != key.verifying_key().id()
        {
            wrong.push(
                Failure::new(
                    Code::WrongKey,
                    format!(
                        "{} is not the key that the mandate gives to embassy {}",
                        file.display(),
                        config.label
                    ),
                )
                .hint("compare the card that the ceremony was given with this identity's"),
            );
        }
    }
    keep(super::embassy::listen(config), wrong);
    let listen = config.metrics_listen.as_deref();
    keep(
        crate::config::metrics_address(listen, config.metrics_beyond_loopback),
        wrong,
    );
}

fn person(config: &person::Person, ctx: &Ctx, wrong: &mut Vec<Failure>) {
    let charter = charter(&config.mandate, &config.state, wrong);
    let file = ctx.identity.as_ref().unwrap_or(&config.identity.file);
    keep(Identity::load(file, Role::Client), wrong);
    locators(&config.locators, charter.as_ref(), wrong);
    keep(Names::of_person(config), wrong);
}

/// The mandate, of the state that the configuration names.
fn charter(mandate: &Path, state: &str, wrong: &mut Vec<Failure>) -> Option<Charter> {
    let known = state.parse::<StateId>().map_err(|why| {
        Failure::usage(format!("state {state:?}: {why}"))
            .hint("`legation ceremony seal` printed the state's fingerprint, lgn1-…")
    });
    match keep(known, wrong) {
        Some(_) => keep(Charter::load_of(mandate, state), wrong),
        None => keep(Charter::load(mandate), wrong),
    }
}

fn locators(path: &Path, charter: Option<&Charter>, wrong: &mut Vec<Failure>) {
    let Some(locators) = keep(Locators::load(path), wrong) else {
        return;
    };
    for row in charter.map_or(&[][..], |charter| &charter.mandate.embassy) {
        keep(locators.of(row.label.as_str()), wrong);
    }
}

fn show(config: &impl Serialize, ctx: &Ctx) -> Result<(), Failure> {
    if ctx.out.json() {
        ctx.out.record("config", config);
        return Ok(());
    }
    let text = toml::to_string_pretty(config)
        .map_err(|error| Failure::failed(format!("cannot print it: {error}")))?;
    ctx.out.line(text.trim_end());
    Ok(())
}
