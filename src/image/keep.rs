//! Putting a copy aside: everything that one image holds, in another one of its own that opens as any image does.
//!
//! Decides what of each block goes over: its content where that can be had, else that it cannot be read. Does not know
//! why a copy is kept. Invariants: the image that is kept is not changed; what `keep` made is stable on return and was
//! read back; a block that cannot be read is never kept as zeros.

use std::sync::Arc;

use crate::base::{BlockNo, Digest, ExtentNo, Pages};
use crate::format::{BlockRec, UndoStage};

use super::back::NO_CONTENT;
use super::{Disk, DiskError, FormatOptions, Image, ImageError, LocalBlocks, OpenOptions, format};

/// Blocks read at once.
const AT_ONCE: u64 = 256;

/// Asked between two parts with the number of blocks done; an error ends the work.
pub type GoOn<'a> = &'a mut dyn FnMut(u64) -> Result<(), ImageError>;

impl Image {
    /// Length of the medium below.
    pub fn medium_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }

    /// Makes `to` a whole copy of this image, which nobody may write to meanwhile; answers how many blocks it has.
    pub fn keep(&self, to: &Arc<dyn Disk>, go_on: GoOn<'_>) -> Result<u64, ImageError> {
        if self.undo_log().head.stage != UndoStage::None {
            return Err(ImageError::Failed("a copy that is half overwritten is not kept".to_string()));
        }
        let al_slots = self.geometry.al_slots;
        let options = FormatOptions {
            state: self.state(),
            uuid: self.uuid(),
            label: self.label().to_string(),
            al_slots,
        };
        format(to, &options)?;
        let kept = Arc::new(Image::open(Arc::clone(to), &OpenOptions::read_write())?);
        if kept.block_count() < self.block_count() {
            let (need, have) = (self.block_count(), kept.block_count());
            return Err(ImageError::TooSmall {
                need: need * BlockNo::SIZE as u64,
                have: have * BlockNo::SIZE as u64,
            });
        }
        let local = LocalBlocks::new(Arc::clone(&kept))?;
        let mut blocks = 0;
        for run in self.written_runs(BlockNo(0)) {
            let (first, count) = run?;
            for at in (first.0..first.0 + count).step_by(AT_ONCE as usize) {
                go_on(blocks)?;
                let part = AT_ONCE.min(first.0 + count - at);
                self.keep_part(&local, BlockNo(at), part)?;
                blocks += part;
            }
        }
        self.keep_marks(&kept)?;
        kept.confirm(kept.flush()?);
        kept.close()?;
        drop(local);
        drop(kept);
        match self.is_kept_in(to, go_on)? {
            true => Ok(blocks),
            false => {
                Err(ImageError::Failed("the copy was read back otherwise than it was written".to_string()))
            }
        }
    }

    fn keep_part(&self, to: &LocalBlocks, first: BlockNo, count: u64) -> Result<(), ImageError> {
        let mut data = Pages::zeroed(count as usize);
        let digests = match self.read(first, &mut data) {
            Ok(()) => Digest::of_blocks(&data),
            Err(ImageError::Rotten { .. } | ImageError::Disk(DiskError::Io(_))) => {
                let blocks = (first.0..).map(BlockNo).zip(data.chunks_exact_mut(BlockNo::SIZE));
                blocks.map(|(block, part)| self.settled_digest(block, part)).collect::<Result<_, _>>()?
            }
            Err(other) => return Err(other),
        };
        to.put(first, &data, &digests)
    }

    /// The content of one block and its digest; one that nothing has for what cannot be read.
    fn settled_digest(&self, block: BlockNo, out: &mut [u8]) -> Result<Digest, ImageError> {
        match self.read_as_settled(block, out) {
            Ok(()) => Ok(Digest::of(out)),
            Err(ImageError::Rotten { .. } | ImageError::Disk(DiskError::Io(_))) => Ok(NO_CONTENT),
            Err(other) => Err(other),
        }
    }

    /// What the peer may lack of this copy it may lack of that one.
    fn keep_marks(&self, to: &Image) -> Result<(), ImageError> {
        let (mut from, mut ranges) = (BlockNo(0), Vec::new());
        while let Some((first, count)) = self.next_differs(from) {
            ranges.push((first, count));
            from = first.plus(count);
        }
        to.mark_stable(&ranges)
    }

    /// Whether the image on `disk` is one of this copy as it is now, readable wherever this one is.
    pub fn is_kept_in(&self, disk: &Arc<dyn Disk>, go_on: GoOn<'_>) -> Result<bool, ImageError> {
        let kept = Image::open(Arc::clone(disk), &OpenOptions::read_only())?;
        let (mine, theirs) = (self.state(), kept.state());
        let same = mine.incarnation == theirs.incarnation
            && mine.gens == theirs.gens
            && mine.record == theirs.record;
        if !same || kept.block_count() < self.block_count() {
            return Ok(false);
        }
        let mut extents = self.touched_extents();
        extents.extend(kept.touched_extents());
        extents.sort_unstable();
        extents.dedup();
        for extent in extents {
            go_on(extent * ExtentNo::BLOCKS)?;
            let first = ExtentNo(extent).first_block();
            if extent >= self.extent_count() || !self.is_extent_kept(&kept, first)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_extent_kept(&self, kept: &Image, first: BlockNo) -> Result<bool, ImageError> {
        let (here, there) = (self.recs(first, ExtentNo::BLOCKS)?, kept.recs(first, ExtentNo::BLOCKS)?);
        let mut block = Pages::zeroed(1);
        for ((number, mine), other) in (first.0..).map(BlockNo).zip(&here).zip(&there) {
            let good = match (mine, other) {
                (BlockRec::Unwritten, BlockRec::Unwritten) => continue,
                (BlockRec::Unwritten, _) | (_, BlockRec::Unwritten | BlockRec::Unknown) => false,
                (BlockRec::Written(one), BlockRec::Written(two)) if one == two => true,
                // Nothing could be kept of it, or its content counts against its digest.
                (_, BlockRec::Written(two)) => self.settled_digest(number, &mut block)? == *two,
            };
            let unreadable = matches!(other, BlockRec::Written(digest) if *digest == NO_CONTENT);
            if !good || !unreadable && kept.read(number, &mut block).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
#[path = "tests/keep.rs"]
mod tests;
