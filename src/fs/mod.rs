//! The filesystem over `trait Blocks`.
//!
//! `Store` keeps inodes, names, attributes and data crash-safe; the layer of names gives them POSIX meaning. Does not
//! know that a peer exists, nor the kernel.

mod acl;
mod attr;
mod buffers;
mod changes;
mod checkpoint;
mod chunks;
mod commit;
mod core;
mod cut;
mod data;
mod dir;
mod error;
mod file;
mod freed;
#[allow(clippy::module_inception, reason = "the type `Fs` is what the module is about")]
mod fs;
mod grow;
mod live;
mod locks;
mod log;
mod mapping;
mod modes;
mod names;
mod op;
mod open;
mod overlay;
mod pull;
mod rename;
mod rules;
mod space;
mod store;
mod tables;
mod whose;
mod xattr;

pub use attr::SetAttr;
pub use changes::{ChangedInode, Child};
pub use commit::Ticket;
pub use cut::Fallocate;
pub use data::FILE_BYTES_MAX;
pub use dir::DirItem;
pub use error::FsError;
pub use file::FilePart;
pub use fs::{Atime, Ctx, Fs, Node};
pub use names::NewNode;
pub use op::Op;
pub use open::VOLUME_BLOCKS_MIN;
pub use rename::{Place, RenameHow};
pub use store::{FormatOptions, LogMark, Statfs, Store, StoreOptions};
pub use whose::Whose;
pub use xattr::SetXattr;

#[cfg(test)]
mod names_model_tests;
#[cfg(test)]
mod names_tests;
#[cfg(test)]
pub(crate) mod tests;
