//! One file system for one test, in a mount namespace of the test's own thread: twinfs standalone, or ext4 on a loop
//! device beside it for comparison.
//!
//! Only the thread that made it, and what that thread starts, sees the mount: no other test's namespace can pin it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::FUSE_SUPER_MAGIC;
use nix::unistd::Pid;

use super::{bin_dir, wait_for};

/// A mounted file system with its scratch folder; taken back when dropped.
pub struct Alone {
    pub root: PathBuf,
    pub kind: &'static str,
    daemon: Option<Child>,
    ext4: bool,
}

impl Alone {
    /// A new twinfs of `size`, mounted. The thread gets a mount namespace of its own.
    pub fn twinfs(test: &str, size: &str) -> Alone {
        own_namespace();
        let mut alone = Alone::scratch(test, "twinfs");
        let image = alone.image();
        run_ok(Command::new(bin_dir().join("twinfs")).args(["mkfs", "-q"]).arg(image).arg(size));
        alone.mount();
        alone
    }

    /// A new ext4 on a loop device over a file of `size`, mounted in the same way.
    pub fn ext4(test: &str, size: &str) -> Alone {
        own_namespace();
        let mut alone = Alone::scratch(test, "ext4");
        let image = alone.image();
        run_ok(Command::new("truncate").args(["-s", size]).arg(&image));
        run_ok(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        run_ok(Command::new("mount").args(["-o", "loop"]).args([image, alone.mnt()]));
        alone.ext4 = true;
        alone
    }

    fn scratch(test: &str, kind: &'static str) -> Alone {
        let root = super::world::scratch(test);
        std::fs::create_dir(root.join("mnt")).expect("mount point");
        Alone { root, kind, daemon: None, ext4: false }
    }

    pub fn image(&self) -> PathBuf {
        self.root.join("image")
    }

    pub fn mnt(&self) -> PathBuf {
        self.root.join("mnt")
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.mnt().join(name)
    }

    /// A folder beside the mount, on the disk that holds the image.
    pub fn beside(&self, name: &str) -> PathBuf {
        let dir = self.root.join(name);
        std::fs::create_dir_all(&dir).expect("scratch folder");
        dir
    }

    /// Starts a daemon for the image and waits until the mount answers.
    pub fn mount(&mut self) {
        let mut command = Command::new(bin_dir().join("twinfs"));
        command.args(["mount", "--standalone", "--foreground"]).args([self.image(), self.mnt()]);
        self.daemon = Some(command.stdin(Stdio::null()).spawn().expect("twinfs starts"));
        assert!(wait_for(Duration::from_secs(30), || self.is_served()), "not mounted");
    }

    /// Asked of the mount itself: /proc/self is the process, and only this thread is in the namespace.
    fn is_served(&self) -> bool {
        nix::sys::statfs::statfs(&self.mnt()).is_ok_and(|found| found.filesystem_type() == FUSE_SUPER_MAGIC)
    }

    /// Unmounts, and waits until the daemon has let go of the image.
    pub fn unmount(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(Pid::from_raw(i32::try_from(daemon.id()).expect("a pid")), Signal::SIGTERM);
            let ended = daemon.wait().expect("the daemon was ours");
            assert!(ended.success(), "the daemon ended with {ended}");
        } else if std::mem::take(&mut self.ext4) {
            run_ok(Command::new("umount").arg(self.mnt()));
        }
    }

    /// Unmounts and lets the file system's own checker look; panics with its findings.
    #[track_caller]
    pub fn check(mut self) {
        self.unmount();
        let mut checker = match self.kind {
            "ext4" => Command::new("e2fsck"),
            _ => Command::new(bin_dir().join("fsck-twinfs")),
        };
        checker.args(if self.kind == "ext4" { ["-f", "-n"].as_slice() } else { ["-n"].as_slice() });
        let found = checker.arg(self.image()).output().expect("the checker starts");
        assert!(found.status.success(), "{}: {}", self.kind, said(&found));
    }

    /// A command that starts on the mount.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.mnt()).stdin(Stdio::null());
        command
    }

    /// Runs a line of shell in the root folder of the mount; panics with what it said unless it succeeded.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let output = self.command("sh").args(["-e", "-c", line]).output().expect("sh starts");
        assert!(output.status.success(), "{} on {}: {}\n{}", line, self.kind, output.status, said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap_or(0)), Signal::SIGTERM);
            let _ = daemon.wait();
        }
        while nix::mount::umount2(&self.mnt(), MntFlags::MNT_DETACH).is_ok() {}
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// A private mount namespace for this thread and whatever it starts.
pub fn own_namespace() {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&Path>, "/", None::<&str>, private, None::<&str>).expect("a private root");
}

#[track_caller]
pub fn run_ok(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    output
}

/// Both streams of a program, the end of them.
pub fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
