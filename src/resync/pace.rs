//! How fast a resync may read and send beside applications.
//!
//! Decides the pace from two limits and from how long operations take with and without copies under way. Does not know
//! which blocks differ, nor what a copy is. Invariants: no faster than `max`; beside applications never held below
//! `min`, so that it ends; without applications only `max` counts; what it learnt changes the pace and nothing else.

use crate::base::{Moment, Span};

const BLOCK_BYTES: u64 = 4096;
/// How long the pace stays before it is judged.
const WINDOW: Span = Span::from_millis(50);
/// Applications that issued nothing for so long are not there.
const IDLE: Span = Span::from_millis(500);
/// Larger operations take their own time and say nothing about the copies beside them.
const SAMPLE_BLOCKS_MAX: u64 = 16;
/// Blocks read at once: without applications, and beside them.
const CHUNK_MAX: u64 = 256;
const CHUNK_BESIDE_MAX: u64 = 64;
const SECOND: u64 = 1_000_000_000;

/// What an administrator allows, in bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Never faster; `u64::MAX`: no limit.
    pub max: u64,
    /// Applications may not slow it below this; at least one block a second. Not below `max`: it never yields.
    pub min: u64,
}

impl Limits {
    /// As fast as it goes, whatever applications do.
    pub const NONE: Limits = Limits { max: u64::MAX, min: u64::MAX };
}

/// What happened since the pace was judged last.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began: Moment,
    /// Operations that ran beside a copy, and those that took more than twice the usual.
    operations: u64,
    slow: u64,
    /// Blocks taken.
    taken: u64,
}

/// The pace of one node's resyncs. Rates are in blocks a second.
#[derive(Clone, Debug)]
pub struct Pace {
    max: u64,
    min: u64,
    rate: u64,
    /// The pace at which applications were slowed the last time.
    knee: u64,
    /// In blocks times nanoseconds.
    credit: u64,
    credited_at: Moment,
    /// What 99 of 100 operations without a copy beside them stay below, in nanoseconds: writes, and what flushes.
    usual: [Option<u64>; 2],
    worked_at: Option<Moment>,
    window: Window,
}

impl Pace {
    pub fn new(limits: Limits, now: Moment) -> Pace {
        let (max, min) = rates(limits);
        let window = Window { began: now, ..Window::default() };
        let usual = [None; 2];
        Pace { max, min, rate: max, knee: max, credit: 0, credited_at: now, usual, worked_at: None, window }
    }

    /// Other limits from now on; what was learnt stays.
    pub fn set_limits(&mut self, limits: Limits) {
        (self.max, self.min) = rates(limits);
        self.rate = self.rate.clamp(self.min, self.max);
        self.knee = self.max;
        self.credit = 0;
    }

    /// The limits, in bytes a second.
    pub fn limits(&self) -> Limits {
        let bytes = |rate: u64| rate.saturating_mul(BLOCK_BYTES);
        Limits { max: bytes(self.max), min: bytes(self.min) }
    }

    fn yields(&self) -> bool {
        self.min < self.max
    }

    fn is_beside(&self, now: Moment) -> bool {
        self.worked_at.is_some_and(|at| now.since(at) < IDLE)
    }

    /// An application's operation is finished, `took` after it was issued. `beside`: a copy was under way meanwhile.
    pub fn operation(&mut self, now: Moment, took: Span, flushes: bool, blocks: u64, beside: bool) {
        if !self.yields() {
            return;
        }
        self.judge(now);
        let known = self.usual[usize::from(flushes)];
        if !self.is_beside(now) {
            // They begin: from the bottom, or from where they were not disturbed.
            let start = if known.is_some() && self.knee < self.max { self.knee / 2 } else { self.min };
            self.rate = self.rate.min(start).max(self.min);
            self.credit = 0;
        }
        self.worked_at = Some(now);
        if blocks > SAMPLE_BLOCKS_MAX {
            return;
        }
        if beside {
            self.window.operations += 1;
            self.window.slow += u64::from(known.is_some_and(|usual| took.0 > usual.saturating_mul(2)));
        } else {
            self.usual[usize::from(flushes)] = Some(match known {
                None => took.0,
                // One step up for every 99 steps down: the 99th percentile.
                Some(usual) if took.0 > usual => usual + usual / 8,
                Some(usual) => usual - usual / 792,
            });
        }
    }

    /// Blocks that may be read now; 0: ask again at `ready_at`.
    pub fn allowed(&mut self, now: Moment) -> u64 {
        self.judge(now);
        if self.rate == u64::MAX {
            return u64::MAX;
        }
        let chunk = self.chunk(now);
        let passed = now.since(self.credited_at).0.min(SECOND);
        let most = chunk.saturating_mul(4 * SECOND);
        self.credit = self.credit.saturating_add(passed.saturating_mul(self.rate)).min(most);
        self.credited_at = now;
        if self.credit >= chunk * SECOND { chunk } else { 0 }
    }

    /// When `allowed` answers more than 0 without anything else happening; `None`: it did the last time.
    pub fn ready_at(&self, now: Moment) -> Option<Moment> {
        let lacking = (self.chunk(now) * SECOND).saturating_sub(self.credit);
        let waits = lacking > 0 && self.rate != u64::MAX;
        waits.then(|| now + Span(lacking.div_ceil(self.rate.max(1))))
    }

    /// So many blocks were read.
    pub fn take(&mut self, blocks: u64) {
        self.credit = self.credit.saturating_sub(blocks.saturating_mul(SECOND));
        self.window.taken = self.window.taken.saturating_add(blocks);
    }

    fn chunk(&self, now: Moment) -> u64 {
        if self.is_beside(now) {
            (self.rate / 64).clamp(1, CHUNK_BESIDE_MAX)
        } else {
            (self.rate / 16).clamp(1, CHUNK_MAX)
        }
    }

    /// Ends a window: slower if applications were slowed, else a little faster.
    fn judge(&mut self, now: Moment) {
        let passed = now.since(self.window.began);
        if !self.yields() || passed < WINDOW {
            return;
        }
        let window = std::mem::replace(&mut self.window, Window { began: now, ..Window::default() });
        let went = window.taken.saturating_mul(SECOND) / passed.0.max(1);
        if !self.is_beside(now) {
            if self.rate != self.max {
                self.rate = self.max;
                self.credit = 0;
            }
        } else if window.slow * 100 > window.operations {
            self.knee = self.rate.min(went).max(self.min);
            self.rate = (self.knee / 2).max(self.min);
            self.credit = 0;
        } else if went >= self.rate / 2 {
            let step = if self.rate < self.knee / 4 * 3 { self.rate / 16 } else { self.rate / 256 };
            self.rate = self.rate.saturating_add(step.max(1)).min(self.max);
        }
    }
}

/// Limits in blocks a second: (max, min).
fn rates(limits: Limits) -> (u64, u64) {
    let rate = |bytes: u64| if bytes == u64::MAX { u64::MAX } else { (bytes / BLOCK_BYTES).max(1) };
    let max = rate(limits.max);
    (max, rate(limits.min).min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const US: u64 = 1_000;

    /// One disk that serves copies and operations in turn: 60 us an operation, 8 us more for each block.
    struct Bench {
        now: u64,
        pace: Pace,
        /// When the disk is free.
        free: u64,
        copied: u64,
        copying: bool,
        /// End of the newest copy.
        copy_end: u64,
        took: Vec<u64>,
    }

    impl Bench {
        fn new(limits: Limits) -> Bench {
            let pace = Pace::new(limits, Moment(1));
            let (free, copied, copying, copy_end, took) = (0, 0, false, 0, Vec::new());
            Bench { now: 1, pace, free, copied, copying, copy_end, took }
        }

        fn serve(&mut self, blocks: u64) -> u64 {
            self.free = self.free.max(self.now) + 60 * US + blocks * 8 * US;
            self.free
        }

        /// Runs for so long; an application issues a small operation `every` so often, 0: there is none.
        fn run(&mut self, ms: u64, every: u64) {
            let end = self.now + ms * 1_000_000;
            let (mut next, mut waiting) = (self.now, None::<(u64, u64)>);
            while self.now < end {
                if every > 0 && waiting.is_none() && self.now >= next {
                    waiting = Some((self.now, self.serve(1)));
                }
                if let Some((issued, done)) = waiting.filter(|(_, done)| *done <= self.now) {
                    let took = done - issued;
                    self.took.push(took);
                    let beside = self.copy_end >= issued;
                    self.pace.operation(Moment(self.now), Span(took), true, 1, beside);
                    (waiting, next) = (None, self.now + every);
                }
                if self.copying && self.copy_end <= self.now {
                    let blocks = self.pace.allowed(Moment(self.now)).min(CHUNK_MAX);
                    if blocks > 0 {
                        self.pace.take(blocks);
                        self.copied += blocks;
                        self.copy_end = self.serve(blocks);
                    }
                }
                self.now += 5 * US;
            }
        }

        fn p99(&mut self) -> u64 {
            let mut took = std::mem::take(&mut self.took);
            took.sort_unstable();
            took[took.len() * 99 / 100]
        }
    }

    #[test]
    fn beside_applications_their_p99_at_most_doubles_and_without_them_it_goes_as_fast_as_it_can() {
        let mut bench = Bench::new(Limits { max: u64::MAX, min: MIB });
        bench.run(2_000, 300 * US);
        let without = bench.p99();
        bench.copying = true;
        bench.run(10_000, 300 * US);
        let (beside, copied) = (bench.p99(), bench.copied);
        assert!(beside <= 2 * without, "{beside} beside copies, {without} without");
        assert!(copied >= 10 * 256, "only {copied} blocks in 10 s: below the least pace");
        bench.copied = 0;
        bench.run(2_000, 0);
        assert!(bench.copied * 8 * US > 1_300_000_000, "{} blocks in 2 s without applications", bench.copied);
    }

    #[test]
    fn what_never_yields_more_than_doubles_it() {
        let mut bench = Bench::new(Limits::NONE);
        bench.run(2_000, 300 * US);
        let without = bench.p99();
        bench.copying = true;
        bench.run(5_000, 300 * US);
        assert!(bench.p99() > 4 * without, "the bench shows nothing");
    }

    #[test]
    fn it_keeps_to_the_maximum_and_never_falls_below_the_minimum() {
        let mut bench = Bench::new(Limits { max: 8 * MIB, min: 2 * MIB });
        bench.copying = true;
        bench.run(4_000, 0);
        let expected = 4 * 8 * 256;
        assert!((expected * 9 / 10..=expected * 11 / 10).contains(&bench.copied), "{}", bench.copied);
        // Operations that take ever longer, whatever it does.
        let mut pace = Pace::new(Limits { max: u64::MAX, min: 2 * MIB }, Moment(1));
        let (mut now, mut taken) = (1, 0);
        pace.operation(Moment(now), Span(1), false, 1, false);
        while now < 4 * SECOND {
            now += SECOND / 1_000;
            pace.operation(Moment(now), Span(now), false, 1, true);
            let blocks = pace.allowed(Moment(now));
            pace.take(blocks);
            taken += blocks;
        }
        let expected = 4 * 2 * 256;
        assert!((expected * 9 / 10..=expected * 11 / 10).contains(&taken), "{taken} of {expected}");
    }

    #[test]
    fn it_says_when_to_ask_again_and_the_answer_is_no_longer_nothing() {
        let mut pace = Pace::new(Limits { max: MIB, min: MIB }, Moment(1));
        let mut now = Moment(1);
        for _ in 0..50 {
            let blocks = pace.allowed(now);
            pace.take(blocks);
            if blocks == 0 {
                now = pace.ready_at(now).expect("it waits for something");
                assert!(pace.allowed(now) > 0);
            }
        }
        assert!(now.0 > SECOND / 2, "{now:?}");
        pace.set_limits(Limits::NONE);
        assert_eq!(pace.allowed(now), u64::MAX);
    }
}
