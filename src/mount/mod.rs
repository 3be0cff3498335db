//! FUSE: requests of the kernel become calls of `fs`; the only module that names fuser.
//!
//! Decides which flags are asked of the kernel, which thread answers what, and how a mount begins, goes from one
//! process to the next, and ends. Does not know peers. Invariant: a thread that reads requests never waits for a disk
//! or a peer.

mod adapter;
mod attr;
mod commits;
mod desk;
mod errno;
mod ioctl;
mod kept;
mod mounted;
mod options;
mod park;
mod served;
mod session;
mod threads;
mod worker;

pub use commits::Answer;
pub use desk::{Desk, Judge};
pub use kept::Kept;
pub use mounted::{MountError, Mounted, Unmounted, Ways, check_place, unmount_path};
pub use options::{MountOptions, UnknownOption};
pub use served::Gate;
pub use threads::{FsThreads, Job};
