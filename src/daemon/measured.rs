//! What the network would have allowed: the silences that were measured, and the deadtime that follows from them.
//!
//! Decides when enough was seen to say anything, and which deadtime is suggested: the shortest that `config check`
//! takes whose lease outlasts twice the longest silence, be it the network's or this process's own. Pure. Invariant: a
//! suggestion is never shorter than what was seen demands, and none is made from too little.

use serde::{Deserialize, Serialize};

use crate::base::{Moment, Span};
use crate::config::{Arbitration, Config, Timing};
use crate::link::{Flow, LinkBook};

use super::status::age;

/// Fewer silences say nothing of the 99.99th percentile; and what a day brings an hour does not show.
const GAPS_MIN: u64 = 10_000;
const WATCHED_MIN: Span = Span::from_secs(3_600);
/// Backups, log rotation and the like come by within this.
const WATCHED_WELL: Span = Span::from_secs(7 * 24 * 3_600);
/// The lease is to outlast so many of the longest silences.
const MARGIN: u64 = 2;

/// What the measurement says of the deadtime in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    #[default]
    TooLittleSeen,
    LongEnough,
    TooShort,
}

/// The silences of one path, or of all paths together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silences {
    /// The remote address; empty: any path, which is what deadtime goes by.
    pub remote: String,
    pub count: u64,
    pub p50_ms: Option<u64>,
    pub p99_ms: Option<u64>,
    pub p9999_ms: Option<u64>,
    pub worst_ms: Option<u64>,
    pub worst_ago_ms: Option<u64>,
    /// Longer than `warntime`, than the lease, and than `deadtime`.
    pub late: u64,
    pub lapsed: u64,
    pub dead: u64,
    /// The longest of each bucket in milliseconds, and how many.
    pub buckets: Vec<(u64, u64)>,
}

/// What `twinfs advise` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub judgement: Judgement,
    pub watched_ms: u64,
    /// It is less than a week.
    pub brief: bool,
    pub keepalive_ms: u64,
    pub warntime_ms: u64,
    pub deadtime_ms: u64,
    pub lease_ms: u64,
    pub initdead_ms: u64,
    pub together: Silences,
    pub paths: Vec<Silences>,
    /// The longest that this daemon itself did not get to run.
    pub own_pause_ms: Option<u64>,
    /// The longest silence that `deadtime` outlasted, of the network or of this daemon.
    pub counted_ms: u64,
    /// `None`: too little was seen.
    pub suggested_ms: Option<u64>,
    /// What the lease has to outlast for it, and the formula.
    pub because: String,
    /// Silences longer than `deadtime`: the one that would have outlasted them.
    pub outlasting_ms: Option<u64>,
}

/// What the book says at `now`.
pub fn measured(book: &LinkBook, config: &Config, remotes: &[String], now: Moment) -> Measured {
    let (timing, way) = (&config.timing, config.cluster.arbitration);
    let watched = now.since(book.since);
    let together = silences("", &book.any, now);
    let pause = book.pause.map(|(pause, _)| pause);
    let counted = book.any.worst_alive.max(pause.unwrap_or_default());
    let enough = together.count >= GAPS_MIN && watched >= WATCHED_MIN;
    let needed = deadtime_for(timing, way, counted);
    let judgement = match enough {
        // What is too short is known at once.
        _ if timing.lease() < Span(counted.0.saturating_mul(MARGIN)) => Judgement::TooShort,
        false => Judgement::TooLittleSeen,
        true => Judgement::LongEnough,
    };
    let suggested = match judgement {
        Judgement::TooLittleSeen => None,
        Judgement::TooShort => Some(needed),
        // Not more than what is in force because of the steps.
        Judgement::LongEnough => Some(needed.min(timing.deadtime)),
    };
    let longest = book.any.gaps.worst().map(|(gap, _)| gap).filter(|gap| *gap >= timing.deadtime);
    Measured {
        judgement,
        watched_ms: watched.as_millis(),
        brief: watched < WATCHED_WELL,
        keepalive_ms: timing.keepalive.as_millis(),
        warntime_ms: timing.warntime.as_millis(),
        deadtime_ms: timing.deadtime.as_millis(),
        lease_ms: timing.lease().as_millis(),
        initdead_ms: timing.initdead.as_millis(),
        paths: book
            .paths
            .iter()
            .zip(remotes)
            .map(|(path, remote)| silences(remote, &path.flow, now))
            .collect(),
        together,
        own_pause_ms: pause.map(Span::as_millis),
        counted_ms: counted.as_millis(),
        suggested_ms: suggested.map(Span::as_millis),
        because: because(timing, way, counted),
        outlasting_ms: longest.map(|gap| timing.deadtime_for(gap).as_millis()),
    }
}

fn silences(remote: &str, flow: &Flow, now: Moment) -> Silences {
    let at = |per_million| flow.gaps.percentile(per_million).map(Span::as_millis);
    let worst = flow.gaps.worst();
    Silences {
        remote: remote.to_string(),
        count: flow.gaps.count(),
        p50_ms: at(500_000),
        p99_ms: at(990_000),
        p9999_ms: at(999_900),
        worst_ms: worst.map(|(gap, _)| gap.as_millis()),
        worst_ago_ms: worst.map(|(_, at)| now.since(at).as_millis()),
        late: flow.late,
        lapsed: flow.lapsed,
        dead: flow.dead,
        buckets: flow.gaps.table(),
    }
}

fn deadtime_for(timing: &Timing, way: Arbitration, counted: Span) -> Span {
    timing.deadtime_for(Span(counted.0.saturating_mul(MARGIN))).max(way.deadtime_min())
}

/// What keeps the suggestion from being shorter.
fn because(timing: &Timing, way: Arbitration, counted: Span) -> String {
    let twice = Span(counted.0.saturating_mul(MARGIN));
    let answer = timing.slow_peer + timing.witness_timeout + timing.witness_timeout;
    let least = way.deadtime_min();
    if timing.deadtime_for(twice) < least {
        return format!("arbitration = \"{}\" takes none below {}", way.as_str(), age(least.as_millis()));
    }
    let formula = "(deadtime/1.01 - release_time - 2*keepalive)*0.99";
    if twice > answer {
        let twice = age(twice.as_millis());
        format!("the lease, {formula}, is to outlast twice the longest silence ({twice})")
    } else {
        let answer = age(answer.as_millis());
        format!("the lease, {formula}, must be longer than slow_peer + 2*witness_timeout ({answer})")
    }
}

#[cfg(test)]
#[path = "measured_tests.rs"]
mod tests;
