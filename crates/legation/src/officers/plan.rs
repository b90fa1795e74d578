//! The ceremony's input (`state.toml`) and the rules a founding must keep before anything is dealt: impossible
//! quorums, doubled officers and doubled keys are refused here, with what to change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::exit::Failure;

/// Shares are numbered in one byte, and zero is the secret's own place.
pub const MAX_OFFICERS: usize = 255;

/// Each generation is two shares in every envelope; sixteen releases are more than a state wants before a ceremony.
pub const MAX_GENERATIONS: u32 = 16;

/// `state.toml`: who founds the state, who writes, who keeps, what is protected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFile {
    /// Version of this file's form; 1.
    pub format: u32,
    /// Vault generations to deal: one is spent by each release.
    pub generations: u32,
    /// Officers, in the order of the mandate.
    pub officer: Vec<OfficerEntry>,
    /// Embassies. One, in this version.
    pub embassy: Vec<EmbassyEntry>,
    /// Agents that may append.
    pub writer: Vec<NamedCard>,
    /// People's machines that may read ciphertext and submit.
    #[serde(default)]
    pub client: Vec<NamedCard>,
    /// What is protected.
    pub registry: Vec<RegistryEntry>,
    /// Retention classes.
    pub retention: Vec<RetentionEntry>,
}

/// An officer, by his card.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfficerEntry {
    /// The card that `officer new` wrote; relative to this file.
    pub card: PathBuf,
}

/// An embassy, by its card.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbassyEntry {
    /// All that anybody outside ever sees of it.
    pub label: String,
    /// Whose law holds there.
    pub jurisdiction: String,
    /// Such as `physical`.
    pub class: String,
    /// The card that `embassy --init` wrote.
    pub card: PathBuf,
}

/// A writer or a client, by its card.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedCard {
    /// The name used in the mandate.
    pub name: String,
    /// The card that `agent --init` or `officer new --client` wrote.
    pub card: PathBuf,
}

/// A registry.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryEntry {
    /// Its name at home; never in the mandate.
    pub name: String,
    /// Its title for people; never in the mandate.
    pub title: String,
    /// `T0` to `T3`.
    pub tier: String,
    /// One of the retention classes below.
    pub retention: String,
    /// One of the writers above.
    pub writer: String,
}

/// A retention class.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionEntry {
    /// Its name.
    pub class: String,
    /// `forever`, or a duration.
    pub keep: String,
}

/// `--need 3 --of 5 --abroad 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// Shares that open a generation.
    pub need: u8,
    /// Officers in all.
    pub of: u8,
    /// How many of those who open it must be off the territory.
    pub abroad: u8,
}

/// What the rules look at in an officer.
#[derive(Debug, Clone, Copy)]
pub struct OfficerFacts<'a> {
    /// His name in the mandate.
    pub name: &'a str,
    /// Whether he is off the territory.
    pub abroad: bool,
    /// His SSH public key, without its comment.
    pub ssh: &'a str,
    /// His age recipient.
    pub age: &'a str,
}

impl StateFile {
    /// Reads `state.toml`.
    ///
    /// # Errors
    /// When it does not parse, is of another form, or names things that are not there.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let file: Self = crate::config::load(path)?;
        file.check()
            .map_err(|failure| failure.during(path.display()))?;
        Ok(file)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.format != 1 {
            return Err(Failure::usage(format!(
                "format {} is unknown; this version reads format 1",
                self.format
            )));
        }
        if self.generations == 0 || self.generations > MAX_GENERATIONS {
            return Err(Failure::usage(format!(
                "generations = {}: from 1 to {MAX_GENERATIONS} can be dealt; each release of keys spends one",
                self.generations
            )));
        }
        for (what, names) in [
            (
                "writer",
                self.writer
                    .iter()
                    .map(|entry| &entry.name)
                    .collect::<Vec<_>>(),
            ),
            (
                "client",
                self.client.iter().map(|entry| &entry.name).collect(),
            ),
            (
                "registry",
                self.registry.iter().map(|entry| &entry.name).collect(),
            ),
            (
                "embassy",
                self.embassy.iter().map(|entry| &entry.label).collect(),
            ),
            (
                "retention class",
                self.retention.iter().map(|entry| &entry.class).collect(),
            ),
        ] {
            let mut seen = std::collections::BTreeSet::new();
            for name in names {
                plain_name(what, name)?;
                if !seen.insert(name) {
                    return Err(Failure::usage(format!("{what} {name} stands there twice")));
                }
            }
        }
        for registry in &self.registry {
            if !self
                .writer
                .iter()
                .any(|writer| writer.name == registry.writer)
            {
                return Err(Failure::usage(format!(
                    "registry {}: no writer is called {}",
                    registry.name, registry.writer
                )));
            }
            if !self
                .retention
                .iter()
                .any(|class| class.class == registry.retention)
            {
                return Err(Failure::usage(format!(
                    "registry {}: no retention class is called {}",
                    registry.name, registry.retention
                )));
            }
        }
        if self.registry.is_empty() {
            return Err(Failure::usage(
                "no registry is named; a state protects at least one",
            ));
        }
        Ok(())
    }
}

impl Quorum {
    /// Refuses a rule that the officers named cannot keep.
    ///
    /// # Errors
    /// What is impossible or doubled, and what to change.
    pub fn check(self, officers: &[OfficerFacts<'_>]) -> Result<(), Failure> {
        let abroad = officers.iter().filter(|officer| officer.abroad).count();
        if officers.len() > MAX_OFFICERS {
            return Err(Failure::usage(format!(
                "{} officers are too many; shares are dealt to {MAX_OFFICERS}",
                officers.len()
            )));
        }
        if usize::from(self.of) != officers.len() {
            return Err(Failure::usage(format!(
                "--of {} but {} officers are named",
                self.of,
                officers.len()
            ))
            .hint("add the missing [[officer]] or change --of"));
        }
        if self.need == 0 || self.need > self.of {
            return Err(Failure::usage(format!(
                "--need {} of {} officers can never be met",
                self.need, self.of
            ))
            .hint("need is from 1 to the number of officers"));
        }
        if self.abroad > self.need {
            return Err(Failure::usage(format!(
                "--abroad {} is more than --need {}: a quorum would need more from abroad than it needs in all",
                self.abroad, self.need
            )));
        }
        if usize::from(self.abroad) > abroad {
            return Err(Failure::usage(format!(
                "--abroad {} but {abroad} of the officers are off the territory; no quorum could ever open anything",
                self.abroad
            ))
            .hint("name more officers with territory abroad, or lower --abroad"));
        }
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for officer in officers {
            plain_name("officer", officer.name)?;
            for (what, value) in [
                ("name", officer.name),
                ("SSH key", officer.ssh),
                ("age recipient", officer.age),
            ] {
                if let Some(other) = seen.insert(value, officer.name) {
                    return Err(Failure::usage(format!("{other} and {} have the same {what}", officer.name))
                        .hint("every officer has a name, an SSH key and an age identity of his own; one person counts once"));
                }
            }
        }
        Ok(())
    }
}

/// Names stand in signed lines and in file names: lower-case letters, digits and hyphens.
pub fn plain_name(what: &str, name: &str) -> Result<(), Failure> {
    let fits = !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('-')
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
        });
    if fits {
        Ok(())
    } else {
        Err(Failure::usage(format!(
            "{what} name {name:?}: use lower-case letters, digits and hyphens"
        )))
    }
}

#[cfg(test)]
mod tests;
