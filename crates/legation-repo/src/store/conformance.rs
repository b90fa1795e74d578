//! What every store must do: run by each implementation's tests.

use std::sync::Barrier;

use legation_core::id::Digest;

use super::{Kind, MAX_OBJECT, Put, RetainUntil, Store, StoreError};

/// Bytes of `length`, different for each seed.
pub(crate) fn object(seed: u64, length: usize) -> (Digest, Vec<u8>) {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    (Digest::of(&bytes), bytes)
}

/// Runs the whole suite; `make` returns an empty store each time.
pub(crate) fn suite<S: Store>(make: impl Fn() -> S) {
    gives_back_what_it_took(&make());
    creates_once(&make());
    refuses_what_is_not_the_object(&make());
    keeps_kinds_apart(&make());
    lists_in_order_and_in_pages(&make());
    one_of_many_writers_creates(&make());
}

fn gives_back_what_it_took(store: &impl Store) {
    for (seed, length) in [0usize, 1, 4096, 65_536, 65_537, 1 << 20]
        .into_iter()
        .enumerate()
    {
        let (digest, bytes) = object(seed as u64, length);
        assert!(!store.contains(Kind::Pack, &digest).unwrap());
        store
            .put(Kind::Pack, &digest, &bytes, RetainUntil::FOREVER)
            .unwrap();
        assert_eq!(store.size(Kind::Pack, &digest).unwrap(), length as u64);
        assert_eq!(store.get_whole(Kind::Pack, &digest).unwrap(), bytes);
        let (start, end) = (length / 3, length / 2);
        let part = store
            .get(Kind::Pack, &digest, start as u64..end as u64)
            .unwrap();
        assert_eq!(part, bytes[start..end]);
        let beyond = store.get(Kind::Pack, &digest, 0..length as u64 + 1);
        assert!(matches!(beyond, Err(StoreError::OutOfRange { .. })));
    }
    let (absent, _) = object(99, 5);
    for error in [
        store.get(Kind::Pack, &absent, 0..1).unwrap_err(),
        store.size(Kind::Pack, &absent).unwrap_err(),
        store.get_whole(Kind::Pack, &absent).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    }
}

fn creates_once(store: &impl Store) {
    let (digest, bytes) = object(1, 100_000);
    let put = || {
        store
            .put(Kind::Pack, &digest, &bytes, RetainUntil(5))
            .unwrap()
    };
    assert_eq!(put(), Put::Created);
    assert_eq!(put(), Put::Existing);
}

fn refuses_what_is_not_the_object(store: &impl Store) {
    let (digest, mut bytes) = object(1, 1000);
    bytes[500] ^= 1;
    let error = store
        .put(Kind::Pack, &digest, &bytes, RetainUntil(5))
        .unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert!(!store.contains(Kind::Pack, &digest).unwrap());
    let (digest, bytes) = object(2, MAX_OBJECT as usize + 1);
    let error = store
        .put(Kind::Pack, &digest, &bytes, RetainUntil(5))
        .unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
}

fn keeps_kinds_apart(store: &impl Store) {
    let (digest, bytes) = object(1, 4096);
    store
        .put(Kind::Slip, &digest, &bytes, RetainUntil(5))
        .unwrap();
    assert!(!store.contains(Kind::Pack, &digest).unwrap());
    assert!(store.list(Kind::List, None, 10).unwrap().is_empty());
    assert_eq!(store.list(Kind::Slip, None, 10).unwrap(), [digest]);
}

fn lists_in_order_and_in_pages(store: &impl Store) {
    let mut all = Vec::new();
    for seed in 0..700 {
        let (digest, bytes) = object(seed, 64);
        store
            .put(Kind::Slip, &digest, &bytes, RetainUntil(5))
            .unwrap();
        all.push(digest);
    }
    all.sort();
    let mut seen: Vec<Digest> = Vec::new();
    loop {
        let page = store.list(Kind::Slip, seen.last(), 99).unwrap();
        assert!(page.len() <= 99);
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen, all);
}

fn one_of_many_writers_creates(store: &impl Store) {
    const WRITERS: usize = 8;
    let (digest, bytes) = object(7, 70_000);
    let start = Barrier::new(WRITERS);
    let created = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    store
                        .put(Kind::Pack, &digest, &bytes, RetainUntil(5))
                        .unwrap()
                })
            })
            .collect();
        let results = writers.into_iter().map(|w| w.join().unwrap());
        results.filter(|put| *put == Put::Created).count()
    });
    assert_eq!(created, 1);
    assert_eq!(store.get_whole(Kind::Pack, &digest).unwrap(), bytes);
}
