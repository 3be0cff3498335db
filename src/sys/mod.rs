//! Every system call of the program and its only `unsafe`; the shells call these functions.
//!
//! Decides nothing about twinfs: a function here does what its name says to the machine and reports what happened.

pub mod background;
pub mod mount;
pub mod signals;
pub mod xattr;
