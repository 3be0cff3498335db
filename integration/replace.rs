//! A machine that is replaced: on the production machines with hand-moved clocks.

mod pair;

use pair::{A, B, Disk, World};
use twinfs::format::State;
use twinfs::node::{Arbitration, Mutations, Operator, StateWord};
use twinfs::wire::Kind;

const ALL: [Arbitration; 5] = [
    Arbitration::Witness,
    Arbitration::Fence,
    Arbitration::Yield,
    Arbitration::Manual,
    Arbitration::Deadtime,
];

fn other(n: usize) -> usize {
    1 - n
}

fn retired(w: &World, n: usize) -> &[u128] {
    &w.disks[n].state.retired
}

/// The survivor is alone and serves, with or without a word.
fn goes_on(w: &mut World, n: usize) {
    w.run(15_000);
    if !(w.mounted[n] && w.word(n) == StateWord::Alone) {
        w.operator(n, Operator::Promote { peer_is_down: true });
        w.run(15_000);
    }
    assert!(w.mounted[n] && w.word(n) == StateWord::Alone, "{}", w.why());
    w.write(n, Kind::WriteFlush, 2);
    w.run(1_000);
}

/// The node is struck off.
fn strike(w: &mut World, survivor: usize) {
    let incarnation = w.disks[other(survivor)].state.incarnation;
    w.operator(survivor, Operator::Retire { incarnation });
    w.settle();
    assert!(retired(w, survivor).contains(&incarnation), "{}", w.why());
}

/// A pair of which `dead` died for good, and what its disk holds; it is not struck off yet.
fn bereaved(arbitration: Arbitration, dead: usize) -> (World, Disk) {
    let mut w = World::whole(arbitration, Mutations::default());
    w.write(A, Kind::WriteFlush, 1);
    w.run(2_000);
    w.crash(dead, true);
    let old = w.disks[dead].clone();
    goes_on(&mut w, other(dead));
    (w, old)
}

/// The survivor serves and takes writes; the node that came back does not, and its disk holds what it held.
#[track_caller]
fn assert_refused(w: &mut World, survivor: usize, old: &Disk) {
    let gone = other(survivor);
    let op = w.write(survivor, Kind::WriteFlush, 1);
    w.run(4_000);
    assert!(w.is_done(op) && w.mounted[survivor] && !w.mounted[gone], "{}", w.why());
    assert_eq!(w.disks[gone].cur, old.cur, "something was copied to a disk that was replaced");
    assert_eq!(w.broken, None);
    let state = &w.disks[gone].state;
    assert!(state.is_out_of_use(), "it was not told: {}", w.why());
    let same = State { retired: vec![], boot_epoch: 0, peer_boot_epoch: 0, ..state.clone() };
    let was = State { retired: vec![], boot_epoch: 0, peer_boot_epoch: 0, ..old.state.clone() };
    assert_eq!(same, was, "nothing else of it changes");
}

#[test]
fn a_disk_that_was_replaced_is_refused_for_good_and_a_new_one_joins() {
    for arbitration in ALL {
        for dead in [A, B] {
            let survivor = other(dead);
            let (mut w, old) = bereaved(arbitration, dead);
            strike(&mut w, survivor);
            w.boot(dead);
            w.run(20_000);
            assert_refused(&mut w, survivor, &old);
            // It stays refused when nobody is there who could say so, whatever it is told.
            w.crash(survivor, true);
            w.crash(dead, true);
            w.boot(dead);
            w.run(60_000);
            w.operator(dead, Operator::Promote { peer_is_down: true });
            w.run(30_000);
            w.operator(dead, Operator::PromoteOld);
            w.run(30_000);
            assert!(!w.mounted[dead], "{arbitration:?}: {}", w.why());

            w.crash(dead, true);
            w.replace_disk(dead);
            w.boot(survivor);
            w.boot(dead);
            w.run(60_000);
            w.assert_in_sync();
            assert_eq!(retired(&w, dead), [old.state.incarnation], "the new one does not know");

            // The new one may be the survivor of the next failure: what was replaced before it stays refused.
            w.crash(survivor, true);
            let second = w.disks[survivor].state.incarnation;
            goes_on(&mut w, dead);
            strike(&mut w, dead);
            w.replace_disk(survivor);
            w.boot(survivor);
            w.run(60_000);
            w.assert_in_sync();
            assert_eq!(retired(&w, survivor), [old.state.incarnation, second]);
            w.crash(dead, true);
            goes_on(&mut w, survivor);
            w.disks[dead] = old.clone();
            w.boot(dead);
            w.run(20_000);
            assert_refused(&mut w, survivor, &old);
        }
    }
}

#[test]
fn a_replaced_disk_that_meets_nobody_but_the_arbiter_gets_no_right() {
    for arbitration in [Arbitration::Witness, Arbitration::Fence, Arbitration::Yield] {
        for dead in [A, B] {
            let survivor = other(dead);
            let (mut w, old) = bereaved(arbitration, dead);
            strike(&mut w, survivor);
            w.replace_disk(dead);
            w.boot(dead);
            w.run(60_000);
            w.assert_in_sync();
            // The new one serves alone at the end: the record at the arbiter names a node of the old one's name.
            w.crash(survivor, true);
            goes_on(&mut w, dead);
            w.crash(dead, true);
            let shown = w.witness.image().clone();
            w.disks[dead] = old;
            w.boot(dead);
            w.run(200_000);
            assert!(!w.mounted[dead], "{arbitration:?}: {}", w.why());
            assert_eq!(w.witness.image(), &shown, "it got a vote");
        }
    }
}

#[test]
fn a_replacement_cut_anywhere_is_repeated_and_nothing_old_gets_in() {
    for keep in [false, true] {
        for crash in [A, B] {
            for steps in 0..40 {
                let (mut w, old) = bereaved(Arbitration::Witness, B);
                let incarnation = old.state.incarnation;
                w.boot(B);
                w.operator(A, Operator::Retire { incarnation });
                w.connect();
                for step in 0..steps {
                    let n = step % 2;
                    let _ = w.pay(n) || w.deliver(n) || w.beat(n) || w.ask() || w.answer(n);
                }
                w.crash(crash, keep);
                w.boot(crash);
                w.run(200);
                for _ in 0..40 {
                    w.operator(A, Operator::Retire { incarnation });
                    w.run(1_000);
                }
                let told = w.disks[B].state.is_out_of_use();
                // A copy that had become a member before it was struck off is not struck off.
                let joined = w.word(A) == StateWord::InSync;
                assert!(w.broken.is_none() && w.mounted[A] && !w.mounted[B], "{steps}: {}", w.why());
                assert!(told != joined, "{steps}: {}", w.why());
                assert_eq!(told, retired(&w, A).contains(&incarnation), "{steps}: {}", w.why());
            }
        }
    }
}

#[test]
fn only_the_sole_member_strikes_off() {
    let mut w = World::whole(Arbitration::Witness, Mutations::default());
    for n in [A, B] {
        let incarnation = w.disks[other(n)].state.incarnation;
        w.operator(n, Operator::Retire { incarnation });
        w.run(2_000);
        assert!(retired(&w, n).is_empty());
        w.operator(n, Operator::Retire { incarnation: w.disks[n].state.incarnation });
        w.run(2_000);
        assert!(!w.disks[n].state.is_out_of_use());
    }
    w.assert_in_sync();
}

/// Both serve, each alone by its own record: the word that the peer is down was wrong.
fn two(arbitration: Arbitration) -> World {
    let mut w = World::whole(arbitration, Mutations::default());
    w.part();
    goes_on(&mut w, A);
    w.operator(B, Operator::Promote { peer_is_down: true });
    w.run(15_000);
    assert!(w.mounted[A] && w.mounted[B], "{}", w.why());
    w
}

#[test]
fn a_node_that_serves_and_was_replaced_stops_when_it_hears_of_it() {
    let mut w = two(Arbitration::Manual);
    strike(&mut w, A);
    w.connect();
    w.run(3_000);
    assert!(w.mounted[A] && !w.mounted[B] && w.disks[B].state.is_out_of_use(), "{}", w.why());
    assert!(!w.disks[A].state.is_out_of_use());
}

#[test]
fn two_that_replaced_each_other_both_go_on_as_they_were() {
    let mut w = two(Arbitration::Manual);
    strike(&mut w, A);
    strike(&mut w, B);
    w.connect();
    w.run(30_000);
    assert!(w.mounted[A] && w.mounted[B], "{}", w.why());
    assert!(![A, B].iter().any(|n| w.disks[*n].state.is_out_of_use()));
    assert!(w.why().contains("each node was told"), "{}", w.why());
}
