//! The tables against each other: inodes, names, cookies, extents, attributes, orphans; and what puts them right.
//!
//! Decides what a sound set of tables is, and the least change that makes one of it: a name that leads nowhere goes, a
//! file without a name gets one in lost+found, counts follow what is there. Does not know where the tables lie. One
//! pass decides on what it sees; passes are repeated until one finds nothing. Reads each table once in order, plus one
//! look-up per name; never follows a chain without a bound, so garbage cannot make it hang.

mod attach;
mod extents;
mod inodes;
mod missing;
mod names;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};

use twinfs::base::limits::{NAME_BYTES_MAX, XATTR_BYTES_MAX};
use twinfs::base::{BlockNo, Ino};
use twinfs::format::{FileKind, TableId, ino_of_key};

use crate::findings::Findings;
use crate::space::Space;
use crate::tables::{Edits, Tables};

use missing::Missing;
use nodes::Nodes;

/// Keys of entries whose page was not as it was written.
pub type Doubtful = BTreeSet<(TableId, Vec<u8>)>;

/// What is kept of an inode while the other tables are read.
struct Node {
    kind: FileKind,
    nlink: u32,
    size: u64,
    blocks: u64,
    parent: Ino,
    next_cookie: u64,
    names: u32,
    /// The directory of the first name.
    named_in: Ino,
    dirs: u32,
    mapped: u64,
    /// Block behind the last one with data.
    data_end: u64,
    orphan: Option<u8>,
}

/// An extent whose blocks belong to another file as well: it gets a copy of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    pub ino: Ino,
    /// Block of the file.
    pub first: u64,
    pub start: BlockNo,
    pub count: u32,
}

/// What one pass decided.
#[derive(Default)]
pub struct Outcome {
    pub inodes: u64,
    pub edits: Edits,
    pub shared: Vec<Shared>,
    /// The next inode number to give out.
    pub next_ino: u64,
    /// The newest transaction that an inode names.
    pub last_txn: u64,
}

/// What a pass knows beside the tables.
pub struct Known<'a> {
    pub doubtful: &'a Doubtful,
    /// First block that a file may have.
    pub data_first: u64,
    pub next_ino: u64,
    /// Part of the inodes is lost: a name without an inode had one.
    pub inodes_lost: bool,
}

struct Pass<'a> {
    tables: &'a dyn Tables,
    known: &'a Known<'a>,
    space: &'a mut Space,
    findings: &'a mut Findings,
    nodes: Nodes,
    missing: BTreeMap<Ino, Missing>,
    edits: Edits,
    shared: Vec<Shared>,
    next_ino: u64,
    last_txn: u64,
}

/// Checks all tables, puts the extents of all files into `space`, and decides how to put right what is wrong.
pub fn check(tables: &dyn Tables, known: &Known<'_>, space: &mut Space, findings: &mut Findings) -> Outcome {
    let mut pass = Pass {
        tables,
        known,
        space,
        findings,
        nodes: Nodes::default(),
        missing: BTreeMap::new(),
        edits: Edits::default(),
        shared: Vec::new(),
        next_ino: known.next_ino,
        last_txn: 0,
    };
    pass.inodes();
    pass.orphans();
    pass.names();
    pass.cookies();
    pass.extents();
    pass.make_missing();
    pass.attributes();
    pass.count();
    pass.reach();
    pass.attach_nameless();
    Outcome {
        inodes: pass.nodes.len() as u64,
        edits: pass.edits,
        shared: pass.shared,
        next_ino: pass.next_ino,
        last_txn: pass.last_txn,
    }
}

impl Pass<'_> {
    /// The value of a key with what was decided so far.
    fn now(&self, table: TableId, key: &[u8]) -> Option<Vec<u8>> {
        self.edits.get(self.tables, table, key)
    }

    fn attributes(&mut self) {
        let tables = self.tables;
        tables.scan(TableId::Xattrs, &mut |key, value| {
            let Some(ino) = ino_of_key(key) else {
                self.findings.lose("xattrs", "a key without an inode: removed");
                return self.edits.del(TableId::Xattrs, key);
            };
            let name = &key[8..];
            let shown = format!("{} of inode {}", name.escape_ascii(), ino.0);
            let wrong = if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
                "not a possible name"
            } else if value.len() > XATTR_BYTES_MAX {
                "longer than any value"
            } else if !self.nodes.contains_key(&ino) {
                "the inode does not exist"
            } else {
                return;
            };
            self.findings.lose("xattrs", format!("{shown}: {wrong}: removed"));
            self.edits.del(TableId::Xattrs, key);
        });
    }
}

#[cfg(test)]
mod tests;
