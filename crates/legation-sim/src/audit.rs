//! The checkers. They know what was promised and what home's registries held, and believe neither embassy nor fold.
//!
//! What is expected comes from outside the code under test: bytes from the registries' own history, quorums from
//! counting signatures anew, the log's consistency from hashing every entry that was ever seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use aws_lc_rs::digest::{SHA512, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use legation_core::id::{Digest, EpochNo, OrderId, RegistryId, Sha256, StreamId, Term};
use legation_core::journal::{FRAME_HEADER, FrameHeader, Opening};
use legation_core::log::{Checkpoint, Tree, leaf_hash};
use legation_core::pack::{PACK_HEADER, PackHeader};
use legation_core::policy::State;
use legation_core::statement::{
    Ack, Act, EpochSet, Order, Signed, Signer, Statement, Territory, VersionPick,
};
use legation_embassy::local::LocalEmbassy;

use crate::founding::{Founding, NEED};

/// A checker that found something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub checker: &'static str,
    /// What it found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.what)
    }
}

/// Nothing, or what was found.
pub type Checked<T = ()> = Result<T, Violation>;

/// What a checker found.
pub fn found<T>(checker: &'static str, what: impl Into<String>) -> Checked<T> {
    let what = what.into();
    Err(Violation { checker, what })
}

/// A version as the registry was when it was captured.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Of which registry.
    pub registry: RegistryId,
    /// Its files.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// An order as the checkers read it from the log.
#[derive(Debug, Clone)]
pub struct Ordered {
    /// Its text.
    pub order: Order,
    /// Its digest.
    pub id: Sha256,
    /// How many officers signed it, and how many of them abroad: counted anew.
    pub by: (usize, usize),
    /// For each registry the epochs that it lets open, by the checkers' own reading.
    pub scope: BTreeMap<RegistryId, EpochSet>,
}

/// What is known of the world, and what was promised.
pub struct Audit {
    founding: &'static Founding,
    tree: Tree,
    /// The root at every size.
    roots: Vec<Sha256>,
    /// Every entry of the log.
    pub leaves: Vec<Vec<u8>>,
    /// What an auditor's fold comes to.
    pub fold: Option<State>,
    /// Where each statement stands.
    statements: HashMap<Sha256, u64>,
    /// Statements that somebody holds a receipt of, with their index.
    receipts: BTreeMap<Sha256, u64>,
    /// The farthest acknowledgement of each stream, and the chain value that it names.
    pub acks: BTreeMap<(RegistryId, StreamId), (u64, Digest)>,
    /// The streams of those acknowledgements that home's agents asked for: what a thief repeats is his.
    pub ours: BTreeSet<(RegistryId, StreamId)>,
    /// What every frame that home sealed holds, by its chain value.
    pub frames: HashMap<Digest, Vec<u8>>,
    /// Every version that home committed, by its pack list.
    pub versions: BTreeMap<Digest, Captured>,
    /// Under which key and nonce what was sealed.
    sealed: HashMap<Vec<u8>, Digest>,
    /// Orders in the log.
    pub orders: BTreeMap<OrderId, Ordered>,
    /// The term that each registry is in, by the orders alone.
    terms: BTreeMap<RegistryId, Term>,
    sessions: BTreeMap<OrderId, u64>,
    fenced: BTreeMap<(OrderId, RegistryId), u64>,
    /// Keys that left the officers' machine.
    pub released: u64,
}

impl Audit {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(founding: &'static Founding) -> Self {
        let tree = Tree::new();
        Self {
            founding,
            roots: vec![tree.root()],
            tree,
            leaves: Vec::new(),
            fold: None,
            statements: HashMap::new(),
            receipts: BTreeMap::new(),
            acks: BTreeMap::new(),
            ours: BTreeSet::new(),
            frames: HashMap::new(),
            versions: BTreeMap::new(),
            sealed: HashMap::new(),
            orders: BTreeMap::new(),
            terms: BTreeMap::new(),
            sessions: BTreeMap::new(),
            fenced: BTreeMap::new(),
            released: 0,
        }
    }

    /// Entries seen.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// The auditor's fold.
    ///
    /// # Panics
    /// Before the founding was seen.
    #[must_use]
    pub fn fold(&self) -> &State {
        self.fold.as_ref().expect("founded")
    }

    /// Reads what the embassy has published since, and replays it.
    ///
    /// # Errors
    /// When the log is not the one that was seen, or holds what the mandate does not allow.
    pub fn look(&mut self, embassy: &LocalEmbassy) -> Checked {
        let log = embassy.log();
        self.checkpoint(&log.checkpoint(), Some(embassy))?;
        let (ours, theirs) = (self.fold().head(), embassy.fold().head());
        if ours != theirs {
            return found(
                "replay",
                format!("the embassy's fold is at {theirs:?}, an auditor's at {ours:?}"),
            );
        }
        Ok(())
    }

    /// A checkpoint must be of the one tree that there is.
    ///
    /// # Errors
    /// When it is not.
    pub fn checkpoint(&mut self, seen: &Checkpoint, embassy: Option<&LocalEmbassy>) -> Checked {
        if let Some(embassy) = embassy {
            self.pull(embassy)?;
        }
        match self.roots.get(seen.size() as usize) {
            Some(root) if *root == seen.root() => Ok(()),
            Some(_) => found(
                "log",
                format!("two trees of {} entries were signed", seen.size()),
            ),
            None => found(
                "log",
                format!(
                    "a tree of {} entries was signed, {} are there",
                    seen.size(),
                    self.size()
                ),
            ),
        }
    }

    fn pull(&mut self, embassy: &LocalEmbassy) -> Checked {
        let log = embassy.log();
        if log.size() < self.size() {
            let (now, was) = (log.size(), self.size());
            return found("log", format!("it had {was} entries and has {now} now"));
        }
        while self.size() < log.size() {
            let entries = match log.entries(self.size()..log.size()) {
                Ok(entries) => entries,
                Err(error) => return found("log", error.to_string()),
            };
            for bytes in entries {
                self.entry(embassy, bytes)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, embassy: &LocalEmbassy, bytes: Vec<u8>) -> Checked {
        let index = self.size();
        let entry = match legation_core::statement::Entry::parse(&bytes) {
            Ok(entry) => entry,
            Err(error) => return found("replay", format!("entry {index}: {error}")),
        };
        let held = Attached(embassy);
        let applied = match &mut self.fold {
            None => State::found(&entry, &held).map(|state| self.fold = Some(state)),
            Some(fold) => fold.apply(&entry, &held).map(|_| ()),
        };
        if let Err(refusal) = applied {
            return found("replay", format!("entry {index}: {refusal}"));
        }
        self.tree.push(leaf_hash(&bytes));
        self.roots.push(self.tree.root());
        self.leaves.push(bytes);
        self.statements.entry(entry.signed.id()).or_insert(index);
        self.recount(&entry.signed, index)
    }

    /// Who ordered what, by the signatures alone; and whether what was opened was ordered.
    fn recount(&mut self, signed: &Signed, index: u64) -> Checked {
        let Ok(statement) = signed.statement() else {
            return found("replay", format!("entry {index} is no statement"));
        };
        match statement {
            Statement::Order(order) => {
                let by = self.count(signed);
                if by.0 < NEED.0 || by.1 < NEED.1 {
                    let (all, abroad) = by;
                    return found(
                        "quorum",
                        format!(
                            "order {} was taken from {all} officers, {abroad} of them abroad",
                            order.order
                        ),
                    );
                }
                for row in &order.registry {
                    if let Some(step) = &order.term {
                        self.terms.insert(row.registry, step.to);
                    }
                }
                let scope = order.registry.iter();
                let ordered = Ordered {
                    id: signed.id(),
                    by,
                    scope: scope
                        .map(|row| (row.registry, row.epochs.clone()))
                        .collect(),
                    order: *order,
                };
                self.orders
                    .entry(ordered.order.order.clone())
                    .or_insert(ordered);
            }
            Statement::Session(it) => _ = self.sessions.insert(it.order, index),
            Statement::Fence(it) => _ = self.fenced.insert((it.order, it.registry), index),
            Statement::Opened(it) => {
                let epochs: Vec<EpochNo> = it.epochs.iter().collect();
                self.may_open(&it.order, it.registry, &epochs)?;
                if !self.sessions.contains_key(&it.order) {
                    return found(
                        "quorum",
                        format!("{} was opened before a session", it.order),
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Officers whose signature over this very text is right, and how many of them are abroad. Shares no code with the
    /// fold's way: the signed blob is put together here.
    fn count(&self, signed: &Signed) -> (usize, usize) {
        let mut names = BTreeMap::new();
        for signature in signed.signatures() {
            let Signer::Officer(name) = &signature.signer else {
                continue;
            };
            let row = self.founding.mandate.officer.iter();
            let Some(row) = row.clone().find(|row| row.name == *name) else {
                continue;
            };
            if is_signed(&signature.bytes, row.key.blob(), signed.text()) {
                names.insert(name.clone(), row.territory);
            }
        }
        let abroad = names.values().filter(|t| **t == Territory::Abroad);
        (names.len(), abroad.count())
    }

    /// Whether these epochs may be opened, by the orders in the log.
    ///
    /// # Errors
    /// When no accepted order covers them, or home is not fenced as the order asks.
    pub fn may_open(&self, order: &OrderId, registry: RegistryId, epochs: &[EpochNo]) -> Checked {
        let Some(ordered) = self.orders.get(order) else {
            return found("quorum", format!("{order} was never ordered"));
        };
        let Some(scope) = ordered.scope.get(&registry) else {
            return found(
                "quorum",
                format!("{registry} is not in the scope of {order}"),
            );
        };
        if let Some(epoch) = epochs.iter().find(|epoch| !scope.contains(**epoch)) {
            return found(
                "quorum",
                format!("epoch {epoch} of {registry} is not in the scope of {order}"),
            );
        }
        let asks = ordered.order.act == Act::Activate && ordered.order.term.is_some();
        if asks && !self.fenced.contains_key(&(order.clone(), registry)) {
            return found(
                "fence",
                format!("{registry} is opened by {order}, and home is not fenced"),
            );
        }
        Ok(())
    }

    /// Somebody verified a receipt: from now on it must hold.
    ///
    /// # Errors
    /// When it does not hold already.
    pub fn receipt(&mut self, id: Sha256, index: u64) -> Checked {
        self.receipts.insert(id, index);
        self.resolves(&id, index)
    }

    fn resolves(&self, id: &Sha256, index: u64) -> Checked {
        match self.statements.get(id) {
            Some(stands) if *stands == index => Ok(()),
            other => found(
                "receipt",
                format!("a statement was receipted as entry {index} and is {other:?}"),
            ),
        }
    }

    /// Receipts that are held.
    #[must_use]
    pub fn receipts(&self) -> usize {
        self.receipts.len()
    }

    /// Every receipt that anybody holds resolves.
    ///
    /// # Errors
    /// The first that does not.
    pub fn all_receipts(&self) -> Checked {
        let mut receipts = self.receipts.iter();
        receipts.try_for_each(|(id, index)| self.resolves(id, *index))
    }

    /// Somebody verified an acknowledgement: from now on it must hold.
    ///
    /// # Errors
    /// When its term had ended before by an order in the log.
    pub fn ack(&mut self, ack: &Ack, term_at: Term) -> Checked {
        if ack.term < term_at {
            return found(
                "fence",
                format!(
                    "frames of {} under term {} were acknowledged in term {term_at}",
                    ack.registry, ack.term
                ),
            );
        }
        let key = (ack.registry, ack.stream);
        let held = self.acks.entry(key).or_insert((ack.sequence, ack.chain));
        if held.0 == ack.sequence && held.1 != ack.chain {
            return found(
                "ack",
                format!(
                    "frame {} of {} was acknowledged twice over",
                    ack.sequence, ack.registry
                ),
            );
        }
        if held.0 < ack.sequence {
            *held = (ack.sequence, ack.chain);
        }
        Ok(())
    }

    /// The term of a registry by the orders in the log.
    #[must_use]
    pub fn term(&self, registry: RegistryId) -> Term {
        self.terms.get(&registry).copied().unwrap_or(Term(1))
    }

    /// Every acknowledged position is still there, as far as a listing says.
    ///
    /// # Errors
    /// The first that is not.
    pub fn acks_stand(&self, embassy: &LocalEmbassy) -> Checked {
        for ((registry, stream), (sequence, chain)) in &self.acks {
            let streams = match embassy.streams(*registry) {
                Ok(streams) => streams,
                Err(problem) => return found("ack", problem.detail),
            };
            let standing = streams.iter().find(|s| s.stream == *stream);
            let next = standing.map_or(0, |s| s.next);
            let other = standing.is_some_and(|s| s.next == sequence + 1 && s.chain != *chain);
            if next <= *sequence || other {
                return found(
                    "ack",
                    format!(
                        "frame {sequence} of a stream of {registry} was acknowledged, and the embassy holds {next} frames"
                    ),
                );
            }
        }
        Ok(())
    }

    /// A frame was sealed at home over these bytes.
    ///
    /// # Errors
    /// When its key and nonce had sealed other bytes.
    pub fn sealed_frame(&mut self, commitment: &[u8; 32], frame: &[u8], plain: &[u8]) -> Checked {
        let Ok(header) = FrameHeader::parse(&frame[..FRAME_HEADER]) else {
            return found("nonce", "a frame that cannot be read was sealed");
        };
        let chain = frame.last_chunk().map(|chain| Digest(*chain));
        if let Some(chain) = chain {
            self.frames.insert(chain, plain.to_vec());
        }
        // The frame's key follows from the stream's key and the salt; its nonce is its number.
        let number = header.seq.to_le_bytes();
        let key = [&commitment[..], &header.frame_salt, &number].concat();
        self.once(key, frame)
    }

    /// The commitment to the key of the stream that this frame opens; it holds no bytes of the registry.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn opened_stream(&mut self, frame: &[u8]) -> Checked<[u8; 32]> {
        match Opening::parse(frame) {
            Ok((_, opening)) => {
                if let Some(chain) = frame.last_chunk() {
                    self.frames.insert(Digest(*chain), Vec::new());
                }
                Ok(opening.commitment)
            }
            Err(error) => found("nonce", error.to_string()),
        }
    }

    /// A pack was sealed at home.
    ///
    /// # Errors
    /// When its key had sealed other bytes.
    pub fn sealed_pack(&mut self, pack: &[u8]) -> Checked {
        match PackHeader::parse(pack) {
            Ok(_) => {
                // Its key follows from the epoch's root and all that its header says.
                let header = pack[..PACK_HEADER].to_vec();
                self.once(header, pack)
            }
            Err(error) => found("nonce", error.to_string()),
        }
    }

    fn once(&mut self, key: Vec<u8>, bytes: &[u8]) -> Checked {
        let sealed = Digest::of(bytes);
        match self.sealed.insert(key, sealed) {
            Some(before) if before != sealed => {
                found("nonce", "one key and nonce sealed two different things")
            }
            _ => Ok(()),
        }
    }

    /// How much was sealed.
    #[must_use]
    pub fn sealed(&self) -> usize {
        self.sealed.len()
    }

    /// Which version of a registry an order opens: the newest before it that its epochs open.
    #[must_use]
    pub fn version_of(&self, ordered: &Ordered, registry: RegistryId) -> Option<Digest> {
        let known = self.fold().registry(registry)?;
        let scope = ordered.scope.get(&registry)?;
        let before = self.statements.get(&ordered.id)?;
        let mut versions = known.versions.iter().rev();
        let picked = versions.find(|version| match ordered.order.version {
            VersionPick::Exactly(number) => version.commit.version == number,
            VersionPick::Latest => version.index < *before && scope.covers(&version.commit.epochs),
        });
        picked.map(|version| version.commit.packs.list)
    }
}

/// The attachments that lie at an embassy.
struct Attached<'a>(&'a LocalEmbassy);

impl legation_core::attachments::Attachments for Attached<'_> {
    fn get(&self, digest: &Sha256) -> Option<Vec<u8>> {
        self.0.attachment(digest).ok().flatten()
    }
}

/// Whether an SSHSIG blob holds an Ed25519 signature by the key in `public` over a statement's text. Only what this
/// world's officers make: SHA-512, no options.
fn is_signed(blob: &[u8], public: &[u8], text: &str) -> bool {
    let string = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    let namespace = text.lines().next().unwrap_or_default();
    let mut head = b"SSHSIG\0\0\0\x01".to_vec();
    string(&mut head, public);
    let mut told = Vec::new();
    for part in [namespace.as_bytes(), b"", b"sha512"] {
        string(&mut told, part);
    }
    head.extend_from_slice(&told);
    let Some(signature) = blob.strip_prefix(head.as_slice()) else {
        return false;
    };
    let (Some(signature), Some(key)) = (signature.last_chunk::<64>(), public.last_chunk::<32>())
    else {
        return false;
    };
    let mut message = b"SSHSIG".to_vec();
    message.extend_from_slice(&told);
    string(&mut message, digest(&SHA512, text.as_bytes()).as_ref());
    let key = UnparsedPublicKey::new(&ED25519, key);
    key.verify(&message, signature).is_ok()
}
