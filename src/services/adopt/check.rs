//! What must hold before a directory may move.
//!
//! Decides refusals and warnings. Changes nothing.
#![allow(clippy::disallowed_methods, reason = "a shell: reads /proc")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use super::{AdoptError, Places};

/// The directory by its real path: its parent resolved, its own name not.
pub fn canonical(dir: &Path) -> Result<PathBuf, AdoptError> {
    let normal = dir.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let (true, true, Some(parent), Some(name)) = (dir.is_absolute(), normal, dir.parent(), dir.file_name())
    else {
        return Err(AdoptError::BadPath(dir.to_path_buf()));
    };
    match std::fs::canonicalize(parent) {
        Ok(parent) => Ok(parent.join(name)),
        // Nothing there (yet): the peer may never have had it.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(dir.to_path_buf()),
        Err(e) => Err(AdoptError::io(parent, &e)),
    }
}

/// Refuses directories that hold a mount point, the volume itself, or what twinfs needs before it can mount.
pub fn may_move(dir: &Path, places: &Places) -> Result<(), AdoptError> {
    if dir.starts_with(&places.mount) {
        return Err(AdoptError::OnVolume(dir.to_path_buf()));
    }
    let needed = places.needed.iter().chain([&places.mount, &places.state_dir]);
    if let Some(needed) = needed.into_iter().find(|path| path.starts_with(dir)) {
        return Err(AdoptError::Holds { dir: dir.to_path_buf(), needed: needed.clone() });
    }
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    match mount_points(&mounts).into_iter().find(|point| point.starts_with(dir)) {
        Some(point) => Err(AdoptError::MountPoint(point)),
        None => Ok(()),
    }
}

/// The mount points of a mountinfo file.
pub fn mount_points(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|b| *b == b'\n');
    lines.filter_map(|line| line.split(|b| *b == b' ').nth(4)).map(unescape).collect()
}

/// `\040` and its like become the byte they stand for.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        if let Some(byte) = digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            out.push(byte);
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Free bytes for new files on the filesystem of `path`.
pub fn free_bytes(path: &Path) -> Result<u64, AdoptError> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(|e| AdoptError::io(path, &e.into()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Programs that have something below `dir` open or as their current directory: `name (pid)`.
pub fn users_of(dir: &Path) -> Vec<String> {
    let mut users = Vec::new();
    let Ok(processes) = std::fs::read_dir("/proc") else { return users };
    for process in processes.flatten().map(|p| p.path()) {
        let Some(pid) = process.file_name().and_then(|n| n.to_str()?.parse::<u32>().ok()) else { continue };
        let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|fd| fd.path());
        let uses = |link: PathBuf| std::fs::read_link(link).is_ok_and(|to| to.starts_with(dir));
        if open.chain([process.join("cwd")]).any(uses) {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            users.push(format!("{} ({pid})", name.trim()));
        }
    }
    users
}
