//! What is asked of a database is answered from one snapshot, bounded, and the same again at that place of its log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use legation_core::measure::Outcome;
use legation_registry::postgres::ask::{Question, ask};
use legation_registry::postgres::needs::Needs;
use legation_registry::postgres::{Plan, Target};

use crate::cluster::{Cluster, restore};

fn question(name: &str, sql: &str, expect: Option<&str>) -> Question {
    Question {
        name: name.into(),
        sql: sql.into(),
        expect: expect.map(str::to_owned),
        within: Duration::from_secs(1),
    }
}

#[test]
fn a_question_has_one_short_answer_and_writes_nothing() {
    let cluster = Cluster::new(&[]);
    cluster.sql("create table ledger as select n as id, case when n % 2 = 0 then n - 1 else -n end as amount from generate_series(1, 1000) n");
    let questions = [
        question(
            "balance",
            "select sum(amount) = 0 from ledger;",
            Some("true"),
        ),
        question(
            "off",
            "select sum(amount) = 7 from ledger -- a remark",
            Some("true"),
        ),
        question("sum", "select count(*) from ledger", None),
        question("null", "select null", Some("true")),
        question("typo", "select count(*) from leger", Some("true")),
        question("many", "select id from ledger", None),
        question("none", "select id from ledger where id < 0", None),
        question("slow", "select pg_sleep(60)", None),
        question("long", "select repeat('x', 100000)", None),
        question(
            "rogue",
            "with gone as (delete from ledger returning 1) select count(*) from gone",
            None,
        ),
        question("two", "select 1; delete from ledger", None),
        question("last", "select count(*) from ledger", Some("1000")),
    ];
    let asked = ask(&cluster.config(), &questions, &|| false).unwrap();
    let outcome = |name: &str| {
        &asked
            .answers
            .iter()
            .find(|one| one.name == name)
            .unwrap()
            .outcome
    };
    assert_eq!(outcome("balance"), &Outcome::Holds);
    assert_eq!(outcome("off"), &Outcome::Broken("false".into()));
    assert_eq!(outcome("sum"), &Outcome::Is("1000".into()));
    assert_eq!(outcome("null"), &Outcome::Broken("null".into()));
    for (name, why) in [
        ("typo", "\"leger\" does not exist"),
        ("many", "more than one row"),
        ("none", "no row"),
        ("slow", "statement timeout"),
        ("long", "longer than 200"),
        ("rogue", "data-modifying"),
        ("two", "syntax error"),
    ] {
        let Outcome::Error(said) = outcome(name) else {
            panic!("{name}: {:?}", outcome(name));
        };
        assert!(said.contains(why), "{name}: {said}");
    }
    assert_eq!(outcome("last"), &Outcome::Holds);
    assert_eq!(cluster.sql("select count(*) from ledger"), "1000");
    assert!(asked.at.unwrap().exact, "nobody else writes: {asked:?}");
}

#[test]
fn the_answer_is_the_same_where_it_was_given() {
    let cluster = Cluster::new(&[]);
    cluster.sql("create table t (id int); insert into t select generate_series(1, 500)");
    let (wal, options) = cluster.begin();
    let receiver = cluster.receive(&wal, options);
    let (sink, facts) = cluster.base();
    let count = [question("count", "select count(*) from t", None)];
    cluster.sql("insert into t select generate_series(1, 7)");
    let asked = ask(&cluster.config(), &count, &|| false).unwrap();
    cluster.sql("insert into t select generate_series(1, 99)");
    wal.wait_for(cluster.lsn());
    wal.halt();
    receiver.join().unwrap().unwrap();
    let at = asked.at.unwrap();
    assert!(at.exact && at.before > facts.stop, "{at:?}");
    let restored = restore(&sink, &wal, Target::Lsn(at.before)).unwrap();
    assert_eq!(asked.answers[0].outcome, Outcome::Is("507".into()));
    assert_eq!(restored.sql("select count(*) from t"), "507");
    let _: &Plan = &restored.plan;
    // Asked again there, it says the same.
    let again = ask(restored.server.config(), &count, &|| false).unwrap();
    assert_eq!(again.answers, asked.answers);
}

#[test]
fn under_writers_the_answer_lies_between_two_positions() {
    let cluster = Cluster::new(&[]);
    cluster.sql("create table t (id int)");
    let stop = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let open = scope.spawn(|| {
            // A transaction that is under way the whole time: nothing is exact beside it.
            let mut conn = legation_registry::postgres::Conn::sql(&cluster.config()).unwrap();
            conn.query("begin; insert into t values (1)").unwrap();
            while !stop.load(Ordering::Relaxed) {
                conn.query("select 1").unwrap();
            }
        });
        let begun =
            || cluster.sql("select count(*) from pg_stat_activity where backend_xid is not null");
        while begun() == "0" {}
        let asked = ask(&cluster.config(), &[], &|| false);
        stop.store(true, Ordering::Relaxed);
        open.join().unwrap();
        asked.unwrap()
    });
    let at = asked.at.unwrap();
    assert!(!at.exact && at.before <= at.after, "{at:?}");
}

#[test]
fn rows_are_counted_also_after_a_crash() {
    let cluster = Cluster::new(&[("autovacuum", "off")]);
    cluster.sql("create table t as select generate_series(1, 5000) as id; analyze t");
    let rows = || {
        ask(&cluster.config(), &[], &|| false)
            .unwrap()
            .rows
            .unwrap()
    };
    let settled = |wanted: &dyn Fn(u64) -> bool| {
        // What a session did is told to the statistics when it ends.
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while !wanted(rows()) {
            assert!(std::time::Instant::now() < until, "{} rows", rows());
        }
    };
    settled(&|rows| rows == 5000);
    cluster.stop("immediate");
    cluster.start();
    settled(&|rows| rows == 5000);
    cluster.sql("delete from t where id > 1000");
    settled(&|rows| rows <= 1000);
}

#[test]
fn extensions_and_libraries_are_named_and_missed() {
    let cluster = Cluster::new(&[]);
    cluster.sql("create extension pgcrypto");
    let found = Needs::of(&cluster.config()).unwrap();
    let version = cluster.sql("select extversion from pg_extension where extname = 'pgcrypto'");
    assert!(
        found.extensions.contains(&format!("pgcrypto {version}")),
        "{found:?}"
    );
    assert!(found.libraries.contains("$libdir/pgcrypto"), "{found:?}");
    assert_eq!(Needs::from_meta(&found.to_meta()), found);
    let (_, facts) = {
        legation_registry::postgres::ensure_slot(&cluster.config(), crate::cluster::SLOT).unwrap();
        cluster.base()
    };
    assert_eq!(found.missing(facts.major, &facts.locales), []);
    let mut more = found.clone();
    more.libraries.insert("$libdir/no_such_library".into());
    let mut elsewhere = facts.clone();
    elsewhere.locales.insert("xx_XX.UTF-8".into());
    let missing = more.missing(elsewhere.major, &elsewhere.locales);
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(
        missing
            .iter()
            .any(|(what, fix)| what.contains("no_such_library") && fix.contains("pgcrypto"))
    );
    assert!(missing.iter().any(|(what, _)| what.contains("xx_XX")));
    elsewhere.major = 99;
    assert!(
        more.missing(elsewhere.major, &elsewhere.locales)
            .iter()
            .any(|(what, _)| what.contains("PostgreSQL 99"))
    );
}
