//! The decision, example by example. `tests/it/point.rs` compares it with PostgreSQL's own.

use super::*;

/// A log in which record `n` lies from `n * 100` to `n * 100 + 90`; a time `t` is `t` seconds.
fn log(kinds: Vec<Kind>) -> Vec<Event> {
    let event = |(n, kind): (usize, Kind)| Event {
        start: Lsn(n as u64 * 100),
        end: Lsn(n as u64 * 100 + 90),
        kind,
    };
    kinds.into_iter().enumerate().map(event).collect()
}

fn at(seconds: i64) -> PgTime {
    PgTime(0).plus_seconds(seconds)
}

fn end(xid: u32, time: i64, outcome: Outcome) -> Kind {
    Kind::End(Ending {
        xid,
        outcome,
        prepared: false,
        time: at(time),
    })
}

fn commit(xid: u32, time: i64) -> Kind {
    end(xid, time, Outcome::Committed)
}

fn point(name: &str) -> Kind {
    Kind::RestorePoint {
        name: name.into(),
        time: at(0),
    }
}

/// A base that began at 9 s and is consistent from 200 on; then commits whose times are not in order, one that is aborted,
/// and restore points.
fn usual() -> Vec<Event> {
    log(vec![
        Kind::Checkpoint {
            time: at(9),
            timeline: 1,
        },
        commit(1, 10),
        Kind::Other,
        commit(2, 20),
        commit(3, 40),
        commit(4, 30),
        end(5, 50, Outcome::Aborted),
        point("once"),
        commit(6, 50),
        point("twice"),
        Kind::Other,
        commit(7, 60),
        point("twice"),
        Kind::Other,
    ])
}

fn known(protected: Option<i64>) -> Known {
    Known {
        consistent: Lsn(200),
        protected: protected.map(at),
    }
}

/// Where replay ends for this target: the position, or why there is none.
fn stop(point: Point, inclusive: bool, protected: Option<i64>) -> Result<u64, String> {
    let goal = Goal { point, inclusive };
    decide(&goal, known(protected), usual())
        .map(|decision| decision.stop.0)
        .map_err(|why| why.to_string())
}

fn time(seconds: i64) -> Point {
    Point::Time(at(seconds))
}

#[test]
fn a_time_ends_before_the_first_later_commit_in_the_order_of_the_log() {
    // Commit 4, at 30, stands behind commit 3, at 40: PostgreSQL stops before that.
    assert_eq!(stop(time(35), true, None), Ok(390));
    assert_eq!(stop(time(30), true, None), Ok(390));
    assert_eq!(stop(time(40), true, None), Ok(590));
    assert_eq!(stop(time(40), false, None), Ok(390));
    assert_eq!(stop(time(20), true, None), Ok(390));
    assert_eq!(stop(time(20), false, None), Ok(290));
    // An abort counts as a commit does; both that end at 50 are included, or neither.
    assert_eq!(stop(time(50), true, None), Ok(1090));
    assert_eq!(stop(time(50), false, None), Ok(590));
    assert_eq!(stop(time(49), true, None), Ok(590));
}

#[test]
fn a_time_after_the_last_commit_is_the_end_if_the_log_covers_it() {
    assert_eq!(stop(time(60), true, None), Ok(1390));
    assert_eq!(stop(time(75), true, Some(80)), Ok(1390));
    assert_eq!(stop(time(80), false, Some(80)), Ok(1390));
    let late = stop(time(81), true, Some(80)).unwrap_err();
    assert!(
        late.contains("it lies after what is kept")
            && late.contains("(2000-01-01T00:01:20.000000Z)"),
        "{late}"
    );
    assert!(stop(time(61), true, None).is_err());
}

#[test]
fn what_is_before_the_base_takes_an_earlier_version() {
    // Before the commit that came while the base was taken.
    let early = stop(time(5), true, Some(80)).unwrap_err();
    assert_eq!(
        early,
        "time 2000-01-01T00:00:05.000000Z cannot be reached: it lies before this version; this version reaches from 0/C8 \
         (2000-01-01T00:00:10.000000Z) to 0/56E (2000-01-01T00:01:20.000000Z)"
    );
    assert!(
        stop(Point::Xid(1), true, None)
            .unwrap_err()
            .contains("before this version")
    );
    assert!(
        stop(Point::Lsn(Lsn(50)), true, None)
            .unwrap_err()
            .contains("before this version")
    );
    // Nothing was committed while it was taken: PostgreSQL would give the base's end for any earlier time.
    let mut quiet = usual();
    quiet.remove(1);
    let goal = |seconds| Goal {
        point: time(seconds),
        inclusive: true,
    };
    let quiet = |seconds| decide(&goal(seconds), known(None), quiet.clone());
    assert_eq!(quiet(8).unwrap_err().refused, Refused::TooEarly);
    assert_eq!(quiet(9).unwrap_err().refused, Refused::TooEarly);
    assert_eq!(quiet(10).unwrap().stop, Lsn(290));
}

#[test]
fn a_position_ends_after_or_before_the_first_record_that_starts_there_or_later() {
    let lsn = |at| Point::Lsn(Lsn(at));
    assert_eq!(stop(lsn(400), true, None), Ok(490));
    assert_eq!(stop(lsn(400), false, None), Ok(390));
    assert_eq!(stop(lsn(401), true, None), Ok(590));
    assert_eq!(stop(lsn(401), false, None), Ok(490));
    assert_eq!(stop(lsn(200), false, None), Err("before position 0/C8 cannot be reached: it lies before this version; this \
        version reaches from 0/C8 (2000-01-01T00:00:10.000000Z) to 0/56E (2000-01-01T00:01:00.000000Z)".into()));
    // Nothing starts after the last record; up to its end nothing is missing.
    assert_eq!(stop(lsn(1390), true, None), Ok(1390));
    assert!(
        stop(lsn(1391), true, None)
            .unwrap_err()
            .contains("after what is kept")
    );
}

#[test]
fn a_transaction_ends_where_it_commits_or_aborts() {
    assert_eq!(stop(Point::Xid(3), true, None), Ok(490));
    assert_eq!(stop(Point::Xid(3), false, None), Ok(390));
    assert_eq!(stop(Point::Xid(5), true, None), Ok(690));
    let none = stop(Point::Xid(99), true, Some(80)).unwrap_err();
    assert!(
        none.contains("transaction 99 cannot be reached: the log of this version has none"),
        "{none}"
    );
}

#[test]
fn a_name_that_is_there_twice_is_refused_with_both_positions() {
    assert_eq!(stop(Point::Name("once".into()), true, None), Ok(790));
    // A name has no inside to leave out.
    assert_eq!(stop(Point::Name("once".into()), false, None), Ok(790));
    let twice = stop(Point::Name("twice".into()), true, None).unwrap_err();
    assert!(
        twice.contains("it is there 2 times, at 0/384, 0/4B0"),
        "{twice}"
    );
    assert!(
        stop(Point::Name("never".into()), true, None)
            .unwrap_err()
            .contains("has none")
    );
}

#[test]
fn the_decision_says_what_is_replayed_and_what_waits() {
    let prepare = |xid: u32, gid: &str| {
        Kind::Prepare(Prepared {
            xid,
            gid: gid.into(),
            database: 5,
            time: at(12),
        })
    };
    let finish = |xid| {
        Kind::End(Ending {
            xid,
            outcome: Outcome::Committed,
            prepared: true,
            time: at(15),
        })
    };
    let events = log(vec![
        Kind::Other,
        Kind::Other,
        prepare(11, "waits"),
        prepare(12, "ends"),
        finish(12),
        finish(10),
        commit(13, 16),
        commit(14, 17),
        finish(11),
    ]);
    let goal = Goal {
        point: Point::Xid(13),
        inclusive: true,
    };
    let found = decide(&goal, known(None), events).unwrap();
    assert_eq!((found.stop, found.why), (Lsn(690), Why::After));
    assert_eq!((found.commits, found.records), (3, 7));
    assert_eq!(
        found.last.map(|(at, ending)| (at, ending.xid)),
        Some((Lsn(600), 13))
    );
    assert_eq!(
        found
            .prepared
            .iter()
            .map(|one| one.gid.as_str())
            .collect::<Vec<_>>(),
        ["waits"]
    );
    assert_eq!(found.ended, [10]);
}

#[test]
fn moments_are_read_as_people_and_postgresql_write_them() {
    let same = [
        "2026-11-22T09:30:00.104Z",
        "2026-11-22 09:30:00.104+00",
        "2026-11-22 11:30:00.104+02:00",
        "2026-11-22T10:30:00.104000+01",
        "2026-11-22 09:30:00.104 UTC",
    ];
    for text in same {
        let time: PgTime = text.parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-22T09:30:00.104000Z", "{text}");
    }
    assert_eq!("2000-01-01T00:00Z".parse(), Ok(PgTime(0)));
    for text in [
        "09:30",
        "2026-11-22T09:30:00",
        "yesterday",
        "2026-11-22T09:30:00.1234567Z",
        "",
    ] {
        let why = text.parse::<PgTime>().unwrap_err().to_string();
        assert!(
            why.contains("offset from UTC") || why.contains("microsecond"),
            "{why}"
        );
    }
    assert_eq!(PgTime::of_millis(946_684_800_001), Some(PgTime(1000)));
    assert_eq!(PgTime(1001).millis(), Some((946_684_800_001, false)));
}
