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
        apart: crate::format::Apart::default(),
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

#[test]
fn a_record_of_another_copy_of_this_node_is_not_this_copys() {
    let mine = state(record(1, Members::BOTH), vec![entry(1, 1, GenReason::Made)]);
    let mut gens = mine.gens.clone();
    gens.push(GenEntry { minted_by: NodeId::B, ..entry(2, 2, GenReason::WentSolo) });
    let both = witness_record(record(3, Members::BOTH), &gens, 0);
    assert_eq!(standing(NodeId::A, &mine, &both), Standing::Other);
    gens.push(entry(3, 4, GenReason::WentSolo));
    let alone = witness_record(record(4, Members::only(NodeId::A)), &gens, 0);
    assert_eq!(standing(NodeId::A, &mine, &alone), Standing::Other, "an old copy would serve");
}

#[test]
fn a_won_swap_is_recognised_when_the_oldest_generations_had_to_go() {
    let max = crate::base::limits::GENERATIONS_MAX as u64;
    let gens: Vec<GenEntry> = (1..=max).map(|n| entry(n.into(), n, GenReason::WentSolo)).collect();
    let mine = state(record(max, Members::BOTH), gens.clone());
    let next: Vec<GenEntry> =
        gens[1..].iter().copied().chain([entry(u128::from(max) + 1, max + 1, GenReason::WentSolo)]).collect();
    let shown = witness_record(record(max + 1, Members::only(NodeId::A)), &next, 0);
    assert!(matches!(standing(NodeId::A, &mine, &shown), Standing::Own { .. }));
}
