//! The vectors of `spec/log.md` and the code say the same.

use serde_json::{Value, json};

use super::*;
use crate::codec::hex;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/vectors/log.json");
const SIZES: [u64; 8] = [1, 2, 3, 7, 8, 255, 256, 600];

fn vectors() -> Value {
    serde_json::from_str(&std::fs::read_to_string(PATH).unwrap()).unwrap()
}

/// All that has one right answer.
fn deterministic() -> Value {
    let hashes = ours(600);
    let strings = |proof: Vec<Sha256>| proof.iter().map(ToString::to_string).collect::<Vec<_>>();
    let inclusion: Vec<Value> = [
        (0, 1),
        (0, 2),
        (2, 3),
        (6, 7),
        (254, 255),
        (255, 256),
        (599, 600),
    ]
    .into_iter()
    .chain([(0, 600), (300, 600)])
    .map(|(index, size)| {
        let proof = strings(inclusion(&hashes, index, size).unwrap());
        json!({ "index": index, "size": size, "proof": proof })
    })
    .collect();
    let consistency: Vec<Value> = [
        (0, 5),
        (1, 2),
        (3, 7),
        (4, 8),
        (7, 7),
        (255, 256),
        (256, 600),
    ]
    .into_iter()
    .chain([(333, 600), (599, 600)])
    .map(|(old, new)| {
        let proof = strings(consistency(&hashes, old, new).unwrap());
        json!({ "old": old, "new": new, "proof": proof })
    })
    .collect();
    let tile = |path: TilePath| -> Vec<u8> {
        let (first, width) = (path.index * TILE_WIDTH, u64::from(path.width));
        match path.level {
            Level::Entries => {
                bundle(&(first..first + width).map(entry).collect::<Vec<_>>()).unwrap()
            }
            Level::Hashes(level) => (first..first + width)
                .flat_map(|n| hashes.node(8 * level, n).unwrap().0)
                .collect(),
        }
    };
    let tiles: Vec<Value> = tiles_of(600)
        .map(|path| json!({ "path": path.to_string(), "sha256": Sha256::of(&tile(path)).to_string() }))
        .collect();
    let leaves: Vec<Value> = [b"".to_vec(), vec![0], entry(0), vec![7; 300]]
        .iter()
        .map(|bytes| json!({ "entry": hex(bytes), "leaf": leaf_hash(bytes).to_string() }))
        .collect();
    let signer = signer(1);
    let head = head(5);
    let (time, key) = (1_700_000_000u64, signer.verifier());
    json!({
        "format": "legation log vectors v1",
        "empty": empty_root().to_string(),
        "hashes": leaves,
        "trees": SIZES.map(|n| json!({ "size": n, "root": hashes.root_at(n).unwrap().to_string() })),
        "inclusion": inclusion,
        "consistency": consistency,
        "tiles": { "size": 600, "tiles": tiles },
        "paths_refused": ["tile/0/0", "tile/0/000.p/256", "tile/0/x000/001", "tile/8/000", "tile/0/../x"],
        "checkpoint": {
            "seed": hex(&[1; LOG_SEED_LEN]),
            "key": hex(&key.encode()),
            "digest": key.digest().to_string(),
            "vkeys": key.vkeys(ORIGIN),
            "origin": ORIGIN,
            "size": head.size,
            "root": head.root.to_string(),
            "time": time,
            "message": hex(&subtree_message(&head, time)),
        },
    })
}

/// The message as the specification spells it, apart from the code that signs.
fn subtree_message(head: &TreeHead, time: u64) -> Vec<u8> {
    let mut message = b"subtree/v1\n\0".to_vec();
    message.push(ORIGIN.len() as u8);
    message.extend(ORIGIN.bytes());
    message.extend(time.to_be_bytes());
    message.push(ORIGIN.len() as u8);
    message.extend(ORIGIN.bytes());
    message.extend([0; 8]);
    message.extend(head.size.to_be_bytes());
    message.extend(head.root.0);
    message
}

fn good(vectors: &Value) -> String {
    vectors["checkpoint"]["note"].as_str().unwrap().to_owned()
}

/// Ways in which a checkpoint is not one, made from a good one.
fn refused(good: &str) -> Vec<(&'static str, String)> {
    let note = Note::parse(good.as_bytes()).unwrap();
    let changed = |change: &dyn Fn(&mut Note)| {
        let mut note = note.clone();
        change(&mut note);
        note.to_string()
    };
    vec![
        (
            "the Ed25519 signature is missing",
            changed(&|n| drop(n.signatures.remove(0))),
        ),
        (
            "the ML-DSA-44 signature is missing",
            changed(&|n| drop(n.signatures.remove(1))),
        ),
        (
            "the size is another",
            changed(&|n| n.text = n.text.replace("\n5\n", "\n6\n")),
        ),
        (
            "the time is another",
            changed(&|n| n.signatures[1].bytes[7] ^= 1),
        ),
        (
            "a signature is there twice",
            changed(&|n| n.signatures.push(n.signatures[0].clone())),
        ),
        (
            "the size has a leading zero",
            changed(&|n| n.text = n.text.replace("\n5\n", "\n05\n")),
        ),
        (
            "there is an extension line",
            changed(&|n| n.text.push_str("more\n")),
        ),
        (
            "the log is another",
            changed(&|n| n.text = n.text.replace(ORIGIN, "lgn1-test/b")),
        ),
    ]
}

#[test]
fn the_vectors_hold() {
    let (stored, made) = (vectors(), deterministic());
    for (name, value) in made.as_object().unwrap() {
        if name != "checkpoint" {
            assert_eq!(&stored[name], value, "{name}");
        }
    }
    for (name, value) in made["checkpoint"].as_object().unwrap() {
        assert_eq!(&stored["checkpoint"][name], value, "checkpoint {name}");
    }
    let signer = signer(1);
    let open = |note: &str| Checkpoint::open(note.as_bytes(), ORIGIN, signer.verifier());
    let checkpoint = open(&good(&stored)).unwrap();
    assert_eq!(
        (checkpoint.head(), checkpoint.time()),
        (head(5), 1_700_000_000)
    );
    let listed = stored["checkpoint"]["refused"].as_array().unwrap();
    assert_eq!(listed.len(), refused(&good(&stored)).len());
    for bad in listed {
        assert!(
            open(bad["note"].as_str().unwrap()).is_err(),
            "{}",
            bad["why"]
        );
    }
    for path in stored["paths_refused"].as_array().unwrap() {
        assert!(
            path.as_str().unwrap().parse::<TilePath>().is_err(),
            "{path}"
        );
    }
}

/// Writes the vectors anew: `cargo test -p legation-core write_log_vectors -- --ignored`.
#[test]
#[ignore = "writes the vectors"]
fn write_log_vectors() {
    let mut made = deterministic();
    let note = Checkpoint::sign(ORIGIN, head(5), 1_700_000_000, &signer(1)).unwrap();
    let refused: Vec<Value> = refused(note.note())
        .into_iter()
        .map(|(why, note)| json!({ "why": why, "note": note }))
        .collect();
    made["checkpoint"]["note"] = json!(note.note());
    made["checkpoint"]["refused"] = json!(refused);
    std::fs::write(PATH, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
}
