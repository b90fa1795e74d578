//! A registry from its enrolment to the day on which somebody scrambles it: flagged in the log, found by bisection,
//! and started again after what it needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use legation_world::fixtures::Registry::{self, Gazette, Treasury};
use legation_world::pg::{AGENT_ROLE, SUPERUSER};
use legation_world::process::Ran;
use legation_world::rng::Rng;
use legation_world::world::{Options, Order, World};
use legation_world::{args, auditor};
use serde_json::Value;

use crate::survive::LONG;

/// Compressible, and enough of it that scrambling it shows in the whole cluster.
const LEDGER: &str = "create table ledger as select n as id, case when n % 2 = 0 then n - 1 else -n end as amount, \
                      repeat('entry ' || n || ' of the ledger; ', 15) as memo from generate_series(1, 40000) n";
const BALANCE: &str = "select sum(amount) = 0 from ledger";

/// A world with an empty agent: its registries are still to be enrolled.
fn unenrolled() -> (World, String) {
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
    (world, text)
}

fn agent_toml(world: &World) -> PathBuf {
    world.path("home/agent/agent.toml")
}

fn at_home(world: &World, sql: &str) {
    let mut client = world.clusters[&Treasury]
        .connect(SUPERUSER, "treasury")
        .expect("a session");
    client
        .batch_execute(sql)
        .unwrap_or_else(|why| panic!("{why}: {sql}"));
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

fn enrolment(world: &World) {
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

/// Captures it, and waits for the version that comes of it.
fn capture(world: &World, registry: Registry, version: u64) {
    let config = agent_toml(world);
    let ran = match registry {
        // What did not change of files is not read again.
        Gazette => world
            .legation
            .ok(args!["capture", "gazette", "--config", config]),
        other => world
            .legation
            .ok(args!["capture", other.name(), "--full", "--config", config]),
    };
    ran.expect("a capture");
    until("the version", || {
        let lag = world.lag().expect("a status");
        let newest = lag[&registry].version.expect("a version");
        assert!(newest <= version, "{newest}");
        (newest == version).then_some(())
    });
}

fn desk(world: &World, command: &[&str]) -> Ran {
    let mut all: Vec<PathBuf> = command.iter().map(PathBuf::from).collect();
    all.extend(["--json".into(), "--config".into(), world.person()]);
    world.legation.run(all).expect("the desk")
}

fn records(ran: &Ran, kind: &str) -> Vec<Value> {
    let all = ran.records().expect("JSON");
    all.into_iter()
        .filter(|one| one["message_type"] == kind)
        .collect()
}

/// A grant of one version, released.
fn granted(world: &World, file: &str, name: &str, version: &str, target: &str) -> Order {
    let text = world.path("desk").join(file);
    let made = args![
        "order",
        "new",
        "grant",
        name,
        "--grant",
        "read",
        "--version",
        version,
        "--target",
        target,
        "--out",
        text,
        "--config",
        world.person()
    ];
    world.legation.ok(made).expect("an order");
    let order = Order { text };
    through(world, &order);
    order
}

fn through(world: &World, order: &Order) {
    let officers = [0, 1, 3].map(|n| &world.officers[n]);
    for officer in officers {
        world
            .approve(order, officer)
            .expect("ssh-keygen")
            .ok()
            .expect("an approval");
    }
    world
        .submit(order, &officers)
        .expect("submit")
        .ok()
        .expect("accepted");
    world
        .release(order, &officers)
        .expect("release")
        .ok()
        .expect("released");
}

fn stage(world: &World, name: &str) -> (String, Value) {
    let ran = desk(world, &["status", "--waves"]).ok().expect("waves");
    let all = records(&ran, "standing");
    let one = all
        .into_iter()
        .find(|one| one["registry"] == name)
        .expect("the registry");
    (one["stage"].as_str().expect("a stage").to_owned(), one)
}

/// The doubts in the log: registry, version and cause.
fn doubts(world: &World) -> BTreeSet<(String, String, String)> {
    let mirror = world.path("desk/audit");
    world
        .mirror_log(&mirror)
        .expect("a mirror")
        .ok()
        .expect("a copy");
    let copied = auditor::read(&mirror).expect("a log");
    let of = |one: &std::collections::BTreeMap<String, String>| {
        (
            one["registry"].clone(),
            one["version"].clone(),
            one["cause"].clone(),
        )
    };
    copied.statements("doubt").iter().map(of).collect()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_registry_lives_is_scrambled_and_is_found_out() {
    let (mut world, _) = unenrolled();
    enrolment(&world);
    assert_eq!(stage(&world, "treasury").0, "enrolled");
    world.start_agent().expect("an agent");
    world.wait_protected(LONG).expect("first versions");
    let (treasury, gazette) = (world.id(Treasury).to_owned(), world.id(Gazette).to_owned());
    let mut rng = Rng::new(61, "living");

    // They grow, and nothing is said against them.
    for n in 0..4 {
        at_home(
            &world,
            &format!(
                "insert into ledger select n, case when n % 2 = 0 then n - 1 else -n end, repeat('entry ' || n || ' of the ledger; ', 15) \
             from generate_series({0} + 1, {0} + 1000) n",
                40_000 + 1000 * n
            ),
        );
        capture(&world, Treasury, n + 2);
        fs::write(
            world.press().root.join(format!("new-{n}.xml")),
            "<act>of today</act>\n".repeat(200),
        )
        .expect("an act");
        capture(&world, Gazette, n + 2);
    }
    assert_eq!(doubts(&world), BTreeSet::new());
    assert_eq!(stage(&world, "gazette").0, "shadow");

    // Somebody encrypts the ledger in place, and every act in the gazette.
    at_home(
        &world,
        "update ledger set amount = amount + (id % 7 = 0)::int, memo = (select encode(string_agg(sha512((ledger.id || ':' || r)::bytea), ''), 'base64') \
                     from generate_series(1, 6) r)",
    );
    capture(&world, Treasury, 6);
    let mut scrambled = 0;
    for act in files(&world.press().root) {
        let length = fs::metadata(&act).expect("an act").len();
        let noise: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
        fs::write(&act, noise).expect("an act");
        scrambled += length;
    }
    assert!(scrambled > 300_000, "{scrambled}: too little to be a mass");
    capture(&world, Gazette, 6);
    let of = |id: &str, version: &str, cause: &str| {
        (id.to_owned(), version.to_owned(), cause.to_owned())
    };
    let scrambled = BTreeSet::from([
        of(&treasury, "v6", "mass-encryption"),
        of(&treasury, "v6", "invariant-broken"),
        of(&gazette, "v6", "mass-encryption"),
    ]);
    until("doubts in the log", || {
        (doubts(&world) == scrambled).then_some(())
    });

    // Then most of the ledger is gone, and the gazette too.
    at_home(&world, "delete from ledger where id > 500");
    for act in files(&world.press().root).into_iter().skip(3) {
        fs::remove_file(act).expect("an act");
    }
    capture(&world, Treasury, 7);
    capture(&world, Gazette, 7);
    until("more doubts", || {
        let now = doubts(&world);
        let more = [
            of(&treasury, "v7", "mass-deletion"),
            of(&gazette, "v7", "mass-deletion"),
        ];
        more.iter().all(|one| now.contains(one)).then_some(())
    });
    let shown = desk(&world, &["versions", "treasury"])
        .ok()
        .expect("versions");
    let flagged: Vec<_> = records(&shown, "version")
        .iter()
        .filter(|one| !one["flagged"].as_array().expect("a list").is_empty())
        .map(|one| one["version"].clone())
        .collect();
    assert_eq!(flagged, ["v6", "v7"]);
    let said = records(&desk(&world, &["status"]), "doubt");
    let causes = |name: &str| -> BTreeSet<String> {
        let of = said
            .iter()
            .filter(|one| one["registry"] == name && one["version"] == "v7");
        of.map(|one| one["cause"].as_str().expect("a cause").to_owned())
            .collect()
    };
    assert!(
        causes("treasury").is_superset(
            &["mass-deletion", "invariant-broken"]
                .map(str::to_owned)
                .into()
        ),
        "{said:?}"
    );
    assert!(causes("gazette").contains("mass-deletion"), "{said:?}");

    found_out(&world);
    start_in_order(&mut world);
}

fn found_out(world: &World) {
    let newest = granted(world, "newest.txt", "treasury", "latest", "end-of-wal");
    let newest = newest.text.display().to_string();
    let dry = desk(
        world,
        &["bisect", "treasury", "--invariant", "balance", "--dry-run"],
    )
    .ok()
    .expect("a plan");
    assert_eq!(records(&dry, "plan")[0]["reads"], "v7");
    let without = desk(
        world,
        &[
            "bisect",
            "treasury",
            "--invariant",
            "balance",
            "--sealed-only",
        ],
    );
    assert_eq!(without.code, 8, "{}", without.err);
    let unknown = desk(
        world,
        &[
            "bisect",
            "treasury",
            "--invariant",
            "weight",
            "--order",
            &newest,
            "--sealed-only",
        ],
    );
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("balance, entries"), "{}", unknown.err);

    // Under one grant, of the newest, all of the history is told.
    let sealed = desk(
        world,
        &[
            "bisect",
            "treasury",
            "--invariant",
            "balance",
            "--order",
            &newest,
            "--sealed-only",
        ],
    );
    let sealed = sealed.ok().expect("a bisection");
    let answers: Vec<_> = records(&sealed, "judged")
        .iter()
        .map(|one| one["answer"].clone())
        .collect();
    assert_eq!(answers[..5], ["holds"; 5]);
    assert!(
        answers[5..]
            .iter()
            .all(|one| one.as_str().is_some_and(|one| one.starts_with("broken"))),
        "{answers:?}"
    );
    let named = &records(&sealed, "bisected")[0];
    assert_eq!(
        (&named["good"], &named["bad"], &named["proven"]),
        (&"v5".into(), &"v6".into(), &false.into())
    );

    // The newest opens neither, and says what would.
    let scratch = world.path("desk/scratch").display().to_string();
    let ask = |orders: &[&str]| {
        let mut all = vec![
            "bisect",
            "treasury",
            "--invariant",
            "balance",
            "--scratch",
            &scratch,
        ];
        orders
            .iter()
            .for_each(|order| all.extend(["--order", order]));
        desk(world, &all)
    };
    let short = ask(&[&newest]);
    assert_eq!(short.code, 8, "{}", short.err);
    assert!(
        short.err.contains("--version v5 --target end-of-wal"),
        "{}",
        short.err
    );
    // One of the last good version opens both: its log goes on into the first bad one.
    let older = granted(world, "older.txt", "treasury", "v5", "end-of-wal");
    let proven = ask(&[&newest, &older.text.display().to_string()])
        .ok()
        .expect("a proof");
    let again: Vec<_> = records(&proven, "asked-again")
        .iter()
        .map(|one| (one["version"].clone(), one["answer"].clone()))
        .collect();
    assert_eq!(
        again,
        [
            ("v5".into(), "holds".into()),
            ("v6".into(), "broken false".into())
        ]
    );
    assert_eq!(records(&proven, "bisected")[0]["proven"], true);
    assert_eq!(
        fs::read_dir(&scratch).expect("the scratch").count(),
        0,
        "nothing is left in clear"
    );

    // The catalogue entry came along, and says what a start from nothing lacks.
    let entry = desk(
        world,
        &["versions", "treasury", "--catalogue", "--order", &newest],
    )
    .ok()
    .expect("an entry");
    let entry = &records(&entry, "catalogue")[0];
    assert_eq!(entry["title"], "Treasury \"main\"");
    assert_eq!(entry["depends_on"][0]["name"], "gazette");
    let bare = desk(
        world,
        &["versions", "treasury", "--bare-metal", "--order", &newest],
    );
    assert_eq!(bare.code, 7, "{}", bare.err);
    let lacks: Vec<_> = records(&bare, "lacks")
        .iter()
        .map(|one| one["kind"].clone())
        .collect();
    assert!(
        lacks.contains(&"runbook".into()) && lacks.contains(&"proof".into()),
        "{lacks:?}"
    );
    assert!(
        !lacks.contains(&"owner".into()) && !lacks.contains(&"dependency".into()),
        "{lacks:?}"
    );
    fs::write(world.path("desk/needs.json"), &bare.out).expect("needs.json");
    let bare = desk(world, &["versions", "treasury", "--bare-metal"]);
    assert_eq!(bare.code, 7);
    assert!(
        records(&bare, "lacks")
            .iter()
            .any(|one| one["kind"] == "unknown")
    );

    let acts = granted(world, "acts.txt", "gazette", "latest", "none");
    let found = desk(
        world,
        &[
            "bisect",
            "gazette",
            "--order",
            &acts.text.display().to_string(),
        ],
    )
    .ok()
    .expect("a bisection");
    let named = &records(&found, "bisected")[0];
    assert_eq!(
        (&named["good"], &named["bad"]),
        (&"v5".into(), &"v6".into())
    );
}

/// The treasury needs the gazette: it starts after it, and both are then verified by what the log holds.
fn start_in_order(world: &mut World) {
    let order = world.order_activate("start", &[]).expect("an order");
    needs_are_compared(world, &order);
    let mut live = world.activate(&order.text).expect("activate");
    through(world, &order);
    world
        .deliver(&order)
        .expect("deliver")
        .ok()
        .expect("delivered");
    live.released();
    live.wait_serving(world, LONG).expect("both serve");
    let mirror = world.path("desk/audit-after");
    world
        .mirror_log(&mirror)
        .expect("a mirror")
        .ok()
        .expect("a copy");
    let steps = auditor::read(&mirror).expect("a log").statements("step");
    let place = |id: &str, step: &str| {
        steps
            .iter()
            .position(|one| one["registry"] == id && one["step"] == step)
            .expect(step)
    };
    let (treasury, gazette) = (world.id(Treasury).to_owned(), world.id(Gazette).to_owned());
    assert!(place(&gazette, "serving-read-write") < place(&treasury, "restored"));
    let told = live.records();
    let entry = told
        .iter()
        .find(|one| one["message_type"] == "catalogue" && one["registry"] == "treasury")
        .expect("an entry");
    assert_eq!(entry["services"][1], "portal");
    let (reached, standing) = stage(world, "treasury");
    assert_eq!(reached, "protected", "{standing}");
    let proof = standing["evidence"]
        .as_array()
        .expect("evidence")
        .last()
        .expect("one")["entry"]
        .as_u64()
        .expect("an entry");
    let log = auditor::read(&mirror);
    let entry = log.expect("a log").entries[usize::try_from(proof).expect("small")].clone();
    assert!(
        entry.contains("legation/report/v1") && entry.contains(&treasury),
        "{entry}"
    );
    live.seal().expect("sealed");
}

/// Before anybody brings a share, the machine is compared with what a desk says the treasury needs.
fn needs_are_compared(world: &World, order: &Order) {
    let needs = world.path("desk/needs.json");
    let dry = |needs: &Path| {
        let config = world.path("embassy/embassy.toml");
        let all = args![
            "activate",
            "--order",
            order.text,
            "--dry-run",
            "--needs",
            needs,
            "--json",
            "--config",
            config
        ];
        world.legation.run(all).expect("a plan")
    };
    let here = dry(&needs);
    assert_eq!(here.code, 0, "{}{}", here.out, here.err);
    let text = fs::read_to_string(&needs).expect("needs.json");
    let other = world.path("desk/other.json");
    let lacking = text
        .replace("\"major\":15", "\"major\":99")
        .replace("\"locales\":[", "\"locales\":[\"xx_XX.UTF-8\",");
    assert_ne!(lacking, text);
    fs::write(&other, lacking).expect("needs");
    let there = dry(&other);
    assert_eq!(there.code, 1, "{}", there.err);
    for word in ["PostgreSQL 99", "xx_XX"] {
        assert!(there.out.contains(word), "{word}: {}", there.out);
    }
    fs::write(&other, "").expect("needs");
    assert_eq!(dry(&other).code, 1, "of the treasury nothing is said");
    fs::write(&other, "needs").expect("needs");
    assert_eq!(dry(&other).code, 2);
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            all.extend(files(&entry.path()));
        } else if kind.is_file() {
            all.push(entry.path());
        }
    }
    all.sort();
    all
}
