//! Checksums of relation pages, as the server writes them: damage at home is named while it is captured. Knows no files.
//!
//! A page that was torn while it was read has the same look. The server reads such a page again and is believed: what is
//! found here only says which block it was.

/// `BLCKSZ` of every usual build; others are not checked here.
pub(crate) const PAGE: usize = 8192;
/// Pages of a segment of a relation of 1 GiB.
const PAGES_OF_SEGMENT: u32 = 131_072;
/// Blocks that are remembered: a disk that rots that much needs no longer list.
pub(crate) const MAX_FOUND: usize = 1000;

const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
/// `checksumBaseOffsets` of `src/include/storage/checksum_impl.h`.
const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// A page whose checksum does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// The file, below the data directory.
    pub path: String,
    /// The block, counted through all segments of the relation.
    pub block: u32,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} block {}", self.path, self.block)
    }
}

/// Looks at files as they pass by.
pub(crate) struct Pages {
    /// Pages changed since then are made good by the log, whatever they look like.
    start: u64,
    page: Vec<u8>,
    path: Option<String>,
    block: u32,
    found: Vec<Damage>,
}

impl Pages {
    pub(crate) fn new(start: u64) -> Self {
        Pages {
            start,
            page: Vec::with_capacity(PAGE),
            path: None,
            block: 0,
            found: Vec::new(),
        }
    }

    /// Before the bytes of a file.
    pub(crate) fn begin(&mut self, path: &[u8]) {
        self.page.clear();
        let path = String::from_utf8_lossy(path);
        let segment = segment(&path);
        self.block = segment.unwrap_or(0).saturating_mul(PAGES_OF_SEGMENT);
        self.path = segment.is_some().then(|| path.into_owned());
    }

    pub(crate) fn data(&mut self, mut bytes: &[u8]) {
        let Some(path) = &self.path else { return };
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PAGE - self.page.len()));
            self.page.extend_from_slice(now);
            bytes = later;
            if self.page.len() < PAGE {
                return;
            }
            if !holds(&self.page, self.block, self.start) && self.found.len() < MAX_FOUND {
                self.found.push(Damage {
                    path: path.clone(),
                    block: self.block,
                });
            }
            self.page.clear();
            self.block = self.block.saturating_add(1);
        }
    }

    /// What was found in files that the server complained of too.
    pub(crate) fn confirmed(self, complaints: &[String]) -> Vec<Damage> {
        let names = |path: &str| {
            let whole = |rest: &str| {
                !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || "._".contains(c))
            };
            let mut parts = complaints.iter().filter_map(|text| text.split_once(path));
            parts.any(|(_, rest)| whole(rest))
        };
        self.found
            .into_iter()
            .filter(|damage| names(&damage.path))
            .collect()
    }
}

/// Which segment of a relation a file holds; `None` for what is none.
fn segment(path: &str) -> Option<u32> {
    let (dir, name) = path.rsplit_once('/')?;
    let is_place = ["global", "base/", "pg_tblspc/"]
        .iter()
        .any(|place| dir.starts_with(place));
    if !is_place || !name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    match name.split_once('.') {
        None => Some(0),
        Some((_, number)) => number.parse().ok(),
    }
}

/// Whether nothing is wrong with a page, or the log makes it good.
fn holds(page: &[u8], block: u32, start: u64) -> bool {
    let u16_at = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
    let u32_at = |at: usize| {
        u64::from(u32::from_le_bytes([
            page[at],
            page[at + 1],
            page[at + 2],
            page[at + 3],
        ]))
    };
    // `pd_upper` of a page that was never written to is 0; `pd_lsn` has its high half first.
    let lsn = u32_at(0) << 32 | u32_at(4);
    u16_at(14) == 0 || lsn >= start || checksum(page, block) == u16_at(8)
}

/// `pg_checksum_page`.
fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = OFFSETS;
    let mut add = |lane: usize, value: u32| {
        let mixed = sums[lane] ^ value;
        sums[lane] = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    };
    let (words, _) = page.as_chunks::<4>();
    for (at, word) in words.iter().enumerate() {
        // The checksum itself, in the third word, counts as zero.
        let mut word = *word;
        if at == 2 {
            (word[0], word[1]) = (0, 0);
        }
        add(at % LANES, u32::from_le_bytes(word));
    }
    for _ in 0..2 {
        (0..LANES).for_each(|lane| add(lane, 0));
    }
    let sum = sums.iter().fold(0, |all, one| all ^ one) ^ block;
    // At most 65,535 by the remainder.
    u16::try_from(sum % 65_535 + 1).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Damage, PAGE, Pages, checksum, segment};

    fn page(lsn: u64, block: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..PAGE).map(|at| (at * 7) as u8).collect();
        page[0..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[14..16].copy_from_slice(&100u16.to_le_bytes());
        let sum = checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_page_that_was_changed_since_the_start_is_left_to_the_log() {
        let torn = |lsn: u64| {
            let mut page = page(lsn, 1);
            page[5000] ^= 1;
            page
        };
        let found = |second: Vec<u8>, complaint: &str| {
            let mut pages = Pages::new(1000);
            pages.begin(b"base/5/16384");
            for part in [page(1, 0), second, vec![0; PAGE]].concat().chunks(777) {
                pages.data(part);
            }
            pages.begin(b"base/5/PG_VERSION");
            pages.data(&[9; PAGE]);
            pages.confirmed(&[complaint.to_owned()])
        };
        let damage = Damage {
            path: "base/5/16384".into(),
            block: 1,
        };
        let said = "checksum verification failed in file \"./base/5/16384\", block 1: calculated";
        assert_eq!(found(torn(999), said), [damage]);
        assert_eq!(found(torn(1000), said), []);
        assert_eq!(found(page(999, 1), said), []);
        // The server read it again and found nothing, or spoke of another file.
        assert_eq!(found(torn(999), ""), []);
        assert_eq!(found(torn(999), "in file \"./base/5/163841\", block 1"), []);
        assert_eq!(
            found(torn(999), "in file \"./base/5/16384.1\", block 1"),
            []
        );
    }

    #[test]
    fn blocks_are_counted_through_segments() {
        assert_eq!(segment("base/5/16384.3"), Some(3));
        assert_eq!(segment("base/5/16384_vm"), Some(0));
        assert_eq!(segment("pg_tblspc/7/PG_15_202209061/5/16384"), Some(0));
        assert_eq!(segment("global/1260"), Some(0));
        for other in ["global/pg_control", "pg_xact/0000", "16384", "base/5/t1_2"] {
            assert_eq!(segment(other), None, "{other}");
        }
        let mut pages = Pages::new(1000);
        pages.begin(b"base/5/16384.2");
        pages.data(&page(1, 2 * 131_072));
        pages.data(&page(1, 7));
        let found = pages.confirmed(&["base/5/16384.2\"".into()]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].block, 2 * 131_072 + 1);
    }
}
