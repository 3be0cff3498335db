//! The block image. (being written)

mod blocks;
mod disk;

pub use blocks::{Blocks, BlocksError};
pub use disk::{Disk, DiskError};
