//! Bits of a mode and inode flags under their usual names.

use crate::format::{FileKind, InodeRec};

pub const PERMISSIONS: u32 = 0o7777;
pub const S_ISUID: u32 = 0o4000;
pub const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;

/// FS_IMMUTABLE_FL: nothing about the inode may change.
pub const IMMUTABLE: u32 = 0x10;
/// FS_APPEND_FL: a file only grows at its end; a directory only gains names.
pub const APPEND_ONLY: u32 = 0x20;
/// FS_NODUMP_FL: a note to backup programs, nothing else.
const NO_DUMP: u32 = 0x40;
/// The flags that FS_IOC_SETFLAGS may store. Others would be promises that nobody keeps (sync, dirsync, compression).
pub const FLAGS_SETTABLE: u32 = IMMUTABLE | APPEND_ONLY | NO_ATIME | NO_DUMP;
/// FS_NOATIME_FL.
pub const NO_ATIME: u32 = 0x80;

pub fn is_dir(rec: &InodeRec) -> bool {
    rec.kind() == FileKind::Dir
}

pub fn is_file(rec: &InodeRec) -> bool {
    rec.kind() == FileKind::File
}

pub fn is_immutable(rec: &InodeRec) -> bool {
    rec.flags & IMMUTABLE != 0
}

pub fn is_append_only(rec: &InodeRec) -> bool {
    rec.flags & APPEND_ONLY != 0
}

/// Neither immutable nor append-only.
pub fn is_free(rec: &InodeRec) -> bool {
    rec.flags & (IMMUTABLE | APPEND_ONLY) == 0
}

/// A file's mode without the rights that must not survive a change by somebody else: set-user-id, and set-group-id
/// where the group may execute (without that bit it once meant mandatory locking).
pub fn without_set_id(mode: u32) -> u32 {
    let group = if mode & S_IXGRP != 0 { S_ISGID } else { 0 };
    mode & !(S_ISUID | group)
}
