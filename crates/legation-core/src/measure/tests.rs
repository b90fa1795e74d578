use super::*;

/// A registry that lived quietly: each version a little larger, a few percent rewritten.
fn quiet(n: u32) -> Vec<Record> {
    let mut all: Vec<Record> = (1..=n)
        .map(|n| Record {
            version: VersionNo(n),
            captured: 1_000 * u64::from(n),
            entries: 1000 + u64::from(n),
            bytes: (100 + u64::from(n)) << 20,
            changed: Some(u64::from(3 + n % 3) << 20),
            ratio: Some(300 + n % 20),
            rows: None,
            ..Record::default()
        })
        .collect();
    all.reverse();
    all
}

fn next(change: impl FnOnce(&mut Record)) -> Record {
    let mut next = quiet(11).remove(0);
    change(&mut next);
    next
}

#[track_caller]
fn check(change: impl FnOnce(&mut Record), expect: &[Flag]) {
    assert_eq!(judge(&next(change), &quiet(10)), expect);
}

#[test]
fn growth_is_no_alarm() {
    check(|_| (), &[]);
    // A third more, all of it scans that do not compress.
    check(
        |r| (r.bytes, r.changed, r.ratio) = (150 << 20, Some(41 << 20), Some(1000)),
        &[],
    );
    // All written anew, as VACUUM FULL does, in content like before.
    check(|r| (r.changed, r.ratio) = (Some(111 << 20), Some(310)), &[]);
    // A few that are rewritten encrypted are somebody's work.
    check(|r| (r.changed, r.ratio) = (Some(9 << 20), Some(1000)), &[]);
    check(|r| r.entries = 800, &[]);
}

#[test]
fn what_is_rewritten_and_does_not_compress_is_flagged() {
    check(
        |r| (r.changed, r.ratio) = (Some(60 << 20), Some(1000)),
        &[Flag::MassEncryption],
    );
    // A database of which a part became random: the whole compresses less than it ever did.
    check(
        |r| (r.changed, r.ratio) = (Some(60 << 20), Some(450)),
        &[Flag::MassEncryption],
    );
    // Renamed as it is encrypted: the same number of files, and the same size.
    check(
        |r| (r.changed, r.ratio) = (Some(111 << 20), Some(1001)),
        &[Flag::MassEncryption],
    );
}

#[test]
fn what_is_gone_is_flagged() {
    check(|r| r.entries = 300, &[Flag::MassDeletion]);
    check(|r| r.bytes = 40 << 20, &[Flag::MassDeletion]);
    let with_rows = |rows: u64| Record {
        rows: Some(rows),
        ..next(|r| r.bytes = 40 << 20)
    };
    let earlier: Vec<_> = quiet(10)
        .into_iter()
        .map(|one| Record {
            rows: Some(90_000),
            ..one
        })
        .collect();
    assert_eq!(
        judge(&with_rows(89_000), &earlier),
        [],
        "its files shrank: it was tidied up"
    );
    assert_eq!(judge(&with_rows(20_000), &earlier), [Flag::MassDeletion]);
}

#[test]
fn too_little_history_says_nothing_but_a_broken_invariant() {
    let odd = next(|r| {
        (r.entries, r.changed, r.ratio) = (0, Some(111 << 20), Some(1000));
    });
    assert_eq!(judge(&odd, &quiet(LEAST as u32 - 1)), []);
    assert_eq!(
        judge(&odd, &quiet(LEAST as u32)),
        [Flag::MassEncryption, Flag::MassDeletion]
    );
    let answer = |outcome| Record {
        answers: vec![Answer {
            name: "balance".into(),
            outcome,
        }],
        ..Record::default()
    };
    assert_eq!(
        judge(&answer(Outcome::Broken("f".into())), &[]),
        [Flag::InvariantBroken]
    );
    assert_eq!(
        judge(&answer(Outcome::Error("no table".into())), &[]),
        [Flag::InvariantBroken]
    );
    assert_eq!(judge(&answer(Outcome::Is("7".into())), &[]), []);
}

#[test]
fn one_odd_version_does_not_make_the_next_usual() {
    let mut earlier = quiet(10);
    earlier.insert(0, next(|r| r.entries = 300));
    assert_eq!(
        judge(
            &next(|r| (r.version, r.entries) = (VersionNo(12), 301)),
            &earlier
        ),
        [Flag::MassDeletion]
    );
}

#[test]
fn sealed_sizes_speak_for_themselves() {
    let usual: Vec<u64> = (0..12).map(|n| (30 + n % 3) << 20).collect();
    assert_eq!(sealed_size_says(33 << 20, &usual), None);
    assert_eq!(sealed_size_says(100 << 20, &usual[..3]), None, "too few");
    let says = sealed_size_says(93 << 20, &usual).unwrap();
    assert!(says.contains("3.0 times the median of the 12"), "{says}");
    assert!(
        sealed_size_says(10 << 20, &usual)
            .unwrap()
            .contains("0.3 times")
    );
}

fn spoken(n: u32) -> Record {
    Record {
        version: VersionNo(n),
        at: Some(Position {
            before: Lsn(0x500_0000),
            after: Lsn(0x500_0060),
            exact: false,
        }),
        flags: vec![Flag::MassDeletion, Flag::InvariantBroken],
        answers: vec![
            Answer {
                name: "areas add up".into(),
                outcome: Outcome::Is("1234.50".into()),
            },
            Answer {
                name: "balance".into(),
                outcome: Outcome::Broken("f".into()),
            },
            Answer {
                name: "old".into(),
                outcome: Outcome::Holds,
            },
        ],
        ..next(|_| ())
    }
}

#[test]
fn records_come_back_as_they_were() {
    for record in [spoken(7), next(|_| ()), Record::default()] {
        assert_eq!(record.line(MAX_ANSWER).parse(), Ok(record));
    }
    let exact = Position {
        before: Lsn(9),
        after: Lsn(9),
        exact: true,
    };
    assert_eq!(exact.to_string().parse(), Ok(exact));
    for wrong in [
        "",
        "v1",
        "v1\t2\t3\t4\t-\t-\t-\t-",
        "v1\t2\t3\t4\t-\t-\t-\t-\todd",
        "v1\t2\t3\t4\t-\t-\t-\t-\t-\tname",
    ] {
        assert!(wrong.parse::<Record>().is_err(), "{wrong:?}");
    }
    let many = format!("v1\t2\t3\t4\t-\t-\t-\t-\t-{}", "\tn\tholds".repeat(17));
    assert!(many.parse::<Record>().unwrap_err().contains("17 answers"));
}

#[test]
fn a_history_keeps_to_its_bound_and_loses_the_oldest() {
    let earlier: Vec<_> = (1..=100).rev().map(spoken).collect();
    let text = write_history(&earlier, MAX_HISTORY_BYTES);
    assert!(text.len() <= MAX_HISTORY_BYTES && text.len() > MAX_HISTORY_BYTES - 200);
    let back = read_history(&text).unwrap();
    assert_eq!(back[..], earlier[..back.len()]);
    let short: Vec<_> = (1..=100)
        .rev()
        .map(|n| Record {
            version: VersionNo(n),
            ..Record::default()
        })
        .collect();
    assert_eq!(
        read_history(&write_history(&short, MAX_HISTORY_BYTES))
            .unwrap()
            .len(),
        MAX_HISTORY
    );
    assert!(read_history(&vec![short[0].line(8); 65].join("\n")).is_err());
}

#[test]
fn an_answer_is_one_short_line() {
    assert_eq!(plain("  a\tb\nc  ", 200), "a b c");
    assert_eq!(plain("ääää", 5), "ää");
}
