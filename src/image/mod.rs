//! The block image: which bytes of one image can be trusted.
//!
//! Decides by digests, activity log and superblock what may be answered after any crash, and keeps the bitmaps of what
//! a peer may lack. Does not know peers, files, threads or clocks. Invariants: an extent is hot on disk before its
//! first write; digests are exact for everything flushed; a block that does not match is reported, never zeros.

mod api;
mod blocks;
mod disk;
mod error;
mod mem;
mod range;

pub use api::{
    FlushEpoch, FormatOptions, HotExtents, Image, OpenOptions, PageView, Probe, SummaryView, format, probe,
};
pub use blocks::{Blocks, BlocksError};
pub use disk::{Disk, DiskError};
pub use error::ImageError;
pub use mem::{DiskCounts, Event, MemDisk, SECTOR};
pub use range::{RangeGuard, RangeLocks};
