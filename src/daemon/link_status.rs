//! What `twinfs status` shows of the paths to the peer: plain data, gathered from the book that is kept on them.
//!
//! Decides when a path is bad and how that is worded. Does not know how it is printed. Invariant: a path is called
//! silent only while the peer is heard on another one; else the peer may be off, and the volumes say so.

use serde::{Deserialize, Serialize};

use crate::base::{Moment, Span};
use crate::link::{LinkBook, PathBook};
use crate::sys::clock;

use super::measured::{self, Measured};
use super::runtime::Running;
use super::status::age;
use super::switch;

/// Loss from here on is worth a line, in thousandths; and what must have been seen to say so.
const LOSS_MAX: u64 = 50;
const LOSS_OF: u64 = 40;
/// A path may come up later than another one by so much.
const GRACE: Span = Span::from_secs(10);

/// What did not count as the peer's, since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStatus {
    pub forged: u64,
    pub replayed: u64,
    pub foreign: u64,
}

/// One path, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// 1 for the first.
    pub path: u32,
    pub local: String,
    pub remote: String,
    /// A serial line: heartbeats only, never a stream.
    #[serde(default)]
    pub serial: bool,
    /// Nothing goes over it that would be needed should the other paths fail.
    pub down: bool,
    /// What is wrong with it, in words.
    pub problem: Option<String>,
    /// Volumes whose stream goes over it.
    pub carries: Vec<String>,
    /// Since the newest heartbeat; `None`: never one.
    pub heard_ms: Option<u64>,
    /// Heartbeats since the daemon started.
    pub received: u64,
    pub lost: u64,
    /// Of the last five minutes, in thousandths; `None`: nothing to say.
    pub loss_permille: Option<u64>,
    pub rtt_us: Option<u64>,
    pub rtt_least_us: Option<u64>,
    pub rtt_most_us: Option<u64>,
    pub probes: u64,
    pub answers: u64,
    /// The longest silence between two heartbeats of one start of the peer, and since when it is over.
    pub worst_gap_ms: Option<u64>,
    pub worst_gap_ago_ms: Option<u64>,
    /// Silences longer than `warntime`.
    pub late: u64,
    pub refused: RefusedStatus,
}

/// Every path of a running node.
pub fn links(running: &Running) -> Vec<LinkStatus> {
    let book = running.pulse.book();
    let (now, peer) = (clock::now(), running.me.other());
    let (mine, theirs) = (running.config.node(running.me), running.config.node(peer));
    let name = running.name(peer);
    let mut links = Vec::new();
    for (index, (local, remote)) in mine.ends().into_iter().zip(theirs.ends()).enumerate() {
        let Some(path) = book.paths.get(index) else { continue };
        let carries = running.volumes().iter().filter(|volume| {
            let stream = volume.links.progress();
            stream.is_some_and(|(_, address, _)| switch::path_of(&theirs.addresses, address) == Some(index))
        });
        let mut link = LinkStatus {
            path: u32::try_from(index + 1).unwrap_or(u32::MAX),
            local,
            remote,
            serial: index >= mine.addresses.len(),
            carries: carries.map(|volume| volume.name.clone()).collect(),
            ..of_path(&book, path, now, name)
        };
        if let Some(why) = running.pulse.trouble(index) {
            (link.down, link.problem) = (true, Some(format!("{} cannot be used: {why}", link.local)));
        }
        links.push(link);
    }
    links
}

/// How long each path kept one waiting, and what follows for `deadtime`.
pub fn silences(running: &Running) -> Measured {
    let remotes = running.config.node(running.me.other()).ends();
    measured::measured(&running.pulse.book(), &running.config, &remotes, clock::now())
}

fn of_path(book: &LinkBook, path: &PathBook, now: Moment, peer: &str) -> LinkStatus {
    let (flow, probes) = (&path.flow, &path.probes);
    let worst = flow.gaps.worst();
    let us = |span: Option<Span>| span.map(|span| span.0.div_ceil(1_000));
    let (down, problem) = match problem(book, path, now, peer) {
        Some(Trouble { down, text }) => (down, Some(text)),
        None => (false, None),
    };
    LinkStatus {
        down,
        problem,
        heard_ms: flow.heard.map(|at| now.since(at).as_millis()),
        received: flow.received,
        lost: flow.lost,
        loss_permille: permille(flow.lately(now), 1),
        rtt_us: us(probes.mean),
        rtt_least_us: us(probes.least),
        rtt_most_us: us(probes.most),
        probes: probes.sent,
        answers: probes.answered,
        worst_gap_ms: worst.map(|(gap, _)| gap.as_millis()),
        worst_gap_ago_ms: worst.map(|(_, at)| now.since(at).as_millis()),
        late: flow.late,
        refused: RefusedStatus {
            forged: path.refused.forged,
            replayed: path.refused.replayed,
            foreign: path.refused.foreign,
        },
        ..LinkStatus::default()
    }
}

/// The share of the second number in both, rounded up, if there are `least` in all.
fn permille((good, bad): (u64, u64), least: u64) -> Option<u64> {
    let all = good + bad;
    (all >= least).then(|| (bad * 1_000).div_ceil(all))
}

struct Trouble {
    down: bool,
    text: String,
}

/// The worst that is to be said of a path.
fn problem(book: &LinkBook, path: &PathBook, now: Moment, peer: &str) -> Option<Trouble> {
    let warn = book.limits.warntime;
    let fresh = |heard: Option<Moment>| heard.is_some_and(|at| now.since(at) < warn);
    let down = |text: String| Some(Trouble { down: true, text });
    let poor = |text: String| Some(Trouble { down: false, text });
    if !fresh(path.flow.heard) {
        // Where nothing at all is heard the peer may be off: its volumes say so.
        let elsewhere = book.paths.iter().any(|other| fresh(other.flow.heard));
        let settled = now.since(book.since) >= warn.max(GRACE);
        return match path.flow.heard {
            Some(at) if elsewhere => down(format!("silent for {}", age(now.since(at).as_millis()))),
            None if elsewhere && settled => down(format!("{peer} was never heard on it")),
            _ => None,
        };
    }
    let (answered, unanswered) = path.probes.lately(now);
    let since = path.probes.answered_at.max(path.flow.steady);
    let mute = since.is_some_and(|since| now.since(since) >= GRACE);
    if unanswered > 0 && mute {
        return down(format!("works one way only: {peer} is heard, and answers nothing that is sent"));
    }
    if let Some(loss) = permille(path.flow.lately(now), LOSS_OF).filter(|loss| *loss >= LOSS_MAX) {
        return poor(format!("{} % of {peer}'s heartbeats were lost in 5 min", tenths(loss)));
    }
    let round = permille((answered, unanswered), LOSS_OF);
    if let Some(loss) = round.filter(|loss| *loss >= LOSS_MAX) {
        return poor(format!("{} % of the probes to {peer} were not answered in 5 min", tenths(loss)));
    }
    match path.forged_lately(now) {
        0 => None,
        forged => poor(format!("{forged} packets in 5 min were forged, altered or under another key")),
    }
}

/// Thousandths as percent.
pub fn tenths(permille: u64) -> String {
    format!("{}.{}", permille / 10, permille % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Generation, NodeId, VolumeId};
    use crate::link::{Limits, Refusal};
    use crate::wire::Heartbeat;

    fn at(ms: u64) -> Moment {
        Moment(0) + Span::from_millis(1_000_000 + ms)
    }

    fn beat(seq: u64) -> Heartbeat {
        Heartbeat {
            volume: VolumeId(1),
            from: NodeId::B,
            boot_epoch: 1,
            seq,
            record: None,
            head: Generation(0),
            serving: false,
            released: false,
            nonce: 5,
            nonce_echo: 0,
            echo_seq: 0,
        }
    }

    fn book(paths: usize) -> LinkBook {
        let limits = Limits {
            keepalive: Span::from_millis(500),
            warntime: Span::from_millis(3_333),
            lease: Span::from_millis(6_800),
            deadtime: Span::from_millis(10_000),
        };
        LinkBook::new(at(0), paths, limits)
    }

    /// A minute in which path `n` brings the heartbeats that `brings` says.
    fn minute(book: &mut LinkBook, brings: impl Fn(usize, u64) -> bool) -> Moment {
        for seq in 1..=120 {
            let now = at(seq * 500);
            for path in (0..book.paths.len()).filter(|path| brings(*path, seq)) {
                book.heartbeat(now, path, &beat(seq), None);
            }
        }
        at(60_000)
    }

    fn said(book: &LinkBook, path: usize, now: Moment) -> (bool, String) {
        let status = of_path(book, &book.paths[path], now, "beta");
        (status.down, status.problem.unwrap_or_default())
    }

    #[test]
    fn a_silent_path_is_bad_only_while_the_peer_is_heard_on_another() {
        let mut book = book(3);
        let now = minute(&mut book, |path, seq| path == 0 || (path == 1 && seq < 60));
        assert_eq!(said(&book, 0, now), (false, String::new()));
        assert_eq!(said(&book, 1, now), (true, "silent for 30.5 s".to_string()));
        assert_eq!(said(&book, 2, now), (true, "beta was never heard on it".to_string()));
        let later = at(90_000);
        (0..3).for_each(|path| assert_eq!(said(&book, path, later), (false, String::new()), "it is off"));
    }

    #[test]
    fn loss_one_way_paths_and_forgery_are_said_and_a_little_loss_is_not() {
        let mut lossy = book(2);
        let now = minute(&mut lossy, |path, seq| path == 0 && seq % 40 != 0 || path == 1 && seq % 10 != 0);
        assert_eq!(said(&lossy, 0, now), (false, String::new()));
        assert_eq!(said(&lossy, 1, now).1, "9.3 % of beta's heartbeats were lost in 5 min");
        let mut one_way = book(1);
        for n in 0..60 {
            one_way.paths[0].probes.ask(at(n * 1_000), u128::from(n));
        }
        let now = minute(&mut one_way, |_, _| true);
        assert!(said(&one_way, 0, now).0 && said(&one_way, 0, now).1.contains("one way only"));
        assert!(one_way.paths[0].probes.answer(now, 59));
        assert!(said(&one_way, 0, now).1.contains("% of the probes to beta were not answered"));
        let mut forged = book(1);
        let now = minute(&mut forged, |_, _| true);
        forged.paths[0].refuse(now, Refusal::Foreign);
        assert_eq!(said(&forged, 0, now), (false, String::new()), "a port scan is no forgery");
        forged.paths[0].refuse(now, Refusal::Forged);
        assert!(said(&forged, 0, now).1.starts_with("1 packets"));
    }
}
