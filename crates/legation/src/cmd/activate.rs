//! `legation activate`: starts registries at the embassy.

use std::path::PathBuf;

use crate::config::embassy::{self, Embassy};
use crate::ctx::Ctx;
use crate::exit::Failure;
use crate::recover::activate::{self, Told};

/// Where started databases listen, unless configuration or the command line says otherwise.
const FIRST_PORT: u16 = 7540;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  legation activate --order order.txt --config embassy.toml\n  legation activate --order order.txt --dry-run"
)]
pub struct Args {
    /// The order, as the officers approved it
    #[arg(long, value_name = "FILE")]
    order: PathBuf,
    /// Print what would be started, and start nothing
    #[arg(long)]
    dry_run: bool,
    /// What a desk wrote of what the registries need of a machine: what is missing of it here is named
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    needs: Option<PathBuf>,
    /// The first port that started databases listen on, on the loopback address
    #[arg(long, value_name = "PORT")]
    port_base: Option<u16>,
}

/// Runs the verb: waits for the order and the release, starts, serves, and seals when it is stopped.
///
/// # Errors
/// An order that does not hold here (8); damage (4); no embassy (10); a registry that did not start (1).
pub fn run(args: &Args, ctx: &Ctx) -> Result<(), Failure> {
    let config = Embassy::load(&ctx.config_or(embassy::USUAL))?;
    let configured = config
        .activation
        .as_ref()
        .and_then(|activation| activation.port);
    let told = Told {
        order: &args.order,
        config: &config,
        port: args.port_base.or(configured).unwrap_or(FIRST_PORT),
        dry_run: args.dry_run,
        needs: args.needs.as_deref(),
    };
    activate::run(&told, ctx)
}
