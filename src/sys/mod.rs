//! Every system call of the program and its only `unsafe`; the shells call these functions.
//!
//! Decides nothing about twinfs: a function here does what its name says to the machine and reports what happened.

pub mod address;
mod aio;
mod arp;
pub mod arrival;
pub mod background;
pub mod clock;
pub mod disk;
pub mod exec;
pub mod handover;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod notify;
pub mod ping;
pub mod process;
pub mod random;
pub mod realtime;
pub mod secret;
pub mod serial;
pub mod signals;
pub mod tcp;
pub mod wake;
pub mod xattr;
