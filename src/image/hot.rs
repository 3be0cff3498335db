//! Activation: an extent is in the activity log, stable, before its first write.
//!
//! Decides which extents have to be activated; `commit` does it. Invariant: on return every extent of the range is
//! named by a stable transaction.

use crate::base::{BlockNo, ExtentNo};
use crate::format::{ACTIVATIONS_MAX, GROUP_EXTENTS, GROUP_TXNS_MAX};

use super::commit::Why;
use super::core::Core;
use super::{FlushEpoch, Image, ImageError};

const ACTIVATIONS_AT_ONCE: usize = ACTIVATIONS_MAX * GROUP_TXNS_MAX as usize;

impl Image {
    /// Activates the extents of the range: in the activity log and stable on return; no I/O if all are hot. An extent
    /// under a held range lock is never evicted, so take the lock first. `SlotsBusy`: flush on all members, `confirm`,
    /// call again. `NoSpace`: the host disk has no room for the extent's metadata.
    pub fn make_hot(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        self.activate(first, count, false)
    }

    /// `make_hot`, and never evicted while the image is open.
    pub fn pin_hot(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        self.activate(first, count, true)
    }

    /// Whether every extent of the range is in the activity log, stable.
    pub fn is_hot(&self, first: BlockNo, count: u64) -> bool {
        let core = self.core();
        extents_of(first, count).all(|extent| core.is_hot(extent))
    }

    fn activate(&self, first: BlockNo, count: u64, pin: bool) -> Result<(), ImageError> {
        self.check_range(first, count)?;
        if !self.writable {
            return Err(ImageError::ReadOnly);
        }
        if !pin && self.use_hot(first, count, false)? {
            return Ok(());
        }
        // Pages are read before the lock that every flush needs; it finds them in memory.
        extents_of(first, count).try_for_each(|extent| self.with_page(extent, |_| ()))?;
        let mut meta = self.meta();
        let wanted: Vec<u64> = extents_of(first, count).collect();
        let missing: Vec<u64> = {
            let core = self.core();
            core.check()?;
            let pinned = |core: &Core| core.slots.iter().flatten().filter(|s| s.pinned).count();
            let others =
                core.slots.iter().flatten().filter(|s| s.pinned && !wanted.contains(&s.extent)).count();
            // One slot must stay for everything that is not pinned.
            let room = core.slots.len() - others - usize::from(pin);
            let missing: Vec<u64> =
                wanted.iter().copied().filter(|e| !core.by_extent.contains_key(e)).collect();
            if wanted.len() > room || missing.len() > ACTIVATIONS_AT_ONCE {
                let slots = core.slots.len() - pinned(&core);
                return Err(ImageError::TooManyExtents { extents: wanted.len() as u64, slots: slots as u64 });
            }
            missing
        };
        if !missing.is_empty() {
            for extent in &missing {
                self.ensure_group(&mut meta, extent / GROUP_EXTENTS, ExtentNo(*extent))?;
                self.with_page(*extent, |_| ())?;
            }
            self.commit(&mut meta, &Why { activate: &missing, keep: &wanted, ..Why::default() })?;
        }
        self.use_hot(first, count, pin).map(|_| ())
    }

    /// Notes the use of hot extents; false if one is not hot.
    fn use_hot(&self, first: BlockNo, count: u64, pin: bool) -> Result<bool, ImageError> {
        let mut core = self.core();
        core.check()?;
        let used = core.touch();
        for extent in extents_of(first, count) {
            match core.slot_mut(extent) {
                Some(slot) if slot.stable => {
                    slot.used = used;
                    slot.pinned |= pin;
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// All members have flushed everything up to the epoch: extents without later writes may be evicted.
    pub fn confirm(&self, epoch: FlushEpoch) {
        let mut core = self.core();
        core.confirmed = core.confirmed.max(epoch.0);
    }

    /// All blocks of all extents in the activity log, as runs: what a crash may have left different on the peer.
    pub fn hot_ranges(&self) -> Vec<(BlockNo, u64)> {
        let core = self.core();
        let mut extents: Vec<u64> = core.slots.iter().flatten().map(|slot| slot.extent).collect();
        extents.sort_unstable();
        let mut runs: Vec<(BlockNo, u64)> = Vec::new();
        for extent in extents {
            let first = ExtentNo(extent).first_block();
            match runs.last_mut() {
                Some((start, count)) if start.plus(*count) == first => *count += ExtentNo::BLOCKS,
                _ => runs.push((first, ExtentNo::BLOCKS)),
            }
        }
        runs
    }

    /// Slots of the activity log.
    pub fn slot_count(&self) -> u64 {
        self.geometry.al_slots.into()
    }

    /// Saves everything lazy and empties the activity log, so that the next open finds nothing to settle.
    pub fn close(&self) -> Result<(), ImageError> {
        if !self.writable {
            return Ok(());
        }
        let mut meta = self.meta();
        // Digests, then pages, then the summary entries of first pages.
        for _ in 0..3 {
            self.commit(&mut meta, &Why { all: true, ..Why::default() })?;
        }
        let slots = {
            let mut core = self.core();
            if core.slots.iter().flatten().any(|slot| !slot.is_saved()) {
                return Err(ImageError::Failed("closed while writes are going on".to_string()));
            }
            core.by_extent.clear();
            core.slots.iter_mut().for_each(|slot| *slot = None);
            vec![None; core.slots.len()]
        };
        self.write_reset(&mut meta, &slots)
    }

    pub(super) fn check_range(&self, first: BlockNo, count: u64) -> Result<(), ImageError> {
        let inside =
            count > 0 && first.0.checked_add(count).is_some_and(|end| end <= self.geometry.block_count());
        if inside { Ok(()) } else { Err(ImageError::OutOfRange { first, count }) }
    }
}

/// Extents that a range of blocks touches.
pub(super) fn extents_of(first: BlockNo, count: u64) -> std::ops::RangeInclusive<u64> {
    first.extent().0..=first.plus(count.saturating_sub(1)).extent().0
}
