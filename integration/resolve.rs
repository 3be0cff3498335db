//! The end of a split brain, on the production machines: one side is kept whole, the other one is put aside before a
//! byte of it changes, whatever dies in between.

mod pair;

use pair::{A, B, BLOCKS, World};
use twinfs::base::{AfterSplit, NodeId};
use twinfs::format::{Apart, ResyncMark};
use twinfs::node::{Arbitration, Mutations, Operator, Role, StateWord};
use twinfs::wire::{FEATURES, Kind, feature};

const IDS: [NodeId; 2] = [NodeId::A, NodeId::B];

/// Two copies that both were written while apart, and have not met since.
struct Split {
    w: World,
    /// What each side held when they met.
    held: [Vec<u32>; 2],
}

fn apart_with(arbitration: Arbitration, policy: AfterSplit, mutations: Mutations) -> Split {
    let mut w = World::whole(arbitration, mutations);
    w.config.after_split = policy;
    for n in [A, B] {
        w.crash(n, true);
    }
    for n in [A, B] {
        w.boot(n);
    }
    w.connect();
    w.run(3_000);
    w.write(A, Kind::WriteFlush, 0);
    w.settle();
    w.part();
    w.witness_cut[B] = true;
    w.run(20_000);
    assert!(w.mounted[A], "{}", w.why());
    w.write(A, Kind::WriteFlush, 1);
    w.settle();
    w.operator(B, Operator::Promote { peer_is_down: true });
    w.run(10_000);
    assert!(w.mounted[B], "{}", w.why());
    w.broken = None;
    // B changes more blocks than A, and one that A changed as well.
    for block in [1, 2] {
        w.write(B, Kind::WriteFlush, block);
        w.settle();
    }
    w.broken = None;
    let held = [w.disks[A].cur.clone(), w.disks[B].cur.clone()];
    assert_ne!(held[A], held[B]);
    w.witness_cut[B] = false;
    Split { w, held }
}

fn apart(policy: AfterSplit) -> Split {
    apart_with(Arbitration::Manual, policy, Mutations::default())
}

impl Split {
    fn met(policy: AfterSplit) -> Split {
        let mut split = apart(policy);
        split.w.connect();
        split.w.run(2_000);
        split
    }

    /// Both serve and are what they were.
    fn assert_open(&self) {
        let w = &self.w;
        assert_eq!((w.word(A), w.word(B)), (StateWord::Diverged, StateWord::Diverged), "{}", w.why());
        assert_eq!([&w.disks[A].cur, &w.disks[B].cur], [&self.held[A], &self.held[B]], "{}", w.why());
        assert!(w.disks.iter().all(|disk| disk.kept.is_empty() && disk.state.apart.verdict.is_none()));
    }

    /// No byte of the losing side is another one before all of them are put aside.
    fn check(&self, winner: usize) -> Result<(), String> {
        let loser = &self.w.disks[1 - winner];
        let kept = loser.kept.contains(&self.held[1 - winner]);
        let changed = loser.cur != self.held[1 - winner] || loser.state.resync != ResyncMark::None;
        if changed && !kept {
            return Err(format!("the losing side is overwritten: {:?}", loser.cur));
        }
        let serving = |n: usize| self.w.nodes[n].as_ref().is_some_and(|node| node.view().serving);
        if serving(1 - winner) && changed {
            return Err("the losing side serves what was overwritten".to_string());
        }
        Ok(())
    }

    /// The winner's copy is on both nodes, whole, and served by it; the other one's is put aside.
    fn assert_ended(&mut self, winner: usize) {
        self.w.run(3_000);
        self.w.broken = None;
        self.w.assert_in_sync();
        let w = &self.w;
        assert_eq!(w.disks[A].cur, self.held[winner], "{}", w.why());
        assert_eq!(self.check(winner), Ok(()));
        assert!(w.disks[1 - winner].kept.contains(&self.held[1 - winner]), "{}", w.why());
        assert!(w.disks[winner].kept.is_empty(), "the winner's copy was put aside");
        assert!(w.mounted[winner] && !w.mounted[1 - winner], "{}", w.why());
        for disk in &w.disks {
            assert_eq!((disk.state.diverged, disk.state.apart), (false, Apart::default()));
        }
        assert_eq!(w.disks[A].state.gens, w.disks[B].state.gens);
        // And it goes on as a pair.
        let op = self.w.write(winner, Kind::WriteFlush, 0);
        self.w.settle();
        assert!(self.w.is_done(op), "{}", self.w.why());
        assert_eq!(self.w.disks[A].cur, self.w.disks[B].cur);
    }

    /// One thing after the other happens until `reached`; a link that was given up comes back.
    fn until(&mut self, reached: impl Fn(&World) -> bool) {
        for _ in 0..2_000 {
            if reached(&self.w) {
                return;
            }
            let moved = [A, B].into_iter().any(|n| self.w.pay(n) || self.w.deliver(n));
            if !moved {
                self.w.connect();
                self.w.jump(A, 50);
                self.w.jump(B, 50);
            }
        }
        panic!("it is never reached: {}", self.w.why());
    }

    fn role(&self, n: usize) -> Role {
        self.w.node(n).view().role
    }
}

#[test]
fn every_policy_ends_a_split_for_the_side_that_it_says() {
    for (policy, winner) in [
        (AfterSplit::KeepNode(NodeId::A), A),
        (AfterSplit::KeepNode(NodeId::B), B),
        // A was the primary when the cable was cut.
        (AfterSplit::KeepOlder, A),
        (AfterSplit::KeepNewer, B),
        (AfterSplit::KeepMostChanges, B),
    ] {
        let mut split = Split::met(policy);
        split.assert_ended(winner);
    }
}

#[test]
fn keep_serving_waits_until_one_side_only_serves() {
    for restarted in [A, B] {
        let mut split = Split::met(AfterSplit::KeepServing);
        split.assert_open();
        split.w.crash(restarted, true);
        split.w.boot(restarted);
        split.w.connect();
        split.assert_ended(1 - restarted);
    }
}

#[test]
fn a_person_ends_a_split_for_either_side_from_either_node() {
    for winner in [A, B] {
        for told in [A, B] {
            let mut split = Split::met(AfterSplit::Manual);
            split.assert_open();
            split.w.operator(told, Operator::Keep(IDS[winner]));
            split.assert_ended(winner);
        }
    }
}

#[test]
fn a_power_cut_or_a_cut_cable_at_any_step_loses_nothing_and_it_goes_on() {
    let mut ends = 0;
    for winner in [A, B] {
        for victim in [Some(A), Some(B), None] {
            for keep in [false, true] {
                for cut_after in 0.. {
                    let mut split = Split::met(AfterSplit::Manual);
                    split.w.operator(1 - winner, Operator::Keep(IDS[winner]));
                    let mut moved = true;
                    for _ in 0..cut_after {
                        moved = [A, B].into_iter().any(|n| split.w.pay(n) || split.w.deliver(n));
                        if !moved && split.w.link.is_none() {
                            split.w.connect();
                            moved = true;
                        }
                        split.check(winner).unwrap_or_else(|why| panic!("{why}\n{}", split.w.why()));
                    }
                    match victim {
                        Some(n) => split.w.crash(n, keep),
                        None => split.w.cut_link(),
                    }
                    if let Some(n) = victim {
                        split.w.run(1_000);
                        split.w.boot(n);
                    }
                    split.w.connect();
                    for _ in 0..40 {
                        split.w.run(200);
                        split.check(winner).unwrap_or_else(|why| panic!("{why}\n{}", split.w.why()));
                    }
                    if split.w.disks.iter().all(|disk| disk.state.apart.verdict.is_none())
                        && split.w.word(A) == StateWord::Diverged
                    {
                        // The order was lost before it was stable.
                        split.assert_open();
                        split.w.operator(A, Operator::Keep(IDS[winner]));
                    }
                    split.assert_ended(winner);
                    ends += 1;
                    if !moved {
                        break;
                    }
                    assert!(cut_after < 500, "it never comes to an end");
                }
            }
        }
    }
    assert!(ends > 300, "only {ends} places");
}

#[test]
fn two_different_orders_move_nothing_until_one_is_said_again() {
    for again in [A, B] {
        let mut split = Split::met(AfterSplit::Manual);
        split.w.operator(A, Operator::Keep(NodeId::A));
        split.w.operator(B, Operator::Keep(NodeId::B));
        split.w.run(5_000);
        assert_eq!([&split.w.disks[A].cur, &split.w.disks[B].cur], [&split.held[A], &split.held[B]]);
        assert!(split.w.disks.iter().all(|disk| disk.kept.is_empty()), "{}", split.w.why());
        assert!(split.w.mounted[A] && split.w.mounted[B]);
        assert!(split.w.node(A).view().reason.text.contains("different copies"), "{}", split.w.why());
        split.w.operator(again, Operator::Keep(NodeId::B));
        split.assert_ended(B);
    }
}

#[test]
fn without_room_for_the_losing_copy_it_stays_as_it_is_until_there_is() {
    for (winner, told) in [(A, A), (A, B), (B, A), (B, B)] {
        let mut split = Split::met(AfterSplit::Manual);
        split.w.keep_fails = [true; 2];
        split.w.operator(told, Operator::Keep(IDS[winner]));
        split.w.run(5_000);
        let loser = 1 - winner;
        assert_eq!(split.w.disks[loser].cur, split.held[loser], "{}", split.w.why());
        assert_eq!(split.role(loser), Role::SplitBrain);
        assert!(split.w.node(loser).view().reason.text.contains("no room"), "{}", split.w.why());
        assert!(split.w.mounted[winner] && !split.w.mounted[loser], "{}", split.w.why());
        split.w.keep_fails = [false; 2];
        split.w.operator(told, Operator::Keep(IDS[winner]));
        split.assert_ended(winner);
    }
}

#[test]
fn a_losing_side_that_serves_again_by_a_word_is_put_aside_once_more() {
    let mut split = Split::met(AfterSplit::Manual);
    split.w.operator(A, Operator::Keep(NodeId::A));
    let kept = |w: &World| w.disks[B].state.apart.verdict.is_some_and(|verdict| verdict.done > 0);
    split.until(kept);
    split.w.part();
    split.w.settle();
    split.w.operator(B, Operator::Promote { peer_is_down: true });
    split.w.run(1_000);
    assert!(split.w.mounted[B], "{}", split.w.why());
    split.w.write(B, Kind::WriteFlush, 2);
    split.w.settle();
    assert_ne!(split.w.disks[B].cur, split.held[B]);
    split.held[B] = split.w.disks[B].cur.clone();
    split.w.broken = None;
    split.w.connect();
    split.assert_ended(A);
    assert_eq!(split.w.disks[B].kept.len(), 2, "both states are there");
}

#[test]
fn a_later_order_for_the_other_side_counts() {
    for first in [A, B] {
        let mut split = Split::met(AfterSplit::KeepNode(IDS[first]));
        // The policy's own decision is carried out before anybody can say a word: here it cannot be.
        split.w.crash(first, true);
        split.w.boot(first);
        let mut split = Split::met(AfterSplit::Manual);
        split.w.keep_fails[1 - first] = true;
        split.w.operator(first, Operator::Keep(IDS[first]));
        split.w.run(3_000);
        assert_eq!(split.w.disks[1 - first].cur, split.held[1 - first]);
        split.w.operator(first, Operator::Keep(IDS[1 - first]));
        split.w.run(5_000);
        assert!(split.w.disks[first].kept.contains(&split.held[first]), "{}", split.w.why());
        split.assert_ended(1 - first);
    }
}

#[test]
fn a_peer_of_an_earlier_version_is_left_as_it_is() {
    let mut split = apart(AfterSplit::KeepNode(NodeId::A));
    split.w.crash(B, true);
    split.w.features[B] = FEATURES & !feature::RESOLVE;
    split.w.boot(B);
    split.w.connect();
    split.w.run(3_000);
    split.w.operator(A, Operator::Keep(NodeId::A));
    split.w.run(3_000);
    split.assert_open();
}

#[test]
fn the_winner_serves_on_through_a_restart_while_the_other_side_is_gone() {
    let mut split = Split::met(AfterSplit::Manual);
    split.w.operator(A, Operator::Keep(NodeId::B));
    split.until(|w| w.disks[A].state.resync != ResyncMark::None);
    split.w.crash(A, true);
    split.w.crash(B, true);
    split.w.boot(B);
    split.w.run(60_000);
    assert!(split.w.mounted[B], "{}", split.w.why());
    split.w.boot(A);
    split.w.connect();
    split.assert_ended(B);
}

#[test]
fn the_witness_follows_whichever_side_was_kept() {
    for winner in [A, B] {
        let mut split = apart_with(Arbitration::Witness, AfterSplit::Manual, Mutations::default());
        split.w.connect();
        split.w.run(2_000);
        split.w.operator(A, Operator::Keep(IDS[winner]));
        split.w.run(10_000);
        split.assert_ended(winner);
        // And it is believed: the other node takes over when the primary dies.
        split.w.crash(winner, true);
        split.w.run(60_000);
        assert!(split.w.mounted[1 - winner], "{}", split.w.why());
    }
}

#[test]
fn a_side_that_follows_without_being_put_aside_is_seen() {
    let mutations = Mutations { resolve_unkept: true, ..Mutations::default() };
    let mut split = apart_with(Arbitration::Manual, AfterSplit::Manual, mutations);
    split.w.connect();
    split.w.run(2_000);
    split.w.operator(A, Operator::Keep(NodeId::A));
    let mut seen = false;
    for _ in 0..40 {
        split.w.run(50);
        seen |= split.check(A).is_err();
    }
    assert!(seen, "{}", split.w.why());
    assert_eq!(BLOCKS as usize, split.held[A].len());
}
