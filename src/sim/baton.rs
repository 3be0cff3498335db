//! Threads that run one at a time: blocking code of the nodes runs on threads of its own, and the conductor hands the
//! baton to exactly one of them.
//!
//! Does not know nodes, time or why a thread should run. Invariants: between `run` and its return exactly the task
//! that was named runs; whoever does not hold the baton touches nothing.
#![allow(clippy::disallowed_methods, reason = "the simulator owns its threads; they run one at a time")]

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Who may run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Conductor,
    Task,
    Ended,
}

struct Baton {
    turn: Mutex<Turn>,
    passed: Condvar,
}

/// A lock that a panic elsewhere does not spoil: the panic itself is reported as a violation.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Baton {
    fn pass(&self, to: Turn) {
        *lock(&self.turn) = to;
        self.passed.notify_all();
    }

    fn wait_while(&self, mut not_yet: impl FnMut(Turn) -> bool) -> Turn {
        let mut turn = lock(&self.turn);
        while not_yet(*turn) {
            turn = self.passed.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        *turn
    }
}

thread_local! {
    static MINE: RefCell<Option<(usize, Arc<Baton>)>> = const { RefCell::new(None) };
}

/// One blocking thread of a simulated node.
pub struct Task {
    baton: Arc<Baton>,
    thread: Option<JoinHandle<Option<String>>>,
}

impl Task {
    /// Starts a thread that waits for its first turn.
    pub fn spawn(id: usize, body: impl FnOnce() + Send + 'static) -> Task {
        let baton = Arc::new(Baton { turn: Mutex::new(Turn::Conductor), passed: Condvar::new() });
        let mine = baton.clone();
        let thread = std::thread::spawn(move || {
            mine.wait_while(|turn| turn != Turn::Task);
            MINE.with(|slot| *slot.borrow_mut() = Some((id, mine.clone())));
            let ended = catch_unwind(AssertUnwindSafe(body));
            mine.pass(Turn::Ended);
            ended.err().map(|panic| panic_text(&*panic))
        });
        Task { baton, thread: Some(thread) }
    }

    /// Lets the task run until it pauses or ends; `Some` when it ended, with the text of its panic if it had one.
    pub fn run(&mut self) -> Option<Option<String>> {
        self.baton.pass(Turn::Task);
        if self.baton.wait_while(|turn| turn == Turn::Task) == Turn::Conductor {
            return None;
        }
        let ended = self.thread.take().map(JoinHandle::join);
        Some(ended.and_then(|joined| joined.unwrap_or_else(|panic| Some(panic_text(&*panic)))))
    }
}

/// The id of the task that runs, if one does (and not the conductor).
pub fn current() -> Option<usize> {
    MINE.with(|slot| slot.borrow().as_ref().map(|(id, _)| *id))
}

/// Called by a task: gives the baton back and waits for its next turn.
pub fn pause() {
    let baton = MINE.with(|slot| slot.borrow().as_ref().map(|(_, baton)| baton.clone()));
    let baton = baton.expect("only a task pauses; the conductor never blocks");
    baton.pass(Turn::Conductor);
    baton.wait_while(|turn| turn != Turn::Task);
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
    fn exactly_the_named_task_runs_and_a_panic_is_handed_on() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut tasks: Vec<Task> = (0..3)
            .map(|id| {
                let log = log.clone();
                Task::spawn(id, move || {
                    lock(&log).push((id, 1));
                    pause();
                    assert_eq!(current(), Some(id));
                    assert_ne!(id, 2, "two is broken");
                    lock(&log).push((id, 2));
                })
            })
            .collect();
        assert!([2, 0, 1].iter().all(|id| tasks[*id].run().is_none()));
        assert_eq!(tasks[0].run(), Some(None));
        assert!(tasks[2].run().flatten().expect("a panic").contains("two is broken"));
        assert_eq!(*lock(&log), vec![(2, 1), (0, 1), (1, 1), (0, 2)]);
        assert_eq!(tasks[1].run(), Some(None));
    }
}
