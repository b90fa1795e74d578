//! Questions to a database, all answered from one snapshot at a known place of its log: what an agent seals with a
//! version, and what is asked again abroad to see that it is still so.
//!
//! Nothing here writes. A question is one query with one answer; what takes too long, fails, or answers with more, is an
//! error of that question and of no other.

use std::time::Duration;

use legation_core::id::Lsn;
use legation_core::measure::{Answer, MAX_ANSWER, Outcome, Position, plain};

use super::conn::Conn;
use super::probe::column;
use super::url::ConnectConfig;
use crate::{Error, Result};

/// Nothing may be written, and nothing is waited for that somebody holds.
const OPTIONS: &str = " -c default_transaction_read_only=on -c lock_timeout=5s";
/// How often a moment is looked for in which nothing is under way. Each look costs a millisecond; on a busy server none
/// may come, and then the answers lie between two positions.
const LOOKS: u32 = 20;
/// A position at the beginning of a page of log stands behind its header; what is flushed ends before it.
const MAX_PAGE_HEADER: u64 = 40;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What its answer is called.
    pub name: String,
    /// A query of one row; its first column counts.
    pub sql: String,
    /// The answer as text, if another would be wrong.
    pub expect: Option<String>,
    /// How long it may take.
    pub within: Duration,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Where in the log it holds; `None` on a server that is not writing any.
    pub at: Option<Position>,
    /// The answers, in the order of the questions.
    pub answers: Vec<Answer>,
    /// Rows of the user's tables in this database, by its statistics.
    pub rows: Option<u64>,
}

/// Asks everything in one `REPEATABLE READ, READ ONLY` transaction. `stop` is looked at several times a second.
///
/// # Errors
/// When the server is not reached, or loses the transaction.
pub fn ask(
    config: &ConnectConfig,
    questions: &[Question],
    stop: &dyn Fn() -> bool,
) -> Result<Asked> {
    let mut config = config.clone();
    config.options.push_str(OPTIONS);
    let mut conn = Conn::sql(&config)?;
    let at = snapshot(&mut conn)?;
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        answers.push(Answer {
            name: question.name.clone(),
            outcome: one(&mut conn, question, stop)?,
        });
    }
    let rows = rows(&mut conn)?;
    conn.query("rollback")?;
    Ok(Asked { at, answers, rows })
}

/// Begins the transaction, where possible at a moment when nobody writes: then the log up to its position says exactly
/// what the snapshot sees.
fn snapshot(conn: &mut Conn) -> Result<Option<Position>> {
    let recovering = conn.scalar("select pg_is_in_recovery()")?;
    if recovering.as_deref() != Some("f") {
        begin(conn)?;
        return Ok(None);
    }
    let page = conn.scalar("select current_setting('wal_block_size')")?;
    let page = page
        .and_then(|size| size.parse::<u64>().ok())
        .unwrap_or(8192)
        .max(512);
    let mut look = 0;
    loop {
        look += 1;
        let before = lsn(conn.scalar("select pg_current_wal_insert_lsn()")?, page)?;
        // Whose commit is in the log but not yet in snapshots still holds the lock on its number.
        let quiet = conn.scalar(
            "select not exists (select from pg_locks where locktype = 'transactionid' and mode = 'ExclusiveLock')",
        )?;
        begin(conn)?;
        let after = lsn(conn.scalar("select pg_current_wal_insert_lsn()")?, page)?;
        let exact = quiet.as_deref() == Some("t") && before == after;
        if exact || look == LOOKS {
            return Ok(Some(Position {
                before,
                after,
                exact,
            }));
        }
        conn.query("rollback")?;
    }
}

fn begin(conn: &mut Conn) -> Result<()> {
    conn.query("begin isolation level repeatable read read only")
        .map(drop)
}

fn lsn(text: Option<String>, page: u64) -> Result<Lsn> {
    let text = text.unwrap_or_default();
    let at: Lsn = text
        .parse()
        .map_err(|_| Error::malformed("the server's position", text))?;
    let into = at.0 % page;
    Ok(if into <= MAX_PAGE_HEADER {
        Lsn(at.0 - into)
    } else {
        at
    })
}

fn one(conn: &mut Conn, question: &Question, stop: &dyn Fn() -> bool) -> Result<Outcome> {
    conn.query(&format!(
        "savepoint question; set local statement_timeout = {}",
        question.within.as_millis().clamp(1, i32::MAX as u128)
    ))?;
    // As a subquery it is one statement, and the server bounds the answer.
    let sql = question.sql.trim().trim_end_matches(';');
    let asked = conn.query_until(
        &format!(
            "select left(q.answer::text, {}) from (\n{sql}\n) as q(answer) limit 2",
            MAX_ANSWER + 1
        ),
        stop,
    );
    let outcome = match asked {
        Ok(rows) => match rows.as_slice() {
            [row] => match column(row, 0) {
                None => wrong(question, "null"),
                Some(answer) => judged(question, answer),
            },
            [] => Outcome::Error("it answered with no row".into()),
            _ => Outcome::Error("it answered with more than one row".into()),
        },
        Err(Error::Server(error)) if error.severity == "ERROR" => {
            Outcome::Error(plain(&error.message, MAX_ANSWER))
        }
        Err(error) => return Err(error),
    };
    conn.query("rollback to question; release question")?;
    Ok(outcome)
}

fn judged(question: &Question, answer: &str) -> Outcome {
    if answer.len() > MAX_ANSWER {
        return Outcome::Error(format!("its answer is longer than {MAX_ANSWER} bytes"));
    }
    match &question.expect {
        Some(expect) if expect == answer => Outcome::Holds,
        Some(_) => wrong(question, answer),
        None => Outcome::Is(plain(answer, MAX_ANSWER)),
    }
}

fn wrong(question: &Question, answer: &str) -> Outcome {
    match question.expect {
        Some(_) => Outcome::Broken(plain(answer, MAX_ANSWER)),
        None => Outcome::Is(answer.to_owned()),
    }
}

/// Rows of the user's tables, as far as the statistics know. They are counted up from zero again after a crash of the
/// server; then what the last ANALYZE found, less what was deleted since, is nearer.
fn rows(conn: &mut Conn) -> Result<Option<u64>> {
    let found = conn.query(
        "select coalesce(sum(greatest(s.n_live_tup, c.reltuples::bigint - s.n_tup_del, 0)), 0)::bigint \
         from pg_stat_user_tables s join pg_class c on c.oid = s.relid",
    );
    match found {
        Ok(rows) => Ok(rows
            .first()
            .and_then(|row| column(row, 0))
            .and_then(|rows| rows.parse().ok())),
        Err(Error::Server(error)) if error.severity == "ERROR" => {
            tracing::debug!("rows are not counted: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
