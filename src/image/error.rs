//! Every way in which an image can refuse or fail, in one sentence each that says what to do.
//!
//! Invariant: no variant means "perhaps done" except `Failed` and `Disk`, after which the image must be reopened.

use crate::base::{BlockNo, ExtentNo, VolumeId};

use super::{BlocksError, DiskError};

/// Why an operation on an image failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Block 0 holds no label of ours.
    #[error("this is not a twinfs image ({found}); make one with mkfs.twinfs")]
    NotAnImage { found: String },
    /// The medium is shorter than the geometry says.
    #[error("the image is truncated: {have} bytes of {need}; restore the file or device to its full length")]
    Truncated { need: u64, have: u64 },
    /// A later program wrote features that this one must not touch.
    #[error("the image uses features this program does not know (bits {bits:#x}); install a newer twinfs")]
    UnknownFeatures { bits: u64 },
    /// A later program wrote features that this one may read but not write.
    #[error(
        "the image may only be opened read-only by this program (feature bits {bits:#x}); use a newer twinfs"
    )]
    ReadOnlyFeatures { bits: u64 },
    /// The format is of another version.
    #[error("the image has format {found}, this program knows format {known}; use the matching twinfs")]
    Version { found: u32, known: u32 },
    /// Neither superblock slot passes its checks.
    #[error(
        "both superblock slots are damaged ({why}); copy the volume again from the peer with `twinfs join --replace`"
    )]
    BadSuperblock { why: String },
    /// The activity log ring lacks a transaction that is needed.
    #[error("{why}; copy the volume again from the peer with `twinfs join --replace`, or restore a backup")]
    BadActivityLog { why: String },
    /// The image belongs to another volume.
    #[error("the image belongs to volume {found}, not to {wanted}; check the image path in twinfs.toml")]
    WrongVolume { wanted: VolumeId, found: VolumeId },
    /// The medium cannot hold an image.
    #[error("{have} bytes are too few for an image; at least {need} are needed")]
    TooSmall { need: u64, have: u64 },
    /// The values to be stored do not fit the superblock.
    #[error("the state does not fit the superblock: {0}")]
    StateTooLarge(String),
    /// The content does not match its digest. Never answered with zeros.
    #[error("block {} does not match its digest", block.0)]
    Rotten { block: BlockNo },
    /// Data offered as a repair is not what was written there.
    #[error("the repair offered for block {} does not match its digest", block.0)]
    WrongRepair { block: BlockNo },
    /// The host filesystem under the image is full.
    #[error("no space on the host disk to back extent {}", extent.0)]
    NoSpace { extent: ExtentNo },
    /// A write or mark into an extent that is not hot: a bug of the caller, refused.
    #[error("extent {} is not hot", extent.0)]
    NotHot { extent: ExtentNo },
    /// Every slot has writes that are not confirmed stable on all members: flush them, `confirm`, try again.
    #[error("every activity log slot is in use; flush and confirm, then try again")]
    SlotsBusy,
    /// More extents at once than there are slots.
    #[error("{extents} extents cannot be hot at once, the activity log has {slots} slots")]
    TooManyExtents { extents: u64, slots: u64 },
    /// Metadata that moves must not overwrite itself.
    #[error("an image grows by a little at least: {} MiB of data or more", least / 256)]
    GrowsTooLittle { least: u64 },
    /// The range lies outside the data area.
    #[error("blocks {}+{count} lie outside the data area", first.0)]
    OutOfRange { first: BlockNo, count: u64 },
    /// The range is not covered by the guard that was shown: a bug of the caller, refused.
    #[error("blocks {}+{count} are not locked by the guard", first.0)]
    NotLocked { first: BlockNo, count: u64 },
    /// A copy that a resync overwrote in part has no earlier state to go back to.
    #[error("this copy cannot go back to its last consistent state: {why}")]
    NoWayBack { why: &'static str },
    /// The image was opened read-only.
    #[error("the image is open read-only")]
    ReadOnly,
    /// An earlier write of the image's own structures or a flush failed: nothing may be written any more.
    #[error("the image stopped after an error: {0}")]
    Failed(String),
    /// The medium failed just now.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl From<ImageError> for BlocksError {
    fn from(error: ImageError) -> BlocksError {
        match error {
            ImageError::Rotten { block } | ImageError::WrongRepair { block } => BlocksError::Rotten(block),
            ImageError::NoSpace { extent } => BlocksError::NoSpace(extent),
            ImageError::OutOfRange { first, count } => BlocksError::OutOfRange { first, count },
            ImageError::ReadOnly => BlocksError::ReadOnly,
            ImageError::Disk(DiskError::Dead) => BlocksError::Stopped,
            other => BlocksError::Io(other.to_string()),
        }
    }
}
