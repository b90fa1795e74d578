//! Where embassies answer. Kept in a file of its own with mode 0600, and printed nowhere: not in logs, not in errors.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::exit::{Code, Failure};

/// The file of locators.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locators {
    #[serde(default)]
    embassy: Vec<Locator>,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Locator {
    label: String,
    address: Address,
}

/// Host and port of an embassy. It has no `Display`, and its `Debug` shows nothing.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Address(String);

impl Address {
    /// An address, for tests and for embassies that know their own.
    pub fn new(address: impl Into<String>) -> Address {
        Address(address.into())
    }

    /// The text, for connecting and for nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(withheld)")
    }
}

impl Locators {
    /// Reads the file, refusing one that others may read.
    ///
    /// # Errors
    /// Code 2 when the file is missing, open to others or malformed. The message never holds an address.
    pub fn load(path: &Path) -> Result<Locators, Failure> {
        super::check_private(path)?;
        let mut locators: Locators = super::load(path)?;
        locators.path = path.to_owned();
        Ok(locators)
    }

    /// Where the embassy with this label answers.
    ///
    /// # Errors
    /// Code 10 when the file does not name it.
    pub fn of(&self, label: &str) -> Result<&Address, Failure> {
        self.embassy
            .iter()
            .find(|locator| locator.label == label)
            .map(|locator| &locator.address)
            .ok_or_else(|| {
                Failure::new(
                    Code::NoEmbassy,
                    format!("no address is known for embassy {label}"),
                )
                .hint(format!("add it to {}", self.path.display()))
            })
    }
}
