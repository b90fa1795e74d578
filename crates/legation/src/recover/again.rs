//! A registry's invariants, asked again where it was started.

use legation_core::measure::Outcome;
use legation_registry::postgres::Server;
use legation_registry::postgres::ask::{Question, ask};

use crate::exit::Failure;

/// What came of asking them.
#[derive(Debug, Default)]
pub struct Again {
    /// Those that hold.
    pub passed: u32,
    /// Those that were asked: the ones that expect an answer.
    pub asked: u32,
    /// The first that does not hold, in words.
    pub broken: Option<String>,
}

/// Asks every invariant that expects an answer. One that does not hold makes the start doubtful and not unfit: it may
/// have been broken at home, and officers decide whether an older version is started.
///
/// # Errors
/// When the server does not answer at all.
pub fn invariants(
    server: &Server,
    questions: &[Question],
    stop: &dyn Fn() -> bool,
) -> Result<Again, Failure> {
    let expecting: Vec<_> = questions
        .iter()
        .filter(|question| question.expect.is_some())
        .cloned()
        .collect();
    let mut again = Again::default();
    if expecting.is_empty() {
        return Ok(again);
    }
    for answer in ask(server.config(), &expecting, stop)?.answers {
        again.asked += 1;
        if answer.outcome == Outcome::Holds {
            again.passed += 1;
        } else if again.broken.is_none() {
            again.broken = Some(format!(
                "the invariant {:?} does not hold: {}",
                answer.name, answer.outcome
            ));
        }
    }
    Ok(again)
}
