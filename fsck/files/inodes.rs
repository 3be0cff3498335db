//! Inodes by themselves, the list of unlinked files, and at the end the counts of links and blocks.

use twinfs::base::limits::{INO_MAX, SYMLINK_BYTES_MAX};
use twinfs::base::{BlockNo, Ino};
use twinfs::format::{FileKind, InodeRec, TableId, Time, ino_of_key, key_ino};

use super::{Node, Pass};

/// Bits of a mode that mean something.
const MODE_BITS: u32 = 0o177_777;
const SECOND: u32 = 1_000_000_000;

impl Node {
    pub(super) fn of(rec: &InodeRec) -> Node {
        Node {
            kind: rec.kind(),
            nlink: rec.nlink,
            size: rec.size,
            blocks: rec.blocks,
            parent: rec.parent,
            next_cookie: rec.next_cookie,
            names: 0,
            named_in: Ino(0),
            dirs: 0,
            mapped: 0,
            data_end: 0,
            orphan: None,
        }
    }

    /// Waits to be freed: it has no name and needs none.
    pub(super) fn is_unlinked(&self) -> bool {
        self.orphan == Some(0)
    }
}

impl Pass<'_> {
    pub(super) fn inodes(&mut self) {
        let tables = self.tables;
        tables.scan(TableId::Inodes, &mut |key, value| self.inode(key, value));
        let root_kind = self.nodes.get(&Ino::ROOT).map(|root| root.kind);
        if root_kind != Some(FileKind::Dir) {
            let text = match root_kind {
                None => "there is no root directory: a new one is made",
                Some(_) => "the root is not a directory: a new one is made",
            };
            self.findings.lose("inodes", text);
            let mut rec = InodeRec::new(FileKind::Dir, Time::default());
            rec.mode |= 0o755;
            (rec.nlink, rec.parent, rec.generation) = (2, Ino::ROOT, 1);
            self.edits.put(TableId::Inodes, key_ino(Ino::ROOT), rec.encode());
            self.nodes.insert(Ino::ROOT, Node::of(&rec));
        }
        let highest = self.nodes.highest().0;
        if self.next_ino <= highest || self.next_ino > INO_MAX {
            let text = format!("inode {} would be given out next, {highest} is in use", self.next_ino);
            self.findings.add("counters", text);
            self.next_ino = highest.saturating_add(1);
        }
    }

    fn inode(&mut self, key: &[u8], value: &[u8]) {
        let (Some(ino), true) = (ino_of_key(key), key.len() == 8) else {
            self.findings.lose("inodes", format!("a key of {} bytes: removed", key.len()));
            return self.edits.del(TableId::Inodes, key);
        };
        let rec = InodeRec::decode(value).filter(|_| ino.0 != 0 && ino.0 < INO_MAX);
        let Some(mut rec) = rec else {
            let text = format!("inode {}: not readable ({} bytes)", ino.0, value.len());
            self.findings.lose("inodes", text);
            return self.edits.del(TableId::Inodes, key);
        };
        let wrong = mend(&mut rec);
        if let Some(lost) = unmendable(&rec) {
            self.findings.lose("inodes", format!("inode {}: {lost}: removed", ino.0));
            return self.edits.del(TableId::Inodes, key);
        }
        if !wrong.is_empty() {
            for text in wrong {
                self.findings.add("inodes", format!("inode {}: {text}", ino.0));
            }
            self.edits.put(TableId::Inodes, key.to_vec(), rec.encode());
        }
        self.last_txn = self.last_txn.max(rec.txn);
        self.nodes.insert(ino, Node::of(&rec));
    }

    pub(super) fn orphans(&mut self) {
        let tables = self.tables;
        tables.scan(TableId::Orphans, &mut |key, value| {
            let ino = ino_of_key(key).filter(|_| key.len() == 8);
            let node = ino.and_then(|ino| self.nodes.get_mut(&ino));
            let text = match (ino, node, value) {
                (None, _, _) => format!("a key of {} bytes: removed", key.len()),
                (Some(ino), None, _) => format!("inode {} does not exist: removed", ino.0),
                (_, Some(node), [state @ 0..=1]) => {
                    node.orphan = Some(*state);
                    return;
                }
                (Some(ino), Some(_), _) => format!("inode {}: state {value:?}: removed", ino.0),
            };
            self.findings.add("orphans", text);
            self.edits.del(TableId::Orphans, key);
        });
    }

    /// Link counts, block counts and sizes against what was met.
    pub(super) fn count(&mut self) {
        let tables = self.tables;
        for (ino, node) in self.nodes.iter() {
            let mut wrong = |text: String| self.findings.add("inodes", format!("inode {}: {text}", ino.0));
            if node.names > 0 && node.is_unlinked() {
                wrong(format!("has {} names, but is in the list of unlinked files", node.names));
                self.edits.del(TableId::Orphans, &key_ino(*ino));
            }
            let gone = node.is_unlinked() && node.names == 0;
            let nlink = match node.kind {
                FileKind::Dir if gone => 0,
                FileKind::Dir => node.dirs.saturating_add(2),
                _ => node.names,
            };
            if node.nlink != nlink {
                wrong(format!("{} links, but {nlink} are there", node.nlink));
                self.edits.change_inode(tables, *ino, |rec| rec.nlink = nlink);
            }
            if node.mapped != node.blocks {
                wrong(format!("says {} blocks, has {}", node.blocks, node.mapped));
                self.edits.change_inode(tables, *ino, |rec| rec.blocks = node.mapped);
            }
            // A file that was being cut when the checkpoint was made still has what lies behind its size.
            let inside = node.size.div_ceil(BlockNo::SIZE as u64);
            if node.kind == FileKind::File && node.data_end > inside && node.orphan.is_none() {
                wrong(format!("size {}, but data up to block {}", node.size, node.data_end));
                let size = node.data_end * BlockNo::SIZE as u64;
                self.edits.change_inode(tables, *ino, |rec| rec.size = size);
            }
            if node.kind == FileKind::Dir && node.names == 1 && node.parent != node.named_in {
                wrong(format!(
                    "says it is in directory {}, its name is in {}",
                    node.parent.0, node.named_in.0
                ));
                self.edits.change_inode(tables, *ino, |rec| rec.parent = node.named_in);
            }
        }
    }
}

/// Puts right what has only one right value; answers what that was.
fn mend(rec: &mut InodeRec) -> Vec<String> {
    let mut wrong = Vec::new();
    if rec.mode & !MODE_BITS != 0 {
        wrong.push(format!("mode {:o}", rec.mode));
        rec.mode &= MODE_BITS;
    }
    for time in [&mut rec.atime, &mut rec.mtime, &mut rec.ctime, &mut rec.btime] {
        if time.nanos >= SECOND {
            wrong.push("a time with more than a second of nanoseconds".to_string());
            time.nanos = 0;
        }
    }
    let target = rec.target.len();
    if rec.kind() == FileKind::Symlink {
        if rec.size != target as u64 && unmendable(rec).is_none() {
            wrong.push(format!("a symlink of size {} with a target of {target} bytes", rec.size));
            rec.size = target as u64;
        }
    } else if target != 0 {
        wrong.push(format!("{target} bytes of symlink target, but it is no symlink"));
        rec.target = Box::default();
    }
    if rec.kind() != FileKind::File && rec.blocks != 0 {
        wrong.push(format!("{} blocks, but it is no regular file", rec.blocks));
        rec.blocks = 0;
    }
    if i64::try_from(rec.size).is_err() {
        wrong.push(format!("size {}", rec.size));
        // The extents say how much there is.
        rec.size = 0;
    }
    wrong
}

/// Why nothing can be made of an inode.
fn unmendable(rec: &InodeRec) -> Option<&'static str> {
    let target = &rec.target;
    let bad = target.is_empty() || target.len() > SYMLINK_BYTES_MAX || target.contains(&0);
    (rec.kind() == FileKind::Symlink && bad).then_some("a symlink without a possible target")
}
