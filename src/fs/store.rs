//! `Store`: inodes, names, attributes and file data as one crash-safe whole over `trait Blocks`.
//!
//! Decides when something is visible and when it is stable. Does not know permissions, paths, the kernel, clocks or
//! threads: whoever owns it calls `commit`, `writeback` and `checkpoint`.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::base::Ino;
use crate::format::{Dirent, InodeRec, TableId, key_name};

use super::FsError;
use super::core::{self, Core};
use super::op::Op;
use super::overlay::Overlay;

pub(super) fn corrupt(what: String) -> FsError {
    FsError::Corrupt(what)
}

/// The storage engine. All methods may be called from many threads.
pub struct Store {
    core: RwLock<Core>,
    /// Held by the one `Op` that is being put together.
    names: Mutex<()>,
}

impl Store {
    pub(super) fn core_read(&self) -> RwLockReadGuard<'_, Core> {
        self.core.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn core_write(&self) -> RwLockWriteGuard<'_, Core> {
        self.core.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Starts an operation; others wait until it is finished or dropped.
    pub fn begin(&self) -> Op<'_> {
        Op::new(self, self.lock_names())
    }

    /// Refuses a change that the space set aside for tables could not hold.
    pub(super) fn admit(&self, core: &mut Core, own: &Overlay) -> Result<(), FsError> {
        let _ = (core, own);
        Ok(())
    }
}

#[cfg(test)]
impl Store {
    /// A store that keeps everything in memory, with a root directory.
    pub(crate) fn for_tests() -> Store {
        use crate::format::{FileKind, Time};
        let store = Store {
            core: RwLock::new(Core {
                active: Overlay::default(),
                frozen: None,
                snapshot: None,
                txn: core::OpenTxn::default(),
                files: crate::base::FastMap::default(),
                pulls: std::collections::BTreeSet::default(),
                generation: 1,
                next_ino: 2,
                next_seq: 1,
                failed: None,
            }),
            names: Mutex::new(()),
        };
        let mut root = InodeRec::new(FileKind::Dir, Time::default());
        root.mode |= 0o755;
        root.nlink = 2;
        root.parent = Ino::ROOT;
        let mut op = store.begin();
        op.put_inode(Ino::ROOT, &root);
        op.finish().unwrap();
        store
    }
}
