//! The address space of the tables: chunks of the image bound at first write.
//!
//! Decides where redb's bytes lie. Does not know what they mean. Invariants: the chunk map and the exact length are
//! stable before a byte is written into a new chunk and before `set_len` returns (W15, W17); a chunk stays bound while
//! mounted (W16); what was never written reads as zeros; chunks come out of a pool filled before a checkpoint starts,
//! so that redb never meets a full disk (W18). Writes gather in memory until `sync_data` (S4) or there are too many.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::base::limits::SLICE_BYTES_MAX;
use crate::base::{BlockNo, PAGE, Pages};
use crate::format::{CHUNK_BLOCKS, FsSuper};
use crate::image::{Blocks, BlocksError};

use super::core::Page;
use super::rules::Rules;

/// Entries of the chunk map from this index on are spare chunks: bound to no address yet, but the tables' own, so that
/// redb can be opened before anything is known about free space.
const SPARE: u64 = 1 << 48;
/// Spare chunks that the superblock names.
const SPARE_MAX: usize = 8;

struct Inner {
    sup: FsSuper,
    map: BTreeMap<u64, BlockNo>,
    pool: Vec<BlockNo>,
    dirty: BTreeMap<u64, Page>,
    /// Chunks bound since the last write: written whole, so that no old content shows through.
    fresh: BTreeSet<u64>,
    slot_dirty: bool,
    #[cfg(test)]
    rules: Rules,
}

/// Where a page of the tables is.
enum Where {
    /// Written since the last sync.
    Memory(Page),
    Home(BlockNo),
    /// Never written: zeros.
    Nowhere,
}

/// Shared by redb and the store.
#[derive(Clone)]
pub(super) struct Chunks {
    blocks: Arc<dyn Blocks>,
    /// Pages that may gather.
    dirty_max: usize,
    inner: Arc<Mutex<Inner>>,
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chunks")
    }
}

fn io_error(error: BlocksError) -> io::Error {
    io::Error::other(error)
}

impl Inner {
    #[cfg(test)]
    fn rules(&self) -> Rules {
        self.rules
    }

    #[cfg(not(test))]
    fn rules(&self) -> Rules {
        Rules::default()
    }

    /// A rule switched off: chunks behind the end of the tables are free for others.
    fn give_back(&mut self, first_gone: u64) {
        let gone = self.map.split_off(&first_gone.div_ceil(CHUNK_BLOCKS));
        self.pool.extend(gone.into_values());
    }
}

impl Chunks {
    #[cfg(test)]
    pub(super) fn set_rules(&self, rules: Rules) {
        self.lock().rules = rules;
    }

    pub(super) fn new(blocks: Arc<dyn Blocks>, sup: FsSuper, dirty_max: usize) -> Chunks {
        let bound = sup.chunks.iter().filter(|(index, _)| *index < SPARE);
        let map = bound.map(|(index, block)| (*index, BlockNo(*block))).collect();
        let spare = sup.chunks.iter().filter(|(index, _)| *index >= SPARE);
        let pool = spare.map(|(_, block)| BlockNo(*block)).collect();
        let inner = Inner {
            sup,
            map,
            pool,
            dirty: BTreeMap::new(),
            fresh: BTreeSet::new(),
            slot_dirty: false,
            #[cfg(test)]
            rules: Rules::at_open(),
        };
        Chunks { blocks, dirty_max, inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chunks that may be bound before the pool is empty.
    pub(super) fn pool_len(&self) -> usize {
        self.lock().pool.len()
    }

    pub(super) fn refill(&self, chunk: BlockNo) {
        self.lock().pool.push(chunk);
    }

    /// Takes chunks back out of the pool, down to `keep`.
    pub(super) fn shrink_pool(&self, keep: usize) -> Vec<BlockNo> {
        let mut inner = self.lock();
        let keep = keep.max(SPARE_MAX).min(inner.pool.len());
        inner.pool.split_off(keep)
    }

    /// Every chunk that is the tables' own.
    pub(super) fn all(&self) -> Vec<BlockNo> {
        let inner = self.lock();
        inner.map.values().chain(&inner.pool).copied().collect()
    }

    /// Pages that the tables' chunks hold.
    pub(super) fn bound_pages(&self) -> u64 {
        self.lock().map.len() as u64 * CHUNK_BLOCKS
    }

    /// Writes the other superblock slot and makes it stable.
    fn write_slot(&self, inner: &mut Inner) -> Result<(), BlocksError> {
        let mut sup = inner.sup.clone();
        sup.seq += 1;
        sup.chunks = inner.map.iter().map(|(index, block)| (*index, block.0)).collect();
        let spare = (SPARE..).zip(inner.pool.iter().take(SPARE_MAX));
        sup.chunks.extend(spare.map(|(index, block)| (index, block.0)));
        let (before, (slot, head)) = sup.places();
        for (at, bytes) in before {
            self.blocks.write(at, &Pages::copy_of(&bytes))?;
        }
        self.blocks.write_flush(slot, &Pages::copy_of(&head))?;
        inner.sup = sup;
        inner.slot_dirty = false;
        Ok(())
    }

    /// Writes the superblock for the first time, into both slots.
    pub(super) fn write_both_slots(&self) -> Result<(), BlocksError> {
        let mut inner = self.lock();
        self.write_slot(&mut inner)?;
        self.write_slot(&mut inner)
    }

    /// The volume is larger now: stable on return, in both slots.
    pub(super) fn set_block_count(&self, blocks: u64) -> Result<(), BlocksError> {
        self.lock().sup.block_count = blocks;
        self.write_both_slots()
    }

    /// Where a page of the tables is at this moment.
    fn find(inner: &Inner, index: u64) -> Where {
        if let Some(page) = inner.dirty.get(&index) {
            return Where::Memory(page.clone());
        }
        let chunk = index / CHUNK_BLOCKS;
        match inner.map.get(&chunk) {
            Some(first) if !inner.fresh.contains(&chunk) => Where::Home(first.plus(index % CHUNK_BLOCKS)),
            _ => Where::Nowhere,
        }
    }

    fn load(&self, place: Where) -> io::Result<Page> {
        let mut out = [0u8; PAGE];
        match place {
            Where::Memory(page) => return Ok(page),
            Where::Home(block) => self.blocks.read(block, &mut out).map_err(io_error)?,
            Where::Nowhere => {}
        }
        Ok(Arc::new(out))
    }

    fn put_page(inner: &mut Inner, index: u64, page: Page) -> io::Result<()> {
        let chunk = index / CHUNK_BLOCKS;
        if !inner.map.contains_key(&chunk) {
            let Some(block) = inner.pool.pop() else {
                return Err(io::Error::other("the reserve for tables is used up"));
            };
            inner.map.insert(chunk, block);
            inner.fresh.insert(chunk);
            inner.slot_dirty = true;
        }
        inner.dirty.insert(index, page);
        Ok(())
    }

    /// What has to be written: first block of the image and pages, in order of the image.
    fn plan(inner: &Inner) -> BTreeMap<u64, Page> {
        let zero: Page = Arc::new([0; PAGE]);
        let mut plan = BTreeMap::new();
        for chunk in &inner.fresh {
            if let Some(first) = inner.map.get(chunk) {
                plan.extend((0..CHUNK_BLOCKS).map(|n| (first.0 + n, zero.clone())));
            }
        }
        for (index, page) in &inner.dirty {
            if let Some(first) = inner.map.get(&(index / CHUNK_BLOCKS)) {
                plan.insert(first.0 + index % CHUNK_BLOCKS, page.clone());
            }
        }
        plan
    }

    /// Sends home what has gathered, done but not stable on return: in the order of a flush, as a file's pages are.
    fn write_dirty(&self) -> io::Result<()> {
        let (plan, rules) = {
            let mut inner = self.lock();
            if inner.slot_dirty && !inner.rules().late_chunk_map {
                self.write_slot(&mut inner).map_err(io_error)?;
            }
            (Chunks::plan(&inner), inner.rules())
        };
        write_runs(self.blocks.as_ref(), &plan, rules).map_err(io_error)?;
        {
            let mut inner = self.lock();
            inner.fresh.clear();
            let Inner { map, dirty, .. } = &mut *inner;
            dirty.retain(|index, page| {
                let home = map.get(&(index / CHUNK_BLOCKS)).map(|first| first.0 + index % CHUNK_BLOCKS);
                !home.and_then(|home| plan.get(&home)).is_some_and(|written| Arc::ptr_eq(written, page))
            });
        }
        Ok(())
    }
}

/// Writes blocks in runs of neighbours, at most a slice at a time.
pub(super) fn write_runs(
    blocks: &dyn Blocks,
    plan: &BTreeMap<u64, Page>,
    rules: Rules,
) -> Result<(), BlocksError> {
    let most = if rules.no_slices { usize::MAX } else { SLICE_BYTES_MAX };
    let mut run: Vec<(u64, &Page)> = Vec::new();
    let write = |run: &[(u64, &Page)]| match run.first() {
        Some((first, _)) => {
            let mut data = Pages::zeroed(run.len());
            for (slot, (_, page)) in data.chunks_exact_mut(PAGE).zip(run) {
                slot.copy_from_slice(&page[..]);
            }
            blocks.write(BlockNo(*first), &data)
        }
        None => Ok(()),
    };
    for (block, page) in plan {
        let joins = run.last().is_some_and(|(last, _)| last + 1 == *block);
        if !joins || run.len() * PAGE >= most {
            write(&run)?;
            run.clear();
        }
        run.push((*block, page));
    }
    write(&run)
}

impl StorageBackend for Chunks {
    fn len(&self) -> io::Result<u64> {
        let inner = self.lock();
        if inner.rules().rough_length {
            return Ok(inner.map.len() as u64 * CHUNK_BLOCKS * PAGE as u64);
        }
        Ok(inner.sup.tables_len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.lock().sup.tables_len) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read behind the end of the tables"));
        }
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let (index, skip) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let step = (PAGE - skip).min(rest.len());
            let (head, tail) = rest.split_at_mut(step);
            // Not under the lock: a slow read holds up nobody. Redb writes no page that somebody may be reading, and
            // chunks stay where they are.
            let place = Chunks::find(&self.lock(), index);
            head.copy_from_slice(&self.load(place)?[skip..skip + step]);
            rest = tail;
            at += step as u64;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let old = inner.sup.tables_len;
        let first_gone = len.div_ceil(PAGE as u64);
        if len < old {
            inner.dirty.split_off(&first_gone);
            if inner.rules().give_chunks_back {
                inner.give_back(first_gone);
            }
        } else if !inner.rules().stale_growth {
            // Chunks stay bound when the tables shrink: what is grown into again must read as zeros.
            let zero: Page = Arc::new([0; PAGE]);
            let first_new = old.div_ceil(PAGE as u64);
            let bound: Vec<u64> = inner
                .map
                .range(first_new / CHUNK_BLOCKS..first_gone.div_ceil(CHUNK_BLOCKS))
                .flat_map(|(chunk, _)| chunk * CHUNK_BLOCKS..(chunk + 1) * CHUNK_BLOCKS)
                .filter(|index| *index >= first_new && *index < first_gone)
                .collect();
            for index in bound {
                inner.dirty.insert(index, zero.clone());
            }
        }
        inner.sup.tables_len = len;
        self.write_slot(&mut inner).map_err(io_error)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.write_dirty()?;
        self.blocks.flush().map_err(io_error)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (index, skip) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let step = (PAGE - skip).min(rest.len());
            let (head, tail) = rest.split_at(step);
            let mut page =
                if step == PAGE { Arc::new([0; PAGE]) } else { self.load(Chunks::find(&inner, index))? };
            Arc::make_mut(&mut page)[skip..skip + step].copy_from_slice(head);
            Chunks::put_page(&mut inner, index, page)?;
            rest = tail;
            at += step as u64;
        }
        let full = inner.dirty.len() >= self.dirty_max;
        drop(inner);
        if full { self.write_dirty() } else { Ok(()) }
    }
}
