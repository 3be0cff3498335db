//! Simulated time: a queue of what happens next, and the tasks that wait for it.
//!
//! Does not know nodes beyond their number, nor what an event does. Invariants: time never runs backwards; of two
//! events of one moment the one queued first happens first; a task is woken at most once per wait.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::baton::{self, Task, lock};
use super::rng::Rng;
use super::trace::Trace;

/// One life of one node: a restarted node is another owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pub node: usize,
    pub life: u32,
}

/// What a task waits for, chosen by whoever waits.
pub type WaitKey = (u8, u64);

struct Wait {
    owner: Owner,
    key: Option<WaitKey>,
    epoch: u64,
}

/// What the queue holds: events of the world, and turns of tasks.
pub enum Due<E> {
    Turn { task: usize, epoch: u64 },
    Event(E),
}

struct Inner<E> {
    now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Due<E>>,
    waits: BTreeMap<usize, Wait>,
    owners: Vec<Owner>,
    rng: Rng,
    trace: Trace,
}

/// Time, queue, tasks, chance and trace of one run.
pub struct Sched<E> {
    inner: Mutex<Inner<E>>,
    tasks: Mutex<Vec<Option<Task>>>,
}

impl<E> Sched<E> {
    pub fn new(rng: Rng, shown: usize) -> Sched<E> {
        let inner = Inner {
            now: 1_000_000_000,
            order: 0,
            queue: BTreeMap::new(),
            waits: BTreeMap::new(),
            owners: Vec::new(),
            rng,
            trace: Trace::new(shown),
        };
        Sched { inner: Mutex::new(inner), tasks: Mutex::default() }
    }

    pub fn now(&self) -> u64 {
        lock(&self.inner).now
    }

    pub fn with_rng<T>(&self, take: impl FnOnce(&mut Rng) -> T) -> T {
        take(&mut lock(&self.inner).rng)
    }

    pub fn note(
        &self,
        who: &'static str,
        what: &'static str,
        numbers: (u64, u64),
        words: impl FnOnce() -> String,
    ) {
        let mut inner = lock(&self.inner);
        let now = inner.now;
        inner.trace.note(now, who, what, numbers, words);
    }

    pub fn violate(&self, text: String) {
        let mut inner = lock(&self.inner);
        let now = inner.now;
        inner.trace.violate(now, text);
    }

    pub fn with_trace<T>(&self, look: impl FnOnce(&Trace) -> T) -> T {
        look(&lock(&self.inner).trace)
    }

    /// Queues an event `after` nanoseconds from now.
    pub fn after(&self, after: u64, event: E) {
        lock(&self.inner).push(after, Due::Event(event));
    }

    /// The next thing to happen not later than `until`; time moves to its moment.
    pub fn next(&self, until: u64) -> Option<Due<E>> {
        let mut inner = lock(&self.inner);
        let (at, _) = *inner.queue.keys().next()?;
        if at > until {
            inner.now = until.max(inner.now);
            return None;
        }
        let (_, due) = inner.queue.pop_first()?;
        inner.now = at.max(inner.now);
        Some(due)
    }

    /// Puts something back to happen `after` nanoseconds from now: its node is paused.
    pub fn postpone(&self, after: u64, due: Due<E>) {
        lock(&self.inner).push(after, due);
    }

    /// Starts a task of `owner`; its first turn is a little later.
    pub fn spawn(&self, owner: Owner, body: impl FnOnce() + Send + 'static) -> usize {
        let mut tasks = lock(&self.tasks);
        let id = tasks.len();
        tasks.push(Some(Task::spawn(id, body)));
        let mut inner = lock(&self.inner);
        inner.owners.push(owner);
        inner.waits.insert(id, Wait { owner, key: None, epoch: 0 });
        let after = inner.rng.below(20_000);
        inner.push(after, Due::Turn { task: id, epoch: 0 });
        id
    }

    pub fn owner_of(&self, task: usize) -> Owner {
        lock(&self.inner).owners[task]
    }

    /// Gives the task its turn if it still waits for this one; `Some(text)` if it ended by a panic.
    pub fn turn(&self, task: usize, epoch: u64) -> Option<String> {
        {
            let mut inner = lock(&self.inner);
            if inner.waits.get(&task).is_none_or(|wait| wait.epoch != epoch) {
                return None;
            }
            inner.waits.remove(&task);
        }
        let mut running = lock(&self.tasks)[task].take()?;
        match running.run() {
            Some(ended) => ended,
            None => {
                lock(&self.tasks)[task] = Some(running);
                None
            }
        }
    }

    /// The calling task sleeps.
    pub fn sleep(&self, owner: Owner, nanos: u64) {
        let task = baton::current().expect("only a task sleeps");
        {
            let mut inner = lock(&self.inner);
            let epoch = inner.next_order();
            inner.waits.insert(task, Wait { owner, key: None, epoch });
            inner.push(nanos, Due::Turn { task, epoch });
        }
        baton::pause();
    }

    /// The calling task waits until `wake` is called with its key.
    pub fn block(&self, owner: Owner, key: WaitKey) {
        let task = baton::current().expect("only a task blocks");
        {
            let mut inner = lock(&self.inner);
            let epoch = inner.next_order();
            inner.waits.insert(task, Wait { owner, key: Some(key), epoch });
        }
        baton::pause();
    }

    /// Wakes the tasks of `owner` that wait for `key` (for anything, without one), each a little later.
    pub fn wake(&self, owner: Owner, key: Option<WaitKey>) {
        let mut inner = lock(&self.inner);
        let hit = |wait: &Wait| wait.owner == owner && key.is_none_or(|key| wait.key == Some(key));
        let woken: Vec<(usize, u64)> = inner
            .waits
            .iter()
            .filter(|(_, wait)| hit(wait))
            .map(|(task, wait)| (*task, wait.epoch))
            .collect();
        for (task, epoch) in woken {
            let after = inner.rng.below(30_000);
            inner.push(after, Due::Turn { task, epoch });
        }
    }

    /// Tasks of `owner` that have not ended.
    #[cfg(test)]
    pub(super) fn alive(&self, owner: Owner) -> usize {
        let tasks = lock(&self.tasks);
        let inner = lock(&self.inner);
        inner.owners.iter().zip(tasks.iter()).filter(|(of, task)| **of == owner && task.is_some()).count()
    }
}

impl<E> Inner<E> {
    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    fn push(&mut self, after: u64, due: Due<E>) {
        let order = self.next_order();
        self.queue.insert((self.now.saturating_add(after), order), due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const OWNER: Owner = Owner { node: 0, life: 1 };

    fn drain(sched: &Sched<u8>) -> Vec<u8> {
        let mut seen = Vec::new();
        while let Some(due) = sched.next(u64::MAX - 1) {
            match due {
                Due::Turn { task, epoch } => assert_eq!(sched.turn(task, epoch), None),
                Due::Event(event) => seen.push(event),
            }
        }
        seen
    }

    #[test]
    fn time_orders_events_and_sleepers_and_wakes_reach_only_their_key() {
        let sched = Arc::new(Sched::<u8>::new(Rng::new(1), 0));
        let inside = sched.clone();
        sched.spawn(OWNER, move || {
            inside.sleep(OWNER, 1_000_000);
            inside.after(0, 2);
            inside.block(OWNER, (1, 7));
            inside.after(0, 4);
        });
        sched.after(500_000, 1);
        sched.after(2_000_000, 3);
        assert_eq!(drain(&sched), vec![1, 2, 3]);
        sched.wake(OWNER, Some((1, 8)));
        assert_eq!(drain(&sched), Vec::<u8>::new());
        assert_eq!(sched.alive(OWNER), 1);
        sched.wake(OWNER, Some((1, 7)));
        assert_eq!(drain(&sched), vec![4]);
        assert_eq!(sched.alive(OWNER), 0);
    }
}
