//! The interval lock at the image's entrance: two operations never overlap on one block.
//!
//! Decides who goes first (in order of asking). Does not know what is done under a lock. Invariants: held ranges never
//! overlap; a range that waits is not overtaken by a later one that overlaps it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::BlockNo;

use super::core::is_broken;

#[derive(Default)]
struct Table {
    /// first block -> block after the last.
    held: BTreeMap<u64, u64>,
    /// (ticket, first, end) in order of asking.
    waiting: VecDeque<(u64, u64, u64)>,
    next_ticket: u64,
}

impl Table {
    fn is_held(&self, first: u64, end: u64) -> bool {
        if is_broken("operations on one block exclude each other") {
            return false;
        }
        self.held.range(..end).next_back().is_some_and(|(_, held_end)| *held_end > first)
    }

    /// Whether someone who asked before `ticket` waits for an overlapping range.
    fn is_awaited(&self, first: u64, end: u64, ticket: u64) -> bool {
        self.waiting.iter().take_while(|w| w.0 < ticket).any(|w| w.1 < end && first < w.2)
    }
}

/// The lock table of one image.
#[derive(Default)]
pub struct RangeLocks {
    table: Mutex<Table>,
    freed: Condvar,
    unlocks: AtomicU64,
}

impl RangeLocks {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, or `None` while any block of it is held or awaited by someone else.
    pub fn try_lock(self: &Arc<Self>, first: BlockNo, count: u64) -> Option<RangeGuard> {
        let (first, end) = (first.0, first.0.saturating_add(count.max(1)));
        let mut table = self.table();
        if table.is_held(first, end) || table.is_awaited(first, end, u64::MAX) {
            return None;
        }
        table.held.insert(first, end);
        Some(RangeGuard { locks: Arc::clone(self), first, end })
    }

    /// Waits for the lock; first come, first served. Real threads only.
    pub fn lock(self: &Arc<Self>, first: BlockNo, count: u64) -> RangeGuard {
        let (first, end) = (first.0, first.0.saturating_add(count.max(1)));
        let mut table = self.table();
        let ticket = table.next_ticket;
        table.next_ticket += 1;
        if table.is_held(first, end) || table.is_awaited(first, end, ticket) {
            table.waiting.push_back((ticket, first, end));
            while table.is_held(first, end) || table.is_awaited(first, end, ticket) {
                table = self.freed.wait(table).unwrap_or_else(PoisonError::into_inner);
            }
            table.waiting.retain(|w| w.0 != ticket);
        }
        table.held.insert(first, end);
        RangeGuard { locks: Arc::clone(self), first, end }
    }

    /// Grows with every unlock: a caller with its own way of waiting compares it.
    pub fn unlocks(&self) -> u64 {
        self.unlocks.load(Ordering::Acquire)
    }

    /// Whether anyone holds a block of the range.
    pub fn is_held(&self, first: BlockNo, count: u64) -> bool {
        self.table().is_held(first.0, first.0.saturating_add(count.max(1)))
    }
}

/// A held range; released when dropped.
pub struct RangeGuard {
    locks: Arc<RangeLocks>,
    first: u64,
    end: u64,
}

impl RangeGuard {
    pub fn first(&self) -> BlockNo {
        BlockNo(self.first)
    }

    pub fn count(&self) -> u64 {
        self.end - self.first
    }

    /// Whether the guard belongs to `locks` and covers the range.
    pub fn covers(&self, locks: &Arc<RangeLocks>, first: BlockNo, count: u64) -> bool {
        Arc::ptr_eq(&self.locks, locks) && self.first <= first.0 && first.0.saturating_add(count) <= self.end
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut table = self.locks.table();
        table.held.remove(&self.first);
        let someone_waits = !table.waiting.is_empty();
        drop(table);
        self.locks.unlocks.fetch_add(1, Ordering::Release);
        if someone_waits {
            self.locks.freed.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
