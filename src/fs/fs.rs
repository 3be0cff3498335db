//! `Fs`: the operations of a file system over the `Store` engine, without kernel types.
//!
//! Decides when an operation may run at all (serving, read-only, shut down) and that changes happen one at a time.
//! Does not know permissions (the kernel checks them) nor threads. Invariants: every change is one `Op` of the store
//! and thus whole or absent after a crash; an inode with no name lives until nobody holds it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::base::Ino;
use crate::format::{Held, InodeRec, Time};
use crate::fs::FsError;
use crate::fs::live::Live;
use crate::fs::{Op, Statfs, Store, Ticket};

pub(super) type Result<T> = std::result::Result<T, FsError>;

/// Who asks, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ctx {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    pub umask: u32,
    pub now: Time,
}

/// An inode with its number: what a lookup answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub ino: Ino,
    pub rec: InodeRec,
}

/// When a read moves the access time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atime {
    /// When it is older than the last change, or than a day.
    #[default]
    Relative,
    Never,
    /// At every read that reaches the file system; what a kernel answers from its cache does not.
    Strict,
}

const NEVER: u8 = Atime::Never as u8;
const STRICT: u8 = Atime::Strict as u8;
const SERVING: u8 = 0;
const READ_ONLY: u8 = 1;
const DOWN: u8 = 2;

/// The file system.
pub struct Fs {
    pub(super) store: Store,
    atime: AtomicU8,
    /// Reads of directories move no access time.
    no_dir_atime: AtomicBool,
    pub(super) live: Live,
    state: AtomicU8,
}

impl Fs {
    pub fn new(store: Store, atime: Atime) -> Fs {
        let fs = Fs {
            store,
            atime: AtomicU8::new(0),
            no_dir_atime: AtomicBool::new(false),
            live: Live::default(),
            state: AtomicU8::new(SERVING),
        };
        fs.set_atime(atime);
        fs
    }

    /// When reads move the access time from now on: a remount may change it.
    pub fn set_atime(&self, atime: Atime) {
        self.atime.store(atime as u8, Ordering::SeqCst);
    }

    pub fn atime(&self) -> Atime {
        match self.atime.load(Ordering::SeqCst) {
            NEVER => Atime::Never,
            STRICT => Atime::Strict,
            _ => Atime::Relative,
        }
    }

    /// Whether reads leave the access time of directories alone, whatever that of files does.
    pub fn set_no_dir_atime(&self, on: bool) {
        self.no_dir_atime.store(on, Ordering::SeqCst);
    }

    pub fn no_dir_atime(&self) -> bool {
        self.no_dir_atime.load(Ordering::SeqCst)
    }

    /// The engine below, for the threads that commit, write back and checkpoint.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Refuses every change from now on. Answers whether changes were allowed until now.
    pub fn make_read_only(&self) -> bool {
        self.state.fetch_max(READ_ONLY, Ordering::SeqCst) == SERVING
    }

    /// After a panic: a change may be half done in memory, so that nothing of it may reach the disk any more. What was
    /// acknowledged is there already.
    pub fn distrust(&self) {
        // The store first: whoever sees a read-only file system must not be told afterwards that a commit succeeded.
        self.store.stop_changes(FsError::Io("a part of twinfs failed".to_string()));
        self.make_read_only();
    }

    /// Answers every further operation with an error. What was committed stays; nothing else is added to it.
    pub fn shut_down(&self) {
        self.state.store(DOWN, Ordering::SeqCst);
    }

    /// Whether changes are accepted.
    pub fn is_serving(&self) -> bool {
        self.state.load(Ordering::SeqCst) == SERVING
    }

    /// Whether `shut_down` was called.
    pub fn is_down(&self) -> bool {
        self.state.load(Ordering::SeqCst) == DOWN
    }

    /// The "going down" request of recovery tests: makes stable what was done so far, then answers errors.
    pub fn go_down(&self) -> Result<()> {
        self.may_read()?;
        let committed = self.store.sync();
        self.shut_down();
        committed
    }

    /// Counts of blocks and inodes.
    pub fn statfs(&self) -> Result<Statfs> {
        self.may_read()?;
        Ok(self.store.statfs())
    }

    pub(super) fn may_read(&self) -> Result<()> {
        match self.state.load(Ordering::SeqCst) {
            DOWN => Err(FsError::Io("the file system was shut down".to_string())),
            _ => Ok(()),
        }
    }

    /// Refuses a change when the state forbids changes.
    pub(super) fn may_change(&self) -> Result<()> {
        match self.state.load(Ordering::SeqCst) {
            SERVING => Ok(()),
            READ_ONLY => Err(FsError::ReadOnly),
            _ => self.may_read(),
        }
    }

    /// One atomic change; the store admits one at a time. `body` may give up at any point; then nothing happened. It
    /// runs
    /// a second time if the first found no room: space freed since the last checkpoint is usable only after the next.
    pub(super) fn change<T>(&self, body: impl Fn(&mut Op<'_>) -> Result<T>) -> Result<T> {
        match self.try_change(&body) {
            Err(FsError::NoSpace) => {
                // What cannot be freed now is no reason not to look for room elsewhere.
                let _ = self.reap();
                self.store.checkpoint()?;
                self.try_change(&body)
            }
            other => other,
        }
    }

    fn try_change<T>(&self, body: &impl Fn(&mut Op<'_>) -> Result<T>) -> Result<T> {
        self.may_change()?;
        let mut op = self.store.begin();
        let answer = body(&mut op)?;
        op.finish()?;
        Ok(answer)
    }

    /// The inode, or `Stale`: the caller holds a number that no longer names anything.
    pub(super) fn inode(&self, ino: Ino) -> Result<InodeRec> {
        self.may_read()?;
        self.store.inode(ino)?.ok_or(FsError::Stale)
    }

    /// The kernel looked at this inode once more; it may use the number until `forget`.
    pub fn remember(&self, ino: Ino) {
        self.live.add(ino);
    }

    /// The kernel gave `count` looks back. Answers whether an inode may have become free: then `reap` has work.
    pub fn forget(&self, ino: Ino, count: u64) -> bool {
        self.live.sub(ino, count)
    }

    /// The look-ups that the kernel may still give back, for a process that goes on with this mount. Nothing else may
    /// be under way.
    pub fn held(&self) -> Held {
        self.live.held()
    }

    /// Goes on with the look-ups of an earlier process, before anything else is done: what it held without a name is
    /// no leftover of a crash.
    pub fn take_over(&self, held: &Held) -> Result<()> {
        self.live.restore(held, []);
        let left = std::mem::take(&mut self.store.core_write().cleanups);
        let (mut nameless, mut cleanups) = (Vec::new(), Vec::new());
        for ino in left {
            let unnamed = self.store.inode(ino)?.is_some_and(|rec| rec.nlink == 0);
            if unnamed && self.live.is_used(ino) { &mut nameless } else { &mut cleanups }.push(ino);
        }
        self.store.core_write().cleanups = cleanups;
        self.live.restore(held, nameless);
        Ok(())
    }

    /// Frees inodes that have neither a name nor a user. Answers how many.
    pub fn reap(&self) -> Result<usize> {
        let mut freed = 0;
        while let Some(ino) = self.live.next_unused() {
            self.may_change()?;
            let unnamed = self.store.inode(ino)?.is_some_and(|rec| rec.nlink == 0);
            if unnamed && !self.live.is_used(ino) {
                self.store.drop_inode(ino)?;
                freed += 1;
            }
        }
        Ok(freed)
    }

    /// An inode lost its last name: it goes as soon as nobody uses it.
    pub(super) fn unnamed(&self, ino: Ino) {
        self.live.check_later(ino);
    }

    /// What must be committed so that this file is stable.
    pub fn fsync(&self, ino: Ino, data_only: bool) -> Result<Ticket> {
        self.may_read()?;
        Ok(self.store.fsync_ticket(Some(ino), data_only))
    }

    /// What must be committed so that names and attributes are stable: no file's data, which an fsync of a directory
    /// does not ask for (S1).
    pub fn fsync_names(&self) -> Result<Ticket> {
        self.fsync(Ino::ROOT, false)
    }

    /// What must be committed so that everything done so far is stable.
    pub fn fsync_all(&self) -> Result<Ticket> {
        self.may_read()?;
        Ok(self.store.fsync_ticket(None, false))
    }
}
