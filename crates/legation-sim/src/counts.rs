//! What happened, in numbers.

use std::fmt;
use std::ops::AddAssign;

use crate::restore::Compared;

/// What happened in one or more runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs.
    pub runs: u64,
    /// Steps.
    pub steps: u64,
    /// Power failures and killed processes at the embassy.
    pub embassy_crashes: u64,
    /// The same at home.
    pub agent_crashes: u64,
    /// Changes of files that failed.
    pub faults: u64,
    /// Writes that a power failure took back or tore.
    pub undone: u64,
    /// Requests that reached the embassy.
    pub requests: u64,
    /// Requests that were refused.
    pub refusals: u64,
    /// Entries in the logs.
    pub entries: u64,
    /// Orders that were accepted.
    pub orders: u64,
    /// Orders that were refused.
    pub orders_refused: u64,
    /// Activations that opened something.
    pub activations: u64,
    /// What a thief sent.
    pub thefts: u64,
    /// Machines that were set back.
    pub set_back: u64,
    /// Bytes that the host changed, and histories that it rolled back.
    pub tampered: u64,
    /// Things sealed, each under a key and nonce of its own.
    pub sealed: u64,
    /// Receipts that were checked.
    pub receipts: u64,
    /// What was compared at the end.
    pub compared: Compared,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.runs += more.runs;
        self.steps += more.steps;
        self.embassy_crashes += more.embassy_crashes;
        self.agent_crashes += more.agent_crashes;
        self.faults += more.faults;
        self.undone += more.undone;
        self.requests += more.requests;
        self.refusals += more.refusals;
        self.entries += more.entries;
        self.orders += more.orders;
        self.orders_refused += more.orders_refused;
        self.activations += more.activations;
        self.thefts += more.thefts;
        self.set_back += more.set_back;
        self.tampered += more.tampered;
        self.sealed += more.sealed;
        self.receipts += more.receipts;
        self.compared.versions += more.compared.versions;
        self.compared.bytes += more.compared.bytes;
        self.compared.streams += more.compared.streams;
        self.compared.wal += more.compared.wal;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compared {
            versions,
            streams,
            wal,
            ..
        } = self.compared;
        writeln!(f, "{} runs of {} steps", self.runs, self.steps)?;
        writeln!(
            f,
            "  {} crashes abroad, {} at home; {} changes of files failed, {} writes undone or torn by power failures",
            self.embassy_crashes, self.agent_crashes, self.faults, self.undone
        )?;
        writeln!(
            f,
            "  {} requests, {} refused; {} entries logged; {} acts of a thief; {} machines set back; {} tamperings",
            self.requests, self.refusals, self.entries, self.thefts, self.set_back, self.tampered
        )?;
        writeln!(
            f,
            "  {} orders accepted, {} refused; {} activations opened something",
            self.orders, self.orders_refused, self.activations
        )?;
        write!(
            f,
            "  {} receipts hold; {versions} versions and {streams} streams with {wal} bytes of log came back as they were; \
             {} things sealed, none under a key and nonce used before",
            self.receipts, self.sealed
        )
    }
}
