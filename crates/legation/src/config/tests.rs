use std::path::Path;
use std::time::Duration;

use legation_core::statement::{RegistryRow, Tier};

use super::agent::Agent;
use super::suggest::{distance, from_serde, nearest};
use super::units::{Rate, Share, Size, Span};
use super::{check_private, parse};

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
    for (registry, start, named) in [
        ("durability = \"sync\"", "", "durability"),
        ("embassies = { jurisdictions = 2 }", "", "embassies"),
        ("depends_on = [\"population\"]", "", "depends_on"),
        (
            "",
            "[registry.start]\nservices = [\"postgres\"]",
            "start.services",
        ),
        (
            "",
            "[[registry.start.invariant]]\nname = \"n\"\nsql = \"select 1\"",
            "start.invariant",
        ),
    ] {
        let failure = load(registry, start).unwrap_err();
        assert_eq!(failure.code as u8, 2);
        assert!(
            failure.message.contains(named) && failure.message.contains("not supported"),
            "{failure}"
        );
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
