//! One function for each parser of bytes that somebody else wrote: it must not panic, hang or grow without bound, and
//! what it accepts must be the one spelling of what it says.
//!
//! `make fuzz` drives them by libFuzzer; `tests/corpora.rs` plays the corpora that were kept, and changes of them.

use std::sync::OnceLock;

use legation_core::id::{Digest, Sha256};
use legation_core::journal::{Chain, FrameHeader, Opening};
use legation_core::list::PackList;
use legation_core::log::{
    Checkpoint, LogSigner, LogVerifier, Note, TilePath, check_consistency, check_inclusion,
    leaf_hash, split_bundle,
};
use legation_core::manifest::Node;
use legation_core::pack::PackHeader;
use legation_core::release::ReleaseHead;
use legation_core::slip;
use legation_core::sshsig::{self, SshPublicKey, Sshsig};
use legation_core::statement::{Entry, Signed, Statement};
use legation_core::vault::ShareFile;
use legation_registry::postgres::ConnectConfig;
use legation_registry::postgres::control::ControlFile;
use legation_repo::http::Problem;
use legation_repo::outboard::Outboard;
use legation_repo::writer::index::Index;

/// The origin that checkpoints here are of.
pub const ORIGIN: &str = "legation.example/log";

/// The key that checkpoints here are signed with.
pub fn signer() -> LogSigner {
    LogSigner::from_seed(&[7; legation_core::log::LOG_SEED_LEN]).expect("a seed")
}

fn verifier() -> &'static LogVerifier {
    static KEY: OnceLock<LogVerifier> = OnceLock::new();
    KEY.get_or_init(|| signer().verifier().clone())
}

/// What takes bytes that somebody else wrote.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("pack_header", pack_header),
    ("journal_frame", journal_frame),
    ("journal_opening", journal_opening),
    ("list", list),
    ("slip", slip),
    ("node", node),
    ("share", share),
    ("statement", statement),
    ("signed", signed),
    ("entry", entry),
    ("bundle", bundle),
    ("checkpoint", checkpoint),
    ("proof", proof),
    ("tile_path", tile_path),
    ("sshsig", sshsig),
    ("ssh_key", ssh_key),
    ("release", release),
    ("outboard", outboard),
    ("kept_index", kept_index),
    ("problem", problem),
    ("control_file", control_file),
    ("connection", connection),
];

/// The clear header of a pack.
pub fn pack_header(bytes: &[u8]) {
    let _ = PackHeader::parse(bytes);
}

/// The clear header of a journal frame, and the chain that it stands in.
pub fn journal_frame(bytes: &[u8]) {
    let _ = FrameHeader::parse(bytes);
    let _ = Chain::new().check(bytes);
}

/// The opening frame of a stream.
pub fn journal_opening(bytes: &[u8]) {
    let _ = Opening::parse(bytes);
}

/// A list of packs: what is read is the one spelling of what it says.
pub fn list(bytes: &[u8]) {
    if let Ok(list) = PackList::decode(bytes) {
        assert_eq!(list.encode(), bytes);
    }
}

/// The clear header of a slip.
pub fn slip(bytes: &[u8]) {
    let _ = slip::header(bytes);
}

/// A node of a manifest: opened by the right key, but written by anybody who has it.
pub fn node(bytes: &[u8]) {
    if let Ok(node) = Node::decode(bytes) {
        // What is read is valid, so it can be written.
        let encoded = node.encode().expect("a node that was read");
        assert_eq!(encoded, bytes);
    }
}

/// An officer's share, as text.
pub fn share(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(share) = ShareFile::decode(text)
    {
        assert_eq!(share.encode().as_str(), text);
    }
}

/// The text of a statement: there is one spelling of each.
pub fn statement(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(statement) = Statement::parse(text)
    {
        assert_eq!(statement.text(), text);
    }
}

/// A statement with its signatures.
pub fn signed(bytes: &[u8]) {
    if let Ok(signed) = Signed::parse(bytes) {
        assert_eq!(signed.encode().as_bytes(), bytes);
        let _ = signed.statement();
    }
}

/// An entry of the log.
pub fn entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::parse(bytes) {
        assert_eq!(entry.encode(), bytes);
    }
}

/// A bundle of entries, of which so many are wanted.
pub fn bundle(bytes: &[u8]) {
    let Some((count, bundle)) = bytes.split_first() else {
        return;
    };
    if let Ok((entries, length)) = split_bundle(bundle, u64::from(*count)) {
        assert!(length <= bundle.len() && entries.len() == usize::from(*count));
    }
}

/// A signed note, and the checkpoint in it.
pub fn checkpoint(bytes: &[u8]) {
    let _ = Note::parse(bytes);
    let key = verifier();
    let _ = Checkpoint::open(bytes, ORIGIN, key);
}

/// Proofs of inclusion and consistency: 32-byte hashes after three numbers.
pub fn proof(bytes: &[u8]) {
    let (numbers, hashes) = bytes.split_at(bytes.len().min(24));
    let number = |at: usize| {
        let byte = |n: usize| u64::from(numbers.get(at * 8 + n).copied().unwrap_or(0));
        (0..8).fold(0, |sum, n| sum | byte(n) << (8 * n))
    };
    let hashes: Vec<Sha256> = hashes
        .chunks_exact(32)
        .filter_map(|hash| Some(Sha256(hash.try_into().ok()?)))
        .collect();
    let leaf = leaf_hash(b"leaf");
    let _ = check_inclusion(&leaf, number(0), number(1), &hashes, &leaf);
    let _ = check_consistency(number(0), &leaf, number(1), &leaf, &hashes);
}

/// A path of a tile.
pub fn tile_path(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(path) = text.parse::<TilePath>()
    {
        assert_eq!(path.to_string(), text);
    }
}

/// An armoured SSH signature, and the one in it.
pub fn sshsig(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(blob) = sshsig::dearmour(text)
    {
        let _ = Sshsig::parse(&blob);
    }
    let _ = Sshsig::parse(bytes);
}

/// A line of a public key file, and a key blob.
pub fn ssh_key(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = SshPublicKey::from_pub_file(text);
    }
    let _ = SshPublicKey::from_blob(bytes);
}

/// The clear head of a release.
pub fn release(bytes: &[u8]) {
    if let Ok((head, length)) = ReleaseHead::read(bytes) {
        assert_eq!(head.to_string().as_bytes(), &bytes[..length]);
    }
}

/// The hashes beside a large object.
pub fn outboard(bytes: &[u8]) {
    let _ = Outboard::parse(bytes, &Digest::of(b"object"));
}

/// What the agent keeps of its newest version.
pub fn kept_index(bytes: &[u8]) {
    if let Ok(index) = Index::decode(bytes) {
        assert_eq!(index.encode(), bytes);
    }
}

/// An error as an embassy answers it, and what else it says in JSON.
pub fn problem(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Problem>(bytes);
}

/// pg_control, from a server at home.
pub fn control_file(bytes: &[u8]) {
    let _ = ControlFile::parse(bytes);
}

/// A connection string, as people type it.
pub fn connection(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = ConnectConfig::parse_with(text, &|_| None);
    }
}
