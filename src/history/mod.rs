//! The history of events: what `twinfs history` shows. May be lost at any moment without harm.
//!
//! Decides only what is dropped when there is too much. Does not know what events mean, and nothing that decides who is
//! primary or which copy is newer may ever be read from it. Invariants: no caller ever waits for it; no damage of its
//! directory ends the process or shows otherwise than by one event; memory and disk are bounded.
#![allow(clippy::disallowed_methods, reason = "a shell: a thread and files")]

mod store;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::events::{Entry, Event};
use crate::sys::clock;
use store::Store;

/// Events that wait to be written; beyond it those that record no decision are dropped.
const QUEUE_MAX: usize = 1024;
/// Bounds of the directory.
const LIMITS: Limits = Limits { entries: 20_000, bytes: 64 << 20, open_time: Duration::from_secs(10) };

/// For writing what waits and closing the directory, when the handle is dropped.
const STOP_TIME: Duration = Duration::from_secs(5);

/// What the directory may hold and how long opening it may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    entries: u64,
    bytes: u64,
    open_time: Duration,
}

/// Handle to the history; dropping it writes what waits and ends its thread.
pub struct History {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    questions: Vec<Question>,
    dropped: u64,
    stop: bool,
}

/// How many of the newest events are wanted, and where they go.
type Question = (usize, SyncSender<Vec<(u64, Entry)>>);

/// Called for every event about the history itself.
pub type Tell = dyn Fn(Event) + Send;

impl History {
    /// Starts with `dir`, which is made if need be. Returns at once: opening happens on the history's own thread.
    pub fn start(dir: &Path, tell: Box<Tell>) -> History {
        History::start_with(dir, tell, LIMITS)
    }

    fn start_with(dir: &Path, tell: Box<Tell>, limits: Limits) -> History {
        let shared = Arc::new(Shared::default());
        let (dir, inner) = (dir.to_path_buf(), Arc::clone(&shared));
        let thread = thread::Builder::new().name("history".to_string());
        let spawned = thread.spawn(move || Keeper { dir, tell, limits, store: None, told: 0 }.run(&inner));
        // Without a thread the queue fills up and drops: nothing depends on the history.
        History { shared, thread: spawned.ok() }
    }

    /// Adds an event. Never blocks.
    pub fn record(&self, entry: Entry) {
        let mut queue = self.shared.lock();
        if queue.entries.len() >= QUEUE_MAX && !entry.event.is_decision() {
            queue.dropped += 1;
            return;
        }
        queue.entries.push_back(entry);
        self.shared.wake.notify_one();
    }

    /// The newest `count` events with their numbers, oldest first; fewer, or none, when the disk is slow or there are
    /// no more. Waits for at most `patience`.
    pub fn last(&self, count: usize, patience: Duration) -> Vec<(u64, Entry)> {
        let (send, receive) = sync_channel(1);
        self.shared.lock().questions.push((count, send));
        self.shared.wake.notify_one();
        receive.recv_timeout(patience).unwrap_or_default()
    }

    /// Events that were dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        let Some(thread) = self.thread.take() else { return };
        let until = Instant::now() + STOP_TIME;
        while !thread.is_finished() {
            if Instant::now() > until {
                // A closing that hangs must not keep the process: the thread ends with it.
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole after every statement: a panic elsewhere does not spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The history's thread.
struct Keeper {
    dir: PathBuf,
    tell: Box<Tell>,
    limits: Limits,
    store: Option<Store>,
    /// Damages in a row: after a few the history is kept in no file at all, rather than renaming for ever.
    told: u32,
}

/// Damages after which the thread gives up keeping a file.
const DAMAGES_MAX: u32 = 3;

impl Keeper {
    fn run(mut self, shared: &Shared) {
        self.open();
        loop {
            let (entries, questions, stop) = {
                let mut queue = shared.lock();
                while queue.entries.is_empty() && queue.questions.is_empty() && !queue.stop {
                    queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
                (std::mem::take(&mut queue.entries), std::mem::take(&mut queue.questions), queue.stop)
            };
            if !entries.is_empty() {
                let lines: Vec<String> = entries.iter().filter_map(line).collect();
                let limits = self.limits;
                self.attempt(|store| store.append(&lines, limits.entries));
                self.shrink();
            }
            for (count, answer) in questions {
                let found = self.attempt(|store| store.last(count)).unwrap_or_default();
                // Nobody waits any more: fine.
                let _ = answer
                    .try_send(found.into_iter().filter_map(|(n, text)| Some((n, entry(&text)?))).collect());
            }
            if stop {
                return;
            }
        }
    }

    fn open(&mut self) {
        if self.told >= DAMAGES_MAX {
            return;
        }
        match Store::open(&self.dir, self.limits.open_time) {
            Ok(store) => self.store = Some(store),
            Err(_) => {
                self.set_aside();
                self.store = Store::open(&self.dir, self.limits.open_time).ok();
            }
        }
    }

    /// One access; a failure puts the directory aside and starts an empty one, and the access is tried once more there.
    fn attempt<T>(&mut self, access: impl Fn(&Store) -> Result<T, store::Broken>) -> Option<T> {
        if let Ok(done) = access(self.store.as_ref()?) {
            return Some(done);
        }
        if let Some(broken) = self.store.take() {
            broken.abandon();
        }
        self.set_aside();
        self.open();
        access(self.store.as_ref()?).ok()
    }

    /// Renames the directory and tells it.
    fn set_aside(&mut self) {
        self.told += 1;
        let mut name = self.dir.as_os_str().to_os_string();
        name.push(format!(".broken-{}-{}", clock::unix_ms() / 1000, self.told));
        let aside = PathBuf::from(name);
        if std::fs::rename(&self.dir, &aside).is_err() {
            // Not even that: a directory that cannot be renamed cannot be written either; go on without.
            self.told = DAMAGES_MAX;
        }
        (self.tell)(Event::HistoryDamaged { moved_to: aside.display().to_string() });
    }

    /// Over its size: the newest half goes into a fresh directory, which takes the place of the old one.
    fn shrink(&mut self) {
        let Some(store) = &self.store else { return };
        if store.size_bytes() <= self.limits.bytes {
            return;
        }
        let keep = usize::try_from(self.limits.entries / 2).unwrap_or(usize::MAX);
        let Some(kept) = self.attempt(|store| store.last(keep)) else { return };
        if let Some(old) = self.store.take() {
            old.close();
        }
        let fresh = self.dir.with_extension("new");
        let _ = std::fs::remove_dir_all(&fresh);
        let copied = Store::open(&fresh, self.limits.open_time).and_then(|store| {
            store.restore(&kept)?;
            store.close();
            Ok(())
        });
        if copied.is_ok() && std::fs::remove_dir_all(&self.dir).is_ok() {
            // Between the two steps a crash loses the history: it may be lost.
            let _ = std::fs::rename(&fresh, &self.dir);
        }
        self.open();
    }
}

/// Longest text of one field: keeps a value far below a kilobyte, so that it is never stored apart.
const FIELD_CHARS_MAX: usize = 160;
/// Longest value.
const LINE_BYTES_MAX: usize = 1000;

/// What is stored of an entry: JSON, its texts shortened.
fn line(entry: &Entry) -> Option<String> {
    let mut value = serde_json::to_value(entry).ok()?;
    for field in value.as_object_mut()?.values_mut() {
        if let Some(text) = field.as_str().filter(|text| text.chars().count() > FIELD_CHARS_MAX) {
            let short: String = text.chars().take(FIELD_CHARS_MAX).chain("...".chars()).collect();
            *field = short.into();
        }
    }
    Some(value.to_string()).filter(|line| line.len() <= LINE_BYTES_MAX)
}

fn entry(line: &str) -> Option<Entry> {
    // A line of a newer version may be unknown: it is passed over.
    serde_json::from_str(line).ok()
}

#[cfg(test)]
mod tests;
