//! One look of a verify run: an extent of this copy against its digests, and both copies against each other.
//!
//! Decides what is wrong with a block and repairs it if asked to. Does not know when to look. Invariants: what is
//! reported was seen under the interval lock, of the primary where both copies are concerned: no write is under way
//! then on either; a copy that does not match its own digest is never the source of a repair.
//!
//! First the summaries of an extent are compared, while both nodes read and check what they have; digests travel only
//! where those differ, and blocks only where digests differ. No lock is held while the peer is waited for, but that of
//! a single block which differed at first sight.

use std::collections::BTreeSet;

use crate::base::{BlockNo, Digest, ExtentNo, Pages};
use crate::image::{Blocks, BlocksError, ImageError, RangeGuard};
use crate::node::{Event, Finding, LinkId, Task, Token, Trouble};
use crate::wire::{Kind, Message, Run};

use super::core::Job;
use super::fetch::Fetched;
use super::ops::Undone;
use super::{Mirror, Payload, Worker};

/// Blocks locked and read at once: an application's write waits for no more.
const CHUNK: u64 = 32;
/// How often the peer is asked for a block that it cannot give although it may only be in use there.
const TRIES: u32 = 4;
/// Questions of the peer that may wait here.
const QUESTIONS_MAX: usize = 16;
/// A digest that no content has.
const NO_CONTENT: Digest = Digest([0xff; 15]);

/// A look at both copies that waits for the peer's part.
pub(super) struct Looking {
    token: Token,
    task: Task,
    id: u64,
    link: LinkId,
    from: ExtentNo,
    count: u64,
    blocks: u64,
    bad: Vec<BlockNo>,
}

/// An extent of this copy, read and checked.
#[derive(Default)]
struct Scrubbed {
    blocks: u64,
    bad: Vec<BlockNo>,
}

/// Why a look ends without an answer: the node is halted, or has lost what it needs.
struct Ended;

impl From<super::Halted> for Ended {
    fn from(_: super::Halted) -> Ended {
        Ended
    }
}

impl From<ImageError> for Ended {
    fn from(_: ImageError) -> Ended {
        Ended
    }
}

impl From<BlocksError> for Ended {
    fn from(_: BlocksError) -> Ended {
        Ended
    }
}

impl Mirror {
    /// The next step of a run.
    pub(super) fn look(&self, token: Token, task: Task, from: ExtentNo) {
        // Without an answer the machine asks again once it may.
        let _ =
            if task.local { self.look_here(token, task, from) } else { self.look_at_both(token, task, from) };
    }

    /// What cannot be told is looked at.
    fn is_touched(&self, extent: u64) -> bool {
        !self.image.summary(ExtentNo(extent)).is_ok_and(|summary| !summary.touched)
    }

    fn look_here(&self, token: Token, task: Task, from: ExtentNo) -> Result<(), Ended> {
        let total = self.image.extent_count();
        let Some(extent) = (from.0..total).find(|extent| self.is_touched(*extent)) else {
            let findings = Vec::new();
            self.deliver(Event::Looked { token, upto: ExtentNo(total), blocks: 0, findings });
            return Ok(());
        };
        let scrubbed = self.scrub(ExtentNo(extent))?;
        let mut findings = Vec::new();
        for block in scrubbed.bad {
            findings.extend(self.settle_here(block, task.repair)?);
        }
        findings.iter().for_each(|finding| self.found(*finding));
        let (upto, blocks) = (ExtentNo(extent + 1), scrubbed.blocks);
        self.deliver(Event::Looked { token, upto, blocks, findings });
        Ok(())
    }

    /// Reads what was ever written in an extent; lists what does not match.
    fn scrub(&self, extent: ExtentNo) -> Result<Scrubbed, Ended> {
        let mut out = Scrubbed::default();
        let page = match self.image.extent_page(extent) {
            Ok(page) => page,
            Err(error) => {
                self.fault("what is known of an extent could not be read", &error);
                return Ok(out);
            }
        };
        let first = extent.first_block();
        let last = ExtentNo::BLOCKS.min(self.image.block_count() - first.0);
        let mut buffer = Pages::zeroed(CHUNK as usize);
        for start in (0..last).step_by(CHUNK as usize) {
            let count = CHUNK.min(last - start);
            let known = &page.digests[start as usize..(start + count) as usize];
            let written = known.iter().flatten().count() as u64;
            if written == 0 && !page.damaged {
                continue;
            }
            out.blocks += written;
            let guard = self.lock_range(first.plus(start), count)?;
            self.check_chunk(first.plus(start), &mut buffer[..count as usize * BlockNo::SIZE], &mut out.bad);
            self.unlock(guard);
            self.env.breathe()?;
        }
        Ok(out)
    }

    fn check_chunk(&self, first: BlockNo, buffer: &mut [u8], bad: &mut Vec<BlockNo>) {
        if self.image.read(first, buffer).is_ok() {
            return;
        }
        for (block, part) in (first.0..).map(BlockNo).zip(buffer.chunks_exact_mut(BlockNo::SIZE)) {
            if self.image.read(block, part).is_err() {
                bad.push(block);
            }
        }
    }

    /// A block of this copy that did not match: looked at again, repaired if asked for. The peer is asked while nothing
    /// is locked: it may be asking for the same block.
    fn settle_here(&self, block: BlockNo, repair: bool) -> Result<Option<Finding>, Ended> {
        // What a crash left un-flushed is no rot: whoever reads it settles it.
        if self.image.is_suspect(block) {
            return Ok(None);
        }
        let rotten = |repaired| Some(Finding { block, trouble: Trouble::Rotten, repaired });
        for _ in 0..TRIES {
            let offered = if repair { self.fetch(block)? } else { Fetched::NoPeer };
            let guard = self.lock_range(block, 1)?;
            let healed = self.heal_if_rotten(&guard, block, &offered);
            self.unlock(guard);
            match (healed, offered) {
                (Ok(true), Fetched::Content(_)) => return Ok(rotten(true)),
                (Ok(_), _) => return Ok(None),
                (Err(ImageError::WrongRepair { .. }), Fetched::NoPeer) => return Ok(rotten(false)),
                (Err(ImageError::WrongRepair { .. }), _) => self.env.breathe()?,
                (Err(error), _) => {
                    self.not_repaired(block, &error);
                    return Ok(rotten(false));
                }
            }
        }
        Ok(Some(Finding { block, trouble: Trouble::Lost, repaired: false }))
    }

    /// True: it was rotten and is healed. `WrongRepair`: it is, and this does not help.
    fn heal_if_rotten(
        &self,
        guard: &RangeGuard,
        block: BlockNo,
        offered: &Fetched,
    ) -> Result<bool, ImageError> {
        let mut now = vec![0; BlockNo::SIZE];
        match self.image.read(block, &mut now) {
            Err(ImageError::Rotten { .. }) => {}
            done => return done.map(|()| false),
        }
        let Fetched::Content(payload) = offered else { return Err(ImageError::WrongRepair { block }) };
        self.image.heal(guard, block, payload.data())?;
        self.image.read(block, &mut now).map(|()| true)
    }

    /// Asks the peer about the next extent that either has something in, and reads the own part meanwhile.
    fn look_at_both(&self, token: Token, task: Task, from: ExtentNo) -> Result<(), Ended> {
        let total = self.image.extent_count();
        let next = (from.0..total).find(|extent| self.is_touched(*extent)).unwrap_or(total);
        let here = next == from.0;
        let (count, hash) = match here {
            true => (1, self.image.summary(from)?.hash),
            false => (next - from.0, [0; 15]),
        };
        {
            let mut core = self.lock();
            let link = core.link.ok_or(Ended)?;
            let id = core.next_op;
            core.next_op += 1;
            let (blocks, bad) = (0, Vec::new());
            core.looking = Some(Looking { token, task, id, link, from, count, blocks, bad });
            self.env.send(link, Message::Check { id, first: from, count, hash }, Payload::default());
        }
        if here {
            let scrubbed = self.scrub(from)?;
            // The answer is work for this very thread: nobody took it away.
            if let Some(looking) = &mut self.lock().looking {
                (looking.blocks, looking.bad) = (scrubbed.blocks, scrubbed.bad);
            }
        }
        Ok(())
    }

    /// The peer asks. Bounded: it has one question at a time, unless it means no good.
    pub(super) fn asked_to_check(&self, job: Job) {
        let mut core = self.lock();
        if core.jobs[Worker::Check as usize].len() < QUESTIONS_MAX {
            self.push(&mut core, Worker::Check, job);
        }
    }

    pub(super) fn answer_check(
        &self,
        link: LinkId,
        id: u64,
        (first, count): (ExtentNo, u64),
        hash: [u8; 15],
    ) {
        let end = first.0.saturating_add(count).min(self.image.extent_count());
        let Some(extent) = (first.0..end).find(|extent| self.is_touched(*extent)).map(ExtentNo) else {
            let (upto, equal) = (ExtentNo(end), hash == [0; 15]);
            return self.env.send(link, Message::Checked { id, upto, equal }, Payload::default());
        };
        let Ok(scrubbed) = self.scrub(extent) else { return };
        let same = self.image.summary(extent).is_ok_and(|summary| summary.hash == hash);
        let equal = same && scrubbed.bad.is_empty();
        let payload = match self.image.extent_page(extent) {
            _ if equal => Payload::default(),
            Ok(mut page) => {
                for block in scrubbed.bad {
                    page.digests[block.index_in_extent()] = Some(NO_CONTENT);
                }
                Payload::digests_of(&page.digests)
            }
            Err(_) => Payload::digests_of(&[Some(NO_CONTENT); ExtentNo::BLOCKS as usize]),
        };
        self.env.send(link, Message::Checked { id, upto: ExtentNo(extent.0 + 1), equal }, payload);
    }

    /// The peer did its part: what may be wrong by either's account is looked at block by block.
    pub(super) fn checked(&self, id: u64, upto: ExtentNo, payload: Option<&Payload>) {
        let Some(looking) = self.lock().looking.take_if(|looking| looking.id == id) else { return };
        if upto <= looking.from || upto.0 > looking.from.0 + looking.count {
            return;
        }
        // Without an answer the machine asks again once it may.
        let _ = self.finish_look(&looking, upto, payload);
    }

    fn finish_look(&self, looking: &Looking, upto: ExtentNo, payload: Option<&Payload>) -> Result<(), Ended> {
        let mut doubtful: BTreeSet<BlockNo> = looking.bad.iter().copied().collect();
        if let Some(payload) = payload {
            let mut runs = Vec::new();
            self.differing(ExtentNo(upto.0 - 1), &payload.extent_digests(), &mut runs)?;
            doubtful.extend(runs.iter().flat_map(|(first, count)| (0..*count).map(|n| first.plus(n))));
        }
        let mut findings = Vec::new();
        for block in doubtful {
            findings.extend(self.compare_block(looking, block)?);
        }
        if findings.iter().any(|finding| finding.repaired) {
            self.flush()?;
        }
        findings.iter().for_each(|finding| self.found(*finding));
        let (token, blocks) = (looking.token, looking.blocks);
        self.deliver(Event::Looked { token, upto, blocks, findings });
        Ok(())
    }

    fn compare_block(&self, looking: &Looking, block: BlockNo) -> Result<Option<Finding>, Ended> {
        if self.mutations.verify_unlocked {
            return Ok(Some(Finding { block, trouble: Trouble::Differs, repaired: false }));
        }
        loop {
            let guard = self.lock_range(block, 1)?;
            let done = self.compare_locked(&guard, looking, block);
            self.unlock(guard);
            match done {
                Ok(found) => return found.ok_or(Ended),
                Err(Undone::SlotsBusy) => self.flush()?,
                Err(Undone::Failed(_)) => return Err(Ended),
            }
        }
    }

    /// `None`: the copies do not hold still any more.
    fn compare_locked(
        &self,
        guard: &RangeGuard,
        looking: &Looking,
        block: BlockNo,
    ) -> Result<Option<Option<Finding>>, Undone> {
        let still = || {
            let link = self.lock().link;
            link == Some(looking.link) && self.with_machine(|machine| machine.may_compare())
        };
        if !still() {
            return Ok(None);
        }
        let mut mine = vec![0; BlockNo::SIZE];
        let good = match self.image.read(block, &mut mine) {
            Err(ImageError::Rotten { .. }) => self.mutations.export_rot,
            done => {
                done?;
                true
            }
        };
        let theirs = self.fetch(block)?;
        if !still() {
            return Ok(None);
        }
        let (trouble, source) = match (good, theirs) {
            (_, Fetched::NoPeer) => return Ok(None),
            (true, Fetched::Content(theirs)) if theirs.data() == mine => return Ok(Some(None)),
            (true, Fetched::Content(_)) => (Trouble::Differs, Some(Payload::blocks(Pages::copy_of(&mine)))),
            (true, Fetched::NotThere) => {
                (Trouble::RottenAtPeer, Some(Payload::blocks(Pages::copy_of(&mine))))
            }
            (false, Fetched::Content(theirs)) => (Trouble::Rotten, Some(theirs)),
            (false, Fetched::NotThere) => (Trouble::Lost, None),
        };
        let source = source.filter(|_| looking.task.repair);
        let repaired = source.is_some();
        if let Some(source) = source {
            self.make_equal(guard, block, trouble, source)?;
        }
        Ok(Some(Some(Finding { block, trouble, repaired })))
    }

    /// Where both differ the content of the primary counts: it is what everybody has read.
    fn make_equal(
        &self,
        guard: &RangeGuard,
        block: BlockNo,
        trouble: Trouble,
        source: Payload,
    ) -> Result<(), Undone> {
        if trouble == Trouble::Rotten && self.image.heal(guard, block, source.data()).is_ok() {
            return Ok(());
        }
        self.hot(block, 1)?;
        Ok(self.perform(Kind::Write, Run { first: block, count: 1 }, source, Some(guard))?)
    }
}
