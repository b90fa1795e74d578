//! A start goes on from what the log was folded to before; and what does not hold is not believed.

use std::fs;

use legation_core::id::EpochNo;
use legation_repo::store::Kind;

use crate::world::{Founded, LAND, World};

/// Logs this many epochs of the land register.
fn log(world: &mut World, epochs: std::ops::RangeInclusive<u32>) {
    let state = world.one.state;
    for n in epochs {
        let Founded { vault, land, .. } = &mut world.one;
        let (slip, epoch) = land.epoch(state, vault, LAND, EpochNo(n));
        let digest = legation_core::id::Digest::of(&slip);
        world.land().put_object(Kind::Slip, &digest, slip).unwrap();
        world.land().submit(&epoch).unwrap();
    }
}

#[test]
fn a_start_folds_what_is_new_and_believes_nothing_that_does_not_hold() {
    let mut world = World::unstarted();
    world.limits.fold_every = 5;
    world.start();
    let kept = world.store().join(world.one.state.to_string()).join("fold");
    log(&mut world, 1..=3);
    assert!(!kept.exists(), "nothing is kept before it is worth it");
    log(&mut world, 4..=12);
    let early = fs::read(&kept).unwrap();
    world.restart();
    log(&mut world, 13..=14);
    assert_eq!(world.desk().checkpoint().unwrap().size(), 15);

    // Damaged, emptied, of an earlier time, of another state, or gone: it serves all the same, and the same.
    let other = world.store().join(world.two.state.to_string()).join("fold");
    let mut damaged = early.clone();
    damaged[100] ^= 1;
    let left = [Some(damaged), Some(Vec::new()), Some(early.clone()), None];
    for (next, bytes) in (15u32..).zip(left) {
        world.stop();
        match bytes {
            Some(bytes) => fs::write(&kept, bytes).unwrap(),
            None => fs::remove_file(&kept).unwrap(),
        }
        fs::write(&other, &early).unwrap();
        world.start();
        log(&mut world, next..=next);
        assert_eq!(
            world.desk().checkpoint().unwrap().size(),
            u64::from(next) + 1
        );
        assert!(world.two().checkpoint().unwrap().size() >= 1);
    }
}

#[test]
fn what_an_embassy_measures_is_what_it_holds() {
    use std::io::{Read as _, Write as _};
    let mut world = World::new();
    log(&mut world, 1..=2);
    let scrape = |world: &World, path: &str| {
        let mut stream = std::net::TcpStream::connect(world.metrics()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    };
    let said = scrape(&world, "/metrics");
    let (one, two) = (world.one.state, world.two.state);
    for line in [
        format!("legation_embassy_log_entries{{state=\"{one}\"}} 3"),
        format!("legation_embassy_log_entries{{state=\"{two}\"}} 1"),
        format!("legation_embassy_registry_epochs{{state=\"{one}\",registry=\"{LAND}\"}} 2"),
        format!("legation_embassy_state_open{{state=\"{one}\"}} 1"),
        format!("legation_embassy_statements_refused_total{{state=\"{one}\"}} 0"),
        "legation_embassy_requests_total{method=\"PUT\",route=\"object\",code=\"201\"} 2"
            .to_owned(),
    ] {
        assert!(said.lines().any(|said| said == line), "no {line}\n{said}");
    }
    // What the mandate does not allow is counted.
    let state = world.one.state;
    let Founded { vault, land, .. } = &mut world.one;
    let (slip, epoch) = land.epoch(state, vault, LAND, EpochNo(9));
    let digest = legation_core::id::Digest::of(&slip);
    world.land().put_object(Kind::Slip, &digest, slip).unwrap();
    world.land().submit(&epoch).unwrap_err();
    let said = scrape(&world, "/readyz");
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
}
