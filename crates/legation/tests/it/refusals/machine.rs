//! The machine: configuration, permissions, ports, locks, formats, and nothing where something should be.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use legation_world::args;
use legation_world::cli::stock;
use legation_world::process::Ran;
use legation_world::world::World;

use super::{Checks, desk, stop_agents};

/// A copy of a configuration file beside it, changed.
pub fn changed(path: &Path, name: &str, old: &str, new: &str) -> PathBuf {
    let text = fs::read_to_string(path).expect("reading a configuration");
    assert!(text.contains(old), "{} has no {old:?}", path.display());
    let copy = path.with_file_name(name);
    fs::write(&copy, text.replacen(old, new, 1)).expect("writing a configuration");
    copy
}

pub fn configuration(world: &World, checks: &mut Checks) {
    let agent = world.path("home/agent/agent.toml");
    let embassy = world.path("embassy/embassy.toml");
    let person = world.person();
    for (verb, path, old, new, suggestion) in [
        (
            "agent",
            &agent,
            "[spool]\npath",
            "[spool]\npaht",
            "did you mean \"path\"?",
        ),
        (
            "agent",
            &agent,
            "tier = ",
            "teir = ",
            "did you mean \"tier\"?",
        ),
        (
            "embassy",
            &embassy,
            "listen = ",
            "lisen = ",
            "did you mean \"listen\"?",
        ),
        (
            "embassy",
            &embassy,
            "reserve = ",
            "reserv = ",
            "did you mean \"reserve\"?",
        ),
        (
            "versions",
            &person,
            "locators = ",
            "locator = ",
            "did you mean \"locators\"?",
        ),
        (
            "agent",
            &agent,
            "format = 1",
            "format = 2",
            "reads format 1",
        ),
        (
            "embassy",
            &embassy,
            "format = 1",
            "format = 2",
            "reads format 1",
        ),
        (
            "versions",
            &person,
            "format = 1",
            "format = 2",
            "reads format 1",
        ),
        ("agent", &agent, "format = 1", "format = ", ":1:"),
    ] {
        let bad = changed(path, "bad.toml", old, new);
        let ran = world.legation.run(args![verb, "--config", bad]);
        checks.check(&format!("{verb}: {new}"), ran, 2, &["bad.toml", suggestion]);
    }
    for verb in ["agent", "embassy", "versions"] {
        let nowhere = world.path("desk/nowhere.toml");
        let ran = world.legation.run(args![verb, "--config", nowhere]);
        checks.check(
            &format!("{verb} without configuration"),
            ran,
            2,
            &["nowhere.toml"],
        );
    }
    let other = changed(
        &agent,
        "bad.toml",
        &world.state,
        &format!("{}q", &world.state[..world.state.len() - 1]),
    );
    if !world.state.ends_with('q') {
        let ran = world.legation.run(args!["agent", "--config", other]);
        checks.check(
            "an agent of another state",
            ran,
            8,
            &["founds the state", "compare"],
        );
    }
    all_at_once(world, checks);
    checks.check(
        "an unknown verb",
        world.legation.run(args!["verison"]),
        2,
        &["version"],
    );
}

/// `config check` says what the role would refuse at its start, all of it.
fn all_at_once(world: &World, checks: &mut Checks) {
    let agent = world.path("home/agent/agent.toml");
    let embassy = world.path("embassy/embassy.toml");
    let person = world.person();
    let check = |config: &Path| {
        world
            .legation
            .run(args!["config", "check", "--config", config])
    };
    for good in [&agent, &embassy, &person] {
        checks.check("a good configuration", check(good), 0, &["well-formed"]);
    }
    let open = world.path("home/agent/open.toml");
    fs::copy(world.path("home/agent/locators.toml"), &open).expect("copying locators");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("opening a file");
    let bad = changed(&agent, "bad-agent.toml", &world.state, "lgn1-nowhere");
    let bad = changed(&bad, "bad-agent.toml", "id = \"r-", "id = \"x-");
    let bad = changed(&bad, "bad-agent.toml", "locators.toml", "open.toml");
    let words = &[
        "state \"lgn1-nowhere\"",
        "id \"x-",
        "open.toml has mode 0644",
        "registries.toml",
    ];
    checks.check("a bad agent's configuration", check(&bad), 2, words);
    let bad = changed(&embassy, "bad-embassy.toml", "embassy.key", "absent.key");
    let bad = changed(&bad, "bad-embassy.toml", "mandate.signed", "absent.signed");
    let words = &[
        "absent.key",
        "embassy --init",
        "absent.signed",
        "mandate.keys",
    ];
    checks.check("a bad embassy's configuration", check(&bad), 2, words);
    let bad = changed(&person, "bad-legation.toml", "desk.key", "absent.key");
    let bad = changed(&bad, "bad-legation.toml", "registries.toml", "absent.toml");
    let words = &[
        "absent.key",
        "legation officer new NAME --client",
        "absent.toml",
    ];
    checks.check("a bad desk's configuration", check(&bad), 2, words);
    let nowhere = world.path("desk/nowhere.toml");
    let ran = world.legation.run(args!["status", "--config", nowhere]);
    checks.check(
        "status without configuration",
        ran,
        2,
        &["hint: ", "agent.toml"],
    );
    let state = world.path("desk/bad-state.toml");
    fs::write(&state, "format = 1\ngenerashions = 8\n").expect("writing state.toml");
    let out = world.path("desk/never-founded");
    let ran = world.legation.run(args![
        "ceremony", "found", state, "--need", "3", "--of", "5", "--abroad", "1", "--out", out
    ]);
    checks.check(
        "a typo in state.toml",
        ran,
        2,
        &["did you mean \"generations\"?"],
    );
}

pub fn files(world: &World, checks: &mut Checks) {
    let agent = world.path("home/agent/agent.toml");
    let embassy = world.path("embassy/embassy.toml");
    for (verb, config, file) in [
        ("agent", agent.clone(), world.path("home/agent/agent.key")),
        ("agent", agent, world.path("home/agent/locators.toml")),
        ("embassy", embassy, world.path("embassy/embassy.key")),
        ("versions", world.person(), world.path("desk/desk.key")),
        ("versions", world.person(), world.path("desk/locators.toml")),
    ] {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("opening a file");
        let ran = world.legation.run(args![verb, "--config", config]);
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let ran = checks.check(
            &format!("{verb}: {name} open to others"),
            ran,
            2,
            &["has mode 0644", "chmod 600", &name],
        );
        let address = ran.is_some_and(|ran| ran.err.contains("127.0.0.1"));
        checks.hold(&format!("{verb}: no address is told"), !address);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("closing a file");
    }
    let nowhere = world.path("nowhere");
    let ran = world.legation.run(args!["verify", "--store", nowhere]);
    checks.check("no store there", ran, 10, &["nowhere", "embassy.toml"]);
    let ran = world.legation.run(args!["log", "verify", nowhere]);
    checks.check("no log there", ran, 10, &["nowhere"]);
    formats(world, checks);
}

/// The embassy's configuration, listening on whatever port is free.
fn elsewhere(world: &World, name: &str) -> PathBuf {
    let path = world.path("embassy/embassy.toml");
    let text = fs::read_to_string(&path).expect("reading embassy.toml");
    let listen = text.lines().find(|l| l.starts_with("listen"));
    changed(
        &path,
        name,
        listen.expect("listen"),
        "listen = [\"127.0.0.1:0\"]",
    )
}

/// Stores and packs of a format that this program does not know.
fn formats(world: &World, checks: &mut Checks) {
    let copy = world.path("formats");
    stock("cp", args!["-a", world.store(), copy], b"")
        .and_then(Ran::ok)
        .expect("copying the store");
    let format = copy.join(&world.state).join("FORMAT");
    let text = fs::read_to_string(&format).expect("reading FORMAT");
    let config = changed(
        &elsewhere(world, "formats.toml"),
        "formats.toml",
        "path = \"store\"",
        &format!("path = \"{}\"", copy.display()),
    );
    for (name, old, new) in [
        ("format", "format: 1", "format: 2"),
        ("suite", "suite: 1", "suite: 9"),
    ] {
        assert!(text.contains(old), "FORMAT is {text:?}");
        fs::write(&format, text.replacen(old, new, 1)).expect("writing FORMAT");
        let words = &[world.state.as_str(), name, "1"];
        checks.check(
            &format!("a store of an unknown {name}"),
            world.legation.run(args!["verify", "--store", copy]),
            4,
            words,
        );
        checks.check(
            &format!("an embassy on a store of an unknown {name}"),
            world.legation.run(args!["embassy", "--config", config]),
            4,
            words,
        );
    }
    fs::write(&format, &text[..4]).expect("writing FORMAT");
    checks.check(
        "a FORMAT file cut short",
        world.legation.run(args!["verify", "--store", copy]),
        4,
        &["FORMAT"],
    );
    fs::remove_file(&format).expect("removing FORMAT");
    checks.check(
        "an embassy on content without FORMAT",
        world.legation.run(args!["embassy", "--config", config]),
        4,
        &["no FORMAT file"],
    );
    fs::write(&format, &text).expect("writing FORMAT");

    let mut packs = Vec::new();
    files_below(&copy.join(&world.state).join("object/pack"), &mut packs);
    let pack = packs
        .into_iter()
        .find(|p| p.extension().is_none())
        .expect("a pack");
    let mut bytes = fs::read(&pack).expect("reading a pack");
    let name = pack
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    bytes[10] = 9;
    fs::write(&pack, &bytes).expect("writing a pack");
    let ran = world.legation.run(args!["verify", "--store", copy]);
    checks.check(
        "a pack whose suite was changed",
        ran,
        4,
        &[&name, "bytes 0..", "another copy"],
    );
    // Under the name that fits its bytes: only the header tells.
    let other = legation_core::id::Digest::of(&bytes).to_string();
    let dir = pack
        .parent()
        .and_then(Path::parent)
        .expect("a directory")
        .join(&other[..2]);
    fs::create_dir_all(&dir).expect("making a directory");
    let (tree, _) = (pack.with_extension("tree"), fs::remove_file(&pack));
    let _ = fs::remove_file(tree);
    fs::write(dir.join(&other), &bytes).expect("writing a pack");
    let ran = world.legation.run(args!["verify", "--store", copy]);
    checks.check(
        "a pack of an unknown suite",
        ran,
        4,
        &[&other[..8], "suite 9"],
    );
    fs::remove_dir_all(&copy).expect("removing the copy");
}

fn files_below(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), into),
            _ => into.push(entry.path()),
        }
    }
}

pub fn processes(world: &mut World, checks: &mut Checks) {
    let embassy = world.path("embassy/embassy.toml");
    let ran = world.legation.run(args!["embassy", "--config", embassy]);
    checks.check(
        "the same embassy again",
        ran,
        1,
        &["in use", "stop the other process"],
    );
    let second = elsewhere(world, "second.toml");
    let ran = world.legation.run(args!["embassy", "--config", second]);
    checks.check(
        "a second embassy on the store",
        ran,
        11,
        &["is locked", "stop it first"],
    );
    world.start_agent().expect("starting the agent");
    let agent = world.path("home/agent/agent.toml");
    let spool = world.path("home/agent/spool");
    let until = std::time::Instant::now() + super::FIRST;
    // The first agent says that it runs once it holds the spool.
    while !world
        .agents
        .iter()
        .any(|a| a.said().matches("the agent runs").count() >= 2)
        && std::time::Instant::now() < until
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let ran = world.legation.run(args!["agent", "--config", agent]);
    checks.check(
        "a second agent on the spool",
        ran,
        11,
        &[&*spool.to_string_lossy(), "stop it first"],
    );
    stop_agents(world);

    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("taking a port");
    let port = taken.local_addr().expect("a port").port();
    let taken_port = changed(
        &elsewhere(world, "taken.toml"),
        "taken.toml",
        "127.0.0.1:0",
        &format!("127.0.0.1:{port}"),
    );
    let taken_port = changed(
        &taken_port,
        "taken.toml",
        "path = \"store\"",
        "path = \"elsewhere\"",
    );
    let ran = world.legation.run(args!["embassy", "--config", taken_port]);
    checks.check(
        "a port in use",
        ran,
        1,
        &[&port.to_string(), "in use", "change `listen`"],
    );
    drop(taken);
    let nobody = changed(
        &world.path("desk/locators.toml"),
        "nobody.toml",
        "address = \"127.0.0.1:",
        "address = \"127.0.0.1:1\" #",
    );
    fs::set_permissions(&nobody, fs::Permissions::from_mode(0o600)).expect("closing a file");
    let person = changed(
        &world.person(),
        "nobody-there.toml",
        "\"locators.toml\"",
        "\"nobody.toml\"",
    );
    let ran = world.legation.run(args!["versions", "--config", person]);
    checks.check(
        "no embassy there",
        ran,
        10,
        &["does not answer", "locators"],
    );
    strangers(world, checks);
}

/// Who has the program, the mandate and the address, but a key that the mandate does not name.
fn strangers(world: &World, checks: &mut Checks) {
    let agent = world.path("home/agent/agent.toml");
    let config = changed(&agent, "stranger.toml", "agent.key", "stranger.key");
    let config = changed(
        &config,
        "stranger.toml",
        "path = \"spool\"",
        "path = \"stranger-spool\"",
    );
    let made = world
        .legation
        .run(args!["agent", "--init", "--config", config]);
    checks.check("a stranger makes an identity", made, 0, &[]);
    let again = world
        .legation
        .run(args!["agent", "--init", "--config", config]);
    checks.check(
        "an identity is never overwritten",
        again,
        1,
        &["never overwritten"],
    );
    let ran = world.legation.run(args!["agent", "--config", config]);
    checks.check(
        "an agent that is not in the mandate",
        ran,
        8,
        &["mandate", "card"],
    );
    let client = world.path("desk/stranger.key");
    let made = world.legation.run(args![
        "officer", "new", "stranger", "--client", "--out", client
    ]);
    checks.check("a stranger makes a client's identity", made, 0, &[]);
    let person = changed(&world.person(), "stranger.toml", "desk.key", "stranger.key");
    let ran = world.legation.run(args!["versions", "--config", person]);
    checks.check(
        "a client that is not in the mandate",
        ran,
        12,
        &["compare", "mandate"],
    );
    let ran = world.legation.run(args![
        "embassy",
        "--config",
        changed(
            &world.path("embassy/embassy.toml"),
            "role.toml",
            "embassy.key",
            "../home/agent/agent.key"
        )
    ]);
    checks.check(
        "an embassy with an agent's identity",
        ran,
        12,
        &["identity of a", "embassy"],
    );
    let ran = desk(world, args!["versions", "gazete"]);
    checks.check(
        "versions of what nobody knows",
        ran,
        2,
        &["no registry is called gazete", "gazette"],
    );
}
