//! Sets of blocks as sorted runs.

use crate::wire::Run;

/// Sorts and joins overlapping and touching runs.
pub fn merge(mut runs: Vec<Run>) -> Vec<Run> {
    runs.retain(|run| run.count > 0);
    runs.sort_unstable();
    let mut merged: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match merged.last_mut() {
            Some(last) if run.first <= last.first.plus(last.count) => {
                let end = run.first.plus(run.count).max(last.first.plus(last.count));
                last.count = end.0 - last.first.0;
            }
            _ => merged.push(run),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockNo;

    fn run(first: u64, count: u64) -> Run {
        Run { first: BlockNo(first), count }
    }

    #[test]
    fn overlapping_and_touching_runs_are_joined_and_nothing_is_lost() {
        let merged = merge(vec![run(8, 2), run(0, 4), run(4, 1), run(2, 1), run(20, 0), run(9, 5)]);
        assert_eq!(merged, vec![run(0, 5), run(8, 6)]);
    }
}
