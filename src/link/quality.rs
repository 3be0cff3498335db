//! How good each path is: what came, what was lost, how long it was silent, what was refused.
//!
//! Decides which heartbeat is fresh on its path, what counts as lost and as late, and when lateness is worth telling
//! again. Does not decide who may serve: the machines look at every authentic heartbeat themselves. Pure: time and
//! heartbeats are handed in. Invariants: of bounded size; a repeated heartbeat makes no path look alive; the peer's
//! restarts and this machine's own pauses are not counted as silence of the network.

use std::collections::BTreeMap;

use crate::base::{Moment, Span, VolumeId};
use crate::wire::Heartbeat;

use super::gaps::Gaps;
use super::probes::Probes;
use super::recent::Recent;

/// On time for so long, an episode of lateness is over.
const CALM: Span = Span::from_secs(60);
/// More heartbeats a keepalive than this nobody sends, beside a few out of turn: a jump of the sequence number that
/// time does not explain is no loss.
const RATE_MAX: u64 = 4;
const OUT_OF_TURN: u64 = 64;

/// The times that silence is measured by.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub keepalive: Span,
    pub warntime: Span,
    pub lease: Span,
    pub deadtime: Span,
}

/// Why a heartbeat was late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// So many before it did not arrive.
    Lost(u64),
    /// None is missing: it was sent late, or held up on the way.
    Delayed,
    /// This process did not run.
    HeldUp,
}

/// A silence that was longer than `warntime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    pub gap: Span,
    pub cause: Cause,
}

/// Heartbeats of one volume from one start of the peer.
#[derive(Clone, Debug)]
struct Series {
    boot_epoch: u64,
    nonce: u128,
    highest: u64,
    /// Bit n: `highest - n` was received, or was sent before anything was.
    seen: u64,
    /// When `highest` came.
    at: Moment,
}

impl Series {
    fn begin(now: Moment, heartbeat: &Heartbeat) -> Series {
        let Heartbeat { boot_epoch, nonce, seq, .. } = *heartbeat;
        Series { boot_epoch, nonce, highest: seq, seen: u64::MAX, at: now }
    }

    /// How far `seq` is ahead of the others; `None`: it came before. Zero: it was overtaken.
    fn step(&mut self, seq: u64) -> Option<u64> {
        if let Some(step @ 1..) = seq.checked_sub(self.highest) {
            self.seen = if step >= 64 { 1 } else { (self.seen << step) | 1 };
            self.highest = seq;
            return Some(step);
        }
        let back = self.highest - seq;
        if back >= 64 || self.seen & (1 << back) != 0 {
            return None;
        }
        self.seen |= 1 << back;
        Some(0)
    }
}

/// Heartbeats that come one way, on one path or on any.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    series: BTreeMap<VolumeId, Series>,
    pub heard: Option<Moment>,
    /// The newest one's number on a line that numbers what goes over it.
    number: Option<u16>,
    /// Heard without a silence longer than `warntime` since then.
    pub steady: Option<Moment>,
    pub received: u64,
    pub lost: u64,
    recent: Recent,
    pub gaps: Gaps,
    /// Silences longer than `warntime`, than the lease, and than `deadtime`.
    pub late: u64,
    pub lapsed: u64,
    pub dead: u64,
    /// The longest silence that `deadtime` outlasted.
    pub worst_alive: Span,
}

impl Flow {
    /// `None`: not fresh. Else the silence before it, if it was too long. `ran`: when this process last did.
    fn take(
        &mut self,
        (now, ran): (Moment, Moment),
        beat: &Heartbeat,
        number: Option<u16>,
        limits: &Limits,
    ) -> Option<Option<Late>> {
        let begun = Series::begin(now, beat);
        let series = self.series.entry(beat.volume).or_insert_with(|| Series { highest: 0, ..begun.clone() });
        let silent = now.since(series.at);
        if (beat.boot_epoch, beat.nonce) != (series.boot_epoch, series.nonce) {
            // An earlier start counts only where a machine was replaced, and then the one before it is long silent.
            if beat.boot_epoch <= series.boot_epoch && silent < limits.deadtime {
                return None;
            }
            series.highest = 0;
        }
        if series.highest == 0 {
            *series = begun;
            (self.steady, self.number) = (Some(now), number);
            self.came(now, 0);
            return Some(None);
        }
        let step = series.step(beat.seq)?;
        if step == 0 {
            (self.received, self.lost) = (self.received + 1, self.lost.saturating_sub(1));
            self.recent.mend(now);
            return Some(None);
        }
        series.at = now;
        if silent >= limits.warntime {
            self.steady = Some(now);
        }
        let possible = (silent.0 / limits.keepalive.0.max(1)).saturating_mul(RATE_MAX) + OUT_OF_TURN;
        // A slow line is not given every heartbeat: what it lost is what its own numbers skip.
        let skipped = match number.zip(self.number) {
            Some((number, last)) => u64::from(number.wrapping_sub(last).wrapping_sub(1)),
            None => step - 1,
        };
        self.number = number;
        let lost = if skipped <= possible { skipped } else { 0 };
        self.came(now, lost);
        let held_up = now.since(ran).0 > silent.0 / 2 && now.since(ran) > limits.keepalive;
        let late = (silent >= limits.warntime).then_some(Late {
            gap: silent,
            cause: match lost {
                _ if held_up => Cause::HeldUp,
                0 => Cause::Delayed,
                lost => Cause::Lost(lost),
            },
        });
        if !held_up {
            self.note(now, silent, limits);
        }
        Some(late)
    }

    fn came(&mut self, now: Moment, lost: u64) {
        self.heard = Some(now);
        self.received += 1;
        self.lost += lost;
        self.recent.add(now, 1, lost);
    }

    fn note(&mut self, now: Moment, silent: Span, limits: &Limits) {
        self.gaps.add(now, silent);
        self.late += u64::from(silent >= limits.warntime);
        self.lapsed += u64::from(silent >= limits.lease);
        if silent >= limits.deadtime {
            self.dead += 1;
        } else {
            self.worst_alive = self.worst_alive.max(silent);
        }
    }

    /// Received and lost lately.
    pub fn lately(&self, now: Moment) -> (u64, u64) {
        self.recent.sum(now)
    }
}

/// A run of late heartbeats, told once when it begins.
#[derive(Clone, Debug, Default)]
struct Episode {
    last: Option<Moment>,
    times: u64,
    worst: Span,
}

impl Episode {
    /// Whether it is the first one.
    fn late(&mut self, now: Moment, gap: Span) -> bool {
        let first = self.last.is_none();
        self.last = Some(now);
        self.times += 1;
        self.worst = self.worst.max(gap);
        first
    }

    /// How often and how late, if it is over now and more came than the first.
    fn end(&mut self, now: Moment) -> Option<(u64, Span)> {
        if now.since(self.last?) < CALM {
            return None;
        }
        let over = std::mem::take(self);
        (over.times > 1).then_some((over.times, over.worst))
    }
}

/// Packets that were not taken for the peer's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// In the shape of a heartbeat, but altered, or under another key.
    pub forged: u64,
    /// Authentic, and known already.
    pub replayed: u64,
    /// Somebody else's.
    pub foreign: u64,
}

impl Refused {
    pub fn total(&self) -> u64 {
        self.forged + self.replayed + self.foreign
    }
}

/// Why a packet was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Forged,
    Replayed,
    Foreign,
}

/// One path.
#[derive(Clone, Debug, Default)]
pub struct PathBook {
    pub flow: Flow,
    pub probes: Probes,
    pub refused: Refused,
    hostile: Recent,
    episode: Episode,
}

impl PathBook {
    pub fn refuse(&mut self, now: Moment, why: Refusal) {
        match why {
            Refusal::Forged => self.refused.forged += 1,
            Refusal::Replayed => self.refused.replayed += 1,
            Refusal::Foreign => self.refused.foreign += 1,
        }
        self.hostile.add(now, 0, u64::from(why == Refusal::Forged));
    }

    /// Forged packets lately.
    pub fn forged_lately(&self, now: Moment) -> u64 {
        self.hostile.sum(now).1
    }

    /// How often heartbeats were late and by how much at most, where an episode of several is over.
    pub fn episode_over(&mut self, now: Moment) -> Option<(u64, Span)> {
        self.episode.end(now)
    }
}

/// What became of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Replayed,
    /// `late`: the silence before it, where an episode of lateness begins with it.
    Fresh {
        late: Option<Late>,
    },
}

/// Every path, and all of them together.
#[derive(Clone, Debug)]
pub struct LinkBook {
    pub limits: Limits,
    pub since: Moment,
    pub paths: Vec<PathBook>,
    /// A heartbeat counts once, with the first path that brings it.
    pub any: Flow,
    ran: Moment,
    /// The longest that this process did not run, and when that was over.
    pub pause: Option<(Span, Moment)>,
}

impl LinkBook {
    pub fn new(now: Moment, paths: usize, limits: Limits) -> LinkBook {
        let paths = vec![PathBook::default(); paths];
        LinkBook { limits, since: now, paths, any: Flow::default(), ran: now, pause: None }
    }

    /// A heartbeat of the peer, authentic, of a volume of this node, came over `path`; `number`: the one that the path
    /// itself gave it.
    pub fn heartbeat(&mut self, now: Moment, path: usize, beat: &Heartbeat, number: Option<u16>) -> Heard {
        let (ran, limits) = (self.ran, self.limits);
        let Some(book) = self.paths.get_mut(path) else { return Heard::Replayed };
        let Some(late) = book.flow.take((now, ran), beat, number, &limits) else {
            book.refuse(now, Refusal::Replayed);
            return Heard::Replayed;
        };
        let _ = self.any.take((now, ran), beat, None, &limits);
        Heard::Fresh { late: late.filter(|late| book.episode.late(now, late.gap)) }
    }

    /// What was refused, on every path together.
    pub fn refused(&self) -> Refused {
        self.paths.iter().fold(Refused::default(), |all, path| Refused {
            forged: all.forged + path.refused.forged,
            replayed: all.replayed + path.refused.replayed,
            foreign: all.foreign + path.refused.foreign,
        })
    }

    /// This process runs, and meant to after `planned`. `slept`: the machine was asleep, which is nobody's delay.
    pub fn turn(&mut self, now: Moment, planned: Span, slept: bool) {
        let pause = now.since(self.ran) - planned;
        if !slept && self.pause.is_none_or(|(longest, _)| pause > longest) {
            self.pause = Some((pause, now));
        }
        self.ran = now;
    }
}

#[cfg(test)]
#[path = "quality_tests.rs"]
mod tests;
