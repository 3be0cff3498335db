//! twinfs gives two Linux machines one directory that survives the loss of either.
//!
//! ```text
//!    services on /replicated -- kernel -- FUSE
//!  mount/   fuser adapter: requests -> fs calls, errno table
//!  fs/      the filesystem over `trait Blocks`; does not know that a peer exists
//!  mirror/  `Blocks` on two members: local image + peer, one home for the write path
//!  image/   the block image: digests, activity log, bitmap, superblock slots
//!  node/    joins replica/ + resync/ + cluster/: step(now, event) -> actions      (pure, simulated)
//!  link/ sys/ daemon/ services/ cli/ history/   shells: the only code that touches the machine
//!  base/ format/ wire/ config/ events/          vocabulary, bytes on disk, bytes on links, settings
//!  sim/     the world for deterministic simulation
//! ```
//!
//! Who may use whom is held by the `tidy` test; ARCHITECTURE.md says why.

// Tests that also run as integration targets name the crate as those do.
#[cfg(test)]
extern crate self as twinfs;

pub mod base;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod events;
pub mod format;
pub mod fs;
pub mod history;
pub mod image;
pub mod link;
pub mod mirror;
pub mod mount;
pub mod node;
pub mod offline;
pub mod replica;
pub mod resync;
pub mod services;
pub mod sim;
pub mod sys;
pub mod wire;
