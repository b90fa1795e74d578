//! The tree of a source's entries: where its nodes end, and which of them the parent version has already.

use std::collections::BTreeMap;

use legation_core::id::Digest;
use legation_core::manifest::{Entry, NODE_TARGET, Node};
use legation_core::pack::FrameRef;
use legation_core::source::SourceResult;
use zeroize::Zeroizing;

use super::VersionWriter;

/// Below this a node is not ended by its content: keeps nodes from becoming many and tiny.
const NODE_LEAST: usize = 8 * 1024;
/// One path in so many ends a node: about 24 KiB of entries of usual size.
const BOUNDARY: u8 = 0x7f;

impl VersionWriter<'_> {
    /// The tree of a source's entries, bottom up; `None` when there are none. A node that the parent version has
    /// with the same content is referred to, not written.
    pub(super) fn tree(
        &mut self,
        entries: &[Entry],
        nodes: &mut BTreeMap<Digest, FrameRef>,
    ) -> SourceResult<Option<FrameRef>> {
        let mut level = Vec::new();
        let mut sizer = Vec::new();
        let sizes: Vec<(usize, bool)> = entries
            .iter()
            .map(|entry| {
                sizer.clear();
                entry.encode(&mut sizer);
                (sizer.len(), boundary(&entry.path))
            })
            .collect();
        let mut rest = entries;
        for count in cut(&sizes) {
            let (leaf, tail) = rest.split_at(count);
            rest = tail;
            let first = leaf[0].path.clone();
            level.push((first, self.node(&Node::Leaf(leaf.to_vec()), nodes)?));
        }
        while level.len() > 1 {
            let sizes: Vec<(usize, bool)> = level
                .iter()
                .map(|(path, _)| (path.len() + 2 + FrameRef::LEN, boundary(path)))
                .collect();
            let mut children = level.into_iter();
            level = Vec::new();
            for count in cut(&sizes) {
                let group: Vec<_> = children.by_ref().take(count).collect();
                level.push((group[0].0.clone(), self.node(&Node::Inner(group), nodes)?));
            }
        }
        Ok(level.pop().map(|(_, at)| at))
    }

    /// Writes a node, or finds it in the parent version.
    fn node(
        &mut self,
        node: &Node,
        nodes: &mut BTreeMap<Digest, FrameRef>,
    ) -> SourceResult<FrameRef> {
        let plain = Zeroizing::new(node.encode()?);
        let digest = Digest::of(&plain);
        let known = self.parent.nodes.get(&digest).copied();
        let at = match known.filter(|at| !self.is_renewed(at)) {
            Some(at) => {
                self.refer(at.epoch, at.seq, at.seq)?;
                at
            }
            None => self.frame(&plain)?,
        };
        nodes.insert(digest, at);
        Ok(at)
    }
}

/// Whether a node may end after this path. Depends on the path alone, so that a change moves no other boundary.
fn boundary(path: &[u8]) -> bool {
    blake3::hash(path).as_bytes()[0] & BOUNDARY == BOUNDARY
}

/// Cuts a sequence of (encoded length, may end here) into nodes: how many items each takes. Every node but the last
/// has two or more, unless a single item fills it, so that each level is shorter than the one below.
pub(super) fn cut(items: &[(usize, bool)]) -> Vec<usize> {
    let mut counts = Vec::new();
    let (mut count, mut len) = (0, 0);
    for (i, (size, may_end)) in items.iter().enumerate() {
        if count > 0 && len + size > NODE_TARGET {
            counts.push(count);
            (count, len) = (0, 0);
        }
        (count, len) = (count + 1, len + size);
        let last = i + 1 == items.len();
        if last || (*may_end && count > 1 && len >= NODE_LEAST) {
            counts.push(count);
            (count, len) = (0, 0);
        }
    }
    counts
}
