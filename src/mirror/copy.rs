//! The source's side of a resync (and both sides of a comparison): what to read next, what is under way.
//!
//! Does not know why a resync runs or how fast it may. Invariants: a block under way is not read again until it is
//! stable on the target or the session ended; its *to copy* bit stays until then.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{BlockNo, Digest, ExtentNo, Pages};
use crate::image::{BlocksError, ImageError, RangeGuard};
use crate::node::{Event, LinkId, Notice, OpId, Order};
use crate::wire::{CopyKind, Kind, Message, Run, Seq, Session};

use super::core::{CopyRead, Core, Op, Phase};
use super::{Mirror, Payload};

/// Blocks in one `CopyRead`.
const RUN_BLOCKS_MAX: u64 = 256;

/// Runs in one `MarksRead`: well below a frame.
const RUNS_AT_ONCE: usize = 1024;
/// An extent with more marked blocks is told by its digests, which weigh as much as four blocks: after a crash all
/// blocks of a hot extent are marked, and few differ.
const MARKS_BY_DIGEST: u64 = 8;
/// A digest that no content has: always differs.
const NO_CONTENT: Digest = Digest([0xff; 15]);

/// Where the scan is, and what is under way.
#[derive(Default)]
pub(super) struct CopyMap {
    session: Option<Session>,
    cursor: u64,
    /// first -> end of runs read or sent and not yet stable on the target.
    under_way: BTreeMap<u64, u64>,
    /// Comparison: the next extent that the target has not mentioned.
    compared: u64,
    /// Comparison: the target's list is complete, and the machine asked for the map.
    list_ended: bool,
    asked: bool,
    /// Digests that the target sent for its marks could not be compared: they stand for marks that are not known.
    spoilt: bool,
    /// The target of a comparison: what was read and waits to be sent.
    digests: Option<(ExtentNo, Payload)>,
    /// Blocks whose trouble was told.
    told: BTreeSet<BlockNo>,
}

/// What became of the next run to copy.
enum Found {
    Read,
    Locked,
    Unreadable,
    /// The session or the node ended.
    Over,
}

impl CopyMap {
    /// The state of this session; whatever an earlier session left is forgotten.
    fn of(&mut self, session: Session) -> &mut CopyMap {
        if self.session != Some(session) {
            *self = CopyMap { session: Some(session), ..CopyMap::default() };
        }
        self
    }

    /// The machine began a session: nothing of an earlier one counts.
    pub(super) fn begin(&mut self, session: Session) {
        self.of(session).asked = true;
    }

    /// The machine speaks of this session: work of an earlier one finds nothing any more.
    pub(super) fn touch(&mut self, session: Session) {
        self.of(session);
    }

    pub(super) fn is_spoilt(&self, session: Session) -> bool {
        self.session == Some(session) && self.spoilt
    }

    fn current(&mut self, session: Session) -> Option<&mut CopyMap> {
        (self.session == Some(session)).then_some(self)
    }

    /// The part of `first..end` before the next run under way; empty if `first` is under way itself.
    fn free_part(&self, first: u64, end: u64) -> (u64, u64) {
        if let Some((_, held)) = self.under_way.range(..=first).next_back().filter(|(_, held)| **held > first)
        {
            return (*held, (*held).max(end));
        }
        let next = self.under_way.range(first..end).next().map_or(end, |(next, _)| *next);
        (first, next)
    }

    fn finished(&mut self, run: Run) {
        let end = run.first.0 + run.count;
        let touching: Vec<(u64, u64)> = self
            .under_way
            .range(..end)
            .filter(|(_, held)| **held > run.first.0)
            .map(|(first, held)| (*first, *held))
            .collect();
        for (first, held) in touching {
            self.under_way.remove(&first);
            if first < run.first.0 {
                self.under_way.insert(first, run.first.0);
            }
            if held > end {
                self.under_way.insert(end, held);
            }
        }
    }
}

impl Mirror {
    pub(super) fn send_copy(&self, core: &mut Core, op: OpId, link: LinkId, session: Session, seq: Seq) {
        let Some(read) = core.copies.remove(&op) else { return };
        let kind = if read.hole { Kind::CopyHole } else { Kind::Copy };
        let message = Message::Op { session, seq, kind, first: read.run.first, count: read.run.count };
        self.env.send(link, message, read.payload);
        self.unlock(read.guard);
    }

    pub(super) fn drop_copy(&self, core: &mut Core, op: OpId) {
        if let Some(read) = core.copies.remove(&op) {
            core.copy_map.finished(read.run);
            self.unlock(read.guard);
        }
    }

    pub(super) fn copied(&self, core: &mut Core, run: Run) {
        core.copy_map.finished(run);
        self.image.copied(run.first, run.count);
    }

    pub(super) fn start_copy(&self, session: Session, kind: CopyKind, source: bool) {
        let done = match (kind, source) {
            (CopyKind::Full, true) => self.image.start_copy(true),
            (CopyKind::Compare, false) => return self.send_digests(session),
            (CopyKind::Compare, true) if !self.lock().copy_map.list_ended => return,
            _ => Ok(()),
        };
        match done {
            Ok(()) => self.deliver(Event::CopyReady { session, total: self.image.to_copy_blocks() }),
            Err(error) => self.fault("the resync could not start", &error),
        }
    }

    /// Finds, locks and reads one run of at most `blocks` blocks, going round the map once.
    pub(super) fn read_to_copy(&self, session: Session, blocks: u64) {
        let Some(start) = self.lock().copy_map.current(session).map(|map| map.cursor) else { return };
        let mut busy = 0u64;
        for (mut from, end) in [(start, self.image.block_count()), (0, start)] {
            while from < end {
                let Some((first, count)) = self.image.next_to_copy(BlockNo(from)) else { break };
                if first.0 >= end {
                    break;
                }
                let stop = (first.0 + count).min(end);
                let (part, part_end) = self.lock().copy_map.free_part(first.0, stop);
                if part > first.0 {
                    from = part;
                    continue;
                }
                let run = Run { first, count: (part_end - part).min(blocks).min(RUN_BLOCKS_MAX) };
                let one = Run { first, count: 1 };
                let mut found = self.read_run(session, run);
                if matches!(found, Found::Locked) && run.count > 1 {
                    found = self.read_run(session, one);
                }
                match found {
                    Found::Read | Found::Over => return,
                    Found::Locked if self.is_being_written(first) => busy = busy.saturating_add(1),
                    // Nothing will bring this one to the target but a copy: no end before it.
                    Found::Locked | Found::Unreadable => busy = u64::MAX,
                }
                from = first.0 + 1;
            }
        }
        self.deliver(Event::CopyExhausted { session, busy });
    }

    /// Whether a started operation is about to give the block a new content, on the target as well.
    fn is_being_written(&self, block: BlockNo) -> bool {
        let core = self.lock();
        let covers = |op: &Op| op.first <= block && block.0 < op.first.0 + op.count;
        core.ops.values().any(|op| op.kind.writes() && matches!(op.phase, Phase::Started(_)) && covers(op))
    }

    /// Reads the beginning of a run: blocks that are all written or all not.
    fn read_run(&self, session: Session, run: Run) -> Found {
        let Some(guard) = self.image.try_lock(run.first, run.count) else { return Found::Locked };
        let read = self.read_locked(&guard, run);
        let (count, hole, payload) = match read {
            Ok(read) => read,
            Err(error) => {
                self.unlock(guard);
                return self.unreadable(run, &error);
            }
        };
        let run = Run { first: run.first, count };
        let op = {
            let mut core = self.lock();
            if core.copy_map.session != Some(session) {
                drop(core);
                self.unlock(guard);
                return Found::Over;
            }
            let op = OpId(core.next_op);
            core.next_op += 1;
            core.copy_map.under_way.insert(run.first.0, run.first.0 + count);
            core.copy_map.cursor = run.first.0 + count;
            core.copies.insert(op, CopyRead { guard, run, hole, payload });
            op
        };
        self.deliver(Event::CopyRead { op, first: run.first, count, hole });
        Found::Read
    }

    /// A block that no copy is known of: it stays marked, the resync goes on with the others and does not end.
    fn unreadable(&self, run: Run, error: &BlocksError) -> Found {
        if *error == BlocksError::Stopped {
            return Found::Over;
        }
        if self.lock().copy_map.told.insert(run.first) {
            let text = format!("a block to be copied could not be read: {error}");
            self.env.order(Order::Tell(Notice::Fault { text }));
        }
        Found::Unreadable
    }

    fn read_locked(&self, guard: &RangeGuard, run: Run) -> Result<(u64, bool, Payload), BlocksError> {
        let digests = self.image.digests(run.first, run.count)?;
        let hole = digests.first().is_none_or(Option::is_none);
        let count = digests.iter().take_while(|digest| digest.is_none() == hole).count();
        if hole {
            return Ok((count as u64, true, Payload::default()));
        }
        let mut pages = Pages::zeroed(count);
        self.read_or_heal::<BlocksError>(guard, run.first, &mut pages, &|block| {
            Ok(self.hot_received(Run { first: block, count: 1 })?)
        })?;
        let digests = self.image.digests(run.first, count as u64)?;
        let digests: Vec<Digest> = digests.into_iter().flatten().collect();
        Ok((count as u64, false, Payload::checked(pages, &digests)))
    }

    /// The target of a comparison tells what it has.
    fn send_digests(&self, session: Session) {
        let last = self.image.extent_count().saturating_sub(1);
        for number in 0..=last {
            let extent = ExtentNo(number);
            let payload = match self.image.summary(extent) {
                Ok(summary) if !summary.touched && number != last => continue,
                Ok(summary) if !summary.touched => Ok(Payload::default()),
                Ok(_) => self.exact_digests(extent),
                Err(error) => Err(error),
            };
            match payload {
                Ok(payload) => {
                    if !self.tell_digests(session, extent, number == last, payload) {
                        return;
                    }
                }
                Err(error) => return self.fault("the digests could not be read", &error),
            }
        }
    }

    /// False if the session is over.
    fn tell_digests(&self, session: Session, extent: ExtentNo, last: bool, payload: Payload) -> bool {
        match self.lock().copy_map.current(session) {
            Some(map) => map.digests = Some((extent, payload)),
            None => return false,
        }
        self.deliver(Event::DigestsRead { session, extent, last });
        true
    }

    /// The digests of an extent; a block that does not match its own, and one of which nothing is known, differs from
    /// whatever the peer has. Nothing is written here meanwhile: the peer waits for the list.
    fn exact_digests(&self, extent: ExtentNo) -> Result<Payload, ImageError> {
        let mut page = self.image.extent_page(extent)?;
        if page.damaged || self.image.unchecked_extents().contains(&extent) {
            for block in self.image.mismatches(extent)? {
                page.digests[block.index_in_extent()] = Some(NO_CONTENT);
            }
        }
        Ok(Payload::digests_of(&page.digests))
    }

    /// The target tells what may differ: single blocks as runs, extents with many by their digests. Before a whole
    /// comparison there is nothing to tell.
    pub(super) fn read_marks(&self, session: Session, kind: CopyKind) {
        let mut runs = Vec::new();
        let mut from = BlockNo(0);
        while let Some((first, count)) = self.image.next_differs(from).filter(|_| kind != CopyKind::Compare) {
            let extent = first.extent();
            let end = BlockNo(first.0 + count).min(ExtentNo(extent.0 + 1).first_block());
            if first == extent.first_block() || from <= extent.first_block() {
                match self.tell_extent(session, extent) {
                    Ok(Some(true)) => {
                        from = ExtentNo(extent.0 + 1).first_block();
                        continue;
                    }
                    Ok(Some(false)) => return,
                    Ok(None) => {}
                    Err(error) => return self.fault("the digests could not be read", &error),
                }
            }
            runs.push(Run { first, count: end.0 - first.0 });
            from = end;
            if runs.len() == RUNS_AT_ONCE {
                self.deliver(Event::MarksRead { session, runs: std::mem::take(&mut runs), last: false });
            }
        }
        self.deliver(Event::MarksRead { session, runs, last: true });
    }

    /// Tells an extent by its digests if many of its blocks are marked; `Some(false)`: the session is over.
    fn tell_extent(&self, session: Session, extent: ExtentNo) -> Result<Option<bool>, ImageError> {
        let end = ExtentNo(extent.0 + 1).first_block();
        let (mut from, mut marked) = (extent.first_block(), 0);
        while let Some((first, count)) = self.image.next_differs(from).filter(|(first, _)| *first < end) {
            marked += count.min(end.0 - first.0);
            from = first.plus(count);
        }
        if marked <= MARKS_BY_DIGEST {
            return Ok(None);
        }
        let payload = self.exact_digests(extent)?;
        Ok(Some(self.tell_digests(session, extent, false, payload)))
    }

    /// What differs from the target's extent is to be copied; the target keeps its own marks until the join.
    pub(super) fn add_digests(&self, session: Session, extent: ExtentNo, payload: &Payload) {
        if extent.0 >= self.image.extent_count() {
            return;
        }
        let mut runs = Vec::new();
        let done = self.differing(extent, &payload.extent_digests(), &mut runs).and_then(|()| {
            runs.iter().try_for_each(|(first, count)| self.image.mark_to_copy(*first, *count))
        });
        if let Err(error) = done {
            // Without this list the copies cannot be called equal: the session does not get on, and says why.
            self.lock().copy_map.of(session).spoilt = true;
            self.fault("the peer's digests could not be compared", &error);
        }
    }

    /// What `send_digests` read goes out where the machine put it in the stream.
    pub(super) fn send_read_digests(
        &self,
        core: &mut Core,
        link: LinkId,
        session: Session,
        extent: ExtentNo,
        last: bool,
    ) {
        let read = core.copy_map.current(session).and_then(|map| map.digests.take());
        if let Some((_, payload)) = read.filter(|(of, _)| *of == extent) {
            self.env.send(link, Message::Digests { session, extent, last }, payload);
        }
    }

    /// The source of a comparison marks what differs, stable: it must survive the source's restart.
    pub(super) fn compare(&self, session: Session, extent: ExtentNo, last: bool, payload: &Payload) {
        let from = {
            let mut core = self.lock();
            let Some(map) = core.copy_map.current(session) else { return };
            if extent.0 < map.compared || extent.0 >= self.image.extent_count() {
                return;
            }
            std::mem::replace(&mut map.compared, extent.0 + 1)
        };
        let mut runs = Vec::new();
        let theirs = payload.extent_digests();
        let done = (from..extent.0)
            .try_for_each(|skipped| self.differing(ExtentNo(skipped), &[], &mut runs))
            .and_then(|()| self.differing(extent, &theirs, &mut runs))
            .and_then(|()| runs.iter().try_for_each(|(first, count)| self.image.mark_to_copy(*first, *count)))
            .and_then(|()| if runs.is_empty() { Ok(()) } else { self.image.mark_stable(&runs) });
        match done {
            Ok(()) if last => {
                let asked = {
                    let mut core = self.lock();
                    let Some(map) = core.copy_map.current(session) else { return };
                    map.list_ended = true;
                    map.asked
                };
                if asked {
                    self.deliver(Event::CopyReady { session, total: self.image.to_copy_blocks() });
                }
            }
            Ok(()) => {}
            Err(error) => self.fault("the comparison failed", &error),
        }
    }

    pub(super) fn differing(
        &self,
        extent: ExtentNo,
        theirs: &[Option<Digest>],
        runs: &mut Vec<(BlockNo, u64)>,
    ) -> Result<(), ImageError> {
        if theirs.is_empty() && !self.image.summary(extent)?.touched {
            return Ok(());
        }
        let ours = self.image.extent_page(extent)?.digests;
        let first = extent.first_block();
        for (index, mine) in ours.iter().enumerate() {
            let block = first.plus(index as u64);
            if *mine == theirs.get(index).copied().flatten() || block.0 >= self.image.block_count() {
                continue;
            }
            match runs.last_mut() {
                Some((start, count)) if start.0 + *count == block.0 => *count += 1,
                _ => runs.push((block, 1)),
            }
        }
        Ok(())
    }
}
