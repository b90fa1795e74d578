//! What takes a PostgreSQL: a server that cannot be captured, targets out of reach, grants for another registry, root.

use std::fs;
use std::time::{Duration, Instant};

use legation_world::args;
use legation_world::fixtures::Registry;
use legation_world::pg::SUPERUSER;
use legation_world::process::Ran;
use legation_world::world::World;

use super::{Checks, FIRST, desk, founded, still_whole, stop_agents};

/// Runs SQL as the server's administrator, then restarts it.
fn administer(world: &mut World, sql: &[&str]) {
    let cluster = world
        .clusters
        .get_mut(&Registry::Population)
        .expect("a cluster");
    let mut admin = cluster.connect(SUPERUSER, "postgres").expect("connecting");
    for one in sql {
        admin.batch_execute(one).expect("setting");
    }
    drop(admin);
    cluster.stop_fast().expect("stopping the server");
    cluster.start().expect("starting the server");
}

/// Waits until the agent, which goes on trying, tells the trouble of population; or ends.
fn trouble(world: &mut World, word: &str) -> String {
    let until = Instant::now() + Duration::from_secs(60);
    let mut last = String::new();
    while Instant::now() < until {
        if world.agents.iter_mut().any(|agent| agent.ended().is_some()) {
            break;
        }
        last = world
            .lag()
            .map(|all| {
                all.get(&Registry::Population)
                    .map(|lag| lag.raw.to_string())
                    .unwrap_or_default()
            })
            .unwrap_or_default();
        if last.contains(word) {
            return last;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let said = world.agents.iter().map(|a| a.said()).collect::<String>();
    format!("{last}\n{said}")
}

#[test]
fn bad_databases_and_targets_are_refused() {
    let mut checks = Checks::default();
    let mut world = founded(&[Registry::Population, Registry::Gazette]);
    administer(
        &mut world,
        &[
            "alter system set archive_mode = off",
            "alter system set max_wal_senders = 0",
            "alter system set wal_level = minimal",
        ],
    );
    world.start_agent().expect("starting the agent");
    let told = trouble(&mut world, "wal_level");
    checks.hold(
        &format!("wal_level=minimal is told with its fix: {told}"),
        told.contains("wal_level is minimal")
            && told.contains("ALTER SYSTEM SET wal_level = replica"),
    );
    stop_agents(&mut world);
    administer(&mut world, &["alter system reset all"]);
    world.start_agent().expect("starting the agent");
    world
        .wait_protected(FIRST)
        .expect("a version abroad, once it is mended");
    stop_agents(&mut world);
    still_whole(&world, &mut checks, "after a bad database");
    targets(&world, &mut checks);
    root(&world, &mut checks);
    checks.end();
}

fn targets(world: &World, checks: &mut Checks) {
    let to = world.path("desk/restored");
    let restore = |lsn: &str, more: &[std::ffi::OsString]| {
        let mut all = args!["restore", "population", "--to", to, "--target-lsn", lsn].to_vec();
        all.extend_from_slice(more);
        desk(world, all)
    };
    let window = &["cannot be reached", "reaches from 0/", " to 0/"];
    let dry = args!["--dry-run"];
    checks.check(
        "planning beyond what is kept",
        restore("FF/0", &dry),
        1,
        window,
    );
    checks.check("planning before the base", restore("0/1", &dry), 1, window);
    checks.check(
        "a target that is no position",
        restore("yesterday", &dry),
        2,
        &["yesterday", "--target-lsn"],
    );
    let grant = released(world, "population-grant", "population");
    let order = args!["--order", grant];
    checks.check(
        "restoring beyond what is kept",
        restore("FF/0", &order),
        1,
        window,
    );
    checks.check(
        "restoring to before the base",
        restore("0/1", &order),
        1,
        window,
    );
    checks.hold("no directory was made", !to.exists());
    let ran = desk(world, args!["ls", "gazette", "--order", grant]);
    checks.check(
        "a grant for another registry",
        ran,
        8,
        &["is not for gazette", "legation order new grant"],
    );
    let gazette = released(world, "gazette-grant", "gazette");
    let ran = desk(
        world,
        args![
            "restore",
            "gazette",
            "--to",
            to,
            "--order",
            gazette,
            "--target-lsn",
            "0/5A1C2E80"
        ],
    );
    checks.check("a position of what has none", ran, 2, &["has no WAL"]);
    checks.hold("no directory was made for it", !to.exists());
}

/// A grant with its keys.
fn released(world: &World, name: &str, registry: &str) -> std::path::PathBuf {
    let officers = [1, 2, 4].map(|n| &world.officers[n - 1]);
    let grant = world.order_grant(name, registry).expect("writing a grant");
    for officer in officers {
        world
            .approve(&grant, officer)
            .and_then(Ran::ok)
            .expect("approving");
    }
    world
        .submit(&grant, &officers)
        .and_then(Ran::ok)
        .expect("submitting");
    world
        .release(&grant, &officers)
        .and_then(Ran::ok)
        .expect("releasing");
    grant.text
}

/// PostgreSQL does not run as root; that is said before anybody is asked for a share.
fn root(world: &World, checks: &mut Checks) {
    if world.programs.run_as().is_none() {
        return;
    }
    let order = world
        .order_activate("start", &[])
        .expect("writing an order");
    let config = world.path("embassy/embassy.toml");
    let text = fs::read_to_string(&config).expect("reading embassy.toml");
    let without = config.with_file_name("root.toml");
    fs::write(&without, text.replace("run_as = \"postgres\"\n", ""))
        .expect("writing a configuration");
    let ran = world.legation.run(args![
        "activate", "--order", order.text, "--config", without
    ]);
    checks.check(
        "PostgreSQL as root",
        ran,
        2,
        &["does not run as root", "activation.run_as = \"postgres\""],
    );
    checks.hold(
        "no volume is left",
        !world.live_path().join("population").exists(),
    );
    let nobody = config.with_file_name("nobody.toml");
    fs::write(
        &nobody,
        text.replace("run_as = \"postgres\"", "run_as = \"no-such-user\""),
    )
    .expect("writing a configuration");
    let ran = world
        .legation
        .run(args!["activate", "--order", order.text, "--config", nobody]);
    checks.check("PostgreSQL as nobody known", ran, 1, &["no-such-user"]);
}
