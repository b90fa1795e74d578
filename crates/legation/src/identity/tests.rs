use super::{Card, Identity, Role, card_path};

#[test]
fn an_identity_comes_back_as_it_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    for role in [Role::Agent, Role::Embassy, Role::Client] {
        let path = dir.path().join(role.word());
        let identity = Identity::create(role).unwrap();
        let card = identity.card().unwrap();
        assert_eq!(identity.save(&path, &card).unwrap(), card_path(&path));
        assert_eq!(Card::load(&card_path(&path)).unwrap(), card);
        let again = Identity::load(&path, role).unwrap();
        assert_eq!(again.card().unwrap(), card);
        assert_eq!(again.secret, identity.secret);
    }
}

#[test]
fn an_identity_is_never_overwritten_nor_taken_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let identity = Identity::create(Role::Client).unwrap();
    let card = identity.card().unwrap();
    identity.save(&path, &card).unwrap();
    assert!(identity.save(&path, &card).unwrap_err().hint.is_some());
    assert_eq!(
        Identity::load(&path, Role::Agent).unwrap_err().code as u8,
        12
    );
    assert_eq!(format!("{identity:?}"), "Identity(client)");
}

#[test]
fn cards_with_anything_more_or_less_are_no_cards() {
    let text = Identity::create(Role::Embassy)
        .unwrap()
        .card()
        .unwrap()
        .text();
    assert!(Card::parse(&text).is_some());
    assert!(Card::parse(&format!("{text}more: 1\n")).is_none());
    assert!(Card::parse(&text.replace("role: embassy", "role: king")).is_none());
}
