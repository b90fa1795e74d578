//! Runs worlds: many seeds at once, or one to read. `make sim SEEDS=100000`; `cargo run … -- --seed 17`.
//!
//! Exits 0 when no checker found anything, 1 when one did, 2 when it does not understand its arguments.

use std::process::ExitCode;
use std::time::Instant;

use legation_core::canary::{BUGS, Bug};
use legation_sim::{Outcome, Profile, many, run};

const USAGE: &str = "usage: sim [--seeds N] [--from N] [--threads N] [--unattended] [--bug NAME]
       sim --seed N [--unattended] [--bug NAME]";

struct Asked {
    one: Option<u64>,
    from: u64,
    seeds: u64,
    threads: usize,
    unattended: bool,
    bug: Option<Bug>,
}

fn asked() -> Option<Asked> {
    let mut asked = Asked {
        one: None,
        from: 0,
        seeds: 1000,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        unattended: false,
        bug: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seed" => asked.one = Some(words.next()?.parse().ok()?),
            "--seeds" => asked.seeds = words.next()?.parse().ok()?,
            "--from" => asked.from = words.next()?.parse().ok()?,
            "--threads" => asked.threads = words.next()?.parse().ok()?,
            "--unattended" => asked.unattended = true,
            "--bug" => {
                let name = words.next()?;
                let bug = BUGS.iter().find(|bug| format!("{bug:?}") == name)?;
                asked.bug = Some(*bug);
            }
            _ => return None,
        }
    }
    Some(asked)
}

fn main() -> ExitCode {
    let Some(asked) = asked() else {
        eprintln!("{USAGE}\nbugs: {BUGS:?}");
        return ExitCode::from(2);
    };
    let profile = match asked.unattended {
        true => Profile::unattended,
        false => Profile::storm,
    };
    if let Some(seed) = asked.one {
        let outcome = run(seed, &profile(seed), asked.bug, true);
        println!("\n{}\ntrace {}", outcome.counts, outcome.hash);
        return match outcome.violation {
            Some(violation) => {
                println!("FOUND by {violation}");
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        };
    }
    let began = Instant::now();
    let seeds = asked.from..asked.from + asked.seeds;
    let say = |outcome: &Outcome| println!("{}", outcome.report());
    let ran = many(seeds, asked.threads, &profile, asked.bug, &say);
    let took = began.elapsed().as_secs_f64();
    println!("{}", ran.counts);
    println!(
        "  {:.1} seeds/s, {:.0} s; {} of {} seeds found something",
        ran.counts.runs as f64 / took,
        took,
        ran.found,
        ran.counts.runs
    );
    match ran.found {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
