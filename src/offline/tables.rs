//! The tables as a mount would see them: redb as of the last checkpoint, the sealed records of the log on top.
//!
//! Decides how redb is read without ever being written: its address space lies in chunks of the image, and what redb
//! writes when it opens (its recovery flag) stays in memory. Does not know what keys and values mean.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use crate::base::BlockNo;
use crate::format::{CHUNK_BLOCKS, FsSuper, LogMeta, TableId};
use crate::image::Image;

const BLOCK: usize = BlockNo::SIZE;
/// Memory that redb may use to keep pages.
const CACHE_BYTES: usize = 64 << 20;

type Bytes = &'static [u8];
const FREE: TableDefinition<'static, u64, u64> = TableDefinition::new("free");
const META: TableDefinition<'static, &str, Bytes> = TableDefinition::new("meta");
/// The one key of `meta`: where the log goes on.
const META_LOG: &str = "log";

/// Read access to the six tables.
pub trait Tables {
    /// Calls `each` with every entry in key order.
    fn scan(&self, table: TableId, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String>;
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, String>;
}

/// What the checkpoint says beside the six tables.
pub(super) struct Opened {
    pub(super) stored: Stored,
    pub(super) meta: LogMeta,
    pub(super) free: Vec<(u64, u64)>,
}

/// Opens the tables; the caller catches what redb may throw at bytes that it does not expect.
pub(super) fn open(image: &Arc<Image>, sup: &FsSuper) -> Result<Opened, String> {
    let chunks = Chunks {
        image: image.clone(),
        map: sup.chunks.iter().copied().collect(),
        state: Mutex::new((sup.tables_len, BTreeMap::new())),
    };
    let mut builder = redb::Builder::new();
    let db =
        builder.set_cache_size(CACHE_BYTES).create_with_backend(chunks).map_err(|error| error.to_string())?;
    let txn = db.begin_read().map_err(|error| error.to_string())?;
    let meta = start_of_log(&txn)?;
    let free = free_runs(&txn)?;
    Ok(Opened { stored: Stored { txn, _db: db }, meta, free })
}

fn free_runs(txn: &ReadTransaction) -> Result<Vec<(u64, u64)>, String> {
    let table = txn.open_table(FREE).map_err(|error| error.to_string())?;
    let mut runs = Vec::new();
    for entry in table.iter().map_err(|error| error.to_string())? {
        let (start, count) = entry.map_err(|error| error.to_string())?;
        runs.push((start.value(), count.value()));
    }
    Ok(runs)
}

fn start_of_log(txn: &ReadTransaction) -> Result<LogMeta, String> {
    let table = txn.open_table(META).map_err(|error| error.to_string())?;
    let value = table.get(META_LOG).map_err(|error| error.to_string())?;
    value
        .and_then(|guard| LogMeta::decode(guard.value()))
        .ok_or_else(|| "there is no log position".to_string())
}

/// The tables as of the last checkpoint.
pub(super) struct Stored {
    txn: ReadTransaction,
    _db: Database,
}

impl Stored {
    fn table(&self, table: TableId) -> Result<redb::ReadOnlyTable<Bytes, Bytes>, String> {
        let definition: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new(table.name());
        self.txn.open_table(definition).map_err(|error| error.to_string())
    }
}

/// The records of the log over the tables.
pub struct Layered {
    pub(super) base: Stored,
    pub(super) changes: BTreeMap<TableId, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl Tables for Layered {
    fn scan(&self, table: TableId, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
        let mut above = self.changes.get(&table).into_iter().flatten().peekable();
        let stored = self.base.table(table)?;
        for entry in stored.iter().map_err(|error| error.to_string())? {
            let (key, value) = entry.map_err(|error| error.to_string())?;
            let key = key.value();
            while let Some((new, value)) = above.next_if(|(new, _)| new.as_slice() < key) {
                if let Some(value) = value {
                    each(new, value);
                }
            }
            match above.next_if(|(new, _)| new.as_slice() == key) {
                Some((_, Some(new))) => each(key, new),
                Some((_, None)) => {}
                None => each(key, value.value()),
            }
        }
        for (key, value) in above {
            if let Some(value) = value {
                each(key, value);
            }
        }
        Ok(())
    }

    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        if let Some(change) = self.changes.get(&table).and_then(|changes| changes.get(key)) {
            return Ok(change.clone());
        }
        let found = self.base.table(table)?;
        let found = found.get(key).map_err(|error| error.to_string())?;
        Ok(found.map(|guard| guard.value().to_vec()))
    }
}

/// The address space of the tables: chunks of the image, and in memory whatever redb writes while it opens.
struct Chunks {
    image: Arc<Image>,
    map: BTreeMap<u64, u64>,
    /// Length, and pages written.
    state: Mutex<(u64, BTreeMap<u64, Vec<u8>>)>,
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chunks")
    }
}

impl Chunks {
    fn page(&self, written: &BTreeMap<u64, Vec<u8>>, index: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = written.get(&index) {
            return Ok(page.clone());
        }
        let mut page = vec![0; BLOCK];
        if let Some(first) = self.map.get(&(index / CHUNK_BLOCKS)) {
            let block = BlockNo(first.saturating_add(index % CHUNK_BLOCKS));
            self.image.read_as_settled(block, &mut page).map_err(io::Error::other)?;
        }
        Ok(page)
    }

    /// Calls `each` with page, offset in it, and the part of `0..len` that it covers.
    fn pieces(
        offset: u64,
        len: usize,
        mut each: impl FnMut(u64, usize, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let inside = (at % BLOCK as u64) as usize;
            let step = (BLOCK - inside).min(len - done);
            each(at / BLOCK as u64, inside, done..done + step)?;
            done += step;
        }
        Ok(())
    }
}

impl StorageBackend for Chunks {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > state.0) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "behind the end of the tables"));
        }
        Chunks::pieces(offset, out.len(), |page, inside, range| {
            let content = self.page(&state.1, page)?;
            out[range.clone()].copy_from_slice(&content[inside..inside + range.len()]);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0 = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Chunks::pieces(offset, data.len(), |page, inside, range| {
            let mut content = self.page(&state.1, page)?;
            content[inside..inside + range.len()].copy_from_slice(&data[range]);
            state.1.insert(page, content);
            Ok(())
        })
    }
}
