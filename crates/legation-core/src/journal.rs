//! Journal frames: live WAL, sealed once and chained (spec/format.md §8, spec/sealing.md §9).
//! Whoever holds no key can still check every link: [`Chain`].

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::canary::{self, Bug};
use crate::codec::{Put, Reader};
use crate::error::FormatError;
use crate::id::{Digest, EpochNo, Lsn, RegistryId, StateId, StreamId, Term, Timeline};
use crate::keys::{EpochRoot, FrameKey, hkdf_sha256, same};
use crate::pack::{STORED, ZSTD, compress, decompress, registry};
use crate::size::SizeClass;
use crate::suite::{self, FORMAT, SUITE, TAG};

const MAGIC: &[u8; 8] = b"LGNjrnl1";
const WHAT: &str = "journal frame";
/// Length of the chain value that ends every frame.
const CHAIN: usize = 32;
/// What a data frame holds beside its payload: header, method and two lengths, tag, chain value.
const OVERHEAD: usize = FRAME_HEADER + 9 + TAG + CHAIN;
/// The main branch of history.
pub const MAIN: u16 = 0;
/// The chain value before the opening frame.
const NO_CHAIN: Digest = Digest([0; 32]);

/// Length of the clear header of a frame.
pub const FRAME_HEADER: usize = 128;
/// The largest frame; also the most that must be buffered to read one.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;
/// The most WAL in one frame: fits the largest class even when it does not compress. 30 pages of 8 KiB.
pub const MAX_FRAME_PLAIN: usize = 240 * 1024;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// The first frame of a stream: clear, names and salts.
    Opening,
    /// Sealed WAL.
    Data,
    /// Sealed nothing.
    Pad,
}

/// The clear header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Its exact size.
    pub size: SizeClass,
    /// What it carries.
    pub kind: FrameKind,
    /// The state it belongs to.
    pub state: StateId,
    /// The registry it belongs to.
    pub registry: RegistryId,
    /// The epoch whose root opens it.
    pub epoch: EpochNo,
    /// The term under which it was written.
    pub term: Term,
    /// The stream's incarnation.
    pub stream: StreamId,
    /// Its number in the stream, from 0.
    pub seq: u64,
    /// The position of its first byte of WAL.
    pub first_lsn: Lsn,
    /// The position after its last.
    pub end_lsn: Lsn,
    /// The timeline of its bytes.
    pub timeline: Timeline,
    /// Salt of its key; zeros in the opening.
    pub frame_salt: [u8; 32],
}

impl FrameHeader {
    /// Reads the first [`FRAME_HEADER`] bytes of a frame; more may follow. Tells its whole size.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut all = Reader::new(WHAT, bytes);
        let mut r = Reader::new(WHAT, all.bytes(FRAME_HEADER)?);
        r.magic(MAGIC)?;
        suite::require(WHAT, r.u16()?, r.u16()?)?;
        let size = SizeClass::from_number(r.u8()?)?;
        let kind = match r.u8()? {
            0 => FrameKind::Opening,
            1 => FrameKind::Data,
            2 => FrameKind::Pad,
            other => {
                return Err(FormatError::Unsupported {
                    what: WHAT,
                    field: "kind",
                    found: other.into(),
                });
            }
        };
        r.zeros(2)?;
        let header = Self {
            size,
            kind,
            state: StateId(r.array()?),
            registry: registry(&mut r)?,
            epoch: EpochNo(r.u32()?),
            term: Term(r.u32()?),
            stream: StreamId(r.array()?),
            seq: r.u64()?,
            first_lsn: Lsn(r.u64()?),
            end_lsn: Lsn(r.u64()?),
            timeline: Timeline(r.u32()?),
            frame_salt: r.array()?,
        };
        r.zeros(4)?;
        header.validate()?;
        Ok(header)
    }

    fn validate(&self) -> Result<(), FormatError> {
        let why = |why| Err(FormatError::malformed(WHAT, why));
        let wal = self.end_lsn.0.checked_sub(self.first_lsn.0);
        let wal_fits = match self.kind {
            FrameKind::Data => wal.is_some_and(|n| (1..=MAX_FRAME_PLAIN as u64).contains(&n)),
            FrameKind::Opening | FrameKind::Pad => wal == Some(0),
        };
        if !wal_fits {
            return why("its WAL range does not fit its kind");
        }
        if self.size > SizeClass::K256 {
            return why("it is larger than a journal frame may be");
        }
        let opening = self.kind == FrameKind::Opening;
        if opening != (self.seq == 0) {
            return why("an opening frame, and nothing else, has number 0");
        }
        if opening && (self.size != SizeClass::K4 || self.frame_salt != [0; 32]) {
            return why("an opening frame has 4096 bytes and no frame salt");
        }
        Ok(())
    }

    fn encode(&self) -> [u8; FRAME_HEADER] {
        let kind = match self.kind {
            FrameKind::Opening => 0,
            FrameKind::Data => 1,
            FrameKind::Pad => 2,
        };
        let mut out = Vec::with_capacity(FRAME_HEADER);
        out.put(MAGIC).put_u16(FORMAT).put_u16(SUITE);
        out.put_u8(self.size.number()).put_u8(kind).put_u16(0);
        out.put(&self.state.0).put_u32(self.registry.number());
        out.put_u32(self.epoch.0)
            .put_u32(self.term.0)
            .put(&self.stream.0);
        out.put_u64(self.seq)
            .put_u64(self.first_lsn.0)
            .put_u64(self.end_lsn.0);
        out.put_u32(self.timeline.0).put(&self.frame_salt);
        let mut header = [0; FRAME_HEADER];
        header[..out.len()].copy_from_slice(&out);
        header
    }
}

/// What the opening frame says beyond its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The branch of history: [`MAIN`], the only one of this format.
    pub branch: u16,
    /// PostgreSQL's system identifier.
    pub system_id: u64,
    /// The stream before this one and its last chain value; zeros if there is none.
    pub previous: Option<(StreamId, Digest)>,
    /// Salt of the stream key.
    pub salt: [u8; 32],
    /// Commitment to the stream key.
    pub commitment: [u8; 32],
}

impl Opening {
    /// Reads a whole opening frame.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported`.
    pub fn parse(frame: &[u8]) -> Result<(FrameHeader, Self), FormatError> {
        let header = FrameHeader::parse(frame)?;
        if header.kind != FrameKind::Opening || frame.len() != header.size.bytes() {
            return Err(FormatError::malformed(
                WHAT,
                "it is not a whole opening frame",
            ));
        }
        let mut r = Reader::new("opening frame", &frame[FRAME_HEADER..frame.len() - CHAIN]);
        let branch = main_branch(r.u16()?)?;
        r.zeros(6)?;
        let system_id = r.u64()?;
        let previous = match (r.array()?, r.array()?) {
            (stream, chain) if stream == [0; 16] && chain == [0; 32] => None,
            (stream, _) if stream == [0; 16] => {
                return Err(r.malformed("it names a chain value of no stream"));
            }
            (stream, chain) => Some((StreamId(stream), Digest(chain))),
        };
        let (salt, commitment) = (r.array()?, r.array()?);
        r.finish_padded()?;
        Ok((
            header,
            Self {
                branch,
                system_id,
                previous,
                salt,
                commitment,
            },
        ))
    }

    /// The record up to its salt: what the stream key is bound to beside the header.
    fn names(&self) -> Vec<u8> {
        let (stream, chain) = self
            .previous
            .unwrap_or((StreamId([0; 16]), Digest([0; 32])));
        let mut out = Vec::new();
        out.put_u16(self.branch)
            .put(&[0; 6])
            .put_u64(self.system_id);
        out.put(&stream.0).put(&chain.0);
        out
    }
}

/// The names of a new stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStart {
    /// The state.
    pub state: StateId,
    /// The registry.
    pub registry: RegistryId,
    /// The epoch.
    pub epoch: EpochNo,
    /// The term.
    pub term: Term,
    /// The stream: random, never used before.
    pub stream: StreamId,
    /// The branch of history: [`MAIN`].
    pub branch: u16,
    /// PostgreSQL's system identifier.
    pub system_id: u64,
    /// Where the stream starts.
    pub timeline: Timeline,
    /// Where the stream starts.
    pub lsn: Lsn,
    /// The stream before this one and its last chain value.
    pub previous: Option<(StreamId, Digest)>,
}

/// Where a stream stands after its last checked frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The stream.
    pub stream: StreamId,
    /// The number of the last frame.
    pub seq: u64,
    /// The chain value after it.
    pub chain: Digest,
    /// The position after its last byte of WAL.
    pub end_lsn: Lsn,
    /// Its timeline.
    pub timeline: Timeline,
}

/// Checks frames one after the other without any key: order, continuity of WAL, and the running hash.
#[derive(Debug, Clone, Default)]
pub struct Chain(Option<(FrameHeader, Digest)>);

impl Chain {
    /// Before the opening frame.
    #[must_use]
    pub fn new() -> Self {
        Self(None)
    }

    /// After the frame with header `last` and chain value `chain`.
    #[must_use]
    pub fn resume(last: &FrameHeader, chain: Digest) -> Self {
        Self(Some((*last, chain)))
    }

    /// Checks the next whole frame and moves on; on an error nothing has moved.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported` for a bad frame, `Misplaced` for a good one that does not come next.
    pub fn check(&mut self, frame: &[u8]) -> Result<FrameHeader, FormatError> {
        let header = FrameHeader::parse(frame)?;
        if frame.len() != header.size.bytes() {
            return Err(FormatError::malformed(
                WHAT,
                "its length is not what its header says",
            ));
        }
        let before = match &self.0 {
            None => {
                expect("number", 0, header.seq)?;
                Opening::parse(frame)?;
                NO_CHAIN
            }
            Some((last, chain)) => {
                last.continues(&header)?;
                *chain
            }
        };
        let (body, stored) = frame.split_at(frame.len() - CHAIN);
        let chain = link(&before, body);
        if chain.0 != stored {
            return Err(FormatError::malformed(
                WHAT,
                "its chain value does not follow from its bytes and the frame before",
            ));
        }
        self.0 = Some((header, chain));
        Ok(header)
    }

    /// Where the stream stands; `None` before the opening.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.0
            .as_ref()
            .map(|(header, chain)| position(header, *chain))
    }

    /// The chain value before the next frame.
    fn value(&self) -> Digest {
        self.0.as_ref().map_or(NO_CHAIN, |(_, chain)| *chain)
    }
}

impl FrameHeader {
    /// Whether `next` is the next frame of the same stream.
    fn continues(&self, next: &Self) -> Result<(), FormatError> {
        expect("state", self.state, next.state)?;
        expect("registry", self.registry, next.registry)?;
        expect("stream", self.stream, next.stream)?;
        expect("epoch", self.epoch, next.epoch)?;
        expect("term", self.term, next.term)?;
        let number = self.seq.checked_add(1);
        expect("number", number.unwrap_or(u64::MAX), next.seq)?;
        expect("position", self.end_lsn, next.first_lsn)?;
        // A history that forks goes on in a stream of its own.
        expect("timeline", self.timeline, next.timeline)
    }
}

/// A branch of history that this program does not know is never taken for the main one.
fn main_branch(branch: u16) -> Result<u16, FormatError> {
    if branch == MAIN {
        return Ok(branch);
    }
    Err(FormatError::Unsupported {
        what: "opening frame",
        field: "branch",
        found: branch.into(),
    })
}

fn expect<T: PartialEq + std::fmt::Display>(
    field: &'static str,
    expected: T,
    found: T,
) -> Result<(), FormatError> {
    if expected == found {
        Ok(())
    } else {
        Err(FormatError::misplaced(WHAT, field, expected, found))
    }
}

fn position(header: &FrameHeader, chain: Digest) -> Position {
    Position {
        stream: header.stream,
        seq: header.seq,
        chain,
        end_lsn: header.end_lsn,
        timeline: header.timeline,
    }
}

/// spec/format.md §8.4
fn link(before: &Digest, body: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before.0).update(body);
    Digest(*hasher.finalize().as_bytes())
}

/// The keys of one stream (spec/sealing.md §9.1).
#[derive(Zeroize, ZeroizeOnDrop)]
struct StreamKeys {
    key: [u8; 32],
    salt_key: [u8; 32],
    #[zeroize(skip)]
    commitment: [u8; 32],
}

impl StreamKeys {
    fn derive(
        root: &EpochRoot,
        header: &FrameHeader,
        opening: &Opening,
    ) -> Result<Self, FormatError> {
        let info: [&[u8]; 3] = [b"legation/v1 stream", &header.encode(), &opening.names()];
        let mut okm = Zeroizing::new([0; 96]);
        hkdf_sha256(&opening.salt, &[root.expose()], &info, &mut *okm)?;
        let mut keys = Self {
            key: [0; 32],
            salt_key: [0; 32],
            commitment: [0; 32],
        };
        keys.key.copy_from_slice(&okm[..32]);
        keys.salt_key.copy_from_slice(&okm[32..64]);
        keys.commitment.copy_from_slice(&okm[64..]);
        Ok(keys)
    }

    /// The salt depends on everything that the frame will say: a machine that was cloned or rolled back reaches
    /// the same frame key only to write the same bytes.
    fn frame_salt(&self, header: &FrameHeader, before: &Digest, record: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.salt_key);
        let clear = FrameHeader {
            frame_salt: [0; 32],
            ..*header
        }
        .encode();
        hasher.update(&clear).update(&before.0);
        if !canary::planted(Bug::RepeatedSalt) {
            hasher.update(record);
        }
        *hasher.finalize().as_bytes()
    }

    fn frame_key(&self, header: &FrameHeader) -> Result<FrameKey, FormatError> {
        let mut key = Zeroizing::new([0; 32]);
        let info: [&[u8]; 1] = [b"legation/v1 journal frame"];
        hkdf_sha256(&header.frame_salt, &[&self.key], &info, &mut *key)?;
        FrameKey::new(&key)
    }
}

fn aad(header: &[u8], before: &Digest) -> Vec<u8> {
    [b"legation/v1 journal".as_slice(), header, &before.0].concat()
}

/// Seals the frames of one stream. Lives as long as one agent process: it cannot be saved or resumed.
pub struct StreamSealer {
    keys: StreamKeys,
    last: FrameHeader,
    chain: Digest,
}

impl StreamSealer {
    /// Opens a stream and returns its opening frame. `first_wal` is what the first data frame will hold, or empty.
    ///
    /// # Errors
    /// `Crypto`, if the library refuses.
    pub fn open(
        start: &StreamStart,
        root: &EpochRoot,
        rng: &[u8; 32],
        first_wal: &[u8],
    ) -> Result<(Self, Vec<u8>), FormatError> {
        let header = FrameHeader {
            size: SizeClass::K4,
            kind: FrameKind::Opening,
            state: start.state,
            registry: start.registry,
            epoch: start.epoch,
            term: start.term,
            stream: start.stream,
            seq: 0,
            first_lsn: start.lsn,
            end_lsn: start.lsn,
            timeline: start.timeline,
            frame_salt: [0; 32],
        };
        let mut salt = blake3::Hasher::new_derive_key("legation/v1 stream salt");
        salt.update(rng)
            .update(&start.stream.0)
            .update(&Digest::of(first_wal).0);
        let mut opening = Opening {
            branch: main_branch(start.branch)?,
            system_id: start.system_id,
            previous: start.previous,
            salt: *salt.finalize().as_bytes(),
            commitment: [0; 32],
        };
        let keys = StreamKeys::derive(root, &header, &opening)?;
        opening.commitment = keys.commitment;

        let mut frame = Vec::with_capacity(header.size.bytes());
        frame.put(&header.encode()).put(&opening.names());
        frame.put(&opening.salt).put(&opening.commitment);
        frame.resize(header.size.bytes() - CHAIN, 0);
        let chain = link(&NO_CHAIN, &frame);
        frame.put(&chain.0);
        Ok((
            Self {
                keys,
                last: header,
                chain,
            },
            frame,
        ))
    }

    /// Seals the next frame: `wal` starts at `lsn`, which is where the last frame ended. Empty makes a pad frame.
    ///
    /// # Errors
    /// `TooLarge` above [`MAX_FRAME_PLAIN`]; `Misplaced` if `lsn` is not the next position. Nothing is consumed then.
    pub fn frame(
        &mut self,
        lsn: Lsn,
        timeline: Timeline,
        wal: &[u8],
    ) -> Result<Vec<u8>, FormatError> {
        let too_large = FormatError::TooLarge {
            what: WHAT,
            limit: MAX_FRAME_PLAIN as u64,
        };
        if wal.len() > MAX_FRAME_PLAIN {
            return Err(too_large);
        }
        let (method, payload) = compress(wal)?;
        let payload = payload.as_ref().map_or(wal, |p| p.as_slice());
        let size = SizeClass::holding(OVERHEAD + payload.len()).ok_or(too_large)?;
        let kind = if wal.is_empty() {
            FrameKind::Pad
        } else {
            FrameKind::Data
        };
        let seq = self.last.seq.checked_add(1);
        let seq = seq.ok_or(FormatError::TooLarge {
            what: "stream",
            limit: u64::MAX,
        })?;
        let end = lsn.0.checked_add(wal.len() as u64);
        let end_lsn = end
            .map(Lsn)
            .ok_or_else(|| FormatError::malformed(WHAT, "its WAL ends beyond the last position"))?;
        let mut header = FrameHeader {
            size,
            kind,
            seq,
            first_lsn: lsn,
            end_lsn,
            timeline,
            ..self.last
        };
        self.last.continues(&header)?;

        let mut record = Zeroizing::new(Vec::with_capacity(size.bytes()));
        // Lengths fit: at most MAX_FRAME_PLAIN.
        record
            .put_u8(method)
            .put_u32(wal.len() as u32)
            .put_u32(payload.len() as u32)
            .put(payload);
        record.resize(size.bytes() - FRAME_HEADER - TAG - CHAIN, 0);

        header.frame_salt = self.keys.frame_salt(&header, &self.chain, &record);
        let clear = header.encode();
        let key = self.keys.frame_key(&header)?;
        let tag = key.seal(seq, &aad(&clear, &self.chain), &mut record)?;
        let mut frame = Vec::with_capacity(size.bytes());
        frame.put(&clear).put(&record).put(&tag);
        let chain = link(&self.chain, &frame);
        frame.put(&chain.0);
        (self.last, self.chain) = (header, chain);
        Ok(frame)
    }

    /// Where the stream stands.
    #[must_use]
    pub fn position(&self) -> Position {
        position(&self.last, self.chain)
    }
}

/// Opens the frames of one stream in order, checking the chain as it goes.
pub struct StreamOpener {
    keys: StreamKeys,
    chain: Chain,
    position: Position,
}

impl StreamOpener {
    /// Starts at the opening frame; checks its commitment to the stream key.
    ///
    /// # Errors
    /// As [`Opening::parse`]; `NotOpened` under another root or with changed names.
    pub fn new(root: &EpochRoot, frame: &[u8]) -> Result<Self, FormatError> {
        let mut chain = Chain::new();
        chain.check(frame)?;
        let (header, opening) = Opening::parse(frame)?;
        let keys = StreamKeys::derive(root, &header, &opening)?;
        if !same(&keys.commitment, &opening.commitment) {
            return Err(FormatError::NotOpened {
                what: "journal stream",
            });
        }
        let position = position(&header, chain.value());
        Ok(Self {
            keys,
            chain,
            position,
        })
    }

    /// Whether `frame` comes next by its header and its chain value, whatever is sealed in it. Nothing moves.
    ///
    /// # Errors
    /// As [`Chain::check`].
    pub fn follows(&self, frame: &[u8]) -> Result<FrameHeader, FormatError> {
        self.chain.clone().check(frame)
    }

    /// Opens the next frame: where its WAL starts, and the WAL (empty for a pad frame).
    /// On an error nothing has moved.
    ///
    /// # Errors
    /// As [`Chain::check`]; `NotOpened` for changed bytes.
    pub fn open(&mut self, frame: &[u8]) -> Result<(Lsn, Zeroizing<Vec<u8>>), FormatError> {
        let before = self.chain.value();
        let mut chain = self.chain.clone();
        let header = chain.check(frame)?;
        let (clear, rest) = frame.split_at(FRAME_HEADER);
        let mut body = Zeroizing::new(rest[..rest.len() - CHAIN].to_vec());
        let key = self.keys.frame_key(&header)?;
        let record = key.open(WHAT, header.seq, &aad(clear, &before), &mut body)?;
        let wal = wal_of(record, &header)?;
        self.position = position(&header, chain.value());
        self.chain = chain;
        Ok((header.first_lsn, wal))
    }

    /// Where the stream stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }
}

/// Takes the WAL out of an opened frame; its length is what the header says.
fn wal_of(record: &[u8], header: &FrameHeader) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    let mut r = Reader::new(WHAT, record);
    let (method, plain, packed) = (r.u8()?, r.u32()?, r.u32()?);
    if u64::from(plain) != header.end_lsn.0 - header.first_lsn.0 {
        return Err(r.malformed("it holds another amount of WAL than its header says"));
    }
    let payload = r.bytes(packed as usize)?;
    r.finish_padded()?;
    match method {
        STORED if packed == plain => Ok(Zeroizing::new(payload.to_vec())),
        STORED => Err(FormatError::malformed(WHAT, "its stored length is wrong")),
        ZSTD => decompress(WHAT, payload, plain as usize),
        other => Err(FormatError::Unsupported {
            what: WHAT,
            field: "method",
            found: other.into(),
        }),
    }
}

#[cfg(test)]
mod tests;
