//! The log: cut short or forked behind everybody's back, and filled with what the mandate does not allow.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use legation_core::keys::SigningKey;
use legation_core::statement::{Cause, Gap, Signed};
use legation_world::args;
use legation_world::cli::stock;
use legation_world::fixtures::Registry;
use legation_world::process::Ran;
use legation_world::world::World;

use super::{Checks, FIRST, desk, past};

/// Longest time in which an agent must notice.
const NOTICE: Duration = Duration::from_secs(60);

/// A copy of the store while the log is short; then home changes until another version is abroad.
pub fn keep_early(world: &mut World, checks: &mut Checks) -> PathBuf {
    let version = |world: &World| {
        world
            .lag()
            .ok()
            .and_then(|all| all.get(&Registry::Gazette)?.version)
    };
    let early = world.path("early");
    world.stop_embassy().expect("stopping the embassy");
    copy(&world.store(), &early);
    world.start_embassy().expect("starting the embassy");
    let before = version(world);
    fs::write(world.press().root.join("one-more-act.xml"), "<act/>\n")
        .expect("changing the gazette");
    let until = Instant::now() + FIRST;
    while version(world) <= before && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    checks.hold("a second version went abroad", version(world) > before);
    let ran = desk(world, args!["versions"]);
    checks.check("the desk has seen the longer log", ran, 0, &["gazette"]);
    early
}

fn copy(from: &Path, to: &Path) {
    stock("cp", args!["-a", from, to], b"")
        .and_then(Ran::ok)
        .expect("copying a store");
}

/// Runs the embassy on another store in place of its own, then puts its own back.
fn instead(world: &mut World, store: &Path, then: impl FnOnce(&mut World)) {
    let own = world.path("embassy/own");
    world.stop_embassy().expect("stopping the embassy");
    fs::rename(world.store(), &own).expect("moving the store away");
    copy(store, &world.store());
    world.start_embassy().expect("starting the embassy");
    then(world);
    world.stop_embassy().expect("stopping the embassy");
    fs::remove_dir_all(world.store()).expect("removing the other store");
    fs::rename(&own, world.store()).expect("moving the store back");
    world.start_embassy().expect("starting the embassy");
}

/// The agent and the desk meet a log that contradicts what they hold.
fn noticed(world: &mut World, checks: &mut Checks, what: &str) {
    world.start_agent().expect("starting the agent");
    let mut agent = world.agents.pop().expect("an agent");
    let ended = agent.wait(NOTICE).and_then(|status| status.code());
    let said = agent.said();
    let tail: Vec<_> = said.lines().rev().take(4).collect();
    checks.hold(
        &format!("{what}: the agent ends with 4, not {ended:?}: {tail:?}"),
        ended == Some(4),
    );
    let told = tail.iter().any(|l| l.contains("contradicts"))
        && tail.iter().any(|l| l.contains("both halves are kept in"));
    checks.hold(&format!("{what}: the agent says so: {tail:?}"), told);
    checks.hold(
        &format!("{what}: the agent keeps both halves"),
        evidence(&world.path("home/agent/spool/trust")) >= 2,
    );
    let ran = desk(world, args!["versions"]);
    checks.check(
        &format!("{what}: the desk refuses"),
        ran,
        4,
        &["contradicts", "both are kept", "auditor"],
    );
    checks.hold(
        &format!("{what}: the desk keeps both halves"),
        evidence(&world.path("desk/trust")) >= 2,
    );
}

fn evidence(dir: &Path) -> usize {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter(|e| e.file_name().to_string_lossy().contains(".evidence-"))
        .count()
}

pub fn set_back(world: &mut World, checks: &mut Checks, early: &Path) {
    instead(world, early, |world| {
        noticed(world, checks, "a log cut short")
    });
    let ran = desk(world, args!["versions"]);
    checks.check("the true log is believed again", ran, 0, &["gazette"]);
}

/// Another history of the same length or more, signed by the same embassy.
pub fn forked(world: &mut World, checks: &mut Checks, early: &Path) {
    let text = fs::read_to_string(world.path("desk/first.txt")).expect("reading an order");
    let text = text
        .lines()
        .map(|line| match line.strip_prefix("log-head: ") {
            Some(_) => format!("log-head: 1 {}\n", "00".repeat(32)),
            None => format!("{line}\n"),
        });
    let text: String = text.collect();
    let order = text
        .lines()
        .find_map(|l| l.strip_prefix("order: "))
        .expect("a name")
        .to_owned();
    let held = log_size(world);
    instead(world, early, |world| {
        // Somebody who never saw the longer log fills the other one: every refused order leaves an entry.
        let naive = world.path("desk/naive.toml");
        let person = fs::read_to_string(world.person()).expect("reading legation.toml");
        fs::write(&naive, person.replace("\"trust\"", "\"trust-naive\""))
            .expect("writing a configuration");
        let mut index = 0;
        for n in 0.. {
            let name = format!("{}{n:08x}", &order[..order.len() - 8]);
            let signed = Signed::unsigned(text.replacen(&order, &name, 1)).expect("an order");
            let refused = past::submit(&naive, &signed);
            checks.hold(
                "an order without approvals is refused",
                refused.is_err_and(|why| why.code as u8 == 5),
            );
            index += 1;
            if index > held || index > 60 {
                break;
            }
        }
        noticed(world, checks, "a forked log");
    });
}

fn log_size(world: &World) -> u64 {
    let mirror = world.path("desk/log-size");
    world
        .mirror_log(&mirror)
        .and_then(Ran::ok)
        .expect("copying the log");
    legation_world::auditor::read(&mirror)
        .expect("reading the log")
        .size
}

/// An embassy that takes anything: whoever replays its log names each thing that it should not have taken.
pub fn without_admission(world: &mut World, checks: &mut Checks) {
    world.stop_embassy().expect("stopping the embassy");
    world
        .extra
        .insert("embassy", vec![("LEGATION_TEST_ADMISSION", "off".into())]);
    world.start_embassy().expect("starting the embassy");
    let person = world.person();
    let mut bad = Vec::new();
    let mut take =
        |checks: &mut Checks, name: &str, words: &'static str, signed: &Signed| match past::submit(
            &person, signed,
        ) {
            Ok(index) => bad.push((index, words)),
            Err(why) => checks.hold(
                &format!("{name} is taken when admission is off: {why}"),
                false,
            ),
        };
    let fresh = world
        .order_activate("unchecked", &[])
        .expect("writing an order");
    take(
        checks,
        "an order with two approvals",
        "2 approvals, 3 needed",
        &past::signed(world, &fresh.text, &[1, 4]),
    );
    let text = fs::read_to_string(&fresh.text).expect("reading an order");
    let edited = |name: &str, old: &str, new: &str| {
        assert!(text.contains(old), "the order has no {old:?}");
        let path = world.path(&format!("desk/{name}.txt"));
        fs::write(&path, text.replacen(old, new, 1)).expect("writing an order");
        path
    };
    let reworded = edited(
        "unchecked-reworded",
        "for reading and writing",
        "for reading only",
    );
    take(
        checks,
        "a re-worded order",
        "the sentence is not what the fields say",
        &past::signed(world, &reworded, &[1, 2, 4]),
    );
    let amended = edited("unchecked-amended", "mandate: 1", "mandate: 2");
    take(
        checks,
        "an order under a mandate nobody amended",
        "mandate",
        &past::signed(world, &amended, &[1, 2, 4]),
    );
    let gap = Gap {
        state: world.state.parse().expect("a state"),
        mandate: 1,
        registry: world.id(Registry::Gazette).parse().expect("an id"),
        term: "1".parse().expect("a term"),
        timeline: None,
        wal: None,
        cause: Cause::AgentLost,
        at: "2026-11-22T09:41:07.318Z".parse().expect("a time"),
    };
    let stranger = SigningKey::from_seed(&[9; 64]).expect("a key");
    take(
        checks,
        "a stranger's gap",
        "names no key",
        &Signed::sign_with(gap, &stranger).expect("signing"),
    );
    let mirror = world.path("desk/log-bad");
    checks.check("a bad log is copied", world.mirror_log(&mirror), 0, &[]);
    let ran = world.legation.run(args!["log", "verify", mirror]);
    let count = format!("{} outside the mandate", bad.len());
    if let Some(ran) = checks.check("a bad log", ran, 8, &[&count, "evidence"]) {
        for (index, words) in &bad {
            let line = ran
                .out
                .lines()
                .find(|line| line.starts_with(&format!("entry {index}: ")));
            checks.hold(
                &format!("entry {index} is named with {words:?}: {line:?}"),
                line.is_some_and(|line| line.contains(words)),
            );
        }
    }
    let ran = desk(
        world,
        args![
            "order",
            "new",
            "grant",
            "gazette",
            "--out",
            world.path("desk/never.txt")
        ],
    );
    checks.check(
        "no order is written on a bad log",
        ran,
        8,
        &["outside the mandate", "legation log verify"],
    );
    checks.hold(
        "no order was written",
        !world.path("desk/never.txt").exists(),
    );
    world.stop_embassy().expect("stopping the embassy");
    world.extra.clear();
    let ran = world.legation.run(args![
        "embassy",
        "--config",
        world.path("embassy/embassy.toml")
    ]);
    checks.check(
        "an honest embassy does not serve such a log",
        ran,
        4,
        &["does not replay", "keep it as evidence"],
    );
    let ran = world
        .legation
        .run(args!["verify", "--store", world.store()]);
    checks.check(
        "the store is whole all the same",
        ran,
        0,
        &["every byte as it was stored"],
    );
}
