//! An embassy's checks.

use std::net::TcpListener;
use std::path::Path;

use legation_core::log::LogVerifier;
use legation_registry::postgres::{Binaries, RunAs, SUPPORTED};
use legation_repo::log::LogReader;
use legation_repo::state::StateDir;
use rustix::fs::statvfs;

use super::{Findings, machine};
use crate::charter::Charter;
use crate::config::embassy::{Activation, Embassy as Config};
use crate::config::units;
use crate::ctx::Ctx;
use crate::recover::volume::Volume;

pub fn look(path: &Path, ctx: &Ctx, found: &mut Findings<'_>) {
    let check = format!("legation config check --config {}", path.display());
    let Some(config) = found.keep("config", Config::load(path), &check) else {
        return;
    };
    let mut wrong = Vec::new();
    crate::cmd::config::embassy(&config, ctx, &mut wrong);
    if wrong.is_empty() {
        found.ok("config", "well-formed, and what it names holds");
    }
    for failure in wrong {
        found.keep("config", Err::<(), _>(failure), &check);
    }
    let runs = store(&config, found);
    let start = format!("legation embassy --config {}", path.display());
    if runs {
        found.ok("embassy", "it runs");
    } else {
        ports(&config, found);
        found.warn("embassy", "it does not run", start);
    }
    machine::limits(None, found);
    entropy(found);
    if let Some(activation) = &config.activation {
        tools(activation, found);
    }
}

/// The store's place, room, and each state's log. Says whether a process serves it.
fn store(config: &Config, found: &mut Findings<'_>) -> bool {
    let dir = &config.store.path;
    if machine::writable("store", dir, found).is_none() {
        return false;
    }
    if let Ok(stat) = statvfs(dir) {
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let reserve = config.store.reserve.of(total);
        if free <= reserve {
            found.bad(
                "store",
                format!(
                    "{} free, and {} are kept for log and journal: no object is taken",
                    units::about(free),
                    units::about(reserve)
                ),
                "give the store a larger file system",
            );
        }
        let promised: u64 = config.state.iter().map(|state| state.quota.0).sum();
        if promised > total {
            found.warn(
                "store",
                format!(
                    "{} are promised to states, on a file system of {}",
                    units::about(promised),
                    units::about(total)
                ),
                "give the store a larger file system, or lower the quotas",
            );
        }
    }
    machine::room("store", dir, 0, 0, found);
    let mut runs = false;
    for state in &config.state {
        // What is wrong with a mandate was told among the configuration's.
        let Ok(charter) = Charter::load(&state.mandate) else {
            continue;
        };
        let root = dir.join(charter.state.to_string());
        runs |= machine::is_locked(&root.join("LOCK")).unwrap_or(false);
        if root.exists() {
            log(config, dir, &charter, found);
        }
    }
    runs
}

/// Whether a log ends where its own signed checkpoint says.
fn log(config: &Config, dir: &Path, charter: &Charter, found: &mut Findings<'_>) {
    let state = charter.state;
    let verify = format!("legation verify --store {}", dir.display());
    let keyed = charter.embassy(&config.label).and_then(|row| {
        let key = charter.keyring.log_key(&row.log_key);
        let key = key.map_err(crate::exit::Failure::usage)?;
        LogVerifier::decode(key).map_err(crate::exit::Failure::usage)
    });
    let Ok(key) = keyed else { return };
    let opened = StateDir::open_reader(dir, &state).and_then(|state_dir| {
        let origin = format!("{state}/{}", config.label);
        LogReader::open(&state_dir.log_path(), &origin, &key)
    });
    match opened {
        Ok(log) => found.ok(
            "log",
            format!(
                "{state}: {} entries, under a checkpoint that this embassy signed",
                log.size()
            ),
        ),
        Err(why) => found.bad("log", format!("{state}: {why}"), verify),
    }
}

/// Whether what it would listen on is free.
fn ports(config: &Config, found: &mut Findings<'_>) {
    let Ok(addresses) = crate::cmd::embassy::listen(config) else {
        return;
    };
    for address in addresses {
        let port = address.port();
        match TcpListener::bind(address) {
            Ok(_) => found.ok("port", format!("{port} is free for it")),
            Err(why) => found.bad(
                "port",
                format!("{port}: {why}"),
                format!("ss -ltnp 'sport = :{port}' names who has it"),
            ),
        }
    }
}

fn entropy(found: &mut Findings<'_>) {
    /// Bits that the kernel's generator starts with.
    const ENOUGH: u32 = 128;
    let text = std::fs::read_to_string("/proc/sys/kernel/random/entropy_avail");
    let bits = text.ok().and_then(|text| text.trim().parse::<u32>().ok());
    match bits {
        Some(bits) if bits < ENOUGH => found.bad(
            "entropy",
            format!("the kernel has {bits} bits of randomness"),
            "wait, or give the machine a source: apt-get install rng-tools",
        ),
        _ => found.ok("entropy", "the kernel gives randomness"),
    }
}

/// What an activation takes, and what an earlier one left.
fn tools(activation: &Activation, found: &mut Findings<'_>) {
    for major in SUPPORTED {
        match Binaries::find(major) {
            Ok(_) => found.ok("activation", format!("PostgreSQL {major} is installed")),
            Err(_) => found.warn(
                "activation",
                format!(
                    "PostgreSQL {major} is not installed: no database of that release starts here"
                ),
                format!("apt-get install postgresql-{major}"),
            ),
        }
    }
    if let Some(user) = &activation.run_as {
        match RunAs::named(user) {
            Ok(_) => found.ok("activation", format!("services run as {user}")),
            Err(_) => found.bad(
                "activation",
                format!("there is no user {user} for services to run as"),
                format!("useradd --system {user}"),
            ),
        }
    }
    let path = &activation.path;
    let left = std::fs::read_dir(path).map_or(0, Iterator::count);
    if left > 0 {
        found.warn(
            "activation",
            format!(
                "{left} things lie in {}: an activation runs, or left them",
                path.display()
            ),
            format!("if none runs: umount {0}; rm -r {0}/*", path.display()),
        );
        return;
    }
    match Volume::foresee(path) {
        Ok(room) => found.ok(
            "activation",
            format!("its volume is memory: {room} at most"),
        ),
        Err(failure) => {
            found.keep(
                "activation",
                Err::<(), _>(failure),
                "see docs/operating/activation.md",
            );
        }
    }
}
