//! One machine of a test: a process in its own network, mount, PID, UTS and IPC namespace, with a writable copy of the
//! whole root folder in memory. Programs run inside it through nsenter(1).
//!
//! The mount namespace is private and made before any mount under test, so that an unmount inside is final. Image
//! files live in the scratch folder on the real disk, bound to /var/lib/twinfs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_for;

/// A running node. Dropping it ends every process in it, and with them its mounts.
pub struct Node {
    pub name: String,
    pub dir: PathBuf,
    pid1: i32,
    holder: Child,
}

/// What a command printed and how it ended.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Panics with both streams unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert!(self.code == 0, "exit {}\nstdout: {}\nstderr: {}", self.code, self.out, self.err);
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Run by sh as pid 1: `$1` name, `$2` its scratch folder, `$3` the world's scratch folder, `$4` folder of programs.
const INIT: &str = r#"
set -e
mount --make-rprivate /
hostname "$1"
mkdir -p "$2/ram" "$2/images" "$2/root"
mount -t tmpfs -o mode=755 tmpfs "$2/ram"
mkdir "$2/ram/upper" "$2/ram/work"
mount -t overlay -o "xino=on,lowerdir=/,upperdir=$2/ram/upper,workdir=$2/ram/work" overlay "$2/root"
cd "$2/root"
mkdir -p ".$3" ".$4" run old
mount --rbind "$3" ".$3"
mount --bind "$4" ".$4"
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mkdir -p run/lock
rm -rf etc/twinfs var/lib/twinfs
mkdir -p var/lib/twinfs
mount --bind "$2/images" var/lib/twinfs
pivot_root . old
cd /
umount -l /old
rmdir /old
: > "$2/ready"
trap : TERM INT HUP
while :; do sleep 3600 & wait $! || :; done
"#;

impl Node {
    /// Starts a node with no network yet. `world` is visible inside under its own path.
    pub fn start(name: &str, world: &Path, programs: &Path) -> Node {
        let dir = world.join(name);
        std::fs::create_dir_all(&dir).expect("scratch folder of the node");
        let log = std::fs::File::create(dir.join("init.log")).expect("log of the node");
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--uts", "--ipc", "--net", "--pid"])
            .args(["--fork", "--kill-child", "--propagation", "private", "sh", "-c", INIT, "node", name])
            .args([dir.as_os_str(), world.as_os_str(), programs.as_os_str()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("unshare starts");
        let up = wait_for(Duration::from_secs(20), || dir.join("ready").exists());
        let said = std::fs::read_to_string(dir.join("init.log")).unwrap_or_default();
        if !up {
            let _ = holder.kill();
            let _ = holder.wait();
            panic!("node {name} did not start: {said}");
        }
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let pid1 = std::fs::read_to_string(&children).expect("children of unshare");
        let pid1 =
            pid1.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("pid 1 of the node");
        let node = Node { name: name.to_string(), dir, pid1, holder };
        node.ip("link set lo up");
        node
    }

    /// The pid of the node's pid 1, seen from outside: names its namespaces.
    pub fn pid(&self) -> i32 {
        self.pid1
    }

    /// A command that will run inside the node.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid1.to_string(), "-m", "-u", "-i", "-n", "-p", "--", program]);
        let programs = super::bin_dir();
        let path =
            format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
        command.stdin(Stdio::null()).current_dir("/").env("PATH", path).env_remove("CI");
        command
    }

    /// Runs a program inside and waits for it; a run beyond `limit` is ended and panics.
    #[track_caller]
    pub fn run_within(&self, limit: Duration, words: &[&str]) -> Ran {
        let mut command = self.command("timeout");
        command.args(["-k", "1", &limit.as_secs_f64().to_string()]).args(words);
        let ran = Ran::from(command.output().expect("nsenter runs"));
        let words = words.join(" ");
        assert!(
            ran.code != 124 && ran.code != 137,
            "{}: `{words}` took longer than {limit:?}: {}",
            self.name,
            ran.err
        );
        ran
    }

    /// Runs a program inside, one minute at most.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Ran {
        self.run_within(Duration::from_secs(60), words)
    }

    /// Runs a line of shell inside.
    #[track_caller]
    pub fn sh(&self, line: &str) -> Ran {
        self.run(&["sh", "-c", line])
    }

    #[track_caller]
    pub fn ip(&self, line: &str) {
        let words: Vec<&str> = std::iter::once("ip").chain(line.split_whitespace()).collect();
        self.run(&words).ok();
    }

    /// Starts a program inside with its output in `LOG` of the node's scratch folder.
    pub fn spawn(&self, log: &str, words: &[&str]) -> Running {
        let file = std::fs::File::create(self.dir.join(log)).expect("log file");
        let mut command = self.command(words[0]);
        command.args(&words[1..]).stdout(file.try_clone().expect("log")).stderr(file);
        Running(command.spawn().expect("nsenter runs"))
    }

    /// What a program started with `spawn` has printed.
    pub fn log(&self, log: &str) -> String {
        std::fs::read_to_string(self.dir.join(log)).unwrap_or_default()
    }

    /// Pids (seen from outside) of every process inside, but for pid 1.
    pub fn pids(&self) -> Vec<i32> {
        let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let mine = namespace(self.pid1);
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // The dead do not count: a nsenter that stopped with its child reaps it only when it goes on.
            if pid != self.pid1 && mine.is_some() && namespace(pid) == mine && !is_dead(pid) {
                found.push(pid);
            }
        }
        found
    }

    /// Pids (seen from outside) of the processes inside whose command line contains `part`.
    pub fn pids_of(&self, part: &str) -> Vec<i32> {
        self.pids()
            .into_iter()
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).replace('\0', " ").contains(part)
            })
            .collect()
    }

    /// SIGKILL for everything inside at one instant, as when a kernel panics. Network and mounts stay. When this returns
    /// nothing of it holds a lock any more.
    pub fn kill_all(&self) {
        let before = self.pids();
        // `kill -9 -1` inside the PID namespace is one system call: nobody in it sees another one die first.
        let _ = self.command("sh").args(["-c", "kill -9 -1"]).output();
        let gone = wait_for(Duration::from_secs(10), || before.iter().all(|pid| is_gone(*pid)));
        assert!(gone, "{}: still there after SIGKILL", self.name);
    }

    /// Sends a signal to the processes inside whose command line contains `part`; panics if there is none. What is
    /// killed is gone when this returns: it holds no lock any more.
    #[track_caller]
    pub fn signal(&self, part: &str, signal: Signal) {
        let pids = self.pids_of(part);
        assert!(!pids.is_empty(), "{}: no process runs `{part}`", self.name);
        for pid in &pids {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        if signal == Signal::SIGKILL {
            let gone = wait_for(Duration::from_secs(10), || pids.iter().all(|pid| is_gone(*pid)));
            assert!(gone, "{}: `{part}` does not end", self.name);
        }
    }

    /// Drops every packet that arrives from `source`: one direction only, and silently.
    #[track_caller]
    pub fn drop_from(&self, source: &str) {
        let rules = "add table inet cut; add chain inet cut in { type filter hook input priority -300; }";
        self.run(&["nft", rules]).ok();
        self.run(&["nft", &format!("add rule inet cut in ip saddr {source} drop")]).ok();
    }

    /// Takes back every `drop_from`.
    pub fn drop_nothing(&self) {
        let _ = self.run(&["nft", "delete table inet cut"]);
    }
}

/// Whether a process has let go of its files and locks: those go after its memory, and with its last thread; the first
/// one may be a zombie long before.
fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |all| all.count());
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    state.is_empty() || (threads <= 1 && state.starts_with(['Z', 'X']))
}

impl Drop for Node {
    fn drop(&mut self) {
        // pid 1 of the namespace: the kernel ends every other process of it before this one is gone.
        let _ = kill(Pid::from_raw(self.pid1), Signal::SIGKILL);
        let _ = self.holder.wait();
    }
}

/// Whether only the exit status is left of the process.
fn is_dead(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// A program running inside a node; ended when dropped.
pub struct Running(pub Child);

impl Running {
    /// Waits for the end, `limit` at most; the exit code, or `None` if it still runs.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let mut code = None;
        wait_for(limit, || match self.0.try_wait() {
            Ok(Some(status)) => {
                code = Some(status.code().unwrap_or(-1));
                true
            }
            _ => false,
        });
        code
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
