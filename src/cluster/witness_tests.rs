//! The first swap wins, is repeated safely, and never goes back.

use super::*;
use crate::base::{Generation, Members, Record};

const V: VolumeId = VolumeId(1);

fn shown(v: u64, members: Members, nonce: u128) -> WitnessRecord {
    let record = Record { v, members, primary: NodeId::A };
    WitnessRecord { record, head: Generation(1), lineage: u128::from(v), nonce }
}

fn enrolled() -> Witness {
    let mut witness = Witness::new(WitnessImage { incarnation: 9, records: BTreeMap::new() });
    let request = WitnessRequest::Enrol { record: shown(1, Members::BOTH, 0), sole: false };
    assert_eq!(witness.answer(V, NodeId::A, &request).0, WitnessReply::Waiting { incarnation: 9 });
    assert!(witness.answer(V, NodeId::B, &request).1);
    witness
}

fn cas(expect: u64, next: WitnessRecord) -> WitnessRequest {
    WitnessRequest::Cas { expect_v: expect, expect_lineage: u128::from(expect), next }
}

#[test]
fn the_first_swap_wins_and_its_repetition_is_answered_the_same() {
    let mut witness = enrolled();
    let mine = cas(1, shown(2, Members::only(NodeId::A), 5));
    let theirs = cas(1, shown(2, Members::only(NodeId::B), 6));
    assert_eq!(witness.answer(V, NodeId::A, &mine), (WitnessReply::Won { incarnation: 9 }, true));
    assert_eq!(witness.answer(V, NodeId::A, &mine), (WitnessReply::Won { incarnation: 9 }, false));
    assert!(matches!(witness.answer(V, NodeId::B, &theirs).0, WitnessReply::Conflict { .. }));
}

#[test]
fn a_record_never_goes_back() {
    let mut witness = enrolled();
    witness.answer(V, NodeId::A, &cas(1, shown(3, Members::BOTH, 5)));
    let back = cas(3, shown(2, Members::only(NodeId::B), 6));
    assert!(matches!(witness.answer(V, NodeId::B, &back).0, WitnessReply::Conflict { .. }));
}

#[test]
fn a_forgotten_volume_needs_both_nodes_or_its_only_member() {
    let mut witness = Witness::new(WitnessImage { incarnation: 8, records: BTreeMap::new() });
    assert_eq!(
        witness.answer(V, NodeId::A, &WitnessRequest::Read).0,
        WitnessReply::Unknown { incarnation: 8 }
    );
    let swap = cas(1, shown(2, Members::only(NodeId::A), 5));
    assert_eq!(witness.answer(V, NodeId::A, &swap).0, WitnessReply::Unknown { incarnation: 8 });
    let both = WitnessRequest::Enrol { record: shown(4, Members::BOTH, 0), sole: true };
    assert_eq!(witness.answer(V, NodeId::A, &both).0, WitnessReply::Waiting { incarnation: 8 });
    let sole = WitnessRequest::Enrol { record: shown(4, Members::only(NodeId::B), 0), sole: true };
    assert!(
        matches!(witness.answer(V, NodeId::A, &sole).0, WitnessReply::Waiting { .. }),
        "B's record, asked by A"
    );
    assert!(witness.answer(V, NodeId::B, &sole).1);
}
