//! Waiting for the end of another process.
//!
//! Does not know why it matters. Invariant: a number that was given to another process meanwhile is not taken for the
//! one that is meant.
#![allow(unsafe_code, clippy::disallowed_methods, reason = "pidfd_open(2)")]

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A process, whatever its number is used for later.
pub struct Process(OwnedFd);

impl Process {
    /// The parent of this process, if its number is `pid`; `None`: that one is dead already.
    pub fn parent(pid: u32) -> io::Result<Option<Process>> {
        let raw = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
        // SAFETY: no memory is passed; a descriptor that is returned is ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, raw, 0) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
        }
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: it was just opened and has no other owner.
        let process = Process(unsafe { OwnedFd::from_raw_fd(fd) });
        // Asked after it was opened: had the parent died before, its number might be another's now.
        Ok((nix::unistd::getppid().as_raw() == raw).then_some(process))
    }

    /// Waits until it has ended: its files are closed and its locks are gone.
    pub fn wait(&self) -> io::Result<()> {
        loop {
            let mut set = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut set, PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_parent_is_waited_for() {
        let parent = nix::unistd::getppid().as_raw().unsigned_abs();
        assert!(Process::parent(parent).unwrap().is_some());
        assert!(Process::parent(std::process::id()).unwrap().is_none(), "this process is not its own parent");
        let child = std::process::Command::new("true").spawn().unwrap().id();
        assert!(Process::parent(child).unwrap().is_none());
    }
}
