//! The filesystem over `trait Blocks`.
//!
//! `Store` keeps inodes, names, attributes and data crash-safe; the layer of names gives them POSIX meaning. Does not
//! know that a peer exists, nor the kernel.

mod buffers;
mod checkpoint;
mod chunks;
mod commit;
mod core;
mod cut;
mod data;
mod error;
mod locks;
mod log;
mod mapping;
mod op;
mod open;
mod overlay;
mod rules;
mod space;
mod store;
mod tables;

pub use commit::Ticket;
pub use cut::Fallocate;
pub use data::FILE_BYTES_MAX;
pub use error::FsError;
pub use op::Op;
pub use open::VOLUME_BLOCKS_MIN;
pub use store::{FormatOptions, Statfs, Store, StoreOptions};

#[cfg(test)]
pub(crate) mod tests;
