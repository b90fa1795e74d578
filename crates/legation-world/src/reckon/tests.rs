use super::*;

fn told(tx: i64, lsn: u64) -> Told {
    Told {
        tx,
        kind: "posting".into(),
        rows: 2,
        fact: 7,
        micros: 1000 + tx.unsigned_abs(),
        lsn: Some(lsn),
    }
}

fn found(txs: &[i64]) -> Found {
    let filed = |&tx| {
        (
            tx,
            sql::Filed {
                kind: "posting".into(),
                rows: 2,
                found: 2,
                fact: 7,
            },
        )
    };
    Found {
        filed: txs.iter().map(filed).collect(),
        ..Found::default()
    }
}

fn check(told: &[Told], found: &Found, acknowledged: u64) -> Account {
    account(
        Registry::Treasury,
        told,
        found,
        acknowledged,
        &Fingerprint::new(),
    )
}

#[test]
fn what_was_acknowledged_must_be_there_and_the_rest_is_listed() {
    let journal = [told(1, 10), told(2, 20), told(3, 30)];
    let a = check(&journal, &found(&[1, 2]), 20);
    assert_eq!(
        (a.told, a.found, a.missing.len(), a.faults.len()),
        (2, 2, 1, 0)
    );
    assert_eq!(a.as_of, Some(1002));
    let a = check(&journal, &found(&[1]), 20);
    assert_eq!((a.told, a.found), (2, 1));
    assert!(
        a.faults[0].contains("transaction 2 at 0/14 was acknowledged"),
        "{:?}",
        a.faults
    );
}

#[test]
fn torn_stray_untold_and_holes_are_faults() {
    let journal = [told(1, 10), told(2, 20), told(3, 30)];
    let mut torn = found(&[1, 2, 3]);
    if let Some(f) = torn.filed.get_mut(&2) {
        f.found = 1;
    }
    assert!(!check(&journal, &torn, 0).faults.is_empty());
    assert!(
        !check(&journal, &found(&[1, 3]), 0).faults.is_empty(),
        "a hole"
    );
    assert!(
        check(&journal, &found(&[1, 2, 3, 4]), 0).faults.is_empty(),
        "one may be under way"
    );
    assert!(
        !check(&journal, &found(&[1, 2, 3, 4, 5]), 0)
            .faults
            .is_empty(),
        "two may not"
    );
    let mut stray = found(&[1]);
    stray.stray.push(9);
    assert!(!check(&journal, &stray, 0).faults.is_empty());
}

#[test]
fn a_reference_to_somebody_acknowledged_must_resolve() {
    let birth = |fact, lsn| Told {
        kind: "birth".into(),
        fact,
        ..told(fact, lsn)
    };
    let journal = [birth(100, 10), birth(200, 20)];
    let mut all = BTreeMap::new();
    all.insert(
        Registry::Population,
        Found {
            persons: ["100".to_owned()].into(),
            ..Found::default()
        },
    );
    let references = vec![
        (1, "100".to_owned()),
        (2, "200".to_owned()),
        (3, "300".to_owned()),
    ];
    all.insert(
        Registry::Land,
        Found {
            references,
            ..Found::default()
        },
    );
    let r = super::references(&all, &journal, 15);
    assert_eq!((r.resolved, r.younger.len(), r.lost.len()), (1, 1, 1));
    assert_eq!(super::references(&all, &journal, 25).lost.len(), 2);
}
