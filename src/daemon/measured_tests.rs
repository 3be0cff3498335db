//! What is said of measured silences, against `config check` itself.

use super::*;
use crate::base::{Generation, NodeId, VolumeId};
use crate::link::Limits;
use crate::wire::Heartbeat;

const KEEPALIVE: u64 = 500;

fn config(arbitration: &str, timing: &str) -> Config {
    let text = format!(
        "[cluster]\nname = \"t\"\narbitration = \"{arbitration}\"\n[timing]\n{timing}\n[node.alpha]\n\
         addresses = [\"10.0.0.1\"]\n[node.beta]\naddresses = [\"10.0.0.2\"]\n[volume.mail]\n\
         image = \"/i\"\nsize = \"1G\"\nmount = \"/replicated\"\n"
    );
    Config::parse(&text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn at(ms: u64) -> Moment {
    Moment(0) + Span::from_millis(1_000_000 + ms)
}

/// A book that saw `count` silences of one keepalive and then these.
fn book(config: &Config, count: u64, gaps: &[u64]) -> (LinkBook, Moment) {
    let t = &config.timing;
    let (keepalive, warntime, lease, deadtime) = (t.keepalive, t.warntime, t.lease(), t.deadtime);
    let mut book = LinkBook::new(at(0), 1, Limits { keepalive, warntime, lease, deadtime });
    let mut now = 0;
    let usual = (0..count).map(|_| KEEPALIVE);
    for (seq, gap) in std::iter::once(0).chain(usual).chain(gaps.iter().copied()).enumerate() {
        now += gap;
        let heartbeat = Heartbeat {
            volume: VolumeId(1),
            from: NodeId::B,
            boot_epoch: 1,
            seq: seq as u64 + 1,
            record: None,
            head: Generation(0),
            serving: false,
            released: false,
            nonce: 5,
            nonce_echo: 0,
            echo_seq: 0,
        };
        book.turn(at(now), Span(u64::MAX), false);
        book.heartbeat(at(now), 0, &heartbeat, None);
    }
    (book, at(now))
}

fn advise(config: &Config, count: u64, gaps: &[u64]) -> Measured {
    let (book, now) = book(config, count, gaps);
    measured(&book, config, &["10.0.0.2:8790".to_string()], now)
}

#[test]
fn too_little_is_called_too_little_and_suggests_nothing() {
    let config = config("manual", "");
    for count in [0, 1, 7_000, 9_999] {
        let said = advise(&config, count, &[]);
        assert_eq!((said.judgement, said.suggested_ms), (Judgement::TooLittleSeen, None), "{count}");
        assert_eq!(said.together.count, count);
    }
    // A lease that lapsed is known at once, however little was seen.
    let said = advise(&config, 20, &[7_000]);
    assert_eq!((said.judgement, said.together.lapsed), (Judgement::TooShort, 1));
    assert!(said.suggested_ms > Some(10_000), "{said:?}");
}

#[test]
fn a_suggestion_is_the_shortest_that_the_check_takes_and_twice_the_longest_silence_needs() {
    let slow = "slow_peer = \"1s\"";
    for (timing, gaps) in [("", &[][..]), (slow, &[900]), (slow, &[2_500, 700]), ("", &[4_000])] {
        let now = config("manual", timing);
        let said = advise(&now, 10_000, gaps);
        let suggested = said.suggested_ms.expect("enough was seen");
        let with = |deadtime: u64| {
            let text = format!("{timing}\ndeadtime = \"{deadtime}ms\"\ninitdead = \"10m\"");
            Config::parse(&format!(
                "[cluster]\nname = \"t\"\narbitration = \"manual\"\n[timing]\n{text}\n[node.alpha]\n\
                 addresses = [\"10.0.0.1\"]\n[node.beta]\naddresses = [\"10.0.0.2\"]\n[volume.mail]\n\
                 image = \"/i\"\nsize = \"1G\"\nmount = \"/replicated\"\n"
            ))
        };
        let longest = Span::from_millis(gaps.iter().copied().max().unwrap_or(KEEPALIVE).max(KEEPALIVE) * 2);
        let does = |deadtime| with(deadtime).is_ok_and(|config| config.timing.lease() >= longest);
        assert!(does(suggested), "{timing} {gaps:?}: {suggested} ms is refused or too short");
        assert!(!does(suggested - 100), "{timing} {gaps:?}: {suggested} ms could be shorter");
        let judgement =
            if suggested > said.deadtime_ms { Judgement::TooShort } else { Judgement::LongEnough };
        assert_eq!(said.judgement, judgement, "{timing} {gaps:?}");
    }
}

#[test]
fn it_is_said_what_keeps_the_deadtime_from_being_shorter() {
    let usual = config("manual", "");
    assert!(advise(&usual, 10_000, &[]).because.contains("slow_peer + 2*witness_timeout (6.0 s)"));
    assert!(advise(&usual, 10_000, &[4_000]).because.contains("twice the longest silence (8.0 s)"));
}

#[test]
fn an_outage_longer_than_deadtime_is_named_and_does_not_drive_the_suggestion() {
    let usual = config("manual", "");
    let said = advise(&usual, 10_000, &[90_000, 500]);
    assert_eq!((said.together.dead, said.counted_ms), (1, 500));
    assert!(said.outlasting_ms > Some(90_000), "{said:?}");
    assert_eq!((said.judgement, said.suggested_ms), (Judgement::LongEnough, Some(9_200)));
}

#[test]
fn a_daemon_that_did_not_get_to_run_counts_like_a_silent_network() {
    let usual = config("manual", "");
    let (mut book, now) = book(&usual, 10_000, &[]);
    book.turn(now + Span::from_millis(5_250), Span::from_millis(250), false);
    let said = measured(&book, &usual, &[], now + Span::from_secs(6));
    assert_eq!((said.own_pause_ms, said.counted_ms), (Some(5_000), 5_000));
    assert_eq!(said.judgement, Judgement::TooShort);
}
