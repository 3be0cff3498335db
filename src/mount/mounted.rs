//! A mount from its first to its last moment.
//!
//! Decides how a mount begins (a dead one of ours goes first, the folder must be empty) and how it ends. Does not know
//! who may serve. Invariants: the path is unmounted only while our own mount lies there; after `abort` no request is
//! answered with success, whatever other mount name spaces still hold.
#![allow(clippy::disallowed_methods, reason = "a shell: mounts, threads, time")]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::fs::Fs;
use crate::sys::mount as sys;
use crate::sys::wake::Awake;

use super::desk::Desk;
use super::options::MountOptions;
use super::served::{Gate, Served};
use super::session::{Greeting, Seat};
use super::threads::FsThreads;
use super::worker::Watched;

/// What the kernel reads ahead of a stream: the default of 128 KiB keeps too few requests under way to hide what
/// fetching and checking cost.
const READ_AHEAD_KIB: u32 = 4096;
/// Between two tries to unmount.
const RETRY: Duration = Duration::from_millis(50);
/// How long the session may take to notice that its mount is gone.
const SESSION_END: Duration = Duration::from_secs(2);

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{} is not a directory; a mount point must be an empty directory", .0.display())]
    NotDirectory(PathBuf),
    #[error("{} is not empty; mount on an empty directory, or move its content away first", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is a mount point already ({what})", .dir.display())]
    Occupied { dir: PathBuf, what: String },
    #[error("{}: {error}", .dir.display())]
    Dir { dir: PathBuf, error: io::Error },
    #[error("cannot mount: {0}; mounting needs root and /dev/fuse (modprobe fuse)")]
    Kernel(io::Error),
    #[error("the kernel does not talk FUSE to us: {0}")]
    Session(io::Error),
}

/// A served mount. Dropped without `unmount`, it is aborted and detached.
pub struct Mounted {
    dir: PathBuf,
    pub(super) minor: u32,
    pub(super) fs: Arc<Fs>,
    pub(super) threads: Arc<FsThreads>,
    pub(super) seat: Seat,
    pub(super) dir_sync: Arc<AtomicBool>,
}

/// What else a mount answers to.
#[derive(Default)]
pub struct Ways {
    /// Asked before every answer.
    pub gate: Option<Arc<dyn Gate>>,
    /// Where it may be asked to go on in another program.
    pub desk: Option<Arc<Desk>>,
}

/// How `unmount` went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody used it any more.
    Clean,
    /// Somebody did: taken out of the name space, its users get errors.
    Detached,
}

impl Mounted {
    /// Mounts `fs` at `dir` and serves it. Returns when the kernel has accepted the session.
    pub fn mount(fs: Arc<Fs>, dir: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
        Mounted::mount_with(fs, dir, options, Ways::default())
    }

    /// `mount`, with more ways to reach it.
    pub fn mount_with(
        fs: Arc<Fs>,
        dir: &Path,
        options: &MountOptions,
        ways: Ways,
    ) -> Result<Mounted, MountError> {
        let dir = sys::absolute(dir).map_err(|error| MountError::Dir { dir: dir.to_path_buf(), error })?;
        clear_dead(&dir)?;
        check_mount_point(&dir)?;
        fs.set_no_dir_atime(options.flags.no_dir_atime);
        let device = sys::fuse_mount(&options.source, &dir, options.flags).map_err(MountError::Kernel)?;
        let dir_sync = options.flags.dir_sync || options.flags.sync;
        let served = Mounted::serve(fs, (dir.clone(), None), options, ways, (device, None, dir_sync));
        if served.is_err() {
            let _ = sys::detach(&dir);
        }
        served
    }

    /// Serves what is mounted at a place with this number, if it is known already.
    pub(super) fn serve(
        fs: Arc<Fs>,
        (dir, known): (PathBuf, Option<u32>),
        options: &MountOptions,
        ways: Ways,
        (device, before, dir_sync): (OwnedFd, Option<Greeting>, bool),
    ) -> Result<Mounted, MountError> {
        let threads = Arc::new(FsThreads::start(Arc::clone(&fs)).map_err(MountError::Session)?);
        let watched = Watched::new(Arc::clone(&fs), dir.clone());
        let dir_sync = Arc::new(AtomicBool::new(dir_sync));
        let served = Served {
            fs: Arc::clone(&fs),
            threads: Arc::clone(&threads),
            strict_writes: options.strict_writes,
            dir_sync: Arc::clone(&dir_sync),
            gate: ways.gate,
            watched: Arc::clone(&watched),
            awake: Awake::new(options.keep_awake),
            parking: Arc::default(),
            desk: ways.desk,
        };
        if let Some(minor) = known {
            watched.mounted(minor);
        }
        let seat = Seat::take(served, device, options.workers, before).map_err(MountError::Session)?;
        let minor = match known {
            Some(minor) => minor,
            None => {
                let line = sys::mounted_at(&dir).map_err(MountError::Session)?;
                let gone = || MountError::Session(io::Error::other("the mount went away at once"));
                line.ok_or_else(gone)?.minor
            }
        };
        watched.mounted(minor);
        if let Err(error) = sys::set_read_ahead(minor, READ_AHEAD_KIB) {
            tracing::debug!("read-ahead of {} stays as it is: {error}", dir.display());
        }
        Ok(Mounted { dir, minor, fs, threads, seat, dir_sync })
    }

    /// Where it is mounted, as an absolute path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The threads that serve it: whoever shares the file system may use them too.
    pub fn threads(&self) -> &Arc<FsThreads> {
        &self.threads
    }

    /// Waits until the session ended: unmounted from outside, or aborted.
    pub fn wait(&self) {
        self.seat.ended.wait(None);
    }

    /// A stream that reads as closed when the session ended, for whoever polls.
    pub fn end_stream(&self) -> io::Result<UnixStream> {
        self.seat.stream.try_clone()
    }

    /// Stops serving at once: everything is answered with an error, in every name space; nothing waits. The mount stays
    /// as a dead one until `unmount`.
    pub fn abort(&self) {
        self.fs.shut_down();
        if let Err(error) = sys::abort_connection(self.minor, &self.dir) {
            tracing::warn!("aborting the FUSE connection of {}: {error}", self.dir.display());
        }
    }

    /// Unmounts, waiting at most `timeout` for users to go; then detaches and stops serving those who stayed.
    /// Everything written before is committed.
    pub fn unmount(mut self, timeout: Duration) -> Result<Unmounted, crate::fs::FsError> {
        let how = self.leave(timeout);
        self.threads.stop();
        if self.fs.is_down() { Ok(how) } else { self.fs.store().sync().map(|()| how) }
    }

    fn leave(&mut self, timeout: Duration) -> Unmounted {
        let deadline = Instant::now() + timeout;
        while self.is_ours() && sys::unmount(&self.dir).is_err() && Instant::now() < deadline {
            std::thread::park_timeout(RETRY);
        }
        let mut how = Unmounted::Clean;
        if self.is_ours() {
            how = Unmounted::Detached;
            let _ = self.fs.store().commit();
            let _ = sys::detach(&self.dir);
        }
        if !self.seat.ended.wait(Some(SESSION_END)) {
            how = Unmounted::Detached;
            let _ = self.fs.store().commit();
            self.abort_detached();
        }
        self.seat.join(SESSION_END);
        how
    }

    /// The path no longer leads to the mount; users elsewhere keep it alive. Its requests get errors from now on, and
    /// the connection ends when the process closes the device.
    fn abort_detached(&self) {
        self.fs.make_read_only();
        let control = sys::abort_connection(self.minor, &self.dir);
        if control.is_err() {
            tracing::warn!("{} is still used by a process; it gets errors from now on", self.dir.display());
        }
    }

    fn is_ours(&self) -> bool {
        let line = sys::mounted_at(&self.dir).ok().flatten();
        line.is_some_and(|line| line.minor == self.minor && line.fs_type == sys::FS_TYPE)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.seat.is_over() {
            self.abort();
            if self.is_ours() {
                let _ = sys::detach(&self.dir);
            }
        }
    }
}

/// A mount of ours at `dir` whose daemon is gone is taken away before anything looks at the path.
fn clear_dead(dir: &Path) -> Result<(), MountError> {
    let failed = |error| MountError::Dir { dir: dir.to_path_buf(), error };
    while let Some(line) = sys::mounted_at(dir).map_err(failed)? {
        if line.fs_type == sys::FS_TYPE && sys::is_dead(dir) {
            sys::detach(dir).map_err(failed)?;
        } else {
            let what = format!("{} of type {}", line.source, line.fs_type);
            return Err(MountError::Occupied { dir: dir.to_path_buf(), what });
        }
    }
    Ok(())
}

fn check_mount_point(dir: &Path) -> Result<(), MountError> {
    let failed = |error| MountError::Dir { dir: dir.to_path_buf(), error };
    if !std::fs::metadata(dir).map_err(failed)?.is_dir() {
        return Err(MountError::NotDirectory(dir.to_path_buf()));
    }
    match std::fs::read_dir(dir).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(MountError::NotEmpty(dir.to_path_buf())),
    }
}

/// Whether `dir` could be mounted on, now or once `volume` is served here, or made for it. Changes nothing. A mount
/// of the same volume is no obstacle: its node runs on this machine too (`twinfs demo`), and whoever takes over
/// mounts only when that one is dead.
pub fn check_place(dir: &Path, volume: &str) -> Result<(), MountError> {
    let failed = |error| MountError::Dir { dir: dir.to_path_buf(), error };
    if let Some(line) = sys::mounted_at(dir).map_err(failed)? {
        if line.fs_type == sys::FS_TYPE && line.source == volume {
            return Ok(());
        }
        let what = format!("{} of type {}", line.source, line.fs_type);
        return Err(MountError::Occupied { dir: dir.to_path_buf(), what });
    }
    match std::fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => check_mount_point(dir),
    }
}

/// `twinfs umount DIR`: ends whatever mount of ours lies at `dir`. `force` aborts its connection first, which also ends
/// calls that hang, and detaches.
pub fn unmount_path(dir: &Path, force: bool) -> io::Result<()> {
    let dir = sys::absolute(dir)?;
    let Some(line) = sys::mounted_at(&dir)?.filter(|line| line.fs_type == sys::FS_TYPE) else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no twinfs is mounted there"));
    };
    if !force {
        return sys::unmount(&dir);
    }
    sys::abort_connection(line.minor, &dir)?;
    match sys::detach(&dir) {
        // The forced unmount of the abort has already succeeded.
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) => Ok(()),
        other => other,
    }
}
