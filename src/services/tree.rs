//! Copies a directory tree with everything that `cp -a` keeps, and compares two trees.
//!
//! Decides how each kind of file is copied: owners, modes, times, extended attributes (so also ACLs), hard links,
//! holes, devices, pipes and sockets. Does not know why a tree is copied. Invariants: the source is only read; what
//! `copy` answered for is stable; no symlink in the source is followed (every step goes through an open directory, so
//! a user who swaps a directory for a symlink gains nothing).
#![allow(clippy::disallowed_methods, reason = "a shell: reads and writes files")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek};

use crate::sys::xattr;

/// What a copy or a comparison went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    pub entries: u64,
    pub bytes: u64,
}

/// Why a tree was not copied or is not the same.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: lies on another filesystem (a mount point inside the directory)", .0.display())]
    Crosses(PathBuf),
    #[error("{}: {what} differs; something writes there: stop its services and try again", .path.display())]
    Differs { path: PathBuf, what: String },
    #[error("stopped")]
    Stopped,
}

type Done<T> = Result<T, TreeError>;

/// Called after every entry with what was done so far; `false` ends the work with `TreeError::Stopped`.
pub type OnEntry<'a> = &'a mut dyn FnMut(Tally) -> bool;

fn at<T>(path: &Path, result: std::io::Result<T>) -> Done<T> {
    result.map_err(|source| TreeError::Io { path: path.to_path_buf(), source })
}

fn at_nix<T>(path: &Path, result: nix::Result<T>) -> Done<T> {
    at(path, result.map_err(std::io::Error::from))
}

/// An open directory: children are reached through it, so that renaming it or a parent away changes nothing.
struct Dir {
    file: File,
    /// For messages only.
    shown: PathBuf,
}

impl Dir {
    fn open(path: &Path, shown: &Path) -> Done<Dir> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let file = at(shown, OpenOptions::new().read(true).custom_flags(flags).open(path))?;
        Ok(Dir { file, shown: shown.to_path_buf() })
    }

    fn here(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    fn child(&self, name: &OsString) -> PathBuf {
        self.here().join(name)
    }

    fn names(&self) -> Done<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in at(&self.shown, std::fs::read_dir(self.here()))? {
            names.push(at(&self.shown, entry)?.file_name());
        }
        names.sort();
        Ok(names)
    }
}

/// Space that a copy of `source` needs, and its number of entries. Refuses trees that hold mount points.
pub fn measure(source: &Path) -> Done<Tally> {
    let top = Dir::open(source, source)?;
    let device = at(source, top.file.metadata())?.dev();
    let mut tally = Tally { entries: 1, bytes: 0 };
    measure_dir(&top, device, &mut tally)?;
    Ok(tally)
}

fn measure_dir(dir: &Dir, device: u64, tally: &mut Tally) -> Done<()> {
    for name in dir.names()? {
        let shown = dir.shown.join(&name);
        let meta = at(&shown, std::fs::symlink_metadata(dir.child(&name)))?;
        if meta.dev() != device {
            return Err(TreeError::Crosses(shown));
        }
        tally.entries += 1;
        tally.bytes += meta.blocks() * 512;
        if meta.is_dir() {
            measure_dir(&Dir::open(&dir.child(&name), &shown)?, device, tally)?;
        }
    }
    Ok(())
}

/// Copies the directory `source` to the new directory `target`. Everything copied is stable on return.
pub fn copy(source: &Path, target: &Path, on_entry: OnEntry<'_>) -> Done<Tally> {
    let from = Dir::open(source, source)?;
    at(target, std::fs::create_dir(target))?;
    at(target, std::fs::set_permissions(target, PermissionsExt::from_mode(0o700)))?;
    let device = at(source, from.file.metadata())?.dev();
    let mut copier = Copier { device, links: BTreeMap::new(), tally: Tally::default(), on_entry };
    copier.dir(&from, target)?;
    Ok(copier.tally)
}

struct Copier<'a> {
    device: u64,
    /// Inode with several names -> its first copy.
    links: BTreeMap<u64, PathBuf>,
    tally: Tally,
    on_entry: OnEntry<'a>,
}

impl Copier<'_> {
    fn dir(&mut self, from: &Dir, target: &Path) -> Done<()> {
        let meta = at(&from.shown, from.file.metadata())?;
        for name in from.names()? {
            self.entry(&from.child(&name), &from.shown.join(&name), &target.join(&name))?;
        }
        copy_attributes(&from.here().join("."), &meta, target)?;
        at(target, File::open(target).and_then(|dir| dir.sync_all()))?;
        self.count(0)
    }

    fn entry(&mut self, source: &Path, shown: &Path, target: &Path) -> Done<()> {
        let meta = at(shown, std::fs::symlink_metadata(source))?;
        if meta.dev() != self.device {
            return Err(TreeError::Crosses(shown.to_path_buf()));
        }
        if meta.is_dir() {
            at(target, std::fs::create_dir(target))?;
            return self.dir(&Dir::open(source, shown)?, target);
        }
        if meta.nlink() > 1 {
            if let Some(first) = self.links.get(&meta.ino()) {
                at(target, std::fs::hard_link(first, target))?;
                return self.count(0);
            }
            self.links.insert(meta.ino(), target.to_path_buf());
        }
        let mut bytes = 0;
        if meta.is_file() {
            bytes = copy_file(source, shown, &meta, target)?;
        } else if meta.is_symlink() {
            let to = at(shown, std::fs::read_link(source))?;
            at(target, std::os::unix::fs::symlink(to, target))?;
            copy_attributes(source, &meta, target)?;
        } else {
            let kind = special_kind(&meta);
            at_nix(target, mknod(target, kind, Mode::empty(), meta.rdev()))?;
            copy_attributes(source, &meta, target)?;
        }
        self.count(bytes)
    }

    fn count(&mut self, bytes: u64) -> Done<()> {
        self.tally.entries += 1;
        self.tally.bytes += bytes;
        if (self.on_entry)(self.tally) { Ok(()) } else { Err(TreeError::Stopped) }
    }
}

fn special_kind(meta: &Metadata) -> SFlag {
    let kind = meta.file_type();
    if kind.is_fifo() {
        SFlag::S_IFIFO
    } else if kind.is_socket() {
        SFlag::S_IFSOCK
    } else if kind.is_block_device() {
        SFlag::S_IFBLK
    } else {
        SFlag::S_IFCHR
    }
}

fn copy_file(source: &Path, shown: &Path, meta: &Metadata, target: &Path) -> Done<u64> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let mut from = at(shown, OpenOptions::new().read(true).custom_flags(flags).open(source))?;
    let opened = at(shown, from.metadata())?;
    if !opened.is_file() || opened.ino() != meta.ino() {
        return Err(TreeError::Differs { path: shown.to_path_buf(), what: "the file itself".into() });
    }
    let mut to = at(target, OpenOptions::new().write(true).create_new(true).mode(0o600).open(target))?;
    let mut bytes = 0;
    for (start, end) in at(shown, data_ranges(&from, opened.len()))? {
        at(shown, from.seek(SeekFrom::Start(start)))?;
        at(target, to.seek(SeekFrom::Start(start)))?;
        let mut left = end - start;
        let mut buffer = vec![0_u8; 1 << 20];
        while left > 0 {
            let part = usize::try_from(left).map_or(buffer.len(), |n| n.min(buffer.len()));
            let got = at(shown, from.read(&mut buffer[..part]))?;
            if got == 0 {
                return Err(TreeError::Differs { path: shown.to_path_buf(), what: "the length".into() });
            }
            at(target, to.write_all(&buffer[..got]))?;
            left -= got as u64;
            bytes += got as u64;
        }
    }
    at(target, to.set_len(opened.len()))?;
    copy_attributes(source, &opened, target)?;
    at(target, to.sync_all())?;
    Ok(bytes)
}

/// The parts of a file that hold data; the whole of it where the filesystem does not tell.
fn data_ranges(file: &File, len: u64) -> std::io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut position = 0;
    while position < len {
        let offset = i64::try_from(position).map_err(std::io::Error::other)?;
        let start = match lseek(file, offset, Whence::SeekData) {
            Ok(start) => u64::try_from(start).map_err(std::io::Error::other)?,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(nix::errno::Errno::EINVAL) => return Ok(vec![(0, len)]),
            Err(e) => return Err(e.into()),
        };
        let hole = lseek(file, i64::try_from(start).map_err(std::io::Error::other)?, Whence::SeekHole)?;
        let end = u64::try_from(hole).map_err(std::io::Error::other)?.min(len);
        if end <= start {
            break;
        }
        ranges.push((start, end));
        position = end;
    }
    Ok(ranges)
}

/// Owner first (it clears set-id bits), then attributes, mode and times.
fn copy_attributes(source: &Path, meta: &Metadata, target: &Path) -> Done<()> {
    at(target, std::os::unix::fs::lchown(target, Some(meta.uid()), Some(meta.gid())))?;
    for name in at(source, xattr::list(source))? {
        let value = at(source, xattr::get(source, &name))?;
        at(target, xattr::set(target, &name, &value))?;
    }
    if !meta.is_symlink() {
        at(target, std::fs::set_permissions(target, PermissionsExt::from_mode(meta.mode() & 0o7777)))?;
    }
    let access = TimeSpec::new(meta.atime(), meta.atime_nsec());
    let change = TimeSpec::new(meta.mtime(), meta.mtime_nsec());
    at_nix(target, utimensat(nix::fcntl::AT_FDCWD, target, &access, &change, UtimensatFlags::NoFollowSymlink))
}

/// Compares two trees in everything `copy` keeps, content included; the first difference is the error.
pub fn compare(left: &Path, right: &Path) -> Done<Tally> {
    let (a, b) = (Dir::open(left, left)?, Dir::open(right, right)?);
    let mut links = BTreeMap::new();
    let mut tally = Tally::default();
    compare_meta(&a.here().join("."), &b.here().join("."), left)?;
    compare_dir(&a, &b, &mut links, &mut tally)?;
    tally.entries += 1;
    Ok(tally)
}

fn differs<T>(path: &Path, what: &str) -> Done<T> {
    Err(TreeError::Differs { path: path.to_path_buf(), what: what.to_string() })
}

fn compare_dir(a: &Dir, b: &Dir, links: &mut BTreeMap<u64, u64>, tally: &mut Tally) -> Done<()> {
    let names = a.names()?;
    if names != b.names()? {
        return differs(&a.shown, "the list of names");
    }
    for name in names {
        let (left, right, shown) = (a.child(&name), b.child(&name), a.shown.join(&name));
        let (ours, theirs) = compare_meta(&left, &right, &shown)?;
        tally.entries += 1;
        if ours.is_dir() {
            compare_dir(&Dir::open(&left, &shown)?, &Dir::open(&right, &shown)?, links, tally)?;
            continue;
        }
        if ours.nlink() != theirs.nlink() {
            return differs(&shown, "the number of hard links");
        }
        if ours.nlink() > 1 && *links.entry(ours.ino()).or_insert(theirs.ino()) != theirs.ino() {
            return differs(&shown, "which names are hard links of each other");
        }
        if ours.is_file() {
            tally.bytes += compare_content(&left, &right, &shown)?;
        } else if ours.is_symlink()
            && at(&shown, std::fs::read_link(&left))? != at(&shown, std::fs::read_link(&right))?
        {
            return differs(&shown, "the target of the symlink");
        }
    }
    Ok(())
}

fn compare_meta(left: &Path, right: &Path, shown: &Path) -> Done<(Metadata, Metadata)> {
    let a = at(shown, std::fs::symlink_metadata(left))?;
    let b = at(shown, std::fs::symlink_metadata(right))?;
    let facts: [(&str, bool); 5] = [
        ("the kind or mode", a.mode() == b.mode()),
        ("the owner", (a.uid(), a.gid()) == (b.uid(), b.gid())),
        ("the time of change", (a.mtime(), a.mtime_nsec()) == (b.mtime(), b.mtime_nsec())),
        ("the length", a.is_dir() || a.len() == b.len()),
        ("the device number", a.rdev() == b.rdev()),
    ];
    if let Some((what, _)) = facts.iter().find(|(_, same)| !same) {
        return differs(shown, what);
    }
    if attributes(left, shown)? != attributes(right, shown)? {
        return differs(shown, "an extended attribute");
    }
    Ok((a, b))
}

fn attributes(path: &Path, shown: &Path) -> Done<BTreeMap<OsString, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for name in at(shown, xattr::list(path))? {
        let value = at(shown, xattr::get(path, &name))?;
        all.insert(name, value);
    }
    Ok(all)
}

fn compare_content(left: &Path, right: &Path, shown: &Path) -> Done<u64> {
    let open = |path: &Path| {
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
    };
    let (mut a, mut b) = (at(shown, open(left))?, at(shown, open(right))?);
    let (mut ours, mut theirs) = (vec![0_u8; 1 << 18], vec![0_u8; 1 << 18]);
    let mut total = 0;
    loop {
        let got = at(shown, a.read(&mut ours))?;
        if got == 0 {
            return if at(shown, b.read(&mut theirs))? == 0 {
                Ok(total)
            } else {
                differs(shown, "the length")
            };
        }
        if b.read_exact(&mut theirs[..got]).is_err() || ours[..got] != theirs[..got] {
            return differs(shown, "the content");
        }
        total += got as u64;
    }
}

#[cfg(test)]
mod tests;
