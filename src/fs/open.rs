//! Making a filesystem and opening one: superblock, tables, replay.
//!
//! Decides what is on an empty volume and how memory is rebuilt after a crash. Invariants: replay fills memory and
//! writes nothing home (line 15); whatever the bytes are, opening ends in an answer, never in a panic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

use redb::{Builder, Database, ReadableDatabase, ReadableTable};

use crate::base::limits::INO_MAX;
use crate::base::{BlockNo, ExtentNo, FastMap, Ino, PAGE, Pages, foreign};
use crate::format::{
    CHUNK_BLOCKS, ChainHash, FileKind, FsSuper, InodeRec, LogMeta, LogOp, TableId, Time, ino_of_key, key_ino,
    open_record,
};
use crate::image::{Blocks, BlocksError};

use super::FsError;
use super::chunks::Chunks;
use super::commit::Seal;
use super::core::{Core, Delta, OpenTxn, Owned};
use super::freed;
use super::locks::{Shards, Tokens, lock};
use super::log::{Reader, Ring, find_later, find_record};
use super::overlay::Overlay;
use super::rules::Rules;
use super::space::Space;
use super::store::{FormatOptions, Store, StoreOptions, corrupt};
use super::tables::{FREE, META, META_LOG, Snapshot, Tables, definition, not_understood, redb_error};

/// Smallest volume: 8 MiB.
pub const VOLUME_BLOCKS_MIN: u64 = 2048;
/// Smallest log ring: 1 MiB, so that a quarter of it holds the largest single operation.
const RING_BLOCKS_MIN: u64 = 256;
const RING_BLOCKS_DEFAULT_MIN: u64 = 2048;
const RING_BLOCKS_MAX: u64 = 16_384;
/// More records than anybody writes.
const SEQ_MAX: u64 = 1 << 63;
/// The tables' address space doubles up to this, then it grows by as much: no sound one is longer than twice the volume
/// and this.
const TABLES_STEP: u64 = 4 << 30;
/// Chunks that a new volume sets aside for its tables.
const FIRST_CHUNKS: u64 = 16;

fn ring_blocks(block_count: u64, asked: Option<u64>) -> u64 {
    let usual = (block_count / 32).clamp(RING_BLOCKS_DEFAULT_MIN, RING_BLOCKS_MAX);
    asked.unwrap_or(usual).min(block_count / 4).max(RING_BLOCKS_MIN)
}

fn layout(block_count: u64, opts: &FormatOptions) -> FsSuper {
    let chunks_max = (block_count / CHUNK_BLOCKS / 2) as usize;
    let cont_blocks = FsSuper::cont_needed(chunks_max) as u64;
    let ring_first = 2 + 2 * cont_blocks;
    let ring_blocks = ring_blocks(block_count, opts.ring_blocks);
    FsSuper {
        seq: 0,
        log_id: opts.log_id,
        block_count,
        ring_first,
        ring_blocks,
        cont_first: [2, 2 + cont_blocks],
        cont_blocks,
        data_first: ring_first + ring_blocks + FsSuper::copies_len(cont_blocks),
        copied: true,
        tables_len: 0,
        chunks: Vec::new(),
    }
}

fn back_range(blocks: &dyn Blocks, first: u64, count: u64) -> Result<(), FsError> {
    let last = BlockNo(first + count.max(1) - 1).extent().0;
    for extent in BlockNo(first).extent().0..=last {
        blocks.back(ExtentNo(extent))?;
    }
    Ok(())
}

impl Store {
    /// Makes an empty filesystem with a root directory. Whatever was there is gone.
    pub fn format(blocks: Arc<dyn Blocks>, opts: &FormatOptions) -> Result<(), FsError> {
        let block_count = blocks.block_count();
        if block_count < VOLUME_BLOCKS_MIN {
            return Err(FsError::Invalid);
        }
        let sup = layout(block_count, opts);
        back_range(blocks.as_ref(), 0, sup.data_first)?;
        let slice = Pages::zeroed(256);
        // Old slots go first: a crash in the middle must not leave a superblock over half a filesystem.
        blocks.write(BlockNo(0), &slice[..2 * PAGE])?;
        blocks.flush()?;
        let mut at = sup.ring_first;
        while at < sup.data_first {
            let count = (sup.data_first - at).min(256);
            blocks.write(BlockNo(at), &slice[..count as usize * PAGE])?;
            at += count;
        }
        let first_chunk = block_count - FIRST_CHUNKS * CHUNK_BLOCKS;
        back_range(blocks.as_ref(), first_chunk, FIRST_CHUNKS * CHUNK_BLOCKS)?;
        let (log_id, data_first) = (sup.log_id, sup.data_first);
        let chunks = Chunks::new(blocks.clone(), sup, usize::MAX);
        for number in 0..FIRST_CHUNKS {
            chunks.refill(BlockNo(first_chunk + number * CHUNK_BLOCKS));
        }
        chunks.write_both_slots()?;
        let db = Builder::new().create_with_backend(chunks).map_err(redb_error)?;
        first_tables(&db, opts, log_id, data_first..block_count)?;
        drop(db);
        Ok(blocks.flush()?)
    }

    /// Opens a filesystem, after a crash too: reads the log behind the last checkpoint into memory. Only for whoever
    /// has the right to serve, because the log goes on.
    pub fn open(blocks: Arc<dyn Blocks>, opts: &StoreOptions) -> Result<Store, FsError> {
        let sup = read_super(blocks.as_ref())?;
        if !Rules::at_open().ring_not_pinned {
            blocks.pin_hot(BlockNo(sup.ring_first), sup.ring_blocks)?;
        }
        let chunks = Chunks::new(blocks.clone(), sup.clone(), (opts.cache_bytes / PAGE).max(1));
        let backend = chunks.clone();
        let cache = opts.cache_bytes;
        // redb asserts on some bytes that it does not expect; foreign bytes are an answer here, not a crash.
        let opened = foreign(|| open_tables(backend, cache));
        let (db, snapshot, meta, free) = match opened {
            Some(opened) => opened?,
            None => return Err(not_understood()),
        };
        if meta.log_id != sup.log_id || meta.next_pos >= sup.ring_blocks || meta.next_seq > SEQ_MAX {
            return Err(corrupt("tables and log belong to different filesystems".to_string()));
        }
        let mut core = fresh_core(&sup, snapshot, &meta);
        fill_space(&mut core.space, blocks.as_ref(), &sup, &free, &chunks)?;
        let mut chain = meta.prev_hash;
        let lost = core.read_log(blocks.as_ref(), &sup, opts, &mut chain)?;
        if core.next_ino > INO_MAX {
            return Err(corrupt(format!("an inode has number {}, which none can have", core.next_ino - 1)));
        }
        let found_records = core.next_seq != meta.next_seq;
        core.generation = u32::from_le_bytes([chain[0], chain[1], chain[2], chain[3]]);
        core.cleanups = orphans(&core)?;
        let store = Store {
            blocks,
            core: RwLock::new(core),
            names: Mutex::default(),
            committing: Mutex::default(),
            checkpointing: Mutex::default(),
            releasing: Mutex::default(),
            writing_back: Mutex::default(),
            backing: Mutex::default(),
            chain: Mutex::new(chain),
            shards: Shards::default(),
            tokens: Tokens::default(),
            gate: RwLock::default(),
            chunks,
            db: Tables::new(db),
            log_id: sup.log_id,
            ring_first: sup.ring_first,
            block_count: AtomicU64::new(sup.block_count),
            options: opts.clone(),
            mark: Arc::default(),
        };
        // What was found may only have been readable (U4), and no record may be stable before the one it follows.
        if found_records {
            store.blocks().flush()?;
        }
        // Starts a new inode generation.
        store.seal(&mut lock(&store.chain), Seal::Force)?;
        store.back_ahead(1024)?;
        store.count_slack()?;
        if lost.is_some() || store.core_read().ring.is_tight() {
            store.checkpoint()?;
        }
        Ok(store)
    }
}

/// Everything that a new volume's tables hold.
fn first_tables(
    db: &Database,
    opts: &FormatOptions,
    log_id: u128,
    data: std::ops::Range<u64>,
) -> Result<(), FsError> {
    let mut root = InodeRec::new(FileKind::Dir, opts.now);
    root.mode |= 0o755;
    (root.nlink, root.parent, root.generation) = (2, Ino::ROOT, 1);
    (root.uid, root.gid) = (opts.uid, opts.gid);
    let mut txn = db.begin_write().map_err(redb_error)?;
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    for table in TableId::ALL {
        let mut stored = txn.open_table(definition(table)).map_err(redb_error)?;
        if table == TableId::Inodes {
            stored.insert(key_ino(Ino::ROOT).as_slice(), root.encode().as_slice()).map_err(redb_error)?;
        }
    }
    {
        let mut free = txn.open_table(FREE).map_err(redb_error)?;
        free.insert(data.start, data.end - data.start).map_err(redb_error)?;
        let mut meta = txn.open_table(META).map_err(redb_error)?;
        let log = LogMeta { applied: 0, next_pos: 0, next_seq: 1, log_id, prev_hash: [0; 32], next_ino: 2 };
        meta.insert(META_LOG, log.encode().as_slice()).map_err(redb_error)?;
    }
    txn.commit().map_err(redb_error)
}

/// The newest whole superblock slot, with a geometry that fits the device.
pub(super) fn read_super(blocks: &dyn Blocks) -> Result<FsSuper, FsError> {
    let mut best: Option<FsSuper> = None;
    for slot in 0..2 {
        let mut head = Pages::zeroed(1);
        match blocks.read(BlockNo(slot), &mut head) {
            Err(BlocksError::Rotten(_)) => continue,
            other => other?,
        }
        let Some((cont_first, count)) = FsSuper::peek(&head) else { continue };
        let end = cont_first.checked_add(count as u64);
        if end.is_none_or(|end| end > blocks.block_count()) {
            continue;
        }
        let mut cont = Pages::zeroed(count);
        if count > 0 {
            match blocks.read(BlockNo(cont_first), &mut cont) {
                Err(BlocksError::Rotten(_)) => continue,
                other => other?,
            }
        }
        if let Some(sup) = FsSuper::decode(&head, &cont)
            && best.as_ref().is_none_or(|known| sup.seq > known.seq)
        {
            best = Some(sup);
        }
    }
    let sup = best.ok_or_else(|| corrupt("no filesystem here: run mkfs.twinfs first".to_string()))?;
    let ring_end = sup.ring_first.checked_add(sup.ring_blocks);
    let fits = sup.block_count <= blocks.block_count()
        && sup.ring_blocks >= RING_BLOCKS_MIN
        && ring_end.is_some_and(|end| end <= sup.data_first)
        && sup.data_first < sup.block_count
        && sup.tables_len <= sup.block_count.saturating_mul(2 * BlockNo::SIZE as u64) + TABLES_STEP
        && sup.chunks.iter().all(|(_, first)| {
            *first >= sup.data_first
                && first.checked_add(CHUNK_BLOCKS).is_some_and(|end| end <= sup.block_count)
        });
    if !fits {
        let (has, wants) = (blocks.block_count(), sup.block_count);
        return Err(corrupt(format!("the filesystem needs {wants} blocks, the image has {has}")));
    }
    Ok(sup)
}

type OpenTables = (Database, Snapshot, LogMeta, Vec<(u64, u64)>);

fn open_tables(backend: Chunks, cache: usize) -> Result<OpenTables, FsError> {
    let db = Builder::new().set_cache_size(cache).create_with_backend(backend.clone());
    let db = db.map_err(redb_error)?;
    // Now that it has settled which commit counts. To close it would act on the list as well.
    if let Err(error) = freed::check(&backend) {
        std::mem::forget(db);
        return Err(error);
    }
    let txn = db.begin_read().map_err(redb_error)?;
    let meta = txn.open_table(META).map_err(redb_error)?;
    let log = meta.get(META_LOG).map_err(redb_error)?;
    let log = log.and_then(|guard| LogMeta::decode(guard.value()));
    let log = log.ok_or_else(|| corrupt("tables: no log position".to_string()))?;
    let mut free = Vec::new();
    for entry in txn.open_table(FREE).map_err(redb_error)?.iter().map_err(redb_error)? {
        let (start, count) = entry.map_err(redb_error)?;
        free.push((start.value(), count.value()));
    }
    let snapshot = Snapshot::take(&db)?;
    Ok((db, snapshot, log, free))
}

fn fresh_core(sup: &FsSuper, snapshot: Snapshot, meta: &LogMeta) -> Core {
    Core {
        active: Overlay::default(),
        frozen: None,
        snapshot: Some(Arc::new(snapshot)),
        txn: OpenTxn::default(),
        owned: BTreeMap::new(),
        deltas: Vec::new(),
        space: Space::default(),
        tables_slack: 0,
        ring: Ring {
            first: sup.ring_first,
            blocks: sup.ring_blocks,
            head: meta.next_pos,
            tail: meta.next_pos,
        },
        files: FastMap::default(),
        dirty_pages: 0,
        wanted: BTreeSet::new(),
        pulls: BTreeMap::new(),
        pull_bytes: 0,
        rewrites: BTreeSet::new(),
        cleanups: Vec::new(),
        next_ticket: 1,
        home_epoch: 0,
        flushed_epoch: 0,
        generation: 0,
        next_ino: meta.next_ino,
        next_seq: meta.next_seq,
        failed: None,
        #[cfg(test)]
        rules: Rules::at_open(),
    }
}

/// Free space = the table minus the chunks of the tables, which are the authority (W15).
fn fill_space(
    space: &mut Space,
    blocks: &dyn Blocks,
    sup: &FsSuper,
    free: &[(u64, u64)],
    chunks: &Chunks,
) -> Result<(), FsError> {
    let trusting = Rules::at_open().ignore_backing;
    let is_backed = |extent: ExtentNo| trusting || blocks.is_backed(extent);
    for (start, count) in free {
        let end = start.checked_add(*count).filter(|end| *end <= sup.block_count);
        if *start < sup.data_first || end.is_none() || !space.add(*start, *count, &is_backed) {
            return Err(corrupt(format!("free space: run {start}+{count} cannot be")));
        }
    }
    for first in chunks.all() {
        space.exclude(first.0, CHUNK_BLOCKS);
    }
    Ok(())
}

/// Inodes that an earlier run left to be freed or cut.
fn orphans(core: &Core) -> Result<Vec<Ino>, FsError> {
    let mut found = Vec::new();
    core.layers(None).scan(TableId::Orphans, &key_ino(Ino(0)), &key_ino(Ino(u64::MAX)), |key, _| {
        found.extend(ino_of_key(key));
        Ok(true)
    })?;
    Ok(found)
}

impl Core {
    /// Takes the log behind the checkpoint into memory, and `chain` to its end. Answers the number of the last record
    /// that is given up, if the log is damaged and that was asked for.
    fn read_log(
        &mut self,
        blocks: &dyn Blocks,
        sup: &FsSuper,
        opts: &StoreOptions,
        chain: &mut ChainHash,
    ) -> Result<Option<u64>, FsError> {
        let mut reader = Reader::default();
        while let Some(found) =
            find_record(blocks, &mut reader, &self.ring, sup.log_id, self.next_seq, chain, self.rules())?
        {
            self.replay(&found.bytes, &found.prev, sup)?;
            self.ring.head = self.ring.after(found.at, found.bytes.len() as u64 / PAGE as u64);
            self.next_seq += 1;
            *chain = found.hash;
        }
        let lost = find_later(blocks, &self.ring, sup.log_id, self.next_seq)?;
        match lost {
            Some(later) if !opts.lose_damaged_log => {
                return Err(corrupt(format!(
                    "log record {} is damaged, but record {later} behind it is whole: changes that were \
                     acknowledged are lost; mount read-only to see what is left, or go on without them by force",
                    self.next_seq
                )));
            }
            // What is given up must not be found again behind the records to come.
            Some(later) => self.next_seq = later + 1,
            None => {}
        }
        Ok(lost)
    }

    /// Takes one verified record into memory.
    fn replay(&mut self, bytes: &[u8], prev: &ChainHash, sup: &FsSuper) -> Result<(), FsError> {
        let seq = self.next_seq;
        let bad = || corrupt(format!("log record {seq} contradicts the tables"));
        let record = open_record(bytes, prev).ok_or_else(bad)?;
        let mut at = record.ops;
        while !at.is_empty() {
            match LogOp::decode(&mut at).ok_or_else(bad)? {
                LogOp::Set { table, key, value } => {
                    if table == TableId::Inodes
                        && let Some(ino) = ino_of_key(key)
                    {
                        self.next_ino = self.next_ino.max(ino.0.saturating_add(1));
                    }
                    self.active.set(table, key.to_vec(), value.map(Arc::from));
                }
                LogOp::Alloc { start, count } => {
                    if self.space.exclude(start.0, count) != count {
                        return Err(bad());
                    }
                    self.deltas.push(Delta { alloc: true, start, count });
                }
                LogOp::Free { start, count } => {
                    let inside = start.0 >= sup.data_first
                        && start.0.checked_add(count).is_some_and(|end| end <= sup.block_count);
                    if !inside {
                        return Err(bad());
                    }
                    self.forget_payload(start, count);
                    self.freed(seq, start, count);
                }
            }
        }
        for (block, data) in record.payload {
            if block.0 < sup.data_first || block.0 >= sup.block_count {
                return Err(bad());
            }
            self.owned.insert(block, Owned { seq, page: Arc::new(*data) });
        }
        Ok(())
    }
}

impl Store {
    /// Frees a few of the inodes that an earlier run left behind.
    pub(super) fn clean_orphans(&self, max: usize) -> Result<(), FsError> {
        for _ in 0..max {
            let Some(ino) = self.core_read().cleanups.last().copied() else { return Ok(()) };
            let rec = self.inode(ino)?;
            match rec {
                Some(rec) if rec.nlink > 0 && rec.kind() == FileKind::File => {
                    let _shard = self.shards.lock(ino);
                    self.cut_behind_end(ino)?;
                }
                _ => self.drop_inode(ino)?,
            }
            self.core_write().cleanups.pop_if(|known| *known == ino);
        }
        Ok(())
    }
}

/// The time in `FormatOptions` when nobody cares.
impl Default for FormatOptions {
    fn default() -> FormatOptions {
        FormatOptions { log_id: 1, now: Time::default(), uid: 0, gid: 0, ring_blocks: None }
    }
}
