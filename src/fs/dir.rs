//! Listing directories.
//!
//! Decides the order (by cookie, `.` and `..` first) and what a reader sees while names come and go. Does not know how
//! many entries fit into a reply. Invariant: an entry that exists during the whole listing is seen exactly once.

use crate::base::Ino;
use crate::format::FileKind;
use crate::fs::FsError;
use crate::fs::fs::{Fs, Result};
use crate::fs::modes::is_dir;

/// Cookies of the two entries that are not stored.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// One entry of a listing. A listing continues after `cookie`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirItem {
    pub name: Vec<u8>,
    pub ino: Ino,
    pub kind: FileKind,
    pub cookie: u64,
}

impl Fs {
    /// At most about `max` entries after the cookie; 0 starts. Empty at the end.
    pub fn readdir(&self, dir: Ino, after: u64, max: usize) -> Result<Vec<DirItem>> {
        let rec = self.inode(dir)?;
        if !is_dir(&rec) {
            return Err(FsError::NotDir);
        }
        let mut items = Vec::new();
        let above = if rec.parent == Ino(0) { dir } else { rec.parent };
        for (cookie, name, ino) in [(DOT, ".", dir), (DOT_DOT, "..", above)] {
            if cookie > after && rec.nlink > 0 {
                items.push(DirItem { name: name.into(), ino, kind: FileKind::Dir, cookie });
            }
        }
        for (cookie, name, entry) in self.store.dirents_after(dir, after.max(DOT_DOT), max)? {
            items.push(DirItem { name, ino: entry.ino, kind: entry.kind, cookie });
        }
        Ok(items)
    }
}
