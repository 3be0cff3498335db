//! Simulated time: a queue of what happens next, and the tasks that wait for it. A task that waits makes events happen
//! itself until it is somebody's turn, and hands the baton straight to them.
//!
//! Does not know nodes beyond their number, nor what an event does. Invariants: time never runs backwards; of two
//! events of one moment the one queued first happens first; a task is woken at most once per wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::baton::{self, Seat, lock};
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
    /// The run came to what its mode does not promise to prevent.
    excused: bool,
}

/// Where a task waits for its turn, and its thread while it runs.
type Task = (Arc<Seat>, Option<JoinHandle<()>>);

/// Time, queue, tasks, chance and trace of one run.
pub struct Sched<E> {
    inner: Mutex<Inner<E>>,
    conductor: Arc<Seat>,
    seats: Mutex<Vec<Task>>,
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
            excused: false,
        };
        Sched { inner: Mutex::new(inner), conductor: Arc::default(), seats: Mutex::default() }
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

    /// What is broken from now on was given up by the mode, all but what must be said about it; `true` the first time.
    pub fn excuse(&self) -> bool {
        !std::mem::replace(&mut lock(&self.inner).excused, true)
    }

    pub fn is_excused(&self) -> bool {
        lock(&self.inner).excused
    }

    pub fn violate(&self, text: String) {
        let mut inner = lock(&self.inner);
        if inner.excused && !text.starts_with("I10") && !text.contains("panic") {
            return;
        }
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

    /// Starts a task of `owner`; its first turn is a little later. `ended` is called on its thread when its body ended,
    /// with the text of its panic if it had one, and passes the baton on.
    pub fn spawn(
        &self,
        owner: Owner,
        body: impl FnOnce() + Send + 'static,
        ended: impl FnOnce(Option<String>) + Send + 'static,
    ) {
        let mut seats = lock(&self.seats);
        let id = seats.len();
        let seat = Arc::new(Seat::default());
        let thread = baton::spawn(id, seat.clone(), body, ended);
        seats.push((seat, Some(thread)));
        let mut inner = lock(&self.inner);
        inner.owners.push(owner);
        inner.waits.insert(id, Wait { owner, key: None, epoch: 0 });
        let after = inner.rng.below(20_000);
        inner.push(after, Due::Turn { task: id, epoch: 0 });
    }

    pub fn owner_of(&self, task: usize) -> Owner {
        lock(&self.inner).owners[task]
    }

    /// Whether the task still waits for this turn; it is then its turn.
    pub fn claim(&self, task: usize, epoch: u64) -> bool {
        let mut inner = lock(&self.inner);
        let waits = inner.waits.get(&task).is_some_and(|wait| wait.epoch == epoch);
        if waits {
            inner.waits.remove(&task);
        }
        waits
    }

    /// The calling task sleeps; `next` makes things happen until somebody's turn has come, and says whose.
    pub fn sleep(&self, owner: Owner, nanos: u64, next: impl FnOnce() -> Option<usize>) {
        let task = baton::current().expect("only a task sleeps");
        {
            let mut inner = lock(&self.inner);
            let epoch = inner.next_order();
            inner.waits.insert(task, Wait { owner, key: None, epoch });
            inner.push(nanos, Due::Turn { task, epoch });
        }
        self.hand(Some(task), baton::aside(next));
    }

    /// The calling task waits until `wake` is called with its key; `next` as for `sleep`.
    pub fn block(&self, owner: Owner, key: WaitKey, next: impl FnOnce() -> Option<usize>) {
        let task = baton::current().expect("only a task blocks");
        {
            let mut inner = lock(&self.inner);
            let epoch = inner.next_order();
            inner.waits.insert(task, Wait { owner, key: Some(key), epoch });
        }
        self.hand(Some(task), baton::aside(next));
    }

    fn seat(&self, whose: Option<usize>) -> Arc<Seat> {
        whose.map_or_else(|| self.conductor.clone(), |task| lock(&self.seats)[task].0.clone())
    }

    /// Gives the baton to a task, or to the conductor.
    pub fn pass(&self, to: Option<usize>) {
        self.seat(to).give();
    }

    fn hand(&self, from: Option<usize>, to: Option<usize>) {
        if from != to {
            self.pass(to);
            self.seat(from).take();
        }
    }

    /// The calling thread conducts: `next` says whose turn it is first; returns when somebody's `next` said `None`.
    pub fn conduct(&self, next: impl FnOnce() -> Option<usize>) {
        self.conductor.sit();
        self.hand(None, next());
    }

    /// Waits for the end of every thread whose task has ended.
    pub fn join(&self) {
        let threads: Vec<_> = lock(&self.seats).iter_mut().filter_map(|seat| seat.1.take()).collect();
        for thread in threads {
            // What it ended with was handed to `ended`.
            let _ = thread.join();
        }
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

    const OWNER: Owner = Owner { node: 0, life: 1 };

    /// What happened, and when the queue is empty the conductor's turn.
    fn until_turn(sched: &Sched<u8>, seen: &Mutex<Vec<u8>>) -> Option<usize> {
        loop {
            match sched.next(u64::MAX - 1)? {
                Due::Turn { task, epoch } if sched.claim(task, epoch) => return Some(task),
                Due::Turn { .. } => {}
                Due::Event(event) => lock(seen).push(event),
            }
        }
    }

    #[test]
    fn time_orders_events_and_sleepers_and_wakes_reach_only_their_key() {
        let sched = Arc::new(Sched::<u8>::new(Rng::new(1), 0));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (one, two, log, end) = (sched.clone(), sched.clone(), seen.clone(), seen.clone());
        let body = move || {
            one.sleep(OWNER, 1_000_000, || until_turn(&one, &log));
            one.after(0, 2);
            one.block(OWNER, (1, 7), || until_turn(&one, &log));
            one.after(0, 4);
        };
        let ended = move |panic| {
            assert_eq!(panic, None);
            let next = until_turn(&two, &end);
            two.pass(next);
        };
        sched.spawn(OWNER, body, ended);
        sched.after(500_000, 1);
        sched.after(2_000_000, 3);
        let drain = || {
            sched.conduct(|| until_turn(&sched, &seen));
            std::mem::take(&mut *lock(&seen))
        };
        assert_eq!(drain(), vec![1, 2, 3]);
        sched.wake(OWNER, Some((1, 8)));
        assert_eq!(drain(), Vec::<u8>::new());
        sched.wake(OWNER, Some((1, 7)));
        assert_eq!(drain(), vec![4]);
        sched.join();
    }
}
