//! The world for deterministic simulation: two whole nodes and a witness with the production image, filesystem, node
//! and mirror code, on simulated disks, links and clocks, under faults, watched by an oracle.
//!
//! Decides what goes wrong and when. Does not know the real machine. Invariants: one seed is one run (the trace hash
//! repeats); exactly one thread runs at a time.

mod baton;
mod check;
mod disk;
mod env;
mod faults;
mod fence;
mod files;
mod life;
mod lost_source;
mod model;
mod mutations;
mod net;
mod options;
mod oracle;
mod pool;
mod rng;
mod run;
mod sched;
mod serve;
mod settle;
mod trace;
mod watch;
mod witness;
mod world;

pub use faults::KINDS as FAULTS;
pub use mutations::{BOTH_LOGS, MUTATIONS, Mutation, RECEIVER_LOG, mutation};
pub use options::{Options, Outcome};
pub use pool::run_many;
pub use run::run;
