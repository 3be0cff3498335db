//! FUSE: requests of the kernel become calls of `fs`; the only module that names fuser.
//!
//! Decides which flags are asked of the kernel, which thread answers what, and how a mount begins and ends. Does not
//! know peers. Invariant: a thread that reads requests never waits for a disk or a peer.

mod adapter;
mod attr;
mod commits;
mod errno;
mod ioctl;
mod mounted;
mod options;
mod served;
mod threads;
mod worker;

pub use commits::Answer;
pub use mounted::{MountError, Mounted, Unmounted, check_place, unmount_path};
pub use options::{MountOptions, UnknownOption};
pub use served::Gate;
pub use threads::{FsThreads, Job};
