mod vectors;

use std::cell::RefCell;

use proptest::prelude::*;
use signed_note::{StandardVerifier, Verifier as _, VerifierList};
use tlog_tiles::{
    HashReader, check_record, check_tree, prove_record, prove_tree, stored_hashes, tree_hash,
};

use super::*;
use crate::id::Sha256;

const ORIGIN: &str = "lgn1-test/a";

fn entry(n: u64) -> Vec<u8> {
    format!("entry {n}").into_bytes()
}

fn ours(size: u64) -> MemoryHashes {
    let mut hashes = MemoryHashes::new();
    (0..size).for_each(|n| hashes.push(leaf_hash(&entry(n))));
    hashes
}

/// The oracle: an independent port of Go's sumdb/tlog.
#[derive(Default)]
struct Theirs(RefCell<Vec<tlog_tiles::Hash>>);

impl HashReader for &Theirs {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        let stored = self.0.borrow();
        Ok(indexes.iter().map(|i| stored[*i as usize]).collect())
    }
}

fn theirs(size: u64) -> Theirs {
    let oracle = Theirs::default();
    for n in 0..size {
        let new = stored_hashes(n, &entry(n), &&oracle).unwrap();
        oracle.0.borrow_mut().extend(new);
    }
    oracle
}

fn raw(hashes: &[Sha256]) -> Vec<[u8; 32]> {
    hashes.iter().map(|h| h.0).collect()
}

fn signer(byte: u8) -> LogSigner {
    LogSigner::from_seed(&[byte; LOG_SEED_LEN]).unwrap()
}

fn head(size: u64) -> TreeHead {
    TreeHead {
        size,
        root: ours(size).root_at(size).unwrap(),
    }
}

#[test]
fn roots_are_those_of_rfc_6962() {
    let hex = |root: Sha256| root.to_string();
    assert_eq!(
        hex(empty_root()),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert_eq!(
        hex(leaf_hash(b"")),
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    );
    // The eight leaves of the Certificate Transparency test vectors.
    let leaves: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let mut tree = Tree::new();
    leaves.iter().for_each(|leaf| tree.push(leaf_hash(leaf)));
    assert_eq!(
        hex(tree.root()),
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn proofs_agree_with_the_oracle(size in 1u64..700, a in 0u64..700, b in 0u64..700) {
        let (index, old) = (a % size, 1 + b % size);
        let (hashes, oracle) = (ours(size), theirs(size));
        let root = hashes.root_at(size).unwrap();
        let their_root = tree_hash(size, &&oracle).unwrap();
        prop_assert_eq!(root.0, their_root.0);

        let proof = inclusion(&hashes, index, size).unwrap();
        let their_proof = prove_record(size, index, &&oracle).unwrap();
        prop_assert_eq!(raw(&proof), their_proof.iter().map(|h| h.0).collect::<Vec<_>>());
        let leaf = leaf_hash(&entry(index));
        check_inclusion(&leaf, index, size, &proof, &root).unwrap();
        check_record(&their_proof, size, their_root, index, tlog_tiles::Hash(leaf.0)).unwrap();

        let old_root = hashes.root_at(old).unwrap();
        let proof = consistency(&hashes, old, size).unwrap();
        let their_proof = prove_tree(size, old, &&oracle).unwrap();
        prop_assert_eq!(raw(&proof), their_proof.iter().map(|h| h.0).collect::<Vec<_>>());
        check_consistency(old, &old_root, size, &root, &proof).unwrap();
        check_tree(&their_proof, size, their_root, old, tlog_tiles::Hash(old_root.0)).unwrap();
    }

    #[test]
    fn changed_proofs_are_refused(size in 2u64..300, a in 0u64..300, b in 1u64..300, bit in 0usize..256) {
        let hashes = ours(size);
        let (index, old) = (a % size, 1 + b % (size - 1));
        let root = hashes.root_at(size).unwrap();
        let leaf = leaf_hash(&entry(index));
        let proof = inclusion(&hashes, index, size).unwrap();
        for at in 0..proof.len() {
            let mut forged = proof.clone();
            forged[at].0[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(check_inclusion(&leaf, index, size, &forged, &root).is_err());
            let mut cut = proof.clone();
            cut.remove(at);
            prop_assert!(check_inclusion(&leaf, index, size, &cut, &root).is_err());
        }
        let mut long = proof.clone();
        long.push(leaf);
        prop_assert!(check_inclusion(&leaf, index, size, &long, &root).is_err());
        prop_assert!(check_inclusion(&leaf_hash(b"other"), index, size, &proof, &root).is_err());
        prop_assert!(check_inclusion(&leaf, (index + 1) % size, size, &proof, &root).is_err());

        let old_root = hashes.root_at(old).unwrap();
        let proof = consistency(&hashes, old, size).unwrap();
        for at in 0..proof.len() {
            let mut forged = proof.clone();
            forged[at].0[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(check_consistency(old, &old_root, size, &root, &forged).is_err());
            let mut cut = proof.clone();
            cut.remove(at);
            prop_assert!(check_consistency(old, &old_root, size, &root, &cut).is_err());
        }
        // The root of one entry is that entry's leaf, so a wrong root is one of nothing here.
        let other = leaf_hash(b"other");
        prop_assert!(check_consistency(old, &other, size, &root, &proof).is_err());
        prop_assert!(check_consistency(old, &old_root, size, &other, &proof).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Note::parse(&bytes);
        let _ = Checkpoint::claims(&bytes);
        let _ = split_bundle(&bytes, 256);
        let _ = String::from_utf8_lossy(&bytes).parse::<TilePath>();
    }
}

#[test]
fn a_tree_grows_like_its_leaves() {
    let hashes = ours(700);
    let mut tree = Tree::new();
    for n in 0..700 {
        assert_eq!(tree.root(), hashes.root_at(n).unwrap());
        tree.push(leaf_hash(&entry(n)));
    }
    assert_eq!(Tree::load(700, &hashes).unwrap(), tree);
}

#[test]
fn tiles_are_those_of_the_oracle_under_c2sp_paths() {
    for size in [1, 7, 255, 256, 257, 600] {
        let (hashes, oracle) = (ours(size), theirs(size));
        let fetch = |path: TilePath| -> Result<Vec<u8>, LogError> {
            let Level::Hashes(level) = path.level else {
                unreachable!()
            };
            let tile = tlog_tiles::Tile::new(8, level, path.index, u32::from(path.width), false);
            // The crate spells paths as sumdb does, with the height: `tile/8/0/000`.
            assert_eq!(
                tile.path().replacen("tile/8/", "tile/", 1),
                path.to_string()
            );
            Ok(tile.read_data(&&oracle).unwrap())
        };
        let tiles = TileHashes::new(size, fetch);
        assert_eq!(
            root_at(&tiles, size).unwrap(),
            hashes.root_at(size).unwrap()
        );
        for index in 0..size {
            let proof = inclusion(&tiles, index, size).unwrap();
            assert_eq!(proof, inclusion(&hashes, index, size).unwrap());
        }
    }
}

#[test]
fn tile_paths() {
    let check = |text: &str, level, index, width| {
        let path = TilePath {
            level,
            index,
            width,
        };
        assert_eq!(path.to_string(), text);
        assert_eq!(text.parse::<TilePath>().unwrap(), path);
    };
    check("tile/0/000", Level::Hashes(0), 0, 256);
    check("tile/0/001.p/77", Level::Hashes(0), 1, 77);
    check("tile/1/x001/x234/067", Level::Hashes(1), 1_234_067, 256);
    check("tile/entries/x001/000.p/255", Level::Entries, 1000, 255);
    for bad in [
        "tile/0/0",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/07",
        "tile/00/000",
        "tile/8/000",
        "tile/-1/000",
        "tile/0/../../etc/passwd",
        "tile/0/000.p/1/",
        "tile/data/000",
        "checkpoint",
        "",
    ] {
        assert!(bad.parse::<TilePath>().is_err(), "{bad}");
    }
}

#[test]
fn the_tiles_of_the_specifications_example() {
    let tiles: Vec<TilePath> = tiles_of(70_000).collect();
    let count = |level, full| {
        tiles
            .iter()
            .filter(|t| t.level == level && t.is_full() == full)
            .count()
    };
    assert_eq!(count(Level::Entries, true), 273);
    assert_eq!(count(Level::Hashes(0), true), 273);
    assert_eq!(count(Level::Hashes(1), true), 1);
    let partial: Vec<String> = tiles
        .iter()
        .filter(|t| !t.is_full())
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        partial,
        [
            "tile/entries/273.p/112",
            "tile/0/273.p/112",
            "tile/1/001.p/17",
            "tile/2/000.p/1"
        ]
    );
    assert!(tiles.iter().all(|t| t.is_in(70_000)));
    assert!(
        !TilePath {
            level: Level::Hashes(2),
            index: 0,
            width: 2
        }
        .is_in(70_000)
    );
}

#[test]
fn bundles() {
    let entries = [entry(0), vec![], vec![7; MAX_ENTRY]];
    let bytes = bundle(&entries).unwrap();
    assert_eq!(bytes[..2], [0, 7]);
    let (split, end) = split_bundle(&bytes, 3).unwrap();
    assert_eq!(
        (split, end),
        (entries.iter().map(Vec::as_slice).collect(), bytes.len())
    );
    for cut in [0, 1, 5, 10, bytes.len() - 1] {
        assert!(split_bundle(&bytes[..cut], 3).is_err(), "cut at {cut}");
    }
    assert!(bundle(&[vec![0; MAX_ENTRY + 1]]).is_err());
}

#[test]
fn a_checkpoint_is_read_by_other_peoples_tools() {
    let signer = signer(1);
    let checkpoint = Checkpoint::sign(ORIGIN, head(5), 1_700_000_000, &signer).unwrap();
    let theirs = tlog_tiles::Checkpoint::from_bytes(
        signed_note::Note::from_bytes(checkpoint.note().as_bytes())
            .unwrap()
            .text(),
    )
    .unwrap();
    assert_eq!(
        (theirs.origin(), theirs.size(), theirs.hash().0),
        (ORIGIN, 5, head(5).root.0)
    );

    let [ed, ml] = signer.verifier().vkeys(ORIGIN);
    let verifier = StandardVerifier::new(&ed).unwrap();
    assert_eq!(
        verifier.key_id().to_be_bytes(),
        signer.verifier().ed25519_id(ORIGIN)
    );
    let note = signed_note::Note::from_bytes(checkpoint.note().as_bytes()).unwrap();
    let (good, unknown) = note
        .verify(&VerifierList::new(vec![Box::new(verifier)]))
        .unwrap();
    assert_eq!((good.len(), unknown.len()), (1, 1));
    assert!(ml.starts_with(&format!("{ORIGIN}+")));
}

#[test]
fn a_checkpoint_needs_both_signatures() {
    let signer = signer(1);
    let key = signer.verifier();
    let time = 1_700_000_000;
    let good = Checkpoint::sign(ORIGIN, head(5), time, &signer).unwrap();
    let opened = Checkpoint::open(good.note().as_bytes(), ORIGIN, key).unwrap();
    assert_eq!(opened, good);
    assert_eq!(
        (opened.size(), opened.time(), opened.origin()),
        (5, time, ORIGIN)
    );

    let note = Note::parse(good.note().as_bytes()).unwrap();
    let refused = |change: &dyn Fn(&mut Note)| {
        let mut note = note.clone();
        change(&mut note);
        Checkpoint::open(note.to_string().as_bytes(), ORIGIN, key).unwrap_err()
    };
    let lacks = |which| LogError::Signature {
        origin: ORIGIN.to_owned(),
        which,
    };
    assert_eq!(refused(&|n| drop(n.signatures.remove(0))), lacks("Ed25519"));
    assert_eq!(
        refused(&|n| drop(n.signatures.remove(1))),
        lacks("ML-DSA-44")
    );
    assert_eq!(
        refused(&|n| n.signatures[0].bytes[9] ^= 1),
        lacks("Ed25519")
    );
    assert_eq!(
        refused(&|n| n.signatures[1].bytes[99] ^= 1),
        lacks("ML-DSA-44")
    );
    // The time is signed too.
    assert_eq!(
        refused(&|n| n.signatures[1].bytes[7] ^= 1),
        lacks("ML-DSA-44")
    );
    assert_eq!(
        refused(&|n| n.text = n.text.replace("\n5\n", "\n6\n")),
        lacks("Ed25519")
    );
    assert_eq!(
        refused(&|n| n.signatures.push(n.signatures[0].clone())),
        lacks("Ed25519")
    );
    assert!(matches!(
        refused(&|n| n.text = n.text.replace(ORIGIN, "lgn1-test/b")),
        LogError::Origin { .. }
    ));
    assert!(matches!(
        refused(&|n| n.text.push_str("extension\n")),
        LogError::Malformed { .. }
    ));
    // Another key's lines under the log's own name are not its signatures.
    let other = Checkpoint::sign(ORIGIN, head(5), time, &self::signer(2)).unwrap();
    assert_eq!(
        Checkpoint::open(other.note().as_bytes(), ORIGIN, key).unwrap_err(),
        lacks("Ed25519")
    );
    // A witness's line beside them is ignored.
    let mut witnessed = note.clone();
    let bytes = vec![1; 72];
    witnessed.signatures.push(NoteSignature {
        name: "w.example/1".to_owned(),
        id: [1; 4],
        bytes,
    });
    Checkpoint::open(witnessed.to_string().as_bytes(), ORIGIN, key).unwrap();
}

#[test]
fn a_shorter_or_forked_log_is_told() {
    let hashes = ours(212);
    let held = head(212);
    let shorter = held.advance(&head(209), &[]);
    assert_eq!(
        shorter,
        Err(LogError::Shorter {
            held: 212,
            offered: 209
        })
    );
    assert!(shorter.unwrap_err().to_string().contains("size 209 < 212"));
    held.advance(&held, &[]).unwrap();

    let grown = ours(300);
    let next = TreeHead {
        size: 300,
        root: grown.root_at(300).unwrap(),
    };
    held.advance(&next, &consistency(&grown, 212, 300).unwrap())
        .unwrap();

    // Another history: entry 100 differs.
    let mut other = MemoryHashes::new();
    (0..300).for_each(|n| other.push(leaf_hash(&entry(if n == 100 { 9999 } else { n }))));
    let forked = TreeHead {
        size: 300,
        root: other.root_at(300).unwrap(),
    };
    let proof = consistency(&other, 212, 300).unwrap();
    assert_eq!(
        held.advance(&forked, &proof),
        Err(LogError::Forked { held: 212 })
    );
    let same_size = TreeHead {
        size: 212,
        root: other.root_at(212).unwrap(),
    };
    assert_eq!(
        held.advance(&same_size, &[]),
        Err(LogError::Forked { held: 212 })
    );
    // From nothing, everything follows; back to nothing, nothing does.
    let nothing = TreeHead {
        size: 0,
        root: empty_root(),
    };
    nothing.advance(&held, &[]).unwrap();
    assert!(held.advance(&nothing, &[]).is_err());
    assert!(consistency(&hashes, 213, 212).is_err());
}

#[test]
fn notes_are_read_strictly() {
    let good = Checkpoint::sign(ORIGIN, head(1), 1, &signer(3))
        .unwrap()
        .note()
        .to_owned();
    assert_eq!(Note::parse(good.as_bytes()).unwrap().to_string(), good);
    for bad in [
        good.replace("\u{2014}", "-"),
        good.replace("\n\n", "\n"),
        good.trim_end().to_owned(),
        good.replace(ORIGIN, "two words"),
        good.replacen('\n', "\r\n", 1),
        good.replace("\u{2014} lgn1-test/a ", "\u{2014} lgn1-test/a  "),
        "text\n\n".to_owned(),
        "text\n\n\n".to_owned(),
        "text\n\n\u{2014} a AAAAAA==\n".to_owned(),
    ] {
        assert!(Note::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
    let text = good.split("\n\n").next().unwrap();
    for bad in [
        text.replace("\n1\n", "\n01\n"),
        text.replace("\n1\n", "\n+1\n"),
        text.replace("\n1\n", "\n\n"),
        text.replace('=', ""),
    ] {
        let note = good.replace(text, &bad);
        assert!(Checkpoint::claims(note.as_bytes()).is_err(), "{bad:?}");
    }
}
