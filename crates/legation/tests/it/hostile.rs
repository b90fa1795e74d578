//! The agent's machine is taken: with its own keys somebody adds streams abroad, and what was kept before stays whole.

use legation::charter::Charter;
use legation::config::agent::Agent;
use legation::config::locators::Locators;
use legation::identity::{Identity, Role};
use legation_core::id::{Digest, Lsn, RegistryId, StreamId};
use legation_core::journal::{StreamSealer, StreamStart};
use legation_core::keys::EpochRoot;
use legation_core::statement::{Cause, Gap, Signed, Time};
use legation_repo::http::Client;
use legation_repo::http::wire::StreamBody;
use legation_world::auditor;
use legation_world::fixtures::Registry;
use legation_world::world::EMBASSY;

use crate::survive::{alive, destroy_and_reckon};

/// A stream beside `live` that looks right from outside and opens under no key that anybody holds.
fn junk(
    charter: &Charter,
    registry: RegistryId,
    live: &StreamBody,
    number: u8,
    (lsn, previous): (Lsn, Option<(StreamId, Digest)>),
) -> (StreamId, Vec<Vec<u8>>) {
    let start = StreamStart {
        state: charter.state,
        registry,
        epoch: live.epoch,
        term: live.term,
        stream: StreamId([number; 16]),
        branch: 0,
        system_id: live.system_id,
        timeline: live.timeline,
        lsn,
        previous,
    };
    let root = EpochRoot::from_bytes([number; 32]);
    let (mut sealer, opening) =
        StreamSealer::open(&start, &root, &[number; 32], &[]).expect("a stream");
    let mut frames = vec![opening];
    if previous.is_none() {
        let frame = sealer.frame(lsn, live.timeline, &[number; 100_000]);
        frames.push(frame.expect("a frame"));
    }
    (start.stream, frames)
}

fn live(client: &Client, registry: RegistryId) -> StreamBody {
    let streams = client.streams(registry).expect("streams");
    streams
        .into_iter()
        .rfind(|one| !one.closed)
        .expect("a live stream")
}

#[test]
fn streams_added_with_the_agents_keys_keep_no_version_from_being_restored() {
    let mut world = alive(20_261_125, &[Registry::Land]);
    let config = Agent::load(&world.path("home/agent/agent.toml")).expect("its configuration");
    let charter = Charter::load_of(&config.mandate, &config.state).expect("its mandate");
    let identity = Identity::load(&config.identity.file, Role::Agent).expect("its keys");
    let locators = Locators::load(&config.locators).expect("its addresses");
    let pin = world.path("stolen.checkpoint");
    let client =
        legation::line::client(&charter, &identity, &locators, EMBASSY, &pin, 1).expect("a client");
    let registry: RegistryId = world.id(Registry::Land).parse().expect("an id");

    // Without a gap in the log nothing begins beside the live stream.
    let before = live(&client, registry);
    let start = Lsn(before.first_lsn.0 & !((16 << 20) - 1));
    let (covering, frames) = junk(&charter, registry, &before, 201, (start, None));
    let refused = client.append_journal(registry, &covering, frames.concat());
    assert!(refused.is_err(), "{refused:?}");
    let gap = Gap {
        state: charter.state,
        mandate: charter.mandate.sequence,
        registry,
        term: before.term,
        timeline: None,
        wal: None,
        cause: Cause::AgentLost,
        at: Time::from_millis(before.first_lsn.0).expect("a time"),
    };
    let key = identity.signing_key().expect("a key");
    client
        .submit(&Signed::sign_with(gap, &key).expect("a statement"))
        .expect("a gap in the log");

    // One that claims all of the version's WAL and sorts before everything; it ends the live stream.
    client
        .append_journal(registry, &covering, frames.concat())
        .expect("a stream after the gap");
    // And one that continues what was live.
    let streams = client.streams(registry).expect("streams");
    let ended = streams
        .iter()
        .find(|one| one.closed && one.end_lsn >= before.end_lsn);
    let ended = ended.expect("the stream that was live");
    let past = (ended.end_lsn, Some((ended.stream, ended.chain)));
    let (fork, frames) = junk(&charter, registry, ended, 202, past);
    client
        .append_journal(registry, &fork, frames.concat())
        .expect("a stream that continues another");

    destroy_and_reckon(&mut world);
    // Nothing is hidden: the fence names what does not open.
    let log = auditor::read(&world.path("desk/log-at-the-end")).expect("a log");
    let reports = log.statements("report");
    let report = reports.last().expect("a report");
    assert_eq!(report["verdict"], "doubtful", "{report:?}");
}
