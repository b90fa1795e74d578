//! Configuration files: TOML in which an unknown key is an error that names the key that was probably meant.

pub mod agent;
pub mod catalogue;
pub mod embassy;
pub mod locators;
pub mod person;
pub mod sources;
pub mod suggest;
pub mod units;

#[cfg(test)]
mod tests;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::exit::{Code, Failure};

/// The only format of configuration files so far.
pub const FORMAT: u32 = 1;
/// Nobody writes a larger configuration by hand; a larger file is the wrong file.
const MAX_FILE: u64 = 4 << 20;

/// Where an identity is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityAt {
    /// A file with mode 0600.
    pub file: PathBuf,
}

/// Reads a TOML file into `T`.
///
/// # Errors
/// Code 2 when the file is missing, too large or not of this shape; the message carries file, line and suggestion.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let about = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if about.len() > MAX_FILE {
        return Err(Failure::usage(format!(
            "{} is too large for a configuration file",
            path.display()
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    parse(&text, path)
}

/// Parses TOML text; `path` is only for messages.
///
/// # Errors
/// As [`load`].
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, Failure> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| {
            text.get(..span.start)
                .unwrap_or_default()
                .matches('\n')
                .count()
                + 1
        });
        let place = match line {
            Some(line) => format!("{}:{line}", path.display()),
            None => path.display().to_string(),
        };
        match suggest::from_serde(error.message()) {
            Some(told) => {
                let failure = Failure::usage(format!("{place}: {}", told.message));
                match told.hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            }
            None => Failure::usage(format!("{place}: {}", error.message())),
        }
    })
}

/// Refuses a `format` that this program does not know.
///
/// # Errors
/// Code 2.
pub fn check_format(format: u32, path: &Path) -> Result<(), Failure> {
    if format == FORMAT {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{}: format {format} is not known to this program, which reads format {FORMAT}",
        path.display()
    )))
}

/// Refuses a file that others than its owner may read or write, or that is not its reader's own.
///
/// # Errors
/// Code 2 with the `chmod` that mends it.
pub fn check_private(path: &Path) -> Result<(), Failure> {
    let about = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    let mode = about.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Failure::usage(format!(
            "{} has mode {mode:04o}; others may read it",
            path.display()
        ))
        .hint(format!("chmod 600 {}", path.display())));
    }
    let me = rustix::process::geteuid();
    if !me.is_root() && about.uid() != me.as_raw() {
        return Err(Failure::usage(format!(
            "{} belongs to another user",
            path.display()
        )));
    }
    Ok(())
}

/// A path as written in a file, made relative to that file's directory.
pub fn beside(file: &Path, path: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if path.is_relative() => parent.join(path),
        _ => path.to_owned(),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::Usage, format!("{}: {error}", path.display()))
}

/// Where metrics are served: on this machine only, unless the configuration says otherwise. They name states and
/// registries, and whoever reaches the address reads them.
///
/// # Errors
/// Code 2 when it is no address, or reaches beyond this machine unasked.
pub fn metrics_address(
    listen: Option<&str>,
    beyond_loopback: bool,
) -> Result<Option<std::net::SocketAddr>, Failure> {
    let Some(listen) = listen else {
        return Ok(None);
    };
    let address: std::net::SocketAddr = listen.parse().map_err(|why| {
        Failure::usage(format!("metrics_listen: {listen:?}: {why}"))
            .hint("write it as \"127.0.0.1:9743\"")
    })?;
    if !beyond_loopback && !address.ip().is_loopback() {
        return Err(Failure::usage(
            "metrics_listen is an address that other machines may reach, and metrics are served to everybody, in the clear",
        )
        .hint("listen on 127.0.0.1 or [::1], or set metrics_beyond_loopback = true"));
    }
    Ok(Some(address))
}
