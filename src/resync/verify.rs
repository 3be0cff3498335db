//! Looking whether two copies are equal, or whether one still is what was written to it: what to look at next, at
//! which pace, what was found so far.
//!
//! Does not know digests, locks or who serves. Invariants: one look at a time; a look that was lost is made again; what
//! is noted as done was looked at in this run or in the one that it goes on with.

use crate::base::{BlockNo, ExtentNo, Moment, Span};

/// Longest pause between two looks beside applications that work.
const PAUSE_MAX: Span = Span::from_millis(500);
/// Between two notes of how far it is.
const NOTE_EVERY: Span = Span::from_secs(2);

/// What is looked for, and what is done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Only this node's copy against its own digests; else both copies, against theirs and each other.
    pub local: bool,
    pub repair: bool,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This node's copy does not match its digest.
    Rotten,
    /// The peer's does not.
    RottenAtPeer,
    /// No copy at hand matches its digest.
    Lost,
    /// Both match their digests and hold different contents.
    Differs,
}

/// A block that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    pub block: BlockNo,
    pub trouble: Trouble,
    pub repaired: bool,
}

/// What was found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Blocks of this node's copy that were read and checked.
    pub blocks: u64,
    pub rotten: u64,
    pub differ: u64,
    pub lost: u64,
    pub repaired: u64,
}

impl Tally {
    pub fn found(&self) -> u64 {
        self.rotten + self.differ + self.lost
    }

    /// What is still wrong.
    pub fn left(&self) -> u64 {
        self.found().saturating_sub(self.repaired)
    }

    fn add(&mut self, finding: &Finding) {
        let kind = match finding.trouble {
            Trouble::Rotten | Trouble::RottenAtPeer => &mut self.rotten,
            Trouble::Lost => &mut self.lost,
            Trouble::Differs => &mut self.differ,
        };
        *kind += 1;
        self.repaired += u64::from(finding.repaired);
    }
}

/// How far a run is: enough to go on with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    pub task: Task,
    /// The first extent that was not looked at.
    pub next: ExtentNo,
    /// Extents of the volume.
    pub total: u64,
    pub tally: Tally,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Verify {
    progress: VerifyProgress,
    /// When the look that is under way began.
    began: Option<Moment>,
    ready_at: Moment,
    noted_at: Moment,
}

impl Verify {
    /// Begins, or goes on, with a volume of `total` extents.
    pub fn new(from: VerifyProgress, total: u64, now: Moment) -> Verify {
        let progress = VerifyProgress { total, next: from.next.min(ExtentNo(total)), ..from };
        Verify { progress, began: None, ready_at: now, noted_at: now }
    }

    pub fn progress(&self) -> VerifyProgress {
        self.progress
    }

    pub fn is_over(&self) -> bool {
        self.progress.next.0 >= self.progress.total
    }

    /// Where to look now, if it is time.
    pub fn want(&mut self, now: Moment) -> Option<ExtentNo> {
        if self.began.is_some() || self.is_over() || now < self.ready_at {
            return None;
        }
        self.began = Some(now);
        Some(self.progress.next)
    }

    /// When there is something to do again.
    pub fn retry_at(&self) -> Option<Moment> {
        (self.began.is_none() && !self.is_over()).then_some(self.ready_at)
    }

    /// The look under way will not be answered.
    pub fn lose(&mut self) {
        self.began = None;
    }

    /// Everything before `upto` was looked at. Beside applications that work two thirds of the time are theirs.
    pub fn looked(&mut self, upto: ExtentNo, blocks: u64, findings: &[Finding], busy: bool, now: Moment) {
        let took = self.began.take().map_or(Span::ZERO, |began| now.since(began));
        self.ready_at = if busy { now + Span(took.0.saturating_mul(2)).min(PAUSE_MAX) } else { now };
        self.progress.next = self.progress.next.max(upto.min(ExtentNo(self.progress.total)));
        self.progress.tally.blocks += blocks;
        findings.iter().for_each(|finding| self.progress.tally.add(finding));
    }

    /// Whether it is time to note how far it is.
    pub fn is_note_due(&mut self, now: Moment) -> bool {
        let due = now >= self.noted_at + NOTE_EVERY;
        if due {
            self.noted_at = now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Moment = Moment(1_000_000_000);

    fn begun(next: u64) -> Verify {
        Verify::new(VerifyProgress { next: ExtentNo(next), ..VerifyProgress::default() }, 4, T0)
    }

    #[test]
    fn one_look_at_a_time_and_a_lost_one_is_made_again() {
        let mut verify = begun(1);
        assert_eq!((verify.want(T0), verify.want(T0)), (Some(ExtentNo(1)), None));
        verify.lose();
        assert_eq!(verify.want(T0), Some(ExtentNo(1)));
        verify.looked(ExtentNo(3), 7, &[], false, T0);
        assert_eq!((verify.want(T0), verify.progress().tally.blocks), (Some(ExtentNo(3)), 7));
        verify.looked(ExtentNo(9), 1, &[], false, T0);
        assert_eq!((verify.is_over(), verify.want(T0), verify.retry_at()), (true, None, None));
    }

    #[test]
    fn applications_that_work_get_two_thirds_of_the_time() {
        let mut verify = begun(0);
        verify.want(T0);
        let after = T0 + Span::from_millis(10);
        verify.looked(ExtentNo(1), 1, &[], true, after);
        assert_eq!(verify.want(after + Span::from_millis(19)), None);
        assert_eq!(verify.want(after + Span::from_millis(20)), Some(ExtentNo(1)));
    }

    #[test]
    fn what_was_found_and_what_is_left_are_counted() {
        let mut verify = begun(0);
        let finding = |trouble, repaired| Finding { block: BlockNo(1), trouble, repaired };
        verify.want(T0);
        let found =
            [finding(Trouble::Rotten, true), finding(Trouble::Differs, false), finding(Trouble::Lost, false)];
        verify.looked(ExtentNo(1), 9, &found, false, T0);
        let tally = verify.progress().tally;
        assert_eq!((tally.rotten, tally.differ, tally.lost, tally.left()), (1, 1, 1, 2));
    }
}
