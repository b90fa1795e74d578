//! What two correct copies of a page may differ in: PostgreSQL's own rules, by which its `wal_consistency_checking`
//! compares a replayed page with the original (`bufmask.c` and the `*_mask` functions of the access methods).

/// Bytes of a page, and of its header.
pub const PAGE: usize = 8192;
const HEADER: usize = 24;

/// How the page of a relation is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Heap,
    Btree,
    Gin,
    Gist,
    Hash,
    Spgist,
    Brin,
}

impl Method {
    /// By the name of the access method in `pg_am`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "heap" => Self::Heap,
            "btree" => Self::Btree,
            "gin" => Self::Gin,
            "gist" => Self::Gist,
            "hash" => Self::Hash,
            "spgist" => Self::Spgist,
            "brin" => Self::Brin,
            _ => return None,
        })
    }
}

fn u16_at(page: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([page[at], page[at + 1]]))
}

fn clear(page: &mut [u8], at: usize, bits: u16) {
    let value = u16_at(page, at) as u16 & !bits;
    page[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn lower(page: &[u8]) -> usize {
    u16_at(page, 12)
}

fn upper(page: &[u8]) -> usize {
    u16_at(page, 14)
}

fn special(page: &[u8]) -> usize {
    u16_at(page, 16)
}

/// Sets to zero what does not count in this page.
pub fn mask(method: Method, block: u32, page: &mut [u8]) {
    assert_eq!(page.len(), PAGE);
    // A page that was added and never used is all zero.
    if page.iter().all(|b| *b == 0) {
        return;
    }
    // Position of the last change, checksum, and the hints of the header: prunable, free line pointers, full, all visible.
    page[..10].fill(0);
    clear(page, 10, 0x0001 | 0x0002 | 0x0004);
    page[20..24].fill(0);
    let at = special(page);
    match method {
        Method::Heap => {
            unused_space(page);
            tuples(block, page);
        }
        Method::Btree => {
            unused_space(page);
            let flags = u16_at(page, at + 12);
            if flags & 4 != 0 {
                content(page);
            } else if flags & 1 != 0 {
                line_pointer_flags(page);
            }
            // BTP_HAS_GARBAGE, BTP_SPLIT_END, and the vacuum cycle.
            clear(page, at + 12, 64 | 32);
            page[at + 14..at + 16].fill(0);
        }
        Method::Gin => {
            if u16_at(page, at + 6) & 4 != 0 {
                content(page);
            } else if lower(page) > HEADER {
                unused_space(page);
            }
        }
        Method::Gist => {
            unused_space(page);
            page[at..at + 8].fill(0);
            // F_FOLLOW_RIGHT and F_HAS_GARBAGE.
            if u16_at(page, at + 12) & 1 != 0 {
                line_pointer_flags(page);
            }
            clear(page, at + 12, 8 | 16);
        }
        Method::Hash => {
            unused_space(page);
            match u16_at(page, at + 12) & 0xf {
                0 => content(page),
                1 | 2 => line_pointer_flags(page),
                _ => {}
            }
            // LH_PAGE_HAS_DEAD_TUPLES.
            clear(page, at + 12, 1 << 7);
        }
        // Behind its magic number the first page has the pages that were used last: a hint that never comes into the log.
        Method::Spgist if block == 0 => page[HEADER + 4..at].fill(0),
        Method::Spgist => {
            if lower(page) >= HEADER {
                unused_space(page);
            }
        }
        Method::Brin => {
            let kind = u16_at(page, at + 6);
            if kind == 0xf093 || (kind == 0xf091 && lower(page) > HEADER) {
                unused_space(page);
            }
            // BRIN_EVACUATE_PAGE.
            clear(page, at + 4, 1);
        }
    }
}

fn unused_space(page: &mut [u8]) {
    let (lower, upper, special) = (lower(page), upper(page), special(page));
    assert!(
        HEADER <= lower && lower <= upper && upper <= special && special <= PAGE,
        "no page: {lower} {upper} {special}"
    );
    page[lower..upper].fill(0);
}

/// A page that will be made anew before it is used: nothing in it counts.
fn content(page: &mut [u8]) {
    page[HEADER..].fill(0);
    page[12..16].fill(0);
}

/// Each line pointer's place, with offset, flags and length.
fn line_pointers(page: &[u8]) -> Vec<(usize, usize, u32, usize)> {
    (HEADER..lower(page))
        .step_by(4)
        .map(|at| {
            let raw = u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
            (
                at,
                (raw & 0x7fff) as usize,
                raw >> 15 & 3,
                (raw >> 17) as usize,
            )
        })
        .collect()
}

fn line_pointer_flags(page: &mut [u8]) {
    for (at, _, _, _) in line_pointers(page) {
        let raw = u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        page[at..at + 4].copy_from_slice(&(raw & !(3 << 15)).to_le_bytes());
    }
}

fn tuples(block: u32, page: &mut [u8]) {
    const NORMAL: u32 = 1;
    for (n, (_, offset, flags, length)) in line_pointers(page).into_iter().enumerate() {
        if flags == NORMAL {
            // Hints of xmin and xmax; where xmin is frozen its bits are no hint.
            let frozen = u16_at(page, offset + 20) & 0x300 == 0x300;
            clear(
                page,
                offset + 20,
                if frozen { 0x0800 | 0x0400 } else { 0xfff0 },
            );
            // The command's number.
            page[offset + 8..offset + 12].fill(0);
            // A speculative insertion's token stands where the tuple's own place does after replay.
            if u16_at(page, offset + 16) == 0xfffe {
                page[offset + 12..offset + 14]
                    .copy_from_slice(&((block >> 16) as u16).to_le_bytes());
                page[offset + 14..offset + 16].copy_from_slice(&(block as u16).to_le_bytes());
                page[offset + 16..offset + 18].copy_from_slice(&(n as u16 + 1).to_le_bytes());
            }
        }
        if length > 0 {
            let end = offset + length;
            page[end..end.next_multiple_of(8)].fill(0);
        }
    }
}

/// The masks hide nothing that counts, and all that does not.
#[test]
fn a_heap_page_is_masked_where_it_may_differ_and_nowhere_else() {
    let mut page = vec![0u8; PAGE];
    let put = |page: &mut Vec<u8>, at: usize, value: u16| {
        page[at..at + 2].copy_from_slice(&value.to_le_bytes());
    };
    let offset = PAGE - 40;
    put(&mut page, 12, 28);
    put(&mut page, 14, offset as u16);
    put(&mut page, 16, PAGE as u16);
    page[24..28].copy_from_slice(&((offset as u32) | 1 << 15 | 37 << 17).to_le_bytes());
    page[offset..].fill(0x11);
    put(&mut page, offset + 20, 0x0902);
    let mut original = page.clone();
    mask(Method::Heap, 0, &mut original);
    // Position, checksum, header's hints, unused space, hints, command, padding.
    for at in [0, 8, 20, 100, offset + 8, offset + 37] {
        let mut other = page.clone();
        other[at] ^= 0x5a;
        mask(Method::Heap, 0, &mut other);
        assert!(other == original, "byte {at} counts");
    }
    let mut hinted = page.clone();
    put(&mut hinted, offset + 20, 0x0502);
    mask(Method::Heap, 0, &mut hinted);
    assert!(hinted == original, "hints count");
    // The pointers, who wrote and deleted, the place, the attributes, the data.
    for (at, bit) in [
        (12, 4),
        (24, 8),
        (offset, 4),
        (offset + 4, 4),
        (offset + 12, 4),
        (offset + 18, 4),
        (offset + 22, 4),
        (offset + 36, 4),
    ] {
        let mut other = page.clone();
        other[at] ^= bit;
        mask(Method::Heap, 0, &mut other);
        assert!(other != original, "byte {at} does not count");
    }
}
