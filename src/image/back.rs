//! Going back: what the undo log holds is put back, and the copy is what it was at its last consistent state.
//!
//! Decides what each block becomes. Who may do this, and when, others decide. Invariants: that the copy is going back
//! is stable before the first block changes, and stays so until a state without the mark of a target is stored, so that
//! a crash in between repeats it; a block is marked as differing, stable, before it is put back; whatever of the log
//! cannot be read makes its block unreadable, never something else.

use crate::base::{BlockNo, Digest, Pages};
use crate::format::{BLOCK, BlockRec, Old, UndoBatch, UndoHead, UndoStage};

use super::core::is_broken;
use super::{Image, ImageError, RangeGuard};

/// A digest that no content has: such a block is unreadable.
pub(super) const NO_CONTENT: Digest = Digest([0xff; 15]);

/// What a run of blocks becomes.
#[derive(Clone)]
pub enum OldContent {
    Unwritten,
    /// With one digest a block.
    Blocks(Pages, Vec<Digest>),
    Lost,
}

/// A run of blocks to be put back.
#[derive(Clone)]
pub struct OldRun {
    pub first: BlockNo,
    pub count: u64,
    pub content: OldContent,
}

/// Where the way back is.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackCursor {
    seq: u64,
    at: u64,
}

impl Image {
    /// From now on the copy is going back; stable on return. `NoWayBack` leaves everything as it is.
    pub fn begin_going_back(&self) -> Result<(), ImageError> {
        self.check_writable()?;
        let mut undo = self.undo_log();
        let refused = |why| Err(ImageError::NoWayBack { why });
        match undo.head.stage {
            UndoStage::None => return refused("it has no earlier state: nothing was saved"),
            UndoStage::GivenUp => return refused("there was no room for what it overwrote"),
            UndoStage::Saving | UndoStage::GoingBack => {}
        }
        if let Some(why) = undo.damage {
            return refused(why);
        }
        if undo.head.stage == UndoStage::Saving {
            // Every batch is found before the first block changes.
            let (mut at, mut seq) = (0, 0);
            while let Some(batch) = self.read_batch(undo.head.id, seq, at)? {
                (at, seq) = (at + batch.bytes(), seq + 1);
            }
            if seq < undo.seq {
                undo.damage = Some("a part of what it overwrote is damaged");
                return refused("a part of what it overwrote is damaged");
            }
            let head = UndoHead { stage: UndoStage::GoingBack, ..undo.head };
            self.store_undo_head(&mut undo, head)?;
            undo.put_back = 0;
            self.saving.store(false, std::sync::atomic::Ordering::SeqCst);
        }
        Ok(())
    }

    /// The next runs to be put back, each within one extent, marked as differing, stable; none: all were given.
    pub fn next_to_put_back(&self, cursor: &mut BackCursor) -> Result<Option<Vec<OldRun>>, ImageError> {
        let (id, end) = {
            let undo = self.undo_log();
            (undo.head.id, undo.seq)
        };
        if cursor.seq >= end {
            return Ok(None);
        }
        let damaged = ImageError::NoWayBack { why: "a part of what it overwrote is damaged" };
        let batch = self.read_batch(id, cursor.seq, cursor.at)?.ok_or(damaged)?;
        let content = self.batch_content(&batch)?;
        let runs = runs(&batch, content.as_deref());
        if !is_broken("what is put back is marked before") {
            let ranges: Vec<(BlockNo, u64)> = runs.iter().map(|run| (run.first, run.count)).collect();
            self.mark_stable(&ranges)?;
        }
        self.undo_log().put_back += runs.iter().map(|run| run.count).sum::<u64>();
        *cursor = BackCursor { seq: cursor.seq + 1, at: cursor.at + batch.bytes() };
        Ok(Some(runs))
    }

    /// Puts a run back. The extent is hot and the caller holds the range.
    pub fn put_back(&self, guard: &RangeGuard, run: &OldRun) -> Result<(), ImageError> {
        match &run.content {
            OldContent::Unwritten => self.discard(guard, run.first, run.count),
            OldContent::Blocks(data, digests) => self.write(guard, run.first, data, digests),
            OldContent::Lost => {
                self.check_hot(run.first, run.count)?;
                let unreadable = (0..run.count).map(|_| BlockRec::Written(NO_CONTENT));
                self.core().set_blocks(run.first.0, unreadable).map(|_| ())
            }
        }
    }

    /// The way back is lost: the copy is half overwritten and stays so until a resync is over. Stable on return.
    pub fn give_undo_up(&self) -> Result<(), ImageError> {
        let mut undo = self.undo_log();
        match undo.head.stage {
            UndoStage::None | UndoStage::GivenUp => Ok(()),
            UndoStage::Saving | UndoStage::GoingBack => self.give_up(&mut undo),
        }
    }
}

/// The runs of a batch; entries without content that can be trusted are lost.
fn runs(batch: &UndoBatch, content: Option<&[u8]>) -> Vec<OldRun> {
    let mut out: Vec<OldRun> = Vec::new();
    let mut blocks = content.unwrap_or_default().chunks_exact(BLOCK as usize);
    for entry in &batch.entries {
        let (first, count) = (BlockNo(entry.first), u64::from(entry.count));
        let content = match (entry.old, content) {
            (Old::Unwritten, _) => OldContent::Unwritten,
            (Old::Lost, _) | (Old::Saved(_), None) => OldContent::Lost,
            (Old::Saved(digest), Some(_)) => {
                OldContent::Blocks(Pages::copy_of(blocks.next().unwrap_or_default()), vec![digest])
            }
        };
        push(&mut out, OldRun { first, count, content });
    }
    out
}

/// Adds a run, cut at the borders of extents, to the one before where it continues it.
fn push(out: &mut Vec<OldRun>, run: OldRun) {
    let end_of_extent = (run.first.extent().0 + 1) * crate::base::ExtentNo::BLOCKS;
    if run.first.0 + run.count > end_of_extent {
        let head = end_of_extent - run.first.0;
        let rest =
            OldRun { first: BlockNo(end_of_extent), count: run.count - head, content: run.content.clone() };
        push(out, OldRun { count: head, ..run });
        return push(out, rest);
    }
    let joins = out.last().is_some_and(|last| {
        last.first.0 + last.count == run.first.0 && last.first.extent() == run.first.extent()
    });
    match (out.last_mut().filter(|_| joins), &run.content) {
        (Some(OldRun { count, content: OldContent::Unwritten, .. }), OldContent::Unwritten)
        | (Some(OldRun { count, content: OldContent::Lost, .. }), OldContent::Lost) => *count += run.count,
        _ => out.push(run),
    }
}
