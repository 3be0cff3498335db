//! The checkpoint: sealed changes move from memory and log into the tables; that commit is the truncation of the log.
//!
//! Decides the order of payload, tables and release. Invariants: only sealed operations enter the tables; payload is
//! home before the tables say it is checkpointed (flush A covers it); blocks and ring space are released only after
//! flush B (line 13); a released block is discarded before it can be reused (W21) and never while somebody reads it.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::{Durability, ReadableTable};

use crate::base::{BlockNo, ExtentNo};
use crate::format::{ChainHash, LogMeta, TableId};

use super::FsError;
use super::chunks::write_runs;
use super::commit::Seal;
use super::core::{Core, Delta, Page};
use super::locks::lock;
use super::overlay::Overlay;
use super::space::Runs;
use super::store::{Store, corrupt};
use super::tables::{FREE, META, META_LOG, Snapshot, definition, guarded, redb_error};

/// Free runs of at least this many blocks are discarded: 1 MiB.
const DISCARD_MIN: u64 = 256;
/// Free room that stays allocated on the host when files are deleted: 512 MiB, or an eighth of a small volume. Writing
/// into it needs neither zeros nor the two flushes with which room is taken from the host again.
const KEPT_BLOCKS: u64 = 128 << 10;
/// Most blocks of one discard: two extents.
const DISCARD_MAX: u64 = 2 * ExtentNo::BLOCKS;

/// Free blocks below which the free pages inside the tables are counted: 16 MiB.
const NEARLY_FULL: u64 = 4096;
/// Pages of tables that are still counted, 256 MiB: the count reads all of them. Larger ones are taken for full.
const COUNTED_MAX: u64 = 1 << 16;

/// Everything that one checkpoint moves.
pub(super) struct Batch {
    overlay: Arc<Overlay>,
    deltas: Vec<Delta>,
    payload: BTreeMap<u64, Page>,
    seq: u64,
    next_pos: u64,
    next_ino: u64,
    pub(super) hash: ChainHash,
}

impl Core {
    /// Sets aside all sealed changes as one batch; the caller has just taken (or found empty) the open transaction.
    pub(super) fn freeze(&mut self, chain: &ChainHash) -> Option<Batch> {
        // A frozen overlay here is a checkpoint that failed, and then nothing is changed any more.
        if self.frozen.is_some() || (self.active.is_empty() && self.ring.used() == 0) {
            return None;
        }
        let overlay = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(overlay.clone());
        Some(Batch {
            overlay,
            deltas: std::mem::take(&mut self.deltas),
            payload: self.owned.iter().map(|(block, owned)| (block.0, owned.page.clone())).collect(),
            seq: self.next_seq - 1,
            next_pos: self.ring.head,
            next_ino: self.next_ino,
            hash: *chain,
        })
    }
}

/// A run in parts that end at borders of extents. The blocks of one call are hot together, and the activity log has few
/// slots: a file larger than all of them must not ask for more.
fn discard_parts(start: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = start + count;
    let stop_of = |at: u64| (at / DISCARD_MAX + 1) * DISCARD_MAX;
    std::iter::successors(Some(start), move |at| Some(stop_of(*at)).filter(|next| *next < end))
        .map(move |at| (at, stop_of(at).min(end) - at))
}

impl Store {
    /// Whether the log is full enough for a checkpoint to be worth its two flushes.
    pub fn needs_checkpoint(&self) -> bool {
        let core = self.core_read();
        core.ring.used() > core.ring.blocks * 3 / 8 || core.active.bytes() > self.options.overlay_bytes
    }

    /// `empty_log`; and all that was freed can be used again.
    pub fn checkpoint(&self) -> Result<(), FsError> {
        self.empty_log()?;
        while self.release_due(u64::MAX, 0)? {}
        Ok(())
    }

    /// Moves everything sealed into the tables. Nobody waits for it except a full log. What was freed is left for
    /// `release_some`: discarding gigabytes takes seconds, and a log would be full before.
    pub fn empty_log(&self) -> Result<(), FsError> {
        let _one = lock(&self.checkpointing);
        let batch = {
            let mut chain = lock(&self.chain);
            self.seal(&mut chain, Seal::Freeze)?
        };
        let Some(batch) = batch else { return Ok(()) };
        self.latch(write_runs(self.blocks().as_ref(), &batch.payload, self.rules()))?;
        let stored = guarded(|| self.store_batch(&batch).and_then(|()| Snapshot::take(&self.db)));
        let snapshot = match stored {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.core_write().failed.get_or_insert(error.clone());
                return Err(error);
            }
        };
        let freed = {
            let mut core = self.core_write();
            core.snapshot = Some(Arc::new(snapshot));
            core.frozen = None;
            core.ring.tail = batch.next_pos;
            core.owned.retain(|_, owned| owned.seq > batch.seq);
            core.space.take_pending(batch.seq)
        };
        // Whoever reads through an older view is done once the gate has been shut.
        if !self.rules().ignore_readers {
            drop(self.gate_write());
        }
        if !self.core_write().space.now_due(&freed) {
            self.freed_twice(&mut self.core_write())?;
        }
        self.count_slack()?;
        self.return_chunks();
        Ok(())
    }

    /// Whether a checkpoint freed blocks that cannot be used yet.
    pub fn needs_release(&self) -> bool {
        let core = self.core_read();
        core.space.is_due() && core.failed.is_none()
    }

    /// Gives back about `max` blocks that checkpoints freed, the large runs discarded unless little free room is
    /// allocated on the host; answers whether more are left.
    pub fn release_some(&self, max: u64) -> Result<bool, FsError> {
        self.release_due(max, KEPT_BLOCKS.min(self.blocks().block_count() / 8))
    }

    fn release_due(&self, max: u64, keep: u64) -> Result<bool, FsError> {
        let _one = lock(&self.releasing);
        let freed = {
            let mut core = self.core_write();
            if core.failed.is_some() {
                return Ok(false);
            }
            core.space.take_due(max)
        };
        self.release(&freed, keep)?;
        Ok(self.needs_release())
    }

    /// On a volume that is nearly full, counts the free pages inside the tables: they are as good as a reserve. The
    /// count walks all tables, so it is not made while there is room.
    pub(super) fn count_slack(&self) -> Result<(), FsError> {
        let roomy =
            self.core_read().space.free_total() > NEARLY_FULL || self.chunks.bound_pages() > COUNTED_MAX;
        let slack = if roomy {
            0
        } else {
            let used = guarded(|| self.used_pages())?;
            self.chunks.bound_pages().saturating_sub(used)
        };
        self.core_write().tables_slack = slack;
        Ok(())
    }

    fn used_pages(&self) -> Result<u64, FsError> {
        let txn = self.db.begin_write().map_err(redb_error)?;
        let used = txn.stats().map_err(redb_error)?.allocated_pages();
        txn.abort().map_err(redb_error)?;
        Ok(used)
    }

    /// Discards large runs, as long as `keep` blocks are free without; then lets the allocator have all of them.
    fn release(&self, freed: &Runs, keep: u64) -> Result<(), FsError> {
        let early = self.rules().late_discard;
        if early {
            self.add_free(freed)?;
        }
        let mut kept = self.core_read().space.available();
        for (start, count) in freed.iter().filter(|(_, count)| *count >= DISCARD_MIN) {
            for (first, count) in discard_parts(start, count) {
                if kept >= keep {
                    self.latch(self.blocks().discard(BlockNo(first), count))?;
                }
                kept += count;
            }
        }
        if early { Ok(()) } else { self.add_free(freed) }
    }

    fn add_free(&self, freed: &Runs) -> Result<(), FsError> {
        let blocks = self.blocks().clone();
        let is_backed = |extent: ExtentNo| blocks.is_backed(extent);
        let mut core = self.core_write();
        let mut fresh = true;
        for (start, count) in freed.iter() {
            fresh &= core.space.add(start, count, &is_backed);
        }
        if fresh { Ok(()) } else { self.freed_twice(&mut core) }
    }

    fn freed_twice(&self, core: &mut Core) -> Result<(), FsError> {
        if self.tolerate_double_free(core) {
            return Ok(());
        }
        let error = corrupt("free space: a block was freed twice".to_string());
        core.failed.get_or_insert(error.clone());
        Err(error)
    }

    #[cfg(test)]
    fn tolerate_double_free(&self, core: &Core) -> bool {
        core.rules.reuse_at_once
    }

    #[cfg(not(test))]
    fn tolerate_double_free(&self, _: &Core) -> bool {
        false
    }

    /// One redb transaction: puts, deletes, free space, and what of the log it covers.
    fn store_batch(&self, batch: &Batch) -> Result<(), FsError> {
        let mut txn = self.db.begin_write().map_err(redb_error)?;
        txn.set_durability(Durability::Immediate).map_err(redb_error)?;
        txn.set_two_phase_commit(true);
        txn.set_quick_repair(true);
        for table in TableId::ALL {
            let mut stored = txn.open_table(definition(table)).map_err(redb_error)?;
            for (key, slot) in batch.overlay.iter(table) {
                match slot {
                    Some(value) => stored.insert(key.as_slice(), &**value).map_err(redb_error)?,
                    None => stored.remove(key.as_slice()).map_err(redb_error)?,
                };
            }
        }
        {
            let mut free = txn.open_table(FREE).map_err(redb_error)?;
            store_free(&mut free, &batch.deltas)?;
            let mut meta = txn.open_table(META).map_err(redb_error)?;
            let log = LogMeta {
                applied: batch.seq,
                next_pos: batch.next_pos,
                next_seq: batch.seq + 1,
                log_id: self.log_id,
                prev_hash: batch.hash,
                next_ino: batch.next_ino,
            };
            meta.insert(META_LOG, log.encode().as_slice()).map_err(redb_error)?;
        }
        txn.commit().map_err(redb_error)
    }
}

/// Brings the table of free space up to date: runs taken first, then runs given back (nothing is taken that was given
/// back in the same batch).
pub(super) fn store_free(free: &mut redb::Table<'_, u64, u64>, deltas: &[Delta]) -> Result<(), FsError> {
    let mut runs = Runs::default();
    for delta in deltas.iter().filter(|delta| !delta.alloc) {
        runs.insert(delta.start.0, delta.count);
    }
    let mut taken = Runs::default();
    for delta in deltas.iter().filter(|delta| delta.alloc) {
        taken.insert(delta.start.0, delta.count);
    }
    for (start, count) in taken.iter() {
        take_stored(free, start, count)?;
    }
    for (start, count) in runs.iter() {
        let (mut low, mut len) = (start, count);
        let before = last_before(free, start)?;
        if let Some((at, size)) = before
            && at + size == start
        {
            (low, len) = (at, size + len);
        }
        let after = free.remove(start + count).map_err(redb_error)?.map(|guard| guard.value());
        free.insert(low, len + after.unwrap_or(0)).map_err(redb_error)?;
    }
    Ok(())
}

fn last_before(free: &redb::Table<'_, u64, u64>, end: u64) -> Result<Option<(u64, u64)>, FsError> {
    match free.range(..end).map_err(redb_error)?.next_back() {
        Some(entry) => {
            let (start, count) = entry.map_err(redb_error)?;
            Ok(Some((start.value(), count.value())))
        }
        None => Ok(None),
    }
}

fn take_stored(free: &mut redb::Table<'_, u64, u64>, start: u64, count: u64) -> Result<(), FsError> {
    let end = start + count;
    while let Some((low, len)) = last_before(free, end)? {
        if low + len <= start {
            break;
        }
        free.remove(low).map_err(redb_error)?;
        if low < start {
            free.insert(low, start - low).map_err(redb_error)?;
        }
        if low + len > end {
            free.insert(end, low + len - end).map_err(redb_error)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_discard_cover_the_run_and_end_at_extents() {
        for (start, count) in [(0, 1), (5, 300), (1000, 2048), (2048, 2048), (4095, 2), (3, 100_000)] {
            let mut at = start;
            for (first, count) in discard_parts(start, count) {
                assert!(first == at && count > 0 && count <= DISCARD_MAX, "{start}: {first}+{count}");
                at += count;
            }
            assert_eq!(at, start + count);
        }
    }
}
