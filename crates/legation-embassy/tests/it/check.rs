//! What an embassy kept is checked byte by byte, without its keys, while it runs and after it stopped.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use legation_core::id::Digest;
use legation_core::journal::Chain;
use legation_core::release::ReleaseHead;
use legation_core::statement::{Mark, Signed};
use legation_repo::check::{Report, check};
use legation_repo::store::Kind;

use crate::orders;
use crate::restarts::walk;
use crate::world::{LAND, World, now};

fn report(world: &World) -> Report {
    check(&world.store(), &world.one.state, 2, &|_| true).unwrap()
}

fn found(world: &World) -> Vec<String> {
    report(world)
        .findings
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn away(world: &World, path: &Path, then: impl FnOnce()) {
    let aside = world.dir.path().join("aside");
    fs::rename(path, &aside).unwrap();
    then();
    fs::rename(&aside, path).unwrap();
}

#[test]
fn what_was_kept_is_proven_from_the_bytes_alone() {
    let mut world = crate::world::with_epoch();
    let state = world.one.state;
    let (pack, root) = world.one.land.pack(state, LAND, 1, 0, b"root");
    let (list, commit) = world
        .one
        .land
        .version(state, LAND, 1, None, &[(1, 0, &pack)], root);
    world
        .land()
        .put_object(Kind::Pack, &pack.digest, pack.bytes.clone())
        .unwrap();
    let list_name = Digest::of(&list);
    world
        .land()
        .put_object(Kind::List, &list_name, list)
        .unwrap();
    world.land().submit(&commit).unwrap();
    let (stream, frames) = world.one.land.stream(state, LAND, 5, None);
    world
        .land()
        .append_journal(LAND, &stream, frames.concat())
        .unwrap();
    let mut chain = Chain::new();
    for frame in &frames {
        chain.check(frame).unwrap();
    }
    let position = chain.position().unwrap();
    let mark = Mark {
        state,
        mandate: 1,
        registry: LAND,
        term: legation_core::id::Term(1),
        epoch: legation_core::id::EpochNo(1),
        stream,
        sequence: position.seq,
        chain: position.chain,
        timeline: position.timeline,
        lsn: position.end_lsn,
        at: now(),
    };
    let mark = Signed::sign_with(mark, &world.one.land.key).unwrap();
    let marked = world.land().submit(&mark).unwrap().entry.index;

    // While it runs, and after.
    for running in [true, false] {
        let report = report(&world);
        assert!(report.is_whole(), "{:?}", report.findings);
        assert_eq!(report.log.unwrap().size, marked + 1);
        assert_eq!((report.objects, report.journals), (3, 1));
        assert_eq!(report.frames, frames.len() as u64);
        if running {
            world.stop();
        }
    }

    let root = world.store().join(state.to_string());
    let object = |kind: &str, digest: &Digest| {
        let name = digest.to_string();
        root.join("object").join(kind).join(&name[..2]).join(name)
    };
    away(&world, &object("list", &list_name), || {
        let found = found(&world);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].ends_with("names it and it is not there"),
            "{found:?}"
        );
    });
    away(&world, &object("pack", &pack.digest), || {
        let found = found(&world);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(&list_name.to_string()), "{found:?}");
    });
    // A journal rolled back whole, with all that could tell: the log remembers.
    let journal = root.join(format!("journal/{LAND}/{stream}"));
    let segment = journal.join("00000000");
    let whole = fs::read(&segment).unwrap();
    let last = frames.last().unwrap().len();
    fs::write(&segment, &whole[..whole.len() - last]).unwrap();
    fs::remove_file(journal.join("SYNCED")).unwrap();
    let rolled_back = found(&world);
    assert_eq!(rolled_back.len(), 1, "{rolled_back:?}");
    let expect = format!("log entry {marked} says frame {} was kept", position.seq);
    assert!(rolled_back[0].contains(&expect), "{rolled_back:?}");
    fs::write(&segment, &whole).unwrap();
    away(&world, &journal, || {
        assert!(found(&world)[0].contains("marks it and it is not there"))
    });
    // The log cut short behind everybody's back, with its checkpoint: shorter, and itself whole.
    let tail = root.join("log/tail/000000000000");
    let entries = fs::read(&tail).unwrap();
    fs::write(&tail, &entries[..entries.len() - 1]).unwrap();
    let cut = report(&world);
    assert!(cut.log.is_none() && !cut.is_whole());
    fs::write(&tail, &entries).unwrap();
    let keyring = root
        .join("attachment")
        .join(world.one.mandate.keyring.to_string());
    away(&world, &keyring, || {
        let found = found(&world);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("log entry 0 names it"), "{found:?}");
    });
    assert!(report(&world).is_whole());
}

#[test]
fn a_flipped_byte_is_found_in_every_kind_of_file() {
    let mut world = crate::world::with_epoch();
    let (stream, rest) = orders::with_data(&world);
    let desk = world.desk();
    // Evidence: another frame than the one that was kept.
    let mut changed = rest[0].clone();
    world
        .land()
        .append_journal(LAND, &stream, rest.concat())
        .unwrap();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    world
        .land()
        .append_journal(LAND, &stream, changed)
        .unwrap_err();
    let order = world.one.activation(orders::head(&desk), orders::ORDER);
    desk.submit(&order).unwrap();
    let head = ReleaseHead {
        state: world.one.state,
        order: orders::ORDER.parse().unwrap(),
        statement: order.id(),
        recipient: orders::session(&world),
    };
    let release = format!("{head}annex: AAAA\n").into_bytes();
    desk.put_release(&head.order, release).unwrap();
    world.stop();

    let root = world.store().join(world.one.state.to_string());
    let mut kinds = BTreeSet::new();
    let mut missed = Vec::new();
    assert!(report(&world).is_whole(), "{:?}", found(&world));
    for path in walk(&root) {
        let name = path.strip_prefix(&root).unwrap().to_owned();
        let good = fs::read(&path).unwrap();
        // A lower bound that is not synced itself: one that does not hold counts as absent.
        if good.is_empty() || name.ends_with("SYNCED") {
            continue;
        }
        kinds.insert(name.iter().next().unwrap().to_string_lossy().into_owned());
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::remove_file(&path).unwrap();
            fs::write(&path, bad).unwrap();
            let seen = check(&world.store(), &world.one.state, 2, &|_| true);
            if seen.is_ok_and(|report| report.is_whole()) {
                missed.push(format!("{} byte {at}", name.display()));
            }
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, good).unwrap();
    }
    assert_eq!(missed, Vec::<String>::new());
    let all = [
        "FORMAT",
        "attachment",
        "evidence",
        "journal",
        "log",
        "object",
        "release",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);

    // What the log names and is not there is missed, be it a session's key.
    away(
        &world,
        &root.join(format!("attachment/{}", head.recipient)),
        || {
            let found = found(&world);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                found[0].contains("names it and it is not there"),
                "{found:?}"
            );
        },
    );
}
