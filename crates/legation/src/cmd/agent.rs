//! `legation agent`: captures registries and sends them abroad.

use crate::config;
use crate::ctx::Ctx;
use crate::exit::Failure;
use crate::identity::Role;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation agent --init --config /etc/legation/agent.toml\n  legation agent --config /etc/legation/agent.toml"
)]
pub struct Args {
    /// Make the identity that the configuration names, and its card for the ceremony, then exit
    #[arg(long)]
    pub init: bool,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// Code 2 for bad configuration; 4 when an embassy's log shrank or forked; 6 when a later term fences this agent.
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let path = ctx.config_or(config::agent::USUAL);
    if args.init {
        return super::init(ctx, &path, Role::Agent);
    }
    let config = config::agent::Agent::load(&path)?;
    crate::agent::run(&config, ctx)
}
