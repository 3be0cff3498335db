//! The small trait between the filesystem and whatever keeps its blocks: one image, or two that mirror each other.

use crate::base::{BlockNo, ExtentNo, Pages};

/// Why a block operation failed. No variant means "perhaps done": a failed write or flush leaves the content of the
/// blocks concerned unknown until the volume is opened again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlocksError {
    /// No copy of this block matches its digest. Never answered with zeros.
    #[error("block {} is unreadable: no copy matches its digest", .0.0)]
    Rotten(BlockNo),
    /// The medium failed; the caller must stop using it.
    #[error("input/output error: {0}")]
    Io(String),
    /// The host filesystem under an image is full; only `back` answers this.
    #[error("no space to back extent {}", .0.0)]
    NoSpace(ExtentNo),
    /// This node lost the right to serve while the operation waited; its outcome is decided by the new primary.
    #[error("this node may not serve any more")]
    Stopped,
    /// The volume was opened read-only.
    #[error("read-only")]
    ReadOnly,
    /// A range outside the data area: a bug of the caller, refused.
    #[error("blocks {}+{count} lie outside the data area", .first.0)]
    OutOfRange { first: BlockNo, count: u64 },
}

/// Blocks of 4 KiB on one or two members.
///
/// A write has three moments: *accepted* (in the caller's buffers), *done* (written on all members, volatile),
/// *stable* (after a flush on all members). **The only ordering is: wait for `flush` before issuing what depends on
/// it.** Two operations never overlap on one block: the second waits for the first (an interval lock inside).
/// All calls block until their moment and may be made from many threads. Data lengths are multiples of 4096.
pub trait Blocks: Send + Sync {
    /// Blocks in the data area.
    fn block_count(&self) -> u64;

    /// Reads `out.len() / 4096` blocks from `first`, each checked against its digest (and healed from the peer).
    /// A block never written reads as zeros.
    fn read(&self, first: BlockNo, out: &mut [u8]) -> Result<(), BlocksError>;

    /// Writes; returns when *done* on all members.
    fn write(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError>;

    /// `write` of blocks that lie apart in memory, 4096 bytes each.
    fn write_gathered(&self, first: BlockNo, blocks: &[&[u8]]) -> Result<(), BlocksError> {
        self.write(first, &Pages::gathered(blocks))
    }

    /// Returns when everything done before the call is *stable* on all members.
    fn flush(&self) -> Result<(), BlocksError>;

    /// `write` then `flush` of it and of everything done before, with one frame and one flush per member.
    fn write_flush(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError>;

    /// Forgets the content: the blocks read as zeros afterwards. Returns when done on all members.
    fn discard(&self, first: BlockNo, count: u64) -> Result<(), BlocksError>;

    /// Makes sure that the extent is really allocated on every member, so that no later write into it can meet a
    /// full host disk. Stable on return. Idempotent and cheap when already backed.
    fn back(&self, extent: ExtentNo) -> Result<(), BlocksError>;

    /// Whether `back(extent)` has succeeded before.
    fn is_backed(&self, extent: ExtentNo) -> bool;

    /// Keeps the extents of these blocks hot for as long as the volume is open (the log ring), so that a write into
    /// them never waits for an activation.
    fn pin_hot(&self, first: BlockNo, count: u64) -> Result<(), BlocksError>;
}
