//! The pure core of Legation: format, sealing, statements, log and the fold. No I/O, no clock, no randomness.

// Format and sealing (spec/format.md, spec/sealing.md).
pub mod codec;
pub mod error;
pub mod id;
pub mod journal;
pub mod keys;
pub mod list;
pub mod log;
pub mod manifest;
pub mod pack;
pub mod release;
pub mod shamir;
pub mod size;
pub mod slip;
pub mod source;
pub mod suite;
pub mod vault;

// What versions say beside their data (spec/format.md).
pub mod catalogue;
pub mod measure;

// Statements and the fold (spec/statements.md).
pub mod annex;
pub mod attachments;
pub mod keyring;
pub mod mandate;
pub mod order;
pub mod policy;
pub mod replay;
pub mod sshsig;
pub mod statement;

#[cfg(any(test, feature = "example"))]
pub mod example;
#[cfg(test)]
mod testing;
