//! What kind of world a run is.

use crate::disk::Faults;
use crate::line::Weather;

/// Bounds and odds of one run.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Steps of the run.
    pub steps: u64,
    /// Registries, each with an agent of its own: at most 3.
    pub registries: usize,
    /// How the line behaves.
    pub weather: Weather,
    /// How often the embassy's disk fails by itself, in thousandths of all changes.
    pub embassy: Faults,
    /// How often an agent's disk does.
    pub agent: Faults,
    /// Shortest and longest time between two steps, in milliseconds.
    pub pace: (u64, u64),
    /// How long an epoch of keys lasts, in milliseconds.
    pub epoch: u64,
    /// Thousandths of all steps in which the embassy loses power.
    pub embassy_outages: usize,
    /// Thousandths of all steps in which an agent does.
    pub agent_outages: usize,
    /// Thousandths of all steps in which a machine at home is set back or cloned.
    pub set_back: usize,
    /// Thousandths of all steps in which the embassy's clock jumps, by up to years.
    pub clock: usize,
    /// Thousandths of all steps in which officers do something.
    pub officers: usize,
    /// Thousandths of all steps in which the thief does.
    pub thief: usize,
    /// Thousandths of all steps in which the embassy's disk fills, for a while.
    pub full: usize,
    /// Steps between two checks of the whole store; 0 for one at the end only.
    pub scrub: u64,
    /// Whether the host changes bytes in the end.
    pub insider: bool,
}

impl Profile {
    /// What most seeds are: a few hours in which everything goes wrong.
    #[must_use]
    pub fn storm(seed: u64) -> Self {
        let calm = seed.is_multiple_of(4);
        let faults = |refused, late| Faults { refused, late };
        Self {
            steps: 260,
            registries: 1 + (seed % 3) as usize,
            weather: Weather {
                lost: if calm { 0 } else { 8 },
                twice: if calm { 0 } else { 10 },
                slowest: if calm { 1 } else { 6 },
            },
            embassy: if calm { faults(0, 0) } else { faults(3, 2) },
            agent: if calm { faults(0, 0) } else { faults(1, 1) },
            pace: (1, 90_000),
            epoch: 3_600_000,
            embassy_outages: 22,
            agent_outages: 18,
            set_back: if seed.is_multiple_of(2) { 25 } else { 0 },
            clock: if seed.is_multiple_of(5) { 10 } else { 0 },
            officers: 90,
            thief: if seed.is_multiple_of(3) { 30 } else { 0 },
            full: if seed.is_multiple_of(7) { 12 } else { 0 },
            scrub: 0,
            insider: seed % 6 == 5,
        }
    }

    /// Ninety days on which nobody comes: power fails now and then abroad and at home, the line is bad, and nothing is
    /// ordered.
    #[must_use]
    pub fn unattended(seed: u64) -> Self {
        Self {
            // Ninety days in steps of two and a half minutes on average.
            steps: 51_840,
            registries: 2,
            pace: (0, 300_000),
            epoch: 12 * 3_600_000,
            embassy: Faults {
                refused: 1,
                late: 0,
            },
            agent: Faults::default(),
            embassy_outages: 1,
            agent_outages: 1,
            set_back: 0,
            clock: 0,
            officers: 0,
            thief: 0,
            full: 0,
            // Every week.
            scrub: 4_032,
            insider: false,
            ..Self::storm(4 * seed + 1)
        }
    }
}
