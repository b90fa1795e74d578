//! The `legation` binary and the stock tools beside it, run as a person runs them: arguments in, exit code and text
//! out. What is typed is kept here in one place.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Doing, Result, failed};
use crate::process::{Ran, run};

/// No command here may take longer.
const LONGEST: Duration = Duration::from_secs(300);

/// The binary under test, with an environment that holds nothing of ours.
#[derive(Debug, Clone)]
pub struct Legation {
    program: PathBuf,
    home: PathBuf,
}

impl Legation {
    /// The program at `program`, run with `home` as home and working directory.
    pub fn new(program: &Path, home: &Path) -> Result<Self> {
        if !program.is_file() {
            return failed(format!(
                "{} is not there: cargo build --bin legation",
                program.display()
            ));
        }
        Ok(Self {
            program: program.into(),
            home: home.into(),
        })
    }

    /// The program itself.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A command with these arguments, not yet run.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(&self.home).env_clear();
        for keep in ["PATH", "LANG"] {
            if let Some(value) = std::env::var_os(keep) {
                command.env(keep, value);
            }
        }
        command.env("HOME", &self.home).env("NO_COLOR", "1");
        command
    }

    /// Runs it to its end, whatever the outcome.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Ran> {
        run(self.command(args), b"", LONGEST)
    }

    /// Runs it and demands success.
    pub fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Ran> {
        self.run(args)?.ok()
    }
}

impl Ran {
    /// The JSON objects that `--json` printed.
    pub fn records(&self) -> Result<Vec<Value>> {
        records(&self.out)
    }

    /// The first JSON object of that `message_type`.
    pub fn record(&self, message_type: &str) -> Result<Value> {
        let found = self
            .records()?
            .into_iter()
            .find(|v| v["message_type"] == message_type);
        found.doing(format_args!(
            "looking for {message_type:?} in what `{}` printed",
            self.line
        ))
    }
}

/// JSON objects, one a line.
pub fn records(text: &str) -> Result<Vec<Value>> {
    let parse = |line: &str| {
        serde_json::from_str(line)
            .ok()
            .doing(format_args!("reading {line:?} as JSON"))
    };
    text.lines()
        .filter(|l| !l.trim().is_empty())
        .map(parse)
        .collect()
}

/// Runs a stock tool of the system.
pub fn stock<S: AsRef<std::ffi::OsStr>>(
    tool: &str,
    args: impl IntoIterator<Item = S>,
    input: &[u8],
) -> Result<Ran> {
    let mut command = Command::new(tool);
    command
        .args(args)
        .env_remove("SSH_AUTH_SOCK")
        .current_dir("/");
    run(command, input, LONGEST)
}

/// Path and options of a command line as strings, for the many that mix both.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        [$(std::ffi::OsString::from(&$arg)),*]
    };
}
