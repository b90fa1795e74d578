//! Fixed-width little-endian reading and writing (spec/format.md §1).
//! A `Reader` never panics, never allocates by a length it was told, and ends only on the last byte.

use crate::error::FormatError;

/// Takes fields off the front of a byte slice; every error names the object that is being read.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts reading `bytes` as a `what`.
    #[must_use]
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// The bytes not yet taken.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// A `Malformed` error about the object being read.
    #[must_use]
    pub fn malformed(&self, why: &'static str) -> FormatError {
        FormatError::malformed(self.what, why)
    }

    /// Takes `len` bytes.
    ///
    /// # Errors
    /// `Malformed` if fewer are left.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.malformed("it ends too early"));
        };
        self.rest = rest;
        Ok(head)
    }

    /// Takes exactly `N` bytes.
    ///
    /// # Errors
    /// `Malformed` if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.malformed("it ends too early"));
        };
        self.rest = rest;
        Ok(*head)
    }

    /// Takes a byte.
    ///
    /// # Errors
    /// `Malformed` at the end.
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    /// Takes a little-endian u16.
    ///
    /// # Errors
    /// `Malformed` at the end.
    pub fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Takes a little-endian u32.
    ///
    /// # Errors
    /// `Malformed` at the end.
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Takes a little-endian u64.
    ///
    /// # Errors
    /// `Malformed` at the end.
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Takes a little-endian i64.
    ///
    /// # Errors
    /// `Malformed` at the end.
    pub fn i64(&mut self) -> Result<i64, FormatError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Takes `magic`, or refuses the object as another kind.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn magic(&mut self, magic: &[u8; 8]) -> Result<(), FormatError> {
        if self.array::<8>()? != *magic {
            return Err(self.malformed("its first bytes name another kind of object"));
        }
        Ok(())
    }

    /// Takes `len` reserved bytes, which must be zero.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn zeros(&mut self, len: usize) -> Result<(), FormatError> {
        if self.bytes(len)?.iter().any(|b| *b != 0) {
            return Err(self.malformed("reserved or padding bytes are not zero"));
        }
        Ok(())
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// `Malformed` if anything is left.
    pub fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed("bytes follow its end"))
        }
    }

    /// Ends the reading; whatever is left must be zero padding.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn finish_padded(mut self) -> Result<(), FormatError> {
        self.zeros(self.rest.len())
    }
}

/// Puts fixed-width little-endian fields at the end of a buffer.
pub trait Put {
    /// Appends bytes as they are.
    fn put(&mut self, bytes: &[u8]) -> &mut Self;
    /// Appends one byte.
    fn put_u8(&mut self, v: u8) -> &mut Self {
        self.put(&[v])
    }
    /// Appends a little-endian u16.
    fn put_u16(&mut self, v: u16) -> &mut Self {
        self.put(&v.to_le_bytes())
    }
    /// Appends a little-endian u32.
    fn put_u32(&mut self, v: u32) -> &mut Self {
        self.put(&v.to_le_bytes())
    }
    /// Appends a little-endian u64.
    fn put_u64(&mut self, v: u64) -> &mut Self {
        self.put(&v.to_le_bytes())
    }
    /// Appends a little-endian i64.
    fn put_i64(&mut self, v: i64) -> &mut Self {
        self.put(&v.to_le_bytes())
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(char::from(DIGITS[usize::from(b >> 4)]));
        out.push(char::from(DIGITS[usize::from(b & 15)]));
    }
    out
}

/// Reads exactly `N` bytes of lower-case hexadecimal; `None` for anything else.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}
