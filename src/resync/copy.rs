//! The pace of a copy: how much is read ahead, what was sent and is not stable on the target yet.
//!
//! Decides when to ask for more. Does not know which blocks differ (the image's to-copy map does).
//! Invariant: a run is reported stable exactly once, and only after a flush that follows it in the stream.

use std::collections::BTreeMap;

use crate::wire::{Run, Seq};

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
}

impl Progress {
    /// Blocks read or sent and not yet done.
    pub fn in_flight(&self) -> u64 {
        self.flying.values().filter(|c| !c.done).map(|c| c.run.count).sum()
    }

    /// How many blocks to ask for; 0 = none at this moment. Half the budget is left alone while applications wait.
    pub fn want(&self, budget: u64, operations_wait: bool) -> u64 {
        if self.asked || self.exhausted {
            return 0;
        }
        let budget = if operations_wait { budget.div_ceil(4) } else { budget };
        budget.saturating_sub(self.in_flight()).min(256)
    }

    /// Everything up to `upto` is done on the target.
    pub fn done(&mut self, upto: Seq) {
        self.flying.range_mut(..=upto).for_each(|(_, copy)| copy.done = true);
    }

    /// A flush at `upto` is done: takes out what is stable now.
    pub fn stable(&mut self, upto: Seq) -> Vec<Run> {
        let rest = self.flying.split_off(&Seq(upto.0.saturating_add(1)));
        let stable = std::mem::replace(&mut self.flying, rest);
        let runs: Vec<Run> = stable.into_values().map(|copy| copy.run).collect();
        self.copied += runs.iter().map(|run| run.count).sum::<u64>();
        self.total = self.total.max(self.copied);
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockNo;

    #[test]
    fn a_run_is_stable_once_and_only_behind_a_flush() {
        let mut progress = Progress { total: 8, ..Progress::default() };
        let run = |first| CopyRun { run: Run { first: BlockNo(first), count: 4 }, done: false };
        progress.flying.insert(Seq(1), run(0));
        progress.flying.insert(Seq(3), run(4));
        progress.done(Seq(3));
        assert_eq!((progress.in_flight(), progress.copied), (0, 0));
        assert_eq!(progress.stable(Seq(2)), vec![run(0).run]);
        assert_eq!(progress.stable(Seq(2)), vec![]);
        assert_eq!((progress.stable(Seq(4)).len(), progress.copied), (1, 8));
    }

    #[test]
    fn waiting_applications_shrink_the_read_ahead() {
        let progress = Progress::default();
        assert_eq!((progress.want(256, false), progress.want(256, true)), (256, 64));
        assert_eq!(Progress { asked: true, ..Progress::default() }.want(256, false), 0);
    }
}
