//! The six tables as the checks see them: what the walker read, what was saved below broken pages, the log on top, and
//! the repairs decided so far.
//!
//! Decides which of several values of a key counts: the later layer. Does not know what keys and values mean.

use std::collections::BTreeMap;

use twinfs::base::Ino;
use twinfs::format::{Dirent, InodeRec, TableId, key_ino, key_name, key_pair};

use crate::tree::{Broken, TableInfo, Trees, Visitor};

/// Read access to the six tables.
pub trait Tables {
    /// Calls `each` with every entry in key order.
    fn scan(&self, table: TableId, each: &mut dyn FnMut(&[u8], &[u8]));
    fn get(&self, table: TableId, key: &[u8]) -> Option<Vec<u8>>;
}

/// Puts (`Some`) and deletes (`None`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    changes: BTreeMap<TableId, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl Edits {
    pub fn set(&mut self, table: TableId, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.changes.entry(table).or_default().insert(key, value);
    }

    pub fn put(&mut self, table: TableId, key: Vec<u8>, value: Vec<u8>) {
        self.set(table, key, Some(value));
    }

    pub fn del(&mut self, table: TableId, key: &[u8]) {
        self.set(table, key.to_vec(), None);
    }

    pub fn is_empty(&self) -> bool {
        self.changes.values().all(BTreeMap::is_empty)
    }

    /// What is said of a key: nothing, deleted, or its value.
    pub fn find(&self, table: TableId, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.changes.get(&table)?.get(key)
    }

    #[cfg(test)]
    pub fn keys(&self, table: TableId) -> impl Iterator<Item = &Vec<u8>> {
        self.changes.get(&table).into_iter().flat_map(BTreeMap::keys)
    }

    /// Takes over `later`, which counts where both say something.
    pub fn extend(&mut self, later: Edits) {
        for (table, changes) in later.changes {
            self.changes.entry(table).or_default().extend(changes);
        }
    }

    /// The value of a key with these changes over `tables`.
    pub fn get(&self, tables: &dyn Tables, table: TableId, key: &[u8]) -> Option<Vec<u8>> {
        match self.find(table, key) {
            Some(change) => change.clone(),
            None => tables.get(table, key),
        }
    }

    pub fn inode(&self, tables: &dyn Tables, ino: Ino) -> Option<InodeRec> {
        self.get(tables, TableId::Inodes, &key_ino(ino)).as_deref().and_then(InodeRec::decode)
    }

    /// Changes an inode that is there.
    pub fn change_inode(&mut self, tables: &dyn Tables, ino: Ino, change: impl FnOnce(&mut InodeRec)) {
        if let Some(mut rec) = self.inode(tables, ino) {
            change(&mut rec);
            self.put(TableId::Inodes, key_ino(ino), rec.encode());
        }
    }

    /// Puts a name and the row that leads from its cookie back to it.
    pub fn put_name(&mut self, dir: Ino, name: &[u8], entry: Dirent) {
        let mut row = entry.encode();
        self.put(TableId::Dirents, key_name(dir, name), row.clone());
        row.extend_from_slice(name);
        self.put(TableId::Cookies, key_pair(dir, entry.cookie), row);
    }
}

/// The name in a row of the cookie table.
pub fn cookie_name(row: &[u8]) -> Option<&[u8]> {
    row.get(Dirent::BYTES..)
}

/// The tables as the walker reads them.
pub struct Stored<'a> {
    pub trees: Trees<'a>,
    pub infos: BTreeMap<TableId, TableInfo>,
}

/// Hands entries on; broken pages were told when the table was surveyed.
struct Each<F>(F);

impl<F: FnMut(&[u8], &[u8])> Visitor for Each<F> {
    fn entry(&mut self, key: &[u8], value: &[u8]) {
        (self.0)(key, value);
    }
    fn broken(&mut self, _: Broken) {}
}

/// Changes over stored tables.
pub struct Layered<'a> {
    pub base: Stored<'a>,
    pub changes: Edits,
}

impl Tables for Layered<'_> {
    fn scan(&self, table: TableId, each: &mut dyn FnMut(&[u8], &[u8])) {
        let mut above = self.changes.changes.get(&table).into_iter().flatten().peekable();
        let info = self.base.infos.get(&table);
        if let Some((info, root)) = info.and_then(|info| Some((info, info.root?))) {
            let mut merge = Each(|key: &[u8], value: &[u8]| {
                while let Some((new, value)) = above.next_if(|(new, _)| new.as_slice() < key) {
                    if let Some(value) = value {
                        each(new, value);
                    }
                }
                match above.next_if(|(new, _)| new.as_slice() == key) {
                    Some((_, Some(new))) => each(key, new),
                    Some((_, None)) => {}
                    None => each(key, value),
                }
            });
            self.base.trees.walk(root, info.widths, &mut merge);
        }
        for (key, value) in above {
            if let Some(value) = value {
                each(key, value);
            }
        }
    }

    fn get(&self, table: TableId, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(change) = self.changes.find(table, key) {
            return change.clone();
        }
        let info = self.base.infos.get(&table)?;
        self.base.trees.get(info.root?, info.widths, key)
    }
}
