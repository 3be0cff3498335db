//! How one block operation happens on both members: lock, make hot, digest, submit, wait; and how the actions of a
//! node are executed on its image. The same code runs in the daemon and in the simulator.
//!
//! Decides the order of the steps of one operation. Does not know sockets, threads, or why the node decided so.
//!
//! # Threads
//!
//! * `Blocks` calls (read, write, flush, ...) come from any thread and block until their moment.
//! * Four threads of the owner run `work(Worker::Apply)`, `Store`, `Copy` and `Check`; each returns when the
//!   environment halts. They may block on the disk, Copy also on the peer's answer, Check on all that a caller may.
//! * `deliver` (any event) and `received` (a message with its payload) never block and are called from any thread:
//!   link readers, timers, the witness's client. They step the machine and execute what does not block, in order, under
//!   the core's lock; the rest becomes work for the three threads, whose results come back as events.
//! * The environment's `send`, `order`, `tick_at` and `wake` are called under that lock: they queue, nothing else.
//!
//! # Invariants
//!
//! * Two operations never overlap on one block; the interval lock is held from digest to done on all members, so local
//!   order, stream order and lock order are one order.
//! * An extent is hot before the first write into it, on each member by its own log.
//! * An extent may leave the log only for writes that both a local flush and a flush of all members followed.
//! * After `Halted` nothing is answered as done.

mod back;
mod copy;
mod core;
mod env;
mod fetch;
#[cfg(test)]
mod hostile_tests;
mod machine;
mod ops;
mod payload;
mod rot;
#[cfg(test)]
mod tests;
mod verify;
#[cfg(test)]
mod verify_tests;
mod work;

pub use core::Mirror;
pub use env::{Env, Halted, Key, Parking, Worker};
pub use machine::Machine;
pub use payload::Payload;
pub use rot::Rot;
