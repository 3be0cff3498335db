//! Which inodes somebody outside holds by number.
//!
//! Decides nothing about names. Invariant: an inode whose count is above zero is never offered for freeing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::{FastMap, Ino};

#[derive(Default)]
struct Inner {
    counts: FastMap<Ino, u64>,
    /// Inodes to look at: they lost a name or a user.
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
        *self.inner().counts.entry(ino).or_insert(0) += 1;
    }

    /// Answers whether the count fell to zero.
    pub(super) fn sub(&self, ino: Ino, count: u64) -> bool {
        let mut inner = self.inner();
        let Some(left) = inner.counts.get_mut(&ino) else { return false };
        *left = left.saturating_sub(count);
        let gone = *left == 0;
        if gone {
            inner.counts.remove(&ino);
            inner.check.push(ino);
        }
        gone
    }

    pub(super) fn check_later(&self, ino: Ino) {
        self.inner().check.push(ino);
    }

    pub(super) fn is_used(&self, ino: Ino) -> bool {
        self.inner().counts.contains_key(&ino)
    }

    /// The next inode to look at that nobody uses; those in use come back when their count falls to zero.
    pub(super) fn next_unused(&self) -> Option<Ino> {
        let mut inner = self.inner();
        while let Some(ino) = inner.check.pop() {
            if !inner.counts.contains_key(&ino) {
                return Some(ino);
            }
        }
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
}
