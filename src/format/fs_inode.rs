//! Inode and directory-entry records: the exact bytes of the values in the tables `inodes`, `dirents` and `cookies`.
//!
//! Decides where each field lies. Does not know which operation changes which field. A record is `FIXED` bytes,
//! followed by the target for a symlink; everything is little-endian; reserved bytes are zero and are not read.

use crate::base::Ino;

/// A point of civil time: seconds since 1970 (negative before) and nanoseconds `0..1e9`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    pub secs: i64,
    pub nanos: u32,
}

/// What an inode is; the encoding in `Dirent` and the S_IFMT bits of the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    Fifo,
    Char,
    Dir,
    Block,
    File,
    Symlink,
    Socket,
}

/// The file-type bits of a mode.
pub const MODE_TYPE_MASK: u32 = 0o170_000;

impl FileKind {
    /// The S_IFMT bits.
    pub const fn mode_bits(self) -> u32 {
        match self {
            FileKind::Fifo => 0o010_000,
            FileKind::Char => 0o020_000,
            FileKind::Dir => 0o040_000,
            FileKind::Block => 0o060_000,
            FileKind::File => 0o100_000,
            FileKind::Symlink => 0o120_000,
            FileKind::Socket => 0o140_000,
        }
    }

    /// The kind in `mode`, `None` for bits that no kind has.
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        [
            FileKind::Fifo,
            FileKind::Char,
            FileKind::Dir,
            FileKind::Block,
            FileKind::File,
            FileKind::Symlink,
            FileKind::Socket,
        ]
        .into_iter()
        .find(|kind| kind.mode_bits() == mode & MODE_TYPE_MASK)
    }
}

/// Everything known about one inode. `size` and `blocks` of a regular file belong to the store; the rest belongs to
/// the layer of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeRec {
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Bytes; of a symlink the length of its target.
    pub size: u64,
    /// Allocated blocks of 4 KiB.
    pub blocks: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
    /// Differs whenever an inode number is used again; set by the store when an inode is first put.
    pub generation: u32,
    /// Inode flags (immutable, append-only ...), the kernel's FS_*_FL bits.
    pub flags: u32,
    pub rdev: u64,
    /// Log transaction of the last change; set by the store.
    pub txn: u64,
    /// Of a directory: the cookie that the next new entry gets; set by the store. 1 and 2 are left to `.` and `..`.
    pub next_cookie: u64,
    /// Of a directory: the directory above it (`..`).
    pub parent: Ino,
    /// Of a symlink: where it points.
    pub target: Box<[u8]>,
}

/// First cookie of a real entry: 0 starts a listing, 1 and 2 are `.` and `..`.
pub const COOKIE_FIRST: u64 = 3;

impl InodeRec {
    /// Bytes of the fixed part.
    pub const FIXED: usize = 160;

    /// A fresh inode of this kind, owned by root, no permissions, one link, all times `now`.
    pub fn new(kind: FileKind, now: Time) -> InodeRec {
        InodeRec {
            mode: kind.mode_bits(),
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            generation: 0,
            flags: 0,
            rdev: 0,
            txn: 0,
            next_cookie: COOKIE_FIRST,
            parent: Ino(0),
            target: Box::default(),
        }
    }

    /// What the inode is. The decoder refuses modes without a kind; one made by hand counts as a regular file.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode).unwrap_or(FileKind::File)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::FIXED + self.target.len());
        for field in [self.mode, self.uid, self.gid, self.nlink] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.size, self.blocks] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            out.extend_from_slice(&time.secs.to_le_bytes());
            out.extend_from_slice(&time.nanos.to_le_bytes());
        }
        for field in [self.generation, self.flags] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.rdev, self.txn, self.next_cookie, self.parent.0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.resize(Self::FIXED, 0);
        out.extend_from_slice(&self.target);
        out
    }

    /// Reads a record; `None` if it is too short or of no known kind.
    pub fn decode(bytes: &[u8]) -> Option<InodeRec> {
        if bytes.len() < Self::FIXED {
            return None;
        }
        let (mut fixed, target) = bytes.split_at(Self::FIXED);
        let at = &mut fixed;
        let rec = InodeRec {
            mode: take_u32(at)?,
            uid: take_u32(at)?,
            gid: take_u32(at)?,
            nlink: take_u32(at)?,
            size: take_u64(at)?,
            blocks: take_u64(at)?,
            atime: take_time(at)?,
            mtime: take_time(at)?,
            ctime: take_time(at)?,
            btime: take_time(at)?,
            generation: take_u32(at)?,
            flags: take_u32(at)?,
            rdev: take_u64(at)?,
            txn: take_u64(at)?,
            next_cookie: take_u64(at)?,
            parent: Ino(take_u64(at)?),
            target: target.into(),
        };
        FileKind::from_mode(rec.mode).map(|_| rec)
    }
}

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent {
    pub ino: Ino,
    pub kind: FileKind,
    /// Position in a listing, stable for the life of the entry; set by the store.
    pub cookie: u64,
}

impl Dirent {
    /// Bytes of an encoded entry.
    pub const BYTES: usize = 20;

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        out.extend_from_slice(&self.ino.0.to_le_bytes());
        out.extend_from_slice(&self.cookie.to_le_bytes());
        out.extend_from_slice(&self.kind.mode_bits().to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Dirent> {
        let mut at = bytes;
        let (ino, cookie) = (Ino(take_u64(&mut at)?), take_u64(&mut at)?);
        let kind = FileKind::from_mode(take_u32(&mut at)?)?;
        at.is_empty().then_some(Dirent { ino, kind, cookie })
    }
}

fn take<const N: usize>(at: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = at.split_first_chunk::<N>()?;
    *at = rest;
    Some(*head)
}

pub(super) fn take_u32(at: &mut &[u8]) -> Option<u32> {
    take(at).map(u32::from_le_bytes)
}

pub(super) fn take_u64(at: &mut &[u8]) -> Option<u64> {
    take(at).map(u64::from_le_bytes)
}

fn take_time(at: &mut &[u8]) -> Option<Time> {
    Some(Time { secs: take(at).map(i64::from_le_bytes)?, nanos: take_u32(at)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_and_short_ones_are_refused() {
        let mut rec = InodeRec::new(FileKind::Symlink, Time { secs: -5, nanos: 999_999_999 });
        rec.target = b"../else/where"[..].into();
        rec.size = 13;
        rec.rdev = u64::MAX;
        rec.parent = Ino(77);
        let bytes = rec.encode();
        assert_eq!(bytes.len(), InodeRec::FIXED + 13);
        assert_eq!(InodeRec::decode(&bytes), Some(rec));
        assert_eq!(InodeRec::decode(&bytes[..InodeRec::FIXED - 1]), None);
        assert_eq!(InodeRec::decode(&[0; InodeRec::FIXED]), None, "mode 0 is no kind");
        let entry = Dirent { ino: Ino(9), kind: FileKind::Dir, cookie: 3 };
        assert_eq!(Dirent::decode(&entry.encode()), Some(entry));
        assert_eq!(Dirent::decode(&entry.encode()[..19]), None);
    }
}
