use super::*;
use crate::testing::{EPOCH, registry, root, state};

fn header_1() -> SlipHeader {
    SlipHeader {
        state: state(),
        registry: registry(),
        epoch: EPOCH,
        generation: Generation(1),
    }
}

#[test]
fn slips_open_with_their_vault_only() {
    let vault = OpeningKey::from_seed(&[1; 32]).unwrap();
    let other = OpeningKey::from_seed(&[2; 32]).unwrap();
    let slip = seal(&vault.public(), &header_1(), &root(9), &[5; 32]).unwrap();
    assert_eq!(slip.len(), SLIP);
    assert_eq!(header(&slip).unwrap(), header_1());
    assert_eq!(open(&vault, &slip).unwrap().expose(), root(9).expose());
    assert!(matches!(
        open(&other, &slip),
        Err(FormatError::NotOpened { .. })
    ));
    assert_eq!(
        slip,
        seal(&vault.public(), &header_1(), &root(9), &[5; 32]).unwrap()
    );
    assert_ne!(
        slip,
        seal(&vault.public(), &header_1(), &root(9), &[6; 32]).unwrap()
    );
}

#[test]
fn every_changed_byte_is_refused() {
    let vault = OpeningKey::from_seed(&[1; 32]).unwrap();
    let slip = seal(&vault.public(), &header_1(), &root(9), &[5; 32]).unwrap();
    assert!(slip[HEADER + SEALED..].iter().all(|b| *b == 0));
    let mut bad = slip.clone();
    for at in 0..slip.len() {
        bad[at] ^= 1 << (at % 8);
        assert!(open(&vault, &bad).is_err(), "byte {at}");
        bad[at] = slip[at];
    }
    for len in [0, 47, 48, 1216, 4095] {
        assert!(open(&vault, &slip[..len]).is_err());
    }
    assert!(open(&vault, &[slip.as_slice(), &[0]].concat()).is_err());
}
