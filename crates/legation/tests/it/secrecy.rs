//! What nobody may learn: the host from its files, logs and requests; the thief from home's disk; anybody where an
//! embassy is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use legation_core::keys::EpochRoot;
use legation_core::pack::{PACK_HEADER, PackHeader, PackOpener};
use legation_world::args;
use legation_world::fixtures::Registry;
use legation_world::search::{Search, Seen};
use legation_world::world::World;

use crate::shape::{files, only_sizes_of_the_table};
use crate::survive::{LONG, destroy_and_reckon, small};

#[test]
fn host_and_thief_learn_nothing() {
    let mut world = small(7, &[Registry::Population, Registry::Gazette]);
    world.ceremony().expect("a ceremony");
    let trace = world.path("embassy/requests");
    world.extra.insert(
        "embassy",
        vec![("LEGATION_TRACE_REQUESTS", trace.display().to_string())],
    );
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    world.start_writers(1).expect("writers");
    world.start_agent().expect("an agent");
    // Two versions of the gazette: an epoch has closed in between.
    wait_versions(&mut world, 3);
    let thief = world.path("thief-disk");
    fs::create_dir_all(&thief).expect("a directory");
    let copy = thief.clone();
    // The thief comes when home is dead: what he finds is what SIGKILL left on the disk.
    let mut tried = 0;
    let home = world.path("home/agent");
    for agent in &mut world.agents {
        agent.kill();
    }
    world.agents.clear();
    copy_tree(&home, &copy);
    tried += closed_epochs_stay_closed(&world, &thief);
    println!("{tried} candidates for a key tried on the packs of closed epochs");
    world.start_agent().expect("the agent starts again");
    wait_versions(&mut world, 1);

    let (objects, frames) = only_sizes_of_the_table(&world.store());
    assert!(
        objects > 5 && frames > 5,
        "{objects} objects, {frames} frames"
    );
    canaries_are_nowhere(&world, &trace);
    addresses_are_nowhere(&world);
    destroy_and_reckon(&mut world);
    addresses_are_nowhere(&world);
}

/// Waits until the gazette has come this many versions further.
fn wait_versions(world: &mut World, more: u64) {
    world.wait_protected(LONG).expect("first versions");
    let newest = |w: &World| {
        w.lag()
            .ok()
            .and_then(|l| l.get(&Registry::Gazette)?.version)
            .unwrap_or(0)
    };
    let first = newest(world);
    let until = std::time::Instant::now() + LONG;
    while newest(world) < first + more {
        assert!(std::time::Instant::now() < until, "no further version");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .expect("cp");
    assert!(status.success());
}

/// Tries every 32 bytes that lie on the thief's disk, raw and as hexadecimal or base64 text, as the root of every epoch that had packs at the
/// embassy. The packs' own key commitments are the judge.
fn closed_epochs_stay_closed(world: &World, disk: &Path) -> usize {
    let mut headers: Vec<PackHeader> = Vec::new();
    for path in files(&world.store()) {
        if path.to_string_lossy().contains("/object/pack/") && path.extension().is_none() {
            let header = PackHeader::parse(&fs::read(&path).expect("a pack")[..PACK_HEADER])
                .expect("a header");
            if !headers
                .iter()
                .any(|h| (h.registry, h.epoch) == (header.registry, header.epoch))
            {
                headers.push(header);
            }
        }
    }
    assert!(
        headers.len() >= 3,
        "packs of several epochs: {}",
        headers.len()
    );
    let mut candidates: BTreeSet<[u8; 32]> = BTreeSet::new();
    for path in files(disk) {
        let bytes = fs::read(&path).expect("a file");
        // Sealed frames in the spool are what the embassy has too; keys would lie in the small files.
        if bytes.len() <= 64 * 1024 {
            candidates.extend(
                bytes
                    .windows(32)
                    .filter_map(|w| <[u8; 32]>::try_from(w).ok()),
            );
            let text = String::from_utf8_lossy(&bytes);
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/=-_".contains(c))) {
                candidates.extend(decoded(word));
            }
        }
    }
    assert!(
        candidates.len() > 1000,
        "the thief found {} candidates",
        candidates.len()
    );
    // Positive control: the right root does open, so that a judge that always says no would be noticed, is in the
    // unit tests of core (pack::tests); here only strangers are tried.
    for candidate in &candidates {
        let root = EpochRoot::from_bytes(*candidate);
        for header in &headers {
            assert!(
                PackOpener::new(header, &root).is_err(),
                "bytes on the agent's disk open epoch {} of {}",
                header.epoch,
                header.registry
            );
        }
    }
    candidates.len()
}

/// A word that may spell 32 bytes.
fn decoded(word: &str) -> Vec<[u8; 32]> {
    use base64::Engine as _;
    let mut all = Vec::new();
    if word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()) {
        let bytes: Vec<u8> = (0..32)
            .filter_map(|i| u8::from_str_radix(&word[2 * i..2 * i + 2], 16).ok())
            .collect();
        all.extend(<[u8; 32]>::try_from(bytes).ok());
    }
    for engine in [
        base64::engine::general_purpose::STANDARD,
        base64::engine::general_purpose::STANDARD_NO_PAD,
    ] {
        if let Ok(bytes) = engine.decode(word) {
            all.extend(
                bytes
                    .windows(32)
                    .filter_map(|w| <[u8; 32]>::try_from(w).ok()),
            );
        }
    }
    all
}

/// Words planted in data, tables and names are in no file, log or decoded request of the embassy.
fn canaries_are_nowhere(world: &World, trace: &Path) {
    let mut words = world.plan.canaries.all();
    words.extend(
        world
            .options
            .registries
            .iter()
            .flat_map(|r| [r.name().to_owned(), r.shape().title.to_owned()]),
    );
    words.retain(|w| w.len() >= 7);
    let search = Search::new(&words);
    let mut seen = Seen::default();
    search
        .below(&world.path("embassy"), &mut seen)
        .expect("a search");
    assert_eq!(seen.hits, Vec::<(String, PathBuf)>::new());
    let traced = fs::metadata(trace).expect("the trace of requests").len();
    assert!(
        traced > 100_000,
        "decoded requests were written down: {traced} bytes"
    );
    let mut control = Seen::default();
    search
        .below(&world.press().shadow, &mut control)
        .expect("a search");
    assert!(
        !control.hits.is_empty(),
        "the search finds words where they are"
    );
}

/// Where an embassy listens stands in locators files, in its own configuration, and nowhere else.
fn addresses_are_nowhere(world: &World) {
    let locators = fs::read_to_string(world.path("desk/locators.toml")).expect("locators");
    let address = locators
        .split('"')
        .find(|w| w.starts_with("127.0.0.1:"))
        .expect("an address")
        .to_owned();
    let port = address.rsplit(':').next().expect("a port").to_owned();
    let mirror = world.path("desk/log-for-addresses");
    if mirror.exists() {
        fs::remove_dir_all(&mirror).expect("an old copy");
    }
    world
        .mirror_log(&mirror)
        .expect("mirror")
        .ok()
        .expect("a copy of the log");
    let status = world
        .legation
        .ok(args!["status", "--json", "--config", world.person()])
        .expect("a status");
    assert!(!status.out.contains(&address), "status tells the address");
    // However much is asked for: the libraries that connect are not let speak of it.
    let loud = world
        .legation
        .ok(args!["-vv", "status", "--json", "--config", world.person()])
        .expect("a status");
    assert!(!loud.err.contains(&address), "-vv tells the address");
    for path in ["embassy", "desk", "home/agent"]
        .into_iter()
        .map(|p| world.path(p))
        .filter(|p| p.exists())
    {
        for file in files(&path) {
            let name = file
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            if name == "locators.toml" || name == "embassy.toml" || name == "requests" {
                continue;
            }
            let text = String::from_utf8_lossy(&fs::read(&file).expect("a file")).into_owned();
            assert!(
                !text.contains(&address),
                "{} tells the address",
                file.display()
            );
            let logs = name.ends_with(".log") || name.ends_with(".json");
            assert!(
                !logs || !text.contains(&format!(":{port}")),
                "{} tells the port",
                file.display()
            );
        }
    }
}
