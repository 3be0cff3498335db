//! The threads behind a served file system: committer, readers, slow writers, writeback and housekeeping.
//!
//! Decides who may wait for a disk or a peer, and that everybody who asked for stability before a commit is answered by
//! that one commit. Does not know FUSE: answers are closures. Invariants: a waiter is told success only after its
//! ticket is stable; a panic anywhere here makes the file system read-only.
#![allow(clippy::disallowed_methods, reason = "a shell: threads and time")]

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::fs::Fs;
use crate::fs::FsError;
use crate::fs::Ticket;

use super::commits::{Answer, Commits, Waiter};

/// Who does not ask is asked for after this time: what is left of a second is for the commit itself.
const COMMIT_EVERY: Duration = Duration::from_millis(800);
/// How often writeback and housekeeping look for work when nobody calls them.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What stayed dirty from one call to the next goes home.
const WRITEBACK_EVERY: Duration = Duration::from_millis(500);
/// Freed inodes for which housekeeping is called at once.
const REAP_AT_ONCE: u32 = 1024;
/// Freed blocks that are discarded between two looks at the log: 64 MiB.
const RELEASE_BLOCKS: u64 = 16 << 10;
/// Threads that may wait for cold blocks.
const READERS: usize = 4;

/// Work for a thread that may wait.
pub type Job = Box<dyn FnOnce() + Send>;

/// A queue that threads wait on.
struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    changed: Condvar,
}

impl<T> Queue<T> {
    fn new() -> Queue<T> {
        Queue { items: Mutex::new(VecDeque::new()), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, item: T) {
        self.lock().push_back(item);
        self.changed.notify_one();
    }

    /// Everything there is, after at most `patience`.
    fn take_all(&self, patience: Duration, closed: &AtomicBool) -> VecDeque<T> {
        let idle = |items: &mut VecDeque<T>| items.is_empty() && !closed.load(Ordering::SeqCst);
        let waited = self.changed.wait_timeout_while(self.lock(), patience, idle);
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The next item; `None` once closed and empty.
    fn take_one(&self, closed: &AtomicBool) -> Option<T> {
        let idle = |items: &mut VecDeque<T>| items.is_empty() && !closed.load(Ordering::SeqCst);
        let mut items = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        items.pop_front()
    }

    /// Wakes everybody who waits; under the lock, so that nobody falls asleep between look and wait.
    fn wake_all(&self) {
        let _items = self.lock();
        self.changed.notify_all();
    }
}

struct Shared {
    fs: Arc<Fs>,
    closed: AtomicBool,
    commits: Commits,
    reads: Queue<Job>,
    slow: Queue<Job>,
    writeback: Queue<()>,
    chores: Queue<()>,
    /// Writeback was called and has not begun yet.
    called: AtomicBool,
    /// Inodes that may have become free since housekeeping looked.
    freed: AtomicU32,
    /// Answers that somebody here still has to give.
    owed: Arc<AtomicUsize>,
}

/// One answer that is owed.
struct Owed(Arc<AtomicUsize>);

impl Owed {
    fn add(count: &Arc<AtomicUsize>) -> Owed {
        count.fetch_add(1, Ordering::SeqCst);
        Owed(Arc::clone(count))
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The running threads. `stop` ends them; a drop without it does the same.
pub struct FsThreads {
    shared: Arc<Shared>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl FsThreads {
    pub fn start(fs: Arc<Fs>) -> io::Result<FsThreads> {
        let shared = Arc::new(Shared {
            fs,
            closed: AtomicBool::new(false),
            commits: Commits::default(),
            reads: Queue::new(),
            slow: Queue::new(),
            writeback: Queue::new(),
            chores: Queue::new(),
            called: AtomicBool::new(false),
            freed: AtomicU32::new(0),
            owed: Arc::default(),
        });
        let threads = FsThreads { shared, handles: Mutex::new(Vec::new()) };
        threads.spawn("commit", Shared::commit_loop)?;
        threads.spawn("writeback", Shared::writeback_loop)?;
        threads.spawn("checkpoint", Shared::chores_loop)?;
        threads.spawn("slow-write", |shared| shared.job_loop(&shared.slow))?;
        for _ in 0..READERS {
            threads.spawn("read", |shared| shared.job_loop(&shared.reads))?;
        }
        Ok(threads)
    }

    fn spawn(&self, name: &str, body: impl Fn(&Shared) + Send + 'static) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        // A thread that failed goes on without what it held: the answers owed are dropped, which answers them with an
        // error, and later ones must not wait for ever.
        let run = move || {
            while catch_unwind(AssertUnwindSafe(|| body(&shared))).is_err() {
                shared.fs.distrust();
            }
        };
        let handle = std::thread::Builder::new().name(format!("twinfs-{name}")).spawn(run)?;
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        Ok(())
    }

    /// `answer` is called once `ticket` is stable, or with the reason why it never will be.
    pub fn when_stable(&self, ticket: Ticket, answer: Answer) {
        if self.shared.closed.load(Ordering::SeqCst) {
            return answer(Err(FsError::Stopped));
        }
        let owed = Owed::add(&self.shared.owed);
        let answer = Box::new(move |stable| {
            answer(stable);
            drop(owed);
        });
        self.shared.commits.push(Waiter { ticket, answer });
    }

    fn counted(&self, job: Job) -> Job {
        let owed = Owed::add(&self.shared.owed);
        Box::new(move || {
            job();
            drop(owed);
        })
    }

    /// Whether every answer was given.
    pub fn is_idle(&self) -> bool {
        self.shared.owed.load(Ordering::SeqCst) == 0
    }

    /// Runs `job` on a thread that may wait for cold blocks.
    pub fn read(&self, job: Job) {
        self.shared.reads.push(self.counted(job));
    }

    /// Runs `job` on the thread that may wait for writeback: writes that met the dirty limit.
    pub fn slowly(&self, job: Job) {
        self.shared.slow.push(self.counted(job));
        self.shared.writeback.push(());
    }

    /// A stream of writes goes on: what has gathered can go home beside it.
    pub fn write_back_soon(&self) {
        if !self.shared.called.swap(true, Ordering::Relaxed) {
            self.shared.writeback.push(());
        }
    }

    /// An inode may have become free. Housekeeping finds it by itself; it is called only when there are many.
    pub fn reap_soon(&self) {
        if self.shared.freed.fetch_add(1, Ordering::Relaxed) + 1 == REAP_AT_ONCE {
            self.shared.chores.push(());
        }
    }

    /// Answers what is queued, commits once more and ends the threads.
    pub fn stop(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.commits.wake_all();
        self.shared.reads.wake_all();
        self.shared.slow.wake_all();
        self.shared.writeback.wake_all();
        self.shared.chores.wake_all();
        let handles = std::mem::take(&mut *self.handles.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in handles {
            let _ = handle.join();
        }
        for left in self.shared.commits.drain() {
            (left.answer)(Err(FsError::Stopped));
        }
    }
}

impl Drop for FsThreads {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn commit_loop(&self) {
        let mut last_all = Instant::now();
        loop {
            let last = self.is_closed();
            // Counted from the last time that the rest was asked for: neither who asks in between nor how long a commit
            // takes puts it off.
            let patience = COMMIT_EVERY.saturating_sub(last_all.elapsed());
            let waiters = self.commits.take(patience, &self.closed);
            if waiters.is_empty() || last_all.elapsed() >= COMMIT_EVERY {
                // Nobody asked for the rest: it is bounded by time instead.
                if last {
                    self.fs.store().fsync_ticket(None, false);
                } else {
                    self.fs.store().ask_for_rest();
                }
                last_all = Instant::now();
            }
            self.commit_for(waiters);
            if last {
                return;
            }
        }
    }

    /// One commit for everybody who waits; a second one for those whose data it did not reach.
    fn commit_for(&self, mut waiters: Vec<Waiter>) {
        loop {
            let began = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| self.fs.store().commit()));
            let outcome = outcome.unwrap_or_else(|_| {
                self.fs.distrust();
                Err(FsError::Io("the committer failed".to_string()))
            });
            let done = match outcome {
                Ok(done) => done,
                Err(error) => {
                    self.failed("commit", &error);
                    waiters.into_iter().for_each(|w| (w.answer)(Err(error.clone())));
                    return;
                }
            };
            self.commits.committed(&mut waiters, done, began);
            if waiters.is_empty() {
                return;
            }
        }
    }

    /// What was promised to be kept cannot be: nothing new is accepted.
    fn failed(&self, what: &str, error: &FsError) {
        // Told once: from now on everything fails in the same way, ten times a second.
        if self.fs.make_read_only() {
            // What failed first, perhaps in somebody else's request.
            let cause = self.fs.store().failure().unwrap_or_else(|| error.clone());
            tracing::error!("{what} failed, the file system is read-only now: {cause}");
        }
    }

    fn writeback_loop(&self) {
        let mut last = Instant::now();
        while !self.is_closed() {
            self.writeback.take_all(LOOK_EVERY, &self.closed);
            self.called.store(false, Ordering::Relaxed);
            if self.fs.store().needs_writeback() || last.elapsed() > WRITEBACK_EVERY {
                self.write_back();
                last = Instant::now();
            }
        }
    }

    fn write_back(&self) {
        if let Err(error) = self.fs.store().writeback(false) {
            self.failed("writeback", &error);
        }
    }

    fn chores_loop(&self) {
        while !self.is_closed() {
            let patience = if self.fs.store().needs_release() { Duration::ZERO } else { LOOK_EVERY };
            self.chores.take_all(patience, &self.closed);
            self.freed.store(0, Ordering::Relaxed);
            match self.fs.reap() {
                Ok(_) | Err(FsError::ReadOnly | FsError::Stopped | FsError::Io(_)) => {}
                Err(error) => tracing::error!("freeing deleted files: {error}"),
            }
            let store = self.fs.store();
            let emptied = if store.needs_checkpoint() { store.empty_log() } else { Ok(()) };
            if let Err(error) = emptied.and_then(|()| store.release_some(RELEASE_BLOCKS)) {
                self.failed("checkpoint", &error);
            }
        }
    }

    fn job_loop(&self, queue: &Queue<Job>) {
        while let Some(job) = queue.take_one(&self.closed) {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                self.fs.distrust();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::fs::{Atime, Store};

    #[test]
    fn a_committer_that_failed_once_still_answers_everybody_after() {
        let fs = Arc::new(Fs::new(Store::for_tests(), Atime::Never));
        let threads = FsThreads::start(Arc::clone(&fs)).unwrap();
        threads.when_stable(fs.fsync_all().unwrap(), Box::new(|_| panic!("the test's own panic")));
        let (tell, told) = channel();
        threads.when_stable(fs.fsync_all().unwrap(), Box::new(move |done| tell.send(done).unwrap()));
        // An answer, or the end of the channel because it was dropped with the panic: both are errors to a caller at
        // worst, but never silence.
        assert_ne!(
            told.recv_timeout(Duration::from_secs(20)),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        );
        let end = Instant::now() + Duration::from_secs(20);
        while fs.is_serving() {
            assert!(Instant::now() < end, "a committer that failed leaves the file system writable");
            std::thread::yield_now();
        }
    }
}
