//! The whole program, as people meet it: real processes, real PostgreSQL, real TLS, stock tools as judges.
//!
//! Worlds come from `legation-world`, which uses none of the program's code.

mod activation;
mod agent;
mod full;
mod golden;
mod hostile;
mod house;
mod kills;
mod refusals;
mod release;
mod releases;
mod secrecy;
mod shape;
mod survive;
mod watched;
