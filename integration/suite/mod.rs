//! What the suites share: where the tools written in Rust come from, and how a run on twinfs is held against ext4.

mod content;
mod pair;
mod posix;
mod programs;
mod python;
mod stress;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::harness::alone::{Alone, run_ok};
use super::harness::node::{Node, Ran};
use super::harness::pair::MOUNT;
use super::harness::say;

static BUILDING: Mutex<()> = Mutex::new(());
/// How long one suite may take on a pair.
const LIMIT: Duration = Duration::from_secs(1_200);

/// Where a suite runs: in the root folder of a mount of its own, or of the node of a pair that serves.
pub enum Bed<'a> {
    Alone(&'a Alone),
    Node(&'a Node),
}

impl Bed<'_> {
    pub fn kind(&self) -> &str {
        match self {
            Bed::Alone(alone) => alone.kind,
            Bed::Node(_) => "pair",
        }
    }

    /// A folder on another file system that the suite sees under the same path.
    pub fn beside(&self) -> &Path {
        match self {
            Bed::Alone(alone) => &alone.root,
            Bed::Node(node) => &node.dir,
        }
    }

    /// Runs lines of shell in the root folder of the mount; the first that fails ends it.
    pub fn run(&self, lines: &str) -> Ran {
        match self {
            Bed::Alone(alone) => {
                Ran::from(alone.command("sh").args(["-e", "-c", lines]).output().expect("sh starts"))
            }
            Bed::Node(node) => node.run_within(LIMIT, &["sh", "-e", "-c", &format!("cd {MOUNT}\n{lines}")]),
        }
    }

    /// The same; panics with what was said unless all succeeded.
    #[track_caller]
    pub fn sh(&self, lines: &str) -> String {
        let ran = self.run(lines);
        assert!(ran.code == 0, "{lines} on {}: {}\n{}{}", self.kind(), ran.code, ran.out, ran.err);
        ran.out
    }
}

/// Whether the long runs were asked for.
pub fn long() -> bool {
    std::env::var_os("TWINFS_LONG").is_some()
}

/// `brief` of something, or ten times as much in the long run.
pub fn amount(brief: u32) -> u32 {
    if long() { brief * 10 } else { brief }
}

/// The program of a crate at one version, built once into the build folder.
pub fn tool(name: &str, version: &str) -> PathBuf {
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let crate_at = format!("{name}@{version}");
        let mut install = Command::new(cargo);
        install.args(["install", "--locked", "--quiet", "--root"]).arg(&root).arg(crate_at);
        install.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("suites-build"));
        run_ok(&mut install);
    }
    program
}

/// Runs `suite` on a new file system of each kind, each in a thread with a namespace of its own, twinfs first. Both are
/// checked by their own checkers afterwards.
pub fn on_both<T: Send>(test: &str, size: &str, suite: impl Fn(&Alone) -> T + Sync) -> [T; 2] {
    [on_twinfs(test, size, &suite), on_ext4(test, size, &suite)]
}

/// As `on_both`, at the same time: for suites that mostly wait.
pub fn side_by_side<T: Send>(test: &str, size: &str, suite: impl Fn(&Alone) -> T + Sync) -> [T; 2] {
    std::thread::scope(|scope| {
        let suite = &suite;
        let start =
            |make: fn(&str, &str) -> Alone| scope.spawn(move || checked(test, make(test, size), suite));
        let running: [_; 2] = [start(Alone::twinfs), start(Alone::ext4)];
        running.map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Runs `suite`, says how long it took, and lets the file system's own checker look.
fn checked<T>(test: &str, alone: Alone, suite: impl FnOnce(&Alone) -> T) -> T {
    let start = Instant::now();
    let outcome = suite(&alone);
    say(&format!("{test}: {} took {:.1} s", alone.kind, start.elapsed().as_secs_f64()));
    alone.check();
    outcome
}

/// Runs `suite` on twinfs alone.
pub fn on_twinfs<T: Send>(test: &str, size: &str, suite: impl FnOnce(&Alone) -> T + Send) -> T {
    in_thread(|| checked(test, Alone::twinfs(test, size), suite))
}

/// Runs `suite` on ext4 alone.
pub fn on_ext4<T: Send>(test: &str, size: &str, suite: impl FnOnce(&Alone) -> T + Send) -> T {
    in_thread(|| checked(test, Alone::ext4(test, size), suite))
}

/// A mount namespace belongs to a thread.
fn in_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
