//! How far a copy is: what was sent and is not stable on the target yet, how fast it goes, how much is read ahead.
//!
//! Decides when to ask for more. Does not know which blocks differ (the image's to-copy map does).
//! Invariant: a run is reported stable exactly once, and only after a flush that follows it in the stream.

use std::collections::{BTreeMap, VecDeque};

use crate::base::{Moment, Span};

use crate::wire::{Run, Seq};

/// Time over which the speed is measured, and between two points of it.
const METER_SPAN: Span = Span::from_secs(30);
const METER_STEP: Span = Span::from_secs(1);

/// One run on its way to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRun {
    pub run: Run,
    /// Done on the target, not yet covered by a flush.
    pub done: bool,
}

/// Progress of one resync as its source sees it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Sent and not yet stable, by position in the stream.
    pub flying: BTreeMap<Seq, CopyRun>,
    /// Blocks asked for with `Copy` and not yet answered.
    pub asked: bool,
    /// Blocks stable on the target, and in all.
    pub copied: u64,
    pub total: u64,
    /// The last scan found nothing more.
    pub exhausted: bool,
    /// Blocks of that scan that were locked by operations.
    pub busy: u64,
    /// (when, blocks stable by then), oldest first.
    meter: VecDeque<(Moment, u64)>,
    /// When it last got on.
    pub moved_at: Moment,
}

impl Progress {
    /// Nothing is known of what is to be copied yet.
    pub fn new(now: Moment) -> Progress {
        Progress { moved_at: now, ..Progress::default() }
    }

    /// Blocks read or sent and not yet done.
    pub fn in_flight(&self) -> u64 {
        self.flying.values().filter(|c| !c.done).map(|c| c.run.count).sum()
    }

    /// The copying begins, of `total` blocks.
    pub fn begin(&mut self, total: u64, now: Moment) {
        self.total = total;
        self.meter = VecDeque::from([(now, self.copied)]);
        self.moved_at = now;
    }

    /// Blocks a second of late; nothing before a second has passed.
    pub fn speed(&self, now: Moment) -> Option<u64> {
        let (at, copied) = self.meter.front()?;
        let passed = now.since(*at);
        let blocks = u128::from(self.copied - copied) * u128::from(Span::from_secs(1).0);
        (passed >= METER_STEP).then(|| u64::try_from(blocks / u128::from(passed.0)).unwrap_or(u64::MAX))
    }

    /// How many blocks to ask for, at most `allowed`; 0 = none at this moment. Three quarters of the budget are left
    /// alone while applications wait.
    pub fn want(&self, budget: u64, operations_wait: bool, allowed: u64) -> u64 {
        if self.asked || self.exhausted {
            return 0;
        }
        let budget = if operations_wait { budget.div_ceil(4) } else { budget };
        budget.saturating_sub(self.in_flight()).min(256).min(allowed)
    }

    /// Everything up to `upto` is done on the target.
    pub fn done(&mut self, upto: Seq) {
        self.flying.range_mut(..=upto).for_each(|(_, copy)| copy.done = true);
    }

    /// A flush at `upto` is done: takes out what is stable now.
    pub fn stable(&mut self, upto: Seq, now: Moment) -> Vec<Run> {
        let rest = self.flying.split_off(&Seq(upto.0.saturating_add(1)));
        let stable = std::mem::replace(&mut self.flying, rest);
        let runs: Vec<Run> = stable.into_values().map(|copy| copy.run).collect();
        self.copied += runs.iter().map(|run| run.count).sum::<u64>();
        self.total = self.total.max(self.copied);
        if !runs.is_empty() {
            self.moved_at = now;
            self.measure(now);
        }
        runs
    }

    fn measure(&mut self, now: Moment) {
        if self.meter.back().is_some_and(|(at, _)| now.since(*at) >= METER_STEP) {
            self.meter.push_back((now, self.copied));
        }
        while self.meter.len() > 1 && self.meter.front().is_some_and(|(at, _)| now.since(*at) > METER_SPAN) {
            self.meter.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockNo;

    const T: Moment = Moment(1_000);

    #[test]
    fn a_run_is_stable_once_and_only_behind_a_flush() {
        let mut progress = Progress { total: 8, ..Progress::default() };
        let run = |first| CopyRun { run: Run { first: BlockNo(first), count: 4 }, done: false };
        progress.flying.insert(Seq(1), run(0));
        progress.flying.insert(Seq(3), run(4));
        progress.done(Seq(3));
        assert_eq!((progress.in_flight(), progress.copied), (0, 0));
        assert_eq!(progress.stable(Seq(2), T), vec![run(0).run]);
        assert_eq!(progress.stable(Seq(2), T), vec![]);
        assert_eq!((progress.stable(Seq(4), T).len(), progress.copied), (1, 8));
    }

    #[test]
    fn waiting_applications_shrink_the_read_ahead() {
        let progress = Progress::default();
        let want = |progress: &Progress, waits, allowed| progress.want(256, waits, allowed);
        assert_eq!((want(&progress, false, 999), want(&progress, true, 999)), (256, 64));
        assert_eq!((want(&progress, false, 7), want(&progress, true, 0)), (7, 0));
        assert_eq!(want(&Progress { asked: true, ..Progress::default() }, false, 999), 0);
    }

    #[test]
    fn the_speed_is_that_of_the_last_half_minute_and_falls_while_nothing_moves() {
        let at = |s: u64| T + Span::from_secs(s);
        let mut progress = Progress::default();
        progress.begin(100_000, T);
        assert_eq!(progress.speed(T), None);
        // A fast beginning, then one block a second.
        let mut copy = |seq: u64, blocks: u64, s: u64| {
            let run = Run { first: BlockNo(seq * 10_000), count: blocks };
            progress.flying.insert(Seq(seq), CopyRun { run, done: true });
            progress.stable(Seq(seq), at(s));
            progress.speed(at(s))
        };
        assert_eq!(copy(1, 9_000, 1), Some(9_000));
        for s in 2..=60 {
            copy(s, 1, s);
        }
        assert_eq!(copy(61, 1, 61), Some(1), "what was fast a minute ago is forgotten");
        assert_eq!(progress.moved_at, at(61));
        assert_eq!(progress.speed(at(300)), Some(0));
    }
}
