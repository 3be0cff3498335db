//! The block image: which bytes of one image can be trusted.
//!
//! Decides by digests, activity log and superblock what may be answered after any crash, and keeps the bitmaps of what
//! a peer may lack. Does not know peers, files, threads or clocks. Invariants: an extent is hot on disk before its
//! first write; digests are exact for everything flushed; a block that does not match is reported, never zeros.
//!
//! Order of locks: a range (`RangeLocks`), then the undo log and then the metadata lock (both held over I/O), then the
//! core (never over I/O).

mod back;
mod bits;
mod blocks;
mod commit;
mod core;
mod data;
mod disk;
mod error;
mod groups;
mod grow;
mod hot;
mod keep;
mod local;
mod make;
mod marks;
mod mem;
mod open;
mod overlay;
mod range;
mod replay;
mod suspect;
mod undo;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crate::base::{BlockNo, Digest, ExtentNo, VolumeId};
use crate::format::{DigestPage, Geometry, Label, State, UndoStage};

pub use back::{BackCursor, OldContent, OldRun};
pub use blocks::{Blocks, BlocksError};
pub use disk::{Disk, DiskError};
pub use error::ImageError;
pub use keep::GoOn;
pub use local::LocalBlocks;
pub use make::{AL_SLOTS_DEFAULT, format, probe};
pub use mem::{DiskCounts, Event, MemDisk, SECTOR};
pub use overlay::OverlayBlocks;
pub use range::{RangeGuard, RangeLocks};
pub use undo::Overwrite;

/// Names a flush: everything done before it began is stable on this member. Later flushes compare greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlushEpoch(pub u64);

/// What a new image is made with.
#[derive(Clone, Debug)]
pub struct FormatOptions {
    /// First stable state (volume, node, incarnation, record, generations).
    pub state: State,
    /// Shown by blkid and file(1).
    pub uuid: u128,
    /// At most 63 bytes, shown by blkid and file(1).
    pub label: String,
    /// Activity log slots; 0 = the default of 64.
    pub al_slots: u32,
}

/// How an image is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub writable: bool,
    /// Refuse an image of another volume.
    pub volume: Option<VolumeId>,
    /// Digest pages (16 KiB) of cold extents kept in memory; 0 = the default of 1024.
    pub cache_pages: usize,
}

impl OpenOptions {
    pub fn read_write() -> OpenOptions {
        OpenOptions { writable: true, volume: None, cache_pages: 0 }
    }

    pub fn read_only() -> OpenOptions {
        OpenOptions { writable: false, ..OpenOptions::read_write() }
    }

    /// Keeps as much in memory as befits a volume that takes so many bytes of it.
    #[must_use]
    pub fn memory(self, bytes: u64) -> OpenOptions {
        let pages = bytes / 32 / crate::format::PAGE_BYTES as u64;
        OpenOptions { cache_pages: usize::try_from(pages.max(1)).unwrap_or(usize::MAX), ..self }
    }

    #[must_use]
    pub fn volume(self, volume: VolumeId) -> OpenOptions {
        OpenOptions { volume: Some(volume), ..self }
    }
}

/// What lies on a medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    Blank,
    TwinfsImage { volume: Option<VolumeId>, uuid: u128, label: String },
    OtherSignature { name: &'static str },
}

/// Written map and digests of one extent, for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageView {
    pub extent: ExtentNo,
    /// The page was damaged: `None` may also mean "unknown", so a comparison must treat it as different.
    pub damaged: bool,
    /// 1024 entries; `None` = never written (or discarded).
    pub digests: Vec<Option<Digest>>,
}

/// What is known about an extent without reading its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SummaryView {
    /// False: no block of it was ever written.
    pub touched: bool,
    pub backed: bool,
    /// Equal on two images with equal written maps and digests of the extent; zeros while untouched.
    pub hash: [u8; 15],
}

/// How far the undo log of a resync's target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UndoView {
    pub stage: UndoStage,
    /// Blocks whose content before the resync is kept.
    pub blocks: u64,
    /// Of these, put back so far.
    pub put_back: u64,
    pub used_bytes: u64,
    pub room_bytes: u64,
    /// Why it cannot be used although it was kept.
    pub damage: Option<&'static str>,
}

impl UndoView {
    /// The copy is half overwritten and can go back to its last consistent state.
    pub fn has_way_back(&self) -> bool {
        matches!(self.stage, UndoStage::Saving | UndoStage::GoingBack) && self.damage.is_none()
    }
}

/// One open block image. All calls may be made from many threads.
pub struct Image {
    disk: Arc<dyn Disk>,
    locks: Arc<RangeLocks>,
    geometry: grow::Shape,
    label: Label,
    /// The incarnation: in every hash of the metadata.
    salt: u128,
    writable: bool,
    unclean: bool,
    /// Compatible, read-only, refuse: as found, to be written back.
    features: (u64, u64, u64),
    empty_page: DigestPage,
    core: Mutex<core::Core>,
    meta: Mutex<commit::Meta>,
    undo: Mutex<undo::Undo>,
    /// Overwritten content is saved first: what a write looks at before it asks for the log.
    saving: AtomicBool,
    /// A rule switched off by a test: the undo log is not flushed.
    undo_volatile: AtomicBool,
}

impl Image {
    /// Blocks in the data area.
    pub fn block_count(&self) -> u64 {
        self.geometry.block_count()
    }

    pub fn extent_count(&self) -> u64 {
        self.geometry.extents
    }

    pub fn uuid(&self) -> u128 {
        self.label.uuid
    }

    pub fn label(&self) -> &str {
        &self.label.text
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Extents were hot when the image was last let go of: it was not closed cleanly.
    pub fn was_unclean(&self) -> bool {
        self.unclean
    }

    /// Why nothing may be written any more, once an error has latched.
    pub fn failure(&self) -> Option<String> {
        self.core().failed.clone()
    }

    /// Nothing is written any more, not even by `close`: what lay in the activity log must still be there at the next
    /// opening, for the disk failed under some of it.
    pub fn abandon(&self, why: &str) {
        self.core().failed.get_or_insert_with(|| why.to_string());
    }

    /// The stable state.
    pub fn state(&self) -> State {
        self.core().state.clone()
    }

    /// The interval lock; every read, write, discard, heal and back happens under a guard of it.
    pub fn locks(&self) -> &Arc<RangeLocks> {
        &self.locks
    }

    pub fn try_lock(&self, first: BlockNo, count: u64) -> Option<RangeGuard> {
        self.locks.try_lock(first, count)
    }

    /// Waits; real threads only.
    pub fn lock(&self, first: BlockNo, count: u64) -> RangeGuard {
        self.locks.lock(first, count)
    }
}
