//! How the registries came to be there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use legation_world::fixtures::Registry::{Gazette, Treasury};
use legation_world::pg::AGENT_ROLE;
use legation_world::process::Ran;
use legation_world::world::{Options, World};

use super::{BALANCE, LEDGER, agent_toml, at_home};

/// A world with an empty agent: its registries are still to be enrolled.
pub fn unenrolled() -> World {
    let mut options = Options::new(Path::new(env!("CARGO_BIN_EXE_legation")));
    options.seed = 61;
    options.scale = 0.02;
    options.registries = vec![Treasury, Gazette];
    options.epoch = Duration::from_secs(600);
    options.gazette_every = Duration::from_secs(3600);
    let mut world = World::new(options).expect("a world");
    world.ceremony().expect("a ceremony");
    world.start_embassy().expect("an embassy");
    world.start_home().expect("a home");
    let sql = format!("{LEDGER}; grant pg_read_all_data to {AGENT_ROLE}");
    at_home(&world, &sql);
    let config = agent_toml(&world);
    let text = fs::read_to_string(&config).expect("agent.toml");
    let bare = text
        .split("\n[[registry]]")
        .next()
        .expect("a head")
        .to_owned();
    fs::write(&config, format!("# Written by hand.\n{bare}")).expect("agent.toml");
    world
}

fn enrol(world: &World, source: &str, more: &[&str]) -> Ran {
    let mut command: Vec<PathBuf> = ["enrol", source].map(PathBuf::from).to_vec();
    command.extend(more.iter().map(PathBuf::from));
    command.extend([
        PathBuf::from("--config"),
        agent_toml(world),
        "--json".into(),
    ]);
    let mut command = world.legation.command(command);
    command.env("HOME", world.path("home"));
    legation_world::process::run(command, b"", Duration::from_secs(60)).expect("enrol")
}

/// What is not sound is refused and leaves the file as it was; then both are enrolled.
pub fn enrol_both(world: &World) {
    let url = format!(
        "postgresql://{AGENT_ROLE}@127.0.0.1:{}/treasury",
        world.clusters[&Treasury].port()
    );
    let press = world.press().root.display().to_string();
    let (treasury, gazette) = (world.id(Treasury).to_owned(), world.id(Gazette).to_owned());

    // Refused, each with its code, and the file is as it was.
    let before = fs::read(agent_toml(world)).expect("agent.toml");
    let cases: [(&str, &[&str], i32, &str); 6] = [
        (
            &press,
            &["--name", "gazette", "--id", "r-000000"],
            8,
            "r-000000",
        ),
        (&press, &["--name", "gazette"], 2, "--id"),
        (
            "/no/such/directory",
            &["--name", "gazette", "--id", &gazette],
            3,
            "neither",
        ),
        (
            &press,
            &["--name", "gazette", "--id", &gazette, "--tier", "T0"],
            2,
            "tier",
        ),
        (
            &press,
            &[
                "--name",
                "gazette",
                "--id",
                &gazette,
                "--depends-on",
                "gazette",
            ],
            2,
            "circle",
        ),
        (
            "postgresql://legation@127.0.0.1:1/treasury",
            &["--name", "treasury", "--id", &treasury],
            3,
            "treasury",
        ),
    ];
    for (source, more, code, said) in cases {
        let ran = enrol(world, source, more);
        assert_eq!(ran.code, code, "{source} {more:?}: {}", ran.err);
        assert!(ran.err.contains(said), "{said}: {}", ran.err);
    }
    let dry = enrol(
        world,
        &press,
        &["--name", "gazette", "--id", &gazette, "--dry-run"],
    );
    assert!(
        dry.ok()
            .expect("a block")
            .out
            .contains("[[registry.source]]")
    );
    assert_eq!(fs::read(agent_toml(world)).expect("agent.toml"), before);

    let ran = enrol(
        world,
        &press,
        &[
            "--name", "gazette", "--id", &gazette, "--every", "1h", "--wave", "1",
        ],
    );
    let said = ran
        .ok()
        .expect("enrolled")
        .record("enrolled")
        .expect("a record");
    for field in [
        "title",
        "owner",
        "legal_basis",
        "secrecy_until",
        "start.runbook",
    ] {
        assert!(
            said["empty"]
                .as_array()
                .expect("a list")
                .iter()
                .any(|one| one == field),
            "{said}"
        );
    }
    let more = [
        "--name",
        "treasury",
        "--id",
        &treasury,
        "--owner",
        "Ministry of Finance",
        "--title",
        "Treasury \"main\"",
        "--depends-on",
        "gazette",
        "--wave",
        "2",
    ];
    enrol(world, &url, &more).ok().expect("enrolled");
    let twice = enrol(world, &url, &more);
    assert_eq!(twice.code, 2, "{}", twice.err);
    let start = format!(
        "\n[registry.start]\nservices = [\"postgres\", \"portal\"]\nsoftware = [{{ name = \"postgresql\", version = \"15\" }}]\n\
         invariant = [{{ name = \"balance\", sql = \"{BALANCE}\", expect = \"true\" }}, {{ name = \"entries\", sql = \"select count(*) > 0 from ledger\" }}]\n"
    );
    let text = fs::read_to_string(agent_toml(world)).expect("agent.toml");
    assert!(text.starts_with("# Written by hand.\n"), "{text}");
    fs::write(agent_toml(world), text + &start).expect("agent.toml");
}
