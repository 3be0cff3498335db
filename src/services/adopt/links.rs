//! The directory and the symlink that change places.
//!
//! Decides the order of renames from what lies there, never from memory, so that every function may be repeated after
//! a crash at any point. Does not copy content. Invariants: at every moment `DIR` exists where the kernel can exchange
//! two names (else for two renames it does not); no directory is ever deleted.
#![allow(clippy::disallowed_methods, reason = "a shell: renames files")]

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::AdoptError;
use super::Step;

/// What lies under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Directory,
    Symlink(PathBuf),
    Other,
}

pub fn found(path: &Path) -> Result<Found, AdoptError> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(e) => Err(AdoptError::io(path, &e)),
        Ok(meta) if meta.is_dir() => Ok(Found::Directory),
        Ok(meta) if meta.is_symlink() => {
            std::fs::read_link(path).map(Found::Symlink).map_err(|e| AdoptError::io(path, &e))
        }
        Ok(_) => Ok(Found::Other),
    }
}

/// `DIR.twinfs-SUFFIX`, beside the directory.
pub fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_os_string();
    name.push(".twinfs-");
    name.push(suffix);
    PathBuf::from(name)
}

pub fn sync_parent(path: &Path) -> Result<(), AdoptError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|d| d.sync_all()).map_err(|e| AdoptError::io(parent, &e))
}

pub fn rename(from: &Path, to: &Path) -> Result<(), AdoptError> {
    std::fs::rename(from, to).map_err(|e| AdoptError::io(from, &e))?;
    sync_parent(to)
}

pub fn remove_link(path: &Path) -> Result<(), AdoptError> {
    std::fs::remove_file(path).map_err(|e| AdoptError::io(path, &e))?;
    sync_parent(path)
}

/// Exchanges two names in one step; where the filesystem cannot, `dir` goes to `aside` first.
fn exchange(new: &Path, dir: &Path, aside: &Path) -> Result<(), AdoptError> {
    match renameat2(AT_FDCWD, new, AT_FDCWD, dir, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => sync_parent(dir),
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => {
            rename(dir, aside)?;
            rename(new, dir)
        }
        Err(e) => Err(AdoptError::io(dir, &e.into())),
    }
}

fn make_link(link: &Path, target: &Path) -> Result<(), AdoptError> {
    match found(link)? {
        Found::Symlink(to) if to == target => Ok(()),
        Found::Nothing => {
            std::os::unix::fs::symlink(target, link).map_err(|e| AdoptError::io(link, &e))?;
            sync_parent(link)
        }
        Found::Symlink(_) => {
            remove_link(link)?;
            make_link(link, target)
        }
        _ => Err(AdoptError::InTheWay(link.to_path_buf())),
    }
}

/// Puts a symlink to `target` in the place of `dir`, whose content goes to `DIR.twinfs-adopted`.
pub fn put_link(dir: &Path, target: &Path, step: Step<'_>) -> Result<(), AdoptError> {
    let (link, aside) = (beside(dir, "link"), beside(dir, "adopted"));
    match found(dir)? {
        Found::Directory => {
            if found(&aside)? != Found::Nothing {
                return Err(AdoptError::InTheWay(aside));
            }
            step("make the link")?;
            make_link(&link, target)?;
            step("exchange")?;
            exchange(&link, dir, &aside)?;
            step("put the directory aside")?;
        }
        Found::Nothing => {
            if let Some(parent) = dir.parent() {
                std::fs::create_dir_all(parent).map_err(|e| AdoptError::io(parent, &e))?;
            }
            step("make the link where nothing was")?;
            make_link(dir, target)?;
        }
        Found::Symlink(to) if to == target => {}
        Found::Symlink(_) | Found::Other => return Err(AdoptError::NotADirectory(dir.to_path_buf())),
    }
    match found(&link)? {
        Found::Directory => rename(&link, &aside),
        Found::Symlink(_) => remove_link(&link),
        Found::Nothing | Found::Other => Ok(()),
    }
}

/// Puts the directory `from` in the place of the symlink `dir` -> `target`. Does nothing if `dir` is no such symlink
/// any more, apart from removing the symlink that an earlier, interrupted call left under `from`.
pub fn take_link(dir: &Path, target: &Path, from: &Path, step: Step<'_>) -> Result<(), AdoptError> {
    if found(dir)? == Found::Symlink(target.to_path_buf()) {
        match found(from)? {
            Found::Directory => {
                step("exchange back")?;
                exchange(from, dir, &beside(dir, "link"))?;
            }
            // Nothing lay here before the link.
            Found::Nothing => {
                step("remove the link")?;
                return remove_link(dir);
            }
            _ => return Err(AdoptError::InTheWay(from.to_path_buf())),
        }
    } else if found(dir)? == Found::Nothing && found(from)? == Found::Directory {
        rename(from, dir)?;
    }
    step("remove the old link")?;
    for leftover in [from, &beside(dir, "link")] {
        if matches!(found(leftover)?, Found::Symlink(to) if to == target) {
            remove_link(leftover)?;
        }
    }
    Ok(())
}
