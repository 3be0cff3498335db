//! Bitmaps and comparison: what a peer may lack, what is still to be copied, what an extent holds.
//!
//! Decides nothing: callers say what to mark. Invariants: *differs* is cleared only by `clear_bits`; a mark outside
//! hot extents is stable before it counts.

use crate::base::{BlockNo, Digest, ExtentNo};
use crate::format::{BLOCK, BlockRec, DigestPage, GROUP_EXTENTS};

use super::commit::Meta;
use super::hot::extents_of;
use super::{Image, ImageError, PageView, SummaryView};

impl Image {
    /// Sets *differs* in memory; the extents must be hot (after a crash `hot_ranges` covers them). Stable before the
    /// extent is evicted.
    pub fn mark(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        self.check_range(first, count)?;
        let mut core = self.core();
        if let Some(extent) = extents_of(first, count).find(|extent| !core.is_hot(*extent)) {
            return Err(ImageError::NotHot { extent: ExtentNo(extent) });
        }
        core.differs.put(first, count, true);
        Ok(())
    }

    /// Sets *differs* of any blocks, stable on return.
    pub fn mark_stable(&self, ranges: &[(BlockNo, u64)]) -> Result<(), ImageError> {
        self.check_writable()?;
        let mut meta = self.meta();
        for (first, count) in ranges {
            self.check_range(*first, *count)?;
            let mut last = None;
            for extent in extents_of(*first, *count) {
                if last.replace(extent / GROUP_EXTENTS) != Some(extent / GROUP_EXTENTS) {
                    self.ensure_group(&mut meta, extent / GROUP_EXTENTS, ExtentNo(extent))?;
                }
            }
        }
        {
            let mut core = self.core();
            ranges.iter().for_each(|(first, count)| core.differs.put(*first, *count, true));
        }
        self.store_bits(&mut meta, false)
    }

    /// Writes the changed blocks of *differs* (and of *still to copy*) and flushes.
    fn store_bits(&self, _meta: &mut Meta, both: bool) -> Result<(), ImageError> {
        let writes: Vec<(u64, Vec<u8>)> = {
            let mut core = self.core();
            core.check()?;
            let differs: Vec<_> = core.differs.dirty();
            let to_copy: Vec<_> = if both { core.to_copy.dirty() } else { Vec::new() };
            let mut writes: Vec<_> =
                differs.iter().map(|place| self.bitmap_block(&core, false, *place)).collect();
            writes.extend(to_copy.iter().map(|place| self.bitmap_block(&core, true, *place)));
            differs.into_iter().for_each(|place| core.differs.written(place));
            to_copy.into_iter().for_each(|place| core.to_copy.written(place));
            writes
        };
        if writes.is_empty() {
            return Ok(());
        }
        for (offset, bytes) in &writes {
            self.latch("writing the bitmap", self.disk.write_at(*offset, bytes))?;
        }
        self.latch("flush", self.disk.flush())
    }

    /// Sets *still to copy* (in memory); the extents were used before.
    pub fn mark_to_copy(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        self.check_range(first, count)?;
        let mut meta = self.meta();
        for extent in extents_of(first, count) {
            self.ensure_group(&mut meta, extent / GROUP_EXTENTS, ExtentNo(extent))?;
        }
        self.core().to_copy.put(first, count, true);
        Ok(())
    }

    /// *Still to copy* := *differs*, or all blocks ever written. Volatile.
    pub fn start_copy(&self, full: bool) -> Result<(), ImageError> {
        if !full {
            let mut core = self.core();
            let core = &mut *core;
            core.to_copy.copy_from(&core.differs);
            return Ok(());
        }
        self.core().to_copy.clear();
        for extent in self.touched_extents() {
            let used = self.with_page(extent, DigestPage::used_map)?;
            let mut core = self.core();
            for index in (0..1024).filter(|i| used[i / 64] & 1 << (i % 64) != 0) {
                core.to_copy.put(BlockNo(extent * ExtentNo::BLOCKS + index as u64), 1, true);
            }
        }
        Ok(())
    }

    /// Extents that may hold written blocks, in order.
    pub(super) fn touched_extents(&self) -> Vec<u64> {
        let core = self.core();
        let stored = core.summary.iter().flat_map(|(group, entries)| {
            let extents = entries.iter().zip(group * GROUP_EXTENTS..);
            extents.filter(|(entry, _)| entry.touched).map(|(_, extent)| extent)
        });
        let mut all: Vec<u64> = stored.chain(core.by_extent.keys().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|extent| *extent < self.geometry.extents);
        all
    }

    /// First run of *still to copy* at or after `from`.
    pub fn next_to_copy(&self, from: BlockNo) -> Option<(BlockNo, u64)> {
        self.core().to_copy.next(from)
    }

    /// First run of *differs* at or after `from`.
    pub fn next_differs(&self, from: BlockNo) -> Option<(BlockNo, u64)> {
        self.core().differs.next(from)
    }

    /// Clears *still to copy*; the copy is stable on the target.
    pub fn copied(&self, first: BlockNo, count: u64) {
        self.core().to_copy.put(first, count, false);
    }

    /// Clears both bitmaps, stable on return: the join is stored.
    pub fn clear_bits(&self) -> Result<(), ImageError> {
        self.check_writable()?;
        let mut meta = self.meta();
        {
            let mut core = self.core();
            core.differs.clear();
            core.to_copy.clear();
        }
        self.store_bits(&mut meta, true)
    }

    /// Blocks with *differs*.
    pub fn dirty_blocks(&self) -> u64 {
        self.core().differs.count()
    }

    /// Blocks with *still to copy*.
    pub fn to_copy_blocks(&self) -> u64 {
        self.core().to_copy.count()
    }

    /// First run of written blocks at or after `from`, within one extent.
    pub fn next_written(&self, from: BlockNo) -> Result<Option<(BlockNo, u64)>, ImageError> {
        let start = from.extent().0;
        let touched = self.touched_extents();
        let at = touched.partition_point(|extent| *extent < start);
        for extent in touched[at..].iter().copied() {
            let used = self.with_page(extent, DigestPage::used_map)?;
            let is_used = |i: &usize| used[i / 64] & 1 << (i % 64) != 0;
            let begin = if extent == start { from.index_in_extent() } else { 0 };
            if let Some(first) = (begin..1024).find(is_used) {
                let end = (first..1024).find(|i| !is_used(i)).unwrap_or(1024);
                let block = BlockNo(extent * ExtentNo::BLOCKS + first as u64);
                return Ok(Some((block, (end - first) as u64)));
            }
        }
        Ok(None)
    }

    /// Runs of written blocks from `from` on, each within one extent; ends after an error.
    pub fn written_runs(
        &self,
        from: BlockNo,
    ) -> impl Iterator<Item = Result<(BlockNo, u64), ImageError>> + '_ {
        let mut at = Some(from);
        std::iter::from_fn(move || match self.next_written(at?) {
            Ok(Some((first, count))) => {
                at = Some(first.plus(count));
                Some(Ok((first, count)))
            }
            Ok(None) => None,
            Err(error) => {
                at = None;
                Some(Err(error))
            }
        })
    }

    /// Written map and digests of an extent.
    pub fn extent_page(&self, extent: ExtentNo) -> Result<PageView, ImageError> {
        self.check_range(extent.first_block(), ExtentNo::BLOCKS)?;
        self.with_page(extent.0, |page| {
            let digest = |index: usize| match page.get(index) {
                BlockRec::Written(digest) => Some(digest),
                BlockRec::Unwritten | BlockRec::Unknown => None,
            };
            PageView {
                extent,
                damaged: page.has_unknown(),
                digests: (0..1024).map(digest).collect::<Vec<Option<Digest>>>(),
            }
        })
    }

    /// Summary of an extent; computed from the page if the extent is hot.
    pub fn summary(&self, extent: ExtentNo) -> Result<SummaryView, ImageError> {
        self.check_range(extent.first_block(), ExtentNo::BLOCKS)?;
        let (entry, hot) = {
            let core = self.core();
            (core.entry(extent.0), core.by_extent.contains_key(&extent.0))
        };
        if !hot && !entry.touched {
            return Ok(SummaryView { touched: false, backed: entry.backed, hash: [0; 15] });
        }
        let (empty, hash) = match hot {
            true => self.with_page(extent.0, |page| (page.is_empty(), page.summary_hash()))?,
            false => (entry.hash == self.empty_page.summary_hash(), entry.hash),
        };
        let hash = if empty { [0; 15] } else { hash };
        Ok(SummaryView { touched: !empty, backed: entry.backed, hash })
    }

    /// Bytes of the data area that were ever written and not discarded, by the digest pages.
    pub fn written_bytes(&self) -> Result<u64, ImageError> {
        let mut blocks = 0;
        for extent in self.touched_extents() {
            blocks += self
                .with_page(extent, |p| p.used_map().iter().map(|w| u64::from(w.count_ones())).sum::<u64>())?;
        }
        Ok(blocks * BLOCK)
    }
}
