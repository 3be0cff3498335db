//! The ruling as a table, and that both nodes come to the same one.

use super::*;
use crate::base::{Members, Record, VolumeId};
use crate::format::{GenEntry, GenReason, ResyncMark};

fn hello(node: NodeId, ids: &[u128]) -> Hello {
    let entry = |id: &u128| GenEntry {
        id: Generation(*id),
        minted_by: node,
        at_v: 1,
        reason: GenReason::WentSolo,
        first_txn: 0,
    };
    Hello {
        features: crate::wire::FEATURES,
        volume: VolumeId(1),
        node,
        incarnation: 1,
        boot_epoch: 1,
        nonce: 0,
        process: 0,
        blocks: 1,
        record: Some(Record { v: 2, members: Members::only(node), primary: node }),
        gens: ids.iter().map(entry).collect(),
        bitmap_base: Generation(1),
        full: false,
        resync: ResyncMark::None,
        retired: vec![],
        marks: true,
        hot: true,
        serving: true,
        pending: false,
        last_session: None,
    }
}

fn note(policy: AfterSplit) -> SplitNote {
    SplitNote {
        turn: 0,
        policy,
        head: Generation(0),
        led: false,
        serving: true,
        changed: Some(5),
        verdict: None,
    }
}

fn verdict(number: u64, winner: NodeId) -> Verdict {
    Verdict { number, winner, heads: [Generation(10), Generation(20)], done: 0 }
}

/// The ruling of both nodes, which must be one.
fn judged(a: SplitNote, b: SplitNote) -> Ruling {
    later((a, a), (b, b))
}

fn later(mut a: (SplitNote, SplitNote), mut b: (SplitNote, SplitNote)) -> Ruling {
    for note in [&mut a.0, &mut a.1, &mut b.0, &mut b.1] {
        assert_eq!(note.head, Generation(0), "it is filled in here");
    }
    (a.0.head, a.1.head, b.0.head, b.1.head) =
        (Generation(10), Generation(10), Generation(20), Generation(20));
    let (x, y) = (hello(NodeId::A, &[1, 10]), hello(NodeId::B, &[1, 20]));
    let left = Side { hello: &x, first: &a.0, note: &a.1 };
    let right = Side { hello: &y, first: &b.0, note: &b.1 };
    assert_eq!(ruling(&left, &right), ruling(&right, &left), "the nodes disagree");
    ruling(&left, &right)
}

fn winner(ruling: Ruling) -> Option<NodeId> {
    match ruling {
        Ruling::Decided(verdict) => Some(verdict.winner),
        _ => None,
    }
}

#[test]
fn every_policy_decides_what_it_says_and_nothing_that_is_not_certain() {
    use AfterSplit::{KeepMostChanges, KeepNewer, KeepNode, KeepOlder, KeepServing, Manual};
    let (a, b) = (Some(NodeId::A), Some(NodeId::B));
    // policy, (serving, led, changed) of A and of B, who wins
    type Facts = (bool, bool, Option<u64>);
    let table: &[(AfterSplit, Facts, Facts, Option<NodeId>)] = &[
        (Manual, (true, true, Some(9)), (false, false, Some(0)), None),
        (KeepNode(NodeId::B), (true, true, Some(9)), (false, false, Some(0)), b),
        (KeepNode(NodeId::A), (false, false, None), (true, true, None), a),
        (KeepServing, (true, false, None), (false, true, None), a),
        (KeepServing, (false, true, None), (true, false, None), b),
        (KeepServing, (true, true, None), (true, false, None), None),
        (KeepServing, (false, true, None), (false, false, None), None),
        (KeepOlder, (false, true, None), (true, false, None), a),
        (KeepOlder, (true, true, None), (true, true, None), None),
        (KeepOlder, (true, false, None), (true, false, None), None),
        (KeepNewer, (false, true, None), (true, false, None), b),
        (KeepNewer, (true, false, None), (false, true, None), a),
        (KeepNewer, (true, true, None), (false, true, None), None),
        (KeepMostChanges, (false, false, Some(7)), (true, true, Some(6)), a),
        (KeepMostChanges, (true, true, Some(6)), (false, false, Some(7)), b),
        (KeepMostChanges, (true, true, Some(7)), (false, false, Some(7)), None),
        (KeepMostChanges, (true, true, None), (false, false, Some(7)), None),
        (KeepMostChanges, (true, true, Some(1)), (false, false, None), None),
    ];
    for (policy, x, y, expected) in table {
        let side =
            |facts: &Facts| SplitNote { serving: facts.0, led: facts.1, changed: facts.2, ..note(*policy) };
        assert_eq!(winner(judged(side(x), side(y))), *expected, "{policy:?} {x:?} {y:?}");
    }
    let mixed = judged(note(KeepNode(NodeId::A)), note(KeepNode(NodeId::B)));
    assert!(matches!(mixed, Ruling::Open(why) if why.contains("differs")));
}

#[test]
fn a_decision_stands_above_the_policy_and_a_newer_one_above_it() {
    let keep_b = AfterSplit::KeepNode(NodeId::B);
    let said = |number, who| SplitNote { verdict: Some(verdict(number, who)), ..note(keep_b) };
    assert_eq!(judged(said(1, NodeId::A), note(keep_b)), Ruling::Decided(verdict(1, NodeId::A)));
    assert_eq!(judged(said(1, NodeId::A), said(1, NodeId::A)), Ruling::Decided(verdict(1, NodeId::A)));
    assert_eq!(judged(said(1, NodeId::A), said(1, NodeId::B)), Ruling::Conflict);
    assert_eq!(judged(said(2, NodeId::A), said(1, NodeId::B)), Ruling::Decided(verdict(2, NodeId::A)));
    assert_eq!(judged(said(2, NodeId::A), said(3, NodeId::B)), Ruling::Decided(verdict(3, NodeId::B)));
    // How far a node is changes nothing.
    let done = SplitNote { verdict: Some(Verdict { done: 77, ..verdict(1, NodeId::A) }), ..note(keep_b) };
    assert_eq!(judged(said(1, NodeId::A), done), Ruling::Decided(verdict(1, NodeId::A)));
    assert_eq!(next_number(&Some(verdict(4, NodeId::A)), &Some(verdict(9, NodeId::B))), 10);
}

#[test]
fn a_decision_about_other_copies_counts_for_nothing() {
    let with = |heads: [u128; 2]| {
        let stale = Verdict { heads: heads.map(Generation), ..verdict(5, NodeId::A) };
        SplitNote { verdict: Some(stale), ..note(AfterSplit::Manual) }
    };
    let open = |note_a| matches!(judged(note_a, note(AfterSplit::Manual)), Ruling::Open(_));
    assert!(open(with([10, 21])), "the losing copy is another one");
    assert!(open(with([11, 20])), "the winning copy never was that one");
    assert!(!open(with([10, 20])));
    assert!(!open(with([1, 20])), "the winning copy continues the one that was meant");
    // And a policy numbers its decision above it.
    let stale = with([10, 21]);
    let note_a = SplitNote { policy: AfterSplit::KeepNode(NodeId::A), ..stale };
    let ruled = judged(note_a, note(AfterSplit::KeepNode(NodeId::A)));
    assert_eq!(ruled, Ruling::Decided(verdict(6, NodeId::A)));
}

#[test]
fn a_policy_judges_the_first_notes_whatever_is_said_later() {
    let first = |serving| SplitNote { serving, ..note(AfterSplit::KeepServing) };
    let stopped = SplitNote { turn: 1, serving: false, ..first(true) };
    let ruled = later((first(true), stopped), (first(false), first(false)));
    assert_eq!(winner(ruled), Some(NodeId::A));
    let ruled = later((first(true), stopped), (first(true), first(true)));
    assert!(matches!(ruled, Ruling::Open(_)), "both served when they met");
}
