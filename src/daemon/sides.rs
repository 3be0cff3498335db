//! What one side of a split brain has that the other one may not have: how it is, and file by file what it changed.
//!
//! Decides what of a copy is told, and how much of it at most. Does not know how a split is ended. Invariants: the copy
//! is only read; a list that is cut says so; where a copy's own changes begin is what its superblock says, and where
//! that is not known no file is called changed.
#![allow(clippy::disallowed_methods, reason = "a shell: opens an image")]

use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::{Ino, NodeId};
use crate::events::Event;
use crate::format::{FileKind, InodeRec, ResyncMark, Since, Time};
use crate::fs::{Store, StoreOptions};
use crate::image::{Image, LocalBlocks, OpenOptions, OverlayBlocks};
use crate::sys::disk::FileDisk;

use super::journal::Journal;
use super::seen::role_word;
use super::volume::Volume;

/// Files that are told of one side.
const FILES_MAX: usize = 500;
/// Things in changed folders that are compared.
const CHILDREN_MAX: usize = 1_000;
/// Bytes of a path that are told.
const PATH_MAX: usize = 300;
/// Entries of the history in which the end of serving is looked for.
const HISTORY_LOOK: usize = 2_000;

/// One thing in a copy's tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideFile {
    pub ino: u64,
    pub generation: u32,
    pub path: String,
    /// file, folder, link, other
    pub kind: String,
    pub bytes: u64,
    pub modified_unix_ms: i64,
    /// Last change of the content or of what is known about it, but not the last reading.
    pub changed_unix_us: i64,
    /// Made on this side, after the copies parted.
    pub made: bool,
}

/// How one side is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    pub node: String,
    pub role: String,
    pub state: String,
    pub reason: String,
    pub serving: bool,
    /// Wall time; `None` while it serves, or if its history does not say.
    pub served_until_unix_ms: Option<u64>,
    pub record_v: Option<u64>,
    pub generation: String,
    /// It was the primary when the copies parted.
    pub led: bool,
    /// Blocks of 4 KiB that it changed alone.
    pub changed_blocks: u64,
    /// known, untouched, unknown
    pub since: String,
    /// Changed or made; folders only as far as things came or went in them.
    pub files: Vec<SideFile>,
    /// And so many more.
    pub more: u64,
    /// Why no files are told.
    pub problem: Option<String>,
}

/// What is asked about a side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum About {
    /// How it is and what it changed.
    Changes,
    /// What these folders, changed on the other side, hold here since before the copies parted.
    Children { dirs: Vec<u64> },
    /// Which of these things (inode and its generation) are not here.
    Missing { things: Vec<(u64, u32)> },
    /// Which of these things (inode, generation, last change, size) are here just as they are there.
    Alike { things: Vec<(u64, u32, i64, u64)> },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "kebab-case")]
pub enum Told {
    Changes { side: Box<Side> },
    Children { files: Vec<SideFile>, all: bool },
    Missing { things: Vec<(u64, u32)> },
    Alike { inodes: Vec<u64> },
}

/// Answers for this node's copy. Reads the tables: not for a thread that must not wait.
pub fn tell(volume: &Volume, journal: &Journal, about: &About) -> Result<Told, String> {
    match about {
        About::Changes => Ok(Told::Changes { side: Box::new(side(volume, journal)) }),
        About::Children { dirs } => {
            let dirs: Vec<Ino> = dirs.iter().map(|ino| Ino(*ino)).collect();
            let since = volume.mirror.image().state().apart.since;
            with_store(volume, |store| {
                let (children, all) = store.children(&dirs, CHILDREN_MAX).map_err(|e| e.to_string())?;
                let old = children.into_iter().filter(|child| !is_made(child.ino, since));
                let files = old.map(|child| file(child.ino, &child.rec, Some(&child.path), since)).collect();
                Ok(Told::Children { files, all })
            })
        }
        About::Missing { things } => with_store(volume, |store| {
            let gone =
                |(ino, generation): &&(u64, u32)| !store.has_inode(Ino(*ino), *generation).unwrap_or(true);
            Ok(Told::Missing { things: things.iter().take(CHILDREN_MAX).filter(gone).copied().collect() })
        }),
        About::Alike { things } => with_store(volume, |store| {
            let alike = |(ino, generation, changed, bytes): &&(u64, u32, i64, u64)| {
                store.inode(Ino(*ino)).ok().flatten().is_some_and(|rec| {
                    rec.nlink > 0
                        && (rec.generation, unix_us(rec.ctime), rec.size) == (*generation, *changed, *bytes)
                })
            };
            let inodes = things.iter().take(CHILDREN_MAX).filter(alike).map(|(ino, ..)| *ino).collect();
            Ok(Told::Alike { inodes })
        }),
    }
}

/// How this node's side is.
fn side(volume: &Volume, journal: &Journal) -> Side {
    let state = volume.mirror.image().state();
    let view = volume.view();
    let mut side = Side {
        node: journal.names().of(state.node).to_string(),
        role: view.as_ref().map_or_else(String::new, |view| role_word(view.role).to_string()),
        state: view.as_ref().map_or_else(String::new, |view| view.state.to_string()),
        reason: view.as_ref().map_or_else(String::new, |view| view.reason.text.clone()),
        serving: view.as_ref().is_some_and(|view| view.serving),
        record_v: state.record.map(|record| record.v),
        generation: state.head().to_string(),
        led: state.apart.led,
        changed_blocks: volume.mirror.image().dirty_blocks(),
        since: match state.apart.since {
            Since::Unknown => "unknown",
            Since::Untouched => "untouched",
            Since::From { .. } => "known",
        }
        .to_string(),
        ..Side::default()
    };
    if !side.serving {
        side.served_until_unix_ms = served_until(journal, &volume.name, state.node);
    }
    let Since::From { txn, .. } = state.apart.since else {
        if state.apart.since == Since::Unknown {
            side.problem = Some("where its own changes begin was not noted".to_string());
        }
        return side;
    };
    if state.resync != ResyncMark::None {
        side.problem = Some("it is half overwritten".to_string());
        return side;
    }
    let read = with_store(volume, |store| store.changed_since(txn, FILES_MAX).map_err(|e| e.to_string()));
    match read {
        Ok((found, count)) => {
            side.more = count - found.len() as u64;
            let told = found
                .iter()
                .map(|inode| file(inode.ino, &inode.rec, inode.path.as_deref(), state.apart.since));
            side.files = told.collect();
        }
        Err(why) => side.problem = Some(why),
    }
    side
}

/// When this node's history says that it stopped serving the volume.
fn served_until(journal: &Journal, volume: &str, me: NodeId) -> Option<u64> {
    let entries = journal.newest(Some(volume), HISTORY_LOOK);
    let ends = |event: &Event| matches!(event, Event::Unmounted { .. } | Event::Mounted { .. });
    entries.iter().rev().find(|entry| entry.node == me && ends(&entry.event)).map(|entry| entry.unix_ms)
}

fn is_made(ino: Ino, since: Since) -> bool {
    matches!(since, Since::From { ino: first, .. } if ino.0 >= first)
}

fn file(ino: Ino, rec: &InodeRec, path: Option<&[u8]>, since: Since) -> SideFile {
    let kind = match rec.kind() {
        FileKind::File => "file",
        FileKind::Dir => "folder",
        FileKind::Symlink => "link",
        _ => "other",
    };
    let path =
        path.map_or_else(|| format!("(no name, inode {})", ino.0), |path| path.escape_ascii().to_string());
    SideFile {
        ino: ino.0,
        generation: rec.generation,
        path: if path.len() > PATH_MAX { format!("{}...", &path[..PATH_MAX]) } else { path },
        kind: kind.to_string(),
        bytes: rec.size,
        modified_unix_ms: unix_us(rec.mtime) / 1_000,
        changed_unix_us: unix_us(rec.ctime),
        made: is_made(ino, since),
    }
}

fn unix_us(time: Time) -> i64 {
    time.secs.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos / 1_000))
}

/// Runs `look` on the mounted filesystem, or on the image at rest.
fn with_store<T>(volume: &Volume, look: impl Fn(&Store) -> Result<T, String>) -> Result<T, String> {
    let served = volume.slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(served) = served {
        let mut found = None;
        served.look(&mut |store| found = Some(look(store)));
        return found.unwrap_or_else(|| Err("its filesystem cannot be looked at".to_string()));
    }
    // Nobody writes to an image that is not served and follows nobody. What an opening writes stays in memory.
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let disk = Arc::new(FileDisk::open(&volume.image_path, false).map_err(|e| text(&e))?);
    let image = Arc::new(Image::open(disk, &OpenOptions::read_only()).map_err(|e| text(&e))?);
    let blocks = OverlayBlocks::new(LocalBlocks::new(image).map_err(|e| text(&e))?);
    let options = StoreOptions { lose_damaged_log: true, ..StoreOptions::for_memory(volume.settings.memory) };
    let store = Store::open(Arc::new(blocks), &options).map_err(|e| text(&e))?;
    look(&store)
}
