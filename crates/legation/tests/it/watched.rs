//! Whoever waits for something long is told how far it is.

use std::fs;
use std::process::Command;

use legation_world::args;
use legation_world::fixtures::Registry;

use crate::survive::{LONG, small};

/// A file that takes some seconds to seal.
const MIB: usize = 1024;

#[test]
fn a_capture_says_how_far_it_is() {
    let mut world = small(51, &[Registry::Gazette]);
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("a version");

    let (scan, aside) = (world.press().root.join("scan"), world.path("citizens/scan"));
    let made = Command::new("sh")
        .arg("-c")
        .arg(format!("head -c {MIB}M /dev/urandom >\"$0\""))
        .arg(&aside)
        .status();
    assert!(made.expect("a shell").success());
    fs::rename(&aside, &scan).expect("a large file");
    let config = world.path("home/agent/agent.toml");
    let ran = world
        .legation
        .ok(args![
            "capture", "gazette", "--full", "--json", "--config", config
        ])
        .expect("a capture");
    let records = ran.records().expect("JSON");
    let progress: Vec<_> = records
        .iter()
        .filter(|r| r["message_type"] == "progress")
        .collect();
    let last = progress.last().expect("it took longer than two seconds");
    let done = last["done"].as_u64().expect("bytes");
    assert_eq!(last["unit"], "bytes");
    assert!(done > 0 && done <= (2 * MIB as u64) << 20, "{last}");
    assert!(last["per_second"].as_f64().expect("a rate") > 0.0, "{last}");
    assert!(records.iter().any(|r| r["message_type"] == "captured"));
}
