//! Tests of the storage engine: its rules one by one, and against a model under power cuts.

#[allow(dead_code, reason = "shared with the integration target `crash`")]
pub(crate) mod crash;
mod crash_properties;
mod damage;
mod foreign;
mod grow;
mod hostile;
mod limits;
pub(crate) mod mem;
mod model;
mod protocol;
mod stack;
mod switches;

use std::sync::Arc;

use crate::base::Ino;
use crate::format::{Dirent, FileKind, InodeRec, Time};

use self::mem::MemBlocks;
use super::{FormatOptions, Store, StoreOptions};

pub(crate) const NOW: Time = Time { secs: 1_700_000_000, nanos: 1 };

/// 32 MiB with a ring of 4 MiB.
pub(crate) fn fresh_blocks(count: u64) -> Arc<MemBlocks> {
    let blocks = MemBlocks::new(count);
    let opts = FormatOptions { log_id: 77, now: NOW, ring_blocks: Some(1024), ..FormatOptions::default() };
    Store::format(blocks.clone(), &opts).unwrap();
    blocks
}

pub(crate) fn open(blocks: &Arc<MemBlocks>) -> Store {
    Store::open(blocks.clone(), &StoreOptions { cache_bytes: 4 << 20, ..StoreOptions::default() }).unwrap()
}

pub(crate) fn fresh() -> (Arc<MemBlocks>, Store) {
    let blocks = fresh_blocks(8192);
    let store = open(&blocks);
    (blocks, store)
}

/// What a power cut now would leave if nothing un-flushed were lost: reopened.
pub(crate) fn reopen_copy(blocks: &Arc<MemBlocks>) -> Store {
    open(&blocks.copy())
}

pub(crate) fn create(store: &Store, name: &[u8]) -> Ino {
    let mut op = store.begin();
    let ino = op.alloc_ino();
    let mut rec = InodeRec::new(FileKind::File, NOW);
    rec.mode |= 0o644;
    op.put_inode(ino, &rec);
    op.put_dirent(Ino::ROOT, name, Dirent { ino, kind: FileKind::File, cookie: 0 }).unwrap();
    op.finish().unwrap();
    ino
}

pub(crate) fn unlink(store: &Store, name: &[u8]) {
    let mut op = store.begin();
    let ino = op.dirent(Ino::ROOT, name).unwrap().unwrap().ino;
    op.del_dirent(Ino::ROOT, name).unwrap();
    let mut rec = op.inode(ino).unwrap().unwrap();
    rec.nlink = 0;
    op.put_inode(ino, &rec);
    op.add_orphan(ino);
    op.finish().unwrap();
    store.drop_inode(ino).unwrap();
}

pub(crate) fn fsync(store: &Store, ino: Ino) {
    let ticket = store.fsync_ticket(Some(ino), false);
    assert!(store.commit().unwrap() >= ticket);
}

pub(crate) fn read_all(store: &Store, ino: Ino) -> Vec<u8> {
    store.read(ino, 0, 1 << 30).unwrap()
}

impl Store {
    /// An empty store in memory.
    pub(crate) fn for_tests() -> Store {
        fresh().1
    }

    /// S1 switched off.
    pub(crate) fn drag_everything(&self, drag: bool) {
        self.core_write().rules.drag_all = drag;
    }
}
