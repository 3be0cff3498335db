//! The activity log ring: every transaction that a reader needs is there. Without one, nobody knows any more which
//! extents were being written: a ring that says "none" replaces it, and every digest may be older than its block.

use std::collections::{BTreeMap, BTreeSet};

use twinfs::format::{BLOCK, RING_BLOCKS, STATEMENTS_MAX, Statement, Transaction};

use super::Parts;
use crate::findings::Findings;
use crate::source::Stale;

type Transactions = BTreeMap<u64, Transaction>;

impl Parts<'_> {
    pub(super) fn ring(&mut self, findings: &mut Findings) {
        let known = self.transactions(findings);
        let why = match complete(&known) {
            Ok(hot) => {
                self.hot = hot;
                return;
            }
            Err(why) => why,
        };
        let text = format!("{why}: which blocks were being written is lost, all digests are compared");
        findings.lose("activity log", text);
        self.stale = Stale::All;
        let newest = known.last_key_value().map_or(0, |(seq, _)| *seq);
        if let Err(error) = self.restart_ring(newest.saturating_add(RING_BLOCKS)) {
            findings.lose("activity log", error);
        }
    }

    fn transactions(&self, findings: &mut Findings) -> Transactions {
        let geometry = &self.sup.geometry;
        let (slots, blocks) = (geometry.al_slots, geometry.block_count());
        let mut known = Transactions::new();
        for place in 0..RING_BLOCKS {
            let mut bytes = vec![0; BLOCK as usize];
            if let Err(error) = self.disk.read_at(geometry.ring_at(place), &mut bytes) {
                findings.add("activity log", error.to_string());
            } else if let Ok(txn) = Transaction::decode(&bytes, self.label.incarnation, slots, blocks) {
                if txn.seq % RING_BLOCKS == place {
                    known.insert(txn.seq, txn);
                } else {
                    findings.add("activity log", format!("transaction {} lies at place {place}", txn.seq));
                }
            }
        }
        known
    }

    /// A group behind all others that says that no extent is hot.
    fn restart_ring(&self, first: u64) -> Result<(), String> {
        let slots = self.sup.geometry.al_slots;
        let free: Vec<Statement> = (0..slots).map(|slot| Statement { slot, extent: None }).collect();
        let len = free.len().div_ceil(STATEMENTS_MAX) as u32;
        let txn = |(seq, part): (u64, &[Statement])| Transaction {
            seq,
            first,
            len,
            low: first,
            statements: part.to_vec(),
            pairs: Vec::new(),
        };
        for txn in (first..).zip(free.chunks(STATEMENTS_MAX)).map(txn) {
            let at = self.sup.geometry.ring_at(txn.seq);
            self.disk.write_at(at, &txn.encode(self.label.incarnation)).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// The hot extents, if a reader finds everything that it needs.
fn complete(known: &Transactions) -> Result<BTreeSet<u64>, String> {
    let mut limit = u64::MAX;
    let (first, last, low) = loop {
        let Some((_, newest)) = known.range(..limit).next_back() else {
            return Err("no complete transaction".to_string());
        };
        let last = newest.first + u64::from(newest.len);
        let whole = (newest.first..last).all(|seq| known.get(&seq).is_some_and(|t| t.first == newest.first));
        if whole || newest.low != newest.first {
            break (newest.first, last, newest.low);
        }
        // A restart that was cut: what it would have said again is still there.
        limit = newest.first;
    };
    let missing = (low..first).filter(|seq| !known.contains_key(seq)).take(RING_BLOCKS as usize).count();
    if missing > 0 {
        return Err(format!("{missing} transactions are missing"));
    }
    let mut slots: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    for (_, txn) in known.range(low..last).filter(|(seq, txn)| **seq < first || txn.first == first) {
        slots.extend(txn.statements.iter().map(|statement| (statement.slot, statement.extent)));
    }
    let hot: BTreeSet<u64> = slots.values().flatten().copied().collect();
    let held = slots.values().flatten().count();
    if hot.len() == held { Ok(hot) } else { Err("two slots hold one extent".to_string()) }
}
