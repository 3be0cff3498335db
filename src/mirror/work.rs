//! The three threads' work: what the peer sent, records, marks.

use crate::base::BlockNo;
use crate::format::State;
use crate::image::{DiskError, ImageError, RangeGuard};
use crate::node::{Event, Notice, Order, Token};
use crate::wire::{Kind, Run, Seq, Session};

use super::core::Job;
use super::{Key, Mirror, Payload, Worker};

/// Local flushes before a receiver gives up on a log without a free slot.
const SLOT_FLUSHES_MAX: u32 = 4;

impl Mirror {
    /// Does the worker's jobs until the environment halts.
    pub fn work(&self, worker: Worker) {
        loop {
            let mut job = None;
            let waited = self.env.wait(Key::Work(worker), &mut || {
                job = self.lock().jobs[worker as usize].pop_front();
                job.is_some()
            });
            match (waited, job) {
                (Ok(()), Some(job)) if self.env.breathe().is_ok() => self.run(job),
                _ => return,
            }
        }
    }

    fn run(&self, job: Job) {
        match job {
            Job::Apply { session, seq, kind, run, payload, mark } => {
                self.apply((session, seq), kind, run, &payload, mark);
            }
            Job::Mark { token, runs } => self.mark(token, &runs),
            Job::SendMarks { session, kind } => self.read_marks(session, kind),
            Job::AddDigests { session, extent, payload } => self.add_digests(session, extent, &payload),
            Job::AddMarks { session, runs, last } => self.add_marks(session, &runs, last),
            Job::StartCopy { session, kind, source } => self.start_copy(session, kind, source),
            Job::Compare { session, extent, last, payload } => self.compare(session, extent, last, &payload),
            Job::Copy { session, blocks } => self.read_to_copy(session, blocks),
            Job::Fetch { link, id, block } => self.answer_fetch(link, id, block),
            Job::Look { token, task, from } => self.look(token, task, from),
            Job::Check { link, id, first, count, hash } => self.answer_check(link, id, (first, count), hash),
            Job::Checked { id, upto, payload } => self.checked(id, upto, payload.as_ref()),
            Job::Order(order) => self.env.order(order),
            Job::Then(worker, job) => self.push(&mut self.lock(), worker, *job),
            Job::ClearMarks => {
                self.image.all_checked();
                if let Err(error) = self.image.clear_bits() {
                    self.fault("the marks could not be cleared", &error);
                }
            }
            Job::Grow { token, blocks, prepare } => self.grow(token, blocks, prepare),
            Job::GoBack { token } => self.go_back(token),
            Job::Keep { token } => self.keep(token),
            Job::Store { token, state } => self.store(token, &state),
        }
    }

    /// Tells the administrator about a failure that has no event of its own; a dead machine tells nothing.
    pub(super) fn fault(&self, what: &str, error: &ImageError) {
        if *error != ImageError::Disk(DiskError::Dead) {
            let text = format!("{what}: {error}");
            self.env.order(Order::Tell(Notice::Fault { text }));
        }
    }

    fn apply(&self, at: (Session, Seq), kind: Kind, run: Run, payload: &Payload, mark: bool) {
        let (session, seq) = at;
        if self.mutations.ack_before_apply {
            self.deliver(Event::Applied { session, seq });
        }
        let done = if kind.writes() || kind == Kind::Back {
            let Ok(guard) = self.lock_range(run.first, run.count) else { return };
            let done = self
                .keeping_old((kind, run, payload), || self.apply_locked(&guard, kind, run, payload, mark));
            self.unlock(guard);
            done
        } else {
            self.flush_received()
        };
        match done {
            Ok(()) if self.env.breathe().is_ok() && !self.mutations.ack_before_apply => {
                self.deliver(Event::Applied { session, seq });
                self.env.send_now();
            }
            Ok(()) | Err(ImageError::Disk(DiskError::Dead)) => {}
            Err(ImageError::NoSpace { .. }) if mark => self.deliver(Event::ApplyFull { session }),
            Err(error) => {
                self.fault("the peer's operation failed here", &error);
                self.deliver(Event::ApplyFailed { session, seq });
            }
        }
    }

    fn apply_locked(
        &self,
        guard: &RangeGuard,
        kind: Kind,
        run: Run,
        payload: &Payload,
        mark: bool,
    ) -> Result<(), ImageError> {
        if kind == Kind::Back {
            return self.image.back(guard, run.first.extent());
        }
        if kind == Kind::CopyHole
            && self.image.next_written(run.first)?.is_none_or(|next| next.0.0 >= run.first.0 + run.count)
        {
            return Ok(());
        }
        self.hot_received(run)?;
        if mark {
            self.image.mark(run.first, run.count)?;
            self.image.mark_to_copy(run.first, run.count)?;
        }
        self.lock().rot.written(run);
        match kind {
            Kind::Discard | Kind::CopyHole if self.mutations.keep_discarded => Ok(()),
            Kind::Discard | Kind::CopyHole => self.image.discard(guard, run.first, run.count),
            Kind::WriteFlush if !self.mutations.no_receiver_flush => {
                let digests = payload.digests();
                let epoch = self.image.write_flush(guard, run.first, payload.data(), &digests)?;
                self.flushed_received(epoch);
                Ok(())
            }
            _ => self.image.write(guard, run.first, payload.data(), &payload.digests()),
        }
    }

    /// The receiver's own log covers only its own digests: what it flushed itself may leave it. What the two copies
    /// may differ in is covered by the sender's log and window.
    pub(super) fn flush_received(&self) -> Result<(), ImageError> {
        if self.mutations.no_receiver_flush {
            return Ok(());
        }
        self.flushed_received(self.image.flush()?);
        Ok(())
    }

    fn flushed_received(&self, epoch: crate::image::FlushEpoch) {
        self.image.confirm(epoch);
        let mut core = self.lock();
        core.last_epoch = core.last_epoch.max(epoch);
    }

    /// Makes a range hot where every difference is covered by the sender or by stable marks: on a receiver, and on the
    /// source of a resync.
    pub(super) fn hot_received(&self, run: Run) -> Result<(), ImageError> {
        for _ in 0..SLOT_FLUSHES_MAX {
            match self.image.make_hot(run.first, run.count) {
                Err(ImageError::SlotsBusy) => self.flush_received()?,
                done => return done,
            }
        }
        Err(ImageError::SlotsBusy)
    }

    fn mark(&self, token: Token, runs: &[Run]) {
        if self.image.failure().is_some() {
            // The activity log holds all of it, and stays as it is.
            return;
        }
        let ranges: Vec<(BlockNo, u64)> = runs.iter().map(|run| (run.first, run.count)).collect();
        let done = runs
            .iter()
            .try_for_each(|run| self.image.mark_to_copy(run.first, run.count))
            .and_then(|()| self.image.mark_stable(&ranges));
        match done {
            Ok(()) => self.deliver(Event::Marked { token }),
            Err(ImageError::Disk(DiskError::Dead)) => {}
            Err(error) => {
                self.fault("what the peer may lack could not be noted", &error);
                self.deliver(Event::StoreFailed { token });
            }
        }
    }

    fn add_marks(&self, session: Session, runs: &[Run], last: bool) {
        let blocks = self.image.block_count();
        for run in runs {
            let count = run.count.min(blocks.saturating_sub(run.first.0));
            if count > 0
                && let Err(error) = self.image.mark_to_copy(run.first, count)
            {
                self.fault("the peer's marks could not be added", &error);
                return;
            }
        }
        if last && !self.lock().copy_map.is_spoilt(session) {
            self.deliver(Event::MarksAdded { session });
        }
    }

    fn grow(&self, token: Token, blocks: u64, prepare: bool) {
        let done = match prepare {
            true => self.image.prepare_growth(blocks).map(|_| ()),
            false => self.image.grow(blocks),
        };
        match done {
            Ok(()) => self.deliver(Event::Grown { token }),
            Err(ImageError::Disk(DiskError::Dead)) => {}
            Err(error) => self.deliver(Event::GrowFailed { token, text: error.to_string() }),
        }
    }

    fn keep(&self, token: Token) {
        match self.env.keep(&self.image) {
            Ok(at) if self.env.breathe().is_ok() => self.deliver(Event::Kept { token, at }),
            Err(text) if self.env.breathe().is_ok() => self.deliver(Event::NotKept { token, text }),
            _ => {}
        }
    }

    fn store(&self, token: Token, state: &State) {
        let version = state.record.map_or(0, |record| record.v);
        match self.image.store(state) {
            Ok(()) => {}
            Err(ImageError::Disk(DiskError::Dead)) => return,
            Err(error) => {
                self.fault("the record could not be stored", &error);
                return self.deliver(Event::StoreFailed { token });
            }
        }
        match self.env.note_version(version) {
            Ok(()) => {
                self.tell_of_undo();
                self.deliver(Event::Stored { token });
            }
            Err(text) => {
                self.env.order(Order::Tell(Notice::Fault { text }));
                self.deliver(Event::StoreFailed { token });
            }
        }
    }
}
