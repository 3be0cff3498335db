//! Blocks that do not match their digest after a crash: found, told, and blessed only by order.
//!
//! Decides whether a mismatch can come from the un-flushed window of a crash. Invariant: nothing here changes a digest
//! except `bless`, which counts.

use crate::base::{BlockNo, Digest, ExtentNo, Pages};
use crate::format::{BLOCK, BlockRec, DigestPage, PAGE_UNCHECKED};

use super::{Image, ImageError, RangeGuard};

impl Image {
    /// Whether a mismatch of this block may come from the un-flushed window of a crash, or from a damaged digest page,
    /// and not only from rot of the block.
    pub fn is_suspect(&self, block: BlockNo) -> bool {
        let look = |page: &DigestPage| {
            page.flags & PAGE_UNCHECKED != 0 || page.get(block.index_in_extent()) == BlockRec::Unknown
        };
        self.check_range(block, 1).is_ok() && self.with_page(block.extent().0, look).unwrap_or(false)
    }

    /// Hot extents that were hot at a crash and whose blocks were not compared with their digests since.
    pub fn unchecked_extents(&self) -> Vec<ExtentNo> {
        let core = self.core();
        let mut out: Vec<ExtentNo> = core
            .slots
            .iter()
            .flatten()
            .filter(|slot| core.pages.get(&slot.extent).is_some_and(|c| c.page.flags & PAGE_UNCHECKED != 0))
            .map(|slot| ExtentNo(slot.extent))
            .collect();
        out.sort_unstable();
        out
    }

    /// Reads the hot extents that were hot at a crash and lists the blocks that do not match their digest. An extent
    /// without any is settled from then on. To be called before serving, or with the extents locked.
    pub fn suspects(&self) -> Result<Vec<BlockNo>, ImageError> {
        let mut found = Vec::new();
        for extent in self.unchecked_extents() {
            let bad = self.mismatches(extent)?;
            if bad.is_empty() {
                let mut core = self.core();
                if let Some(cached) = core.pages.get_mut(&extent.0) {
                    cached.page.flags &= !PAGE_UNCHECKED;
                }
                if let Some(slot) = core.slot_mut(extent.0) {
                    slot.version += 1;
                }
            }
            found.extend(bad);
        }
        Ok(found)
    }

    /// Both copies are equal now: whatever a crash had left was copied over or copied from here. A mismatch from now on
    /// is rot, which the peer repairs and nobody blesses.
    pub fn all_checked(&self) {
        for extent in self.unchecked_extents() {
            let mut core = self.core();
            if let Some(cached) = core.pages.get_mut(&extent.0) {
                cached.page.flags &= !PAGE_UNCHECKED;
            }
            if let Some(slot) = core.slot_mut(extent.0) {
                slot.version += 1;
            }
        }
    }

    /// Blocks of an extent whose content does not match what is known of them.
    pub fn mismatches(&self, extent: ExtentNo) -> Result<Vec<BlockNo>, ImageError> {
        let first = extent.first_block();
        let recs = self.recs(first, ExtentNo::BLOCKS)?;
        let mut out = Vec::new();
        let mut buffer = Pages::zeroed(64);
        for (chunk, recs) in recs.chunks(64).enumerate() {
            let start = first.plus(chunk as u64 * 64);
            if recs.iter().all(|rec| *rec == BlockRec::Unwritten) {
                continue;
            }
            self.disk.read_at(self.geometry.block_at(start.0), &mut buffer)?;
            for ((content, rec), block) in buffer.chunks_exact(BLOCK as usize).zip(recs).zip(start.0..) {
                if *rec != BlockRec::Unwritten && *rec != BlockRec::Written(Digest::of(content)) {
                    out.push(BlockNo(block));
                }
            }
        }
        Ok(out)
    }

    /// Reads as a mount without a peer would after it settled what a crash left: a suspect block is what its content
    /// is. For readers that change nothing; a block that is rotten for another reason stays an error.
    pub fn read_as_settled(&self, first: BlockNo, out: &mut [u8]) -> Result<(), ImageError> {
        match self.read(first, out) {
            Err(ImageError::Rotten { .. }) => {}
            other => return other,
        }
        for (block, part) in (first.0..).map(BlockNo).zip(out.chunks_exact_mut(BlockNo::SIZE)) {
            match self.read(block, part) {
                Err(ImageError::Rotten { .. }) if self.is_suspect(block) => {
                    self.disk.read_at(self.geometry.block_at(block.0), part)?;
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Takes the content of a suspect block as it is: only when no peer can tell. Counted. The extent must be hot.
    pub fn bless(&self, guard: &RangeGuard, block: BlockNo) -> Result<(), ImageError> {
        self.check_range(block, 1)?;
        if !guard.covers(&self.locks, block, 1) {
            return Err(ImageError::NotLocked { first: block, count: 1 });
        }
        self.check_writable()?;
        if !self.is_suspect(block) {
            return Err(ImageError::Rotten { block });
        }
        let mut content = Pages::zeroed(1);
        self.disk.read_at(self.geometry.block_at(block.0), &mut content)?;
        let mut core = self.core();
        if !core.is_hot(block.extent().0) {
            return Err(ImageError::NotHot { extent: block.extent() });
        }
        core.set_blocks(block.0, std::iter::once(BlockRec::Written(Digest::of(&content))))?;
        core.blessed += 1;
        Ok(())
    }

    /// Blocks blessed since the image was opened.
    pub fn blessed(&self) -> u64 {
        self.core().blessed
    }

    /// Digest pages found damaged since the image was opened.
    pub fn damaged_pages(&self) -> u64 {
        self.core().damaged_pages
    }
}
