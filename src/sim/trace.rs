//! What happened in a run: a hash over all of it, the last events in words, and what was violated.
//!
//! Does not know what an event means. Invariant: the hash covers every event with its time, so two runs with equal
//! hashes took the same path.

use std::collections::VecDeque;
use std::fmt::Write;

use super::rng::mix;

/// The trace of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    last: VecDeque<(u64, &'static str, &'static str, u64, u64, String)>,
    violations: Vec<String>,
    /// Events kept in words: only a replay pays for them.
    shown: usize,
}

impl Trace {
    /// A trace that keeps the last `shown` events in words.
    pub fn new(shown: usize) -> Trace {
        Trace { shown, ..Trace::default() }
    }

    /// Notes one event; `words` is asked only in a replay.
    pub fn note(
        &mut self,
        now: u64,
        who: &'static str,
        what: &'static str,
        numbers: (u64, u64),
        words: impl FnOnce() -> String,
    ) {
        self.events += 1;
        for part in [now, tag(who), tag(what), numbers.0, numbers.1] {
            self.hash = mix(self.hash ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        }
        if self.shown > 0 {
            if self.last.len() == self.shown {
                self.last.pop_front();
            }
            self.last.push_back((now, who, what, numbers.0, numbers.1, words()));
        }
    }

    pub fn violate(&mut self, now: u64, text: String) {
        self.note(now, "!", "violation", (0, 0), || text.clone());
        self.violations.push(format!("at {} s: {text}", seconds(now)));
    }

    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last events, one a line.
    pub fn shown(&self) -> String {
        let mut out = String::new();
        for (now, who, what, a, b, words) in &self.last {
            let _ = writeln!(out, "{:>12} {who:<2} {what:<12} {a:>8} {b:>8}  {words}", seconds(*now));
        }
        out
    }
}

fn seconds(now: u64) -> String {
    format!("{}.{:06}", now / 1_000_000_000, now / 1000 % 1_000_000)
}

fn tag(word: &str) -> u64 {
    word.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_covers_time_names_and_numbers() {
        let hash = |now, what, a| {
            let mut trace = Trace::new(0);
            trace.note(now, "A", what, (a, 0), String::new);
            trace.hash()
        };
        let base = hash(1, "x", 1);
        assert_eq!(base, hash(1, "x", 1));
        assert!([hash(2, "x", 1), hash(1, "y", 1), hash(1, "x", 2)].iter().all(|h| *h != base));
    }
}
