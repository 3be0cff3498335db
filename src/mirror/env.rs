//! What the mirror needs from whoever runs it: the time, the way to the peer, a place to wait, and the shell's part
//! of a node's actions.
//!
//! Knows neither sockets nor threads. The daemon implements it with queues and condition variables (`Parking`), the
//! simulator with its scheduler.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::base::Moment;
use crate::image::Image;
use crate::node::{LinkId, Order};
use crate::wire::Message;

use super::Payload;

/// The node is dead or the volume is being closed: every wait and every write ends with this, so that blocking code
/// unwinds by errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node is stopping")]
pub struct Halted;

/// What a thread of the mirror waits for. A wake of a key reaches every thread that waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// This operation was started, completed or refused.
    Op(u64),
    /// Some interval lock was released.
    Locks,
    /// There is work for this worker.
    Work(Worker),
    /// A block that was asked from the peer arrived, or the link is gone.
    Fetch(u64),
}

/// The threads that the mirror wants besides those of its callers; each runs `Mirror::work`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worker {
    /// Executes what the peer sent on the local image.
    Apply,
    /// Makes records and marks stable. Never waits for an interval lock, so that a node can always go solo.
    Store,
    /// Reads what a resync copies.
    Copy,
    /// Looks whether copies are as they should be. Nobody waits for it: it may wait for locks, operations and the peer.
    Check,
}

impl Worker {
    pub const ALL: [Worker; 4] = [Worker::Apply, Worker::Store, Worker::Copy, Worker::Check];
}

/// The surroundings of one mirror.
///
/// `send`, `order`, `tick_at` and `wake` are called with the core locked: they must not block and must not call the
/// mirror. `send` keeps the order of its calls per link.
pub trait Env: Send + Sync {
    /// The node's own boot-time clock.
    fn now(&self) -> Moment;

    /// Queues a frame. A link that is gone swallows it.
    fn send(&self, link: LinkId, message: Message, payload: Payload);

    /// Nothing is locked and the caller may block on the peer's socket: whatever is queued may go on its way here
    /// instead of by a thread that has to be woken for it.
    fn send_now(&self) {}

    /// Queues the shell's part.
    fn order(&self, order: Order);

    /// Deliver `Event::Tick` at this moment; replaces the moment asked for before.
    fn tick_at(&self, moment: Moment);

    /// Blocks until `ready` says so. `ready` is asked first, then after every wake of `key`; it may lock the mirror,
    /// and no lock is held while waiting.
    fn wait(&self, key: Key, ready: &mut dyn FnMut() -> bool) -> Result<(), Halted>;

    /// Lets every thread that waits for `key` ask again.
    fn wake(&self, key: Key);

    /// A place where no lock is held and another thread may run first. The daemon answers at once.
    fn breathe(&self) -> Result<(), Halted>;

    /// Where the log of the filesystem mounted over the mirror is: the first record that may not be done on every
    /// member, and the first inode number that it may use. With the core locked, as the calls above.
    fn log_mark(&self) -> Option<(u64, u64)> {
        None
    }

    /// Puts the whole copy aside where it can be mounted, stable on return; answers since when it is there, seconds
    /// after 1970, which is how it is called. May take hours; called by the Check worker.
    fn keep(&self, image: &Image) -> Result<u64, String> {
        let _ = image;
        Err("there is no place for a copy here".to_string())
    }

    /// Notes the record's `v` in the node state file on another disk, stable. May block; called by the Store worker.
    fn note_version(&self, v: u64) -> Result<(), String>;
}

const STRIPES: usize = 32;

/// `Env::wait` and `Env::wake` for real threads: condition variables, striped so that a wake disturbs few others.
#[derive(Default)]
pub struct Parking {
    stripes: [Stripe; STRIPES],
}

#[derive(Default)]
struct Stripe {
    /// (wakes so far, halted)
    state: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Parking {
    fn stripe(&self, key: Key) -> &Stripe {
        let number = match key {
            Key::Op(id) | Key::Fetch(id) => 5 + usize::try_from(id).unwrap_or(0) % (STRIPES - 5),
            Key::Locks => 0,
            Key::Work(Worker::Apply) => 1,
            Key::Work(Worker::Store) => 2,
            Key::Work(Worker::Copy) => 3,
            Key::Work(Worker::Check) => 4,
        };
        &self.stripes[number]
    }

    /// See `Env::wait`.
    pub fn wait(&self, key: Key, ready: &mut dyn FnMut() -> bool) -> Result<(), Halted> {
        let stripe = self.stripe(key);
        loop {
            let seen = *stripe.state.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.1 {
                return Err(Halted);
            }
            if ready() {
                return Ok(());
            }
            let mut state = stripe.state.lock().unwrap_or_else(PoisonError::into_inner);
            while *state == seen {
                state = stripe.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// See `Env::wake`.
    pub fn wake(&self, key: Key) {
        let stripe = self.stripe(key);
        stripe.state.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        stripe.changed.notify_all();
    }

    /// Ends every wait, now and later.
    pub fn halt(&self) {
        for stripe in &self.stripes {
            stripe.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
            stripe.changed.notify_all();
        }
    }

    /// Whether `halt` was called.
    pub fn is_halted(&self) -> bool {
        self.stripes[0].state.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}
