//! Cuts a stream by its content, so that what is inserted or left out moves no cut but those beside it: a rolling sum
//! over the last 64 bytes (the gear hash of FastCDC, Xia and others, USENIX ATC 2016) ends a stretch where its upper
//! bits are zero.

use std::sync::LazyLock;

use legation_core::pack::MAX_FRAME;

/// No stretch but the last of a file is shorter.
const LEAST: usize = 16 * 1024;
/// None is longer: it is a frame.
const MOST: usize = MAX_FRAME;
/// One place in 2^16 ends a stretch: 80 KiB on average.
const MASK: u64 = 0xffff << 48;
/// How many bytes the sum looks back: each shifts it by a bit.
const REACH: usize = 64;

/// A number for each byte, without a pattern: nothing secret depends on it, cuts are not visible outside sealed frames.
static GEAR: LazyLock<[u64; 256]> = LazyLock::new(|| {
    let mut stream = blake3::Hasher::new_derive_key("legation 2026-11 gear table").finalize_xof();
    std::array::from_fn(|_| {
        let mut number = [0; 8];
        stream.fill(&mut number);
        u64::from_le_bytes(number)
    })
});

/// Where the open stretch stands.
#[derive(Default)]
pub(super) struct Cutter {
    sum: u64,
    len: usize,
}

impl Cutter {
    /// A new stretch begins here whatever came before.
    pub(super) fn restart(&mut self) {
        (self.sum, self.len) = (0, 0);
    }

    /// How many of these bytes belong to the open stretch, and whether they end it.
    pub(super) fn next(&mut self, bytes: &[u8]) -> (usize, bool) {
        // What comes before the first possible end needs no sum, but for what that end looks back on.
        let skip = (LEAST - REACH).saturating_sub(self.len).min(bytes.len());
        let gear = &*GEAR;
        for (i, byte) in bytes.iter().enumerate().skip(skip) {
            self.sum = (self.sum << 1).wrapping_add(gear[usize::from(*byte)]);
            let len = self.len + i + 1;
            if len >= MOST || (len >= LEAST && self.sum & MASK == 0) {
                self.restart();
                return (i + 1, true);
            }
        }
        self.len += bytes.len();
        (bytes.len(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::noise;
    use super::*;

    fn cuts(bytes: &[u8], piece: usize) -> Vec<usize> {
        let (mut cutter, mut ends, mut at) = (Cutter::default(), Vec::new(), 0);
        for part in bytes.chunks(piece) {
            let mut part = part;
            while !part.is_empty() {
                let (take, end) = cutter.next(part);
                at += take;
                part = &part[take..];
                if end {
                    ends.push(at);
                }
            }
        }
        ends
    }

    #[test]
    fn cuts_depend_on_the_content_alone_and_move_with_it() {
        let bytes = noise(8 << 20, 1);
        let ends = cuts(&bytes, 1 << 20);
        assert_eq!(ends, cuts(&bytes, 777), "however it comes");
        let lengths: Vec<usize> = ends.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(lengths.iter().all(|l| (LEAST..=MOST).contains(l)));
        let mean = ends.last().unwrap() / ends.len();
        assert!((50 << 10..120 << 10).contains(&mean), "{mean}");
        // Five bytes more in front: the cuts come back after a few.
        let moved = cuts(&[b"front", &bytes[..]].concat(), 1 << 20);
        let common = ends.iter().filter(|at| moved.contains(&(*at + 5))).count();
        assert!(common + 5 > ends.len(), "{common} of {}", ends.len());
        // What has no pattern to cut by is cut at the most.
        assert_eq!(
            cuts(&vec![0; 1 << 20], 4096),
            [1, 2, 3, 4].map(|n| n * MOST)
        );
    }
}
