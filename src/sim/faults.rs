//! What goes wrong, drawn by the seed.

use std::sync::Arc;

use crate::base::Digest;
use crate::image::Blocks;
use crate::node::{Event, Operator};

use super::baton::lock;
use super::disk::Loss;
use super::net::Weather;
use super::world::{Ev, MS, NAMES, SECOND, World};

/// Every kind of fault; a long run must have seen each.
pub const KINDS: [&str; 18] = [
    "power-loss",
    "process-kill",
    "both-power-loss",
    "crash-in-disk-op",
    "cut",
    "one-way-cut",
    "flapping",
    "stream-reset",
    "slow-link",
    "datagram-storm",
    "late-datagrams",
    "witness-cut",
    "witness-down",
    "pause",
    "slow-disk",
    "switchover",
    "disconnect",
    "rot",
];

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
pub enum Undo {
    Cut(usize),
    Weather,
    WitnessCut(usize),
    WitnessUp,
    SlowDisk(usize),
    Connect(usize),
    Rot { node: usize, block: u64, bit: usize, was: Digest },
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

    fn loss(&self) -> Loss {
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
            "both-power-loss" if is_up(0) && is_up(1) => {
                for node in 0..2 {
                    self.kill(node, self.loss());
                    self.restart_later(node);
                }
            }
            "crash-in-disk-op" if is_up(node) => {
                let (loss, operations) = (self.loss(), self.range(1, 150));
                if let Some(life) = self.machine(node).up.as_mut() {
                    life.loss = loss;
                    life.switch.arm(operations);
                }
                // It may fall late; a start of a machine that is up does nothing, so it is tried again then.
                self.sched.after(25 * SECOND, Ev::Start { node });
            }
            "pause" if is_up(node) && self.machine(node).paused_until < self.sched.now() => {
                let until = self.sched.now() + self.while_();
                self.machine(node).paused_until = until;
            }
            "slow-disk" => {
                let (times, while_) = (self.range(5, 60), self.while_());
                if let Some(life) = &self.machine(node).up {
                    life.switch.set_slowness(times);
                }
                self.sched.after(while_, Ev::Undo(Undo::SlowDisk(node)));
            }
            "switchover" if is_up(node) => self.operator(node, Operator::Switchover),
            "disconnect" if is_up(node) => {
                self.operator(node, Operator::Disconnect);
                self.sched.after(self.while_(), Ev::Undo(Undo::Connect(node)));
            }
            "rot" => return self.rot(node),
            _ => return self.strike_links(kind, node),
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

    /// One bit of a register turns over on one disk of two equal ones; a read must repair it from the peer. Where the
    /// peer cannot be asked in time the bit turns back: two failures of one block are nobody's promise.
    fn rot(self: &Arc<Self>, node: usize) -> bool {
        let (Some(image), Some(peer)) = (self.image_of(node), self.image_of(1 - node)) else { return false };
        let record = image.state().record;
        if record != peer.state().record || record.is_none_or(|record| record.members.solo().is_some()) {
            return false;
        }
        let disk = self.machine(node).disk.clone();
        let block = super::serve::register(self.sched.with_rng(|rng| rng.index(super::serve::REGISTERS)));
        let written = image.digests(block, 1).ok().and_then(|digests| digests.first().copied().flatten());
        let page = self.data_page(block.0);
        let good = written.is_some_and(|digest| digest == Digest::of(&disk.page(page, true)));
        let owner = self.machine(node).up.as_ref().map(|life| life.owner);
        let (Some(owner), true, false) = (owner, good, lock(&self.oracle).is_busy(block.0)) else {
            return false;
        };
        lock(&self.oracle).rotten.insert(block.0);
        let bit = self.sched.with_rng(|rng| rng.index(4096 * 8));
        disk.rot(page, bit);
        self.sched.after(
            400 * MS,
            Ev::Undo(Undo::Rot { node, block: block.0, bit, was: Digest::of(&disk.page(page, false)) }),
        );
        if let Some(mirror) = self.mirror_of(owner) {
            self.spawn(owner, move || {
                let _ = mirror.read(block, &mut [0; 4096]);
            });
        }
        true
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
            Undo::Rot { node, block, bit, was } => {
                let (disk, page) = (self.machine(node).disk.clone(), self.data_page(block));
                if Digest::of(&disk.page(page, false)) == was {
                    disk.rot(page, bit);
                } else {
                    lock(&self.oracle).count("repaired");
                }
                lock(&self.oracle).rotten.remove(&block);
            }
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
            if let Some(life) = &self.machine(node).up {
                life.switch.arm(u64::MAX);
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
