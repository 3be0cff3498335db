//! `Op`: one atomic change of names and attributes.
//!
//! Decides that an operation is seen whole or not at all, in memory and in the log: it gathers in an overlay of its
//! own and enters the open log transaction in `finish`. Does not know permissions or POSIX. Invariants: one `Op` at a
//! time (it holds the namespace lock); size and blocks of an existing regular file are never changed by one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard};

use crate::base::Ino;
use crate::format::{
    COOKIE_FIRST, Dirent, FileKind, InodeRec, TableId, ino_of_key, key_ino, key_name, key_pair,
};

use super::FsError;
use super::core::{Change, Core};
use super::overlay::{Layers, Overlay};
use super::store::{Store, corrupt};

/// An atomic set of puts and deletes. Its reads see its own changes. Dropped without `finish`, it changes nothing.
pub struct Op<'a> {
    store: &'a Store,
    own: Overlay,
    /// Next cookie of each directory that got an entry.
    cookies: BTreeMap<Ino, u64>,
    pulls: BTreeSet<Ino>,
    shrinks: bool,
    _names: MutexGuard<'a, ()>,
}

impl<'a> Op<'a> {
    pub(super) fn new(store: &'a Store, names: MutexGuard<'a, ()>) -> Op<'a> {
        Op {
            store,
            own: Overlay::default(),
            cookies: BTreeMap::new(),
            pulls: BTreeSet::new(),
            shrinks: false,
            _names: names,
        }
    }

    fn view<T>(&self, read: impl FnOnce(&Core, &Layers<'_>) -> Result<T, FsError>) -> Result<T, FsError> {
        let core = self.store.core_read();
        let layers = core.layers(Some(&self.own));
        read(&core, &layers)
    }

    pub fn inode(&self, ino: Ino) -> Result<Option<InodeRec>, FsError> {
        self.view(|core, layers| core.live_inode(layers, ino))
    }

    /// Records `rec`. The store fills in `txn`, the `generation` of a new inode, `next_cookie`, and keeps `size` and
    /// `blocks` of a regular file that exists.
    pub fn put_inode(&mut self, ino: Ino, rec: &InodeRec) {
        self.own.put(TableId::Inodes, key_ino(ino), rec.encode().into());
    }

    /// Forgets an inode without data: directories, symlinks, device nodes. Regular files go through `add_orphan` and
    /// `Store::drop_inode`.
    pub fn del_inode(&mut self, ino: Ino) {
        self.shrinks = true;
        self.own.del(TableId::Inodes, key_ino(ino));
    }

    pub fn dirent(&self, dir: Ino, name: &[u8]) -> Result<Option<Dirent>, FsError> {
        self.view(|_, layers| super::core::dirent(layers, dir, name))
    }

    /// Enters or replaces a name. A replaced entry keeps its cookie, a new one gets the directory's next; `cookie` of
    /// the argument is not looked at.
    pub fn put_dirent(&mut self, dir: Ino, name: &[u8], entry: Dirent) -> Result<(), FsError> {
        let cookie = match self.dirent(dir, name)? {
            Some(old) => old.cookie,
            None => self.next_cookie(dir)?,
        };
        let entry = Dirent { cookie, ..entry };
        let mut listed = entry.encode();
        listed.extend_from_slice(name);
        self.own.put(TableId::Dirents, key_name(dir, name), entry.encode().into());
        self.own.put(TableId::Cookies, key_pair(dir, cookie), listed.into());
        Ok(())
    }

    fn next_cookie(&mut self, dir: Ino) -> Result<u64, FsError> {
        let next = match self.cookies.get(&dir) {
            Some(next) => *next,
            None => self.inode(dir)?.ok_or(FsError::NotFound)?.next_cookie.max(COOKIE_FIRST),
        };
        self.cookies.insert(dir, next + 1);
        Ok(next)
    }

    /// Removes a name that exists.
    pub fn del_dirent(&mut self, dir: Ino, name: &[u8]) -> Result<(), FsError> {
        let old = self.dirent(dir, name)?.ok_or(FsError::NotFound)?;
        self.shrinks = true;
        self.own.del(TableId::Dirents, key_name(dir, name));
        self.own.del(TableId::Cookies, key_pair(dir, old.cookie));
        Ok(())
    }

    pub fn dir_is_empty(&self, dir: Ino) -> Result<bool, FsError> {
        self.view(|_, layers| Ok(super::core::dirents_after(layers, dir, 0, 1)?.is_empty()))
    }

    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        self.view(|_, layers| Ok(layers.get(TableId::Xattrs, &key_name(ino, name))?.map(|v| v.to_vec())))
    }

    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<Vec<u8>>, FsError> {
        self.view(|_, layers| super::core::xattr_names(layers, ino))
    }

    pub fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) {
        self.own.put(TableId::Xattrs, key_name(ino, name), value.into());
    }

    pub fn del_xattr(&mut self, ino: Ino, name: &[u8]) {
        self.shrinks = true;
        self.own.del(TableId::Xattrs, key_name(ino, name));
    }

    /// Remembers that `ino` has no name any more, so that it is freed after a crash; `Store::drop_inode` frees it.
    pub fn add_orphan(&mut self, ino: Ino) {
        self.own.put(TableId::Orphans, key_ino(ino), Arc::from([0u8].as_slice()));
    }

    /// `ino` got a name again (linkat of an O_TMPFILE).
    pub fn del_orphan(&mut self, ino: Ino) {
        self.own.del(TableId::Orphans, key_ino(ino));
    }

    /// A number for a new inode.
    pub fn alloc_ino(&mut self) -> Ino {
        self.store.core_write().take_ino()
    }

    /// The record that holds this operation will hold (or follow) the dirty data of `ino`: a rename over an existing
    /// name never gives an empty file.
    pub fn pull_data(&mut self, ino: Ino) {
        self.pulls.insert(ino);
    }

    /// Makes the operation visible and part of the open log transaction, all of it or, on an error, nothing.
    pub fn finish(mut self) -> Result<(), FsError> {
        for (dir, next) in std::mem::take(&mut self.cookies) {
            if let Some(mut rec) = self.inode(dir)? {
                rec.next_cookie = rec.next_cookie.max(next);
                self.put_inode(dir, &rec);
            }
        }
        let mut core = self.store.core_write();
        core.writable()?;
        let own = settle_inodes(&mut core, std::mem::take(&mut self.own))?;
        if !self.shrinks {
            self.store.admit(&mut core, own.entries() as u64, own.bytes() as u64)?;
        }
        core.apply(Change { overlay: own, ..Change::default() });
        for ino in std::mem::take(&mut self.pulls) {
            core.pull(ino);
        }
        Ok(())
    }
}

/// Fills in what belongs to the store in every inode record of an operation.
fn settle_inodes(core: &mut Core, own: Overlay) -> Result<Overlay, FsError> {
    let mut settled = Overlay::default();
    for (table, key, slot) in own.drain() {
        let slot = match (table, slot) {
            (TableId::Inodes, Some(value)) => {
                let mut rec = InodeRec::decode(&value).ok_or(FsError::Invalid)?;
                let ino = ino_of_key(&key).ok_or(FsError::Invalid)?;
                let known = core.recorded_inode(&core.layers(None), ino)?;
                match known {
                    Some(known) => {
                        rec.generation = known.generation;
                        if known.kind() == FileKind::File {
                            rec.size = known.size;
                            rec.blocks = known.blocks;
                        }
                        core.times_recorded(ino);
                    }
                    None => rec.generation = core.generation,
                }
                rec.txn = core.open_seq();
                Some(rec.encode().into())
            }
            (_, slot) => slot,
        };
        settled.set(table, key, slot);
    }
    Ok(settled)
}

/// Reads an inode out of the layers.
pub(super) fn read_inode(layers: &Layers<'_>, ino: Ino) -> Result<Option<InodeRec>, FsError> {
    match layers.get(TableId::Inodes, &key_ino(ino))? {
        Some(bytes) => {
            InodeRec::decode(&bytes).map(Some).ok_or_else(|| corrupt(format!("inode {}: bad record", ino.0)))
        }
        None => Ok(None),
    }
}
