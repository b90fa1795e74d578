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

#[test]
fn the_clear_part_is_read_and_nothing_else() {
    let head = ReleaseHead {
        state: state(),
        order: "2026-11-22-7f2c91d0".parse().unwrap(),
        statement: Sha256([2; 32]),
        recipient: Sha256([3; 32]),
    };
    let text = format!("{head}annex: what is sealed\n");
    let (read, at) = ReleaseHead::read(text.as_bytes()).unwrap();
    assert_eq!(read, head);
    assert_eq!(&text[at..], "annex: what is sealed\n");
    // Any line cut short, missing or of another name is no clear part.
    for cut in 0..at {
        assert!(ReleaseHead::read(&text.as_bytes()[..cut]).is_err(), "{cut}");
    }
    for (from, to) in [
        ("released/v1", "released/v2"),
        ("state: ", "State: "),
        ("order: 2026", "order: x026"),
        ("statement: ", "statement:  "),
        ("recipient: ", "recipient: g"),
    ] {
        assert!(text.contains(from));
        assert!(
            ReleaseHead::read(text.replace(from, to).as_bytes()).is_err(),
            "{from}"
        );
    }
    let mut long = text.into_bytes();
    long.resize(MAX_RELEASE + 1, b'\n');
    assert!(ReleaseHead::read(&long).is_err());
}
