//! What was found rotten: told once, counted, and shown until it is whole again.
//!
//! Decides when a disk rots too much to be worth repairs; nothing about the repairs themselves, and reads nothing.
//! Invariant: a block counts as lost until it is repaired or gets a new content.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::BlockNo;
use crate::node::{Event, Finding, Notice, Order, Trouble};
use crate::wire::Run;

use super::Mirror;

/// Blocks told one by one; a dying disk has more, and they are counted.
const TOLD_MAX: u64 = 256;

/// A block of this disk that rots so often, since the start, was repaired in vain: the medium does not keep it.
const SAME_MAX: u32 = 3;
/// So many different blocks are more than an accident: 16 MiB.
const ROTTEN_MAX: usize = 4096;

/// What was found since the start.
#[derive(Clone, Debug, Default)]
pub struct Rot {
    pub repaired: u64,
    lost: BTreeSet<BlockNo>,
    /// How often each block of this disk was found rotten.
    own: BTreeMap<BlockNo, u32>,
    told: u64,
}

impl Rot {
    /// Whether this is news.
    fn note(&mut self, finding: &Finding) -> bool {
        self.repaired += u64::from(finding.repaired);
        if finding.trouble == Trouble::Rotten {
            *self.own.entry(finding.block).or_default() += 1;
        }
        match finding.trouble {
            Trouble::Lost => self.lost.insert(finding.block),
            _ => {
                self.lost.remove(&finding.block);
                true
            }
        }
    }

    /// Repairing goes on for ever: as of the newest finding, this block.
    fn is_hopeless(&self, block: BlockNo) -> bool {
        self.own.len() > ROTTEN_MAX || self.own.get(&block).is_some_and(|times| *times >= SAME_MAX)
    }

    /// These blocks get a new content.
    pub(super) fn written(&mut self, run: Run) {
        if !self.lost.is_empty() {
            self.lost.retain(|block| *block < run.first || block.0 >= run.first.0 + run.count);
        }
    }
}

impl Mirror {
    /// Notes a finding and tells it.
    pub(super) fn found(&self, finding: Finding) {
        let (tell, hopeless) = {
            let rot = &mut self.lock().rot;
            let new = rot.note(&finding);
            rot.told += u64::from(new);
            (new && rot.told <= TOLD_MAX, rot.is_hopeless(finding.block))
        };
        if tell {
            self.env.order(Order::Tell(Notice::Found(finding)));
        }
        if finding.trouble == Trouble::Rotten && hopeless {
            self.deliver(Event::DiskRots);
        }
    }

    /// Blocks repaired since the start, and those that no copy has any more.
    pub fn rot(&self) -> (u64, Vec<BlockNo>) {
        let core = self.lock();
        (core.rot.repaired, core.rot.lost.iter().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotten(block: u64) -> Finding {
        Finding { block: BlockNo(block), trouble: Trouble::Rotten, repaired: true }
    }

    #[test]
    fn a_disk_is_hopeless_when_a_block_rots_again_and_again_or_very_many_do() {
        let mut rot = Rot::default();
        for times in 1..=SAME_MAX {
            rot.note(&rotten(7));
            rot.note(&rotten(8 + u64::from(times)));
            rot.note(&Finding { trouble: Trouble::RottenAtPeer, ..rotten(99) });
            assert_eq!(rot.is_hopeless(BlockNo(7)), times == SAME_MAX);
            assert!(!rot.is_hopeless(BlockNo(8 + u64::from(times))));
        }
        assert!(!rot.is_hopeless(BlockNo(99)), "that is the peer's disk");
        let mut rot = Rot::default();
        for block in 0..ROTTEN_MAX as u64 {
            rot.note(&rotten(block));
            assert!(!rot.is_hopeless(BlockNo(block)));
        }
        rot.note(&rotten(1 << 30));
        assert!(rot.is_hopeless(BlockNo(1 << 30)));
    }
}
