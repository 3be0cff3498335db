//! Which inodes somebody outside holds by number.
//!
//! Decides nothing about names. Invariant: an inode whose count is above zero is never offered for freeing. The kernel
//! may hold every inode there is, most of them once, so a count takes little more than a byte where neighbours are held
//! as well; and letting go of an inode that has a name costs nothing, as millions are let go of at once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::{FastMap, FastSet, Ino};
use crate::format::{HELD_GROUP as GROUP, Held};

/// How often each inode is held.
#[derive(Default)]
struct Counts {
    groups: FastMap<u64, [u8; GROUP as usize]>,
    /// What a byte has no room for.
    more: FastMap<Ino, u64>,
}

impl Counts {
    fn get(&self, ino: Ino) -> u64 {
        let low = self.groups.get(&(ino.0 / GROUP)).map_or(0, |group| group[(ino.0 % GROUP) as usize]);
        u64::from(low) + if low == u8::MAX { self.more.get(&ino).copied().unwrap_or(0) } else { 0 }
    }

    fn add(&mut self, ino: Ino) {
        let low = &mut self.groups.entry(ino.0 / GROUP).or_default()[(ino.0 % GROUP) as usize];
        match low.checked_add(1) {
            Some(sum) => *low = sum,
            None => *self.more.entry(ino).or_insert(0) += 1,
        }
    }

    /// Answers whether the count fell to zero.
    fn sub(&mut self, ino: Ino, count: u64) -> bool {
        let held = self.get(ino);
        if held == 0 {
            return false;
        }
        let left = held.saturating_sub(count);
        let low = left.min(u8::MAX.into());
        match left - low {
            0 => self.more.remove(&ino),
            more => self.more.insert(ino, more),
        };
        let group = self.groups.entry(ino.0 / GROUP).or_default();
        group[(ino.0 % GROUP) as usize] = low as u8;
        if *group == [0; GROUP as usize] {
            self.groups.remove(&(ino.0 / GROUP));
            if self.groups.len() < self.groups.capacity() / 8 {
                self.groups.shrink_to(self.groups.len() * 2);
            }
        }
        left == 0
    }
}

#[derive(Default)]
struct Inner {
    counts: Counts,
    /// Held inodes that have no name any more.
    nameless: FastSet<Ino>,
    /// Inodes to look at: they have neither a name nor a user.
    check: Vec<Ino>,
}

/// Lookup counts, and the inodes that may have become free.
#[derive(Default)]
pub(super) struct Live(Mutex<Inner>);

impl Live {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, ino: Ino) {
        self.inner().counts.add(ino);
    }

    /// Answers whether that may have made the inode free.
    pub(super) fn sub(&self, ino: Ino, count: u64) -> bool {
        let mut inner = self.inner();
        let free = inner.counts.sub(ino, count) && inner.nameless.remove(&ino);
        if free {
            inner.check.push(ino);
        }
        free
    }

    /// The inode has no name any more.
    pub(super) fn check_later(&self, ino: Ino) {
        let mut inner = self.inner();
        if inner.counts.get(ino) > 0 {
            inner.nameless.insert(ino);
        } else {
            inner.check.push(ino);
        }
    }

    pub(super) fn is_used(&self, ino: Ino) -> bool {
        self.inner().counts.get(ino) > 0
    }

    /// Every count, for a process that goes on with them.
    pub(super) fn held(&self) -> Held {
        let inner = self.inner();
        let mut held = Held {
            groups: inner.counts.groups.iter().map(|(number, counts)| (*number, *counts)).collect(),
            more: inner.counts.more.iter().map(|(ino, count)| (ino.0, *count)).collect(),
        };
        held.groups.sort_unstable();
        held.more.sort_unstable();
        held
    }

    /// Begins with the counts of an earlier process; `nameless`: those of them without a name.
    pub(super) fn restore(&self, held: &Held, nameless: impl IntoIterator<Item = Ino>) {
        let mut inner = self.inner();
        inner.counts.groups = held.groups.iter().copied().collect();
        inner.counts.more = held.more.iter().map(|(ino, count)| (Ino(*ino), *count)).collect();
        inner.nameless = nameless.into_iter().collect();
    }

    /// The next inode to look at that nobody uses; those in use come back when their count falls to zero.
    pub(super) fn next_unused(&self) -> Option<Ino> {
        let mut inner = self.inner();
        while let Some(ino) = inner.check.pop() {
            if inner.counts.get(ino) == 0 {
                return Some(ino);
            }
            inner.nameless.insert(ino);
        }
        inner.check.shrink_to(1024);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_in_use_is_not_offered_until_its_last_user_leaves() {
        let live = Live::default();
        live.add(Ino(7));
        live.add(Ino(7));
        live.check_later(Ino(7));
        assert_eq!(live.next_unused(), None);
        assert!(!live.sub(Ino(7), 1));
        assert!(live.sub(Ino(7), 1));
        assert_eq!(live.next_unused(), Some(Ino(7)));
        assert_eq!(live.next_unused(), None);
    }

    #[test]
    fn an_inode_with_a_name_is_never_looked_at() {
        let live = Live::default();
        live.add(Ino(7));
        assert!(!live.sub(Ino(7), 1));
        assert_eq!(live.next_unused(), None);
        live.check_later(Ino(7));
        assert_eq!(live.next_unused(), Some(Ino(7)), "it lost its name when nobody held it");
    }

    #[test]
    fn a_successor_goes_on_with_every_count_and_frees_what_had_no_name() {
        let live = Live::default();
        (0..700).for_each(|_| live.add(Ino(33)));
        [7, 7, 90].into_iter().for_each(|n| live.add(Ino(n)));
        live.check_later(Ino(7));
        let held = live.held();
        assert_eq!(held.more, [(33, 445)]);
        let next = Live::default();
        next.restore(&held, [Ino(7)]);
        assert_eq!(next.held(), held);
        assert!(!next.sub(Ino(33), 700) && !next.sub(Ino(90), 1), "they have names");
        assert!(!next.sub(Ino(7), 1) && next.next_unused().is_none());
        assert!(next.sub(Ino(7), 1));
        assert_eq!(next.next_unused(), Some(Ino(7)));
    }

    #[test]
    fn counts_beyond_a_byte_are_exact_and_neighbours_do_not_mix() {
        let mut counts = Counts::default();
        (0..1000).for_each(|_| counts.add(Ino(33)));
        counts.add(Ino(34));
        assert_eq!((counts.get(Ino(33)), counts.get(Ino(34)), counts.get(Ino(32))), (1000, 1, 0));
        assert!(!counts.sub(Ino(33), 700) && !counts.sub(Ino(33), 299));
        assert_eq!(counts.get(Ino(33)), 1);
        assert!(counts.sub(Ino(33), 5) && !counts.sub(Ino(33), 1));
        assert!(counts.sub(Ino(34), 1));
        assert!(counts.groups.is_empty() && counts.more.is_empty());
    }
}
