//! `legation.toml`: the configuration of a person at a keyboard.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::IdentityAt;
use crate::exit::Failure;

/// What a person's commands need to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// The format of this file, 1.
    pub format: u32,
    /// The state's fingerprint.
    pub state: String,
    /// The signed founding mandate; its keyring lies beside it.
    pub mandate: PathBuf,
    /// The TLS identity by which embassies know this machine.
    pub identity: IdentityAt,
    /// Where embassies answer.
    pub locators: PathBuf,
    /// Which name each opaque registry id has (`registries.toml` of the ceremony).
    #[serde(default)]
    pub names: Option<PathBuf>,
    /// Directory of the checkpoints this person has seen; a log that shrinks below one is refused.
    pub trust: PathBuf,
}

impl Person {
    /// Reads the file; paths in it are relative to it.
    ///
    /// # Errors
    /// Code 2 when it is missing or malformed.
    pub fn load(path: &Path) -> Result<Person, Failure> {
        let mut person: Person = super::load(path).map_err(|failure| match failure.hint {
            Some(_) => failure,
            None => failure.hint("name another with --config or LEGATION_CONFIG"),
        })?;
        super::check_format(person.format, path)?;
        person.mandate = super::beside(path, &person.mandate);
        person.identity.file = super::beside(path, &person.identity.file);
        person.locators = super::beside(path, &person.locators);
        person.names = person.names.map(|names| super::beside(path, &names));
        person.trust = super::beside(path, &person.trust);
        Ok(person)
    }
}

/// `~/.config/legation/legation.toml` if it exists, else `/etc/legation/legation.toml`.
pub fn usual_place() -> PathBuf {
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")));
    match home.map(|dir| dir.join("legation/legation.toml")) {
        Some(path) if path.exists() => path,
        _ => PathBuf::from("/etc/legation/legation.toml"),
    }
}
