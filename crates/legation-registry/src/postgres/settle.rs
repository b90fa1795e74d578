//! What is looked at in a started copy before anybody else connects: settings of its databases and roles that would
//! act abroad, and what of this machine differs from home in a way that makes answers wrong.

use std::collections::BTreeMap;
use std::path::Path;

use super::conn::{Conn, Row};
use super::probe::{column, quote};
use super::server::Server;
use crate::Result;

/// Settings that load code into every session: what they name may be missing here, and the session would fail.
const LOADING: [&str; 2] = ["session_preload_libraries", "local_preload_libraries"];
/// Undoes what the grant asked for.
const READ_ONLY: &str = "default_transaction_read_only";
/// Our session: neither bound by what is to be reset, nor by a search path that hides the catalog.
const OPTIONS: &str =
    " -c default_transaction_read_only=off -c statement_timeout=0 -c search_path=pg_catalog";
/// So many names are said; a person who needs the others asks the server.
const NAMES: usize = 8;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// What was reset, in words.
    pub reset: Vec<String>,
    /// What makes answers doubtful here, in words.
    pub doubts: Vec<String>,
}

impl Server {
    /// Resets settings of databases and roles that load libraries or fight the grant's mode, and compares collations
    /// and libraries with those that the registry was written with. Call it when the server is ready, before it
    /// serves.
    ///
    /// # Errors
    /// When the server does not answer, or a setting cannot be reset.
    pub fn settle(&self) -> Result<Settled> {
        let mut settled = Settled::default();
        let mut conn = self.own(None)?;
        self.reset(&mut conn, &mut settled)?;
        let databases = conn.query(
            "select datname, datcollversion is distinct from pg_database_collation_actual_version(oid) \
             from pg_database where datallowconn order by datname",
        )?;
        let library_dir = conn
            .scalar("select setting from pg_config where name = 'PKGLIBDIR'")?
            .unwrap_or_default();
        drop(conn);
        let (mut collations, mut libraries) = (Vec::new(), BTreeMap::<String, u64>::new());
        for row in &databases {
            let Some(database) = column(row, 0) else {
                continue;
            };
            if column(row, 1) == Some("t") {
                collations.push(format!("database {database}"));
            }
            let mut conn = self.own(Some(database))?;
            // Those of indexes only: a cluster knows hundreds that nothing uses.
            let used = conn.query(
                "select distinct c.collname from pg_index i, unnest(i.indcollation) used(id) \
                 join pg_collation c on c.oid = used.id where c.collversion is not null \
                 and c.collversion is distinct from pg_collation_actual_version(c.oid) order by 1",
            )?;
            let name = |row: &Row| column(row, 0).map(|name| format!("{name} in {database}"));
            collations.extend(used.iter().filter_map(name));
            let functions = conn.query(
                "select probin, count(*) from pg_proc where probin is not null group by 1",
            )?;
            for row in functions {
                let library = column(&row, 0).unwrap_or_default();
                let count = column(&row, 1).and_then(|n| n.parse().ok()).unwrap_or(1);
                if !is_here(library, &library_dir) {
                    *libraries.entry(library.to_owned()).or_default() += count;
                }
            }
        }
        if !collations.is_empty() {
            settled.doubts.push(format!(
                "text sorts otherwise here than at home, and indexes on text may be wrong: reindex ({})",
                names(&collations)
            ));
        }
        if !libraries.is_empty() {
            let each: Vec<_> = libraries
                .iter()
                .map(|(library, count)| format!("{library}: {count} functions"))
                .collect();
            settled.doubts.push(format!(
                "functions need libraries that are not installed here ({})",
                names(&each)
            ));
        }
        Ok(settled)
    }

    fn own(&self, database: Option<&str>) -> Result<Conn> {
        let mut config = self.config().clone();
        if let Some(database) = database {
            config = config.with_database(database);
        }
        config.options.push_str(OPTIONS);
        Conn::sql(&config)
    }

    fn reset(&self, conn: &mut Conn, settled: &mut Settled) -> Result<()> {
        let rows = conn.query(
            "select d.datname, r.rolname, c.entry from pg_db_role_setting s \
             left join pg_database d on d.oid = s.setdatabase left join pg_roles r on r.oid = s.setrole, \
             unnest(s.setconfig) c(entry) order by 1, 2, 3",
        )?;
        for row in rows {
            let entry = column(&row, 2).unwrap_or_default();
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            let loads = LOADING.iter().any(|one| name.eq_ignore_ascii_case(one));
            let fights = self.is_read_only() && name.eq_ignore_ascii_case(READ_ONLY);
            if !loads && !fights {
                continue;
            }
            let owner = match (column(&row, 0), column(&row, 1)) {
                (None, None) => "role all".to_owned(),
                (None, Some(role)) => format!("role {}", quote(role)),
                (Some(database), None) => format!("database {}", quote(database)),
                (Some(database), Some(role)) => {
                    format!("role {} in database {}", quote(role), quote(database))
                }
            };
            conn.query(&format!("alter {owner} reset {}", quote(name)))?;
            settled
                .reset
                .push(format!("{name} = '{value}' of {owner} was reset"));
        }
        Ok(())
    }
}

/// Whether a library is where the server looks for it: by its own rule, as named or with `.so`.
pub(super) fn is_here(library: &str, library_dir: &str) -> bool {
    let path = match library.strip_prefix("$libdir") {
        Some(rest) => format!("{library_dir}{rest}"),
        None if library.contains('/') => library.to_owned(),
        None => format!("{library_dir}/{library}"),
    };
    [format!("{path}.so"), path]
        .iter()
        .any(|path| Path::new(path).is_file())
}

fn names(all: &[String]) -> String {
    let shown = all[..all.len().min(NAMES)].join(", ");
    match all.len().saturating_sub(NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
