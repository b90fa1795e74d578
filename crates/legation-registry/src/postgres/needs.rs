//! What a cluster needs of the machine beside its own files: extensions and the libraries of its functions, and the
//! collation that its indexes were built with. Asked at home and sealed as facts; compared abroad before anything starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::conn::Conn;
use super::probe::column;
use super::server::Binaries;
use super::settle::is_here;
use super::url::ConnectConfig;
use crate::Result;

/// Databases that are looked into: each costs a connection.
const MOST_DATABASES: usize = 32;
/// What one list may take of the facts.
const MOST_BYTES: usize = 512;
/// The first oid that is not the server's own.
const FIRST_OWN: u32 = 16_384;

const EXTENSIONS: &str = "needs.extensions";
const LIBRARIES: &str = "needs.libraries";
const COLLATIONS: &str = "needs.collations";
const PRELOAD: &str = "needs.preload";

/// What it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Extensions with their versions, such as `postgis 3.3.2`.
    pub extensions: BTreeSet<String>,
    /// Libraries of functions, such as `$libdir/postgis-3`.
    pub libraries: BTreeSet<String>,
    /// Versions of the collations of its databases, such as `2.36`.
    pub collations: BTreeSet<String>,
    /// Libraries that the server loads at its start. They are not loaded abroad.
    pub preload: BTreeSet<String>,
}

impl Needs {
    /// Asks a server. Databases that do not let this role in are passed over.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn of(config: &ConnectConfig) -> Result<Self> {
        let mut needs = Self::default();
        let mut conn = Conn::sql(config)?;
        let databases = conn.query(&format!(
            "select datname, datcollversion from pg_database where datallowconn \
             and has_database_privilege(oid, 'connect') order by datname <> current_database(), datname limit {MOST_DATABASES}"
        ))?;
        let preload = conn.scalar("select current_setting('shared_preload_libraries')")?;
        drop(conn);
        let preload = preload.unwrap_or_default();
        needs.preload = preload
            .split(',')
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        for row in &databases {
            needs.collations.extend(column(row, 1).map(str::to_owned));
            let Some(database) = column(row, 0) else {
                continue;
            };
            let Ok(mut conn) = Conn::sql(&config.with_database(database)) else {
                continue;
            };
            let extensions = conn.query(&format!(
                "select extname || ' ' || extversion from pg_extension where oid >= {FIRST_OWN}"
            ))?;
            needs.extensions.extend(
                extensions
                    .iter()
                    .filter_map(|row| column(row, 0))
                    .map(str::to_owned),
            );
            let libraries = conn
                .query(&format!("select distinct probin from pg_proc where probin is not null and oid >= {FIRST_OWN}"))?;
            needs.libraries.extend(
                libraries
                    .iter()
                    .filter_map(|row| column(row, 0))
                    .map(str::to_owned),
            );
        }
        Ok(needs)
    }

    /// As facts; what is empty is left out, and what is too much is cut, which `…` says.
    #[must_use]
    pub fn to_meta(&self) -> BTreeMap<String, String> {
        [
            (EXTENSIONS, &self.extensions),
            (LIBRARIES, &self.libraries),
            (COLLATIONS, &self.collations),
            (PRELOAD, &self.preload),
        ]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(key, list)| (key.to_owned(), bounded(list)))
        .collect()
    }

    /// From the facts of a version.
    #[must_use]
    pub fn from_meta(meta: &BTreeMap<String, String>) -> Self {
        let list = |key: &str| {
            meta.get(key)
                .map(|text| text.lines().map(str::to_owned).collect())
                .unwrap_or_default()
        };
        Self {
            extensions: list(EXTENSIONS),
            libraries: list(LIBRARIES),
            collations: list(COLLATIONS),
            preload: list(PRELOAD),
        }
    }

    /// What of it, and of a cluster's release and locales, this machine lacks: each with what to do.
    #[must_use]
    pub fn missing(&self, major: u32, locales: &BTreeSet<String>) -> Vec<(String, String)> {
        let mut missing = Vec::new();
        let mut refused = |error: crate::Error| {
            if let crate::Error::Refused { what, fix } = error {
                missing.push((what, fix));
            }
        };
        let binaries = Binaries::find(major).map_err(&mut refused).ok();
        if let Err(error) = super::locale::are_here(locales) {
            refused(error);
        }
        let Some(dir) = binaries.as_ref().and_then(library_dir) else {
            return missing;
        };
        let dir = dir.to_string_lossy();
        for library in self
            .libraries
            .iter()
            .filter(|library| *library != "…" && !is_here(library, &dir))
        {
            let of: Vec<_> = self.extensions.iter().map(String::as_str).collect();
            missing.push((
                format!("the library {library} of PostgreSQL {major} is not installed here"),
                format!(
                    "install the packages of its extensions ({}) in the same versions",
                    of.join(", ")
                ),
            ));
        }
        missing
    }
}

/// Where a release keeps its libraries; `None` when it is not where releases usually have it.
fn library_dir(binaries: &Binaries) -> Option<PathBuf> {
    let bin = binaries.program("postgres");
    let root = bin.parent()?.parent()?;
    ["lib", "lib/postgresql", "lib64"]
        .iter()
        .map(|below| root.join(below))
        .find(|dir| dir.join("plpgsql.so").is_file())
}

fn bounded(list: &BTreeSet<String>) -> String {
    let mut text = String::new();
    for one in list {
        let one: String = one
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if text.len() + one.len() + 2 > MOST_BYTES {
            text.push_str("\n…");
            break;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&one);
    }
    text
}
