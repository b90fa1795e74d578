//! The table of object sizes (spec/format.md §3): a host sees one of seven lengths, never a content length.

use crate::error::FormatError;

/// One of the seven sizes: 4 KiB, 16 KiB, 64 KiB, 256 KiB, 1 MiB, 4 MiB, 16 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeClass(u8);

impl SizeClass {
    /// 4 KiB: slips, short journal frames.
    pub const K4: Self = Self(0);
    /// 16 KiB.
    pub const K16: Self = Self(1);
    /// 64 KiB: the smallest pack.
    pub const K64: Self = Self(2);
    /// 256 KiB: the largest journal frame.
    pub const K256: Self = Self(3);
    /// 1 MiB.
    pub const M1: Self = Self(4);
    /// 4 MiB.
    pub const M4: Self = Self(5);
    /// 16 MiB: the usual pack.
    pub const M16: Self = Self(6);

    /// The class by its number on disk, 0 to 6.
    ///
    /// # Errors
    /// `Unsupported` for any other number.
    pub fn from_number(number: u8) -> Result<Self, FormatError> {
        if number > Self::M16.0 {
            return Err(FormatError::Unsupported {
                what: "object",
                field: "size class",
                found: number.into(),
            });
        }
        Ok(Self(number))
    }

    /// The number on disk.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The exact length in bytes: 4096 · 4^class.
    #[must_use]
    pub const fn bytes(self) -> usize {
        4096 << (2 * self.0)
    }

    /// The smallest class that holds `len` bytes; `None` above 16 MiB.
    #[must_use]
    pub fn holding(len: usize) -> Option<Self> {
        (0..=Self::M16.0).map(Self).find(|c| len <= c.bytes())
    }

    /// The class whose length is exactly `len`.
    #[must_use]
    pub fn exact(len: u64) -> Option<Self> {
        (0..=Self::M16.0)
            .map(Self)
            .find(|c| c.bytes() as u64 == len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_table() {
        let all: Vec<usize> = (0..7)
            .map(|n| SizeClass::from_number(n).unwrap().bytes())
            .collect();
        assert_eq!(
            all,
            [
                4096, 16384, 65536, 262_144, 1_048_576, 4_194_304, 16_777_216
            ]
        );
        assert!(SizeClass::from_number(7).is_err());
        assert_eq!(SizeClass::holding(0), Some(SizeClass::K4));
        assert_eq!(SizeClass::holding(4096), Some(SizeClass::K4));
        assert_eq!(SizeClass::holding(4097), Some(SizeClass::K16));
        assert_eq!(SizeClass::holding(16_777_217), None);
        assert_eq!(SizeClass::exact(65536), Some(SizeClass::K64));
        assert_eq!(SizeClass::exact(65537), None);
    }
}
