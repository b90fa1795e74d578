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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn source(path: &Path, probe: Option<&str>) -> Source {
        Source {
            kind: KIND.into(),
            path: path.to_owned(),
            database: None,
            sqlite: None,
            questions: Vec::new(),
            incomplete: 0,
            probe: probe.map(|sql| (sql.to_owned(), Duration::from_secs(30))),
            short: None,
            notes: Vec::new(),
            waiting: Vec::new(),
            entries: 1,
            bytes: 0,
            left_out: 0,
        }
    }

    #[test]
    fn what_is_damaged_or_fails_its_own_probe_is_unfit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let made = Command::new("sqlite3")
            .arg(&path)
            .arg(
                "create table t(x unique); with recursive c(i) as (select 1 union all select i + 1 from c where i < 5000)
                 insert into t select i || randomblob(40) from c",
            )
            .status()
            .unwrap();
        assert!(made.success());
        let asked = |probe| {
            let answer = ask(&path, &source(&path, probe)).unwrap();
            (answer.passed, answer.asked, answer.unfit)
        };
        assert_eq!(asked(None), (1, 1, None));
        assert_eq!(asked(Some("select count(*) = 5000 from t")), (2, 2, None));
        for no in [
            "select count(*) = 1 from t",
            "select missing from t",
            "select 0 where 0",
        ] {
            let (passed, all, unfit) = asked(Some(no));
            assert_eq!((passed, all), (1, 2));
            assert!(unfit.unwrap().contains(OWN_PROBE));
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 4096].fill(0x5a);
        std::fs::write(&path, bytes).unwrap();
        let (passed, _, unfit) = asked(Some("select 1"));
        assert!(passed == 0 && unfit.unwrap().contains("whole"));
    }

    #[test]
    fn a_version_leads_to_no_file_outside_its_directory() {
        let of = |kind: &str, name: Option<&str>| {
            let meta = name.map(|name| (FILE_KEY.to_owned(), name.to_owned()));
            let source = SourceRoot {
                kind: kind.into(),
                name: "database".into(),
                tree: None,
                meta: meta.into_iter().collect(),
                entries: 0,
                bytes: 0,
            };
            file(&source, Path::new("/live/land"))
        };
        assert_eq!(of("tree", None).unwrap(), None);
        let inside = of(KIND, Some("app.db")).unwrap();
        assert_eq!(inside, Some(PathBuf::from("/live/land/app.db")));
        for name in [
            None,
            Some(""),
            Some(".."),
            Some("../../etc/x.db"),
            Some("/etc/x.db"),
        ] {
            assert!(of(KIND, name).is_err(), "{name:?}");
        }
    }
}
