//! From a dead home to a reckoning that must come out even, for every test that ends there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use legation_world::args;
use legation_world::fixtures::Registry;
use legation_world::world::{Options, World};
use legation_world::{auditor, journal, pg, reckon};

/// Longest wait for a capture or a start, on a busy machine.
pub const LONG: Duration = Duration::from_secs(120);

/// A small world of these registries.
pub fn small(seed: u64, registries: &[Registry]) -> World {
    let mut options = Options::new(Path::new(env!("CARGO_BIN_EXE_legation")));
    options.seed = seed;
    options.scale = 0.02;
    options.registries = registries.to_vec();
    options.epoch = Duration::from_secs(4);
    options.gazette_every = Duration::from_secs(2);
    World::new(options).expect("a world")
}

/// The same, founded, with its embassy up and home alive under writers.
pub fn alive(seed: u64, registries: &[Registry]) -> World {
    live(founded(seed, registries))
}

/// The same, with a line between agent and embassy that can be cut.
pub fn alive_over_a_line(seed: u64, registries: &[Registry]) -> World {
    let mut world = founded(seed, registries);
    world.lay_line().expect("a line");
    live(world)
}

/// A small world that is founded, with nothing running.
pub fn founded(seed: u64, registries: &[Registry]) -> World {
    let mut world = small(seed, registries);
    assert_eq!(
        world.ceremony().expect("a ceremony"),
        5,
        "stock ssh-keygen verifies five signatures"
    );
    world
}

/// Starts the embassy, home and its writers, and waits until every registry is abroad.
pub fn live(mut world: World) -> World {
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    world.start_writers(1).expect("writers");
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("first versions");
    world
}

/// Destroys home, has officers 1, 2 and 4 order the start, starts everything, and demands that all that was
/// acknowledged is there, whole, in a clean database, from a store and a log that verify.
pub fn destroy_and_reckon(world: &mut World) {
    let acknowledged: BTreeMap<_, _> = world
        .lag()
        .expect("a status")
        .into_iter()
        .map(|(r, l)| (r, l.acknowledged))
        .collect();
    world.disaster(|_| Ok(())).expect("a disaster");
    let order = world.order_activate("order", &[]).expect("an order");
    let officers: Vec<_> = [0, 1, 3].map(|n| world.officers[n].clone()).into();
    for officer in &officers {
        world
            .approve(&order, officer)
            .expect("ssh-keygen")
            .ok()
            .expect("an approval");
    }
    let officers: Vec<_> = officers.iter().collect();
    let mut live = world.activate(&order.text).expect("activate");
    world
        .submit(&order, &officers)
        .expect("submit")
        .ok()
        .expect("an accepted order");
    world
        .release(&order, &officers)
        .expect("release")
        .ok()
        .expect("a release");
    live.released();
    world
        .deliver(&order)
        .expect("deliver")
        .ok()
        .expect("a delivery");
    let started = live
        .wait_serving(world, LONG)
        .expect("registries that serve");

    let mirror = world.path("desk/log-at-the-end");
    world
        .mirror_log(&mirror)
        .expect("mirror")
        .ok()
        .expect("a copy of the log");
    let log = auditor::read(&mirror).expect("a log that hashes to its checkpoint");
    for s in &started {
        let id = world.id(s.registry).to_owned();
        if s.registry == Registry::Gazette {
            let commits = log.statements("commit");
            let newest = commits
                .iter()
                .rfind(|c| c["registry"] == id)
                .expect("a commit");
            let captured: jiff::Timestamp = newest["captured"].parse().expect("a time");
            let captured = u64::try_from(captured.as_microsecond()).expect("after 1970");
            let found = reckon::gazette(&s.path, &world.press().shadow, captured).expect("files");
            assert_eq!(found.faults, Vec::<String>::new(), "gazette");
            assert!(found.due > 0 && found.due == found.equal, "{found:?}");
            continue;
        }
        let fences = log.statements("fence");
        let fence = fences
            .iter()
            .rfind(|f| f["registry"] == id)
            .expect("a fence");
        let fence = pg::lsn(&fence["lsn"]).expect("a position");
        assert!(
            fence >= acknowledged[&s.registry],
            "fenced before what was acknowledged"
        );
        let told =
            journal::read(&world.journals(), s.registry.name()).expect("the writers' journal");
        let server = world.server(s);
        let found = reckon::read(&server, s.registry).expect("rows");
        let account = reckon::account(
            s.registry,
            &told,
            &found,
            fence,
            &world.fingerprints[&s.registry],
        );
        assert_eq!(
            account.faults,
            Vec::<String>::new(),
            "{}",
            s.registry.name()
        );
        assert!(
            account.told > 0,
            "{}: something was acknowledged",
            s.registry.name()
        );
        assert_eq!(
            account.told,
            account.found,
            "{}: acknowledged = found",
            s.registry.name()
        );
        let physical = reckon::physical(&server, s.registry, &world.programs).expect("checks");
        assert_eq!(
            physical.faults,
            Vec::<String>::new(),
            "{}",
            s.registry.name()
        );
    }
    live.seal().expect("sealing");
    verified(world);
    world
        .legation
        .ok(args!["log", "verify", mirror])
        .expect("a log within the mandate");
}

/// The store verifies whole, without a key.
pub fn verified(world: &World) {
    world
        .legation
        .ok(args!["verify", "--store", world.store()])
        .expect("a store that verifies");
}
