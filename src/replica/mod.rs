//! The ordered stream between two members, both ends.
//!
//! Decides when an operation may be acknowledged and which blocks a peer may lack. Does not know who is primary,
//! how blocks are copied, or contents. Invariants: sequence numbers have no gaps; an operation is acknowledged at
//! most once; what leaves the stream unfinished is in `unsafe_runs`.

mod inbox;
mod outbox;
mod runs;

pub use inbox::Inbox;
pub use outbox::{Acked, Op, OpId, Outbox};
pub use runs::merge;
