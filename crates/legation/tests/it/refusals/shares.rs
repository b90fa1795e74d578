//! Shares: too few, all from home, doubled, altered, of another ceremony, or with the wrong age identity.

use std::fs;
use std::path::{Path, PathBuf};

use legation_world::Result;
use legation_world::args;
use legation_world::cli::stock;
use legation_world::process::Ran;
use legation_world::world::{Order, World};

use super::{Checks, desk, orders, past};

/// Brings envelopes with identities together.
fn release(world: &World, order: &Order, brought: &[(&Path, &Path)]) -> Result<Ran> {
    let mut all = args![
        "order",
        "release",
        order.beside("bundle"),
        "--out",
        order.beside("released")
    ]
    .to_vec();
    for (share, identity) in brought {
        all.extend(args!["--share", share, "--age-identity", identity]);
    }
    world.legation.run(all)
}

/// A grant that was accepted and released, after everything that is no release was refused.
pub fn refused(world: &World, checks: &mut Checks) -> Order {
    let grant = world
        .order_grant("grant", "gazette")
        .expect("writing a grant");
    let unlogged = desk(world, args!["ls", "gazette", "--order", grant.text]);
    checks.check(
        "a grant that is not logged",
        unlogged,
        8,
        &["has not accepted", "legation order submit"],
    );
    accepted_once(world, checks, &grant);
    let unreleased = desk(world, args!["ls", "gazette", "--order", grant.text]);
    checks.check(
        "a grant without its keys",
        unreleased,
        2,
        &["legation order release"],
    );
    let held: Vec<(PathBuf, PathBuf)> = world
        .officers
        .iter()
        .map(|o| (o.share(), o.age_identity()))
        .collect();
    let of = |n: usize| (held[n - 1].0.as_path(), held[n - 1].1.as_path());
    let out = grant.beside("released");
    let none = |checks: &mut Checks, name: &str| {
        checks.hold(&format!("{name}: nothing is released"), !out.exists())
    };

    for (name, numbers, words) in [
        (
            "no share",
            &[][..],
            "0 of 3 shares are here; they open nothing",
        ),
        (
            "two shares",
            &[1, 4][..],
            "2 of 3 shares are here; they open nothing",
        ),
        (
            "three shares from home",
            &[1, 2, 3][..],
            "none from abroad, 1 needed",
        ),
        (
            "a doubled share",
            &[1, 1, 4][..],
            "the share of officer-1 was given twice; an officer counts once",
        ),
    ] {
        let brought: Vec<_> = numbers.iter().map(|n| of(*n)).collect();
        checks.check(name, release(world, &grant, &brought), 5, &[words]);
        none(checks, name);
    }
    let ran = release(world, &grant, &[of(1), of(2), (of(4).0, of(5).1)]);
    checks.check(
        "another officer's age identity",
        ran,
        12,
        &["does not open with", "another officer"],
    );
    let ran = release(world, &grant, &[of(1), of(2), (of(4).0, of(4).0)]);
    checks.check("an envelope in place of an identity", ran, 2, &["identity"]);
    let ran = release(world, &grant, &[of(1), of(2), (of(4).1, of(4).1)]);
    checks.check(
        "an identity in place of an envelope",
        ran,
        2,
        &["is not an age envelope"],
    );
    let nowhere = world.path("desk/nowhere.share.age");
    let ran = release(world, &grant, &[of(1), of(2), (&nowhere, of(4).1)]);
    checks.check("a missing share", ran, 2, &["nowhere.share.age"]);
    let mut uneven = args!["order", "release", grant.beside("bundle"), "--out", out].to_vec();
    uneven.extend(args![
        "--share",
        of(1).0,
        "--share",
        of(2).0,
        "--age-identity",
        of(1).1
    ]);
    checks.check(
        "a share without an identity",
        world.legation.run(uneven),
        2,
        &["each envelope needs the identity"],
    );
    none(checks, "bad files");
    altered(world, checks, &grant, &held);
    none(checks, "altered shares");
    let left = fs::read_dir(grant.beside("bundle")).map_or(0, |dir| {
        dir.flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "key"))
            .count()
    });
    checks.hold("no key lies in the bundle", left == 0);

    let good = [of(1), of(2), of(4)];
    checks.check(
        "a good release",
        release(world, &grant, &good),
        0,
        &["3 shares met offline, 1 from abroad"],
    );
    checks.check(
        "a second release over the first",
        release(world, &grant, &good),
        1,
        &["nothing is overwritten"],
    );
    checks.check("a good delivery", world.deliver(&grant), 0, &["delivered"]);
    grant
}

/// Accepted with quorum; again it changes nothing and says the same entry; its name serves no other order.
fn accepted_once(world: &World, checks: &mut Checks, grant: &Order) {
    for n in [1, 2, 4] {
        world
            .approve(grant, &world.officers[n - 1])
            .and_then(Ran::ok)
            .expect("approving");
    }
    let officers = [1, 2, 4].map(|n| &world.officers[n - 1]);
    let first = checks.check(
        "a good grant",
        world.submit(grant, &officers),
        0,
        &["accepted"],
    );
    let entry = |ran: &Ran| {
        ran.record("accepted")
            .ok()
            .and_then(|r| r["entry"].as_u64())
    };
    checks.check(
        "a grant sent again, its bundle there",
        world.submit(grant, &officers),
        1,
        &["grant.bundle exists", "--bundle"],
    );
    let approvals: Vec<_> = officers
        .map(|o| grant.beside(&format!("{}.sig", o.name)))
        .into();
    let mut all = args![
        "order",
        "submit",
        grant.text,
        "--json",
        "--bundle",
        world.path("desk/grant-again.bundle")
    ]
    .to_vec();
    for approval in &approvals {
        all.extend(args!["--approval", approval]);
    }
    let again = checks.check("a replayed grant", desk(world, all), 0, &["accepted"]);
    let entries = (
        first.as_ref().and_then(entry),
        again.as_ref().and_then(entry),
    );
    checks.hold(
        &format!("a replay tells the first entry: {entries:?}"),
        entries.0.is_some() && entries.0 == entries.1,
    );
    // The same name over another text, freshly signed by a full quorum.
    let text = fs::read_to_string(&grant.text).expect("reading the grant");
    let expires = text
        .lines()
        .find(|l| l.starts_with("expires: "))
        .expect("expires");
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(30);
    let other = text.replacen(
        expires,
        &format!("expires: {}", later.strftime("%Y-%m-%dT%H:%M:%SZ")),
        1,
    );
    let path = world.path("desk/second.txt");
    fs::write(&path, other).expect("writing an order");
    let _ = fs::copy(world.path("desk/grant.pub"), world.path("desk/second.pub"));
    let approvals: Vec<_> = officers
        .map(|o| past::sign(&path, &o.ssh_key(), "legation/order/v1", o.name).expect("signing"))
        .into();
    let ran = orders::submit(world, &path, &grant.beside("annex.txt"), &approvals);
    checks.check(
        "another order of the same name",
        ran,
        8,
        &["was accepted already", "a name of its own"],
    );
}

/// Envelopes that open, with something else inside.
fn altered(world: &World, checks: &mut Checks, grant: &Order, held: &[(PathBuf, PathBuf)]) {
    let of = |n: usize| (held[n - 1].0.as_path(), held[n - 1].1.as_path());
    let seal = |name: &str, plain: &str| -> PathBuf {
        let path = world.path(&format!("desk/{name}.share.age"));
        let recipient = stock("age-keygen", args!["-y", of(4).1], b"")
            .and_then(Ran::ok)
            .expect("age-keygen")
            .out;
        let sealed = stock(
            "age",
            args!["-a", "-r", recipient.trim(), "-o", path],
            plain.as_bytes(),
        );
        sealed.and_then(Ran::ok).expect("age");
        path
    };
    let plain = stock("age", args!["-d", "-i", of(4).1, of(4).0], b"")
        .and_then(Ran::ok)
        .expect("age")
        .out;
    let row = plain
        .lines()
        .rfind(|line| line.starts_with("share: "))
        .expect("a share");
    let last = row.chars().last().expect("a digit");
    let flipped = format!(
        "{}{}",
        &row[..row.len() - 1],
        if last == '0' { '1' } else { '0' }
    );
    let altered = &[
        "does not fit this mandate",
        "was altered; use the right envelope",
    ];
    let flipped = seal("flipped", &plain.replace(row, &flipped));
    let ran = release(world, grant, &[of(1), of(2), (&flipped, of(4).1)]);
    checks.check("a share with one digit changed", ran, 12, altered);
    let renamed = seal("renamed", &plain.replacen("officer-4", "officer-5", 1));
    let ran = release(world, grant, &[of(1), of(2), (&renamed, of(4).1)]);
    checks.check("a share under another name", ran, 12, altered);
    let text = seal("text", "let me in\n");
    let ran = release(world, grant, &[of(1), of(2), (&text, of(4).1)]);
    checks.check(
        "an envelope with something else in it",
        ran,
        4,
        &["other copy"],
    );
    let cut = world.path("desk/cut.share.age");
    let whole = fs::read(of(4).0).expect("reading an envelope");
    fs::write(&cut, &whole[..whole.len() / 2]).expect("writing an envelope");
    let ran = release(world, grant, &[of(1), of(2), (&cut, of(4).1)]);
    checks.check("half an envelope", ran, 2, &["other copy"]);

    // The same people once more, another founding: another state.
    let founding = world.path("desk/other-founding");
    let ran = world.legation.run(args![
        "ceremony",
        "found",
        world.path("desk/state.toml"),
        "--need",
        "3",
        "--of",
        "5",
        "--abroad",
        "1",
        "--out",
        founding
    ]);
    checks.check("another founding", ran, 0, &[]);
    let foreign = founding.join("shares/officer-4.share.age");
    let ran = release(world, grant, &[of(1), of(2), (&foreign, of(4).1)]);
    checks.check(
        "a share of another state",
        ran,
        8,
        &["holds a share of state"],
    );
    let prove = |share: &Path, identity: &Path, officer: &str, key: &Path| {
        let out = world.path("desk/bad.proof");
        world.legation.run(args![
            "officer",
            "prove",
            share,
            "--age-identity",
            identity,
            "--mandate",
            world.path("desk/founding/mandate.txt"),
            "--as",
            officer,
            "--ssh-key",
            key,
            "--out",
            out
        ])
    };
    let key = world.officers[3].ssh_key();
    let ran = prove(&foreign, of(4).1, "officer-4", &key);
    checks.check(
        "proving a share of another ceremony",
        ran,
        12,
        &["does not fit this mandate", "use the right envelope"],
    );
    let ran = prove(of(4).0, of(4).1, "officer-3", &key);
    checks.check(
        "proving another officer's share",
        ran,
        12,
        &["holds the share of officer-4"],
    );
    let ran = prove(of(4).0, of(3).1, "officer-4", &key);
    checks.check(
        "proving with another's age identity",
        ran,
        12,
        &["does not open with"],
    );
    let ran = prove(of(4).0, of(4).1, "officer-4", &world.officers[2].ssh_key());
    checks.check("proving with another's SSH key", ran, 12, &["key"]);
    checks.hold(
        "no proof was written",
        !world.path("desk/bad.proof").exists(),
    );
    let ran = world.legation.run(args!["ceremony", "seal", founding]);
    checks.check(
        "a founding that nobody proved",
        ran,
        5,
        &["officer-1 has not proven", "officer-5 has not signed"],
    );
    checks.hold(
        "no mandate was sealed",
        !founding.join("mandate.signed").exists(),
    );
}
