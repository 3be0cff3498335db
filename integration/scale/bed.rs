//! What the tests of scale stand on: an image of 1 TiB on the disk, served inside the process or by a daemon, and the
//! figures of a process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::mount::MntFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::FUSE_SUPER_MAGIC;
use nix::unistd::Pid;
use twinfs::fs::{Atime, Ctx, Fs, FsError, Store, StoreOptions};
use twinfs::image::{Image, LocalBlocks, OpenOptions};
use twinfs::mount::FsThreads;
use twinfs::sys::disk::FileDisk;

use crate::harness::{bin_dir, say, wait_for, world};

/// Set in the process that a test runs in: its name.
const INSIDE: &str = "TWINFS_SCALE_INSIDE";
/// Sparse: what nobody wrote takes no space.
const IMAGE_SIZE: &str = "1T";

pub fn is_long() -> bool {
    std::env::var_os("TWINFS_LONG").is_some()
}

/// Runs `body` in a process of its own, so that its memory is nobody else's, and one test at a time.
pub fn in_own_process(name: &str, body: impl FnOnce()) {
    static ONE: Mutex<()> = Mutex::new(());
    if std::env::var(INSIDE).as_deref() == Ok(name) {
        return body();
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    let mut command = Command::new(std::env::current_exe().expect("path of the test"));
    command.args(["--exact", name, "--nocapture"]).env(INSIDE, name).stdout(Stdio::null());
    let ended = command.status().expect("the test starts itself");
    assert!(ended.success(), "{name} failed; it said why above ({ended})");
    say(&format!("scale: {name} took {:.1} s", begun.elapsed().as_secs_f64()));
}

/// A scratch folder with an image; taken back when dropped.
pub struct Bed {
    pub root: PathBuf,
}

impl Bed {
    pub fn new(name: &str) -> Bed {
        let root = world::scratch(&format!("scale-{name}"));
        std::fs::create_dir(root.join("mnt")).expect("mount point");
        let bed = Bed { root };
        let begun = Instant::now();
        run_ok(Command::new(bin_dir().join("twinfs")).args(["mkfs", "-q"]).arg(bed.image()).arg(IMAGE_SIZE));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "mkfs of {IMAGE_SIZE} took {took:?}");
        bed
    }

    pub fn image(&self) -> PathBuf {
        self.root.join("image")
    }

    pub fn mnt(&self) -> PathBuf {
        self.root.join("mnt")
    }

    /// The file system of the image, in this process, with the threads that a mount has.
    pub fn open(&self) -> Inside {
        Inside::open(&self.image())
    }

    /// Bytes that the image takes on the disk.
    pub fn bytes_used(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(self.image()).expect("the image").blocks() * 512
    }

    /// The checker finds nothing; answers its peak of memory in bytes and how long it took.
    #[track_caller]
    pub fn check(&self) -> (u64, Duration) {
        let begun = Instant::now();
        let mut command = Command::new(bin_dir().join("fsck-twinfs"));
        let said = std::fs::File::create(self.root.join("fsck")).expect("a file beside the image");
        let mut child =
            command.args(["-n"]).arg(self.image()).stdout(said).spawn().expect("the checker starts");
        let (mut peak, process) = (0, child.id().to_string());
        let ended = loop {
            // Until it is waited for, its numbers can be read; those of the end are missing.
            peak = peak.max(peak_if_there(&process).unwrap_or(0));
            if let Some(ended) = child.try_wait().expect("it is ours") {
                break ended;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let said = std::fs::read_to_string(self.root.join("fsck")).expect("what it said");
        assert!(ended.success(), "the checker: {said}");
        (peak, begun.elapsed())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        while nix::mount::umount2(&self.mnt(), MntFlags::MNT_DETACH).is_ok() {}
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// A file system served inside this process.
pub struct Inside {
    pub fs: Arc<Fs>,
    threads: FsThreads,
    image: Arc<Image>,
    /// How long opening it took.
    pub opened: Duration,
}

impl Inside {
    fn open(path: &Path) -> Inside {
        let begun = Instant::now();
        let (image, store) = open_store(path);
        let opened = begun.elapsed();
        let fs = Arc::new(Fs::new(store, Atime::Never));
        let threads = FsThreads::start(Arc::clone(&fs)).expect("threads");
        Inside { fs, threads, image, opened }
    }

    /// A clean end.
    pub fn close(self) {
        self.threads.stop();
        self.fs.store().close().expect("a clean end");
        drop((self.fs, self.threads));
        self.image.close().expect("a clean image");
    }
}

/// Image and store, without threads.
pub fn open_store(path: &Path) -> (Arc<Image>, Store) {
    let disk = Arc::new(FileDisk::open(path, true).expect("the image file"));
    let image = Arc::new(Image::open(disk, &OpenOptions::read_write()).expect("the image"));
    let local = LocalBlocks::new(Arc::clone(&image)).expect("its blocks");
    let store = Store::open(Arc::new(local), &StoreOptions::default()).expect("the file system");
    (image, store)
}

/// Writes as a mount does: what meets the limit of dirty data waits for writeback.
pub fn write(fs: &Fs, ctx: &Ctx, ino: twinfs::base::Ino, offset: u64, data: &[u8]) {
    loop {
        match fs.write(ctx, ino, offset, data, false) {
            Err(FsError::WouldBlock) => fs.store().writeback(false).expect("writeback"),
            other => return other.expect("a write"),
        }
    }
}

/// A daemon that serves an image; ended and unmounted when dropped.
pub struct Daemon {
    child: Child,
    mnt: PathBuf,
}

impl Daemon {
    /// Only this thread's namespace has the mount.
    pub fn start(bed: &Bed, options: &str) -> Daemon {
        crate::harness::alone::own_namespace();
        let mut command = Command::new(bin_dir().join("twinfs"));
        command.args(["mount", "--standalone", "--foreground", "-o", options]).args([bed.image(), bed.mnt()]);
        let child = command.stdin(Stdio::null()).spawn().expect("twinfs starts");
        let daemon = Daemon { child, mnt: bed.mnt() };
        let served =
            || nix::sys::statfs::statfs(&daemon.mnt).is_ok_and(|s| s.filesystem_type() == FUSE_SUPER_MAGIC);
        assert!(wait_for(Duration::from_secs(30), served), "not mounted");
        daemon
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    pub fn peak(&self) -> u64 {
        peak_of(&self.child.id().to_string())
    }

    /// A clean end.
    pub fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).expect("it is ours");
        let ended = self.child.wait().expect("it is ours");
        assert!(ended.success(), "the daemon ended with {ended}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(self.pid(), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// The most memory that a process (`self`, or a number) has had at once, in bytes.
pub fn peak_of(process: &str) -> u64 {
    peak_if_there(process).expect("a process that runs")
}

fn peak_if_there(process: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

pub fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

#[track_caller]
pub fn run_ok(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    said
}
