//! Statements: short signed texts that a person can read. Everything that happens to a state's data is one.
//!
//! [`text`] has the grammar, [`kinds`] the one table of kinds and fields, [`signed`] a text with its signatures and
//! [`entry`] the leaf of the log. This module reads and writes; whether a statement is *allowed* is for
//! [`crate::policy`] alone. Normative text: `spec/statements.md`.

pub mod entry;
pub(crate) mod field;
pub mod kinds;
pub mod row;
pub mod signed;
pub mod text;
pub mod value;
pub mod word;

pub use entry::Entry;
pub use field::{Field, Rows};
pub use kinds::*;
pub use row::*;
pub use signed::{Signature, Signed, Signer};
pub use text::ParseError;
pub use value::*;
pub use word::*;

#[cfg(test)]
mod tests;
