//! The SSH wire types (RFC 4251 §5), read within bounds.

use super::SshsigError;

const CUT: SshsigError = SshsigError::Malformed("cut short");

/// Reads fields off the front of a slice.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], SshsigError> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(CUT)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, SshsigError> {
        self.take(1)?.first().copied().ok_or(CUT)
    }

    pub(super) fn u32(&mut self) -> Result<u32, SshsigError> {
        self.take(4)?
            .try_into()
            .map(u32::from_be_bytes)
            .map_err(|_| CUT)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], SshsigError> {
        let n = self.u32()?;
        self.take(usize::try_from(n).map_err(|_| CUT)?)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, SshsigError> {
        let bytes = self.string()?;
        if bytes.iter().all(|b| (0x20..0x7F).contains(b)) {
            std::str::from_utf8(bytes).map_err(|_| SshsigError::Malformed("not ASCII"))
        } else {
            Err(SshsigError::Malformed("not ASCII"))
        }
    }

    /// A positive integer in its shortest form, without its leading zero byte.
    pub(super) fn positive(&mut self) -> Result<&'a [u8], SshsigError> {
        const BAD: SshsigError =
            SshsigError::Malformed("an integer is not in its shortest positive form");
        match self.string()? {
            [] => Err(BAD),
            [0, rest @ ..] if rest.first().is_some_and(|b| b & 0x80 != 0) => Ok(rest),
            [first, ..] if *first == 0 || first & 0x80 != 0 => Err(BAD),
            all => Ok(all),
        }
    }

    pub(super) fn end(self) -> Result<(), SshsigError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(SshsigError::Malformed("bytes after the end"))
        }
    }
}

/// Appends a string field.
pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    // Callers pass names, digests and bounded blobs: far below 4 GiB.
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}
