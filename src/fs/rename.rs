//! rename(2) and renameat2(2).
//!
//! Decides what a move does to both directories, to a replaced target and to the moved inode. Does not know
//! permissions. Invariants: as one operation of the store a crash leaves the old or the new names, never none and never
//! both; no directory ends up below itself.

use crate::base::Ino;
use crate::base::limits::LINKS_MAX;
use crate::format::{Dirent, FileKind, InodeRec};
use crate::fs::FsError;
use crate::fs::Op;
use crate::fs::fs::{Ctx, Fs, Result};
use crate::fs::modes::{is_dir, is_free};
use crate::fs::names::{
    NewNode, check_name, check_new_name, dangling, drop_name, make_node, may_be_removed, may_lose_names,
    parent_of, touch,
};

/// Flags of renameat2(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameHow {
    /// Fail if the new name exists.
    pub no_replace: bool,
    /// Swap two existing names.
    pub exchange: bool,
    /// Leave a whiteout (character device 0:0) under the old name.
    pub whiteout: bool,
}

/// A place for a name.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub dir: Ino,
    pub name: &'a [u8],
}

/// What lies at a place.
struct Found {
    entry: Dirent,
    rec: InodeRec,
}

impl Fs {
    pub fn rename(&self, ctx: &Ctx, from: Place<'_>, to: Place<'_>, how: RenameHow) -> Result<()> {
        check_name(from.name)?;
        check_new_name(to.name)?;
        if how.exchange && (how.no_replace || how.whiteout) {
            return Err(FsError::Invalid);
        }
        let over = self.store.dirent(to.dir, to.name)?.is_some();
        if let Some(source) = self.store.dirent(from.dir, from.name)?.filter(|_| over && !how.exchange) {
            self.store.make_pullable(source.ino)?;
        }
        let gone = self.change(|op| {
            let source = found(op, from)?.ok_or(FsError::NotFound)?;
            let target = found(op, to)?;
            may_lose_names(&op.inode(from.dir)?.ok_or(FsError::Stale)?)?;
            parent_of(op, to.dir)?;
            if !is_free(&source.rec) {
                return Err(FsError::NotPermitted);
            }
            match (target, how.exchange) {
                (None, true) => Err(FsError::NotFound),
                (Some(target), true) => swap(op, ctx, from, source, to, target).map(|()| None),
                (Some(_), false) if how.no_replace => Err(FsError::Exists),
                (Some(target), false) if target.entry.ino == source.entry.ino => Ok(None),
                (target, false) => replace(op, ctx, from, source, to, target, how.whiteout),
            }
        })?;
        if let Some(ino) = gone {
            self.unnamed(ino);
        }
        Ok(())
    }
}

fn found(op: &mut Op<'_>, place: Place<'_>) -> Result<Option<Found>> {
    let Some(entry) = op.dirent(place.dir, place.name)? else { return Ok(None) };
    let rec = op.inode(entry.ino)?.ok_or_else(|| dangling(place.dir, entry.ino))?;
    Ok(Some(Found { entry, rec }))
}

/// Moves `source` to `to`, over `target` if there is one. Answers an inode that lost its last name.
fn replace(
    op: &mut Op<'_>,
    ctx: &Ctx,
    from: Place<'_>,
    source: Found,
    to: Place<'_>,
    target: Option<Found>,
    whiteout: bool,
) -> Result<Option<Ino>> {
    let moves_dir = is_dir(&source.rec);
    if moves_dir {
        not_below(op, to.dir, source.entry.ino)?;
    }
    let mut gone = None;
    if let Some(target) = target {
        may_lose_names(&op.inode(to.dir)?.ok_or(FsError::Stale)?)?;
        may_be_removed(op, target.entry.ino, &target.rec, moves_dir)?;
        if moves_dir {
            add_links(op, to.dir, -1)?;
        }
        gone = drop_name(op, ctx, target.entry.ino, target.rec);
        // The old content must not give way to an empty file.
        op.pull_data(source.entry.ino);
    }
    op.del_dirent(from.dir, from.name)?;
    op.put_dirent(to.dir, to.name, source.entry)?;
    if moves_dir && from.dir != to.dir {
        add_links(op, from.dir, -1)?;
        add_links(op, to.dir, 1)?;
    }
    settle(op, ctx, source, to.dir);
    if whiteout {
        leave_whiteout(op, ctx, from)?;
    }
    touch_both(op, ctx, from.dir, to.dir)?;
    Ok(gone)
}

fn swap(
    op: &mut Op<'_>,
    ctx: &Ctx,
    from: Place<'_>,
    source: Found,
    to: Place<'_>,
    target: Found,
) -> Result<()> {
    may_lose_names(&op.inode(to.dir)?.ok_or(FsError::Stale)?)?;
    if !is_free(&target.rec) {
        return Err(FsError::NotPermitted);
    }
    if source.entry.ino == target.entry.ino {
        return Ok(());
    }
    let (first_dir, second_dir) = (is_dir(&source.rec), is_dir(&target.rec));
    if first_dir {
        not_below(op, to.dir, source.entry.ino)?;
    }
    if second_dir {
        not_below(op, from.dir, target.entry.ino)?;
    }
    op.put_dirent(from.dir, from.name, target.entry)?;
    op.put_dirent(to.dir, to.name, source.entry)?;
    if from.dir != to.dir && first_dir != second_dir {
        let (gains, loses) = if first_dir { (to.dir, from.dir) } else { (from.dir, to.dir) };
        add_links(op, loses, -1)?;
        add_links(op, gains, 1)?;
    }
    settle(op, ctx, source, to.dir);
    settle(op, ctx, target, from.dir);
    touch_both(op, ctx, from.dir, to.dir)
}

/// The moved inode: its ctime, and the parent of a directory.
fn settle(op: &mut Op<'_>, ctx: &Ctx, moved: Found, dir: Ino) {
    let mut rec = moved.rec;
    rec.ctime = ctx.now;
    if is_dir(&rec) {
        rec.parent = dir;
    }
    op.put_inode(moved.entry.ino, &rec);
}

/// Refuses to put directory `moved` into `dir` if that is itself or lies below it.
fn not_below(op: &mut Op<'_>, dir: Ino, moved: Ino) -> Result<()> {
    let mut at = dir;
    while at != Ino::ROOT {
        if at == moved {
            return Err(FsError::Invalid);
        }
        let above = op.inode(at)?.ok_or(FsError::Stale)?.parent;
        if above == at || above == Ino(0) {
            return Err(FsError::Corrupt(format!("directory {} has no way up to the root", at.0)));
        }
        at = above;
    }
    if moved == Ino::ROOT { Err(FsError::Invalid) } else { Ok(()) }
}

fn add_links(op: &mut Op<'_>, dir: Ino, change: i32) -> Result<()> {
    let mut rec = op.inode(dir)?.ok_or(FsError::Stale)?;
    rec.nlink = rec.nlink.saturating_add_signed(change);
    if rec.nlink > LINKS_MAX {
        return Err(FsError::TooManyLinks);
    }
    op.put_inode(dir, &rec);
    Ok(())
}

fn touch_both(op: &mut Op<'_>, ctx: &Ctx, one: Ino, other: Ino) -> Result<()> {
    for dir in [one, other] {
        let mut rec = op.inode(dir)?.ok_or(FsError::Stale)?;
        touch(&mut rec, ctx);
        op.put_inode(dir, &rec);
    }
    Ok(())
}

fn leave_whiteout(op: &mut Op<'_>, ctx: &Ctx, at: Place<'_>) -> Result<()> {
    let mut parent = op.inode(at.dir)?.ok_or(FsError::Stale)?;
    let new = NewNode { kind: FileKind::Char, mode: 0, rdev: 0, target: b"" };
    let (ino, _) = make_node(op, ctx, at.dir, &mut parent, new)?;
    op.put_dirent(at.dir, at.name, Dirent { ino, kind: FileKind::Char, cookie: 0 })
}
