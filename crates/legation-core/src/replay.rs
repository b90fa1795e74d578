//! Replaying a whole log offline: did the embassy ever do what the mandate did not allow?

use crate::attachments::Attachments;
use crate::policy::{Refusal, Rule, State};
use crate::statement::Entry;

/// What a replay found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Entries that the mandate allowed.
    pub applied: u64,
    /// Entries that repeat an earlier one, and change nothing.
    pub repeated: u64,
    /// Entries that the mandate did not allow, with their index. The fold went on after each.
    pub refused: Vec<(u64, Refusal)>,
    /// What the log has come to; `None` if its first entry founds no state.
    pub state: Option<State>,
}

impl Report {
    /// Whether there is a state and nothing in its log was outside the mandate.
    #[must_use]
    pub fn is_lawful(&self) -> bool {
        self.state.is_some() && self.refused.is_empty()
    }
}

/// Folds the leaves of a log, from entry 0, in order.
///
/// That the leaves *are* the log is for [`crate::log`] to show; this shows that they are lawful.
pub fn replay<T: AsRef<[u8]>>(
    leaves: impl IntoIterator<Item = T>,
    attachments: &dyn Attachments,
) -> Report {
    let mut report = Report {
        applied: 0,
        repeated: 0,
        refused: Vec::new(),
        state: None,
    };
    for (index, leaf) in (0_u64..).zip(leaves) {
        let leaf = leaf.as_ref();
        let outcome = match (Entry::parse(leaf), &mut report.state) {
            (Err(error), state) => {
                if let Some(state) = state {
                    state.skip(leaf);
                }
                Err(Refusal::new(Rule::Text, error.to_string()))
            }
            (Ok(entry), Some(state)) => state
                .apply(&entry, attachments)
                .map(|applied| applied.replay_of.is_some()),
            (Ok(entry), state) if index == 0 => State::found(&entry, attachments).map(|founded| {
                *state = Some(founded);
                false
            }),
            (Ok(_), None) => Err(Refusal::new(
                Rule::Founding,
                "the log's first entry founds no state, so nothing can follow it",
            )),
        };
        match outcome {
            Ok(false) => report.applied += 1,
            Ok(true) => report.repeated += 1,
            Err(refusal) => report.refused.push((index, refusal)),
        }
    }
    report
}

#[cfg(test)]
mod tests;
