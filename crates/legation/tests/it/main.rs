//! The whole program, as people meet it: real processes, real PostgreSQL, real TLS, stock tools as judges.
//!
//! Worlds come from `legation-world`, which uses none of the program's code.

mod accidents;
mod activation;
mod agent;
mod doctor;
mod full;
mod golden;
mod healing;
mod hostile;
mod house;
mod kills;
mod living;
mod measured;
mod point;
mod refusals;
mod release;
mod releases;
mod rest;
mod secrecy;
mod shape;
mod sources;
mod sqlite;
mod survive;
mod watched;
