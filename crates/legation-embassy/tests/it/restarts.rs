//! The embassy may stop between any two steps; a start finds everything that was acknowledged, and goes on.

use legation_core::id::Digest;
use legation_embassy::{EmbassyError, EmbassyServer};
use legation_repo::http::TlsIdentity;
use legation_repo::store::Kind;

use crate::orders;
use crate::world::{Founded, LAND, World};

#[test]
fn every_step_survives_a_stop() {
    let mut world = World::new();
    let state = world.one.state;

    let Founded { vault, land, .. } = &mut world.one;
    let (slip, epoch) = land.epoch(state, vault, LAND, legation_core::id::EpochNo(1));
    world
        .land()
        .put_object(Kind::Slip, &Digest::of(&slip), slip)
        .unwrap();
    world.restart();
    let receipt = world.land().submit(&epoch).unwrap();
    world.restart();
    assert_eq!(world.land().submit(&epoch).unwrap().entry, receipt.entry);

    let (pack, root) = world.one.land.pack(state, LAND, 1, 0, b"root");
    let (list, commit) = world
        .one
        .land
        .version(state, LAND, 1, None, &[(1, 0, &pack)], root);
    world
        .land()
        .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
        .unwrap();
    world.restart();
    world
        .land()
        .put_object(Kind::List, &Digest::of(&list), list)
        .unwrap();
    world.restart();
    let receipt = world.land().submit(&commit).unwrap();
    assert_eq!(receipt.entry.index, 2);
    world.restart();
    assert_eq!(world.land().submit(&commit).unwrap().checkpoint.size(), 3);

    let (stream, frames) = world.one.land.stream(state, LAND, 4, None);
    for (number, frame) in frames.iter().enumerate() {
        let ack = world
            .land()
            .append_journal(LAND, &stream, frame.clone())
            .unwrap();
        assert_eq!(ack.sequence, number as u64);
        world.restart();
        let ack = world
            .land()
            .append_journal(LAND, &stream, frames[..=number].concat())
            .unwrap();
        assert_eq!(ack.sequence, number as u64);
    }
    assert_eq!(
        world
            .desk()
            .read_journal(LAND, &stream, 0, 1 << 20)
            .unwrap(),
        frames.concat()
    );
    assert_eq!(world.desk().checkpoint().unwrap().size(), 3);
    world.stop();
}

#[test]
fn a_torn_tail_that_nobody_was_promised_is_cut() {
    let mut world = crate::world::with_epoch();
    let state = world.one.state;
    let (stream, frames) = world.one.land.stream(state, LAND, 3, None);
    world
        .land()
        .append_journal(LAND, &stream, frames[..2].concat())
        .unwrap();
    world.stop();
    let dir = world
        .store()
        .join(format!("{state}/journal/{LAND}/{stream}"));
    let mut segment = std::fs::OpenOptions::new()
        .append(true)
        .open(dir.join("00000000"))
        .unwrap();
    std::io::Write::write_all(&mut segment, &frames[2][..100]).unwrap();
    drop(segment);
    world.start();
    assert_eq!(world.land().streams(LAND).unwrap()[0].next, 2);
    let ack = world
        .land()
        .append_journal(LAND, &stream, frames[2..].concat())
        .unwrap();
    assert_eq!(ack.sequence, 3);
}

#[test]
fn two_embassies_do_not_share_a_store() {
    let world = World::new();
    let second = EmbassyServer::start(world.config()).unwrap_err();
    assert_eq!(second.exit_code(), 11, "{second}");
}

#[test]
fn keys_that_the_mandate_does_not_name_are_not_served_under() {
    let mut world = World::unstarted();
    world.tls = TlsIdentity::generate("other.test").unwrap();
    let refused = EmbassyServer::start(world.config()).unwrap_err();
    assert!(
        matches!(
            refused,
            EmbassyError::WrongKey {
                what: "TLS key",
                ..
            }
        ),
        "{refused}"
    );
    let mut config = World::unstarted().config();
    config.label = "b".into();
    assert_eq!(EmbassyServer::start(config).unwrap_err().exit_code(), 8);
}

#[test]
fn a_log_changed_behind_the_embassys_back_is_not_served() {
    let mut world = crate::world::with_epoch();
    let state = world.one.state;
    world.stop();
    // The newest entry, and with it what the checkpoint covers, is cut off.
    let mut cut = false;
    for entry in walk(&world.store().join(state.to_string()).join("log")) {
        let name = entry.to_string_lossy().into_owned();
        if name.contains("entries") || name.contains("tail") {
            let bytes = std::fs::read(&entry).unwrap();
            std::fs::write(&entry, &bytes[..bytes.len() / 2]).unwrap();
            cut = true;
        }
    }
    assert!(cut);
    // The other state is served; alone, this one is not even begun with.
    world.start();
    let closed = world.desk().status().unwrap_err();
    assert_eq!(closed.problem().unwrap().status, 503, "{closed}");
    assert!(world.client(&world.two, &world.two.desk).status().is_ok());
    world.stop();
    let mut config = world.config();
    config.states.truncate(1);
    assert!(EmbassyServer::start(config).is_err());
}

#[test]
fn a_damaged_attachment_closes_its_own_state_only() {
    let mut world = crate::world::with_epoch();
    orders::with_data(&world);
    let desk = world.desk();
    let order = world.one.activation(orders::head(&desk), orders::ORDER);
    desk.submit(&order).unwrap();
    let key = orders::session(&world);
    let file = |name: &legation_core::id::Sha256| {
        let root = world
            .dir
            .path()
            .join("store")
            .join(world.one.state.to_string());
        root.join("attachment").join(name.to_string())
    };
    let flip = |path: &std::path::Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[7] ^= 1;
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let (path, keyring) = (file(&key), file(&world.one.mandate.keyring));
    let bytes = std::fs::read(&path).unwrap();

    // While it runs: told, and replaced by the right bytes.
    flip(&path);
    let damaged = desk.get_attachment(&key).unwrap_err();
    assert!(damaged.to_string().contains("damaged"), "{damaged}");
    desk.put_attachment(bytes.clone()).unwrap();
    assert_eq!(desk.get_attachment(&key).unwrap(), bytes);

    // At a start: the keyring is in the settings too. The session's key is not, so the state stays closed, and no other.
    flip(&keyring);
    world.stop();
    world.start();
    assert!(world.desk().status().is_ok());
    for lost in [false, true] {
        world.stop();
        match lost {
            false => flip(&path),
            true => std::fs::remove_file(&path).unwrap(),
        }
        world.start();
        let closed = world.desk().status().unwrap_err();
        let problem = closed.problem().unwrap();
        assert_eq!((problem.status, problem.exit), (503, 1));
        assert!(
            problem.detail.contains("cannot open this state"),
            "{closed}"
        );
        assert!(world.client(&world.two, &world.two.desk).status().is_ok());
        // Whoever has no role in it is told of nothing.
        let stranger = world.client(&world.one, &world.two.desk).status();
        assert_eq!(stranger.unwrap_err().exit_code(), 12);
    }
    // Alone, the embassy does not start, and names the file.
    world.stop();
    let mut config = world.config();
    config.states.truncate(1);
    let error = EmbassyServer::start(config).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    let said = error.to_string();
    assert!(
        said.contains(&key.to_string()) && said.contains("missing"),
        "{said}"
    );
    std::fs::write(&path, bytes).unwrap();
    world.start();
    assert!(world.desk().status().is_ok());
}

pub fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(walk(&path));
        } else {
            all.push(path);
        }
    }
    all
}
