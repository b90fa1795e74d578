//! What happens to machines: clocks that jump by years, a cloned agent, a home that is set back to yesterday, file
//! descriptors that run out, an embassy that is rebooted all the time. Everything acknowledged survives, and the capture
//! goes on by itself.

use std::time::{Duration, Instant};

use legation_world::args;
use legation_world::cli::stock;
use legation_world::fixtures::Registry;
use legation_world::pg::SUPERUSER;
use legation_world::process::Daemon;
use legation_world::world::World;
use rustix::process::{Resource, Rlimit, Signal};

use crate::survive::{LONG, alive, destroy_and_reckon, founded, live, verified};

const BOTH: &[Registry] = &[Registry::Population, Registry::Gazette];
/// The library by which a process sees another clock, in one of the directories of /usr/lib.
const FAKETIME: &str = "faketime/libfaketime.so.1";

/// The clock of one process, which a test sets.
struct Clock(std::path::PathBuf);

impl Clock {
    fn of(world: &mut World, role: &'static str) -> Self {
        let places = std::fs::read_dir("/usr/lib").expect("/usr/lib");
        let library = places
            .flatten()
            .map(|place| place.path().join(FAKETIME))
            .find(|path| path.exists())
            .expect("a clock that can be set: apt-get install faketime");
        let clock = Self(world.path("citizens").join(format!("{role}.clock")));
        clock.set("+0");
        let file = clock.0.display().to_string();
        world.extra.insert(
            role,
            vec![
                ("LD_PRELOAD", library.display().to_string()),
                ("FAKETIME_TIMESTAMP_FILE", file),
                ("FAKETIME_NO_CACHE", "1".into()),
                // A machine's clock that is set does not move the other one, nor the times of files.
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
                ("NO_FAKE_STAT", "1".into()),
            ],
        );
        clock
    }

    /// Sets it, such as `+10y`. In place of the file, so that nobody reads half of it.
    fn set(&self, offset: &str) {
        let fresh = self.0.with_extension("new");
        std::fs::write(&fresh, offset).expect("a file");
        std::fs::rename(&fresh, &self.0).expect("a file");
    }
}

fn wait(world: &mut World, what: &str, mut holds: impl FnMut(&World) -> bool) {
    let until = Instant::now() + LONG;
    while !holds(world) {
        let dead = world.agents.iter_mut().any(|a| a.ended().is_some());
        let said: Vec<_> = world.agents.iter().map(Daemon::said).collect();
        assert!(!dead, "the agent ended: {}", said.join("\n"));
        assert!(
            Instant::now() < until,
            "waited in vain until {what}: {:#?}\n{}",
            world.lag(),
            said.join("\n")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn acknowledged(world: &World) -> u64 {
    let lag = world.lag().unwrap_or_default();
    lag.get(&Registry::Population).map_or(0, |l| l.acknowledged)
}

fn version(world: &World, registry: Registry) -> u64 {
    let lag = world.lag().unwrap_or_default();
    lag.get(&registry).and_then(|l| l.version).unwrap_or(0)
}

/// Waits until more is acknowledged than now.
fn moving(world: &mut World) {
    let before = acknowledged(world);
    wait(world, "more is acknowledged", |world| {
        acknowledged(world) > before
    });
}

/// Waits for a new version of the files: only that goes through the log.
fn logged(world: &mut World) {
    let before = version(world, Registry::Gazette);
    wait(world, "a new version is logged", |world| {
        version(world, Registry::Gazette) > before
    });
}

#[test]
fn an_embassy_whose_clock_jumps_by_years_loses_and_expires_nothing() {
    let mut world = founded(61, BOTH);
    let clock = Clock::of(&mut world, "embassy");
    let mut world = live(world);
    let log = world.path("home/agent/agent.log");
    let restart = |world: &mut World| {
        world.embassy.take().map(|mut e| e.kill());
        world.start_embassy().expect("an embassy");
    };
    let turned_away = || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        said.matches("clock").count()
    };
    // Ahead, while it runs and at its start: nothing is dated by it.
    for at_its_start in [false, true] {
        clock.set("+10y");
        if at_its_start {
            restart(&mut world);
        }
        let before = turned_away();
        wait(&mut world, "statements are turned away", |_| {
            turned_away() > before
        });
        // Frames are acknowledged whatever the clock says.
        moving(&mut world);
        clock.set("+0");
        logged(&mut world);
    }
    // Behind: entries are dated by the one before them.
    for at_its_start in [false, true] {
        clock.set("-7y");
        if at_its_start {
            restart(&mut world);
        }
        moving(&mut world);
        logged(&mut world);
        clock.set("+0");
        logged(&mut world);
    }
    destroy_and_reckon(&mut world);
}

#[test]
fn an_agent_whose_clock_jumps_by_years_goes_on() {
    let mut world = founded(62, BOTH);
    let clock = Clock::of(&mut world, "agent");
    let mut world = live(world);
    for offset in ["+10y", "-7y"] {
        clock.set(offset);
        moving(&mut world);
        clock.set("+0");
        moving(&mut world);
        logged(&mut world);
    }
    destroy_and_reckon(&mut world);
}

#[test]
fn an_embassy_that_is_rebooted_all_the_time_loses_nothing() {
    // A minute each for an hour is LEGATION_REBOOTS=60 LEGATION_REBOOT_EVERY_MS=60000.
    let number = |name: &str, usual: u64| {
        let value = std::env::var(name).ok();
        value.map_or(usual, |value| value.parse().expect("a number"))
    };
    let reboots = number("LEGATION_REBOOTS", 12);
    let every = Duration::from_millis(number("LEGATION_REBOOT_EVERY_MS", 1500));
    let mut world = alive(63, BOTH);
    for _ in 0..reboots {
        world.embassy.take().map(|mut e| e.kill());
        world.start_embassy().expect("an embassy");
        let up = Instant::now();
        moving(&mut world);
        std::thread::sleep(every.saturating_sub(up.elapsed()));
    }
    logged(&mut world);
    assert_eq!(
        version(&world, Registry::Population),
        1,
        "a new base was taken although nothing was lost"
    );
    destroy_and_reckon(&mut world);
}

/// A copy of the agent's machine is started while the first goes on: whichever of them the embassy has heard less of
/// stops, and what was acknowledged is there.
#[test]
fn a_cloned_agent_spoils_nothing() {
    let mut world = alive(64, BOTH);
    let (agent, clone) = (world.path("home/agent"), world.path("home/clone"));
    // A machine is copied as it is at one moment.
    world.agents[0].signal(Signal::STOP);
    let copied = stock("cp", args!["-a", agent, clone], b"").expect("cp");
    world.agents[0].signal(Signal::CONT);
    copied.ok().expect("a copy");
    // The clone has a database of its own to capture: none, so it captures the same one by the same slot.
    moving(&mut world);
    let mut command = world
        .legation
        .command(args!["agent", "--config", clone.join("agent.toml")]);
    let home = world.path("home");
    command.current_dir(&home).env("HOME", &home);
    let mut second = Daemon::start("cloned agent", command, &world.path("home/clone.log"))
        .expect("a second agent");
    let until = Instant::now() + LONG;
    let (mut before, mut moved) = (acknowledged(&world), 0);
    // Either both are noticed or one goes on; for a while they fight for the slot.
    while moved < 5 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(300));
        let now = acknowledged(&world);
        moved += u32::from(now > before);
        before = now;
        if world.agents.iter_mut().all(|a| a.ended().is_some()) {
            break;
        }
    }
    let said = second.said();
    second.kill();
    println!(
        "the clone said: {}",
        said.lines().last().unwrap_or_default()
    );
    // The administrator stops the clone, and the first, if it stopped too, goes on as its hint says.
    if world.agents.iter_mut().any(|a| a.ended().is_some()) {
        let said = world.agents[0].said();
        assert!(said.contains("cloned"), "{said}");
        world.agents.clear();
        std::fs::rename(agent.join("spool"), agent.join("spool-before")).expect("moved away");
        world.start_agent().expect("an agent");
        world.wait_protected(LONG).expect("protected again");
    }
    moving(&mut world);
    logged(&mut world);
    destroy_and_reckon(&mut world);
}

/// All of home, databases and agent, is set back to a snapshot of a while ago, and lives on from there.
#[test]
fn a_home_that_is_set_back_to_a_snapshot_is_captured_anew_and_the_past_stays() {
    let mut world = alive(65, BOTH);
    moving(&mut world);
    // A snapshot of a virtual machine is of one moment; to copy files one stops for it.
    let stop = |world: &mut World| {
        world.agents.drain(..).for_each(|mut a| _ = a.kill());
        let cluster = world.clusters.get_mut(&Registry::Population).expect("one");
        cluster.kill();
        world
            .writers
            .take()
            .expect("writers")
            .stop()
            .expect("stopped");
    };
    let go_on = |world: &mut World, first: i64| {
        let cluster = world.clusters.get_mut(&Registry::Population).expect("one");
        cluster.start().expect("crash recovery");
        world.start_writers(first).expect("writers");
        world.start_agent().expect("an agent");
    };
    stop(&mut world);
    let (home, citizens) = (world.path("home"), world.path("citizens"));
    let (snapshot, known) = (world.path("snapshot"), world.path("known"));
    for (from, to) in [(&home, &snapshot), (&citizens, &known)] {
        let copied = stock("cp", args!["-a", from, to], b"").expect("cp");
        copied.ok().expect("a snapshot");
    }
    go_on(&mut world, 100_001);
    moving(&mut world);
    logged(&mut world);
    let lost = acknowledged(&world);
    stop(&mut world);
    stock("rm", args!["-r", home], b"")
        .expect("rm")
        .ok()
        .expect("gone");
    std::fs::rename(&snapshot, &home).expect("set back");
    // What citizens were told since then is of a history that home has forgotten.
    for forgotten in ["journals/population.csv", "gazette/editions.csv"] {
        let told = std::fs::metadata(citizens.join(forgotten)).expect("a journal");
        let copied = std::fs::copy(known.join(forgotten), citizens.join(forgotten));
        assert!(copied.expect("a journal") < told.len(), "nothing was told");
    }
    let cluster = world.clusters.get_mut(&Registry::Population).expect("one");
    cluster.start().expect("crash recovery");
    world.start_writers(200_001).expect("writers");
    world.start_agent().expect("an agent");
    // The agent's own memory was set back as well: the embassy holds frames that it has not sealed. It says so and
    // stops, or captures anew by itself.
    let until = Instant::now() + LONG;
    loop {
        let ended = world.agents[0].ended().and_then(|status| status.code());
        if let Some(code) = ended {
            let said = world.agents[0].said();
            assert!(code == 4 || code == 8, "{code}: {said}");
            assert!(said.contains("set back"), "{said}");
            world.agents.clear();
            let spool = world.path("home/agent/spool");
            std::fs::rename(&spool, spool.with_extension("before")).expect("as the hint says");
            world.start_agent().expect("an agent");
            break;
        }
        let fresh = version(&world, Registry::Population) > 1;
        if fresh || Instant::now() > until {
            assert!(fresh, "{}", world.agents[0].said());
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    wait(&mut world, "a new base", |world| {
        version(world, Registry::Population) > 1
    });
    moving(&mut world);
    println!("the forgotten history ended at {lost:X}");
    destroy_and_reckon(&mut world);
}

#[test]
fn a_process_without_file_descriptors_says_so_and_goes_on() {
    let mut world = alive(66, BOTH);
    let pids = [
        world.agents[0].pid(),
        world.embassy.as_ref().expect("one").pid(),
    ];
    for pid in pids {
        let of = rustix::process::Pid::from_raw(pid as i32);
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("descriptors")
            .count() as u64;
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let hard = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .and_then(|line| line.split_whitespace().nth(4)?.parse().ok());
        let limit = |most| Rlimit {
            current: Some(most),
            maximum: hard,
        };
        let usual = rustix::process::prlimit(of, Resource::Nofile, limit(open.saturating_sub(4)))
            .expect("prlimit");
        // Whatever it wants to open, it cannot.
        std::thread::sleep(Duration::from_secs(3));
        rustix::process::prlimit(of, Resource::Nofile, usual).expect("prlimit");
        moving(&mut world);
        logged(&mut world);
    }
    verified(&world);
    destroy_and_reckon(&mut world);
}

/// Every edge of the agent's own fails: refused, done and reported failed, and refused for want of room. Whatever it
/// makes of that, it or the next run goes on, and everything that was acknowledged is there.
#[test]
fn whatever_the_agents_disk_refuses_it_goes_on() {
    const FAULTS: [&str; 3] = ["eio", "late-eio", "enospc"];
    let mut world = alive(68, BOTH);
    let log = world.path("home/agent/agent.log");
    let fired = || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        said.matches("fault at ").count()
    };
    let mut met = 0;
    let only = std::env::var("LEGATION_EDGE").ok();
    for edge in legation_repo::edge::EDGES {
        if only.as_ref().is_some_and(|only| only != edge) {
            continue;
        }
        // The others are the embassy's, which has a test of its own, or are passed only when an order is accepted.
        if ["object.", "log.", "agent.moved"]
            .iter()
            .any(|other| edge.starts_with(other))
        {
            continue;
        }
        // Not at the very first passage: some are part of the start, which may well fail for it.
        let faults: Vec<_> = FAULTS
            .iter()
            .map(|fault| format!("{edge}:2={fault}"))
            .collect();
        world.agents.drain(..).for_each(|mut a| _ = a.kill());
        world
            .extra
            .insert("agent", vec![("LEGATION_FAULT", faults.join(","))]);
        world.start_agent().expect("the agent starts");
        let before = fired();
        let until = Instant::now() + Duration::from_secs(8);
        while fired() < before + FAULTS.len()
            && Instant::now() < until
            && world.agents[0].ended().is_none()
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        println!(
            "  {edge}: {} of {} met, {}",
            fired() - before,
            FAULTS.len(),
            match world.agents[0].ended() {
                Some(status) => {
                    let said = world.agents[0].said();
                    let last: Vec<_> = said.lines().rev().take(2).collect();
                    format!("the agent ended: {status}: {}", last.join(" / "))
                }
                None => "the agent lives".into(),
            }
        );
        met += fired() - before;
        world.extra.clear();
        if world.agents[0].ended().is_some() {
            world.agents.clear();
            world.start_agent().expect("the next run");
        }
        moving(&mut world);
        logged(&mut world);
    }
    assert!(met >= 40 || only.is_some(), "only {met} faults were met");
    destroy_and_reckon(&mut world);
}

/// Whoever has no key that the mandate names is sent away at the handshake, however often he comes.
#[test]
fn ten_thousand_strangers_do_not_stop_the_capture() {
    let mut world = alive(67, BOTH);
    let cluster = &world.clusters[&Registry::Population];
    let mut admin = cluster.connect(SUPERUSER, "population").expect("a session");
    let port = world.embassy_port();
    let before = acknowledged(&world);
    let began = Instant::now();
    let strangers = std::thread::spawn(move || handshakes(port, 10_000));
    let (mut worst, mut last, mut at) = (Duration::ZERO, before, Instant::now());
    while !strangers.is_finished() {
        let now = acknowledged(&world);
        if now > last {
            (last, at) = (now, Instant::now());
        }
        worst = worst.max(at.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    let refused = strangers.join().expect("strangers");
    println!(
        "{refused} handshakes refused in {:?}; the longest wait for an acknowledgement was {worst:?}",
        began.elapsed()
    );
    assert_eq!(refused, 10_000);
    assert!(last > before, "nothing was acknowledged meanwhile");
    // The objective of the tier.
    assert!(worst < Duration::from_secs(10), "{worst:?}");
    admin
        .batch_execute("checkpoint")
        .expect("the database answers");
    moving(&mut world);
    logged(&mut world);
    destroy_and_reckon(&mut world);
}

/// Comes so many times with a key of nobody's; returns how often that was refused.
fn handshakes(port: u16, times: usize) -> usize {
    const AT_ONCE: usize = 8;
    let each = times / AT_ONCE;
    let comers: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            std::thread::spawn(move || {
                let stranger = stranger();
                let to = format!("https://127.0.0.1:{port}/v1/status");
                (0..each)
                    .filter(|_| stranger.get(&to).send().is_err())
                    .count()
            })
        })
        .collect();
    comers
        .into_iter()
        .map(|comer| comer.join().expect("a stranger"))
        .sum()
}

/// A client with a key and certificate of his own making, who asks nobody for theirs and comes anew each time.
fn stranger() -> reqwest::blocking::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(["nobody.test".to_owned()]).expect("a key");
    let pem = made.cert.pem() + &made.signing_key.serialize_pem();
    reqwest::blocking::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .identity(reqwest::Identity::from_pem(pem.as_bytes()).expect("an identity"))
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(20))
        .build()
        .expect("a client")
}
