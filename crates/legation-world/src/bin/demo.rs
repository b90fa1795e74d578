//! `demo`: plays the story, and ends with 0 only when every claim in it holds.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use legation_world::fixtures::Registry;
use legation_world::story::{Options, tell};
use legation_world::world;

/// Founds a state, runs it, destroys it, starts it abroad, and counts what survived.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  demo --scale 1 --seconds 60")]
struct Args {
    /// Size of the registries; 1 is some 300,000 rows
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// How long home lives before it is destroyed
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Leave the activated registries up, to look at
    #[arg(long, env = "KEEP", value_parser = clap::builder::FalseyValueParser::new())]
    keep: bool,
    /// Where the scratch directory goes
    #[arg(long, default_value = "/var/tmp")]
    work: PathBuf,
    /// The seed of everything that is generated
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The program, in place of the one beside this
    #[arg(long)]
    legation: Option<PathBuf>,
    /// How long the release build took, in seconds, as measured by whoever built it
    #[arg(long, hide = true)]
    built: Option<u64>,
    /// Draw the reckoning as a picture
    #[arg(long, value_name = "FILE.svg")]
    record: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let program = args
        .legation
        .or_else(|| Some(std::env::current_exe().ok()?.with_file_name("legation")));
    let Some(program) = program else {
        eprintln!("error: cannot find the legation program; name it with --legation");
        return ExitCode::from(2);
    };
    let mut world = world::Options::new(&program);
    world.work = args.work;
    world.scale = args.scale;
    world.seed = args.seed;
    world.registries = Registry::ALL.into();
    let options = Options {
        world,
        live: Duration::from_secs(args.seconds),
        built: args.built.map(Duration::from_secs),
        keep: args.keep,
        record: args.record,
    };
    match tell(options) {
        Ok(broken) if broken.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
