//! One block operation of a caller from lock to done on all members: `impl Blocks for Mirror`.

use crate::base::limits::SLICE_BYTES_MAX;
use crate::base::{BlockNo, ExtentNo, Pages};
use crate::image::{Blocks, BlocksError, FlushEpoch, ImageError, RangeGuard};
use crate::node::{Event, Mark, OpId, Refusal};
use crate::wire::{Kind, Run};

use super::core::{Op, Phase};
use super::{Halted, Key, Mirror, Payload};

/// Forced flushes before `make_hot` gives up: two confirm everything that was done before the first.
const SLOT_FLUSHES_MAX: u32 = 64;
const SLICE_BLOCKS: u64 = (SLICE_BYTES_MAX / BlockNo::SIZE) as u64;

impl From<Halted> for BlocksError {
    fn from(_: Halted) -> BlocksError {
        BlocksError::Stopped
    }
}

/// Why an operation on a locked range ended early.
pub(super) enum Undone {
    /// The activity log has no free slot before the members flushed.
    SlotsBusy,
    Failed(BlocksError),
}

impl<E: Into<BlocksError>> From<E> for Undone {
    fn from(error: E) -> Undone {
        Undone::Failed(error.into())
    }
}

fn busy_or(done: Result<(), ImageError>) -> Result<(), Undone> {
    match done {
        Err(ImageError::SlotsBusy) => Err(Undone::SlotsBusy),
        done => Ok(done?),
    }
}

impl Mirror {
    pub(super) fn lock_range(&self, first: BlockNo, count: u64) -> Result<RangeGuard, Halted> {
        let mut held = None;
        self.env.wait(Key::Locks, &mut || {
            held = self.image.try_lock(first, count);
            held.is_some()
        })?;
        held.ok_or(Halted)
    }

    pub(super) fn unlock(&self, guard: RangeGuard) {
        drop(guard);
        self.env.wake(Key::Locks);
    }

    fn check(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        let end = first.0.checked_add(count);
        if end.is_none_or(|end| end > self.image.block_count()) {
            return Err(BlocksError::OutOfRange { first, count });
        }
        Ok(())
    }

    /// Runs `body` under the interval lock of the range. When it finds every slot of the log busy, all members flush
    /// and it runs again; until then nothing may have been issued. The lock is not held meanwhile: a flush may wait for
    /// a copy that is being made, and that copy for these very blocks.
    fn locked<T>(
        &self,
        first: BlockNo,
        count: u64,
        mut body: impl FnMut(&RangeGuard) -> Result<T, Undone>,
    ) -> Result<T, BlocksError> {
        self.check(first, count)?;
        for _ in 0..SLOT_FLUSHES_MAX {
            let guard = self.lock_range(first, count)?;
            let left = self.has_left();
            let done = body(&guard);
            self.unlock(guard);
            match done {
                Ok(done) => return Ok(done),
                Err(Undone::Failed(error)) => {
                    self.notice_failure(&error);
                    if left || !self.has_left() {
                        return Err(error);
                    }
                    // It goes on with the peer's copy, and what failed can be done there.
                }
                Err(Undone::SlotsBusy) => self.flush()?,
            }
        }
        Err(BlocksError::Io("the activity log has no slot left although all members flushed".to_string()))
    }

    /// An image that stopped before anything was issued: the machine must know, or it serves on from a dead disk.
    fn notice_failure(&self, error: &BlocksError) {
        if *error != BlocksError::Stopped && self.image.failure().is_some() {
            self.disk_failed();
        }
    }

    /// The disk failed under no operation that the machine knows of.
    pub(super) fn disk_failed(&self) {
        let op = {
            let mut core = self.lock();
            core.next_op += 1;
            OpId(core.next_op - 1)
        };
        self.deliver(Event::LocalFailed { op });
    }

    /// Makes the extents hot, for the body of `locked`.
    pub(super) fn hot(&self, first: BlockNo, count: u64) -> Result<(), Undone> {
        if self.has_left() { Ok(()) } else { busy_or(self.image.make_hot(first, count)) }
    }

    /// Tells the machine about an operation; it may start at once or be held.
    fn issue(&self, kind: Kind, run: Run, payload: Payload) -> OpId {
        let op = {
            let mut core = self.lock();
            let op = OpId(core.next_op);
            core.next_op += 1;
            let entry = Op {
                kind,
                first: run.first,
                count: run.count,
                payload,
                phase: Phase::Issued,
                starts_before: 0,
                epoch_before: FlushEpoch::default(),
            };
            core.ops.insert(op, entry);
            op
        };
        self.deliver(Event::Issue { op, kind, first: run.first, count: run.count });
        self.env.send_now();
        op
    }

    fn phase_of(&self, op: OpId) -> Phase {
        self.lock().ops.get(&op).map_or(Phase::Failed(Refusal::Stopped), |found| found.phase)
    }

    /// Waits for the start, does the local part, reports it.
    fn local_part(&self, op: OpId, guard: Option<&RangeGuard>) -> Result<(), BlocksError> {
        let mut mark = None;
        self.env.wait(Key::Op(op.0), &mut || match self.phase_of(op) {
            Phase::Issued => false,
            Phase::Started(wanted) => {
                mark = Some(wanted);
                true
            }
            Phase::Complete | Phase::Failed(_) => true,
        })?;
        let Some(mark) = mark else { return Ok(()) };
        self.env.breathe()?;
        let done = self.execute_locally(op, guard, mark);
        self.env.breathe()?;
        match done {
            Ok(()) => self.deliver(Event::LocalDone { op }),
            Err(ImageError::Disk(crate::image::DiskError::Dead)) => return Err(BlocksError::Stopped),
            Err(error) => {
                self.deliver(Event::LocalFailed { op });
                if !self.has_left() {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn execute_locally(&self, op: OpId, guard: Option<&RangeGuard>, mark: Mark) -> Result<(), ImageError> {
        let (kind, run, payload) = {
            let mut core = self.lock();
            let Some(found) = core.ops.get(&op) else { return Ok(()) };
            let (kind, run) = (found.kind, Run { first: found.first, count: found.count });
            let payload = found.payload.clone();
            if kind.writes() {
                core.rot.written(run);
            }
            (kind, run, payload)
        };
        if self.has_left() {
            return Ok(());
        }
        if kind.writes() && mark != Mark::No && !self.mutations.no_solo_marks {
            self.image.mark(run.first, run.count)?;
            if mark == Mark::ToCopy && !self.mutations.no_copy_marks {
                self.image.mark_to_copy(run.first, run.count)?;
            }
        }
        let epoch = match (kind, guard) {
            (Kind::Write, Some(guard)) => {
                self.image.write(guard, run.first, payload.data(), &payload.digests())?;
                None
            }
            (Kind::WriteFlush, Some(guard)) => {
                Some(self.image.write_flush(guard, run.first, payload.data(), &payload.digests())?)
            }
            (Kind::Discard, Some(guard)) => {
                self.image.discard(guard, run.first, run.count)?;
                None
            }
            (Kind::Back, Some(guard)) => {
                self.image.back(guard, run.first.extent())?;
                None
            }
            _ => Some(self.image.flush()?),
        };
        if let Some(epoch) = epoch {
            self.note_epoch(op, epoch);
        }
        if self.mutations.evict_early && kind.writes() {
            let early = self.image.flush()?;
            self.image.confirm(early);
        }
        Ok(())
    }

    /// Remembers what the operation's local flush covers *and* precedes the operation in the stream: only that is
    /// covered by the members' flushes as well.
    fn note_epoch(&self, op: OpId, epoch: FlushEpoch) {
        let mut core = self.lock();
        let starts = core.starts;
        if let Some(found) = core.ops.get_mut(&op) {
            let own = u64::from(found.kind.writes());
            if starts == found.starts_before + own {
                found.epoch_before = epoch;
            }
        }
        core.last_epoch = core.last_epoch.max(epoch);
    }

    /// Waits until the machine acknowledges or refuses.
    fn finish(&self, op: OpId) -> Result<(), BlocksError> {
        let waited = self
            .env
            .wait(Key::Op(op.0), &mut || matches!(self.phase_of(op), Phase::Complete | Phase::Failed(_)));
        let found = self.lock().ops.remove(&op);
        waited?;
        match found {
            Some(Op { phase: Phase::Complete, kind, epoch_before, .. }) => {
                if kind.flushes() {
                    self.image.confirm(epoch_before);
                }
                Ok(())
            }
            Some(Op { phase: Phase::Failed(Refusal::LocalDisk), .. }) => {
                Err(BlocksError::Io("the local disk failed".to_string()))
            }
            _ => Err(BlocksError::Stopped),
        }
    }

    pub(super) fn perform(
        &self,
        kind: Kind,
        run: Run,
        payload: Payload,
        guard: Option<&RangeGuard>,
    ) -> Result<(), BlocksError> {
        let op = self.issue(kind, run, payload);
        let local = self.local_part(op, guard);
        let finished = self.finish(op);
        local.and(finished)
    }

    fn write_slices(&self, first: BlockNo, data: &[u8], last: Kind) -> Result<(), BlocksError> {
        let count = (data.len() / BlockNo::SIZE) as u64;
        if !data.len().is_multiple_of(BlockNo::SIZE) || count == 0 {
            return Err(BlocksError::OutOfRange { first, count });
        }
        let payload = |from: usize, to: usize| {
            Payload::blocks(Pages::copy_of(&data[from * BlockNo::SIZE..to * BlockNo::SIZE]))
        };
        self.write_payloads(Run { first, count }, &payload, last)
    }

    /// A write in slices that a commit record can overtake; the last one is of kind `last`. `payload` makes the slice
    /// of those blocks of the run.
    fn write_payloads(
        &self,
        run: Run,
        payload: &dyn Fn(usize, usize) -> Payload,
        last: Kind,
    ) -> Result<(), BlocksError> {
        let Run { first, count } = run;
        self.locked(first, count, |guard| {
            self.env.breathe()?;
            self.hot(first, count)?;
            let mut ops = Vec::with_capacity(count.div_ceil(SLICE_BLOCKS) as usize);
            for from in (0..count).step_by(SLICE_BLOCKS as usize) {
                let to = count.min(from + SLICE_BLOCKS);
                let kind = if to == count { last } else { Kind::Write };
                let slice = Run { first: first.plus(from), count: to - from };
                ops.push(self.issue(kind, slice, payload(from as usize, to as usize)));
            }
            let mut done = Ok(());
            for op in &ops {
                done = done.and(self.local_part(*op, Some(guard)));
            }
            let done = ops.into_iter().fold(done, |done, op| {
                let finished = self.finish(op);
                done.and(finished)
            });
            Ok(done?)
        })
    }
}

impl Blocks for Mirror {
    fn block_count(&self) -> u64 {
        self.image.block_count()
    }

    fn read(&self, first: BlockNo, out: &mut [u8]) -> Result<(), BlocksError> {
        let count = (out.len() / BlockNo::SIZE) as u64;
        if !out.len().is_multiple_of(BlockNo::SIZE) || count == 0 {
            return Err(BlocksError::OutOfRange { first, count });
        }
        self.locked(first, count, |guard| self.read_healing(guard, first, out))
    }

    fn write(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.write_slices(first, data, Kind::Write)
    }

    fn write_gathered(&self, first: BlockNo, blocks: &[&[u8]]) -> Result<(), BlocksError> {
        let count = blocks.len() as u64;
        if count == 0 || blocks.iter().any(|block| block.len() != BlockNo::SIZE) {
            return Err(BlocksError::OutOfRange { first, count });
        }
        let payload = |from: usize, to: usize| Payload::blocks(Pages::gathered(&blocks[from..to]));
        self.write_payloads(Run { first, count }, &payload, Kind::Write)
    }

    fn flush(&self) -> Result<(), BlocksError> {
        self.perform(Kind::Flush, Run { first: BlockNo(0), count: 0 }, Payload::default(), None)
    }

    fn write_flush(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.write_slices(first, data, Kind::WriteFlush)
    }

    fn discard(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        self.locked(first, count, |guard| {
            self.hot(first, count)?;
            Ok(self.perform(Kind::Discard, Run { first, count }, Payload::default(), Some(guard))?)
        })
    }

    fn back(&self, extent: ExtentNo) -> Result<(), BlocksError> {
        if self.is_backed(extent) {
            return Ok(());
        }
        let first = extent.first_block();
        let count = ExtentNo::BLOCKS.min(self.image.block_count().saturating_sub(first.0));
        self.locked(first, count, |guard| {
            // Here first: a full host disk is an answer, not a failed member.
            if !self.has_left() {
                self.image.back(guard, extent)?;
            }
            Ok(self.perform(Kind::Back, Run { first, count }, Payload::default(), Some(guard))?)
        })
    }

    fn is_backed(&self, extent: ExtentNo) -> bool {
        self.image.is_backed(extent)
    }

    fn pin_hot(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        self.locked(first, count, |_| match self.has_left() {
            true => Ok(()),
            false => busy_or(self.image.pin_hot(first, count)),
        })
    }
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;
