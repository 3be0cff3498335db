//! The small locks around one inode's data.
//!
//! Decides who waits for whom. Order: shard, commit, checkpoint, release, chain, token, names, core; nobody takes one
//! further left while holding one further right.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::{FastSet, Ino};

const SHARDS: usize = 64;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One caller at a time changes the content of a file (shared by the inodes of a shard).
pub(super) struct Shards(Vec<Mutex<()>>);

impl Default for Shards {
    fn default() -> Shards {
        Shards((0..SHARDS).map(|_| Mutex::new(())).collect())
    }
}

impl Shards {
    pub(super) fn lock(&self, ino: Ino) -> MutexGuard<'_, ()> {
        lock(&self.0[(ino.0 % SHARDS as u64) as usize])
    }
}

/// One caller at a time moves data of a file between buffers, log and home, or cuts its blocks.
#[derive(Default)]
pub(super) struct Tokens {
    held: Mutex<FastSet<Ino>>,
    freed: Condvar,
}

/// Held until dropped.
pub(super) struct Token<'a>(&'a Tokens, Ino);

impl Tokens {
    pub(super) fn acquire(&self, ino: Ino) -> Token<'_> {
        let mut held = lock(&self.held);
        while !held.insert(ino) {
            held = self.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        Token(self, ino)
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        lock(&self.0.held).remove(&self.1);
        self.0.freed.notify_all();
    }
}
