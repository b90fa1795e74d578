//! What the agent keeps at home about the last version, so that the next costs only what changed. It holds names in
//! the clear and no keys. A lost index means a full capture, never a read from abroad.

use std::collections::BTreeMap;

use legation_core::codec::{Put, Reader};
use legation_core::error::FormatError;
use legation_core::id::{Digest, RegistryId, StateId};
use legation_core::list::PackList;
use legation_core::manifest::{Entry, MAX_NAME, MAX_SOURCES};
use legation_core::pack::FrameRef;

use super::stretch::Stretches;

const MAGIC: &[u8; 8] = b"LGNindx2";
const WHAT: &str = "index of the last version";

/// The entries, nodes and packs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its packs.
    pub list: PackList,
    /// Its sources.
    pub sources: Vec<Source>,
    /// Its manifest nodes, by BLAKE3 of their plaintext.
    pub nodes: BTreeMap<Digest, FrameRef>,
    /// What its files hold, by content.
    pub stretches: Stretches,
}

/// One source of the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its entries, ascending by path.
    pub entries: Vec<Entry>,
}

impl Source {
    /// The entry of this path.
    #[must_use]
    pub fn entry(&self, path: &[u8]) -> Option<&Entry> {
        let at = self
            .entries
            .binary_search_by(|e| e.path.as_slice().cmp(path))
            .ok()?;
        self.entries.get(at)
    }
}

impl Index {
    /// The index before the first version.
    #[must_use]
    pub fn empty(state: StateId, registry: RegistryId) -> Self {
        Self {
            list: PackList::empty(state, registry),
            sources: Vec::new(),
            nodes: BTreeMap::new(),
            stretches: Stretches::default(),
        }
    }

    /// The source of this kind and name.
    #[must_use]
    pub fn source(&self, kind: &str, name: &str) -> Option<&Source> {
        self.sources
            .iter()
            .find(|s| s.kind == kind && s.name == name)
    }

    /// The index as a file, with a BLAKE3 of itself at the end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let list = self.list.encode();
        out.put(MAGIC).put_u32(list.len() as u32).put(&list);
        out.put_u32(self.sources.len() as u32);
        for source in &self.sources {
            for text in [&source.kind, &source.name] {
                out.put_u16(text.len() as u16).put(text.as_bytes());
            }
            out.put_u64(source.entries.len() as u64);
            source
                .entries
                .iter()
                .for_each(|entry| entry.encode(&mut out));
        }
        out.put_u64(self.nodes.len() as u64);
        for (digest, at) in &self.nodes {
            out.put(&digest.0);
            at.encode(&mut out);
        }
        self.stretches.encode(&mut out);
        let digest = Digest::of(&out);
        out.put(&digest.0);
        out
    }

    /// Reads the file back.
    ///
    /// # Errors
    /// `Malformed` when it was cut or changed: capture in full then.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(WHAT, bytes);
        let body = r.bytes(bytes.len().saturating_sub(32))?;
        if Digest::of(body).0 != r.array()? {
            return Err(r.malformed("its digest does not match"));
        }
        let mut r = Reader::new(WHAT, body);
        r.magic(MAGIC)?;
        let len = r.u32()? as usize;
        let list = PackList::decode(r.bytes(len)?)?;
        let mut sources = Vec::new();
        let count = r.u32()? as usize;
        if count > MAX_SOURCES {
            return Err(r.malformed("it has too many sources"));
        }
        for _ in 0..count {
            let (kind, name) = (text(&mut r)?, text(&mut r)?);
            let entries = (0..r.u64()?)
                .map(|_| Entry::decode(&mut r))
                .collect::<Result<_, _>>()?;
            sources.push(Source {
                kind,
                name,
                entries,
            });
        }
        let nodes = (0..r.u64()?)
            .map(|_| Ok((Digest(r.array()?), FrameRef::decode(&mut r)?)))
            .collect::<Result<_, FormatError>>()?;
        let stretches = Stretches::decode(&mut r)?;
        r.finish()?;
        Ok(Self {
            list,
            sources,
            nodes,
            stretches,
        })
    }
}

fn text(r: &mut Reader<'_>) -> Result<String, FormatError> {
    let len = r.u16()? as usize;
    if len > MAX_NAME {
        return Err(r.malformed("a name is too long"));
    }
    String::from_utf8(r.bytes(len)?.to_vec()).map_err(|_| r.malformed("a name is not UTF-8"))
}
