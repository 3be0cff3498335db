//! A target's way back: what it overwrites is saved by the image, and put back by order.
//!
//! Decides what is told about it. Does not know why the copy goes back. Invariants: everything that the peer sent
//! before is done first; when `WentBack` is delivered, what was put back is stable; a way back that failed is given up
//! before anything else may be written.

use crate::base::Digest;
use crate::image::{BackCursor, DiskError, ImageError, Overwrite};
use crate::node::{Event, Notice, Order, Token};
use crate::wire::{Kind, Run};

use super::core::Job;
use super::{Mirror, Payload, Worker};

/// Blocks of operations that share a flush of the undo log.
const AHEAD_BLOCKS_MAX: u64 = 1024;

impl Mirror {
    /// Runs an operation of the peer; tells if it made the image give up the way back.
    pub(super) fn keeping_old(
        &self,
        op: (Kind, Run, &Payload),
        act: impl FnOnce() -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        if !self.image.is_saving() {
            return act();
        }
        let unsaved = self.mutations.undo_skips_writes && matches!(op.0, Kind::Write | Kind::WriteFlush);
        if !self.mutations.undo_skips_writes {
            self.save_ahead(op)?;
        }
        if unsaved {
            self.image.switch_saving(false);
        }
        let done = act();
        if unsaved {
            self.image.switch_saving(true);
        }
        if !self.image.is_saving() {
            self.tell_of_undo();
        }
        done
    }

    /// Saves what this operation overwrites, and with it what those behind it will: they share the flush. Nobody but
    /// this worker changes a block of a target.
    fn save_ahead(&self, (kind, run, payload): (Kind, Run, &Payload)) -> Result<(), ImageError> {
        let mut ops = vec![(kind, run, payload.clone())];
        let mut blocks = run.count;
        {
            let core = self.lock();
            for job in &core.jobs[Worker::Apply as usize] {
                let Job::Apply { kind, run, payload, .. } = job else { break };
                blocks += run.count;
                if blocks > AHEAD_BLOCKS_MAX {
                    break;
                }
                ops.push((*kind, *run, payload.clone()));
            }
        }
        ops.retain(|(kind, run, _)| kind.writes() && run.count > 0);
        let digests: Vec<Vec<Digest>> = ops.iter().map(|(.., payload)| payload.digests()).collect();
        let overwrites: Vec<Overwrite<'_>> = ops
            .iter()
            .zip(&digests)
            .map(|((kind, run, _), digests)| {
                let discards = matches!(kind, Kind::Discard | Kind::CopyHole);
                Overwrite { first: run.first, count: run.count, new: (!discards).then_some(&digests[..]) }
            })
            .collect();
        self.image.save_ahead(&overwrites)
    }

    pub(super) fn tell_of_undo(&self) {
        if self.image.gave_undo_up() {
            self.env.order(Order::Tell(Notice::UndoGivenUp));
        }
    }

    pub(super) fn go_back(&self, token: Token) {
        match self.put_back() {
            Ok(()) if self.env.breathe().is_ok() => self.deliver(Event::WentBack { token }),
            Ok(()) | Err(ImageError::Disk(DiskError::Dead)) => {}
            Err(error) => {
                self.fault("the copy stays half overwritten", &error);
                match self.image.give_undo_up() {
                    Ok(()) | Err(ImageError::Disk(DiskError::Dead)) => {}
                    Err(error) => self.fault("the undo log could not be given up", &error),
                }
                self.tell_of_undo();
                self.deliver(Event::NoWayBack { token });
            }
        }
    }

    fn put_back(&self) -> Result<(), ImageError> {
        self.image.begin_going_back()?;
        let mut cursor = BackCursor::default();
        while let Some(runs) = self.image.next_to_put_back(&mut cursor)? {
            for old in runs {
                let halted = |_| ImageError::Disk(DiskError::Dead);
                let guard = self.lock_range(old.first, old.count).map_err(halted)?;
                let run = Run { first: old.first, count: old.count };
                let done = self.hot_received(run).and_then(|()| self.image.put_back(&guard, &old));
                self.unlock(guard);
                done?;
            }
            self.env.breathe().map_err(|_| ImageError::Disk(DiskError::Dead))?;
        }
        self.flush_received()
    }
}

#[cfg(test)]
#[path = "back_tests.rs"]
mod tests;
