//! Extended attributes of all name spaces; the two ACL attributes also change the mode.
//!
//! Decides which names and sizes are allowed. Does not know privileges: the kernel checks `trusted.` and `security.`.
//! Invariant: a stored access list and the mode's nine bits say the same.

use crate::base::Ino;
use crate::base::limits::{NAME_BYTES_MAX, XATTR_BYTES_MAX};
use crate::format::InodeRec;
use crate::fs::FsError;
use crate::fs::Op;
use crate::fs::acl::{self, Acl};
use crate::fs::fs::{Ctx, Fs, Result};
use crate::fs::modes::{S_ISGID, is_dir, is_free};

/// When setxattr refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    Either,
    /// XATTR_CREATE: must not be there.
    Create,
    /// XATTR_REPLACE: must be there.
    Replace,
}

impl Fs {
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        check_xattr_name(name)?;
        self.may_read()?;
        self.store.xattr(ino, name)?.ok_or(FsError::NoAttr)
    }

    /// All names, each ended by a zero byte, as listxattr(2) answers them. The kernel guards the values of `trusted.`;
    /// that such names exist is not for everybody either.
    pub fn listxattr(&self, ctx: &Ctx, ino: Ino) -> Result<Vec<u8>> {
        self.inode(ino)?;
        let mut out = Vec::new();
        let visible = |name: &[u8]| ctx.uid == 0 || !name.starts_with(b"trusted.");
        for name in self.store.xattr_names(ino)?.into_iter().filter(|name| visible(name)) {
            out.extend_from_slice(&name);
            out.push(0);
        }
        Ok(out)
    }

    pub fn setxattr(&self, ctx: &Ctx, ino: Ino, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        check_xattr_name(name)?;
        if value.len() > XATTR_BYTES_MAX {
            return Err(FsError::TooBig);
        }
        self.change(|op| {
            let mut rec = changeable(op, ino)?;
            match (how, op.xattr(ino, name)?.is_some()) {
                (SetXattr::Create, true) => return Err(FsError::Exists),
                (SetXattr::Replace, false) => return Err(FsError::NoAttr),
                _ => {}
            }
            match name {
                acl::ACCESS => set_access_list(op, ctx, ino, &mut rec, value)?,
                acl::DEFAULT => set_default_list(op, ino, &rec, value)?,
                _ => op.put_xattr(ino, name, value),
            }
            rec.ctime = ctx.now;
            op.put_inode(ino, &rec);
            Ok(())
        })
    }

    pub fn removexattr(&self, ctx: &Ctx, ino: Ino, name: &[u8]) -> Result<()> {
        check_xattr_name(name)?;
        self.change(|op| {
            let mut rec = changeable(op, ino)?;
            if op.xattr(ino, name)?.is_none() {
                return Err(FsError::NoAttr);
            }
            op.del_xattr(ino, name);
            rec.ctime = ctx.now;
            op.put_inode(ino, &rec);
            Ok(())
        })
    }
}

fn changeable(op: &mut Op<'_>, ino: Ino) -> Result<InodeRec> {
    let rec = op.inode(ino)?.ok_or(FsError::Stale)?;
    if is_free(&rec) { Ok(rec) } else { Err(FsError::NotPermitted) }
}

fn check_xattr_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(FsError::Range);
    }
    let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let known = spaces.iter().any(|space| name.starts_with(space) && name.len() > space.len());
    if known || name == acl::ACCESS || name == acl::DEFAULT { Ok(()) } else { Err(FsError::NotSupported) }
}

fn set_access_list(op: &mut Op<'_>, ctx: &Ctx, ino: Ino, rec: &mut InodeRec, value: &[u8]) -> Result<()> {
    let parsed = Acl::parse(value)?;
    let Some(list) = parsed else { return remove_if_there(op, ino, acl::ACCESS) };
    rec.mode = (rec.mode & !0o777) | list.mode_bits();
    // The kernel keeps to itself whether the caller may keep the bit; its groups are known only there.
    if ctx.uid != 0 && ctx.gid != rec.gid && !is_dir(rec) {
        rec.mode &= !S_ISGID;
    }
    if list.is_plain() {
        return remove_if_there(op, ino, acl::ACCESS);
    }
    op.put_xattr(ino, acl::ACCESS, &list.bytes());
    Ok(())
}

fn set_default_list(op: &mut Op<'_>, ino: Ino, rec: &InodeRec, value: &[u8]) -> Result<()> {
    if !is_dir(rec) {
        return Err(FsError::Access);
    }
    match Acl::parse(value)? {
        Some(list) => op.put_xattr(ino, acl::DEFAULT, &list.bytes()),
        None => remove_if_there(op, ino, acl::DEFAULT)?,
    }
    Ok(())
}

fn remove_if_there(op: &mut Op<'_>, ino: Ino, name: &[u8]) -> Result<()> {
    if op.xattr(ino, name)?.is_some() {
        op.del_xattr(ino, name);
    }
    Ok(())
}
