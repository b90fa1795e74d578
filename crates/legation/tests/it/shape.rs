//! What lies in an embassy's store, as its host sees it.

use std::fs;
use std::path::{Path, PathBuf};

use legation_core::journal::FrameHeader;

/// Every file below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}

/// The sizes of spec/format.md.
const TABLE: [u64; 7] = [
    4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216,
];

/// Lists a store and demands that objects and journal frames have the table's sizes only. Returns how many there are.
pub fn only_sizes_of_the_table(store: &Path) -> (usize, usize) {
    let (mut objects, mut frames) = (0, 0);
    for path in files(store) {
        let text = path.to_string_lossy().into_owned();
        let bytes = fs::read(&path).expect("a file");
        if text.contains("/object/") && path.extension().is_none() {
            assert!(
                TABLE.contains(&(bytes.len() as u64)),
                "{text} has {} bytes",
                bytes.len()
            );
            objects += 1;
        } else if text.contains("/journal/") && path.file_name().is_some_and(|n| n.len() == 8) {
            assert!(
                bytes.len() as u64 <= TABLE[6],
                "{text} has {} bytes",
                bytes.len()
            );
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let size = FrameHeader::parse(rest).expect("a frame").size.bytes();
                assert!(
                    TABLE[..4].contains(&(size as u64)),
                    "a frame of {size} bytes in {text}"
                );
                rest = &rest[size..];
                frames += 1;
            }
        }
    }
    (objects, frames)
}
