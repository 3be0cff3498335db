//! The state in memory behind one lock: overlays, the open log transaction, dirty buffers, free space.
//!
//! Decides how a change enters overlay and open transaction together. Does no input or output of its own except reads
//! of the tables. Invariants: overlay and open transaction change in one step under the lock; an inode's recorded
//! size is the durable one, the live size with dirty data is in `files`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::{BlockNo, FastMap, Ino};
use crate::format::{Dirent, InodeRec, TableId, key_name, key_pair};

use super::FsError;
use super::buffers::DirtyFile;
use super::op::read_inode;
use super::overlay::{Layers, Overlay};
use super::store::corrupt;
use super::tables::Snapshot;

/// One block's content.
pub(super) type Page = Arc<[u8; BlockNo::SIZE]>;

/// What one step adds to the open transaction.
#[derive(Default)]
pub(super) struct Change {
    pub(super) overlay: Overlay,
}

/// What the next record will hold.
#[derive(Default)]
pub(super) struct OpenTxn {
    pub(super) ops: Vec<u8>,
    pub(super) payload: BTreeMap<BlockNo, Page>,
    /// The transaction maps fresh blocks that were written home: flush before the seal (W4).
    pub(super) fresh: bool,
}

pub(super) struct Core {
    pub(super) active: Overlay,
    pub(super) frozen: Option<Arc<Overlay>>,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) txn: OpenTxn,
    pub(super) files: FastMap<Ino, DirtyFile>,
    /// Files whose dirty data the next record takes along.
    pub(super) pulls: BTreeSet<Ino>,
    pub(super) generation: u32,
    pub(super) next_ino: u64,
    pub(super) next_seq: u64,
    /// Why nothing may be changed any more.
    pub(super) failed: Option<FsError>,
}

impl Core {
    /// The layers, with an operation's own changes on top.
    pub(super) fn layers<'a>(&'a self, own: Option<&'a Overlay>) -> Layers<'a> {
        Layers { overlays: [own, Some(&self.active), self.frozen.as_deref()], base: self.snapshot.as_deref() }
    }

    pub(super) fn writable(&self) -> Result<(), FsError> {
        match &self.failed {
            Some(FsError::Stopped) => Err(FsError::Stopped),
            Some(_) => Err(FsError::ReadOnly),
            None => Ok(()),
        }
    }

    /// Number of the record that the next change will be in.
    pub(super) fn open_seq(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn take_ino(&mut self) -> Ino {
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        ino
    }

    /// The inode as the log knows it.
    pub(super) fn recorded_inode(&self, layers: &Layers<'_>, ino: Ino) -> Result<Option<InodeRec>, FsError> {
        read_inode(layers, ino)
    }

    /// The inode as a caller must see it: with the size and times of data that is not written yet.
    pub(super) fn live_inode(&self, layers: &Layers<'_>, ino: Ino) -> Result<Option<InodeRec>, FsError> {
        let mut rec = read_inode(layers, ino)?;
        if let (Some(rec), Some(file)) = (&mut rec, self.files.get(&ino)) {
            rec.size = file.size;
            if let Some(time) = file.times {
                rec.mtime = time;
                rec.ctime = time;
            }
        }
        Ok(rec)
    }

    /// The times of `ino` are in a record now.
    pub(super) fn times_recorded(&mut self, ino: Ino) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.times = None;
        }
    }

    /// Adds a change to the active overlay and to the open transaction.
    pub(super) fn apply(&mut self, change: Change) {
        for (table, key, slot) in change.overlay.drain() {
            self.active.set(table, key, slot);
        }
    }
}

pub(super) fn dirent(layers: &Layers<'_>, dir: Ino, name: &[u8]) -> Result<Option<Dirent>, FsError> {
    match layers.get(TableId::Dirents, &key_name(dir, name))? {
        Some(bytes) => {
            Dirent::decode(&bytes).map(Some).ok_or_else(|| corrupt(format!("directory {}: bad entry", dir.0)))
        }
        None => Ok(None),
    }
}

/// Up to `max` entries with cookies above `cookie`, in cookie order.
pub(super) fn dirents_after(
    layers: &Layers<'_>,
    dir: Ino,
    cookie: u64,
    max: usize,
) -> Result<Vec<(u64, Vec<u8>, Dirent)>, FsError> {
    let mut found = Vec::new();
    let (from, to) = (key_pair(dir, cookie.saturating_add(1)), key_pair(Ino(dir.0 + 1), 0));
    layers.scan(TableId::Cookies, &from, &to, |_, value| {
        let split = value.split_at_checked(Dirent::BYTES);
        let entry = split.and_then(|(entry, name)| Some((Dirent::decode(entry)?, name)));
        let (entry, name) = entry.ok_or_else(|| corrupt(format!("directory {}: bad cookie entry", dir.0)))?;
        found.push((entry.cookie, name.to_vec(), entry));
        Ok(found.len() < max)
    })?;
    Ok(found)
}

pub(super) fn xattr_names(layers: &Layers<'_>, ino: Ino) -> Result<Vec<Vec<u8>>, FsError> {
    let mut names = Vec::new();
    layers.scan(TableId::Xattrs, &key_name(ino, b""), &key_name(Ino(ino.0 + 1), b""), |key, _| {
        names.push(key[8..].to_vec());
        Ok(true)
    })?;
    Ok(names)
}
