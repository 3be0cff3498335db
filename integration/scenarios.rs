//! S1 to S11 of the protocol, each in about ten lines, on the production machines.

mod pair;

use std::collections::{BTreeMap, BTreeSet};

use pair::{A, Agent, B, BLOCKS, World};
use twinfs::base::{Members, NodeId, Span};
use twinfs::cluster::{Witness, WitnessImage};
use twinfs::daemon::situation::RecordedVolume;
use twinfs::node::{
    Arbitration, Event, Failback, Limits, Mutations, Operator, StateWord, Stay, Task, VerifyProgress,
};
use twinfs::wire::{Kind, Message, Seq, Session};

fn whole(arbitration: Arbitration) -> World {
    World::whole(arbitration, Mutations::default())
}

const ALL: [Arbitration; 5] = [
    Arbitration::Witness,
    Arbitration::Fence,
    Arbitration::Yield,
    Arbitration::Manual,
    Arbitration::Deadtime,
];

#[test]
fn s1_a_write_is_acknowledged_when_both_have_it_and_not_before() {
    for arbitration in ALL {
        let mut w = whole(arbitration);
        let op = w.write(A, Kind::WriteFlush, 1);
        while w.pay(A) {}
        assert!(!w.is_done(op), "acknowledged before the peer");
        w.settle();
        assert!(w.is_done(op));
        w.assert_in_sync();
    }
}

#[test]
fn s2_when_the_secondary_dies_the_primary_waits_asks_and_goes_on_alone() {
    for arbitration in [Arbitration::Witness, Arbitration::Fence, Arbitration::Manual, Arbitration::Deadtime]
    {
        let mut w = whole(arbitration);
        w.crash(B, false);
        let op = w.write(A, Kind::WriteFlush, 1);
        w.run(2_000);
        assert!(!w.is_done(op), "acknowledged alone before slow_peer");
        w.run(2_000);
        assert!(w.is_done(op), "{}", w.why());
        assert_eq!(w.word(A), StateWord::Alone);
        w.boot(B);
        w.run(5_000);
        w.assert_in_sync();
    }
}

#[test]
fn s3_when_the_primary_dies_the_secondary_serves_after_the_deadtime_with_everything() {
    for arbitration in [Arbitration::Witness, Arbitration::Fence, Arbitration::Yield, Arbitration::Deadtime] {
        let mut w = whole(arbitration);
        w.write(A, Kind::WriteFlush, 1);
        w.settle();
        w.write(A, Kind::WriteFlush, 2);
        w.crash(A, true);
        w.run(9_000);
        assert!(!w.mounted[B], "took over within the deadtime");
        w.run(if arbitration == Arbitration::Fence { 8_000 } else { 3_000 });
        assert!(w.mounted[B], "{}", w.why());
        let op = w.write(B, Kind::WriteFlush, 0);
        w.settle();
        assert!(w.is_done(op));
        w.boot(A);
        w.run(5_000);
        w.assert_in_sync();
        assert!(w.mounted[B] && !w.mounted[A]);
    }
}

#[test]
fn s3_manual_nobody_takes_over_without_a_word() {
    let mut w = whole(Arbitration::Manual);
    w.crash(A, true);
    w.run(60_000);
    assert!(!w.mounted[B]);
    w.operator(B, Operator::Promote { peer_is_down: true });
    w.run(1_000);
    assert!(w.mounted[B], "{}", w.why());
}

#[test]
fn s4_a_switchover_moves_the_primary_in_seconds_and_loses_nothing() {
    for (arbitration, asked) in ALL.into_iter().flat_map(|a| [(a, A), (a, B)]) {
        let mut w = whole(arbitration);
        w.write(A, Kind::WriteFlush, 1);
        w.operator(asked, Operator::Switchover);
        w.run(2_000);
        assert!(w.mounted[B] && !w.mounted[A], "{arbitration:?}: {}", w.why());
        let op = w.write(B, Kind::WriteFlush, 2);
        w.settle();
        assert!(w.is_done(op));
        w.assert_in_sync();
        w.operator(A, Operator::Promote { peer_is_down: false });
        w.run(2_000);
        assert!(w.mounted[A] && !w.mounted[B], "{}", w.why());
    }
}

#[test]
fn s4_a_switchover_cut_anywhere_is_completed_or_undone_when_the_link_is_back() {
    for arbitration in ALL {
        for cut_after in 0..40 {
            let mut w = whole(arbitration);
            w.write(A, Kind::WriteFlush, 1);
            w.settle();
            w.operator(A, Operator::Switchover);
            for step in 0..cut_after {
                let n = step % 2;
                let _ = w.pay(n) || w.deliver(n) || w.ask() || w.answer(n);
                w.check().unwrap();
            }
            w.part();
            w.run(1_000);
            w.connect();
            w.run(6_000);
            w.check().unwrap();
            w.assert_in_sync();
            assert!(w.mounted[A] != w.mounted[B], "{arbitration:?} {cut_after}: {}", w.why());
        }
    }
}

#[test]
fn s5_a_cut_link_leaves_one_primary() {
    for arbitration in ALL.into_iter().filter(|a| *a != Arbitration::Deadtime) {
        let mut w = whole(arbitration);
        w.part();
        let op = w.write(A, Kind::WriteFlush, 1);
        for _ in 0..60 {
            w.run(1_000);
            w.check().unwrap();
        }
        assert!(!(w.mounted[A] && w.mounted[B]));
        assert_eq!(w.is_done(op), arbitration != Arbitration::Yield);
        assert_eq!(w.mounted[B], arbitration == Arbitration::Yield, "{}", w.why());
        assert_eq!(w.nodes[B].is_none(), arbitration == Arbitration::Fence, "fenced by the primary");
        if w.nodes[B].is_none() {
            w.boot(B);
        }
        w.connect();
        w.run(5_000);
        w.assert_in_sync();
    }
}

#[test]
fn s6_a_resync_interrupted_anywhere_starts_again_and_ends_in_sync() {
    for stop_after in 0..60 {
        for keep in [false, true] {
            let mut w = whole(Arbitration::Witness);
            w.part();
            w.run(5_000);
            for block in 0..3 {
                w.write(A, Kind::Write, block);
                w.settle();
            }
            w.connect();
            for step in 0..stop_after {
                let n = step % 2;
                let _ = w.pay(n) || w.deliver(n) || w.beat(n) || w.ask() || w.answer(n);
                w.check().unwrap();
            }
            w.crash(B, keep);
            w.run(200);
            w.write(A, Kind::WriteFlush, 1);
            w.boot(B);
            w.run(8_000);
            w.assert_in_sync();
        }
    }
}

#[test]
fn s6_the_primary_keeps_serving_while_the_peer_catches_up() {
    let mut w = whole(Arbitration::Witness);
    w.part();
    w.run(5_000);
    w.write(A, Kind::Write, 0);
    w.settle();
    w.connect();
    let mut done = 0;
    for _ in 0..200 {
        let op = w.write(A, Kind::Write, 2);
        w.settle();
        done += u32::from(w.is_done(op));
    }
    assert_eq!(done, 200);
    w.run(2_000);
    w.assert_in_sync();
}

#[test]
fn s7_both_lose_power_and_one_returns() {
    for (arbitration, who, serves) in [
        (Arbitration::Witness, B, true),
        (Arbitration::Witness, A, true),
        (Arbitration::Manual, A, true),
        (Arbitration::Manual, B, false),
        (Arbitration::Yield, A, false),
        (Arbitration::Yield, B, false),
        (Arbitration::Fence, A, false),
        (Arbitration::Fence, B, false),
        (Arbitration::Deadtime, A, true),
        (Arbitration::Deadtime, B, false),
    ] {
        let mut w = whole(arbitration);
        w.write(A, Kind::WriteFlush, 1);
        w.settle();
        w.write(A, Kind::Write, 2);
        w.settle();
        w.crash(A, false);
        w.crash(B, true);
        w.boot(who);
        w.run(29_000);
        assert!(!w.mounted[who], "served before initdead");
        w.run(12_000);
        assert_eq!(w.mounted[who], serves, "{arbitration:?}: {}", w.why());
        w.boot(1 - who);
        w.run(8_000);
        w.assert_in_sync();
    }
}

#[test]
fn s7_both_lose_power_and_both_return() {
    for arbitration in ALL {
        let mut w = whole(arbitration);
        for block in 0..3 {
            w.write(A, Kind::Write, block);
            w.settle();
        }
        w.crash(A, false);
        w.crash(B, true);
        w.boot(A);
        w.boot(B);
        w.run(5_000);
        assert!(w.mounted[A], "{}", w.why());
        w.assert_in_sync();
    }
}

const FAILBACK_TO_A: Failback = Failback { to: twinfs::base::NodeId::A, windowed: false };

#[test]
fn s8_failback_comes_by_itself_only_where_it_is_asked_for() {
    let mut w = World::new(Arbitration::Witness, Mutations::default());
    w.config.failback = Some(FAILBACK_TO_A);
    w.boot(A);
    w.boot(B);
    w.connect();
    w.run(3_000);
    w.crash(A, true);
    w.run(12_000);
    assert!(w.mounted[B]);
    w.boot(A);
    w.run(50_000);
    assert!(w.mounted[B], "failback before its delay");
    w.run(15_000);
    assert!(w.mounted[A] && !w.mounted[B], "{}", w.why());
}

/// The preferred node comes and goes: the volume goes to it once an hour at most, whatever restarts in between.
#[test]
fn s8_a_preferred_node_that_flaps_gets_the_volume_once_an_hour() {
    let mut w = World::new(Arbitration::Witness, Mutations::default());
    w.config.failback = Some(FAILBACK_TO_A);
    w.boot(A);
    w.boot(B);
    w.connect();
    w.run(3_000);
    for round in 0..4 {
        w.crash(A, true);
        w.run(15_000);
        assert!(w.mounted[B], "{round}: {}", w.why());
        w.boot(A);
        w.run(70_000);
        assert_eq!(w.mounted[A], round == 0, "{round}: {}", w.why());
    }
    let view = w.nodes[A].as_ref().unwrap().view().failback.unwrap();
    assert_eq!(view.stay, Stay::TooSoon);
    let left = view.not_before.unwrap().since(w.clocks[A]);
    w.run(left.as_millis() - 2_000);
    assert!(w.mounted[B], "before the hour: {}", w.why());
    w.run(4_000);
    assert!(w.mounted[A], "after the hour: {}", w.why());
}

/// Beta serves, alpha is back in sync, `note` is what alpha's file says of the last time.
fn returned(note: Option<Option<u64>>, windowed: bool) -> World {
    let mut w = World::new(Arbitration::Witness, Mutations::default());
    w.config.failback = Some(Failback { windowed, ..FAILBACK_TO_A });
    w.boot(A);
    w.boot(B);
    w.connect();
    w.run(3_000);
    w.crash(A, true);
    w.run(15_000);
    w.disks[A].failback_note = note;
    w.boot(A);
    w.run(10_000);
    assert!(w.mounted[B] && !w.mounted[A], "{}", w.why());
    w
}

#[test]
fn s8_a_time_that_cannot_be_read_or_lies_ahead_is_one_of_just_now() {
    for (note, soon) in
        [(None, true), (Some(Some(0)), true), (Some(None), false), (Some(Some(u64::MAX)), false)]
    {
        let mut w = returned(note, false);
        w.run(60_000);
        assert_eq!(w.mounted[A], soon, "{note:?}: {}", w.why());
        w.run(3_600_000);
        assert!(w.mounted[A], "{note:?}: never again: {}", w.why());
    }
}

#[test]
fn s8_a_try_that_cannot_be_noted_is_not_made() {
    let mut w = returned(None, false);
    w.note_fails = true;
    w.run(600_000);
    assert!(w.mounted[B] && w.disks[A].failback_note.is_none(), "{}", w.why());
    w.note_fails = false;
    w.run(3_600_000);
    assert!(w.mounted[A], "{}", w.why());
}

#[test]
fn s8_it_goes_back_inside_its_window_only() {
    let mut w = returned(None, true);
    w.run(7_200_000);
    assert!(w.mounted[B], "nobody said that the window is open: {}", w.why());
    w.step(A, Event::Window(true));
    w.run(3_000);
    assert!(w.mounted[A], "{}", w.why());
    // Moved by hand in the same window: it stays; with the next window it goes home, once the hour is over.
    w.operator(A, Operator::Switchover);
    w.run(7_200_000);
    assert!(w.mounted[B], "{}", w.why());
    w.step(A, Event::Window(false));
    w.run(1_000);
    w.step(A, Event::Window(true));
    w.run(3_000);
    assert!(w.mounted[A], "{}", w.why());
}

/// Nobody reaches the preferred node: its users would be worse off there.
#[test]
fn s8_a_preferred_node_that_no_ping_target_answers_waits() {
    let mut w = World::new(Arbitration::Witness, Mutations::default());
    w.config.failback = Some(FAILBACK_TO_A);
    w.config.pings = true;
    w.boot(A);
    w.boot(B);
    w.connect();
    w.step(A, Event::Reach(true));
    w.step(B, Event::Reach(true));
    w.run(3_000);
    w.crash(A, true);
    w.run(12_000);
    w.boot(A);
    w.run(7_200_000);
    assert!(w.mounted[B], "moved to where nobody reaches it: {}", w.why());
    w.step(A, Event::Reach(true));
    w.run(3_000);
    assert!(w.mounted[A], "{}", w.why());
}

#[test]
fn s8_what_a_person_moved_or_holds_stays() {
    let mut w = World::new(Arbitration::Witness, Mutations::default());
    w.config.failback = Some(FAILBACK_TO_A);
    w.boot(A);
    w.boot(B);
    w.connect();
    w.run(120_000);
    w.operator(A, Operator::Switchover);
    w.run(7_200_000);
    assert!(w.mounted[B], "a switchover was undone: {}", w.why());
    // A new start of the node ends that; hold does not end.
    w.crash(A, true);
    w.boot(A);
    w.operator(A, Operator::Hold(true));
    w.run(7_200_000);
    assert!(w.mounted[B] && w.word(A) == StateWord::InSync, "held: {}", w.why());
    w.operator(A, Operator::Hold(false));
    w.run(3_000);
    assert!(w.mounted[A], "{}", w.why());
}

#[test]
fn s8_a_restart_that_forgets_the_last_time_is_seen() {
    let mut w = World::new(Arbitration::Witness, Mutations { forget_failback: true, ..Mutations::default() });
    w.config.failback = Some(FAILBACK_TO_A);
    w.boot(A);
    w.boot(B);
    w.connect();
    w.run(3_000);
    for _ in 0..2 {
        w.crash(A, true);
        w.run(15_000);
        w.boot(A);
        w.run(70_000);
        assert!(w.mounted[A], "{}", w.why());
    }
}

/// What both nodes do and refuse follows from the facts that they show, also when these were written down and read; what
/// only time is in the way of is free when it says. Notes what was refused and by which right something was done.
fn look(w: &World, refusals: &mut BTreeSet<String>, rights: &mut BTreeSet<String>) {
    for node in w.nodes.iter().flatten() {
        let (situation, view) = (node.situation(), node.view());
        let answers = situation.answers();
        assert_eq!((answers.role, answers.state), (view.role, view.state), "{}", w.why());
        for (taken, again) in [(situation.served, answers.served), (situation.alone, answers.went_alone)] {
            assert_eq!(taken.map(|taken| Ok(taken.right)), again, "{}", w.why());
            rights.extend(taken.map(|taken| format!("{:?}", taken.right)));
        }
        let volume = RecordedVolume::of("mail", ("why".to_string(), None), &situation, vec![]);
        let text = serde_json::to_string(&volume).expect("plain data");
        let read: RecordedVolume = serde_json::from_str(&text).expect("as written");
        let again = read.situation().expect("whole").answers();
        assert_eq!(read.differences(&again), Vec::<String>::new());
        for (answer, alone) in [(answers.serve, false), (answers.alone, true)] {
            let Err(obstacle) = answer else { continue };
            refusals.insert(format!("{:?}", obstacle.bar));
            let Some(until) = obstacle.until else { continue };
            let mut later = situation.facts;
            later.now = until;
            let then = if alone { later.alone() } else { later.serve() };
            assert_ne!(then.err().map(|then| then.bar), Some(obstacle.bar), "{}", w.why());
        }
    }
}

#[test]
fn every_decision_follows_from_the_facts_that_are_recorded() {
    let (mut refusals, mut rights) = (BTreeSet::new(), BTreeSet::new());
    for arbitration in ALL {
        let mut w = whole(arbitration);
        for step in 0..300 {
            match step {
                20 => w.crash(A, true),
                100 => w.operator(B, Operator::Promote { peer_is_down: true }),
                140 => w.boot(A),
                180 => w.operator(A, Operator::Switchover),
                200 => w.operator(B, Operator::Hold(true)),
                210 => {
                    w.cut = true;
                    w.cut_link();
                }
                230 => w.operator(B, Operator::Hold(false)),
                280 => w.cut = false,
                _ => {}
            }
            w.run(500);
            look(&w, &mut refusals, &mut rights);
        }
        // Both lose power, and one of them comes back without the other.
        for alone in [A, B] {
            let mut w = whole(arbitration);
            w.crash(A, true);
            w.crash(B, true);
            w.boot(alone);
            for _ in 0..100 {
                w.run(500);
                look(&w, &mut refusals, &mut rights);
            }
        }
    }
    for right in ["Agreed", "Sole", "Won", "Fenced", "Yielded", "Silent", "Recorded", "Forced"] {
        assert!(rights.contains(right), "{right} was never used: {rights:?}");
    }
    for bar in [
        "JustStarted",
        "Held",
        "Promised",
        "Talking",
        "PeerPrimary",
        "PersonDecides",
        "PrimaryYields",
        "NotConfirmed",
        "NotContinuous",
        "NotLost",
        "NoSession",
        "OutOfDate",
        "AloneAlready",
        "FenceDelay",
        "Serves",
    ] {
        assert!(refusals.contains(bar), "{bar} was never in the way: {refusals:?}");
    }
}

#[test]
fn s9_a_paused_primary_acknowledges_nothing_after_the_takeover() {
    for arbitration in [Arbitration::Witness, Arbitration::Yield] {
        let mut w = whole(arbitration);
        let op = w.write(A, Kind::WriteFlush, 1);
        // A is stopped: nothing is paid or delivered to it, its clock is not looked at.
        let asleep = w.nodes[A].take();
        w.owed[A].clear();
        w.cut_link();
        w.run(15_000);
        assert!(w.mounted[B], "{}", w.why());
        w.write(B, Kind::WriteFlush, 1);
        w.settle();
        w.nodes[A] = asleep;
        w.run(6_000);
        assert!(!w.is_done(op), "acknowledged after the takeover");
        assert!(!w.mounted[A], "{}", w.why());
        w.assert_in_sync();
    }
}

#[test]
fn s10_a_cut_in_one_direction_ends_with_one_primary() {
    for (arbitration, deaf) in [
        (Arbitration::Witness, A),
        (Arbitration::Witness, B),
        (Arbitration::Yield, A),
        (Arbitration::Yield, B),
    ] {
        let mut w = whole(arbitration);
        w.deaf[deaf] = true;
        w.cut = false;
        w.cut_link();
        for _ in 0..40 {
            for n in [A, B] {
                w.clocks[n] = w.clocks[n] + twinfs::base::Span::from_secs(1);
                w.step(n, twinfs::node::Event::Tick);
            }
            w.settle();
            w.check().unwrap();
        }
        assert!(w.mounted[A] != w.mounted[B], "{arbitration:?}: {}", w.why());
        w.deaf[deaf] = false;
        w.connect();
        w.run(6_000);
        w.assert_in_sync();
    }
}

#[test]
fn s11_the_node_that_sees_the_witness_wins() {
    for (blind, winner) in [(A, B), (B, A)] {
        let mut w = whole(Arbitration::Witness);
        w.witness_cut[blind] = true;
        w.part();
        for _ in 0..30 {
            w.run(1_000);
            w.check().unwrap();
        }
        assert!(w.mounted[winner] && !w.mounted[blind], "{}", w.why());
        w.witness_cut[blind] = false;
        w.connect();
        w.run(6_000);
        w.assert_in_sync();
    }
}

/// The secondary has just joined, and no heartbeat of the primary reached it yet.
#[test]
fn a_daemon_that_dies_right_after_a_join_is_not_waited_for_either() {
    let mut w = whole(Arbitration::Witness);
    w.crash(B, true);
    w.run(1_000);
    w.boot(B);
    w.deaf[B] = true;
    w.connect();
    w.run(200);
    w.assert_in_sync();
    let epoch = w.disks[A].state.boot_epoch;
    w.crash(A, true);
    w.step(B, Event::PeerReleased { boot_epoch: epoch });
    w.run(1_000);
    assert!(w.mounted[B] && w.broken.is_none(), "{}", w.why());
}

/// Somebody saw the primary's daemon die: nobody waits for its lease.
#[test]
fn a_daemon_that_was_seen_to_die_is_not_waited_for() {
    for arbitration in [Arbitration::Witness, Arbitration::Yield, Arbitration::Deadtime] {
        for seen in [true, false] {
            let mut w = whole(arbitration);
            w.run(2_000);
            let epoch = w.disks[A].state.boot_epoch;
            w.crash(A, true);
            // Of an earlier start: that one is known to be over.
            w.step(B, Event::PeerReleased { boot_epoch: epoch - 1 });
            if seen {
                w.step(B, Event::PeerReleased { boot_epoch: epoch });
            }
            w.run(1_000);
            assert_eq!(w.mounted[B], seen, "{arbitration:?}: {}", w.why());
            // It comes back, and finds itself out.
            w.run(60_000);
            assert!(w.mounted[B], "{arbitration:?}: {}", w.why());
            w.boot(A);
            w.run(90_000);
            assert!(w.mounted[B] && !w.mounted[A], "{arbitration:?}: {}", w.why());
            w.assert_in_sync();
        }
    }
}

#[test]
fn a_daemon_that_becomes_another_one_keeps_its_mount_and_the_record() {
    for arbitration in ALL {
        let mut w = whole(arbitration);
        w.write(A, Kind::WriteFlush, 1);
        w.settle();
        let before = w.node(A).view().record;
        for round in 1..=5 {
            w.hand_on(A);
            w.part();
            w.run(200);
            assert!(
                !w.node(A).view().serving,
                "{arbitration:?}: it serves without having been told that it may"
            );
            w.connect();
            let promotions = w.promotions;
            for _ in 0..40 {
                w.run(50);
                assert!(w.mounted[A] && !w.mounted[B], "{arbitration:?}, round {round}: {}", w.why());
            }
            assert_eq!(w.promotions, promotions + 1, "{arbitration:?}, round {round}: {}", w.why());
            w.assert_in_sync();
        }
        assert_eq!(w.node(A).view().record, before);
        let op = w.write(A, Kind::WriteFlush, 2);
        w.settle();
        assert!(w.is_done(op));
    }
}

/// The peer is gone for good: what the kernel has cached is shown no longer than the peer's promise holds.
#[test]
fn a_kept_mount_is_given_up_before_the_peer_may_take_over() {
    for arbitration in [Arbitration::Witness, Arbitration::Yield, Arbitration::Deadtime, Arbitration::Fence] {
        let mut w = whole(arbitration);
        w.part();
        w.hand_on(A);
        if arbitration == Arbitration::Witness {
            w.witness_cut[A] = true;
        }
        let (mut gone, mut taken) = (None, None);
        for step in 0..300 {
            w.run(50);
            assert!(!(w.mounted[A] && w.mounted[B]), "{arbitration:?}: two mounts after {step} steps");
            gone = gone.or((!w.mounted[A]).then_some(step));
            taken = taken.or(w.mounted[B].then_some(step));
        }
        assert!(gone.is_some(), "{arbitration:?}: it waits for ever");
        assert!(taken.is_some(), "{arbitration:?}: nobody serves: {}", w.why());
        assert!(w.broken.is_none(), "{:?}", w.broken);
    }
}

#[test]
fn a_kept_mount_ends_when_the_peer_has_taken_over_or_somebody_says_so() {
    let mut w = whole(Arbitration::Witness);
    w.hand_on(A);
    w.operator(A, Operator::Demote);
    w.settle();
    assert!(!w.mounted[A] && !w.node(A).view().serving);
    // A successor that comes long after its time.
    let mut w = whole(Arbitration::Witness);
    w.crash(A, true);
    w.run(12_000);
    assert!(w.mounted[B], "{}", w.why());
    w.boot(A);
    w.nodes[A].as_mut().unwrap().keep_mount(None);
    w.mounted[A] = true;
    w.step(A, Event::Tick);
    w.settle();
    assert!(!w.mounted[A], "a mount without a lease is kept");
    w.connect();
    w.run(5_000);
    assert!(w.mounted[B] && !w.mounted[A]);
    w.assert_in_sync();
}

#[test]
fn a_link_that_comes_back_quickly_costs_no_ownership_change() {
    for arbitration in ALL {
        let mut w = whole(arbitration);
        let op = w.write(A, Kind::WriteFlush, 1);
        w.part();
        w.run(1_000);
        assert!(!w.is_done(op));
        w.connect();
        w.run(1_000);
        assert!(w.is_done(op), "{}", w.why());
        w.assert_in_sync();
        assert_eq!(w.nodes[A].as_ref().unwrap().view().record.unwrap().v, 1);
    }
}

#[test]
fn a_disk_error_on_the_primary_moves_the_service_to_the_peer_at_once_whoever_decides() {
    for arbitration in ALL {
        let mut w = whole(arbitration);
        let op = w.write(A, Kind::WriteFlush, 1);
        w.step(A, twinfs::node::Event::LocalFailed { op });
        w.run(300);
        assert!(w.mounted[B] && !w.mounted[A], "{arbitration:?}: {}", w.why());
        let record = w.disks[B].state.record.expect("a record");
        assert_eq!((record.members, record.primary), (Members::only(NodeId::B), NodeId::B));
        // The failed copy starts again, whatever it holds: it follows.
        w.crash(A, false);
        w.boot(A);
        w.run(30_000);
        assert!(w.mounted[B] && !w.mounted[A], "{arbitration:?}: {}", w.why());
        w.assert_in_sync();
    }
}

/// The disk under A has failed, and A may work on B's copy; it was asked to stop its services just now.
fn fronted(arbitration: Arbitration, mutations: Mutations) -> (World, twinfs::node::OpId) {
    let mut w = World::whole(arbitration, mutations);
    let op = w.write(A, Kind::WriteFlush, 1);
    w.step(A, Event::LocalFailed { op });
    assert!(w.until(|w| !w.mounted[A]), "{}", w.why());
    assert!(w.node(A).view().front && w.node(A).view().serving, "{}", w.why());
    (w, op)
}

#[test]
fn services_on_a_failed_disk_go_on_with_the_peers_copy_until_they_have_stopped() {
    for arbitration in ALL {
        let (mut w, first) = fronted(arbitration, Mutations::default());
        assert_eq!(w.disks[B].state.record.map(|record| record.members), Some(Members::only(NodeId::B)));
        assert!(!w.mounted[B], "{arbitration:?}: A has not stopped: {}", w.why());
        let before = w.disks[A].cur.clone();
        let last = w.write(A, Kind::WriteFlush, 2);
        w.run(500);
        assert!(w.is_done(first) && w.is_done(last), "{arbitration:?}: {}", w.why());
        assert_eq!(w.disks[A].cur, before, "a disk that failed is not written");
        assert!(w.mounted[B] && !w.mounted[A], "{arbitration:?}: {}", w.why());
        assert!(w.promised[2].contains(&w.disks[B].cur[2]) && w.broken.is_none(), "{}", w.why());
        // The failed copy starts again: what B took meanwhile is known there, and A gets it.
        w.crash(A, false);
        w.boot(A);
        w.run(30_000);
        w.assert_in_sync();
    }
}

#[test]
fn what_was_written_over_the_link_is_known_to_be_missing_on_the_failed_disk() {
    let marks_are_needed = |mutations| {
        let (mut w, _) = fronted(Arbitration::Witness, mutations);
        w.write(A, Kind::WriteFlush, 2);
        w.run(500);
        w.crash(A, false);
        w.boot(A);
        w.run(30_000);
        (w.word(A), w.word(B)) == (StateWord::InSync, StateWord::InSync) && w.disks[A].cur == w.disks[B].cur
    };
    assert!(marks_are_needed(Mutations::default()));
    assert!(!marks_are_needed(Mutations { front_unmarked: true, ..Mutations::default() }));
}

#[test]
fn nothing_is_acknowledged_by_the_peer_alone_before_it_is_recorded_so() {
    for (mutations, holds) in
        [(Mutations::default(), true), (Mutations { front_unrecorded: true, ..Mutations::default() }, false)]
    {
        let mut w = World::whole(Arbitration::Witness, mutations);
        w.witness_cut = [true; 2];
        let op = w.write(A, Kind::WriteFlush, 1);
        w.step(A, Event::LocalFailed { op });
        w.run(5_000);
        assert_eq!(!w.is_done(op), holds, "the witness says nothing: {}", w.why());
        w.run(60_000);
        assert_eq!(!w.is_done(op), holds);
        assert!(!w.node(A).view().serving && !w.mounted[B], "detach_grace is over: {}", w.why());
        w.witness_cut = [false; 2];
        w.run(20_000);
        assert!(w.mounted[B] && w.broken.is_none(), "{}", w.why());
    }
}

#[test]
fn whoever_is_worked_on_over_the_link_does_not_answer_beside_it() {
    for arbitration in ALL {
        for restarts in [false, true] {
            let two = |mutations| {
                let (mut w, _) = fronted(arbitration, mutations);
                // A's services take their time, and the cable goes; only B notices.
                w.owed[A].clear();
                let link = w.link.expect("it stood");
                w.cut = true;
                w.step(B, Event::LinkDown { link });
                if restarts {
                    w.power_loss(B);
                    w.boot(B);
                }
                w.run(15_000);
                assert!(w.mounted[B], "{arbitration:?}, restart {restarts}: {}", w.why());
                w.broken.is_some()
            };
            assert!(!two(Mutations::default()), "{arbitration:?}, restart {restarts}");
            let unpromised = Mutations { front_unpromised: true, ..Mutations::default() };
            assert!(two(unpromised), "{arbitration:?}, restart {restarts}: A is not there any more");
        }
    }
}

#[test]
fn a_word_that_the_peer_is_down_counts_as_one_where_the_peers_disk_failed_before_it() {
    let mut w = World::whole(Arbitration::Witness, Mutations::default());
    w.witness_cut = [true; 2];
    w.fail_disk(A);
    w.run(200);
    w.operator(B, Operator::Promote { peer_is_down: true });
    w.run(20_000);
    assert!(w.mounted[B] && !w.mounted[A], "{}", w.why());
    w.crash(A, false);
    w.boot(A);
    w.witness_cut = [false; 2];
    w.run(60_000);
    w.assert_in_sync();
    assert!(w.mounted[B]);
}

#[test]
fn no_room_at_the_peer_ends_the_work_on_its_copy_and_not_the_copy() {
    let (mut w, _) = fronted(Arbitration::Witness, Mutations::default());
    let op = w.write(A, Kind::WriteFlush, 2);
    let sent = w.wire[B].iter().find_map(|(_, message, _)| match message {
        Message::Op { session, .. } => Some(*session),
        _ => None,
    });
    w.wire[B].clear();
    w.step(B, Event::ApplyFull { session: sent.expect("it was sent") });
    w.run(500);
    assert!(!w.is_done(op), "nobody has it");
    assert!(w.mounted[B] && w.broken.is_none(), "{}", w.why());
}

#[test]
fn a_disk_that_rots_again_and_again_is_given_up_beside_an_equal_copy_and_kept_where_it_is_the_only_one() {
    for arbitration in ALL {
        for n in [A, B] {
            let mut w = whole(arbitration);
            w.step(n, Event::DiskRots);
            w.run(1_000);
            let kept = 1 - n;
            assert!(w.mounted[kept] && !w.mounted[n], "{arbitration:?}, {n}: {}", w.why());
            assert_eq!(w.disks[kept].state.record.map(|r| r.members), Some(Members::only(pair::id(kept))));
            // The last good copy, however bad.
            w.step(kept, Event::DiskRots);
            w.run(1_000);
            assert!(w.mounted[kept] && w.broken.is_none(), "{arbitration:?}, {n}: {}", w.why());
        }
    }
}

#[test]
fn a_peer_that_knows_nothing_of_it_takes_over_at_once_as_before() {
    let mut w = World::new(Arbitration::Witness, Mutations::default());
    w.features[B] = twinfs::wire::FEATURES & !twinfs::wire::feature::FRONT;
    w.crash(B, true);
    w.boot(B);
    w.connect();
    w.run(3_000);
    let op = w.write(A, Kind::WriteFlush, 1);
    w.step(A, Event::LocalFailed { op });
    assert!(!w.node(A).view().front);
    w.run(300);
    assert!(w.mounted[B] && !w.mounted[A], "{}", w.why());
}

#[test]
fn a_disk_error_on_the_secondary_holds_the_primary_up_no_longer_than_it_takes_to_say_so() {
    for arbitration in ALL {
        let mut w = whole(arbitration);
        let op = w.write(A, Kind::WriteFlush, 1);
        w.step(B, twinfs::node::Event::ApplyFailed { session: Session(0), seq: Seq(0) });
        w.run(300);
        assert!(w.is_done(op) && w.mounted[A], "{arbitration:?}: {}", w.why());
        assert_eq!(w.disks[A].state.record.map(|record| record.members), Some(Members::only(NodeId::A)));
    }
}

#[test]
fn a_copy_whose_failure_is_noted_nowhere_gives_nothing_up() {
    let mut w = whole(Arbitration::Manual);
    w.note_fails = true;
    let op = w.write(A, Kind::WriteFlush, 1);
    w.step(A, twinfs::node::Event::LocalFailed { op });
    w.run(60_000);
    assert!(!w.mounted[A] && !w.mounted[B], "only a person knows: {}", w.why());
}

#[test]
fn a_demoted_pair_stays_demoted_until_told_otherwise() {
    let mut w = whole(Arbitration::Witness);
    w.operator(A, Operator::Demote);
    w.run(60_000);
    assert!(!w.mounted[A] && !w.mounted[B]);
    w.operator(B, Operator::Promote { peer_is_down: false });
    w.run(2_000);
    assert!(w.mounted[B], "{}", w.why());
}

#[test]
fn a_witness_that_forgot_is_told_again_by_both_nodes_together() {
    let mut w = whole(Arbitration::Witness);
    w.run(2_000);
    let empty = twinfs::cluster::WitnessImage { incarnation: 77, records: Default::default() };
    w.witness = twinfs::cluster::Witness::new(empty);
    for n in [A, B] {
        w.step(n, twinfs::node::Event::WitnessDoubt);
    }
    w.run(3_000);
    assert_eq!(w.witness.image().records.len(), 1, "not enrolled: {}", w.why());
    w.crash(A, true);
    w.run(20_000);
    assert!(w.mounted[B], "{}", w.why());
    w.boot(A);
    w.run(8_000);
    w.assert_in_sync();
}

#[test]
fn what_a_demotion_gave_up_while_the_link_was_cut_is_made_equal_again() {
    for arbitration in ALL {
        let mut w = whole(arbitration);
        w.write(A, Kind::Write, 1);
        w.part();
        w.operator(A, Operator::Demote);
        w.settle();
        w.connect();
        w.run(2_000);
        w.assert_in_sync();
    }
}

#[test]
fn what_a_failed_mount_gave_up_is_made_equal_before_the_next_one() {
    let mut w = whole(Arbitration::Witness);
    w.operator(A, Operator::Demote);
    w.settle();
    w.operator(A, Operator::Promote { peer_is_down: false });
    w.write(A, Kind::Write, 1);
    w.fail_promotion(A);
    w.run(1_000);
    w.assert_in_sync();
}

#[test]
fn a_primary_whose_joiner_dies_in_the_middle_of_the_join_goes_on_alone_in_time() {
    for arbitration in [Arbitration::Witness, Arbitration::Manual] {
        for stop_after in 0..60 {
            let mut w = whole(arbitration);
            w.part();
            w.run(5_000);
            w.write(A, Kind::Write, 1);
            w.settle();
            w.connect();
            for step in 0..stop_after {
                let n = step % 2;
                let _ = w.pay(n) || w.deliver(n) || w.beat(n) || w.ask() || w.answer(n);
            }
            w.crash(B, true);
            let op = w.write(A, Kind::WriteFlush, 2);
            w.run(5_000);
            assert!(w.is_done(op), "{arbitration:?} {stop_after}: {}", w.why());
            assert!(w.mounted[A], "{arbitration:?} {stop_after}: stopped serving: {}", w.why());
        }
    }
}

#[test]
fn the_operators_word_is_spent_when_the_peer_is_heard_again() {
    for cut_after in 4..20 {
        let mut w = whole(Arbitration::Witness);
        w.write(A, Kind::Write, 1);
        w.settle();
        w.witness_cut = [true; 2];
        w.crash(A, true);
        w.operator(B, Operator::Promote { peer_is_down: true });
        // Before the silent witness is passed over, the peer is there.
        w.run(1_000);
        w.boot(A);
        w.connect();
        for step in 0..cut_after {
            let n = step % 2;
            let _ = w.pay(n) || w.deliver(n);
        }
        w.part();
        w.run(8_000);
        assert!(!w.mounted[B], "{cut_after}: went on alone although the peer had answered: {}", w.why());
    }
}

#[test]
fn a_replaced_disk_may_join_although_it_counts_its_starts_anew() {
    for arbitration in ALL {
        let mut w = whole(arbitration);
        for _ in 0..3 {
            w.crash(B, true);
            w.boot(B);
            w.run(3_000);
        }
        w.write(A, Kind::WriteFlush, 1);
        w.run(1_000);
        w.crash(B, true);
        w.replace_disk(B);
        w.boot(B);
        w.run(6_000);
        w.assert_in_sync();
        // And after restarts in the middle of it, with the earlier count stored.
        w.crash(B, true);
        w.crash(A, true);
        w.disks[A].state.peer_boot_epoch = 1_000;
        w.boot(A);
        w.replace_disk(B);
        w.boot(B);
        w.run(100);
        for _ in 0..2 {
            w.crash(A, true);
            w.crash(B, true);
            w.boot(A);
            w.boot(B);
            w.run(100);
        }
        w.run(60_000);
        w.assert_in_sync();
    }
}

#[test]
fn a_peer_refused_for_good_does_not_keep_the_current_copy_down() {
    for arbitration in [Arbitration::Witness, Arbitration::Manual] {
        let mut w = whole(arbitration);
        w.crash(B, true);
        w.disks[B].state.volume = twinfs::base::VolumeId(77);
        w.boot(B);
        w.run(9_000);
        let op = w.write(A, Kind::WriteFlush, 1);
        w.settle();
        assert!(w.is_done(op), "{arbitration:?}: {}", w.why());
        w.crash(A, true);
        w.boot(A);
        w.run(2_000);
        assert!(w.mounted[A], "{arbitration:?}: {}", w.why());
    }
}

#[test]
fn a_silent_peer_is_given_up_after_slow_peer_and_not_after_twice_that() {
    let mut w = whole(Arbitration::Witness);
    w.nodes[B] = None;
    w.run(100);
    let op = w.write(A, Kind::WriteFlush, 1);
    w.run(4_000);
    assert!(w.is_done(op), "{}", w.why());
}

#[test]
fn a_split_brain_outlives_a_restart_and_ends_with_the_join() {
    let mut w = whole(Arbitration::Manual);
    w.crash(A, true);
    w.operator(B, Operator::Promote { peer_is_down: true });
    w.run(1_000);
    w.write(B, Kind::WriteFlush, 1);
    w.settle();
    w.part();
    w.boot(A);
    w.run(45_000);
    assert!(w.mounted[A] && w.mounted[B], "a false word: {}", w.why());
    w.broken = None;
    w.connect();
    w.run(1_000);
    assert_eq!((w.word(A), w.word(B)), (StateWord::Diverged, StateWord::Diverged));
    // The side that restarts does not serve by itself, however long it waits.
    w.crash(A, true);
    w.part();
    w.boot(A);
    w.run(90_000);
    assert!(!w.mounted[A] && w.word(A) == StateWord::Diverged, "{}", w.why());
    assert!(w.nodes[A].as_ref().unwrap().view().reason.text.contains("--peer-is-down"));
    w.operator(A, Operator::Promote { peer_is_down: true });
    w.run(1_000);
    assert!(w.mounted[A] && w.word(A) == StateWord::Diverged, "{}", w.why());
    // One side is wiped: the other one is whole again, also after a restart.
    w.crash(A, true);
    w.replace_disk(A);
    w.boot(A);
    w.broken = None;
    w.connect();
    w.run(3_000);
    w.assert_in_sync();
    assert!(!w.disks[B].state.diverged && !w.disks[A].state.diverged);
}

#[test]
fn a_secondary_whose_copy_is_being_made_equal_takes_over_by_itself() {
    for arbitration in [Arbitration::Witness, Arbitration::Yield] {
        for cut_after in 0..60 {
            let mut w = whole(arbitration);
            for block in 0..3 {
                w.write(A, Kind::Write, block);
            }
            w.settle();
            w.write(A, Kind::WriteFlush, 1);
            w.crash(A, true);
            w.boot(A);
            w.connect();
            for step in 0..cut_after {
                let n = step % 2;
                let _ = w.pay(n) || w.deliver(n) || w.beat(n);
                w.check().unwrap();
            }
            w.crash(A, false);
            w.run(14_000);
            assert!(w.mounted[B], "{arbitration:?} {cut_after}: {}", w.why());
            w.check().unwrap();
            w.boot(A);
            w.run(4_000);
            w.assert_in_sync();
        }
    }
}

#[test]
fn a_witness_that_forgot_gives_nobody_the_right_until_both_enrol_it_again() {
    let mut w = whole(Arbitration::Witness);
    let fresh = || WitnessImage { incarnation: 10, records: BTreeMap::new() };
    w.witness = Witness::new(fresh());
    w.part();
    let op = w.write(A, Kind::WriteFlush, 1);
    w.run(60_000);
    assert!(!w.is_done(op) && !w.mounted[A] && !w.mounted[B], "{}", w.why());
    w.connect();
    w.run(5_000);
    w.assert_in_sync();
    assert_eq!(w.witness.image().records.len(), 1, "enrolled again by both");
    w.crash(A, true);
    w.run(13_000);
    assert!(w.mounted[B], "{}", w.why());
    // And it forgets while one node is alone: neither of them is given the right by it, the sole member needs none.
    w.witness = Witness::new(fresh());
    w.boot(A);
    w.part();
    w.run(60_000);
    assert!(w.mounted[B] && !w.mounted[A], "{}", w.why());
}

#[test]
fn a_witness_that_was_moved_back_is_not_believed() {
    let mut w = whole(Arbitration::Witness);
    let old = w.witness.image().clone();
    w.crash(B, true);
    w.run(5_000);
    w.boot(B);
    w.run(5_000);
    w.assert_in_sync();
    w.witness = Witness::new(old);
    w.part();
    let op = w.write(A, Kind::WriteFlush, 1);
    w.run(60_000);
    assert!(!w.is_done(op) && !w.mounted[A] && !w.mounted[B], "{}", w.why());
}

#[test]
fn a_peer_that_sends_what_no_disk_can_do_is_cut_off_and_fails_nothing() {
    use twinfs::base::BlockNo;
    let shapes = [
        (Kind::Write, 0),
        (Kind::WriteFlush, 0),
        (Kind::Discard, 0),
        (Kind::Back, 1),
        (Kind::Write, u64::MAX),
    ];
    for (kind, count) in shapes {
        let mut w = whole(Arbitration::Witness);
        w.write(A, Kind::Write, 1);
        let Some((link, Message::Op { session, seq, .. }, _)) = w.wire[B].pop_front() else {
            panic!("a write was sent")
        };
        let op = Message::Op { session, seq, kind, first: BlockNo(1), count };
        w.step(B, twinfs::node::Event::Received { link, message: op });
        assert!(w.link.is_none(), "{kind:?} {count} was taken");
        w.run(3_000);
        w.assert_in_sync();
    }
}

/// A alone with three changed blocks, B away.
fn alone_with_changes(w: &mut World) {
    w.part();
    w.run(5_000);
    for block in 0..3 {
        w.write(A, Kind::WriteFlush, block);
        w.settle();
    }
}

#[test]
fn a_paused_resync_copies_nothing_says_so_and_goes_on_by_itself() {
    let mut w = whole(Arbitration::Witness);
    alone_with_changes(&mut w);
    w.operator(A, Operator::PauseResync(Span::from_secs(60)));
    assert!(w.node(A).view().reason.text.contains("paused"), "{}", w.why());
    w.connect();
    w.run(50_000);
    let view = w.node(A).view();
    assert!(view.reason.text.contains("paused") && view.resync_paused_until == view.reason.until);
    assert_eq!(view.resync.map(|resync| (resync.copied, resync.total, resync.stalled)), Some((0, 3, None)));
    let op = w.write(A, Kind::WriteFlush, 1);
    w.settle();
    assert!(w.is_done(op), "programs wait for a paused resync");
    w.run(15_000);
    w.assert_in_sync();
    assert_eq!(w.node(A).view().resync_paused_until, None);
    // And at a word.
    alone_with_changes(&mut w);
    w.operator(A, Operator::PauseResync(Span::from_secs(3_600)));
    w.connect();
    w.run(5_000);
    assert_eq!(w.word(A), StateWord::CatchingUp);
    w.operator(A, Operator::ResumeResync);
    w.run(3_000);
    w.assert_in_sync();
}

#[test]
fn neither_a_pause_nor_a_pace_holds_up_what_somebody_waits_for() {
    let mut w = World::new(Arbitration::Witness, Mutations::default());
    w.config.resync = Limits { max: 1, min: 1 };
    w.boot(A);
    w.boot(B);
    for n in [A, B] {
        w.disks[n].hot.extend(0..3);
        w.boot(n);
        w.operator(n, Operator::PauseResync(Span::from_secs(3_600)));
        w.operator(n, Operator::ResyncTurn(false));
    }
    w.connect();
    w.run(500);
    w.assert_in_sync();
    w.run(1_000);
    assert!(w.mounted[A], "{}", w.why());
}

#[test]
fn a_volume_waits_for_its_turn_and_a_slow_pace_still_ends() {
    let mut w = World::new(Arbitration::Witness, Mutations::default());
    w.config.resync = Limits { max: 4096, min: 4096 };
    w.boot(A);
    w.boot(B);
    w.connect();
    w.run(3_000);
    alone_with_changes(&mut w);
    w.operator(A, Operator::ResyncTurn(false));
    w.connect();
    w.run(20_000);
    let view = w.node(A).view();
    assert!(view.reason.text.contains("comes first"), "{}", w.why());
    assert!(view.resync.is_some_and(|resync| resync.waits_for_turn && resync.copied == 0));
    w.operator(A, Operator::ResyncTurn(true));
    w.run(1_500);
    assert_eq!(w.word(A), StateWord::CatchingUp, "three blocks in less than two seconds, at one a second");
    w.run(4_000);
    w.assert_in_sync();
}

#[test]
fn a_resync_that_does_not_get_on_says_since_when_and_why() {
    let mut w = whole(Arbitration::Witness);
    alone_with_changes(&mut w);
    w.witness_cut = [true; 2];
    w.connect();
    w.run(5_000);
    assert_eq!(w.node(A).view().resync.and_then(|resync| resync.stalled), None, "stalled within seconds");
    w.run(15_000);
    let view = w.node(A).view();
    let stall = view.resync.and_then(|resync| resync.stalled).unwrap();
    assert!(stall.why.contains("witness"), "{stall:?}");
    assert!(w.clocks[A].since(stall.since) >= Span::from_secs(10));
    w.witness_cut = [false; 2];
    w.run(8_000);
    w.assert_in_sync();
}

#[test]
fn a_volume_grows_on_the_peer_first_and_whoever_missed_it_catches_up() {
    let mut w = whole(Arbitration::Witness);
    w.operator(A, Operator::Grow { blocks: BLOCKS + 1 });
    // Made ready here, asked of the peer: not a block more here before the peer has them.
    while !w.wire[B].iter().any(|(_, message, _)| matches!(message, Message::Grow { .. })) {
        assert!(w.pay(A) || w.deliver(A), "the peer is not asked");
    }
    assert_eq!((w.disks[A].blocks, w.disks[B].blocks), (BLOCKS, BLOCKS));
    w.settle();
    assert_eq!((w.disks[A].blocks, w.disks[B].blocks), (BLOCKS + 1, BLOCKS + 1));
    assert_eq!((w.node(A).view().blocks, w.node(B).view().blocks), (BLOCKS + 1, BLOCKS + 1));
    let op = w.write(A, Kind::WriteFlush, 1);
    w.settle();
    assert!(w.is_done(op));
    w.assert_in_sync();
}

#[test]
fn a_growth_cut_anywhere_ends_with_two_images_of_one_size() {
    for crashed in [A, B] {
        for after in 0..14 {
            let mut w = whole(Arbitration::Witness);
            w.operator(A, Operator::Grow { blocks: BLOCKS + 2 });
            for step in 0..after {
                let n = step % 2;
                let _ = w.pay(n) || w.deliver(n);
            }
            w.crash(crashed, after % 3 == 0);
            w.run(12_000);
            w.boot(crashed);
            w.run(8_000);
            w.assert_in_sync();
            let blocks = w.disks[A].blocks;
            assert_eq!(blocks, w.disks[B].blocks, "{crashed} {after}: {}", w.why());
            assert!(blocks == BLOCKS || blocks == BLOCKS + 2);
            assert_eq!((w.node(A).view().blocks, w.node(B).view().blocks), (blocks, blocks));
            assert!(!w.node(A).view().growing && !w.node(B).view().growing);
        }
    }
}

#[test]
fn what_cannot_grow_says_so_and_stays_as_it_is() {
    let failed = |w: &World| w.node(A).view().grow_failed.unwrap_or_default();
    let mut w = whole(Arbitration::Witness);
    w.grow_fails[B] = true;
    w.operator(A, Operator::Grow { blocks: BLOCKS + 1 });
    w.settle();
    assert!(failed(&w).contains("the peer's image could not grow"), "{}", failed(&w));
    w.grow_fails = [true, false];
    w.operator(A, Operator::Grow { blocks: BLOCKS + 1 });
    w.settle();
    assert_eq!(failed(&w), "no room");
    w.grow_fails = [false; 2];
    w.operator(A, Operator::Grow { blocks: BLOCKS });
    w.settle();
    assert!(failed(&w).contains("never becomes smaller"), "{}", failed(&w));
    w.part();
    w.run(5_000);
    w.operator(A, Operator::Grow { blocks: BLOCKS + 1 });
    assert!(failed(&w).contains("in sync"), "{}", failed(&w));
    assert_eq!((w.disks[A].blocks, w.disks[B].blocks), (BLOCKS, BLOCKS));
    w.connect();
    w.run(5_000);
    w.assert_in_sync();
}

/// A node of the version before: it knows none of the messages that have a feature bit.
#[test]
fn a_node_of_the_version_before_is_sent_nothing_that_it_does_not_know() {
    let known = |message: &Message| {
        !matches!(
            message,
            Message::Check { .. }
                | Message::Checked { .. }
                | Message::Detached { .. }
                | Message::Grow { .. }
                | Message::Grown { .. }
        )
    };
    for old in [A, B] {
        let mut w = World::new(Arbitration::Witness, Mutations::default());
        w.features[old] = 0;
        w.boot(A);
        w.boot(B);
        w.connect();
        w.run(3_000);
        w.assert_in_sync();
        w.operator(A, Operator::Grow { blocks: BLOCKS + 1 });
        assert!(w.node(A).view().grow_failed.is_some_and(|why| why.contains("upgrade")));
        let from = VerifyProgress { task: Task::default(), ..VerifyProgress::default() };
        w.operator(A, Operator::Verify(from));
        assert_eq!(w.node(A).view().verify, None, "it would wait for an answer for ever");
        let op = w.write(A, Kind::WriteFlush, 0);
        w.settle();
        assert!(w.is_done(op));
        // A disk that fails under either: the other one finds out as it would about a dead node.
        let failing = 1 - old;
        w.step(failing, Event::ApplyFailed { session: Session(0), seq: Seq(0) });
        for _ in 0..600 {
            w.run(50);
            assert!(w.wire.iter().flatten().all(|(_, message, _)| known(message)));
        }
        assert!(w.mounted[old], "{old}: {}", w.why());
        assert_eq!(w.word(old), StateWord::Alone);
    }
}

/// B followed A and was away while A wrote alone; it is back and half overwritten when A dies for good. What B held
/// when it left.
fn half_overwritten(arbitration: Arbitration) -> (World, Vec<u32>) {
    let mut w = whole(arbitration);
    for block in 0..3 {
        w.write(A, Kind::WriteFlush, block);
    }
    w.settle();
    let before = w.disks[B].cur.clone();
    w.crash(B, true);
    w.run(5_000);
    for block in 0..3 {
        w.write(A, Kind::WriteFlush, block);
    }
    w.settle();
    assert_eq!(w.word(A), StateWord::Alone, "{}", w.why());
    w.boot(B);
    w.connect();
    assert!(w.until(|w| w.disks[B].undo.len() == 1), "{}", w.why());
    assert_ne!(w.disks[B].cur, before);
    w.crash(A, true);
    (w, before)
}

#[test]
fn s12_a_target_whose_source_is_gone_serves_its_old_state_by_the_operators_word_alone() {
    for arbitration in [Arbitration::Witness, Arbitration::Manual] {
        for witness_cut in [false, true] {
            let (mut w, before) = half_overwritten(arbitration);
            w.witness_cut[B] = witness_cut;
            w.run(60_000);
            w.operator(B, Operator::Promote { peer_is_down: true });
            w.run(60_000);
            assert!(!w.mounted[B], "no other word is enough: {}", w.why());
            assert_eq!(w.word(B), StateWord::Behind);
            // What A wrote since is given up.
            w.promised = before.iter().map(|value| vec![*value]).collect();
            w.operator(B, Operator::PromoteOld);
            w.run(20_000);
            assert!(w.mounted[B], "{}", w.why());
            assert_eq!((&w.disks[B].cur, w.word(B)), (&before, StateWord::Alone));
            w.write(B, Kind::WriteFlush, 1);
            w.settle();

            // The dead one is not dead: both wrote, and nothing moves.
            w.witness_cut[B] = false;
            let (a, b) = (w.disks[A].cur.clone(), w.disks[B].cur.clone());
            w.boot(A);
            w.run(20_000);
            assert_eq!((w.word(A), w.word(B)), (StateWord::Diverged, StateWord::Diverged), "{}", w.why());
            assert_eq!((&w.disks[A].cur, &w.disks[B].cur), (&a, &b));
            w.crash(A, true);
            // It had served what was given up.
            w.broken = None;
            w.replace_disk(A);
            w.boot(A);
            w.run(20_000);
            w.assert_in_sync();
            assert!(w.mounted[B]);
        }
    }
}

#[test]
fn s12_undo_then_source_returns() {
    for again in [false, true] {
        let (mut w, before) = half_overwritten(Arbitration::Manual);
        w.run(20_000);
        w.operator(B, Operator::PromoteOld);
        // Cut on the way back, once or twice: the next start goes on with it, and promotes nobody.
        for _ in 0..=u32::from(again) {
            assert!(w.disks[B].going_back);
            w.crash(B, false);
            w.boot(B);
            w.step(B, twinfs::node::Event::Tick);
        }
        w.run(30_000);
        assert_eq!((&w.disks[B].cur, w.disks[B].going_back), (&before, false), "{}", w.why());
        assert!(!w.mounted[B], "{}", w.why());
        assert!(w.disks[B].undo.is_empty());
        w.boot(A);
        w.run(20_000);
        w.assert_in_sync();
        assert!(w.mounted[A]);
    }
}

#[test]
fn s12_nobody_goes_back_while_the_peer_answers_or_from_nothing() {
    let mut w = whole(Arbitration::Manual);
    w.operator(B, Operator::PromoteOld);
    w.run(1_000);
    assert!(w.mounted[A] && !w.mounted[B]);
    w.assert_in_sync();
    w.crash(B, true);
    w.run(5_000);
    w.replace_disk(B);
    w.part();
    w.boot(B);
    w.operator(B, Operator::PromoteOld);
    w.run(60_000);
    assert!(!w.mounted[B], "a blank copy serves: {}", w.why());
    w.connect();
    w.run(20_000);
    w.assert_in_sync();
}

/// The only member by its record.
fn alone(w: &World, n: usize) -> bool {
    w.mounted[n] && w.disks[n].state.record.is_some_and(|r| r.members.solo() == Some(pair::id(n)))
}

#[test]
fn fence_an_agent_that_fails_gives_no_right_and_the_next_level_does() {
    let mut w = World::new(Arbitration::Fence, Mutations::default());
    w.config.fence_levels = 2;
    w.agents = [Agent::Fails, Agent::Works];
    w.boot(A);
    w.boot(B);
    w.connect();
    w.run(3_000);
    let op = w.write(A, Kind::WriteFlush, 1);
    w.part();
    w.run(2_900);
    assert!(!w.is_done(op) && w.nodes[B].is_some());
    w.run(1_000);
    assert!(w.is_done(op) && alone(&w, A) && w.nodes[B].is_none(), "{}", w.why());
}

#[test]
fn fence_without_an_answer_nobody_serves_until_a_retry_or_a_person_helps() {
    for agent in [Agent::Fails, Agent::Silent] {
        let mut w = whole(Arbitration::Fence);
        w.agents = [agent; 2];
        w.crash(B, false);
        let op = w.write(A, Kind::WriteFlush, 1);
        w.run(60_000);
        assert!(!w.is_done(op) && !alone(&w, A), "{agent:?}: {}", w.why());
        let fencing = w.node(A).view().fencing.expect("it goes on trying");
        assert!(fencing.retry_at.is_some());
        w.operator(A, Operator::FenceConfirm { nonce: fencing.nonce + 1 });
        w.run(100);
        assert!(!alone(&w, A), "another request was confirmed");
        let nonce = w.node(A).view().fencing.expect("it goes on trying").nonce;
        w.operator(A, Operator::FenceConfirm { nonce });
        w.run(1_000);
        assert!(alone(&w, A), "{agent:?}: {}", w.why());
        w.boot(B);
        w.run(5_000);
        w.assert_in_sync();
    }
}

#[test]
fn fence_a_slow_agent_costs_the_mount_and_not_the_service() {
    // The lease lapses while the agents fail; then one of them works after all.
    let mut w = whole(Arbitration::Fence);
    w.agents = [Agent::Fails; 2];
    w.crash(B, false);
    w.run(20_000);
    assert!(!w.mounted[A], "the lease is over: {}", w.why());
    w.agents = [Agent::Works; 2];
    w.run(12_000);
    assert!(alone(&w, A), "{}", w.why());
}

/// `twinfs down` on the secondary, and `twinfs disconnect` there.
#[test]
fn whoever_leaves_on_purpose_is_neither_waited_for_nor_fenced() {
    for arbitration in ALL {
        let mut w = whole(arbitration);
        // An agent would be asked in vain, and the primary would stop.
        w.agents = [Agent::Fails; 2];
        w.operator(B, Operator::Disconnect);
        let op = w.write(A, Kind::WriteFlush, 1);
        w.run(300);
        assert!(w.is_done(op) && w.mounted[A], "{arbitration:?}: {}", w.why());
        assert_eq!(w.disks[A].state.record.map(|record| record.members), Some(Members::only(NodeId::A)));
        w.crash(B, false);
        w.run(40_000);
        assert!(w.mounted[A], "{arbitration:?}: {}", w.why());
        w.boot(B);
        w.run(5_000);
        w.assert_in_sync();
    }
}

#[test]
fn a_farewell_that_is_lost_is_a_death_and_gives_nobody_a_right_twice() {
    // Not `Deadtime`: a full cut makes two there, farewell or not.
    for arbitration in [Arbitration::Witness, Arbitration::Fence, Arbitration::Yield, Arbitration::Manual] {
        let mut w = whole(arbitration);
        w.cut_link();
        w.operator(B, Operator::Disconnect);
        w.part();
        w.run(60_000);
        assert!(w.check().is_ok(), "{arbitration:?}: {}", w.why());
        w.operator(B, Operator::Connect);
        w.run(60_000);
        assert!(w.check().is_ok(), "{arbitration:?}: {}", w.why());
    }
}

#[test]
fn whoever_leaves_in_the_middle_of_a_handover_costs_no_more_than_its_return() {
    // The primary is asked to hand over at the moment at which the other one leaves. Not `Deadtime`: a node that closes
    // every connection loses the heartbeats as well here, and a full cut makes two.
    for (cut, arbitration) in (0..12).flat_map(|cut| ALL[..4].iter().map(move |one| (cut, *one))) {
        let mut w = whole(arbitration);
        w.operator(A, Operator::Switchover);
        for _ in 0..cut {
            let _ = w.pay(A) || w.deliver(B) || w.deliver(A) || w.pay(B);
        }
        w.operator(B, Operator::Disconnect);
        let before = w.why();
        w.run(20_000);
        assert!(w.check().is_ok(), "{arbitration:?} {cut}: {before} then {}", w.why());
        w.operator(B, Operator::Connect);
        w.run(40_000);
        assert!(w.mounted[A] != w.mounted[B], "{arbitration:?} {cut}: {before} at last {}", w.why());
    }
}

#[test]
fn fence_both_shot_wait_for_each_other() {
    let mut w = whole(Arbitration::Fence);
    w.part();
    w.crash(A, true);
    w.crash(B, true);
    w.boot(A);
    w.boot(B);
    w.run(120_000);
    assert!(!w.mounted[A] && !w.mounted[B], "a restarted node used a right that it no longer has");
    assert!(w.shots.is_empty() && w.nodes.iter().all(Option::is_some), "it did not even shoot");
    w.connect();
    w.run(5_000);
    w.assert_in_sync();
}

#[test]
fn fence_an_unanswered_request_is_settled_before_a_session_even_after_a_restart() {
    let mut w = whole(Arbitration::Fence);
    w.part();
    w.jump(A, 3_500);
    while w.pay(A) {}
    assert_eq!(w.shots.len(), 1, "the primary asks");
    w.connect();
    for _ in 0..50 {
        let _ = w.pay(A) || w.pay(B) || w.deliver(A) || w.deliver(B) || w.beat(A) || w.beat(B);
    }
    assert_ne!(w.word(A), StateWord::InSync, "a session began while the peer may be shot");
    w.crash(A, true);
    w.boot(A);
    assert!(w.disks[A].fence_note.is_some());
    w.step(A, Event::Tick);
    assert!(w.node(A).view().fencing.is_some_and(|fencing| fencing.leftover));
    w.connect();
    w.run(5_000);
    assert!(w.shots.is_empty() && w.nodes[B].is_some() && w.disks[A].fence_note.is_none());
    w.assert_in_sync();
}

#[test]
fn fence_a_late_answer_of_an_earlier_request_is_worth_nothing() {
    let mut w = whole(Arbitration::Fence);
    w.part();
    w.jump(A, 3_500);
    while w.pay(A) {}
    let nonce = w.node(A).view().fencing.expect("asked").nonce;
    w.agents = [Agent::Fails; 2];
    w.settle();
    w.step(A, Event::FenceResult { nonce, end: twinfs::node::FenceEnd::Done });
    w.run(500);
    assert!(!alone(&w, A), "an answer counted twice");
}

#[test]
fn fence_a_lying_agent_makes_two_and_the_first_contact_says_so() {
    let mut w = whole(Arbitration::Fence);
    w.agents = [Agent::Lies; 2];
    w.part();
    for _ in 0..30 {
        w.run(1_000);
    }
    assert!(alone(&w, A) && alone(&w, B), "outside the assumption: {}", w.why());
    w.write(A, Kind::WriteFlush, 1);
    w.write(B, Kind::WriteFlush, 2);
    w.settle();
    w.connect();
    w.run(5_000);
    assert_eq!((w.word(A), w.word(B)), (StateWord::Diverged, StateWord::Diverged), "{}", w.why());
}

#[test]
fn deadtime_a_full_cut_makes_two_and_the_first_contact_says_so() {
    let mut w = whole(Arbitration::Deadtime);
    w.part();
    w.run(30_000);
    assert!(alone(&w, A) && alone(&w, B), "{}", w.why());
    w.write(A, Kind::WriteFlush, 1);
    w.write(B, Kind::WriteFlush, 2);
    w.settle();
    w.connect();
    w.run(5_000);
    assert_eq!((w.word(A), w.word(B)), (StateWord::Diverged, StateWord::Diverged), "{}", w.why());
}

#[test]
fn deadtime_a_heartbeat_that_still_arrives_keeps_the_other_one_out() {
    let mut w = whole(Arbitration::Deadtime);
    // The stream is gone, one heartbeat path works.
    w.cut_link();
    for _ in 0..60 {
        for n in [A, B] {
            w.clocks[n] = w.clocks[n] + Span::from_secs(1);
            w.step(n, Event::Tick);
        }
        w.settle();
        w.check().unwrap();
    }
    assert!(alone(&w, A) && !w.mounted[B], "{}", w.why());
}

#[test]
fn deadtime_a_node_that_reaches_nobody_neither_takes_over_nor_serves_alone() {
    for cut_off in [A, B] {
        let mut w = World::new(Arbitration::Deadtime, Mutations::default());
        w.config.pings = true;
        w.boot(A);
        w.boot(B);
        for n in [A, B] {
            w.step(n, Event::Reach(true));
        }
        w.connect();
        w.run(3_000);
        w.step(cut_off, Event::Reach(false));
        assert!(w.mounted[A], "a pair that is whole needs no gateway");
        w.part();
        for _ in 0..60 {
            w.run(1_000);
            w.check().unwrap();
        }
        assert!(alone(&w, 1 - cut_off) && !w.mounted[cut_off], "{}", w.why());
        if cut_off == A {
            // The one that serves alone is cut off as well: nobody reaches it, it stops, and goes on when somebody does.
            w.step(B, Event::Reach(false));
            w.run(12_000);
            assert!(!w.mounted[B], "{}", w.why());
            w.step(B, Event::Reach(true));
            w.run(1_000);
            assert!(w.mounted[B], "{}", w.why());
        }
        w.step(cut_off, Event::Reach(true));
        w.connect();
        w.run(6_000);
        w.assert_in_sync();
    }
}
