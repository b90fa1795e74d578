//! What the simulation must show: worlds hold, runs repeat, and planted bugs are found.

use legation_core::canary::Bug;
use legation_sim::{Outcome, Profile, many, run};

/// Shards, as many as the smallest machine that runs this has processors.
const THREADS: usize = 2;
const SEEDS: u64 = 1000;

fn say(outcome: &Outcome) {
    println!("{}", outcome.report());
}

#[test]
fn a_thousand_worlds_hold() {
    let ran = many(0..SEEDS, THREADS, &Profile::storm, None, &say);
    println!("{}", ran.counts);
    if let Some(first) = ran.first {
        panic!("{}", first.report());
    }
    // The worlds were not idle: everything that can happen did.
    let counts = ran.counts;
    assert_eq!(counts.runs, SEEDS);
    for (what, happened, least) in [
        ("crashes abroad", counts.embassy_crashes, 4_000),
        ("crashes at home", counts.agent_crashes, 3_000),
        ("failed changes", counts.faults, 1_000),
        ("undone writes", counts.undone, 20_000),
        ("refusals", counts.refusals, 2_000),
        ("orders", counts.orders, 300),
        ("refused orders", counts.orders_refused, 300),
        ("activations", counts.activations, 80),
        ("thefts", counts.thefts, 1_000),
        ("machines set back", counts.set_back, 50),
        ("tamperings", counts.tampered, 300),
        ("versions", counts.compared.versions, 1_000),
        ("streams", counts.compared.streams, 4_000),
    ] {
        assert!(happened >= least, "{happened} {what} in {SEEDS} worlds");
    }
}

#[test]
fn a_run_depends_on_its_seed_alone() {
    for seed in [0, 1, 2, 3, 5, 6, 10, 11, 30, 35] {
        let profile = Profile::storm(seed);
        let (one, two) = (
            run(seed, &profile, None, false),
            run(seed, &profile, None, false),
        );
        assert_eq!(one.hash, two.hash, "seed {seed}");
        assert_eq!(one.counts, two.counts, "seed {seed}");
    }
    let other = |seed| run(seed, &Profile::storm(seed), None, false).hash;
    assert_ne!(other(1), other(2));
}

/// The bug is found by this checker within so many seeds, and the same seed without it is clean.
fn finds(bug: Bug, checkers: &[&str], within: u64) {
    for seed in 0..within {
        let profile = Profile::storm(seed);
        let outcome = run(seed, &profile, Some(bug), false);
        let Some(violation) = outcome.violation else {
            continue;
        };
        println!("{bug:?} is found at seed {seed} by {violation}");
        assert!(
            checkers.contains(&violation.checker),
            "{bug:?} was found by another checker than {checkers:?}: {violation}"
        );
        let clean = run(seed, &profile, None, false);
        assert_eq!(clean.violation, None, "seed {seed} without {bug:?}");
        return;
    }
    panic!("{bug:?} was not found in {within} seeds");
}

#[test]
fn an_order_without_officers_abroad_is_found() {
    finds(Bug::OffTerritory, &["quorum"], 60);
}

#[test]
fn a_salt_that_repeats_is_found() {
    finds(Bug::RepeatedSalt, &["nonce"], 60);
}

#[test]
fn an_ack_before_the_sync_is_found() {
    finds(Bug::AckBeforeSync, &["ack"], 20);
}

#[test]
fn a_name_that_is_not_synced_is_found() {
    finds(
        Bug::NameNotSynced,
        &["log", "receipt", "restart", "spool"],
        20,
    );
}

#[test]
fn a_term_that_does_not_end_is_found() {
    finds(Bug::NoFence, &["fence"], 60);
}

#[test]
fn ninety_days_with_nobody_on_site() {
    let ran = many(0..1, THREADS, &Profile::unattended, None, &say);
    println!("{}", ran.counts);
    if let Some(first) = ran.first {
        panic!("{}", first.report());
    }
    let counts = ran.counts;
    assert!(counts.embassy_crashes > 20 && counts.compared.versions > 200);
}
