//! Inclusion and consistency proofs: RFC 6962 section 2.1 to make them, RFC 9162 section 2.1 to check them.

use super::LogError;
use super::merkle::{Hashes, empty_root, node_hash};
use crate::id::Sha256;

/// Longest proof of either kind that a tree of 2^63 leaves can need; anything longer is refused unread.
pub const MAX_PROOF: usize = 65;

/// The root of the tree of `size` leaves.
pub fn root_at<H: Hashes>(hashes: &H, size: u64) -> Result<Sha256, H::Error> {
    if size == 0 {
        return Ok(empty_root());
    }
    range_root(hashes, 0, size)
}

/// The inclusion proof of leaf `index` in the tree of `size` leaves: sibling hashes from the leaf upwards.
pub fn inclusion<H: Hashes>(hashes: &H, index: u64, size: u64) -> Result<Vec<Sha256>, H::Error> {
    if index >= size {
        return Err(LogError::Range {
            what: "entry",
            asked: index,
            size,
        }
        .into());
    }
    let (mut low, mut high) = (0, size);
    let mut path = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            path.push(range_root(hashes, middle, high)?);
            high = middle;
        } else {
            path.push(range_root(hashes, low, middle)?);
            low = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of `old` leaves is a prefix of the tree of `new` leaves. Empty when `old` is 0 or `new`.
pub fn consistency<H: Hashes>(hashes: &H, old: u64, new: u64) -> Result<Vec<Sha256>, H::Error> {
    if old > new {
        return Err(LogError::Range {
            what: "tree",
            asked: old,
            size: new,
        }
        .into());
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut low, mut high) = (0, new);
    let mut path = Vec::new();
    // While the old tree's right edge lies inside [low, high), the other half is a hash of the proof.
    while old < high {
        let middle = low + split(high - low);
        if old <= middle {
            path.push(range_root(hashes, middle, high)?);
            high = middle;
        } else {
            path.push(range_root(hashes, low, middle)?);
            low = middle;
        }
    }
    // The subtree at the old right edge is known to the checker only when it is the whole old tree.
    if low != 0 {
        path.push(range_root(hashes, low, high)?);
    }
    path.reverse();
    Ok(path)
}

/// Checks that the leaf with hash `leaf` is number `index` of the tree of `size` leaves with root `root`.
pub fn check_inclusion(
    leaf: &Sha256,
    index: u64,
    size: u64,
    proof: &[Sha256],
    root: &Sha256,
) -> Result<(), LogError> {
    const WRONG: LogError = LogError::Proof("inclusion");
    if index >= size {
        return Err(LogError::Range {
            what: "entry",
            asked: index,
            size,
        });
    }
    if proof.len() > MAX_PROOF {
        return Err(WRONG);
    }
    let (mut node_index, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(WRONG);
        }
        if node_index & 1 == 1 || node_index == last {
            hash = node_hash(sibling, &hash);
            while node_index & 1 == 0 && node_index != 0 {
                node_index >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node_index >>= 1;
        last >>= 1;
    }
    if last == 0 && hash == *root {
        Ok(())
    } else {
        Err(WRONG)
    }
}

/// Checks that the tree (`old`, `old_root`) is a prefix of the tree (`new`, `new_root`).
pub fn check_consistency(
    old: u64,
    old_root: &Sha256,
    new: u64,
    new_root: &Sha256,
    proof: &[Sha256],
) -> Result<(), LogError> {
    const WRONG: LogError = LogError::Proof("consistency");
    if old > new {
        return Err(LogError::Shorter {
            held: old,
            offered: new,
        });
    }
    if proof.len() > MAX_PROOF {
        return Err(WRONG);
    }
    if old == new || old == 0 {
        let known = if old == 0 { empty_root() } else { *new_root };
        let same = proof.is_empty() && *old_root == known && (new != 0 || *new_root == known);
        return if same { Ok(()) } else { Err(WRONG) };
    }
    let mut hashes = proof.iter();
    let (mut node_index, mut last) = (old - 1, new - 1);
    while node_index & 1 == 1 {
        node_index >>= 1;
        last >>= 1;
    }
    // A complete old tree is itself the first node, and the proof leaves it out.
    let first = if old.is_power_of_two() {
        *old_root
    } else {
        *hashes.next().ok_or(WRONG)?
    };
    let (mut old_hash, mut new_hash) = (first, first);
    for sibling in hashes {
        if last == 0 {
            return Err(WRONG);
        }
        if node_index & 1 == 1 || node_index == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while node_index & 1 == 0 && node_index != 0 {
                node_index >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        node_index >>= 1;
        last >>= 1;
    }
    if last == 0 && old_hash == *old_root && new_hash == *new_root {
        Ok(())
    } else {
        Err(WRONG)
    }
}

/// The largest power of two below `n`, for `n` of at least 2.
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// `MTH(D[low..high])` where `low` is a multiple of the largest power of two not above `high - low`.
fn range_root<H: Hashes>(hashes: &H, low: u64, high: u64) -> Result<Sha256, H::Error> {
    let length = high - low;
    if length.is_power_of_two() {
        let level = length.trailing_zeros() as u8;
        return hashes.node(level, low >> level);
    }
    let middle = low + split(length);
    let left = range_root(hashes, low, middle)?;
    let right = range_root(hashes, middle, high)?;
    Ok(node_hash(&left, &right))
}
