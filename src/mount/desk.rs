//! Where a mount without a pair is asked to go on in another program, by whoever may: an ioctl on its root.
//!
//! Decides who may ask and how an answer reads. Does not know how a mount is handed on: whoever serves it is told.
//! Invariant: nothing was stopped when it is refused.
#![allow(clippy::disallowed_methods, reason = "a shell: a socket")]

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuser::ReplyIoctl;

use crate::sys::mount::{HAND_ON_BYTES, HandedOn};

use super::served::Served;

/// Whether a program can go on with a mount of this one: asked before anything is stopped.
pub type Judge = Box<dyn Fn(&Path) -> Result<(), String> + Send + Sync>;

#[derive(Debug, Default)]
struct Wish {
    program: Option<PathBuf>,
    /// Why it did not come to it the last time.
    refusal: String,
}

/// The desk of one mount.
pub struct Desk {
    wish: Mutex<Wish>,
    bell: UnixStream,
    judge: Judge,
    /// How often the mount was handed on so far, and how long requests waited the last time.
    count: u32,
    pause_ms: u64,
}

impl Desk {
    /// With the stream from which a byte can be read for every wish.
    pub fn new(count: u32, pause_ms: u64, judge: Judge) -> io::Result<(Desk, UnixStream)> {
        let (bell, heard) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        Ok((Desk { wish: Mutex::default(), bell, judge, count, pause_ms }, heard))
    }

    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program that is to go on.
    pub fn asked(&self) -> Option<PathBuf> {
        self.wish().program.take()
    }

    /// It did not come to it.
    pub fn refused(&self, why: &str) {
        self.wish().refusal = why.to_string();
    }

    fn ask(&self, program: &Path) -> Result<(), String> {
        (self.judge)(program)?;
        *self.wish() = Wish { program: Some(program.to_path_buf()), refusal: String::new() };
        (&self.bell).write_all(&[1]).map_err(|e| e.to_string())
    }

    fn state(&self) -> HandedOn {
        let refusal = self.wish().refusal.clone();
        let version = env!("CARGO_PKG_VERSION").to_string();
        HandedOn { count: self.count, version, pause_ms: self.pause_ms, refusal }
    }
}

/// Answers the ioctl: no program is a question.
pub(super) fn answer(served: &Served, data: &[u8], reply: ReplyIoctl) {
    let program = data.split(|byte| *byte == 0).next().unwrap_or_default();
    let program = PathBuf::from(OsStr::from_bytes(program));
    let Some(desk) = served.desk.clone() else {
        let state = HandedOn {
            refusal: "it belongs to a daemon: say \"twinfs upgrade\"".into(),
            ..HandedOn::default()
        };
        return reply.ioctl(1, &state.bytes());
    };
    if program.as_os_str().is_empty() {
        return reply.ioctl(0, &desk.state().bytes());
    }
    // Looking at a program takes its time.
    served.threads.slowly(Box::new(move || match desk.ask(&program) {
        Ok(()) => reply.ioctl(0, &desk.state().bytes()),
        Err(refusal) => reply.ioctl(1, &HandedOn { refusal, ..desk.state() }.bytes()),
    }));
}

const _: () = assert!(HAND_ON_BYTES <= 4096, "restricted ioctls of one page");
