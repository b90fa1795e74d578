//! A restored SQLite database: nothing is started for it, but it serves only if SQLite finds it whole and the
//! registry's own probe holds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use legation_core::manifest::SourceRoot;
use legation_registry::sqlite::{KIND, check};

use super::damaged;
use super::start::{OWN_PROBE, Source};
use crate::exit::Failure;

/// A version's fact that names the database's file.
const FILE_KEY: &str = "sqlite.file";
/// The longest that the check may take.
const CHECK_WITHIN: Duration = Duration::from_secs(3600);

/// The database's file below `dir`, if the source is one.
///
/// # Errors
/// Code 4 when the version names none, or one elsewhere.
pub fn file(source: &SourceRoot, dir: &Path) -> Result<Option<PathBuf>, Failure> {
    if source.kind != KIND {
        return Ok(None);
    }
    let name = source.meta.get(FILE_KEY).map_or("", String::as_str);
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    if plain {
        Ok(Some(dir.join(name)))
    } else {
        Err(damaged(format!(
            "a database of this version is called {name:?}"
        )))
    }
}

/// What a restored database answered.
#[derive(Debug)]
pub struct Asked {
    /// Probes that passed.
    pub passed: u32,
    /// Probes asked.
    pub asked: u32,
    /// Without this it must not serve.
    pub unfit: Option<String>,
}

/// Asks SQLite whether the database is whole, and then the registry's own question.
///
/// # Errors
/// When it cannot be opened.
pub fn ask(path: &Path, source: &Source) -> Result<Asked, Failure> {
    let mut answer = Asked {
        passed: 0,
        asked: 1,
        unfit: check::quick_check(path, CHECK_WITHIN)?
            .map(|found| format!("SQLite does not find it whole: {found}")),
    };
    if answer.unfit.is_some() {
        return Ok(answer);
    }
    answer.passed += 1;
    if let Some((sql, within)) = &source.probe {
        answer.asked += 1;
        match check::probe(path, sql, *within) {
            Ok(true) => answer.passed += 1,
            Ok(false) => answer.unfit = Some(format!("not so: {OWN_PROBE}")),
            Err(error) => answer.unfit = Some(format!("not so: {OWN_PROBE} ({error})")),
        }
    }
    Ok(answer)
}
