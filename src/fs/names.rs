//! Names: lookup, creation of every kind, links and removal.
//!
//! Decides what a new inode starts with (owner, group, mode, inherited lists) and what a name's end means. Does not
//! know permissions. Invariants: an inode's link count is the number of its names; a directory's is two plus its
//! subdirectories; an inode without a name is on the orphan list in the same operation.

use crate::base::Ino;
use crate::base::limits::{LINKS_MAX, NAME_BYTES_MAX, SYMLINK_BYTES_MAX};
use crate::format::{Dirent, FileKind, InodeRec};
use crate::fs::FsError;
use crate::fs::Op;
use crate::fs::acl::{self, Acl};
use crate::fs::fs::{Ctx, Fs, Node, Result};
use crate::fs::modes::{PERMISSIONS, S_ISGID, is_dir, is_free, is_immutable};

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    pub kind: FileKind,
    /// Permission bits, before the umask.
    pub mode: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Target of a symbolic link, else empty.
    pub target: &'a [u8],
}

impl Fs {
    /// The inode behind a name. The caller holds it until `forget`.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Node> {
        check_name(name)?;
        let parent = self.inode(dir)?;
        if name == b"." || name == b".." {
            return self.by_handle(Node { ino: dir, rec: parent }, name == b"..");
        }
        if !is_dir(&parent) {
            return Err(FsError::NotDir);
        }
        let entry = self.store.dirent(dir, name)?.ok_or(FsError::NotFound)?;
        let rec = self.store.inode(entry.ino)?.ok_or_else(|| dangling(dir, entry.ino))?;
        self.remember(entry.ino);
        Ok(Node { ino: entry.ino, rec })
    }

    /// Paths never ask for `.` and `..`; a handle that outlived the kernel's cache (NFS, open_by_handle_at) does: for
    /// any inode itself, and for the directory above. Who holds a handle does not hold the inode: without a name it is
    /// gone.
    fn by_handle(&self, node: Node, above: bool) -> Result<Node> {
        let node = match above {
            false => node,
            true if !is_dir(&node.rec) => return Err(FsError::NotDir),
            true => self.getattr(if node.rec.parent == Ino(0) { node.ino } else { node.rec.parent })?,
        };
        if node.rec.nlink == 0 {
            return Err(FsError::Stale);
        }
        self.remember(node.ino);
        Ok(node)
    }

    /// A file, directory, device, fifo or socket. The caller holds it until `forget`.
    pub fn make(&self, ctx: &Ctx, dir: Ino, name: &[u8], new: NewNode<'_>) -> Result<Node> {
        check_new_name(name)?;
        let (ino, rec) = self.change(|op| {
            let mut parent = parent_of(op, dir)?;
            if op.dirent(dir, name)?.is_some() {
                return Err(FsError::Exists);
            }
            let (ino, rec) = make_node(op, ctx, dir, &mut parent, new)?;
            touch(&mut parent, ctx);
            op.put_inode(dir, &parent);
            op.put_dirent(dir, name, Dirent { ino, kind: new.kind, cookie: 0 })?;
            Ok((ino, rec))
        })?;
        self.remember(ino);
        // Read again: the store has filled in the generation.
        Ok(Node { ino, rec: self.store.inode(ino)?.unwrap_or(rec) })
    }

    pub fn mkdir(&self, ctx: &Ctx, dir: Ino, name: &[u8], mode: u32) -> Result<Node> {
        self.make(ctx, dir, name, NewNode { kind: FileKind::Dir, mode, rdev: 0, target: b"" })
    }

    pub fn create(&self, ctx: &Ctx, dir: Ino, name: &[u8], mode: u32) -> Result<Node> {
        self.make(ctx, dir, name, NewNode { kind: FileKind::File, mode, rdev: 0, target: b"" })
    }

    pub fn symlink(&self, ctx: &Ctx, dir: Ino, name: &[u8], target: &[u8]) -> Result<Node> {
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        if target.len() > SYMLINK_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        self.make(ctx, dir, name, NewNode { kind: FileKind::Symlink, mode: 0o777, rdev: 0, target })
    }

    /// One more name for a file. The caller holds the inode once more.
    pub fn link(&self, ctx: &Ctx, ino: Ino, dir: Ino, name: &[u8]) -> Result<Node> {
        check_new_name(name)?;
        let rec = self.change(|op| {
            let mut rec = op.inode(ino)?.ok_or(FsError::Stale)?;
            if is_dir(&rec) || !is_free(&rec) {
                return Err(FsError::NotPermitted);
            }
            if rec.nlink == 0 {
                return Err(FsError::NotFound);
            }
            if rec.nlink >= LINKS_MAX {
                return Err(FsError::TooManyLinks);
            }
            let mut parent = parent_of(op, dir)?;
            if op.dirent(dir, name)?.is_some() {
                return Err(FsError::Exists);
            }
            touch(&mut parent, ctx);
            op.put_inode(dir, &parent);
            op.put_dirent(dir, name, Dirent { ino, kind: rec.kind(), cookie: 0 })?;
            rec.nlink += 1;
            rec.ctime = ctx.now;
            op.put_inode(ino, &rec);
            Ok(rec)
        })?;
        self.remember(ino);
        Ok(Node { ino, rec })
    }

    pub fn unlink(&self, ctx: &Ctx, dir: Ino, name: &[u8]) -> Result<()> {
        self.remove(ctx, dir, name, false)
    }

    pub fn rmdir(&self, ctx: &Ctx, dir: Ino, name: &[u8]) -> Result<()> {
        self.remove(ctx, dir, name, true)
    }

    fn remove(&self, ctx: &Ctx, dir: Ino, name: &[u8], want_dir: bool) -> Result<()> {
        check_name(name)?;
        let gone = self.change(|op| {
            let mut parent = op.inode(dir)?.ok_or(FsError::Stale)?;
            may_lose_names(&parent)?;
            let entry = op.dirent(dir, name)?.ok_or(FsError::NotFound)?;
            let rec = op.inode(entry.ino)?.ok_or_else(|| dangling(dir, entry.ino))?;
            may_be_removed(op, entry.ino, &rec, want_dir)?;
            op.del_dirent(dir, name)?;
            touch(&mut parent, ctx);
            if want_dir {
                parent.nlink = parent.nlink.saturating_sub(1);
            }
            op.put_inode(dir, &parent);
            Ok(drop_name(op, ctx, entry.ino, rec))
        })?;
        if let Some(ino) = gone {
            self.unnamed(ino);
        }
        Ok(())
    }

    /// Target of a symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let rec = self.inode(ino)?;
        if rec.kind() == FileKind::Symlink { Ok(rec.target.into_vec()) } else { Err(FsError::Invalid) }
    }
}

/// A name that a lookup may carry.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(FsError::NameTooLong);
    }
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return Err(FsError::Invalid);
    }
    Ok(())
}

/// A name that may be made.
pub(super) fn check_new_name(name: &[u8]) -> Result<()> {
    check_name(name)?;
    if name == b"." || name == b".." { Err(FsError::Exists) } else { Ok(()) }
}

pub(super) fn dangling(dir: Ino, ino: Ino) -> FsError {
    FsError::Corrupt(format!("a name in directory {} points to inode {}, which does not exist", dir.0, ino.0))
}

/// A directory that may get a new name: it exists, has a name itself, and is not frozen.
pub(super) fn parent_of(op: &mut Op<'_>, dir: Ino) -> Result<InodeRec> {
    let parent = op.inode(dir)?.ok_or(FsError::Stale)?;
    if !is_dir(&parent) {
        return Err(FsError::NotDir);
    }
    if parent.nlink == 0 {
        return Err(FsError::NotFound);
    }
    if is_immutable(&parent) { Err(FsError::NotPermitted) } else { Ok(parent) }
}

pub(super) fn may_lose_names(parent: &InodeRec) -> Result<()> {
    if !is_dir(parent) {
        return Err(FsError::NotDir);
    }
    if is_free(parent) { Ok(()) } else { Err(FsError::NotPermitted) }
}

pub(super) fn may_be_removed(op: &mut Op<'_>, ino: Ino, rec: &InodeRec, want_dir: bool) -> Result<()> {
    match (want_dir, is_dir(rec)) {
        (true, false) => return Err(FsError::NotDir),
        (false, true) => return Err(FsError::IsDir),
        _ => {}
    }
    if !is_free(rec) {
        return Err(FsError::NotPermitted);
    }
    if want_dir && !op.dir_is_empty(ino)? { Err(FsError::NotEmpty) } else { Ok(()) }
}

/// Takes one name from the inode; answers its number if that was the last. A directory has one name and its own ".".
pub(super) fn drop_name(op: &mut Op<'_>, ctx: &Ctx, ino: Ino, mut rec: InodeRec) -> Option<Ino> {
    rec.nlink = if is_dir(&rec) { 0 } else { rec.nlink.saturating_sub(1) };
    rec.ctime = ctx.now;
    op.put_inode(ino, &rec);
    if rec.nlink > 0 {
        return None;
    }
    op.add_orphan(ino);
    Some(ino)
}

/// The directory's own times after one of its names came or went.
pub(super) fn touch(parent: &mut InodeRec, ctx: &Ctx) {
    parent.mtime = ctx.now;
    parent.ctime = ctx.now;
}

/// A new inode with what its parent hands down. A directory also counts in its parent.
pub(super) fn make_node(
    op: &mut Op<'_>,
    ctx: &Ctx,
    dir: Ino,
    parent: &mut InodeRec,
    new: NewNode<'_>,
) -> Result<(Ino, InodeRec)> {
    let makes_dir = new.kind == FileKind::Dir;
    if makes_dir && parent.nlink >= LINKS_MAX {
        return Err(FsError::TooManyLinks);
    }
    let ino = op.alloc_ino();
    let mut rec = InodeRec::new(new.kind, ctx.now);
    rec.mode |= new.mode & PERMISSIONS;
    rec.uid = ctx.uid;
    rec.gid = ctx.gid;
    rec.rdev = new.rdev;
    if new.kind == FileKind::Symlink {
        rec.size = new.target.len() as u64;
        rec.target = new.target.into();
    }
    if makes_dir {
        rec.nlink = 2;
        rec.parent = dir;
        parent.nlink += 1;
    }
    if parent.mode & S_ISGID != 0 {
        rec.gid = parent.gid;
        if makes_dir {
            rec.mode |= S_ISGID;
        }
    }
    inherit_lists(op, ctx, dir, ino, &mut rec)?;
    op.put_inode(ino, &rec);
    Ok((ino, rec))
}

/// A default list of the directory replaces the umask.
fn inherit_lists(op: &mut Op<'_>, ctx: &Ctx, dir: Ino, ino: Ino, rec: &mut InodeRec) -> Result<()> {
    if rec.kind() == FileKind::Symlink {
        return Ok(());
    }
    let default = op.xattr(dir, acl::DEFAULT)?;
    let Some(list) = default.as_deref().map(Acl::parse).transpose()?.flatten() else {
        rec.mode &= !(ctx.umask & 0o777);
        return Ok(());
    };
    let (own, bits) = list.for_new_file(rec.mode & 0o777);
    rec.mode = (rec.mode & !0o777) | bits;
    if let Some(own) = own {
        op.put_xattr(ino, acl::ACCESS, &own.bytes());
    }
    if is_dir(rec) {
        op.put_xattr(ino, acl::DEFAULT, &list.bytes());
    }
    Ok(())
}
