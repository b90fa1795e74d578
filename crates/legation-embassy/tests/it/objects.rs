//! Objects, attachments, releases: write-once, checked on arrival, read in ranges, never another state's.

use legation_core::id::Digest;
use legation_embassy::Reserve;
use legation_repo::http::wire::kind;
use legation_repo::http::{ClientError, RemoteStore};
use legation_repo::store::{Kind, Store, StoreError};

use crate::world::{LAND, World, random, with_epoch};

fn kind_of<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> String {
    outcome
        .unwrap_err()
        .problem()
        .expect("a refusal")
        .kind
        .clone()
}

#[test]
fn an_object_is_put_once_and_read_in_parts() {
    let world = with_epoch();
    let (pack, frame) = world
        .one
        .land
        .pack(world.one.state, LAND, 1, 0, b"one page");
    let (agent, desk) = (world.land(), world.desk());
    assert_eq!(agent.object_size(Kind::Pack, &pack.digest).unwrap(), None);
    agent
        .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
        .unwrap();
    agent
        .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
        .unwrap();
    assert_eq!(
        agent.object_size(Kind::Pack, &pack.digest).unwrap(),
        Some(pack.bytes.len() as u64)
    );

    assert_eq!(
        desk.get_object(Kind::Pack, &pack.digest).unwrap(),
        pack.bytes
    );
    let store = RemoteStore(desk.clone());
    let (start, end) = (
        u64::from(frame.offset),
        u64::from(frame.offset + frame.sealed),
    );
    let part = store.get(Kind::Pack, &pack.digest, start..end).unwrap();
    assert_eq!(part, pack.bytes[start as usize..end as usize]);
    assert_eq!(
        store.get_whole(Kind::Pack, &pack.digest).unwrap(),
        pack.bytes
    );
    assert_eq!(store.list(Kind::Pack, None, 10).unwrap(), [pack.digest]);
    assert!(
        store
            .list(Kind::Pack, Some(&pack.digest), 10)
            .unwrap()
            .is_empty()
    );
    let size = pack.bytes.len() as u64;
    assert!(matches!(
        store.get(Kind::Pack, &pack.digest, size..size + 1),
        Err(StoreError::OutOfRange { .. } | StoreError::Io { .. })
    ));
    let unknown = Digest(random());
    assert!(matches!(
        store.get(Kind::Pack, &unknown, 0..1),
        Err(StoreError::NotFound { .. })
    ));
}

#[test]
fn an_object_that_is_not_what_it_says_is_refused() {
    let world = with_epoch();
    let agent = world.land();
    let (pack, _) = world
        .one
        .land
        .pack(world.one.state, LAND, 1, 0, b"one page");
    let mut other = pack.bytes.clone();
    other[5000] ^= 1;
    // Other bytes under the name, whether the name is taken or not.
    assert_eq!(
        kind_of(agent.put_object(Kind::Pack, &pack.digest, other.clone())),
        kind::BYTES
    );
    agent
        .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
        .unwrap();
    assert_eq!(
        kind_of(agent.put_object(Kind::Pack, &pack.digest, other)),
        kind::BYTES
    );
    assert_eq!(
        world.desk().get_object(Kind::Pack, &pack.digest).unwrap(),
        pack.bytes
    );

    // Not a size of the table; not a pack; another state's pack.
    let odd = pack.bytes[..pack.bytes.len() - 1].to_vec();
    assert_eq!(
        kind_of(agent.put_object(Kind::Pack, &Digest::of(&odd), odd)),
        kind::BYTES
    );
    let noise = vec![9u8; 65536];
    assert_eq!(
        kind_of(agent.put_object(Kind::Pack, &Digest::of(&noise), noise)),
        kind::BYTES
    );
    let (foreign, _) = world
        .one
        .land
        .pack(world.two.state, LAND, 1, 0, b"one page");
    assert_eq!(
        kind_of(agent.put_object(Kind::Pack, &foreign.digest, foreign.bytes)),
        kind::BYTES
    );
}

#[test]
fn a_body_beyond_its_bound_is_refused_unread() {
    let world = with_epoch();
    let agent = world.land();
    let huge = vec![0u8; (16 << 20) + 1];
    let refused = agent.put_object(Kind::Pack, &Digest::of(&huge), huge);
    assert_eq!(kind_of(refused), kind::TOO_LARGE);
    let long = vec![b'x'; (4 << 20) + 1];
    assert_eq!(kind_of(agent.put_attachment(long)), kind::TOO_LARGE);
}

#[test]
fn roles_have_their_verbs_and_no_others() {
    let world = with_epoch();
    let (pack, _) = world
        .one
        .land
        .pack(world.one.state, LAND, 1, 0, b"one page");
    world
        .land()
        .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
        .unwrap();
    // Home can give, never take: not even ciphertext.
    assert_eq!(
        kind_of(world.land().get_object(Kind::Pack, &pack.digest)),
        kind::ROLE
    );
    assert_eq!(
        kind_of(
            world
                .desk()
                .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
        ),
        kind::ROLE
    );
    assert_eq!(
        kind_of(
            world
                .inside()
                .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
        ),
        kind::ROLE
    );
    let order = "2026-11-22-7f2c91d0".parse().unwrap();
    assert_eq!(
        kind_of(world.land().put_release(&order, vec![1])),
        kind::ROLE
    );
    assert_eq!(
        kind_of(world.desk().put_release(&order, vec![1])),
        kind::MANDATE
    );
    assert!(world.desk().releases(&order).unwrap().is_empty());
}

#[test]
fn another_states_path_does_not_exist() {
    let world = with_epoch();
    // A key of state one that speaks of state two does not get past the handshake: state two does not know it, and what
    // it is in state one does not count under a certificate of another state.
    let stray = world.client(&world.two, &world.one.desk);
    let there = stray.status().unwrap_err();
    assert_eq!(there.exit_code(), 12);
    let (pack, _) = world
        .one
        .land
        .pack(world.two.state, LAND, 1, 0, b"one page");
    let agent = world.client(&world.two, &world.one.land.tls);
    assert!(
        agent
            .put_object(Kind::Pack, &pack.digest, pack.bytes)
            .unwrap_err()
            .exit_code()
            == 12
    );
    assert!(world.client(&world.two, &world.two.desk).status().is_ok());
}

#[test]
fn what_is_left_is_kept_for_the_log() {
    let mut world = World::unstarted();
    world.reserve = Reserve::Percent(100);
    world.start();
    let agent = world.land();
    let state = world.one.state;
    let (slip, statement) =
        world
            .one
            .land
            .epoch(state, &world.one.vault, LAND, legation_core::id::EpochNo(1));
    let refused = agent
        .put_object(Kind::Slip, &Digest::of(&slip), slip.clone())
        .unwrap_err();
    assert!(refused.is_full() && refused.problem().unwrap().status == 507);
    assert_eq!(agent.checkpoint().unwrap().size(), 1);

    world.reserve = Reserve::Bytes(0);
    world.quota = Some(4096 + world.one.keyring.text().len() as u64);
    world.restart();
    let agent = world.land();
    agent
        .put_object(Kind::Slip, &Digest::of(&slip), slip)
        .unwrap();
    agent.submit(&statement).unwrap();
    let (pack, _) = world.one.land.pack(state, LAND, 1, 0, b"one page");
    assert!(
        agent
            .put_object(Kind::Pack, &pack.digest, pack.bytes)
            .unwrap_err()
            .is_full()
    );
}

#[test]
fn attachments_go_by_their_digest() {
    let world = World::new();
    let desk = world.desk();
    let digest = desk.put_attachment(b"a session key".to_vec()).unwrap();
    assert_eq!(
        desk.put_attachment(b"a session key".to_vec()).unwrap(),
        digest
    );
    assert_eq!(desk.get_attachment(&digest).unwrap(), &b"a session key"[..]);
    let mut all = vec![digest, world.one.keyring.id()];
    all.sort();
    assert_eq!(desk.attachments().unwrap(), all);
}

#[test]
fn attachments_count_and_are_bounded() {
    let mut world = World::unstarted();
    world.quota = Some(1 << 20);
    world.start();
    let (agent, desk) = (world.land(), world.desk());
    let before = desk.status().unwrap().free;
    desk.put_attachment(vec![7; 300_000]).unwrap();
    desk.put_attachment(vec![7; 300_000]).unwrap();
    assert_eq!(desk.status().unwrap().free, before - 300_000);
    let full = desk.put_attachment(vec![8; 800_000]).unwrap_err();
    assert!(full.is_full(), "{full:?}");
    world.stop();
    world.start();
    assert_eq!(world.desk().status().unwrap().free, before - 300_000);
    drop((agent, desk));

    // A writer's key adds so many and no more; orders and sessions go on.
    let (agent, desk) = (world.land(), world.desk());
    for n in 2..64u8 {
        agent.put_attachment(vec![n]).unwrap();
    }
    let full = agent.put_attachment(vec![64]).unwrap_err();
    assert!(full.is_full(), "{full:?}");
    agent.put_attachment(vec![63]).unwrap();
    desk.put_attachment(vec![64]).unwrap();
}
