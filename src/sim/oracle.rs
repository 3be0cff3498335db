//! What was acknowledged, and what must therefore be true: the promises, checked while they can be broken.
//!
//! Decides what counts as a violation. Does not know how anything works. The checks that need both images are in
//! `check`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{BlockNo, Digest, Record};

use super::disk::Loss;
use super::model::Model;
use super::sched::Owner;

/// A range that an operation is changing at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    pub node: usize,
    pub life: u32,
    pub first: u64,
    pub count: u64,
}

/// What the oracle knows.
#[derive(Default)]
pub struct Oracle {
    pub counts: BTreeMap<&'static str, u64>,
    pub faults: u64,
    pub fs_ops: u64,
    /// Operations of a serving node between call and return.
    pub busy: BTreeMap<u64, Busy>,
    next_busy: u64,
    /// Blocks done and not yet covered by an acknowledged flush: a version and what was written.
    pub done: BTreeMap<u64, (u64, Option<Digest>)>,
    version: u64,
    /// The newest record under which something was acknowledged, and by whom.
    acked: Option<(u64, usize)>,
    /// The files as they should be.
    pub model: Model,
    /// Single blocks as they should be.
    pub registers: Registers,
    /// Blocks that may differ between the disks: looked at again at each check.
    pub doubtful: BTreeSet<u64>,
    /// A resync runs (for counting interruptions).
    pub resyncing: bool,
    /// Blocks with a bit turned over on one disk.
    pub rotten: BTreeSet<u64>,
    /// Blocks that a disk ever lost.
    pub spoilt: BTreeSet<u64>,
    /// Who was promoted last: what anybody else still does is a leftover that the oracle does not learn from.
    pub server: Option<Owner>,
    /// When the volume last went back by itself.
    pub failback_at: Option<u64>,
}

impl Oracle {
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_insert(0) += 1;
    }

    /// A disk loses a block.
    pub fn spoil(&mut self, block: u64) {
        self.rotten.insert(block);
        self.spoilt.insert(block);
    }

    pub fn died(&mut self, node: usize, loss: Loss) {
        self.busy.retain(|_, busy| busy.node != node);
        self.count(if loss == Loss::Nothing { "killed" } else { "power-lost" });
        // Done and not flushed by whoever served: the next server may have it or not.
        if self.server.is_some_and(|server| server.node == node) {
            self.done.clear();
        }
        if std::mem::take(&mut self.resyncing) {
            self.count("resync-interrupted");
        }
    }

    pub fn begin(&mut self, busy: Busy) -> u64 {
        self.next_busy += 1;
        self.busy.insert(self.next_busy, busy);
        self.next_busy
    }

    /// The operation returned; `written`: done, block by block.
    pub fn end(&mut self, ticket: u64, written: Option<&[Option<Digest>]>) {
        let Some(busy) = self.busy.remove(&ticket) else { return };
        if self.server != Some(Owner { node: busy.node, life: busy.life }) {
            return;
        }
        for (index, digest) in written.into_iter().flatten().enumerate() {
            self.version += 1;
            self.done.insert(busy.first + index as u64, (self.version, *digest));
        }
    }

    pub fn is_busy(&self, block: u64) -> bool {
        self.busy.values().any(|busy| (busy.first..busy.first + busy.count).contains(&block))
    }

    /// The operator has an old state served: what was acknowledged under later records is given up.
    pub fn give_up(&mut self, model: Model, registers: Registers) {
        (self.model, self.registers) = (model, registers);
        self.done.clear();
        (self.server, self.acked) = (None, None);
    }

    /// Promise 1: acknowledgements come from one node under one record, and never from an older one.
    pub fn acknowledged(&mut self, node: usize, record: Record) -> Option<String> {
        let by = usize::from(record.primary.index());
        if by != node {
            return Some(format!(
                "I1: node {node} acknowledged under {record:?}, whose primary is the other"
            ));
        }
        match self.acked {
            Some((v, other)) if other != node && v >= record.v => {
                let other = super::world::NAMES[other];
                return Some(format!(
                    "I1: {other} acknowledged under record {v}, the peer under {}",
                    record.v
                ));
            }
            _ => {}
        }
        if self.acked.is_none_or(|(v, _)| v < record.v) {
            self.acked = Some((record.v, node));
        }
        None
    }
}

/// Single blocks, each written by one writer after another with values that never repeat.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    /// block -> values issued since the last one acknowledged as stable, which is the first.
    values: BTreeMap<u64, Vec<u64>>,
    /// block -> the newest value whose write returned.
    done: BTreeMap<u64, u64>,
    torn: BTreeSet<u64>,
    next: u64,
}

impl Registers {
    pub fn issue(&mut self, block: BlockNo) -> u64 {
        self.next += 1;
        self.values.entry(block.0).or_insert_with(|| vec![0]).push(self.next);
        self.next
    }

    /// The write of `value` returned.
    pub fn done(&mut self, block: BlockNo, value: u64) {
        self.torn.remove(&block.0);
        self.done.insert(block.0, value);
    }

    /// What a read must give while nothing is being written there; `None` = torn, until it is written again.
    pub fn newest(&self, block: BlockNo) -> Option<u64> {
        if self.torn.contains(&block.0) { None } else { Some(self.done.get(&block.0).copied().unwrap_or(0)) }
    }

    /// A node starts to serve and reads sectors of different values: right only where a write that nobody flushed may
    /// have been torn on every member.
    pub fn found_torn(&mut self, block: BlockNo, sectors: &[u64]) -> Result<(), String> {
        let values = self.values.entry(block.0).or_insert_with(|| vec![0]);
        if sectors.iter().all(|sector| values.contains(sector)) {
            self.torn.insert(block.0);
            self.done.remove(&block.0);
            return Ok(());
        }
        Err(format!("I3: block {} holds sectors {sectors:?}, may hold {values:?}", block.0))
    }

    /// `value` was done before a flush that was acknowledged.
    pub fn stable(&mut self, block: u64, value: u64) {
        if let Some(values) = self.values.get_mut(&block)
            && let Some(at) = values.iter().position(|v| *v == value)
        {
            values.drain(..at);
        }
    }

    /// What is done now: what a flush that begins now will make stable.
    pub fn snapshot(&self) -> Vec<(u64, u64)> {
        self.done.iter().map(|(block, value)| (*block, *value)).collect()
    }

    /// A node starts to serve and reads this value: it must be one that may be found.
    pub fn found(&mut self, block: BlockNo, value: u64) -> Result<(), String> {
        let values = self.values.entry(block.0).or_insert_with(|| vec![0]);
        match values.iter().position(|v| *v == value) {
            Some(at) => {
                values.truncate(at + 1);
                self.torn.remove(&block.0);
                self.done.insert(block.0, value);
                Ok(())
            }
            None => Err(format!("I3: block {} holds value {value}, may hold {values:?}", block.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Members, NodeId};

    #[test]
    fn an_acknowledgement_under_an_older_record_is_seen() {
        let mut oracle = Oracle::default();
        let record = |v, primary| Record { v, members: Members::BOTH, primary };
        assert_eq!(oracle.acknowledged(0, record(1, NodeId::A)), None);
        assert_eq!(oracle.acknowledged(1, record(2, NodeId::B)), None);
        assert!(oracle.acknowledged(0, record(1, NodeId::A)).is_some());
        assert!(oracle.acknowledged(0, record(3, NodeId::B)).is_some());
    }

    #[test]
    fn a_register_may_hold_what_came_after_its_last_stable_value_and_nothing_else() {
        let mut registers = Registers::default();
        let block = BlockNo(5);
        let (one, two) = (registers.issue(block), registers.issue(block));
        assert!(registers.clone().found(block, 0).is_ok());
        registers.stable(5, one);
        assert!(registers.clone().found(block, 0).is_err(), "lost");
        assert!(registers.clone().found(block, two).is_ok());
        registers.found(block, one).unwrap();
        assert!(registers.found(block, two).is_err(), "came back");
    }
}
