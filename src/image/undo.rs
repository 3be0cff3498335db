//! What a resync overwrites is kept: the first overwrite of every block since the last consistent state saves what the
//! block held, whether by resync, by a replicated write or by a discard.
//!
//! Decides which content is saved and when that is given up. The log lies in the undo area, one batch after the other,
//! and each is flushed before the overwrite that it belongs to is issued. Does not know what a resync is for.
//! Invariants: while the log is `Saving`, no block is overwritten whose content is not stable in it; a batch whose
//! flush did not return belongs to overwrites that were never issued. A header of the newest batch that rots is taken
//! for one that a crash cut: the one loss that is not noticed.
//!
//! Order of locks: a range, then the undo log (held over I/O), then the metadata lock.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use crate::base::{BlockNo, Digest, FastSet, Pages};
use crate::format::{
    BLOCK, BlockRec, Old, ResyncMark, State, UNDO_ENTRIES_MAX, UndoBatch, UndoEntry, UndoHead, UndoStage,
};

use super::bits::Bitmap;
use super::core::is_broken;
use super::{DiskError, Image, ImageError, UndoView};

/// Blocks of the longest batch.
const BATCH_BLOCKS_MAX: u64 = 2 + UNDO_ENTRIES_MAX as u64;

/// The log as far as it is known in memory.
pub(super) struct Undo {
    pub head: UndoHead,
    /// What these blocks held is in the log.
    pub saved: Bitmap,
    /// Where the next batch goes in the area, and its number.
    pub next: u64,
    pub seq: u64,
    /// Blocks that are put back already.
    pub put_back: u64,
    /// Why the log cannot be used.
    pub damage: Option<&'static str>,
    /// Given up since this was last asked.
    gave_up: bool,
}

impl Undo {
    pub fn new(head: UndoHead, blocks: u64) -> Undo {
        let saved = Bitmap::new(blocks);
        Undo { head, saved, next: 0, seq: 0, put_back: 0, damage: None, gave_up: false }
    }

    /// The head that belongs to a state about to be stored under the sequence number `seq`.
    fn head_for(&self, before: ResyncMark, state: &State, seq: u64, room: u64) -> UndoHead {
        match (before, state.resync) {
            (_, ResyncMark::None) => UndoHead::default(),
            (ResyncMark::Target { .. }, ResyncMark::Target { .. }) => self.head,
            // A blank copy has no state to go back to.
            (ResyncMark::None, _) if state.gens.is_empty() => UndoHead::default(),
            (ResyncMark::None, _) if room == 0 => UndoHead { id: seq, stage: UndoStage::GivenUp },
            (ResyncMark::None, _) => UndoHead { id: seq, stage: UndoStage::Saving },
        }
    }
}

/// Blocks about to be overwritten with these contents, or discarded.
#[derive(Clone, Copy, Debug)]
pub struct Overwrite<'a> {
    pub first: BlockNo,
    pub count: u64,
    /// One digest a block; `None`: a discard.
    pub new: Option<&'a [Digest]>,
}

/// What is to be saved before an operation: entries, and the content of the `Saved` ones in their order.
struct Olds {
    entries: Vec<UndoEntry>,
    content: Pages,
}

impl Image {
    pub(super) fn undo_log(&self) -> MutexGuard<'_, Undo> {
        self.undo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the undo log is.
    pub fn undo(&self) -> UndoView {
        let undo = self.undo_log();
        UndoView {
            stage: undo.head.stage,
            blocks: undo.saved.count(),
            put_back: undo.put_back,
            used_bytes: undo.next,
            room_bytes: self.geometry.undo_bytes,
            damage: undo.damage,
        }
    }

    /// True once after the undo log ran out of room and was given up.
    pub fn gave_undo_up(&self) -> bool {
        std::mem::take(&mut self.undo_log().gave_up)
    }

    /// What is overwritten is saved first.
    pub fn is_saving(&self) -> bool {
        self.saving.load(Ordering::SeqCst)
    }

    /// For tests of the tests: the log is not flushed.
    #[doc(hidden)]
    pub fn leave_undo_volatile(&self) {
        self.undo_volatile.store(true, Ordering::SeqCst);
    }

    /// For tests of the tests: switched off, nothing is saved.
    #[doc(hidden)]
    pub fn switch_saving(&self, on: bool) {
        let saving = self.undo_log().head.stage == UndoStage::Saving;
        self.saving.store(on && saving, Ordering::SeqCst);
    }

    /// Stores the state: stable and read back on return. A failure latches: nothing is written afterwards. With the
    /// mark of a resync's target the undo log begins, without it it ends.
    pub fn store(&self, state: &State) -> Result<(), ImageError> {
        self.check_writable()?;
        if state.resync != ResyncMark::None && self.core().state.resync == ResyncMark::None {
            // The state to go back to is one that a crash leaves as it is.
            self.flush()?;
        }
        let mut undo = self.undo_log();
        let mut meta = self.meta();
        let before = self.core().state.resync;
        let head = undo.head_for(before, state, meta.slot_seq + 1, self.geometry.undo_bytes);
        meta.undo = head;
        let groups = meta.groups.clone();
        self.write_superblock(&mut meta, state.clone(), groups)?;
        self.core().state = state.clone();
        drop(meta);
        if head != undo.head {
            self.turn_over(&mut undo, head)?;
        }
        Ok(())
    }

    /// Another log counts from now on, or none.
    fn turn_over(&self, undo: &mut Undo, head: UndoHead) -> Result<(), ImageError> {
        let used = std::mem::replace(undo, Undo::new(head, self.geometry.block_count())).next;
        undo.gave_up = head.stage == UndoStage::GivenUp;
        self.saving.store(head.stage == UndoStage::Saving, Ordering::SeqCst);
        if head.stage == UndoStage::None && used > 0 {
            match self.disk.punch(self.geometry.undo, used) {
                // A medium that cannot give space back keeps it: nothing reads it.
                Ok(()) | Err(DiskError::Io(_) | DiskError::Full) => {}
                Err(DiskError::Dead) => return Err(DiskError::Dead.into()),
            }
        }
        Ok(())
    }

    /// Before blocks are overwritten (`new`: with these contents) or discarded: what they hold is stable on return, or
    /// was saved before, or the undo log is given up. The caller holds the range.
    pub(super) fn save_old(
        &self,
        first: BlockNo,
        count: u64,
        new: Option<&[Digest]>,
    ) -> Result<(), ImageError> {
        if !self.saving.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.save(&[Overwrite { first, count, new }])
    }

    /// The same for several operations that follow each other, so that they share their flushes. Of all of them only if
    /// the first one needs it. Nobody else may change these blocks before they are carried out.
    pub fn save_ahead(&self, ops: &[Overwrite<'_>]) -> Result<(), ImageError> {
        ops.iter().try_for_each(|op| self.check_range(op.first, op.count))?;
        self.save(ops)
    }

    fn save(&self, ops: &[Overwrite<'_>]) -> Result<(), ImageError> {
        let mut undo = self.undo_log();
        if undo.head.stage != UndoStage::Saving || undo.damage.is_some() {
            return Ok(());
        }
        let olds = self.olds(&undo, ops)?;
        let mut at = 0;
        for entries in olds.entries.chunks(UNDO_ENTRIES_MAX) {
            let len = entries.iter().filter(|entry| matches!(entry.old, Old::Saved(_))).count();
            let content = &olds.content[at..at + len * BLOCK as usize];
            at += content.len();
            match self.append(&mut undo, entries, content) {
                Err(ImageError::NoWayBack { .. }) => return self.give_up(&mut undo),
                done => done?,
            }
        }
        Ok(())
    }

    fn olds(&self, undo: &Undo, ops: &[Overwrite<'_>]) -> Result<Olds, ImageError> {
        let mut entries: Vec<UndoEntry> = Vec::new();
        let mut seen: FastSet<u64> = FastSet::default();
        for op in ops {
            self.add_olds(undo, op, &mut seen, &mut entries)?;
            if entries.is_empty() {
                break;
            }
            if ops.len() > 1 {
                seen.extend(op.first.0..op.first.0 + op.count);
            }
        }
        let content = self.read_olds(&mut entries)?;
        Ok(Olds { entries, content })
    }

    /// Entries for the blocks of one operation that are in the log neither as yet nor through `seen`.
    fn add_olds(
        &self,
        undo: &Undo,
        op: &Overwrite<'_>,
        seen: &mut FastSet<u64>,
        entries: &mut Vec<UndoEntry>,
    ) -> Result<(), ImageError> {
        let recs = self.recs(op.first, op.count)?;
        for ((index, rec), block) in recs.iter().enumerate().zip(op.first.0..) {
            let written = op.new.and_then(|new| new.get(index));
            let old = match (rec, written) {
                _ if undo.saved.has(BlockNo(block)) || seen.contains(&block) => continue,
                (BlockRec::Unwritten, None) => continue,
                (BlockRec::Unwritten, Some(_)) => Old::Unwritten,
                // The same content once more is no overwrite.
                (BlockRec::Written(digest), Some(new)) if new == digest => continue,
                (BlockRec::Written(digest), _) => Old::Saved(*digest),
                (BlockRec::Unknown, _) => Old::Saved(Digest::default()),
            };
            match entries.last_mut() {
                Some(last)
                    if old == Old::Unwritten
                        && last.old == old
                        && last.first + u64::from(last.count) == block =>
                {
                    last.count += 1;
                }
                _ => entries.push(UndoEntry { first: block, count: 1, old }),
            }
        }
        Ok(())
    }

    /// The content of the entries that have one. A block that cannot be read is lost; one whose digest a crash left in
    /// doubt is what its content is, as for a mount that no peer can tell.
    fn read_olds(&self, entries: &mut [UndoEntry]) -> Result<Pages, ImageError> {
        let mut content = Vec::new();
        let mut block = Pages::zeroed(1);
        for entry in entries.iter_mut() {
            let Old::Saved(digest) = entry.old else { continue };
            let number = BlockNo(entry.first);
            match self.disk.read_at(self.geometry.block_at(number.0), &mut block) {
                Err(DiskError::Io(_)) => {
                    entry.old = Old::Lost;
                    continue;
                }
                done => done?,
            }
            let found = Digest::of(&block);
            if found != digest && self.is_suspect(number) {
                entry.old = Old::Saved(found);
            }
            content.extend_from_slice(&block);
        }
        Ok(Pages::copy_of(&content))
    }

    /// One more batch, stable on return; `NoWayBack` without room for it.
    fn append(&self, undo: &mut Undo, entries: &[UndoEntry], content: &[u8]) -> Result<(), ImageError> {
        let batch = UndoBatch {
            id: undo.head.id,
            seq: undo.seq,
            at: undo.next,
            entries: entries.to_vec(),
            content: UndoBatch::content_hash(self.salt, content),
        };
        let full = || ImageError::NoWayBack { why: "there was no room for what it overwrote" };
        let bytes = batch.bytes();
        if undo.next + bytes > self.geometry.undo_bytes {
            return Err(full());
        }
        let mut out = batch.encode(self.salt);
        out.extend_from_slice(content);
        match self.disk.write_at(self.geometry.undo + undo.next, &Pages::copy_of(&out)) {
            Err(DiskError::Full) => return Err(full()),
            done => self.latch("writing the undo log", done)?,
        }
        if !is_broken("undo is stable before the overwrite") && !self.undo_volatile.load(Ordering::SeqCst) {
            self.latch("flush", self.disk.flush())?;
        }
        (undo.next, undo.seq) = (undo.next + bytes, undo.seq + 1);
        for entry in entries {
            undo.saved.put(BlockNo(entry.first), entry.count.into(), true);
        }
        Ok(())
    }

    /// The copy cannot go back from now on; stable on return.
    pub(super) fn give_up(&self, undo: &mut Undo) -> Result<(), ImageError> {
        let head = UndoHead { stage: UndoStage::GivenUp, ..undo.head };
        self.store_undo_head(undo, head)?;
        self.turn_over(undo, head)
    }

    pub(super) fn store_undo_head(&self, undo: &mut Undo, head: UndoHead) -> Result<(), ImageError> {
        let mut meta = self.meta();
        meta.undo = head;
        let (state, groups) = (self.core().state.clone(), meta.groups.clone());
        self.write_superblock(&mut meta, state, groups)?;
        undo.head = head;
        Ok(())
    }

    /// The batch of this number and place, if it is one of this log.
    pub(super) fn read_batch(&self, id: u64, seq: u64, at: u64) -> Result<Option<UndoBatch>, ImageError> {
        let room = self.geometry.undo_bytes;
        if at + BLOCK > room {
            return Ok(None);
        }
        let mut bytes = Pages::zeroed(1);
        self.disk.read_at(self.geometry.undo + at, &mut bytes)?;
        let Some(len) = UndoBatch::header_len(&bytes, id, seq, at).filter(|len| at + len <= room) else {
            return Ok(None);
        };
        if len > BLOCK {
            bytes = Pages::zeroed((len / BLOCK) as usize);
            self.disk.read_at(self.geometry.undo + at, &mut bytes)?;
        }
        let batch = UndoBatch::decode(&bytes, self.salt, self.geometry.block_count()).ok();
        Ok(batch.filter(|batch| at + batch.bytes() <= room))
    }

    /// The content of a batch; `None` if it is not what was written.
    pub(super) fn batch_content(&self, batch: &UndoBatch) -> Result<Option<Pages>, ImageError> {
        let mut content = Pages::zeroed(batch.saved() as usize);
        let at = self.geometry.undo + batch.at + UndoBatch::header_bytes(batch.entries.len());
        if !content.is_empty() {
            self.disk.read_at(at, &mut content)?;
        }
        Ok((UndoBatch::content_hash(self.salt, &content) == batch.content).then_some(content))
    }

    /// Finds the log as an earlier process left it.
    pub(super) fn load_undo(&self, head: UndoHead) -> Result<(), ImageError> {
        let mut undo = Undo::new(head, self.geometry.block_count());
        if matches!(head.stage, UndoStage::Saving | UndoStage::GoingBack) {
            let mut last = None;
            while let Some(batch) = self.read_batch(head.id, undo.seq, undo.next)? {
                for entry in &batch.entries {
                    undo.saved.put(BlockNo(entry.first), entry.count.into(), true);
                }
                (undo.next, undo.seq) = (undo.next + batch.bytes(), undo.seq + 1);
                last = Some(batch);
            }
            if self.goes_on_behind(&undo)? {
                undo.damage = Some("a part of what it overwrote is damaged");
            }
            if let Some(batch) = last
                && self.batch_content(&batch)?.is_none()
            {
                self.settle_last(&mut undo, &batch)?;
            }
        }
        self.saving.store(head.stage == UndoStage::Saving, Ordering::SeqCst);
        *self.undo_log() = undo;
        Ok(())
    }

    /// Whether the end that was found is none: the batch after a damaged one begins where that one ends.
    fn goes_on_behind(&self, undo: &Undo) -> Result<bool, ImageError> {
        for blocks in 1..=BATCH_BLOCKS_MAX {
            let at = undo.next + blocks * BLOCK;
            if self.read_batch(undo.head.id, undo.seq + 1, at)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The content of the newest batch is damaged. If a crash cut it, nothing that it names was overwritten, and it
    /// counts for nothing; else what it held is lost.
    fn settle_last(&self, undo: &mut Undo, batch: &UndoBatch) -> Result<(), ImageError> {
        for entry in &batch.entries {
            if !self.is_as_saved(entry)? {
                return Ok(());
            }
        }
        (undo.next, undo.seq) = (batch.at, batch.seq);
        for entry in &batch.entries {
            undo.saved.put(BlockNo(entry.first), entry.count.into(), false);
        }
        Ok(())
    }

    /// The blocks are still what the entry says that they were.
    fn is_as_saved(&self, entry: &UndoEntry) -> Result<bool, ImageError> {
        let first = BlockNo(entry.first);
        let recs = self.recs(first, entry.count.into())?;
        let Old::Saved(digest) = entry.old else {
            return Ok(entry.old == Old::Lost || recs.iter().all(|rec| *rec == BlockRec::Unwritten));
        };
        let mut block = Pages::zeroed(1);
        let read = self.disk.read_at(self.geometry.block_at(first.0), &mut block);
        Ok(read.is_ok() && recs == [BlockRec::Written(digest)] && Digest::of(&block) == digest)
    }
}
