//! A kept state is the state, or nothing.

use super::*;
use crate::example::{World, registry};
use crate::statement::{Entry, StepKind};

const KEY: [u8; 32] = [7; 32];

/// A log with a bit of everything, at some length.
fn long() -> World {
    let mut world = World::lived();
    world.must(world.write(2, world.unchanged(3)));
    let order = world.order("2026-11-22-7f2c91d0", &[1, 2]);
    world.must(world.approve(&order, &[1, 2, 4]));
    for n in [1, 2] {
        let fence = world.tell(world.fence(&order, n));
        world.must(fence);
    }
    let session = world.session(&order, 81);
    world.must(world.tell(session));
    world.must(world.tell(world.opened(&order, 1)));
    world.must(world.tell(world.step(&order, 1, StepKind::Probed)));
    world.must(world.tell(world.sealed(&order)));
    for _ in 0..600 {
        world.must(world.write(2, world.unchanged(3)));
    }
    world
}

#[test]
fn a_kept_state_is_the_state_and_goes_on_the_same() {
    let mut world = long();
    let kept = world.state.keep(&KEY);
    let mut again = State::recall(&kept, &KEY).unwrap();
    assert_eq!(format!("{:?}", world.state), format!("{again:?}"));
    // And it goes on as the other does, refusals included.
    let more = [
        world.write(1, world.mark(1)),
        world.write(2, world.mark(3)),
        world.write(2, world.commit(3)),
    ];
    for signed in more {
        let entry = Entry {
            index: world.state.size(),
            received: world.now.plus_millis(1000),
            signed: signed.clone(),
        };
        let (one, other) = (
            world.state.apply(&entry, &world.held),
            again.apply(&entry, &world.held),
        );
        assert_eq!(one.is_ok(), other.is_ok());
        assert_eq!(format!("{:?}", world.state), format!("{again:?}"));
    }
    assert!(again.registry(registry(3)).unwrap().mark.is_some());
}

#[test]
fn what_is_damaged_cut_or_of_another_key_is_no_state() {
    let kept = World::lived().state.keep(&KEY);
    assert!(State::recall(&kept, &KEY).is_ok());
    assert!(State::recall(&kept, &[8; 32]).is_err());
    for at in (0..kept.len()).step_by(97) {
        let mut flipped = kept.clone();
        flipped[at] ^= 1;
        assert!(State::recall(&flipped, &KEY).is_err(), "byte {at}");
        assert!(State::recall(&kept[..at], &KEY).is_err(), "cut at {at}");
    }
    // Whoever has the key can still not make it read what is not there.
    let body = &kept[..kept.len() - 32];
    for at in (0..body.len()).step_by(131) {
        let mut short = body[..at].to_vec();
        let mac = blake3::keyed_hash(&KEY, &short);
        short.extend_from_slice(mac.as_bytes());
        assert!(
            State::recall(&short, &KEY).is_err(),
            "authentic, and cut at {at}"
        );
    }
}

#[test]
fn all_sources_of_the_fold_count_among_its_rules() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for dir in ["policy", "statement"] {
        for file in std::fs::read_dir(root.join(dir)).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.ends_with(".rs")
                || name == "tests.rs"
                || (dir, name.as_str()) == ("statement", "mod.rs")
            {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                SOURCES.contains(&text.as_str()),
                "{dir}/{name} is no part of the rules"
            );
        }
    }
}

/// How fast a long log of marks is folded, and how fast its kept state is read back. `LEGATION_MARKS` says how many there
/// are: `LEGATION_MARKS=1000000 cargo test --release -p legation-core a_long_log -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes: it measures"]
fn a_long_log_of_marks_is_folded_once() {
    use crate::statement::Mark;
    use std::time::Instant;
    let marks = std::env::var("LEGATION_MARKS")
        .ok()
        .and_then(|n| n.parse().ok());
    let marks: u64 = marks.unwrap_or(1_000_000);
    let mut world = World::lived();
    let first = world.mark(1);
    let mut folding = std::time::Duration::ZERO;
    for n in 0..marks {
        let at = world.now.plus_millis(1000 * (n + 1));
        let sequence = first.sequence + n;
        let lsn = crate::id::Lsn(first.lsn.0 + n);
        let signed = world.write(
            1,
            Mark {
                sequence,
                lsn,
                at,
                ..first.clone()
            },
        );
        let leaf = Entry {
            index: world.state.size(),
            received: at,
            signed,
        }
        .encode();
        let began = Instant::now();
        let entry = Entry::parse(&leaf).unwrap();
        world.state.apply(&entry, &world.held).unwrap();
        folding += began.elapsed();
    }
    let began = Instant::now();
    let kept = world.state.keep(&KEY);
    let keeping = began.elapsed();
    let began = Instant::now();
    let again = State::recall(&kept, &KEY).unwrap();
    let recalling = began.elapsed();
    assert_eq!(again.head(), world.state.head());
    let rate = marks as f64 / folding.as_secs_f64();
    println!(
        "{marks} marks folded in {folding:?}, {rate:.0} a second; kept in {keeping:?} as {} bytes, read back in {recalling:?}",
        kept.len()
    );
}
