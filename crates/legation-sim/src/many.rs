//! Many seeds on several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use legation_core::canary::Bug;

use crate::counts::Counts;
use crate::profile::Profile;
use crate::world::{Outcome, run};

/// How many of the last events a report shows.
const SHOWN: usize = 30;

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Ran {
    /// What happened in all of them.
    pub counts: Counts,
    /// In how many a checker found something.
    pub found: u64,
    /// The first of those, by seed.
    pub first: Option<Outcome>,
}

impl Outcome {
    /// What was found, how to see it again, and the last events.
    #[must_use]
    pub fn report(&self) -> String {
        let Some(violation) = &self.violation else {
            return format!("seed {}: nothing was found, trace {}", self.seed, self.hash);
        };
        let last: Vec<&str> = self.last.iter().map(String::as_str).collect();
        let shown = last[last.len().saturating_sub(SHOWN)..].join("\n");
        format!(
            "{shown}\nseed {}: {violation}\nto see it again: make sim SEED={}",
            self.seed, self.seed
        )
    }
}

/// Runs these seeds. `say` hears of each in which something was found, from any thread.
#[must_use]
pub fn many(
    seeds: Range<u64>,
    threads: usize,
    profile: &(dyn Fn(u64) -> Profile + Sync),
    bug: Option<Bug>,
    say: &(dyn Fn(&Outcome) + Sync),
) -> Ran {
    let next = AtomicU64::new(seeds.start);
    let ran = Mutex::new(Ran::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed, &profile(seed), bug, false);
                    let mut ran = ran.lock().unwrap_or_else(PoisonError::into_inner);
                    ran.counts += outcome.counts;
                    if outcome.violation.is_some() {
                        say(&outcome);
                        ran.found += 1;
                        if ran.first.as_ref().is_none_or(|first| seed < first.seed) {
                            ran.first = Some(outcome);
                        }
                    }
                }
            });
        }
    });
    ran.into_inner().unwrap_or_else(PoisonError::into_inner)
}
