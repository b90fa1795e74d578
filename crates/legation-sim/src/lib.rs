//! The simulation: one seed drives a whole world through the shipping code, and checkers watch it.
//!
//! Registries write, agents seal and stream, lose power and are set back; lines lose, repeat and reorder; an embassy
//! crashes at any step, its disk fails and fills, its clock jumps; officers order, rightly and wrongly; a thief has all
//! of home's keys; the host changes bytes. Fold, store, log, journals, admission, sequencing, sealing, writer, reader
//! and checker are the ones that ship. What is modelled is said in `docs/simulation.md`.
//!
//! A run depends on its seed alone. See [`run`].
#![cfg(feature = "hooks")]

pub mod agent;
pub mod audit;
pub mod counts;
pub mod dice;
pub mod disk;
pub mod founding;
pub mod insider;
pub mod line;
pub mod many;
pub mod officers;
pub mod profile;
pub mod restore;
pub mod site;
pub mod source;
pub mod thief;
pub mod trace;
pub mod world;

pub use counts::Counts;
pub use many::{Ran, many};
pub use profile::Profile;
pub use world::{Outcome, run};
