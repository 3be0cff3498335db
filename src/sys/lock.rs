//! One process at a time on an image.
//!
//! Decides who holds an image: flock(2) on the file or device node, released by the kernel with the process. Does not
//! know what is done under it. Invariant: a holder is named by its process id where the kernel tells it.
#![allow(clippy::disallowed_methods, reason = "a shell: files, /proc and a wait")]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// How often a busy lock is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Why an image is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{}: the image is in use{}; stop that first", path.display(), by(*pid))]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
}

fn by(pid: Option<u32>) -> String {
    pid.map_or(String::new(), |pid| format!(" by process {pid}"))
}

/// The exclusive (or, for readers, shared) hold on an image; ends when dropped or when the process dies.
pub struct ImageLock {
    held: Flock<File>,
}

impl ImageLock {
    /// Takes the lock for writing, waiting at most `wait` for another process to let go.
    pub fn take(path: &Path, wait: Duration) -> Result<ImageLock, LockError> {
        ImageLock::acquire(path, FlockArg::LockExclusiveNonblock, wait)
    }

    /// Takes the lock for reading: keeps writers away, not other readers.
    pub fn shared(path: &Path, wait: Duration) -> Result<ImageLock, LockError> {
        ImageLock::acquire(path, FlockArg::LockSharedNonblock, wait)
    }

    /// Goes on with a lock that a predecessor left open: nobody had the image in between.
    pub fn adopt(path: &Path, left: OwnedFd) -> Result<ImageLock, LockError> {
        let io = |error| LockError::Io { path: path.to_path_buf(), error };
        let file = File::from(left);
        let (mine, there) = (file.metadata().map_err(io)?, std::fs::metadata(path).map_err(io)?);
        if (mine.dev(), mine.ino()) != (there.dev(), there.ino()) {
            return Err(io(std::io::Error::other("another file lies there than the one that was in use")));
        }
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(ImageLock { held }),
            Err((back, Errno::EAGAIN)) => {
                Err(LockError::InUse { path: path.to_path_buf(), pid: holder(&back) })
            }
            Err((_, error)) => Err(io(error.into())),
        }
    }

    fn acquire(path: &Path, kind: FlockArg, wait: Duration) -> Result<ImageLock, LockError> {
        let io = |error| LockError::Io { path: path.to_path_buf(), error };
        let until = Instant::now() + wait;
        let mut file = File::open(path).map_err(io)?;
        loop {
            match Flock::lock(file, kind) {
                Ok(held) => return Ok(ImageLock { held }),
                Err((back, Errno::EAGAIN)) if Instant::now() < until => {
                    file = back;
                    std::thread::sleep(RETRY);
                }
                Err((back, Errno::EAGAIN)) => {
                    return Err(LockError::InUse { path: path.to_path_buf(), pid: holder(&back) });
                }
                Err((_, error)) => return Err(io(error.into())),
            }
        }
    }
}

impl AsFd for ImageLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.held.as_fd()
    }
}

/// The process that holds a flock on the file, from /proc/locks.
fn holder(file: &File) -> Option<u32> {
    let meta = file.metadata().ok()?;
    let (major, minor) = (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()));
    let place = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&place.as_str());
        words.get(4).filter(|_| ours)?.parse().ok()
    })
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
