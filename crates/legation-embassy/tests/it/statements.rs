//! Statements: admitted by the fold and by what they refer to, logged once, receipts that verify.

use legation_core::id::{Digest, EpochNo};
use legation_core::log::Checkpoint;
use legation_core::replay;
use legation_core::statement::Signed;
use legation_repo::http::wire::kind;
use legation_repo::http::{Client, ClientError};
use legation_repo::log::Mirror;
use legation_repo::store::Kind;

use crate::world::{Founded, LAND, TAX, World, with_epoch};

fn refusal(client: &Client, statement: &Signed) -> (String, u8, String) {
    match client.submit(statement) {
        Err(ClientError::Refused { problem, .. }) => (problem.kind, problem.exit, problem.detail),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_version_goes_in_and_its_receipt_verifies() {
    let world = with_epoch();
    let (state, land, agent) = (world.one.state, &world.one.land, world.land());
    let (first, _) = land.pack(state, LAND, 1, 0, b"data");
    let (last, root) = land.pack(state, LAND, 1, 1, b"root");
    let (list, commit) = land.version(state, LAND, 1, None, &[(1, 0, &first), (1, 1, &last)], root);

    // Nothing is committed that is not all there.
    agent
        .put_object(Kind::Pack, &first.digest, first.bytes.clone())
        .unwrap();
    let (kind_, exit, detail) = refusal(&agent, &commit);
    assert_eq!((kind_.as_str(), exit), (kind::INCOMPLETE, 4));
    assert!(detail.contains("list"), "{detail}");
    agent
        .put_object(Kind::List, &Digest::of(&list), list.clone())
        .unwrap();
    let (kind_, _, detail) = refusal(&agent, &commit);
    assert_eq!(kind_, kind::INCOMPLETE);
    assert!(detail.contains(&last.digest.to_string()), "{detail}");
    agent
        .put_object(Kind::Pack, &last.digest, last.bytes.clone())
        .unwrap();

    let receipt = agent.submit(&commit).unwrap();
    assert_eq!((receipt.entry.index, receipt.checkpoint.size()), (2, 3));
    let again = agent.submit(&commit).unwrap();
    assert_eq!((again.entry.index, again.checkpoint.size()), (2, 3));
    assert_eq!(again.entry, receipt.entry);

    // A second version on the first one's packs and one more.
    let (more, root) = land.pack(state, LAND, 1, 2, b"another root");
    agent
        .put_object(Kind::Pack, &more.digest, more.bytes.clone())
        .unwrap();
    let packs = [(1, 0, &first), (1, 1, &last), (1, 2, &more)];
    let (list, second) = land.version(state, LAND, 2, Some(commit.id()), &packs, root);
    agent
        .put_object(Kind::List, &Digest::of(&list), list)
        .unwrap();
    assert_eq!(agent.submit(&second).unwrap().entry.index, 3);
}

#[test]
fn a_commit_of_damaged_or_foreign_packs_is_refused() {
    let mut world = with_epoch();
    let tax_agent = world.client(&world.one, &world.one.tax.tls);
    let Founded {
        state, vault, tax, ..
    } = &mut world.one;
    tax.open_epoch(*state, vault, &tax_agent, TAX);
    let (state, land, agent) = (world.one.state, &world.one.land, world.land());

    let (pack, root) = land.pack(state, LAND, 1, 0, b"root");
    agent
        .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
        .unwrap();
    let (list, commit) = land.version(state, LAND, 1, None, &[(1, 0, &pack)], root);
    agent
        .put_object(Kind::List, &Digest::of(&list), list)
        .unwrap();
    // One bit flips on the disk after it arrived.
    let hex = pack.digest.to_string();
    let path = world
        .store()
        .join(format!("{state}/object/pack/{}/{hex}", &hex[..2]));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40_000] ^= 1;
    let mut mode = std::fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o600);
    std::fs::set_permissions(&path, mode).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    // What came before this run of the embassy is read once more.
    world.stop();
    world.start();
    let (land, agent) = (&world.one.land, world.land());
    let (kind_, exit, detail) = refusal(&agent, &commit);
    assert_eq!((kind_.as_str(), exit), (kind::INCOMPLETE, 4));
    assert!(
        detail.contains("damaged") && detail.contains(&hex),
        "{detail}"
    );

    // Another registry's pack in the list.
    let (foreign, root) = world.one.tax.pack(state, TAX, 1, 0, b"root");
    agent
        .put_object(Kind::Pack, &foreign.digest, foreign.bytes.clone())
        .unwrap();
    let (list, commit) = land.version(state, LAND, 1, None, &[(1, 0, &foreign)], root);
    agent
        .put_object(Kind::List, &Digest::of(&list), list)
        .unwrap();
    let (kind_, _, detail) = refusal(&agent, &commit);
    assert_eq!(kind_, kind::INCOMPLETE);
    assert!(detail.contains("another state, registry"), "{detail}");
    assert_eq!(agent.checkpoint().unwrap().size(), 3);
}

#[test]
fn a_commit_reads_no_pack_a_second_time() {
    let mut world = with_epoch();
    let state = world.one.state;
    let (first, root) = world.one.land.pack(state, LAND, 1, 0, b"root");
    let (second, _) = world.one.land.pack(state, LAND, 1, 1, b"more");
    let put = |world: &World, pack: &legation_core::pack::SealedPack| {
        let agent = world.land();
        agent
            .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
            .unwrap();
    };
    put(&world, &first);
    world.stop();
    world.start();
    let packs = [(1, 0, &first), (1, 1, &second)];
    let (list, commit) = world.one.land.version(state, LAND, 1, None, &packs, root);
    let agent = world.land();
    agent
        .put_object(Kind::List, &Digest::of(&list), list)
        .unwrap();
    // This try reads the first pack and gets no further.
    let (kind_, _, detail) = refusal(&agent, &commit);
    assert_eq!(kind_, kind::INCOMPLETE);
    assert!(detail.contains(&second.digest.to_string()), "{detail}");
    // The next one goes on there: a read would find what happened to the first since, and the second was seen as it came.
    for pack in [&first, &second] {
        put(&world, pack);
        let hex = pack.digest.to_string();
        let path = world.store();
        let path = path.join(format!("{state}/object/pack/{}/{hex}", &hex[..2]));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40_000] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(agent.submit(&commit).unwrap().entry.index, 2);
}

#[test]
fn a_pin_that_cannot_be_written_says_nothing_of_the_embassy() {
    let world = with_epoch();
    let trust = world.dir.path().join("trust");
    let mut options = world.options(&world.one, &world.one.desk);
    options.trust = world
        .trust(&world.one)
        .pinned_in(trust.join("a.checkpoint"))
        .unwrap();
    let desk = Client::new(options).unwrap();
    // A file where the directory should be: nobody, root either, can write below it.
    std::fs::write(&trust, b"").unwrap();
    for _ in 0..2 {
        let local = desk.checkpoint().unwrap_err();
        assert!(matches!(local, ClientError::Local(_)), "{local:?}");
        assert_eq!(local.exit_code(), 1);
        let local = desk.submit(&world.one.signed).unwrap_err();
        assert!(matches!(local, ClientError::Local(_)), "{local:?}");
    }
    assert_eq!(desk.trust().held(), None);
    std::fs::remove_file(&trust).unwrap();
    assert_eq!(desk.checkpoint().unwrap().size(), 2);
    assert_eq!(desk.trust().held().map(|c| c.size()), Some(2));
}

#[test]
fn an_epoch_needs_its_own_slip() {
    let mut world = World::new();
    let agent = world.land();
    let Founded {
        state, vault, land, ..
    } = &mut world.one;
    let (slip, statement) = land.epoch(*state, vault, LAND, EpochNo(1));
    assert_eq!(refusal(&agent, &statement).0, kind::INCOMPLETE);
    // A slip of another epoch under the epoch's statement.
    let (other, _) = land.epoch(*state, vault, LAND, EpochNo(2));
    agent
        .put_object(Kind::Slip, &Digest::of(&other), other.clone())
        .unwrap();
    let mut named = legation_core::statement::Epoch::parse(statement.text()).unwrap();
    named.slip = Digest::of(&other);
    let named = Signed::sign_with(named, &land.key).unwrap();
    assert_eq!(refusal(&agent, &named).0, kind::INCOMPLETE);
    agent
        .put_object(Kind::Slip, &Digest::of(&slip), slip)
        .unwrap();
    assert_eq!(agent.submit(&statement).unwrap().entry.index, 1);
}

#[test]
fn the_mandate_decides_not_the_line() {
    let mut world = with_epoch();
    let agent = world.land();
    let state = world.one.state;
    // The tax agent signs for the land register.
    let Founded { vault, tax, .. } = &mut world.one;
    let (slip, stolen) = tax.epoch(state, vault, LAND, EpochNo(2));
    agent
        .put_object(Kind::Slip, &Digest::of(&slip), slip)
        .unwrap();
    let (kind_, exit, detail) = refusal(&agent, &stolen);
    assert_eq!((kind_.as_str(), exit), (kind::MANDATE, 8));
    assert!(detail.contains("rule"), "{detail}");
    // One changed word.
    let (_, good) = world
        .one
        .land
        .epoch(state, &world.one.vault, LAND, EpochNo(2));
    let forged = good.encode().replace("term: 1", "term: 2");
    let forged = Signed::parse(forged.as_bytes()).unwrap();
    assert_eq!(refusal(&agent, &forged).0, kind::MANDATE);
    // A second founding.
    assert_eq!(refusal(&agent, &world.two.signed).1, 8);
    assert_eq!(agent.checkpoint().unwrap().size(), 2);
    // The founding itself is a replay, whoever brings it.
    assert_eq!(
        world.desk().submit(&world.one.signed).unwrap().entry.index,
        0
    );
}

#[test]
fn many_clients_share_one_log() {
    let mut world = World::new();
    let state = world.one.state;
    let (land, tax) = (world.land(), world.client(&world.one, &world.one.tax.tls));
    let Founded {
        vault,
        land: lands,
        tax: taxes,
        ..
    } = &mut world.one;
    let receipts = std::thread::scope(|s| {
        let vault = &*vault;
        let a = s.spawn(move || {
            (0..10)
                .map(|_| lands.open_epoch(state, vault, &land, LAND))
                .collect::<Vec<_>>()
        });
        let b = s.spawn(move || {
            (0..10)
                .map(|_| taxes.open_epoch(state, vault, &tax, TAX))
                .collect::<Vec<_>>()
        });
        [a.join().unwrap(), b.join().unwrap()].concat()
    });
    let mut indices: Vec<_> = receipts.iter().map(|r| r.entry.index).collect();
    indices.sort_unstable();
    assert_eq!(indices, (1..=20).collect::<Vec<_>>());

    // One identity used from several threads: the pin moves on along proofs, whoever is first.
    let desk = world.desk();
    std::thread::scope(|s| {
        for _ in 0..8 {
            let desk = desk.clone();
            let founding = &world.one.signed;
            s.spawn(move || {
                for _ in 0..5 {
                    desk.submit(founding).unwrap();
                    desk.checkpoint().unwrap();
                }
            });
        }
    });
    assert_eq!(desk.trust().held().map(|c| c.size()), Some(21));
}

#[test]
fn the_log_is_mirrored_and_replays() {
    let world = with_epoch();
    let desk = world.desk();
    let dir = world.dir.path().join("mirror");
    let mirror = Mirror::update(&dir, &desk.log_files(), &desk.trust().believed()).unwrap();
    for digest in desk.attachments().unwrap() {
        mirror
            .put_attachment(&desk.get_attachment(&digest).unwrap())
            .unwrap();
    }
    mirror
        .verify(desk.trust().origin(), desk.trust().log_key())
        .unwrap();
    let mut held = legation_core::attachments::Held::new();
    held.add(mirror.attachment(&world.one.keyring.id()).unwrap().unwrap());
    let entries: Vec<_> = (0..mirror.size())
        .map(|i| mirror.entry(i).unwrap())
        .collect();
    let report = replay::replay(entries, &held);
    assert_eq!((report.applied, report.refused.len()), (2, 0));
}

#[test]
fn a_log_that_forgets_is_caught_with_both_halves() {
    let mut world = with_epoch();
    let pin = world.dir.path().join("trust/a.checkpoint");
    let trust = world.trust(&world.one).pinned_in(&pin).unwrap();
    let mut options = world.options(&world.one, &world.one.desk);
    options.trust = trust;
    let desk = Client::new(options).unwrap();
    assert_eq!(desk.checkpoint().unwrap().size(), 2);
    let held = std::fs::read_to_string(&pin).unwrap();
    let copy = world.dir.path().join("mirror");
    Mirror::update(&copy, &desk.log_files(), &desk.trust().believed()).unwrap();

    // The host puts back yesterday's disk.
    world.stop();
    std::fs::remove_dir_all(world.store().join(world.one.state.to_string())).unwrap();
    world.start();
    let trust = world.trust(&world.one).pinned_in(&pin).unwrap();
    let mut options = world.options(&world.one, &world.one.desk);
    options.trust = trust;
    let desk = Client::new(options).unwrap();
    let caught = desk.checkpoint().unwrap_err();
    assert_eq!(caught.exit_code(), 4);
    let ClientError::SplitView { view, .. } = caught else {
        panic!("{caught:?}")
    };
    assert_eq!(view.held, held);
    let offered = Checkpoint::claims(view.offered.as_bytes()).unwrap().1;
    assert_eq!(offered.size, 1);
    let kept: Vec<_> = std::fs::read_dir(pin.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.contains("evidence"))
        .collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    // The pin has not moved.
    assert_eq!(std::fs::read_to_string(&pin).unwrap(), held);

    // Nor does a copy take that tree's files, whatever was said about the checkpoint: neither an older copy nor a new one.
    for copy in ["mirror", "new-mirror"] {
        let dir = world.dir.path().join(copy);
        let before = Mirror::open(&dir).map(|m| m.size()).ok();
        let told = Mirror::update(&dir, &desk.log_files(), &desk.trust().believed()).unwrap_err();
        assert!(told.to_string().contains("size 1 < 2"), "{told}");
        assert_eq!(Mirror::open(&dir).map(|m| m.size()).ok(), before);
        let beside = |what: &str| {
            let all = std::fs::read_dir(&dir).unwrap();
            let mut names = all.map(|e| e.unwrap().file_name().into_string().unwrap());
            names.any(|name| name.starts_with(what))
        };
        assert!(beside("seen-2-") && beside("refused-1-"), "{copy}");
    }
}
