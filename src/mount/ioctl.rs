//! The ioctls that reach a file system through FUSE.
//!
//! Decides the encoding of inode flags in the two usual forms, the request of recovery tests to go down, the word that
//! a remount leaves with the daemon, what sync(2) is elsewhere, and the wish to go on in another program. Does not
//! know what the flags forbid.

use std::sync::atomic::Ordering;

use fuser::{Errno, ReplyIoctl};

use crate::base::Ino;
use crate::fs::{Atime, Ctx, FsError};
use crate::sys::mount::{HAND_ON, REMOUNT_WORD, RemountWord, SYNC_ALL};

use super::desk;
use super::errno::errno;
use super::served::Served;

const GET_FLAGS: u16 = 0x6601;
const SET_FLAGS: u16 = 0x6602;
const GET_VERSION: u16 = 0x7601;
const GET_XATTR: u16 = 0x581f;
const SET_XATTR: u16 = 0x5820;
const REMOUNT: u16 = (REMOUNT_WORD & 0xffff) as u16;
const SYNC: u16 = (SYNC_ALL & 0xffff) as u16;
const HANDING_ON: u16 = (HAND_ON & 0xffff) as u16;
/// "Going down" of xfs and ext4: type 'X', number 125.
const GOING_DOWN: u16 = 0x587d;

/// (FS_*_FL, FS_XFLAG_*) of the flags that exist in both forms: sync, immutable, append-only, nodump, noatime.
const BOTH: [(u32, u32); 5] = [(0x08, 0x20), (0x10, 0x08), (0x20, 0x10), (0x40, 0x80), (0x80, 0x40)];

fn to_xflags(flags: u32) -> u32 {
    BOTH.iter().filter(|(fl, _)| flags & fl != 0).fold(0, |all, (_, x)| all | x)
}

fn from_xflags(xflags: u32) -> u32 {
    BOTH.iter().filter(|(_, x)| xflags & x != 0).fold(0, |all, (fl, _)| all | fl)
}

/// `struct fsxattr`: flags, extent size hint, extents, project, hint for copies. Only flags can be set here.
fn from_fsxattr(data: &[u8]) -> Result<u32, FsError> {
    let word = |at: usize| data.get(at..).and_then(first_word).unwrap_or(0);
    let xflags = first_word(data).ok_or(FsError::Invalid)?;
    let known = to_xflags(u32::MAX);
    if xflags & !known != 0 || word(4) != 0 || word(12) != 0 || word(16) != 0 {
        return Err(FsError::NotSupported);
    }
    Ok(from_xflags(xflags))
}

fn first_word(data: &[u8]) -> Option<u32> {
    data.first_chunk::<4>().map(|word| u32::from_le_bytes(*word))
}

pub(super) fn answer(
    served: &Served,
    ctx: Ctx,
    ino: Ino,
    cmd: u32,
    data: &[u8],
    out_size: u32,
    reply: ReplyIoctl,
) {
    // The two low bytes are type and number; direction and size differ between word sizes.
    let outcome = match (cmd & 0xffff) as u16 {
        GET_FLAGS => served.fs.flags(ino),
        GET_XATTR => served.fs.flags(ino).map(to_xflags),
        SET_FLAGS => set(served, ctx, ino, first_word(data)),
        SET_XATTR => from_fsxattr(data).and_then(|flags| set(served, ctx, ino, Some(flags))),
        GET_VERSION => served.fs.getattr(ino).map(|node| node.rec.generation),
        GOING_DOWN if ctx.uid == 0 => return go_down(served, out_size, reply),
        SYNC => return sync(served, reply),
        REMOUNT if ctx.uid == 0 => remount(served, first_word(data)),
        HANDING_ON if ctx.uid == 0 => return desk::answer(served, data, reply),
        GOING_DOWN | REMOUNT | HANDING_ON => Err(FsError::NotPermitted),
        _ => return reply.error(Errno::ENOTTY),
    };
    match outcome {
        Ok(word) => {
            // Callers give an int for the generation, although its number promises a long.
            let room = if (cmd & 0xffff) as u16 == GET_VERSION { 4 } else { 64 };
            let mut out = vec![0; (out_size as usize).min(room)];
            let used = out.len().min(4);
            out[..used].copy_from_slice(&word.to_le_bytes()[..used]);
            reply.ioctl(0, &out);
        }
        Err(error) => reply.error(errno(&error)),
    }
}

fn set(served: &Served, ctx: Ctx, ino: Ino, flags: Option<u32>) -> Result<u32, FsError> {
    let flags = flags.ok_or(FsError::Invalid)?;
    served.fs.set_flags(&ctx, ino, flags).map(|()| 0)
}

fn sync(served: &Served, reply: ReplyIoctl) {
    served.when_all_is_stable(move |stable| match stable {
        Ok(()) => reply.ioctl(0, &[]),
        Err(error) => reply.error(errno(&error)),
    });
}

/// The kernel changes its own flags in a remount; what the daemon decides by them it is told here.
fn remount(served: &Served, word: Option<u32>) -> Result<u32, FsError> {
    let word = RemountWord::from_bits(word.ok_or(FsError::Invalid)?);
    if word.writable && !served.fs.is_serving() {
        return Err(FsError::ReadOnly);
    }
    served.fs.set_atime(match (word.writable, word.no_atime, word.strict_atime) {
        (false, _, _) | (_, true, _) => Atime::Never,
        (_, _, true) => Atime::Strict,
        _ => Atime::Relative,
    });
    served.fs.set_no_dir_atime(word.no_dir_atime);
    served.dir_sync.store(word.dir_sync, Ordering::SeqCst);
    Ok(0)
}

fn go_down(served: &Served, out_size: u32, reply: ReplyIoctl) {
    let fs = std::sync::Arc::clone(&served.fs);
    served.threads.slowly(Box::new(move || match fs.go_down() {
        Ok(()) => reply.ioctl(0, &vec![0; (out_size as usize).min(64)]),
        Err(error) => reply.error(errno(&error)),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_survive_the_other_form() {
        for (flags, _) in BOTH {
            assert_eq!(from_xflags(to_xflags(flags)), flags);
        }
    }

    #[test]
    fn what_only_fsxattr_can_say_is_refused() {
        let with = |at: usize, value: u32| {
            let mut data = [0; 28];
            data[at..at + 4].copy_from_slice(&value.to_le_bytes());
            from_fsxattr(&data)
        };
        assert_eq!(with(0, 0x08), Ok(0x10));
        assert_eq!(with(8, 5), Ok(0), "the number of extents is no wish");
        for (at, value) in [(0, 0x800), (4, 4096), (12, 42), (16, 1)] {
            assert_eq!(with(at, value), Err(FsError::NotSupported), "{at}");
        }
        assert_eq!(from_fsxattr(&[]), Err(FsError::Invalid));
    }
}
