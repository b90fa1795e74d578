//! An activation on a bad day: something is missing, a registry fails its own probe, and whoever stops it is impatient.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use legation_world::fixtures::Registry;
use legation_world::world::{Live, Order, World};
use legation_world::{args, auditor, pg};
use rustix::process::Signal;

use crate::survive::{self, LONG};

/// Answers false, after as long as somebody needs to try the door meanwhile.
const FALSE: &str = "select pg_sleep(3) is null";

/// Processes that were started from, or work in, this directory.
fn running_in(dir: &Path) -> Vec<String> {
    let name = dir.to_string_lossy().into_owned();
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains("postgres") && line.contains(&name))
        .collect()
}

/// A state whose population answers its own probe with no.
fn doubtful() -> World {
    let mut world = survive::small(
        11,
        &[Registry::Population, Registry::Treasury, Registry::Gazette],
    );
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    let config = world.path("home/agent/agent.toml");
    let text = fs::read_to_string(&config).expect("agent.toml");
    let own = Registry::Population.probe();
    assert!(text.contains(own), "{text}");
    fs::write(&config, text.replace(own, FALSE)).expect("writing agent.toml");
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("first versions");
    world
}

fn approved(world: &World) -> Order {
    let order = world.order_activate("order", &[]).expect("an order");
    for officer in [0, 1, 3].map(|n| &world.officers[n]) {
        let ran = world.approve(&order, officer).expect("ssh-keygen");
        ran.ok().expect("an approval");
    }
    order
}

fn release(world: &World, order: &Order) {
    let officers = [0, 1, 3].map(|n| &world.officers[n]);
    let ran = world.submit(order, &officers).expect("submit");
    ran.ok().expect("an accepted order");
    let ran = world.release(order, &officers).expect("release");
    ran.ok().expect("a release");
    world.deliver(order).expect("deliver").ok().expect("keys");
}

/// What is missing is told together, before anybody is asked for a share.
fn missing(world: &World, order: &Order, port: u16) {
    let config = world.path("embassy/embassy.toml");
    let text = fs::read_to_string(&config).expect("embassy.toml");
    let nobody = config.with_file_name("nobody.toml");
    let text = match text.contains("run_as") {
        true => text.replace("run_as = \"postgres\"", "run_as = \"no-such-user\""),
        false => format!("{text}run_as = \"no-such-user\"\n"),
    };
    let listen = text.lines().find(|l| l.starts_with("listen"));
    let number = listen
        .and_then(|l| l.split(['"', ':']).nth(2))
        .expect("a port");
    let text = text.replace(
        &format!("127.0.0.1:{number}"),
        &format!("localhost:{number}"),
    );
    fs::write(&nobody, text).expect("a configuration");
    let held = TcpListener::bind(("127.0.0.1", port)).expect("the first port");
    let dry = world
        .legation
        .run(args![
            "activate",
            "--order",
            order.text,
            "--config",
            nobody,
            "--dry-run"
        ])
        .expect("activate");
    assert_eq!(dry.code, 1, "{}{}", dry.out, dry.err);
    for word in ["no-such-user", &port.to_string(), "not in the log yet"] {
        assert!(dry.out.contains(word), "{word}: {}", dry.out);
    }
    let real = world
        .legation
        .run(args!["activate", "--order", order.text, "--config", nobody])
        .expect("activate");
    assert_eq!(real.code, 1, "{}", real.err);
    assert!(real.err.contains("no-such-user") && real.err.contains(&port.to_string()));
    assert!(real.err.contains("hint: "), "{}", real.err);
    drop(held);

    // Nothing is missing; a program is told all of the plan.
    let dry = || {
        let order = ["--order".as_ref(), order.text.as_os_str()];
        let all = args!["activate", "--config", config, "--dry-run", "--json"];
        world
            .legation
            .command(all.iter().map(|a| a.as_os_str()).chain(order))
    };
    let plan = dry().output().expect("activate");
    assert!(plan.status.success(), "{plan:?}");
    let out = String::from_utf8_lossy(&plan.stdout).into_owned();
    let records = legation_world::cli::records(&out).expect("records");
    assert_eq!(records[0]["message_type"], "order");
    assert_eq!(records[0]["accepted"], false);
    let plans = records.iter().filter(|r| r["message_type"] == "plan");
    for plan in plans.clone() {
        assert!(plan["memory_at_least"].as_u64() > plan["bytes"].as_u64());
    }
    assert_eq!(plans.count(), 3);
    let mut other = dry();
    let other = other
        .env("LEGATION_IDENTITY", world.path("no.key"))
        .output();
    let other = other.expect("activate");
    assert_eq!(other.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&other.stderr).contains("no.key"));
}

/// Waits until the program says that it has started what it could; tries every door until then. Returns whether a door
/// was there that let nobody in.
fn knock(live: &mut Live, world: &World, ports: &[u16]) -> bool {
    let until = Instant::now() + LONG;
    let mut kept_out = false;
    loop {
        let records = live.records();
        if records.iter().any(|r| r["message_type"] == "activated") {
            return kept_out;
        }
        assert!(Instant::now() < until, "{}", live.said());
        for &port in ports {
            let there = TcpStream::connect(("127.0.0.1", port)).is_ok();
            let name = Registry::Population.name();
            let entered = pg::session(port, pg::SUPERUSER, world.password(), name);
            kept_out |= there && entered.is_err();
            assert!(entered.is_err(), "population let a client in");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_unfit_registry_stays_shut_and_impatience_leaves_no_plaintext() {
    let mut world = doubtful();
    let config = fs::read_to_string(world.path("embassy/embassy.toml")).expect("embassy.toml");
    let port = config.lines().find_map(|l| l.strip_prefix("port = "));
    let port: u16 = port.expect("a port").parse().expect("a port");
    for mut agent in world.agents.drain(..) {
        agent.stop(Signal::TERM).expect("the agent stops");
    }
    let order = approved(&world);
    missing(&world, &order, port);

    let mut live = world.activate(&order.text).expect("activate");
    release(&world, &order);
    let kept_out = knock(&mut live, &world, &[port, port + 1]);
    assert!(kept_out, "nobody was kept out: the probe was too quick");
    let records = live.records();
    let of = |kind: &str| -> Vec<_> {
        let named = records.iter().filter(|r| r["message_type"] == kind);
        named.map(|r| r["registry"].to_string()).collect()
    };
    assert_eq!(of("failed"), ["\"population\""], "{}", live.said());
    assert_eq!(of("serving").len(), 2, "{}", live.said());
    assert!(live.said().contains("not so: the registry's own probe"));
    let treasury = records
        .iter()
        .find(|r| r["message_type"] == "serving" && r["registry"] == "treasury")
        .and_then(|r| r["port"].as_u64())
        .expect("treasury's port");
    let name = Registry::Treasury.name();
    let treasury = u16::try_from(treasury).expect("a port");
    pg::session(treasury, pg::SUPERUSER, world.password(), name).expect("treasury serves");
    let shut = port + u16::from(treasury == port);
    assert!(TcpStream::connect(("127.0.0.1", shut)).is_err());

    let place = world.live_path();
    assert!(place.join("gazette").is_dir() && !running_in(&place).is_empty());
    live.signal(Signal::TERM);
    live.signal(Signal::INT);
    let ended = live.wait(LONG).expect("an end");
    assert_eq!(ended.code(), Some(1), "{}", live.said());
    let records = live.records();
    let sealed = records.iter().find(|r| r["message_type"] == "sealed");
    let sealed = sealed.unwrap_or_else(|| panic!("not sealed: {}", live.said()));
    assert_eq!(sealed["wiped"], true);
    assert!(!place.join("gazette").exists() && !place.join("treasury").exists());
    assert_eq!(running_in(&place), Vec::<String>::new());

    let mirror = world.path("desk/log-at-the-end");
    let ran = world.mirror_log(&mirror).expect("mirror");
    ran.ok().expect("a copy of the log");
    let log = auditor::read(&mirror).expect("a log");
    assert_eq!(log.statements("sealed")[0]["cause"], "signal");
    let reports = log.statements("report");
    let of = |registry| {
        let id = world.id(registry);
        let report = reports.iter().find(|r| r["registry"] == id);
        report.expect("a report")["verdict"].to_string()
    };
    assert!(of(Registry::Population).contains("failed"));
    assert!(of(Registry::Treasury).contains("intact"));

    // Home is silent, and the desk notices: what a tier of 10 seconds has abroad becomes too old.
    let until = Instant::now() + LONG;
    loop {
        let ran = world
            .legation
            .run(args!["status", "--check", "--config", world.person()])
            .expect("status");
        if ran.code == 7 {
            assert!(ran.err.contains("is older abroad"), "{}", ran.err);
            assert!(ran.out.contains("population") && ran.out.contains("LATE"));
            break;
        }
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(Instant::now() < until, "it is never late: {}", ran.out);
    }
    world.stop_embassy().expect("the embassy stops");
}
