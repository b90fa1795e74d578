//! SIGKILL of agent and embassy, at moments and at named I/O edges that a seed chooses. Nothing waits for lag zero.
//!
//! A failing round prints its seed; `LEGATION_SEED=n cargo test … kills` plays that round alone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use legation_core::journal::{Chain, FrameHeader, FrameKind};
use legation_core::pack::PackHeader;
use legation_world::fixtures::Registry;
use legation_world::rng::Rng;
use legation_world::world::World;

use crate::shape::files;
use crate::survive::{LONG, alive, destroy_and_reckon};

const ROUNDS: u64 = 5;
const KILLS_A_ROUND: usize = 3;
const FIRST_SEED: u64 = 20_261_122;

/// Edges at which the agent is killed; passages are drawn too.
const AGENT: &[&str] = &[
    "agent.state",
    "agent.epoch",
    "agent.slip",
    "agent.epoch-statement",
    "agent.stream",
    "agent.receive",
    "agent.pack",
    "agent.index",
    "agent.commit",
    "agent.outbox",
    "agent.acked",
    "agent.ack",
    "agent.committed",
    "agent.sent",
    "journal.create",
    "journal.append",
    "journal.sync",
    "file.write",
    "file.rename",
    "dir.sync",
];
/// Edges at which the embassy is.
const EMBASSY: &[&str] = &[
    "object.write",
    "object.sync",
    "object.link",
    "journal.create",
    "journal.append",
    "journal.sync",
    "log.append",
    "log.sync",
    "log.checkpoint",
    "file.write",
    "file.sync",
    "file.rename",
    "dir.sync",
];

#[test]
fn what_was_acknowledged_survives_kills_at_random_points_and_edges() {
    let seeds: Vec<u64> = match std::env::var("LEGATION_SEED") {
        Ok(seed) => vec![seed.parse().expect("LEGATION_SEED is a number")],
        Err(_) => (0..ROUNDS).map(|n| FIRST_SEED + n).collect(),
    };
    for seed in seeds {
        println!("round with LEGATION_SEED={seed}");
        round(seed);
    }
}

fn round(seed: u64) {
    let mut rng = Rng::new(seed, "kills");
    let mut world = alive(seed, &[Registry::Population, Registry::Gazette]);
    for _ in 0..KILLS_A_ROUND {
        let role = rng.pick(&["agent", "embassy"]);
        if rng.chance(40) {
            // A moment: whatever happens to be under way.
            std::thread::sleep(Duration::from_millis(rng.range(20, 900)));
            println!("  {role}: at a random moment");
            kill(&mut world, role);
        } else {
            let edge = rng.pick(if role == "agent" { AGENT } else { EMBASSY });
            let action = rng.pick(&["kill", "late-kill"]);
            let fault = format!("{edge}:{}={action}", rng.range(1, 6));
            println!("  {role}: {fault}");
            kill(&mut world, role);
            start(&mut world, role, Some(fault));
            wait_dead(&mut world, role);
        }
        start(&mut world, role, None);
        wait_moving(&mut world);
    }
    destroy_and_reckon(&mut world);
    counters_are_used_once(&world);
}

fn kill(world: &mut World, role: &str) {
    match role {
        "agent" => world.agents.drain(..).for_each(|mut a| _ = a.kill()),
        _ => _ = world.embassy.take().map(|mut e| e.kill()),
    }
}

fn start(world: &mut World, role: &'static str, fault: Option<String>) {
    world.extra.clear();
    if let Some(fault) = fault {
        world.extra.insert(role, vec![("LEGATION_FAULT", fault)]);
    }
    match role {
        "agent" => world.start_agent().expect("the agent starts"),
        // With a fault at its first steps it may die before it listens: that is the point.
        _ => match world.start_embassy() {
            Ok(()) => {}
            Err(error) => assert!(
                world.extra.contains_key("embassy"),
                "the embassy starts: {error}"
            ),
        },
    }
    world.extra.clear();
}

/// Waits until the armed process has met its edge, or ends it when the edge does not come by.
fn wait_dead(world: &mut World, role: &str) {
    let until = Instant::now() + Duration::from_secs(6);
    loop {
        let ended = match role {
            "agent" => world.agents.iter_mut().all(|a| a.ended().is_some()),
            _ => world.embassy.as_mut().is_none_or(|e| e.ended().is_some()),
        };
        if ended || Instant::now() > until {
            return kill(world, role);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the embassy has acknowledged more than before.
fn wait_moving(world: &mut World) {
    let before = acknowledged(world);
    let until = Instant::now() + LONG;
    while acknowledged(world) <= before {
        if let Some(agent) = world
            .agents
            .iter_mut()
            .find_map(|a| a.ended().map(|_| a.said()))
        {
            panic!("the agent ended: {agent}");
        }
        assert!(Instant::now() < until, "nothing more is acknowledged");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn acknowledged(world: &World) -> u64 {
    // Before its first report a restarted agent has nothing to say.
    world
        .lag()
        .ok()
        .and_then(|l| l.get(&Registry::Population).map(|l| l.acknowledged))
        .unwrap_or(0)
}

/// Reads every pack and journal frame at the embassy: no sequence is used twice, streams have neither gap nor
/// overlap, and each continues exactly where the one before it ended.
fn counters_are_used_once(world: &World) {
    let mut packs = BTreeSet::new();
    for path in files(&world.store().join(""))
        .iter()
        .filter(|p| p.to_string_lossy().contains("/object/pack/"))
    {
        if path.extension().is_some() {
            continue;
        }
        let header = PackHeader::parse(&std::fs::read(path).expect("a pack")).expect("a header");
        assert!(
            packs.insert((header.registry, header.epoch, header.seq)),
            "pack sequence used twice: {header:?}"
        );
    }
    assert!(!packs.is_empty());
    let mut streams: Vec<(FrameHeader, FrameHeader)> = Vec::new();
    let mut all: Vec<_> = files(&world.store())
        .into_iter()
        .filter(|p| p.to_string_lossy().contains("/journal/"))
        .collect();
    all.sort();
    let mut at = (String::new(), Chain::new());
    for path in all
        .iter()
        .filter(|p| p.file_name().is_some_and(|n| n.len() == 8))
    {
        let stream = path
            .parent()
            .expect("a stream")
            .to_string_lossy()
            .into_owned();
        if at.0 != stream {
            at = (stream, Chain::new());
        }
        let bytes = std::fs::read(path).expect("a segment");
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let header = FrameHeader::parse(rest).expect("a frame");
            let (frame, after) = rest.split_at(header.size.bytes());
            at.1.check(frame).expect("a chain that holds");
            match streams.last_mut() {
                Some((_, last)) if last.stream == header.stream => {
                    assert_eq!(header.seq, last.seq + 1, "{}", path.display());
                    assert_eq!(header.first_lsn, last.end_lsn, "{}", path.display());
                    *last = header;
                }
                _ => {
                    assert_eq!(header.kind, FrameKind::Opening);
                    streams.push((header, header));
                }
            }
            rest = after;
        }
    }
    streams.sort_by_key(|(first, last)| (first.first_lsn, last.end_lsn));
    for pair in streams.windows(2) {
        assert_eq!(
            pair[0].1.end_lsn, pair[1].0.first_lsn,
            "a gap or an overlap between two streams"
        );
    }
    println!(
        "  {} packs, {} streams, each counter once",
        packs.len(),
        streams.len()
    );
}
