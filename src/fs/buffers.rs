//! Dirty data of one file that is not on any disk yet.
//!
//! Decides what a file looks like between WRITE and writeback. Does not know blocks.

use std::collections::BTreeMap;

use crate::format::Time;

use super::core::Page;

/// One dirty block of a file.
pub(super) struct DirtyPage {
    pub(super) page: Page,
    /// One block of free space is set aside for it, because it has none yet.
    pub(super) reserved: bool,
}

/// How far a sweep over the dirty data of a file has come. It ends where the data ended when it began: what is written
/// meanwhile is for the next one, or an fsync would last as long as somebody writes.
#[derive(Default)]
pub(super) struct Sweep {
    /// Everything dirty before this block is in place.
    pub(super) at: u64,
    /// First block behind the dirty data, and size of the file, when the sweep began.
    pub(super) end: Option<(u64, u64)>,
    /// For data that the open record must hold: it may fill what others leave free.
    pub(super) pulled: bool,
}

impl Sweep {
    pub(super) fn of_pull() -> Sweep {
        Sweep { pulled: true, ..Sweep::default() }
    }
}

/// Data, size and times of a file that the log does not know yet.
#[derive(Default)]
pub(super) struct DirtyFile {
    pub(super) pages: BTreeMap<u64, DirtyPage>,
    /// Live size in bytes.
    pub(super) size: u64,
    /// Time of the last write, to become mtime and ctime.
    pub(super) times: Option<Time>,
    /// Was already dirty when writeback last looked.
    pub(super) old: bool,
}
