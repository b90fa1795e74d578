//! Page checksums recomputed from the files, without the server.
//!
//! The algorithm is PostgreSQL's (`src/include/storage/checksum_impl.h`): 32 FNV-1a-like sums side by side.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};

/// Bytes of a page.
const PAGE: usize = 8192;
/// Pages of one segment file.
const SEGMENT: u32 = 131_072;
/// Looks at a page that does not add up: the server may be writing it.
const LOOKS: usize = 5;

const OFFSETS: [u32; 32] = [
    0x5b1f_36e9,
    0xb852_5960,
    0x02ab_50aa,
    0x1de6_6d2a,
    0x79ff_467a,
    0x9bb9_f8a3,
    0x217e_7cd2,
    0x83e1_3d2c,
    0xf8d4_474f,
    0xe39e_b970,
    0x42c6_ae16,
    0x9932_16fa,
    0x7b09_3b5d,
    0x98da_ff3c,
    0xf718_902a,
    0x0b1c_9cdb,
    0xe58f_764b,
    0x1876_36bc,
    0x5d7b_3bb1,
    0xe73d_e7de,
    0x92be_c979,
    0xcca6_c0b2,
    0x304a_0979,
    0x85aa_43d4,
    0x7831_25bb,
    0x6ca8_eaa2,
    0xe407_eac6,
    0x4b5c_fc3e,
    0x9fbf_8c76,
    0x15ca_20be,
    0xf2ca_9fd3,
    0x959b_d756,
];

/// What a look at a data directory found.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    /// Pages checked; new, empty ones carry no checksum and are not counted.
    pub checked: u64,
    /// Those that do not add up.
    pub bad: Vec<String>,
}

/// The checksum of a page at a block of a relation.
fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = OFFSETS;
    let step = |sum: u32, word: u32| {
        let t = sum ^ word;
        t.wrapping_mul(16_777_619) ^ (t >> 17)
    };
    for (row, words) in page.chunks_exact(128).enumerate() {
        for (j, bytes) in words.chunks_exact(4).enumerate() {
            let mut word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            if row == 0 && j == 2 {
                word &= 0xffff_0000; // the checksum's own place counts as zero
            }
            sums[j] = step(sums[j], word);
        }
    }
    for _ in 0..2 {
        sums.iter_mut().for_each(|s| *s = step(*s, 0));
    }
    let all = sums.iter().fold(0, |a, s| a ^ s) ^ block;
    u16::try_from(all % 65_535 + 1).unwrap_or(u16::MAX)
}

/// Whether a page is right: its checksum is, or it is new.
fn right(page: &[u8], block: u32) -> Option<bool> {
    let upper = u16::from_le_bytes([page[14], page[15]]);
    (upper != 0).then(|| u16::from_le_bytes([page[8], page[9]]) == checksum(page, block))
}

/// Checks all relation files under `base` and `global` of a data directory. `settle` is called before a second look
/// at pages that were being written.
pub fn check_pages(data: &Path, mut settle: impl FnMut() -> Result<()>) -> Result<Pages> {
    settle()?;
    let mut found = Pages::default();
    let mut files = Vec::new();
    for dir in ["base", "global"] {
        relations(&data.join(dir), &mut files)?;
    }
    let mut again = Vec::new();
    for file in &files {
        match check_file(file)? {
            (checked, None) => found.checked += checked,
            (_, Some(_)) => again.push(file),
        }
    }
    for file in again {
        for look in 1..=LOOKS {
            settle()?;
            match check_file(file)? {
                (checked, None) => {
                    found.checked += checked;
                    break;
                }
                (_, Some(block)) if look == LOOKS => {
                    let name = file.strip_prefix(data).unwrap_or(file);
                    found
                        .bad
                        .push(format!("{} page {block}: wrong checksum", name.display()));
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Files named like relations: digits, perhaps a fork, perhaps a segment.
fn relations(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).doing(format_args!("listing {}", dir.display()))? {
        let entry = entry.doing("listing a data directory")?;
        let path = entry.path();
        if entry
            .file_type()
            .doing("listing a data directory")?
            .is_dir()
        {
            relations(&path, into)?;
        } else if entry
            .file_name()
            .to_string_lossy()
            .starts_with(|c: char| c.is_ascii_digit())
        {
            into.push(path);
        }
    }
    Ok(())
}

/// Pages checked, and the first wrong one.
fn check_file(path: &Path) -> Result<(u64, Option<u32>)> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let segment = name
        .rsplit_once('.')
        .and_then(|(_, s)| s.parse::<u32>().ok())
        .unwrap_or(0);
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file
            .read_to_end(&mut bytes)
            .doing(format_args!("reading {}", path.display()))?,
        // Dropped since it was listed.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((0, None)),
        Err(e) => return Err(e).doing(format_args!("opening {}", path.display())),
    };
    let mut checked = 0;
    for (i, page) in bytes.chunks_exact(PAGE).enumerate() {
        let i = u32::try_from(i).unwrap_or(u32::MAX);
        match right(page, segment * SEGMENT + i) {
            Some(true) => checked += 1,
            Some(false) => return Ok((checked, Some(i))),
            None => {}
        }
    }
    Ok((checked, None))
}
