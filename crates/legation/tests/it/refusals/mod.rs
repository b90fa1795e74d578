//! Bad input, through the real binary: each is refused with the documented exit code and a message that says what to
//! do, and afterwards nothing is lost, changed or half-written.
//!
//! Many checks share one small world; they are collected, so that one run shows everything that does not hold.

mod databases;
mod log;
mod machine;
mod orders;
mod past;
mod reading;
mod shares;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use legation_world::fixtures::Registry;
use legation_world::process::Ran;
use legation_world::world::{Options, World};
use legation_world::{Result, args};

/// Longest wait for a first version of a small world, on a loaded machine.
const FIRST: Duration = Duration::from_secs(180);

/// What was checked, and what does not hold.
#[derive(Debug, Default)]
struct Checks {
    made: usize,
    broken: Vec<String>,
}

impl Checks {
    /// A run must end with `exit` and say every one of `words`; a refusal is told as one.
    fn check(&mut self, name: &str, ran: Result<Ran>, exit: i32, words: &[&str]) -> Option<Ran> {
        self.made += 1;
        let ran = match ran {
            Ok(ran) => ran,
            Err(why) => {
                self.broken.push(format!("{name}: {why}"));
                return None;
            }
        };
        let said = format!("{}{}", ran.err, ran.out);
        let plain = exit == 0
            || ran.err.lines().any(|line| {
                line.starts_with("error: ") || line.starts_with("{\"message_type\":\"error\"")
            });
        let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
        if ran.code != exit || !missing.is_empty() || !plain {
            self.broken.push(format!(
                "{name}: exit {} (wanted {exit}), lacks {missing:?}\n    $ {}\n    {}",
                ran.code,
                ran.line,
                said.trim().replace('\n', "\n    ")
            ));
        }
        Some(ran)
    }

    /// Something must be so.
    fn hold(&mut self, name: &str, holds: bool) {
        self.made += 1;
        if !holds {
            self.broken.push(name.to_owned());
        }
    }

    /// Fails with all that does not hold.
    fn end(self) {
        assert!(
            self.broken.is_empty(),
            "{} of {} checks do not hold:\n- {}",
            self.broken.len(),
            self.made,
            self.broken.join("\n- ")
        );
    }
}

/// A founded state with an embassy that serves and an agent that has sent a first version of every registry.
fn world(registries: &[Registry]) -> World {
    let mut world = founded(registries);
    world.start_agent().expect("starting the agent");
    world.wait_protected(FIRST).expect("a version abroad");
    world
}

/// The same, with the agent not started yet.
fn founded(registries: &[Registry]) -> World {
    let mut options = Options::new(Path::new(env!("CARGO_BIN_EXE_legation")));
    options.registries = registries.to_vec();
    options.scale = 0.02;
    options.gazette_every = Duration::from_millis(500);
    let mut world = World::new(options).expect("making a world");
    world.ceremony().expect("founding a state");
    world.start_home().expect("making home");
    if registries.contains(&Registry::Gazette) {
        reading::oddities(&world.path("home/gazette"));
    }
    world.start_embassy().expect("starting the embassy");
    world
}

/// Ends the agents as an administrator does.
fn stop_agents(world: &mut World) {
    for mut agent in world.agents.drain(..) {
        let _ = agent.stop(rustix::process::Signal::TERM);
    }
}

/// Runs the program with the desk's configuration.
fn desk<S: AsRef<std::ffi::OsStr>>(
    world: &World,
    args: impl IntoIterator<Item = S>,
) -> Result<Ran> {
    let mut all: Vec<std::ffi::OsString> =
        args.into_iter().map(|a| a.as_ref().to_owned()).collect();
    all.extend(args!["--config", world.person()]);
    world.legation.run(all)
}

/// Files below `dir` whose names say that they were being written.
fn unfinished(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if [".tmp", ".part", ".new"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            into.push(path.clone());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unfinished(&path, into);
        }
    }
}

/// The store verifies, its log replays, and nothing is half-written.
fn still_whole(world: &World, checks: &mut Checks, when: &str) {
    let ran = world
        .legation
        .run(args!["verify", "--store", world.store()]);
    checks.check(
        &format!("the store {when}"),
        ran,
        0,
        &["every byte as it was stored"],
    );
    let mirror = world.path(&format!("desk/log-{}", when.replace(' ', "-")));
    checks.check(
        &format!("copying the log {when}"),
        world.mirror_log(&mirror),
        0,
        &[],
    );
    let ran = world.legation.run(args!["log", "verify", mirror]);
    checks.check(
        &format!("the log {when}"),
        ran,
        0,
        &["none outside the mandate"],
    );
    let mut left = Vec::new();
    unfinished(&world.path("desk"), &mut left);
    unfinished(&world.store(), &mut left);
    checks.hold(&format!("{when}, half-written: {left:?}"), left.is_empty());
}

#[test]
fn bad_input_is_refused_and_nothing_is_lost() {
    let mut checks = Checks::default();
    let mut world = world(&[Registry::Gazette]);
    let early = log::keep_early(&mut world, &mut checks);
    stop_agents(&mut world);
    machine::configuration(&world, &mut checks);
    machine::files(&world, &mut checks);
    machine::processes(&mut world, &mut checks);
    still_whole(&world, &mut checks, "after bad machines");
    orders::refused(&world, &mut checks);
    still_whole(&world, &mut checks, "after bad orders");
    let grant = shares::refused(&world, &mut checks);
    reading::refused(&world, &mut checks, &grant);
    still_whole(&world, &mut checks, "after bad shares and readers");
    log::set_back(&mut world, &mut checks, &early);
    log::forked(&mut world, &mut checks, &early);
    still_whole(&world, &mut checks, "after bad logs");
    log::without_admission(&mut world, &mut checks);
    checks.end();
}
