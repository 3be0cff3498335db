//! What was found rotten: told once, counted, and shown until it is whole again.
//!
//! Decides nothing about repairs and reads nothing. Invariant: a block counts as lost until it is repaired or gets a
//! new content.

use std::collections::BTreeSet;

use crate::base::BlockNo;
use crate::node::{Finding, Notice, Order, Trouble};
use crate::wire::Run;

use super::Mirror;

/// Blocks told one by one; a dying disk has more, and they are counted.
const TOLD_MAX: u64 = 256;

/// What was found since the start.
#[derive(Clone, Debug, Default)]
pub struct Rot {
    pub repaired: u64,
    lost: BTreeSet<BlockNo>,
    told: u64,
}

impl Rot {
    /// Whether this is news.
    fn note(&mut self, finding: &Finding) -> bool {
        self.repaired += u64::from(finding.repaired);
        match finding.trouble {
            Trouble::Lost => self.lost.insert(finding.block),
            _ => {
                self.lost.remove(&finding.block);
                true
            }
        }
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
        let tell = {
            let rot = &mut self.lock().rot;
            let new = rot.note(&finding);
            rot.told += u64::from(new);
            new && rot.told <= TOLD_MAX
        };
        if tell {
            self.env.order(Order::Tell(Notice::Found(finding)));
        }
    }

    /// Blocks repaired since the start, and those that no copy has any more.
    pub fn rot(&self) -> (u64, Vec<BlockNo>) {
        let core = self.lock();
        (core.rot.repaired, core.rot.lost.iter().copied().collect())
    }
}
