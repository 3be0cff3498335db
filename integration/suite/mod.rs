//! What the suites share: where the tools written in Rust come from, and how a run on twinfs is held against ext4.

mod content;
mod posix;
mod programs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::harness::alone::{Alone, run_ok};
use super::harness::say;

static BUILDING: Mutex<()> = Mutex::new(());

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
    [Alone::twinfs, Alone::ext4].map(|make| {
        let run = || {
            let alone = make(test, size);
            let start = Instant::now();
            let outcome = suite(&alone);
            say(&format!("{test}: {} took {:.1} s", alone.kind, start.elapsed().as_secs_f64()));
            alone.check();
            outcome
        };
        std::thread::scope(|scope| scope.spawn(run).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `suite` on twinfs alone.
pub fn on_twinfs<T: Send>(test: &str, size: &str, suite: impl FnOnce(&Alone) -> T + Send) -> T {
    let run = || {
        let alone = Alone::twinfs(test, size);
        let start = Instant::now();
        let outcome = suite(&alone);
        say(&format!("{test}: {} took {:.1} s", alone.kind, start.elapsed().as_secs_f64()));
        alone.check();
        outcome
    };
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
