//! The shapes of the JSON that crosses the wire, and the limits both ends keep to. Normative in `spec/wire.md`.

use legation_core::id::{
    Digest, EpochNo, Lsn, RegistryId, Sha256, StateId, StreamId, Term, Timeline,
};
use serde::{Deserialize, Serialize};

/// Largest object: one pack of the largest size of the table.
pub const MAX_OBJECT: usize = 16 << 20;
/// Largest attachment. A session key is 1,216 bytes, a keyring of a large state some hundreds of KiB.
pub const MAX_ATTACHMENT: usize = 4 << 20;
/// Largest statement with its signatures; an entry of the log is at most 65,535 bytes with its own head.
pub const MAX_STATEMENT: usize = 65_000;
/// Largest run of journal frames in one request or answer.
pub const MAX_JOURNAL: usize = 4 << 20;
/// Largest release: one wrapped epoch root per epoch in scope.
pub const MAX_RELEASE: usize = legation_core::release::MAX_RELEASE;
/// Largest JSON answer that a client reads.
pub const MAX_JSON: usize = 4 << 20;

/// Exit code of a command that asked for something that is not there.
pub const EXIT_NOTHING_THERE: u8 = 10;

/// Media type of an error (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Media type of opaque bytes.
pub const OCTETS: &str = "application/octet-stream";
/// Media type of signed texts and checkpoints.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// An error as RFC 9457 has it; `exit` is the exit code that a command which meets it ends with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:legation:problem:<kind>`, see [`kind`].
    #[serde(rename = "type")]
    pub kind: String,
    /// A few words, the same for every occurrence of the kind.
    pub title: String,
    /// The HTTP status again.
    pub status: u16,
    /// What happened and what to do, for a person.
    pub detail: String,
    /// The exit code for a command that ends because of this.
    pub exit: u8,
    /// Where the stream stands, when frames did not continue it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// The kinds of problem, as the last part of [`Problem::kind`].
pub mod kind {
    /// The request cannot be read, or breaks the format.
    pub const MALFORMED: &str = "urn:legation:problem:malformed";
    /// Nothing there, or nothing that this key may see.
    pub const NOT_FOUND: &str = "urn:legation:problem:not-found";
    /// This key's role has no such verb.
    pub const ROLE: &str = "urn:legation:problem:role";
    /// The mandate does not allow it.
    pub const MANDATE: &str = "urn:legation:problem:mandate";
    /// Not enough approvals.
    pub const QUORUM: &str = "urn:legation:problem:quorum";
    /// The term has passed.
    pub const FENCED: &str = "urn:legation:problem:fenced";
    /// Other bytes are already kept under that name.
    pub const CONFLICT: &str = "urn:legation:problem:conflict";
    /// Frames that do not continue the stream.
    pub const POSITION: &str = "urn:legation:problem:position";
    /// Bytes that do not have the digest, the shape or the owner that they are said to have.
    pub const BYTES: &str = "urn:legation:problem:bytes";
    /// A commit or epoch names an object that is not here, or not whole.
    pub const INCOMPLETE: &str = "urn:legation:problem:incomplete";
    /// A body beyond its limit.
    pub const TOO_LARGE: &str = "urn:legation:problem:too-large";
    /// No room; what is left is kept for the log and the journal.
    pub const FULL: &str = "urn:legation:problem:full";
    /// More requests than the embassy takes at once.
    pub const BUSY: &str = "urn:legation:problem:busy";
    /// The embassy failed; nothing was acknowledged.
    pub const FAILED: &str = "urn:legation:problem:failed";
}

/// Where a stream stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The sequence of the next frame that the stream takes.
    pub next: u64,
    /// The running hash over everything before it.
    pub chain: Digest,
}

/// The answer to a logged statement. Everything in it can be checked with the mandate's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptBody {
    /// The entry's index in the log.
    pub index: u64,
    /// The exact entry, Base64.
    pub entry: String,
    /// Inclusion proof of the entry in the checkpoint's tree.
    pub inclusion: Vec<Sha256>,
    /// The checkpoint, a signed note.
    pub checkpoint: String,
    /// The tree size that `consistency` starts from (the request's `old`).
    pub old: u64,
    /// Consistency proof from `old` to the checkpoint.
    pub consistency: Vec<Sha256>,
}

/// The newest checkpoint and a proof between two trees that it covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistencyBody {
    /// The newest checkpoint, a signed note.
    pub checkpoint: String,
    /// The tree size that `consistency` starts from.
    pub old: u64,
    /// The tree size that it leads to.
    pub new: u64,
    /// Consistency proof.
    pub consistency: Vec<Sha256>,
}

/// The streams of journals that an embassy keeps for a state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamsBody {
    /// By registry, then by the order in which they were opened.
    pub streams: Vec<StreamBody>,
}

/// One stream of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamBody {
    /// Of which registry.
    pub registry: RegistryId,
    /// Which stream.
    pub stream: StreamId,
    /// The term its opening frame names.
    pub term: Term,
    /// The epoch its opening frame names.
    pub epoch: EpochNo,
    /// The sequence of the next frame: everything below is durable.
    pub next: u64,
    /// The running hash of the last durable frame.
    pub chain: Digest,
    /// Timeline of the last durable frame.
    pub timeline: Timeline,
    /// Timeline of its opening frame.
    pub first_timeline: Timeline,
    /// PostgreSQL's system identifier, by its opening frame.
    pub system_id: u64,
    /// The stream that it continues, by its opening frame.
    pub previous: Option<PreviousBody>,
    /// Where its first byte of WAL lies.
    pub first_lsn: Lsn,
    /// End position of the last durable frame.
    pub end_lsn: Lsn,
    /// Durable bytes.
    pub bytes: u64,
    /// Takes no more frames: fenced, or followed by a newer stream.
    pub closed: bool,
}

/// Where the stream before one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousBody {
    /// Which stream.
    pub stream: StreamId,
    /// The running hash of its last frame.
    pub chain: Digest,
}

/// What an embassy says of itself to those whom the mandate knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusBody {
    /// The embassy's label.
    pub label: String,
    /// The state.
    pub state: StateId,
    /// Sequence of the mandate in force.
    pub mandate: u32,
    /// Entries in the log.
    pub log_size: u64,
    /// The embassy's clock, RFC 3339 in UTC.
    pub now: String,
    /// When this process began, RFC 3339 in UTC.
    pub since: String,
    /// What the store's backing guarantees, in words.
    pub store: Vec<String>,
    /// Bytes free for objects (the reserve is not counted).
    pub free: u64,
    /// Software version.
    pub software: String,
}

/// The digests of the attachments that an embassy keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentsBody {
    /// Sorted.
    pub attachments: Vec<Sha256>,
}

/// The digests of what was released for an order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasesBody {
    /// Sorted, each once.
    pub releases: Vec<Sha256>,
}

/// A page of the names of one kind of object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesBody {
    /// Ascending; empty at the end.
    pub names: Vec<Digest>,
}
