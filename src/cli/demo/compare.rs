//! Compares the data areas of two images that nobody has open.
//!
//! Decides nothing. Invariant: every block of both is read and checked against its own digest; a block that cannot be
//! read counts as different.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::base::BlockNo;
use crate::image::{Disk, Image, OpenOptions};
use crate::sys::disk::FileDisk;
use crate::sys::lock::ImageLock;

/// Blocks read at once.
const STEP: u64 = 256;

/// What a comparison found.
pub struct Found {
    pub blocks: u64,
    /// The first block that differs.
    pub different: Option<u64>,
}

struct Copy {
    image: Image,
    _lock: ImageLock,
}

fn open(path: &Path) -> anyhow::Result<Copy> {
    let context = || path.display().to_string();
    let lock = ImageLock::take(path, Duration::from_secs(10)).with_context(context)?;
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(path, false).with_context(context)?);
    let image = Image::open(disk, &OpenOptions::read_only()).with_context(context)?;
    Ok(Copy { image, _lock: lock })
}

/// Compares every block of the two data areas.
pub fn images(left: &Path, right: &Path) -> anyhow::Result<Found> {
    let (left, right) = (open(left)?, open(right)?);
    let blocks = left.image.block_count();
    if blocks != right.image.block_count() {
        return Ok(Found { blocks, different: Some(blocks.min(right.image.block_count())) });
    }
    let size = usize::try_from(STEP).unwrap_or(1) * BlockNo::SIZE;
    let (mut ours, mut theirs) = (vec![0_u8; size], vec![0_u8; size]);
    let mut at = 0;
    while at < blocks {
        let count = STEP.min(blocks - at);
        let len = usize::try_from(count).unwrap_or(0) * BlockNo::SIZE;
        let read = |image: &Image, out: &mut [u8]| image.read(BlockNo(at), out).is_ok();
        let both = read(&left.image, &mut ours[..len]) && read(&right.image, &mut theirs[..len]);
        if !both || ours[..len] != theirs[..len] {
            let same = |n: &usize| {
                ours[n * BlockNo::SIZE..][..BlockNo::SIZE] == theirs[n * BlockNo::SIZE..][..BlockNo::SIZE]
            };
            let first = (0..len / BlockNo::SIZE).find(|n| !both || !same(n)).unwrap_or(0);
            return Ok(Found { blocks, different: Some(at + first as u64) });
        }
        at += count;
    }
    Ok(Found { blocks, different: None })
}
