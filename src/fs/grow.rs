//! Taking into use what the volume has grown by.
//!
//! Decides the order. Does not know who made the volume larger. Invariants: both slots of the superblock name the new
//! size before a block behind the old one counts as free; which blocks the table of free space covers is written in the
//! same commit as the table, so that a cut in between is finished by the next call.

use std::sync::atomic::Ordering;

use redb::{Durability, ReadableDatabase};

use crate::base::BlockNo;

use super::FsError;
use super::checkpoint::store_free;
use super::core::Delta;
use super::locks::lock;
use super::store::{Store, corrupt};
use super::tables::{FREE, META, guarded, redb_error};

/// The key in `meta` under which lies how many blocks the table of free space covers; absent while it never grew.
const META_COVERED: &str = "covered";

impl Store {
    /// Takes into use whatever the volume has beyond what the file system knows; answers its blocks. Stable on return.
    /// Nothing is done on a volume that did not grow.
    pub fn grow_volume(&self) -> Result<u64, FsError> {
        let _one = lock(&self.checkpointing);
        self.core_read().writable()?;
        let (has, known) = (self.blocks().block_count(), self.block_count.load(Ordering::SeqCst));
        let covered = guarded(|| self.covered())?.unwrap_or(known);
        if covered > known {
            return Err(corrupt(format!("free space: {covered} blocks of a file system of {known}")));
        }
        if has <= known && covered == known {
            return Ok(known);
        }
        let new = has.max(known);
        let done = guarded(|| self.grow_to(covered, known, new));
        if let Err(error) = &done {
            self.core_write().failed.get_or_insert(error.clone());
        }
        done.map(|()| new)
    }

    fn grow_to(&self, covered: u64, known: u64, new: u64) -> Result<(), FsError> {
        if new > known {
            self.cover(covered, None)?;
            self.latch(self.chunks.set_block_count(new))?;
        }
        let delta = Delta { alloc: false, start: BlockNo(covered), count: new - covered };
        self.cover(new, Some(delta))?;
        self.block_count.store(new, Ordering::SeqCst);
        let blocks = self.blocks().clone();
        if self.core_write().space.add(covered, new - covered, &|extent| blocks.is_backed(extent)) {
            Ok(())
        } else {
            Err(corrupt("free space: blocks that the volume has grown by were free before".to_string()))
        }
    }

    fn covered(&self) -> Result<Option<u64>, FsError> {
        let txn = self.db.begin_read().map_err(redb_error)?;
        let meta = txn.open_table(META).map_err(redb_error)?;
        let Some(found) = meta.get(META_COVERED).map_err(redb_error)? else { return Ok(None) };
        let bytes = found.value().try_into();
        let bytes = bytes.map_err(|_| corrupt("tables: no number of blocks".to_string()))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    /// One commit: what the table of free space covers, with what is added to it.
    fn cover(&self, blocks: u64, added: Option<Delta>) -> Result<(), FsError> {
        let mut txn = self.db.begin_write().map_err(redb_error)?;
        txn.set_durability(Durability::Immediate).map_err(redb_error)?;
        txn.set_two_phase_commit(true);
        txn.set_quick_repair(true);
        {
            let mut meta = txn.open_table(META).map_err(redb_error)?;
            meta.insert(META_COVERED, blocks.to_le_bytes().as_slice()).map_err(redb_error)?;
            let mut free = txn.open_table(FREE).map_err(redb_error)?;
            store_free(&mut free, added.as_slice())?;
        }
        txn.commit().map_err(redb_error)
    }
}
