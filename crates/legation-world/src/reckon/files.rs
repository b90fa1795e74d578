//! The gazette, byte for byte against what its editor kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};
use crate::fixtures::gazette::Tree;
use crate::writers::editions;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct FilesFound {
    /// What is there.
    pub tree: Tree,
    /// Acts published before the capture that must be there.
    pub due: u64,
    /// Those that are, in that wording or a later one, byte for byte.
    pub equal: u64,
    /// Publication time of the youngest edition found, microseconds.
    pub as_of: Option<u64>,
    /// Editions published that are not there: path, time told.
    pub missing: Vec<(PathBuf, u64)>,
    /// What is wrong.
    pub faults: Vec<String>,
}

/// Compares the tree at `root` with what the editor kept at `shadow`. `captured` is the time that the version claims
/// as its own, microseconds: every edition told before it is due.
pub fn gazette(root: &Path, shadow: &Path, captured: u64) -> Result<FilesFound> {
    let mut found = FilesFound::default();
    let all = editions(shadow)?;
    let mut there = BTreeSet::new();
    let mut links = Vec::new();
    walk(root, root, &mut there, &mut links)?;
    for (path, wordings) in &all {
        let due = wordings.iter().rposition(|e| e.told <= captured);
        found.due += u64::from(due.is_some());
        let bytes = if there.contains(path) {
            Some(fs::read(root.join(path)).doing(format_args!("reading {}", path.display()))?)
        } else {
            None
        };
        let mut at = None;
        if let Some(bytes) = &bytes {
            found.tree.files += 1;
            found.tree.bytes += bytes.len() as u64;
            for (i, e) in wordings.iter().enumerate().rev() {
                if &fs::read(&e.copy).doing("reading a kept edition")? == bytes {
                    at = Some(i);
                    break;
                }
            }
            match at {
                None => found.faults.push(format!(
                    "{} is no edition that was ever published",
                    path.display()
                )),
                Some(i) => found.as_of = found.as_of.max(Some(wordings[i].told)),
            }
        }
        match (due, at) {
            (Some(d), Some(i)) if i >= d => found.equal += 1,
            (Some(_), Some(_)) => found
                .faults
                .push(format!("{} is older than the capture", path.display())),
            (Some(_), None) if bytes.is_none() => found
                .faults
                .push(format!("{} is not there", path.display())),
            _ => {}
        }
        let after = at.map_or(0, |i| i + 1);
        found.missing.extend(
            wordings
                .iter()
                .skip(after)
                .filter(|e| e.told > captured)
                .map(|e| (path.clone(), e.told)),
        );
    }
    for path in &there {
        if !all.contains_key(path) {
            found
                .faults
                .push(format!("{} was never published", path.display()));
        }
    }
    let mut kept = Vec::new();
    walk(
        &shadow.join("base"),
        &shadow.join("base"),
        &mut BTreeSet::new(),
        &mut kept,
    )?;
    found.tree.links = links.len() as u64;
    links.sort();
    kept.sort();
    if links != kept {
        found.faults.push(format!(
            "{} links where {} were made, or to other places",
            links.len(),
            kept.len()
        ));
    }
    Ok(found)
}

/// Regular files, and links with their targets, relative to `root`.
fn walk(
    root: &Path,
    dir: &Path,
    files: &mut BTreeSet<PathBuf>,
    links: &mut Vec<(PathBuf, PathBuf)>,
) -> Result<()> {
    for entry in fs::read_dir(dir).doing(format_args!("listing {}", dir.display()))? {
        let entry = entry.doing("listing the gazette")?;
        let path = entry.path();
        let short = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
        let kind = entry.file_type().doing("listing the gazette")?;
        if kind.is_dir() {
            walk(root, &path, files, links)?;
        } else if kind.is_symlink() {
            links.push((short, fs::read_link(&path).doing("reading a link")?));
        } else {
            files.insert(short);
        }
    }
    Ok(())
}
