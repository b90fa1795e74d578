//! The command line: global options, the verbs, and the way from an outcome to an exit code.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::cmd;
use crate::ctx::Ctx;
use crate::exit::{Code, Failure};
use crate::output::Output;
use crate::stop::Stop;

/// Registries kept alive abroad, under nobody's control but yours, and started there when home is gone.
#[derive(Debug, Parser)]
#[command(
    name = "legation",
    version,
    after_help = "Example:\n  legation status\n\nExit: 0 done, 1 failed, 2 usage, 3 source incomplete, 4 verification failed, 5 quorum not met,\n6 fenced, 7 objective missed, 8 refused by the mandate, 10 no embassy or store there, 11 locked,\n12 wrong key, 130 interrupted.\n\nEnvironment: LEGATION_CONFIG, LEGATION_STATE, LEGATION_IDENTITY, LEGATION_CACHE_DIR, NO_COLOR,\nand PG* as libpq has it."
)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options that every verb takes.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// Configuration file of the role or person
    #[arg(long, global = true, env = "LEGATION_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON objects, one a line, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Log more; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How log lines on standard error look
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The verbs. Each has a file of its own in `cmd/` with its arguments, its example and its `run`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Capture registries and send them abroad (role)
    Agent(cmd::agent::Args),
    /// Receive, verify and keep (role)
    Embassy(cmd::embassy::Args),
    /// Found a state
    Ceremony(cmd::ceremony::Args),
    /// Make and prove an officer's keys and shares
    Officer(cmd::officer::Args),
    /// Write, read, approve, log and release orders
    Order(cmd::order::Args),
    /// Read the mandate
    Mandate(cmd::mandate::Args),
    /// Make a source a registry of this agent
    Enrol(cmd::enrol::Args),
    /// Capture a registry now
    Capture(cmd::capture::Args),
    /// What is abroad, how old it is, and what is wrong
    Status(cmd::status::Args),
    /// The versions that could be started
    Versions(cmd::versions::Args),
    /// List files of a version
    Ls(cmd::ls::Args),
    /// Write one file of a version to standard output
    Dump(cmd::dump::Args),
    /// Restore a version into an empty directory
    Restore(cmd::restore::Args),
    /// Name the last good version of a registry
    Bisect(cmd::bisect::Args),
    /// Start registries at the embassy, as an order says
    Activate(cmd::activate::Args),
    /// Check every stored byte, without keys
    Verify(cmd::verify::Args),
    /// Show, copy and verify the log
    Log(cmd::log::Args),
    /// Check and show configuration
    Config(cmd::config::Args),
}

/// Runs the program on these arguments (the first is its name).
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, args.iter().any(|arg| arg == "--json")),
    };
    crate::harden::no_core_dumps();
    let out = Output::new(cli.global.json, cli.global.quiet);
    init_logs(&cli.global);
    match dispatch(cli, out.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure, out.json());
            ExitCode::from(failure.code as u8)
        }
    }
}

fn dispatch(cli: Cli, out: Output) -> Result<(), Failure> {
    let ctx = Ctx {
        out,
        config: cli.global.config,
        state: std::env::var("LEGATION_STATE").ok(),
        identity: env_path("LEGATION_IDENTITY"),
        cache_dir: env_path("LEGATION_CACHE_DIR"),
        stop: Stop::on_signals()?,
    };
    match &cli.verb {
        Verb::Agent(args) => cmd::agent::run(args, &ctx),
        Verb::Embassy(args) => cmd::embassy::run(args, &ctx),
        Verb::Ceremony(args) => cmd::ceremony::run(args, &ctx),
        Verb::Officer(args) => cmd::officer::run(args, &ctx),
        Verb::Order(args) => cmd::order::run(args, &ctx),
        Verb::Mandate(args) => cmd::mandate::run(args, &ctx),
        Verb::Enrol(args) => cmd::enrol::run(args, &ctx),
        Verb::Capture(args) => cmd::capture::run(args, &ctx),
        Verb::Status(args) => cmd::status::run(args, &ctx),
        Verb::Versions(args) => cmd::versions::run(args, &ctx),
        Verb::Ls(args) => cmd::ls::run(args, &ctx),
        Verb::Dump(args) => cmd::dump::run(args, &ctx),
        Verb::Restore(args) => cmd::restore::run(args, &ctx),
        Verb::Bisect(args) => cmd::bisect::run(args, &ctx),
        Verb::Activate(args) => cmd::activate::run(args, &ctx),
        Verb::Verify(args) => cmd::verify::run(args, &ctx),
        Verb::Log(args) => cmd::log::run(args, &ctx),
        Verb::Config(args) => cmd::config::run(args, &ctx),
    }
}

/// A path from the environment; an empty one is none.
fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// Says what failed and what to do, on standard error.
fn tell(failure: &Failure, json: bool) {
    let mut stderr = std::io::stderr().lock();
    // A closed standard error leaves nobody to tell; the exit code still says it.
    if json {
        let _ = writeln!(stderr, "{}", failure.to_json());
        return;
    }
    let _ = writeln!(stderr, "error: {}", failure.message);
    if let Some(hint) = &failure.hint {
        let _ = writeln!(stderr, "hint: {hint}");
    }
}

/// Help and version go out as they are; a usage error follows the rule for failures.
fn refuse(error: &clap::Error, json: bool) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if json {
        tell(&usage(&error.to_string()), true);
    } else {
        let _ = error.print();
    }
    ExitCode::from(Code::Usage as u8)
}

/// All that clap says of an error, in one line: up to the usage, with its tips as the hint.
fn usage(text: &str) -> Failure {
    let said: Vec<_> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let (tips, message): (Vec<_>, Vec<_>) =
        said.into_iter().partition(|line| line.starts_with("tip: "));
    let failure = Failure::usage(message.join(" ").trim_start_matches("error: "));
    if tips.is_empty() {
        return failure;
    }
    let tips: Vec<_> = tips
        .iter()
        .map(|tip| tip.trim_start_matches("tip: "))
        .collect();
    failure.hint(tips.join("; "))
}

/// What is logged. The crates that carry requests say where they connect to, which stands in no log: of those only
/// warnings are shown, however much else is.
fn filter(verbose: u8) -> String {
    const LINE: &str =
        "hyper=warn,hyper_util=warn,h2=warn,reqwest=warn,rustls=warn,tokio_postgres=warn";
    let level = match verbose {
        0 => "warn,legation=info,legation_embassy=info",
        1 => "info,legation=debug,legation_embassy=debug",
        _ => "debug",
    };
    format!("{level},{LINE}")
}

fn init_logs(global: &Global) {
    let level = filter(global.verbose);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    // A second initialisation (in tests) is harmless and keeps the first.
    let _ = match global.log_format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
}

#[cfg(test)]
mod tests;
