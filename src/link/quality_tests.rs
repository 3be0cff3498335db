//! Loss, lateness, repetition and restarts, heartbeat by heartbeat.

use super::*;
use crate::base::{Generation, NodeId};

const LIMITS: Limits = Limits {
    keepalive: Span::from_millis(500),
    warntime: Span::from_millis(3_333),
    lease: Span::from_millis(6_800),
    deadtime: Span::from_millis(10_000),
};

fn at(ms: u64) -> Moment {
    Moment(0) + Span::from_millis(1_000_000 + ms)
}

fn beat(boot_epoch: u64, seq: u64) -> Heartbeat {
    Heartbeat {
        volume: VolumeId(1),
        from: NodeId::B,
        boot_epoch,
        seq,
        record: None,
        head: Generation(0),
        serving: false,
        released: false,
        nonce: u128::from(boot_epoch) + 77,
        nonce_echo: 0,
        echo_seq: 0,
    }
}

/// A book whose process never pauses.
struct Bench {
    book: LinkBook,
}

impl Bench {
    fn new(paths: usize) -> Bench {
        Bench { book: LinkBook::new(at(0), paths, LIMITS) }
    }

    fn hear(&mut self, ms: u64, path: usize, beat: &Heartbeat) -> Heard {
        self.book.turn(at(ms), Span(u64::MAX), false);
        self.book.heartbeat(at(ms), path, beat, None)
    }

    fn flow(&self, path: usize) -> &Flow {
        &self.book.paths[path].flow
    }
}

const FRESH: Heard = Heard::Fresh { late: None };

#[test]
fn loss_is_what_the_sequence_numbers_skip_on_each_path() {
    let mut bench = Bench::new(2);
    for seq in 1..=100 {
        assert_eq!(bench.hear(seq * 500, 0, &beat(1, seq)), FRESH);
        if seq % 4 != 0 {
            assert_eq!(bench.hear(seq * 500 + 1, 1, &beat(1, seq)), FRESH);
        }
    }
    assert_eq!((bench.flow(0).received, bench.flow(0).lost), (100, 0));
    assert_eq!((bench.flow(1).received, bench.flow(1).lost), (75, 24), "the last one may still come");
    assert_eq!((bench.book.any.received, bench.book.any.lost), (100, 0));
    assert_eq!(bench.flow(1).lately(at(50_000)), (75, 24));
    assert_eq!(bench.book.paths.iter().map(|path| path.refused.total()).sum::<u64>(), 0);
}

#[test]
fn what_was_overtaken_is_not_lost_and_what_is_repeated_is_refused() {
    let mut bench = Bench::new(1);
    for seq in [1, 2, 5, 4, 3] {
        assert_eq!(bench.hear(seq * 10, 0, &beat(1, seq)), FRESH, "{seq}");
    }
    assert_eq!((bench.flow(0).received, bench.flow(0).lost), (5, 0));
    for seq in [1, 2, 3, 4, 5] {
        assert_eq!(bench.hear(900, 0, &beat(1, seq)), Heard::Replayed, "{seq}");
    }
    assert_eq!(bench.book.paths[0].refused, Refused { replayed: 5, ..Refused::default() });
    assert_eq!(bench.flow(0).received, 5);
}

#[test]
fn heartbeats_of_an_earlier_start_make_no_path_look_alive() {
    let mut bench = Bench::new(1);
    bench.hear(0, 0, &beat(5, 1_000));
    assert_eq!(bench.hear(100, 0, &beat(6, 1)), FRESH, "the peer restarted");
    let heard = bench.flow(0).heard;
    for ms in (200..9_000).step_by(100) {
        assert_eq!(bench.hear(ms, 0, &beat(5, 1_000 + ms)), Heard::Replayed);
    }
    assert_eq!(bench.flow(0).heard, heard);
    let other = Heartbeat { nonce: 3, ..beat(6, 2) };
    assert_eq!(bench.hear(9_000, 0, &other), Heard::Replayed, "two processes in one start");
    // A new machine in the place of a dead one counts its starts from the beginning.
    assert_eq!(bench.hear(10_200, 0, &beat(1, 1)), FRESH);
}

#[test]
fn a_restart_of_the_peer_and_a_wild_sequence_number_are_no_loss_and_no_silence() {
    let mut bench = Bench::new(1);
    bench.hear(0, 0, &beat(1, 10));
    assert_eq!(bench.hear(600_000, 0, &beat(2, 400)), FRESH, "away for ten minutes, and back");
    assert_eq!((bench.flow(0).lost, bench.flow(0).gaps.count()), (0, 0));
    assert_eq!(bench.hear(600_500, 0, &beat(2, u64::MAX)), FRESH);
    assert_eq!(bench.flow(0).lost, 0);
    assert_eq!(bench.hear(601_000, 0, &beat(2, 401)), Heard::Replayed);
}

#[test]
fn lateness_is_told_once_an_episode_and_summed_up_at_its_end() {
    let mut bench = Bench::new(1);
    bench.hear(0, 0, &beat(1, 1));
    let Heard::Fresh { late: Some(first) } = bench.hear(4_100, 0, &beat(1, 9)) else { panic!("not told") };
    assert_eq!(first, Late { gap: Span::from_millis(4_100), cause: Cause::Lost(7) });
    assert_eq!(bench.hear(9_100, 0, &beat(1, 10)), FRESH, "the same episode");
    (0..122).for_each(|n| assert_eq!(bench.hear(9_600 + 500 * n, 0, &beat(1, 11 + n)), FRESH));
    assert_eq!(bench.book.paths[0].episode_over(at(60_000)), None);
    assert_eq!(bench.book.paths[0].episode_over(at(70_200)), Some((2, Span::from_millis(5_000))));
    assert_eq!(bench.book.paths[0].episode_over(at(70_500)), None, "told once");
    let Heard::Fresh { late: Some(again) } = bench.hear(74_400, 0, &beat(1, 133)) else {
        panic!("a new episode is told")
    };
    assert_eq!(again.cause, Cause::Delayed, "none is missing");
    assert_eq!(bench.book.paths[0].episode_over(at(140_000)), None, "one late heartbeat needs no sum");
}

#[test]
fn silences_are_counted_by_what_they_would_have_cost() {
    let mut bench = Bench::new(2);
    let (mut now, mut seq) = (0, 1);
    bench.hear(now, 0, &beat(1, seq));
    for gap in [500, 500, 3_400, 500, 7_000, 500, 90_000, 500] {
        // The other path bridges the longest.
        for bridge in (1..gap / 5_000).filter(|_| gap == 90_000) {
            seq += 1;
            bench.hear(now + 5_000 * bridge, 1, &beat(1, seq));
        }
        (now, seq) = (now + gap, seq + 1);
        bench.hear(now, 0, &beat(1, seq));
    }
    let any = &bench.book.any;
    assert_eq!((any.late, any.lapsed, any.dead), (20, 1, 0));
    assert_eq!(any.worst_alive, Span::from_millis(7_000));
    let flow = bench.flow(0);
    assert_eq!((flow.late, flow.lapsed, flow.dead), (3, 2, 1));
    assert_eq!(flow.worst_alive, Span::from_millis(7_000));
    assert_eq!(flow.gaps.worst().map(|(gap, _)| gap), Some(Span::from_millis(90_000)));
    assert_eq!(flow.gaps.count(), 8);
}

#[test]
fn a_pause_of_this_process_is_not_blamed_on_the_network() {
    let mut book = LinkBook::new(at(0), 1, LIMITS);
    let half = Span::from_millis(250);
    book.heartbeat(at(0), 0, &beat(1, 1), None);
    book.turn(at(250), half, false);
    // It runs again after 5 s and finds in the socket what came meanwhile.
    let Heard::Fresh { late: Some(late) } = book.heartbeat(at(5_250), 0, &beat(1, 2), None) else {
        panic!("not told")
    };
    assert_eq!(late.cause, Cause::HeldUp);
    for seq in 3..=11 {
        assert_eq!(book.heartbeat(at(5_251), 0, &beat(1, seq), None), FRESH);
    }
    book.turn(at(5_252), half, false);
    assert_eq!(book.pause.map(|(pause, _)| pause), Some(Span::from_millis(4_752)));
    assert_eq!(book.paths[0].flow.gaps.count(), 0);
    book.turn(at(500_000), half, true);
    assert_eq!(book.pause.map(|(pause, _)| pause), Some(Span::from_millis(4_752)), "sleep is no load");
}

#[test]
fn a_path_that_does_not_exist_and_endless_packets_change_nothing_and_take_no_room() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.hear(0, 9, &beat(1, 1)), Heard::Replayed);
    for n in 0..100_000 {
        bench.book.paths[0].refuse(at(n), Refusal::Forged);
        bench.hear(n, 0, &beat(1, n / 3));
    }
    assert_eq!(bench.book.paths[0].refused.forged, 100_000);
    assert_eq!(bench.book.paths[0].flow.series.len(), 1);
    assert!(bench.book.paths[0].forged_lately(at(100_000)) == 100_000);
    assert_eq!(bench.book.paths[0].forged_lately(at(1_000_000)), 0);
}

#[test]
fn a_line_that_is_given_every_third_heartbeat_loses_only_what_its_own_numbers_skip() {
    let mut bench = Bench::new(1);
    for number in (0..200_u16).filter(|number| number % 10 != 9) {
        let seq = u64::from(number) * 3 + 1;
        let beat = beat(1, seq);
        bench.book.turn(at(seq * 500), Span(u64::MAX), false);
        let heard = bench.book.heartbeat(at(seq * 500), 0, &beat, Some(number.wrapping_sub(100)));
        assert_eq!(heard, FRESH);
        assert_eq!(bench.book.heartbeat(at(seq * 500), 0, &beat, Some(number)), Heard::Replayed);
    }
    assert_eq!(
        (bench.flow(0).received, bench.flow(0).lost),
        (180, 19),
        "and the numbers begin again after 65535"
    );
    // Whoever holds the line can write any number before an authentic heartbeat.
    bench.book.heartbeat(at(400_000), 0, &beat(1, 800), Some(40_000));
    assert_eq!(bench.flow(0).lost, 19, "no such rate is possible");
}
