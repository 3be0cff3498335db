//! Records of the file system as the attributes that FUSE carries, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::base::{BlockNo, Ino};
use crate::format::{FileKind, InodeRec, Time};
use crate::fs::Node;

const NANOS: u32 = 1_000_000_000;
/// What a directory shows as its size: its names live in tables, not in blocks of its own.
const DIRECTORY_BYTES: u64 = 4096;

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Char => FileType::CharDevice,
        FileKind::Dir => FileType::Directory,
        FileKind::Block => FileType::BlockDevice,
        FileKind::File => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Socket => FileType::Socket,
    }
}

pub(super) fn attr(node: &Node) -> FileAttr {
    attr_of(node.ino, &node.rec)
}

fn attr_of(ino: Ino, rec: &InodeRec) -> FileAttr {
    let sectors = BlockNo::SIZE as u64 / 512;
    let (size, blocks) = match rec.kind() {
        FileKind::Dir => (DIRECTORY_BYTES, sectors),
        _ => (rec.size, rec.blocks.saturating_mul(sectors)),
    };
    FileAttr {
        ino: INodeNo(ino.0),
        size,
        blocks,
        atime: system_time(rec.atime),
        mtime: system_time(rec.mtime),
        ctime: system_time(rec.ctime),
        crtime: system_time(rec.btime),
        kind: file_type(rec.kind()),
        perm: (rec.mode & 0o7777) as u16,
        nlink: rec.nlink,
        uid: rec.uid,
        gid: rec.gid,
        rdev: u32::try_from(rec.rdev).unwrap_or(0),
        blksize: BlockNo::SIZE as u32,
        flags: 0,
    }
}

/// Attributes of "no such name": number 0 tells the kernel to remember that.
pub(super) fn nothing() -> FileAttr {
    attr_of(Ino(0), &InodeRec::new(FileKind::File, Time::default()))
}

/// A time as std counts it; times that std cannot hold become the epoch.
pub(super) fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let seconds = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let exact = seconds.and_then(|t| t.checked_add(Duration::from_nanos(u64::from(time.nanos))));
    exact.unwrap_or(UNIX_EPOCH)
}

/// The time now, for what std says about the clock.
pub(super) fn from_clock(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { secs: signed(after.as_secs()), nanos: after.subsec_nanos() },
        Err(error) => {
            let before = error.duration();
            match before.subsec_nanos() {
                0 => Time { secs: negative(before.as_secs()), nanos: 0 },
                nanos => Time { secs: negative(before.as_secs()).saturating_sub(1), nanos: NANOS - nanos },
            }
        }
    }
}

/// A time in a request. fuser 0.18 decodes a time before 1970 as if its nanoseconds also counted backwards; as that
/// loses nothing, it is undone here.
pub(super) fn from_request(time: TimeOrNow, now: Time) -> Time {
    match time {
        TimeOrNow::Now => now,
        TimeOrNow::SpecificTime(time) => match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Time { secs: signed(after.as_secs()), nanos: after.subsec_nanos() },
            Err(error) => {
                let before = error.duration();
                Time { secs: negative(before.as_secs()), nanos: before.subsec_nanos() }
            }
        },
    }
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// `-seconds`: reaches one further than `signed`.
fn negative(seconds: u64) -> i64 {
    0_i64.checked_sub_unsigned(seconds).unwrap_or(i64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive_both_ways() {
        for time in [
            Time { secs: -2, nanos: 800_000_000 },
            Time { secs: -1, nanos: 0 },
            Time { secs: 0, nanos: 1 },
            Time { secs: 5_000_000_000, nanos: 999_999_999 },
            Time { secs: i64::MIN, nanos: 0 },
            Time { secs: i64::MIN, nanos: 1 },
            Time { secs: i64::MAX, nanos: 0 },
        ] {
            assert_eq!(from_clock(system_time(time)), time);
        }
        // What fuser makes of seconds -2 and nanoseconds 800,000,000.
        let decoded = UNIX_EPOCH - Duration::new(2, 800_000_000);
        let now = Time::default();
        let told = from_request(TimeOrNow::SpecificTime(decoded), now);
        assert_eq!(told, Time { secs: -2, nanos: 800_000_000 });
    }
}
