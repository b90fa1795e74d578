//! Looking for words where they must not be: all at once, in one pass over each file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};

/// Words to look for, each also in hexadecimal.
#[derive(Debug)]
pub struct Search {
    needles: Vec<(String, Vec<u8>)>,
    /// Which first two bytes any needle has.
    begins: Vec<bool>,
}

/// What a search found.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Word and file, for every word found.
    pub hits: Vec<(String, PathBuf)>,
}

impl Search {
    /// A search for these words, which must have two bytes at least.
    pub fn new(words: &[String]) -> Self {
        let mut needles = Vec::new();
        for word in words.iter().filter(|w| w.len() >= 2) {
            let hex: String = word.bytes().map(|b| format!("{b:02x}")).collect();
            for form in [word.clone(), word.to_uppercase(), word.to_lowercase(), hex] {
                if !needles
                    .iter()
                    .any(|(_, n): &(String, Vec<u8>)| n == form.as_bytes())
                {
                    needles.push((word.clone(), form.into_bytes()));
                }
            }
        }
        let mut begins = vec![false; 1 << 16];
        for (_, n) in &needles {
            begins[usize::from(u16::from_be_bytes([n[0], n[1]]))] = true;
        }
        Self { needles, begins }
    }

    /// Words found in some bytes.
    pub fn bytes(&self, bytes: &[u8]) -> Vec<&str> {
        let mut found = Vec::new();
        for (at, pair) in bytes.windows(2).enumerate() {
            if !self.begins[usize::from(u16::from_be_bytes([pair[0], pair[1]]))] {
                continue;
            }
            for (word, needle) in &self.needles {
                if bytes[at..].starts_with(needle) && !found.contains(&word.as_str()) {
                    found.push(word.as_str());
                }
            }
        }
        found
    }

    /// Looks through names and contents of a file, or of all files below a directory.
    pub fn below(&self, path: &Path, seen: &mut Seen) -> Result<()> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let hit = |word: &str| (word.to_owned(), path.to_path_buf());
        seen.hits
            .extend(self.bytes(name.as_bytes()).into_iter().map(hit));
        let kind =
            fs::symlink_metadata(path).doing(format_args!("looking at {}", path.display()))?;
        if kind.is_dir() {
            for entry in fs::read_dir(path).doing(format_args!("listing {}", path.display()))? {
                self.below(&entry.doing("listing a directory")?.path(), seen)?;
            }
        } else if kind.is_file() {
            let bytes = fs::read(path).doing(format_args!("reading {}", path.display()))?;
            seen.files += 1;
            seen.bytes += bytes.len() as u64;
            seen.hits.extend(self.bytes(&bytes).into_iter().map(hit));
        }
        Ok(())
    }
}
