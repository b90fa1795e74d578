//! What `agent.toml` says of a registry beside its sources: checked against itself and against the mandate, and made
//! into the catalogue entry that is sealed with each version.

use std::time::Duration;

use legation_core::catalogue::{Catalogue, Dependency, Software, start_order};
use legation_core::id::RegistryId;
use legation_core::measure::{MAX_INVARIANTS, MAX_NAME};
use legation_core::statement::{Mandate, RegistryRow};
use legation_registry::postgres::ask::Question;

use super::agent::{Registry, Source, Tier};
use crate::exit::{Code, Failure};

/// A question that takes longer holds back the tidying up of the database at home.
pub const LONGEST_QUESTION: Duration = Duration::from_secs(600);
/// All questions of a registry, with their names and expected answers: they are sealed with each version, so that they
/// can be asked again abroad, and share its facts with the rest.
const MOST_ASKED: usize = 2048;

impl Registry {
    /// The catalogue fields that nobody has filled in yet.
    pub fn empty_fields(&self) -> Vec<&'static str> {
        let start = self.start.as_ref();
        let is_database = self
            .source
            .iter()
            .any(|source| matches!(source, Source::Postgres(_)));
        let fields = [
            ("title", self.title.is_empty()),
            ("owner", self.owner.is_empty()),
            ("legal_basis", self.legal_basis.is_empty()),
            ("secrecy_until", self.secrecy_until.is_none()),
            ("wave", self.wave == 0),
            ("embassies", self.embassies.is_none()),
            (
                "start.probe",
                is_database && start.is_none_or(|start| start.probe.is_none()),
            ),
            (
                "start.invariant",
                is_database && start.is_none_or(|start| start.invariant.is_empty()),
            ),
            (
                "start.software",
                start.is_none_or(|start| start.software.is_empty()),
            ),
            (
                "start.runbook",
                start.is_none_or(|start| start.runbook.is_empty()),
            ),
        ];
        fields
            .into_iter()
            .filter(|(_, empty)| *empty)
            .map(|(name, _)| name)
            .collect()
    }

    /// Checks what can be checked without the mandate.
    pub(super) fn check_description(&self) -> Result<(), String> {
        self.entry(Vec::new()).check()?;
        let Some(start) = &self.start else {
            return Ok(());
        };
        let asked = &start.invariant;
        let is_database = |source: &Source| matches!(source, Source::Postgres(_));
        if !asked.is_empty() && !self.source.iter().any(is_database) {
            return Err(
                "start.invariant is asked of a database, and it has none; of files, size, number and changes are compared without being asked".into(),
            );
        }
        if asked.len() > MAX_INVARIANTS {
            return Err(format!(
                "start.invariant has {} elements; at most {MAX_INVARIANTS}",
                asked.len()
            ));
        }
        let expected = |answer: &Option<String>| answer.as_ref().map_or(0, String::len);
        let size: usize = (asked.iter())
            .map(|one| one.name.len() + one.sql.len() + expected(&one.expect))
            .sum();
        if size > MOST_ASKED {
            return Err(format!(
                "start.invariant takes {size} bytes; at most {MOST_ASKED}: put long queries into views or functions"
            ));
        }
        for (at, one) in asked.iter().enumerate() {
            if one
                .expect
                .as_ref()
                .is_some_and(|answer| answer.chars().any(char::is_control))
            {
                return Err(format!(
                    "start.invariant {:?}: expect has a control character",
                    one.name
                ));
            }
            if one.name.is_empty()
                || one.name.len() > MAX_NAME
                || one.name.chars().any(char::is_control)
            {
                return Err(format!(
                    "start.invariant: {:?} is no name of 1 to {MAX_NAME} bytes",
                    one.name
                ));
            }
            if asked[..at].iter().any(|other| other.name == one.name) {
                return Err(format!("start.invariant: {:?} occurs twice", one.name));
            }
            if one.sql.trim().is_empty() || one.within.0 > LONGEST_QUESTION {
                return Err(format!(
                    "start.invariant {:?}: it has a query, and takes at most 10m",
                    one.name
                ));
            }
        }
        Ok(())
    }

    /// What is asked of the database with each version.
    pub fn questions(&self) -> Vec<Question> {
        let asked = self.start.iter().flat_map(|start| &start.invariant);
        asked
            .map(|one| Question {
                name: one.name.clone(),
                sql: one.sql.clone(),
                expect: one.expect.clone(),
                within: one.within.0,
            })
            .collect()
    }

    /// Checks where the mandate puts it against where it may go.
    ///
    /// # Errors
    /// Code 8, naming what is not satisfied.
    pub fn placed(&self, row: &RegistryRow, mandate: &Mandate) -> Result<(), Failure> {
        let Some(wanted) = &self.embassies else {
            return Ok(());
        };
        let kept: Vec<_> = mandate
            .embassy
            .iter()
            .filter(|embassy| embassy.label == row.embassy)
            .collect();
        let refused = |why: String| {
            Err(Failure::new(
                Code::Refused,
                format!("registry {:?}: {why}", self.name),
            )
            .hint("the mandate decides where it is kept; ask for what it grants, or have the mandate name another embassy"))
        };
        for embassy in &kept {
            let class = embassy.class.as_str();
            if !wanted.class.is_empty() && !wanted.class.iter().any(|one| one == class) {
                return refused(format!(
                    "embassies.class allows {}, and the mandate keeps it at embassy {} in {}, which is {class}",
                    wanted.class.join(", "),
                    embassy.label,
                    embassy.jurisdiction
                ));
            }
        }
        let mut places: Vec<_> = kept
            .iter()
            .map(|embassy| embassy.jurisdiction.as_str())
            .collect();
        places.sort_unstable();
        places.dedup();
        if places.len() < wanted.jurisdictions as usize {
            return refused(format!(
                "embassies.jurisdictions asks for {}, and the mandate keeps it in {} ({})",
                wanted.jurisdictions,
                places.len(),
                places.join(", ")
            ));
        }
        Ok(())
    }

    /// Its catalogue entry, with dependencies found among `all` of this agent and in the mandate.
    ///
    /// # Errors
    /// Code 2 for a dependency that is neither; for an entry beyond its bounds.
    pub fn catalogue(
        &self,
        row: &RegistryRow,
        mandate: &Mandate,
        all: &[Registry],
    ) -> Result<Catalogue, Failure> {
        let wrong = |what: String| Failure::usage(format!("registry {:?}: {what}", self.name));
        let depends_on = self
            .depends_on
            .iter()
            .map(|name| {
                let here = all
                    .iter()
                    .find(|other| other.name == *name || other.id == *name);
                let id = here.map_or(name.as_str(), |other| other.id.as_str());
                let found = id
                    .parse::<RegistryId>()
                    .ok()
                    .filter(|id| mandate.registry.iter().any(|row| row.id == *id));
                let id = found.ok_or_else(|| {
                    wrong(format!(
                        "depends_on names {name:?}, which is no registry of this state"
                    ))
                    .hint("name one of this file, or one of another agent by its id, r-…")
                })?;
                let name = here.map_or_else(|| name.clone(), |other| other.name.clone());
                Ok(Dependency { id, name })
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        let mut entry = self.entry(depends_on);
        entry.retention = row.class.to_string();
        entry.check().map_err(wrong)?;
        Ok(entry)
    }

    fn entry(&self, depends_on: Vec<Dependency>) -> Catalogue {
        let start = self.start.clone().unwrap_or_default();
        let placement = self.embassies.clone();
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Catalogue {
            name: self.name.clone(),
            title: self.title.clone(),
            owner: self.owner.clone(),
            legal_basis: self.legal_basis.clone(),
            tier: format!("{:?}", self.tier),
            rpo_ms: ms(self.rpo()),
            rto_ms: ms(self.rto()),
            retention: self.retention.clone().unwrap_or_default(),
            secrecy_until: self
                .secrecy_until
                .map(|date| date.to_string())
                .unwrap_or_default(),
            wave: self.wave,
            depends_on,
            classes: placement
                .as_ref()
                .map(|one| one.class.clone())
                .unwrap_or_default(),
            jurisdictions: placement.map_or(0, |one| one.jurisdictions),
            software: start
                .software
                .into_iter()
                .map(|one| Software {
                    name: one.name,
                    version: one.version,
                })
                .collect(),
            services: start.services,
            runbook: start.runbook,
        }
    }
}

/// Refuses registries of one file that need each other in a circle.
pub(super) fn check_circle(all: &[Registry]) -> Result<(), Failure> {
    let place = |name: &String| {
        all.iter()
            .position(|one| one.name == *name || one.id == *name)
    };
    let needs: Vec<_> = all
        .iter()
        .enumerate()
        .map(|(at, one)| (at, one.depends_on.iter().filter_map(place).collect()))
        .collect();
    start_order(&needs).map(drop).map_err(|circle| {
        let mut names: Vec<_> = circle.iter().map(|at| all[*at].name.as_str()).collect();
        names.extend(names.first().copied());
        Failure::usage(format!(
            "depends_on goes in a circle: {}",
            names.join(" needs ")
        ))
        .hint("none of them could ever start first; leave one of these dependencies out")
    })
}

impl std::str::FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Tier::T0, Tier::T1, Tier::T2, Tier::T3]
            .into_iter()
            .find(|tier| format!("{tier:?}") == text)
            .ok_or_else(|| format!("{text:?} is no tier: T0, T1, T2 or T3"))
    }
}
