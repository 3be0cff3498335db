//! Small JSON files that are either old or new, never half: the journal of moves on this node and the list of
//! adopted directories on the volume.
//!
//! Decides how they are written: new file, fsync, rename, fsync of the folder. Does not know what the entries make
//! anybody do. Invariant: after a crash a file holds one complete state.
#![allow(clippy::disallowed_methods, reason = "a shell: reads and writes files")]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Folder on the volume that belongs to twinfs.
const VOLUME_FOLDER: &str = ".twinfs";

/// Which way a directory goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Onto the volume.
    Adopt,
    /// Back.
    Release,
}

/// A move under way on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub way: Way,
    pub dir: PathBuf,
}

/// A directory of the list on the volume; the newest entry of a directory counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    pub dir: PathBuf,
    /// `false`: it was released; a node that still has the symlink puts its own directory back.
    pub adopted: bool,
}

fn io_error(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Reads a JSON file; `Ok(None)` if there is none.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let text = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| io_error(path, &e))?,
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|e| format!("{}: not as twinfs wrote it: {e}", path.display()))
}

/// Replaces a JSON file, stable on return. Makes the folder (0700) if it is missing.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|e| io_error(folder, &e))?;
    }
    let fresh = path.with_extension("new");
    let text = serde_json::to_vec_pretty(value).map_err(|e| e.to_string())?;
    let written = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    };
    written().map_err(|e| io_error(path, &e))
}

/// The journal of this node: one file per directory that is on the move.
#[derive(Clone, Debug)]
pub struct Journal(PathBuf);

impl Journal {
    pub fn new(state_dir: &Path) -> Journal {
        Journal(state_dir.join("moves"))
    }

    fn file(&self, dir: &Path) -> PathBuf {
        let hash = blake3::hash(dir.as_os_str().as_encoded_bytes()).to_hex();
        self.0.join(format!("{}.json", &hash.as_str()[..16]))
    }

    pub fn get(&self, dir: &Path) -> Result<Option<Move>, String> {
        read(&self.file(dir))
    }

    pub fn begin(&self, way: Way, dir: &Path) -> Result<(), String> {
        write(&self.file(dir), &Move { way, dir: dir.to_path_buf() })
    }

    pub fn end(&self, dir: &Path) -> Result<(), String> {
        let file = self.file(dir);
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error(&file, &e)),
            _ => File::open(&self.0).and_then(|d| d.sync_all()).map_err(|e| io_error(&self.0, &e)),
        }
    }

    /// Moves that were begun and not finished.
    pub fn open_moves(&self) -> Vec<Move> {
        let Ok(entries) = std::fs::read_dir(&self.0) else { return Vec::new() };
        let files =
            entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json"));
        files.filter_map(|file| read(&file).ok().flatten()).collect()
    }
}

fn list_file(mount: &Path) -> PathBuf {
    mount.join(VOLUME_FOLDER).join("adopted.json")
}

/// The directories that the volume knows to be adopted or released.
pub fn list(mount: &Path) -> Result<Vec<Adopted>, String> {
    Ok(read(&list_file(mount))?.unwrap_or_default())
}

/// Notes on the volume that `dir` is adopted (or released); replicated like every file.
pub fn note(mount: &Path, dir: &Path, adopted: bool) -> Result<(), String> {
    let mut all = list(mount)?;
    all.retain(|entry| entry.dir != dir);
    all.push(Adopted { dir: dir.to_path_buf(), adopted });
    write(&list_file(mount), &all)
}
