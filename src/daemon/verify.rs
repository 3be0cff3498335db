//! How far a verify run is and how the last one went, kept over restarts; and when the next scrub is due.
//!
//! Decides when this node looks through its own copy by itself. Does not know what a run finds wrong. Invariant: what
//! is kept was noted by the machine; a run that was cut off by a restart goes on where it was, one that ended does not.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::{ExtentNo, Span};
use crate::format::State;
use crate::node::{Tally, Task, VerifyEnd, VerifyProgress};
use crate::services::adopt::{read_json, write_json};
use crate::sys::clock;

/// A run, as the file and the status show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// Only this node's copy.
    pub local: bool,
    pub repair: bool,
    /// Extents of 4 MiB that were looked at, and all.
    pub done_extents: u64,
    pub total_extents: u64,
    /// Blocks of 4 KiB that were read here.
    pub blocks: u64,
    pub rotten: u64,
    pub differ: u64,
    pub lost: u64,
    pub repaired: u64,
    /// running, finished, stopped, moved
    pub state: String,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
}

impl VerifyStatus {
    fn of(progress: &VerifyProgress, end: Option<VerifyEnd>, unix_ms: u64) -> VerifyStatus {
        let tally = progress.tally;
        VerifyStatus {
            local: progress.task.local,
            repair: progress.task.repair,
            done_extents: progress.next.0,
            total_extents: progress.total,
            blocks: tally.blocks,
            rotten: tally.rotten,
            differ: tally.differ,
            lost: tally.lost,
            repaired: tally.repaired,
            state: match end {
                None => "running",
                Some(VerifyEnd::Finished) => "finished",
                Some(VerifyEnd::Stopped) => "stopped",
                Some(VerifyEnd::Moved) => "moved",
                Some(VerifyEnd::Unable) => "unable",
            }
            .to_string(),
            ended_unix_ms: end.map(|_| unix_ms),
        }
    }

    /// What the machine shows of a run that is under way.
    pub fn running(progress: &VerifyProgress) -> VerifyStatus {
        VerifyStatus::of(progress, None, 0)
    }

    fn progress(&self) -> VerifyProgress {
        VerifyProgress {
            task: Task { local: self.local, repair: self.repair },
            next: ExtentNo(self.done_extents),
            total: self.total_extents,
            tally: Tally {
                blocks: self.blocks,
                rotten: self.rotten,
                differ: self.differ,
                lost: self.lost,
                repaired: self.repaired,
            },
        }
    }

    /// Blocks that still are not as they should be.
    pub fn left(&self) -> u64 {
        self.wrong().saturating_sub(self.repaired)
    }

    /// In one line.
    pub fn line(&self) -> String {
        let what = if self.local { "this copy" } else { "both copies" };
        let wrong = match (self.wrong(), self.repaired) {
            (0, _) => "nothing wrong".to_string(),
            (wrong, 0) => format!("{wrong} wrong, none repaired"),
            (wrong, repaired) => format!("{wrong} wrong, {repaired} repaired"),
        };
        let share = (self.done_extents * 100).checked_div(self.total_extents).unwrap_or(100);
        match self.state.as_str() {
            "running" => format!("{what}, {share} %, {wrong} so far"),
            "finished" => format!("{what}: {} blocks read, {wrong}", self.blocks),
            state => format!("{what}: {state} at {share} %, {wrong} so far"),
        }
    }

    /// Blocks that were not as they should be.
    pub fn wrong(&self) -> u64 {
        self.rotten + self.differ + self.lost
    }
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Of the image that it is about.
    incarnation: String,
    running: Option<VerifyStatus>,
    last: Option<VerifyStatus>,
    /// When this node's copy was last looked through, or first seen.
    scrubbed_unix_ms: u64,
}

/// The file of one volume.
pub struct VerifyFile {
    path: PathBuf,
    kept: Mutex<Kept>,
}

impl VerifyFile {
    /// Reads the file of volume `name`. One about another image, or one that makes no sense, counts as none: it decides
    /// nothing about data.
    pub fn open(state_dir: &Path, name: &str, state: &State) -> VerifyFile {
        VerifyFile::read(state_dir, name, state.incarnation, clock::unix_ms())
    }

    fn read(state_dir: &Path, name: &str, incarnation: u128, unix_ms: u64) -> VerifyFile {
        let path = state_dir.join(format!("{name}.verify.json"));
        let incarnation = format!("{incarnation:032x}");
        let kept: Option<Kept> = read_json(&path).ok().flatten();
        let kept = kept.filter(|kept: &Kept| kept.incarnation == incarnation);
        let fresh = Kept { incarnation, scrubbed_unix_ms: unix_ms, ..Kept::default() };
        VerifyFile { path, kept: Mutex::new(kept.unwrap_or(fresh)) }
    }

    /// The run that a restart cut off.
    pub fn cut_off(&self) -> Option<VerifyProgress> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.running.as_ref().map(VerifyStatus::progress)
    }

    /// The last run that ended.
    pub fn last(&self) -> Option<VerifyStatus> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    /// Notes how far a run is, or that it ended.
    pub fn note(
        &self,
        progress: &VerifyProgress,
        end: Option<VerifyEnd>,
        unix_ms: u64,
    ) -> Result<(), String> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let status = VerifyStatus::of(progress, end, unix_ms);
        match end {
            None => kept.running = Some(status),
            Some(_) => (kept.running, kept.last) = (None, Some(status)),
        }
        if end == Some(VerifyEnd::Finished) {
            kept.scrubbed_unix_ms = unix_ms;
        }
        write_json(&self.path, &*kept)
    }

    /// Whether this node's copy was not looked through for so long. A clock that went back counts from now.
    pub fn is_due(&self, every: Span, unix_ms: u64) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.scrubbed_unix_ms = kept.scrubbed_unix_ms.min(unix_ms);
        kept.running.is_none() && unix_ms - kept.scrubbed_unix_ms >= every.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_cut_off_goes_on_and_an_old_scrub_is_due() {
        let dir = std::env::temp_dir().join(format!("twinfs-verify-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let open = |incarnation| VerifyFile::read(&dir, "mail", incarnation, 1_000);
        let week = Span::from_secs(7 * 24 * 3600);
        let file = open(9);
        assert!(file.cut_off().is_none() && !file.is_due(week, 1_000), "a new image is not scrubbed at once");
        let mut progress = VerifyProgress { next: ExtentNo(3), total: 8, ..VerifyProgress::default() };
        progress.task = Task { local: true, repair: true };
        progress.tally.rotten = 2;
        file.note(&progress, None, 2_000).unwrap();
        let file = open(9);
        assert_eq!(file.cut_off(), Some(progress));
        assert!(open(10).cut_off().is_none(), "another disk");
        assert!(!file.is_due(Span::from_millis(1), 9_000), "it runs");
        progress.next = ExtentNo(8);
        file.note(&progress, Some(VerifyEnd::Finished), 5_000).unwrap();
        let file = open(9);
        assert_eq!((file.cut_off(), file.last().map(|last| last.wrong())), (None, Some(2)));
        assert!(
            !file.is_due(week, 5_000 + week.as_millis() - 1) && file.is_due(week, 5_000 + week.as_millis())
        );
        assert!(!file.is_due(week, 4_000), "the clock went back");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
