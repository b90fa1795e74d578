//! An embassy whose admission is switched off (a test build) is convicted by its own log: the fold names the entry.
#![cfg(feature = "no-admission")]

#[allow(dead_code)]
#[path = "it/world.rs"]
mod world;

use legation_core::attachments::Held;
use legation_core::id::EpochNo;
use legation_core::policy::Rule;
use legation_core::replay;
use legation_repo::log::Mirror;

use world::{Founded, LAND};

/// Admission is switched off by the environment, so the embassy runs in a process of its own.
#[test]
fn what_the_mandate_did_not_allow_is_found_in_the_log() {
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "without_admission", "--ignored"])
        .env("LEGATION_TEST_ADMISSION", "off")
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stdout)
    );
}

#[test]
#[ignore = "started by the test above"]
fn without_admission() {
    let mut world = world::with_epoch();
    let agent = world.land();
    let Founded {
        state, vault, tax, ..
    } = &mut world.one;
    let (_, stolen) = tax.epoch(*state, vault, LAND, EpochNo(2));
    assert_eq!(agent.submit(&stolen).unwrap().entry.index, 2);
    let (_, good) = world
        .one
        .land
        .epoch(world.one.state, &world.one.vault, LAND, EpochNo(2));
    assert_eq!(agent.submit(&good).unwrap().entry.index, 3);
    world.restart();

    let desk = world.desk();
    let mirror = Mirror::update(
        &world.dir.path().join("mirror"),
        &desk.log_files(),
        &desk.trust().believed(),
    )
    .unwrap();
    let entries: Vec<_> = (0..mirror.size())
        .map(|i| mirror.entry(i).unwrap())
        .collect();
    let mut held = Held::new();
    held.add(
        desk.get_attachment(&world.one.keyring.id())
            .unwrap()
            .to_vec(),
    );
    let report = replay::replay(entries, &held);
    let found: Vec<_> = report
        .refused
        .iter()
        .map(|(index, refusal)| (*index, refusal.rule))
        .collect();
    assert_eq!(found, [(2, Rule::Writer)]);
}
