//! What the reader refuses. That it reads what was written is tested beside the writer.

use super::*;
use crate::writer::tests::{Collect, World, entry, keys, noise, put, state};
use legation_core::manifest::SourceRoot;
use legation_core::pack::PackBuilder;

fn world() -> (World, VersionName) {
    let mut world = World::new();
    let (name, _) = world.write(1, 1, |w, _| {
        for i in 0..400 {
            put(w, &format!("f{i:04}"), &noise(700, i as u8), 700)?;
        }
        put(w, "large", &noise(400_000, 1), 5000)
    });
    (world, name)
}

fn restore(world: &World, name: &VersionName, check: Check) -> Result<Progress, ReadError> {
    let reader = VersionReader::open(world.source.clone(), keys(&[1]), name, check, DEFAULT_CACHE)?;
    reader.restore(0, b"", &mut Collect::default(), &mut |_| {})
}

#[test]
fn every_damaged_pack_is_located_and_nothing_wrong_is_handed_out() {
    let (world, name) = world();
    let digests: Vec<_> = world
        .source
        .objects
        .lock()
        .unwrap()
        .keys()
        .copied()
        .collect();
    for (kind, digest) in digests {
        let len = world.source.objects.lock().unwrap()[&(kind, digest)].len();
        for at in (0..len).step_by(len / 40 + 1) {
            let flip = |world: &World| {
                world
                    .source
                    .objects
                    .lock()
                    .unwrap()
                    .get_mut(&(kind, digest))
                    .unwrap()[at] ^= 1;
            };
            flip(&world);
            // A pack's padding is not covered by any frame that is read; the digest covers it.
            match restore(&world, &name, Check::Whole) {
                Err(ReadError::Damaged {
                    kind: k,
                    digest: d,
                    start,
                    end,
                    ..
                }) => {
                    assert_eq!((k, d), (kind, digest));
                    assert!(
                        (start..end).contains(&(at as u64)),
                        "{start}..{end} does not hold {at}"
                    );
                }
                other => panic!("{kind} byte {at}: {other:?}"),
            }
            if let Err(error) = restore(&world, &name, Check::Seal) {
                let ReadError::Damaged {
                    digest: d,
                    start,
                    end,
                    ..
                } = error
                else {
                    panic!("{error}")
                };
                assert_eq!(d, digest);
                assert!((start..end).contains(&(at as u64)), "located to the frame");
                assert!(kind == ObjectKind::List || end - start <= 256 * 1024);
            }
            flip(&world);
        }
    }
    assert_eq!(restore(&world, &name, Check::Whole).unwrap().entries, 401);
}

#[test]
fn missing_and_cut_objects_are_refused() {
    let (world, name) = world();
    let keep = world.source.objects.lock().unwrap().clone();
    for key in keep.keys() {
        world.source.objects.lock().unwrap().remove(key);
        assert!(matches!(
            restore(&world, &name, Check::Whole),
            Err(ReadError::Source(SourceError::Missing { .. }))
        ));
        let cut = keep[key][..keep[key].len() - 1].to_vec();
        world.source.objects.lock().unwrap().insert(*key, cut);
        assert!(restore(&world, &name, Check::Whole).is_err());
        world
            .source
            .objects
            .lock()
            .unwrap()
            .insert(*key, keep[key].clone());
    }
}

#[test]
fn another_name_opens_nothing() {
    let (world, name) = world();
    let open = |name: VersionName| {
        VersionReader::open(
            world.source.clone(),
            keys(&[1]),
            &name,
            Check::Seal,
            DEFAULT_CACHE,
        )
        .map(|_| ())
    };
    open(name).unwrap();
    for wrong in [
        VersionName {
            state: StateId([8; 20]),
            ..name
        },
        VersionName {
            registry: RegistryId::new(1).unwrap(),
            ..name
        },
        VersionName {
            version: VersionNo(2),
            ..name
        },
        VersionName {
            root: FrameRef {
                epoch: EpochNo(2),
                ..name.root
            },
            ..name
        },
        VersionName {
            root: FrameRef {
                seq: name.root.seq + 1,
                ..name.root
            },
            ..name
        },
        VersionName {
            root: FrameRef {
                index: 1,
                ..name.root
            },
            ..name
        },
        VersionName {
            root: FrameRef {
                offset: 161,
                ..name.root
            },
            ..name
        },
        VersionName {
            root: FrameRef {
                plain: 7,
                ..name.root
            },
            ..name
        },
    ] {
        assert!(open(wrong).is_err(), "{wrong:?}");
    }
    let missing = VersionReader::open(
        world.source.clone(),
        keys(&[2]),
        &name,
        Check::Seal,
        DEFAULT_CACHE,
    );
    assert!(matches!(
        missing,
        Err(ReadError::NoKey { epoch: EpochNo(1) })
    ));
}

#[test]
fn a_list_with_another_pack_is_refused_by_the_root() {
    // A commit that names a changed list beside the true root: the root binds every pack of its own.
    let (world, name) = world();
    let list = world.source.objects.lock().unwrap()[&(ObjectKind::List, name.list)].clone();
    let list = PackList::decode(&list).unwrap();
    let mut rows = list.rows().to_vec();
    rows[0].digest = Digest([1; 32]);
    let forged = PackList::new(list.state, list.registry, rows)
        .unwrap()
        .encode();
    let digest = Digest::of(&forged);
    world
        .source
        .objects
        .lock()
        .unwrap()
        .insert((ObjectKind::List, digest), forged);
    let name = VersionName {
        list: digest,
        ..name
    };
    let opened = VersionReader::open(
        world.source.clone(),
        keys(&[1]),
        &name,
        Check::Seal,
        DEFAULT_CACHE,
    );
    assert!(
        matches!(opened, Err(ReadError::Inconsistent(_))),
        "{opened:?}"
    );
}

#[test]
fn a_pack_in_the_place_of_another_is_refused() {
    let (world, name) = world();
    let mut objects = world.source.objects.lock().unwrap();
    let packs: Vec<_> = objects
        .keys()
        .filter(|k| k.0 == ObjectKind::Pack)
        .copied()
        .collect();
    let (a, b) = (objects[&packs[0]].clone(), objects[&packs[1]].clone());
    objects.insert(packs[0], b);
    objects.insert(packs[1], a);
    drop(objects);
    assert!(matches!(
        restore(&world, &name, Check::Seal),
        Err(ReadError::Damaged { .. } | ReadError::Source(_))
    ));
}

/// A version whose nodes say whatever they like, sealed under the right key.
fn forged(
    nodes: impl FnOnce(&mut dyn FnMut(&Node) -> FrameRef) -> FrameRef,
) -> (World, VersionName) {
    let world = World::new();
    let mut pack = PackBuilder::new(state(), crate::writer::tests::registry(), EpochNo(1), 0);
    let tree = nodes(&mut |node| pack.push(&node.encode().unwrap()).unwrap().unwrap());
    let pack = pack
        .seal(&crate::writer::tests::root_of(1), &[1; 32])
        .unwrap();
    let row = ListRow {
        epoch: EpochNo(1),
        seq: 0,
        size: pack.size,
        digest: pack.digest,
    };
    let registry = crate::writer::tests::registry();
    let others = PackList::new(state(), registry, vec![row]).unwrap();
    let source = SourceRoot {
        kind: "tree".into(),
        name: "t".into(),
        tree: Some(tree),
        meta: BTreeMap::new(),
        entries: 1,
        bytes: 0,
    };
    let packs_digest = others.packs_digest((EpochNo(1), 1));
    let root = Node::Root(Root {
        registry,
        version: VersionNo(1),
        sources: vec![source],
        packs_digest,
    });
    let mut last = PackBuilder::new(state(), registry, EpochNo(1), 1);
    let root = last.push(&root.encode().unwrap()).unwrap().unwrap();
    let last = last
        .seal(&crate::writer::tests::root_of(1), &[2; 32])
        .unwrap();
    let last_row = ListRow {
        epoch: EpochNo(1),
        seq: 1,
        size: last.size,
        digest: last.digest,
    };
    let list = PackList::new(state(), registry, vec![row, last_row])
        .unwrap()
        .encode();
    let digest = Digest::of(&list);
    let mut objects = world.source.objects.lock().unwrap();
    objects.insert((ObjectKind::Pack, pack.digest), pack.bytes);
    objects.insert((ObjectKind::Pack, last.digest), last.bytes);
    objects.insert((ObjectKind::List, digest), list);
    drop(objects);
    let name = VersionName {
        state: state(),
        registry,
        version: VersionNo(1),
        list: digest,
        root,
    };
    (world, name)
}

#[test]
fn nodes_that_contradict_each_other_are_refused() {
    let file = |path: &str| entry(path, EntryKind::File);
    let (w, name) = forged(|put| {
        let a = put(&Node::Leaf(vec![file("a"), file("m")]));
        let b = put(&Node::Leaf(vec![file("k")]));
        put(&Node::Inner(vec![(b"a".to_vec(), a), (b"k".to_vec(), b)]))
    });
    assert!(
        matches!(
            restore(&w, &name, Check::Seal),
            Err(ReadError::Inconsistent(_))
        ),
        "a leaf overlaps the next"
    );

    let (w, name) = forged(|put| {
        let a = put(&Node::Leaf(vec![file("b")]));
        put(&Node::Inner(vec![(b"a".to_vec(), a)]))
    });
    assert!(
        matches!(
            restore(&w, &name, Check::Seal),
            Err(ReadError::Inconsistent(_))
        ),
        "another first path"
    );

    let (w, name) = forged(|put| {
        put(&Node::Extents(vec![Extent {
            offset: 0,
            len: 1,
            frame: far(),
            within: 0,
        }]))
    });
    assert!(
        matches!(
            restore(&w, &name, Check::Seal),
            Err(ReadError::Inconsistent(_))
        ),
        "no entries"
    );

    let (w, name) = forged(|put| {
        let mut at = put(&Node::Leaf(vec![file("a")]));
        for _ in 0..MAX_DEPTH {
            at = put(&Node::Inner(vec![(b"a".to_vec(), at)]));
        }
        at
    });
    assert!(
        matches!(
            restore(&w, &name, Check::Seal),
            Err(ReadError::Inconsistent(_))
        ),
        "too deep"
    );

    let (w, name) = forged(|put| {
        let extents = Extents::Inline(vec![Extent {
            offset: 0,
            len: 1,
            frame: far(),
            within: 0,
        }]);
        put(&Node::Leaf(vec![Entry {
            size: 1,
            extents,
            ..file("a")
        }]))
    });
    assert!(
        matches!(
            restore(&w, &name, Check::Seal),
            Err(ReadError::Inconsistent(_))
        ),
        "a pack not in the list"
    );

    let (w, name) = forged(|put| {
        let data = put(&Node::Leaf(vec![file("x")]));
        let extent = Extent {
            offset: 5,
            len: 10,
            frame: data,
            within: 0,
        };
        let root = put(&Node::Extents(vec![extent]));
        let spans = vec![legation_core::manifest::PackSpan {
            epoch: EpochNo(1),
            first: 0,
            last: 0,
        }];
        let extents = Extents::Tree {
            root,
            count: 300,
            spans,
        };
        put(&Node::Leaf(vec![Entry {
            size: 14,
            extents,
            ..file("a")
        }]))
    });
    assert!(
        matches!(
            restore(&w, &name, Check::Seal),
            Err(ReadError::Inconsistent(_))
        ),
        "extents leave the file"
    );
}

fn far() -> FrameRef {
    FrameRef {
        epoch: EpochNo(1),
        seq: 77,
        index: 0,
        offset: 160,
        sealed: 100,
        plain: 100,
    }
}
