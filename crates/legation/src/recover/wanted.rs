//! What registries need of a machine, carried to it before any key is: `versions --bare-metal --json` at a desk writes
//! it, `activate --dry-run --needs` at the embassy compares. It names registries by their ids alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use legation_core::id::RegistryId;
use legation_core::statement::Order;
use legation_registry::postgres::needs::Needs;
use serde::{Deserialize, Serialize};

use super::sealed::Sealed;
use crate::exit::{Code, Failure};
use crate::officers::read_bounded;

/// Some hundred bytes for each registry, and what else `--json` printed.
const MAX_FILE: u64 = 1 << 20;

/// What one registry needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Wanted {
    /// The registry.
    pub id: RegistryId,
    /// The release of PostgreSQL.
    pub major: u32,
    /// Collations of its databases.
    pub locales: BTreeSet<String>,
    /// Extensions with their versions.
    pub extensions: BTreeSet<String>,
    /// Libraries of its functions.
    pub libraries: BTreeSet<String>,
}

impl Wanted {
    /// Of a version; `None` when it is no database.
    pub fn of(id: RegistryId, sealed: &Sealed) -> Option<Self> {
        let facts = sealed.facts.as_ref()?;
        Some(Self {
            id,
            major: facts.major,
            locales: facts.locales.clone(),
            extensions: sealed.needs.extensions.clone(),
            libraries: sealed.needs.libraries.clone(),
        })
    }

    fn missing(&self) -> Vec<Failure> {
        let needs = Needs {
            extensions: self.extensions.clone(),
            libraries: self.libraries.clone(),
            ..Needs::default()
        };
        let missing = needs.missing(self.major, &self.locales).into_iter();
        missing
            .map(|(what, fix)| Failure::failed(format!("{}: {what}", self.id)).hint(fix))
            .collect()
    }
}

/// What this machine lacks of what such a file names, for the registries of an order. A registry of which the file says
/// nothing is named too.
///
/// # Errors
/// Code 2 when the file is not what `--json` printed.
pub fn missing(
    path: &Path,
    order: &Order,
    databases: &BTreeSet<RegistryId>,
) -> Result<Vec<Failure>, Failure> {
    let bytes = read_bounded(path, MAX_FILE)?;
    let wrong = |why: String| {
        Failure::new(Code::Usage, format!("{}: {why}", path.display()))
        .hint("write it at a desk: legation versions NAME --bare-metal --order grant.txt --json >>needs.json")
    };
    let text = std::str::from_utf8(&bytes).map_err(|why| wrong(why.to_string()))?;
    let mut wanted = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|why| wrong(why.to_string()))?;
        if value["message_type"] == "needs" {
            let one: Wanted =
                serde_json::from_value(value).map_err(|why| wrong(why.to_string()))?;
            wanted.insert(one.id, one);
        }
    }
    let mut missing = Vec::new();
    for id in order
        .registry
        .iter()
        .map(|row| row.registry)
        .filter(|id| databases.contains(id))
    {
        match wanted.get(&id) {
            Some(one) => missing.extend(one.missing()),
            None => missing.push(Failure::failed(format!(
                "{id}: {} does not say what it needs",
                path.display()
            ))),
        }
    }
    Ok(missing)
}
