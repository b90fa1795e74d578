//! What is sealed with a version beside its data: the catalogue entry, what the version measured and answered, and the
//! same of the versions before it. What speaks against it is found here, by comparison with its own history.
//!
//! The history lies in the spool in clear, as the index of the newest version does: counts and answers, no rows. A lost
//! one begins anew, and says nothing until it has grown again; it is never read from abroad.

use std::path::{Path, PathBuf};
use std::time::Duration;

use legation_core::catalogue::{self, Catalogue};
use legation_core::id::VersionNo;
use legation_core::manifest::MAX_META;
use legation_core::measure::{
    Answer, MAX_ANSWER, MAX_HISTORY_BYTES, Position, Record, judge, read_history, write_history,
};
use legation_registry::postgres::ask::Question;
use legation_repo::durable;

use crate::config::catalogue::LONGEST_QUESTION;
use crate::exit::Failure;

/// A version's fact: its own record, a line.
pub const RECORD_KEY: &str = "record";
/// A version's fact: the records of versions before it, newest first, a line each.
pub const HISTORY_KEY: &str = "history";
/// A version's facts, one for each question that was asked of it: name, expected answer, time and query.
pub const QUESTION_KEY: &str = "invariant.";
/// The file is bounded as the fact is.
const MAX_FILE: u64 = 64 << 10;
/// With less content than this a ratio is noise.
const LEAST_CONTENT: u64 = 16 << 10;

/// What a driver found beside the data.
#[derive(Debug, Default)]
pub struct Found {
    /// Bytes of log since the version before, where there is one.
    pub changed: Option<u64>,
    /// Rows, as far as a database knows.
    pub rows: Option<u64>,
    /// Where in the log the answers hold.
    pub at: Option<Position>,
    /// What the registry's invariants answered.
    pub answers: Vec<Answer>,
}

/// What of a version is measured while it is written.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Entries.
    pub entries: u64,
    /// Bytes of the source.
    pub bytes: u64,
    /// Bytes of files that were read, if there was a version to compare them with.
    pub read: Option<u64>,
    /// What was written of files, and what it came to.
    pub content: legation_repo::writer::Content,
}

/// What a registry seals beside its data.
#[derive(Debug)]
pub struct Vitals {
    catalogue: Catalogue,
    questions: Vec<Question>,
    path: PathBuf,
}

impl Vitals {
    /// Of the registry with this directory in the spool.
    pub fn new(dir: &Path, catalogue: Catalogue, questions: Vec<Question>) -> Vitals {
        Vitals {
            catalogue,
            questions,
            path: dir.join("history.records"),
        }
    }

    /// The records of versions up to the newest committed one, newest first: what was given up since counts for nothing.
    pub fn earlier(&self, committed: Option<VersionNo>) -> Vec<Record> {
        let Ok(bytes) = durable::read_bounded(&self.path, MAX_FILE) else {
            return Vec::new();
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut records = read_history(&text).unwrap_or_else(|why| {
            tracing::warn!("{}: {why}; the history begins anew", self.path.display());
            Vec::new()
        });
        records.retain(|one| committed.is_some_and(|newest| one.version <= newest));
        records
    }

    /// The record of a version, with what speaks against it.
    pub fn record(
        &self,
        (version, captured): (VersionNo, u64),
        measured: Measured,
        found: &mut Found,
        earlier: &[Record],
    ) -> Record {
        let content = measured.content;
        let ratio = content
            .packed
            .saturating_mul(1000)
            .checked_div(content.plain);
        let mut record = Record {
            version,
            captured,
            entries: measured.entries,
            bytes: measured.bytes,
            changed: found.changed.or(measured.read),
            ratio: ratio
                .filter(|_| content.plain >= LEAST_CONTENT)
                .and_then(|ratio| u32::try_from(ratio).ok()),
            rows: found.rows,
            at: found.at,
            flags: Vec::new(),
            answers: std::mem::take(&mut found.answers),
        };
        record.flags = judge(&record, earlier);
        record
    }

    /// The facts to seal, into what `used` leaves of their bound. Of the history the oldest gives way.
    pub fn facts(&self, record: &Record, earlier: &[Record], used: usize) -> Vec<(String, String)> {
        let mut facts = self.catalogue.to_meta();
        for (at, question) in self.questions.iter().enumerate() {
            facts.insert(format!("{QUESTION_KEY}{at:02}"), write_question(question));
        }
        // Long answers give way before the version does.
        let room = MAX_META.saturating_sub(used + catalogue::size(&facts) + RECORD_KEY.len() + 8);
        let line = [MAX_ANSWER, 40, 8]
            .into_iter()
            .map(|most| record.line(most))
            .find(|line| line.len() <= room);
        if let Some(line) = line {
            facts.insert(RECORD_KEY.to_owned(), line);
        }
        let room = MAX_META
            .saturating_sub(used + catalogue::size(&facts) + HISTORY_KEY.len() + 8)
            .min(MAX_HISTORY_BYTES);
        let history = write_history(earlier, room);
        if !history.is_empty() {
            facts.insert(HISTORY_KEY.to_owned(), history);
        }
        facts.into_iter().collect()
    }

    /// Keeps a record for the versions after it. Durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, record: Record, mut earlier: Vec<Record>) -> Result<(), Failure> {
        earlier.insert(0, record);
        let text = write_history(&earlier, MAX_FILE as usize);
        durable::write_atomic(&self.path, text.as_bytes())
            .map_err(|error| Failure::from(error).during("keeping what a version measured"))
    }
}

/// A question as a fact.
fn write_question(question: &Question) -> String {
    let expect = question
        .expect
        .as_ref()
        .map_or_else(|| "-".to_owned(), |answer| format!("={answer}"));
    format!(
        "{}\t{expect}\t{}\t{}",
        question.name,
        question.within.as_millis(),
        question.sql
    )
}

/// Reads a question from a fact; `None` when it is malformed.
pub fn read_question(text: &str) -> Option<Question> {
    let mut fields = text.splitn(4, '\t');
    let name = fields.next()?.to_owned();
    let expect = match fields.next()? {
        "-" => None,
        expect => Some(expect.strip_prefix('=')?.to_owned()),
    };
    let within = Duration::from_millis(fields.next()?.parse().ok()?).min(LONGEST_QUESTION);
    let sql = fields.next()?.to_owned();
    Some(Question {
        name,
        sql,
        expect,
        within,
    })
}
