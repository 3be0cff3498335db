//! How a node stands to the record that the witness shows.
//!
//! Decides what an answer of the witness means for this copy. Invariant: a copy whose lineage is not the witness's
//! is never told that it may go on.

use crate::base::{NodeId, Record, limits};
use crate::format::{GenEntry, GenReason, State};
use crate::wire::{WitnessRecord, lineage_hash};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The witness shows exactly what is stored here.
    InStep,
    /// The witness has not heard of the last step (join, handover, or a forced one) yet: it may be told.
    Lags,
    /// The same lineage under a higher record that still names this node: it was cut before storing it.
    Adopt(Record),
    /// A swap of this very node succeeded and was never stored.
    Own { record: Record, entry: GenEntry },
    /// This node is out.
    Out(Record),
    /// The witness names this node as a member of a history that this copy does not have: another copy is meant.
    Other,
    /// Impossible by the protocol: a witness that forgot, or was moved back.
    Suspect(&'static str),
}

/// The witness record that corresponds to a stored (or about to be stored) state.
pub fn witness_record(record: Record, gens: &[GenEntry], nonce: u128) -> WitnessRecord {
    let head = gens.last().map(|entry| entry.id).unwrap_or_default();
    WitnessRecord { record, head, lineage: lineage_hash(gens), nonce }
}

/// Compares what is stored here with what the witness shows.
pub fn standing(me: NodeId, state: &State, shown: &WitnessRecord) -> Standing {
    let Some(mine) = state.record else {
        return Standing::Out(shown.record);
    };
    let same_lineage = shown.lineage == lineage_hash(&state.gens);
    if same_lineage && shown.record == mine {
        return Standing::InStep;
    }
    if shown.record.v < mine.v {
        let one_behind = shown.record.v + 1 == mine.v && shown.record.members.contains(me);
        // The operator gave up what the witness names.
        let word = mine.members.solo() == Some(me)
            && state.gens.last().is_some_and(|entry| entry.reason == GenReason::WentBack);
        let forced = state.gens.last().is_some_and(|entry| entry.reason == GenReason::Forced)
            && (0..state.gens.len()).any(|n| lineage_hash(&state.gens[..n]) == shown.lineage);
        return if (same_lineage && one_behind && mine.members.solo().is_none()) || forced || word {
            Standing::Lags
        } else {
            Standing::Suspect("the witness shows an older record than this node stored: it was moved back")
        };
    }
    if !shown.record.members.contains(me) {
        return Standing::Out(shown.record);
    }
    if same_lineage && shown.record.v > mine.v {
        return Standing::Adopt(shown.record);
    }
    for reason in [GenReason::WentSolo, GenReason::Forced, GenReason::PeerDisk] {
        let entry = GenEntry { id: shown.head, minted_by: me, at_v: shown.record.v, reason, first_txn: 0 };
        let mut gens = state.gens.clone();
        gens.push(entry);
        // As whoever stores it keeps them.
        let surplus = gens.len().saturating_sub(limits::GENERATIONS_MAX);
        gens.drain(..surplus);
        if lineage_hash(&gens) == shown.lineage && shown.record.members.solo() == Some(me) {
            return Standing::Own { record: shown.record, entry };
        }
    }
    if shown.record.v > mine.v {
        // Never to be stored here: it may name this node alone, and mean the copy that took this one's place.
        return Standing::Other;
    }
    Standing::Suspect("the witness shows another record under the number that this node stored")
}

#[cfg(test)]
#[path = "standing_tests.rs"]
mod tests;
