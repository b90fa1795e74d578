//! The ustar subset that BASE_BACKUP emits, read as a stream. Bounded: at most one header is held. Knows nothing of
//! PostgreSQL beyond that subset; anything else in the stream is an error, never skipped.

use crate::{Error, Result};

const BLOCK: usize = 512;
/// No data directory holds a file larger than a relation segment of this many bytes (the build's limit is 1 GiB by
/// default, 32 TiB at most); a larger claim is damage.
const MAX_FILE: u64 = 32 << 40;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberKind {
    File,
    Dir,
    Symlink(Vec<u8>),
}

/// The head of one archive member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Relative, without "./" and trailing "/".
    pub path: Vec<u8>,
    pub kind: MemberKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub size: u64,
}

/// Receives members as they are read.
pub(crate) trait Members {
    fn begin(&mut self, member: Member) -> Result<()>;
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
    fn end(&mut self) -> Result<()>;
}

enum State {
    /// Collecting a header.
    Header,
    /// Inside a file: position, size.
    Data(u64, u64),
    /// Padding bytes still to skip.
    Pad(usize),
    /// The first zero block was seen: only zeros may follow.
    End,
}

/// The reader: feed it bytes as they come.
pub(crate) struct TarReader {
    state: State,
    header: Vec<u8>,
}

impl TarReader {
    pub(crate) fn new() -> Self {
        TarReader {
            state: State::Header,
            header: Vec::with_capacity(BLOCK),
        }
    }

    /// Consumes `bytes`, calling `members` for what is complete.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], members: &mut dyn Members) -> Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header => {
                    let take = bytes.len().min(BLOCK - self.header.len());
                    self.header.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    if self.header.len() == BLOCK {
                        self.member(members)?;
                        self.header.clear();
                    }
                }
                State::Data(at, size) => {
                    let take = (*size - *at).min(bytes.len() as u64) as usize;
                    members.data(*at, &bytes[..take])?;
                    *at += take as u64;
                    bytes = &bytes[take..];
                    if at == size {
                        let pad = padding(*size);
                        members.end()?;
                        self.state = if pad == 0 {
                            State::Header
                        } else {
                            State::Pad(pad)
                        };
                    }
                }
                State::Pad(left) => {
                    let take = bytes.len().min(*left);
                    bytes = &bytes[take..];
                    *left -= take;
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::End => {
                    if bytes.iter().any(|b| *b != 0) {
                        return Err(bad("bytes after the end of the archive"));
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Says whether the archive ended where an archive may end.
    pub(crate) fn finish(&self) -> Result<()> {
        match self.state {
            State::Header if self.header.is_empty() => Ok(()),
            State::End => Ok(()),
            _ => Err(bad("the archive ends within a member")),
        }
    }

    fn member(&mut self, members: &mut dyn Members) -> Result<()> {
        if self.header.iter().all(|b| *b == 0) {
            self.state = State::End;
            return Ok(());
        }
        let member = parse_header(&self.header)?;
        let size = member.size;
        let is_file = member.kind == MemberKind::File;
        members.begin(member)?;
        if is_file && size > 0 {
            self.state = State::Data(0, size);
        } else {
            members.end()?;
        }
        Ok(())
    }
}

fn padding(size: u64) -> usize {
    (size.next_multiple_of(BLOCK as u64) - size) as usize
}

fn parse_header(h: &[u8]) -> Result<Member> {
    let sum: u64 = h
        .iter()
        .enumerate()
        .map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b }))
        .sum();
    if number(&h[148..156])? != sum {
        return Err(bad("a header's checksum does not match"));
    }
    if &h[257..262] != b"ustar" {
        return Err(bad("a header is not ustar"));
    }
    let mut path = text(&h[..100]).to_vec();
    // PostgreSQL writes no prefix; one that is there must not be lost silently.
    if !text(&h[345..500]).is_empty() {
        return Err(bad("a header uses the prefix field"));
    }
    while path.starts_with(b"./") {
        path.drain(..2);
    }
    while path.last() == Some(&b'/') {
        path.pop();
    }
    if path.is_empty()
        || path
            .split(|b| *b == b'/')
            .any(|part| part.is_empty() || part == b"." || part == b"..")
    {
        return Err(bad("a member's path leaves the data directory"));
    }
    let size = number(&h[124..136])?;
    if size > MAX_FILE {
        return Err(bad("a member claims an impossible size"));
    }
    let (kind, size) = match h[156] {
        b'0' | 0 => (MemberKind::File, size),
        b'5' => (MemberKind::Dir, 0),
        b'2' => (MemberKind::Symlink(text(&h[157..257]).to_vec()), 0),
        other => return Err(bad(&format!("a member of type {:?}", char::from(other)))),
    };
    let small = |range: std::ops::Range<usize>| -> Result<u32> {
        u32::try_from(number(&h[range])?).map_err(|_| bad("a mode or owner is out of range"))
    };
    Ok(Member {
        path,
        kind,
        mode: small(100..108)? & 0o7777,
        uid: small(108..116)?,
        gid: small(116..124)?,
        mtime: i64::try_from(number(&h[136..148])?).map_err(|_| bad("a time is out of range"))?,
        size,
    })
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// An octal number, or base 256 when the first bit is set (files of 8 GiB and more).
fn number(field: &[u8]) -> Result<u64> {
    let out_of_range = || bad("a number does not fit");
    if field[0] & 0x80 != 0 {
        return field.iter().enumerate().try_fold(0u64, |n, (i, b)| {
            let digit = if i == 0 { b & 0x7f } else { *b };
            n.checked_mul(256)
                .and_then(|n| n.checked_add(digit.into()))
                .ok_or_else(out_of_range)
        });
    }
    let digits = field
        .iter()
        .skip_while(|b| **b == b' ')
        .take_while(|b| !matches!(b, 0 | b' '));
    digits.copied().try_fold(0u64, |n, b| {
        if !(b'0'..=b'7').contains(&b) {
            return Err(bad("a number is not octal"));
        }
        n.checked_mul(8)
            .and_then(|n| n.checked_add(u64::from(b - b'0')))
            .ok_or_else(out_of_range)
    })
}

fn bad(detail: &str) -> Error {
    Error::malformed("base backup archive", detail)
}

#[cfg(test)]
mod tests;
