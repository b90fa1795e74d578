//! Who gets a connection: pinned keys both ways, bounds on everything, and nothing said to strangers.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use legation_embassy::Limits;
use legation_repo::http::{Client, ClientError, TlsIdentity};

use crate::world::World;

#[test]
fn a_stranger_does_not_get_past_the_handshake() {
    let world = World::new();
    let stranger = TlsIdentity::generate("desk.test").unwrap();
    let refused = world.client(&world.one, &stranger).status().unwrap_err();
    assert!(
        matches!(refused, ClientError::WrongKey { .. }),
        "{refused:?}"
    );
    assert_eq!(refused.exit_code(), 12);
}

#[test]
fn an_impostor_of_the_embassy_is_not_spoken_to() {
    let world = World::new();
    let mut options = world.options(&world.one, &world.one.desk);
    options.server = TlsIdentity::generate("a.embassy.test")
        .unwrap()
        .spki_sha256();
    let refused = Client::new(options).unwrap().status().unwrap_err();
    assert!(
        matches!(refused, ClientError::WrongKey { .. }),
        "{refused:?}"
    );
}

#[test]
fn nobody_there_is_said_without_an_address() {
    let mut world = World::new();
    let options = world.options(&world.one, &world.one.desk);
    world.stop();
    let address = options.address.clone();
    let port = address.rsplit(':').next().unwrap().to_owned();
    let gone = Client::new(options).unwrap().status().unwrap_err();
    assert_eq!(gone.exit_code(), 10);
    assert!(!gone.to_string().contains(&port), "{gone}");
    assert!(!format!("{gone:?}").contains(&port), "{gone:?}");
}

#[test]
fn silence_is_cut_off_and_takes_no_known_keys_place() {
    let mut world = World::unstarted();
    world.limits = Limits {
        handshake: Duration::from_millis(300),
        handshakes: 3,
        ..world.limits
    };
    world.start();
    let before = world.desk();
    assert!(before.status().is_ok());
    let begin = Instant::now();
    let mut silent: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(world.address()).unwrap())
        .collect();
    // Every place for a handshake is taken by somebody who says nothing; whoever is known already goes on.
    assert!(before.status().is_ok());
    for stream in &mut silent {
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(world.desk().status().is_ok());
}

#[test]
fn status_says_what_a_client_may_know() {
    let world = World::new();
    let status = world.desk().status().unwrap();
    assert_eq!(
        (
            status.label.as_str(),
            status.state,
            status.mandate,
            status.log_size
        ),
        ("a", world.one.state, 1, 1)
    );
    assert!(status.free > 0 && !status.store.is_empty());
}

#[test]
fn one_key_does_not_take_every_connection() {
    let mut world = World::unstarted();
    world.limits = Limits {
        connections: 16,
        ..world.limits
    };
    world.start();
    let share = world.limits.connections_of_key();
    assert_eq!(share, 8);
    let held: Vec<_> = (0..share).map(|_| world.land()).collect();
    assert!(held.iter().all(|client| client.status().is_ok()));
    assert!(world.land().status().is_err());
    assert!(world.desk().status().is_ok());
    assert!(held.iter().all(|client| client.status().is_ok()));
}
