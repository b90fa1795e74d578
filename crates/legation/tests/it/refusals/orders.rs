//! Orders: too few approvals, edited, out of time, for another state or mandate, with characters that deceive.

use std::fs;
use std::path::{Path, PathBuf};

use legation_world::Result;
use legation_world::args;
use legation_world::cli::stock;
use legation_world::process::Ran;
use legation_world::world::{Order, World};

use super::machine::changed;
use super::{Checks, desk, past};

/// `order submit` with an annex that lies elsewhere.
pub fn submit(world: &World, text: &Path, annex: &Path, approvals: &[PathBuf]) -> Result<Ran> {
    let bundle = text.with_extension("other-bundle");
    let mut all = args![
        "order", "submit", text, "--annex", annex, "--bundle", bundle, "--wait", "1s"
    ]
    .to_vec();
    for approval in approvals {
        all.extend(args!["--approval", approval]);
    }
    desk(world, all)
}

/// An order made from another by hand, as somebody with an editor would.
fn edited(world: &World, name: &str, from: &str, changes: &[(&str, &str)]) -> PathBuf {
    let mut text = from.to_owned();
    for (old, new) in changes {
        assert!(
            text.contains(old),
            "{name}: the order has no {old:?}:\n{text}"
        );
        assert_ne!(old, new, "{name} changes nothing");
        text = text.replacen(old, new, 1);
    }
    let path = world.path(&format!("desk/{name}.txt"));
    fs::write(&path, text).expect("writing an edited order");
    path
}

/// The value of a field.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or_else(|| panic!("the order has no {name}"))
}

/// A time in whole seconds, so far from now.
fn hours(from_now: i64) -> String {
    let then = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(from_now);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub fn refused(world: &World, checks: &mut Checks) {
    let order = world
        .order_activate("first", &[])
        .expect("writing an order");
    let annex = order.beside("annex.txt");
    let text = fs::read_to_string(&order.text).expect("reading the order");
    quorum(world, checks, &order, &annex);
    deceived(world, checks, &order, &annex);
    with_old_signatures(world, checks, &order, &annex, &text);
    freshly_signed(world, checks, &annex, &text);
    deceiving(world, checks, &annex, &text);
    signatures(world, checks, &order, &annex);
}

fn quorum(world: &World, checks: &mut Checks, order: &Order, annex: &Path) {
    for officer in &world.officers {
        let ran = world.approve(order, officer);
        checks.check(
            &format!("{} approves", officer.name),
            ran,
            0,
            &["signature"],
        );
    }
    let by = |numbers: &[usize]| -> Vec<PathBuf> {
        let sig = |n: &usize| order.beside(&format!("{}.sig", world.officers[n - 1].name));
        numbers.iter().map(sig).collect()
    };
    for (name, numbers, words) in [
        ("no approval", &[][..], "0 approvals, 3 needed"),
        ("two approvals", &[1, 4][..], "2 approvals, 3 needed"),
        (
            "the same officer twice",
            &[1, 1, 4][..],
            "2 approvals, 3 needed",
        ),
        (
            "three from home",
            &[1, 2, 3][..],
            "none is abroad, 1 needed",
        ),
    ] {
        let ran = submit(world, &order.text, annex, &by(numbers));
        checks.check(name, ran, 5, &[words]);
        checks.check(
            &format!("{name}, past our checks"),
            past::run(world, &order.text, numbers),
            5,
            &[words],
        );
    }
}

/// What an officer is shown, and whether anything is checked at all.
fn deceived(world: &World, checks: &mut Checks, order: &Order, annex: &Path) {
    let names = world.path("desk/founding/registries.toml");
    changed(&names, "other.toml", "title = \"", "title = \"Not the ");
    let person = changed(
        &world.person(),
        "spoofed.toml",
        "registries.toml",
        "other.toml",
    );
    let key = world.officers[0].ssh_key();
    let approve = |officer: &str, more: &[std::ffi::OsString]| {
        let mut all = args![
            "order",
            "approve",
            order.text,
            "--annex",
            annex,
            "--as",
            officer,
            "--ssh-key",
            key
        ]
        .to_vec();
        all.extend_from_slice(more);
        world.legation.run(all)
    };
    let words = &["the annex calls", "Not the ", "do not sign"];
    let ran = world.legation.run(args![
        "order", "show", order.text, "--annex", annex, "--config", person
    ]);
    checks.check("an annex with other names, shown", ran, 8, words);
    let config = args!["--config", person];
    checks.check(
        "an annex with other names, approved",
        approve("officer-1", &config),
        8,
        words,
    );
    let config = args!["--config", world.person()];
    let shown = &["Valid until", "Reason: ", "signature"];
    checks.check(
        "approving shows the order",
        approve("officer-1", &config),
        0,
        shown,
    );
    checks.check(
        "approving as nobody",
        approve("nobody", &config),
        8,
        &["knows no officer nobody"],
    );
    checks.check(
        "approving as a path",
        approve("../officer-1", &config),
        2,
        &["no officer's name"],
    );
    let words = &["Valid until", "no mandate is at hand", "--mandate FILE"];
    checks.check(
        "approving without a mandate",
        approve("officer-1", &[]),
        0,
        words,
    );
    let mandate = world.path("desk/founding/mandate.txt");
    let text = fs::read_to_string(&mandate).expect("reading the mandate");
    let other = mandate.with_file_name("other-mandate.txt");
    let later = text.replacen("created: 20", "created: 21", 1);
    assert_ne!(later, text, "the mandate did not change");
    fs::write(&other, later).expect("writing a mandate");
    let ran = approve("officer-1", &args!["--mandate", other]);
    checks.check(
        "a mandate of another state",
        ran,
        8,
        &["the mandate founds"],
    );
    let ran = approve("officer-1", &args!["--mandate", mandate]);
    checks.check("the mandate of this state", ran, 0, &["signature"]);

    let ran = submit(world, &order.text, annex, &[]);
    checks.check("no approval, with what to add", ran, 5, &["--approval"]);
    let out = world.path("desk/usual.txt");
    let ran = desk(
        world,
        args!["order", "new", "grant", "gazette", "--out", out],
    );
    checks.check(
        "a grant is for reading without saying so",
        ran,
        0,
        &["written to"],
    );
    let out = world.path("desk/unusual.txt");
    for (act, mode) in [
        ("grant", "read-only"),
        ("activate", "read"),
        ("activate", "all"),
    ] {
        let ran = desk(
            world,
            args![
                "order", "new", act, "gazette", "--grant", mode, "--out", out
            ],
        );
        checks.check(
            &format!("{act} for {mode}"),
            ran,
            2,
            &["--grant", mode, "hint: "],
        );
    }
    checks.hold("no order was written", !out.exists());
}

/// One thing changed after the officers signed.
fn with_old_signatures(
    world: &World,
    checks: &mut Checks,
    order: &Order,
    annex: &Path,
    text: &str,
) {
    let approvals: Vec<_> = [1, 2, 4]
        .map(|n| order.beside(&format!("{}.sig", world.officers[n - 1].name)))
        .into();
    let epochs = field(text, "registry").rsplit(' ').next().expect("epochs");
    let (_, last) = epochs.split_once('-').unwrap_or((epochs, epochs));
    let wider = last.parse::<u32>().expect("an epoch") + 1;
    let table: &[(&str, &str, &str, &str)] = &[
        (
            "re-worded",
            "for reading and writing",
            "for reading only",
            "the sentence is not what the fields say",
        ),
        (
            "re-scoped",
            &format!("epochs {epochs}"),
            &format!("epochs 1-{wider}"),
            "signature of officer-1",
        ),
        (
            "re-dated",
            field(text, "expires"),
            &hours(300),
            "signature of officer-1",
        ),
    ];
    for (name, old, new, words) in table {
        let path = edited(world, name, text, &[(old, new)]);
        let ran = submit(world, &path, annex, &approvals);
        checks.check(name, ran, 8, &[words]);
        let stock = world.stock_verify(
            &path,
            &approvals[0],
            &world.officers[0],
            "legation/order/v1",
        );
        checks.hold(
            &format!("stock ssh-keygen refuses the {name} order too"),
            stock.is_ok_and(|ran| ran.code != 0),
        );
    }
}

/// A name, what is changed, what our own command says, and what the embassy says when that is not asked.
type Signed<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str, &'a str);

/// Orders that a full quorum did sign, with stock tools: what they may not say is refused all the same.
fn freshly_signed(world: &World, checks: &mut Checks, annex: &Path, text: &str) {
    let state = field(text, "state");
    let other_state = format!(
        "{}{}",
        &state[..state.len() - 1],
        if state.ends_with('q') { 'p' } else { 'q' }
    );
    let (from, until) = (field(text, "not-before"), field(text, "expires"));
    let (_, root) = field(text, "log-head").split_once(' ').expect("a log head");
    let other_root = "00".repeat(32);
    let row = field(text, "registry");
    let (id, epochs) = row.split_once(" epochs ").expect("a row of scope");
    let beyond = format!("registry: {id} epochs 1-99");
    let unknown = format!("registry: r-ffffff epochs {epochs}");
    let listed = format!("registry: {row}");
    let (hours_ago, hour_ago, hour, hours_on) = (hours(-3), hours(-1), hours(1), hours(2));
    let far = hours(24 * 40);
    let table: Vec<Signed<'_>> = vec![
        (
            "reworded-signed",
            vec![("for reading and writing", "for reading only")],
            "they say: Start",
            "they say: Start",
        ),
        (
            "expired",
            vec![(from, &hours_ago), (until, &hour_ago)],
            "expired at",
            "write and approve a new one",
        ),
        (
            "early",
            vec![(from, &hour), (until, &hours_on)],
            "not valid before",
            "not valid before",
        ),
        (
            "endless",
            vec![(until, &far)],
            "at most 31 days",
            "at most 31 days",
        ),
        (
            "mandate-2",
            vec![("mandate: 1", "mandate: 2")],
            "mandate",
            "mandate",
        ),
        (
            "other-state",
            vec![(state, &other_state)],
            "this machine is set up for",
            "state",
        ),
        (
            "other-log",
            vec![(root, &other_root)],
            "another log",
            "another log",
        ),
        (
            "unknown-registry",
            vec![(&listed, &unknown)],
            "the annex does not fit the order",
            "names no registry r-ffffff",
        ),
        (
            "epochs-beyond",
            vec![(&listed, &beyond)],
            "the order names 1-99",
            "the order names 1-99",
        ),
        (
            "term-5",
            vec![
                ("term: 1 to 2", "term: 5 to 6"),
                ("under term 1.", "under term 5."),
            ],
            "is in term 1",
            "is in term 1",
        ),
        (
            "other-embassy",
            vec![("embassy: a", "embassy: b"), ("embassy a,", "embassy b,")],
            "names no embassy 'b'",
            "names no embassy 'b'",
        ),
        (
            "erase",
            vec![("act: activate", "act: erase")],
            "not supported by this version",
            "not supported by this version",
        ),
    ];
    for (name, changes, ours, theirs) in table {
        let path = edited(world, name, text, &changes);
        let approvals: Vec<_> = [1, 2, 4]
            .map(|n| &world.officers[n - 1])
            .map(|o| past::sign(&path, &o.ssh_key(), "legation/order/v1", o.name).expect("signing"))
            .into();
        checks.check(name, submit(world, &path, annex, &approvals), 8, &[ours]);
        checks.check(
            &format!("{name}, past our checks"),
            past::run(world, &path, &[1, 2, 4]),
            8,
            &[theirs],
        );
        checks.hold(
            &format!("{name}: no bundle was written"),
            !path.with_extension("other-bundle").exists(),
        );
    }
    let expired = Order {
        text: world.path("desk/expired.txt"),
    };
    let ran = desk(
        world,
        args![
            "order",
            "approve",
            expired.text,
            "--annex",
            annex,
            "--as",
            "officer-1",
            "--ssh-key",
            world.officers[0].ssh_key()
        ],
    );
    checks.check(
        "nobody approves an expired order",
        ran,
        8,
        &["expired at", "nothing to approve"],
    );
}

/// Characters that show another text than the one that is signed, and texts that are no order.
fn deceiving(world: &World, checks: &mut Checks, annex: &Path, text: &str) {
    let sentence = field(text, "sentence");
    let inside = |mark: char| sentence.replacen("embassy", &format!("emb{mark}assy"), 1);
    let table: Vec<(&str, String)> = vec![
        (
            "bidi-override",
            text.replacen(sentence, &inside('\u{202e}'), 1),
        ),
        (
            "bidi-isolate",
            text.replacen(sentence, &inside('\u{2066}'), 1),
        ),
        ("control-bell", text.replacen(sentence, &inside('\u{7}'), 1)),
        (
            "control-escape",
            text.replacen(sentence, &inside('\u{1b}'), 1),
        ),
        (
            "zero-width",
            text.replacen(sentence, &inside('\u{200b}'), 1),
        ),
        (
            "not-composed",
            text.replacen(sentence, &sentence.replacen('e', "e\u{301}", 1), 1),
        ),
        ("carriage-returns", text.replace('\n', "\r\n")),
        ("byte-order-mark", format!("\u{feff}{text}")),
        (
            "doubled-field",
            text.replacen("act: activate\n", "act: activate\nact: activate\n", 1),
        ),
        ("missing-field", text.replacen("accept-loss: no\n", "", 1)),
        ("cut-short", text[..text.len() / 2].to_owned()),
        ("no-order", "Start everything.\n".to_owned()),
        ("empty", String::new()),
    ];
    for (name, bad) in table {
        assert_ne!(bad, text, "{name} changes nothing");
        let path = world.path(&format!("desk/{name}.txt"));
        fs::write(&path, bad).expect("writing a bad order");
        let key = world.officers[0].ssh_key();
        let shown = desk(world, args!["order", "show", path]);
        if let Some(ran) = checks.check(
            &format!("{name}: shown"),
            shown,
            8,
            &[&format!("{name}.txt")],
        ) {
            let raw = ran
                .err
                .contains(['\u{202e}', '\u{2066}', '\u{7}', '\u{1b}', '\u{200b}']);
            checks.hold(
                &format!("{name}: the message does not repeat the character itself"),
                !raw,
            );
        }
        let ran = desk(
            world,
            args![
                "order",
                "approve",
                path,
                "--annex",
                annex,
                "--as",
                "officer-1",
                "--ssh-key",
                key
            ],
        );
        checks.check(
            &format!("{name}: approved"),
            ran,
            8,
            &[&format!("{name}.txt")],
        );
        let ran = submit(world, &path, annex, &[]);
        checks.check(
            &format!("{name}: submitted"),
            ran,
            8,
            &[&format!("{name}.txt")],
        );
    }
}

/// Signatures that are somebody else's, or for something else.
fn signatures(world: &World, checks: &mut Checks, order: &Order, annex: &Path) {
    let good = |n: usize| order.beside(&format!("{}.sig", world.officers[n - 1].name));
    let keep = fs::read(good(1)).expect("reading an approval");
    let other = past::sign(
        &order.text,
        &world.officers[0].ssh_key(),
        "legation/mandate/v1",
        "wrong-namespace",
    );
    let other = other.expect("signing");
    let ran = submit(world, &order.text, annex, &[other, good(2), good(4)]);
    checks.check(
        "another namespace",
        ran,
        8,
        &["legation/order/v1", "legation/mandate/v1"],
    );
    let stranger = world.path("officers/stranger");
    let made = stock(
        "ssh-keygen",
        args!["-q", "-t", "ed25519", "-N", "", "-f", stranger],
        b"",
    );
    made.and_then(Ran::ok).expect("making a key");
    let signed =
        past::sign(&order.text, &stranger, "legation/order/v1", "stranger").expect("signing");
    let ran = submit(world, &order.text, annex, &[signed, good(2), good(4)]);
    checks.check(
        "a stranger's approval",
        ran,
        8,
        &["none of the mandate's officers"],
    );
    let ran = submit(
        world,
        &order.text,
        annex,
        &[annex.to_owned(), good(2), good(4)],
    );
    checks.check(
        "an approval that is no signature",
        ran,
        2,
        &["first.annex.txt"],
    );
    let ran = submit(world, &order.text, annex, &[world.path("desk/nowhere.sig")]);
    checks.check("an approval that is not there", ran, 2, &["nowhere.sig"]);
    let ran = submit(
        world,
        &order.text,
        &world.path("desk/nowhere.annex"),
        &[good(1)],
    );
    checks.check(
        "an annex that is not there",
        ran,
        2,
        &["there is no such annex", "sha256sum"],
    );
    let bad = world.path("desk/edited.annex.txt");
    let text = fs::read_to_string(annex).expect("reading the annex");
    fs::write(&bad, text.replacen("reason: ", "reason: Not ", 1)).expect("writing an annex");
    checks.check(
        "an edited annex",
        submit(world, &order.text, &bad, &[good(1)]),
        8,
        &["annex"],
    );
    let approve = |officer: &str, key: &Path| {
        desk(
            world,
            args![
                "order",
                "approve",
                order.text,
                "--annex",
                annex,
                "--as",
                officer,
                "--ssh-key",
                key
            ],
        )
    };
    let key = world.officers[0].ssh_key();
    checks.check(
        "another officer's key",
        approve("officer-2", &key),
        12,
        &[
            "another key than the one that the mandate names",
            "your own name",
        ],
    );
    checks.check(
        "an unknown officer",
        approve("officer-9", &key),
        8,
        &["no officer officer-9", "officer-1, officer-2"],
    );
    checks.check(
        "a key that is not there",
        approve("officer-1", &world.path("desk/nowhere")),
        12,
        &["nowhere"],
    );
    checks.hold(
        "an approval that failed leaves the earlier one as it was",
        fs::read(good(1)).is_ok_and(|now| now == keep),
    );
}
