use super::*;
use crate::store::conformance::{object, suite};

#[test]
fn conforms() {
    suite(MemoryStore::new);
}

#[test]
fn is_full_at_its_capacity() {
    let store = MemoryStore::with_capacity(5000);
    let (digest, bytes) = object(1, 4096);
    store
        .put(Kind::Slip, &digest, &bytes, RetainUntil(1))
        .unwrap();
    let (other, more) = object(2, 4096);
    let error = store
        .put(Kind::Slip, &other, &more, RetainUntil(1))
        .unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert_eq!(
        store
            .put(Kind::Slip, &digest, &bytes, RetainUntil(1))
            .unwrap(),
        Put::Existing
    );
}
