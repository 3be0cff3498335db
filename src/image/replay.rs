//! What the activity log ring says after a crash: which extents are hot, which digests are certain, which are the last
//! flush's and may or may not have become stable.
//!
//! Pure. Invariant: a transaction that a reader needs and does not find is an error, never a shorter list.

use std::collections::BTreeMap;

use crate::base::{ExtentNo, FastMap};
use crate::format::{BlockRec, Damage, Pair, Transaction};

/// The ring, read.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub next_seq: u64,
    pub low: u64,
    /// Extent of each slot.
    pub slots: Vec<Option<u64>>,
    /// Newest record of each block of groups whose flush has returned.
    pub certain: BTreeMap<u64, BlockRec>,
    /// Records of the last group.
    pub last: BTreeMap<u64, BlockRec>,
}

pub(super) fn replay(found: Vec<Transaction>, slots: usize) -> Result<Replay, Damage> {
    let txns: BTreeMap<u64, Transaction> = found.into_iter().map(|txn| (txn.seq, txn)).collect();
    let mut limit = u64::MAX;
    let (first, len, low) = loop {
        let (_, newest) =
            txns.range(..limit).next_back().ok_or(Damage("no transaction in the activity log"))?;
        let (first, len, low) = (newest.first, u64::from(newest.len), newest.low);
        let complete = (first..first + len).all(|seq| txns.get(&seq).is_some_and(|txn| txn.first == first));
        if low == first && !complete {
            // A restart that was cut: what it restated is still there.
            limit = first;
            continue;
        }
        break (first, len, low);
    };
    if (low..first).any(|seq| !txns.contains_key(&seq)) {
        return Err(Damage("a needed transaction of the activity log is missing"));
    }
    let mut replay = Replay { next_seq: first + len, low, slots: vec![None; slots], ..Replay::default() };
    for (seq, txn) in txns.range(low..first + len) {
        if *seq >= first && txn.first != first {
            continue;
        }
        for statement in &txn.statements {
            replay.slots[statement.slot as usize] = statement.extent;
        }
        let target = if *seq < first { &mut replay.certain } else { &mut replay.last };
        for pair in &txn.pairs {
            match pair {
                Pair::Written { block, digest } => {
                    target.insert(*block, BlockRec::Written(*digest));
                }
                Pair::Discarded { block, count } => {
                    target.extend((*block..*block + *count).map(|b| (b, BlockRec::Unwritten)));
                }
            }
        }
    }
    let mut seen: FastMap<u64, usize> = FastMap::default();
    for (slot, extent) in replay.slots.iter().enumerate() {
        if extent.is_some_and(|extent| seen.insert(extent, slot).is_some()) {
            return Err(Damage("two slots of the activity log hold one extent"));
        }
    }
    let is_hot = |block: &u64| seen.contains_key(&(block / ExtentNo::BLOCKS));
    replay.certain.retain(|block, _| is_hot(block));
    replay.last.retain(|block, _| is_hot(block));
    Ok(replay)
}
