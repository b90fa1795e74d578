//! What a version says beside its data, once it is open: its catalogue entry, what it and the versions before it
//! measured and answered, and what it needs of a machine. Home wrote all of it: it tells, and allows nothing.

use std::collections::BTreeMap;

use legation_core::catalogue::Catalogue;
use legation_core::manifest::Root;
use legation_core::measure::{Record, read_history};
use legation_registry::postgres::Facts;
use legation_registry::postgres::ask::Question;
use legation_registry::postgres::needs::Needs;

use crate::agent::vitals::{HISTORY_KEY, QUESTION_KEY, RECORD_KEY, read_question};

/// What was sealed beside the data.
#[derive(Debug, Default)]
pub struct Sealed {
    /// The catalogue entry; none in a version from before there was one.
    pub catalogue: Option<Catalogue>,
    /// What the version measured and answered.
    pub record: Option<Record>,
    /// The same of those before it, newest first.
    pub history: Vec<Record>,
    /// What was asked of it.
    pub questions: Vec<Question>,
    /// What a database needs.
    pub needs: Needs,
    /// The facts of a database.
    pub facts: Option<Facts>,
    /// What could not be read, in words.
    pub malformed: Vec<String>,
}

impl Sealed {
    /// Reads what lies beside the sources of a version.
    pub fn of(root: &Root) -> Self {
        let mut sealed = Self::default();
        for source in &root.sources {
            sealed.read(&source.meta);
        }
        sealed
    }

    fn read(&mut self, meta: &BTreeMap<String, String>) {
        match Catalogue::from_meta(meta) {
            Ok(found) => self.catalogue = found.or(self.catalogue.take()),
            Err(why) => self.malformed.push(why),
        }
        match meta.get(RECORD_KEY).map(|line| line.parse()).transpose() {
            Ok(found) => self.record = found.or(self.record.take()),
            Err(why) => self.malformed.push(why),
        }
        if let Some(text) = meta.get(HISTORY_KEY) {
            match read_history(text) {
                Ok(found) => self.history = found,
                Err(why) => self.malformed.push(why),
            }
        }
        for (key, text) in meta.iter().filter(|(key, _)| key.starts_with(QUESTION_KEY)) {
            match read_question(text) {
                Some(question) => self.questions.push(question),
                None => self.malformed.push(format!("{key} is no question")),
            }
        }
        if let Ok(facts) = Facts::from_meta(meta) {
            self.facts = Some(facts);
            self.needs = Needs::from_meta(meta);
        }
    }

    /// What this machine lacks for it, each with what to do.
    pub fn missing_here(&self) -> Vec<(String, String)> {
        self.facts
            .as_ref()
            .map(|facts| self.needs.missing(facts.major, &facts.locales))
            .unwrap_or_default()
    }

    /// Every record, newest first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.record.iter().chain(&self.history)
    }
}

/// The entry as JSON, for programs.
pub fn json(entry: &Catalogue) -> serde_json::Value {
    serde_json::json!({
        "name": entry.name, "title": entry.title, "owner": entry.owner, "legal_basis": entry.legal_basis,
        "tier": entry.tier, "rpo_ms": entry.rpo_ms, "rto_ms": entry.rto_ms, "retention": entry.retention,
        "secrecy_until": entry.secrecy_until, "wave": entry.wave,
        "depends_on": entry.depends_on.iter().map(|one| serde_json::json!({ "id": one.id, "name": one.name })).collect::<Vec<_>>(),
        "embassies": { "class": entry.classes, "jurisdictions": entry.jurisdictions },
        "software": entry.software.iter().map(|one| serde_json::json!({ "name": one.name, "version": one.version })).collect::<Vec<_>>(),
        "services": entry.services, "runbook": entry.runbook,
    })
}

/// The entry in words, on one line.
pub fn words(entry: &Catalogue) -> String {
    let mut words = Vec::new();
    for part in [&entry.title, &entry.owner, &entry.legal_basis] {
        if !part.is_empty() {
            words.push(part.clone());
        }
    }
    words.push(format!(
        "{} within {}",
        entry.tier,
        crate::config::units::ago(std::time::Duration::from_millis(entry.rto_ms))
    ));
    let names = |list: Vec<&str>, before: &str| {
        (!list.is_empty()).then(|| format!("{before} {}", list.join(", ")))
    };
    words.extend(names(
        entry
            .depends_on
            .iter()
            .map(|one| one.name.as_str())
            .collect(),
        "after",
    ));
    words.extend(names(
        entry.services.iter().map(String::as_str).collect(),
        "services",
    ));
    words.extend((!entry.runbook.is_empty()).then(|| format!("runbook {}", entry.runbook)));
    words.join("; ")
}
