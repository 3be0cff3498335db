//! Moves a directory onto the volume and leaves a symlink, on both nodes; and back.
//!
//! Decides the order of steps. Does not know who is primary (the caller does) nor how the other node is told.
//!
//! The primary copies, compares, makes the copy stable, notes the directory in a list *on the volume*, and only then
//! exchanges directory and symlink. The other node needs no content: it exchanges its own directory for the symlink
//! when it is told, and at the latest before it starts services as primary, because the list is on the volume.
//!
//! Invariants: nothing with content is deleted, ever: the original stays as `DIR.twinfs-adopted`, the volume's copy
//! after a release as `TARGET.twinfs-released`; only copies that were never complete are removed. After a crash at any
//! step the content is complete where `DIR` leads, and repeating the command finishes it.
#![allow(clippy::disallowed_methods, reason = "a shell: moves files")]

mod check;
mod links;
mod store;

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use super::tree::Tally;
use super::tree::{self, TreeError};

pub use check::users_of;
use links::{Found, beside, found, put_link, rename, sync_parent, take_link};
use store::Way;
pub use store::{Adopted, Journal, Move, list, read as read_json, write as write_json};

/// Where things lie on this node.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where the volume is mounted (or would be).
    pub mount: PathBuf,
    pub state_dir: PathBuf,
    /// What must not move: images, configuration, key, the program itself.
    pub needed: Vec<PathBuf>,
}

/// Why a directory was not moved. Nothing has changed then, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("{}: give an absolute path without . or ..", .0.display())]
    BadPath(PathBuf),
    #[error("{}: is not a directory (a symlink somewhere else, or a file)", .0.display())]
    NotADirectory(PathBuf),
    #[error("{}: does not exist", .0.display())]
    Missing(PathBuf),
    #[error("{}: is not adopted", .0.display())]
    NotAdopted(PathBuf),
    #[error("{}: lies on the volume already", .0.display())]
    OnVolume(PathBuf),
    #[error("{}: is a mount point; unmount it first", .0.display())]
    MountPoint(PathBuf),
    #[error("{}: holds {}, which twinfs needs before it can mount", .dir.display(), .needed.display())]
    Holds { dir: PathBuf, needed: PathBuf },
    #[error("{}: is in the way; move or remove it", .0.display())]
    InTheWay(PathBuf),
    #[error("{}: needs {need} bytes, {} has {free} free", .dir.display(), .place.display())]
    NoSpace { dir: PathBuf, place: PathBuf, need: u64, free: u64 },
    #[error("{0}")]
    Tree(#[from] TreeError),
    #[error("{0}")]
    Io(String),
}

impl AdoptError {
    pub(in crate::services) fn io(path: &Path, error: &std::io::Error) -> AdoptError {
        AdoptError::Io(format!("{}: {error}", path.display()))
    }
}

/// Called before every step that changes something; an error stops right there, as a crash would.
pub type Step<'a> = &'a mut dyn FnMut(&'static str) -> Result<(), AdoptError>;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub dir: PathBuf,
    pub target: PathBuf,
    /// Zero when it was done before.
    pub tally: Tally,
    /// What is left beside for the administrator to delete.
    pub left: Option<PathBuf>,
}

/// The same path below the mount point.
pub fn target_of(mount: &Path, dir: &Path) -> PathBuf {
    mount.join(dir.strip_prefix("/").unwrap_or(dir))
}

fn journal_error(text: String) -> AdoptError {
    AdoptError::Io(text)
}

/// A directory, its place on the volume, and the move that an earlier run began.
struct Matter {
    dir: PathBuf,
    target: PathBuf,
    journal: Journal,
    begun: Option<Way>,
}

impl Matter {
    fn look(dir: &Path, places: &Places) -> Result<Matter, AdoptError> {
        let dir = check::canonical(dir)?;
        let journal = Journal::new(&places.state_dir);
        let target = target_of(&places.mount, &dir);
        let begun = journal.get(&dir).map_err(journal_error)?.map(|begun| begun.way);
        Ok(Matter { dir, target, journal, begun })
    }
}

/// Bytes that a move of `dir` has to copy; refuses what may not move.
pub fn plan(dir: &Path, places: &Places) -> Result<Tally, AdoptError> {
    let Matter { dir, target, begun, .. } = Matter::look(dir, places)?;
    check::may_move(&dir, places)?;
    match found(&dir)? {
        Found::Directory => Ok(tree::measure(&dir)?),
        Found::Symlink(to) if to == target => Ok(Tally::default()),
        // Between the two renames of a filesystem that cannot exchange names.
        Found::Nothing if begun.is_some() => Ok(Tally::default()),
        Found::Nothing => Err(AdoptError::Missing(dir)),
        Found::Symlink(_) | Found::Other => Err(AdoptError::NotADirectory(dir)),
    }
}

/// Moves `dir` onto the volume and leaves a symlink. Repeat it after a crash; it continues.
pub fn adopt(
    dir: &Path,
    places: &Places,
    step: Step<'_>,
    on_entry: tree::OnEntry<'_>,
) -> Result<Report, AdoptError> {
    let Matter { dir, target, journal, begun } = Matter::look(dir, places)?;
    if begun == Some(Way::Release) {
        return Err(AdoptError::Io(format!(
            "{}: its release is not finished; finish that first",
            dir.display()
        )));
    }
    let mut tally = Tally::default();
    let aside = beside(&dir, "adopted");
    let here = found(&dir)?;
    let swapped = here == Found::Symlink(target.clone())
        || (here == Found::Nothing && begun.is_some() && found(&aside)? == Found::Directory);
    if !swapped {
        let need = plan(&dir, places)?;
        if found(&aside)? != Found::Nothing {
            return Err(AdoptError::InTheWay(aside));
        }
        if begun.is_none() && found(&target)? != Found::Nothing {
            return Err(AdoptError::InTheWay(target));
        }
        enough_space(&dir, &places.mount, need)?;
        step("journal")?;
        journal.begin(Way::Adopt, &dir).map_err(journal_error)?;
        let copied = copy_up(&dir, &target, places, step, on_entry);
        tally = match copied {
            Ok(tally) => tally,
            Err(stop @ AdoptError::Tree(TreeError::Stopped)) => return Err(stop),
            Err(error) => {
                // The original was never touched: take back what we made.
                remove_partial(&beside(&target, "partial"))?;
                journal.end(&dir).map_err(journal_error)?;
                return Err(error);
            }
        };
    }
    step("note on the volume")?;
    store::note(&places.mount, &dir, true).map_err(AdoptError::Io)?;
    put_link(&dir, &target, step)?;
    step("end of the journal")?;
    journal.end(&dir).map_err(journal_error)?;
    let left = (found(&aside)? == Found::Directory).then_some(aside);
    Ok(Report { dir, target, tally, left })
}

fn copy_up(
    dir: &Path,
    target: &Path,
    places: &Places,
    step: Step<'_>,
    on_entry: tree::OnEntry<'_>,
) -> Result<Tally, AdoptError> {
    // A complete copy of an interrupted run is used again if nothing changed since.
    if found(target)? == Found::Directory {
        if let Ok(tally) = tree::compare(dir, target) {
            return Ok(tally);
        }
        step("put back an old copy")?;
        rename(target, &beside(target, "partial"))?;
    }
    let partial = beside(target, "partial");
    step("remove a half copy")?;
    remove_partial(&partial)?;
    step("make the parents")?;
    make_parents(dir, &places.mount)?;
    step("copy")?;
    let tally = tree::copy(dir, &partial, on_entry)?;
    step("compare")?;
    tree::compare(dir, &partial)?;
    step("name the copy")?;
    rename(&partial, target)?;
    Ok(tally)
}

/// Moves an adopted directory back to this node. Repeat it after a crash; it continues. Also undoes an adoption that
/// was begun and has not yet exchanged the directory for the symlink.
pub fn release(
    dir: &Path,
    places: &Places,
    step: Step<'_>,
    on_entry: tree::OnEntry<'_>,
) -> Result<Report, AdoptError> {
    let Matter { dir, target, journal, begun } = Matter::look(dir, places)?;
    let partial = beside(&dir, "partial");
    let mut tally = Tally::default();
    match (found(&dir)?, begun) {
        (Found::Symlink(to), _) if to == target => {
            enough_space(&dir, dir.parent().unwrap_or(Path::new("/")), tree::measure(&target)?)?;
            step("journal")?;
            journal.begin(Way::Release, &dir).map_err(journal_error)?;
            step("remove a half copy")?;
            remove_partial(&partial)?;
            step("copy")?;
            let copied = tree::copy(&target, &partial, on_entry).and_then(|tally| {
                tree::compare(&target, &partial)?;
                Ok(tally)
            });
            tally = match copied {
                Ok(tally) => tally,
                Err(TreeError::Stopped) => return Err(TreeError::Stopped.into()),
                Err(error) => {
                    remove_partial(&partial)?;
                    journal.end(&dir).map_err(journal_error)?;
                    return Err(error.into());
                }
            };
        }
        (Found::Directory, Some(Way::Adopt)) => return undo(&dir, &target, places, &journal, step),
        (Found::Directory | Found::Nothing, Some(Way::Release)) => {}
        _ => return Err(AdoptError::NotAdopted(dir)),
    }
    take_link(&dir, &target, &partial, step)?;
    step("note on the volume")?;
    store::note(&places.mount, &dir, false).map_err(AdoptError::Io)?;
    let left = put_target_aside(&target, step)?;
    step("end of the journal")?;
    journal.end(&dir).map_err(journal_error)?;
    Ok(Report { dir, target, tally, left })
}

fn undo(
    dir: &Path,
    target: &Path,
    places: &Places,
    journal: &Journal,
    step: Step<'_>,
) -> Result<Report, AdoptError> {
    step("note on the volume")?;
    store::note(&places.mount, dir, false).map_err(AdoptError::Io)?;
    let link = beside(dir, "link");
    if matches!(found(&link)?, Found::Symlink(to) if to == target) {
        links::remove_link(&link)?;
    }
    step("remove a half copy")?;
    remove_partial(&beside(target, "partial"))?;
    let left = put_target_aside(target, step)?;
    step("end of the journal")?;
    journal.end(dir).map_err(journal_error)?;
    Ok(Report { dir: dir.to_path_buf(), target: target.to_path_buf(), tally: Tally::default(), left })
}

/// Renames the volume's copy out of the way of a later adoption.
fn put_target_aside(target: &Path, step: Step<'_>) -> Result<Option<PathBuf>, AdoptError> {
    let mut aside = beside(target, "released");
    if found(target)? != Found::Directory {
        return Ok((found(&aside)? == Found::Directory).then_some(aside));
    }
    let mut number = 1;
    while found(&aside)? != Found::Nothing {
        number += 1;
        aside = beside(target, &format!("released-{number}"));
    }
    step("put the volume's copy aside")?;
    rename(target, &aside)?;
    Ok(Some(aside))
}

/// The other node's part: makes this node's symlinks agree with the list. Returns what was changed, and what could
/// not be.
pub fn follow(entries: &[Adopted], places: &Places) -> Vec<Result<String, AdoptError>> {
    let mut done = Vec::new();
    for entry in entries {
        let target = target_of(&places.mount, &entry.dir);
        let result = if entry.adopted {
            link_here(&entry.dir, &target, places)
        } else {
            unlink_here(&entry.dir, &target)
        };
        match result {
            Ok(None) => {}
            Ok(Some(text)) => done.push(Ok(text)),
            Err(error) => done.push(Err(error)),
        }
    }
    done
}

fn link_here(dir: &Path, target: &Path, places: &Places) -> Result<Option<String>, AdoptError> {
    let link = beside(dir, "link");
    if found(dir)? == Found::Symlink(target.to_path_buf()) && found(&link)? == Found::Nothing {
        return Ok(None);
    }
    if check::canonical(dir)? != dir {
        return Err(AdoptError::BadPath(dir.to_path_buf()));
    }
    check::may_move(dir, places)?;
    put_link(dir, target, &mut |_| Ok(()))?;
    Ok(Some(format!("{} leads to {} now", dir.display(), target.display())))
}

fn unlink_here(dir: &Path, target: &Path) -> Result<Option<String>, AdoptError> {
    let aside = beside(dir, "adopted");
    let ours = |found: Found| matches!(found, Found::Symlink(to) if to == target);
    if !ours(found(dir)?) && !ours(found(&aside)?) {
        return Ok(None);
    }
    take_link(dir, target, &aside, &mut |_| Ok(()))?;
    Ok(Some(format!("{} is this node's own directory again", dir.display())))
}

fn enough_space(dir: &Path, place: &Path, need: Tally) -> Result<(), AdoptError> {
    let free = check::free_bytes(place)?;
    // A block of metadata for every entry.
    let need = need.bytes.saturating_add(need.entries.saturating_mul(4096));
    if need > free {
        return Err(AdoptError::NoSpace { dir: dir.to_path_buf(), place: place.to_path_buf(), need, free });
    }
    Ok(())
}

fn remove_partial(partial: &Path) -> Result<(), AdoptError> {
    if found(partial)? == Found::Directory {
        std::fs::remove_dir_all(partial).map_err(|e| AdoptError::io(partial, &e))?;
        sync_parent(partial)?;
    }
    Ok(())
}

/// Makes the parents of the copy below `mount`, with owner and mode of their models on this node.
fn make_parents(dir: &Path, mount: &Path) -> Result<(), AdoptError> {
    let mut models: Vec<&Path> = dir.ancestors().skip(1).filter(|p| p.parent().is_some()).collect();
    models.reverse();
    for model in models {
        let made = target_of(mount, model);
        if found(&made)? == Found::Nothing {
            let meta = std::fs::metadata(model).map_err(|e| AdoptError::io(model, &e))?;
            let make = || -> std::io::Result<()> {
                std::fs::create_dir(&made)?;
                std::os::unix::fs::chown(&made, Some(meta.uid()), Some(meta.gid()))?;
                std::fs::set_permissions(&made, PermissionsExt::from_mode(meta.mode() & 0o7777))?;
                File::open(&made)?.sync_all()
            };
            make().map_err(|e| AdoptError::io(&made, &e))?;
            sync_parent(&made)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
