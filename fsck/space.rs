//! Who uses which block: every block of the filesystem's area has one owner, or is free, and nothing is both.
//!
//! Decides what double use and a lost block are. Does not know what an owner is for. Free runs may cover chunks of the
//! tables (the chunk map is subtracted at every open), everything else is exclusive. Ten million runs take some 300 MB.

use std::collections::BTreeMap;
use std::fmt;

use twinfs::base::{BlockNo, Ino};

use crate::findings::Findings;

/// Who uses blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Superblock, log, and what belongs to them.
    Fixed,
    /// A chunk of the tables: may also stand as free.
    Tables,
    File(Ino),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Fixed => f.write_str("the fixed areas"),
            Owner::Tables => f.write_str("the tables"),
            Owner::File(ino) => write!(f, "inode {}", ino.0),
        }
    }
}

/// Blocks of one owner, packed: there is one for every file at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    /// 0: fixed; the highest: the tables; else an inode.
    owner: u64,
    count: u32,
}

impl Run {
    fn end(self) -> u64 {
        self.start + u64::from(self.count)
    }

    fn owner(self) -> Owner {
        match self.owner {
            0 => Owner::Fixed,
            u64::MAX => Owner::Tables,
            ino => Owner::File(Ino(ino)),
        }
    }
}

/// Runs in use. Files come in the order of their inodes, not of their blocks.
#[derive(Clone)]
enum Used {
    /// As they came; `sorted` by place since the last of them. All that a sound image needs.
    List { runs: Vec<Run>, sorted: bool },
    /// By place, for images where blocks belong to several.
    Map(BTreeMap<u64, Run>),
}

/// Owners of the blocks in `0..blocks`.
#[derive(Clone)]
pub struct Space {
    blocks: u64,
    /// A bit for every block in use.
    taken: Vec<u64>,
    used: Used,
    free: BTreeMap<u64, u64>,
}

impl Space {
    pub fn new(blocks: u64) -> Space {
        let taken = vec![0; usize::try_from(blocks.div_ceil(64)).unwrap_or(0)];
        Space { blocks, taken, used: Used::List { runs: Vec::new(), sorted: true }, free: BTreeMap::new() }
    }

    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// `owner` uses `count` blocks from `start`; the error says who has some of them already.
    pub fn claim(&mut self, start: BlockNo, count: u64, owner: Owner) -> Result<(), String> {
        let (start, end) = (start.0, start.0.saturating_add(count));
        if count == 0 || end > self.blocks {
            return Err(format!("blocks {start}+{count} of {}", self.blocks));
        }
        if self.is_taken(start, end) {
            let run = self.map().range(..end).next_back().map(|(_, run)| *run);
            let of = run
                .map_or(String::new(), |run| format!(" of {} ({}..{})", run.owner(), run.start, run.end()));
            return Err(format!("blocks {start}..{end} are also{of}"));
        }
        self.take(start, end);
        let owner = match owner {
            Owner::Fixed => 0,
            Owner::Tables => u64::MAX,
            Owner::File(ino) => ino.0.min(u64::MAX - 1),
        };
        let mut at = start;
        while at < end {
            let count = u32::try_from(end - at).unwrap_or(u32::MAX);
            self.add(Run { start: at, owner, count });
            at += u64::from(count);
        }
        Ok(())
    }

    fn add(&mut self, run: Run) {
        match &mut self.used {
            Used::Map(map) => drop(map.insert(run.start, run)),
            Used::List { runs, sorted } => {
                *sorted &= runs.last().is_none_or(|last| last.start < run.start);
                runs.push(run);
            }
        }
    }

    /// The words of the map that a range touches, with the bits of it.
    fn words(start: u64, end: u64) -> impl Iterator<Item = (usize, u64)> {
        (start / 64..end.div_ceil(64)).map(move |word| {
            let (low, high) = (start.max(word * 64) % 64, end.min(word * 64 + 64) - word * 64);
            (word as usize, u64::MAX >> (64 - high) & u64::MAX << low)
        })
    }

    fn is_taken(&self, start: u64, end: u64) -> bool {
        Space::words(start, end).any(|(word, bits)| self.taken[word] & bits != 0)
    }

    fn take(&mut self, start: u64, end: u64) {
        Space::words(start, end).for_each(|(word, bits)| self.taken[word] |= bits);
    }

    fn map(&mut self) -> &mut BTreeMap<u64, Run> {
        if let Used::List { runs, .. } = &mut self.used {
            let runs = std::mem::take(runs);
            self.used = Used::Map(runs.into_iter().map(|run| (run.start, run)).collect());
        }
        match &mut self.used {
            Used::Map(map) => map,
            Used::List { .. } => unreachable!("it was made a map above"),
        }
    }

    /// Everything was claimed: from now on questions are cheap.
    pub fn settle(&mut self) {
        if let Used::List { runs, sorted } = &mut self.used {
            runs.sort_unstable_by_key(|run| run.start);
            *sorted = true;
        }
    }

    /// Whose block this is.
    pub fn owner(&self, block: BlockNo) -> Option<Owner> {
        let run = match &self.used {
            Used::Map(map) => map.range(..=block.0).next_back().map(|(_, run)| *run),
            Used::List { runs, sorted: true } => {
                runs[..runs.partition_point(|run| run.start <= block.0)].last().copied()
            }
            Used::List { runs, .. } => {
                runs.iter().filter(|run| run.start <= block.0).max_by_key(|r| r.start).copied()
            }
        };
        run.filter(|run| run.end() > block.0).map(Run::owner)
    }

    /// All runs of one kind of owner: first block, block behind, owner.
    pub fn runs(&self) -> Box<dyn Iterator<Item = (u64, u64, Owner)> + '_> {
        let shown = |run: Run| (run.start, run.end(), run.owner());
        match &self.used {
            Used::Map(map) => Box::new(map.values().copied().map(shown)),
            Used::List { runs, sorted: true } => Box::new(runs.iter().copied().map(shown)),
            Used::List { runs, .. } => {
                let mut runs = runs.clone();
                runs.sort_unstable_by_key(|run| run.start);
                Box::new(runs.into_iter().map(shown))
            }
        }
    }

    /// Blocks that nobody uses; `except` is taken as unused.
    pub fn unused(&self, except: Option<Owner>) -> Vec<(u64, u64)> {
        let (mut at, mut out) = (0, Vec::new());
        for (start, end, owner) in self.runs().chain([(self.blocks, self.blocks, Owner::Fixed)]) {
            if except == Some(owner) {
                continue;
            }
            if start > at {
                out.push((at, start - at));
            }
            at = at.max(end);
        }
        out
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

    /// Compares both sides once everything was added.
    pub fn finish(&self, findings: &mut Findings) {
        for (start, end, owner) in self.runs().filter(|(_, _, owner)| *owner != Owner::Tables) {
            let before = self.free.range(..end).next_back();
            if let Some((free, free_end)) = before.filter(|(_, free_end)| **free_end > start) {
                findings
                    .add("free space", format!("{free}..{free_end} are free, {start}..{end} are of {owner}"));
            }
        }
        let mut free = self.free.iter().map(|(start, end)| (*start, *end)).peekable();
        let mut used = self.runs().map(|(start, end, _)| (start, end)).peekable();
        let mut next = || match (free.peek(), used.peek()) {
            (Some(free_run), Some(used_run)) if free_run <= used_run => free.next(),
            (Some(_), None) => free.next(),
            _ => used.next(),
        };
        let mut covered = 0;
        for (start, end) in std::iter::from_fn(&mut next).chain([(self.blocks, self.blocks)]) {
            if start > covered {
                let text = format!("blocks {covered}..{start} are neither used nor free");
                findings.add("free space", text);
            }
            covered = covered.max(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Owner = Owner::File(Ino(5));

    fn run(used: &[(u64, u64, Owner)], free: &[(u64, u64)]) -> Vec<String> {
        let mut findings = Findings::default();
        let mut space = Space::new(100);
        for (start, count, owner) in used {
            if let Err(text) = space.claim(BlockNo(*start), *count, *owner) {
                findings.add("extents", text);
            }
        }
        for (start, count) in free {
            space.free(BlockNo(*start), *count, "table", &mut findings);
        }
        space.finish(&mut findings);
        findings.report()
    }

    #[test]
    fn a_complete_partition_is_clean_and_free_runs_may_cover_the_chunks_of_the_tables() {
        let used = [(0, 10, Owner::Fixed), (10, 20, FILE), (40, 10, Owner::Tables)];
        assert_eq!(run(&used, &[(30, 70)]), [""; 0]);
    }

    #[test]
    fn double_use_loss_and_runs_outside_are_named() {
        let wrong = run(&[(0, 10, Owner::Fixed), (5, 10, FILE)], &[(10, 90)]);
        assert!(wrong[0].contains("also of the fixed areas"), "{wrong:?}");
        let wrong = run(&[(0, 10, Owner::Fixed), (10, 20, FILE)], &[(29, 71)]);
        assert!(wrong[0].contains("29..100 are free, 10..30 are of inode 5"), "{wrong:?}");
        assert_eq!(
            run(&[(0, 10, Owner::Fixed)], &[(20, 80)]),
            ["free space: blocks 10..20 are neither used nor free"]
        );
        assert!(run(&[(0, 100, Owner::Fixed), (99, u64::MAX, FILE)], &[])[0].contains("of 100"));
        assert!(run(&[(0, 50, Owner::Fixed)], &[(50, 50), (60, 5)])[0].contains("are free already"));
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

    #[test]
    fn what_nobody_uses_is_found_with_and_without_the_chunks_of_the_tables() {
        let mut space = Space::new(100);
        for (start, count, owner) in [(0, 10, Owner::Fixed), (20, 10, Owner::Tables), (50, 5, FILE)] {
            space.claim(BlockNo(start), count, owner).unwrap();
        }
        assert_eq!(space.unused(None), [(10, 10), (30, 20), (55, 45)]);
        assert_eq!(space.unused(Some(Owner::Tables)), [(10, 40), (55, 45)]);
        assert_eq!(space.owner(BlockNo(52)), Some(FILE));
        assert_eq!(space.owner(BlockNo(55)), None);
    }
}
