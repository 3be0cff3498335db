//! The ioctls that reach a file system through FUSE.
//!
//! Decides the encoding of inode flags in the two usual forms, and the request of recovery tests to go down. Does not
//! know what the flags forbid.

use fuser::{Errno, ReplyIoctl};

use crate::base::Ino;
use crate::fs::{Ctx, FsError};

use super::errno::errno;
use super::served::Served;

const GET_FLAGS: u16 = 0x6601;
const SET_FLAGS: u16 = 0x6602;
const GET_XATTR: u16 = 0x581f;
const SET_XATTR: u16 = 0x5820;
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
        SET_XATTR => set(served, ctx, ino, first_word(data).map(from_xflags)),
        GOING_DOWN if ctx.uid == 0 => return go_down(served, out_size, reply),
        GOING_DOWN => Err(FsError::NotPermitted),
        _ => return reply.error(Errno::ENOTTY),
    };
    match outcome {
        Ok(word) => {
            let mut out = vec![0; (out_size as usize).min(64)];
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
}
