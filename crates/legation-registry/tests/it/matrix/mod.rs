//! The correctness matrix: whatever happens to a source, a copy that was captured and replayed by us is, page for page,
//! what PostgreSQL itself makes of the same log.
//!
//! A seed gives a sequence of everything that the log must carry, with bases taken between and meanwhile. For each base and
//! some positions after it two copies are made. One is ours: base and received log, restored and started as the product
//! does. The other, the reference, knows nothing of us: a cold copy of the very first state, replayed by PostgreSQL from
//! its own archive up to the same position. Both are compared behind PostgreSQL's own masks, and both must answer as the
//! source did.
//!
//! `long_…` tests run many seeds: `LEGATION_SEEDS=<count>` says how many, `LEGATION_SEED=<seed>` runs that one alone.

pub mod check;
mod compare;
mod follower;
mod home;
mod mask;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use legation_registry::postgres::{Conn, ConnectConfig, Target};
use legation_world::rng::Rng;

use crate::cluster::{Cluster, Restored, restore_pieces, run_of};
use compare::{Files, compare, files};
use home::{Base, Home, Point, copy};

/// How many seeds a long test runs.
const SEEDS: u64 = 10;

/// A sequence, and how many positions are looked at behind each base.
#[derive(Debug, Clone, Copy)]
struct Size {
    packs: u32,
    points: usize,
}

const WHOLE: Size = Size {
    packs: 1,
    points: 2,
};
const SMOKE: Size = Size {
    packs: 1,
    points: 1,
};
const LONG: Size = Size {
    packs: 3,
    points: 3,
};

/// Tells how to run it again, if it fails.
struct Again {
    major: u32,
    seed: u64,
    story: Vec<String>,
}

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "PostgreSQL {}, seed {}, what happened:\n  {}\nagain: LEGATION_SEED={} cargo test -p legation-registry \
                 --test it -- --ignored matrix::long_{}",
                self.major,
                self.seed,
                self.story.join("\n  "),
                self.seed,
                self.major
            );
        }
    }
}

fn run(major: u32, seed: u64, size: Size) {
    let mut again = Again {
        major,
        seed,
        story: Vec::new(),
    };
    let mut home = Home::new(major, seed);
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        home.live(size.packs);
        home.finish();
    }));
    again.story.clone_from(&home.story);
    if let Err(why) = lived {
        std::panic::resume_unwind(why);
    }
    let mut rng = Rng::new(seed, "positions");
    let mut compared = 0;
    for base in &home.bases {
        let mut points: Vec<&Point> = home
            .points
            .iter()
            .filter(|point| point.lsn >= base.facts.stop)
            .collect();
        // The last always; others at random.
        while points.len() > size.points {
            points.remove(rng.below(points.len() as u64 - 1) as usize);
        }
        for point in points {
            again
                .story
                .push(format!("base of {} at {}", base.facts.start, point.lsn));
            one(&home, base, point, major);
            compared += 1;
        }
    }
    assert!(
        home.bases.len() >= 2 && compared >= 2,
        "nothing was compared"
    );
}

/// One base, replayed to one position.
fn one(home: &Home, base: &Base, point: &Point, major: u32) {
    let target = Target::Lsn(point.lsn);
    let (reach, pieces) = (home.follower.reach(), home.follower.pieces());
    let ours = restore_pieces(&base.sink, reach, pieces, target, false).unwrap();
    let of_ours = files(ours.server.config());
    stop(major, &ours.data);
    let reference = reference(home, point);
    let of_reference = files(&reference.config());
    reference.stop("immediate");
    let done = compare((&ours.data, &of_ours), (&reference.data(), &of_reference));
    assert!(
        done.relations > 300 && done.pages > 1000 && done.maps > 30,
        "{done:?}"
    );
    start_without_recovery(&reference);
    assert_same(
        &check::digests(&reference.config()),
        &point.digests,
        "the reference",
    );
    reference.stop("immediate");
    inside(&ours, &of_ours, point, major);
}

/// Ours started again, as any server would be: its answers, and PostgreSQL's checks.
fn inside(ours: &Restored, of_ours: &Files, point: &Point, major: u32) {
    let running = Running {
        major,
        data: ours.data.clone(),
    };
    let log = ours.dir.path().join("again.log");
    let output = run_of(
        major,
        "pg_ctl",
        &[
            "start".as_ref(),
            "-w".as_ref(),
            "-D".as_ref(),
            ours.data.as_ref(),
            "-l".as_ref(),
            log.as_ref(),
        ],
    );
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(output.status.success(), "{log}");
    let config = ours.server.config();
    wait_ready(config);
    assert_same(&check::digests(config), &point.digests, "the restored copy");
    assert_eq!(files(config).len(), of_ours.len());
    check::inside(config, major);
    drop(running);
}

fn assert_same(got: &[String], wanted: &[String], what: &str) {
    let more: Vec<_> = got.iter().filter(|line| !wanted.contains(line)).collect();
    let fewer: Vec<_> = wanted.iter().filter(|line| !got.contains(line)).collect();
    assert!(
        more.is_empty() && fewer.is_empty(),
        "{what} has {more:#?} and not {fewer:#?}"
    );
}

/// PostgreSQL's own replay of its own archive up to a position, from the cold copy.
fn reference(home: &Home, point: &Point) -> Cluster {
    let dir = home.cluster.dir.path();
    // Tablespaces are made anew where home had them: home is stopped for good, and its files there are in the way.
    let spaces = dir.join("spaces");
    for space in std::fs::read_dir(&spaces).into_iter().flatten() {
        for inner in std::fs::read_dir(space.unwrap().path()).unwrap() {
            std::fs::remove_dir_all(inner.unwrap().path()).unwrap();
        }
    }
    let mut reference = Cluster::empty();
    reference.major = home.cluster.major;
    copy(&dir.join("cold"), &reference.data());
    let conf = reference.data().join("postgresql.conf");
    let mut file = std::fs::OpenOptions::new().append(true).open(conf).unwrap();
    writeln!(
        file,
        "port = {}\nunix_socket_directories = '{}'\narchive_mode = off\nhot_standby = off\n\
         restore_command = 'cp {archive}/%f %p 2>/dev/null || cp {pg_wal}/%f %p 2>/dev/null'\n\
         recovery_target_lsn = '{}'\nrecovery_target_inclusive = off\nrecovery_target_action = promote\n\
         recovery_target_timeline = latest",
        reference.port,
        reference.dir.path().display(),
        point.lsn,
        archive = dir.join("archive").display(),
        pg_wal = home.cluster.data().join("pg_wal").display(),
    )
    .unwrap();
    let signal = reference.data().join("recovery.signal");
    std::fs::write(&signal, b"").unwrap();
    crate::cluster::give(&signal);
    reference.start();
    wait_ready(&reference.config());
    reference
}

/// Without hot standby `pg_ctl` takes a server for started as soon as it replays; it takes connections when that is done.
fn wait_ready(config: &ConnectConfig) {
    let done = || {
        let mut conn = Conn::sql(config).ok()?;
        conn.scalar("select not pg_is_in_recovery()").ok()?
    };
    let until = Instant::now() + Duration::from_secs(120);
    while done().as_deref() != Some("t") {
        assert!(Instant::now() < until, "{config} does not get ready");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// After its recovery was done once: what it was told of recovery is of no effect.
fn start_without_recovery(reference: &Cluster) {
    let conf = reference.data().join("postgresql.conf");
    let mut file = std::fs::OpenOptions::new().append(true).open(conf).unwrap();
    writeln!(file, "hot_standby = on").unwrap();
    reference.start();
}

/// A server that was started by hand.
struct Running {
    major: u32,
    data: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        stop(self.major, &self.data);
    }
}

/// At once, as if the power failed: nothing that queries changed gets to the disk.
fn stop(major: u32, data: &Path) {
    let args = ["stop", "-w", "-m", "immediate", "-D"].map(std::ffi::OsStr::new);
    let mut args = args.to_vec();
    args.push(data.as_ref());
    run_of(major, "pg_ctl", &args);
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn long(major: u32) {
    let one = number("LEGATION_SEED");
    let count = number("LEGATION_SEEDS").unwrap_or(SEEDS);
    let seeds = one.map_or(1000..1000 + count, |seed| seed..seed + 1);
    for seed in seeds {
        run(major, seed, LONG);
    }
}

#[test]
fn postgresql_15_seed_1() {
    run(15, 1, WHOLE);
}

#[test]
fn postgresql_15_seed_2() {
    run(15, 2, WHOLE);
}

#[test]
fn postgresql_16_smoke() {
    run(16, 16, SMOKE);
}

#[test]
fn postgresql_17_smoke() {
    run(17, 17, SMOKE);
}

#[test]
fn postgresql_18_smoke() {
    run(18, 18, SMOKE);
}

#[test]
#[ignore = "make test-long"]
fn long_15() {
    long(15);
}

#[test]
#[ignore = "make test-long"]
fn long_16() {
    long(16);
}

#[test]
#[ignore = "make test-long"]
fn long_17() {
    long(17);
}

#[test]
#[ignore = "make test-long"]
fn long_18() {
    long(18);
}
