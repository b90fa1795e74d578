//! SIGKILL of agent, embassy and PostgreSQL, and a line that breaks, at moments and at named I/O edges that a seed
//! chooses. Nothing waits for lag zero.
//!
//! A world that fails prints its seed; `LEGATION_SEED=n cargo test … kills` plays that world alone, and
//! `LEGATION_WORLDS=n` plays so many.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use legation_core::journal::{Chain, FrameHeader, FrameKind};
use legation_core::pack::PackHeader;
use legation_world::fixtures::Registry;
use legation_world::rng::Rng;
use legation_world::world::World;

use crate::shape::files;
use crate::survive::{LONG, alive_over_a_line, destroy_and_reckon};

/// Worlds that are played, and kills in each: twenty in all.
const WORLDS: u64 = 5;
const KILLS: usize = 4;
const FIRST_SEED: u64 = 20_261_122;
/// Transactions of one shift of citizens, at most: a new shift begins with numbers of its own.
const SHIFT: i64 = 100_000;

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
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().expect("a number"))
    };
    let seeds: Vec<u64> = match number("LEGATION_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("LEGATION_WORLDS").unwrap_or(WORLDS))
            .map(|n| FIRST_SEED + n)
            .collect(),
    };
    for seed in seeds {
        println!("a world with LEGATION_SEED={seed}");
        play(seed);
    }
}

fn play(seed: u64) {
    let mut rng = Rng::new(seed, "kills");
    let mut world = alive_over_a_line(seed, &[Registry::Population, Registry::Gazette]);
    // Each is hit in every world; when, and at what, is left to the seed.
    let mut victims = vec!["agent", "embassy", "postgres", "line"];
    for shift in 1..=KILLS {
        let victim = victims.remove(rng.below(victims.len() as u64) as usize);
        strike(&mut world, victim, &mut rng, shift as i64);
        wait_moving(&mut world);
    }
    destroy_and_reckon(&mut world);
    counters_are_used_once(&world);
}

fn strike(world: &mut World, victim: &'static str, rng: &mut Rng, shift: i64) {
    match victim {
        "line" => break_line(world, rng),
        "postgres" => {
            moment(rng);
            println!("  postgres: at a random moment");
            let cluster = world.clusters.get_mut(&Registry::Population);
            let cluster = cluster.expect("a cluster");
            cluster.kill();
            cluster.start().expect("crash recovery");
            let writers = world.writers.take().expect("writers");
            writers.stop().expect("writers that saw their server die");
            world.start_writers(1 + shift * SHIFT).expect("writers");
        }
        role => {
            if rng.chance(40) {
                moment(rng);
                println!("  {role}: at a random moment");
                kill(world, role);
            } else {
                let edge = rng.pick(if role == "agent" { AGENT } else { EMBASSY });
                let action = rng.pick(&["kill", "late-kill"]);
                let fault = format!("{edge}:{}={action}", rng.range(1, 6));
                println!("  {role}: {fault}");
                kill(world, role);
                start(world, role, Some(fault));
                wait_dead(world, role);
            }
            start(world, role, None);
        }
    }
}

/// Whatever happens to be under way then.
fn moment(rng: &mut Rng) {
    std::thread::sleep(Duration::from_millis(rng.range(20, 900)));
}

/// The line breaks in the midst of what goes through it, or falls silent first; later it is mended.
fn break_line(world: &World, rng: &mut Rng) {
    let line = world.line.as_ref().expect("a line");
    for _ in 0..rng.range(1, 4) {
        if rng.chance(50) {
            let bytes = rng.range(1, 300_000);
            println!("  line: cut after {bytes} more bytes");
            line.cut_after(bytes);
            let until = Instant::now() + LONG;
            while !line.is_cut() {
                assert!(Instant::now() < until, "nothing goes through the line");
                std::thread::sleep(Duration::from_millis(5));
            }
        } else {
            println!("  line: silent, then cut");
            line.stall();
            moment(rng);
            line.cut();
        }
        moment(rng);
        line.mend();
    }
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
