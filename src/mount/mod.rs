//! FUSE: requests of the kernel become calls of `fs`; the only module that names fuser.
//!
//! Decides which flags are asked of the kernel, which thread answers what, and how a mount begins and ends. Does not
//! know peers. Invariant: a thread that reads requests never waits for a disk or a peer.

mod errno;
mod options;

pub use options::{Atime, MountOptions, UnknownOption};
