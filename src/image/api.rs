//! Public surface of the image. (bodies follow)
#![allow(unused_variables)]

use std::sync::Arc;

use crate::base::{BlockNo, Digest, ExtentNo, VolumeId};
use crate::format::State;

use super::{Disk, ImageError, RangeGuard, RangeLocks};

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

/// Looks for an image of ours, then for the signatures of other things that must not be overwritten unasked.
pub fn probe(disk: &dyn Disk) -> Result<Probe, ImageError> {
    Err(not_yet())
}

/// Makes an image; refuses nothing that fits (mkfs asks `probe` first).
pub fn format(disk: &Arc<dyn Disk>, options: &FormatOptions) -> Result<(), ImageError> {
    Err(not_yet())
}

/// Written map and digests of one extent, for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageView {
    pub extent: ExtentNo,
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

/// Extents that are hot now.
pub type HotExtents = Vec<ExtentNo>;

/// One open block image. All calls may be made from many threads.
pub struct Image {
    locks: Arc<RangeLocks>,
}

fn not_yet() -> ImageError {
    ImageError::Failed("being written".to_string())
}

impl Image {
    /// Picks the superblock slot, replays the activity log ring, settles the last flush. Reads kilobytes.
    pub fn open(disk: Arc<dyn Disk>, options: &OpenOptions) -> Result<Image, ImageError> {
        Err(not_yet())
    }

    // ---- identity and state -------------------------------------------------------------------------------------

    /// Blocks in the data area.
    pub fn block_count(&self) -> u64 {
        0
    }
    pub fn extent_count(&self) -> u64 {
        0
    }
    pub fn uuid(&self) -> u128 {
        0
    }
    pub fn label(&self) -> &str {
        ""
    }
    pub fn is_writable(&self) -> bool {
        false
    }
    /// Extents were hot when the image was last let go of: it was not closed cleanly.
    pub fn was_unclean(&self) -> bool {
        false
    }
    /// The stable state.
    pub fn state(&self) -> State {
        unreachable!()
    }
    /// Stores the state: stable and read back on return. A failure latches: nothing is written afterwards.
    pub fn store(&self, state: &State) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// Saves everything lazy and empties the activity log, so that the next open finds nothing to settle.
    pub fn close(&self) -> Result<(), ImageError> {
        Err(not_yet())
    }

    // ---- range locks --------------------------------------------------------------------------------------------

    /// The interval lock; every read, write, discard, heal and back happens under a guard of it.
    pub fn locks(&self) -> &Arc<RangeLocks> {
        &self.locks
    }
    pub fn try_lock(&self, first: BlockNo, count: u64) -> Option<RangeGuard> {
        self.locks.try_lock(first, count)
    }
    pub fn lock(&self, first: BlockNo, count: u64) -> RangeGuard {
        self.locks.lock(first, count)
    }

    // ---- activity log -------------------------------------------------------------------------------------------

    /// Activates the extents of the range: in the activity log and stable on return; no I/O if all are hot. An extent
    /// under a held range lock is never evicted, so take the lock first. `SlotsBusy`: flush on all members, `confirm`,
    /// call again. `NoSpace`: the host disk has no room for the extent's metadata.
    pub fn make_hot(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// `make_hot`, and never evicted while the image is open.
    pub fn pin_hot(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        Err(not_yet())
    }
    pub fn is_hot(&self, first: BlockNo, count: u64) -> bool {
        false
    }
    /// All members have flushed everything up to the epoch: extents without later writes may be evicted.
    pub fn confirm(&self, epoch: FlushEpoch) {}
    /// All blocks of all extents in the activity log, as runs: what a crash may have left different on the peer.
    pub fn hot_ranges(&self) -> Vec<(BlockNo, u64)> {
        Vec::new()
    }

    // ---- data ---------------------------------------------------------------------------------------------------

    /// Reads and checks; never-written blocks are zeros without reading the device. `Rotten` on a mismatch. The caller
    /// holds a guard over the range, or knows that no write is in flight there.
    pub fn read(&self, first: BlockNo, out: &mut [u8]) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// Writes; done (volatile) on return. `digests` has one entry a block. The extents must be hot.
    pub fn write(
        &self,
        guard: &RangeGuard,
        first: BlockNo,
        data: &[u8],
        digests: &[Digest],
    ) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// Everything done before the call is stable on return: one ring write with the digests written since the last
    /// flush, one disk flush; nothing at all if nothing was written. Concurrent calls share.
    pub fn flush(&self) -> Result<FlushEpoch, ImageError> {
        Err(not_yet())
    }
    /// `write` then `flush`.
    pub fn write_flush(
        &self,
        guard: &RangeGuard,
        first: BlockNo,
        data: &[u8],
        digests: &[Digest],
    ) -> Result<FlushEpoch, ImageError> {
        Err(not_yet())
    }
    /// Forgets the content: reads as zeros. A discard is a write for the activity log (the extents must be hot). An
    /// extent left without any block is given back to the host and loses its backing.
    pub fn discard(&self, guard: &RangeGuard, first: BlockNo, count: u64) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// The stored digests, `None` = never written.
    pub fn digests(&self, first: BlockNo, count: u64) -> Result<Vec<Option<Digest>>, ImageError> {
        Err(not_yet())
    }
    /// Repairs a block with bytes whose digest equals the stored one; `WrongRepair` otherwise. Needs no hot extent.
    pub fn heal(&self, guard: &RangeGuard, block: BlockNo, data: &[u8]) -> Result<(), ImageError> {
        Err(not_yet())
    }

    // ---- suspects -----------------------------------------------------------------------------------------------

    /// Whether a mismatch of this block may come from the un-flushed window of a crash (and not only from rot).
    pub fn is_suspect(&self, block: BlockNo) -> bool {
        false
    }
    /// Reads the extents that were hot at a crash and lists the blocks that do not match their digest.
    pub fn suspects(&self) -> Result<Vec<BlockNo>, ImageError> {
        Err(not_yet())
    }
    /// Takes the content of a suspect block as it is: only when no peer can tell. Counted. The extent must be hot.
    pub fn bless(&self, guard: &RangeGuard, block: BlockNo) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// Blocks blessed since the image was opened.
    pub fn blessed(&self) -> u64 {
        0
    }

    // ---- backing ------------------------------------------------------------------------------------------------

    /// Allocates the extent and its metadata for real; stable on return; `NoSpace` leaves everything as it was. The
    /// guard covers the whole extent.
    pub fn back(&self, guard: &RangeGuard, extent: ExtentNo) -> Result<(), ImageError> {
        Err(not_yet())
    }
    pub fn is_backed(&self, extent: ExtentNo) -> bool {
        false
    }

    // ---- bitmaps ------------------------------------------------------------------------------------------------

    /// Sets *differs* in memory; the extents must be hot (after a crash `hot_ranges` covers them). Stable before the
    /// extent is evicted.
    pub fn mark(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// Sets *differs* of any blocks, stable on return.
    pub fn mark_stable(&self, ranges: &[(BlockNo, u64)]) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// Sets *still to copy* (in memory).
    pub fn mark_to_copy(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// *Still to copy* := *differs*, or all written blocks. Volatile.
    pub fn start_copy(&self, full: bool) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// First run of *still to copy* at or after `from`.
    pub fn next_to_copy(&self, from: BlockNo) -> Option<(BlockNo, u64)> {
        None
    }
    /// First run of *differs* at or after `from`.
    pub fn next_differs(&self, from: BlockNo) -> Option<(BlockNo, u64)> {
        None
    }
    /// Clears *still to copy*; the copy is stable on the target.
    pub fn copied(&self, first: BlockNo, count: u64) {}
    /// Clears both bitmaps, stable on return: the join is stored.
    pub fn clear_bits(&self) -> Result<(), ImageError> {
        Err(not_yet())
    }
    /// Blocks with *differs*.
    pub fn dirty_blocks(&self) -> u64 {
        0
    }
    pub fn to_copy_blocks(&self) -> u64 {
        0
    }

    // ---- comparison ---------------------------------------------------------------------------------------------

    /// First run of written blocks at or after `from`.
    pub fn next_written(&self, from: BlockNo) -> Result<Option<(BlockNo, u64)>, ImageError> {
        Err(not_yet())
    }
    /// Written map and digests of an extent.
    pub fn extent_page(&self, extent: ExtentNo) -> Result<PageView, ImageError> {
        Err(not_yet())
    }
    /// Summary of an extent; reads the page of a hot one.
    pub fn summary(&self, extent: ExtentNo) -> Result<SummaryView, ImageError> {
        Err(not_yet())
    }
}
