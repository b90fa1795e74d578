//! The embassy over real TLS on loopback: what is taken, what is refused, and what survives any stop.

mod check;
#[cfg(feature = "faults")]
mod faults;
mod folded;
mod journals;
mod objects;
mod orders;
mod restarts;
mod statements;
mod transport;
mod world;
