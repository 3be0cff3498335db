//! Whose a block is: for telling which file has lost one.
//!
//! Decides nothing. Looks through all extents and names, in pieces: a change may pass between two of them, and the
//! answer may then be that nobody's it is.

use std::fmt;

use crate::base::{BlockNo, Ino};
use crate::format::{
    CHUNK_BLOCKS, Dirent, ExtentRec, InodeRec, TableId, ino_of_key, key_ino, key_name, second_of_key,
};

use super::data::BLOCK;
use super::{Fs, FsError, Store};

/// Entries looked at without letting a change pass.
const PIECE: usize = 2048;
/// More directories above each other than any path has: the names go round in a circle.
const DEPTH_MAX: usize = 2048;

/// Whose a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The filesystem's superblock.
    Superblock,
    Log,
    Tables,
    File {
        ino: Ino,
        /// Bytes before the block.
        at: u64,
        /// From the root of the volume; `None`: it has no name any more.
        path: Option<Vec<u8>>,
    },
    Nobody,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whose::Superblock => f.write_str("the filesystem's superblock"),
            Whose::Log => f.write_str("the filesystem's log"),
            Whose::Tables => f.write_str("the filesystem's tables"),
            Whose::File { path: Some(path), .. } => write!(f, "{}", path.escape_ascii()),
            Whose::File { ino, path: None, .. } => write!(f, "a file without a name, inode {}", ino.0),
            Whose::Nobody => f.write_str("free space"),
        }
    }
}

impl Fs {
    /// Whose the block is now.
    pub fn whose(&self, block: BlockNo) -> Result<Whose, FsError> {
        self.may_read()?;
        let store = self.store();
        if block.0 < store.ring_first {
            return Ok(Whose::Superblock);
        }
        if block.0 < store.ring_first + store.core_read().ring.blocks {
            return Ok(Whose::Log);
        }
        let in_chunk = |first: BlockNo| (first.0..first.0 + CHUNK_BLOCKS).contains(&block.0);
        if store.chunks.all().into_iter().any(in_chunk) {
            return Ok(Whose::Tables);
        }
        let mut found = None;
        store.each(TableId::Extents, Vec::new(), &mut |key, value| {
            let place = ino_of_key(key).zip(second_of_key(key)).zip(ExtentRec::decode(value));
            let Some(((ino, at), rec)) = place else { return true };
            let inside = block.0.checked_sub(rec.start.0).filter(|n| *n < u64::from(rec.count));
            found = inside.map(|n| (ino, at.saturating_add(n).saturating_mul(BLOCK)));
            found.is_none()
        })?;
        let Some((ino, at)) = found else { return Ok(Whose::Nobody) };
        Ok(Whose::File { ino, at, path: store.path_of(ino)? })
    }
}

impl Store {
    /// Calls `see` with the entries of a table behind `after`, until it answers false.
    pub(super) fn each(
        &self,
        table: TableId,
        mut after: Vec<u8>,
        see: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), FsError> {
        let end = [0xff; 512];
        loop {
            let (mut seen, mut more) = (0, true);
            let core = self.core_read();
            core.layers(None).scan(table, &after.clone(), &end, |key, value| {
                after = key.to_vec();
                seen += 1;
                more = see(key, value);
                Ok(more && seen < PIECE)
            })?;
            drop(core);
            if !more || seen < PIECE {
                return Ok(());
            }
            after.push(0);
        }
    }

    /// One path of an inode, if it has a name.
    fn path_of(&self, ino: Ino) -> Result<Option<Vec<u8>>, FsError> {
        let Some((mut dir, name)) = self.name_of(ino, None)? else { return Ok(None) };
        let mut names = vec![name];
        for _ in 0..DEPTH_MAX {
            if dir == Ino::ROOT {
                let path = names.iter().rev().flat_map(|name| [b"/".as_slice(), name].concat()).collect();
                return Ok(Some(path));
            }
            let above = self.core_read().layers(None).get(TableId::Inodes, &key_ino(dir))?;
            let Some(above) = above.and_then(|bytes| InodeRec::decode(&bytes)).map(|rec| rec.parent) else {
                return Ok(None);
            };
            let Some((_, name)) = self.name_of(dir, Some(above))? else { return Ok(None) };
            names.push(name);
            dir = above;
        }
        Ok(None)
    }

    /// A directory with an entry of the inode, and the name there; `above`: in this directory.
    fn name_of(&self, ino: Ino, above: Option<Ino>) -> Result<Option<(Ino, Vec<u8>)>, FsError> {
        let mut found = None;
        let from = above.map_or(Vec::new(), |dir| key_name(dir, b""));
        self.each(TableId::Dirents, from, &mut |key, value| {
            let Some(dir) = ino_of_key(key) else { return true };
            if above.is_some_and(|above| above != dir) {
                return false;
            }
            if Dirent::decode(value).is_some_and(|entry| entry.ino == ino) {
                found = Some((dir, key[8..].to_vec()));
            }
            found.is_none()
        })?;
        Ok(found)
    }
}
