//! Suites that others wrote, on a standalone mount and, smaller, on a mounted pair: POSIX calls, random operations on
//! file content, data verification, and programs that people trust their files to.
//!
//! Each runs in a mount namespace of its own. What fails on ext4 in the same run is no failure here; skips are named and
//! counted. Tools come from Debian and, for the two written in Rust, from the crate registry into `target/`.
//! TWINFS_LONG=1 makes runs ten times as long and copies /usr whole.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test with real programs, files and time"
)]

mod harness;
mod suite;
