//! The vectors of `spec/format.md` and `spec/sealing.md`, read both ways: what is there is parsed and opened, and made
//! anew from its inputs. `LEGATION_BLESS=1 cargo test -p legation-core --test vectors` writes them; only a new format
//! may make them differ.

use std::collections::BTreeMap;
use std::path::PathBuf;

use legation_core::codec::hex;
use legation_core::error::FormatError;
use legation_core::id::{
    Digest, EpochNo, Generation, Lsn, RegistryId, Sha256, StateId, StreamId, Term, Timeline,
    VersionNo,
};
use legation_core::journal::{
    Chain, FrameHeader, Opening, StreamOpener, StreamSealer, StreamStart,
};
use legation_core::keys::{Entropy, EpochRoot, OpeningKey, SIGNING_SEED, SigningKey, VerifyingKey};
use legation_core::list::{ListRow, PackList};
use legation_core::manifest::{
    Entry, EntryKind, Extent, Extents, Mtime, Node, PackSpan, Root, SourceRoot,
};
use legation_core::pack::{FrameRef, PackBuilder, PackHeader, PackOpener};
use legation_core::release::{self, ReleaseContext};
use legation_core::size::SizeClass;
use legation_core::slip::{self, SlipHeader};
use legation_core::vault::{self, ShareFile, Threshold, VaultShare};
use legation_core::{shamir, source::ObjectKind};
use serde_json::{Value, json};

// What the vectors are about.

fn state() -> StateId {
    StateId::of_mandate(b"legation/mandate/v1\nstate: this\n")
}

fn registry() -> RegistryId {
    "r-3f9a1c".parse().unwrap()
}

const EPOCH: EpochNo = EpochNo(4);

fn root() -> EpochRoot {
    EpochRoot::from_bytes(std::array::from_fn(|i| i as u8))
}

/// 32 bytes that stand for random ones: all the same.
fn random(n: u8) -> [u8; 32] {
    [n; 32]
}

fn reference(seq: u32, plain: u32) -> FrameRef {
    FrameRef {
        epoch: EPOCH,
        seq,
        index: 2,
        offset: 160,
        sealed: plain + 21,
        plain,
    }
}

// Files.

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../spec/vectors")
        .join(name)
}

fn bless() -> bool {
    std::env::var_os("LEGATION_BLESS").is_some()
}

/// The file's bytes; when blessing, `made` becomes the file.
fn file(name: &str, made: &[u8]) -> Vec<u8> {
    if bless() {
        std::fs::write(path(name), made).unwrap();
    }
    std::fs::read(path(name)).unwrap()
}

/// Compares what was made with what is there, member by member.
fn compare(name: &str, made: &Value) -> Value {
    let mut text = serde_json::to_string_pretty(made).unwrap();
    text.push('\n');
    let there: Value = serde_json::from_slice(&file(name, text.as_bytes())).unwrap();
    for (member, value) in made.as_object().unwrap() {
        assert_eq!(&there[member], value, "{name}: {member}");
    }
    assert_eq!(
        there.as_object().unwrap().len(),
        made.as_object().unwrap().len()
    );
    there
}

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

#[test]
fn format() {
    slip_vector(); // its object is among those that are changed below
    let (pack, pack_bytes) = pack();
    let (pack_zstd, _) = pack_zstd();
    let (list, list_bytes) = list();
    let (journal, journal_bytes) = journal();
    let nodes = nodes();
    let encoded: Vec<Vec<u8>> = nodes
        .iter()
        .map(|(_, node)| node.encode().unwrap())
        .collect();
    let made = json!({
        "states": [{
            "mandate": "legation/mandate/v1\nstate: this\n",
            "state": state().to_string(),
        }],
        "sizes": sizes(),
        "refused_texts": refused_texts(),
        "pack": pack,
        "pack_zstd": pack_zstd,
        "list": list,
        "journal": journal,
        "nodes": nodes.iter().zip(&encoded).map(|((says, _), b)| json!({"says": says, "bytes": hex(b)})).collect::<Vec<_>>(),
        "refused": refusals(),
    });
    let there = compare("format.json", &made);

    // Refusals need no key: each is a change of an object or node that is otherwise accepted.
    for refusal in there["refused"].as_array().unwrap() {
        let object = &refusal["object"];
        let mut changed = match object.as_str() {
            Some("pack.bin") => pack_bytes.clone(),
            Some("list.bin") => list_bytes.clone(),
            Some("journal.bin") => journal_bytes[..4096].to_vec(),
            Some("slip.bin") => std::fs::read(path("slip.bin")).unwrap(),
            _ => encoded[object.as_u64().unwrap() as usize].clone(),
        };
        let parse = |b: &[u8]| match object.as_str() {
            Some("pack.bin") => PackHeader::parse(b).map(drop),
            Some("list.bin") => PackList::decode(b).map(drop),
            Some("journal.bin") => Chain::new().check(b).map(drop),
            Some("slip.bin") => slip::header(b).map(drop),
            _ => Node::decode(b).map(drop),
        };
        parse(&changed).unwrap();
        let at = refusal["at"].as_u64().unwrap() as usize;
        let set = bytes(&refusal["set"]);
        changed[at..at + set.len()].copy_from_slice(&set);
        assert!(parse(&changed).is_err(), "{refusal}");
    }
    for (kind, text) in there["refused_texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (&t["kind"], &t["text"]))
    {
        let text = text.as_str().unwrap();
        let refused = match kind.as_str().unwrap() {
            "state" => text.parse::<StateId>().is_err(),
            "registry" => text.parse::<RegistryId>().is_err(),
            "version" => text.parse::<VersionNo>().is_err(),
            "epoch" => text.parse::<EpochNo>().is_err(),
            "digest" => text.parse::<Digest>().is_err(),
            "object kind" => text.parse::<ObjectKind>().is_err(),
            other => panic!("{other}"),
        };
        assert!(refused, "{text:?}");
    }
    for (_, node) in nodes {
        assert_eq!(Node::decode(&node.encode().unwrap()).unwrap(), node);
    }
}

fn sizes() -> Value {
    let sizes = [0usize, 4096, 4097, 65_536, 65_537, 16_777_216];
    let class = |len: &usize| SizeClass::holding(*len).unwrap().number();
    sizes
        .iter()
        .map(|len| json!({"length": len, "class": class(len)}))
        .collect()
}

fn refused_texts() -> Value {
    let good = state().to_string();
    json!([
        {"kind": "state", "text": good.to_uppercase()},
        {"kind": "state", "text": &good[..good.len() - 1]},
        {"kind": "state", "text": good.replace("lgn1", "lgn2")},
        {"kind": "registry", "text": "r-3F9A1C"},
        {"kind": "registry", "text": "r-3f9a1"},
        {"kind": "version", "text": "v07"},
        {"kind": "version", "text": "7"},
        {"kind": "epoch", "text": "+4"},
        {"kind": "epoch", "text": "4294967296"},
        {"kind": "digest", "text": "AB".repeat(32)},
        {"kind": "object kind", "text": "Pack"},
    ])
}

fn pack() -> (Value, Vec<u8>) {
    let plains = [
        b"first frame".to_vec(),
        Vec::new(),
        b"third frame, not compressible".to_vec(),
    ];
    let (mut made, bytes) = pack_of(&plains, 17, "pack.bin");
    // Made anew from the inputs, it is the same object.
    let mut builder = PackBuilder::new(state(), registry(), EPOCH, 17);
    for plain in &plains {
        builder.push(plain).unwrap().unwrap();
    }
    let again = builder.seal(&root(), &random(0xa1)).unwrap();
    assert_eq!(again.bytes, bytes);
    made["random"] = json!(hex(&random(0xa1)));
    (made, bytes)
}

/// What zstd makes of a plaintext may differ by release: this object is read only.
fn pack_zstd() -> (Value, Vec<u8>) {
    pack_of(&[b"0/5A1C2E80 ".repeat(1000)], 18, "pack-zstd.bin")
}

fn pack_of(plains: &[Vec<u8>], seq: u32, name: &str) -> (Value, Vec<u8>) {
    let mut builder = PackBuilder::new(state(), registry(), EPOCH, seq);
    let refs: Vec<FrameRef> = plains
        .iter()
        .map(|p| builder.push(p).unwrap().unwrap())
        .collect();
    let bytes = file(name, &builder.seal(&root(), &random(0xa1)).unwrap().bytes);
    let header = PackHeader::parse(&bytes).unwrap();
    let opener = PackOpener::new(&header, &root()).unwrap();
    for (plain, at) in plains.iter().zip(&refs) {
        let sealed = &bytes[at.offset as usize..(at.offset + at.sealed) as usize];
        assert_eq!(&*opener.open(at, sealed).unwrap(), plain);
    }
    let pad = refs.last().unwrap();
    let pad_at = pad.offset + pad.sealed;
    opener
        .open_last(refs.len() as u32, pad_at, &bytes[pad_at as usize..])
        .unwrap();
    let made = json!({
        "state": header.state.to_string(),
        "registry": header.registry.to_string(),
        "epoch": header.epoch.0,
        "number": header.seq,
        "epoch_root": hex(root().expose()),
        "plaintexts": plains.iter().map(|p| hex(p)).collect::<Vec<_>>(),
        "references": refs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "salt": hex(&header.salt),
        "commitment": hex(&header.commitment),
        "object": name,
        "digest": Digest::of(&bytes).to_string(),
    });
    (made, bytes)
}

fn list() -> (Value, Vec<u8>) {
    let row = |epoch, seq, size, n| ListRow {
        epoch: EpochNo(epoch),
        seq,
        size,
        digest: Digest([n; 32]),
    };
    let rows = vec![
        row(3, 9, SizeClass::M16, 1),
        row(4, 0, SizeClass::M1, 2),
        row(4, 1, SizeClass::K64, 3),
    ];
    let list = PackList::new(state(), registry(), rows.clone()).unwrap();
    let bytes = file("list.bin", &list.encode());
    assert_eq!(PackList::decode(&bytes).unwrap(), list);
    assert_eq!(list.encode(), bytes);
    let made = json!({
        "state": state().to_string(),
        "registry": registry().to_string(),
        "rows": rows.iter().map(|r| json!({
            "epoch": r.epoch.0, "number": r.seq, "size": r.size.bytes(), "digest": r.digest.to_string(),
        })).collect::<Vec<_>>(),
        "packs_digest_without_last": list.packs_digest((EPOCH, 1)).to_string(),
        "object": "list.bin",
        "digest": Digest::of(&bytes).to_string(),
    });
    (made, bytes)
}

fn journal() -> (Value, Vec<u8>) {
    let start = StreamStart {
        state: state(),
        registry: registry(),
        epoch: EPOCH,
        term: Term(2),
        stream: StreamId([0x5a; 16]),
        branch: 0,
        system_id: 7_123_456_789_012_345_678,
        timeline: Timeline(1),
        lsn: Lsn(0x0000_0001_6f44_00d8),
        previous: Some((StreamId([0x59; 16]), Digest([0xc4; 32]))),
    };
    let wals = [b"write-ahead".to_vec(), Vec::new(), b"log".to_vec()];
    let (mut sealer, opening) =
        StreamSealer::open(&start, &root(), &random(0xb2), &wals[0]).unwrap();
    let mut made_bytes = opening;
    let mut chains = vec![sealer.position().chain];
    for wal in &wals {
        let at = sealer.position();
        made_bytes.extend(sealer.frame(at.end_lsn, at.timeline, wal).unwrap());
        chains.push(sealer.position().chain);
    }
    let bytes = file("journal.bin", &made_bytes);
    assert_eq!(bytes, made_bytes);

    let (header, parsed) = Opening::parse(&bytes[..4096]).unwrap();
    assert_eq!(
        (header.stream, parsed.previous, parsed.system_id),
        (start.stream, start.previous, start.system_id)
    );
    let mut opener = StreamOpener::new(&root(), &bytes[..4096]).unwrap();
    let mut chain = Chain::new();
    let mut rest = bytes.as_slice();
    let mut read = Vec::new();
    while !rest.is_empty() {
        let (frame, tail) = rest.split_at(FrameHeader::parse(rest).unwrap().size.bytes());
        let header = chain.check(frame).unwrap();
        if header.seq > 0 {
            read.push(opener.open(frame).unwrap().1.to_vec());
        }
        assert_eq!(chain.position().unwrap().chain, chains[header.seq as usize]);
        rest = tail;
    }
    assert_eq!(read, wals);
    let made = json!({
        "state": state().to_string(),
        "registry": registry().to_string(),
        "epoch": EPOCH.0,
        "term": start.term.0,
        "stream": start.stream.to_string(),
        "branch": start.branch,
        "system_id": start.system_id.to_string(),
        "timeline": start.timeline.0,
        "lsn": start.lsn.to_string(),
        "previous_stream": hex(&[0x59; 16]),
        "previous_chain": hex(&[0xc4; 32]),
        "epoch_root": hex(root().expose()),
        "random": hex(&random(0xb2)),
        "wal": wals.iter().map(|w| hex(w)).collect::<Vec<_>>(),
        "salt": hex(&parsed.salt),
        "commitment": hex(&parsed.commitment),
        "chain": chains.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "object": "journal.bin",
    });
    (made, bytes)
}

fn nodes() -> Vec<(&'static str, Node)> {
    let entry = |path: &[u8], kind: EntryKind| Entry {
        path: path.to_vec(),
        kind,
        mode: 0o755,
        uid: 26,
        gid: 26,
        mtime: Mtime {
            secs: 1_700_000_000,
            nanos: 5,
        },
        size: 0,
        xattrs: BTreeMap::new(),
        extents: Extents::default(),
    };
    let extent = |offset, len, within| Extent {
        offset,
        len,
        frame: reference(0, 9000),
        within,
    };
    let file = Entry {
        size: 20_000,
        mode: 0o640,
        xattrs: BTreeMap::from([(b"user.note".to_vec(), b"kept".to_vec())]),
        extents: Extents::Inline(vec![extent(0, 8192, 0), extent(16_384, 808, 8192)]),
        ..entry(b"base/1/1259", EntryKind::File)
    };
    let large = Entry {
        size: 1 << 30,
        extents: Extents::Tree {
            root: reference(3, 60_000),
            count: 8192,
            spans: vec![PackSpan {
                epoch: EPOCH,
                first: 0,
                last: 3,
            }],
        },
        ..entry(b"base/1/2600", EntryKind::File)
    };
    let source = SourceRoot {
        kind: "tree".into(),
        name: "deeds".into(),
        tree: Some(reference(3, 700)),
        meta: BTreeMap::from([("walked".into(), "once".into())]),
        entries: 10,
        bytes: 1_073_761_824,
    };
    vec![
        (
            "root of v7: one source, tree `deeds`, 10 entries, 1073761824 bytes, fact walked=once",
            Node::Root(Root {
                registry: registry(),
                version: VersionNo(7),
                sources: vec![source],
                packs_digest: Digest([0x77; 32]),
            }),
        ),
        (
            "inner: two children, from the empty path and from `base/2`",
            Node::Inner(vec![
                (Vec::new(), reference(1, 700)),
                (b"base/2".to_vec(), reference(2, 800)),
            ]),
        ),
        (
            "leaf: one entry of each kind, a file with a hole from 8192 to 16384 and one attribute, a file with a tree of 8192 extents",
            Node::Leaf(vec![
                entry(b"", EntryKind::Dir),
                file,
                large,
                entry(b"c", EntryKind::CharDev { rdev: 0x0103 }),
                entry(b"d", EntryKind::BlockDev { rdev: 0x0800 }),
                entry(b"fifo", EntryKind::Fifo),
                entry(
                    b"link",
                    EntryKind::Symlink {
                        target: b"../elsewhere".to_vec(),
                    },
                ),
                entry(
                    b"name",
                    EntryKind::Hardlink {
                        target: b"base/1/1259".to_vec(),
                    },
                ),
                entry(b"socket", EntryKind::Socket),
                entry(b"\xff\xfe", EntryKind::Dir),
            ]),
        ),
        (
            "extent inner: two children, from 0 and from 209715200",
            Node::ExtentInner(vec![
                (0, reference(1, 64_000)),
                (209_715_200, reference(2, 64_000)),
            ]),
        ),
        (
            "extents: 0 to 8192 and 16384 to 17192",
            Node::Extents(vec![extent(0, 8192, 0), extent(16_384, 808, 8192)]),
        ),
    ]
}

fn refusals() -> Value {
    json!([
        {"object": "pack.bin", "at": 7, "set": "32", "why": "another magic"},
        {"object": "pack.bin", "at": 8, "set": "0200", "why": "unknown format"},
        {"object": "pack.bin", "at": 10, "set": "0200", "why": "unknown suite"},
        {"object": "pack.bin", "at": 12, "set": "01", "why": "not zero"},
        {"object": "pack.bin", "at": 39, "set": "01", "why": "registry from 2^24 on"},
        {"object": "pack.bin", "at": 159, "set": "01", "why": "not zero"},
        {"object": "list.bin", "at": 8, "set": "0000", "why": "unknown format"},
        {"object": "list.bin", "at": 40, "set": "04", "why": "a row of zeros"},
        {"object": "list.bin", "at": 40, "set": "ffffffffffffffff", "why": "more rows than fit"},
        {"object": "list.bin", "at": 48, "set": "05", "why": "rows not in order"},
        {"object": "list.bin", "at": 56, "set": "01", "why": "a size not in the table"},
        {"object": "list.bin", "at": 4095, "set": "01", "why": "padding not zero"},
        {"object": "slip.bin", "at": 10, "set": "0000", "why": "unknown suite"},
        {"object": "slip.bin", "at": 1216, "set": "01", "why": "padding not zero"},
        {"object": "journal.bin", "at": 12, "set": "07", "why": "unknown size class"},
        {"object": "journal.bin", "at": 13, "set": "03", "why": "unknown kind"},
        {"object": "journal.bin", "at": 64, "set": "01", "why": "an opening frame that is not the first"},
        {"object": "journal.bin", "at": 80, "set": "ff", "why": "an opening frame that holds WAL"},
        {"object": "journal.bin", "at": 300, "set": "01", "why": "not zero"},
        {"object": 0, "at": 0, "set": "09", "why": "unknown kind of node"},
        {"object": 0, "at": 1, "set": "01", "why": "not zero"},
        {"object": 0, "at": 4, "set": "02", "why": "a source that is not there"},
        {"object": 1, "at": 4, "set": "00", "why": "no items"},
        {"object": 2, "at": 4, "set": "ffffffff", "why": "more items than bytes"},
        {"object": 3, "at": 8, "set": "00000000000000ff", "why": "children not in order"},
        {"object": 4, "at": 16, "set": "00000000", "why": "an empty extent"},
        {"object": 4, "at": 44, "set": "ffffffff", "why": "an extent outside of its frame"},
    ])
}

#[test]
fn sealing() {
    let made = json!({
        "signing": signing(),
        "sealing": sealing_to_a_key(),
        "epoch_root": epoch_root(),
        "slip": slip_vector(),
        "release": release_vector(),
        "shamir": shamir_vector(),
        "shamir_known": shamir_known(),
        "vault": vault_vector(),
    });
    compare("sealing.json", &made);
}

fn signing() -> Value {
    let seed: [u8; SIGNING_SEED] = std::array::from_fn(|i| i as u8 + 1);
    let key = SigningKey::from_seed(&seed).unwrap();
    let message = "legation/epoch/v1\nexample\n";
    // Signing is hedged: a signature that is there is kept, not made anew.
    let there: Option<Value> = std::fs::read(path("sealing.json"))
        .ok()
        .and_then(|b| serde_json::from_slice(&b).ok());
    let kept = there.map(|v| bytes(&v["signing"]["signature"]));
    let signature = kept.unwrap_or_else(|| key.sign(message.as_bytes()).unwrap());
    let public = VerifyingKey::decode(key.verifying_key().encode()).unwrap();
    public.verify(message.as_bytes(), &signature).unwrap();
    let mut refused = Vec::new();
    for (at, why) in [
        (0, "the Ed25519 half is broken"),
        (64, "the ML-DSA-65 half is broken"),
    ] {
        let mut bad = signature.clone();
        bad[at] ^= 1;
        assert_eq!(
            public.verify(message.as_bytes(), &bad),
            Err(FormatError::BadSignature)
        );
        refused.push(json!({"at": at, "set": hex(&bad[at..=at]), "why": why}));
    }
    json!({
        "seed": hex(&seed),
        "verifying_key": hex(public.encode()),
        "id": public.id().to_string(),
        "message": message,
        "signature": hex(&signature),
        "refused": refused,
    })
}

fn sealing_to_a_key() -> Value {
    let key = OpeningKey::from_seed(&random(0x11)).unwrap();
    let sealed = key
        .public()
        .seal(&random(0x22), b"info", b"aad", b"message")
        .unwrap();
    assert_eq!(&*key.open(b"info", b"aad", &sealed).unwrap(), b"message");
    json!({
        "seed": hex(&random(0x11)),
        "public_id": key.public().id().to_string(),
        "random": hex(&random(0x22)),
        "info": "info",
        "aad": "aad",
        "message": "message",
        "sealed": hex(&sealed),
    })
}

fn epoch_root() -> Value {
    let root = EpochRoot::derive(&random(0x33), &random(0x44)).unwrap();
    json!({
        "random": hex(&random(0x33)),
        "agent_secret": hex(&random(0x44)),
        "root": hex(root.expose()),
    })
}

fn slip_vector() -> Value {
    let vault = OpeningKey::from_seed(&random(0x11)).unwrap();
    let header = SlipHeader {
        state: state(),
        registry: registry(),
        epoch: EPOCH,
        generation: Generation(3),
    };
    let made = slip::seal(&vault.public(), &header, &root(), &random(0x55)).unwrap();
    let bytes = file("slip.bin", &made);
    assert_eq!(bytes, made);
    assert_eq!(slip::header(&bytes).unwrap(), header);
    assert_eq!(
        slip::open(&vault, &bytes).unwrap().expose(),
        root().expose()
    );
    json!({
        "vault_seed": hex(&random(0x11)),
        "state": state().to_string(),
        "registry": registry().to_string(),
        "epoch": EPOCH.0,
        "generation": 3,
        "random": hex(&random(0x55)),
        "epoch_root": hex(root().expose()),
        "object": "slip.bin",
        "digest": Digest::of(&bytes).to_string(),
    })
}

fn release_vector() -> Value {
    let session = OpeningKey::from_seed(&random(0x66)).unwrap();
    let order = Sha256::of(b"legation/order/v1\n");
    let context = ReleaseContext {
        state: state(),
        order,
        registry: registry(),
        epoch: EPOCH,
    };
    let sealed = release::seal(&session.public(), &context, &root(), &random(0x77)).unwrap();
    assert_eq!(
        release::open(&session, &context, &sealed).unwrap().expose(),
        root().expose()
    );
    json!({
        "recipient_seed": hex(&random(0x66)),
        "state": state().to_string(),
        "order": order.to_string(),
        "registry": registry().to_string(),
        "epoch": EPOCH.0,
        "random": hex(&random(0x77)),
        "epoch_root": hex(root().expose()),
        "released": hex(&sealed),
    })
}

fn shamir_vector() -> Value {
    let secret: [u8; 32] = std::array::from_fn(|i| 255 - i as u8);
    let rows: Vec<u8> = (0..64).map(|i| i * 3).collect();
    let shares = shamir::split(&secret, 3, 5, &rows).unwrap();
    assert_eq!(*shamir::combine(&shares[2..]).unwrap(), secret);
    json!({
        "secret": hex(&secret),
        "threshold": 3,
        "rows": rows.chunks(32).map(hex).collect::<Vec<_>>(),
        "shares": shares.iter().map(|s| json!({"number": s.index, "share": hex(&s.bytes)})).collect::<Vec<_>>(),
    })
}

fn shamir_known() -> Value {
    let known = json!([
        {"from": "draft-mcgrew-tss-03, section 9", "secret": "7465737400",
         "points": [{"number": 1, "share": "b9fa07e185"}, {"number": 2, "share": "f5409b4511"}]},
        {"from": "codahale/shamir, GF256Test", "secret": "1e",
         "points": [{"number": 1, "share": "50"}, {"number": 2, "share": "5a"}, {"number": 3, "share": "14"}]},
        {"from": "codahale/shamir, GF256Test", "secret": "6b",
         "points": [{"number": 1, "share": "2b"}, {"number": 2, "share": "16"}, {"number": 3, "share": "56"}]},
    ]);
    for case in known.as_array().unwrap() {
        let secret = bytes(&case["secret"]);
        let shares: Vec<shamir::Share> = case["points"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| {
                let mut full = [0; 32];
                full[..secret.len()].copy_from_slice(&bytes(&p["share"]));
                shamir::Share {
                    index: p["number"].as_u64().unwrap() as u8,
                    bytes: full,
                }
            })
            .collect();
        assert_eq!(
            shamir::combine(&shares).unwrap()[..secret.len()],
            secret,
            "{case}"
        );
    }
    known
}

/// Draws the given values one after the other.
struct Draws(Vec<[u8; 32]>);

impl Entropy for Draws {
    fn draw(&mut self) -> Result<zeroize::Zeroizing<[u8; 32]>, FormatError> {
        Ok(self.0.remove(0).into())
    }
}

fn vault_vector() -> Value {
    let draws: Vec<[u8; 32]> = (1..=4).map(|n| random(n * 0x11)).collect();
    let (all, abroad) = (Threshold { need: 2, of: 3 }, Threshold { need: 2, of: 2 });
    let dealt = vault::deal(Generation(1), all, Some(abroad), &mut Draws(draws.clone())).unwrap();
    let quorum = [&dealt.a[1], &dealt.a[2], &dealt.b[0], &dealt.b[1]].map(VaultShare::clone);
    let again = vault::rebuild(Generation(1), &quorum, true).unwrap();
    assert_eq!(again.public(), dealt.key.public());
    let share = |s: &VaultShare| json!({"part": s.part.as_str(), "number": s.share.index, "share": hex(&s.share.bytes), "digest": s.digest().to_string()});
    let file = ShareFile {
        state: state(),
        officer: "officer-3".into(),
        shares: vec![dealt.a[2].clone(), dealt.b[1].clone()],
    };
    let text = file.encode();
    assert_eq!(ShareFile::decode(&text).unwrap().encode(), text);
    json!({
        "generation": 1,
        "a": "2 of 3",
        "b": "2 of 2",
        "draws": draws.iter().map(|d| hex(d)).collect::<Vec<_>>(),
        "shares": dealt.a.iter().chain(&dealt.b).map(share).collect::<Vec<_>>(),
        "seed": hex(dealt.key.seed()),
        "public_id": dealt.key.public().id().to_string(),
        "share_file": *text,
    })
}

#[test]
fn what_is_there_opens_by_its_own_inputs() {
    // From the files alone, with nothing of the code above: as another reader would.
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
    };
    if bless() {
        return;
    }
    let (format, sealing) = (read("format.json"), read("sealing.json"));
    for name in ["pack", "pack_zstd"] {
        let v = &format[name];
        let object = std::fs::read(path(v["object"].as_str().unwrap())).unwrap();
        assert_eq!(
            Digest::of(&object).to_string(),
            v["digest"].as_str().unwrap()
        );
        let root = EpochRoot::from_bytes(array(&v["epoch_root"]));
        let opener = PackOpener::new(&PackHeader::parse(&object).unwrap(), &root).unwrap();
        for (plain, at) in v["plaintexts"]
            .as_array()
            .unwrap()
            .iter()
            .zip(v["references"].as_array().unwrap())
        {
            let at: FrameRef = at.as_str().unwrap().parse().unwrap();
            let sealed = &object[at.offset as usize..][..at.sealed as usize];
            assert_eq!(*opener.open(&at, sealed).unwrap(), bytes(plain));
        }
    }
    for node in format["nodes"].as_array().unwrap() {
        let encoded = bytes(&node["bytes"]);
        assert_eq!(Node::decode(&encoded).unwrap().encode().unwrap(), encoded);
    }
    let v = &sealing["signing"];
    let key = VerifyingKey::decode(&bytes(&v["verifying_key"])).unwrap();
    key.verify(
        v["message"].as_str().unwrap().as_bytes(),
        &bytes(&v["signature"]),
    )
    .unwrap();
    let v = &sealing["sealing"];
    let opened = OpeningKey::from_seed(&array(&v["seed"])).unwrap().open(
        b"info",
        b"aad",
        &bytes(&v["sealed"]),
    );
    assert_eq!(&*opened.unwrap(), b"message");
    let v = &sealing["vault"];
    let file = ShareFile::decode(v["share_file"].as_str().unwrap()).unwrap();
    assert_eq!(file.state, state());
}
