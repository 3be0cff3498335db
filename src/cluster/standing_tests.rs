//! Each answer of the witness means one thing.

use super::*;
use crate::base::{Generation, Members, VolumeId};
use crate::format::ResyncMark;

fn entry(id: u128, at_v: u64, reason: GenReason) -> GenEntry {
    GenEntry { id: Generation(id), minted_by: NodeId::A, at_v, reason, first_txn: 0 }
}

fn state(record: Record, gens: Vec<GenEntry>) -> State {
    State {
        volume: VolumeId(1),
        node: NodeId::A,
        incarnation: 1,
        record: Some(record),
        gens,
        bitmap_base: Generation(1),
        full: false,
        resync: ResyncMark::None,
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: vec![],
        diverged: false,
        witness_incarnation: 0,
    }
}

fn record(v: u64, members: Members) -> Record {
    Record { v, members, primary: NodeId::A }
}

#[test]
fn a_witness_one_step_behind_a_join_is_told_and_any_other_that_is_behind_is_suspect() {
    let gens = vec![entry(1, 1, GenReason::Made)];
    let mine = state(record(5, Members::BOTH), gens.clone());
    let shown = |v, members| witness_record(record(v, members), &gens, 0);
    assert_eq!(standing(NodeId::A, &mine, &shown(5, Members::BOTH)), Standing::InStep);
    assert_eq!(standing(NodeId::A, &mine, &shown(4, Members::only(NodeId::A))), Standing::Lags);
    assert!(matches!(standing(NodeId::A, &mine, &shown(3, Members::BOTH)), Standing::Suspect(_)));
    assert!(matches!(standing(NodeId::A, &mine, &shown(4, Members::only(NodeId::B))), Standing::Suspect(_)));
}

#[test]
fn a_won_swap_that_was_never_stored_is_recognised_by_its_lineage() {
    let gens = vec![entry(1, 1, GenReason::Made)];
    let mine = state(record(5, Members::BOTH), gens.clone());
    let mut next = gens;
    next.push(entry(2, 6, GenReason::WentSolo));
    let shown = witness_record(record(6, Members::only(NodeId::A)), &next, 0);
    let expected = Standing::Own { record: record(6, Members::only(NodeId::A)), entry: next[1] };
    assert_eq!(standing(NodeId::A, &mine, &shown), expected);
    let other = witness_record(record(6, Members::only(NodeId::B)), &next, 0);
    assert_eq!(standing(NodeId::A, &mine, &other), Standing::Out(other.record));
}
