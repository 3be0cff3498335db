//! `Store`: inodes, names, attributes and file data as one crash-safe whole over `trait Blocks`.
//!
//! Decides when something is visible and when it is stable. Does not know permissions, paths, the kernel, clocks or
//! threads: whoever owns it calls `commit`, `writeback` and `checkpoint`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::base::Ino;
use crate::base::limits::MEMORY_DEFAULT;
use crate::format::{CHUNK_BLOCKS, ChainHash, Dirent, InodeRec, TableId, Time, key_name};
use crate::image::Blocks;

use super::FsError;
use super::chunks::Chunks;
use super::core::{self, Core};
use super::locks::{Shards, Tokens, lock};
use super::op::Op;
use super::rules::Rules;
use super::tables::Tables;

/// Chunks that only operations which make room may use up: 1 MiB.
const CHUNKS_TO_DELETE: u64 = 4;
/// What one operation may add: the largest extended attribute and some entries.
const OP_ENTRIES: u64 = 64;
const OP_BYTES: u64 = 80 << 10;

pub(super) fn corrupt(what: String) -> FsError {
    FsError::Corrupt(what)
}

/// What `Store::format` needs to know.
#[derive(Clone, Debug)]
pub struct FormatOptions {
    /// Random; tells this filesystem's log from any other.
    pub log_id: u128,
    /// Birth of the root directory, and its owner.
    pub now: Time,
    pub uid: u32,
    pub gid: u32,
    /// Blocks of the log ring; by default 1/32 of the volume, 8 to 64 MiB.
    pub ring_blocks: Option<u64>,
}

/// What `Store::open` needs to know.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Most bytes of dirty data before `write` answers `WouldBlock`.
    pub dirty_bytes_max: u64,
    /// Bytes of the tables kept in memory, and of those that a checkpoint may gather.
    pub cache_bytes: usize,
    /// Bytes of changes above the tables from which on a checkpoint is worth it.
    pub overlay_bytes: usize,
    /// Open although a record of the log is damaged, without it and all that was acknowledged behind it.
    pub lose_damaged_log: bool,
}

impl StoreOptions {
    /// Shares out what serving a volume may take. More than a quarter stays for what has no limit of its own: payload
    /// and changes in the log (its size bounds them), free runs, look-up counts, summaries of the image, open requests.
    pub fn for_memory(bytes: u64) -> StoreOptions {
        let part = |share: u64| usize::try_from(bytes / share).unwrap_or(usize::MAX);
        StoreOptions {
            dirty_bytes_max: bytes / 4,
            cache_bytes: part(8),
            overlay_bytes: part(16),
            lose_damaged_log: false,
        }
    }
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions::for_memory(MEMORY_DEFAULT)
    }
}

/// Space of the volume, in blocks of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statfs {
    pub block_size: u32,
    pub blocks: u64,
    /// Free, including what the tables keep for themselves.
    pub free: u64,
    /// What files may still take.
    pub available: u64,
    /// Inodes given out so far, and how many more fit by space.
    pub files: u64,
    pub files_free: u64,
}

/// The storage engine. All methods may be called from many threads.
pub struct Store {
    pub(super) blocks: Arc<dyn Blocks>,
    pub(super) core: RwLock<Core>,
    /// Held by the one `Op` that is being put together.
    pub(super) names: Mutex<()>,
    pub(super) committing: Mutex<()>,
    pub(super) checkpointing: Mutex<()>,
    /// Held by whoever discards freed blocks.
    pub(super) releasing: Mutex<()>,
    pub(super) writing_back: Mutex<()>,
    pub(super) backing: Mutex<()>,
    /// Hash of the last record; held while one is sealed.
    pub(super) chain: Mutex<ChainHash>,
    pub(super) shards: Shards,
    pub(super) tokens: Tokens,
    /// Read-held while blocks are read whose addresses were looked up; shut once before freed blocks are reused (W25).
    pub(super) gate: RwLock<()>,
    pub(super) chunks: Chunks,
    pub(super) db: Tables,
    pub(super) log_id: u128,
    pub(super) ring_first: u64,
    pub(super) block_count: AtomicU64,
    pub(super) options: StoreOptions,
    pub(super) mark: Arc<LogMark>,
}

/// How far the log is on every member, for whoever must not wait for a lock.
#[derive(Debug, Default)]
pub struct LogMark {
    /// The newest record that is done, 0: none yet; and the first inode number that it does not know.
    record: AtomicU64,
    ino: AtomicU64,
}

impl LogMark {
    pub(super) fn done(&self, record: u64, ino: u64) {
        self.ino.fetch_max(ino, Ordering::SeqCst);
        self.record.fetch_max(record, Ordering::SeqCst);
    }

    /// The first record that may not be done, and the first inode number that records before it do not use.
    pub fn next(&self) -> (u64, u64) {
        // An inode number that is too high only makes a new file look like a changed one.
        let record = self.record.load(Ordering::SeqCst);
        (record + 1, self.ino.load(Ordering::SeqCst))
    }
}

impl Store {
    /// Where the log is; goes on as long as the store.
    pub fn mark(&self) -> Arc<LogMark> {
        Arc::clone(&self.mark)
    }

    pub(super) fn core_read(&self) -> RwLockReadGuard<'_, Core> {
        self.core.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn core_write(&self) -> RwLockWriteGuard<'_, Core> {
        self.core.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_names(&self) -> MutexGuard<'_, ()> {
        lock(&self.names)
    }

    pub(super) fn gate_read(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn gate_write(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn blocks(&self) -> &Arc<dyn Blocks> {
        &self.blocks
    }

    #[cfg(test)]
    pub(super) fn rules(&self) -> Rules {
        self.core_read().rules
    }

    #[cfg(not(test))]
    pub(super) fn rules(&self) -> Rules {
        Rules::default()
    }

    /// The inode, with the size and times of data not yet written.
    pub fn inode(&self, ino: Ino) -> Result<Option<InodeRec>, FsError> {
        let core = self.core_read();
        core.live_inode(&core.layers(None), ino)
    }

    pub fn dirent(&self, dir: Ino, name: &[u8]) -> Result<Option<Dirent>, FsError> {
        core::dirent(&self.core_read().layers(None), dir, name)
    }

    /// Up to `max` entries of `dir` after `cookie` (0 = from the start), in an order that changes never disturb.
    pub fn dirents_after(
        &self,
        dir: Ino,
        cookie: u64,
        max: usize,
    ) -> Result<Vec<(u64, Vec<u8>, Dirent)>, FsError> {
        core::dirents_after(&self.core_read().layers(None), dir, cookie, max)
    }

    pub fn dir_is_empty(&self, dir: Ino) -> Result<bool, FsError> {
        Ok(self.dirents_after(dir, 0, 1)?.is_empty())
    }

    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        let core = self.core_read();
        Ok(core.layers(None).get(TableId::Xattrs, &key_name(ino, name))?.map(|value| value.to_vec()))
    }

    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<Vec<u8>>, FsError> {
        core::xattr_names(&self.core_read().layers(None), ino)
    }

    /// Why nothing may be changed any more, if so.
    pub fn failure(&self) -> Option<FsError> {
        self.core_read().failed.clone()
    }

    /// Starts an operation; others wait until it is finished or dropped. May seal or checkpoint first when the log or
    /// the space for tables is short; if that fails, `finish` says why.
    pub fn begin(&self) -> Op<'_> {
        loop {
            let throttled = self.throttle();
            let names = self.lock_names();
            // Others may have filled the record while this one waited for its turn.
            if throttled.is_ok() && self.core_read().is_record_full() {
                continue;
            }
            if let Err(error) = throttled {
                self.note(&error);
            }
            return Op::new(self, names);
        }
    }

    /// A failure that the next change will meet again needs no second report here.
    fn note(&self, error: &FsError) {
        let core = self.core_read();
        debug_assert!(core.failed.is_some() || *error == FsError::NoSpace, "{error}");
    }

    /// Seals, checkpoints and writes back nothing any more.
    pub(super) fn stop_changes(&self, why: FsError) {
        self.core_write().failed.get_or_insert(why);
    }

    /// Keeps the open transaction and the log from growing past what a record and the ring may hold (U9), and the space
    /// set aside for tables ahead of the changes in memory.
    pub(super) fn throttle(&self) -> Result<(), FsError> {
        let (big, tight, short) = {
            let core = self.core_read();
            core.writable()?;
            (core.is_record_full(), core.ring.is_tight(), self.chunk_shortage(&core) > 0)
        };
        if big {
            self.commit()?;
        }
        if tight {
            self.empty_log()?;
        }
        let room = || self.admit(&mut self.core_write(), OP_ENTRIES, OP_BYTES).is_ok();
        if short && !room() {
            self.back_ahead(0)?;
            if !room() {
                self.checkpoint()?;
                room();
            }
        }
        Ok(())
    }

    /// Chunks that the next checkpoint could need in the worst case: every changed key on a page of its own as far as
    /// there are pages, copied once and half as often again on the way up, and new content at half fill.
    fn chunks_needed(&self, core: &Core, entries: u64, bytes: u64) -> u64 {
        let frozen = core.frozen.as_ref();
        let promised = core.space.reserved() / 4;
        let entries = entries
            + promised
            + core.active.entries() as u64
            + frozen.map_or(0, |overlay| overlay.entries() as u64);
        let bytes = bytes
            + promised * 64
            + core.active.bytes() as u64
            + frozen.map_or(0, |overlay| overlay.bytes() as u64);
        let pages = entries.min(self.chunks.bound_pages()) * 3 / 2 + bytes / 1024 + 128;
        // Half of the free pages inside: the rest may be in pieces that do not fit.
        pages.saturating_sub(core.tables_slack / 2).div_ceil(CHUNK_BLOCKS)
    }

    /// Blocks that the pool of chunks lacks.
    pub(super) fn chunk_shortage(&self, core: &Core) -> u64 {
        let want = self.chunks_needed(core, OP_ENTRIES, OP_BYTES) + CHUNKS_TO_DELETE;
        want.saturating_sub(self.chunks.pool_len() as u64) * CHUNK_BLOCKS
    }

    /// Refuses a change that the space set aside for tables could not hold; sets more aside first.
    pub(super) fn admit(&self, core: &mut Core, entries: u64, bytes: u64) -> Result<(), FsError> {
        if core.rules().no_reserve {
            return Ok(());
        }
        let need = self.chunks_needed(core, entries, bytes) + CHUNKS_TO_DELETE;
        let mut pool = self.chunks.pool_len() as u64;
        while pool < need {
            let Some(chunk) = core.space.take_chunk(CHUNK_BLOCKS) else { return Err(FsError::NoSpace) };
            self.chunks.refill(chunk);
            pool += 1;
        }
        Ok(())
    }

    /// After a checkpoint: chunks beyond what the next small one needs go back to the files.
    pub(super) fn return_chunks(&self) {
        let mut core = self.core_write();
        let keep = self.chunks_needed(&core, OP_ENTRIES, OP_BYTES) + 2 * CHUNKS_TO_DELETE;
        for chunk in self.chunks.shrink_pool(keep as usize) {
            let blocks = &self.blocks;
            core.space.add(chunk.0, CHUNK_BLOCKS, &|extent| blocks.is_backed(extent));
        }
    }

    pub fn statfs(&self) -> Statfs {
        let core = self.core_read();
        let free = core.space.free_total() + self.chunks.pool_len() as u64 * CHUNK_BLOCKS;
        let available = core.space.free_total().saturating_sub(self.chunk_shortage(&core));
        Statfs {
            block_size: 4096,
            blocks: self.block_count.load(Ordering::SeqCst),
            free,
            available,
            files: core.next_ino + available,
            files_free: available,
        }
    }

    /// Everything into the tables, for a clean end. The store stays usable.
    pub fn close(&self) -> Result<(), FsError> {
        self.sync()?;
        self.checkpoint()
    }
}
