//! Configuration that lies outside the data directory, as distributions have it: captured with the version, so that people
//! can read abroad what applied at home. It never acts there; see `restore`.

use std::collections::BTreeSet;
use std::path::Path;

use super::conn::Conn;
use super::probe::{column, quote};
use super::url::{ConnectConfig, Host};
use crate::{Error, Result};

/// Where the files go in a version: the path of each below this name.
pub(crate) const CONFIGURATION: &str = "configuration.captured";
/// A file of settings or access rules larger than this is none.
const MAX_FILE: usize = 4 << 20;
/// Files that one cluster may include.
const MAX_FILES: usize = 256;

/// What is outside, and what of it cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// Absolute paths at home and what is in them.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Absolute paths that cannot be read, each with the reason.
    pub(crate) unread: Vec<(String, String)>,
    /// Whether the role may not even see where the configuration lies.
    pub(crate) hidden: bool,
}

impl Outside {
    /// Looks at the files, by SQL, and beside the server by opening them.
    pub(crate) fn look(conn: &mut Conn, config: &ConnectConfig) -> Result<Self> {
        let mut outside = Outside::default();
        let places = conn.query(
            "select name, setting from pg_settings \
             where name in ('data_directory', 'config_file', 'hba_file', 'ident_file')",
        )?;
        let place = |name: &str| {
            let row = places.iter().find(|row| column(row, 0) == Some(name))?;
            column(row, 1).map(str::to_owned)
        };
        let Some(data) = place("data_directory") else {
            outside.hidden = true;
            return Ok(outside);
        };
        let mut paths: BTreeSet<String> = ["config_file", "hba_file", "ident_file"]
            .into_iter()
            .filter_map(place)
            .collect();
        // Asked first: a query that is refused would stand in the server's log at every connection.
        let rights = conn.query(
            "select has_table_privilege('pg_catalog.pg_file_settings', 'select') \
               and has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'execute'), \
             pg_has_role('pg_read_server_files', 'usage') \
               and has_function_privilege('pg_catalog.pg_read_binary_file(text)', 'execute')",
        )?;
        let may = |at| rights.first().and_then(|row| column(row, at)) == Some("t");
        // Every file that is included, or only those whose settings apply, as the role's rights go.
        let included = match may(0) {
            true => "select distinct sourcefile from pg_file_settings",
            false => "select distinct sourcefile from pg_settings where sourcefile is not null",
        };
        let rows = conn.query(included)?;
        paths.extend(
            rows.iter()
                .filter_map(|row| column(row, 0))
                .map(str::to_owned),
        );
        let is_outside =
            |path: &&String| path.starts_with('/') && !Path::new(path).starts_with(&data);
        for path in paths.iter().filter(is_outside).take(MAX_FILES) {
            match read(conn, config, path, may(1))? {
                Ok(bytes) => outside.files.push((path.clone(), bytes)),
                Err(why) => outside.unread.push((path.clone(), why)),
            }
        }
        Ok(outside)
    }

    /// What a person should know, and the command that mends it.
    pub(crate) fn finding(&self, config: &ConnectConfig) -> Option<(String, String)> {
        let role = quote(&config.user);
        if self.hidden {
            return Some((
                format!(
                    "role {} may not see where the configuration lies: what is outside the data directory is not captured",
                    config.user
                ),
                format!("run as a superuser: GRANT pg_read_all_settings TO {role}"),
            ));
        }
        let names: Vec<_> = self.unread.iter().map(|(path, _)| path.as_str()).collect();
        let (_, why) = self.unread.first()?;
        Some((
            format!(
                "configuration outside the data directory is not captured: {} ({why})",
                names.join(", ")
            ),
            format!(
                "run as a superuser in database {}: GRANT pg_read_server_files TO {role}; GRANT EXECUTE ON FUNCTION \
                 pg_catalog.pg_read_binary_file(text) TO {role}; or, to let the role read no other file, run the agent beside the \
                 server on its Unix socket as a user that can read them",
                quote(&config.database)
            ),
        ))
    }
}

/// Reads one file; the inner error says why it cannot be.
fn read(
    conn: &mut Conn,
    config: &ConnectConfig,
    path: &str,
    may: bool,
) -> Result<std::result::Result<Vec<u8>, String>> {
    // On a Unix socket the server's files are this machine's, and no right in the database is needed.
    if matches!(config.host, Host::Unix(_))
        && let Ok(bytes) = std::fs::read(path)
    {
        return Ok(bounded(bytes));
    }
    if !may {
        return Ok(Err("the role may not read files of the server".into()));
    }
    let literal = path.replace('\'', "''");
    // Strings are literal whatever the database's setting says.
    let query = format!(
        "set standard_conforming_strings = on; select encode(pg_catalog.pg_read_binary_file('{literal}'), 'hex')"
    );
    match conn.scalar(&query) {
        Ok(hex) => {
            let bytes = super::base::unhex(&hex.unwrap_or_default());
            Ok(bytes.map_or_else(|| Err("the server sends no bytes".into()), bounded))
        }
        Err(Error::Server(e)) if e.severity == "ERROR" => Ok(Err(e.message.clone())),
        Err(e) => Err(e),
    }
}

fn bounded(bytes: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
    if bytes.len() > MAX_FILE {
        return Err(format!("it is larger than {MAX_FILE} bytes"));
    }
    Ok(bytes)
}
