//! `registries.toml`: which name and title each opaque registry id has. It stays at home and with the officers; the
//! host sees ids only.

use std::path::Path;

use legation_core::id::RegistryId;
use serde::{Deserialize, Serialize};

use crate::exit::{Code, Failure};

/// The names of a state's registries.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Version of this file's form; 1.
    pub format: u32,
    /// One entry a registry.
    #[serde(default)]
    pub registry: Vec<NameEntry>,
}

/// One registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameEntry {
    /// Its opaque id in the mandate.
    pub id: RegistryId,
    /// What it is called on the command line.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// The wave that it is enrolled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            format: crate::config::FORMAT,
            registry: Vec::new(),
        }
    }
}

impl Names {
    /// Reads the file.
    ///
    /// # Errors
    /// Code 2 when it is missing or malformed.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let names: Self = crate::config::load(path)?;
        crate::config::check_format(names.format, path)?;
        Ok(names)
    }

    /// The names of a person's configuration; none when it has no such file.
    ///
    /// # Errors
    /// As [`Names::load`].
    pub fn of_person(person: &crate::config::person::Person) -> Result<Self, Failure> {
        person
            .names
            .as_deref()
            .map_or_else(|| Ok(Self::default()), Self::load)
    }

    /// The file's text.
    ///
    /// # Errors
    /// When a title cannot be written as TOML.
    pub fn text(&self) -> Result<String, Failure> {
        toml::to_string(self).map_err(|why| Failure::failed(format!("registries.toml: {why}")))
    }

    /// The registry that a person means: its name, or its id.
    ///
    /// # Errors
    /// Code 2 when nothing is called that; the message lists what is.
    pub fn find(&self, name: &str) -> Result<RegistryId, Failure> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }
        self.registry
            .iter()
            .find(|entry| entry.name == name)
            .map(|entry| entry.id)
            .ok_or_else(|| {
                let known: Vec<_> = self
                    .registry
                    .iter()
                    .map(|entry| entry.name.as_str())
                    .collect();
                let failure = Failure::new(Code::Usage, format!("no registry is called {name}"));
                if known.is_empty() {
                    failure.hint(
                        "set names = \"registries.toml\" in legation.toml, or use its id (r-…)",
                    )
                } else {
                    failure.hint(format!("known are: {}", known.join(", ")))
                }
            })
    }

    /// What to call a registry: its name, or its id when nobody told us.
    pub fn of(&self, id: RegistryId) -> String {
        self.registry
            .iter()
            .find(|entry| entry.id == id)
            .map_or_else(|| id.to_string(), |entry| entry.name.clone())
    }

    /// The wave of a registry; 0 when nobody told us.
    pub fn wave(&self, id: RegistryId) -> u32 {
        let entry = self.registry.iter().find(|entry| entry.id == id);
        entry.and_then(|entry| entry.wave).unwrap_or_default()
    }

    /// The title of a registry, or its id.
    pub fn title(&self, id: RegistryId) -> String {
        self.registry
            .iter()
            .find(|entry| entry.id == id)
            .map_or_else(|| id.to_string(), |entry| entry.title.clone())
    }
}
