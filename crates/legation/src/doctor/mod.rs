//! What commonly goes wrong at an agent or an embassy, looked for in order, each with the command that mends it.
//!
//! It changes nothing but a file of a few bytes that it writes, syncs and removes, to see whether that works. No address
//! stands in what it says.

mod agent;
mod embassy;
mod machine;

use std::path::Path;

use serde::Serialize;

use crate::ctx::Ctx;
use crate::exit::{Code, Failure};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works; something is at risk.
    Warn,
    /// It does not work, or will not.
    Bad,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// How it came out.
    pub level: Level,
    /// A short fixed name, for programs.
    pub check: &'static str,
    /// What is so.
    pub what: String,
    /// The command, or the step, that mends it.
    pub fix: Option<String>,
}

/// All checks, told as they are made.
pub struct Findings<'a> {
    ctx: &'a Ctx,
    worst: Level,
    bad: usize,
    warned: usize,
}

impl<'a> Findings<'a> {
    fn new(ctx: &'a Ctx) -> Self {
        Self {
            ctx,
            worst: Level::Ok,
            bad: 0,
            warned: 0,
        }
    }

    fn tell(&mut self, finding: &Finding) {
        self.worst = self.worst.max(finding.level);
        self.bad += usize::from(finding.level == Level::Bad);
        self.warned += usize::from(finding.level == Level::Warn);
        let word = match finding.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Bad => "bad ",
        };
        let what = finding.what.replace('\n', " ");
        let fix = match &finding.fix {
            Some(fix) => format!("  -> {}", fix.replace('\n', " ")),
            None => String::new(),
        };
        let text = format!("{word}  {:<12} {what}{fix}", finding.check);
        self.ctx.out.fact("finding", finding, text);
    }

    /// It is as it should be.
    pub fn ok(&mut self, check: &'static str, what: impl Into<String>) {
        self.tell(&Finding {
            level: Level::Ok,
            check,
            what: what.into(),
            fix: None,
        });
    }

    /// Something is at risk.
    pub fn warn(&mut self, check: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        self.tell(&Finding {
            level: Level::Warn,
            check,
            what: what.into(),
            fix: Some(fix.into()),
        });
    }

    /// It does not work.
    pub fn bad(&mut self, check: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        self.tell(&Finding {
            level: Level::Bad,
            check,
            what: what.into(),
            fix: Some(fix.into()),
        });
    }

    /// A failure is bad, and has its own hint; what came of it otherwise is given back.
    pub fn keep<T>(
        &mut self,
        check: &'static str,
        result: Result<T, Failure>,
        otherwise: &str,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(failure) => {
                let fix = failure.hint.unwrap_or_else(|| otherwise.to_owned());
                self.bad(check, failure.message, fix);
                None
            }
        }
    }
}

/// Whose configuration a file is: an agent's has a spool, an embassy's a store.
#[derive(serde::Deserialize)]
struct Probe {
    spool: Option<toml::Value>,
    store: Option<toml::Value>,
}

/// Looks at everything.
///
/// # Errors
/// Code 1 when something is bad; code 2 when the file is nobody's configuration.
pub fn run(path: &Path, ctx: &Ctx) -> Result<(), Failure> {
    let probe: Probe = crate::config::load(path)?;
    let mut found = Findings::new(ctx);
    match (probe.spool, probe.store) {
        (Some(_), None) => agent::look(path, ctx, &mut found),
        (None, Some(_)) => embassy::look(path, ctx, &mut found),
        _ => {
            return Err(Failure::usage(format!(
                "{} is neither an agent's configuration nor an embassy's",
                path.display()
            ))
            .hint("legation doctor --config /etc/legation/agent.toml, or embassy.toml"));
        }
    }
    if found.bad > 0 {
        return Err(Failure::new(
            Code::Failed,
            format!("{} bad, {} at risk", found.bad, found.warned),
        )
        .hint("mend what is bad from the top down: one thing often follows from another"));
    }
    Ok(())
}
