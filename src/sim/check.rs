//! The checks that look at both disks: stable where promised, equal where recorded so, different only where known.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::{BlockNo, Digest, Members};
use crate::format::ResyncMark;
use crate::image::Image;
use crate::mirror::Mirror;
use crate::node::{Finding, Notice, Trouble, VerifyEnd};
use crate::wire::{Message, Row};

use super::baton::lock;
use super::sched::Owner;
use super::world::{Ev, MS, NAMES, SECOND, World, node_id};

impl World {
    /// Promise 2: what a flush covered is stable on every member.
    pub fn check_stable(&self, node: usize, mirror: &Arc<Mirror>, covered: &[(u64, u64)]) {
        let members = match mirror.has_left() {
            true => Members::only(node_id(1 - node)),
            false => {
                mirror.image().state().record.map_or(Members::only(node_id(node)), |record| record.members)
            }
        };
        let mut oracle = lock(&self.oracle);
        let mut wrong = None;
        for (block, version) in covered {
            let Some((newest, digest)) = oracle.done.get(block).copied() else { continue };
            if newest != *version || oracle.is_busy(*block) || oracle.rotten.contains(block) {
                continue;
            }
            oracle.done.remove(block);
            let Some(digest) = digest else { continue };
            for member in (0..2).filter(|member| members.contains(node_id(*member))) {
                let disk = self.machine(member).disk.clone();
                if Digest::of(&disk.page(self.data_page(*block), true)[..]) != digest {
                    wrong = wrong.or(Some((*block, member)));
                }
            }
        }
        drop(oracle);
        if let Some((block, member)) = wrong {
            let text = format!(
                "I2: {} acknowledged a flush, block {block} is not stable on {} (members {members})",
                NAMES[node], NAMES[member]
            );
            self.sched.violate(text);
        }
    }

    /// Promise 4 and exclusivity: whoever is about to serve may.
    pub fn check_promotion(&self, owner: Owner, mirror: &Arc<Mirror>) {
        let state = mirror.image().state();
        let me = node_id(owner.node);
        let member = state.record.is_some_and(|record| record.members.contains(me) && record.primary == me);
        if !member || state.resync != ResyncMark::None {
            let text = format!("I4: {me} starts to serve under {:?}, {:?}", state.record, state.resync);
            self.sched.violate(text);
        }
        self.check_exclusive();
        let mut oracle = lock(&self.oracle);
        if oracle.server.is_some_and(|other| other.node != owner.node) {
            oracle.count("server-changed");
        }
        oracle.server = Some(owner);
        oracle.done.clear();
    }

    /// T2: what is answered now must be current. Nobody promises it of a clock that breaks its own promise.
    pub fn may_answer(&self, owner: Owner) -> bool {
        !self.plan.bad_clocks && self.mirror_of(owner).is_some_and(|mirror| mirror.may_answer())
    }

    /// T1: two leases are never valid at once, each on its holder's clock.
    pub fn check_exclusive(&self) {
        if self.plan.bad_clocks {
            return;
        }
        let may_answer = |node: usize| {
            let mirror = self.machine(node).up.as_ref().and_then(|life| life.mirror.clone());
            mirror.is_some_and(|mirror| mirror.may_answer())
        };
        if may_answer(0) && may_answer(1) {
            self.sched.violate("T1: both nodes may answer at this moment".to_string());
        }
    }

    /// I7: resync bytes flow only from a lineage to one that it continues.
    pub fn check_copy_direction(&self, from: usize) {
        let (Some(source), Some(target)) = (self.image_of(from), self.image_of(1 - from)) else { return };
        // A copy that gives way after a split, and was put aside.
        let verdict = target.state().apart.verdict;
        if verdict.is_some_and(|verdict| usize::from(verdict.winner.index()) == from && verdict.done > 0) {
            return;
        }
        let (source, target) = (source.state().gens, target.state().gens);
        let fits = target.len() <= source.len() && target.iter().zip(&source).all(|(a, b)| a.id == b.id);
        // A half-done target may hold generations of its own that were resolved away; it is empty or a prefix here.
        if !fits {
            self.sched
                .violate(format!("I7: {} sends resync bytes to a lineage it does not continue", NAMES[from]));
        }
    }

    pub fn check_send(&self, from: usize, message: &Message) {
        if let Message::Op { .. } = message {
            let sends = self.image_of(from).is_some();
            debug_assert!(sends || self.is_over());
        }
    }

    pub fn image_of(&self, node: usize) -> Option<Arc<Image>> {
        self.machine(node).up.as_ref().and_then(|life| life.mirror.as_ref().map(|m| m.image().clone()))
    }

    /// The volume goes back by itself once an hour at most. Nobody promises it of a clock that breaks its own promise.
    fn check_failback(&self) {
        let (now, hour) = (self.sched.now(), crate::node::FAILBACK_PAUSE.0 / 100 * 98);
        let last = lock(&self.oracle).failback_at.replace(now);
        if last.is_some_and(|last| now - last < hour) && !self.plan.bad_clocks {
            self.sched.violate("the volume goes back for the second time within an hour".to_string());
        }
    }

    /// What an administrator is told tells the oracle what to look at.
    pub fn told(&self, owner: Owner, notice: &Notice) {
        let what = match notice {
            Notice::InSync => "in-sync",
            Notice::PeerLost => "peer-lost",
            Notice::WentSolo { .. } => "went-solo",
            Notice::Removed { .. } => "removed",
            Notice::ResyncStarted { .. } => "resync-started",
            Notice::ResyncFinished => "resync-finished",
            Notice::ResyncResumed { .. } => "resync-resumed",
            Notice::Grown { .. } => "grown",
            Notice::LeaseLapsed => "lease-lapsed",
            Notice::HandedOver { .. } => "handed-over",
            Notice::FailbackAsked => "failback",
            Notice::TookOver => "took-over",
            Notice::PeerDiskFailed => "peer-detached",
            Notice::FrontBegan => "works-on-peer",
            Notice::PeerLeft => "peer-left",
            Notice::Found(_) => "found-rotten",
            Notice::Verified { end: VerifyEnd::Finished, .. } => "verified",
            Notice::SplitBrain => "split-brain",
            Notice::Replaced => "told-replaced",
            Notice::UndoGivenUp => "undo-given-up",
            _ => "told",
        };
        let mut oracle = lock(&self.oracle);
        oracle.count(what);
        match notice {
            Notice::ResyncStarted { .. } => oracle.resyncing = true,
            Notice::ResyncFinished | Notice::InSync => oracle.resyncing = false,
            Notice::PeerLost if std::mem::take(&mut oracle.resyncing) => oracle.count("resync-interrupted"),
            _ => {}
        }
        drop(oracle);
        match notice {
            Notice::Found(finding) => self.check_finding(owner, finding),
            Notice::FailbackAsked => self.check_failback(),
            Notice::WentSolo { .. } => {
                self.note_split();
                self.left_behind(owner.node);
            }
            Notice::ResyncStarted { source, .. } => self.resync_began(usize::from(source.index())),
            Notice::WentBack => self.went_back(owner),
            Notice::SplitBrain if self.is_forked() || self.sched.is_excused() => {}
            Notice::SplitBrain => {
                self.sched.violate(format!("I10: {} reports divergence", NAMES[owner.node]))
            }
            Notice::Refused { .. } if self.sched.is_excused() => {}
            Notice::Refused { row: Row(1), .. } if self.is_struck() => {}
            Notice::Refused { row, text } => {
                self.sched.violate(format!("I10: {} refuses its peer ({row:?}: {text})", NAMES[owner.node]));
            }
            Notice::InSync => self.sched.after(0, Ev::Look),
            _ => {}
        }
    }

    /// Promise 8, and no false alarm ever: what is reported was lost by a disk, and two good copies never differ.
    fn check_finding(&self, owner: Owner, finding: &Finding) {
        let failed = |node: usize| {
            let switch = self.machine(node).up.as_ref().map(|life| life.switch.clone());
            switch.is_some_and(|switch| switch.has_failed())
        };
        let lost = lock(&self.oracle).spoilt.contains(&finding.block.0) || failed(0) || failed(1);
        if finding.trouble == Trouble::Differs || !lost {
            self.sched.violate(format!("{}: a false alarm: {finding:?}", NAMES[owner.node]));
        }
        if finding.trouble == Trouble::RottenAtPeer && finding.repaired {
            lock(&self.oracle).count("repaired-at-peer");
        }
    }

    /// The regular look at everything that must hold at any moment.
    pub fn look(&self) {
        let again = self.sched.with_rng(|rng| rng.range(60 * MS, 200 * MS));
        self.sched.after(again, Ev::Look);
        self.check_exclusive();
        self.check_machines();
        self.check_covered();
        if !self.plan.effects_only {
            self.check_window_is_hot();
        }
    }

    /// What each node's machine demands of itself: a debug build looks after every step, every build looks here.
    fn check_machines(&self) {
        for (node, name) in NAMES.iter().enumerate() {
            let mirror = self.machine(node).up.as_ref().and_then(|life| life.mirror.clone());
            if let Some(Err(broken)) = mirror.map(|mirror| mirror.with_machine(|machine| machine.check())) {
                self.sched.violate(format!("{name}: {broken}"));
            }
        }
    }

    /// Promise 5, should the primary die right now: what its peer may still lose lies in its activity log or is
    /// marked, for its window dies with it.
    fn check_window_is_hot(&self) {
        for (node, name) in NAMES.iter().enumerate() {
            let mirror = self.machine(node).up.as_ref().and_then(|life| life.mirror.clone());
            let Some(mirror) = mirror else { continue };
            let members = mirror.image().state().record.map(|record| record.members);
            if members != Some(Members::BOTH) {
                continue;
            }
            let image = mirror.image();
            let known = |block: BlockNo| {
                image.is_hot(block, 1) || image.next_differs(block).is_some_and(|(first, _)| first == block)
            };
            let doubted = mirror.in_doubt();
            let mut blocks = doubted.iter().flat_map(|run| (0..run.count).map(|n| run.first.plus(n)));
            if let Some(block) = blocks.find(|block| !known(*block)) {
                let first = block.0;
                self.sched.violate(format!(
                    "I6: block {first} may be lost by the peer, and {} evicted its extent",
                    name
                ));
            }
        }
    }

    /// Promise 5: blocks that differ are known to somebody.
    fn check_covered(&self) {
        let (Some(a), Some(b)) = (self.image_of(0), self.image_of(1)) else { return };
        let states = [a.state(), b.state()];
        let excused = states
            .iter()
            .any(|state| state.full || state.resync != ResyncMark::None || state.gens.is_empty());
        let mut doubtful: BTreeSet<u64> = {
            let mut oracle = lock(&self.oracle);
            std::mem::take(&mut oracle.doubtful)
        };
        for node in 0..2 {
            let disk = self.machine(node).disk.clone();
            doubtful.extend(disk.take_touched().into_iter().filter_map(|page| self.block_of(page)));
        }
        doubtful.retain(|block| !self.same_content(&a, &b, *block));
        if !excused {
            let oracle = lock(&self.oracle);
            let known = |block: u64| {
                let at = BlockNo(block);
                let marked = |image: &Image| {
                    let differs = image.next_differs(at).is_some_and(|(first, _)| first == at);
                    differs
                        || image.next_to_copy(at).is_some_and(|(first, _)| first == at)
                        || image.is_hot(at, 1)
                };
                marked(&a)
                    || marked(&b)
                    || oracle.is_busy(block)
                    || oracle.done.contains_key(&block)
                    || oracle.rotten.contains(&block)
            };
            let unknown = doubtful.iter().copied().find(|block| !known(*block));
            drop(oracle);
            if let Some(block) = unknown {
                self.sched.violate(format!("I6: block {block} differs between the copies and nobody knows"));
            }
        }
        lock(&self.oracle).doubtful = doubtful;
    }

    /// Whether a block reads the same on both: the written map decides, then the bytes.
    pub fn same_content(&self, a: &Image, b: &Image, block: u64) -> bool {
        let (disk_a, disk_b) = (self.machine(0).disk.clone(), self.machine(1).disk.clone());
        let page = self.data_page(block);
        let written =
            |image: &Image| image.digests(BlockNo(block), 1).ok().and_then(|d| d.first().copied().flatten());
        match (written(a), written(b)) {
            (None, None) => true,
            (Some(_), Some(_)) => disk_a.same(&disk_b, page),
            (Some(_), None) => disk_a.page(page, false).iter().all(|byte| *byte == 0),
            (None, Some(_)) => disk_b.page(page, false).iter().all(|byte| *byte == 0),
        }
    }

    /// What a node says about itself.
    fn describe(&self, node: usize) -> Option<String> {
        let mirror = self.machine(node).up.as_ref().and_then(|life| life.mirror.clone())?;
        let now = self.clock(node);
        Some(mirror.with_machine(|machine| format!("{}: {:?}", NAMES[node], machine.view(now))))
    }

    /// After everything healed: in sync, and the data areas are equal block by block.
    pub fn check_quiet(&self) {
        let (Some(a), Some(b)) = (self.image_of(0), self.image_of(1)) else {
            return self.sched.violate("L3: a node is down although all faults stopped".to_string());
        };
        let records = [a.state().record, b.state().record];
        if records[0] != records[1] || records[0].is_none_or(|record| record.members != Members::BOTH) {
            let views: Vec<String> = (0..2).filter_map(|node| self.describe(node)).collect();
            let after = super::run::HEAL / SECOND;
            let text =
                format!("L3: not in sync {after} s after the last fault: {records:?}\n{}", views.join("\n"));
            return self.sched.violate(text);
        }
        if a.block_count() != b.block_count() {
            let text = format!("in sync with {} and {} blocks", a.block_count(), b.block_count());
            return self.sched.violate(text);
        }
        for block in 0..a.block_count() {
            if !lock(&self.oracle).is_busy(block) && !self.same_content(&a, &b, block) {
                return self.sched.violate(format!("I6: in sync, but block {block} differs"));
            }
        }
    }
}
