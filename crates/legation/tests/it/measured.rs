//! What is measured, as a scraper finds it: of the format, true, and without a name too many.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use legation_world::args;
use legation_world::exposition::{self, Samples};
use legation_world::fixtures::Registry;
use legation_world::process::Daemon;
use legation_world::world::World;
use rustix::process::Signal;

use crate::survive::{LONG, small};

/// A free port of this machine.
fn port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn ask(port: u16, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("an answer");
    let (head, body) = said.split_once("\r\n\r\n").expect("a head");
    (
        head.lines().next().expect("a status").to_owned(),
        body.to_owned(),
    )
}

fn scrape(port: u16) -> (Samples, String) {
    let (status, body) = ask(port, "/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    (exposition::parse(&body).expect("the format"), body)
}

/// The value of the one sample of this name whose labels hold this value.
fn value(samples: &Samples, name: &str, label: &str) -> f64 {
    let all = samples.get(name).unwrap_or_else(|| panic!("no {name}"));
    let found: Vec<_> = all
        .iter()
        .filter(|(labels, _)| label.is_empty() || labels.values().any(|is| is == label))
        .collect();
    assert_eq!(found.len(), 1, "{name} of {label:?}: {all:?}");
    found[0].1
}

fn listen(config: &Path) -> u16 {
    let port = port();
    let text = fs::read_to_string(config).expect("a configuration");
    let line = format!("format = 1\nmetrics_listen = \"127.0.0.1:{port}\"");
    assert!(text.contains("format = 1"));
    fs::write(config, text.replacen("format = 1", &line, 1)).expect("written");
    port
}

/// A role with its logs as JSON.
fn role(world: &World, verb: &str, home: &str, config: &str) -> Daemon {
    let config = world.path(config);
    let mut command =
        world
            .legation
            .command(args!["--log-format", "json", verb, "--config", config]);
    let home = world.path(home);
    command.current_dir(&home).env("HOME", &home);
    let log = world.path(&format!("citizens/{verb}.log"));
    Daemon::start(&format!("legation {verb}"), command, &log).expect("a role")
}

/// Every line is an object with the documented fields, and none says a word of these.
fn lines_are_json_without(said: &str, words: &[String]) {
    let mut lines = 0;
    for line in said.lines().filter(|line| !line.is_empty()) {
        let object: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        for field in ["timestamp", "level"] {
            assert!(object[field].is_string(), "no {field}: {line}");
        }
        assert!(
            object["fields"]["message"].is_string(),
            "no message: {line}"
        );
        for word in words {
            assert!(!line.contains(word.as_str()), "{word:?} in {line}");
        }
        lines += 1;
    }
    assert!(lines > 0, "nothing was logged");
}

/// The names in the first column of the documentation's tables.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating/metrics.md");
    let text = fs::read_to_string(path).expect("docs/operating/metrics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .map(str::to_owned)
        .collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn metrics_are_true_and_tell_no_name_abroad() {
    let mut world = small(63, &[Registry::Population, Registry::Gazette]);
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.stop_embassy().expect("stopped");
    let embassy = listen(&world.path("embassy/embassy.toml"));
    world.embassy = Some(role(&world, "embassy", "embassy", "embassy/embassy.toml"));
    world.start_home().expect("a home");
    let agent = listen(&world.path("home/agent/agent.toml"));
    let daemon = role(&world, "agent", "home", "home/agent/agent.toml");
    world.agents.push(daemon);
    world.wait_protected(LONG).expect("versions");

    until("the agent is ready", || {
        ask(agent, "/readyz").0.contains("200")
    });
    assert!(ask(agent, "/healthz").0.contains("200"));
    assert!(ask(embassy, "/readyz").0.contains("200"));
    let (home, _) = scrape(agent);
    assert_eq!(value(&home, "legation_registry_late", "population"), 0.0);
    assert_eq!(
        value(&home, "legation_registry_version", "gazette"),
        world.lag().expect("a status")[&Registry::Gazette]
            .version
            .expect("one") as f64
    );
    assert!(value(&home, "legation_source_lag_seconds", "population") < 10.0);
    assert_eq!(
        value(&home, "legation_registry_objective_seconds", "population"),
        10.0
    );

    // The embassy's: as its own log has it, by opaque ids.
    let copy = world.path("copy");
    let desk = world.path("desk/legation.toml");
    until("the two agree", || {
        let (abroad, _) = scrape(embassy);
        let mirror = args!["--config", desk, "log", "mirror", copy];
        let ran = world.legation.ok(mirror).expect("a copy");
        let size: f64 = ran
            .out
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("entries");
        size == value(&abroad, "legation_embassy_log_entries", "")
    });
    let (abroad, text) = scrape(embassy);
    let gazette = world.id(Registry::Gazette);
    assert!(value(&abroad, "legation_embassy_registry_versions", gazette) >= 1.0);
    assert!(value(&abroad, "legation_embassy_free_bytes", &world.state) > 0.0);
    let requests = &abroad["legation_embassy_requests_total"];
    assert!(
        requests
            .iter()
            .any(|(labels, n)| labels["route"] == "statement"
                && labels["code"] == "201"
                && *n > 0.0),
        "{requests:?}"
    );
    for (labels, _) in abroad.values().flatten() {
        if let Some(state) = labels.get("state") {
            assert_eq!(*state, world.state);
        }
    }
    let place = world.path("embassy");
    let mut words = vec!["127.0.0.1".to_owned(), place.display().to_string()];
    for registry in [Registry::Population, Registry::Gazette] {
        words.extend([
            registry.name().to_owned(),
            registry.shape().title.to_owned(),
        ]);
    }
    for word in &words {
        assert!(
            !text.contains(word.as_str()),
            "the embassy's metrics say {word:?}"
        );
    }

    // What is served is documented, and nothing else is.
    let served: BTreeSet<_> = home.keys().chain(abroad.keys()).cloned().collect();
    let documented = documented();
    let unsaid: Vec<_> = served.difference(&documented).collect();
    assert!(
        unsaid.is_empty(),
        "not in docs/operating/metrics.md: {unsaid:?}"
    );

    // Nothing arrives because the database is gone: that is lag as well.
    let cluster = world
        .clusters
        .get_mut(&Registry::Population)
        .expect("a cluster");
    for pid in cluster.pids() {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, Signal::STOP).expect("stopped");
    }
    let lag = || {
        value(
            &scrape(agent).0,
            "legation_source_lag_seconds",
            "population",
        )
    };
    until("silence counts as lag", || lag() > 10.0);
    assert_eq!(
        value(&scrape(agent).0, "legation_registry_late", "population"),
        1.0
    );
    assert!(ask(agent, "/readyz").0.contains("503"));
    let cluster = &world.clusters[&Registry::Population];
    for pid in cluster.pids() {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, Signal::CONT).expect("goes on");
    }
    until("it is over", || lag() < 10.0);

    // What they logged meanwhile, trouble included.
    let port = fs::read_to_string(world.path("embassy/embassy.toml")).expect("a configuration");
    let listen = port
        .lines()
        .find(|line| line.starts_with("listen = "))
        .expect("listen");
    let digits = |c: char| !c.is_ascii_digit();
    let port = listen
        .trim_end_matches(digits)
        .rsplit(digits)
        .next()
        .expect("a port");
    let address = format!("127.0.0.1:{port}");
    assert!(listen.contains(&address));
    lines_are_json_without(&world.agents[0].said(), &[address]);
    lines_are_json_without(&world.embassy.as_ref().expect("an embassy").said(), &words);
}

#[test]
fn alerts_speak_of_what_is_served() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating");
    let alerts = fs::read_to_string(docs.join("alerts.yml")).expect("alerts.yml");
    let documented = documented();
    let words = alerts.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names: BTreeSet<_> = words.filter(|word| word.starts_with("legation_")).collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(
            documented.contains(name),
            "alerts.yml asks for {name}, which nobody serves"
        );
    }
}
