use proptest::prelude::*;

use super::*;
use crate::testing::{refuses_every_change, registry, state};

fn row(epoch: u32, seq: u32) -> ListRow {
    ListRow {
        epoch: EpochNo(epoch),
        seq,
        size: SizeClass::M16,
        digest: Digest([seq as u8; 32]),
    }
}

fn list(rows: &[ListRow]) -> PackList {
    PackList::new(state(), registry(), rows.to_vec()).unwrap()
}

#[test]
fn lists_are_sorted_and_found_in() {
    let l = list(&[row(2, 0), row(1, 5), row(1, 3), row(1, 5)]);
    assert_eq!(l.rows(), [row(1, 3), row(1, 5), row(2, 0)]);
    assert_eq!(l.find(EpochNo(1), 5), Some(&row(1, 5)));
    assert_eq!(l.find(EpochNo(1), 4), None);
    assert_eq!(l.epochs(), [EpochNo(1), EpochNo(2)]);
    assert_eq!(l.bytes(), 3 << 24);
    assert_eq!(PackList::decode(&l.encode()).unwrap(), l);
    assert_eq!(list(&[]).encode().len(), 4096);
    assert_eq!(PackList::decode(&list(&[]).encode()).unwrap(), list(&[]));
}

#[test]
fn one_number_names_one_pack() {
    let other = ListRow {
        digest: Digest([99; 32]),
        ..row(1, 5)
    };
    assert!(PackList::new(state(), registry(), vec![row(1, 5), other]).is_err());
    let small = ListRow {
        size: SizeClass::K16,
        ..row(1, 5)
    };
    assert!(PackList::new(state(), registry(), vec![small]).is_err());
}

#[test]
fn the_root_binds_every_other_pack() {
    let l = list(&[row(1, 3), row(1, 5), row(2, 0)]);
    assert_eq!(
        l.packs_digest((EpochNo(2), 0)),
        list(&[row(1, 3), row(1, 5)]).packs_digest((EpochNo(9), 0))
    );
    assert_ne!(
        l.packs_digest((EpochNo(2), 0)),
        l.packs_digest((EpochNo(1), 5))
    );
}

#[test]
fn the_bound_is_what_fits() {
    assert_eq!(MAX_ROWS, 381_299);
    assert!(HEADER + ROW * MAX_ROWS <= SizeClass::M16.bytes());
    assert!(HEADER + ROW * (MAX_ROWS + 1) > SizeClass::M16.bytes());
}

#[test]
fn no_changed_list_is_read_as_the_same() {
    let l = list(&[row(1, 3), row(1, 5)]);
    // Lists are not sealed: their digest is in the commit. Whatever still parses must differ.
    refuses_every_change(&l.encode(), |bytes| {
        PackList::decode(bytes).is_ok_and(|found| found == l)
    });
    let mut wide = l.encode();
    wide.resize(16384, 0);
    assert!(
        PackList::decode(&wide).is_err(),
        "a larger size than needed"
    );
    for (at, v) in [(8, 2), (10, 2), (12, 1)] {
        let mut bad = l.encode();
        bad[at] = v;
        assert!(PackList::decode(&bad).is_err());
    }
}

proptest! {
    #[test]
    fn lists_round_trip(seqs in proptest::collection::btree_set((1u32..5, any::<u32>()), 0..200)) {
        let rows: Vec<_> = seqs.into_iter().map(|(e, s)| row(e, s)).collect();
        let l = list(&rows);
        let bytes = l.encode();
        prop_assert!(SizeClass::exact(bytes.len() as u64).is_some());
        prop_assert_eq!(PackList::decode(&bytes).unwrap(), l);
    }
}
