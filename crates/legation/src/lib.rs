//! Legation: registries kept alive abroad and started there when home is gone.
//!
//! This crate joins the rooms: the pure core, the stores, the drivers and the embassy meet here and nowhere else.
//! It holds the roles (`agent`, `embassy`), the commands, and everything that a person types or reads.

pub mod agent;
pub mod charter;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod convert;
pub mod ctx;
pub mod desk;
pub mod doctor;
pub mod exit;
pub mod harden;
pub mod identity;
pub mod ledger;
pub mod line;
pub mod officers;
pub mod output;
pub mod recover;
pub mod stop;
pub mod watch;

use std::process::ExitCode;

/// Parses the command line, runs the verb, and turns its outcome into one of the documented exit codes.
pub fn main() -> ExitCode {
    cli::run(std::env::args_os())
}
