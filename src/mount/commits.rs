//! Who waits for a commit, and how long a commit waits for company.
//!
//! Decides when the next commit starts: at once for a lone writer; with several, once as many wait as lately came
//! together, or after half of what a commit lately took. Does not know what is committed or how. Invariants: nobody
//! who comes alone waits for others; nobody waits for company longer than `COMPANY_MAX`; everybody whose ticket a
//! commit covers is answered by it, also who came after it had begun. The idea is the commit delay of jbd2 and of
//! PostgreSQL; here it learns from who came, not from a setting.
#![allow(clippy::disallowed_methods, reason = "a shell: threads and time")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::{FsError, Ticket};

/// Told how a commit went.
pub type Answer = Box<dyn FnOnce(Result<(), FsError>) + Send>;

/// No commit is held back longer than this, however slow commits are.
const COMPANY_MAX: Duration = Duration::from_micros(250);

pub(super) struct Waiter {
    pub ticket: Ticket,
    pub answer: Answer,
}

/// How many came together lately, and what a commit took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Crowd {
    expected: usize,
    took: Duration,
}

impl Crowd {
    /// How long to wait for more than the `waiting` who are there; `None`: not at all.
    fn patience(self, waiting: usize) -> Option<Duration> {
        (waiting < self.expected).then(|| (self.took / 2).min(COMPANY_MAX))
    }

    /// A commit answered `answered` and left `queued` waiting for the next.
    fn committed(&mut self, answered: usize, queued: usize, took: Duration) {
        self.expected = answered + queued;
        self.took = if self.took.is_zero() { took } else { (self.took * 7 + took) / 8 };
    }
}

#[derive(Default)]
struct Inner {
    waiting: Vec<Waiter>,
    /// The committer is woken when so many wait.
    wake_at: usize,
}

/// The queue in front of the committer.
#[derive(Default)]
pub(super) struct Commits {
    inner: Mutex<Inner>,
    changed: Condvar,
    crowd: Mutex<Crowd>,
}

impl Commits {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, waiter: Waiter) {
        let mut inner = self.lock();
        inner.waiting.push(waiter);
        if inner.waiting.len() >= inner.wake_at {
            self.changed.notify_one();
        }
    }

    /// Everybody who waits for the next commit, after at most `patience`; empty if nobody came.
    pub fn take(&self, patience: Duration, closed: &AtomicBool) -> Vec<Waiter> {
        let mut inner = self.wait(self.lock(), 1, patience, closed);
        if inner.waiting.is_empty() {
            return Vec::new();
        }
        let crowd = *self.crowd();
        if let Some(patience) = crowd.patience(inner.waiting.len()) {
            inner = self.wait(inner, crowd.expected, patience, closed);
        }
        std::mem::take(&mut inner.waiting)
    }

    fn wait<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        enough: usize,
        patience: Duration,
        closed: &AtomicBool,
    ) -> MutexGuard<'a, Inner> {
        inner.wake_at = enough;
        let idle = |inner: &mut Inner| inner.waiting.len() < enough && !closed.load(Ordering::SeqCst);
        self.changed.wait_timeout_while(inner, patience, idle).unwrap_or_else(PoisonError::into_inner).0
    }

    /// A commit that began at `began` covers every ticket up to `done`: all who hold one are answered. Who holds a
    /// later one stays in `waiters`.
    pub fn committed(&self, waiters: &mut Vec<Waiter>, done: Ticket, began: Instant) {
        let covered = |waiter: &Waiter| waiter.ticket <= done;
        let (mut answered, queued) = {
            let mut inner = self.lock();
            let early: Vec<Waiter> = inner.waiting.extract_if(.., |w| covered(w)).collect();
            (early, inner.waiting.len())
        };
        answered.extend(waiters.extract_if(.., |w| covered(w)));
        self.crowd().committed(answered.len(), queued + waiters.len(), began.elapsed());
        for waiter in answered {
            (waiter.answer)(Ok(()));
        }
    }

    /// Whoever is left.
    pub fn drain(&self) -> Vec<Waiter> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Wakes the committer; under the lock, so that it does not fall asleep between look and wait.
    pub fn wake_all(&self) {
        let _inner = self.lock();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn waiter(ticket: u64, told: &Arc<AtomicUsize>) -> Waiter {
        let told = Arc::clone(told);
        let answer = Box::new(move |done: Result<(), FsError>| {
            assert!(done.is_ok());
            told.fetch_add(1, Ordering::SeqCst);
        });
        Waiter { ticket: Ticket(ticket), answer }
    }

    #[test]
    fn a_lone_writer_never_waits_for_company() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.patience(1), None);
        crowd.committed(1, 0, MS);
        assert_eq!(crowd.patience(1), None);
    }

    #[test]
    fn company_that_was_there_lately_is_waited_for_once_and_briefly() {
        let mut crowd = Crowd::default();
        crowd.committed(1, 3, MS / 10);
        assert_eq!(crowd.patience(1), Some(MS / 20));
        assert_eq!(crowd.patience(4), None);
        crowd.committed(1, 0, MS / 10);
        assert_eq!(crowd.patience(1), None, "nobody came: nobody is expected");
        crowd.committed(2, 2, 100 * MS);
        assert_eq!(crowd.patience(1), Some(COMPANY_MAX));
    }

    #[test]
    fn a_commit_answers_all_whom_it_covers_also_who_queued_after_it_began() {
        let (commits, told) = (Commits::default(), Arc::new(AtomicUsize::new(0)));
        let closed = AtomicBool::new(false);
        commits.push(waiter(1, &told));
        let mut waiters = commits.take(MS, &closed);
        assert_eq!(waiters.len(), 1);
        commits.push(waiter(2, &told));
        commits.push(waiter(3, &told));
        commits.committed(&mut waiters, Ticket(2), Instant::now());
        assert!(waiters.is_empty());
        assert_eq!(told.load(Ordering::SeqCst), 2);
        let mut waiters = commits.take(MS, &closed);
        assert_eq!(waiters.iter().map(|w| w.ticket.0).collect::<Vec<_>>(), [3]);
        commits.committed(&mut waiters, Ticket(3), Instant::now());
        assert_eq!(told.load(Ordering::SeqCst), 3);
    }
}
