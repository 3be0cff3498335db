//! What differs between two copies and what to copy next.
//!
//! Decides the handshake (rows H1 to H16), who gives way after a split brain,
//! the pace of a copy and of a verify run. Does not know who may serve, locks
//! or contents.
//! Invariant: bytes flow only from a descendant generation to its ancestor or to an equal one (`may_flow`), or as a
//! ruling on a split says (`ruling`).

mod copy;
mod decide;
#[cfg(test)]
mod decide_tests;
mod pace;
mod resolve;
mod verify;

pub use copy::{CopyRun, Progress};
pub use decide::{Decision, Plan, SIZES_DIFFER, decide, hash, may_flow};
pub use pace::{Limits, Pace};
pub use resolve::{Ruling, Side, holds, next_number, ruling};
pub use verify::{Finding, Tally, Task, Trouble, Verify, VerifyProgress};
