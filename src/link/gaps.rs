//! Lengths of silence, counted: how long heartbeats kept one waiting.
//!
//! Decides how exactly a length is kept: whole milliseconds up to 16 ms, above that to an eighth. Does not know whose
//! silence it is. Invariants: of fixed size; what a percentile says is never shorter than what was seen.

use crate::base::{Moment, Span};

/// Buckets to an octave.
const STEPS: u64 = 8;
/// The last one takes everything from about 12 days.
const BUCKETS: usize = 232;

/// A histogram of silences.
#[derive(Clone, Debug)]
pub struct Gaps {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    worst: Option<(Span, Moment)>,
}

impl Default for Gaps {
    fn default() -> Gaps {
        Gaps { buckets: Box::new([0; BUCKETS]), count: 0, worst: None }
    }
}

/// Milliseconds, rounded up.
fn millis(gap: Span) -> u64 {
    gap.0.div_ceil(1_000_000)
}

fn bucket(ms: u64) -> usize {
    let octave = ms.max(STEPS).ilog2() - STEPS.ilog2();
    let index = u64::from(octave) * STEPS + (ms >> octave);
    usize::try_from(index).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The longest that bucket `index` takes, in milliseconds.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * STEPS {
        return index;
    }
    let octave = index / STEPS - 1;
    ((index % STEPS + STEPS + 1) << octave) - 1
}

impl Gaps {
    /// Counts a silence that ended at `now`.
    pub fn add(&mut self, now: Moment, gap: Span) {
        self.buckets[bucket(millis(gap))] += 1;
        self.count += 1;
        if self.worst.is_none_or(|(worst, _)| gap > worst) {
            self.worst = Some((gap, now));
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest one and when it ended.
    pub fn worst(&self) -> Option<(Span, Moment)> {
        self.worst
    }

    /// The silence that `per_million` of a million did not exceed; `None`: there was none.
    pub fn percentile(&self, per_million: u64) -> Option<Span> {
        let (worst, _) = self.worst?;
        let wanted = u128::from(self.count) * u128::from(per_million.min(1_000_000));
        let rank = wanted.div_ceil(1_000_000).max(1);
        let mut seen = 0_u128;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank && index + 1 < BUCKETS {
                return Some(Span::from_millis(upper(index)).min(worst));
            }
        }
        Some(worst)
    }

    /// What was counted: the longest of each bucket in milliseconds, and how many; empty ones are left out.
    pub fn table(&self) -> Vec<(u64, u64)> {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(index, count)| (upper(index), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Span {
        Span::from_millis(ms)
    }

    #[test]
    fn every_length_has_a_bucket_that_overstates_it_by_an_eighth_at_most() {
        let mut last = 0;
        for length in (0..5_000).chain((12..30).flat_map(|shift| [(1 << shift) - 1, 1 << shift])) {
            let index = bucket(length);
            assert!(index >= last || length < 5_000, "{length}");
            last = index;
            let most = upper(index);
            assert!(most >= length && most - length <= length / 8, "{length} counts as {most}");
            assert_eq!(bucket(most), index, "{length}");
            assert_eq!(bucket(most + 1), index + 1, "{length}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_percentile_never_says_less_than_was_seen_nor_more_than_the_worst() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.percentile(500_000), None);
        for n in 0..9_999 {
            gaps.add(Moment(n), ms(500 + n % 7));
        }
        gaps.add(Moment(77), ms(4_321));
        assert_eq!((gaps.count(), gaps.worst()), (10_000, Some((ms(4_321), Moment(77)))));
        let p9999 = gaps.percentile(999_900).unwrap();
        assert!(p9999 >= ms(506) && p9999 <= ms(506 + 64), "{p9999}");
        assert_eq!(gaps.percentile(1_000_000), Some(ms(4_321)), "no longer than the worst");
        gaps.add(Moment(78), ms(3_000));
        let p9999 = gaps.percentile(999_900).unwrap();
        assert!(p9999 >= ms(3_000) && p9999 < ms(3_400), "two of 10,001 are longer: {p9999}");
        assert_eq!(gaps.table().iter().map(|(_, count)| count).sum::<u64>(), 10_001);
    }

    #[test]
    fn the_longest_silence_is_kept_exactly_whatever_its_length() {
        let mut gaps = Gaps::default();
        gaps.add(Moment(1), Span(u64::MAX));
        assert_eq!(gaps.percentile(1), Some(Span(u64::MAX)));
    }
}
