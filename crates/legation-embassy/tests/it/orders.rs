//! An accepted order fences home at once, with the last durable position, and takes releases for its session.

use legation_core::id::{OrderId, Sha256};
use legation_core::keys::OpeningKey;
use legation_core::release::ReleaseHead;
use legation_core::statement::{Entry, Fence, LogHead, Session, Signed, Statement};
use legation_repo::http::wire::kind;
use legation_repo::http::{Client, ClientError};
use legation_repo::log::LogSource;
use legation_repo::store::Kind;

use crate::world::{LAND, World, name, now, random, with_epoch};
use legation_core::id::Digest;

pub const ORDER: &str = "2026-11-22-7f2c91d0";

/// One version and some WAL of the land register; the frames that were not sent yet.
pub fn with_data(world: &World) -> (legation_core::id::StreamId, Vec<Vec<u8>>) {
    let (state, land, agent) = (world.one.state, &world.one.land, world.land());
    let (pack, root) = land.pack(state, LAND, 1, 0, b"root");
    agent
        .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
        .unwrap();
    let (list, commit) = land.version(state, LAND, 1, None, &[(1, 0, &pack)], root);
    agent
        .put_object(Kind::List, &Digest::of(&list), list)
        .unwrap();
    agent.submit(&commit).unwrap();
    let (stream, frames) = land.stream(state, LAND, 4, None);
    agent
        .append_journal(LAND, &stream, frames[..3].concat())
        .unwrap();
    (stream, frames[3..].to_vec())
}

pub fn head(client: &Client) -> LogHead {
    let checkpoint = client.checkpoint().unwrap();
    LogHead {
        size: checkpoint.size(),
        root: checkpoint.root(),
    }
}

pub fn entries(client: &Client) -> Vec<Entry> {
    let size = client.checkpoint().unwrap().size();
    let path = format!("tile/entries/000.p/{size}");
    let bundle = client.log_files().fetch(&path).unwrap().unwrap();
    let (leaves, _) = legation_core::log::split_bundle(&bundle, size).unwrap();
    leaves
        .into_iter()
        .map(|leaf| Entry::parse(leaf).unwrap())
        .collect()
}

/// Logs a session of the order, and returns its key's digest.
pub fn session(world: &World) -> Sha256 {
    let inside = world.inside();
    let key = OpeningKey::from_seed(&random()).unwrap().public();
    let key = inside.put_attachment(key.encode().to_vec()).unwrap();
    let session = Session {
        state: world.one.state,
        mandate: 1,
        embassy: name("a"),
        order: ORDER.parse().unwrap(),
        key,
        at: now(),
    };
    inside
        .submit(&Signed::sign_with(session, &world.embassy_key()).unwrap())
        .unwrap();
    key
}

#[test]
fn an_accepted_activation_fences_home() {
    let mut world = with_epoch();
    let (stream, rest) = with_data(&world);
    let (agent, desk) = (world.land(), world.desk());
    let order = world.one.activation(head(&desk), ORDER);
    let receipt = desk.submit(&order).unwrap();
    assert_eq!(receipt.entry.index, 3);

    let all = entries(&desk);
    assert_eq!(all.len(), 5);
    let Statement::Fence(fence) = all[4].signed.statement().unwrap() else {
        panic!("no fence")
    };
    let Fence {
        registry,
        term,
        sequence,
        ..
    } = &*fence;
    assert_eq!(
        (*registry, term.from.0, term.to.0, *sequence),
        (LAND, 1, 2, Some(2))
    );
    assert_eq!(fence.stream, Some(stream));

    // Home is fenced: in the journal, and in the log.
    let fenced = agent
        .append_journal(LAND, &stream, rest.concat())
        .unwrap_err();
    assert!(fenced.is_fenced() && fenced.exit_code() == 6, "{fenced:?}");
    let state = world.one.state;
    let vault = OpeningKey::from_seed(world.one.vault.seed()).unwrap();
    let (slip, epoch) = world
        .one
        .land
        .epoch(state, &vault, LAND, legation_core::id::EpochNo(2));
    // The order spent the generation that this slip is sealed to, so nothing of it is kept.
    let name_of_slip = Digest::of(&slip);
    let spent = agent
        .put_object(Kind::Slip, &name_of_slip, slip)
        .unwrap_err();
    assert_eq!(spent.problem().unwrap().kind, kind::MANDATE);
    assert!(spent.to_string().contains("rule 24"), "{spent}");
    assert!(
        agent
            .object_size(Kind::Slip, &name_of_slip)
            .unwrap()
            .is_none()
    );
    let fenced = agent.submit(&epoch).unwrap_err();
    assert_eq!(fenced.exit_code(), 6);

    // The activation speaks for the embassy over the same line.
    let inside = world.inside();
    let attached = session(&world);
    let id: OrderId = ORDER.parse().unwrap();
    // What is delivered by a key that may, for this order and this session, is kept beside whatever else was.
    let head = ReleaseHead {
        state,
        order: id.clone(),
        statement: order.id(),
        recipient: attached,
    };
    let release = |head: &ReleaseHead, what: &str| format!("{head}annex: {what}\n").into_bytes();
    let other = |change: fn(&mut ReleaseHead)| {
        let mut other = head.clone();
        change(&mut other);
        release(&other, "AAAA")
    };
    let exit = |bytes: Vec<u8>| desk.put_release(&id, bytes).unwrap_err().exit_code();
    assert!(inside.releases(&id).unwrap().is_empty());
    assert_eq!(exit(b"junk".to_vec()), 4);
    assert_eq!(exit(other(|h| h.state.0[0] ^= 1)), 4);
    assert_eq!(
        exit(other(|h| h.order = "2026-11-22-7f2c91d1".parse().unwrap())),
        4
    );
    assert_eq!(exit(other(|h| h.statement.0[0] ^= 1)), 4);
    assert_eq!(exit(other(|h| h.recipient.0[0] ^= 1)), 8);
    let junk = release(&head, "AAAA");
    desk.put_release(&id, junk.clone()).unwrap();
    desk.put_release(&id, junk.clone()).unwrap();
    let real = release(&head, "BBBB");
    desk.put_release(&id, real.clone()).unwrap();
    let mut both = [Sha256::of(&junk), Sha256::of(&real)];
    both.sort();
    assert_eq!(inside.releases(&id).unwrap(), both);
    assert_eq!(inside.get_release(&id, &Sha256::of(&real)).unwrap(), real);
    assert!(agent.releases(&id).is_err());
    // One key delivers so many for a session, and takes nobody else's place.
    for n in 2..8 {
        desk.put_release(&id, release(&head, &format!("CCC{n}")))
            .unwrap();
    }
    let full = desk.put_release(&id, release(&head, "CCC8")).unwrap_err();
    assert_eq!(full.problem().unwrap().kind, kind::FULL);
    desk.put_release(&id, real.clone()).unwrap();
    inside.put_release(&id, release(&head, "DDDD")).unwrap();
    assert_eq!(inside.releases(&id).unwrap().len(), 9);

    // A newer session takes its own only; what was sealed to the older one is no longer on offer.
    let newer = session(&world);
    assert!(inside.releases(&id).unwrap().is_empty());
    assert_eq!(exit(real.clone()), 8);
    let head = ReleaseHead {
        recipient: newer,
        ..head
    };
    let real = release(&head, "BBBB");
    desk.put_release(&id, real.clone()).unwrap();
    assert_eq!(inside.releases(&id).unwrap(), [Sha256::of(&real)]);

    // A restart changes nothing, and owes no second fence.
    world.restart();
    let desk = world.desk();
    assert_eq!(entries(&desk).len(), 7);
    assert_eq!(desk.releases(&id).unwrap(), [Sha256::of(&real)]);
    assert!(
        world
            .land()
            .append_journal(LAND, &stream, rest.concat())
            .unwrap_err()
            .is_fenced()
    );
    assert_eq!(desk.submit(&order).unwrap().entry.index, 3);
}

#[test]
fn an_order_that_lacks_something_is_refused() {
    let world = with_epoch();
    with_data(&world);
    let desk = world.desk();
    let exit = |signed: &Signed| match desk.submit(signed) {
        Err(ClientError::Refused { problem, .. }) => problem.exit,
        other => panic!("{other:?}"),
    };
    let order = world.one.activation(head(&desk), ORDER);
    // Nobody signed; one word changed; written in sight of another log; for another state.
    let unsigned = Signed::unsigned(order.text()).unwrap();
    assert_eq!(exit(&unsigned), 5);
    let changed = order.encode().replace(ORDER, "2026-11-22-7f2c91d1");
    assert_eq!(exit(&Signed::parse(changed.as_bytes()).unwrap()), 8);
    let strange = LogHead {
        size: 2,
        root: Sha256([3; 32]),
    };
    assert_eq!(exit(&world.one.activation(strange, ORDER)), 8);
    assert_eq!(exit(&world.two.activation(head(&desk), ORDER)), 8);
    // Each attempt is on record once, however often it is repeated.
    assert_eq!(exit(&unsigned), 5);
    let log = entries(&desk);
    let told = log[3..]
        .iter()
        .map(|e| match e.signed.statement().unwrap() {
            Statement::Refused(it) => it.rule,
            other => panic!("{other:?}"),
        });
    assert_eq!(told.collect::<Vec<_>>().len(), 4);
    assert!(desk.submit(&order).is_ok());
}
