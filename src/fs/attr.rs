//! Attributes: reading them, chmod, chown, truncate, utimens, inode flags and access times.
//!
//! Decides what one change of an attribute drags along (set-id bits, lists, capabilities, ctime). Does not know
//! permissions. Invariants: ctime moves with every change; a file that changed owner keeps no set-id right.

use crate::base::Ino;
use crate::format::{FileKind, InodeRec, Time};
use crate::fs::FsError;
use crate::fs::Op;
use crate::fs::acl::{self, Acl};
use crate::fs::fs::{Atime, Ctx, Fs, Node, Result};
use crate::fs::modes::{
    APPEND_ONLY, FLAGS_SETTABLE, IMMUTABLE, NO_ATIME, PERMISSIONS, is_append_only, is_dir, is_file, is_free,
    is_immutable, without_set_id,
};

/// Attribute of executables that grants capabilities; lost when somebody changes the file.
const CAPABILITY: &[u8] = b"security.capability";
/// A relative access time older than this moves although nothing changed.
const ATIME_SECONDS_MAX: i64 = 86_400;

/// What setattr changes; nothing set means "touch it": ctime moves and set-id rights go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Time>,
    pub mtime: Option<Time>,
}

impl Fs {
    pub fn getattr(&self, ino: Ino) -> Result<Node> {
        Ok(Node { ino, rec: self.inode(ino)? })
    }

    /// Applies `set` and answers the inode after it.
    pub fn setattr(&self, ctx: &Ctx, ino: Ino, set: SetAttr) -> Result<Node> {
        self.may_change()?;
        let before = self.inode(ino)?;
        if is_immutable(&before) || (is_append_only(&before) && !only_times(&set)) {
            return Err(FsError::NotPermitted);
        }
        if let Some(size) = set.size {
            match before.kind() {
                FileKind::File => self.store.set_size(ino, size, ctx.now)?,
                FileKind::Dir => return Err(FsError::IsDir),
                _ => return Err(FsError::Invalid),
            }
        }
        self.change(|op| {
            let mut rec = op.inode(ino)?.ok_or(FsError::Stale)?;
            change_owner_and_rights(op, ctx, ino, &mut rec, &set)?;
            rec.atime = set.atime.unwrap_or(rec.atime);
            rec.mtime = set.mtime.unwrap_or(rec.mtime);
            rec.ctime = ctx.now;
            op.put_inode(ino, &rec);
            Ok(Node { ino, rec })
        })
    }

    /// FS_IOC_GETFLAGS.
    pub fn flags(&self, ino: Ino) -> Result<u32> {
        Ok(self.inode(ino)?.flags)
    }

    /// FS_IOC_SETFLAGS. The owner may note what he likes; only root freezes.
    pub fn set_flags(&self, ctx: &Ctx, ino: Ino, flags: u32) -> Result<()> {
        self.change(|op| {
            let mut rec = op.inode(ino)?.ok_or(FsError::Stale)?;
            if !is_file(&rec) && !is_dir(&rec) || flags & !FLAGS_SETTABLE != 0 {
                return Err(FsError::NotSupported);
            }
            let freezes = (flags ^ rec.flags) & (IMMUTABLE | APPEND_ONLY) != 0;
            if ctx.uid != 0 && (freezes || ctx.uid != rec.uid) {
                return Err(FsError::NotPermitted);
            }
            rec.flags = flags;
            rec.ctime = ctx.now;
            op.put_inode(ino, &rec);
            Ok(())
        })
    }

    /// Something read the inode. Only moves the time if the policy says so; a failure to note it is no failure to read.
    pub fn accessed(&self, ctx: &Ctx, ino: Ino) {
        let due = |rec: &InodeRec| self.atime_is_due(rec, ctx.now);
        if !self.store.inode(ino).ok().flatten().is_some_and(|rec| due(&rec)) {
            return;
        }
        let _ = self.change(|op| {
            let mut rec = op.inode(ino)?.ok_or(FsError::Stale)?;
            rec.atime = ctx.now;
            op.put_inode(ino, &rec);
            Ok(())
        });
    }

    fn atime_is_due(&self, rec: &InodeRec, now: Time) -> bool {
        if rec.flags & NO_ATIME != 0 || (self.no_dir_atime() && is_dir(rec)) {
            return false;
        }
        match self.atime() {
            Atime::Never => false,
            Atime::Strict => rec.atime != now,
            Atime::Relative => {
                let old = now.secs.saturating_sub(rec.atime.secs) >= ATIME_SECONDS_MAX;
                rec.atime <= rec.mtime || rec.atime <= rec.ctime || old
            }
        }
    }
}

fn only_times(set: &SetAttr) -> bool {
    set.mode.is_none() && set.uid.is_none() && set.gid.is_none() && set.size.is_none()
}

/// The kernel's request does not carry its wish to drop set-id rights, so: a change of owner always drops them, a
/// change of size drops them unless root makes it, and so does a request that asks for nothing else.
fn change_owner_and_rights(
    op: &mut Op<'_>,
    ctx: &Ctx,
    ino: Ino,
    rec: &mut InodeRec,
    set: &SetAttr,
) -> Result<()> {
    let owner = set.uid.is_some() || set.gid.is_some();
    let resized = set.size.is_some() && ctx.uid != 0;
    rec.uid = set.uid.unwrap_or(rec.uid);
    rec.gid = set.gid.unwrap_or(rec.gid);
    if owner || resized || *set == SetAttr::default() {
        drop_rights(op, ino, rec)?;
    }
    let Some(mode) = set.mode else { return Ok(()) };
    rec.mode = (rec.mode & !PERMISSIONS) | (mode & PERMISSIONS);
    if let Some(mut list) = op.xattr(ino, acl::ACCESS)?.as_deref().map(Acl::parse).transpose()?.flatten() {
        list.set_mode_bits(mode);
        op.put_xattr(ino, acl::ACCESS, &list.bytes());
    }
    Ok(())
}

/// Takes set-id bits and granted capabilities from a file.
pub(super) fn drop_rights(op: &mut Op<'_>, ino: Ino, rec: &mut InodeRec) -> Result<()> {
    if is_dir(rec) {
        return Ok(());
    }
    rec.mode = without_set_id(rec.mode);
    if is_file(rec) && op.xattr(ino, CAPABILITY)?.is_some() {
        op.del_xattr(ino, CAPABILITY);
    }
    Ok(())
}

/// Whether the content of a file may change at `offset`.
pub(super) fn may_write(rec: &InodeRec, offset: u64) -> Result<()> {
    match rec.kind() {
        FileKind::File => {}
        FileKind::Dir => return Err(FsError::IsDir),
        _ => return Err(FsError::Invalid),
    }
    let appends = is_append_only(rec) && !is_immutable(rec) && offset >= rec.size;
    if is_free(rec) || appends { Ok(()) } else { Err(FsError::NotPermitted) }
}
