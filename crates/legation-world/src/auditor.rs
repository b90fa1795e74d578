//! A second look at a copied log: entries read from their C2SP bundles and hashed again by RFC 6962, so that what the
//! program says of its log is compared with the log's own bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::error::{Doing, Result, failed};

/// Entries of a full bundle.
const BUNDLE: u64 = 256;
/// Bytes of an Ed25519 signature with the four of its key's hash.
const ED25519: usize = 4 + 64;
/// Bytes of an ML-DSA-44 signature alone.
const ML_DSA_44: usize = 2420;

/// A log as its copy holds it.
#[derive(Debug, Clone, Default)]
pub struct Copied {
    /// Entries that the checkpoint counts.
    pub size: u64,
    /// The text of every entry.
    pub entries: Vec<String>,
    /// Whether the checkpoint carries a signature of Ed25519's length, and one that holds ML-DSA-44's.
    pub signatures: (bool, bool),
}

/// Reads a mirror, and fails unless its entries hash to the root that its checkpoint names.
pub fn read(mirror: &Path) -> Result<Copied> {
    let note =
        fs::read_to_string(mirror.join("checkpoint")).doing("reading the copied checkpoint")?;
    let mut lines = note.lines();
    let (Some(_origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
        return failed("the copied checkpoint is cut short");
    };
    let size: u64 = size
        .parse()
        .ok()
        .doing("reading the size in the checkpoint")?;
    let root = STANDARD
        .decode(root)
        .ok()
        .doing("reading the root in the checkpoint")?;
    let lengths: Vec<usize> = lines
        .filter_map(|l| l.strip_prefix("— ")?.rsplit(' ').next())
        .filter_map(|s| STANDARD.decode(s).ok())
        .map(|s| s.len())
        .collect();
    let mut leaves = Vec::new();
    let mut entries = Vec::new();
    for bundle in 0..size.div_ceil(BUNDLE) {
        let width = (size - bundle * BUNDLE).min(BUNDLE);
        let mut path = format!("tile/entries/{}", numbered(bundle));
        if width < BUNDLE {
            path.push_str(&format!(".p/{width}"));
        }
        let bytes =
            fs::read(mirror.join(&path)).doing(format_args!("reading {path} of the copied log"))?;
        let mut rest = bytes.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some((entry, after)) = after.split_at_checked(length) else {
                return failed(format!("{path} of the copied log is cut short"));
            };
            leaves.push(hash(0, &[entry]));
            entries.push(String::from_utf8_lossy(entry).into_owned());
            rest = after;
        }
    }
    if leaves.len() as u64 != size || tree(&leaves).as_slice() != root {
        return failed(format!(
            "{} entries of the copied log do not hash to the checkpoint's root",
            leaves.len()
        ));
    }
    let signatures = (
        lengths.contains(&ED25519),
        lengths.iter().any(|&l| l > ML_DSA_44 && l < ML_DSA_44 + 64),
    );
    Ok(Copied {
        size,
        entries,
        signatures,
    })
}

impl Copied {
    /// Statements of one kind, each as its fields; a field that repeats keeps its first value.
    pub fn statements(&self, kind: &str) -> Vec<BTreeMap<String, String>> {
        let head = format!("legation/{kind}/v1");
        let of = |entry: &String| {
            let mut lines = entry.lines().skip_while(|l| *l != head);
            lines.next()?;
            let mut fields = BTreeMap::new();
            for line in lines.take_while(|l| !l.is_empty()) {
                if let Some((name, value)) = line.split_once(": ") {
                    fields
                        .entry(name.to_owned())
                        .or_insert_with(|| value.to_owned());
                }
            }
            Some(fields)
        };
        self.entries.iter().filter_map(of).collect()
    }
}

/// A bundle's number in a path: `x001/x234/067`.
fn numbered(mut n: u64) -> String {
    let mut path = format!("{:03}", n % 1000);
    while n >= 1000 {
        n /= 1000;
        path = format!("x{:03}/{path}", n % 1000);
    }
    path
}

fn hash(prefix: u8, parts: &[&[u8]]) -> [u8; 32] {
    let mut h = Sha256::new();
    h.update([prefix]);
    parts.iter().for_each(|p| h.update(p));
    h.finalize().into()
}

/// RFC 6962, 2.1: the left half is the largest power of two below the whole.
fn tree(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest(b"").into(),
        [one] => *one,
        _ => {
            let left = leaves.len().next_power_of_two() / 2;
            hash(1, &[&tree(&leaves[..left]), &tree(&leaves[left..])])
        }
    }
}

#[cfg(test)]
mod tests;
