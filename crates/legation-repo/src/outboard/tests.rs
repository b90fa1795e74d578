use proptest::prelude::*;

use super::*;
use crate::store::conformance::object;

#[test]
fn its_root_is_the_objects_name() {
    for length in [
        65_537,
        131_072,
        131_073,
        262_144,
        1 << 20,
        (1 << 20) + 1,
        16 << 20,
    ] {
        let (digest, bytes) = object(length as u64, length);
        let (found, outboard) = Outboard::of(&bytes);
        let outboard = outboard.unwrap();
        assert_eq!(found, digest);
        let encoded = outboard.encode();
        assert_eq!(encoded.len() as u64, size_for(length as u64));
        assert_eq!(Outboard::parse(&encoded, &digest).unwrap(), outboard);
        assert!(outboard.damage(&bytes).is_empty());
    }
    let (digest, bytes) = object(1, 65_536);
    assert_eq!(Outboard::of(&bytes), (digest, None));
}

#[test]
fn it_locates_damage() {
    let (digest, mut bytes) = object(1, 1 << 20);
    let outboard = Outboard::of(&bytes).1.unwrap();
    bytes[71_204] ^= 1;
    assert_eq!(
        outboard.damage(&bytes).as_slice(),
        std::slice::from_ref(&(65_536..131_072))
    );
    bytes[131_072] ^= 1;
    bytes[(1 << 20) - 1] ^= 1;
    assert_eq!(
        outboard.damage(&bytes),
        [65_536..196_608, 983_040..1_048_576]
    );
    bytes.truncate(900_000);
    assert_eq!(outboard.damage(&bytes).last(), Some(&(851_968..1_048_576)));
    let _ = digest;
}

proptest! {
    #[test]
    fn a_damaged_outboard_is_told(at in 0usize..528, bit in 0u8..8) {
        let (digest, bytes) = object(1, 1 << 20);
        let mut encoded = Outboard::of(&bytes).1.unwrap().encode();
        prop_assert_eq!(encoded.len(), 528);
        encoded[at] ^= 1 << bit;
        prop_assert_eq!(Outboard::parse(&encoded, &digest), Err(BadOutboard));
        encoded.truncate(at);
        prop_assert_eq!(Outboard::parse(&encoded, &digest), Err(BadOutboard));
    }
}
