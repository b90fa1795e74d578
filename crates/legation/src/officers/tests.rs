//! From the founding to released keys with stock tools, and every way in which it must not work.

mod world;

use std::sync::LazyLock;

use legation_core::id::{EpochNo, StateId};
use world::{EPOCHS, World, stock};

use super::names::{NameEntry, Names};
use super::release::{Brought, Bundle, file};
use super::{create, give, orders, prove};
use crate::exit::Code;
use crate::watch::Watch;

static WORLD: LazyLock<World> = LazyLock::new(World::found);

/// A logged grant, approved by a lawful quorum.
fn lawful(
    name: &str,
) -> (
    std::path::PathBuf,
    legation_core::keys::OpeningKey,
    std::path::PathBuf,
) {
    let (order, _, key) = WORLD.grant(name);
    let approvals = WORLD.approve(&order, &[1, 2, 4]);
    let bundle = WORLD.bundle(&order, &key, &approvals);
    (order, key, bundle)
}

#[test]
fn stock_age_opens_an_envelope_and_stock_ssh_keygen_verifies_an_approval() {
    let share = WORLD.path("founding/shares/officer-4.share.age");
    let text = stock(
        "age",
        &[
            "-d",
            "-i",
            WORLD.path("4.age").to_str().unwrap(),
            share.to_str().unwrap(),
        ],
    );
    assert!(
        text.starts_with("legation/share/v1\nstate: lgn1-"),
        "{text}"
    );
    assert_eq!(
        text.matches("share: 1 ").count(),
        2,
        "A and B of generation 1"
    );

    let (order, _, _) = WORLD.grant("stock");
    let signature = WORLD.approve(&order, &[1]).remove(0);
    let public = std::fs::read_to_string(WORLD.path("1.ssh.pub")).unwrap();
    let signers = WORLD.path("stock.signers");
    create(&signers, 0o644, format!("officer-1 {public}").as_bytes()).unwrap();
    let verify = format!(
        "ssh-keygen -Y verify -f {} -I officer-1 -n legation/order/v1 -s {} < {}",
        signers.display(),
        signature.display(),
        order.display()
    );
    assert!(stock("sh", &["-c", &verify]).contains("Good"));
}

#[test]
fn a_quorum_releases_the_epochs_in_scope_and_no_others() {
    let (order, key, bundle) = lawful("release");
    let bundle = WORLD.open(&bundle).unwrap();
    let outcome = bundle.release(&WORLD.envelopes(&[1, 2, 4])).unwrap();
    assert_eq!(
        (outcome.shares, outcome.abroad, outcome.keys, outcome.of),
        (3, 1, 2, EPOCHS as usize)
    );

    let (parsed, _) = orders::load(&order).unwrap();
    let travelled = super::released::Released::parse(outcome.released.text().as_bytes()).unwrap();
    let opened = travelled.open(&key, &parsed).unwrap();
    assert_eq!(opened.annex.registry[0].title.as_str(), "Land Register");
    for epoch in 1..=2_u32 {
        let root = &opened.roots[&(WORLD.registry, EpochNo(epoch))];
        assert_eq!(root.expose(), WORLD.roots[epoch as usize - 1].expose());
    }
    assert!(!opened.roots.contains_key(&(WORLD.registry, EpochNo(3))));

    let other = legation_core::keys::OpeningKey::from_seed(&[7; 32]).unwrap();
    assert_eq!(
        travelled.open(&other, &parsed).unwrap_err().code,
        Code::WrongKey
    );
    let (_, elsewhere, _) = WORLD.grant("elsewhere");
    assert_eq!(
        travelled.open(&key, &elsewhere).unwrap_err().code,
        Code::Refused
    );
}

#[test]
fn too_few_doubled_and_wrong_shares_open_nothing() {
    let (_, _, bundle) = lawful("shares");
    let bundle = WORLD.open(&bundle).unwrap();
    let refused = |brought: &[Brought], code: Code, said: &str| {
        let failure = bundle.release(brought).unwrap_err();
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.message.contains(said), "{failure}");
    };
    refused(&WORLD.envelopes(&[]), Code::Quorum, "0 of 3");
    refused(&WORLD.envelopes(&[1, 4]), Code::Quorum, "2 of 3");
    refused(
        &WORLD.envelopes(&[1, 2, 3]),
        Code::Quorum,
        "none from abroad",
    );
    refused(&WORLD.envelopes(&[1, 4, 1]), Code::Quorum, "twice");

    let Brought::Envelope(share, _) = WORLD.envelope(2) else {
        unreachable!()
    };
    let mut brought = WORLD.envelopes(&[1, 4]);
    brought.push(Brought::Envelope(share.clone(), WORLD.path("3.age")));
    refused(&brought, Code::WrongKey, "does not open");

    // A share whose bytes were altered is told from the right one by its digest, whoever sealed it again.
    let mut file = prove::open_share(&share, &WORLD.path("2.age")).unwrap();
    file.shares[0].share.bytes[0] ^= 1;
    let recipient = stock("age-keygen", &["-y", WORLD.path("2.age").to_str().unwrap()]);
    let recipient = super::envelope::recipient(&recipient).unwrap();
    let forged = WORLD.path("forged.share.age");
    create(
        &forged,
        0o600,
        &super::envelope::seal(&recipient, file.encode().as_bytes()).unwrap(),
    )
    .unwrap();
    let mut brought = WORLD.envelopes(&[1, 4]);
    brought.push(Brought::Envelope(forged, WORLD.path("2.age")));
    refused(
        &brought,
        Code::WrongKey,
        "not the one that the mandate names",
    );

    file.state = legation_core::id::StateId([9; 20]);
    let foreign = WORLD.path("foreign.share.age");
    create(
        &foreign,
        0o600,
        &super::envelope::seal(&recipient, file.encode().as_bytes()).unwrap(),
    )
    .unwrap();
    let mut brought = WORLD.envelopes(&[1, 4]);
    brought.push(Brought::Envelope(foreign, WORLD.path("2.age")));
    refused(&brought, Code::Refused, "of state lgn1-");
}

#[test]
fn an_officer_elsewhere_gives_his_share_to_this_release_only() {
    let (_, _, path) = lawful("given");
    let bundle = WORLD.open(&path).unwrap();
    let to = bundle.begin().unwrap();
    let Brought::Envelope(share, identity) = WORLD.envelope(4) else {
        unreachable!()
    };
    let given = give::give(&share, &identity, &to).unwrap();
    let travels = WORLD.path("officer-4.given");
    create(&travels, 0o600, given.text.as_bytes()).unwrap();
    let mut brought = WORLD.envelopes(&[1, 2]);
    brought.push(Brought::Given(travels.clone()));
    assert_eq!(bundle.release(&brought).unwrap().keys, 2);

    // The secret half is beside the bundle, ours alone, and gone once the release is written.
    let secret = give::secret_path(&path);
    assert_eq!(secret.parent(), path.canonicalize().unwrap().parent());
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&secret).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let inside = std::fs::read_dir(&path).unwrap().flatten();
    for entry in inside.filter(|entry| entry.path().is_file()) {
        assert_ne!(entry.metadata().unwrap().len(), 32, "{:?}", entry.path());
    }
    let held = std::fs::File::open(&secret).unwrap();
    bundle.forget_key().unwrap();
    assert!(!secret.exists());
    let mut left = Vec::new();
    std::io::Read::read_to_end(&mut &held, &mut left).unwrap();
    assert_eq!(left, [0; 32]);
    bundle.forget_key().unwrap();
    // A second release can begin; while it is under way, a third cannot.
    let to = bundle.begin().unwrap();
    assert_eq!(bundle.begin().unwrap_err().code, Code::Failed);
    assert!(to.exists() && secret.exists());
    bundle.forget_key().unwrap();
    assert!(!to.exists() && !secret.exists());

    let (_, _, other) = lawful("given-elsewhere");
    let other = WORLD.open(&other).unwrap();
    other.begin().unwrap();
    assert_eq!(other.release(&brought).unwrap_err().code, Code::Refused);
}

#[test]
fn a_bundle_whose_order_was_not_accepted_is_refused() {
    let refused = |bundle: Result<Bundle, crate::exit::Failure>, code: Code, said: &str| {
        let failure = bundle.map(drop).unwrap_err();
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.message.contains(said), "{failure}");
    };
    // Logged by an embassy that does not count: the replay names it.
    let (order, _, key) = WORLD.grant("two");
    let two = WORLD.approve(&order, &[1, 4]);
    refused(
        WORLD.open(&WORLD.bundle(&order, &key, &two)),
        Code::Refused,
        "2 approvals, 3 needed",
    );

    let (order, _, key) = WORLD.grant("home");
    let home = WORLD.approve(&order, &[1, 2, 3]);
    refused(
        WORLD.open(&WORLD.bundle(&order, &key, &home)),
        Code::Refused,
        "none is abroad",
    );

    // A bundle that carries another order than its log.
    let (_, _, bundle) = lawful("logged");
    let (unlogged, _, _) = WORLD.grant("unlogged");
    std::fs::copy(&unlogged, bundle.join(file::ORDER)).unwrap();
    refused(WORLD.open(&bundle), Code::Refused, "has not accepted");

    // A word of the logged order changed in the bundle.
    let (order, _, bundle) = lawful("reworded");
    let text = std::fs::read_to_string(&order)
        .unwrap()
        .replace("epochs 1-2", "epochs 1-3");
    std::fs::write(bundle.join(file::ORDER), text).unwrap();
    refused(WORLD.open(&bundle), Code::Refused, "something else");

    let (_, _, bundle) = lawful("late");
    let late = super::now().unwrap().plus_millis(7_200_000);
    refused(
        Bundle::open(&bundle, late, &Watch::unseen()),
        Code::Refused,
        "expired",
    );
}

#[test]
fn a_damaged_bundle_is_refused() {
    let (_, _, path) = lawful("damaged");
    let bundle = WORLD.open(&path).unwrap();
    let slips = path.join(file::SLIPS);
    let mut damaged = 0;
    for entry in std::fs::read_dir(&slips).unwrap() {
        let entry = entry.unwrap().path();
        let mut bytes = std::fs::read(&entry).unwrap();
        bytes[2000] ^= 1;
        std::fs::write(&entry, bytes).unwrap();
        damaged += 1;
    }
    assert_eq!(damaged, EPOCHS);
    assert_eq!(
        bundle
            .release(&WORLD.envelopes(&[1, 2, 4]))
            .unwrap_err()
            .code,
        Code::VerificationFailed
    );

    let annex = path.join(file::ANNEX);
    let text = std::fs::read_to_string(&annex)
        .unwrap()
        .replace("looked up", "sold");
    std::fs::write(&annex, text).unwrap();
    assert_eq!(
        bundle
            .release(&WORLD.envelopes(&[1, 2, 4]))
            .unwrap_err()
            .code,
        Code::Refused
    );

    let checkpoint = path.join(file::LOG).join("checkpoint");
    let text = std::fs::read_to_string(&checkpoint).unwrap();
    std::fs::write(&checkpoint, text.replacen('6', "5", 1)).unwrap();
    assert_eq!(
        WORLD.open(&path).unwrap_err().code,
        Code::VerificationFailed
    );
}

#[test]
fn an_edited_order_cannot_be_approved_or_counted() {
    let (order, _, _) = WORLD.grant("edited");
    let approvals = WORLD.approve(&order, &[1, 2, 4]);
    let text = std::fs::read_to_string(&order).unwrap();
    let edits = [
        (text.replace("Let the holder", "Let no holder"), "sentence"),
        (text.replace("act: grant", "act: erase"), "not supported"),
        (
            text.replace("act: grant", "act: grant\u{202e}"),
            "invisible",
        ),
        (
            text.replace("grant: read", "grant: read-write"),
            "grant: read",
        ),
    ];
    for (edited, said) in edits {
        assert_ne!(edited, text);
        let path = WORLD.path("edited-copy.txt");
        std::fs::write(&path, edited).unwrap();
        let failure = orders::load(&path).unwrap_err();
        assert_eq!(failure.code, Code::Refused, "{failure}");
        assert!(failure.message.contains(said), "{said}: {failure}");
    }
    // What still reads as an order fails by its signatures.
    let (mandate, _) = prove::load_mandate(&WORLD.path("founding/mandate.txt")).unwrap();
    let stretched = text.replace("expires: 2026", "expires: 2027");
    if stretched != text {
        let signed = orders::gather(&stretched, &mandate, &approvals).unwrap();
        assert!(signed.signatures().len() == 3);
    }
    // Somebody's own key is nobody's approval.
    let stranger = WORLD.path("stranger");
    stock(
        "ssh-keygen",
        &[
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            stranger.to_str().unwrap(),
        ],
    );
    let told = orders::Approve {
        order: &order,
        annex: &orders::annex_path(&order),
        officer: "officer-1",
        ssh_key: &stranger,
        mandate: Some((WORLD.state(), &mandate)),
    };
    let approve = |told, names: &Names| {
        orders::approve(told, names, super::now().unwrap(), &|_, _| {}).unwrap_err()
    };
    let none = Names::default();
    assert_eq!(approve(told, &none).code, Code::WrongKey);
    let other_annex = WORLD.path("stock-annex.txt");
    std::fs::write(&other_annex, "legation/annex/v1\n").unwrap();
    let told = orders::Approve {
        annex: &other_annex,
        ssh_key: &WORLD.path("1.ssh"),
        ..told
    };
    assert_eq!(approve(told, &none).code, Code::Refused);
}

#[test]
fn nothing_is_signed_that_is_not_what_it_seems() {
    let (path, order, _) = WORLD.grant("seems");
    let (mandate, _) = prove::load_mandate(&WORLD.path("founding/mandate.txt")).unwrap();
    let annex = orders::load_annex(&orders::annex_path(&path), &order).unwrap();
    let told = orders::Approve {
        order: &path,
        annex: &orders::annex_path(&path),
        officer: "officer-1",
        ssh_key: &WORLD.path("1.ssh"),
        mandate: Some((WORLD.state(), &mandate)),
    };
    let approve = |told, names: &Names| {
        let shown = std::cell::Cell::new(0);
        let result = orders::approve(told, names, super::now().unwrap(), &|order, annex| {
            let text = orders::show(order, Some(annex), &Names::default(), order.not_before);
            assert!(text.contains(annex.registry[0].title.as_str()), "{text}");
            shown.set(shown.get() + 1);
        });
        (result, shown.get())
    };
    let mut names = Names::default();
    names.registry.push(NameEntry {
        id: annex.registry[0].id,
        name: "land".into(),
        title: "Another Register".into(),
        wave: None,
    });
    let (result, shown) = approve(told, &names);
    let failure = result.unwrap_err();
    assert_eq!((failure.code, shown), (Code::Refused, 0));
    for title in ["Another Register", annex.registry[0].title.as_str()] {
        assert!(failure.message.contains(title), "{failure}");
    }
    let elsewhere = orders::Approve {
        mandate: Some((StateId::of_mandate(b"another"), &mandate)),
        ..told
    };
    let (result, shown) = approve(elsewhere, &Names::default());
    let failure = result.unwrap_err();
    assert_eq!((failure.code, shown), (Code::Refused, 0));
    assert!(failure.message.contains("the mandate founds"), "{failure}");
    for officer in ["../officer-1", "nobody here", ""] {
        let (result, shown) = approve(orders::Approve { officer, ..told }, &Names::default());
        assert_eq!((result.unwrap_err().code, shown), (Code::Usage, 0));
    }
    names.registry[0].title = annex.registry[0].title.to_string();
    let (result, shown) = approve(told, &names);
    assert!(result.is_ok() && shown == 1);
}
