//! `Blocks` over one image alone: standalone mount, fsck, tests.
//!
//! Decides when to lock, activate and mark on one member. Invariants: blocks written while the record is solo are
//! marked; an image whose record names two members is only read (a writer mints a generation and goes solo first).

use std::sync::Arc;

use crate::base::{BlockNo, Digest, ExtentNo};
use crate::format::State;

use super::core::is_broken;
use super::hot::extents_of;
use super::{Blocks, BlocksError, Image, ImageError, RangeGuard};

/// An extent wider than this many slots is written in parts.
const SLOT_SHARE: u64 = 4;
/// Tries at a full activity log; each flushes and saves in between.
const ACTIVATION_TRIES: usize = 8;

/// One image as blocks.
pub struct LocalBlocks {
    image: Arc<Image>,
    writable: bool,
    marks: bool,
}

impl LocalBlocks {
    /// Writable if the image is, and its record names no second member. Blocks left suspect by a crash are settled
    /// from their own content (counted: `Image::blessed`), as nobody else can tell.
    pub fn new(image: Arc<Image>) -> Result<LocalBlocks, ImageError> {
        let state: State = image.state();
        let solo = state.record.is_some_and(|record| record.members.solo().is_some());
        let pair = state.record.is_some() && !solo && !is_broken("an image of a pair is only read");
        let writable = image.is_writable() && !pair;
        let local = LocalBlocks { image, writable, marks: solo && !state.full };
        if local.writable && local.image.was_unclean() {
            let suspects = local.image.suspects()?;
            for block in suspects.iter().copied() {
                let guard = local.image.lock(block, 1);
                local.bless(&guard, block)?;
            }
            if !suspects.is_empty() {
                local.image.confirm(local.image.flush()?);
                local.image.suspects()?;
            }
        }
        Ok(local)
    }

    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    fn bless(&self, guard: &RangeGuard, block: BlockNo) -> Result<(), ImageError> {
        self.heat(block, 1, false)?;
        self.image.bless(guard, block)?;
        self.mark(block, 1)
    }

    /// Makes the range hot; flushes to free slots where needed.
    fn heat(&self, first: BlockNo, count: u64, pin: bool) -> Result<(), ImageError> {
        for _ in 0..ACTIVATION_TRIES {
            let done = if pin { self.image.pin_hot(first, count) } else { self.image.make_hot(first, count) };
            match done {
                Err(ImageError::SlotsBusy) => self.image.confirm(self.image.flush()?),
                other => return other,
            }
        }
        Err(ImageError::SlotsBusy)
    }

    fn mark(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        if self.marks { self.image.mark(first, count) } else { Ok(()) }
    }

    fn check_writable(&self) -> Result<(), BlocksError> {
        if self.writable { Ok(()) } else { Err(BlocksError::ReadOnly) }
    }

    /// Cuts a range so that each part needs a share of the slots only.
    fn parts(&self, first: BlockNo, count: u64) -> Vec<(BlockNo, u64)> {
        let most = (self.image.slot_count() / SLOT_SHARE).max(1);
        let mut out = Vec::new();
        let (mut at, end) = (first, first.plus(count));
        while at < end {
            let next = ExtentNo(at.extent().0 + most).first_block().min(end);
            out.push((at, next.0 - at.0));
            at = next;
        }
        out
    }
}

impl LocalBlocks {
    /// Writes under the digests given, and marks nothing: for a copy that is being made, which nobody else uses.
    pub(super) fn put(&self, first: BlockNo, data: &[u8], digests: &[Digest]) -> Result<(), ImageError> {
        let count = digests.len() as u64;
        self.image.check_range(first, count)?;
        let guard = self.image.lock(first, count);
        for (start, len) in self.parts(first, count) {
            let (at, len) = ((start.0 - first.0) as usize, len as usize);
            self.heat(start, len as u64, false)?;
            let part = &data[at * BlockNo::SIZE..(at + len) * BlockNo::SIZE];
            self.image.write(&guard, start, part, &digests[at..at + len])?;
        }
        Ok(())
    }

    /// Writes part by part; the last one with the flush if one is wanted.
    fn write_parts(&self, first: BlockNo, data: &[u8], flush: bool) -> Result<(), BlocksError> {
        self.check_writable()?;
        let count = (data.len() / BlockNo::SIZE) as u64;
        self.image.check_range(first, count)?;
        let guard = self.image.lock(first, count);
        for (start, len) in self.parts(first, count) {
            let at = (start.0 - first.0) as usize * BlockNo::SIZE;
            let part = &data[at..at + len as usize * BlockNo::SIZE];
            let digests = Digest::of_blocks(part);
            self.heat(start, len, false)?;
            self.mark(start, len)?;
            if flush && start.0 + len == first.0 + count {
                let epoch = self.image.write_flush(&guard, start, part, &digests)?;
                self.image.confirm(epoch);
            } else {
                self.image.write(&guard, start, part, &digests)?;
            }
        }
        Ok(())
    }
}

impl Blocks for LocalBlocks {
    fn block_count(&self) -> u64 {
        self.image.block_count()
    }

    fn read(&self, first: BlockNo, out: &mut [u8]) -> Result<(), BlocksError> {
        let guard = self.image.lock(first, (out.len() / BlockNo::SIZE) as u64);
        loop {
            match self.image.read(first, out) {
                Err(ImageError::Rotten { block }) if self.writable && self.image.is_suspect(block) => {
                    self.bless(&guard, block)?;
                }
                other => return Ok(other?),
            }
        }
    }

    fn write(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.write_parts(first, data, false)
    }

    fn write_gathered(&self, first: BlockNo, blocks: &[&[u8]]) -> Result<(), BlocksError> {
        self.check_writable()?;
        let count = blocks.len() as u64;
        self.image.check_range(first, count)?;
        let guard = self.image.lock(first, count);
        for (start, len) in self.parts(first, count) {
            let at = (start.0 - first.0) as usize;
            self.heat(start, len, false)?;
            self.mark(start, len)?;
            self.image.write_gathered(&guard, start, &blocks[at..at + len as usize])?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlocksError> {
        self.check_writable()?;
        let epoch = self.image.flush()?;
        self.image.confirm(epoch);
        Ok(())
    }

    fn write_flush(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.write_parts(first, data, true)
    }

    fn discard(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        self.check_writable()?;
        self.image.check_range(first, count)?;
        for (start, len) in self.parts(first, count) {
            // An extent under a lock keeps its slot, so no more may be locked than there are slots.
            let guard = self.image.lock(start, len);
            // Extents without a block have nothing to forget.
            let used: Vec<u64> = extents_of(start, len)
                .map(|extent| Ok((extent, self.image.summary(ExtentNo(extent))?.touched)))
                .filter_map(|found: Result<_, ImageError>| match found {
                    Ok((extent, true)) => Some(Ok(extent)),
                    Ok((_, false)) => None,
                    Err(error) => Some(Err(error)),
                })
                .collect::<Result<_, _>>()?;
            for extent in used {
                let from = start.max(ExtentNo(extent).first_block());
                let count = start.plus(len).min(ExtentNo(extent + 1).first_block()).0 - from.0;
                self.heat(from, count, false)?;
                self.mark(from, count)?;
                self.image.discard(&guard, from, count)?;
            }
        }
        Ok(())
    }

    fn back(&self, extent: ExtentNo) -> Result<(), BlocksError> {
        self.check_writable()?;
        self.image.check_range(extent.first_block(), ExtentNo::BLOCKS)?;
        if self.image.is_backed(extent) {
            return Ok(());
        }
        let guard = self.image.lock(extent.first_block(), ExtentNo::BLOCKS);
        Ok(self.image.back(&guard, extent)?)
    }

    fn is_backed(&self, extent: ExtentNo) -> bool {
        self.image.is_backed(extent)
    }

    fn pin_hot(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        self.check_writable()?;
        Ok(self.heat(first, count, true)?)
    }
}
