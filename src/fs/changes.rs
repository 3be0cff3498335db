//! What was changed since a record of the log: told from the inodes, each of which names the record of its last change.
//!
//! Decides nothing. Looks through all inodes and names, in pieces, as `whose` does: a change may pass between two of
//! them. Does not know why somebody asks, nor what was there before: what is gone is seen by whoever still has it.

use crate::base::{FastMap, Ino};
use crate::format::{Dirent, FileKind, InodeRec, TableId, ino_of_key, key_ino, key_name};

use super::{FsError, Store};

/// More directories above each other than any path has.
const DEPTH_MAX: usize = 2048;

/// An inode that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedInode {
    pub ino: Ino,
    pub rec: InodeRec,
    /// From the root of the volume; `None`: it has no name any more. One of several names.
    pub path: Option<Vec<u8>>,
}

/// What a folder holds, as far as it tells whether the same is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub ino: Ino,
    pub rec: InodeRec,
    pub path: Vec<u8>,
}

/// Every name of a folder, and the folder and name of each thing that has one: one pass over all names.
struct Names {
    of: FastMap<Ino, (Ino, Vec<u8>)>,
}

impl Names {
    fn path(&self, ino: Ino) -> Option<Vec<u8>> {
        if ino == Ino::ROOT {
            return Some(b"/".to_vec());
        }
        let (mut at, mut names) = (ino, Vec::new());
        while at != Ino::ROOT {
            let (dir, name) = self.of.get(&at)?;
            names.push(name.as_slice());
            at = *dir;
            if names.len() > DEPTH_MAX {
                return None;
            }
        }
        Some(names.iter().rev().flat_map(|name| [b"/".as_slice(), name].concat()).collect())
    }
}

impl Store {
    /// Inodes whose last change is in the record `txn` or a later one, at most `max` of them, in order of their
    /// numbers; and how many there are.
    pub fn changed_since(&self, txn: u64, max: usize) -> Result<(Vec<ChangedInode>, u64), FsError> {
        let (mut found, mut count) = (Vec::new(), 0);
        self.each(TableId::Inodes, Vec::new(), &mut |key, value| {
            let inode = ino_of_key(key).zip(InodeRec::decode(value));
            if let Some((ino, rec)) = inode.filter(|(_, rec)| rec.txn >= txn && rec.nlink > 0) {
                count += 1;
                if found.len() < max {
                    found.push(ChangedInode { ino, rec, path: None });
                }
            }
            true
        })?;
        let wanted: Vec<Ino> = found.iter().map(|inode| inode.ino).collect();
        let names = self.names_of(&wanted)?;
        for inode in &mut found {
            inode.path = names.path(inode.ino);
        }
        Ok((found, count))
    }

    /// What these folders hold, at most `max` things; and whether that is all.
    pub fn children(&self, dirs: &[Ino], max: usize) -> Result<(Vec<Child>, bool), FsError> {
        let names = self.names_of(dirs)?;
        let (mut found, mut all) = (Vec::new(), true);
        for dir in dirs {
            let Some(above) = names.path(*dir) else { continue };
            let mut entries = Vec::new();
            self.each(TableId::Dirents, key_name(*dir, b""), &mut |key, value| {
                let inside = ino_of_key(key) == Some(*dir);
                if let Some(entry) = Dirent::decode(value).filter(|_| inside) {
                    entries.push((entry.ino, key[8..].to_vec()));
                }
                inside && entries.len() <= max
            })?;
            for (ino, name) in entries {
                if found.len() >= max {
                    all = false;
                    break;
                }
                if let Some(rec) = self.inode(ino)? {
                    let slash: &[u8] = if above == b"/" { b"" } else { b"/" };
                    found.push(Child { ino, rec, path: [above.as_slice(), slash, &name].concat() });
                }
            }
        }
        Ok((found, all))
    }

    /// Whether the very inode is here: the same number, not used again since.
    pub fn has_inode(&self, ino: Ino, generation: u32) -> Result<bool, FsError> {
        let found = self.core_read().layers(None).get(TableId::Inodes, &key_ino(ino))?;
        let rec = found.and_then(|bytes| InodeRec::decode(&bytes));
        Ok(rec.is_some_and(|rec| rec.generation == generation && rec.nlink > 0))
    }

    /// Names of these, and of every folder.
    fn names_of(&self, inodes: &[Ino]) -> Result<Names, FsError> {
        let wanted: crate::base::FastSet<Ino> = inodes.iter().copied().collect();
        let mut of = FastMap::default();
        self.each(TableId::Dirents, Vec::new(), &mut |key, value| {
            let entry = ino_of_key(key).zip(Dirent::decode(value));
            if let Some((dir, entry)) = entry
                && (entry.kind == FileKind::Dir || wanted.contains(&entry.ino))
            {
                of.entry(entry.ino).or_insert_with(|| (dir, key[8..].to_vec()));
            }
            true
        })?;
        Ok(Names { of })
    }
}

#[cfg(test)]
#[path = "tests/changes.rs"]
mod tests;
