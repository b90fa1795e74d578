use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::testing::registry;

fn at(seq: u32) -> FrameRef {
    FrameRef {
        epoch: EpochNo(4),
        seq,
        index: 1,
        offset: 160,
        sealed: 1000,
        plain: 4096,
    }
}

fn file(path: &str) -> Entry {
    Entry {
        path: path.into(),
        kind: EntryKind::File,
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime: Mtime { secs: -1, nanos: 5 },
        size: 10_000,
        xattrs: BTreeMap::from([(b"user.a".to_vec(), vec![0, 1])]),
        extents: Extents::Inline(vec![
            Extent {
                offset: 0,
                len: 96,
                frame: at(1),
                within: 4000,
            },
            Extent {
                offset: 9000,
                len: 1000,
                frame: at(2),
                within: 0,
            },
        ]),
    }
}

fn plain(path: &str, kind: EntryKind) -> Entry {
    Entry {
        kind,
        size: 0,
        extents: Extents::default(),
        ..file(path)
    }
}

fn every_kind() -> Vec<Entry> {
    let root = at(9);
    let spans = vec![
        PackSpan {
            epoch: EpochNo(1),
            first: 0,
            last: 3,
        },
        PackSpan {
            epoch: EpochNo(1),
            first: 5,
            last: 5,
        },
    ];
    vec![
        plain("", EntryKind::Dir),
        plain("a", EntryKind::Dir),
        plain("a.b", EntryKind::Fifo),
        file("a/b"),
        Entry {
            extents: Extents::Tree {
                root,
                count: 257,
                spans,
            },
            ..file("big")
        },
        plain(
            "c",
            EntryKind::Symlink {
                target: b"../a".to_vec(),
            },
        ),
        plain(
            "d",
            EntryKind::Hardlink {
                target: b"a/b".to_vec(),
            },
        ),
        plain("e", EntryKind::Socket),
        plain("f", EntryKind::CharDev { rdev: 0x103 }),
        plain("g", EntryKind::BlockDev { rdev: u64::MAX }),
    ]
}

fn version_root() -> Root {
    let source = SourceRoot {
        kind: "tree".into(),
        name: "deeds".into(),
        tree: Some(at(1)),
        meta: BTreeMap::from([
            ("start".into(), "0/5A1C2E80".into()),
            ("zone".into(), String::new()),
        ]),
        entries: 3,
        bytes: 70,
    };
    let empty = SourceRoot {
        tree: None,
        entries: 0,
        bytes: 0,
        meta: BTreeMap::new(),
        ..source.clone()
    };
    Root {
        registry: registry(),
        version: VersionNo(7),
        sources: vec![source, empty],
        packs_digest: Digest([3; 32]),
    }
}

fn nodes() -> Vec<Node> {
    vec![
        Node::Root(version_root()),
        Node::Root(Root {
            sources: vec![],
            ..version_root()
        }),
        Node::Inner(vec![(vec![], at(1)), (b"b".to_vec(), at(2))]),
        Node::Leaf(every_kind()),
        Node::ExtentInner(vec![(0, at(1)), (1 << 40, at(2))]),
        Node::Extents(vec![Extent {
            offset: 7,
            len: 1,
            frame: at(1),
            within: 4095,
        }]),
    ]
}

#[test]
fn nodes_round_trip() {
    for node in nodes() {
        let bytes = node.encode().unwrap();
        assert_eq!(Node::decode(&bytes).unwrap(), node);
    }
}

#[test]
fn a_cut_or_longer_node_is_refused_and_a_changed_one_never_read_as_the_same() {
    for node in nodes() {
        let good = node.encode().unwrap();
        crate::testing::refuses_every_change(&good, |bytes| {
            Node::decode(bytes).is_ok_and(|n| n == node)
        });
    }
}

#[test]
fn bad_paths_are_refused() {
    for bad in ["/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b"] {
        assert!(file(bad).validate().is_err(), "{bad:?}");
        assert!(
            plain("x", EntryKind::Hardlink { target: bad.into() })
                .validate()
                .is_err()
        );
    }
    assert!(file(&"a".repeat(4097)).validate().is_err());
    assert!(file(&"a".repeat(4096)).validate().is_ok());
    assert!(file("...").validate().is_ok());
    assert!(
        Entry {
            path: vec![0xff, 0xfe],
            ..file("")
        }
        .validate()
        .is_ok(),
        "raw bytes"
    );
    assert!(file("").validate().is_err(), "the top is a directory");
}

#[test]
fn bad_extents_are_refused() {
    let with = |extents: Vec<Extent>| {
        Entry {
            extents: Extents::Inline(extents),
            ..file("a")
        }
        .validate()
    };
    let ok = Extent {
        offset: 0,
        len: 96,
        frame: at(1),
        within: 4000,
    };
    assert!(with(vec![ok]).is_ok());
    assert!(with(vec![ok, ok]).is_err(), "overlap");
    assert!(
        with(vec![Extent { len: 97, ..ok }]).is_err(),
        "leaves the frame"
    );
    assert!(
        with(vec![Extent { offset: 9905, ..ok }]).is_err(),
        "leaves the file"
    );
    assert!(with(vec![Extent { len: 0, ..ok }]).is_err(), "empty");
    assert!(
        with(vec![Extent {
            offset: u64::MAX - 5,
            ..ok
        }])
        .is_err(),
        "overflow"
    );
    assert!(
        with(vec![Extent {
            within: u32::MAX,
            ..ok
        }])
        .is_err(),
        "overflow"
    );
    let many = (0..257)
        .map(|i| Extent {
            offset: i,
            len: 1,
            ..ok
        })
        .collect();
    assert!(with(many).is_err(), "too many");
    assert!(
        Entry {
            size: 5,
            ..plain("a", EntryKind::Dir)
        }
        .validate()
        .is_err()
    );
    assert!(
        Entry {
            mode: 0o10000,
            ..file("a")
        }
        .validate()
        .is_err()
    );
    assert!(
        Entry {
            mtime: Mtime {
                secs: 0,
                nanos: 1_000_000_000
            },
            ..file("a")
        }
        .validate()
        .is_err()
    );
}

#[test]
fn order_is_part_of_the_format() {
    let (a, b) = (plain("a", EntryKind::Dir), plain("b", EntryKind::Dir));
    assert!(Node::Leaf(vec![b.clone(), a.clone()]).encode().is_err());
    assert!(Node::Leaf(vec![a.clone(), a]).encode().is_err());
    assert!(Node::Leaf(vec![]).encode().is_err());
    assert!(
        Node::Inner(vec![(b"b".to_vec(), at(1)), (b"a".to_vec(), at(1))])
            .encode()
            .is_err()
    );
    assert!(
        Node::ExtentInner(vec![(5, at(1)), (5, at(1))])
            .encode()
            .is_err()
    );
}

#[test]
fn the_largest_entry_fits_a_frame() {
    let frame = at(1);
    let entry = Entry {
        path: vec![b'p'; MAX_PATH],
        xattrs: (0..MAX_XATTR_NAMES)
            .map(|i| (format!("{i:064}").into_bytes(), vec![0; 64]))
            .collect(),
        size: 1 << 40,
        extents: Extents::Inline(
            (0..256)
                .map(|i| Extent {
                    offset: i,
                    len: 1,
                    frame,
                    within: 0,
                })
                .collect(),
        ),
        ..file("")
    };
    assert!(Node::Leaf(vec![entry]).encode().is_ok());
    let meta = BTreeMap::from([("k".to_owned(), "v".repeat(MAX_META - 5))]);
    let source = SourceRoot {
        meta,
        ..version_root().sources[0].clone()
    };
    let full = Root {
        sources: vec![source; MAX_SOURCES],
        ..version_root()
    };
    assert!(Node::Root(full).encode().is_ok());
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![
        Just(EntryKind::File),
        Just(EntryKind::Dir),
        vec(1u8.., 1..40).prop_map(|target| EntryKind::Symlink { target }),
        any::<u64>().prop_map(|rdev| EntryKind::BlockDev { rdev }),
    ];
    let xattrs = btree_map(vec(1u8.., 1..20), vec(any::<u8>(), 0..50), 0..4);
    let ids = (
        any::<u32>(),
        any::<u32>(),
        0u32..0o10000,
        any::<i64>(),
        0u32..1_000_000_000,
    );
    let extents = vec((0u64..1000, 1u32..4096), 0..20);
    ("[a-z]{1,8}(/[a-z]{1,8}){0,3}", kind, ids, xattrs, extents).prop_map(
        |(path, kind, ids, xattrs, gaps)| {
            let (uid, gid, mode, secs, nanos) = ids;
            let mut end = 0;
            let mut extents = Vec::new();
            for (gap, len) in gaps {
                extents.push(Extent {
                    offset: end + gap,
                    len,
                    frame: at(len),
                    within: 0,
                });
                end += gap + u64::from(len);
            }
            let is_file = kind == EntryKind::File;
            Entry {
                path: path.into(),
                kind,
                mode,
                uid,
                gid,
                mtime: Mtime { secs, nanos },
                size: if is_file { end } else { 0 },
                xattrs,
                extents: Extents::Inline(if is_file { extents } else { vec![] }),
            }
        },
    )
}

proptest! {
    #[test]
    fn any_entry_round_trips(entry in any_entry()) {
        entry.validate().unwrap();
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        let mut r = Reader::new("entry", &bytes);
        prop_assert_eq!(Entry::decode(&mut r).unwrap(), entry);
        r.finish().unwrap();
    }

    #[test]
    fn decoding_never_panics(kind in 0u8..8, count in 0u32..200, rest in vec(any::<u8>(), 0..600)) {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.put_u32(count).put(&rest);
        let _ = Node::decode(&bytes);
        let _ = Node::decode(&rest);
    }
}
