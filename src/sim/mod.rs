//! The world for deterministic simulation: two whole nodes and a witness with the production image, filesystem, node
//! and mirror code, on simulated disks, links and clocks, under faults, watched by an oracle.
//!
//! Decides what goes wrong and when. Does not know the real machine. Invariants: one seed is one run (the trace hash
//! repeats); exactly one thread runs at a time.

mod baton;
mod disk;
mod model;
mod net;
mod rng;
mod sched;
mod trace;

pub use trace::Trace;
