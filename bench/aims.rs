//! What a pair in sync should reach beside the other setups.
//!
//! Decides the numbers. They are for a pair whose two copies lie on one disk and whose nodes share the processors of
//! one machine.

use crate::report::Aim;
use crate::work::Work;

/// Two equal figures differ by so much from run to run.
const AS_FAST: f64 = 0.95;

/// The least ratio of `setup` to `of`; `None`: it is only reported.
pub fn of(work: Work, setup: &str, of: &str) -> Option<Aim> {
    if setup != "pair" {
        return None;
    }
    let (ext4, standalone, gluster) = match work {
        Work::OverwriteFsync(1) => (Some(0.7), None, Some(3.0)),
        Work::AppendFsync(_) => (Some(1.0), None, Some(3.0)),
        Work::Mail(_) => (Some(1.0), None, Some(10.0)),
        Work::SqliteDelete | Work::SqliteWal => (Some(0.7), None, Some(4.0)),
        Work::Pgbench => (Some(0.7), None, Some(2.0)),
        Work::Dbench => (None, None, Some(10.0)),
        Work::SeqWrite => (Some(0.45), None, Some(1.2)),
        Work::SeqReadCold | Work::RandReadCold | Work::ReadWarm => (None, Some(AS_FAST), None),
        Work::Create | Work::Unlink | Work::Untar => (None, Some(0.75), Some(30.0)),
        Work::OverwriteFsync(_) | Work::StatWarm | Work::ReaddirWarm | Work::Rmtree => (None, None, None),
    };
    let least = match of {
        "ext4" => ext4,
        "standalone" => standalone,
        _ => gluster,
    };
    least.map(Aim::AtLeast)
}
