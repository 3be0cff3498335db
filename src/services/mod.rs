//! What runs on top of a volume: service addresses, services, and directories moved onto the mount.
//!
//! Decides how an address is raised and kept alive, in which order services start and stop, what the death of one
//! costs, and how a directory is moved without a moment in which its content is in no place. Does not know who is
//! primary or why: `daemon` says *up* and *down*. Invariants: an address has a kernel lifetime, so that it vanishes by
//! itself when nobody renews it; `down` is bounded in time.

pub mod address;
pub mod adopt;
pub mod agent;
mod judge;
pub mod plan;
pub mod run;
pub mod tree;

pub use judge::{Health, Outcome, Verdict};
