//! The threads of fuser that read requests, and what happens when one of them dies.
//!
//! Decides that a mount which lost such a thread ends at once: the request that killed it can never be answered, and a
//! caller that waits for it could not even be killed. Does not know requests. Invariants: a panic inside a request
//! (`enter`) is somebody else's to catch and changes nothing here; any other panic of such a thread aborts the
//! connection of its mount, or of every mount if the thread had not served one yet.
#![allow(clippy::disallowed_methods, reason = "a shell: threads, panics")]

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError, Weak};

use crate::fs::Fs;
use crate::sys::mount as sys;

/// What fuser calls its threads.
pub(super) const THREAD_NAME: &str = "fuser-";

/// A mount that must not outlive a thread that reads its requests.
pub(super) struct Watched {
    fs: Arc<Fs>,
    dir: PathBuf,
    /// Known once it is mounted.
    minor: OnceLock<u32>,
}

static ALL: Mutex<Vec<Weak<Watched>>> = Mutex::new(Vec::new());

thread_local! {
    static IN_REQUEST: Cell<bool> = const { Cell::new(false) };
    static MINE: RefCell<Weak<Watched>> = const { RefCell::new(Weak::new()) };
}

impl Watched {
    pub(super) fn new(fs: Arc<Fs>, dir: PathBuf) -> Arc<Watched> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                before(info);
                if is_fatal() {
                    stop_mine_or_all();
                }
            }));
        });
        let watched = Arc::new(Watched { fs, dir, minor: OnceLock::new() });
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&watched));
        watched
    }

    pub(super) fn mounted(&self, minor: u32) {
        let _ = self.minor.set(minor);
    }

    fn minor(&self) -> Option<u32> {
        let by_path =
            || sys::mounted_at(&self.dir).ok().flatten().filter(|line| line.fs_type == sys::FS_TYPE);
        self.minor.get().copied().or_else(|| by_path().map(|line| line.minor))
    }

    /// Ends the mount: everybody who waits for an answer gets an error. What was accepted is still committed.
    fn stop(&self) {
        self.fs.make_read_only();
        tracing::error!("a thread that reads requests died: the mount at {} ends", self.dir.display());
        if let Some(minor) = self.minor()
            && let Err(error) = sys::abort_connection(minor, &self.dir)
        {
            tracing::error!("aborting the FUSE connection of {}: {error}", self.dir.display());
        }
    }
}

/// This thread works on a request of `watched` until the answer is dropped; panics in between are caught by the caller.
pub(super) fn enter(watched: &Arc<Watched>) -> InRequest {
    MINE.with_borrow_mut(|mine| {
        if mine.strong_count() == 0 {
            *mine = Arc::downgrade(watched);
        }
    });
    IN_REQUEST.set(true);
    InRequest
}

pub(super) struct InRequest;

impl Drop for InRequest {
    fn drop(&mut self) {
        IN_REQUEST.set(false);
    }
}

fn is_fatal() -> bool {
    let ours = std::thread::current().name().is_some_and(|name| name.starts_with(THREAD_NAME));
    ours && !IN_REQUEST.get()
}

fn stop_mine_or_all() {
    if let Some(mine) = MINE.with_borrow(Weak::upgrade) {
        return mine.stop();
    }
    let all: Vec<_> =
        ALL.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
    all.iter().for_each(|watched| watched.stop());
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::fs::{Atime, Store};
    use crate::mount::{MountOptions, Mounted, Unmounted};

    #[test]
    fn a_dead_reader_of_requests_ends_the_mount_and_nobody_hangs() {
        if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/fuse").exists() {
            let name = "a_dead_reader_of_requests_ends_the_mount_and_nobody_hangs";
            let _ = writeln!(std::io::stderr(), "SKIPPED {name}: needs root and /dev/fuse");
            assert!(std::env::var_os("CI").is_none_or(|v| v != "true"), "needs root and /dev/fuse in CI");
            return;
        }
        let dir = std::env::temp_dir().join(format!("twinfs-worker-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let fs = Arc::new(Fs::new(Store::for_tests(), Atime::Never));
        let mounted = Mounted::mount(Arc::clone(&fs), &dir, &MountOptions::default()).unwrap();
        std::fs::write(dir.join("kept"), "x").unwrap();
        let (tell, told) = channel();
        let doomed = dir.join(crate::mount::adapter::DEADLY_NAME);
        std::thread::spawn(move || tell.send(std::fs::metadata(doomed).map(|_| ())));
        let answer = told.recv_timeout(Duration::from_secs(20)).expect("the caller hangs");
        assert_eq!(answer.unwrap_err().raw_os_error(), Some(nix::errno::Errno::ECONNABORTED as i32));
        mounted.wait();
        assert!(std::fs::write(dir.join("more"), "x").is_err());
        assert_eq!(mounted.unmount(Duration::from_secs(5)).unwrap(), Unmounted::Clean);
        assert!(fs.lookup(crate::base::Ino::ROOT, b"kept").is_ok());
        std::fs::remove_dir(&dir).unwrap();
    }
}
