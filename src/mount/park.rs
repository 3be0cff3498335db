//! Where the threads that read requests wait while their mount is handed to another process.
//!
//! Decides when nobody is inside a request and nobody reads one. Does not know descriptors. Invariants: while it is
//! closed no request begins; what began goes on to its end; a request that was read and not begun is begun and answered
//! once the others are done, or, if the mount stays here, as if nothing had been.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// Requests that arrive wait.
    Closed,
    /// Those that waited run; then their threads wait.
    Draining,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Threads that hold a request which has not begun.
    held: usize,
    /// Threads that hold nothing and read nothing.
    parked: usize,
}

/// The waiting room of one mount.
#[derive(Debug, Default)]
pub(super) struct Parking {
    /// Inside a request.
    active: AtomicUsize,
    closed: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

/// A request that has begun, until its answer is given or passed on.
pub(super) struct Inside<'a>(&'a Parking);

impl Parking {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins, now or when it may.
    pub(super) fn enter(&self) -> Inside<'_> {
        self.active.fetch_add(1, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            self.hold();
        }
        Inside(self)
    }

    #[cold]
    fn hold(&self) {
        let mut state = self.lock();
        self.active.fetch_sub(1, Ordering::SeqCst);
        state.held += 1;
        self.changed.notify_all();
        let wait = |state: &mut State| state.phase == Phase::Closed;
        state = self.changed.wait_while(state, wait).unwrap_or_else(PoisonError::into_inner);
        state.held -= 1;
        self.active.fetch_add(1, Ordering::SeqCst);
    }

    /// A thread that has nothing in hand waits here until requests are served again.
    #[cold]
    pub(super) fn park(&self) {
        let mut state = self.lock();
        state.parked += 1;
        self.changed.notify_all();
        let wait = |state: &mut State| state.phase != Phase::Open;
        state = self.changed.wait_while(state, wait).unwrap_or_else(PoisonError::into_inner);
        state.parked -= 1;
    }

    #[cold]
    fn left(&self) {
        let draining = {
            let state = self.lock();
            self.changed.notify_all();
            state.phase == Phase::Draining
        };
        if draining {
            self.park();
        }
    }

    fn set(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = phase;
        self.closed.store(phase != Phase::Open, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// From now on no request begins.
    pub(super) fn close(&self) {
        self.set(Phase::Closed);
    }

    /// The requests that waited run; their threads wait afterwards.
    pub(super) fn drain(&self) {
        self.set(Phase::Draining);
    }

    /// Everything goes on.
    pub(super) fn open(&self) {
        self.set(Phase::Open);
    }

    /// Waits until nobody is inside a request; `false` if that does not come to be before `end`.
    pub(super) fn wait_idle(&self, end: Instant) -> bool {
        self.wait(end, |_| true)
    }

    /// Waits until `threads` threads wait here with nothing in hand and nobody is inside a request.
    pub(super) fn wait_parked(&self, threads: usize, end: Instant) -> bool {
        self.wait(end, |state| state.parked == threads)
    }

    /// Threads that wait here, with a request or without.
    pub(super) fn gathered(&self) -> usize {
        let state = self.lock();
        state.held + state.parked
    }

    #[allow(clippy::disallowed_methods, reason = "a shell: waits for threads")]
    fn wait(&self, end: Instant, reached: impl Fn(&State) -> bool) -> bool {
        let mut state = self.lock();
        loop {
            if self.active.load(Ordering::SeqCst) == 0 && reached(&state) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now()).min(Duration::from_millis(20));
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
        if self.0.closed.load(Ordering::SeqCst) {
            self.0.left();
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests with threads and time")]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_was_read_and_not_begun_runs_once_and_its_thread_waits_then() {
        let parking = Arc::new(Parking::default());
        let soon = || Instant::now() + Duration::from_secs(10);
        let first = parking.enter();
        parking.close();
        assert!(!parking.wait_idle(Instant::now()), "one is inside");
        drop(first);
        assert!(parking.wait_idle(soon()));
        let ran = Arc::new(AtomicUsize::new(0));
        let threads = [true, false].map(|asks| {
            let (parking, ran) = (Arc::clone(&parking), Arc::clone(&ran));
            std::thread::spawn(move || {
                if asks {
                    let _inside = parking.enter();
                    ran.fetch_add(1, Ordering::SeqCst);
                } else {
                    parking.park();
                }
            })
        });
        while parking.gathered() < 2 {
            std::thread::yield_now();
        }
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        assert!(!parking.wait_parked(2, Instant::now()));
        parking.drain();
        assert!(parking.wait_parked(2, soon()));
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        assert!(threads.iter().all(|thread| !thread.is_finished()), "they would read on");
        parking.open();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(parking.enter());
        assert_eq!(parking.gathered(), 0);
    }

    #[test]
    fn a_room_that_opens_again_lets_everybody_on() {
        let parking = Arc::new(Parking::default());
        parking.close();
        let waiting = Arc::clone(&parking);
        let thread = std::thread::spawn(move || drop(waiting.enter()));
        while parking.gathered() < 1 {
            std::thread::yield_now();
        }
        parking.open();
        thread.join().unwrap();
        assert!(parking.wait_idle(Instant::now()));
    }
}
