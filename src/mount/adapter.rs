//! The translation itself: one method per request of the kernel.
//!
//! Decides what is answered at once, what goes to a thread that may wait, and what the kernel may cache. Does not know
//! tables or peers. Invariants: every request is answered exactly once (a reply dropped in a panic answers EIO and the
//! file system becomes read-only); the kernel's look-up counts are followed to the letter.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::base::limits::NAME_BYTES_MAX;
use crate::base::{BlockNo, Ino};
use crate::format::FileKind;
use crate::fs::{Fallocate, FilePart, FsError, NewNode, Place, RenameHow, SetAttr, SetXattr};

use super::attr::{attr, file_type, from_request, nothing};
use super::errno::errno;
use super::ioctl;
use super::served::{Served, TTL, ino, reply_entry, vouch};

/// What fuser calls: a thin layer over `Served`.
pub(super) struct Adapter(pub(super) Arc<Served>);

/// A thread that is told to forget this inode waits until its mount is served again.
pub(super) const NOBODY: INodeNo = INodeNo(u64::MAX);

/// A look-up of this name ends the thread that does it.
#[cfg(test)]
pub(super) const DEADLY_NAME: &str = "deadly";

const MAX_WRITE: u32 = 1 << 20;
const MAX_BACKGROUND: u16 = 64;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// What is asked of the kernel. Never, on this version of fuser: OVER_IO_URING, SETXATTR_EXT, ALLOW_IDMAP, ABORT_ERROR,
/// ATOMIC_O_TRUNC, POSIX_LOCKS, FLOCK_LOCKS, SECURITY_CTX, AUTO_INVAL_DATA.
const WANTED: [InitFlags; 11] = [
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_HAS_RESEND,
    InitFlags::FUSE_BIG_WRITES,
];

/// XATTR_CREATE and XATTR_REPLACE.
fn how_to_set(flags: i32) -> SetXattr {
    match flags {
        1 => SetXattr::Create,
        2 => SetXattr::Replace,
        _ => SetXattr::Either,
    }
}

/// FALLOC_FL_KEEP_SIZE 1, PUNCH_HOLE 2, ZERO_RANGE 16; the kernel refuses collapse and insert itself.
fn how_to_allocate(mode: i32) -> Option<Fallocate> {
    Some(match mode {
        0 => Fallocate::Allocate,
        1 => Fallocate::AllocateKeepSize,
        3 => Fallocate::PunchHole,
        16 => Fallocate::ZeroRange,
        17 => Fallocate::ZeroRangeKeepSize,
        _ => return None,
    })
}

fn reply_xattr(outcome: Result<Vec<u8>, FsError>, size: u32, reply: ReplyXattr) {
    match outcome {
        Err(error) => reply.error(errno(&error)),
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED {
            // An older kernel lacks some; everything works without them, only slower.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        #[cfg(test)]
        if name == DEADLY_NAME {
            // As a defect in the decoding of requests would: unanswered, and the thread is gone.
            std::mem::forget(reply);
            panic!("the test's own panic");
        }
        self.0.guarded(|s| match s.vouch(s.fs.lookup(ino(parent), name.as_bytes())) {
            Err(FsError::NotFound) => reply.entry(&TTL, &nothing(), Generation(0)),
            other => reply_entry(other, reply),
        });
    }

    fn forget(&self, _req: &Request, number: INodeNo, nlookup: u64) {
        if number == NOBODY {
            return self.0.parking.park();
        }
        self.0.guarded(|s| {
            if s.fs.forget(ino(number), nlookup) {
                s.threads.reap_soon();
            }
        });
    }

    fn getattr(&self, _req: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.0.guarded(|s| match s.vouch(s.fs.getattr(ino(number))) {
            Ok(node) => reply.attr(&TTL, &attr(&node)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setattr(
        &self,
        req: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.0.guarded(|s| {
            let ctx = s.ctx(req, 0);
            let [atime, mtime] = [atime, mtime].map(|time| time.map(|t| from_request(t, ctx.now)));
            let set = SetAttr { mode, uid, gid, size, atime, mtime };
            match s.fs.setattr(&ctx, ino(number), set) {
                Ok(node) => s.after_change(move |r| match r {
                    Ok(()) => reply.attr(&TTL, &attr(&node)),
                    Err(error) => reply.error(errno(&error)),
                }),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readlink(&self, req: &Request, number: INodeNo, reply: ReplyData) {
        self.0.guarded(|s| match s.vouch(s.fs.readlink(ino(number))) {
            Ok(target) => {
                s.fs.accessed(&s.ctx(req, 0), ino(number));
                reply.data(&target);
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = FileKind::from_mode(mode);
        let Some(kind) = kind.filter(|k| !matches!(k, FileKind::Dir | FileKind::Symlink)) else {
            return reply.error(Errno::EINVAL);
        };
        let new = NewNode { kind, mode, rdev: u64::from(rdev), target: b"" };
        self.0.guarded(|s| s.made(s.fs.make(&s.ctx(req, umask), ino(parent), name.as_bytes(), new), reply));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.0.guarded(|s| s.made(s.fs.mkdir(&s.ctx(req, umask), ino(parent), name.as_bytes(), mode), reply));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        self.0.guarded(|s| s.made(s.fs.symlink(&s.ctx(req, 0), ino(parent), name.as_bytes(), target), reply));
    }

    fn link(&self, req: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.0.guarded(|s| {
            s.made(s.fs.link(&s.ctx(req, 0), ino(number), ino(parent), name.as_bytes()), reply);
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.0.guarded(|s| s.changed(s.fs.unlink(&s.ctx(req, 0), ino(parent), name.as_bytes()), reply));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.0.guarded(|s| s.changed(s.fs.rmdir(&s.ctx(req, 0), ino(parent), name.as_bytes()), reply));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let how = RenameHow {
            no_replace: flags.contains(RenameFlags::RENAME_NOREPLACE),
            exchange: flags.contains(RenameFlags::RENAME_EXCHANGE),
            whiteout: flags.contains(RenameFlags::RENAME_WHITEOUT),
        };
        let from = Place { dir: ino(parent), name: name.as_bytes() };
        let to = Place { dir: ino(newparent), name: newname.as_bytes() };
        self.0.guarded(|s| s.changed(s.fs.rename(&s.ctx(req, 0), from, to, how), reply));
    }

    /// No handles are needed: the kernel stops asking and keeps its cache.
    fn open(&self, _req: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _req: &Request, _number: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.0.guarded(|s| match s.fs.create(&s.ctx(req, umask), ino(parent), name.as_bytes(), mode) {
            Ok(node) => s.after_change(move |r| match r {
                Ok(()) => {
                    let flags = FopenFlags::FOPEN_KEEP_CACHE
                        | FopenFlags::FOPEN_NOFLUSH
                        | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
                    let generation = Generation(u64::from(node.rec.generation));
                    reply.created(&TTL, &attr(&node), generation, FileHandle(0), flags);
                }
                Err(error) => reply.error(errno(&error)),
            }),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn read(
        &self,
        req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.guarded(|s| {
            let (fs, ctx, gate) = (Arc::clone(&s.fs), s.ctx(req, 0), s.gate.clone());
            s.threads.read(Box::new(move || {
                let mut reply = Some(reply);
                let read = fs.read_with(ino(number), offset, size as usize, |data| {
                    vouch(gate.as_ref(), Ok(()))?;
                    // Before the answer: whoever has it may look at the access time.
                    fs.accessed(&ctx, ino(number));
                    if let Some(reply) = reply.take() {
                        reply.data(data);
                    }
                    Ok(())
                });
                if let (Err(error), Some(reply)) = (read.flatten(), reply) {
                    reply.error(errno(&error));
                }
            }));
        });
    }

    fn write(
        &self,
        req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let drop_set_id = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.0.guarded(|s| s.write(s.ctx(req, 0), ino(number), offset, data, drop_set_id, flags, reply));
    }

    fn fsync(&self, _req: &Request, number: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.0.guarded(|s| s.fsync(s.fs.fsync(ino(number), datasync), reply));
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.0.guarded(|s| s.fsync(s.fs.fsync_names(), reply));
    }

    fn readdir(
        &self,
        req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.0.guarded(|s| {
            let listed = s.list(ino(number), offset, |item| {
                let name = OsStr::from_bytes(&item.name);
                Ok(reply.add(INodeNo(item.ino.0), item.cookie, file_type(item.kind), name))
            });
            match listed {
                Ok(()) => {
                    s.fs.accessed(&s.ctx(req, 0), ino(number));
                    reply.ok();
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.0.guarded(|s| match s.list_with_attributes(ino(number), offset, &mut reply) {
            Ok(()) => {
                s.fs.accessed(&s.ctx(req, 0), ino(number));
                reply.ok();
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let block = BlockNo::SIZE as u32;
        self.0.guarded(|s| match s.fs.statfs() {
            Ok(st) => reply.statfs(
                st.blocks,
                st.free,
                st.available,
                st.files.saturating_add(st.files_free),
                st.files_free,
                block,
                NAME_BYTES_MAX as u32,
                block,
            ),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let how = how_to_set(flags);
        self.0.guarded(|s| {
            s.changed(s.fs.setxattr(&s.ctx(req, 0), ino(number), name.as_bytes(), value, how), reply);
        });
    }

    fn getxattr(&self, _req: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.0.guarded(|s| reply_xattr(s.vouch(s.fs.getxattr(ino(number), name.as_bytes())), size, reply));
    }

    fn listxattr(&self, req: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        self.0.guarded(|s| reply_xattr(s.vouch(s.fs.listxattr(&s.ctx(req, 0), ino(number))), size, reply));
    }

    fn removexattr(&self, req: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.0.guarded(|s| s.changed(s.fs.removexattr(&s.ctx(req, 0), ino(number), name.as_bytes()), reply));
    }

    fn ioctl(
        &self,
        req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.0.guarded(|s| ioctl::answer(s, s.ctx(req, 0), ino(number), cmd, in_data, out_size, reply));
    }

    fn fallocate(
        &self,
        req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(how) = how_to_allocate(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        self.0.guarded(|s| s.fallocate(s.ctx(req, 0), ino(number), offset, length, how, reply));
    }

    fn lseek(
        &self,
        _req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Ok(start) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.0.guarded(|s| {
            let found = match whence {
                SEEK_DATA => s.fs.seek_data(ino(number), start),
                SEEK_HOLE => s.fs.seek_hole(ino(number), start),
                _ => Err(FsError::Invalid),
            };
            match s.vouch(found) {
                Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = FilePart { ino: Ino(ino_in.0), offset: offset_in };
        let to = FilePart { ino: Ino(ino_out.0), offset: offset_out };
        self.0.guarded(|s| s.copy(s.ctx(req, 0), from, to, len, reply));
    }
}
