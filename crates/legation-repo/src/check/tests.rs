use std::fs;
use std::path::PathBuf;

use legation_core::id::{EpochNo, Generation, RegistryId, StreamId};
use legation_core::keys::{EpochRoot, OpeningKey};
use legation_core::list::{ListRow, PackList};
use legation_core::log::{LOG_SEED_LEN, LogSigner};
use legation_core::pack::PackBuilder;
use legation_core::slip::{self, SlipHeader};

use super::*;
use crate::journal::tests::Agent;
use crate::log::DiskLog;
use crate::store::conformance::object;
use crate::store::{Kind, RetainUntil, Store};

/// A state whose directory holds some of everything; its log holds entries that are no statements.
struct World {
    dir: tempfile::TempDir,
    state: StateId,
    pack: Digest,
    list: Digest,
    stream: StreamId,
}

const REGISTRY: &str = "r-3f9a1c";

impl World {
    fn new() -> World {
        let (dir, state) = (tempfile::tempdir().unwrap(), StateId([7; 20]));
        let store = StateDir::create(dir.path(), &state).unwrap();
        let registry: RegistryId = REGISTRY.parse().unwrap();
        let root = EpochRoot::from_bytes([1; 32]);
        let mut builder = PackBuilder::new(state, registry, EpochNo(1), 0);
        for seed in 0..20 {
            builder.push(&object(seed, 50_000).1).unwrap().unwrap();
        }
        let sealed = builder.seal(&root, &[2; 32]).unwrap();
        let put = |kind, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            store
                .objects()
                .put(kind, &digest, bytes, RetainUntil::FOREVER)
                .unwrap();
            digest
        };
        let pack = put(Kind::Pack, &sealed.bytes);
        let row = ListRow {
            epoch: EpochNo(1),
            seq: 0,
            size: sealed.size,
            digest: pack,
        };
        let list = put(
            Kind::List,
            &PackList::new(state, registry, vec![row]).unwrap().encode(),
        );
        let header = SlipHeader {
            state,
            registry,
            epoch: EpochNo(1),
            generation: Generation(1),
        };
        let vault = OpeningKey::from_seed(&[4; 32]).unwrap().public();
        put(
            Kind::Slip,
            &slip::seal(&vault, &header, &root, &[5; 32]).unwrap(),
        );
        let stream = StreamId([9; 16]);
        let name = store.stream(registry, &stream);
        let (mut journal, _) = store.open_journal(registry, &stream).unwrap();
        let (mut agent, opening) = Agent::open(&name);
        journal.append(&opening).unwrap();
        for _ in 0..90 {
            journal.append(&agent.frame(200_000)).unwrap();
        }
        journal.sync().unwrap();
        store.put_attachment(b"an attachment").unwrap();
        World {
            dir,
            state,
            pack,
            list,
            stream,
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join(self.state.to_string())
    }

    fn check(&self) -> Report {
        check(self.dir.path(), &self.state, 2, &|_| true).unwrap()
    }

    /// Findings but for the log's, which this world has not got.
    fn findings(&self) -> Vec<String> {
        let report = self.check();
        let findings = report.findings.iter().filter(|f| f.kind != "log");
        findings.map(ToString::to_string).collect()
    }

    fn object(&self, kind: Kind, digest: &Digest) -> PathBuf {
        StateDir::open_reader(self.dir.path(), &self.state)
            .unwrap()
            .objects()
            .path(kind, digest)
    }

    fn segment(&self, number: u32) -> PathBuf {
        let journal = self.root().join("journal").join(REGISTRY);
        journal
            .join(self.stream.to_string())
            .join(format!("{number:08}"))
    }
}

/// Changes a read-only file, shows what is found, and puts it back.
fn with(path: &Path, change: impl FnOnce(&mut Vec<u8>), then: impl FnOnce()) {
    let good = fs::read(path).unwrap();
    let mut bad = good.clone();
    change(&mut bad);
    replace(path, &bad);
    then();
    replace(path, &good);
}

fn replace(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_whole_store_is_found_whole() {
    let world = World::new();
    let report = world.check();
    assert_eq!(world.findings(), [""; 0]);
    assert_eq!((report.objects, report.journals, report.frames), (3, 1, 91));
    assert_eq!(report.attachments, 1);
    assert!(report.bytes > 22 << 20);
    // There is no log here, and that is said.
    assert!(!report.is_whole() && report.log.is_none());
    let nowhere = check(world.dir.path(), &StateId([8; 20]), 2, &|_| true);
    assert!(matches!(nowhere, Err(StoreError::NotFound { .. })));
}

#[test]
fn a_check_can_be_broken_off_and_says_so() {
    let world = World::new();
    let stop_at = |things| {
        check(world.dir.path(), &world.state, 2, &|done| {
            done.things < things
        })
        .unwrap()
    };
    let early = stop_at(2);
    assert!(early.interrupted && !early.is_whole());
    assert_eq!((early.frames, early.attachments), (0, 0));
    let midway = stop_at(30);
    assert!(midway.interrupted && midway.frames > 0 && midway.frames < 91);
    assert!(!stop_at(u64::MAX).interrupted);
}

#[test]
fn damage_in_objects_is_located() {
    let world = World::new();
    let pack = world.object(Kind::Pack, &world.pack);
    let name = world.pack.to_string();
    let check = |expect: &[String]| assert_eq!(world.findings(), expect);
    let wrong = "not the bytes of its name";
    with(
        &pack,
        |b| b[71_204] ^= 1,
        || check(&[format!("pack {name}, bytes 65,536..131,072: {wrong}")]),
    );
    with(
        &pack,
        |b| {
            b[0] ^= 1;
            b[200_000] ^= 1;
            b[300_000] ^= 1;
        },
        || {
            check(&[
                format!("pack {name}, bytes 0..65,536: {wrong}"),
                format!("pack {name}, bytes 196,608..327,680: {wrong}"),
            ]);
        },
    );
    let length = fs::metadata(&pack).unwrap().len();
    with(
        &pack,
        |b| b.truncate(500_000),
        || {
            let (all, found) = (grouped(length), world.findings());
            assert_eq!(found.len(), 3, "{found:?}");
            let expect = [
                format!("pack {name}: it has 500000 bytes instead of {length}"),
                format!(
                    "pack {name}: list {} says {length} bytes, not 500000",
                    world.list
                ),
                format!("pack {name}, bytes 458,752..{all}: {wrong}"),
            ];
            assert!(expect.iter().all(|e| found.contains(e)), "{found:?}");
        },
    );
    with(
        &crate::dir::beside(&pack),
        |b| b[100] ^= 1,
        || {
            let found = world.findings();
            assert_eq!(found.len(), 1);
            assert!(found[0].starts_with(&format!("outboard {name}: the outboard is damaged")));
        },
    );
    with(
        &world.object(Kind::List, &world.list),
        |b| b[50] ^= 1,
        || check(&[format!("list {}, bytes 0..4,096: {wrong}", world.list)]),
    );
    // Several at once, and none hides another.
    with(
        &pack,
        |b| b[71_204] ^= 1,
        || {
            with(
                &world.segment(0),
                |b| b[3_000_000] ^= 1,
                || assert_eq!(world.findings().len(), 2),
            );
        },
    );
}

#[test]
fn what_is_missing_or_strange_is_named() {
    let world = World::new();
    let pack = world.object(Kind::Pack, &world.pack);
    let moved = pack.with_extension("away");
    fs::rename(&pack, &moved).unwrap();
    let found = world.findings();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("nothing of this store has such a name"));
    assert!(found[1].ends_with(&format!("list {} names it and it is not there", world.list)));
    fs::rename(&moved, &pack).unwrap();
    // An object of a size that no object has, and one of another state.
    let store = StateDir::create(world.dir.path(), &world.state).unwrap();
    let (digest, bytes) = object(1, 5000);
    store
        .objects()
        .put(Kind::Slip, &digest, &bytes, RetainUntil(1))
        .unwrap();
    let found = world.findings();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("5000 bytes is no size that a slip has"));
    fs::remove_file(world.object(Kind::Slip, &digest)).unwrap();
    let foreign = PackList::new(StateId([8; 20]), REGISTRY.parse().unwrap(), vec![])
        .unwrap()
        .encode();
    let digest = Digest::of(&foreign);
    store
        .objects()
        .put(Kind::List, &digest, &foreign, RetainUntil(1))
        .unwrap();
    let found = world.findings();
    assert_eq!(
        found,
        [format!(
            "list {digest}: it belongs to the state {}",
            StateId([8; 20])
        )]
    );
    fs::remove_file(world.object(Kind::List, &digest)).unwrap();
    let digest = store.attachments().unwrap()[0];
    let path = world.root().join("attachment").join(digest.to_string());
    with(
        &path,
        |b| b[0] ^= 1,
        || assert_eq!(world.findings().len(), 1),
    );
}

#[test]
fn damage_in_journals_is_located_frame_by_frame() {
    let world = World::new();
    let frame = 256 << 10;
    let (first, last) = (world.segment(0), world.segment(1));
    let journal = format!("journal {REGISTRY}/{}", world.stream);
    let place = |segment: u32, from: u64, to: u64| {
        format!(
            "{journal}, segment {segment:08}, bytes {}..{}:",
            grouped(from),
            grouped(to)
        )
    };
    let check = |expect: &[String]| {
        let found = world.findings();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.starts_with(expect), "{found} / {expect}");
        }
    };
    let at = |n: u64| 4096 + n * frame;
    // A body, a header, a chain value: each one frame. A damaged chain value leaves the next frame unproven too.
    with(
        &first,
        |b| b[at(3) as usize + 5000] ^= 1,
        || check(&[place(0, at(3), at(4))]),
    );
    with(
        &first,
        |b| b[at(3) as usize + 2] ^= 1,
        || check(&[place(0, at(3), at(4))]),
    );
    with(
        &first,
        |b| b[at(4) as usize - 1] ^= 1,
        || check(&[place(0, at(3), at(4)), place(0, at(4), at(5))]),
    );
    // Several, in both segments, and a frame swapped with another.
    with(
        &first,
        |b| {
            b[100] ^= 1;
            b[at(9) as usize + 777] ^= 1;
        },
        || {
            with(
                &last,
                |b| b[frame as usize + 9] ^= 1,
                || {
                    check(&[
                        place(0, 0, at(0)),
                        place(0, at(9), at(10)),
                        place(1, frame, 2 * frame),
                    ]);
                },
            );
        },
    );
    // Cut short below what was synced: found. Grown beyond it: being written.
    let length = fs::metadata(&last).unwrap().len();
    with(
        &last,
        |b| b.truncate(length as usize - 10),
        || check(&[place(1, length - frame, length - 10)]),
    );
    with(&last, |b| b.extend_from_slice(&[1; 900]), || check(&[]));
    let saved = fs::read(&last).unwrap();
    fs::remove_file(&last).unwrap();
    check(&[format!(
        "{journal}: segment 00000001 had been synced and is not there"
    )]);
    fs::write(&last, saved).unwrap();
    let saved = fs::read(&first).unwrap();
    fs::remove_file(&first).unwrap();
    assert!(!world.findings().is_empty());
    fs::write(&first, saved).unwrap();
    check(&[]);
}

#[test]
fn damage_in_the_log_is_told_from_damage_in_its_tiles() {
    let world = World::new();
    let dir = world.root().join("log");
    let signer = LogSigner::from_seed(&[1; LOG_SEED_LEN]).unwrap();
    let mut log = DiskLog::open(&dir, "lgn1-test/a", signer, 1).unwrap();
    for start in (0..600).step_by(100) {
        let entries: Vec<Vec<u8>> = (start..start + 100)
            .map(|n| format!("entry {n}").into_bytes())
            .collect();
        log.append(&entries, 1).unwrap();
    }
    let head = log.reader().checkpoint().head();
    let found = || {
        let mut bad = Vec::new();
        let leads = crate::log::inspect::inspect(&dir, Some(head), |seen| {
            if let crate::log::inspect::Seen::Bad(name, why) = seen {
                bad.push(format!("{name}: {why}"));
            }
        });
        assert!(
            !leads
                || bad
                    .iter()
                    .all(|b| b.starts_with("tile/0") || b.starts_with("tile/1"))
        );
        bad
    };
    assert_eq!(found(), [""; 0]);
    with(
        &dir.join("tile/entries/001"),
        |b| b[5] ^= 1,
        || assert_eq!(found(), ["tile/entries/001: entry 256 is damaged"]),
    );
    with(
        &dir.join("tile/0/001"),
        |b| b[40] ^= 1,
        || assert_eq!(found(), ["tile/0/001: its hash of entry 257 is damaged"]),
    );
    with(
        &dir.join("tile/entries/000"),
        |b| b[0] = 0xff,
        || assert!(found()[0].starts_with("tile/entries/000: malformed entry bundle")),
    );
    with(
        &dir.join("tail/000000000002"),
        |b| b.truncate(300),
        || assert!(found()[0].contains("the checkpoint has size 600, but")),
    );
    fs::remove_file(dir.join("tile/0/000")).unwrap();
    assert_eq!(found(), ["tile/0/000: it is missing"]);
    // Entries that are no statements are named, one by one, without an end to the check.
    let report = world.check();
    assert_eq!(report.entries, 600);
    assert!(
        report
            .findings
            .iter()
            .filter(|f| f.name.starts_with("entry "))
            .count()
            == 600
    );
}
