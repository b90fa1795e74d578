//! The write-ahead log, decoded: bytes are pushed, records are taken. No I/O, and nothing that a byte could say makes it
//! panic or hold more than [`MAX_KEPT`] of a record.
//!
//! [`pages`] finds records across pages and segments and checks them as PostgreSQL's own reader does (`xlogreader.c`);
//! here is what a record says of itself (`xlogrecord.h`): the pages that it touches, in one form for every resource
//! manager. [`xact`] reads what ends or prepares a transaction and the few other records that a restore goes by.

mod bytes;
pub mod pages;
pub mod xact;

use std::fmt;

use legation_core::id::Lsn;

use bytes::Reader;
pub use pages::{Decoder, Source};
pub use xact::{Ending, Event, Kind, Outcome, Prepared};

/// The most bytes of one record that are kept while it is decoded. What a restore goes by is far smaller; records of up to
/// a gigabyte exist, and of those the beginning is kept, which has all their block references, and all is checked.
pub const MAX_KEPT: usize = 16 << 20;
/// `XLR_MAX_BLOCK_ID`: a record refers to at most 33 blocks.
const MAX_BLOCK_ID: u8 = 32;
/// `SizeOfXLogRecord`.
const HEADER: usize = 24;

/// WAL that PostgreSQL would not replay either: the log ends before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub at: Lsn,
    /// What is wrong there.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WAL at {}: {}", self.at, self.why)
    }
}

impl std::error::Error for Broken {}

/// One whole record, its checksum verified.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where it starts: PostgreSQL's `ReadRecPtr`.
    pub start: Lsn,
    /// Where it ends, aligned: PostgreSQL's `EndRecPtr`.
    pub end: Lsn,
    /// The start of the record before it.
    pub prev: Lsn,
    /// The transaction that wrote it; zero for none.
    pub xid: u32,
    /// Its resource manager.
    pub manager: u8,
    /// Flags, of which the upper four are the resource manager's.
    pub info: u8,
    /// Its length, header included.
    pub length: u32,
    /// The major release that wrote it.
    pub major: u32,
    /// Its bytes from the header on, at most [`MAX_KEPT`] of them.
    pub(super) kept: &'a [u8],
}

/// A file of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelFile {
    /// The tablespace's oid.
    pub tablespace: u32,
    /// The database's oid; zero for shared relations.
    pub database: u32,
    /// The number of the file.
    pub relation: u32,
}

/// A page that a record touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRef {
    /// Its number within the record.
    pub id: u8,
    /// Whose page.
    pub file: RelFile,
    /// Which fork: 0 main, 1 free space, 2 visibility, 3 init.
    pub fork: u8,
    /// Which page of the fork.
    pub block: u32,
    /// Whether the record has the whole page.
    pub image: bool,
    /// Whether replay makes the page anew.
    pub init: bool,
}

/// What is in a record.
#[derive(Debug, Clone)]
pub struct Body<'a> {
    /// The pages it touches.
    pub blocks: Vec<BlockRef>,
    /// The transaction above the one that wrote it, if that is a subtransaction and this says so.
    pub top_xid: Option<u32>,
    /// The resource manager's own data; less than all of it if the record is longer than what is kept.
    pub main: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the headers of its parts.
    ///
    /// # Errors
    /// Where they contradict each other, which a checksum does not exclude.
    pub fn body(&self) -> Result<Body<'a>, Broken> {
        self.parts().ok_or_else(|| Broken {
            at: self.start,
            why: "the parts of the record do not fit together".into(),
        })
    }

    fn parts(&self) -> Option<Body<'a>> {
        let mut from = Reader::new(self.kept.get(HEADER..)?);
        let all = (self.length as usize).checked_sub(HEADER)?;
        let mut blocks: Vec<BlockRef> = Vec::new();
        let (mut data, mut main, mut top_xid) = (0usize, 0usize, None);
        // Headers of parts come first; what is left when they are done is the parts themselves.
        while all.checked_sub(from.taken())? > data {
            match from.u8()? {
                255 => main = usize::from(from.u8()?),
                254 => main = usize::try_from(from.u32()?).ok()?,
                253 => {
                    from.u16()?;
                    continue;
                }
                252 => {
                    top_xid = Some(from.u32()?);
                    continue;
                }
                id if id <= MAX_BLOCK_ID && blocks.last().is_none_or(|last| last.id < id) => {
                    let (block, length) = block(&mut from, id, blocks.last())?;
                    blocks.push(block);
                    data = data.checked_add(length)?;
                    continue;
                }
                _ => return None,
            }
            // The header of the main data is the last one.
            data = data.checked_add(main)?;
            break;
        }
        if all.checked_sub(from.taken())? != data {
            return None;
        }
        let before = from.taken().checked_add(data - main)?;
        let rest = self.kept.get(HEADER..)?;
        let main = rest.get(before..).unwrap_or_default();
        Some(Body {
            blocks,
            top_xid,
            main,
        })
    }
}

/// The header of one block reference, and the bytes that follow for it.
fn block(from: &mut Reader<'_>, id: u8, last: Option<&BlockRef>) -> Option<(BlockRef, usize)> {
    const FORK: u8 = 0x0f;
    const HAS_IMAGE: u8 = 0x10;
    const WILL_INIT: u8 = 0x40;
    const SAME_REL: u8 = 0x80;
    const HAS_HOLE: u8 = 0x01;
    const COMPRESSED: u8 = 0x04 | 0x08 | 0x10;
    let flags = from.u8()?;
    let mut length = usize::from(from.u16()?);
    if flags & HAS_IMAGE != 0 {
        length += usize::from(from.u16()?);
        from.u16()?;
        let image = from.u8()?;
        if image & HAS_HOLE != 0 && image & COMPRESSED != 0 {
            from.u16()?;
        }
    }
    let file = if flags & SAME_REL != 0 {
        last?.file
    } else {
        RelFile {
            tablespace: from.u32()?,
            database: from.u32()?,
            relation: from.u32()?,
        }
    };
    let block = BlockRef {
        id,
        file,
        fork: flags & FORK,
        block: from.u32()?,
        image: flags & HAS_IMAGE != 0,
        init: flags & WILL_INIT != 0,
    };
    Some((block, length))
}

#[cfg(test)]
mod tests;
