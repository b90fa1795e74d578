//! Writes the first inputs of every corpus, from the vectors of the specification and one sample of every statement.

use std::fs;
use std::path::Path;

use legation_core::example::{World, samples};
use legation_core::id::Sha256;
use legation_core::journal::{FrameHeader, FrameKind};
use legation_core::log::{Checkpoint, TreeHead, empty_root};
use legation_core::release::ReleaseHead;
use legation_core::statement::Signed;
use legation_fuzz::{ORIGIN, signer};
use serde_json::Value;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let vectors = root.join("../spec/vectors");
    let binary = |name: &str| fs::read(vectors.join(name)).expect("a vector");
    let json =
        |name: &str| -> Value { serde_json::from_slice(&binary(name)).expect("vectors are JSON") };
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let dir = root.join("corpus").join(target);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join(name), bytes).expect("an input");
    };
    // Large objects are kept by their beginnings: what is clear in them stands there.
    let head = |bytes: &[u8], most: usize| bytes[..bytes.len().min(most)].to_vec();

    for name in ["pack.bin", "pack-zstd.bin"] {
        put("pack_header", name, &head(&binary(name), 512));
    }
    let journal = binary("journal.bin");
    let (mut rest, mut at) = (journal.as_slice(), 0);
    while !rest.is_empty() {
        let header = FrameHeader::parse(rest).expect("a frame");
        let (frame, after) = rest.split_at(header.size.bytes());
        put("journal_frame", &format!("{at}"), frame);
        if header.kind == FrameKind::Opening {
            put("journal_opening", "opening", frame);
        }
        (rest, at) = (after, at + 1);
    }
    put("list", "list", &binary("list.bin"));
    put("slip", "slip", &head(&binary("slip.bin"), 512));
    let format = json("format.json");
    for (at, node) in format["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .enumerate()
    {
        put(
            "node",
            &format!("{at}"),
            &unhex(node["bytes"].as_str().expect("hex")),
        );
    }
    let sealing = json("sealing.json");
    put(
        "share",
        "share",
        sealing["vault"]["share_file"]
            .as_str()
            .expect("a share")
            .as_bytes(),
    );
    let release = ReleaseHead {
        state: "lgn1-yp9s-j7yk-nyjk-4wvs-t3my-ujrv-4qgv-n83y"
            .parse()
            .expect("a state"),
        order: "2026-11-22-7f2c91d0".parse().expect("an order"),
        statement: Sha256::of(b"order"),
        recipient: Sha256::of(b"recipient"),
    };
    put(
        "release",
        "head",
        (release.to_string() + "sealed").as_bytes(),
    );

    let statements = json("statements.json");
    for text in statements["texts"].as_array().expect("texts") {
        let kind = text["kind"].as_str().expect("a kind").replace('/', "-");
        let text = text["text"].as_str().expect("a text");
        put("statement", &kind, text.as_bytes());
    }
    for (at, statement) in samples().into_iter().enumerate() {
        if let Ok(signed) = Signed::unsigned(statement.text()) {
            put("signed", &format!("{at}"), signed.encode().as_bytes());
        }
    }
    let world = World::lived();
    for (at, entry) in world.entries.iter().enumerate() {
        put("entry", &format!("{at}"), &entry.encode());
        put(
            "signed",
            &format!("logged-{at}"),
            entry.signed.encode().as_bytes(),
        );
    }
    let entries: Vec<_> = world
        .entries
        .iter()
        .take(3)
        .map(|entry| entry.encode())
        .collect();
    let bundle = legation_core::log::bundle(&entries).expect("a bundle");
    put("bundle", "three", &[&[3], bundle.as_slice()].concat());
    let log = json("log.json");
    let note = log["checkpoint"]["note"].as_str().expect("a note");
    put("checkpoint", "vector", note.as_bytes());
    let head_of = TreeHead {
        size: world.entries.len() as u64,
        root: empty_root(),
    };
    let own = Checkpoint::sign(ORIGIN, head_of, 1_800_000_000, &signer()).expect("signs");
    put("checkpoint", "own", own.note().as_bytes());
    for (at, proof) in log["inclusion"]
        .as_array()
        .expect("proofs")
        .iter()
        .enumerate()
        .take(8)
    {
        let number = |name: &str| proof[name].as_u64().unwrap_or(0).to_le_bytes();
        let mut bytes = [number("index"), number("size"), [0; 8]].concat();
        for hash in proof["proof"].as_array().into_iter().flatten() {
            bytes.extend(unhex(hash.as_str().unwrap_or_default()));
        }
        put("proof", &format!("{at}"), &bytes);
    }
    for path in [
        "tile/0/000",
        "tile/0/x001/234",
        "tile/1/000.p/7",
        "tile/entries/000.p/255",
    ] {
        put("tile_path", &path.replace('/', "-"), path.as_bytes());
    }
    for (at, vector) in statements["sshsig"]
        .as_array()
        .expect("vectors")
        .iter()
        .enumerate()
    {
        let text = |name: &str| vector[name].as_str().unwrap_or_default().to_owned();
        put("sshsig", &format!("{at}"), text("signature").as_bytes());
        put("ssh_key", &format!("{at}"), text("key").as_bytes());
    }
    let object: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    if let (_, Some(outboard)) = legation_repo::outboard::Outboard::of(&object) {
        put("outboard", "some", &outboard.encode());
    }
    let empty = legation_repo::writer::index::Index::empty(
        world.state.id(),
        legation_core::example::registry(1),
    );
    put("kept_index", "empty", &empty.encode());
    put(
        "problem",
        "one",
        br#"{"type":"about:blank","title":"busy","status":503,"detail":"later"}"#,
    );
    put("control_file", "zeros", &[0; 8192]);
    for (name, url) in [
        ("plain", "postgresql://legation@127.0.0.1:5432/land"),
        (
            "socket",
            "postgresql:///land?host=/run/postgresql&application_name=legation",
        ),
        (
            "pairs",
            "host=db.example port=5432 user='le gation' dbname=land",
        ),
    ] {
        put("connection", name, url.as_bytes());
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .filter_map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok())
        .collect()
}
