//! Blocks: read and check, write, discard, heal, back.
//!
//! Decides what a caller may be given. Invariants: what is returned matches its digest or was never written; only an
//! extent that is hot is written; nothing of a block changes without a guard over it.

use crate::base::{BlockNo, Digest, ExtentNo, Pages};
use crate::format::{BLOCK, BlockRec, GROUP_EXTENTS, PAGE_BYTES};

use super::commit::Why;
use super::core::is_broken;
use super::hot::extents_of;
use super::{DiskError, FlushEpoch, Image, ImageError, RangeGuard};

/// Blocks of a gathered write that are hashed and sent to the disk at once: 256 KiB stay in a processor's cache from
/// one to the other.
const PART_BLOCKS: usize = 64;

/// Cuts a range at the borders of extents: (first, count).
fn by_extent(first: BlockNo, count: u64) -> impl Iterator<Item = (BlockNo, u64)> {
    extents_of(first, count).map(move |extent| {
        let start = first.max(ExtentNo(extent).first_block());
        let end = first.plus(count).min(ExtentNo(extent + 1).first_block());
        (start, end.0 - start.0)
    })
}

/// Runs of equal answers among `count` items: (start, length, answer).
fn runs(count: usize, answer: impl Fn(usize) -> bool) -> Vec<(usize, usize, bool)> {
    let mut out: Vec<(usize, usize, bool)> = Vec::new();
    for index in 0..count {
        match out.last_mut() {
            Some((_, len, value)) if *value == answer(index) => *len += 1,
            _ => out.push((index, 1, answer(index))),
        }
    }
    out
}

impl Image {
    fn check_guard(&self, guard: &RangeGuard, first: BlockNo, count: u64) -> Result<(), ImageError> {
        self.check_range(first, count)?;
        if guard.covers(&self.locks, first, count) {
            Ok(())
        } else {
            Err(ImageError::NotLocked { first, count })
        }
    }

    pub(super) fn recs(&self, first: BlockNo, count: u64) -> Result<Vec<BlockRec>, ImageError> {
        let mut out = Vec::with_capacity(count as usize);
        for (start, len) in by_extent(first, count) {
            let index = start.index_in_extent();
            self.with_page(start.extent().0, |page| {
                out.extend((index..index + len as usize).map(|i| page.get(i)))
            })?;
        }
        Ok(out)
    }

    /// Reads and checks; never-written blocks are zeros without reading the device. `Rotten` on a mismatch. The caller
    /// holds a guard over the range, or knows that no write is in flight there.
    pub fn read(&self, first: BlockNo, out: &mut [u8]) -> Result<(), ImageError> {
        let count = out.len() / BlockNo::SIZE;
        self.check_range(first, count as u64)?;
        let recs = self.recs(first, count as u64)?;
        if let Some(unknown) = recs.iter().position(|rec| *rec == BlockRec::Unknown) {
            return Err(ImageError::Rotten { block: first.plus(unknown as u64) });
        }
        for (start, len, unwritten) in runs(count, |i| recs[i] == BlockRec::Unwritten) {
            let part = &mut out[start * BlockNo::SIZE..(start + len) * BlockNo::SIZE];
            if unwritten {
                part.fill(0);
                continue;
            }
            let block = first.plus(start as u64);
            self.read_run(block, part)?;
            let digests = Digest::of_blocks(part);
            for ((digest, rec), number) in digests.iter().zip(&recs[start..]).zip(block.0..) {
                if *rec != BlockRec::Written(*digest) {
                    return Err(ImageError::Rotten { block: BlockNo(number) });
                }
            }
        }
        Ok(())
    }

    /// A block that the medium cannot read is to be repaired like one that does not match its digest.
    fn read_run(&self, first: BlockNo, out: &mut [u8]) -> Result<(), ImageError> {
        match self.disk.read_at(self.geometry.block_at(first.0), out) {
            Err(DiskError::Io(_)) => {}
            done => return Ok(done?),
        }
        for (one, block) in out.chunks_exact_mut(BlockNo::SIZE).zip(first.0..) {
            self.disk.read_at(self.geometry.block_at(block), one).map_err(|error| match error {
                DiskError::Io(_) => ImageError::Rotten { block: BlockNo(block) },
                other => ImageError::Disk(other),
            })?;
        }
        Ok(())
    }

    /// Writes; done (volatile) on return. `digests` has one entry a block. The extents must be hot.
    pub fn write(
        &self,
        guard: &RangeGuard,
        first: BlockNo,
        data: &[u8],
        digests: &[Digest],
    ) -> Result<(), ImageError> {
        self.check_write(guard, first, data, digests)?;
        self.save_old(first, digests.len() as u64, Some(digests))?;
        self.disk.write_at(self.geometry.block_at(first.0), data).map_err(|error| match error {
            DiskError::Full => ImageError::NoSpace { extent: first.extent() },
            other => ImageError::Disk(other),
        })?;
        self.note_written(first, digests)
    }

    /// `write` of blocks that lie apart in memory: gathered and hashed part by part while the parts before are on
    /// their way to the disk.
    pub fn write_gathered(
        &self,
        guard: &RangeGuard,
        first: BlockNo,
        blocks: &[&[u8]],
    ) -> Result<(), ImageError> {
        let count = blocks.len() as u64;
        self.check_guard(guard, first, count)?;
        if let Some(odd) = blocks.iter().position(|block| block.len() != BlockNo::SIZE) {
            return Err(ImageError::OutOfRange { first: first.plus(odd as u64), count: 1 });
        }
        self.check_hot(first, count)?;
        if self.is_saving() {
            // What is overwritten is saved first, and for that all digests are needed first.
            let data = Pages::gathered(blocks);
            return self.write(guard, first, &data, &Digest::of_blocks(&data));
        }
        let mut digests = Vec::with_capacity(blocks.len());
        let offset = self.geometry.block_at(first.0);
        let offsets = (offset..).step_by(PART_BLOCKS * BlockNo::SIZE);
        let mut parts = blocks.chunks(PART_BLOCKS).zip(offsets).map(|(part, offset)| {
            let data = Pages::gathered(part);
            digests.extend(Digest::of_blocks(&data));
            (offset, data)
        });
        self.disk.write_each(&mut parts).map_err(|error| match error {
            DiskError::Full => ImageError::NoSpace { extent: first.extent() },
            other => ImageError::Disk(other),
        })?;
        self.note_written(first, &digests)
    }

    fn check_write(
        &self,
        guard: &RangeGuard,
        first: BlockNo,
        data: &[u8],
        digests: &[Digest],
    ) -> Result<(), ImageError> {
        let count = digests.len() as u64;
        self.check_guard(guard, first, count)?;
        if data.len() as u64 != count * BLOCK {
            return Err(ImageError::OutOfRange { first, count: data.len() as u64 / BLOCK });
        }
        self.check_hot(first, count)
    }

    fn note_written(&self, first: BlockNo, digests: &[Digest]) -> Result<(), ImageError> {
        let mut core = self.core();
        for (start, len) in by_extent(first, digests.len() as u64) {
            let at = (start.0 - first.0) as usize;
            core.set_blocks(start.0, digests[at..at + len as usize].iter().map(|d| BlockRec::Written(*d)))?;
        }
        Ok(())
    }

    pub(super) fn check_hot(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        if !self.writable {
            return Err(ImageError::ReadOnly);
        }
        let core = self.core();
        core.check()?;
        match extents_of(first, count).find(|extent| !core.is_hot(*extent)) {
            Some(extent) => Err(ImageError::NotHot { extent: ExtentNo(extent) }),
            None => Ok(()),
        }
    }

    /// `write` then `flush`, with the block and all metadata on their way to the disk at once. An error is final.
    pub fn write_flush(
        &self,
        guard: &RangeGuard,
        first: BlockNo,
        data: &[u8],
        digests: &[Digest],
    ) -> Result<FlushEpoch, ImageError> {
        self.check_write(guard, first, data, digests)?;
        self.save_old(first, digests.len() as u64, Some(digests))?;
        // No other flush may begin between the digests and the bytes that they are of.
        let mut meta = self.meta();
        self.core().check()?;
        self.note_written(first, digests)?;
        let data = Some((self.geometry.block_at(first.0), data));
        self.commit(&mut meta, &Why { data, ..Why::default() })
    }

    /// Forgets the content: reads as zeros. A discard is a write for the activity log (the extents must be hot). An
    /// extent left without any block, if the guard covers all of it, is given back to the host and loses its backing.
    pub fn discard(&self, guard: &RangeGuard, first: BlockNo, count: u64) -> Result<(), ImageError> {
        self.check_guard(guard, first, count)?;
        self.check_hot(first, count)?;
        if !is_broken("a discard is saved as well") {
            self.save_old(first, count, None)?;
        }
        let mut empty = Vec::new();
        {
            let mut core = self.core();
            for (start, len) in by_extent(first, count) {
                let extent = start.extent();
                let changed = core.set_blocks(start.0, (0..len).map(|_| BlockRec::Unwritten))?;
                let bare = core.pages.get(&extent.0).is_some_and(|cached| cached.page.is_empty());
                if changed > 0 && bare && guard.covers(&self.locks, extent.first_block(), ExtentNo::BLOCKS) {
                    core.entry_mut(extent.0).backed = false;
                    empty.push(extent);
                }
            }
        }
        if empty.is_empty() {
            return Ok(());
        }
        // "Not backed" and the discard itself are stable before the host takes the space away.
        let groups: Vec<u64> = empty.iter().map(|extent| extent.0 / GROUP_EXTENTS).collect();
        self.commit(&mut self.meta(), &Why { groups: &groups, ..Why::default() })?;
        for extent in empty {
            let offset = self.geometry.block_at(extent.first_block().0);
            match self.disk.punch(offset, ExtentNo::BLOCKS * BLOCK) {
                // A medium that cannot give space back keeps it: nothing reads it.
                Ok(()) | Err(DiskError::Io(_) | DiskError::Full) => {}
                Err(DiskError::Dead) => return Err(DiskError::Dead.into()),
            }
        }
        Ok(())
    }

    /// The stored digests, `None` = never written. A block of which nothing is known is `Rotten`.
    pub fn digests(&self, first: BlockNo, count: u64) -> Result<Vec<Option<Digest>>, ImageError> {
        self.check_range(first, count)?;
        let recs = self.recs(first, count)?;
        recs.iter()
            .zip(first.0..)
            .map(|(rec, block)| match rec {
                BlockRec::Unwritten => Ok(None),
                BlockRec::Written(digest) => Ok(Some(*digest)),
                BlockRec::Unknown => Err(ImageError::Rotten { block: BlockNo(block) }),
            })
            .collect()
    }

    /// Repairs a block with bytes whose digest equals the stored one; `WrongRepair` otherwise. Needs no hot extent.
    pub fn heal(&self, guard: &RangeGuard, block: BlockNo, data: &[u8]) -> Result<(), ImageError> {
        self.check_guard(guard, block, 1)?;
        self.check_writable()?;
        if data.len() != BlockNo::SIZE || self.recs(block, 1)?[0] != BlockRec::Written(Digest::of(data)) {
            return Err(ImageError::WrongRepair { block });
        }
        let mut now = vec![0; BlockNo::SIZE];
        // A medium that cannot read the block may well take it when written.
        if self.disk.read_at(self.geometry.block_at(block.0), &mut now).is_ok() && now == data {
            return Ok(());
        }
        self.disk.write_at(self.geometry.block_at(block.0), data)?;
        self.core().unflushed = true;
        Ok(())
    }

    /// Allocates the extent and its metadata for real; stable on return; `NoSpace` leaves everything as it was. The
    /// guard covers the whole extent.
    pub fn back(&self, guard: &RangeGuard, extent: ExtentNo) -> Result<(), ImageError> {
        self.check_guard(guard, extent.first_block(), ExtentNo::BLOCKS)?;
        self.check_writable()?;
        if self.is_backed(extent) {
            return Ok(());
        }
        let group = extent.0 / GROUP_EXTENTS;
        self.ensure_group(&mut self.meta(), group, extent)?;
        let full = |error| match error {
            DiskError::Full => ImageError::NoSpace { extent },
            other => ImageError::Disk(other),
        };
        let used = self.with_page(extent.0, |page| page.used_map())?;
        for (start, len, is_used) in runs(1024, |i| used[i / 64] & 1 << (i % 64) != 0) {
            let offset = self.geometry.block_at(extent.first_block().0 + start as u64);
            if !is_used && !is_broken("backing takes the room from the host") {
                self.disk.zero(offset, len as u64 * BLOCK).map_err(full)?;
            }
        }
        let mut meta = self.meta();
        let page_at = self.geometry.page_at(extent.0);
        let has_page = {
            let core = self.core();
            core.entry(extent.0).touched || core.slot(extent.0).is_some_and(|slot| slot.page_version > 0)
        };
        if !has_page {
            self.note_moved(&mut meta, std::iter::once(extent));
            self.disk.zero(page_at, PAGE_BYTES as u64).map_err(full)?;
        }
        // This flush takes longest, as the host notes what it gave: nobody else's flush waits for it.
        drop(meta);
        self.latch("flush", self.disk.flush())?;
        let mut meta = self.meta();
        // The image may have begun to grow meanwhile, or have grown.
        self.note_moved(&mut meta, std::iter::once(extent));
        if !has_page && self.geometry.page_at(extent.0) != page_at {
            self.disk.zero(self.geometry.page_at(extent.0), PAGE_BYTES as u64).map_err(full)?;
        }
        self.core().entry_mut(extent.0).backed = true;
        self.commit(&mut meta, &Why { groups: &[group], ..Why::default() }).map(|_| ())
    }

    /// Whether `back` has succeeded and no discard has given the extent back since.
    pub fn is_backed(&self, extent: ExtentNo) -> bool {
        extent.0 < self.geometry.extents && self.core().entry(extent.0).backed
    }
}
