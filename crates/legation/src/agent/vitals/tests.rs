use std::collections::BTreeMap;

use legation_core::measure::Outcome;
use legation_repo::writer::Content;

use super::*;

fn measured(entries: u64) -> Measured {
    Measured {
        entries,
        bytes: entries << 12,
        read: Some(1 << 12),
        content: Content {
            plain: 1 << 20,
            packed: 1 << 18,
        },
    }
}

/// Takes so many versions, of which the log has those up to `committed`.
fn live(
    vitals: &Vitals,
    versions: std::ops::RangeInclusive<u32>,
    committed: u32,
    entries: u64,
) -> Vec<Record> {
    versions
        .map(|n| {
            let earlier = vitals.earlier(Some(VersionNo(committed.min(n - 1))));
            let at = (VersionNo(n), 1000 * u64::from(n));
            let record = vitals.record(at, measured(entries), &mut Found::default(), &earlier);
            vitals.keep(record.clone(), earlier).unwrap();
            record
        })
        .collect()
}

fn versions(records: &[Record]) -> Vec<u32> {
    records.iter().map(|one| one.version.0).collect()
}

#[test]
fn what_was_given_up_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let vitals = Vitals::new(dir.path(), Catalogue::default(), Vec::new());
    assert_eq!(vitals.earlier(Some(VersionNo(9))), []);
    live(&vitals, 1..=5, 5, 1000);
    assert_eq!(
        versions(&vitals.earlier(Some(VersionNo(5)))),
        [5, 4, 3, 2, 1]
    );
    // The fifth was refused: its number is used again, and it is compared with the four before.
    assert_eq!(versions(&vitals.earlier(Some(VersionNo(4)))), [4, 3, 2, 1]);
    let again = live(&vitals, 5..=5, 4, 100);
    assert_eq!(again[0].flags.len(), 1, "{again:?}");
    assert_eq!(
        versions(&vitals.earlier(Some(VersionNo(5)))),
        [5, 4, 3, 2, 1]
    );
    assert_eq!(vitals.earlier(None), []);
    // One that cannot be read begins anew.
    std::fs::write(dir.path().join("history.records"), b"v1 and so on").unwrap();
    assert_eq!(vitals.earlier(Some(VersionNo(5))), []);
}

#[test]
fn facts_keep_to_their_bound_whatever_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let question = |n: usize| Question {
        name: format!("{n:02} {}", "n".repeat(30)),
        sql: "select ".to_owned() + &"x".repeat(80),
        expect: Some("true".into()),
        within: Duration::from_secs(30),
    };
    let questions: Vec<_> = (0..16).map(question).collect();
    let vitals = Vitals::new(dir.path(), Catalogue::default(), questions.clone());
    let answers = questions.iter().map(|one| Answer {
        name: one.name.clone(),
        outcome: Outcome::Broken("y".repeat(MAX_ANSWER)),
    });
    let mut found = Found {
        answers: answers.collect(),
        ..Found::default()
    };
    let mut earlier = live(&vitals, 1..=64, 64, 1000);
    earlier.reverse();
    let record = vitals.record(
        (VersionNo(65), 65_000),
        measured(1000),
        &mut found,
        &earlier,
    );
    for used in [0, 1000, 4000, 8000, 8500] {
        let facts: BTreeMap<_, _> = vitals.facts(&record, &earlier, used).into_iter().collect();
        assert!(catalogue::size(&facts) + used <= MAX_META, "{used}");
        let sealed: Record = facts[RECORD_KEY].parse().unwrap();
        assert_eq!(sealed.answers.len(), 16);
        assert!(sealed.answers.iter().all(|one| one.outcome.is_bad()));
        let history = facts.get(HISTORY_KEY).map_or("", String::as_str);
        let history = read_history(history).unwrap();
        assert_eq!(history[..], earlier[..history.len()]);
        assert!(
            used > 1000 || history.len() > 10,
            "{used}: {}",
            history.len()
        );
        let asked: Vec<_> = (0..16)
            .map(|n| read_question(&facts[&format!("{QUESTION_KEY}{n:02}")]).unwrap())
            .collect();
        assert_eq!(asked, questions);
    }
    for wrong in [
        "",
        "name",
        "name\ttrue\t1\tselect",
        "name\t-\tsoon\tselect",
        "name\t-\t1",
        "na\u{1b}me\t-\t1\tselect",
    ] {
        assert_eq!(read_question(wrong), None, "{wrong:?}");
    }
}
