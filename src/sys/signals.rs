//! Termination signals as something a thread can wait for.
//!
//! Decides which signals end a serving process. Does not know what ending means. Invariant: `Signals::block` runs
//! before the first thread starts, so that every thread inherits the mask and no signal kills the process half-way.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// SIGTERM, SIGINT and SIGHUP, held back from their default action.
pub struct Signals {
    descriptor: SignalFd,
}

/// Why `Signals::wait` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Somebody wants the process to end.
    Signal,
    /// The other end of the stream was closed.
    Closed,
    /// A byte came through the bell.
    Asked,
}

impl Signals {
    /// Blocks the signals in this thread and all threads it starts from now on.
    pub fn block() -> io::Result<Signals> {
        let set = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        set.thread_block()?;
        Ok(Signals {
            descriptor: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
        })
    }

    /// Waits for a signal or until the other end of `ended` is dropped.
    pub fn wait(&self, ended: &mut UnixStream) -> io::Result<Woken> {
        let (mut bell, _silent) = UnixStream::pair()?;
        self.wait_or_bell(ended, &mut bell)
    }

    /// As `wait`, or for a byte from `bell`.
    pub fn wait_or_bell(&self, ended: &mut UnixStream, bell: &mut UnixStream) -> io::Result<Woken> {
        loop {
            let mut fds = [
                PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN),
                PollFd::new(ended.as_fd(), PollFlags::POLLIN),
                PollFd::new(bell.as_fd(), PollFlags::POLLIN),
            ];
            match nix::poll::poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [closed, rung] = [1, 2].map(|at| fds[at].any().unwrap_or(false));
            if self.descriptor.read_signal()?.is_some() {
                return Ok(Woken::Signal);
            }
            if closed && ended.read(&mut [0])? == 0 {
                return Ok(Woken::Closed);
            }
            if rung && bell.read(&mut [0])? == 1 {
                return Ok(Woken::Asked);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_stream_wakes_the_waiter() {
        let signals = Signals::block().unwrap();
        let (mut here, there) = UnixStream::pair().unwrap();
        let (mut bell, mut far) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut far, &[1]).unwrap();
        assert_eq!(signals.wait_or_bell(&mut here, &mut bell).unwrap(), Woken::Asked);
        drop(there);
        assert_eq!(signals.wait(&mut here).unwrap(), Woken::Closed);
    }
}
