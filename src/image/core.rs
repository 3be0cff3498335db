//! What an open image knows in memory: slots, digest pages, what was written since the last flush, the summary.
//!
//! Decides which extents may leave the activity log. Does no I/O. Invariants: the page of a hot extent is in memory;
//! `pending` holds, for every block written since the last flush, what was known of it at that flush.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{BlockNo, ExtentNo, FastMap};
use crate::format::{BlockRec, DigestPage, GROUP_EXTENTS, State, SummaryEntry};

use super::bits::Bitmap;
use super::{ImageError, RangeLocks};

/// Whether a rule is switched off on this thread: tests must see it missed.
#[cfg(test)]
pub(super) fn is_broken(rule: &'static str) -> bool {
    super::tests::BROKEN.with(|broken| broken.get() == rule)
}

#[cfg(not(test))]
pub(super) fn is_broken(_rule: &'static str) -> bool {
    false
}

/// An extent in the activity log.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub extent: u64,
    /// The transaction that names it is stable: it may be written.
    pub stable: bool,
    pub pinned: bool,
    /// Epoch of the last write, 0 = none.
    pub last_write: u64,
    pub used: u64,
    /// Blocks of it in `pending`.
    pub pending: u32,
    /// Raised by every change of the page; which of them the page and the summary on disk have.
    pub version: u64,
    pub page_version: u64,
    pub summary_version: u64,
    /// Hash of a first page that is stable on disk, while the summary does not say so yet.
    pub due: Option<[u8; 15]>,
    /// Oldest transaction with a digest that the page on disk lacks.
    pub oldest_pair: Option<u64>,
}

impl Slot {
    /// Page and summary on disk have everything.
    pub fn is_saved(&self) -> bool {
        is_broken("evict saved extents only")
            || self.pending == 0 && self.page_version == self.version && self.summary_version == self.version
    }
}

pub(super) struct Cached {
    pub page: Box<DigestPage>,
    pub used: u64,
}

impl Cached {
    pub fn empty() -> Cached {
        Cached { page: Box::default(), used: 0 }
    }
}

pub(super) struct Core {
    pub slots: Vec<Option<Slot>>,
    pub by_extent: FastMap<u64, usize>,
    pub pages: FastMap<u64, Cached>,
    pub cache_pages: usize,
    pub pending: BTreeMap<u64, BlockRec>,
    /// Something was written that needs a flush but has no digest to record (a heal).
    pub unflushed: bool,
    pub open_epoch: u64,
    pub confirmed: u64,
    /// Slots that a caller could not get.
    pub demand: usize,
    /// Hot extents that whoever waits for slots needs besides: they are no room.
    pub kept: std::collections::BTreeSet<u64>,
    pub differs: Bitmap,
    pub to_copy: Bitmap,
    pub summary: BTreeMap<u64, Vec<SummaryEntry>>,
    pub state: State,
    pub failed: Option<String>,
    pub tick: u64,
    pub activations: u64,
    pub blessed: u64,
    pub damaged_pages: u64,
}

impl Core {
    pub fn check(&self) -> Result<(), ImageError> {
        match &self.failed {
            Some(why) => Err(ImageError::Failed(why.clone())),
            None => Ok(()),
        }
    }

    pub fn touch(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    pub fn entry(&self, extent: u64) -> SummaryEntry {
        let group = self.summary.get(&(extent / GROUP_EXTENTS));
        group.map_or(SummaryEntry::default(), |entries| entries[(extent % GROUP_EXTENTS) as usize])
    }

    pub fn entry_mut(&mut self, extent: u64) -> &mut SummaryEntry {
        let group = self.summary.entry(extent / GROUP_EXTENTS);
        let entries = group.or_insert_with(|| vec![SummaryEntry::default(); GROUP_EXTENTS as usize]);
        &mut entries[(extent % GROUP_EXTENTS) as usize]
    }

    pub fn slot(&self, extent: u64) -> Option<&Slot> {
        self.slots[*self.by_extent.get(&extent)?].as_ref()
    }

    pub fn slot_mut(&mut self, extent: u64) -> Option<&mut Slot> {
        self.slots[*self.by_extent.get(&extent)?].as_mut()
    }

    pub fn is_hot(&self, extent: u64) -> bool {
        self.slot(extent).is_some_and(|slot| slot.stable)
    }

    /// Records what was done to blocks of one hot extent: the page, and what the next flush has to say.
    pub fn set_blocks(
        &mut self,
        first: u64,
        recs: impl Iterator<Item = BlockRec>,
    ) -> Result<u64, ImageError> {
        let extent = first / ExtentNo::BLOCKS;
        let epoch = self.open_epoch;
        let not_hot = ImageError::NotHot { extent: ExtentNo(extent) };
        let slot =
            self.by_extent.get(&extent).and_then(|slot| self.slots[*slot].as_mut()).ok_or(not_hot.clone())?;
        let page = &mut self.pages.get_mut(&extent).ok_or(not_hot)?.page;
        let mut changed = 0;
        for (block, rec) in (first..).zip(recs) {
            let index = BlockNo(block).index_in_extent();
            let old = page.get(index);
            if rec == BlockRec::Unwritten && old == BlockRec::Unwritten {
                continue;
            }
            changed += 1;
            page.set(index, rec);
            self.pending.entry(block).or_insert_with(|| {
                slot.pending += 1;
                old
            });
        }
        if changed > 0 {
            slot.version += 1;
            slot.last_write = epoch;
        }
        Ok(changed)
    }

    /// The page as of the last flush: what may be written home before the next one.
    pub fn flushed_page(&self, extent: u64) -> Option<DigestPage> {
        let mut page = DigestPage::clone(&self.pages.get(&extent)?.page);
        let first = extent * ExtentNo::BLOCKS;
        if is_broken("pages hold flushed digests only") {
            return Some(page);
        }
        for (block, old) in self.pending.range(first..first + ExtentNo::BLOCKS) {
            page.set(BlockNo(*block).index_in_extent(), *old);
        }
        Some(page)
    }

    /// May the extent leave the activity log now?
    fn is_evictable(&self, slot: &Slot, locks: &Arc<RangeLocks>) -> bool {
        let first = ExtentNo(slot.extent).first_block();
        slot.stable
            && !slot.pinned
            && self.is_ready(slot)
            && slot.last_write <= self.confirmed
            && !locks.is_held(first, ExtentNo::BLOCKS)
    }

    /// Slots for `wanted` extents: free ones, then the longest unused that may go; none of `keep`.
    pub fn find_slots(
        &mut self,
        wanted: usize,
        keep: &[u64],
        locks: &Arc<RangeLocks>,
    ) -> Result<Vec<usize>, ImageError> {
        let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_none());
        let mut found: Vec<usize> = free.map(|(index, _)| index).take(wanted).collect();
        if found.len() < wanted {
            let mut old: Vec<(u64, usize)> = Vec::new();
            for (index, slot) in self.slots.iter().enumerate() {
                if let Some(slot) = slot
                    && !keep.contains(&slot.extent)
                    && self.is_evictable(slot, locks)
                {
                    old.push((slot.used, index));
                }
            }
            old.sort_unstable();
            found.extend(old.into_iter().map(|(_, index)| index).take(wanted - found.len()));
        }
        if found.len() < wanted {
            self.demand = self.demand.max(wanted);
            self.kept.extend(keep);
            return Err(ImageError::SlotsBusy);
        }
        self.demand = 0;
        self.kept.clear();
        Ok(found)
    }

    /// Page, summary and bits on disk have everything.
    fn is_ready(&self, slot: &Slot) -> bool {
        slot.is_saved() && !self.differs.is_dirty_at(slot.extent)
    }

    /// Slots that are free or saved, and how many should be.
    fn reserve(&self, locks: &Arc<RangeLocks>) -> (usize, usize) {
        // One under a lock cannot go, nor can one that the waiting operation needs as well: they do not count where
        // someone waits for a slot.
        let held = |s: &Slot| locks.is_held(ExtentNo(s.extent).first_block(), ExtentNo::BLOCKS);
        let stays = |s: &Slot| self.demand > 0 && (held(s) || self.kept.contains(&s.extent));
        let ready =
            |slot: &&Option<Slot>| slot.as_ref().is_none_or(|s| !s.pinned && self.is_ready(s) && !stays(s));
        let have = self.slots.iter().filter(ready).count();
        (have, (self.slots.len() / 8).max(1).max(self.demand))
    }

    /// Longest unused slots to be saved with the next flush, so that free ones are there when needed.
    pub fn to_clean(&self, locks: &Arc<RangeLocks>) -> Vec<u64> {
        let (have, want) = self.reserve(locks);
        let mut old: Vec<(u64, u64)> = Vec::new();
        if have < want {
            let unsaved = |s: &&Slot| {
                !s.pinned && s.pending == 0 && !self.is_ready(s) && !self.kept.contains(&s.extent)
            };
            old.extend(self.slots.iter().flatten().filter(unsaved).map(|s| (s.used, s.extent)));
            old.sort_unstable();
            old.truncate(want - have);
        }
        old.into_iter().map(|(_, extent)| extent).collect()
    }

    /// Drops pages of cold extents beyond the limit, longest unused first.
    pub fn trim_pages(&mut self) {
        if self.pages.len() < self.cache_pages + self.slots.len() + 64 {
            return;
        }
        let cold = self.pages.iter().filter(|(extent, _)| !self.by_extent.contains_key(extent));
        let mut cold: Vec<(u64, u64)> = cold.map(|(extent, cached)| (cached.used, *extent)).collect();
        cold.sort_unstable();
        for (_, extent) in cold.iter().take(cold.len().saturating_sub(self.cache_pages)) {
            self.pages.remove(extent);
        }
    }
}
