use super::*;
use crate::testing::{EPOCH, refuses_every_change, registry, root, state};

#[test]
fn a_released_key_serves_one_order_registry_and_epoch() {
    let session = OpeningKey::from_seed(&[1; 32]).unwrap();
    let context = ReleaseContext {
        state: state(),
        order: Sha256::of(b"order"),
        registry: registry(),
        epoch: EPOCH,
    };
    let sealed = seal(&session.public(), &context, &root(9), &[5; 32]).unwrap();
    assert_eq!(sealed.len(), RELEASED);
    assert_eq!(
        open(&session, &context, &sealed).unwrap().expose(),
        root(9).expose()
    );
    let others = [
        ReleaseContext {
            state: StateId([0; 20]),
            ..context
        },
        ReleaseContext {
            order: Sha256::of(b"other"),
            ..context
        },
        ReleaseContext {
            registry: RegistryId::new(1).unwrap(),
            ..context
        },
        ReleaseContext {
            epoch: EpochNo(5),
            ..context
        },
    ];
    for other in others {
        assert!(open(&session, &other, &sealed).is_err());
    }
    let thief = OpeningKey::from_seed(&[2; 32]).unwrap();
    assert!(open(&thief, &context, &sealed).is_err());
    refuses_every_change(&sealed, |bytes| open(&session, &context, bytes).is_ok());
}
