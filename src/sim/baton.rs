//! Threads that run one at a time: blocking code of the nodes runs on threads of its own, and whoever lets go of the
//! baton hands it to exactly one other.
//!
//! Does not know nodes, time or why a thread should run. Invariants: a thread runs only between `take` and the `give`
//! of another seat; whoever does not hold the baton touches nothing.
#![allow(clippy::disallowed_methods, reason = "the simulator owns its threads; they run one at a time")]

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};

/// A lock that a panic elsewhere does not spoil: the panic itself is reported as a violation.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where one thread waits for the baton.
#[derive(Default)]
pub struct Seat {
    given: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Seat {
    /// The calling thread is the one that waits here.
    pub fn sit(&self) {
        *lock(&self.thread) = Some(std::thread::current());
    }

    /// Hands the baton to the thread of this seat, which may not have sat down yet.
    pub fn give(&self) {
        self.given.store(true, Ordering::SeqCst);
        if let Some(thread) = &*lock(&self.thread) {
            thread.unpark();
        }
    }

    /// Waits for the baton.
    pub fn take(&self) {
        while !self.given.swap(false, Ordering::SeqCst) {
            std::thread::park();
        }
    }
}

thread_local! {
    static MINE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Starts the thread of task `id`, which waits on its seat; `ended` passes the baton on, with the text of a panic.
pub fn spawn(
    id: usize,
    seat: Arc<Seat>,
    body: impl FnOnce() + Send + 'static,
    ended: impl FnOnce(Option<String>) + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        seat.sit();
        seat.take();
        MINE.set(Some(id));
        let panic = catch(body);
        MINE.set(None);
        ended(panic);
    })
}

/// The task whose code runs on this thread, if it is a task's code that runs.
pub fn current() -> Option<usize> {
    MINE.get()
}

/// Runs what is nobody's code on this thread: it must not wait.
pub fn aside<T>(act: impl FnOnce() -> T) -> T {
    let mine = MINE.replace(None);
    let done = act();
    MINE.set(mine);
    done
}

/// The text of the panic in which `body` ended, if it did.
pub fn catch(body: impl FnOnce()) -> Option<String> {
    catch_unwind(AssertUnwindSafe(body)).err().map(|panic| panic_text(&*panic))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a text".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baton_goes_round_and_a_panic_is_handed_on() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let seats: Vec<Arc<Seat>> = (0..4).map(|_| Arc::default()).collect();
        seats[3].sit();
        let threads: Vec<_> = (0..3)
            .map(|id| {
                let (log, inside, next) = (log.clone(), log.clone(), seats[id + 1].clone());
                let body = move || {
                    lock(&inside).push((current(), None));
                    assert_eq!(aside(current), None);
                    assert_ne!(id, 1, "one is broken");
                };
                let ended = move |panic| {
                    lock(&log).push((None, panic));
                    next.give();
                };
                spawn(id, seats[id].clone(), body, ended)
            })
            .collect();
        seats[0].give();
        seats[3].take();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let log = lock(&log);
        let who: Vec<_> = log.iter().map(|entry| entry.0).collect();
        assert_eq!(who, vec![Some(0), None, Some(1), None, Some(2), None]);
        let panics: Vec<bool> = log.iter().map(|entry| entry.1.is_some()).collect();
        assert_eq!(panics, vec![false, false, false, true, false, false]);
        assert!(log[3].1.as_ref().unwrap().contains("one is broken"));
    }
}
