//! The catalogue entry of a registry as it travels: sealed among the facts of each version, so that whoever opens one
//! abroad knows what the registry is, whose it is, what it needs, and what must run before it (spec/format.md §7.7).
//!
//! What is read here was written at home and may be forged there: it tells and orders, and it allows nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::RegistryId;

/// A line of the catalogue: a title, a law, a path. Longer ones are documents, and belong into the runbook.
pub const MAX_LINE: usize = 200;
/// Elements of a list. A registry that needs more to start is several registries.
pub const MAX_ITEMS: usize = 16;
/// The entry, keys and values, as facts: leaves room for what the source says of itself and for the history of answers.
pub const MAX_CATALOGUE: usize = 3 * 1024;
/// What a fact costs beside its key and value.
const EACH: usize = 4;
const PREFIX: &str = "catalogue.";

/// A registry that must run first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependency {
    /// Its id in the mandate.
    pub id: RegistryId,
    /// What home calls it.
    pub name: String,
}

/// Software that must be installed where the registry starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Software {
    /// What it is called.
    pub name: String,
    /// Which release; empty when any will do.
    pub version: String,
}

/// What is known of a registry beside its data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// What home calls it.
    pub name: String,
    /// Its full title.
    pub title: String,
    /// Who answers for it.
    pub owner: String,
    /// By what law it is kept.
    pub legal_basis: String,
    /// Its tier, as the mandate has it.
    pub tier: String,
    /// How much may be lost, milliseconds.
    pub rpo_ms: u64,
    /// How long it may be away, milliseconds.
    pub rto_ms: u64,
    /// Its retention class, as the mandate has it.
    pub retention: String,
    /// Until when its contents must stay secret; empty when nobody said.
    pub secrecy_until: String,
    /// The wave that it was enrolled in; 0 when nobody said.
    pub wave: u32,
    /// What must run before it.
    pub depends_on: Vec<Dependency>,
    /// Classes of embassies that it may go to; empty when any.
    pub classes: Vec<String>,
    /// In how many jurisdictions it is to be kept at least.
    pub jurisdictions: u32,
    /// What must be installed.
    pub software: Vec<Software>,
    /// Services beside the database, in the order of their start.
    pub services: Vec<String>,
    /// Where it is written how a person starts it.
    pub runbook: String,
}

impl Catalogue {
    /// Checks the bounds of every field.
    ///
    /// # Errors
    /// What is wrong with which field, in words.
    pub fn check(&self) -> Result<(), String> {
        for (what, value) in self.lines() {
            line(what, value)?;
        }
        for (what, list) in [
            ("depends_on", self.depends_on.len()),
            ("embassies.class", self.classes.len()),
            ("start.software", self.software.len()),
            ("start.services", self.services.len()),
        ] {
            if list > MAX_ITEMS {
                return Err(format!("{what} has {list} elements; at most {MAX_ITEMS}"));
            }
        }
        for (what, name) in self
            .classes
            .iter()
            .map(|one| ("embassies.class", one))
            .chain(self.services.iter().map(|one| ("start.services", one)))
            .chain(
                self.software
                    .iter()
                    .map(|one| ("start.software", &one.name)),
            )
            .chain(self.depends_on.iter().map(|one| ("depends_on", &one.name)))
        {
            line(what, name)?;
            if name.is_empty() {
                return Err(format!("{what} has an empty element"));
            }
        }
        for one in &self.software {
            line("start.software", &one.version)?;
            if one.name.contains(' ') {
                return Err(format!(
                    "start.software: {:?} has a space in its name",
                    one.name
                ));
            }
        }
        let size = size(&self.to_meta());
        if size > MAX_CATALOGUE {
            return Err(format!(
                "the catalogue entry takes {size} bytes; at most {MAX_CATALOGUE}: shorten it, and write the rest into the runbook"
            ));
        }
        Ok(())
    }

    fn lines(&self) -> [(&'static str, &str); 8] {
        [
            ("name", &self.name),
            ("title", &self.title),
            ("owner", &self.owner),
            ("legal_basis", &self.legal_basis),
            ("tier", &self.tier),
            ("retention", &self.retention),
            ("secrecy_until", &self.secrecy_until),
            ("start.runbook", &self.runbook),
        ]
    }

    /// As facts; what is empty is left out.
    #[must_use]
    pub fn to_meta(&self) -> BTreeMap<String, String> {
        let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
        let depends: Vec<_> = self
            .depends_on
            .iter()
            .map(|one| format!("{} {}", one.id, one.name))
            .collect();
        let software: Vec<_> = self
            .software
            .iter()
            .map(|one| {
                format!("{} {}", one.name, one.version)
                    .trim_end()
                    .to_owned()
            })
            .collect();
        [
            ("name", self.name.clone()),
            ("title", self.title.clone()),
            ("owner", self.owner.clone()),
            ("legal-basis", self.legal_basis.clone()),
            ("tier", self.tier.clone()),
            ("rpo-ms", number(self.rpo_ms)),
            ("rto-ms", number(self.rto_ms)),
            ("retention", self.retention.clone()),
            ("secrecy-until", self.secrecy_until.clone()),
            ("wave", number(self.wave.into())),
            ("depends-on", depends.join("\n")),
            ("classes", self.classes.join("\n")),
            ("jurisdictions", number(self.jurisdictions.into())),
            ("software", software.join("\n")),
            ("services", self.services.join("\n")),
            ("runbook", self.runbook.clone()),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (format!("{PREFIX}{key}"), value))
        .collect()
    }

    /// From the facts of a version; `None` when it has no entry, as versions from before there was one.
    ///
    /// # Errors
    /// What is malformed, in words: whoever sealed it, wrote it so.
    pub fn from_meta(meta: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let text = |key: &str| {
            meta.get(&format!("{PREFIX}{key}"))
                .cloned()
                .unwrap_or_default()
        };
        if !meta.keys().any(|key| key.starts_with(PREFIX)) {
            return Ok(None);
        }
        let number = |key: &str| match text(key).as_str() {
            "" => Ok(0),
            digits => digits
                .parse::<u64>()
                .map_err(|_| format!("{PREFIX}{key} is {digits:?}")),
        };
        let small = |key: &str| {
            number(key).and_then(|n| u32::try_from(n).map_err(|_| format!("{PREFIX}{key} is {n}")))
        };
        let list = |key: &str| -> Vec<String> { text(key).lines().map(str::to_owned).collect() };
        let depends_on = list("depends-on")
            .iter()
            .map(|line| {
                let (id, name) = line.split_once(' ').unwrap_or((line, line));
                let id = id
                    .parse()
                    .map_err(|_| format!("{PREFIX}depends-on names {id:?}"))?;
                Ok(Dependency {
                    id,
                    name: name.to_owned(),
                })
            })
            .collect::<Result<_, String>>()?;
        let software = list("software")
            .iter()
            .map(|line| {
                let (name, version) = line.split_once(' ').unwrap_or((line, ""));
                Software {
                    name: name.to_owned(),
                    version: version.to_owned(),
                }
            })
            .collect();
        let catalogue = Self {
            name: text("name"),
            title: text("title"),
            owner: text("owner"),
            legal_basis: text("legal-basis"),
            tier: text("tier"),
            rpo_ms: number("rpo-ms")?,
            rto_ms: number("rto-ms")?,
            retention: text("retention"),
            secrecy_until: text("secrecy-until"),
            wave: small("wave")?,
            depends_on,
            classes: list("classes"),
            jurisdictions: small("jurisdictions")?,
            software,
            services: list("services"),
            runbook: text("runbook"),
        };
        catalogue.check()?;
        Ok(Some(catalogue))
    }
}

/// What facts take of their bound.
#[must_use]
pub fn size(meta: &BTreeMap<String, String>) -> usize {
    meta.iter()
        .map(|(key, value)| key.len() + value.len() + EACH)
        .sum()
}

fn line(what: &str, value: &str) -> Result<(), String> {
    if value.len() > MAX_LINE {
        return Err(format!(
            "{what} has {} bytes; at most {MAX_LINE}",
            value.len()
        ));
    }
    if value.chars().any(char::is_control) {
        return Err(format!("{what} has a control character"));
    }
    Ok(())
}

/// The order in which to start things: what others need first, and otherwise as they came. Needs outside of what is
/// given are passed over: they are not started here.
///
/// # Errors
/// Those that need each other in a circle, in that order.
pub fn start_order<T: Ord + Copy>(all: &[(T, Vec<T>)]) -> Result<Vec<T>, Vec<T>> {
    let needs: BTreeMap<T, &[T]> = all
        .iter()
        .map(|(one, needs)| (*one, needs.as_slice()))
        .collect();
    let mut ordered = Vec::with_capacity(all.len());
    let mut done = BTreeSet::new();
    while ordered.len() < needs.len() {
        let ready = |one: &T| {
            needs[one]
                .iter()
                .all(|need| done.contains(need) || !needs.contains_key(need))
        };
        let next = all
            .iter()
            .map(|(one, _)| *one)
            .find(|one| !done.contains(one) && ready(one));
        let Some(next) = next else {
            return Err(circle(&needs, &done));
        };
        done.insert(next);
        ordered.push(next);
    }
    Ok(ordered)
}

/// A circle among those that are not done: whoever follows what is needed comes by the same one twice.
fn circle<T: Ord + Copy>(needs: &BTreeMap<T, &[T]>, done: &BTreeSet<T>) -> Vec<T> {
    let mut path = Vec::new();
    let mut at = needs.keys().copied().find(|one| !done.contains(one));
    while let Some(one) = at {
        if let Some(first) = path.iter().position(|seen| *seen == one) {
            return path.split_off(first);
        }
        path.push(one);
        at = needs[&one]
            .iter()
            .copied()
            .find(|need| needs.contains_key(need) && !done.contains(need));
    }
    path
}

#[cfg(test)]
mod tests;
