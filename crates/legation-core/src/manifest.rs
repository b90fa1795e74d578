//! The manifest: the sealed map of one complete version, as a tree of small nodes (spec/format.md §7).

use std::collections::BTreeMap;

use crate::codec::{Put, Reader};
use crate::error::FormatError;
use crate::id::{Digest, EpochNo, RegistryId, VersionNo};
use crate::pack::{FrameRef, MAX_FRAME, registry};

pub use incomplete::{Incomplete, RESERVED};

mod incomplete;

/// The longest path or link target in bytes: PATH_MAX of Linux.
pub const MAX_PATH: usize = 4096;
/// The most extents that stay in an entry; more go to nodes of their own.
pub const MAX_INLINE_EXTENTS: usize = 256;
/// The size that nodes are filled to.
pub const NODE_TARGET: usize = 64 * 1024;

/// The most runs of packs that a file's extents lie in: what a byte counts.
pub const MAX_SPANS: usize = 255;
/// The most bytes of names and values of extended attributes: with path, target and extents an entry stays well
/// below the largest frame.
pub const MAX_XATTRS: usize = 128 * 1024;
/// The most extended attributes of one entry.
pub const MAX_XATTR_NAMES: usize = 1024;
/// The most sources of one version; with `MAX_META` the root stays a frame.
pub const MAX_SOURCES: usize = 16;
/// The most bytes of facts about one source.
pub const MAX_META: usize = 12 * 1024;
/// The longest name of a source, of its kind, or of a fact.
pub const MAX_NAME: usize = 255;

const NODE: &str = "manifest node";

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Where it points, as stored.
        target: Vec<u8>,
    },
    /// Another name of a file of this source.
    Hardlink {
        /// The path of that file's entry.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket: only its name can be restored.
    Socket,
    /// A character device.
    CharDev {
        /// Device number.
        rdev: u64,
    },
    /// A block device.
    BlockDev {
        /// Device number.
        rdev: u64,
    },
}

/// A time of modification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mtime {
    /// Seconds since 1970-01-01 UTC.
    pub secs: i64,
    /// Nanoseconds, below 10^9.
    pub nanos: u32,
}

/// A stretch of a file and where its bytes are. What no extent covers is a hole and reads as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where it starts in the file.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u32,
    /// The frame that holds them.
    pub frame: FrameRef,
    /// Where they start in the frame's plaintext.
    pub within: u32,
}

/// A run of packs of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackSpan {
    /// Their epoch.
    pub epoch: EpochNo,
    /// The first number.
    pub first: u32,
    /// The last number.
    pub last: u32,
}

/// The extents of a file: few lie in the entry, many in a tree of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extents {
    /// Ascending, not overlapping, at most [`MAX_INLINE_EXTENTS`].
    Inline(Vec<Extent>),
    /// A tree of extent nodes.
    Tree {
        /// Its root node.
        root: FrameRef,
        /// How many extents it holds.
        count: u64,
        /// The packs that the tree and the frames under it lie in.
        spans: Vec<PackSpan>,
    },
}

impl Default for Extents {
    fn default() -> Self {
        Self::Inline(Vec::new())
    }
}

/// One file, directory, link or device of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, `/`-separated, no empty, `.` or `..` part, no NUL; raw bytes as the file system has them.
    /// The empty path is the source's top directory itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, set-id and sticky bits included: the low twelve.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification.
    pub mtime: Mtime,
    /// Length of a file; 0 for everything else.
    pub size: u64,
    /// Extended attributes, ACLs included as their raw attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where a file's bytes are; empty for everything else.
    pub extents: Extents,
}

impl Entry {
    /// Checks the rules of the format.
    ///
    /// # Errors
    /// `Malformed` or `TooLarge`.
    pub fn validate(&self) -> Result<(), FormatError> {
        let why = |why| Err(FormatError::malformed("entry", why));
        check_path(&self.path)?;
        match &self.kind {
            EntryKind::Symlink { target }
                if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) =>
            {
                return why("its link target is empty, too long, or holds a NUL");
            }
            EntryKind::Hardlink { target } => {
                check_path(target)?;
                if target.is_empty() || *target == self.path {
                    return why("it is a hard link to itself or to the top directory");
                }
            }
            _ => {}
        }
        if self.path.is_empty() && self.kind != EntryKind::Dir {
            return why("only a directory can be the top of a source");
        }
        if self.mode > 0o7777 || self.mtime.nanos > 999_999_999 {
            return why("its mode or its nanoseconds are out of range");
        }
        let held = self
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>();
        if held > MAX_XATTRS || self.xattrs.len() > MAX_XATTR_NAMES {
            return Err(FormatError::TooLarge {
                what: "extended attributes",
                limit: MAX_XATTRS as u64,
            });
        }
        if self
            .xattrs
            .keys()
            .any(|n| n.is_empty() || n.len() > 255 || n.contains(&0))
        {
            return why("the name of an extended attribute is empty, too long, or holds a NUL");
        }
        if self.size > i64::MAX as u64 {
            return why("its size is out of range");
        }
        if self.kind != EntryKind::File && (self.size != 0 || self.extents != Extents::default()) {
            return why("something that is no file has content");
        }
        match &self.extents {
            Extents::Inline(extents) => {
                if extents.len() > MAX_INLINE_EXTENTS {
                    return why("it has more extents than an entry may hold");
                }
                check_extents(extents, self.size)
            }
            Extents::Tree { root, count, spans } => {
                root.validate()?;
                let ordered = spans.iter().all(|s| s.first <= s.last)
                    && spans.is_sorted_by(|a, b| (a.epoch, a.last) < (b.epoch, b.first));
                if spans.is_empty() || spans.len() > MAX_SPANS || !ordered {
                    return why("its runs of packs are not in order");
                }
                if *count <= MAX_INLINE_EXTENTS as u64 {
                    return why("so few extents belong in the entry");
                }
                Ok(())
            }
        }
    }

    /// Appends the entry's encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.path);
        out.put_u8(self.kind.number())
            .put_u32(self.mode)
            .put_u32(self.uid)
            .put_u32(self.gid);
        out.put_i64(self.mtime.secs)
            .put_u32(self.mtime.nanos)
            .put_u64(self.size);
        match &self.kind {
            EntryKind::Symlink { target } | EntryKind::Hardlink { target } => {
                put_bytes(out, target)
            }
            EntryKind::CharDev { rdev } | EntryKind::BlockDev { rdev } => {
                out.put_u64(*rdev);
            }
            EntryKind::File | EntryKind::Dir | EntryKind::Fifo | EntryKind::Socket => {}
        }
        out.put_u16(self.xattrs.len() as u16);
        for (name, value) in &self.xattrs {
            put_bytes(out, name);
            out.put_u32(value.len() as u32).put(value);
        }
        match &self.extents {
            Extents::Inline(extents) => {
                out.put_u8(0).put_u16(extents.len() as u16);
                for extent in extents {
                    extent.encode(out);
                }
            }
            Extents::Tree { root, count, spans } => {
                out.put_u8(1);
                root.encode(out);
                out.put_u64(*count).put_u8(spans.len() as u8);
                for span in spans {
                    out.put_u32(span.epoch.0)
                        .put_u32(span.first)
                        .put_u32(span.last);
                }
            }
        }
    }

    /// Reads one entry and checks it.
    ///
    /// # Errors
    /// `Malformed`, `TooLarge` or `Unsupported`.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let path = bytes16(r)?;
        let number = r.u8()?;
        let (mode, uid, gid) = (r.u32()?, r.u32()?, r.u32()?);
        let mtime = Mtime {
            secs: r.i64()?,
            nanos: r.u32()?,
        };
        let size = r.u64()?;
        let kind = EntryKind::decode(number, r)?;
        let mut xattrs = BTreeMap::new();
        for _ in 0..r.u16()? {
            let name = bytes16(r)?;
            let len = r.u32()? as usize;
            let value = r.bytes(len)?.to_vec();
            if xattrs
                .last_key_value()
                .is_some_and(|(last, _)| *last >= name)
            {
                return Err(r.malformed("extended attributes are not in order"));
            }
            xattrs.insert(name, value);
        }
        let extents = match r.u8()? {
            0 => {
                let count = r.u16()?;
                Extents::Inline(
                    (0..count)
                        .map(|_| Extent::decode(r))
                        .collect::<Result<_, _>>()?,
                )
            }
            1 => {
                let (root, count) = (FrameRef::decode(r)?, r.u64()?);
                let mut spans = Vec::new();
                for _ in 0..r.u8()? {
                    spans.push(PackSpan {
                        epoch: EpochNo(r.u32()?),
                        first: r.u32()?,
                        last: r.u32()?,
                    });
                }
                Extents::Tree { root, count, spans }
            }
            other => {
                return Err(FormatError::Unsupported {
                    what: "entry",
                    field: "form of extents",
                    found: other.into(),
                });
            }
        };
        let entry = Self {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime,
            size,
            xattrs,
            extents,
        };
        entry.validate()?;
        Ok(entry)
    }
}

impl EntryKind {
    fn number(&self) -> u8 {
        match self {
            Self::File => 0,
            Self::Dir => 1,
            Self::Symlink { .. } => 2,
            Self::Hardlink { .. } => 3,
            Self::Fifo => 4,
            Self::Socket => 5,
            Self::CharDev { .. } => 6,
            Self::BlockDev { .. } => 7,
        }
    }

    fn decode(number: u8, r: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(match number {
            0 => Self::File,
            1 => Self::Dir,
            2 => Self::Symlink {
                target: bytes16(r)?,
            },
            3 => Self::Hardlink {
                target: bytes16(r)?,
            },
            4 => Self::Fifo,
            5 => Self::Socket,
            6 => Self::CharDev { rdev: r.u64()? },
            7 => Self::BlockDev { rdev: r.u64()? },
            other => {
                return Err(FormatError::Unsupported {
                    what: "entry",
                    field: "kind",
                    found: other.into(),
                });
            }
        })
    }
}

impl Extent {
    /// Length of the encoding.
    pub const LEN: usize = 16 + FrameRef::LEN;

    /// The file offset after its last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len.into())
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.offset).put_u32(self.len);
        self.frame.encode(out);
        out.put_u32(self.within);
    }

    /// Reads one; whether it lies in its file and its frame is checked where those are known.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            offset: r.u64()?,
            len: r.u32()?,
            frame: FrameRef::decode(r)?,
            within: r.u32()?,
        })
    }
}

/// Relative, no empty, `.` or `..` part, no NUL; empty for the top directory itself.
fn check_path(path: &[u8]) -> Result<(), FormatError> {
    if path.len() > MAX_PATH {
        return Err(FormatError::TooLarge {
            what: "path",
            limit: MAX_PATH as u64,
        });
    }
    let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..");
    if !path.is_empty() && (path.contains(&0) || path.split(|b| *b == b'/').any(bad)) {
        return Err(FormatError::malformed(
            "path",
            "it is not relative and plain, or holds a NUL",
        ));
    }
    Ok(())
}

/// Ascending, apart, inside the file and inside their frames.
fn check_extents(extents: &[Extent], size: u64) -> Result<(), FormatError> {
    let why = |why| Err(FormatError::malformed("extents", why));
    let mut end = 0;
    for extent in extents {
        extent.frame.validate()?;
        if extent.len == 0 || extent.offset < end || extent.end() > size {
            return why("they are empty, overlap, or leave the file");
        }
        if u64::from(extent.within) + u64::from(extent.len) > extent.frame.plain.into() {
            return why("one leaves its frame");
        }
        end = extent.end();
    }
    Ok(())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Every caller's bytes were bounded by `validate`, far below 2^16.
    out.put_u16(bytes.len() as u16).put(bytes);
}

fn bytes16(r: &mut Reader<'_>) -> Result<Vec<u8>, FormatError> {
    let len = r.u16()?;
    Ok(r.bytes(len.into())?.to_vec())
}

fn text16(r: &mut Reader<'_>) -> Result<String, FormatError> {
    String::from_utf8(bytes16(r)?).map_err(|_| r.malformed("a text is not UTF-8"))
}

/// One source of a version, such as a database cluster or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRoot {
    /// Its kind, such as `postgres` or `tree`.
    pub kind: String,
    /// Its name within the registry.
    pub name: String,
    /// The root node of its entries; `None` when it has none.
    pub tree: Option<FrameRef>,
    /// Facts that its restore needs.
    pub meta: BTreeMap<String, String>,
    /// How many entries it has.
    pub entries: u64,
    /// The sum of its files' sizes.
    pub bytes: u64,
}

/// The root of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The registry.
    pub registry: RegistryId,
    /// The version.
    pub version: VersionNo,
    /// Its sources.
    pub sources: Vec<SourceRoot>,
    /// [`crate::list::PackList::packs_digest`] of the version's list.
    pub packs_digest: Digest,
}

/// A node of the manifest: the plaintext of one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// The root.
    Root(Root),
    /// First path of each child, and the child.
    Inner(Vec<(Vec<u8>, FrameRef)>),
    /// Entries, ascending by path.
    Leaf(Vec<Entry>),
    /// First file offset of each child, and the child.
    ExtentInner(Vec<(u64, FrameRef)>),
    /// Extents of one file, ascending.
    Extents(Vec<Extent>),
}

impl Node {
    /// The node's bytes.
    ///
    /// # Errors
    /// `TooLarge` or `Malformed` if it breaks a rule.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.validate()?;
        let mut out = Vec::new();
        let (number, count) = match self {
            Self::Root(root) => (1, root.sources.len()),
            Self::Inner(children) => (2, children.len()),
            Self::Leaf(entries) => (3, entries.len()),
            Self::ExtentInner(children) => (4, children.len()),
            Self::Extents(extents) => (5, extents.len()),
        };
        out.put_u8(number).put(&[0; 3]).put_u32(count as u32);
        match self {
            Self::Root(root) => {
                out.put_u32(root.registry.number()).put_u32(root.version.0);
                out.put(&root.packs_digest.0);
                root.sources
                    .iter()
                    .for_each(|source| source.encode(&mut out));
            }
            Self::Inner(children) => {
                for (first, at) in children {
                    put_bytes(&mut out, first);
                    at.encode(&mut out);
                }
            }
            Self::Leaf(entries) => entries.iter().for_each(|entry| entry.encode(&mut out)),
            Self::ExtentInner(children) => {
                for (first, at) in children {
                    out.put_u64(*first);
                    at.encode(&mut out);
                }
            }
            Self::Extents(extents) => extents.iter().for_each(|extent| extent.encode(&mut out)),
        }
        if out.len() > MAX_FRAME {
            return Err(FormatError::TooLarge {
                what: NODE,
                limit: MAX_FRAME as u64,
            });
        }
        Ok(out)
    }

    /// Reads a node.
    ///
    /// # Errors
    /// `Malformed`, `TooLarge` or `Unsupported`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(NODE, bytes);
        let number = r.u8()?;
        r.zeros(3)?;
        let count = r.u32()? as usize;
        // The smallest item has 23 bytes: a count that the bytes cannot hold is refused before anything is made.
        if count > bytes.len() / 23 {
            return Err(r.malformed("it counts more items than it holds"));
        }
        let node = match number {
            1 => Self::Root(Root::decode(count, &mut r)?),
            2 => Self::Inner(
                (0..count)
                    .map(|_| Ok((bytes16(&mut r)?, FrameRef::decode(&mut r)?)))
                    .collect::<Result<_, FormatError>>()?,
            ),
            3 => Self::Leaf(
                (0..count)
                    .map(|_| Entry::decode(&mut r))
                    .collect::<Result<_, _>>()?,
            ),
            4 => Self::ExtentInner(
                (0..count)
                    .map(|_| Ok((r.u64()?, FrameRef::decode(&mut r)?)))
                    .collect::<Result<_, FormatError>>()?,
            ),
            5 => Self::Extents(
                (0..count)
                    .map(|_| Extent::decode(&mut r))
                    .collect::<Result<_, _>>()?,
            ),
            other => {
                return Err(FormatError::Unsupported {
                    what: NODE,
                    field: "kind",
                    found: other.into(),
                });
            }
        };
        r.finish()?;
        node.validate()?;
        Ok(node)
    }

    fn validate(&self) -> Result<(), FormatError> {
        let ordered = match self {
            Self::Root(root) => return root.validate(),
            Self::Inner(children) => {
                for (path, at) in children {
                    check_path(path)?;
                    at.validate()?;
                }
                !children.is_empty() && children.is_sorted_by(|a, b| a.0 < b.0)
            }
            Self::Leaf(entries) => {
                entries.iter().try_for_each(Entry::validate)?;
                !entries.is_empty() && entries.is_sorted_by(|a, b| a.path < b.path)
            }
            Self::ExtentInner(children) => {
                children.iter().try_for_each(|(_, at)| at.validate())?;
                !children.is_empty() && children.is_sorted_by(|a, b| a.0 < b.0)
            }
            Self::Extents(extents) => {
                check_extents(extents, i64::MAX as u64)?;
                !extents.is_empty()
            }
        };
        if ordered {
            Ok(())
        } else {
            Err(FormatError::malformed(NODE, "it is empty or not in order"))
        }
    }
}

impl Root {
    fn decode(count: usize, r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let registry = registry(r)?;
        let version = VersionNo(r.u32()?);
        let packs_digest = Digest(r.array()?);
        let sources = (0..count)
            .map(|_| SourceRoot::decode(r))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            registry,
            version,
            sources,
            packs_digest,
        })
    }

    fn validate(&self) -> Result<(), FormatError> {
        if self.sources.len() > MAX_SOURCES {
            return Err(FormatError::TooLarge {
                what: "sources of a version",
                limit: MAX_SOURCES as u64,
            });
        }
        self.sources.iter().try_for_each(SourceRoot::validate)
    }
}

impl SourceRoot {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.kind.as_bytes());
        put_bytes(out, self.name.as_bytes());
        out.put_u64(self.entries).put_u64(self.bytes);
        out.put_u8(self.tree.is_some().into());
        if let Some(tree) = &self.tree {
            tree.encode(out);
        }
        out.put_u16(self.meta.len() as u16);
        for (key, value) in &self.meta {
            put_bytes(out, key.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let (kind, name) = (text16(r)?, text16(r)?);
        let (entries, bytes) = (r.u64()?, r.u64()?);
        let tree = match r.u8()? {
            0 => None,
            1 => Some(FrameRef::decode(r)?),
            other => {
                return Err(FormatError::Unsupported {
                    what: NODE,
                    field: "tree flag",
                    found: other.into(),
                });
            }
        };
        let mut meta = BTreeMap::new();
        for _ in 0..r.u16()? {
            let (key, value) = (text16(r)?, text16(r)?);
            if meta.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(r.malformed("the facts about a source are not in order"));
            }
            meta.insert(key, value);
        }
        Ok(Self {
            kind,
            name,
            tree,
            meta,
            entries,
            bytes,
        })
    }

    fn validate(&self) -> Result<(), FormatError> {
        if self.kind.len() > MAX_NAME || self.name.len() > MAX_NAME {
            return Err(FormatError::TooLarge {
                what: "name of a source",
                limit: MAX_NAME as u64,
            });
        }
        let held = self
            .meta
            .iter()
            .map(|(k, v)| k.len() + v.len() + 4)
            .sum::<usize>();
        if held > MAX_META || self.meta.keys().any(|k| k.is_empty() || k.len() > MAX_NAME) {
            return Err(FormatError::TooLarge {
                what: "facts about a source",
                limit: MAX_META as u64,
            });
        }
        if self.tree.is_none() != (self.entries == 0) {
            return Err(FormatError::malformed(
                NODE,
                "a source has entries exactly if it has a tree",
            ));
        }
        self.tree.as_ref().map_or(Ok(()), FrameRef::validate)
    }
}

#[cfg(test)]
mod tests;
