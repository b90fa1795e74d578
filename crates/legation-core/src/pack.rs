//! Packs: write-once objects of sealed frames (spec/format.md §5, spec/sealing.md §5).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::codec::{Put, Reader};
use crate::error::FormatError;
use crate::id::{Digest, EpochNo, ParseIdError, RegistryId, StateId};
use crate::keys::{EpochRoot, FrameKey, hkdf_sha256, same};
use crate::size::SizeClass;
use crate::suite::{self, FORMAT, SUITE, TAG};

const MAGIC: &[u8; 8] = b"LGNpack1";
/// Method and plaintext length in front of each frame's payload.
const RECORD: usize = 5;
/// Methods of a frame (spec/format.md §5.2).
pub(crate) const STORED: u8 = 0;
pub(crate) const ZSTD: u8 = 1;
const PAD: u8 = 2;

/// Length of the clear header in front of a pack's frames.
pub const PACK_HEADER: usize = 160;
/// The largest plaintext of one frame: bounds what a reader decompresses.
pub const MAX_FRAME: usize = 256 * 1024;

/// Where a frame lies: the commit's pack list maps (epoch, seq) to a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameRef {
    /// Epoch of the pack.
    pub epoch: EpochNo,
    /// The pack's number within its epoch.
    pub seq: u32,
    /// The frame's number within the pack.
    pub index: u32,
    /// Where its sealed bytes start in the pack.
    pub offset: u32,
    /// How many sealed bytes there are, tag included.
    pub sealed: u32,
    /// How many plaintext bytes come out.
    pub plain: u32,
}

/// The clear header of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackHeader {
    /// The state it belongs to.
    pub state: StateId,
    /// The registry it belongs to.
    pub registry: RegistryId,
    /// The epoch whose root opens it.
    pub epoch: EpochNo,
    /// Its number within the epoch.
    pub seq: u32,
    /// Salt of its key.
    pub salt: [u8; 32],
    /// Commitment to its key.
    pub commitment: [u8; 32],
}

impl PackHeader {
    /// Reads the first [`PACK_HEADER`] bytes of a pack; more may follow.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported`.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut all = Reader::new("pack", bytes);
        let mut r = Reader::new("pack", all.bytes(PACK_HEADER)?);
        r.magic(MAGIC)?;
        suite::require("pack", r.u16()?, r.u16()?)?;
        r.zeros(4)?;
        let header = Self {
            state: StateId(r.array()?),
            registry: registry(&mut r)?,
            epoch: EpochNo(r.u32()?),
            seq: r.u32()?,
            salt: r.array()?,
            commitment: r.array()?,
        };
        r.finish_padded()?;
        Ok(header)
    }

    fn encode(&self) -> [u8; PACK_HEADER] {
        let mut out = Vec::with_capacity(PACK_HEADER);
        out.put(MAGIC).put_u16(FORMAT).put_u16(SUITE).put_u32(0);
        out.put(&self.state.0)
            .put_u32(self.registry.number())
            .put_u32(self.epoch.0);
        out.put_u32(self.seq).put(&self.salt).put(&self.commitment);
        let mut header = [0; PACK_HEADER];
        header[..out.len()].copy_from_slice(&out);
        header
    }
}

/// A finished pack.
pub struct SealedPack {
    /// Its bytes, exactly one of the table's sizes.
    pub bytes: Vec<u8>,
    /// BLAKE3 of the bytes: its name.
    pub digest: Digest,
    /// Its size.
    pub size: SizeClass,
}

/// Collects frames into one pack; at most 16 MiB in memory.
pub struct PackBuilder {
    place: Place,
    /// The pack as it will lie, with gaps for header and tags; plaintext until sealed.
    bytes: Zeroizing<Vec<u8>>,
    /// Where each frame's record starts, and its length.
    frames: Vec<(usize, usize)>,
    plaintexts: blake3::Hasher,
}

impl PackBuilder {
    /// An empty pack.
    #[must_use]
    pub fn new(state: StateId, registry: RegistryId, epoch: EpochNo, seq: u32) -> Self {
        Self {
            place: Place {
                state,
                registry,
                epoch,
                seq,
            },
            bytes: Zeroizing::new(vec![0; PACK_HEADER]),
            frames: Vec::new(),
            plaintexts: blake3::Hasher::new(),
        }
    }

    /// The pack's number within its epoch.
    #[must_use]
    pub fn seq(&self) -> u32 {
        self.place.seq
    }

    /// Adds a frame; `None` when it does not fit any more.
    ///
    /// # Errors
    /// `TooLarge` above [`MAX_FRAME`].
    pub fn push(&mut self, plain: &[u8]) -> Result<Option<FrameRef>, FormatError> {
        if plain.len() > MAX_FRAME {
            return Err(FormatError::TooLarge {
                what: "frame",
                limit: MAX_FRAME as u64,
            });
        }
        let (method, payload) = compress(plain)?;
        let payload = payload.as_ref().map_or(plain, |p| p.as_slice());
        let offset = self.bytes.len();
        let sealed = RECORD + payload.len() + TAG;
        if offset + sealed + RECORD + TAG > SizeClass::M16.bytes() {
            return Ok(None);
        }
        // Both fit: the pack is at most 16 MiB.
        let at = FrameRef {
            epoch: self.place.epoch,
            seq: self.place.seq,
            index: self.frames.len() as u32,
            offset: offset as u32,
            sealed: sealed as u32,
            plain: plain.len() as u32,
        };
        self.bytes.put_u8(method).put_u32(at.plain).put(payload);
        self.plaintexts.update(&at.sealed.to_le_bytes());
        self.plaintexts.update(&self.bytes[offset..]);
        self.bytes.put(&[0; TAG]);
        self.frames.push((offset, sealed - TAG));
        Ok(Some(at))
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Seals the pack; its sequence number is consumed.
    ///
    /// # Errors
    /// `Crypto`, if the library refuses.
    pub fn seal(mut self, root: &EpochRoot, rng: &[u8; 32]) -> Result<SealedPack, FormatError> {
        let pad = self.bytes.len();
        let too_large = FormatError::TooLarge {
            what: "pack",
            limit: SizeClass::M16.bytes() as u64,
        };
        let size = SizeClass::holding(pad + RECORD + TAG)
            .ok_or(too_large)?
            .max(SizeClass::K64);
        self.bytes.resize(size.bytes(), 0);
        self.bytes[pad] = PAD;
        self.frames.push((pad, size.bytes() - pad - TAG));

        // Even a cloned machine that draws the same randomness does not repeat a key over other bytes.
        let mut salt = blake3::Hasher::new_derive_key("legation/v1 pack salt");
        salt.update(rng).update(&self.place.seq.to_le_bytes());
        salt.update(self.plaintexts.finalize().as_bytes());
        let salt = *salt.finalize().as_bytes();

        let (key, commitment) = self.place.keys(root, &salt)?;
        let Place {
            state,
            registry,
            epoch,
            seq,
        } = self.place;
        let header = PackHeader {
            state,
            registry,
            epoch,
            seq,
            salt,
            commitment,
        };
        self.bytes[..PACK_HEADER].copy_from_slice(&header.encode());
        let last = self.frames.len() - 1;
        for (index, (offset, len)) in self.frames.iter().copied().enumerate() {
            let aad = self
                .place
                .frame_aad(index as u32, offset as u32, index == last);
            let tag = key.seal(index as u64, &aad, &mut self.bytes[offset..offset + len])?;
            self.bytes[offset + len..offset + len + TAG].copy_from_slice(&tag);
        }
        let bytes = std::mem::take(&mut *self.bytes);
        Ok(SealedPack {
            digest: Digest::of(&bytes),
            bytes,
            size,
        })
    }
}

/// Opens single frames of one pack.
pub struct PackOpener {
    place: Place,
    key: FrameKey,
}

impl PackOpener {
    /// Derives the pack's key and checks the header's commitment to it.
    ///
    /// # Errors
    /// `NotOpened` under another root.
    pub fn new(header: &PackHeader, root: &EpochRoot) -> Result<Self, FormatError> {
        let place = Place {
            state: header.state,
            registry: header.registry,
            epoch: header.epoch,
            seq: header.seq,
        };
        let (key, commitment) = place.keys(root, &header.salt)?;
        if !same(&commitment, &header.commitment) {
            return Err(FormatError::NotOpened { what: "pack" });
        }
        Ok(Self { place, key })
    }

    /// Opens the frame that `at` names, given its sealed bytes.
    ///
    /// # Errors
    /// `Misplaced` for a frame of another pack, `NotOpened` for changed bytes or another position.
    pub fn open(&self, at: &FrameRef, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, FormatError> {
        let here = (self.place.epoch, self.place.seq);
        if (at.epoch, at.seq) != here {
            let text = |(epoch, seq)| format!("{epoch}:{seq}");
            return Err(FormatError::misplaced(
                "frame",
                "pack",
                text((at.epoch, at.seq)),
                text(here),
            ));
        }
        if sealed.len() != at.sealed as usize {
            return Err(FormatError::malformed(
                "frame",
                "its length is not what the reference says",
            ));
        }
        let mut record = self.record(at.index, at.offset, false, sealed)?;
        let mut r = Reader::new("frame", &record);
        let (method, len) = (r.u8()?, r.u32()? as usize);
        if len != at.plain as usize || len > MAX_FRAME {
            return Err(r.malformed("its plaintext length is not what the reference says"));
        }
        match method {
            STORED if r.rest().len() == len => {
                record.drain(..RECORD);
                Ok(record)
            }
            STORED => Err(r.malformed("its plaintext length is not what the reference says")),
            ZSTD => decompress("frame", r.rest(), len),
            other => Err(FormatError::Unsupported {
                what: "frame",
                field: "method",
                found: other.into(),
            }),
        }
    }

    /// Opens the pad frame that ends the pack: proof that `index` frames lie before it and none after.
    ///
    /// # Errors
    /// `NotOpened` or `Malformed`.
    pub fn open_last(&self, index: u32, offset: u32, sealed: &[u8]) -> Result<(), FormatError> {
        let record = self.record(index, offset, true, sealed)?;
        let mut r = Reader::new("pad frame", &record);
        if r.u8()? != PAD {
            return Err(r.malformed("it is not padding"));
        }
        r.finish_padded()
    }

    fn record(
        &self,
        index: u32,
        offset: u32,
        last: bool,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, FormatError> {
        let mut bytes = Zeroizing::new(sealed.to_vec());
        let aad = self.place.frame_aad(index, offset, last);
        let len = self
            .key
            .open("frame", index.into(), &aad, &mut bytes)?
            .len();
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// Where a pack belongs: bound into its key and into every frame.
#[derive(Clone, Copy)]
struct Place {
    state: StateId,
    registry: RegistryId,
    epoch: EpochNo,
    seq: u32,
}

impl Place {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u16(SUITE)
            .put(&self.state.0)
            .put_u32(self.registry.number());
        out.put_u32(self.epoch.0).put_u32(self.seq);
    }

    /// spec/sealing.md §5.1
    fn keys(&self, root: &EpochRoot, salt: &[u8; 32]) -> Result<(FrameKey, [u8; 32]), FormatError> {
        let mut info = b"legation/v1 pack".to_vec();
        self.put(&mut info);
        let mut okm = Zeroizing::new([0; 64]);
        hkdf_sha256(salt, &[root.expose()], &[&info], &mut *okm)?;
        let (mut key, mut commitment) = (Zeroizing::new([0; 32]), [0; 32]);
        key.copy_from_slice(&okm[..32]);
        commitment.copy_from_slice(&okm[32..]);
        Ok((FrameKey::new(&key)?, commitment))
    }

    /// spec/sealing.md §5.2
    fn frame_aad(&self, index: u32, offset: u32, last: bool) -> Vec<u8> {
        let mut aad = b"legation/v1 frame".to_vec();
        self.put(&mut aad);
        aad.put_u32(index).put_u32(offset).put_u8(last.into());
        aad
    }
}

/// Takes a registry number, which must be below 2^24.
pub(crate) fn registry(r: &mut Reader<'_>) -> Result<RegistryId, FormatError> {
    let number = r.u32()?;
    RegistryId::new(number).ok_or_else(|| r.malformed("its registry number is out of range"))
}

/// The method and, when zstd saves anything, what it made of `plain`.
#[allow(clippy::type_complexity)]
pub(crate) fn compress(plain: &[u8]) -> Result<(u8, Option<Zeroizing<Vec<u8>>>), FormatError> {
    // The level costs about a core-second per gigabyte here; higher ones gain little on database pages.
    const LEVEL: i32 = 3;
    let packed = zstd::bulk::compress(plain, LEVEL).map_err(|_| FormatError::Crypto("compress"))?;
    let packed = Zeroizing::new(packed);
    if packed.len() < plain.len() {
        Ok((ZSTD, Some(packed)))
    } else {
        Ok((STORED, None))
    }
}

/// Decompresses to exactly `len` bytes, whatever the payload claims.
pub(crate) fn decompress(
    what: &'static str,
    payload: &[u8],
    len: usize,
) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    let plain = zstd::bulk::decompress(payload, len)
        .map(Zeroizing::new)
        .map_err(|_| FormatError::malformed(what, "it does not decompress"))?;
    if plain.len() != len {
        return Err(FormatError::malformed(
            what,
            "it decompresses to another length",
        ));
    }
    Ok(plain)
}

impl fmt::Display for FrameRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}:{}:{}:{}",
            self.epoch, self.seq, self.index, self.offset, self.sealed, self.plain
        )
    }
}

impl FromStr for FrameRef {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let numbers: Option<Vec<u32>> = text.split(':').map(|t| t.parse().ok()).collect();
        let found = match numbers.as_deref() {
            Some(&[epoch, seq, index, offset, sealed, plain]) => Some(Self {
                epoch: EpochNo(epoch),
                seq,
                index,
                offset,
                sealed,
                plain,
            }),
            _ => None,
        };
        // One spelling only: no signs, no leading zeros.
        found
            .filter(|r| r.to_string() == text)
            .ok_or_else(|| ParseIdError::new("a frame reference, like 4:17:0:160:812:1630", text))
    }
}

impl Serialize for FrameRef {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FrameRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FrameRef {
    /// Length of the encoding.
    pub const LEN: usize = 24;

    /// Appends the encoding: six u32.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.epoch.0)
            .put_u32(self.seq)
            .put_u32(self.index);
        out.put_u32(self.offset)
            .put_u32(self.sealed)
            .put_u32(self.plain);
    }

    /// Reads the encoding, and refuses what no pack can hold: so a reader may allocate by it.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let at = Self {
            epoch: EpochNo(r.u32()?),
            seq: r.u32()?,
            index: r.u32()?,
            offset: r.u32()?,
            sealed: r.u32()?,
            plain: r.u32()?,
        };
        at.validate()?;
        Ok(at)
    }

    /// Refuses what no pack can hold.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn validate(&self) -> Result<(), FormatError> {
        let (offset, sealed, plain) = (
            self.offset as usize,
            self.sealed as usize,
            self.plain as usize,
        );
        let fits = offset >= PACK_HEADER
            && (RECORD + TAG..=RECORD + MAX_FRAME + TAG).contains(&sealed)
            && offset + sealed + RECORD + TAG <= SizeClass::M16.bytes()
            && plain <= MAX_FRAME;
        if fits {
            Ok(())
        } else {
            Err(FormatError::malformed(
                "frame reference",
                "no pack holds such a frame",
            ))
        }
    }
}

#[cfg(test)]
mod tests;
