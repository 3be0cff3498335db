//! Leaving the terminal: a process forks, its child serves, and the parent comes back only with the child's word.
//!
//! Decides what a child keeps (nothing: no terminal, no standard streams, no working folder, no inherited
//! descriptors). Does not know what it serves. Invariant: `split` runs while the process has one thread.
#![allow(unsafe_code, clippy::disallowed_methods, reason = "a shell: fork(2), /dev/null")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::unistd::ForkResult;

/// Which side of the fork this is.
pub enum Side {
    /// The caller's process: the child has answered, with an error to print if it failed.
    Parent(Result<(), String>),
    /// The new process, which owes an answer.
    Child(Answer),
}

/// The child's one answer to its parent. Dropped without an answer, the parent reports a death.
pub struct Answer {
    pipe: File,
}

const READY: &[u8] = b"\0ready";

/// Forks. The child is in a session of its own, in `/`, without inherited descriptors; its standard error stays
/// until it answers.
pub fn split() -> io::Result<Side> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: the caller has one thread (invariant of this module), so the child may do anything after the fork.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => {
            drop(writer);
            Ok(Side::Parent(hear(File::from(reader))?))
        }
        ForkResult::Child => {
            drop(reader);
            nix::unistd::setsid()?;
            nix::unistd::chdir("/")?;
            close_inherited(writer.as_raw_fd());
            Ok(Side::Child(Answer { pipe: File::from(writer) }))
        }
    }
}

fn hear(mut pipe: File) -> io::Result<Result<(), String>> {
    let mut told = Vec::new();
    pipe.read_to_end(&mut told)?;
    Ok(match told.as_slice() {
        READY => Ok(()),
        [] => Err("the serving process died before the mount answered".to_string()),
        message => Err(String::from_utf8_lossy(message).into_owned()),
    })
}

/// Closes everything above the standard streams but `keep`: a lock or a pipe of the caller must not live on here.
fn close_inherited(keep: RawFd) {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> =
        entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect();
    for fd in open.into_iter().filter(|fd| *fd != keep) {
        let _ = nix::unistd::close(fd);
    }
}

impl Answer {
    /// The parent may return: everything works. Lets go of the standard streams.
    pub fn ready(mut self) -> io::Result<()> {
        let null: OwnedFd = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into();
        nix::unistd::dup2_stdin(&null)?;
        nix::unistd::dup2_stdout(&null)?;
        nix::unistd::dup2_stderr(&null)?;
        self.pipe.write_all(READY)
    }

    /// The parent prints this and fails.
    pub fn failed(mut self, message: &str) {
        let _ = self.pipe.write_all(message.as_bytes());
    }
}
