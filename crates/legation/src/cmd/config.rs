//! `legation config`: checks and shows configuration.

use std::path::Path;

use serde::Serialize;

use crate::config::{agent, embassy, person};
use crate::ctx::Ctx;
use crate::exit::Failure;

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
    /// Say whether it is well-formed, and which catalogue fields are still empty
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

fn check(config: &Config, path: &Path, ctx: &Ctx) -> Result<(), Failure> {
    let mut files = Vec::new();
    match config {
        Config::Agent(config) => {
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
            files.extend([&config.mandate, &config.identity.file, &config.locators]);
        }
        Config::Embassy(config) => {
            files.push(&config.identity.file);
            files.extend(config.state.iter().map(|state| &state.mandate));
        }
        Config::Person(config) => {
            files.extend([&config.mandate, &config.identity.file, &config.locators])
        }
    }
    if let Some(missing) = files.into_iter().find(|file| !file.exists()) {
        return Err(Failure::usage(format!(
            "{} names {}, which is not there",
            path.display(),
            missing.display()
        )));
    }
    ctx.out.fact(
        "checked",
        &serde_json::json!({ "file": path }),
        format!("{}: well-formed", path.display()),
    );
    Ok(())
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
