//! The one place that writes the activity log ring, digest pages and summary: a *commit* is a group of ring
//! transactions and whatever else is due, then one flush of the disk.
//!
//! Decides what rides on a flush. Invariants: transactions of a group are written only after the flush of the group
//! before (so only the last group is ever in doubt); a page on disk never holds a digest that was not flushed before;
//! the summary says "touched" only of a page that is stable; a slot changes hands only when its extent is saved.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use crate::base::{BlockNo, ExtentNo, Pages};
use crate::format::{
    ACTIVATIONS_MAX, BLOCK, GROUP_EXTENTS, GROUP_TXNS_MAX, PAIRS_MAX, RING_BLOCKS, WINDOW_TXNS,
};
use crate::format::{BlockRec, Pair, STATEMENTS_MAX, Statement, Transaction, UndoHead};

use super::bits::Bitmap;
use super::core::{Core, Slot, is_broken};
use super::{DiskError, FlushEpoch, Image, ImageError};

/// Positions in the metadata; its mutex is held over every write of metadata and its flush.
pub(super) struct Meta {
    pub next_seq: u64,
    /// First sequence of the restart's group: nothing before it counts.
    pub reset_first: u64,
    /// Next slot to be restated.
    pub rotate: u32,
    pub slot_seq: u64,
    /// Slot to be written next.
    pub next_slot: usize,
    pub groups: Vec<u8>,
    /// The metadata is moving: extents whose page was written meanwhile.
    pub moved: Option<BTreeSet<u64>>,
    pub undo: UndoHead,
}

/// What one commit writes before its flush.
struct Plan {
    txns: Vec<Transaction>,
    writes: Vec<(u64, Vec<u8>)>,
    activated: Vec<usize>,
    /// Digests remain for another group.
    more: bool,
    epoch: u64,
}

/// Why a commit is made.
#[derive(Clone, Copy, Default)]
pub(super) struct Why<'a> {
    /// Extents to activate, and the whole request they belong to.
    pub activate: &'a [u64],
    pub keep: &'a [u64],
    /// Groups whose summary block changed.
    pub groups: &'a [u64],
    /// Save everything: the image is being closed.
    pub all: bool,
    /// Content of blocks whose digests are pending: written before the first flush.
    pub data: Option<(u64, &'a [u8])>,
}

impl Image {
    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The metadata lock: taken before `core`, after range locks.
    pub(super) fn meta(&self) -> MutexGuard<'_, Meta> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_writable(&self) -> Result<(), ImageError> {
        if self.writable { self.core().check() } else { Err(ImageError::ReadOnly) }
    }

    /// An error of the image's own structures or of a flush is final.
    pub(super) fn latch<T>(&self, what: &str, result: Result<T, DiskError>) -> Result<T, ImageError> {
        result.map_err(|error| {
            self.core().failed.get_or_insert(format!("{what}: {error}"));
            ImageError::Disk(error)
        })
    }

    /// Everything done before the call is stable on return: one ring write with the digests written since the last
    /// flush, one disk flush; nothing at all if nothing was written. Concurrent calls share.
    pub fn flush(&self) -> Result<FlushEpoch, ImageError> {
        if !self.writable {
            return Err(ImageError::ReadOnly);
        }
        let asked = self.core().open_epoch;
        let mut meta = self.meta();
        {
            let core = self.core();
            core.check()?;
            if core.open_epoch > asked {
                return Ok(FlushEpoch(asked));
            }
            if core.pending.is_empty() && !core.unflushed && core.to_clean(&self.locks).is_empty() {
                return Ok(FlushEpoch(core.open_epoch - 1));
            }
        }
        self.commit(&mut meta, &Why::default())
    }

    /// Makes one or more groups stable; all digests pending at the call are in them.
    pub(super) fn commit(&self, meta: &mut Meta, why: &Why<'_>) -> Result<FlushEpoch, ImageError> {
        let mut why = *why;
        loop {
            let plan = self.plan(&mut self.core(), meta, &why)?;
            self.carry_out(&plan, why.data.take())?;
            let mut core = self.core();
            for slot in &plan.activated {
                if let Some(slot) = core.slots[*slot].as_mut() {
                    slot.stable = true;
                }
            }
            if !plan.more {
                return Ok(FlushEpoch(plan.epoch));
            }
            why.activate = &[];
        }
    }

    /// All of a group's writes at once: nothing among them depends on another, all wait for the one flush.
    fn carry_out(&self, plan: &Plan, data: Option<(u64, &[u8])>) -> Result<(), ImageError> {
        if !plan.activated.is_empty() && is_broken("hot before the first write") {
            return Ok(());
        }
        let ring = self.ring_writes(&plan.txns);
        let metadata = plan.writes.iter().map(|(offset, bytes)| (*offset, bytes.as_slice()));
        let ring = ring.iter().map(|(offset, bytes)| (*offset, &**bytes));
        let writes: Vec<(u64, &[u8])> = data.into_iter().chain(metadata).chain(ring).collect();
        self.latch("writing data and metadata", self.disk.write_many(&writes))?;
        self.latch("flush", self.disk.flush())
    }

    /// (offset, bytes) of transactions in the activity log.
    fn ring_writes(&self, txns: &[Transaction]) -> Vec<(u64, Pages)> {
        let mut writes = Vec::new();
        let mut at = 0;
        while at < txns.len() {
            let start = txns[at].seq % RING_BLOCKS;
            let run = (txns.len() - at).min((RING_BLOCKS - start) as usize);
            let mut bytes = Pages::zeroed(run);
            for (block, txn) in bytes.chunks_exact_mut(BLOCK as usize).zip(&txns[at..at + run]) {
                block.copy_from_slice(&txn.encode(self.salt));
            }
            writes.push((self.geometry.ring_at(txns[at].seq), bytes));
            at += run;
        }
        writes
    }

    pub(super) fn write_ring(&self, txns: &[Transaction]) -> Result<(), ImageError> {
        self.ring_writes(txns).iter().try_for_each(|(offset, bytes)| {
            self.latch("writing the activity log", self.disk.write_at(*offset, bytes))
        })
    }

    fn plan(&self, core: &mut Core, meta: &mut Meta, why: &Why<'_>) -> Result<Plan, ImageError> {
        core.check()?;
        let (activated, news) = self.place(core, why)?;
        let (pairs, blocks) = gather(core);
        let wanted = pairs.len().div_ceil(PAIRS_MAX).max(why.activate.len().div_ceil(ACTIVATIONS_MAX)).max(1);
        let (first, len) = (meta.next_seq, wanted as u64);
        let mut writes = Vec::new();
        let mut groups: BTreeSet<u64> = why.groups.iter().copied().collect();
        let saved = self.save_pages(core, first + len, why.all, &mut writes, &mut groups);
        self.note_moved(meta, saved.iter().map(|extent| ExtentNo(*extent)));
        self.save_bits(core, &saved, why.all, &mut writes);
        writes.extend(
            groups.iter().map(|group| (self.geometry.group_at(*group), self.summary_block(core, *group))),
        );
        for block in &blocks {
            core.pending.remove(block);
            if let Some(slot) = core.slot_mut(block / ExtentNo::BLOCKS) {
                slot.pending -= 1;
                slot.oldest_pair.get_or_insert(first);
            }
        }
        meta.next_seq = first + len;
        let txns = build(core, meta, (first, len), &news, pairs);
        let more = !core.pending.is_empty();
        let epoch = core.open_epoch;
        if !more {
            core.open_epoch += 1;
            core.unflushed = false;
        }
        Ok(Plan { txns, writes, activated, more, epoch })
    }

    /// Gives slots to the extents that are to become hot.
    fn place(&self, core: &mut Core, why: &Why<'_>) -> Result<(Vec<usize>, Vec<Statement>), ImageError> {
        if why.activate.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        // Its page may have left the cache since it was read: the caller asks again.
        if why.activate.iter().any(|extent| core.entry(*extent).touched && !core.pages.contains_key(extent)) {
            return Err(ImageError::SlotsBusy);
        }
        let found = core.find_slots(why.activate.len(), why.keep, &self.locks)?;
        let used = core.touch();
        core.activations += 1;
        for (index, extent) in found.iter().zip(why.activate) {
            if let Some(old) = core.slots[*index].take() {
                core.by_extent.remove(&old.extent);
            }
            core.by_extent.insert(*extent, *index);
            core.slots[*index] = Some(Slot { extent: *extent, used, ..Slot::default() });
            core.pages.entry(*extent).or_insert_with(super::core::Cached::empty);
        }
        let news = found.iter().zip(why.activate);
        let news =
            news.map(|(slot, extent)| Statement { slot: *slot as u32, extent: Some(*extent) }).collect();
        Ok((found, news))
    }

    /// Digest pages to be written now: those whose oldest digest in the ring is about to go, those of the slots to be
    /// freed next, or all. Also enters the hashes of pages that are stable by now into the summary.
    fn save_pages(
        &self,
        core: &mut Core,
        next_first: u64,
        all: bool,
        writes: &mut Vec<(u64, Vec<u8>)>,
        groups: &mut BTreeSet<u64>,
    ) -> Vec<u64> {
        let old = |slot: &Slot| {
            !is_broken("save digests before the ring forgets them")
                && slot.oldest_pair.is_some_and(|seq| seq + WINDOW_TXNS / 2 < next_first)
        };
        let mut wanted: BTreeSet<u64> = core.to_clean(&self.locks).into_iter().collect();
        wanted.extend(core.slots.iter().flatten().filter(|s| all || old(s)).map(|s| s.extent));
        for index in 0..core.slots.len() {
            let Some(slot) = core.slots[index].clone() else { continue };
            let extent = slot.extent;
            let write = wanted.contains(&extent) && slot.page_version != slot.version;
            let mut slot_now = slot.clone();
            if let Some(hash) = slot_now.due.take() {
                let entry = core.entry_mut(extent);
                (entry.touched, entry.hash) = (true, hash);
                groups.insert(extent / GROUP_EXTENTS);
                slot_now.summary_version = slot_now.page_version;
            }
            if write && let Some(mut page) = core.flushed_page(extent) {
                page.sequence += 1;
                if let Some(cached) = core.pages.get_mut(&extent) {
                    cached.page.sequence = page.sequence;
                }
                let hash = page.summary_hash();
                writes.push((self.geometry.page_at(extent), page.encode(self.salt, extent)));
                slot_now.oldest_pair = None;
                // With unflushed digests left out, the page on disk is behind the one in memory.
                slot_now.page_version = slot.version - u64::from(slot.pending > 0);
                if core.entry(extent).touched {
                    core.entry_mut(extent).hash = hash;
                    groups.insert(extent / GROUP_EXTENTS);
                    slot_now.summary_version = slot_now.page_version;
                } else {
                    slot_now.due = Some(hash);
                }
            }
            core.slots[index] = Some(slot_now);
        }
        wanted.into_iter().collect()
    }

    /// Bitmap blocks of the extents being saved, and a few of *still to copy*.
    fn save_bits(&self, core: &mut Core, saved: &[u64], all: bool, writes: &mut Vec<(u64, Vec<u8>)>) {
        let mut places: BTreeSet<(u64, usize)> = saved.iter().map(|extent| Bitmap::place(*extent)).collect();
        let dirty = core.differs.dirty();
        places.retain(|place| dirty.contains(place));
        if all {
            places.extend(dirty);
        }
        for place in places {
            writes.push(self.bitmap_block(core, false, place));
            core.differs.written(place);
        }
        for place in core.to_copy.dirty().into_iter().take(if all { usize::MAX } else { 4 }) {
            writes.push(self.bitmap_block(core, true, place));
            core.to_copy.written(place);
        }
    }

    /// A group that states all slots and needs nothing before it; stable on return.
    pub(super) fn write_reset(&self, meta: &mut Meta, slots: &[Option<u64>]) -> Result<(), ImageError> {
        let states: Vec<Statement> =
            (0..).zip(slots).map(|(slot, extent)| Statement { slot, extent: *extent }).collect();
        let (first, len) = (meta.next_seq, states.len().div_ceil(STATEMENTS_MAX) as u32);
        let txns: Vec<Transaction> = (first..)
            .zip(states.chunks(STATEMENTS_MAX))
            .map(|(seq, part)| Transaction {
                seq,
                first,
                len,
                low: first,
                statements: part.to_vec(),
                pairs: Vec::new(),
            })
            .collect();
        self.write_ring(&txns)?;
        self.latch("flush", self.disk.flush())?;
        meta.next_seq = first + u64::from(len);
        meta.reset_first = first;
        Ok(())
    }
}

/// Digests written since the last flush, as many as fit a group; discards as runs.
fn gather(core: &Core) -> (Vec<Pair>, Vec<u64>) {
    let most = PAIRS_MAX * GROUP_TXNS_MAX as usize;
    let (mut pairs, mut blocks) = (Vec::new(), Vec::new());
    for block in core.pending.keys().copied() {
        let extent = block / ExtentNo::BLOCKS;
        let Some(cached) = core.pages.get(&extent) else { continue };
        let rec = cached.page.get(BlockNo(block).index_in_extent());
        let full = pairs.len() == most;
        match (rec, pairs.last_mut()) {
            (BlockRec::Unwritten, Some(Pair::Discarded { block: start, count }))
                if *start + *count == block && *start / ExtentNo::BLOCKS == extent =>
            {
                *count += 1;
            }
            _ if full => break,
            (BlockRec::Written(digest), _) => pairs.push(Pair::Written { block, digest }),
            _ => pairs.push(Pair::Discarded { block, count: 1 }),
        }
        blocks.push(block);
    }
    (pairs, blocks)
}

/// Transactions of a group: activations first, then slots in turn, then the digests.
fn build(
    core: &Core,
    meta: &mut Meta,
    (first, len): (u64, u64),
    news: &[Statement],
    pairs: Vec<Pair>,
) -> Vec<Transaction> {
    let low = first.saturating_sub(WINDOW_TXNS).max(meta.reset_first);
    let slots = core.slots.len() as u32;
    let (mut news, mut pairs) = (news.chunks(ACTIVATIONS_MAX), pairs.chunks(PAIRS_MAX));
    (first..first + len)
        .map(|seq| {
            let mut statements = news.next().unwrap_or_default().to_vec();
            let restated = if is_broken("restate slots in turn") { 0 } else { slots as usize };
            for _ in 0..(STATEMENTS_MAX - statements.len()).min(restated) {
                let slot = meta.rotate % slots;
                meta.rotate = (slot + 1) % slots;
                let extent = core.slots[slot as usize].as_ref().map(|s| s.extent);
                statements.push(Statement { slot, extent });
            }
            let pairs = pairs.next().unwrap_or_default().to_vec();
            Transaction { seq, first, len: len as u32, low, statements, pairs }
        })
        .collect()
}
