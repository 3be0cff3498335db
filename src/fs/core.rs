//! The state in memory behind one lock: overlays, the open log transaction, dirty buffers, free space.
//!
//! Decides how a change enters overlay and open transaction together. Does no input or output of its own except reads
//! of the tables. Invariants: overlay and open transaction change in one step under the lock; an inode's recorded
//! size is the durable one, the live size with dirty data is in `files`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::{BlockNo, FastMap, Ino};
use crate::format::{Dirent, InodeRec, LogOp, TableId, Time, key_name, key_pair, record_blocks};

use super::FsError;
use super::buffers::DirtyFile;
use super::log::Ring;
use super::op::read_inode;
use super::overlay::{Layers, Overlay};
use super::space::Space;
use super::store::corrupt;
use super::tables::Snapshot;

/// One block's content.
pub(super) type Page = Arc<[u8; BlockNo::SIZE]>;

/// What one step adds to the open transaction.
#[derive(Default)]
pub(super) struct Change {
    pub(super) overlay: Overlay,
    /// Runs that leave the free space.
    pub(super) allocs: Vec<(BlockNo, u64)>,
    /// Runs that return to it once checkpointed.
    pub(super) frees: Vec<(BlockNo, u64)>,
}

/// A step of the free space, in the order of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) alloc: bool,
    pub(super) start: BlockNo,
    pub(super) count: u64,
}

/// What the next record will hold.
#[derive(Default)]
pub(super) struct OpenTxn {
    pub(super) ops: Vec<u8>,
    pub(super) payload: BTreeMap<BlockNo, Page>,
    /// The transaction maps fresh blocks that were written home: flush before the seal (W4).
    pub(super) fresh: bool,
}

impl OpenTxn {
    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.payload.is_empty()
    }

    /// Bytes of the record it will make.
    pub(super) fn bytes(&self) -> u64 {
        record_blocks(self.ops.len(), self.payload.len()) * BlockNo::SIZE as u64
    }
}

/// Newest payload of a block: its content is in the log, not home.
pub(super) struct Owned {
    pub(super) seq: u64,
    pub(super) page: Page,
}

pub(super) struct Core {
    pub(super) active: Overlay,
    pub(super) frozen: Option<Arc<Overlay>>,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) txn: OpenTxn,
    /// Blocks with payload in records that are not checkpointed (W1).
    pub(super) owned: BTreeMap<BlockNo, Owned>,
    pub(super) deltas: Vec<Delta>,
    pub(super) space: Space,
    /// Pages inside the tables' chunks that were free at the last checkpoint; counted only when the volume is nearly
    /// full.
    pub(super) tables_slack: u64,
    pub(super) ring: Ring,
    pub(super) files: FastMap<Ino, DirtyFile>,
    pub(super) dirty_pages: usize,
    /// Files that somebody waits for.
    pub(super) wanted: BTreeSet<Ino>,
    /// Files whose dirty data the next record takes along, with the bytes that it may take there; and all of those.
    pub(super) pulls: BTreeMap<Ino, u64>,
    pub(super) pull_bytes: u64,
    /// Files cut to nothing: the record after their next write takes the data along.
    pub(super) rewrites: BTreeSet<Ino>,
    /// Inodes that an earlier run left to be freed or cut.
    pub(super) cleanups: Vec<Ino>,
    pub(super) next_ticket: u64,
    /// Home writes done, and how many of them were done when the last successful flush began.
    pub(super) home_epoch: u64,
    pub(super) flushed_epoch: u64,
    pub(super) generation: u32,
    pub(super) next_ino: u64,
    pub(super) next_seq: u64,
    /// Why nothing may be changed any more.
    pub(super) failed: Option<FsError>,
    #[cfg(test)]
    pub(super) rules: super::rules::Rules,
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

    /// Whether the next change has to wait for a seal: a record must leave room for those beside it.
    pub(super) fn is_record_full(&self) -> bool {
        self.txn.bytes() + self.pull_bytes > self.ring.record_max() / 2
    }

    /// Bytes that the open record may still take: half of the largest in all, and seven eighths with pulled data.
    pub(super) fn record_room(&self, pulled: bool) -> u64 {
        let max = self.ring.record_max();
        let (limit, taken) = if pulled { (max / 8 * 7, 0) } else { (max / 2, self.pull_bytes) };
        limit.saturating_sub(self.txn.bytes() + taken)
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

    #[cfg(test)]
    pub(super) fn rules(&self) -> super::rules::Rules {
        self.rules
    }

    #[cfg(not(test))]
    pub(super) fn rules(&self) -> super::rules::Rules {
        super::rules::Rules::default()
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

    /// The content of `ino` changed in the record, now.
    pub(super) fn record_times(&mut self, ino: Ino, now: Time) -> Result<(), FsError> {
        self.writable()?;
        let mut change = Change::default();
        self.edit_inode(&mut change, ino, |rec| (rec.mtime, rec.ctime) = (now, now))?;
        self.apply(change);
        self.times_recorded(ino);
        Ok(())
    }

    /// The times of `ino` are in a record now.
    pub(super) fn times_recorded(&mut self, ino: Ino) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.times = None;
        }
    }

    /// Adds a change to the active overlay and to the open transaction.
    pub(super) fn apply(&mut self, change: Change) {
        let seq = self.open_seq();
        for (start, count) in change.allocs {
            LogOp::Alloc { start, count }.encode(&mut self.txn.ops);
            self.deltas.push(Delta { alloc: true, start, count });
        }
        for (table, key, slot) in change.overlay.drain() {
            LogOp::Set { table, key: &key, value: slot.as_deref() }.encode(&mut self.txn.ops);
            self.active.set(table, key, slot);
        }
        for (start, count) in change.frees {
            LogOp::Free { start, count }.encode(&mut self.txn.ops);
            self.forget_payload(start, count);
            self.freed(seq, start, count);
        }
    }

    /// Blocks leave a file by record `seq`.
    pub(super) fn freed(&mut self, seq: u64, start: BlockNo, count: u64) {
        self.deltas.push(Delta { alloc: false, start, count });
        #[cfg(test)]
        if self.rules.reuse_at_once {
            self.space.add(start.0, count, &|_| true);
            return;
        }
        self.space.free_later(seq, start, count);
    }

    /// Freed blocks need no content any more, neither in the next record nor home.
    pub(super) fn forget_payload(&mut self, start: BlockNo, count: u64) {
        let doomed: Vec<BlockNo> = self.owned.range(start..start.plus(count)).map(|(b, _)| *b).collect();
        for block in doomed {
            self.owned.remove(&block);
            self.txn.payload.remove(&block);
        }
    }

    /// New content of a block that goes through the log.
    pub(super) fn put_payload(&mut self, block: BlockNo, page: Page) {
        let seq = self.open_seq();
        self.txn.payload.insert(block, page.clone());
        self.owned.insert(block, Owned { seq, page });
    }

    /// Whether new content of the block must go through the log (line 6).
    pub(super) fn is_owned(&self, block: BlockNo) -> bool {
        #[cfg(test)]
        if self.rules.ignore_log_owned {
            return false;
        }
        self.owned.contains_key(&block)
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
    let (from, to) = (key_pair(dir, cookie.saturating_add(1)), key_pair(Ino(dir.0.saturating_add(1)), 0));
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
    layers.scan(
        TableId::Xattrs,
        &key_name(ino, b""),
        &key_name(Ino(ino.0.saturating_add(1)), b""),
        |key, _| {
            names.push(key[8..].to_vec());
            Ok(true)
        },
    )?;
    Ok(names)
}
