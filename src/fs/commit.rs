//! From memory to stable: writeback of dirty data, sealing of the open transaction, tickets.
//!
//! Decides which data go home and which ride in the record. Does not know what operations mean. Invariants: a mapping
//! enters the open transaction only when its data is home or payload of the same record (S1); fresh blocks written
//! home are flushed before the record that maps them (W4); one record in flight; a failed write or flush stops all
//! changes for good (U12).

use std::sync::Arc;

use crate::base::limits::SLICE_BYTES_MAX;
use crate::base::{BlockNo, Ino, PAGE};
use crate::format::{ChainHash, record_blocks, seal_record};
use crate::image::BlocksError;

use super::FsError;
use super::buffers::Sweep;
use super::checkpoint::Batch;
use super::core::{Change, Core, OpenTxn, Page};
use super::data::BLOCK;
use super::locks::lock;
use super::mapping::{MapHow, Piece, pieces};
use super::store::Store;

/// Contiguous dirty blocks from which on data goes home instead of into the record: 128 KiB.
pub(super) const LARGE: usize = 32;
/// Blocks moved in one step: some slices, so that they are on their way to all members at once. The lock is held for
/// each step, and whoever asks for something small waits for it: 2048 took up to 2.2 ms.
const BATCH: usize = 4 * SLICE_BYTES_MAX / PAGE;
/// Bytes of operations that mapping one run takes.
pub(super) const RUN_BYTES: u64 = 300;

/// A promise: when `commit` answers this or a later one, what was asked for is stable on every member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Data on its way home.
struct HomeRun {
    at: u64,
    start: BlockNo,
    pages: Vec<Page>,
    /// How the run has to be mapped once it is there, if it is not yet.
    remap: Option<MapHow>,
}

/// One step of a sweep over a file.
enum Step {
    /// These runs go home now; the sweep goes on behind them.
    Home(Vec<HomeRun>),
    /// Everything up to the cursor is in the open transaction.
    InTxn,
    /// The open transaction is as large as a record may be.
    Full,
    Clean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Done,
    /// Seal, then go on.
    Full,
}

impl Store {
    /// Asks for stability of what was done to `ino` (`None`: everything) so far. Give the ticket to whoever waits.
    /// `data_only` may leave out times; it never leaves out what reading needs.
    pub fn fsync_ticket(&self, ino: Option<Ino>, data_only: bool) -> Ticket {
        let mut core = self.core_write();
        match ino {
            Some(ino) => {
                core.wanted.insert(ino);
            }
            None => {
                let all: Vec<Ino> = core.files.keys().copied().collect();
                core.wanted.extend(all);
            }
        }
        // Overwrites change times only, and those cost no further flush: both kinds go the same way.
        let _ = data_only;
        core.next_ticket += 1;
        Ticket(core.next_ticket - 1)
    }

    /// Asks for stability of what nobody asked for. Much dirty data of one file is left to `writeback`, or whoever asks
    /// for something small next would wait for all of it (S1).
    pub fn ask_for_rest(&self) {
        let mut core = self.core_write();
        let Core { files, wanted, next_ticket, .. } = &mut *core;
        wanted.extend(files.iter().filter(|(_, file)| file.pages.len() < LARGE).map(|(ino, _)| *ino));
        *next_ticket += 1;
    }

    /// Makes everything asked for so far stable. Blocks; one caller at a time does the work for all.
    pub fn commit(&self) -> Result<Ticket, FsError> {
        let _one = lock(&self.committing);
        let (ticket, mut files) = {
            let mut core = self.core_write();
            core.writable()?;
            let mut wanted = std::mem::take(&mut core.wanted);
            if core.rules().drag_all {
                wanted.extend(core.files.keys());
            }
            (Ticket(core.next_ticket.saturating_sub(1)), wanted)
        };
        let mut sweep = Sweep::default();
        loop {
            if self.core_read().ring.is_tight() {
                self.empty_log()?;
            }
            {
                let mut chain = lock(&self.chain);
                self.settle_pulls()?; // Before what somebody waits for fills the record.
                while let Some(ino) = files.first().copied() {
                    if self.settle_file(ino, true, &mut sweep)? == Settled::Full {
                        break;
                    }
                    files.pop_first();
                    sweep = Sweep::default();
                }
                self.seal(&mut chain, Seal::Commit)?;
            }
            if self.core_read().ring.is_tight() {
                self.empty_log()?;
            }
            if files.is_empty() {
                return Ok(ticket);
            }
        }
    }

    /// Whether `writeback` has something worth doing at once.
    pub fn needs_writeback(&self) -> bool {
        let core = self.core_read();
        !core.cleanups.is_empty()
            || core.dirty_pages as u64 * BLOCK > self.options.dirty_bytes_max / 4
            || core.files.values().any(|file| file.pages.len() >= LARGE)
    }

    /// Sends dirty data home: large files, what was dirty already at the call before (call it every 50 ms to 1 s), or
    /// everything.
    pub fn writeback(&self, all: bool) -> Result<(), FsError> {
        let _one = lock(&self.writing_back);
        let due: Vec<Ino> = {
            let mut core = self.core_write();
            core.writable()?;
            let mut due = Vec::new();
            for (ino, file) in &mut core.files {
                if all || file.old || file.pages.len() >= LARGE {
                    due.push(*ino);
                }
                file.old = true;
            }
            due.sort();
            due
        };
        for ino in due {
            let mut sweep = Sweep::default();
            while self.settle_file(ino, false, &mut sweep)? == Settled::Full {
                self.commit()?;
            }
        }
        self.clean_orphans(64)?;
        self.back_ahead(2048)?;
        Ok(())
    }

    /// Everything so far stable, and data home.
    pub fn sync(&self) -> Result<(), FsError> {
        self.writeback(true)?;
        self.fsync_ticket(None, false);
        self.commit().map(|_| ())
    }

    /// One sweep over the dirty data of a file, or the rest of one.
    pub(super) fn settle_file(&self, ino: Ino, fsync: bool, sweep: &mut Sweep) -> Result<Settled, FsError> {
        loop {
            let _token = self.tokens.acquire(ino);
            let (step, size) = {
                let mut core = self.core_write();
                core.writable()?;
                let step = core.plan(ino, fsync, sweep)?;
                let size = core.size_in_place(ino, sweep, &step);
                if matches!(step, Step::InTxn | Step::Clean) {
                    core.settle_size(ino, size)?;
                }
                (step, size)
            };
            match step {
                Step::Clean => return Ok(Settled::Done),
                Step::Full => return Ok(Settled::Full),
                Step::InTxn => {}
                Step::Home(runs) => {
                    self.latch(self.write_home(&runs))?;
                    let mut core = self.core_write();
                    core.went_home(ino, &runs)?;
                    core.settle_size(ino, size)?;
                    drop(core); // The pages of `runs` are given back after the lock.
                }
            }
        }
    }

    /// Writes runs that lie behind each other on the image in one go, whatever places of the file they are for.
    fn write_home(&self, runs: &[HomeRun]) -> Result<(), BlocksError> {
        for near in runs.chunk_by(|one, next| one.start.plus(one.pages.len() as u64) == next.start) {
            let pages: Vec<&[u8]> = near.iter().flat_map(|run| &run.pages).map(|page| &page[..]).collect();
            self.blocks().write_gathered(near[0].start, &pages)?;
        }
        Ok(())
    }

    /// Seals the open transaction. The caller holds the chain; that is what makes it one record in flight.
    pub(super) fn seal(&self, chain: &mut ChainHash, why: Seal) -> Result<Option<Batch>, FsError> {
        let (txn, seq, ino, at, epoch, mut batch) = {
            let mut core = loop {
                self.settle_pulls()?;
                let core = self.core_write();
                core.writable()?;
                if !core.pull_is_due() {
                    break core;
                }
            };
            core.pulls.clear();
            core.pull_bytes = 0;
            if core.txn.is_empty() && why != Seal::Force {
                if why == Seal::Freeze {
                    return Ok(core.freeze(chain));
                }
                let (done, flushed) = (core.home_epoch, core.flushed_epoch);
                drop(core);
                if done > flushed {
                    self.latch(self.blocks().flush())?;
                    self.core_write().flushed_epoch = done;
                }
                return Ok(None);
            }
            let need = record_blocks(core.txn.ops.len(), core.txn.payload.len());
            let Some(at) = core.ring.place(need) else {
                let error = FsError::Io(format!("the log has no room for a record of {need} blocks"));
                core.failed = Some(error.clone());
                return Err(error);
            };
            let txn = std::mem::take(&mut core.txn);
            let seq = core.next_seq;
            core.next_seq += 1;
            core.ring.head = core.ring.after(at, need);
            let batch = if why == Seal::Freeze { core.freeze(chain) } else { None };
            (txn, seq, core.next_ino, at, core.home_epoch, batch)
        };
        let hash = self.write_record(&txn, seq, at, chain)?;
        self.mark.done(seq, ino);
        *chain = hash;
        if let Some(batch) = &mut batch {
            batch.hash = hash;
        }
        self.core_write().flushed_epoch = epoch;
        Ok(batch)
    }

    fn write_record(
        &self,
        txn: &OpenTxn,
        seq: u64,
        at: u64,
        chain: &ChainHash,
    ) -> Result<ChainHash, FsError> {
        let payload = txn.payload.iter().map(|(block, page)| (*block, &**page));
        let (record, hash) = seal_record(self.log_id, seq, chain, &txn.ops, payload);
        if txn.fresh && !self.rules().skip_fresh_flush {
            self.latch(self.blocks().flush())?;
        }
        self.latch(self.blocks().write_flush(BlockNo(self.ring_first + at), &record))?;
        Ok(hash)
    }

    /// Passes `result` on; a failure stops all changes.
    pub(super) fn latch<T>(&self, result: Result<T, BlocksError>) -> Result<T, FsError> {
        result.map_err(|error| {
            let error = FsError::from(error);
            self.core_write().failed.get_or_insert(error.clone());
            error
        })
    }
}

/// Why a record is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    /// Somebody waits.
    Commit,
    /// A checkpoint starts here.
    Freeze,
    /// Even an empty one.
    Force,
}

impl Core {
    /// Looks at the next dirty runs of the sweep: takes blocks for those without, puts into the open transaction what
    /// must go through the log, hands out the rest.
    fn plan(&mut self, ino: Ino, fsync: bool, sweep: &mut Sweep) -> Result<Step, FsError> {
        let runs = self.dirty_runs(ino, sweep);
        let pulled = sweep.pulled;
        let cursor = &mut sweep.at;
        if runs.is_empty() {
            return Ok(Step::Clean);
        }
        if self.record_room(sweep.pulled) == 0 {
            return Ok(Step::Full);
        }
        let tail = self.growing_tail(ino)?;
        let mut homes = Vec::new();
        let mut moved = false;
        'runs: for (first, len) in runs {
            let small = fsync && len < LARGE as u64;
            for (at, piece) in pieces(&self.layers(None), ino, first, first + len)? {
                for (at, piece, owned) in self.split_owned(at, piece, tail) {
                    if small || owned {
                        let fits = (self.record_room(pulled) / (BLOCK + 256)).min(piece.count());
                        if fits > 0 {
                            self.log_piece(ino, at, piece, fits)?;
                            moved = true;
                            *cursor = at + fits;
                        }
                        if fits < piece.count() {
                            break 'runs;
                        }
                    } else {
                        self.send_piece_home(ino, at, piece, &mut homes)?;
                        *cursor = at + piece.count();
                    }
                }
            }
        }
        Ok(match (homes.is_empty(), moved) {
            (false, _) => Step::Home(homes),
            (true, true) => Step::InTxn,
            (true, false) => Step::Full,
        })
    }

    /// The next runs of dirty blocks, a batch of them.
    fn dirty_runs(&self, ino: Ino, sweep: &mut Sweep) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let Some(file) = self.files.get(&ino) else { return runs };
        // In the worst case every block is a run of its own and costs this much in the record.
        let part = if sweep.pulled { 16 } else { 4 };
        let slices = if self.rules().no_slices { 4 * BATCH } else { BATCH };
        let batch = slices.min((self.ring.record_max() / part / RUN_BYTES) as usize);
        let last = file.pages.last_key_value().map_or(0, |(at, _)| at + 1);
        let (end, _) = *sweep.end.get_or_insert((last, file.size));
        for at in file.pages.range(sweep.at..end.max(sweep.at)).map(|(at, _)| *at).take(batch) {
            match runs.last_mut() {
                Some((first, len)) if *first + *len == at => *len += 1,
                _ => runs.push((at, 1)),
            }
        }
        runs
    }

    /// Splits a piece where blocks change between log-owned and not.
    fn split_owned(&self, at: u64, piece: Piece, tail: Option<u64>) -> Vec<(u64, Piece, bool)> {
        let Piece::Mapped { start, count, unwritten } = piece else { return vec![(at, piece, false)] };
        let mut parts: Vec<(u64, Piece, bool)> = Vec::new();
        for n in 0..count {
            let owned = self.is_owned(start.plus(n)) || tail == Some(at + n);
            match parts.last_mut() {
                Some((_, Piece::Mapped { count, .. }, known)) if *known == owned => *count += 1,
                _ => parts.push((at + n, Piece::Mapped { start: start.plus(n), count: 1, unwritten }, owned)),
            }
        }
        parts
    }

    fn log_piece(&mut self, ino: Ino, at: u64, piece: Piece, count: u64) -> Result<(), FsError> {
        let mut done = 0;
        while done < count {
            let (start, got, remap) = self.blocks_for(ino, at + done, piece, done, count - done)?;
            if let Some(how) = remap {
                let change = self.map(ino, at + done, got, start, how)?;
                self.apply(change);
            }
            for n in 0..got {
                let page = self.files.get_mut(&ino).and_then(|file| file.pages.remove(&(at + done + n)));
                if let Some(dirty) = page {
                    self.dirty_pages -= 1;
                    self.put_payload(start.plus(n), dirty.page);
                }
            }
            done += got;
        }
        Ok(())
    }

    fn send_piece_home(
        &mut self,
        ino: Ino,
        at: u64,
        piece: Piece,
        homes: &mut Vec<HomeRun>,
    ) -> Result<(), FsError> {
        let mut done = 0;
        while done < piece.count() {
            let (start, got, remap) = self.blocks_for(ino, at + done, piece, done, piece.count() - done)?;
            let range = at + done..at + done + got;
            let file = self.files.get(&ino);
            let pages =
                file.map(|file| file.pages.range(range).map(|(_, dirty)| dirty.page.clone()).collect());
            homes.push(HomeRun { at: at + done, start, pages: pages.unwrap_or_default(), remap });
            done += got;
        }
        Ok(())
    }

    /// The blocks that up to `want` file blocks from `at` (the `done`-th of `piece`) go to.
    fn blocks_for(
        &mut self,
        ino: Ino,
        at: u64,
        piece: Piece,
        done: u64,
        want: u64,
    ) -> Result<(BlockNo, u64, Option<MapHow>), FsError> {
        match piece {
            Piece::Mapped { start, unwritten, .. } => {
                Ok((start.plus(done), want, unwritten.then_some(MapHow::default())))
            }
            Piece::Hole { .. } => {
                let goal = self.goal_for(ino, at)?;
                let (start, got) = self.space.take(goal, want).ok_or(FsError::NoSpace)?;
                let file = self.files.get_mut(&ino);
                let mut promised = 0;
                for (_, dirty) in file.into_iter().flat_map(|file| file.pages.range_mut(at..at + got)) {
                    promised += u64::from(std::mem::take(&mut dirty.reserved));
                }
                self.space.unreserve(promised);
                Ok((start, got, Some(MapHow { fresh: true, unwritten: false })))
            }
        }
    }

    /// Data is done at home: maps it and forgets the buffers that did not change meanwhile.
    fn went_home(&mut self, ino: Ino, runs: &[HomeRun]) -> Result<(), FsError> {
        self.home_epoch += 1;
        for run in runs {
            if let Some(how) = run.remap {
                let change = self.map(ino, run.at, run.pages.len() as u64, run.start, how)?;
                self.apply(change);
                self.txn.fresh = true;
            }
            let Core { files, dirty_pages, .. } = &mut *self;
            let Some(file) = files.get_mut(&ino) else { continue };
            for (at, page) in (run.at..).zip(&run.pages) {
                if file.pages.get(&at).is_some_and(|dirty| Arc::ptr_eq(&dirty.page, page)) {
                    file.pages.remove(&at);
                    *dirty_pages -= 1;
                }
            }
        }
        Ok(())
    }

    /// How far the file may reach in the record once this step is done: as far as its data, and at the end of a sweep
    /// as far as it reached when the sweep began.
    fn size_in_place(&self, ino: Ino, sweep: &Sweep, step: &Step) -> u64 {
        let live = self.files.get(&ino).map_or(0, |file| file.size);
        let begun = sweep.end.filter(|_| matches!(step, Step::Clean)).map_or(0, |(_, size)| size);
        live.min(sweep.at.saturating_mul(BLOCK).max(begun))
    }

    /// Lets the recorded size and times follow the data, which is in place up to byte `done`.
    fn settle_size(&mut self, ino: Ino, done: u64) -> Result<(), FsError> {
        let Some(file) = self.files.get(&ino) else { return Ok(()) };
        let (clean, live, times) = (file.pages.is_empty(), file.size, file.times);
        let Some(rec) = self.recorded_inode(&self.layers(None), ino)? else { return Ok(()) };
        let size = if clean { live } else { rec.size.max(live.min(done)) };
        let size = if self.rules().size_ahead { live } else { size };
        if size != rec.size || times.is_some() {
            let mut change = Change::default();
            self.edit_inode(&mut change, ino, |rec| {
                rec.size = size;
                if let Some(time) = times {
                    (rec.mtime, rec.ctime) = (time, time);
                }
            })?;
            self.apply(change);
        }
        if clean {
            self.files.remove(&ino);
        } else {
            self.times_recorded(ino);
        }
        Ok(())
    }
}
