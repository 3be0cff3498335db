//! New tables: everything that was kept, written by the library into fresh chunks of the image.
//!
//! Decides where the new tables lie and how the superblock comes to point at them. Does not know what was wrong. The
//! old tables and the old log stay as they are until the superblock's newer slot is stable: a crash before leaves
//! the image as it was found, a crash after leaves it repaired.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{StorageBackend, TableDefinition};

use twinfs::base::{BlockNo, ExtentNo, Pages};
use twinfs::format::{CHUNK_BLOCKS, FsSuper, LogMeta, TableId};
use twinfs::image::{Blocks, BlocksError};

use crate::plan::Room;
use crate::source::BLOCK;
use crate::tables::Tables;

/// Entries of the chunk map from here on are spare chunks.
const SPARE: u64 = 1 << 48;
const SPARE_CHUNKS: u64 = 8;
/// Memory for pages that are not written yet.
const DIRTY_PAGES: usize = 8192;
const CACHE_BYTES: usize = 64 << 20;
/// Blocks of one write.
const RUN_BLOCKS: usize = 256;

type Blob = &'static [u8];
const FREE: TableDefinition<'static, u64, u64> = TableDefinition::new("free");
const META: TableDefinition<'static, &str, Blob> = TableDefinition::new("meta");

struct Inner {
    len: u64,
    map: BTreeMap<u64, u64>,
    dirty: BTreeMap<u64, Box<[u8]>>,
    room: Room,
}

/// The address space of the new tables.
#[derive(Clone)]
struct Fresh {
    blocks: Arc<dyn Blocks>,
    inner: Arc<Mutex<Inner>>,
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fresh")
    }
}

/// Backs the extents of a run, so that it can be written.
pub fn back(blocks: &dyn Blocks, first: u64, count: u64) -> Result<(), BlocksError> {
    for extent in BlockNo(first).extent().0..=BlockNo(first + count - 1).extent().0 {
        blocks.back(ExtentNo(extent))?;
    }
    Ok(())
}

impl Inner {
    /// Home of a page of the tables; a chunk is taken where there is none yet, and all of it is written.
    fn home(&mut self, blocks: &dyn Blocks, page: u64) -> io::Result<u64> {
        let chunk = page / CHUNK_BLOCKS;
        if !self.map.contains_key(&chunk) {
            let full = || io::Error::other("there is no room for new tables: the volume is full");
            let first = self.room.take_all(CHUNK_BLOCKS).ok_or_else(full)?;
            back(blocks, first, CHUNK_BLOCKS).map_err(io::Error::other)?;
            self.map.insert(chunk, first);
            for page in chunk * CHUNK_BLOCKS..(chunk + 1) * CHUNK_BLOCKS {
                self.dirty.entry(page).or_insert_with(|| vec![0; BLOCK].into());
            }
        }
        Ok(self.map[&chunk] + page % CHUNK_BLOCKS)
    }

    fn page(&self, blocks: &dyn Blocks, page: u64) -> io::Result<Box<[u8]>> {
        if let Some(content) = self.dirty.get(&page) {
            return Ok(content.clone());
        }
        let mut content = vec![0; BLOCK].into_boxed_slice();
        if let Some(first) = self.map.get(&(page / CHUNK_BLOCKS)) {
            blocks.read(BlockNo(first + page % CHUNK_BLOCKS), &mut content).map_err(io::Error::other)?;
        }
        Ok(content)
    }

    /// Writes what is dirty, in runs of neighbours.
    fn write_out(&mut self, blocks: &dyn Blocks) -> io::Result<()> {
        let mut homes = BTreeMap::new();
        for (page, content) in std::mem::take(&mut self.dirty) {
            if let Some(first) = self.map.get(&(page / CHUNK_BLOCKS)) {
                homes.insert(first + page % CHUNK_BLOCKS, content);
            }
        }
        let mut run: Vec<(u64, Box<[u8]>)> = Vec::new();
        let write = |run: &[(u64, Box<[u8]>)]| match run.first() {
            None => Ok(()),
            Some((first, _)) => {
                let mut data = Pages::zeroed(run.len());
                for (place, (_, content)) in data.chunks_exact_mut(BLOCK).zip(run) {
                    place.copy_from_slice(content);
                }
                blocks.write(BlockNo(*first), &data).map_err(io::Error::other)
            }
        };
        for (home, content) in homes {
            if run.last().is_some_and(|(last, _)| last + 1 != home) || run.len() >= RUN_BLOCKS {
                write(&run)?;
                run.clear();
            }
            run.push((home, content));
        }
        write(&run)
    }
}

impl Fresh {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts a range at the borders of pages: page, offset in it, range of the buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let inside = (at % BLOCK as u64) as usize;
        let step = (BLOCK - inside).min(len - done);
        let range = done..done + step;
        done += step;
        (step > 0).then_some((at / BLOCK as u64, inside, range))
    })
}

impl StorageBackend for Fresh {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.lock();
        for (page, inside, range) in pieces(offset, out.len()) {
            let content = inner.page(&*self.blocks, page)?;
            let len = range.len();
            out[range].copy_from_slice(&content[inside..inside + len]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        // What is cut off and grown into again reads as zeros.
        let gone: Vec<u64> = inner
            .map
            .keys()
            .flat_map(|chunk| chunk * CHUNK_BLOCKS..(chunk + 1) * CHUNK_BLOCKS)
            .filter(|page| *page >= len.div_ceil(BLOCK as u64))
            .collect();
        for page in gone {
            inner.dirty.insert(page, vec![0; BLOCK].into());
        }
        inner.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.lock().write_out(&*self.blocks)?;
        self.blocks.flush().map_err(io::Error::other)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        for (page, inside, range) in pieces(offset, data.len()) {
            inner.home(&*self.blocks, page)?;
            let mut content = inner.page(&*self.blocks, page)?;
            content[inside..inside + range.len()].copy_from_slice(&data[range]);
            inner.dirty.insert(page, content);
        }
        if inner.dirty.len() > DIRTY_PAGES {
            inner.write_out(&*self.blocks)?;
        }
        Ok(())
    }
}

/// What the new tables hold beside the six.
pub struct Beside<'a> {
    pub free: &'a [(u64, u64)],
    pub log: LogMeta,
}

/// Writes new tables and answers with a superblock that leads to them, not yet written. Stable on return.
pub fn tables(
    blocks: &Arc<dyn Blocks>,
    old: &FsSuper,
    kept: &dyn Tables,
    beside: &Beside<'_>,
    room: Room,
) -> Result<FsSuper, String> {
    let inner = Inner { len: 0, map: BTreeMap::new(), dirty: BTreeMap::new(), room };
    let fresh = Fresh { blocks: Arc::clone(blocks), inner: Arc::new(Mutex::new(inner)) };
    write_tables(&fresh, kept, beside).map_err(|error| format!("writing new tables: {error}"))?;
    let mut inner = fresh.lock();
    let mut chunks: Vec<(u64, u64)> = inner.map.iter().map(|(index, first)| (*index, *first)).collect();
    for spare in 0..SPARE_CHUNKS {
        // Fewer are enough where there is little room; one is what a mount needs to write its tables.
        let Some(first) = inner.room.take_all(CHUNK_BLOCKS) else { break };
        back(&**blocks, first, CHUNK_BLOCKS).map_err(|error| error.to_string())?;
        chunks.push((SPARE + spare, first));
    }
    if FsSuper::cont_needed(chunks.len()) as u64 > old.cont_blocks {
        return Err("the new tables have more chunks than the superblock can name".to_string());
    }
    let sup = FsSuper { log_id: beside.log.log_id, tables_len: inner.len, chunks, ..old.clone() };
    blocks.flush().map_err(|error| error.to_string())?;
    Ok(sup)
}

fn write_tables(fresh: &Fresh, kept: &dyn Tables, beside: &Beside<'_>) -> Result<(), redb::Error> {
    let mut builder = redb::Builder::new();
    let db = builder.set_cache_size(CACHE_BYTES).create_with_backend(fresh.clone())?;
    let mut txn = db.begin_write()?;
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    for table in TableId::ALL {
        let definition: TableDefinition<'static, Blob, Blob> = TableDefinition::new(table.name());
        let mut stored = txn.open_table(definition)?;
        let mut failed: Option<redb::StorageError> = None;
        kept.scan(table, &mut |key, value| {
            if failed.is_none() {
                failed = stored.insert(key, value).err();
            }
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    {
        let mut free = txn.open_table(FREE)?;
        for (start, count) in beside.free {
            free.insert(start, count)?;
        }
        let mut meta = txn.open_table(META)?;
        meta.insert("log", beside.log.encode().as_slice())?;
    }
    txn.commit()?;
    drop(db);
    Ok(())
}

/// Makes both slots of the superblock say `sup`, one after the other.
pub fn point(blocks: &dyn Blocks, sup: &FsSuper) -> Result<(), BlocksError> {
    let mut sup = sup.clone();
    for _ in 0..2 {
        sup.seq += 1;
        let (before, (slot, head)) = sup.places();
        for (at, bytes) in before {
            blocks.write(at, &Pages::copy_of(&bytes))?;
        }
        // Continuation and head may be torn apart: the slot's hash covers both.
        blocks.write_flush(slot, &Pages::copy_of(&head))?;
    }
    Ok(())
}
