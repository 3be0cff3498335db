//! Who may be primary: heartbeats, lease and promise, the witness, the gate.
//!
//! Decides nothing about blocks. Does not know links as connections, disks or clocks.

mod gate;
mod pulse;
mod standing;
mod witness;

pub use gate::{CopyFacts, Right, gate, gate_promote};
pub use pulse::{Heard, Pulse};
pub use standing::{Standing, standing, witness_record};
pub use witness::{Asked, Witness, WitnessImage};
