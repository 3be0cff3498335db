//! What goes wrong, drawn by the seed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::{BlockNo, Digest, ExtentNo, Span};
use crate::image::Blocks;
use crate::node::{Event, Operator, Role, Task, VerifyProgress};

use super::baton::lock;
use super::disk::Loss;
use super::net::Weather;
use super::sched::Owner;
use super::serve::{FS_BLOCKS, REGISTERS, register};
use super::world::{Ev, MS, NAMES, SECOND, World};

/// Every kind of fault; a long run must have seen each.
pub const KINDS: [&str; 31] = [
    "power-loss",
    "process-kill",
    "both-power-loss",
    "crash-in-disk-op",
    "crash-loop",
    "blackout-in-a-spree",
    "cut",
    "one-way-cut",
    "flapping",
    "stream-reset",
    "half-open",
    "slow-link",
    "datagram-storm",
    "late-datagrams",
    "replay",
    "witness-cut",
    "witness-down",
    "pause",
    "clock-jump",
    "slow-disk",
    "disk-hang",
    "disk-full",
    "disk-fails",
    "unreadable",
    "switchover",
    "disconnect",
    "resync-pause",
    "grow",
    "rot",
    "sleeping-rot",
    "verify",
];

/// Blocks by which a volume grows at most.
const GROWTH_MAX: u64 = 12 * ExtentNo::BLOCKS;

/// What ends a fault, or goes on with it.
#[derive(Clone, Copy, Debug)]
pub enum Undo {
    Cut(usize),
    Weather,
    WitnessCut(usize),
    WitnessUp,
    SlowDisk(usize),
    Connect(usize),
    Mend(Spoilt),
    /// The disk's cable, or room on the host: a node that gave its copy up is started again.
    Repair(Owner),
    CrashAgain {
        node: usize,
        left: u64,
    },
    Blackout,
}

/// A block that one of two equal disks lost.
#[derive(Clone, Copy, Debug)]
pub struct Spoilt {
    node: usize,
    block: u64,
    /// The bit that turned over, and what the page became; none: it cannot be read.
    rot: Option<(usize, Digest)>,
    hot: bool,
}

impl World {
    /// Strikes once and plans the next time.
    pub fn fault(self: &Arc<Self>) {
        if self.sched.now() > self.plan.faults_until {
            return;
        }
        let every = self.plan.fault_every;
        let after = self.sched.with_rng(|rng| rng.range(every / 4, every * 2));
        self.sched.after(after, Ev::Fault);
        let kind = KINDS[self.sched.with_rng(|rng| rng.index(KINDS.len()))];
        let node = self.sched.with_rng(|rng| rng.index(2));
        if self.strike(kind, node) {
            self.sched.note(NAMES[node], "FAULT", (node as u64, 0), || kind.to_string());
            let mut oracle = lock(&self.oracle);
            oracle.faults += 1;
            oracle.count(kind);
        }
    }

    fn range(&self, low: u64, high: u64) -> u64 {
        self.sched.with_rng(|rng| rng.range(low, high))
    }

    /// Short mostly, sometimes long enough for a takeover.
    fn while_(&self) -> u64 {
        match self.range(0, 3) {
            0 => self.range(50 * MS, SECOND),
            1 | 2 => self.range(SECOND, 5 * SECOND),
            _ => self.range(5 * SECOND, 16 * SECOND),
        }
    }

    pub fn loss(&self) -> Loss {
        [Loss::All, Loss::Writes, Loss::Torn, Loss::Torn][self.sched.with_rng(|rng| rng.index(4))]
    }

    fn restart_later(&self, node: usize) {
        let after = self.while_();
        self.sched.after(after, Ev::Start { node });
    }

    /// Whether the fault could happen now.
    fn strike(self: &Arc<Self>, kind: &'static str, node: usize) -> bool {
        let is_up = |node: usize| self.machine(node).up.is_some();
        match kind {
            "power-loss" | "process-kill" if is_up(node) => {
                let loss = if kind == "power-loss" { self.loss() } else { Loss::Nothing };
                self.kill(node, loss);
                self.restart_later(node);
            }
            "both-power-loss" if is_up(0) && is_up(1) => self.blackout(),
            "blackout-in-a-spree" if is_up(0) && is_up(1) && self.serves() => {
                let lasts = self.range(200 * MS, 900 * MS);
                self.spree_until.store(self.sched.now() + lasts, Ordering::SeqCst);
                self.sched.after(lasts, Ev::Undo(Undo::Blackout));
            }
            "crash-loop" if is_up(node) => self.undo(Undo::CrashAgain { node, left: self.range(2, 6) }),
            "pause" => {
                let server = lock(&self.oracle).server.map(|owner| owner.node);
                let node = server.filter(|_| self.range(0, 1) == 0).unwrap_or(node);
                if !is_up(node) || self.machine(node).paused_until > self.sched.now() {
                    return false;
                }
                if server == Some(node) && self.serves() {
                    lock(&self.oracle).count("paused-primary");
                }
                let until = self.sched.now() + self.while_();
                self.machine(node).paused_until = until;
            }
            "clock-jump" if self.plan.bad_clocks => {
                self.machine(node).skew += self.range(SECOND / 2, 40 * SECOND);
            }
            "switchover" if is_up(node) => self.operator(node, Operator::Switchover),
            "disconnect" if is_up(node) => {
                self.operator(node, Operator::Disconnect);
                self.sched.after(self.while_(), Ev::Undo(Undo::Connect(node)));
            }
            "resync-pause" if is_up(node) => {
                let span = Span(self.range(SECOND / 2, 8 * SECOND));
                self.operator(node, Operator::PauseResync(span));
            }
            "grow" if self.serves() => return self.grow(),
            _ => return self.strike_disk(kind, node) || self.strike_links(kind, node),
        }
        true
    }

    /// An administrator has the volume grown, a little and not without end.
    fn grow(&self) -> bool {
        let Some(server) = lock(&self.oracle).server else { return false };
        let Some(image) = self.image_of(server.node) else { return false };
        let blocks = image.block_count() + self.range(1, 3) * ExtentNo::BLOCKS;
        let fits = blocks <= super::serve::DATA_BLOCKS + GROWTH_MAX;
        if fits {
            self.operator(server.node, Operator::Grow { blocks });
        }
        fits
    }

    /// Somebody who listened sends old heartbeats again, in any order.
    fn replay(&self) -> bool {
        let old: Vec<_> = lock(&self.old_heartbeats).iter().copied().collect();
        for _ in 0..30.min(old.len()) {
            let (which, after) = self.sched.with_rng(|rng| (rng.index(old.len()), rng.below(2 * SECOND)));
            let (to, path, heartbeat) = old[which];
            self.sched.after(after, Ev::Datagram { to, path, heartbeat });
        }
        !old.is_empty()
    }

    /// Both lose their power at the same moment.
    fn blackout(self: &Arc<Self>) {
        for node in 0..2 {
            self.kill(node, self.loss());
            self.restart_later(node);
        }
    }

    fn strike_disk(self: &Arc<Self>, kind: &'static str, node: usize) -> bool {
        let (while_, loss) = (self.while_(), self.loss());
        let Some((owner, switch)) =
            self.machine(node).up.as_ref().map(|life| (life.owner, life.switch.clone()))
        else {
            return false;
        };
        match kind {
            "crash-in-disk-op" => {
                self.with_life(owner, |life| life.loss = loss);
                switch.arm(self.range(1, 150));
                // It may fall late; a start of a machine that is up does nothing, so it is tried again then.
                self.sched.after(25 * SECOND, Ev::Start { node });
            }
            "slow-disk" => {
                switch.set_slowness(self.range(5, 60));
                self.sched.after(while_, Ev::Undo(Undo::SlowDisk(node)));
            }
            "disk-hang" => switch.hang(while_),
            "disk-full" => {
                switch.set_full(true);
                self.sched.after(while_, Ev::Undo(Undo::Repair(owner)));
            }
            "disk-fails" if !switch.has_failed() => {
                self.with_life(owner, |life| life.loss = loss);
                switch.fail_after(self.range(0, 60));
                self.sched.after(SECOND + while_, Ev::Undo(Undo::Repair(owner)));
            }
            "rot" | "unreadable" => return self.spoil(node, kind == "rot", true),
            "sleeping-rot" => {
                let spoilt = self.spoil(node, true, false);
                self.verify(spoilt);
                return spoilt;
            }
            "verify" if self.serves() => self.verify(self.range(0, 1) == 0),
            _ => return false,
        }
        true
    }

    fn strike_links(self: &Arc<Self>, kind: &'static str, node: usize) -> bool {
        let while_ = self.while_();
        match kind {
            "cut" | "one-way-cut" => {
                lock(&self.net).cut[node] = true;
                self.sched.after(while_, Ev::Undo(Undo::Cut(node)));
                if kind == "cut" {
                    lock(&self.net).cut[1 - node] = true;
                    self.sched.after(while_, Ev::Undo(Undo::Cut(1 - node)));
                }
            }
            "flapping" => {
                lock(&self.net).cut = [true; 2];
                for after in [MS * 80, MS * 900] {
                    self.sched.after(after, Ev::Undo(Undo::Cut(0)));
                    self.sched.after(after, Ev::Undo(Undo::Cut(1)));
                }
            }
            "half-open" => {
                let Some(conn) = self.machine(node).conn else { return false };
                let Some(owner) = self.machine(node).up.as_ref().map(|life| life.owner) else { return false };
                lock(&self.net).cut = [true; 2];
                self.sched.after(0, Ev::LinkDown { owner, conn });
                (0..2).for_each(|node| self.sched.after(while_, Ev::Undo(Undo::Cut(node))));
            }
            "replay" => return self.replay(),
            "stream-reset" if self.machine(node).conn.is_some() => {
                let Some(conn) = self.machine(node).conn else { return false };
                let owner = self.machine(node).up.as_ref().map(|life| life.owner);
                if let Some(owner) = owner {
                    self.sched.after(0, Ev::LinkDown { owner, conn });
                }
                let other = self.machine(1 - node).up.as_ref().map(|life| life.owner);
                if let Some(owner) = other {
                    self.sched.after(self.range(0, 900 * MS), Ev::LinkDown { owner, conn });
                }
            }
            "slow-link" => {
                let (delay, per_kib) = (self.range(MS, 200 * MS), self.range(1_000, 400_000));
                lock(&self.net).weather = Weather { delay, per_kib, ..Weather::default() };
                self.sched.after(while_, Ev::Undo(Undo::Weather));
            }
            "datagram-storm" => {
                let weather =
                    Weather { loss: self.range(100, 900), twice: 300, late: 300, ..Weather::default() };
                lock(&self.net).weather = Weather { late_max: 800 * MS, ..weather };
                self.sched.after(while_, Ev::Undo(Undo::Weather));
            }
            "late-datagrams" => {
                let weather = Weather { late: self.range(300, 1000), twice: 200, ..Weather::default() };
                lock(&self.net).weather = Weather { late_max: self.range(SECOND, 8 * SECOND), ..weather };
                self.sched.after(while_, Ev::Undo(Undo::Weather));
            }
            "witness-cut" => {
                lock(&self.net).witness_cut[node] = true;
                self.sched.after(while_, Ev::Undo(Undo::WitnessCut(node)));
            }
            "witness-down" => {
                lock(&self.witness).up = false;
                self.sched.after(while_, Ev::Undo(Undo::WitnessUp));
            }
            _ => return false,
        }
        true
    }

    /// One of two equal disks loses a block: a bit turns over, or it cannot be read. A read must repair it from the
    /// peer. Where the peer cannot be asked in time it comes back by itself: two failures of one block are nobody's
    /// promise. A block of files is spoilt only where no filesystem is mounted that could meet it without a peer; what
    /// nobody reads at once, and a verify run may find, is no block of files.
    fn spoil(self: &Arc<Self>, node: usize, rot: bool, noticed: bool) -> bool {
        let (Some(image), Some(peer)) = (self.image_of(node), self.image_of(1 - node)) else { return false };
        let record = image.state().record;
        if record != peer.state().record || record.is_none_or(|record| record.members.solo().is_some()) {
            return false;
        }
        let any = image.next_written(BlockNo(self.range(0, FS_BLOCKS))).ok().flatten().map(|run| run.0);
        let serving = lock(&self.oracle).server.is_none_or(|server| server.node == node);
        let block = match any {
            Some(block) if noticed && !serving && self.range(0, 1) == 0 => block,
            _ => register(self.sched.with_rng(|rng| rng.index(REGISTERS))),
        };
        let disk = self.machine(node).disk.clone();
        let written = image.digests(block, 1).ok().and_then(|digests| digests.first().copied().flatten());
        let page = self.data_page(block.0);
        let is = |digest: Digest, node: usize| {
            let disk = self.machine(node).disk.clone();
            !disk.is_bad(page) && Digest::of(&disk.page(page, false)[..]) == digest
        };
        let good = written.is_some_and(|digest| (0..2).all(|node| is(digest, node)));
        let known = { lock(&self.oracle).is_busy(block.0) || lock(&self.oracle).rotten.contains(&block.0) };
        let owner = self.machine(node).up.as_ref().map(|life| life.owner);
        // After a crash the owner of the only current copy has to believe what lies in an extent that was hot: nobody
        // promises that rot there is told from a write that was cut off, and what is believed cannot be mended.
        let believed = !noticed && image.unchecked_extents().contains(&block.extent());
        let (Some(owner), true, false) = (owner, good, known || believed) else { return false };
        lock(&self.oracle).spoil(block.0);
        let rot = rot.then(|| {
            let bit = self.sched.with_rng(|rng| rng.index(4096 * 8));
            disk.rot(page, bit);
            (bit, Digest::of(&disk.page(page, false)[..]))
        });
        disk.set_bad(page, rot.is_none());
        let hot = image.is_hot(block, 1);
        let lasts = if noticed { 400 * MS } else { 4 * SECOND };
        self.sched.after(lasts, Ev::Undo(Undo::Mend(Spoilt { node, block: block.0, rot, hot })));
        if let Some(mirror) = self.mirror_of(owner).filter(|_| noticed) {
            self.spawn(owner, move || {
                let _ = mirror.read(block, &mut [0; 4096]);
            });
        }
        true
    }

    /// Somebody has the copies looked through: both on the primary, or one's own anywhere.
    fn verify(&self, repair: bool) {
        let server = lock(&self.oracle).server.map_or(0, |owner| owner.node);
        let (node, local) = match self.range(0, 2) {
            0 => (server, true),
            1 => (1 - server, true),
            _ => (server, false),
        };
        let from = VerifyProgress { task: Task { local, repair }, ..VerifyProgress::default() };
        self.operator(node, Operator::Verify(from));
    }

    fn mend(&self, spoilt: Spoilt) {
        let (disk, page) = (self.machine(spoilt.node).disk.clone(), self.data_page(spoilt.block));
        let repaired = match spoilt.rot {
            Some((bit, was)) => !disk.unrot(page, bit, |data| Digest::of(data) == was),
            None => !disk.is_bad(page),
        };
        disk.set_bad(page, false);
        let mut oracle = lock(&self.oracle);
        oracle.rotten.remove(&spoilt.block);
        if repaired {
            oracle.count("repaired");
            oracle.count(if spoilt.hot { "repaired-hot" } else { "repaired-cold" });
            oracle.count(if spoilt.rot.is_some() { "repaired-rot" } else { "repaired-unreadable" });
        }
    }

    /// A disk is well again; a node that gave its copy up meanwhile is started again.
    fn repair(self: &Arc<Self>, owner: Owner) {
        let Some(switch) = self.with_life(owner, |life| life.switch.clone()) else { return };
        let now = self.clock(owner.node);
        let gave_up = self
            .mirror_of(owner)
            .and_then(|mirror| mirror.with_machine(|machine| machine.view(now)))
            .is_none_or(|view| view.role == Role::Failed);
        if switch.has_failed() || gave_up {
            let mut oracle = lock(&self.oracle);
            oracle.count(if switch.has_failed() { "disk-failed" } else { "disk-was-full" });
            drop(oracle);
            let loss = if switch.has_failed() { self.loss() } else { Loss::Nothing };
            self.kill(owner.node, loss);
            self.restart_later(owner.node);
        } else {
            switch.set_full(false);
            switch.fail_after(u64::MAX);
        }
    }

    fn crash_again(self: &Arc<Self>, node: usize, left: u64) {
        let loss = if self.range(0, 1) == 0 { Loss::Nothing } else { self.loss() };
        self.kill(node, loss);
        let back = self.range(10 * MS, 300 * MS);
        self.sched.after(back, Ev::Start { node });
        if left > 0 {
            let lives = self.range(MS, 900 * MS);
            self.sched.after(back + lives, Ev::Undo(Undo::CrashAgain { node, left: left - 1 }));
        }
    }

    pub fn operator(&self, node: usize, operator: Operator) {
        let owner = self.machine(node).up.as_ref().map(|life| life.owner);
        if let Some(owner) = owner {
            self.sched.after(0, Ev::Deliver { owner, event: Event::Operator(operator) });
        }
    }

    /// A fault ends.
    pub fn undo(self: &Arc<Self>, undo: Undo) {
        match undo {
            Undo::Cut(node) => {
                lock(&self.net).cut[node] = false;
                self.repump();
            }
            Undo::Weather => lock(&self.net).weather = Weather::default(),
            Undo::WitnessCut(node) => lock(&self.net).witness_cut[node] = false,
            Undo::WitnessUp => lock(&self.witness).restart(),
            Undo::SlowDisk(node) => {
                if let Some(life) = &self.machine(node).up {
                    life.switch.set_slowness(1);
                }
            }
            Undo::Connect(node) => self.operator(node, Operator::Connect),
            Undo::Mend(spoilt) => self.mend(spoilt),
            Undo::Repair(owner) => self.repair(owner),
            Undo::CrashAgain { node, left } => self.crash_again(node, left),
            Undo::Blackout => self.blackout(),
        }
        self.sched.note("-", "heals", (0, 0), || format!("{undo:?}"));
    }

    /// All faults end at once.
    pub fn heal(self: &Arc<Self>) {
        for node in 0..2 {
            self.undo(Undo::Cut(node));
            self.undo(Undo::WitnessCut(node));
            self.undo(Undo::SlowDisk(node));
            self.machine(node).paused_until = 0;
            let up = self.machine(node).up.as_ref().map(|life| (life.owner, life.switch.clone()));
            if let Some((owner, switch)) = up {
                switch.arm(u64::MAX);
                self.repair(owner);
            }
            self.sched.after(MS, Ev::Start { node });
            self.undo(Undo::Connect(node));
            // A command to a node that slept may reach it after this one.
            self.sched.after(17 * SECOND, Ev::Undo(Undo::Connect(node)));
        }
        self.undo(Undo::Weather);
        self.undo(Undo::WitnessUp);
    }
}
