//! A mount that goes from one process to the next.
//!
//! The kernel keeps names, inode numbers, caches, locks and open files of its users; `fs` and this folder keep nothing
//! for a file handle or an open directory. So what goes along is small: what was agreed on with the kernel, and how
//! often it looked at each inode. Decides what becomes of a mount that nobody goes on with: it ends as after a crash.
//! Does not know who may serve. Invariant: between two processes no request is answered.
#![allow(clippy::disallowed_methods, reason = "a shell: mounts, time")]

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::format::KeptMount;
use crate::fs::{Atime, Fs};
use crate::sys::handover as sys_handover;
use crate::sys::mount as sys;

use super::mounted::{MountError, Mounted, Ways};
use super::options::MountOptions;
use super::session::Greeting;

/// A mount that waits for its next process. Dropped, it is aborted and taken away.
pub struct Kept {
    device: Option<OwnedFd>,
    state: KeptMount,
    dir: PathBuf,
}

impl Kept {
    /// Takes the descriptor that the predecessor left. The mount is this process's to serve or to end.
    pub fn adopt(state: KeptMount) -> io::Result<Kept> {
        let dir = PathBuf::from(OsStr::from_bytes(&state.dir));
        let device = sys_handover::adopt(state.device)?;
        let kept = Kept { device: Some(device), state, dir };
        match &kept.device {
            Some(device) if !sys_handover::is_fuse_device(device) => {
                Err(io::Error::other("what was left is not /dev/fuse"))
            }
            _ => Ok(kept),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn state(&self) -> &KeptMount {
        &self.state
    }

    fn is_there(&self) -> bool {
        let line = sys::mounted_at(&self.dir).ok().flatten();
        line.is_some_and(|line| line.minor == self.state.minor && line.fs_type == sys::FS_TYPE)
    }

    /// Everybody who waits gets an error, now.
    pub fn abort(&self) {
        if let Err(error) = sys::abort_connection(self.state.minor, &self.dir) {
            tracing::warn!("aborting the FUSE connection of {}: {error}", self.dir.display());
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.device.is_some() {
            self.abort();
            if self.is_there() {
                let _ = sys::detach(&self.dir);
            }
        }
    }
}

/// Added to the code of a mount that spares directories.
const NO_DIR_ATIME: u8 = 4;

fn atime_code(fs: &Fs) -> u8 {
    let code = match fs.atime() {
        Atime::Relative => 0,
        Atime::Never => 1,
        Atime::Strict => 2,
    };
    if fs.no_dir_atime() { code | NO_DIR_ATIME } else { code }
}

impl Mounted {
    /// Ends what is under way, takes no more, and makes everything stable; at most so long. On an error everything goes
    /// on as before.
    pub fn pause(&self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        if self.fs.is_down() {
            return Err(io::Error::other("the file system was shut down"));
        }
        self.seat.gather(|| self.threads.is_idle(), end)?;
        self.fs.store().sync().map_err(|error| {
            self.resume();
            io::Error::other(error.to_string())
        })
    }

    /// Goes on after `pause`.
    pub fn resume(&self) {
        self.seat.disperse();
    }

    /// What a successor needs, after `pause`; name, image, lock and lease are the caller's.
    pub fn describe(&self) -> KeptMount {
        KeptMount {
            name: String::new(),
            image: Vec::new(),
            dir: self.dir().as_os_str().as_bytes().to_vec(),
            device: sys_handover::number(self.seat.device()),
            lock: u32::MAX,
            minor: self.minor,
            greeting: self.seat.greeting.init.clone(),
            answer: self.seat.greeting.answer.clone(),
            read_only: !self.fs.is_serving(),
            dir_sync: self.dir_sync.load(Ordering::SeqCst),
            atime: atime_code(&self.fs),
            lease_from: None,
            held: self.fs.held(),
        }
    }

    /// Ends the threads after `pause`: there is no way back but the successor's.
    pub fn retire(&self) {
        self.threads.stop();
    }

    /// Goes on with a mount: requests that wait are answered from now on. `fs` was just opened.
    pub fn take_over(
        fs: Arc<Fs>,
        mut kept: Kept,
        options: &MountOptions,
        ways: Ways,
    ) -> Result<Mounted, MountError> {
        if !kept.is_there() {
            return Err(MountError::Session(io::Error::other("the mount is not there any more")));
        }
        let lost = |error: crate::fs::FsError| MountError::Session(io::Error::other(error.to_string()));
        fs.take_over(&kept.state.held).map_err(lost)?;
        if kept.state.read_only {
            fs.make_read_only();
        }
        fs.set_no_dir_atime(kept.state.atime & NO_DIR_ATIME != 0);
        fs.set_atime(match kept.state.atime & !NO_DIR_ATIME {
            1 => Atime::Never,
            2 => Atime::Strict,
            _ => Atime::Relative,
        });
        let Some(device) = kept.device.as_ref().map(OwnedFd::try_clone) else {
            return Err(MountError::Session(io::ErrorKind::NotConnected.into()));
        };
        let device = device.map_err(MountError::Session)?;
        let greeting = Greeting { init: kept.state.greeting.clone(), answer: kept.state.answer.clone() };
        let dir_sync = kept.state.dir_sync;
        let place = (kept.dir.clone(), Some(kept.state.minor));
        let mounted = Mounted::serve(fs, place, options, ways, (device, Some(greeting), dir_sync))?;
        kept.device = None;
        Ok(mounted)
    }
}
