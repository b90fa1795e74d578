//! Where the programs of each PostgreSQL release are: 15 as the distribution installs it, the others as `.ci/servers`
//! unpacks them below the target directory.
//!
//! `LEGATION_SERVER_16=<directory>` and its like name another place.

use std::path::PathBuf;

use crate::error::{Result, failed};

/// The releases that there are servers of.
pub const MAJORS: [u32; 4] = [15, 16, 17, 18];

/// The directory of a release's programs, without links in its path. Not every release has them all here: 16 has
/// `initdb`, `pg_ctl` and `postgres` only.
pub fn bin(major: u32) -> Result<PathBuf> {
    let named = std::env::var_os(format!("LEGATION_SERVER_{major}")).map(PathBuf::from);
    let installed = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    // Whatever runs this was built below the target directory.
    let program = std::env::current_exe().unwrap_or_default();
    let fetched = program
        .ancestors()
        .map(|dir| dir.join(format!("servers/{major}/bin")));
    let found = match named {
        Some(dir) => Some(dir)
            .into_iter()
            .find(|dir| dir.join("initdb").exists()),
        None => std::iter::once(installed)
            .chain(fetched)
            .find(|dir| dir.join("initdb").exists()),
    };
    match found.and_then(|dir| dir.canonicalize().ok()) {
        Some(dir) => Ok(dir),
        None => failed(format!(
            "no PostgreSQL {major} is here: run `.ci/need servers`"
        )),
    }
}
