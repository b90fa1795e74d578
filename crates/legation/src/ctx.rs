//! What every verb is given: where output goes, which configuration counts, and whether to stop.

use std::path::{Path, PathBuf};

use crate::exit::Failure;
use crate::output::Output;
use crate::stop::Stop;
use crate::watch::Watch;

/// The surroundings of one run.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// Where results, progress and notes go.
    pub out: Output,
    /// `--config` or `LEGATION_CONFIG`; each verb knows its own default.
    pub config: Option<PathBuf>,
    /// `LEGATION_STATE`: the state's fingerprint, which then must match the configuration's.
    pub state: Option<String>,
    /// `LEGATION_IDENTITY`: the identity file, in place of the configured one.
    pub identity: Option<PathBuf>,
    /// `LEGATION_CACHE_DIR`: what may be lost without harm.
    pub cache_dir: Option<PathBuf>,
    /// Raised by SIGINT and SIGTERM.
    pub stop: Stop,
}

impl Ctx {
    /// The configuration file of a role: the one named, or the role's usual place.
    pub fn config_or(&self, usual: &str) -> PathBuf {
        self.config.clone().unwrap_or_else(|| PathBuf::from(usual))
    }

    /// The configuration of the person at the keyboard (`legation.toml`): named, else in the home directory, else in
    /// `/etc/legation`.
    ///
    /// # Errors
    /// When there is none, or it does not parse.
    pub fn person(&self) -> Result<crate::config::person::Person, Failure> {
        let path = match &self.config {
            Some(path) => path.clone(),
            None => crate::config::person::usual_place(),
        };
        let mut person = crate::config::person::Person::load(&path)?;
        if let Some(identity) = &self.identity {
            person.identity.file.clone_from(identity);
        }
        if let Some(state) = &self.state
            && *state != person.state
        {
            return Err(Failure::new(
                crate::exit::Code::Refused,
                format!(
                    "LEGATION_STATE is {state}, but {} is of {}",
                    path.display(),
                    person.state
                ),
            ));
        }
        Ok(person)
    }

    /// As [`Ctx::person`], for what can also be done on a machine that is not set up: none when none was named and none
    /// is where it usually lies. One that is there and does not hold is an error, not none.
    ///
    /// # Errors
    /// When it does not parse, or is of another state than `LEGATION_STATE`.
    pub fn person_if_any(&self) -> Result<Option<crate::config::person::Person>, Failure> {
        if self.config.is_none() && !crate::config::person::usual_place().exists() {
            return Ok(None);
        }
        self.person().map(Some)
    }

    /// A long step called `what`, counted in `unit`, that a person watches and may break off.
    pub fn watch(&self, what: &str, unit: &'static str) -> Watch {
        Watch::new(self.out.progress(what, unit, None), &self.stop)
    }

    /// Where things are kept that may be lost without harm.
    pub fn cache(&self) -> PathBuf {
        if let Some(dir) = &self.cache_dir {
            return dir.clone();
        }
        if let Some(dir) = std::env::var_os("XDG_CACHE_HOME") {
            return Path::new(&dir).join("legation");
        }
        match std::env::var_os("HOME") {
            Some(home) => Path::new(&home).join(".cache/legation"),
            None => std::env::temp_dir().join("legation"),
        }
    }
}
