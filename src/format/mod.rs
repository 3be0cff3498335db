//! Bytes on disk: fixed little-endian structs with sizes asserted at compile time, and the plain values they encode.
//!
//! Decides where each byte lies. Does not know devices, files or peers.

mod state;

pub use state::{GenEntry, GenReason, ResyncMark, State};
