//! What the tests with real daemons stand on: packages, nodes made of namespaces, cables that can be cut, and a disk
//! that loses power. Used as `mod harness;` by each test target; knows nothing of what a test checks.
//!
//! Everything a test makes is taken back when its `World` is dropped, also while panicking: processes by their pid,
//! mounts with the namespace they live in, scratch files by path. Nothing listens outside the namespaces.
#![allow(dead_code, clippy::disallowed_methods, reason = "each test target uses its own part of this shell")]

pub mod alone;
pub mod cable;
pub mod images;
pub mod need;
pub mod node;
pub mod pair;
pub mod powercut;
pub mod world;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Calls `check` every 20 ms until it holds; false after `limit`.
pub fn wait_for(limit: Duration, mut check: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if check() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Calls `check` without a pause until it holds; false after `limit`.
pub fn wait_often(limit: Duration, mut check: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !check() {
        if Instant::now() > end {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Prints a line past the test runner's capture: what a passing test has counted is part of its result.
pub fn say(line: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// The folder that cargo put the programs of this build in: that of a program, the one above that of a test.
pub fn bin_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("path of this program");
    let dir = exe.parent().expect("target/PROFILE");
    let above = dir.parent().filter(|_| dir.ends_with("deps"));
    above.unwrap_or(dir).to_path_buf()
}
