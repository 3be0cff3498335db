//! Who uses which block: every block of the filesystem's area has one owner, or is free, and nothing is both.
//!
//! Decides what double use and a lost block are. Does not know what an owner is for. Free runs may cover chunks of the
//! tables (the chunk map is subtracted at every open), everything else is exclusive.

use std::collections::BTreeMap;

use twinfs::base::BlockNo;

use crate::findings::Findings;

struct Run {
    end: u64,
    owner: String,
}

/// Owners of the blocks in `0..blocks`.
pub struct Space {
    blocks: u64,
    used: BTreeMap<u64, Run>,
    free: BTreeMap<u64, u64>,
}

impl Space {
    pub fn new(blocks: u64) -> Space {
        Space { blocks, used: BTreeMap::new(), free: BTreeMap::new() }
    }

    /// `owner` uses `count` blocks from `start`.
    pub fn used(&mut self, start: BlockNo, count: u64, owner: &str, findings: &mut Findings) {
        let (start, end) = (start.0, start.0.saturating_add(count));
        if count == 0 || end > self.blocks {
            return findings.add("space", format!("{owner}: blocks {start}+{count} of {}", self.blocks));
        }
        if let Some((other, run)) = self.overlapping(start, end) {
            let text =
                format!("blocks {start}..{end} of {owner} are also of {} ({other}..{})", run.owner, run.end);
            return findings.add("space", text);
        }
        self.used.insert(start, Run { end, owner: owner.to_string() });
    }

    fn overlapping(&self, start: u64, end: u64) -> Option<(u64, &Run)> {
        let (at, run) = self.used.range(..end).next_back()?;
        (run.end > start).then_some((*at, run))
    }

    /// `count` blocks from `start` are free; `source` says so.
    pub fn free(&mut self, start: BlockNo, count: u64, source: &str, findings: &mut Findings) {
        let (start, end) = (start.0, start.0.saturating_add(count));
        if count == 0 || end > self.blocks {
            return findings
                .add("free space", format!("{source}: blocks {start}+{count} of {}", self.blocks));
        }
        if let Some((other, other_end)) = self.free.range(..end).next_back().filter(|(_, e)| **e > start) {
            let text = format!("{source}: {start}..{end} are free already ({other}..{other_end})");
            return findings.add("free space", text);
        }
        self.free.insert(start, end);
    }

    /// `count` blocks from `start` are not free any more.
    pub fn taken(&mut self, start: BlockNo, count: u64, source: &str, findings: &mut Findings) {
        let (start, end) = (start.0, start.0.saturating_add(count));
        let mut left = end.saturating_sub(start);
        while let Some((from, to)) = self.free.range(..end).next_back().map(|(from, to)| (*from, *to)) {
            if to <= start {
                break;
            }
            self.free.remove(&from);
            if from < start {
                self.free.insert(from, start);
            }
            if to > end {
                self.free.insert(end, to);
            }
            left -= to.min(end) - from.max(start);
        }
        if left > 0 {
            findings.add(
                "free space",
                format!("{source}: {left} blocks of {start}..{end} were taken but not free"),
            );
        }
    }

    pub fn free_blocks(&self) -> u64 {
        self.free.iter().map(|(start, end)| end - start).sum()
    }

    /// Compares both sides once everything was added. `shared` is the owner whose blocks may also stand as free.
    pub fn finish(&self, shared: &str, findings: &mut Findings) {
        for (start, run) in self.used.iter().filter(|(_, run)| run.owner != shared) {
            let before = self.free.range(..run.end).next_back();
            if let Some((free, free_end)) = before.filter(|(_, free_end)| **free_end > *start) {
                let (end, owner) = (run.end, &run.owner);
                findings
                    .add("free space", format!("{free}..{free_end} are free, {start}..{end} are of {owner}"));
            }
        }
        let mut edges: Vec<(u64, u64)> = self.used.iter().map(|(start, run)| (*start, run.end)).collect();
        edges.extend(self.free.iter().map(|(start, end)| (*start, *end)));
        edges.sort_unstable();
        let mut covered = 0;
        for (start, end) in edges.into_iter().chain([(self.blocks, self.blocks)]) {
            if start > covered {
                findings.add("space", format!("blocks {covered}..{start} are neither used nor free"));
            }
            covered = covered.max(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(used: &[(u64, u64, &str)], free: &[(u64, u64)]) -> Vec<String> {
        let mut findings = Findings::default();
        let mut space = Space::new(100);
        for (start, count, owner) in used {
            space.used(BlockNo(*start), *count, owner, &mut findings);
        }
        for (start, count) in free {
            space.free(BlockNo(*start), *count, "table", &mut findings);
        }
        space.finish("tables", &mut findings);
        findings.report()
    }

    #[test]
    fn a_complete_partition_is_clean_and_free_runs_may_cover_the_chunks_of_the_tables() {
        assert_eq!(run(&[(0, 10, "log"), (10, 20, "inode 5"), (40, 10, "tables")], &[(30, 70)]), [""; 0]);
    }

    #[test]
    fn double_use_loss_and_runs_outside_are_named() {
        let wrong = run(&[(0, 10, "log"), (5, 10, "inode 5")], &[(10, 90)]);
        assert!(wrong[0].contains("inode 5 are also of log"), "{wrong:?}");
        let wrong = run(&[(0, 10, "log"), (10, 20, "inode 5")], &[(29, 71)]);
        assert!(wrong[0].contains("29..100 are free, 10..30 are of inode 5"), "{wrong:?}");
        assert_eq!(run(&[(0, 10, "log")], &[(20, 80)]), ["space: blocks 10..20 are neither used nor free"]);
        assert!(run(&[(0, 100, "log"), (99, u64::MAX, "inode 5")], &[])[0].contains("of 100"));
        assert!(run(&[(0, 50, "log")], &[(50, 50), (60, 5)])[0].contains("are free already"));
    }

    #[test]
    fn blocks_taken_leave_the_free_runs_and_must_have_been_there() {
        let mut findings = Findings::default();
        let mut space = Space::new(100);
        space.free(BlockNo(10), 50, "table", &mut findings);
        space.taken(BlockNo(20), 5, "log", &mut findings);
        space.free(BlockNo(22), 1, "log", &mut findings);
        assert_eq!(findings.count(), 0);
        space.taken(BlockNo(20), 5, "log", &mut findings);
        assert!(findings.report()[0].contains("4 blocks of 20..25"), "{:?}", findings.report());
    }
}
