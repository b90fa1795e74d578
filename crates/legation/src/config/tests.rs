use std::path::Path;
use std::time::Duration;

use legation_core::catalogue::Catalogue;
use legation_core::statement::{Mandate, RegistryRow, Statement, Tier};

use super::agent::Agent;
use super::suggest::{distance, from_serde, nearest};
use super::units::{Rate, Share, Size, Span};
use super::{check_private, parse};
use crate::exit::Failure;

#[test]
fn sizes_durations_and_rates() {
    assert_eq!("256MiB".parse(), Ok(Size(256 << 20)));
    assert_eq!("1.5 GiB".parse(), Ok(Size(3 << 29)));
    assert_eq!("24h".parse(), Ok(Span(Duration::from_secs(86_400))));
    assert_eq!("250ms".parse(), Ok(Span(Duration::from_millis(250))));
    assert_eq!("200Mbit/s".parse(), Ok(Rate(25_000_000)));
    assert_eq!("50MiB/s".parse(), Ok(Rate(50 << 20)));
    assert_eq!("5%".parse(), Ok(Share::Percent(5)));
    assert_eq!("10GiB".parse(), Ok(Share::Size(Size(10 << 30))));
    for wrong in [
        "",
        "256",
        "MiB",
        "-1MiB",
        "1 parsec",
        "99999999999TiB",
        "1.2.3MiB",
        "1.MiB",
    ] {
        assert!(wrong.parse::<Size>().is_err(), "{wrong}");
    }
    assert!("101%".parse::<Share>().is_err());
    assert!("10MiB".parse::<Rate>().is_err());
}

#[test]
fn units_print_as_they_parse() {
    for text in ["1ms", "90s", "5m", "24h", "0s"] {
        let span: Span = text.parse().unwrap();
        assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
    }
    assert_eq!(Size(1536).to_string(), "1536B");
    assert_eq!(Size(200 << 30).to_string(), "200GiB");
}

#[test]
fn slips_of_the_hand_are_named() {
    assert_eq!(distance("spool", "spol"), 1);
    assert_eq!(distance("form", "from"), 1);
    assert_eq!(distance("", "abc"), 3);
    assert_eq!(
        nearest("identiy", &["mandate", "identity"]),
        Some("identity")
    );
    assert_eq!(nearest("elephant", &["mandate", "identity"]), None);
    let told = from_serde("unknown field `mandte`, expected one of `format`, `mandate`").unwrap();
    assert_eq!(told.message, "unknown key \"mandte\"");
    assert_eq!(told.hint.as_deref(), Some("did you mean \"mandate\"?"));
    assert_eq!(from_serde("invalid type: string"), None);
}

const AGENT: &str = r#"
format = 1
state = "lgn1-x"
mandate = "mandate.signed"
identity = { file = "agent.key" }
locators = "locators.toml"
[spool]
path = "spool"
size = "1GiB"
[[registry]]
id = "r-000001"
name = "land"
tier = "T0"
[[registry.source]]
kind = "postgres"
url = "postgresql://127.0.0.1/land"
slot = "legation_land"
"#;

#[test]
fn an_agent_file_parses_and_fills_in_its_tier() {
    let agent: Agent = parse(AGENT, Path::new("agent.toml")).unwrap();
    assert_eq!(agent.registry[0].rpo(), Duration::from_secs(10));
    assert_eq!(agent.registry[0].epoch, Span(Duration::from_secs(3600)));
}

#[test]
fn unknown_keys_are_errors_at_every_depth() {
    for (from, to, meant) in [
        ("locators =", "locator =", "locators"),
        ("size = \"1GiB\"", "sise = \"1GiB\"", "size"),
        ("slot =", "slto =", "slot"),
        ("kind = \"postgres\"", "kind = \"postgre\"", "postgres"),
    ] {
        let text = AGENT.replace(from, to);
        let failure = parse::<Agent>(&text, Path::new("agent.toml")).unwrap_err();
        assert_eq!(failure.code as u8, 2);
        assert!(failure.message.contains("agent.toml"), "{failure}");
        assert_eq!(
            failure.hint.as_deref(),
            Some(format!("did you mean {meant:?}?").as_str()),
            "{failure}"
        );
    }
}

#[test]
fn what_would_be_ignored_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    let load = |registry: &str, start: &str| {
        let text = AGENT.replace("tier = \"T0\"", &format!("tier = \"T0\"\n{registry}"));
        std::fs::write(&file, format!("{text}\n{start}")).unwrap();
        Agent::load(&file)
    };
    let described = "title = \"Land\"\nowner = \"Ministry\"\nlegal_basis = \"Act\"\nsecrecy_until = 2101-01-01\n\
                     rto = \"1h\"\nrpo = \"5s\"\nretention = \"permanent\"";
    let start = "[registry.start]\nprobe = { sql = \"select true\", within = \"5s\" }";
    load(described, start).unwrap();
    let failure = load("durability = \"sync\"", "").unwrap_err();
    assert_eq!(failure.code as u8, 2);
    assert!(
        failure
            .message
            .contains("durability \"sync\" is not supported")
    );
}

/// The mandate of the specification: `r-3f9a11` at the physical embassy `a` in luxembourg.
fn mandate() -> Mandate {
    let spec = include_str!("../../../../spec/statements.md");
    let from = spec.find("legation/mandate/v1\nstate: this").unwrap();
    let text = spec[from..].split_inclusive("```").next().unwrap();
    match Statement::parse(text.trim_end_matches("```")).unwrap() {
        Statement::Mandate(mandate) => *mandate,
        other => panic!("{other:?}"),
    }
}

/// The file with more said of its registry, and other registries after it.
fn described(more: &str, after: &str) -> Result<Agent, Failure> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    let text = AGENT
        .replace("r-000001", "r-3f9a11")
        .replace("tier = \"T0\"", &format!("tier = \"T0\"\n{more}"));
    std::fs::write(&file, format!("{text}\n{after}")).unwrap();
    Agent::load(&file)
}

const TREE: &str = "[[registry]]\nid = \"r-3f9a13\"\nname = \"gazette\"\ntier = \"T3\"\n\
                    [[registry.source]]\nkind = \"tree\"\npath = \"/srv\"\n";

#[test]
fn the_catalogue_is_sealed_as_it_was_written() {
    let more = "title = \"Land\"\nowner = \"Ministry\"\nlegal_basis = \"Act\"\nsecrecy_until = 2101-01-01\n\
                wave = 2\ndepends_on = [\"gazette\", \"r-3f9a12\"]\n\
                embassies = { class = [\"physical\"], jurisdictions = 1 }";
    let start = "[registry.start]\nservices = [\"postgres\", \"portal\"]\nrunbook = \"gazette:land.md\"\n\
                 software = [{ name = \"postgresql\", version = \"15\" }, { name = \"nginx\" }]\n\
                 invariant = [{ name = \"balance\", sql = \"select true\", expect = \"true\" }]\n";
    let agent = described(more, &format!("{start}{TREE}")).unwrap();
    let (mandate, registry) = (mandate(), &agent.registry[0]);
    let row = mandate.registry[0].clone();
    registry.agrees(&row).unwrap();
    registry.placed(&row, &mandate).unwrap();
    let entry = registry.catalogue(&row, &mandate, &agent.registry).unwrap();
    let needs: Vec<_> = entry
        .depends_on
        .iter()
        .map(|one| format!("{} {}", one.id, one.name))
        .collect();
    assert_eq!(needs, ["r-3f9a13 gazette", "r-3f9a12 r-3f9a12"]);
    assert_eq!(
        (entry.retention.as_str(), entry.rpo_ms, entry.rto_ms),
        ("permanent", 10_000, 3_600_000)
    );
    assert_eq!(
        (entry.secrecy_until.as_str(), entry.wave),
        ("2101-01-01", 2)
    );
    assert_eq!(Catalogue::from_meta(&entry.to_meta()), Ok(Some(entry)));
    assert_eq!(registry.questions()[0].expect.as_deref(), Some("true"));
    assert_eq!(registry.empty_fields(), ["start.probe"]);
    assert_eq!(
        agent.registry[1].empty_fields(),
        [
            "title",
            "owner",
            "legal_basis",
            "secrecy_until",
            "wave",
            "embassies",
            "start.software",
            "start.runbook"
        ]
    );
}

#[test]
fn what_the_mandate_does_not_give_is_refused_and_named() {
    let mandate = mandate();
    let row = mandate.registry[0].clone();
    for (more, named) in [
        (
            "embassies = { class = [\"virtual\"] }",
            "allows virtual, and the mandate keeps it at embassy a in luxembourg, which is physical",
        ),
        (
            "embassies = { jurisdictions = 2 }",
            "asks for 2, and the mandate keeps it in 1 (luxembourg)",
        ),
    ] {
        let agent = described(more, "").unwrap();
        let failure = agent.registry[0].placed(&row, &mandate).unwrap_err();
        assert_eq!(failure.code as u8, 8);
        assert!(failure.message.contains(named), "{failure}");
    }
    let agent = described("depends_on = [\"r-00beef\"]", "").unwrap();
    let failure = agent.registry[0]
        .catalogue(&row, &mandate, &agent.registry)
        .unwrap_err();
    assert!(
        failure.message.contains("no registry of this state"),
        "{failure}"
    );
}

#[test]
fn a_description_that_cannot_hold_is_refused() {
    let needs_land = TREE.replace("tier", "depends_on = [\"land\"]\ntier");
    for (more, after, named) in [
        (
            "depends_on = [\"gazette\"]",
            needs_land.as_str(),
            "land needs gazette needs land",
        ),
        ("depends_on = [\"land\"]", "", "land needs land"),
        ("owner = \"a\\nb\"", "", "owner has a control character"),
        (
            "",
            "[registry.start]\ninvariant = [{ name = \"n\", sql = \"select 1\" }, { name = \"n\", sql = \"select 2\" }]",
            "occurs twice",
        ),
        (
            "",
            "[registry.start]\ninvariant = [{ name = \"n\", sql = \"select 1\", within = \"11m\" }]",
            "at most 10m",
        ),
        (
            "",
            &format!(
                "{TREE}[registry.start]\ninvariant = [{{ name = \"n\", sql = \"select 1\" }}]"
            ),
            "asked of a database",
        ),
        (
            "",
            &format!(
                "[registry.start]\ninvariant = [{{ name = \"n\", sql = \"select '{}'\" }}]",
                "x".repeat(2048)
            ),
            "at most 2048",
        ),
    ] {
        let failure = described(more, after).unwrap_err();
        assert_eq!(failure.code as u8, 2, "{failure}");
        assert!(failure.message.contains(named), "{failure}");
    }
}

#[test]
fn what_the_mandate_decides_must_be_the_same_in_the_file() {
    let agent: Agent = parse(AGENT, Path::new("agent.toml")).unwrap();
    let mut registry = agent.registry[0].clone();
    let row = |tier: Tier, class: &str| RegistryRow {
        id: "r-000001".parse().unwrap(),
        tier,
        class: class.parse().unwrap(),
        writer: "w-1".parse().unwrap(),
        embassy: "a".parse().unwrap(),
    };
    registry.agrees(&row(Tier::T0, "permanent")).unwrap();
    let failure = registry.agrees(&row(Tier::T1, "permanent")).unwrap_err();
    assert!(failure.message.contains("tier"), "{failure}");
    registry.retention = Some("permanent".into());
    registry.agrees(&row(Tier::T0, "permanent")).unwrap();
    let failure = registry.agrees(&row(Tier::T0, "ten-years")).unwrap_err();
    assert!(failure.message.contains("retention"), "{failure}");
}

#[test]
fn files_that_others_may_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    check_private(file.path()).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let failure = check_private(file.path()).unwrap_err();
    assert!(failure.hint.unwrap().starts_with("chmod 600"));
}
