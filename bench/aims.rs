//! What a standalone mount should reach beside ext4, and a pair in sync beside the other setups.
//!
//! Decides the numbers. Those of the pair are for two copies on one disk and nodes that share the processors of one
//! machine.

use crate::report::Aim;
use crate::work::Work;

/// Two equal figures differ by so much from run to run.
const AS_FAST: f64 = 0.95;

/// The least ratio of `setup` to `of`; `None`: it is only reported.
pub fn of(work: Work, setup: &str, of: &str) -> Option<Aim> {
    if setup == "standalone" {
        return alone(work).filter(|_| of == "ext4").map(Aim::AtLeast);
    }
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

/// Of a standalone mount, to ext4.
fn alone(work: Work) -> Option<f64> {
    Some(match work {
        Work::OverwriteFsync(1) => 1.3,
        Work::AppendFsync(_) | Work::Mail(_) => 1.5,
        Work::SqliteDelete | Work::SqliteWal => 1.2,
        Work::SeqWrite | Work::SeqReadCold | Work::StatWarm | Work::ReaddirWarm => 0.9,
        Work::ReadWarm => 0.8,
        Work::RandReadCold => 0.7,
        Work::Create | Work::Unlink | Work::Untar | Work::Rmtree => 0.4,
        Work::OverwriteFsync(_) | Work::Pgbench | Work::Dbench => return None,
    })
}
