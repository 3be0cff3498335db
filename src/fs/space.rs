//! Free space in memory: which blocks may be given to files and tables.
//!
//! Decides where new data goes. Does not write anything: the table of free space follows the sealed operations alone
//! (U14). Invariants: only backed blocks are given out (W19); freed blocks wait until the record that freed them is
//! checkpointed (W2).

use std::collections::BTreeMap;

use crate::base::{BlockNo, ExtentNo};

/// Disjoint runs of blocks, neighbours joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    runs: BTreeMap<u64, u64>,
    total: u64,
}

impl Runs {
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(|(start, count)| (*start, *count))
    }

    /// Adds a run that must not be there yet; answers false (and adds nothing) if part of it is.
    pub(super) fn insert(&mut self, start: u64, count: u64) -> bool {
        if count == 0 {
            return true;
        }
        if self.overlaps(start, count) {
            return false;
        }
        let (mut from, mut len) = (start, count);
        if let Some((low, low_len)) = self.runs.range(..start).next_back()
            && low + low_len == start
        {
            (from, len) = (*low, low_len + len);
        }
        if let Some(high_len) = self.runs.remove(&(start + count)) {
            len += high_len;
        }
        self.runs.insert(from, len);
        self.total += count;
        true
    }

    fn overlaps(&self, start: u64, count: u64) -> bool {
        self.runs.range(..start.saturating_add(count)).next_back().is_some_and(|(low, len)| low + len > start)
    }

    /// Removes whatever of the run is there; answers how many blocks that was.
    pub(super) fn remove(&mut self, start: u64, count: u64) -> u64 {
        let end = start.saturating_add(count);
        let mut removed = 0;
        while let Some((low, len)) = self.runs.range(..end).next_back().map(|(a, b)| (*a, *b)) {
            if low + len <= start {
                break;
            }
            self.runs.remove(&low);
            if low < start {
                self.runs.insert(low, start - low);
            }
            if low + len > end {
                self.runs.insert(end, low + len - end);
            }
            removed += (low + len).min(end) - low.max(start);
        }
        self.total -= removed;
        removed
    }

    /// The parts of the run that are there.
    pub(super) fn within(&self, start: u64, count: u64) -> Vec<(u64, u64)> {
        let end = start.saturating_add(count);
        let from = self.runs.range(..=start).next_back().map_or(start, |(low, _)| *low);
        self.runs
            .range(from..end)
            .map(|(low, len)| ((*low).max(start), (low + len).min(end)))
            .filter(|(low, high)| low < high)
            .map(|(low, high)| (low, high - low))
            .collect()
    }

    /// Takes up to `want` blocks: right at `goal` if free, else the first run that holds all within a short search,
    /// else the longest seen.
    fn take(&mut self, goal: u64, want: u64) -> Option<(u64, u64)> {
        const LOOK: usize = 64;
        let at_goal = self.within(goal, want).first().copied().filter(|(start, _)| *start == goal);
        let found = at_goal.or_else(|| {
            let mut best: Option<(u64, u64)> = None;
            let around = self.runs.range(goal..).chain(self.runs.range(..goal)).take(LOOK);
            for (start, len) in around {
                if *len >= want {
                    return Some((*start, want));
                }
                if best.is_none_or(|(_, known)| *len > known) {
                    best = Some((*start, *len));
                }
            }
            best
        })?;
        self.remove(found.0, found.1);
        Some(found)
    }

    /// Takes a run of exactly `count`.
    fn take_exact(&mut self, count: u64) -> Option<u64> {
        let start =
            self.runs.iter().rev().find(|(_, len)| **len >= count).map(|(low, len)| low + len - count)?;
        self.remove(start, count);
        Some(start)
    }
}

/// Free space of the volume.
#[derive(Default)]
pub(super) struct Space {
    backed: Runs,
    unbacked: Runs,
    /// Blocks promised to dirty data.
    reserved: u64,
    pending: BTreeMap<u64, Vec<(u64, u64)>>,
    pending_total: u64,
    /// Freed and checkpointed, but not discarded yet.
    due: Runs,
    goal: u64,
    host_full: bool,
}

impl Space {
    /// Blocks that a write may still promise itself without backing more.
    pub(super) fn available(&self) -> u64 {
        self.backed.total().saturating_sub(self.reserved)
    }

    /// Free in the sense of statfs.
    pub(super) fn free_total(&self) -> u64 {
        let unbacked = if self.host_full { 0 } else { self.unbacked.total() };
        (self.backed.total() + unbacked + self.pending_total()).saturating_sub(self.reserved)
    }

    /// Blocks that nobody has any more and that cannot be given out yet.
    pub(super) fn pending_total(&self) -> u64 {
        self.pending_total + self.due.total()
    }

    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    pub(super) fn reserve(&mut self, blocks: u64) -> bool {
        let enough = self.available() >= blocks;
        if enough {
            self.reserved += blocks;
        }
        enough
    }

    pub(super) fn unreserve(&mut self, blocks: u64) {
        self.reserved = self.reserved.saturating_sub(blocks);
    }

    /// Adds free blocks, sorted by whether their extent is backed.
    pub(super) fn add(&mut self, start: u64, count: u64, is_backed: &dyn Fn(ExtentNo) -> bool) -> bool {
        let (mut at, end) = (start, start.saturating_add(count));
        let mut fresh = true;
        while at < end {
            let extent = BlockNo(at).extent();
            let stop = end.min(extent.first_block().0 + ExtentNo::BLOCKS);
            let runs = if is_backed(extent) { &mut self.backed } else { &mut self.unbacked };
            fresh &= runs.insert(at, stop - at);
            at = stop;
        }
        fresh
    }

    /// Removes blocks that turned out to be in use; answers how many were free.
    pub(super) fn exclude(&mut self, start: u64, count: u64) -> u64 {
        self.backed.remove(start, count) + self.unbacked.remove(start, count)
    }

    /// The next extent worth backing.
    pub(super) fn next_unbacked(&self) -> Option<ExtentNo> {
        self.unbacked.iter().next().map(|(start, _)| BlockNo(start).extent())
    }

    /// `extent` is backed now.
    pub(super) fn now_backed(&mut self, extent: ExtentNo) {
        for (start, count) in self.unbacked.within(extent.first_block().0, ExtentNo::BLOCKS) {
            self.unbacked.remove(start, count);
            self.backed.insert(start, count);
        }
    }

    /// The host disk is full (or not any more): blocks that are not backed do not count as free.
    pub(super) fn set_host_full(&mut self, full: bool) {
        self.host_full = full;
    }

    /// Takes up to `want` blocks, near `goal` if given.
    pub(super) fn take(&mut self, goal: Option<u64>, want: u64) -> Option<(BlockNo, u64)> {
        let (start, count) = self.backed.take(goal.unwrap_or(self.goal), want)?;
        if goal.is_none() {
            self.goal = start + count;
        }
        Some((BlockNo(start), count))
    }

    /// Takes a chunk for the tables, never out of what is promised to data.
    pub(super) fn take_chunk(&mut self, blocks: u64) -> Option<BlockNo> {
        if self.available() < blocks {
            return None;
        }
        self.backed.take_exact(blocks).map(BlockNo)
    }

    /// Blocks freed by record `seq`.
    pub(super) fn free_later(&mut self, seq: u64, start: BlockNo, count: u64) {
        self.pending.entry(seq).or_default().push((start.0, count));
        self.pending_total += count;
    }

    /// Everything freed by records up to `seq`, for the caller to discard and `add`.
    pub(super) fn take_pending(&mut self, seq: u64) -> Runs {
        let later = self.pending.split_off(&(seq + 1));
        let due = std::mem::replace(&mut self.pending, later);
        let mut runs = Runs::default();
        for (start, count) in due.into_values().flatten() {
            runs.insert(start, count);
        }
        self.pending_total = self.pending.values().flatten().map(|(_, count)| *count).sum();
        runs
    }
}

impl Space {
    /// These are checkpointed and wait for their discard; answers false if some waited already.
    pub(super) fn now_due(&mut self, freed: &Runs) -> bool {
        freed.iter().fold(true, |fresh, (start, count)| self.due.insert(start, count) && fresh)
    }

    pub(super) fn is_due(&self) -> bool {
        self.due.total() > 0
    }

    /// About `max` of those blocks. A run is divided between extents: one without a block goes back to the host, and
    /// that is seen only when all of it is discarded at once.
    pub(super) fn take_due(&mut self, max: u64) -> Runs {
        let mut taken = Runs::default();
        while taken.total() < max {
            let Some((start, count)) = self.due.iter().next() else { break };
            let stop = start.saturating_add(max - taken.total()) / ExtentNo::BLOCKS * ExtentNo::BLOCKS;
            let stop = stop.max((start / ExtentNo::BLOCKS + 1) * ExtentNo::BLOCKS);
            let count = count.min(stop - start);
            self.due.remove(start, count);
            taken.insert(start, count);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_split_and_refuse_double_frees() {
        let mut runs = Runs::default();
        assert!(runs.insert(10, 5) && runs.insert(20, 5) && runs.insert(15, 5));
        assert_eq!(runs.iter().collect::<Vec<_>>(), vec![(10, 15)]);
        assert!(!runs.insert(24, 3), "block 24 is there already");
        assert_eq!(runs.remove(12, 3), 3);
        assert_eq!(runs.within(0, 100), vec![(10, 2), (15, 10)]);
        assert_eq!((runs.remove(0, 100), runs.total()), (12, 0));
    }

    #[test]
    fn only_backed_blocks_are_given_out_and_freed_ones_wait() {
        let mut space = Space::default();
        space.add(0, 4096, &|extent| extent.0 == 1);
        assert_eq!(space.available(), 1024);
        assert_eq!(space.take(None, 2000), Some((BlockNo(1024), 1024)));
        assert_eq!(space.take(None, 1), None);
        space.now_backed(ExtentNo(3));
        assert!(space.reserve(1024) && !space.reserve(1));
        assert_eq!(space.take_chunk(64), None, "promised to data");
        space.free_later(5, BlockNo(1024), 10);
        assert_eq!(space.take_pending(4).total(), 0);
        assert_eq!(space.take_pending(5).total(), 10);
    }

    #[test]
    fn what_waits_for_its_discard_counts_as_free_and_comes_in_whole_extents() {
        let mut space = Space::default();
        let mut freed = Runs::default();
        freed.insert(1000, 3000);
        assert!(space.now_due(&freed) && !space.now_due(&freed), "twice");
        assert_eq!((space.free_total(), space.available()), (3000, 0));
        let parts: Vec<Vec<(u64, u64)>> =
            std::iter::from_fn(|| space.is_due().then(|| space.take_due(1500).iter().collect())).collect();
        assert_eq!(parts, [[(1000, 2072)], [(3072, 928)]]);
        assert_eq!(space.take_due(u64::MAX).total(), 0);
    }
}
