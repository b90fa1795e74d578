//! `legation doctor`: what commonly goes wrong, each with what mends it.

use crate::config::{agent, embassy};
use crate::ctx::Ctx;
use crate::doctor;
use crate::exit::Failure;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation doctor --config /etc/legation/agent.toml\n  legation doctor --config /etc/legation/embassy.toml --json"
)]
pub struct Args {}

/// Looks.
///
/// # Errors
/// Code 1 when something is bad; code 2 when there is no configuration.
pub fn run(_: &Args, ctx: &Ctx) -> Result<(), Failure> {
    // The one that is there, if none is named.
    let usual = [agent::USUAL, embassy::USUAL];
    let there = usual
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    doctor::run(&ctx.config_or(there.unwrap_or(agent::USUAL)), ctx)
}
