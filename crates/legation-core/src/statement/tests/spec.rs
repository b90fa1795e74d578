//! The specification, the vectors and the code say the same.

use crate::attachments::{Attachments, Held};
use crate::example::{World, samples, v};
use crate::id::Sha256;
use crate::policy::{Class, Rule};
use crate::replay::replay;
use crate::sshsig::{SshPublicKey, Sshsig, SshsigError, dearmour};
use crate::statement::{Base64, Entry, KINDS, Order, ParseError, Signed, Statement, StepKind};
use serde_json::{Value, json};

const SPEC: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../spec/statements.md"
));
const VECTORS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../spec/vectors/statements.json"
));

/// The fenced blocks of the specification that are statements, each with the line after it.
fn blocks() -> Vec<(String, &'static str)> {
    let mut lines = SPEC.lines();
    let mut all = Vec::new();
    while let Some(line) = lines.next() {
        if line == "```statement" {
            let text: String = lines
                .by_ref()
                .take_while(|line| *line != "```")
                .map(|line| format!("{line}\n"))
                .collect();
            all.push((
                text,
                lines.find(|line| !line.is_empty()).unwrap_or_default(),
            ));
        }
    }
    all
}

#[test]
fn every_example_parses_prints_and_has_its_id() {
    let mut seen = Vec::new();
    for (text, after) in blocks() {
        let statement = Statement::parse(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
        assert_eq!(statement.text(), text);
        let id = Sha256::of(text.as_bytes());
        assert_eq!(
            after,
            format!("Id: `{id}`"),
            "after the example of {}",
            statement.kind().name
        );
        seen.push(statement.kind().name);
    }
    for kind in KINDS {
        assert!(
            seen.contains(&kind.name),
            "the specification has no example of {}",
            kind.name
        );
    }
}

#[test]
fn every_kind_has_its_fields_in_the_specification() {
    for kind in KINDS {
        let heading = format!("### `{}`", kind.header);
        let section = SPEC
            .split(&heading)
            .nth(1)
            .unwrap_or_else(|| panic!("no section {heading}"));
        let section = section.split("\n### ").next().unwrap();
        let named = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let fields = kind.fields.iter().map(|field| field.replace('_', "-"));
        assert!(
            named.map(str::to_owned).eq(fields),
            "the fields of {}",
            kind.name
        );
    }
}

#[test]
fn every_rule_has_its_number_and_exit_code_in_the_specification() {
    let rows: Vec<&str> = SPEC
        .lines()
        .filter(|line| line.starts_with("| F"))
        .collect();
    let mut wanted = Rule::ALL.iter();
    for row in &rows {
        let rule = wanted.next().expect("no more rows than rules");
        let exit = match rule.class() {
            Class::Quorum => 5,
            Class::Fenced => 6,
            Class::Mandate => 8,
        };
        assert!(
            row.starts_with(&format!("| F{} | {exit} | ", rule.number())),
            "{row}"
        );
    }
    assert!(wanted.next().is_none(), "more rules than rows");
}

#[test]
fn the_vectors_hold() {
    let all: Value = serde_json::from_str(VECTORS).unwrap();
    let list = |name: &str| all[name].as_array().unwrap().clone();
    let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    for vector in list("texts") {
        let statement = Statement::parse(&text(&vector, "text")).unwrap();
        assert_eq!(statement.text(), text(&vector, "text"));
        assert_eq!(statement.kind().name, text(&vector, "kind"));
        assert_eq!(
            Sha256::of(statement.text().as_bytes()).to_string(),
            text(&vector, "id")
        );
    }
    for vector in list("refused-texts") {
        assert!(
            Statement::parse(&text(&vector, "text")).is_err(),
            "{}",
            text(&vector, "why")
        );
    }
    for vector in list("sshsig") {
        let verdict = verify_sshsig(
            &text(&vector, "key"),
            &text(&vector, "namespace"),
            &text(&vector, "message"),
            &text(&vector, "signature"),
        );
        assert_eq!(
            verdict.is_ok(),
            vector["valid"].as_bool().unwrap(),
            "{}: {verdict:?}",
            text(&vector, "why")
        );
    }
    let log = &all["log"];
    let mut held = Held::new();
    for attachment in log["attachments"].as_array().unwrap() {
        held.add(v::<Base64>(attachment.as_str().unwrap()).0);
    }
    let leaves: Vec<Vec<u8>> = log["leaves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|leaf| v::<Base64>(leaf.as_str().unwrap()).0)
        .collect();
    let report = replay(&leaves, &held);
    let refused: Vec<Value> = report
        .refused
        .iter()
        .map(|(index, refusal)| json!([index, refusal.rule.number()]))
        .collect();
    assert_eq!(&Value::Array(refused), &log["refused"]);
    assert_eq!(report.repeated, log["repeated"].as_u64().unwrap());
    let state = report.state.unwrap();
    assert_eq!(state.id().to_string(), text(log, "state"));
    assert_eq!(state.head().root.to_string(), text(log, "root"));
}

fn verify_sshsig(
    key: &str,
    namespace: &str,
    message: &str,
    armoured: &str,
) -> Result<(), SshsigError> {
    Sshsig::parse(&dearmour(armoured)?)?.verify(
        &SshPublicKey::from_pub_file(key)?,
        namespace,
        message.as_bytes(),
    )
}

/// Writes the vectors anew, and the examples for the specification beside them:
/// `cargo test -p legation-core write_vectors -- --ignored`, with `LEGATION_VECTORS` naming a directory.
#[test]
#[ignore = "writes files"]
fn write_vectors() {
    let dir = std::path::PathBuf::from(
        std::env::var_os("LEGATION_VECTORS").expect("LEGATION_VECTORS names a directory"),
    );
    let texts: Vec<Value> = samples()
        .iter()
        .map(|s| json!({ "kind": s.kind().name, "text": s.text(), "id": Sha256::of(s.text().as_bytes()).to_string() }))
        .collect();
    let all = json!({
        "format": "legation statement vectors v1",
        "texts": texts,
        "refused-texts": refused_texts(),
        "sshsig": sshsig_vectors(),
        "log": log_vector(),
    });
    std::fs::write(
        dir.join("statements.json"),
        serde_json::to_string_pretty(&all).unwrap() + "\n",
    )
    .unwrap();
}

fn refused_texts() -> Vec<Value> {
    let all = samples();
    let order = all
        .iter()
        .find(|s| s.kind().name == "order")
        .unwrap()
        .text();
    let annex = all
        .iter()
        .find(|s| s.kind().name == "annex")
        .unwrap()
        .text();
    let lines: Vec<&str> = order.split_inclusive('\n').collect();
    let swapped: String = [&lines[..2], &[lines[3], lines[2]], &lines[4..]]
        .concat()
        .concat();
    let cases = [
        ("empty", String::new()),
        ("the last line has no LF", order.trim_end().to_owned()),
        ("CRLF", order.replace('\n', "\r\n")),
        ("byte order mark", format!("\u{feff}{order}")),
        (
            "a field left out",
            [&lines[..5], &lines[6..]].concat().concat(),
        ),
        ("two fields in another order", swapped),
        (
            "a field twice",
            [&lines[..3], &lines[2..]].concat().concat(),
        ),
        ("a field that there is not", format!("{order}note: more\n")),
        ("a blank line at the end", format!("{order}\n")),
        (
            "a space before the value",
            order.replacen("mandate: ", "mandate:  ", 1),
        ),
        (
            "a space after the value",
            order.replacen("mandate: 1", "mandate: 1 ", 1),
        ),
        (
            "a leading zero",
            order.replacen("mandate: 1", "mandate: 01", 1),
        ),
        ("an unknown act", order.replacen("activate", "destroy", 1)),
        (
            "an unknown kind",
            order.replacen("legation/order/v1", "legation/purge/v1", 1),
        ),
        (
            "an unknown version",
            order.replacen("legation/order/v1", "legation/order/v2", 1),
        ),
        (
            "milliseconds that are zero",
            order.replacen("21:00:00Z", "21:00:00.000Z", 1),
        ),
        (
            "an offset in the place of Z",
            order.replacen("21:00:00Z", "21:00:00+00:00", 1),
        ),
        (
            "upper-case hexadecimal digits",
            order.replacen("registry: r-3f9a11", "registry: r-3F9A11", 1),
        ),
        (
            "ranges that touch",
            order.replacen("epochs 1-2", "epochs 1-1,2-2", 1),
        ),
        (
            "a bidirectional override",
            annex.replacen("not answered", "not \u{202e}answered", 1),
        ),
        (
            "a zero-width space",
            annex.replacen("not answered", "not\u{200b} answered", 1),
        ),
        (
            "a no-break space",
            annex.replacen("not answered", "not\u{a0}answered", 1),
        ),
        ("a tab", annex.replacen("not answered", "not\tanswered", 1)),
        ("not NFC", annex.replacen("õ", "o\u{303}", 1)),
    ];
    let all = cases.into_iter().map(|(why, text)| {
        assert!(Statement::parse(&text).is_err(), "{why}");
        json!({ "why": why, "text": text })
    });
    all.collect()
}

fn sshsig_vectors() -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let message = "legation/order/v1\nact: activate\n";
    std::fs::write(dir.path().join("message"), message).unwrap();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new("ssh-keygen")
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success());
    };
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let cases = [
        ("ed25519", "", Order::HEADER, true, "ed25519"),
        ("ecdsa", "256", Order::HEADER, true, "ecdsa on P-256"),
        ("ecdsa", "384", Order::HEADER, true, "ecdsa on P-384"),
        ("rsa", "3072", Order::HEADER, true, "rsa with 3072 bits"),
        ("rsa", "2048", Order::HEADER, false, "rsa with 2048 bits"),
        ("ecdsa", "521", Order::HEADER, false, "ecdsa on P-521"),
        (
            "ed25519",
            "",
            "legation/mandate/v1",
            false,
            "another namespace",
        ),
    ];
    let mut all = Vec::new();
    for (i, (kind, bits, namespace, valid, why)) in cases.into_iter().enumerate() {
        let name = format!("key{i}");
        let bits: &[&str] = if bits.is_empty() { &[] } else { &["-b", bits] };
        run(&[&["-q", "-N", "", "-C", "", "-f", &name, "-t", kind], bits].concat());
        run(&["-Y", "sign", "-f", &name, "-n", namespace, "message"]);
        let (key, signature) = (
            read(&format!("{name}.pub")).trim().to_owned(),
            read("message.sig"),
        );
        std::fs::remove_file(dir.path().join("message.sig")).unwrap();
        assert_eq!(
            verify_sshsig(&key, Order::HEADER, message, &signature).is_ok(),
            valid,
            "{why}"
        );
        all.push(json!({ "why": why, "key": key, "namespace": Order::HEADER, "message": message, "signature": signature, "valid": valid }));
        if i == 0 {
            let changed = message.replace("activate", "activatf");
            all.push(json!({ "why": "another text", "key": key, "namespace": Order::HEADER, "message": changed, "signature": signature, "valid": false }));
        }
    }
    all
}

/// One log from the founding to the sealing, with what a lawless embassy would have put between.
fn log_vector() -> Value {
    let mut world = World::new();
    world.must(world.write(1, world.epoch(1)));
    world.must(world.write(1, world.commit(1)));
    world.must(world.write(1, world.mark(1)));
    let order = world.order("2026-11-22-7f2c91d0", &[1]);
    let session = world.session(&order, 81);
    let late = world.write(1, world.commit(1));
    let key = session.key;
    let statements = [
        world.approve(&order, &[1, 2]),
        world.approve(&order, &[1, 2, 3]),
        world.tell(world.opened(&order, 1)),
        world.approve(&order, &[1, 2, 4]),
        late,
        world.approve(&order, &[1, 3, 5]),
        world.tell(session),
        world.tell(world.opened(&order, 1)),
        world.tell(world.fence(&order, 1)),
        world.tell(world.opened(&order, 1)),
        world.tell(world.step(&order, 1, StepKind::ServingReadWrite)),
        world.tell(world.sealed(&order)),
        world.tell(world.step(&order, 1, StepKind::Probed)),
    ];
    let mut leaves = world.leaves();
    for signed in statements {
        let entry = Entry {
            index: leaves.len() as u64,
            received: world.now,
            signed,
        };
        leaves.push(entry.encode());
    }
    leaves.push(b"legation/entry/v1\nnot an entry\n".to_vec());
    let report = replay(&leaves, &world.held);
    let state = report.state.unwrap();
    let refused: Vec<Value> = report
        .refused
        .iter()
        .map(|(index, refusal)| json!([index, refusal.rule.number()]))
        .collect();
    let attachments =
        [world.state.mandate().keyring, key].map(|digest| world.held.get(&digest).unwrap());
    json!({
        "state": state.id().to_string(),
        "root": state.head().root.to_string(),
        "repeated": report.repeated,
        "refused": refused,
        "attachments": attachments.map(|bytes| Base64(bytes).to_string()),
        "leaves": leaves.into_iter().map(|leaf| Base64(leaf).to_string()).collect::<Vec<_>>(),
    })
}

#[test]
fn a_log_with_kinds_of_the_future_can_still_be_read() {
    let signed = Signed::parse(b"legation/tick/v1\nstate: x\n\n").unwrap();
    assert!(matches!(signed.statement(), Err(ParseError::UnknownKind(kind)) if kind == "tick"));
}
